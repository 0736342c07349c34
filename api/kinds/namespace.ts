import type { Namespace } from 'kubernetes-types/core/v1.js';
import { dns1123Label } from '../meta/names.js';
import { ageColumn, column, nameColumn } from './columns.js';
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
  columns: [
    nameColumn,
    column('Status', 'string', 'The status of the namespace', (o) => o.status?.phase ?? ''),
    ageColumn,
  ],
  status: true,
  selectable: { 'status.phase': (o) => o.status?.phase ?? '' },
  validName: dns1123Label,
  holdsDeletion: (o) => (o.spec?.finalizers?.length ?? 0) > 0,
  setDefaults(o) {
    const meta = o.metadata!;
    meta.labels = { ...meta.labels, 'kubernetes.io/metadata.name': meta.name ?? '' };
  },
  prepareForCreate(o) {
    // The namespace controller takes it away once nothing is left inside.
    o.spec = { ...o.spec, finalizers: [...new Set([...(o.spec?.finalizers ?? []), 'kubernetes'])] };
    o.status = { phase: 'Active' };
  },
  prepareForUpdate(o, old, door) {
    // What guards the contents comes and goes through a door of its own.
    if (door !== 'finalize') o.spec = { ...o.spec, finalizers: old.spec?.finalizers };
  },
  prepareForDelete(o) {
    o.status = { ...o.status, phase: 'Terminating' };
  },
};
