/**
 * The FlowSchemas and PriorityLevelConfigurations that every cluster has (apiserver pkg/apis/flowcontrol/bootstrap):
 * mandatory ones, which nobody may change, and suggested ones, which follow the release unless somebody took them over.
 */
import type {
  FlowSchema,
  LimitedPriorityLevelConfiguration,
  NonResourcePolicyRule,
  PriorityLevelConfiguration,
  ResourcePolicyRule,
  Subject,
} from 'kubernetes-types/flowcontrol/v1.js';

export const FLOWCONTROL_VERSION = 'flowcontrol.apiserver.k8s.io/v1';
/** `true` on objects that the hub keeps as they are here, `false` on those that belong to the administrator. */
export const AUTOUPDATE_SPEC = 'apf.kubernetes.io/autoupdate-spec';
export const EXEMPT = 'exempt';
export const CATCH_ALL = 'catch-all';

const ALL = ['*'];
const everyResource: ResourcePolicyRule = {
  verbs: ALL,
  apiGroups: ALL,
  resources: ALL,
  namespaces: ALL,
  clusterScope: true,
};
const everyPath: NonResourcePolicyRule = { verbs: ALL, nonResourceURLs: ALL };
const everything = { resourceRules: [everyResource], nonResourceRules: [everyPath] };
const leases = (verbs: string[]): ResourcePolicyRule => ({
  verbs,
  apiGroups: ['coordination.k8s.io'],
  resources: ['leases'],
  namespaces: ALL,
});

const group = (name: string): Subject => ({ kind: 'Group', group: { name } });
const user = (name: string): Subject => ({ kind: 'User', user: { name } });
const everyone = [group('system:unauthenticated'), group('system:authenticated')];
const systemAccounts: Subject = {
  kind: 'ServiceAccount',
  serviceAccount: { name: '*', namespace: 'kube-system' },
};
const CONTROLLER_MANAGER = user('system:kube-controller-manager');
const SCHEDULER = user('system:kube-scheduler');
const NODES = group('system:nodes');

const metadata = (name: string) => ({ name, annotations: { [AUTOUPDATE_SPEC]: 'true' } });

const schema = (
  name: string,
  level: string,
  matchingPrecedence: number,
  distinguisher: 'ByUser' | 'ByNamespace' | undefined,
  subjects: Subject[],
  rules: { resourceRules?: ResourcePolicyRule[]; nonResourceRules?: NonResourcePolicyRule[] } = everything,
): FlowSchema => ({
  apiVersion: FLOWCONTROL_VERSION,
  kind: 'FlowSchema',
  metadata: metadata(name),
  spec: {
    priorityLevelConfiguration: { name: level },
    matchingPrecedence,
    ...(distinguisher ? { distinguisherMethod: { type: distinguisher } } : {}),
    rules: [{ subjects, ...rules }],
  },
});

const limited = (
  name: string,
  nominalConcurrencyShares: number,
  lendablePercent: number,
  limitResponse: LimitedPriorityLevelConfiguration['limitResponse'],
): PriorityLevelConfiguration => ({
  apiVersion: FLOWCONTROL_VERSION,
  kind: 'PriorityLevelConfiguration',
  metadata: metadata(name),
  spec: { type: 'Limited', limited: { nominalConcurrencyShares, lendablePercent, limitResponse } },
});

const queue = (queues: number, handSize: number) => ({
  type: 'Queue',
  queuing: { queues, handSize, queueLengthLimit: 50 },
});

export const mandatoryLevels: readonly PriorityLevelConfiguration[] = [
  limited(CATCH_ALL, 5, 0, { type: 'Reject' }),
  {
    apiVersion: FLOWCONTROL_VERSION,
    kind: 'PriorityLevelConfiguration',
    metadata: metadata(EXEMPT),
    spec: { type: 'Exempt', exempt: { nominalConcurrencyShares: 0, lendablePercent: 0 } },
  },
];

export const mandatorySchemas: readonly FlowSchema[] = [
  schema(EXEMPT, EXEMPT, 1, undefined, [group('system:masters')]),
  schema(CATCH_ALL, CATCH_ALL, 10000, 'ByUser', everyone),
];

export const suggestedLevels: readonly PriorityLevelConfiguration[] = [
  limited('system', 30, 33, queue(64, 6)),
  limited('node-high', 40, 25, queue(64, 6)),
  limited('leader-election', 10, 0, queue(16, 4)),
  limited('workload-high', 40, 50, queue(128, 6)),
  limited('workload-low', 100, 90, queue(128, 6)),
  limited('global-default', 20, 50, queue(128, 6)),
];

export const suggestedSchemas: readonly FlowSchema[] = [
  schema('probes', EXEMPT, 2, undefined, everyone, {
    nonResourceRules: [{ verbs: ['get'], nonResourceURLs: ['/healthz', '/readyz', '/livez'] }],
  }),
  schema(
    'system-leader-election',
    'leader-election',
    100,
    'ByUser',
    [CONTROLLER_MANAGER, SCHEDULER, systemAccounts],
    { resourceRules: [leases(['get', 'create', 'update'])] },
  ),
  schema('system-node-high', 'node-high', 400, 'ByUser', [NODES], {
    resourceRules: [{ ...everyResource, apiGroups: [''], resources: ['nodes', 'nodes/status'] }, leases(ALL)],
  }),
  schema('system-nodes', 'system', 500, 'ByUser', [NODES]),
  schema('kube-controller-manager', 'workload-high', 800, 'ByNamespace', [CONTROLLER_MANAGER]),
  schema('kube-scheduler', 'workload-high', 800, 'ByNamespace', [SCHEDULER]),
  schema('kube-system-service-accounts', 'workload-high', 900, 'ByNamespace', [systemAccounts]),
  schema('service-accounts', 'workload-low', 9000, 'ByUser', [group('system:serviceaccounts')]),
  schema('global-default', 'global-default', 9900, 'ByUser', everyone),
];
