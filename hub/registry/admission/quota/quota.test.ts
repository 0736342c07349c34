import fc from 'fast-check';
import type { Pod, ResourceQuota } from 'kubernetes-types/core/v1.js';
import { beforeEach, describe, expect, it } from 'vitest';
import { configMaps, pods, resourceQuotas, secrets, services } from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { isApiError } from '../../../../api/meta/errors.js';
import { formatQuantity } from '../../../../api/meta/quantity.js';
import { VirtualClock } from '../../../../api/testing/virtual-clock.js';
import { refusal, type TestRegistry, testRegistry } from '../../../testing/registry.js';
import { Ledger } from './ledger.js';
import { evaluatorOf } from './usage.js';

const K = (k: unknown) => k as Kind;
let clock: VirtualClock;
let r: TestRegistry;
beforeEach(async () => {
  clock = new VirtualClock({ seed: 1 });
  r = await testRegistry(clock);
});
const quota = (hard: object, more: object = {}, name = 'q') =>
  r.create(resourceQuotas, 'default', { metadata: { name }, spec: { hard, ...more } });
const pod = (name: string, resources: object = {}, spec: object = {}) => ({
  metadata: { name },
  spec: { containers: [{ name: 'a', image: 'i', resources }], ...spec },
});
const made = (name: string, resources?: object, spec?: object, over?: object) =>
  r.create<Pod>(pods, 'default', pod(name, resources, spec), over);
const used = (name = 'q') => r.registry.quota.statusOf('default').get(name)?.used;

describe('ResourceQuota', () => {
  const wrong: [spec: object, text: string][] = [
    [
      { hard: { disks: '1' } },
      'spec.hard[disks]: Invalid value: "disks": must be a standard resource type or fully qualified, spec.hard[disks]: Invalid value: "disks": must be a standard resource for quota',
    ],
    [
      { hard: { storage: '1' } },
      'spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota',
    ],
    [{ hard: { pods: '-1' } }, 'spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0'],
    [{ hard: { pods: '1500m' } }, 'spec.hard[pods]: Invalid value: "1500m": must be an integer'],
    [{ hard: {}, scopes: ['Foo'] }, 'spec.scopes: Invalid value: ["Foo"]: unsupported scope'],
    [
      { hard: { services: '1' }, scopes: ['Terminating'] },
      'spec.scopes: Invalid value: ["Terminating"]: unsupported scope applied to resource',
    ],
    [
      { hard: { cpu: '1' }, scopes: ['BestEffort'] },
      'spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource',
    ],
    [
      { hard: { pods: '1' }, scopes: ['BestEffort', 'NotBestEffort'] },
      'spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes',
    ],
    [
      { hard: {}, scopeSelector: { matchExpressions: [{ scopeName: 'PriorityClass', operator: 'In' }] } },
      "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
    ],
  ];
  it.each(wrong)('refuses %j', async ({ hard, ...more }: any, text) => {
    const said = text.includes(', spec') ? `[${text}]` : text;
    expect(await refusal(quota(hard, more))).toBe(`422 ResourceQuota "q" is invalid: ${said}`);
  });
});

describe('what a pod uses', () => {
  const usage = (spec: object, status: object = {}) =>
    Object.fromEntries(
      Object.entries(evaluatorOf(K(pods))!.usage({ spec, status, metadata: {} } as never, 0)).map(
        ([n, q]) => [n, formatQuantity(q)],
      ),
    );
  const c = (requests: object, limits: object = {}, more: object = {}) => ({
    name: 'a',
    resources: { requests, limits },
    ...more,
  });
  it('is what its containers ask for, or an init container alone, with the overhead of its runtime', () => {
    expect(
      usage({
        containers: [c({ cpu: '100m', memory: '1Gi' }, { cpu: '1' }), c({ cpu: '1' }, { cpu: '2' })],
        initContainers: [c({ memory: '2Gi' }), c({ cpu: '10m' }, {}, { restartPolicy: 'Always' })],
        overhead: { cpu: '5m', memory: '1Mi' },
      }),
    ).toEqual({
      'count/pods': '1',
      pods: '1',
      cpu: '1115m',
      'requests.cpu': '1115m',
      'limits.cpu': '3005m',
      memory: '2049Mi',
      'requests.memory': '2049Mi',
    });
  });
  it('names extended resources and huge pages by their requests', () => {
    expect(usage({ containers: [c({ 'a.b/gpu': '2', 'hugepages-2Mi': '4Mi' })] })).toMatchObject({
      'requests.a.b/gpu': '2',
      'hugepages-2Mi': '4Mi',
      'requests.hugepages-2Mi': '4Mi',
    });
  });
  it('is nothing but an object once it has ended', () => {
    expect(usage({ containers: [c({ cpu: '1' })] }, { phase: 'Succeeded' })).toEqual({ 'count/pods': '1' });
  });
});

