import fc from 'fast-check';
import type { Node, Pod, PodSpec } from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import { describe, expect, it } from 'vitest';
import { aNode, aPod } from '../testing/objects.js';
import { decide } from './decide.js';
import { FILTERS, objection, wishesOf } from './filters.js';
import { Ledger, podInfo } from './snapshot.js';

let uids = 0;
const info = (pod: Pod, rc?: RuntimeClass) =>
  podInfo({ ...pod, metadata: { ...pod.metadata, uid: pod.metadata?.uid ?? `uid-${++uids}` } }, rc);

function ledgerOf(nodes: Node[], placed: [Pod, string][] = []): Ledger {
  const ledger = new Ledger();
  for (const n of nodes) ledger.setNode(n.metadata!.name!, n);
  for (const [pod, node] of placed) ledger.place(info(pod), node);
  return ledger;
}

function outcome(pod: Pod, nodes: Node[], placed: [Pod, string][] = [], rc?: RuntimeClass): string {
  const d = decide(info(pod, rc), rc, ledgerOf(nodes, placed));
  return 'node' in d ? d.node : d.refusal.message;
}

const spec = (s: Partial<PodSpec>) => aPod('p', s);

describe('what keeps a pod from a node', () => {
  const cases: [string, Pod, Node[], string, [Pod, string][]?][] = [
    ['no nodes', aPod('p'), [], 'no nodes available to schedule pods'],
    [
      'cordoned',
      aPod('p'),
      [aNode('a', (n) => Object.assign(n.spec, { unschedulable: true }))],
      '0/1 nodes are available: 1 node(s) were unschedulable.',
    ],
    [
      'not ready',
      aPod('p'),
      [aNode('a', (n) => Object.assign(n.status, { conditions: [{ type: 'Ready', status: 'False' }] }))],
      '0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.',
    ],
    [
      'link lost',
      aPod('p'),
      [aNode('a', (n) => Object.assign(n.status, { conditions: [{ type: 'Ready', status: 'Unknown' }] }))],
      '0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }.',
    ],
    [
      'never reported',
      aPod('p'),
      [aNode('a', (n) => Object.assign(n.status, { conditions: [] }))],
      '0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.',
    ],
    [
      'taint',
      aPod('p'),
      [
        aNode('a', (n) =>
          Object.assign(n.spec, { taints: [{ key: 'k', value: 'v', effect: 'NoSchedule' }] }),
        ),
      ],
      '0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.',
    ],
    [
      'taint tolerated',
      spec({ tolerations: [{ key: 'k', operator: 'Equal', value: 'v' }] }),
      [aNode('a', (n) => Object.assign(n.spec, { taints: [{ key: 'k', value: 'v', effect: 'NoExecute' }] }))],
      'a',
    ],
    [
      'taint with other value',
      spec({ tolerations: [{ key: 'k', value: 'w' }] }),
      [aNode('a', (n) => Object.assign(n.spec, { taints: [{ key: 'k', value: 'v', effect: 'NoExecute' }] }))],
      '0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.',
    ],
    [
      'node selector',
      spec({ nodeSelector: { disk: 'ssd' } }),
      [aNode('a'), aNode('b')],
      "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
    ],
    [
      'node affinity',
      spec({
        affinity: {
          nodeAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: {
              nodeSelectorTerms: [
                { matchExpressions: [{ key: 'cores', operator: 'Gt', values: ['2'] }] },
                { matchFields: [{ key: 'metadata.name', operator: 'In', values: ['c'] }] },
                {},
              ],
            },
          },
        },
      }),
      [
        aNode('a', (n) => Object.assign(n.metadata!.labels!, { cores: '2' })),
        aNode('b', (n) => Object.assign(n.metadata!.labels!, { cores: '12' })),
      ],
      'b',
    ],
    [
      'cpu and memory',
      aPod('p', {}, { cpu: '5', memory: '5Gi' }),
      [
        aNode('a'),
        aNode('b', (n) => Object.assign(n.status, { allocatable: { cpu: '8', memory: '1Gi', pods: '9' } })),
      ],
      '0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.',
    ],
    [
      'extended resource nobody has',
      aPod('p', {}, { 'example.com/tpu': '1' }),
      [aNode('a')],
      '0/1 nodes are available: 1 Insufficient example.com/tpu.',
    ],
    [
      'number of pods',
      aPod('p'),
      [aNode('a', (n) => Object.assign(n.status, { allocatable: { pods: '1' } }))],
      '0/1 nodes are available: 1 Too many pods.',
      [[aPod('q'), 'a']],
    ],
    [
      'memory taken by others',
      aPod('p', {}, { memory: '2Gi' }),
      [aNode('a')],
      '0/1 nodes are available: 1 Insufficient memory.',
      [[aPod('q', {}, { memory: '2500Mi' }), 'a']],
    ],
    [
      'host port',
      spec({ containers: [{ name: 'c', ports: [{ containerPort: 80, hostPort: 80 }] }] }),
      [aNode('a')],
      "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
      [
        [
          aPod('q', {
            containers: [{ name: 'c', ports: [{ containerPort: 1, hostPort: 80, hostIP: '10.0.0.1' }] }],
          }),
          'a',
        ],
      ],
    ],
    [
      'host port, other protocol or address',
      spec({ containers: [{ name: 'c', ports: [{ containerPort: 80, hostPort: 80, hostIP: '10.0.0.2' }] }] }),
      [aNode('a')],
      'a',
      [
        [
          aPod('q', {
            containers: [{ name: 'c', ports: [{ containerPort: 1, hostPort: 80, hostIP: '10.0.0.1' }] }],
          }),
          'a',
        ],
        [
          aPod('r', {
            containers: [{ name: 'c', ports: [{ containerPort: 1, hostPort: 80, protocol: 'UDP' }] }],
          }),
          'a',
        ],
      ],
    ],
    [
      'host network makes container ports host ports',
      spec({ hostNetwork: true, containers: [{ name: 'c', ports: [{ containerPort: 80 }] }] }),
      [aNode('a')],
      "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
      [[aPod('q', { hostNetwork: true, containers: [{ name: 'c', ports: [{ containerPort: 80 }] }] }), 'a']],
    ],
    [
      'claims of devices',
      spec({ resourceClaims: [{ name: 'gpu' }] }),
      [aNode('a')],
      '0/1 nodes are available: 1 cannot allocate all claims.',
    ],
    [
      'no runtime at all',
      aPod('p'),
      [aNode('a', (n) => Object.assign(n.metadata!, { labels: {} }))],
      "0/1 nodes are available: 1 node(s) didn't have any runtime handler.",
    ],
    [
      'missing RuntimeClass',
      spec({ runtimeClassName: 'gvisor' }),
      [aNode('a'), aNode('b')],
      '0/2 nodes are available: RuntimeClass.node.k8s.io "gvisor" not found.',
    ],
    [
      'anti-affinity to others of its kind',
      {
        ...spec({
          affinity: {
            podAntiAffinity: {
              requiredDuringSchedulingIgnoredDuringExecution: [
                { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: { app: 'web' } } },
              ],
            },
          },
        }),
      },
      [aNode('a')],
      "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
      [[{ ...aPod('q'), metadata: { namespace: 'default', name: 'q', labels: { app: 'web' } } }, 'a']],
    ],
    [
      'affinity to nobody there',
      spec({
        affinity: {
          podAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: [
              { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: { app: 'db' } } },
            ],
          },
        },
      }),
      [aNode('a')],
      "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
    ],
    [
      'several reasons',
      aPod('p', { nodeSelector: { here: 'yes' } }, { memory: '5Gi' }),
      [
        aNode('a'),
        aNode('b', (n) => Object.assign(n.metadata!.labels!, { here: 'yes' })),
        aNode('c', (n) => Object.assign(n.spec, { unschedulable: true })),
      ],
      "0/3 nodes are available: 1 Insufficient memory, 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable.",
    ],
  ];
  it.each(cases)('%s', (_, pod, nodes, expected, placed) => {
    expect(outcome(pod, nodes, placed)).toBe(expected);
  });

  it('RuntimeClass: handler, scheduling and overhead', () => {
    const wasm: RuntimeClass = {
      metadata: { name: 'wasm' },
      handler: 'wasmtime',
      overhead: { podFixed: { memory: '3Gi' } },
      scheduling: { nodeSelector: { pool: 'edge' }, tolerations: [{ key: 'edge', operator: 'Exists' }] },
    };
    const pod = aPod('p', { runtimeClassName: 'wasm' }, { memory: '2Gi' });
    const edge = (name: string, change: (n: Node) => void = () => {}) =>
      aNode(name, (n) => {
        Object.assign(n.metadata!.labels!, { pool: 'edge', 'coxswain.dev/runtime.wasmtime': 'true' });
        Object.assign(n.spec, { taints: [{ key: 'edge', effect: 'NoSchedule' }] });
        change(n);
      });
    const big = { cpu: '1', memory: '5Gi', pods: '9' };
    const nodes = [
      aNode('a'),
      edge('b', (n) => Object.assign(n.metadata!.labels!, { 'coxswain.dev/runtime.wasmtime': 'false' })),
      edge('c'),
    ];
    expect(outcome(pod, nodes, [], wasm)).toBe(
      '0/3 nodes are available: 1 Insufficient memory, 1 node(s) didn\'t have runtime handler "wasmtime", ' +
        "1 node(s) didn't match Pod's node affinity/selector.",
    );
    const d = edge('d', (n) => Object.assign(n.status!, { allocatable: big }));
    expect(outcome(pod, [...nodes, d], [], wasm)).toBe('d');
  });

  it('RuntimeClass: a handler of the container runtime goes wherever there is one, as in Kubernetes', () => {
    const kata: RuntimeClass = { metadata: { name: 'vm' }, handler: 'kata' };
    const pod = aPod('p', { runtimeClassName: 'vm' });
    const only = (handler: string) =>
      aNode('a', (n) =>
        Object.assign(n.metadata!, { labels: { [`coxswain.dev/runtime.${handler}`]: 'true' } }),
      );
    expect(outcome(pod, [only('oci')], [], kata)).toBe('a');
    expect(outcome(pod, [only('wasm')], [], kata)).toBe(
      '0/1 nodes are available: 1 node(s) didn\'t have runtime handler "oci".',
    );
  });

  it('requests: containers add up, init containers count by the largest beside the sidecars before it', () => {
    const r = (cpu: string) => ({ resources: { requests: { cpu } } });
    const pod = aPod('p', {
      overhead: { cpu: '10m' },
      initContainers: [
        { name: 'i0', ...r('900m') },
        { name: 's', restartPolicy: 'Always', ...r('200m') } as never,
        { name: 'i1', ...r('800m') },
      ],
      containers: [
        { name: 'a', ...r('300m') },
        { name: 'b', ...r('400m') },
      ],
    });
    expect(info(pod).requests['cpu']).toBe(1010);
    expect(info({ ...pod, spec: { ...pod.spec!, initContainers: [] } }).requests['cpu']).toBe(710);
  });

  it('a pod that promises its memory may go where memory is short, a best-effort one may not', () => {
    const tight = aNode('a', (n) =>
      Object.assign(n.status, {
        conditions: [
          { type: 'Ready', status: 'True' },
          { type: 'MemoryPressure', status: 'True' },
        ],
      }),
    );
    expect(outcome(aPod('p'), [tight])).toContain('node.kubernetes.io/memory-pressure');
    expect(outcome(aPod('p', {}, { memory: '1Mi' }), [tight])).toBe('a');
  });

  it('respects the anti-affinity of pods already there', () => {
    const hermit = spec({
      affinity: {
        podAntiAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: [
            { topologyKey: 'kubernetes.io/hostname', labelSelector: {} },
          ],
        },
      },
    });
    expect(outcome(aPod('p'), [aNode('a')], [[hermit, 'a']])).toBe(
      "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
    expect(outcome(aPod('p'), [aNode('a'), aNode('b')], [[hermit, 'a']])).toBe('b');
  });

  it('spreads over topology domains as constraints say', () => {
    const zone = (name: string, z?: string) =>
      aNode(name, (n) => z && Object.assign(n.metadata!.labels!, { zone: z }));
    const web = (name: string): Pod => ({
      ...aPod(name, {
        topologySpreadConstraints: [
          {
            maxSkew: 1,
            topologyKey: 'zone',
            whenUnsatisfiable: 'DoNotSchedule',
            labelSelector: { matchLabels: { app: 'w' } },
          },
        ],
      }),
      metadata: { namespace: 'default', name, labels: { app: 'w' } },
    });
    const full = (name: string, z: string) => {
      const n = zone(name, z);
      return { ...n, spec: { unschedulable: true } };
    };
    expect(outcome(web('p'), [zone('a', '1'), zone('b', '2')], [[web('q'), 'a']])).toBe('b');
    expect(outcome(web('p'), [zone('a', '1'), full('b', '2'), zone('c')], [[web('q'), 'a']])).toBe(
      "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, " +
        "1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable.",
    );
  });
});

