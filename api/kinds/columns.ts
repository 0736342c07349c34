import { since } from '../meta/duration.js';
import type { KubeObject } from '../meta/object.js';
import { formatSelector, requirementsOf } from '../meta/selector.js';
import type { Column } from './kind.js';

/** Columns that many kinds share. Texts and order are those of Kubernetes' printers. */
export const nameColumn: Column<KubeObject> = {
  name: 'Name',
  type: 'string',
  format: 'name',
  description:
    'Unique within a namespace; required when creating, though some resources generate one. Cannot be updated.',
  value: (o) => o.metadata?.name ?? '',
};

export const ageColumn: Column<KubeObject> = {
  name: 'Age',
  type: 'string',
  description: 'How long ago the object was created.',
  value: (o, now) => since(o.metadata?.creationTimestamp, now),
};

export const column = <T>(
  name: string,
  type: Column<T>['type'],
  description: string,
  value: Column<T>['value'],
  priority?: number,
): Column<T> => ({ name, type, description, value, ...(priority ? { priority } : {}) });

/** Labels in one cell, sorted; `<none>` when there are none. */
export const labelsText = (labels: Readonly<Record<string, string>> | undefined): string =>
  Object.entries(labels ?? {})
    .map(([k, v]) => `${k}=${v}`)
    .sort()
    .join(',') || '<none>';

interface PodTemplateOwner {
  spec?: {
    selector?: unknown;
    template?: { spec?: { containers?: readonly { name: string; image?: string }[] } };
  };
}

/** CONTAINERS, IMAGES and SELECTOR of what makes pods. */
export const templateColumns: readonly Column<PodTemplateOwner>[] = [
  column(
    'Containers',
    'string',
    'Names of each container in the template.',
    (o) => (o.spec?.template?.spec?.containers ?? []).map((c) => c.name).join(','),
    1,
  ),
  column(
    'Images',
    'string',
    'Images referenced by each container in the template.',
    (o) => (o.spec?.template?.spec?.containers ?? []).map((c) => c.image ?? '').join(','),
    1,
  ),
  column(
    'Selector',
    'string',
    'Label selector for pods.',
    (o) => (o.spec?.selector ? formatSelector(requirementsOf(o.spec.selector)) : '<none>'),
    1,
  ),
];

/** What kubectl shows of everything that keeps a number of pods. */
export const replicaColumns: readonly Column<{
  spec?: { replicas?: number };
  status?: { replicas?: number; readyReplicas?: number };
}>[] = [
  column('Desired', 'integer', 'Pods wanted.', (o) => o.spec?.replicas ?? 0),
  column('Current', 'integer', 'Pods there.', (o) => o.status?.replicas ?? 0),
  column('Ready', 'integer', 'Pods that are ready.', (o) => o.status?.readyReplicas ?? 0),
];
