import type { Namespace } from 'kubernetes-types/core/v1.js';
import type { Kind } from './kind.js';

export const namespaces: Kind<Namespace> = {
  group: '',
  version: 'v1',
  kind: 'Namespace',
  plural: 'namespaces',
  singular: 'namespace',
  shortNames: ['ns'],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.core.v1.Namespace',
  columns: [],
  status: true,
  selectable: { 'status.phase': (o) => o.status?.phase ?? '' },
};
