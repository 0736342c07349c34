/** One valid object of each declared kind, with as many of its fields as make sense together: what tests vary. */
import type { AnyObject } from '../../api/meta/object.js';

const selector = { matchLabels: { a: 'b' }, matchExpressions: [{ key: 'a', operator: 'In', values: ['b'] }] };

const podSpec = {
  containers: [
    {
      name: 'c',
      image: 'i',
      command: ['x'],
      ports: [{ containerPort: 80, name: 'http', protocol: 'TCP' }],
      env: [
        { name: 'A', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
        { name: 'B', valueFrom: { resourceFieldRef: { resource: 'limits.cpu' } } },
        { name: 'C', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
      ],
      envFrom: [{ configMapRef: { name: 'c' } }],
      resources: { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '0.5' } },
      volumeMounts: [{ name: 'v', mountPath: '/x', subPath: 'y' }],
      livenessProbe: { httpGet: { path: '/', port: 'http', httpHeaders: [{ name: 'A', value: 'b' }] } },
      readinessProbe: { grpc: { port: 80 } },
      startupProbe: { tcpSocket: { port: 80 } },
      lifecycle: { preStop: { exec: { command: ['x'] } } },
      securityContext: {
        runAsUser: 1,
        capabilities: { add: ['CHOWN'] },
        seccompProfile: { type: 'RuntimeDefault' },
      },
    },
  ],
  initContainers: [{ name: 'i', image: 'i', restartPolicy: 'Always' }],
  volumes: [
    {
      name: 'v',
      projected: {
        sources: [
          { downwardAPI: { items: [{ path: 'x', fieldRef: { fieldPath: 'metadata.name' } }] } },
          { serviceAccountToken: { path: 't', audience: 'a', expirationSeconds: 600 } },
          { configMap: { name: 'c', items: [{ key: 'k', path: 'p' }] } },
        ],
      },
    },
    { name: 'w', hostPath: { path: '/x', type: 'Directory' } },
    { name: 'e', emptyDir: { sizeLimit: '1Gi' } },
    { name: 'p', persistentVolumeClaim: { claimName: 'c' } },
  ],
  tolerations: [{ key: 'k', operator: 'Exists' }],
  affinity: {
    nodeAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: {
        nodeSelectorTerms: [{ matchExpressions: [{ key: 'k', operator: 'In', values: ['v'] }] }],
      },
    },
    podAffinity: {
      preferredDuringSchedulingIgnoredDuringExecution: [
        { weight: 1, podAffinityTerm: { topologyKey: 'x', labelSelector: selector } },
      ],
    },
  },
  topologySpreadConstraints: [
    { maxSkew: 1, topologyKey: 'x', whenUnsatisfiable: 'DoNotSchedule', labelSelector: selector },
  ],
  nodeSelector: { a: 'b' },
  imagePullSecrets: [{ name: 's' }],
  hostAliases: [{ ip: '10.0.0.1', hostnames: ['h'] }],
  securityContext: { sysctls: [{ name: 'net.ipv4.tcp_syncookies', value: '1' }], supplementalGroups: [1] },
  dnsConfig: { nameservers: ['10.0.0.1'], options: [{ name: 'ndots', value: '1' }] },
};
const template = { metadata: { labels: { a: 'b' } }, spec: podSpec };
const jobTemplate = { ...template, spec: { ...podSpec, restartPolicy: 'OnFailure' } };
const subjects = [
  { kind: 'User', name: 'u', apiGroup: 'rbac.authorization.k8s.io' },
  { kind: 'ServiceAccount', name: 's', namespace: 'default' },
];
const claimSpec = {
  devices: {
    requests: [
      { name: 'r', exactly: { deviceClassName: 'c', allocationMode: 'ExactCount', count: 1 } },
      { name: 's', firstAvailable: [{ name: 't', deviceClassName: 'c', allocationMode: 'All' }] },
    ],
    constraints: [{ requests: ['r', 's/t'], matchAttribute: 'example.com/size' }],
  },
};
const rules = [{ apiGroups: [''], resources: ['pods'], resourceNames: ['p'], verbs: ['get'] }];
const roleRef = (kind: string) => ({ apiGroup: 'rbac.authorization.k8s.io', kind, name: 'r' });
const webhook = (validating: boolean) => ({
  name: 'w.example.com',
  clientConfig: { service: { namespace: 'default', name: 's', path: '/x', port: 443 } },
  rules: [{ operations: ['CREATE'], apiGroups: ['example.com'], apiVersions: ['v1'], resources: ['things'] }],
  namespaceSelector: selector,
  objectSelector: selector,
  matchConditions: [{ name: 'm', expression: 'true' }],
  sideEffects: 'None',
  admissionReviewVersions: ['v1'],
  timeoutSeconds: 1,
  failurePolicy: 'Ignore',
  ...(validating ? {} : { reinvocationPolicy: 'IfNeeded' }),
});
const CSR = `-----BEGIN CERTIFICATE REQUEST-----
MIHHMG4CAQAwDDEKMAgGA1UEAwwBdTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BPsWRB7pq/00Ys9JUJryZHuhjwfjhouDqzKt7pyuOsIXy2s1cte5yRA6uRuxe/Gb
5uODlcKT1zUQndKp7BIWYI6gADAKBggqhkjOPQQDAgNJADBGAiEA4yxq6jClCSny
qnytXF9A7FFyq7c5MxbE4mj91DoWBlMCIQDTUgtBtRc8h5TbLk0oNB4kUvbWFdvV
6hHvP1/eSGzOww==
-----END CERTIFICATE REQUEST-----
`;

