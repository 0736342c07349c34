import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import type { Kind } from './kind.js';

export const runtimeClasses: Kind<RuntimeClass> = {
  group: 'node.k8s.io',
  version: 'v1',
  kind: 'RuntimeClass',
  plural: 'runtimeclasses',
  singular: 'runtimeclass',
  shortNames: [],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.node.v1.RuntimeClass',
  columns: [],
  status: false,
  selectable: {},
};