describe('which node is chosen', () => {
  const owned = (name: string): Pod => ({
    ...aPod(name, {}, { cpu: '100m' }),
    metadata: {
      namespace: 'default',
      name,
      ownerReferences: [
        { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'r', uid: 'r1', controller: true },
      ],
    },
  });

  it('the one with the most room', () => {
    expect(outcome(aPod('p'), [aNode('a'), aNode('b')], [[aPod('q', {}, { cpu: '2' }), 'a']])).toBe('b');
  });

  it('replicas go to different nodes even when one has more room', () => {
    expect(
      outcome(
        owned('p'),
        [aNode('a'), aNode('b')],
        [
          [owned('q'), 'a'],
          [aPod('x', {}, { cpu: '2', memory: '1Gi' }), 'b'],
        ],
      ),
    ).toBe('b');
  });

  it('the preferred one', () => {
    const pod = spec({
      affinity: {
        nodeAffinity: {
          preferredDuringSchedulingIgnoredDuringExecution: [
            { weight: 10, preference: { matchExpressions: [{ key: 'ssd', operator: 'Exists' }] } },
          ],
        },
      },
    });
    const nodes = ['a', 'b', 'c'].map((name) =>
      aNode(name, (n) => name === 'b' && Object.assign(n.metadata!.labels!, { ssd: '' })),
    );
    expect(outcome(pod, nodes)).toBe('b');
  });

  it('not one that would rather be left alone', () => {
    const shy = aNode('a', (n) =>
      Object.assign(n.spec, { taints: [{ key: 'k', effect: 'PreferNoSchedule' }] }),
    );
    expect(outcome(aPod('p'), [shy, aNode('b')], [[aPod('q', {}, { cpu: '2' }), 'b']])).toBe('b');
    expect(outcome(aPod('p'), [shy])).toBe('a');
  });
});

