import type { ContainerStatus, Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import type { AnyObject } from '../meta/object.js';
import {
  allKinds,
  configMaps,
  deployments,
  events,
  leases,
  namespaces,
  nodes,
  pods,
  replicaSets,
  runtimeClasses,
  secrets,
} from './index.js';
import type { Kind } from './kind.js';
import { qosClassOf } from './qos.js';
import {
  checkFields,
  decode,
  describedDefinitions,
  fieldDefinitions,
  fieldSchema,
  type Schema,
  schemaNamed,
} from './schema.js';

const NOW = Date.parse('2026-01-01T12:00:00Z');
const ago = (s: number) => new Date(NOW - s * 1000).toISOString();

/** The cells as kubectl shows them. */
const row = (kind: unknown, o: object, wide = false): unknown[] =>
  (kind as Kind).columns.filter((c) => wide || !c.priority).map((c) => c.value(o as AnyObject, NOW));

/** Defaults, then the errors as `field: message`. */
const check = (kind: unknown, o: object): string[] => {
  const k = kind as Kind;
  k.setDefaults?.(o as AnyObject);
  return (k.validate?.(o as AnyObject) ?? []).map((e) => `${e.field}: ${e.message}`);
};

const meta = { name: 'x', namespace: 'default', creationTimestamp: ago(300) };
const status = (s: object): ContainerStatus => ({
  name: 'c',
  ready: false,
  restartCount: 0,
  image: '',
  imageID: '',
  ...s,
});
const pod = (over: { spec?: object; status?: object; metadata?: object }): Pod =>
  ({
    metadata: { ...meta, ...over.metadata },
    spec: { containers: [{ name: 'c', image: 'i' }], ...over.spec },
    status: { phase: 'Running', ...over.status },
  }) as Pod;

describe('schemas', () => {
  it('have every kind, and every reference leads somewhere', () => {
    const all = fieldDefinitions();
    for (const k of allKinds) {
      expect(all[k.schema]?.['x-kubernetes-group-version-kind']).toContainEqual({
        group: k.group,
        version: k.version,
        kind: k.kind,
      });
      // A question that is answered and never stored is in no list.
      if (!k.verbs || k.verbs.includes('list')) expect(all[`${k.schema}List`]).toBeDefined();
    }
    const visit = (s: Schema): void => {
      if (s.$ref) expect(all[s.$ref.replace('#/definitions/', '')], s.$ref).toBeDefined();
      for (const p of Object.values(s.properties ?? {})) visit(p);
      if (s.items) visit(s.items);
      if (s.additionalProperties) visit(s.additionalProperties);
    };
    for (const s of Object.values(all)) visit(s);
  });

  it('describe every kind for kubectl explain', () => {
    const all = describedDefinitions();
    for (const k of allKinds) expect(all[k.schema]?.description?.length).toBeGreaterThan(20);
    expect(Object.keys(all)).toEqual(Object.keys(fieldDefinitions()));
    expect(all['io.k8s.api.core.v1.PodSpec']?.required).toEqual(['containers']);
  });

  it('know quantities, int-or-string, times and merge keys', () => {
    const at = (schema: string, ...path: string[]) =>
      path.reduce<Schema | undefined>((s, f) => fieldSchema(s, f), schemaNamed(schema));
    const limits = at('io.k8s.api.core.v1.Container', 'resources', 'limits');
    expect(limits?.additionalProperties?.$ref).toMatch(/Quantity$/);
    expect(at('io.k8s.api.core.v1.Pod', 'spec', 'containers')?.['x-kubernetes-patch-merge-key']).toBe('name');
    expect(at('io.k8s.api.apps.v1.Deployment', 'spec', 'strategy')?.['x-kubernetes-patch-strategy']).toBe(
      'retainKeys',
    );
    expect(
      at('io.k8s.api.apps.v1.Deployment', 'spec', 'strategy', 'rollingUpdate', 'maxSurge')?.$ref,
    ).toMatch(/IntOrString$/);
    expect(at('io.k8s.api.coordination.v1.Lease', 'spec', 'renewTime')?.$ref).toMatch(/MicroTime$/);
  });

  it.each<[object, string]>([
    [
      { spec: { containers: [{ ports: [{ containerPort: '80' }] }] } },
      'json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32',
    ],
    [
      { spec: { containers: [{ ports: [{ containerPort: 1.5 }] }] } },
      'json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32',
    ],
    [
      { spec: { containers: [{ env: [{ name: 'A', value: 1 }] }] } },
      'json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string',
    ],
    [
      { spec: { containers: {} } },
      'json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container',
    ],
    [
      { spec: { hostNetwork: 'true' } },
      'json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool',
    ],
    [
      { metadata: { labels: { a: true } } },
      'json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string',
    ],
    [{ spec: 1 }, 'json: cannot unmarshal number into Go struct field Pod.spec of type v1.PodSpec'],
    [
      { spec: { containers: [{ resources: { limits: { cpu: 'much' } } }] } },
      "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    ],
    [
      { metadata: { creationTimestamp: 'yesterday' } },
      'parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006"',
    ],
  ])('refuse %j', (o, error) => {
    expect(checkFields(o, pods.schema).error).toBe(error);
  });

  it.each([
    ['', ''],
    ['QQ==', 'QQ=='],
    ['QUI=', 'QUI='],
    ['QUJD\nQUJD\r\n', 'QUJDQUJD'],
    ['QQ', 0],
    ['Q===', 1],
    ['QU!D', 2],
    ['QQ==QQ==', 2],
  ])('take %j as bytes', (text, expected) => {
    const body = { data: { a: text } };
    if (typeof expected === 'string') {
      expect(decode(body, secrets.schema, 'x')).toEqual([]);
      expect(body.data.a).toBe(expected);
    } else {
      expect(() => decode(body, secrets.schema, 'x')).toThrow(
        `illegal base64 data at input byte ${expected}`,
      );
    }
  });

  it('bring a body into canonical form', () => {
    const o = {
      metadata: { creationTimestamp: '2026-01-01T12:00:00.9+01:00', labels: null },
      spec: {
        containers: [
          { name: 'c', resources: { limits: { cpu: 0.5, memory: '1024Ki' } }, args: null, command: [null] },
        ],
        nodeSelector: { a: null },
      },
    };
    const before = structuredClone(o);
    expect(checkFields(o, pods.schema)).toEqual({ unknown: [] });
    expect(o).toEqual(before);
    expect(decode(o, pods.schema, 'x')).toEqual([]);
    expect(o).toEqual({
      metadata: { creationTimestamp: '2026-01-01T11:00:00Z' },
      spec: {
        containers: [{ name: 'c', resources: { limits: { cpu: '500m', memory: '1Mi' } }, command: [''] }],
        nodeSelector: { a: '' },
      },
    });
    const lease = { spec: { renewTime: '2026-01-01T12:00:00.9+01:00' } };
    decode(lease, leases.schema, 'x');
    expect(lease.spec.renewTime).toBe('2026-01-01T11:00:00.900000Z');
  });
});

describe('pods, as kubectl shows them', () => {
  const running = { running: { startedAt: ago(60) } };
  const ready = { type: 'Ready', status: 'True' };
  it.each<[string, Pod, unknown[]]>([
    ['pending', pod({ status: { phase: 'Pending' } }), ['x', '0/1', 'Pending', '0', '5m']],
    [
      'running',
      pod({ status: { containerStatuses: [status({ ready: true, state: running })] } }),
      ['x', '1/1', 'Running', '0', '5m'],
    ],
    [
      'image',
      pod({
        status: {
          phase: 'Pending',
          containerStatuses: [status({ state: { waiting: { reason: 'ErrImagePull' } } })],
        },
      }),
      ['x', '0/1', 'ErrImagePull', '0', '5m'],
    ],
    [
      'crash loop',
      pod({
        status: {
          containerStatuses: [
            status({
              restartCount: 3,
              state: { waiting: { reason: 'CrashLoopBackOff' } },
              lastState: { terminated: { exitCode: 1, finishedAt: ago(130) } },
            }),
          ],
        },
      }),
      ['x', '0/1', 'CrashLoopBackOff', '3 (2m10s ago)', '5m'],
    ],
    [
      'completed',
      pod({
        status: {
          phase: 'Succeeded',
          containerStatuses: [status({ state: { terminated: { exitCode: 0, reason: 'Completed' } } })],
        },
      }),
      ['x', '0/1', 'Completed', '0', '5m'],
    ],
    [
      'exit code',
      pod({
        status: { phase: 'Failed', containerStatuses: [status({ state: { terminated: { exitCode: 7 } } })] },
      }),
      ['x', '0/1', 'ExitCode:7', '0', '5m'],
    ],
    [
      'signal',
      pod({
        status: {
          phase: 'Failed',
          containerStatuses: [status({ state: { terminated: { exitCode: 137, signal: 9 } } })],
        },
      }),
      ['x', '0/1', 'Signal:9', '0', '5m'],
    ],
    [
      'terminating',
      pod({
        metadata: { deletionTimestamp: ago(1) },
        status: { containerStatuses: [status({ ready: true, state: running })] },
      }),
      ['x', '1/1', 'Terminating', '0', '5m'],
    ],
    [
      'node lost',
      pod({ metadata: { deletionTimestamp: ago(1) }, status: { reason: 'NodeLost' } }),
      ['x', '0/1', 'Unknown', '0', '5m'],
    ],
    ['evicted', pod({ status: { phase: 'Failed', reason: 'Evicted' } }), ['x', '0/1', 'Evicted', '0', '5m']],
    [
      'gated',
      pod({
        status: {
          phase: 'Pending',
          conditions: [{ type: 'PodScheduled', status: 'False', reason: 'SchedulingGated' }],
        },
      }),
      ['x', '0/1', 'SchedulingGated', '0', '5m'],
    ],
    [
      'first init running',
      pod({
        spec: { initContainers: [{ name: 'i1' }, { name: 'i2' }] },
        status: {
          phase: 'Pending',
          initContainerStatuses: [
            status({ name: 'i1', state: running }),
            status({ name: 'i2', state: { waiting: { reason: 'PodInitializing' } } }),
          ],
        },
      }),
      ['x', '0/1', 'Init:0/2', '0', '5m'],
    ],
    [
      'second init crashing',
      pod({
        spec: { initContainers: [{ name: 'i1' }, { name: 'i2' }] },
        status: {
          phase: 'Pending',
          initContainerStatuses: [
            status({ name: 'i1', state: { terminated: { exitCode: 0 } } }),
            status({ name: 'i2', restartCount: 2, state: { waiting: { reason: 'CrashLoopBackOff' } } }),
          ],
        },
      }),
      ['x', '0/1', 'Init:CrashLoopBackOff', '2', '5m'],
    ],
    [
      'init failed',
      pod({
        spec: { initContainers: [{ name: 'i1' }] },
        status: {
          phase: 'Failed',
          initContainerStatuses: [status({ name: 'i1', state: { terminated: { exitCode: 3 } } })],
        },
      }),
      ['x', '0/1', 'Init:ExitCode:3', '0', '5m'],
    ],
    [
      'sidecar',
      pod({
        spec: { initContainers: [{ name: 's', restartPolicy: 'Always' }] },
        status: {
          conditions: [{ type: 'Initialized', status: 'True' }],
          initContainerStatuses: [
            status({ name: 's', ready: true, started: true, restartCount: 1, state: running }),
          ],
          containerStatuses: [status({ ready: true, state: running })],
        },
      }),
      ['x', '2/2', 'Running', '1', '5m'],
    ],
    [
      'one of two completed',
      pod({
        spec: { containers: [{ name: 'a' }, { name: 'b' }] },
        status: {
          conditions: [ready],
          containerStatuses: [
            status({ name: 'a', state: { terminated: { exitCode: 0, reason: 'Completed' } } }),
            status({ name: 'b', ready: true, state: running }),
          ],
        },
      }),
      ['x', '1/2', 'Running', '0', '5m'],
    ],
  ])('%s', (_, o, cells) => {
    expect(row(pods, o)).toEqual(cells);
  });

  it('wide', () => {
    const o = pod({
      spec: { nodeName: 'pi1', readinessGates: [{ conditionType: 'a' }, { conditionType: 'b' }] },
      status: { podIP: '10.0.0.1', conditions: [{ type: 'a', status: 'True' }] },
    });
    expect(row(pods, o, true).slice(5)).toEqual(['10.0.0.1', 'pi1', '<none>', '1/2']);
    expect(row(pods, pod({}), true).slice(5)).toEqual(['<none>', '<none>', '<none>', '<none>']);
  });
});

describe('other tables', () => {
  it('show what kubectl users know', () => {
    const node = {
      metadata: { ...meta, labels: { 'node-role.kubernetes.io/edge': '', 'node-role.kubernetes.io/a': '' } },
      spec: { unschedulable: true },
      status: {
        conditions: [{ type: 'Ready', status: 'Unknown' }],
        addresses: [{ type: 'InternalIP', address: '10.0.0.2' }],
        nodeInfo: {
          kubeletVersion: 'v1',
          osImage: 'Debian',
          kernelVersion: '6',
          containerRuntimeVersion: 'x://1',
        },
      },
    };
    expect(row(nodes, node, true)).toEqual([
      'x',
      'NotReady,SchedulingDisabled',
      'a,edge',
      '5m',
      'v1',
      '10.0.0.2',
      '<none>',
      'Debian',
      '6',
      'x://1',
    ]);
    expect(row(nodes, { metadata: meta })).toEqual(['x', 'Unknown', '<none>', '5m', '']);
    expect(row(configMaps, { metadata: meta, data: { a: '' }, binaryData: { b: '' } })).toEqual([
      'x',
      2,
      '5m',
    ]);
    expect(row(namespaces, { metadata: meta, status: { phase: 'Active' } })).toEqual(['x', 'Active', '5m']);
    const d = {
      metadata: meta,
      spec: {
        replicas: 3,
        selector: { matchLabels: { b: '2', a: '1' } },
        template: { spec: { containers: [{ name: 'c', image: 'i' }] } },
      },
      status: { readyReplicas: 1, updatedReplicas: 2, availableReplicas: 1, replicas: 3 },
    };
    expect(row(deployments, d, true)).toEqual(['x', '1/3', 2, 1, '5m', 'c', 'i', 'a=1,b=2']);
    expect(row(replicaSets, d)).toEqual(['x', 3, 3, 1, '5m']);
    const e = {
      metadata: meta,
      type: 'Warning',
      reason: 'BackOff',
      involvedObject: { kind: 'Pod', name: 'p' },
      message: 'm\n',
      lastTimestamp: ago(10),
      firstTimestamp: ago(100),
      count: 4,
      source: { component: 'kubelet', host: 'pi1' },
    };
    expect(row(events, e)).toEqual(['10s', 'Warning', 'BackOff', 'pod/p', 'm']);
    expect(row(events, e, true)).toEqual([
      '10s',
      'Warning',
      'BackOff',
      'pod/p',
      '',
      'kubelet, pi1',
      'm',
      '100s',
      4,
      'x',
    ]);
  });
});

describe('defaults', () => {
  it('of a pod', () => {
    const o: AnyObject = {
      spec: {
        containers: [
          {
            name: 'a',
            image: 'busybox',
            resources: { limits: { cpu: '1' } },
            ports: [{ containerPort: 80 }],
            livenessProbe: { httpGet: { port: 1 } },
          },
          { name: 'b', image: 'r:5000/busybox:1.2' },
          { name: 'c', image: 'busybox@sha256:00' },
          { name: 'd', image: 'r:5000/busybox' },
        ],
        volumes: [{ name: 'v' }, { name: 's', secret: { secretName: 's' } }],
      },
    };
    (pods as unknown as Kind).setDefaults?.(o);
    const spec = o['spec'] as { containers: Record<string, unknown>[]; volumes: unknown[] };
    expect(spec).toMatchObject({
      restartPolicy: 'Always',
      dnsPolicy: 'ClusterFirst',
      schedulerName: 'default-scheduler',
      terminationGracePeriodSeconds: 30,
      enableServiceLinks: true,
      securityContext: {},
      volumes: [
        { name: 'v', emptyDir: {} },
        { name: 's', secret: { secretName: 's', defaultMode: 420 } },
      ],
    });
    expect(spec.containers.map((c) => c['imagePullPolicy'])).toEqual([
      'Always',
      'IfNotPresent',
      'IfNotPresent',
      'Always',
    ]);
    expect(spec.containers[0]).toMatchObject({
      resources: { limits: { cpu: '1' }, requests: { cpu: '1' } },
      ports: [{ containerPort: 80, protocol: 'TCP' }],
      livenessProbe: {
        httpGet: { port: 1, path: '/', scheme: 'HTTP' },
        timeoutSeconds: 1,
        periodSeconds: 10,
        successThreshold: 1,
        failureThreshold: 3,
      },
      terminationMessagePath: '/dev/termination-log',
      terminationMessagePolicy: 'File',
    });
    const again = structuredClone(o);
    (pods as unknown as Kind).setDefaults?.(o);
    expect(o).toEqual(again);
  });

  it('of a deployment', () => {
    const o: AnyObject = {};
    (deployments as unknown as Kind).setDefaults?.(o);
    expect(o['spec']).toMatchObject({
      replicas: 1,
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: '25%', maxSurge: '25%' } },
      revisionHistoryLimit: 10,
      progressDeadlineSeconds: 600,
    });
  });

  it('of a secret: stringData goes into data', () => {
    const o: AnyObject = { data: { a: 'AA==' }, stringData: { a: 'ü', __proto__x: '' } };
    (secrets as unknown as Kind).setDefaults?.(o);
    expect(o).toEqual({ type: 'Opaque', data: { a: 'w7w=', __proto__x: '' } });
  });
});