/** `group/version/plural` → object; the core group is ''. */
export const SAMPLES: Readonly<Record<string, AnyObject>> = {
  '/v1/namespaces': { spec: { finalizers: ['kubernetes'] }, status: { phase: 'Active' } },
  '/v1/nodes': {
    metadata: { labels: { 'node-role.kubernetes.io/x': '' } },
    spec: { taints: [{ key: 'k', effect: 'NoSchedule' }], podCIDR: '10.0.0.0/24', unschedulable: true },
    status: {
      addresses: [{ type: 'InternalIP', address: '::1' }],
      conditions: [{ type: 'Ready', status: 'True' }],
      nodeInfo: {},
      capacity: { cpu: 1 },
    },
  },
  '/v1/pods': {
    spec: podSpec,
    status: {
      phase: 'Running',
      conditions: [{ type: 'Ready', status: 'True' }],
      containerStatuses: [
        { name: 'c', state: { running: { startedAt: '2020-01-01T00:00:00Z' } }, restartCount: 1 },
      ],
      initContainerStatuses: [{ name: 'i', state: { terminated: { exitCode: 1 } } }],
    },
  },
  '/v1/configmaps': { data: { a: 'b' }, binaryData: { c: 'AAAA' }, immutable: false },
  '/v1/secrets': {
    type: 'kubernetes.io/dockerconfigjson',
    data: { '.dockerconfigjson': 'e30=' },
    stringData: { a: 'b' },
  },
  '/v1/serviceaccounts': { secrets: [{ name: 'x' }], imagePullSecrets: [{ name: 'y' }] },
  '/v1/services': {
    spec: {
      type: 'NodePort',
      selector: { a: 'b' },
      ports: [
        { name: 'http', port: 80, targetPort: 'http', protocol: 'TCP' },
        { name: 'dns', port: 53, protocol: 'UDP', appProtocol: 'kubernetes.io/h2c' },
      ],
      sessionAffinity: 'ClientIP',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 10 } },
      externalIPs: ['192.0.2.1'],
      ipFamilyPolicy: 'SingleStack',
    },
  },
  '/v1/endpoints': {
    subsets: [
      {
        addresses: [
          { ip: '192.0.2.1', nodeName: 'n', targetRef: { kind: 'Pod', name: 'p', namespace: 'default' } },
        ],
        notReadyAddresses: [{ ip: '192.0.2.2', hostname: 'h' }],
        ports: [{ name: 'http', port: 80, protocol: 'TCP' }],
      },
    ],
  },
  '/v1/persistentvolumes': {
    spec: {
      capacity: { storage: '1Gi' },
      accessModes: ['ReadWriteOnce'],
      persistentVolumeReclaimPolicy: 'Retain',
      storageClassName: 'x',
      local: { path: '/x' },
      claimRef: { namespace: 'default', name: 'c' },
      nodeAffinity: {
        required: { nodeSelectorTerms: [{ matchExpressions: [{ key: 'k', operator: 'Exists' }] }] },
      },
    },
  },
  '/v1/persistentvolumeclaims': {
    spec: {
      accessModes: ['ReadWriteOnce'],
      resources: { requests: { storage: '1Gi' } },
      storageClassName: 'x',
      selector,
      volumeMode: 'Filesystem',
      dataSource: { apiGroup: 'snapshot.storage.k8s.io', kind: 'VolumeSnapshot', name: 's' },
    },
  },
  '/v1/events': {
    involvedObject: { kind: 'Pod', namespace: 'default', name: 'p' },
    source: { component: 'c' },
    lastTimestamp: '2020-01-01T00:00:00Z',
    eventTime: '2020-01-01T00:00:00.000000Z',
    reason: 'Tested',
    action: 'Test',
    type: 'Normal',
    reportingComponent: 'test.example/tester',
    reportingInstance: 'one',
    series: { count: 1, lastObservedTime: '2020-01-01T00:00:00.000000Z' },
  },
  'coordination.k8s.io/v1/leases': {
    spec: { holderIdentity: 'x', renewTime: '2020-01-01T00:00:00.000000Z' },
  },
  '/v1/limitranges': {
    spec: {
      limits: [
        {
          type: 'Container',
          default: { cpu: '1' },
          defaultRequest: { cpu: '500m' },
          max: { cpu: '2' },
          min: { cpu: '1m' },
          maxLimitRequestRatio: { cpu: '10' },
        },
        { type: 'PersistentVolumeClaim', min: { storage: '1' } },
      ],
    },
  },
  '/v1/resourcequotas': {
    spec: {
      hard: { pods: '10000', 'requests.cpu': '9000', 'count/deployments.apps': '9000' },
      scopeSelector: { matchExpressions: [{ scopeName: 'PriorityClass', operator: 'In', values: ['high'] }] },
    },
  },
  'scheduling.k8s.io/v1/priorityclasses': { value: 1, preemptionPolicy: 'Never', description: 'd' },
  'node.k8s.io/v1/runtimeclasses': {
    handler: 'h',
    overhead: { podFixed: { cpu: '1m' } },
    scheduling: { nodeSelector: { a: 'b' }, tolerations: [{ key: 'x', operator: 'Exists' }] },
  },
  'apps/v1/deployments': {
    spec: {
      selector,
      template,
      replicas: 1,
      strategy: { rollingUpdate: { maxSurge: '25%', maxUnavailable: 1 } },
    },
  },
  'apps/v1/replicasets': { spec: { selector, template, replicas: 1, minReadySeconds: 1 } },
  'apps/v1/daemonsets': {
    spec: { selector, template, updateStrategy: { rollingUpdate: { maxUnavailable: '10%' } } },
  },
  'apps/v1/statefulsets': {
    spec: {
      selector,
      template,
      serviceName: 's',
      replicas: 1,
      ordinals: { start: 1 },
      persistentVolumeClaimRetentionPolicy: { whenDeleted: 'Delete' },
      updateStrategy: { rollingUpdate: { partition: 1 } },
      volumeClaimTemplates: [
        {
          metadata: { name: 'v' },
          spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
        },
      ],
    },
  },
  'apps/v1/controllerrevisions': { data: { a: 'b' }, revision: 1 },
  'autoscaling/v2/horizontalpodautoscalers': {
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'd' },
      minReplicas: 1,
      maxReplicas: 3,
      metrics: [
        {
          type: 'Resource',
          resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: 50 } },
        },
        {
          type: 'Pods',
          pods: { metric: { name: 'm', selector }, target: { type: 'AverageValue', averageValue: '1k' } },
        },
      ],
      behavior: { scaleUp: { policies: [{ type: 'Pods', value: 1, periodSeconds: 10 }] } },
    },
  },
  'autoscaling/v1/horizontalpodautoscalers': {
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'd' },
      maxReplicas: 3,
      targetCPUUtilizationPercentage: 50,
    },
  },
  'policy/v1/poddisruptionbudgets': { spec: { selector, minAvailable: '50%' } },
  '/v1/replicationcontrollers': { spec: { selector: { a: 'b' }, template, replicas: 1 } },
  '/v1/podtemplates': { template },
  'batch/v1/cronjobs': {
    spec: { schedule: '*/5 * * * *', timeZone: 'Etc/UTC', jobTemplate: { spec: { template: jobTemplate } } },
  },
  'batch/v1/jobs': {
    spec: {
      template: { ...jobTemplate, spec: { ...podSpec, restartPolicy: 'Never' } },
      completions: 2,
      parallelism: 1,
      completionMode: 'Indexed',
      backoffLimitPerIndex: 1,
      podFailurePolicy: {
        rules: [
          { action: 'FailJob', onExitCodes: { containerName: 'c', operator: 'In', values: [1] } },
          { action: 'Ignore', onPodConditions: [{ type: 'DisruptionTarget', status: 'True' }] },
        ],
      },
      successPolicy: { rules: [{ succeededIndexes: '0-1', succeededCount: 1 }] },
      ttlSecondsAfterFinished: 10,
    },
  },
  'discovery.k8s.io/v1/endpointslices': {
    addressType: 'IPv4',
    endpoints: [
      { addresses: ['192.0.2.1'], conditions: { ready: true }, hints: { forZones: [{ name: 'z' }] } },
    ],
    ports: [{ name: 'http', port: 80, protocol: 'TCP' }],
  },
  'events.k8s.io/v1/events': {
    eventTime: '2020-01-01T00:00:00.000000Z',
    reportingController: 'test.example/tester',
    reportingInstance: 'one',
    action: 'Test',
    reason: 'Tested',
    type: 'Normal',
    regarding: { kind: 'Pod', namespace: 'default', name: 'p' },
    note: 'n',
  },
  'networking.k8s.io/v1/ingresses': {
    spec: {
      ingressClassName: 'x',
      defaultBackend: { service: { name: 's', port: { number: 80 } } },
      tls: [{ hosts: ['h.example'], secretName: 's' }],
      rules: [
        {
          host: '*.h.example',
          http: {
            paths: [
              { path: '/', pathType: 'Prefix', backend: { service: { name: 's', port: { name: 'http' } } } },
            ],
          },
        },
      ],
    },
  },
  'networking.k8s.io/v1/ingressclasses': {
    spec: { controller: 'example.com/c', parameters: { apiGroup: 'example.com', kind: 'K', name: 'n' } },
  },
  'networking.k8s.io/v1/networkpolicies': {
    spec: {
      podSelector: selector,
      policyTypes: ['Ingress', 'Egress'],
      ingress: [
        { from: [{ podSelector: selector, namespaceSelector: {} }], ports: [{ port: 80, endPort: 90 }] },
      ],
      egress: [{ to: [{ ipBlock: { cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] } }] }],
    },
  },
  'storage.k8s.io/v1/storageclasses': {
    provisioner: 'example.com/p',
    parameters: { a: 'b' },
    reclaimPolicy: 'Delete',
    volumeBindingMode: 'WaitForFirstConsumer',
    allowedTopologies: [{ matchLabelExpressions: [{ key: 'k', values: ['v'] }] }],
  },
  'storage.k8s.io/v1/volumeattachments': {
    spec: { attacher: 'example.com', nodeName: 'n', source: { persistentVolumeName: 'v' } },
  },
  'storage.k8s.io/v1/volumeattributesclasses': { driverName: 'example.com', parameters: { a: 'b' } },
  'storage.k8s.io/v1/csidrivers': {
    spec: { attachRequired: false, volumeLifecycleModes: ['Ephemeral'], tokenRequests: [{ audience: 'a' }] },
  },
  'storage.k8s.io/v1/csinodes': {
    spec: { drivers: [{ name: 'example.com', nodeID: 'n', topologyKeys: ['k'], allocatable: { count: 1 } }] },
  },
  'storage.k8s.io/v1/csistoragecapacities': {
    storageClassName: 'x',
    capacity: '1Gi',
    nodeTopology: selector,
  },
  'resource.k8s.io/v1/deviceclasses': {
    spec: {
      selectors: [{ cel: { expression: 'true' } }],
      config: [{ opaque: { driver: 'example.com', parameters: { a: 'b' } } }],
    },
  },
  'resource.k8s.io/v1/resourceclaims': { spec: claimSpec },
  'resource.k8s.io/v1/resourceclaimtemplates': { spec: { spec: claimSpec } },
  'resource.k8s.io/v1/resourceslices': {
    spec: {
      driver: 'example.com',
      pool: { name: 'pool', generation: 1, resourceSliceCount: 1 },
      nodeName: 'n',
      devices: [{ name: 'd', attributes: { size: { int: 1 } } }],
    },
  },
  'rbac.authorization.k8s.io/v1/roles': { rules },
  'rbac.authorization.k8s.io/v1/rolebindings': { roleRef: roleRef('Role'), subjects },
  'rbac.authorization.k8s.io/v1/clusterroles': {
    rules: [...rules, { nonResourceURLs: ['/x'], verbs: ['get'] }],
    aggregationRule: { clusterRoleSelectors: [selector] },
  },
  'rbac.authorization.k8s.io/v1/clusterrolebindings': { roleRef: roleRef('ClusterRole'), subjects },
  'apiregistration.k8s.io/v1/apiservices': {
    metadata: { name: 'v1.odd.example.com' },
    spec: {
      group: 'odd.example.com',
      version: 'v1',
      groupPriorityMinimum: 1000,
      versionPriority: 15,
      service: { namespace: 'default', name: 'odd', port: 443 },
      insecureSkipTLSVerify: true,
    },
  },
  'apiextensions.k8s.io/v1/customresourcedefinitions': {
    metadata: { name: 'things.example.com' },
    spec: {
      group: 'example.com',
      scope: 'Namespaced',
      names: {
        plural: 'things',
        singular: 'thing',
        kind: 'Thing',
        listKind: 'ThingList',
        shortNames: ['th'],
      },
      versions: [
        {
          name: 'v1',
          served: true,
          storage: true,
          schema: {
            openAPIV3Schema: {
              type: 'object',
              properties: {
                spec: {
                  type: 'object',
                  properties: {
                    n: { type: 'integer', minimum: 1, default: 1 },
                    l: { type: 'array', items: { type: 'string' }, maxItems: 3 },
                  },
                  'x-kubernetes-validations': [{ rule: 'self.n > 0', message: 'm' }],
                },
                status: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
              },
            },
          },
          subresources: {
            status: {},
            scale: { specReplicasPath: '.spec.n', statusReplicasPath: '.status.n' },
          },
          additionalPrinterColumns: [{ name: 'N', type: 'integer', jsonPath: '.spec.n' }],
          selectableFields: [{ jsonPath: '.spec.n' }],
        },
      ],
    },
  },
  'certificates.k8s.io/v1/certificatesigningrequests': {
    spec: {
      request: Buffer.from(CSR).toString('base64'),
      signerName: 'example.com/signer',
      usages: ['client auth'],
      expirationSeconds: 600,
    },
  },
  'admissionregistration.k8s.io/v1/mutatingwebhookconfigurations': { webhooks: [webhook(false)] },
  'admissionregistration.k8s.io/v1/validatingwebhookconfigurations': { webhooks: [webhook(true)] },
  'admissionregistration.k8s.io/v1/validatingadmissionpolicies': {
    spec: {
      paramKind: { apiVersion: 'v1', kind: 'ConfigMap' },
      matchConstraints: {
        resourceRules: [
          { operations: ['CREATE'], apiGroups: ['apps'], apiVersions: ['v1'], resources: ['deployments'] },
        ],
        namespaceSelector: selector,
      },
      matchConditions: [{ name: 'm', expression: 'object.spec.replicas > 1' }],
      variables: [{ name: 'v', expression: 'object.spec.replicas' }],
      validations: [{ expression: 'variables.v < 5', message: 'm', reason: 'Forbidden' }],
      auditAnnotations: [{ key: 'k', valueExpression: '"x"' }],
    },
  },
  'admissionregistration.k8s.io/v1/validatingadmissionpolicybindings': {
    spec: {
      policyName: 'p',
      paramRef: { name: 'c', namespace: 'default', parameterNotFoundAction: 'Allow' },
      matchResources: { namespaceSelector: selector },
      validationActions: ['Warn'],
    },
  },
  'flowcontrol.apiserver.k8s.io/v1/flowschemas': {
    spec: {
      matchingPrecedence: 700,
      priorityLevelConfiguration: { name: 'system' },
      distinguisherMethod: { type: 'ByUser' },
      rules: [
        {
          subjects: [
            { kind: 'User', user: { name: 'u' } },
            { kind: 'Group', group: { name: 'g' } },
            { kind: 'ServiceAccount', serviceAccount: { name: '*', namespace: 'default' } },
          ],
          resourceRules: [
            { verbs: ['get'], apiGroups: ['apps'], resources: ['deployments'], namespaces: ['default'] },
          ],
          nonResourceRules: [{ verbs: ['*'], nonResourceURLs: ['/metrics', '/x/*'] }],
        },
      ],
    },
  },
  'flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations': {
    spec: {
      type: 'Limited',
      limited: {
        nominalConcurrencyShares: 3,
        lendablePercent: 50,
        borrowingLimitPercent: 20,
        limitResponse: { type: 'Queue', queuing: { queues: 8, handSize: 2, queueLengthLimit: 5 } },
      },
    },
  },
  'admissionregistration.k8s.io/v1/mutatingadmissionpolicies': {
    spec: {
      paramKind: { apiVersion: 'v1', kind: 'ConfigMap' },
      matchConstraints: {
        resourceRules: [
          { operations: ['CREATE'], apiGroups: ['apps'], apiVersions: ['v1'], resources: ['deployments'] },
        ],
        objectSelector: selector,
      },
      matchConditions: [{ name: 'm', expression: 'object.spec.replicas > 1' }],
      variables: [{ name: 'v', expression: 'object.spec.replicas' }],
      mutations: [
        {
          patchType: 'ApplyConfiguration',
          applyConfiguration: { expression: 'Object{spec: Object.spec{replicas: variables.v}}' },
        },
        {
          patchType: 'JSONPatch',
          jsonPatch: { expression: '[JSONPatch{op: "add", path: "/metadata/labels", value: {"a": "b"}}]' },
        },
      ],
      reinvocationPolicy: 'IfNeeded',
    },
  },
  'admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings': {
    spec: {
      policyName: 'p',
      paramRef: { name: 'c', namespace: 'default', parameterNotFoundAction: 'Deny' },
      matchResources: { namespaceSelector: selector },
    },
  },
  'authentication.k8s.io/v1/tokenreviews': { spec: { token: 'x', audiences: ['a'] } },
  'authentication.k8s.io/v1/selfsubjectreviews': {},
  'authorization.k8s.io/v1/subjectaccessreviews': {
    spec: {
      user: 'u',
      groups: ['g'],
      extra: { a: ['b'] },
      resourceAttributes: {
        namespace: 'default',
        verb: 'get',
        resource: 'pods',
        fieldSelector: { rawSelector: 'a=b' },
      },
    },
  },
  'authorization.k8s.io/v1/selfsubjectaccessreviews': {
    spec: { nonResourceAttributes: { path: '/x', verb: 'get' } },
  },
  'authorization.k8s.io/v1/localsubjectaccessreviews': {
    metadata: { namespace: 'default' },
    spec: { user: 'u', resourceAttributes: { namespace: 'default', verb: 'get', resource: 'pods' } },
  },
  'authorization.k8s.io/v1/selfsubjectrulesreviews': { spec: { namespace: 'default' } },
};
