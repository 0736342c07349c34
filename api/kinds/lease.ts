import type { Lease } from 'kubernetes-types/coordination/v1.js';
import type { Kind } from './kind.js';

export const leases: Kind<Lease> = {
  group: 'coordination.k8s.io',
  version: 'v1',
  kind: 'Lease',
  plural: 'leases',
  singular: 'lease',
  shortNames: [],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.coordination.v1.Lease',
  columns: [],
  status: false,
  selectable: {},
};
