import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import { invalid, required } from '../meta/field-errors.js';
import { dns1123Label } from '../meta/names.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { Kind } from './kind.js';
import { validateTolerations } from './pod-placement.js';

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
  createOnUpdate: true,
  updateNeedsVersion: true,
  columns: [
    nameColumn,
    column('Handler', 'string', 'The runtime that pods of this class run in.', (o) => o.handler ?? ''),
    ageColumn,
  ],
  status: false,
  selectable: {},
  validate: (o) => [
    ...(o.handler
      ? dns1123Label(o.handler).map((e) => invalid('handler', o.handler, e))
      : [required('handler')]),
    ...validateTolerations(o.scheduling?.tolerations, 'scheduling.tolerations'),
  ],
  validateUpdate: (o, old) =>
    o.handler === old.handler ? [] : [invalid('handler', o.handler, 'field is immutable')],
};
