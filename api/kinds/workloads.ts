import type { Deployment, ReplicaSet } from 'kubernetes-types/apps/v1.js';
import type { Kind } from './kind.js';

const SCALE = {
  specReplicas: '.spec.replicas',
  statusReplicas: '.status.replicas',
  labelSelector: '.spec.selector',
};

export const deployments: Kind<Deployment> = {
  group: 'apps',
  version: 'v1',
  kind: 'Deployment',
  plural: 'deployments',
  singular: 'deployment',
  shortNames: ['deploy'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.Deployment',
  columns: [],
  status: true,
  scale: SCALE,
  selectable: {},
};

export const replicaSets: Kind<ReplicaSet> = {
  group: 'apps',
  version: 'v1',
  kind: 'ReplicaSet',
  plural: 'replicasets',
  singular: 'replicaset',
  shortNames: ['rs'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.ReplicaSet',
  columns: [],
  status: true,
  scale: SCALE,
  selectable: { 'status.replicas': (o) => String(o.status?.replicas ?? 0) },
};