describe('properties', () => {
  const arbNode = fc.record({
    cpu: fc.integer({ min: 0, max: 4000 }),
    memory: fc.integer({ min: 0, max: 4096 }),
    pods: fc.integer({ min: 0, max: 6 }),
    zone: fc.constantFrom('x', 'y', undefined),
    taint: fc.constantFrom(undefined, 'NoSchedule', 'NoExecute', 'PreferNoSchedule'),
    cordoned: fc.boolean(),
    ready: fc.constantFrom('True', 'True', 'True', 'False', 'Unknown'),
    handler: fc.constantFrom('oci', 'wasm', undefined),
  });
  const arbPod = fc.record({
    cpu: fc.integer({ min: 0, max: 1500 }),
    memory: fc.integer({ min: 0, max: 1500 }),
    port: fc.constantFrom(0, 0, 80, 81),
    zone: fc.constantFrom(undefined, undefined, 'x', 'y'),
    tolerates: fc.boolean(),
    apart: fc.boolean(),
    owner: fc.constantFrom('', 'o1', 'o2'),
  });
  type N = typeof arbNode extends fc.Arbitrary<infer T> ? T : never;
  type P = typeof arbPod extends fc.Arbitrary<infer T> ? T : never;

  const toNode = (n: N, i: number) =>
    aNode(`n${i}`, (o) => {
      Object.assign(o.metadata!, {
        labels: {
          'kubernetes.io/hostname': `n${i}`,
          ...(n.zone ? { zone: n.zone } : {}),
          ...(n.handler ? { [`coxswain.dev/runtime.${n.handler}`]: 'true' } : {}),
        },
      });
      Object.assign(o.spec, {
        unschedulable: n.cordoned && i % 3 === 0,
        taints: n.taint ? [{ key: 't', effect: n.taint }] : [],
      });
      Object.assign(o.status, {
        allocatable: { cpu: `${n.cpu}m`, memory: `${n.memory}Mi`, pods: `${n.pods}` },
        conditions: [{ type: 'Ready', status: n.ready }],
      });
    });
  const toPod = (p: P, i: number): Pod => ({
    ...aPod(`p${i}`, {
      containers: [
        {
          name: 'c',
          resources: { requests: { cpu: `${p.cpu}m`, memory: `${p.memory}Mi` } },
          ports: p.port ? [{ containerPort: p.port, hostPort: p.port }] : [],
        },
      ],
      ...(p.zone ? { nodeSelector: { zone: p.zone } } : {}),
      tolerations: p.tolerates ? [{ key: 't', operator: 'Exists' }] : [],
      ...(p.apart
        ? {
            affinity: {
              podAntiAffinity: {
                requiredDuringSchedulingIgnoredDuringExecution: [
                  { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: { o: p.owner } } },
                ],
              },
            },
          }
        : {}),
    }),
    metadata: {
      namespace: 'default',
      name: `p${i}`,
      uid: `p${i}`,
      labels: { o: p.owner },
      ...(p.owner
        ? {
            ownerReferences: [
              { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: p.owner, uid: p.owner, controller: true },
            ],
          }
        : {}),
    },
  });
  const arbWorld = fc.record({
    nodes: fc.array(arbNode, { minLength: 1, maxLength: 8 }),
    pods: fc.array(arbPod, { maxLength: 25 }),
    turn: fc.nat(),
  });

  it('never overcommits; each chosen node passes every filter; refusals count every node; order does not matter', () => {
    fc.assert(
      fc.property(arbWorld, ({ nodes: ns, pods: ps, turn }) => {
        const nodes = ns.map(toNode);
        const turned = [
          ...nodes.slice(turn % nodes.length),
          ...nodes.slice(0, turn % nodes.length),
        ].reverse();
        const ledger = ledgerOf(nodes);
        const other = ledgerOf(turned);
        ps.map(toPod).forEach((p, i) => {
          const pod = info(p);
          const d = decide(pod, undefined, ledger);
          expect(decide(pod, undefined, other, i)).toEqual(d);
          const wishes = wishesOf(pod, undefined, ledger);
          if ('node' in d) {
            const node = ledger.nodes.get(d.node)!;
            for (const filter of Object.values(FILTERS)) expect(filter(wishes, node)).toBeUndefined();
            ledger.assume(pod, d.node);
            other.assume(pod, d.node);
          } else {
            const objections = [...ledger.nodes.values()].map((n) => objection(wishes, n)!.reasons);
            expect(objections.every((r) => r.length > 0)).toBe(true);
            const counted = [...d.refusal.counts.values()].reduce((a, b) => a + b, 0);
            expect(counted).toBe(objections.flat().length);
            const told = [...d.refusal.message.matchAll(/(?:: |, )(\d+) /g)].reduce(
              (a, m) => a + Number(m[1]),
              0,
            );
            expect(told).toBe(counted);
            expect(d.refusal.message.startsWith(`0/${nodes.length} nodes are available: `)).toBe(true);
          }
        });
        for (const n of ledger.nodes.values()) {
          let cpu = 0;
          let memory = 0;
          for (const p of n.pods.values()) {
            cpu += p.requests['cpu']!;
            memory += p.requests['memory']!;
          }
          expect(cpu).toBeLessThanOrEqual(n.pods.size ? n.allocatable['cpu']! : cpu);
          expect(memory).toBeLessThanOrEqual(n.allocatable['memory']!);
          expect(n.pods.size).toBeLessThanOrEqual(n.allocatable['pods']!);
          expect([n.requested['cpu'] ?? 0, n.requested['memory'] ?? 0]).toEqual([cpu, memory]);
          const taken = [...n.pods.values()].flatMap((p) => p.ports.map((x) => x.port));
          expect(new Set(taken).size).toBe(taken.length);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('the ledger forgets completely', () => {
    fc.assert(
      fc.property(fc.array(arbPod, { maxLength: 10 }), (ps) => {
        const ledger = ledgerOf([aNode('a'), aNode('b')]);
        const all = ps.map(toPod).map((p) => info(p));
        all.forEach((p, i) => void ledger.assume(p, i % 2 ? 'a' : 'b'));
        all.forEach((p, i) => void (i % 3 ? ledger.place(p, 'a') : ledger.forget(p.uid)));
        for (const p of all) ledger.remove(p.uid);
        for (const n of ledger.nodes.values()) {
          expect(Object.values(n.requested).every((v) => v === 0)).toBe(true);
          expect([n.pods.size, n.owners.size, n.portUsers.size]).toEqual([0, 0, 0]);
        }
        expect(ledger.antiAffine.size).toBe(0);
      }),
    );
  });
});
