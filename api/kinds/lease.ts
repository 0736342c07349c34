import type { Lease } from 'kubernetes-types/coordination/v1.js';
import { invalid } from '../meta/field-errors.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

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
  createOnUpdate: true,
  updateNeedsVersion: true,
  columns: [
    nameColumn,
    column('Holder', 'string', 'Who holds it.', (o) => o.spec?.holderIdentity ?? ''),
    ageColumn,
  ],
  status: false,
  selectable: {},
  validate(o) {
    const errors: FieldError[] = [];
    const { leaseDurationSeconds: duration, leaseTransitions: transitions } = o.spec ?? {};
    if (duration !== undefined && duration <= 0)
      errors.push(invalid('spec.leaseDurationSeconds', duration, 'must be greater than 0'));
    if (transitions !== undefined && transitions < 0)
      errors.push(invalid('spec.leaseTransitions', transitions, 'must be greater than or equal to 0'));
    return errors;
  },
};
