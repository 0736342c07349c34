import type { Node } from 'kubernetes-types/core/v1.js';
import type { Kind } from './kind.js';

export const nodes: Kind<Node> = {
  group: '',
  version: 'v1',
  kind: 'Node',
  plural: 'nodes',
  singular: 'node',
  shortNames: ['no'],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.core.v1.Node',
  columns: [],
  status: true,
  selectable: { 'spec.unschedulable': (o) => String(o.spec?.unschedulable ?? false) },
};
