/** metrics.k8s.io/v1beta1: what nodes and pods use at the moment. Answered by asking the nodes, never stored. */
import type { KubeObject } from '../meta/object.js';
import { addQuantities } from '../meta/quantity.js';
import { column, nameColumn } from './columns.js';
import type { Column, Kind } from './kind.js';

export interface ResourceUsage {
  cpu: string;
  memory: string;
}

export interface NodeMetrics extends KubeObject {
  /** RFC 3339: the end of the window. */
  timestamp: string;
  /** As Go writes a duration. */
  window: string;
  usage: ResourceUsage;
}

export interface PodMetrics extends KubeObject {
  timestamp: string;
  window: string;
  containers: { name: string; usage: ResourceUsage }[];
}

/** metrics-server's columns. */
const columns = <T extends { window: string }>(
  usage: (o: T, of: keyof ResourceUsage) => string,
): Column<T>[] => [
  nameColumn as Column<never> as Column<T>,
  {
    ...column<T>('cpu', 'string', 'Cores used, on average over the window.', (o) => usage(o, 'cpu')),
    format: 'quantity',
  },
  { ...column<T>('memory', 'string', 'Working set.', (o) => usage(o, 'memory')), format: 'quantity' },
  {
    ...column<T>('Window', 'string', 'Time over which the use of CPU was measured.', (o) => o.window),
    format: 'duration',
  },
];

const base = {
  group: 'metrics.k8s.io',
  version: 'v1beta1',
  singular: '',
  shortNames: [],
  categories: [],
  verbs: ['get', 'list'],
  status: false,
  selectable: {},
} as const;

export const nodeMetrics: Kind<NodeMetrics> = {
  ...base,
  kind: 'NodeMetrics',
  plural: 'nodes',
  namespaced: false,
  schema: 'io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics',
  columns: columns<NodeMetrics>((o, of) => o.usage[of]),
};

export const podMetrics: Kind<PodMetrics> = {
  ...base,
  kind: 'PodMetrics',
  plural: 'pods',
  namespaced: true,
  schema: 'io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics',
  columns: columns<PodMetrics>((o, of) => addQuantities(...o.containers.map((c) => c.usage[of]))),
};
