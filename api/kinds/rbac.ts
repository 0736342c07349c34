import type {
  ClusterRole,
  ClusterRoleBinding,
  PolicyRule,
  Role,
  RoleBinding,
  RoleRef,
  Subject,
} from 'kubernetes-types/rbac/v1.js';
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Subdomain, pathSegmentName } from '../meta/names.js';
import type { KubeObject } from '../meta/object.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

export const RBAC_GROUP = 'rbac.authorization.k8s.io';

const createdAtColumn = column<KubeObject>(
  'Created At',
  'date',
  'When the object was created.',
  (o) => o.metadata?.creationTimestamp ?? '',
);

/** pkg/apis/rbac/validation ValidatePolicyRule. */
function validateRules(rules: readonly PolicyRule[] | undefined, namespaced: boolean): FieldError[] {
  return (rules ?? []).flatMap((rule, i) => {
    const at = `rules[${i}]`;
    const errors: FieldError[] = [];
    if (!rule.verbs?.length) errors.push(required(`${at}.verbs`, 'verbs must contain at least one value'));
    if (rule.nonResourceURLs?.length) {
      const refuse = (why: string) =>
        errors.push(invalid(`${at}.nonResourceURLs`, rule.nonResourceURLs, why));
      if (namespaced) refuse('namespaced rules cannot apply to non-resource URLs');
      if (rule.apiGroups?.length || rule.resources?.length || rule.resourceNames?.length)
        refuse('rules cannot apply to both regular resources and non-resource URLs');
      return errors;
    }
    if (!rule.apiGroups?.length)
      errors.push(required(`${at}.apiGroups`, 'resource rules must supply at least one api group'));
    if (!rule.resources?.length)
      errors.push(required(`${at}.resources`, 'resource rules must supply at least one resource'));
    return errors;
  });
}

function validateSubject(s: Subject, at: string, namespaced: boolean): FieldError[] {
  const errors: FieldError[] = [];
  if (!s.name) errors.push(required(`${at}.name`));
  if (s.kind === 'ServiceAccount') {
    if (s.name) for (const e of dns1123Subdomain(s.name)) errors.push(invalid(`${at}.name`, s.name, e));
    if (s.apiGroup) errors.push(notSupported(`${at}.apiGroup`, s.apiGroup, ['']));
    if (!namespaced && !s.namespace) errors.push(required(`${at}.namespace`));
  } else if (s.kind === 'User' || s.kind === 'Group') {
    if (!s.name)
      errors.push(invalid(`${at}.name`, s.name ?? '', `${s.kind.toLowerCase()} name cannot be empty`));
    if (s.apiGroup !== RBAC_GROUP)
      errors.push(notSupported(`${at}.apiGroup`, s.apiGroup ?? '', [RBAC_GROUP]));
  } else errors.push(notSupported(`${at}.kind`, s.kind ?? '', ['ServiceAccount', 'User', 'Group']));
  return errors;
}

interface Binding extends KubeObject {
  roleRef: RoleRef;
  subjects?: Subject[];
}

function validateBinding(o: Binding, namespaced: boolean): FieldError[] {
  const { apiGroup = '', kind = '', name = '' } = o.roleRef ?? {};
  const errors: FieldError[] = [];
  if (apiGroup !== RBAC_GROUP) errors.push(notSupported('roleRef.apiGroup', apiGroup, [RBAC_GROUP]));
  const kinds = namespaced ? ['Role', 'ClusterRole'] : ['ClusterRole'];
  if (!kinds.includes(kind)) errors.push(notSupported('roleRef.kind', kind, kinds));
  if (!name) errors.push(required('roleRef.name'));
  else for (const e of pathSegmentName(name)) errors.push(invalid('roleRef.name', name, e));
  for (const [i, s] of (o.subjects ?? []).entries())
    errors.push(...validateSubject(s, `subjects[${i}]`, namespaced));
  return errors;
}

