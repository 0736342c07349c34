/** The roles and bindings that every cluster has (Kubernetes' bootstrappolicy), as a table. */
import type { ClusterRole, ClusterRoleBinding, PolicyRule } from 'kubernetes-types/rbac/v1.js';
import { RBAC_GROUP } from '../../api/kinds/rbac.js';

const AUTHENTICATION = 'authentication.k8s.io';
const AUTHORIZATION = 'authorization.k8s.io';
const CERTIFICATES = 'certificates.k8s.io';
const AGGREGATE = 'rbac.authorization.k8s.io/aggregate-to-';

const READ = 'get list watch';
const WRITE = 'create delete deletecollection patch update';
const READ_WRITE = 'create delete deletecollection get list patch update watch';

const words = (text: string): string[] => text.split(' ');
/** Verbs on resources of one group; `core` is the group without a name. */
const on = (group: string, resources: string, verbs: string, names?: string): PolicyRule => ({
  apiGroups: group.split(' ').map((g) => (g === 'core' ? '' : g)),
  resources: words(resources),
  ...(names ? { resourceNames: words(names) } : {}),
  verbs: words(verbs),
});
const urls = (paths: string): PolicyRule => ({ nonResourceURLs: words(paths), verbs: ['get'] });

const EVENTS = on('core events.k8s.io', 'events', 'create patch update');
const PUBLIC = '/healthz /livez /readyz /version /version/';
const APPS =
  'daemonsets deployments deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale';

/** What every node may do; its node authorizer narrows most of it to what concerns the node. */
export const NODE_RULES: readonly PolicyRule[] = [
  on(AUTHENTICATION, 'tokenreviews', 'create'),
  on(AUTHORIZATION, 'localsubjectaccessreviews subjectaccessreviews', 'create'),
  on('core', 'services', READ),
  on('core', 'nodes', 'create get list watch'),
  on('core', 'nodes/status', 'patch update'),
  on('core', 'nodes', 'patch update'),
  on('core', 'events', 'create patch update'),
  on('core', 'pods', READ),
  on('core', 'pods', 'create delete'),
  on('core', 'pods/status', 'patch update'),
  on('core', 'pods/eviction', 'create'),
  on('core', 'configmaps secrets', READ),
  on('core', 'persistentvolumeclaims persistentvolumes', 'get'),
  on('core', 'endpoints', 'get'),
  on(CERTIFICATES, 'certificatesigningrequests', 'create get list watch'),
  on('coordination.k8s.io', 'leases', 'create delete get patch update'),
  on('core', 'serviceaccounts/token', 'create'),
  on('node.k8s.io', 'runtimeclasses', READ),
];

const approver = (signer: string): PolicyRule[] => [
  on(CERTIFICATES, 'signers', 'approve', `kubernetes.io/${signer}`),
];