describe('validation of pods, in Kubernetes’ words', () => {
  const container = (over: object) => ({ spec: { containers: [{ name: 'c', image: 'i', ...over }] } });
  const specWith = (over: object) => ({ spec: { containers: [{ name: 'c', image: 'i' }], ...over } });
  it.each<[object, string[]]>([
    [container({}), []],
    [
      container({ image: ' i' }),
      ['spec.containers[0].image: Invalid value: " i": must not have leading or trailing whitespace'],
    ],
    [
      container({ imagePullPolicy: 'Sometimes' }),
      [
        'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"',
      ],
    ],
    [container({ ports: [{}] }), ['spec.containers[0].ports[0].containerPort: Required value']],
    [
      container({ ports: [{ containerPort: 70000 }] }),
      [
        'spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive',
      ],
    ],
    [
      container({ volumeMounts: [{ name: 'v', mountPath: '/x' }] }),
      ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
    ],
    [
      container({ resources: { limits: { cpu: '1' }, requests: { cpu: '2' } } }),
      [
        'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
      ],
    ],
    [
      container({ resources: { limits: { gpu: '1' } } }),
      [
        'spec.containers[0].resources.limits: Invalid value: "gpu": must be a standard resource for containers',
        'spec.containers[0].resources.requests: Invalid value: "gpu": must be a standard resource for containers',
      ],
    ],
    [
      container({
        env: [{ name: 'A', value: 'x', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
      }),
      [
        'spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty',
      ],
    ],
    [container({ env: [{ name: 'A', valueFrom: { fieldRef: { fieldPath: "metadata.labels['a']" } } }] }), []],
    [
      container({ livenessProbe: {} }),
      ['spec.containers[0].livenessProbe: Required value: must specify a handler type'],
    ],
    [
      container({ livenessProbe: { tcpSocket: { port: 1 }, successThreshold: 2 } }),
      ['spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1'],
    ],
    [
      specWith({ restartPolicy: 'Maybe' }),
      ['spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "Never", "OnFailure"'],
    ],
    [
      specWith({ dnsPolicy: 'None' }),
      [
        'spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None',
      ],
    ],
    [
      specWith({ volumes: [{ name: 'v' }, { name: 'v', hostPath: { path: '../x' } }] }),
      [
        'spec.volumes[1].name: Duplicate value: "v"',
        'spec.volumes[1].hostPath.path: Invalid value: "../x": must not contain \'..\'',
      ],
    ],
    [
      specWith({ volumes: [{ name: 'v', emptyDir: {}, hostPath: { path: '/' } }] }),
      ['spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type'],
    ],
    [
      specWith({ tolerations: [{ value: 'x' }] }),
      [
        'spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"',
      ],
    ],
    [
      specWith({ initContainers: [{ name: 'c', image: 'i' }] }),
      ['spec.initContainers[0].name: Duplicate value: "c"'],
    ],
    [
      specWith({ activeDeadlineSeconds: 0 }),
      ['spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive'],
    ],
    [
      specWith({
        securityContext: {
          sysctls: ['foo-', 'kernel.shmmax', 'bar..', 'kernel.shmmax'].map((name) => ({ name, value: '1' })),
        },
      }),
      [
        expect.stringContaining(
          'spec.securityContext.sysctls[0].name: Invalid value: "foo-": must',
        ) as unknown as string,
        expect.stringContaining(
          'spec.securityContext.sysctls[2].name: Invalid value: "bar..": must',
        ) as unknown as string,
        'spec.securityContext.sysctls[3].name: Duplicate value: "kernel.shmmax"',
      ],
    ],
    [
      specWith({
        containers: [
          {
            name: 'c',
            image: 'x',
            restartPolicyRules: [{ action: 'Stop', exitCodes: { operator: 'Is', values: [1] } }],
          },
        ],
      }),
      [
        'spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used',
        'spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Stop": supported values: "Restart"',
        'spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Is": supported values: "In", "NotIn"',
      ],
    ],
    [
      specWith({ nodeSelector: { 'a b': 'c' } }),
      [
        expect.stringMatching(
          /^spec.nodeSelector: Invalid value: "a b": name part must consist of/,
        ) as unknown as string,
      ],
    ],
  ])('%j', (o, errors) => {
    expect(check(pods, o)).toEqual(errors);
  });

  it('of updates', () => {
    const update = (change: (spec: NonNullable<Pod['spec']>) => void, before: object = {}) => {
      const old = specWith({ tolerations: [{ key: 'k', operator: 'Exists' }], ...before });
      check(pods, old);
      const o = structuredClone(old) as unknown as Pod;
      change(o.spec!);
      return pods.validateUpdate!(o, old as unknown as Pod).map((e) => `${e.field}: ${e.message}`);
    };
    expect(
      update((s) => {
        s.containers[0]!.image = 'new';
      }),
    ).toEqual([]);
    expect(
      update((s) => {
        s.tolerations!.push({ key: 'l', operator: 'Exists' });
      }),
    ).toEqual([]);
    expect(
      update((s) => {
        s.tolerations = [];
      }),
    ).toEqual([
      'spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds',
    ]);
    expect(
      update((s) => {
        s.activeDeadlineSeconds = 5;
      }),
    ).toEqual([]);
    expect(
      update(
        (s) => {
          s.activeDeadlineSeconds = 9;
        },
        { activeDeadlineSeconds: 5 },
      ),
    ).toEqual(['spec.activeDeadlineSeconds: Invalid value: 9: must be less than or equal to previous value']);
    expect(
      update((s) => {
        s.containers.push({ name: 'd', image: 'i' });
      }),
    ).toEqual(['spec.containers: Forbidden: pod updates may not add or remove containers']);
    const [forbidden] = update((s) => {
      s.nodeName = 'n';
      s.containers[0]!.command = ['x'];
    });
    expect(forbidden).toMatch(
      /^spec: Forbidden: pod updates may not change fields other than `spec.containers\[\*\].image`,/,
    );
    expect(forbidden).toContain('spec.nodeName: undefined -> "n"');
    expect(forbidden).toContain('spec.containers[0].command');
  });
});

describe('validation of the others', () => {
  const template = (labels: object, spec: object = {}) => ({
    metadata: { labels },
    spec: { containers: [{ name: 'c', image: 'i' }], ...spec },
  });
  const deployment = (over: object) => ({
    spec: { selector: { matchLabels: { a: 'b' } }, template: template({ a: 'b' }), ...over },
  });
  it.each<[unknown, object, string[]]>([
    [deployments, deployment({}), []],
    [deployments, deployment({ selector: undefined }), ['spec.selector: Required value']],
    [
      deployments,
      deployment({ selector: {} }),
      ['spec.selector: Invalid value: {}: empty selector is invalid for deployment'],
    ],
    [
      deployments,
      deployment({ template: template({ a: 'c' }) }),
      [
        'spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`',
      ],
    ],
    [
      deployments,
      deployment({ template: template({ a: 'b' }, { restartPolicy: 'Never' }) }),
      ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'],
    ],
    [
      deployments,
      deployment({ replicas: -1 }),
      ['spec.replicas: Invalid value: -1: must be greater than or equal to 0'],
    ],
    [
      deployments,
      deployment({ strategy: { rollingUpdate: { maxUnavailable: 0, maxSurge: '0%' } } }),
      ['spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0'],
    ],
    [
      deployments,
      deployment({ strategy: { type: 'Recreate', rollingUpdate: {} } }),
      ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    ],
    [
      configMaps,
      { data: { 'a b': '' } },
      [
        expect.stringMatching(
          /^data\[a b\]: Invalid value: "a b": a valid config key must consist/,
        ) as unknown as string,
      ],
    ],
    [
      configMaps,
      { data: { a: '' }, binaryData: { a: '' } },
      ['data[a]: Invalid value: "a": duplicate of key present in binaryData'],
    ],
    [secrets, { type: 'kubernetes.io/tls', data: { 'tls.crt': '' } }, ['data[tls.key]: Required value']],
    [
      secrets,
      { type: 'kubernetes.io/dockerconfigjson', stringData: { '.dockerconfigjson': 'hunter2' } },
      ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": is not valid JSON'],
    ],
    [runtimeClasses, {}, ['handler: Required value']],
    [
      events,
      { metadata: { namespace: 'a' }, involvedObject: { namespace: 'b' } },
      ['involvedObject.namespace: Invalid value: "b": does not match event.namespace'],
    ],
    [
      nodes,
      { spec: { taints: [{ key: 'a', effect: 'Never' }] } },
      [
        'spec.taints[0].effect: Unsupported value: "Never": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"',
      ],
    ],
  ])('%#', (kind, o, errors) => {
    expect(check(kind, o)).toEqual(errors);
  });

  it('what is immutable stays', () => {
    const texts = (kind: unknown, o: object, old: object) =>
      (kind as Kind).validateUpdate!(o as AnyObject, old as AnyObject).map((e) => `${e.field}: ${e.message}`);
    expect(texts(configMaps, { data: { a: '2' } }, { data: { a: '1' }, immutable: true })).toEqual([
      'immutable: Forbidden: field is immutable when `immutable` is set',
      'data: Forbidden: field is immutable when `immutable` is set',
    ]);
    expect(texts(secrets, { type: 'b' }, { type: 'a' })).toEqual([
      'type: Invalid value: "b": field is immutable',
    ]);
    expect(
      texts(
        deployments,
        { spec: { selector: { matchLabels: { a: 'c' } } } },
        { spec: { selector: { matchLabels: { a: 'b' } } } },
      ),
    ).toEqual(['spec.selector: Invalid value: {"matchLabels":{"a":"c"}}: field is immutable']);
    expect(texts(runtimeClasses, { handler: 'b' }, { handler: 'a' })).toEqual([
      'handler: Invalid value: "b": field is immutable',
    ]);
  });
});

describe('QoS class', () => {
  const of = (...resources: object[]) =>
    qosClassOf({ spec: { containers: resources.map((r) => ({ resources: r })) } });
  it('is computed as in Kubernetes', () => {
    const both = { cpu: '1', memory: '1Gi' };
    expect(of({})).toBe('BestEffort');
    expect(of({ limits: { 'x.io/y': '1' } })).toBe('BestEffort');
    expect(of({ requests: { cpu: '1' } })).toBe('Burstable');
    expect(of({ limits: both })).toBe('Guaranteed');
    expect(of({ limits: both, requests: { cpu: '1000m' } })).toBe('Guaranteed');
    expect(of({ limits: both }, {})).toBe('Burstable');
    expect(of({ limits: both, requests: { cpu: '500m' } })).toBe('Burstable');
    expect(of({ limits: { cpu: '1' } })).toBe('Burstable');
  });
});

describe('every declaration', () => {
  it.each((allKinds as readonly Kind[]).map((k) => [`${k.group}/${k.version} ${k.kind}`, k] as const))(
    '%s names its own definition',
    (_name, { schema, group, version, kind }) => {
      // Written out in quotes, so that scripts/schemas.mjs finds it.
      expect(fieldDefinitions()[schema]?.['x-kubernetes-group-version-kind']).toEqual([
        { group, version, kind },
      ]);
    },
  );
});
