/** The roles and bindings that every cluster has (Kubernetes' bootstrap policy). */
import type {
  ClusterRole,
  ClusterRoleBinding,
  PolicyRule,
  Role,
  RoleBinding,
  Subject,
} from 'kubernetes-types/rbac/v1.js';
import { RBAC_GROUP } from '../../api/kinds/rbac.js';
import { CONTROLLER_RULES } from './controller-rules.js';
import { CLUSTER_RULES, NAMESPACE_RULES } from './default-rules.js';

const AGGREGATE = 'rbac.authorization.k8s.io/aggregate-to-';
const CONTROLLER = 'system:controller:';

/** Roles made of others: name → what their label says; a role in `into` is taken in by that one too. */
const AGGREGATED: readonly { name: string; into?: string }[] = [
  { name: 'admin' },
  { name: 'edit', into: 'admin' },
  { name: 'view', into: 'edit' },
];

const subject = (kind: 'Group' | 'User') => (name: string) => ({ apiGroup: RBAC_GROUP, kind, name });
const group = subject('Group');
const user = subject('User');
const account = (name: string) => ({ kind: 'ServiceAccount', name, namespace: 'kube-system' });

/** ClusterRole → who has it, by a binding of the same name. */
const SUBJECTS: Readonly<Record<string, readonly Subject[]>> = {
  'cluster-admin': [group('system:masters')],
  'system:basic-user': [group('system:authenticated')],
  'system:discovery': [group('system:authenticated')],
  'system:kube-controller-manager': [user('system:kube-controller-manager')],
  'system:kube-dns': [account('kube-dns')],
  'system:kube-scheduler': [user('system:kube-scheduler')],
  'system:monitoring': [group('system:monitoring')],
  // Nodes have what their authorizer gives them.
  'system:node': [],
  'system:node-proxier': [user('system:kube-proxy')],
  'system:public-info-viewer': [group('system:authenticated'), group('system:unauthenticated')],
  'system:service-account-issuer-discovery': [group('system:serviceaccounts')],
  'system:volume-scheduler': [user('system:kube-scheduler')],
};

/** Namespace → binding → its Role, unless it is of the same name, and who has it. */
const NAMESPACE_SUBJECTS: Readonly<
  Record<string, Readonly<Record<string, { role?: string; subjects: readonly Subject[] }>>>
> = {
  'kube-public': {
    'system:controller:bootstrap-signer': { subjects: [account('bootstrap-signer')] },
  },
  'kube-system': {
    'system::extension-apiserver-authentication-reader': {
      role: 'extension-apiserver-authentication-reader',
      subjects: [user('system:kube-controller-manager'), user('system:kube-scheduler')],
    },
    'system::leader-locking-kube-controller-manager': {
      subjects: [
        user('system:kube-controller-manager'),
        account('kube-controller-manager'),
        account('leader-election-controller'),
      ],
    },
    'system::leader-locking-kube-scheduler': {
      subjects: [user('system:kube-scheduler'), account('kube-scheduler')],
    },
    'system:controller:bootstrap-signer': { subjects: [account('bootstrap-signer')] },
    'system:controller:cloud-provider': { subjects: [account('cloud-provider')] },
    'system:controller:token-cleaner': { subjects: [account('token-cleaner')] },
  },
};

const meta = (name: string, ...into: readonly string[]) => ({
  name,
  labels: {
    'kubernetes.io/bootstrapping': 'rbac-defaults',
    ...Object.fromEntries(into.map((role) => [AGGREGATE + role, 'true'])),
  },
  annotations: { 'rbac.authorization.kubernetes.io/autoupdate': 'true' },
});

const TO = /^system:aggregate-to-(.*)$/;
/** metrics-server's, whose name does not say it. */
const READERS: Readonly<Record<string, readonly string[]>> = {
  'system:aggregated-metrics-reader': ['admin', 'edit', 'view'],
};
const takenInBy = (name: string): readonly string[] => READERS[name] ?? TO.exec(name)?.slice(1) ?? [];

const copy = <T>(list: readonly T[]): T[] => structuredClone(list) as T[];

/** The ClusterRoles of a new cluster; aggregated ones have no rules yet. */
export const defaultClusterRoles = (): ClusterRole[] => [
  ...Object.entries<readonly PolicyRule[]>(CLUSTER_RULES).map(([name, rules]) => ({
    metadata: meta(name, ...takenInBy(name)),
    rules: copy(rules),
  })),
  ...Object.entries(CONTROLLER_RULES).map(([name, rules]) => ({
    metadata: meta(CONTROLLER + name),
    rules: copy(rules),
  })),
  ...AGGREGATED.map(({ name, into }) => ({
    metadata: meta(name, ...(into ? [into] : [])),
    aggregationRule: { clusterRoleSelectors: [{ matchLabels: { [`${AGGREGATE}${name}`]: 'true' } }] },
    rules: [],
  })),
];

const clusterBinding = (name: string, subjects: readonly Subject[]): ClusterRoleBinding => ({
  metadata: meta(name),
  roleRef: { apiGroup: RBAC_GROUP, kind: 'ClusterRole', name },
  subjects: copy(subjects),
});

export const defaultClusterRoleBindings = (): ClusterRoleBinding[] => [
  ...Object.entries(SUBJECTS).map(([name, subjects]) => clusterBinding(name, subjects)),
  ...Object.keys(CONTROLLER_RULES).map((name) => clusterBinding(CONTROLLER + name, [account(name)])),
];

/** The Roles of a new cluster's own namespaces. */
export const defaultRoles = (): Role[] =>
  Object.entries(NAMESPACE_RULES).flatMap(([namespace, roles]) =>
    Object.entries(roles).map(([name, rules]) => ({
      metadata: { ...meta(name), namespace },
      rules: copy(rules),
    })),
  );

export const defaultRoleBindings = (): RoleBinding[] =>
  Object.entries(NAMESPACE_SUBJECTS).flatMap(([namespace, bindings]) =>
    Object.entries(bindings).map(([name, { role = name, subjects }]) => ({
      metadata: { ...meta(name), namespace },
      roleRef: { apiGroup: RBAC_GROUP, kind: 'Role', name: role },
      subjects: copy(subjects),
    })),
  );