describe('admission of ResourceQuota', () => {
  it('refuses what there is no room for, with the message of Kubernetes', async () => {
    await quota({ pods: '2', 'requests.cpu': '1', 'limits.memory': '2Gi' });
    const half = { requests: { cpu: '500m' }, limits: { cpu: '1', memory: '1Gi' } };
    await made('a', half);
    expect(await refusal(made('b', { requests: { cpu: '600m' }, limits: { memory: '3Gi' } }))).toBe(
      '403 pods "b" is forbidden: exceeded quota: q, requested: limits.memory=3Gi,requests.cpu=600m, used: limits.memory=1Gi,requests.cpu=500m, limited: limits.memory=2Gi,requests.cpu=1',
    );
    await made('b', half);
    expect(await refusal(made('c', { requests: { cpu: '0' }, limits: { memory: '0' } }))).toBe(
      '403 pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2',
    );
    expect(used()).toEqual({ pods: '2', 'requests.cpu': '1', 'limits.memory': '2Gi' });
  });

  it('wants containers to say what is limited', async () => {
    await quota({ 'limits.cpu': '1', memory: '1Gi' });
    const more = { initContainers: [{ name: 'b', image: 'i', resources: { limits: { cpu: '1' } } }] };
    expect(await refusal(made('a', {}, more))).toBe(
      '403 pods "a" is forbidden: failed quota: q: must specify limits.cpu for: a; memory for: a,b',
    );
  });

  it('gives back what ends, goes, or was never stored', async () => {
    await quota({ pods: '1' });
    await made('a');
    expect(await refusal(made('b'))).toContain('exceeded quota');
    await r.patch(pods, 'default', 'a', { status: { phase: 'Succeeded' } }, true);
    await made('b');
    expect(used()).toEqual({ pods: '1' });
    await r.delete(pods, 'default', 'b', { gracePeriodSeconds: 0 });
    expect(used()).toEqual({ pods: '0' });
    expect(await refusal(made('a'))).toBe('409 pods "a" already exists');
    expect(used()).toEqual({ pods: '0' });
    r.registry.guards.push(() => {
      throw new Error('late');
    });
    await expect(made('c')).rejects.toThrow('late');
    r.registry.guards.pop();
    expect(used()).toEqual({ pods: '0' });
    await made('d', {}, {}, { dryRun: true });
    expect(used()).toEqual({ pods: '0' });
  });

  it('lets a pod go that is stuck while it is deleted', async () => {
    await quota({ pods: '1' });
    await made('a', {}, { nodeName: 'n' });
    await r.delete(pods, 'default', 'a', { gracePeriodSeconds: 10 });
    expect(await refusal(made('b'))).toContain('exceeded quota');
    expect(r.registry.quota.changesIn('default')).toBeGreaterThan(0);
    await clock.advance(r.registry.quota.changesIn('default')!);
    await made('b');
  });

  it('counts objects of any kind', async () => {
    await quota({ 'count/configmaps': '1', secrets: '1', 'count/resourcequotas': '1' });
    await r.create(configMaps, 'default', { metadata: { name: 'a' } });
    await r.create(secrets, 'default', { metadata: { name: 'a' } });
    expect(await refusal(r.create(configMaps, 'default', { metadata: { name: 'b' } }))).toBe(
      '403 configmaps "b" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1',
    );
    expect(await refusal(r.create(secrets, 'default', { metadata: { generateName: 'b-' } }))).toMatch(
      /^403 secrets "b-[a-z0-9]{5}" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1$/,
    );
    expect(await refusal(quota({}, {}, 'r'))).toContain('requested: count/resourcequotas=1');
    await r.create(configMaps, 'kube-system', { metadata: { name: 'b' } });
  });

  it('charges services by their type, and again when it changes', async () => {
    await quota({ services: '2', 'services.nodeports': '2', 'services.loadbalancers': '0' });
    const service = (name: string, type: string, ports = 1) =>
      r.create(services, 'default', {
        metadata: { name },
        spec: { type, ports: Array.from({ length: ports }, (_, i) => ({ name: `p${i}`, port: 80 + i })) },
      });
    await service('a', 'ClusterIP');
    await service('b', 'NodePort', 2);
    expect(used()).toEqual({ services: '2', 'services.nodeports': '2', 'services.loadbalancers': '0' });
    expect(await refusal(r.patch(services, 'default', 'a', { spec: { type: 'NodePort' } }))).toBe(
      '403 services "a" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2',
    );
    await r.patch(services, 'default', 'b', { spec: { type: 'ClusterIP' } });
    expect(used()).toMatchObject({ 'services.nodeports': '0' });
  });

  const scoped: [scope: object, resources: object, spec: object, counted: boolean][] = [
    [{ scopes: ['Terminating'] }, {}, { activeDeadlineSeconds: 5 }, true],
    [{ scopes: ['Terminating'] }, {}, {}, false],
    [{ scopes: ['NotTerminating'] }, {}, {}, true],
    [{ scopes: ['BestEffort'] }, {}, {}, true],
    [{ scopes: ['BestEffort'] }, { requests: { cpu: '1' } }, {}, false],
    [{ scopes: ['NotBestEffort', 'NotTerminating'] }, { requests: { cpu: '1' } }, {}, true],
    [{ scopes: ['PriorityClass'] }, {}, { priorityClassName: 'system-node-critical' }, true],
    [{ scopes: ['PriorityClass'] }, {}, {}, false],
    [
      {
        scopeSelector: {
          matchExpressions: [
            { scopeName: 'PriorityClass', operator: 'In', values: ['system-node-critical'] },
          ],
        },
      },
      {},
      { priorityClassName: 'system-node-critical' },
      true,
    ],
    [
      {
        scopeSelector: {
          matchExpressions: [
            { scopeName: 'PriorityClass', operator: 'NotIn', values: ['system-node-critical'] },
          ],
        },
      },
      {},
      {},
      true,
    ],
    [
      { scopeSelector: { matchExpressions: [{ scopeName: 'PriorityClass', operator: 'DoesNotExist' }] } },
      {},
      {},
      true,
    ],
    [
      { scopes: ['CrossNamespacePodAffinity'] },
      {},
      {
        affinity: {
          podAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: [
              { topologyKey: 'a', labelSelector: {}, namespaces: ['x'] },
            ],
          },
        },
      },
      true,
    ],
    [{ scopes: ['CrossNamespacePodAffinity'] }, {}, {}, false],
  ];
  it.each(scoped)('%j and %j %j: %s', async (scope, resources, spec, counted) => {
    await quota({ pods: '5' }, scope);
    await made('a', resources, spec);
    expect(used()).toEqual({ pods: counted ? '1' : '0' });
  });

  it('takes a changed quota at once', async () => {
    await quota({ pods: '1' });
    await made('a');
    await r.patch(resourceQuotas, 'default', 'q', { spec: { hard: { pods: '2', 'count/configmaps': '0' } } });
    await made('b');
    expect(await refusal(made('c'))).toContain('exceeded quota');
    await r.delete(resourceQuotas, 'default', 'q');
    await made('c');
  });

  it('is never exceeded, and always the sum of what is stored, however creates, updates and deletes fall together', async () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant('create' as const), name: fc.nat(9), cpu: fc.nat(4) }),
      fc.record({ do: fc.constant('end' as const), name: fc.nat(9) }),
      fc.record({ do: fc.constant('delete' as const), name: fc.nat(9) }),
      fc.record({ do: fc.constant('limit' as const), pods: fc.integer({ min: 1, max: 8 }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(step, { maxLength: 8 }), { maxLength: 6 }), async (rounds) => {
        r = await testRegistry(clock);
        await quota({ pods: '4', 'requests.cpu': '8' });
        for (const round of rounds) {
          const limitBefore = Number(
            r.get<ResourceQuota>(resourceQuotas, 'default', 'q').spec!.hard!['pods'],
          );
          const before = Number(used()!['pods']);
          await Promise.all(
            round.map((s) => {
              const run =
                s.do === 'create'
                  ? made(`p${s.name}`, { requests: { cpu: String(s.cpu) } })
                  : s.do === 'end'
                    ? r.patch(pods, 'default', `p${s.name}`, { status: { phase: 'Failed' } }, true)
                    : s.do === 'delete'
                      ? r.delete(pods, 'default', `p${s.name}`, { gracePeriodSeconds: 0 })
                      : r.patch(resourceQuotas, 'default', 'q', { spec: { hard: { pods: String(s.pods) } } });
              return run.catch((e: unknown) => {
                if (!isApiError(e)) throw e;
              });
            }),
          );
          const most = Math.max(before, limitBefore, ...round.map((s) => (s.do === 'limit' ? s.pods : 0)));
          const all = r.registry.list(r.context(), K(pods), { namespace: 'default' })
            .items as readonly unknown[] as Pod[];
          expect(all.filter((p) => p.status?.phase !== 'Failed').length).toBeLessThanOrEqual(most);
          const again = new Ledger([r.get<ResourceQuota>(resourceQuotas, 'default', 'q')]);
          for (const p of all) again.set(p.metadata!.uid!, again.chargesOf(K(pods), p as never, clock.now()));
          expect(used()).toEqual(again.status().get('q')!.used);
        }
      }),
      { numRuns: 60 },
    );
  });
});
