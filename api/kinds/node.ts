import type { Node } from 'kubernetes-types/core/v1.js';
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { qualifiedName, validLabelValue } from '../meta/names.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { linkSettingErrors } from './link-settings.js';

const ROLE = 'node-role.kubernetes.io/';

function status(o: Node): string {
  const ready = o.status?.conditions?.find((c) => c.type === 'Ready');
  const word = ready ? (ready.status === 'True' ? 'Ready' : 'NotReady') : 'Unknown';
  return o.spec?.unschedulable ? `${word},SchedulingDisabled` : word;
}

function roles(o: Node): string {
  const found = Object.entries(o.metadata?.labels ?? {}).flatMap(([k, v]) => {
    if (k.startsWith(ROLE)) return k.length > ROLE.length ? [k.slice(ROLE.length)] : [];
    return k === 'kubernetes.io/role' && v ? [v] : [];
  });
  return [...new Set(found)].sort().join(',') || '<none>';
}

const address = (o: Node, type: string): string =>
  o.status?.addresses?.find((a) => a.type === type)?.address ?? '<none>';

const info = (o: Node, field: 'osImage' | 'kernelVersion' | 'containerRuntimeVersion'): string =>
  o.status?.nodeInfo?.[field] || '<unknown>';

export const TAINT_EFFECTS = ['NoSchedule', 'PreferNoSchedule', 'NoExecute'];

function validateTaints(o: Node): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  (o.spec?.taints ?? []).forEach((t, i) => {
    const at = `spec.taints[${i}]`;
    for (const e of qualifiedName(t.key ?? '')) errors.push(invalid(`${at}.key`, t.key ?? '', e));
    for (const e of validLabelValue(t.value ?? '')) errors.push(invalid(`${at}.value`, t.value, e));
    if (!t.effect) errors.push(required(`${at}.effect`));
    else if (!TAINT_EFFECTS.includes(t.effect))
      errors.push(notSupported(`${at}.effect`, t.effect, TAINT_EFFECTS));
    const id = `${t.effect} ${t.key}`;
    if (seen.has(id))
      errors.push({
        type: 'Duplicate',
        field: at,
        message: `Duplicate value: ${JSON.stringify(t)}: taints must be unique by key and effect pair`,
      });
    seen.add(id);
  });
  return errors;
}

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
  columns: [
    nameColumn,
    column('Status', 'string', 'The status of the node', status),
    column('Roles', 'string', 'The roles of the node', roles),
    ageColumn,
    column(
      'Version',
      'string',
      'Agent version reported by the node.',
      (o) => o.status?.nodeInfo?.kubeletVersion ?? '',
    ),
    column('Internal-IP', 'string', 'Address inside the cluster.', (o) => address(o, 'InternalIP'), 1),
    column('External-IP', 'string', 'Address outside the cluster.', (o) => address(o, 'ExternalIP'), 1),
    column('OS-Image', 'string', 'OS image reported by the node.', (o) => info(o, 'osImage'), 1),
    column(
      'Kernel-Version',
      'string',
      'Kernel version reported by the node.',
      (o) => info(o, 'kernelVersion'),
      1,
    ),
    column(
      'Container-Runtime',
      'string',
      'Runtime reported by the node.',
      (o) => info(o, 'containerRuntimeVersion'),
      1,
    ),
  ],
  status: true,
  selectable: { 'spec.unschedulable': (o) => String(o.spec?.unschedulable ?? false) },
  setDefaults(o) {
    o.spec ??= {};
  },
  validate: (o) => [...validateTaints(o), ...linkSettingErrors(o.metadata?.annotations)],
  validateUpdate(o, old) {
    const errors: FieldError[] = [];
    for (const f of ['podCIDR', 'providerID'] as const)
      if (old.spec?.[f] && o.spec?.[f] !== old.spec[f])
        errors.push({
          type: 'Forbidden',
          field: `spec.${f}`,
          message: 'Forbidden: node updates may not change it except from "" to valid',
        });
    return errors;
  },
};
