/** What the roles of every cluster allow, as Kubernetes 1.36's bootstrap policy says; aggregated ones have none of their own. */
import type { PolicyRule } from 'kubernetes-types/rbac/v1.js';
import { RBAC_GROUP } from '../../api/kinds/rbac.js';
import {
  AUTHENTICATION,
  AUTHORIZATION,
  CERTIFICATES,
  EVENTS,
  on,
  READ,
  READ_WRITE,
  urls,
  WRITE,
} from './rule-words.js';

/** ClusterRole → rules. */
export const CLUSTER_RULES = {
  'cluster-admin': [on('*', '*', '*'), { nonResourceURLs: ['*'], verbs: ['*'] }],
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
      'configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy',
      WRITE,
    ),
    on('core', 'serviceaccounts/token', 'create'),
    on('core events.k8s.io', 'events', WRITE),
    on(
      'apps',
      'daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale',
      WRITE,
    ),
    on('autoscaling', 'horizontalpodautoscalers', WRITE),
    on('batch', 'cronjobs jobs', WRITE),
    on(
      'extensions',
      'daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale',
      WRITE,
    ),
    on('policy', 'poddisruptionbudgets', WRITE),
    on('networking.k8s.io', 'ingresses networkpolicies', WRITE),
    on('coordination.k8s.io', 'leases', READ_WRITE),
    on('resource.k8s.io', 'resourceclaims resourceclaimtemplates', WRITE),
  ],
  'system:aggregate-to-view': [
    on(
      'core',
      'configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status',
      READ,
    ),
    on(
      'core',
      'bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status',
      READ,
    ),
    on('core', 'namespaces', READ),
    on('core events.k8s.io', 'events', READ),
    on('discovery.k8s.io', 'endpointslices', READ),
    on(
      'apps',
      'controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status',
      READ,
    ),
    on('autoscaling', 'horizontalpodautoscalers horizontalpodautoscalers/status', READ),
    on('batch', 'cronjobs cronjobs/status jobs jobs/status', READ),
    on(
      'extensions',
      'daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale',
      READ,
    ),
    on('policy', 'poddisruptionbudgets poddisruptionbudgets/status', READ),
    on('networking.k8s.io', 'ingresses ingresses/status networkpolicies', READ),
    on('resource.k8s.io', 'resourceclaims resourceclaims/status resourceclaimtemplates', READ),
  ],
  'system:auth-delegator': [
    on(AUTHENTICATION, 'tokenreviews', 'create'),
    on(AUTHORIZATION, 'subjectaccessreviews', 'create'),
  ],
  'system:basic-user': [
    on(AUTHORIZATION, 'selfsubjectaccessreviews selfsubjectrulesreviews', 'create'),
    on(AUTHENTICATION, 'selfsubjectreviews', 'create'),
  ],
  'system:certificates.k8s.io:certificatesigningrequests:nodeclient': [
    on(CERTIFICATES, 'certificatesigningrequests/nodeclient', 'create'),
  ],
  'system:certificates.k8s.io:certificatesigningrequests:selfnodeclient': [
    on(CERTIFICATES, 'certificatesigningrequests/selfnodeclient', 'create'),
  ],
  'system:certificates.k8s.io:kube-apiserver-client-approver': [
    on(CERTIFICATES, 'signers', 'approve', 'kubernetes.io/kube-apiserver-client'),
  ],
  'system:certificates.k8s.io:kube-apiserver-client-kubelet-approver': [
    on(CERTIFICATES, 'signers', 'approve', 'kubernetes.io/kube-apiserver-client-kubelet'),
  ],
  'system:certificates.k8s.io:kubelet-serving-approver': [
    on(CERTIFICATES, 'signers', 'approve', 'kubernetes.io/kubelet-serving'),
  ],
  'system:certificates.k8s.io:legacy-unknown-approver': [
    on(CERTIFICATES, 'signers', 'approve', 'kubernetes.io/legacy-unknown'),
  ],
  'system:discovery': [
    urls('/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/'),
  ],
  'system:heapster': [
    on('core', 'events namespaces nodes pods', READ),
    on('extensions', 'deployments', READ),
  ],
  'system:kube-aggregator': [on('core', 'endpoints services', READ)],
  'system:kube-controller-manager': [
    EVENTS,
    on('coordination.k8s.io', 'leases', 'create'),
    on('coordination.k8s.io', 'leases', 'get update', 'kube-controller-manager'),
    on('core', 'secrets serviceaccounts', 'create'),
    on('core', 'secrets', 'delete'),
    on('core', 'configmaps namespaces secrets serviceaccounts', 'get'),
    on('core', 'secrets serviceaccounts', 'update'),
    on(AUTHENTICATION, 'tokenreviews', 'create'),
    on(AUTHORIZATION, 'subjectaccessreviews', 'create'),
    on('*', '*', 'list watch'),
    on('core', 'serviceaccounts/token', 'create'),
  ],
  'system:kube-dns': [on('core', 'endpoints services', 'list watch')],
  'system:kube-scheduler': [
    EVENTS,
    on('coordination.k8s.io', 'leases', 'create'),
    on('coordination.k8s.io', 'leases', 'get list update watch', 'kube-scheduler'),
    on('coordination.k8s.io', 'leasecandidates', READ_WRITE),
    on('core', 'nodes', READ),
    on('core', 'pods', 'delete get list watch'),
    on('core', 'bindings pods/binding', 'create'),
    on('core', 'pods/status', 'patch update'),
    on('core', 'replicationcontrollers services', READ),
    on('apps extensions', 'replicasets', READ),
    on('apps', 'statefulsets', READ),
    on('policy', 'poddisruptionbudgets', READ),
    on('core', 'persistentvolumeclaims persistentvolumes', READ),
    on(AUTHENTICATION, 'tokenreviews', 'create'),
    on(AUTHORIZATION, 'subjectaccessreviews', 'create'),
    on('storage.k8s.io', 'csinodes', READ),
    on('storage.k8s.io', 'volumeattachments', READ),
    on('core', 'namespaces', READ),
    on('storage.k8s.io', 'csidrivers', READ),
    on('storage.k8s.io', 'csistoragecapacities', READ),
    on('resource.k8s.io', 'deviceclasses', READ),
    on('resource.k8s.io', 'resourceclaims', 'get list patch update watch'),
    on('resource.k8s.io', 'resourceclaims/status', 'get list patch update watch'),
    on('core', 'pods/finalizers', 'update'),
    on('resource.k8s.io', 'resourceslices', READ),
    on('resource.k8s.io', 'resourceclaims', 'create delete'),
    on('resource.k8s.io', 'resourceclaims/binding', 'patch update'),
  ],
  'system:kubelet-api-admin': [
    on('core', 'nodes', READ),
    on('core', 'nodes', 'proxy'),
    on('core', 'nodes/log nodes/metrics nodes/proxy nodes/stats', '*'),
    on('core', 'nodes/configz nodes/healthz nodes/pods', '*'),
  ],
  'system:monitoring': [
    urls('/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz'),
    on('core', 'nodes/metrics', 'get'),
  ],
  'system:aggregated-metrics-reader': [on('metrics.k8s.io', 'nodes pods', READ)],
  'system:node': [
    on(AUTHENTICATION, 'tokenreviews', 'create'),
    on(AUTHORIZATION, 'localsubjectaccessreviews subjectaccessreviews', 'create'),
    on('core', 'services', READ),
    on('core', 'nodes', 'create get list watch'),
    on('core', 'nodes/status', 'patch update'),
    on('core', 'nodes', 'patch update'),
    EVENTS,
    on('core', 'pods', READ),
    on('core', 'pods', 'create delete'),
    on('core', 'pods/status', 'patch update'),
    on('core', 'pods/eviction', 'create'),
    on('core', 'configmaps secrets', READ),
    on('core', 'persistentvolumeclaims persistentvolumes', 'get'),
    on('core', 'endpoints', 'get'),
    on(CERTIFICATES, 'certificatesigningrequests', 'create get list watch'),
    on('coordination.k8s.io', 'leases', 'create delete get patch update'),
    on('storage.k8s.io', 'volumeattachments', 'get'),
    on('core', 'serviceaccounts/token', 'create'),
    on('core', 'persistentvolumeclaims/status', 'get patch update'),
    on('storage.k8s.io', 'csidrivers', READ),
    on('storage.k8s.io', 'csinodes', 'create delete get patch update'),
    on('node.k8s.io', 'runtimeclasses', READ),
    on('resource.k8s.io', 'resourceclaims', 'get'),
    on('resource.k8s.io', 'resourceslices', 'deletecollection'),
    on('core', 'serviceaccounts', 'get'),
  ],
  'system:node-bootstrapper': [on(CERTIFICATES, 'certificatesigningrequests', 'create get list watch')],
  'system:node-problem-detector': [on('core', 'nodes', 'get'), on('core', 'nodes/status', 'patch'), EVENTS],
  'system:node-proxier': [
    on('core', 'endpoints services', 'list watch'),
    on('core', 'nodes', READ),
    EVENTS,
    on('networking.k8s.io', 'servicecidrs', 'list watch'),
    on('discovery.k8s.io', 'endpointslices', 'list watch'),
  ],
  'system:persistent-volume-provisioner': [
    on('core', 'persistentvolumes', 'create delete get list watch'),
    on('core', 'persistentvolumeclaims', 'get list update watch'),
    on('storage.k8s.io', 'storageclasses', READ),
    on('core', 'events', 'watch'),
    EVENTS,
  ],
  'system:public-info-viewer': [urls('/healthz /livez /readyz /version /version/')],
  'system:service-account-issuer-discovery': [
    urls(
      '/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/',
    ),
  ],
  'system:volume-scheduler': [
    on('core', 'persistentvolumes', 'get list patch update watch'),
    on('storage.k8s.io', 'storageclasses', READ),
    on('core', 'persistentvolumeclaims', 'get list patch update watch'),
  ],
} satisfies Readonly<Record<string, readonly PolicyRule[]>>;

const LEADER = [
  on('coordination.k8s.io', 'leases', 'create get list update watch'),
  on('coordination.k8s.io', 'leasecandidates', 'create get list update watch'),
];

/** Namespace → Role → rules. */
export const NAMESPACE_RULES: Readonly<Record<string, Readonly<Record<string, readonly PolicyRule[]>>>> = {
  'kube-public': {
    'system:controller:bootstrap-signer': [
      on('core', 'configmaps', READ),
      on('core', 'configmaps', 'update', 'cluster-info'),
      EVENTS,
    ],
  },
  'kube-system': {
    'extension-apiserver-authentication-reader': [
      on('core', 'configmaps', READ, 'extension-apiserver-authentication'),
    ],
    'system::leader-locking-kube-controller-manager': LEADER,
    'system::leader-locking-kube-scheduler': LEADER,
    'system:controller:bootstrap-signer': [on('core', 'secrets', READ)],
    'system:controller:cloud-provider': [on('core', 'configmaps', 'create get list watch')],
    'system:controller:token-cleaner': [on('core', 'secrets', 'delete get list watch'), EVENTS],
  },
};