/** Name → rules. */
const RULES: Readonly<Record<string, readonly PolicyRule[]>> = {
  'cluster-admin': [on('*', '*', '*'), { nonResourceURLs: ['*'], verbs: ['*'] }],
  'system:discovery': [
    urls(`/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/`),
  ],
  'system:public-info-viewer': [urls(PUBLIC)],
  'system:monitoring': [urls('/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*')],
  'system:basic-user': [
    on(AUTHORIZATION, 'selfsubjectaccessreviews selfsubjectrulesreviews', 'create'),
    on(AUTHENTICATION, 'selfsubjectreviews', 'create'),
  ],
  'system:service-account-issuer-discovery': [urls('/.well-known/openid-configuration /openid/v1/jwks')],
  'system:auth-delegator': [
    on(AUTHENTICATION, 'tokenreviews', 'create'),
    on(AUTHORIZATION, 'subjectaccessreviews', 'create'),
  ],
  'system:aggregate-to-admin': [
    on(AUTHORIZATION, 'localsubjectaccessreviews', 'create'),
    on(RBAC_GROUP, 'rolebindings roles', READ_WRITE),
  ],
  'system:aggregate-to-edit': [
    on('core', 'pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy', READ),
    on('core', 'serviceaccounts', 'impersonate'),
    on('core', 'pods pods/attach pods/exec pods/portforward pods/proxy', WRITE),
    on('core', 'pods/eviction', 'create'),
    on(
      'core',
      'configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy',
      WRITE,
    ),
    on('core', 'serviceaccounts/token', 'create'),
    on('apps', `${APPS} deployments/rollback`, WRITE),
    on('autoscaling', 'horizontalpodautoscalers', WRITE),
    on('batch', 'cronjobs jobs', WRITE),
    on('policy', 'poddisruptionbudgets', WRITE),
    on('networking.k8s.io', 'ingresses networkpolicies', WRITE),
    on('coordination.k8s.io', 'leases', READ_WRITE),
  ],
  'system:aggregate-to-view': [
    on(
      'core',
      'configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status',
      READ,
    ),
    on(
      'core',
      'bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status',
      READ,
    ),
    on('core', 'namespaces', READ),
    on('discovery.k8s.io', 'endpointslices', READ),
    on(
      'apps',
      `${APPS} controllerrevisions daemonsets/status deployments/status replicasets/status statefulsets/status`,
      READ,
    ),
    on('autoscaling', 'horizontalpodautoscalers horizontalpodautoscalers/status', READ),
    on('batch', 'cronjobs cronjobs/status jobs jobs/status', READ),
    on('policy', 'poddisruptionbudgets poddisruptionbudgets/status', READ),
    on('networking.k8s.io', 'ingresses ingresses/status networkpolicies', READ),
  ],
  'system:node': NODE_RULES,
  'system:node-problem-detector': [on('core', 'nodes', 'get'), on('core', 'nodes/status', 'patch'), EVENTS],
  'system:node-proxier': [
    on('core', 'endpoints services', 'list watch'),
    on('core', 'nodes', READ),
    EVENTS,
    on('discovery.k8s.io', 'endpointslices', 'list watch'),
  ],
  'system:node-bootstrapper': [on(CERTIFICATES, 'certificatesigningrequests', 'create get list watch')],
  'system:certificates.k8s.io:certificatesigningrequests:nodeclient': [
    on(CERTIFICATES, 'certificatesigningrequests/nodeclient', 'create'),
  ],
  'system:certificates.k8s.io:certificatesigningrequests:selfnodeclient': [
    on(CERTIFICATES, 'certificatesigningrequests/selfnodeclient', 'create'),
  ],
  'system:certificates.k8s.io:kube-apiserver-client-approver': approver('kube-apiserver-client'),
  'system:certificates.k8s.io:kube-apiserver-client-kubelet-approver': approver(
    'kube-apiserver-client-kubelet',
  ),
  'system:certificates.k8s.io:kubelet-serving-approver': approver('kubelet-serving'),
  'system:certificates.k8s.io:legacy-unknown-approver': approver('legacy-unknown'),
};

/** Roles made of others: name → what their label says; a role in `into` is taken in by that one too. */
const AGGREGATED: readonly { name: string; into?: string }[] = [
  { name: 'admin' },
  { name: 'edit', into: 'admin' },
  { name: 'view', into: 'edit' },
];

/** Role → groups that have it. */
const GROUPS: Readonly<Record<string, readonly string[]>> = {
  'cluster-admin': ['system:masters'],
  'system:discovery': ['system:authenticated'],
  'system:basic-user': ['system:authenticated'],
  'system:public-info-viewer': ['system:authenticated', 'system:unauthenticated'],
  'system:monitoring': ['system:monitoring'],
  'system:service-account-issuer-discovery': ['system:serviceaccounts'],
  'system:node-proxier': [],
  'system:node': [],
};

const meta = (name: string, into?: string) => ({
  name,
  labels: {
    'kubernetes.io/bootstrapping': 'rbac-defaults',
    ...(into ? { [`${AGGREGATE}${into}`]: 'true' } : {}),
  },
  annotations: { 'rbac.authorization.kubernetes.io/autoupdate': 'true' },
});

const TO = /^system:aggregate-to-(.*)$/;

/** The ClusterRoles of a new cluster; aggregated ones have no rules yet. */
export const defaultClusterRoles = (): ClusterRole[] => [
  ...Object.entries(RULES).map(([name, rules]) => ({
    metadata: meta(name, TO.exec(name)?.[1]),
    rules: structuredClone(rules) as PolicyRule[],
  })),
  ...AGGREGATED.map(({ name, into }) => ({
    metadata: meta(name, into),
    aggregationRule: { clusterRoleSelectors: [{ matchLabels: { [`${AGGREGATE}${name}`]: 'true' } }] },
    rules: [],
  })),
];

export const defaultClusterRoleBindings = (): ClusterRoleBinding[] =>
  Object.entries(GROUPS).map(([name, groups]) => ({
    metadata: meta(name),
    roleRef: { apiGroup: RBAC_GROUP, kind: 'ClusterRole', name },
    subjects: [
      ...groups.map((group) => ({ apiGroup: RBAC_GROUP, kind: 'Group', name: group })),
      ...(name === 'system:node-proxier'
        ? [{ apiGroup: RBAC_GROUP, kind: 'User', name: 'system:kube-proxy' }]
        : []),
    ],
  }));