/** pkg/apis/rbac/v1 SetDefaults_RoleBinding and SetDefaults_Subject. */
function defaultBinding(o: Binding): void {
  if (o.roleRef && !o.roleRef.apiGroup) o.roleRef.apiGroup = RBAC_GROUP;
  for (const s of o.subjects ?? [])
    if (!s.apiGroup && (s.kind === 'User' || s.kind === 'Group')) s.apiGroup = RBAC_GROUP;
}

const validateBindingUpdate = (o: Binding, old: Binding): FieldError[] =>
  deepEqual(o.roleRef, old.roleRef) ? [] : [invalid('roleRef', o.roleRef, 'cannot change roleRef')];

const subjects = (kind: string, name: (s: Subject) => string) => (o: Binding) =>
  (o.subjects ?? [])
    .filter((s) => s.kind === kind)
    .map(name)
    .join(', ');

const bindingColumns = [
  nameColumn,
  column<Binding>(
    'Role',
    'string',
    'The role that is granted.',
    (o) => `${o.roleRef.kind}/${o.roleRef.name}`,
  ),
  ageColumn,
  column<Binding>(
    'Users',
    'string',
    'Users it is granted to.',
    subjects('User', (s) => s.name),
    1,
  ),
  column<Binding>(
    'Groups',
    'string',
    'Groups it is granted to.',
    subjects('Group', (s) => s.name),
    1,
  ),
  column<Binding>(
    'ServiceAccounts',
    'string',
    'Service accounts it is granted to.',
    subjects('ServiceAccount', (s) => `${s.namespace ?? ''}/${s.name}`),
    1,
  ),
] as const;

const common = {
  group: RBAC_GROUP,
  version: 'v1',
  shortNames: [],
  categories: [],
  status: false,
  selectable: {},
  validName: pathSegmentName,
} as const;

export const roles: Kind<Role> = {
  ...common,
  kind: 'Role',
  plural: 'roles',
  singular: 'role',
  namespaced: true,
  schema: 'io.k8s.api.rbac.v1.Role',
  createOnUpdate: true,
  columns: [nameColumn, createdAtColumn],
  validate: (o) => validateRules(o.rules, true),
};

export const clusterRoles: Kind<ClusterRole> = {
  ...common,
  kind: 'ClusterRole',
  plural: 'clusterroles',
  singular: 'clusterrole',
  namespaced: false,
  schema: 'io.k8s.api.rbac.v1.ClusterRole',
  createOnUpdate: true,
  columns: [nameColumn, createdAtColumn],
  validate: (o) => [
    ...validateRules(o.rules, false),
    ...(o.aggregationRule && !o.aggregationRule.clusterRoleSelectors?.length
      ? [
          required(
            'aggregationRule.clusterRoleSelectors',
            'at least one clusterRoleSelector required if aggregationRule is non-nil',
          ),
        ]
      : []),
  ],
};

export const roleBindings: Kind<RoleBinding> = {
  ...common,
  kind: 'RoleBinding',
  plural: 'rolebindings',
  singular: 'rolebinding',
  namespaced: true,
  schema: 'io.k8s.api.rbac.v1.RoleBinding',
  createOnUpdate: true,
  columns: bindingColumns,
  setDefaults: defaultBinding,
  validate: (o) => validateBinding(o, true),
  validateUpdate: validateBindingUpdate,
};

export const clusterRoleBindings: Kind<ClusterRoleBinding> = {
  ...common,
  kind: 'ClusterRoleBinding',
  plural: 'clusterrolebindings',
  singular: 'clusterrolebinding',
  namespaced: false,
  schema: 'io.k8s.api.rbac.v1.ClusterRoleBinding',
  createOnUpdate: true,
  columns: bindingColumns,
  setDefaults: defaultBinding,
  validate: (o) => validateBinding(o, false),
  validateUpdate: validateBindingUpdate,
};
