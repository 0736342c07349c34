import type { PriorityClass } from 'kubernetes-types/scheduling/v1.js';
import { forbidden, invalid, notSupported } from '../meta/field-errors.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

/** Above are the system's own. */
const HIGHEST_FOR_USERS = 1_000_000_000;

/** Classes that every cluster has. */
export const SYSTEM_PRIORITIES: readonly { name: string; value: number; description: string }[] = [
  {
    name: 'system-node-critical',
    value: 2_000_001_000,
    description: 'Used for system critical pods that must not be moved from their current node.',
  },
  {
    name: 'system-cluster-critical',
    value: 2_000_000_000,
    description:
      'Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.',
  },
];
const PREFIX = 'system-';
const POLICIES = ['Never', 'PreemptLowerPriority'];

function validateName(o: PriorityClass): FieldError[] {
  const { name = '' } = o.metadata ?? {};
  if (!name.startsWith(PREFIX)) {
    if (o.value <= HIGHEST_FOR_USERS) return [];
    return [forbidden('value', `maximum allowed value of a user defined priority is ${HIGHEST_FOR_USERS}`)];
  }
  const known = SYSTEM_PRIORITIES.find((p) => p.name === name);
  const why = !known
    ? `${name} is not a known system priority class`
    : known.value !== o.value
      ? `value of ${name} PriorityClass must be ${known.value}`
      : o.globalDefault
        ? `globalDefault of ${name} PriorityClass must be false`
        : '';
  return why
    ? [
        forbidden(
          'metadata.name',
          `priority class names with '${PREFIX}' prefix are reserved for system use only. error: ${why}`,
        ),
      ]
    : [];
}

export const priorityClasses: Kind<PriorityClass> = {
  group: 'scheduling.k8s.io',
  version: 'v1',
  kind: 'PriorityClass',
  plural: 'priorityclasses',
  singular: 'priorityclass',
  shortNames: ['pc'],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.scheduling.v1.PriorityClass',
  columns: [
    nameColumn,
    column('Value', 'integer', 'The priority of pods of this class.', (o) => o.value ?? 0),
    column(
      'Global-Default',
      'boolean',
      'Whether pods without a class are of this one.',
      (o) => o.globalDefault ?? false,
    ),
    ageColumn,
    column(
      'PreemptionPolicy',
      'string',
      'Whether its pods may push others aside.',
      (o) => o.preemptionPolicy ?? '',
    ),
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.value ??= 0;
    o.preemptionPolicy ||= 'PreemptLowerPriority';
  },
  validate: (o) => [
    ...validateName(o),
    ...(o.preemptionPolicy && !POLICIES.includes(o.preemptionPolicy)
      ? [notSupported('preemptionPolicy', o.preemptionPolicy, POLICIES)]
      : []),
  ],
  validateUpdate: (o, old) => [
    ...(o.value === old.value ? [] : [forbidden('value', 'may not be changed in an update.')]),
    ...(o.preemptionPolicy === old.preemptionPolicy
      ? []
      : [invalid('preemptionPolicy', o.preemptionPolicy, 'field is immutable')]),
  ],
};
