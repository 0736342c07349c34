import type { Pod } from 'kubernetes-types/core/v1.js';
import { beforeEach, describe, expect, it } from 'vitest';
import { limitRanges, pods } from '../../../api/kinds/index.js';
import { refusal, type TestRegistry, testRegistry } from '../../testing/registry.js';

let r: TestRegistry;
beforeEach(async () => {
  r = await testRegistry();
});
const range = (...limits: object[]) =>
  r.create<{ spec: { limits: object[] } }>(limitRanges, 'default', {
    metadata: { name: 'l' },
    spec: { limits },
  });
const pod = (resources: object = {}, more: object = {}) => ({
  metadata: { name: 'p' },
  spec: { containers: [{ name: 'a', image: 'i', resources }], ...more },
});
const made = (o: object) => r.create<Pod>(pods, 'default', o);

describe('LimitRange', () => {
  it('fills in what follows from the rest, for containers', async () => {
    const o = await range(
      { type: 'Container', max: { cpu: '2' }, min: { memory: '1Mi' } },
      { type: 'Pod', max: { cpu: '4' } },
    );
    expect(o.spec.limits).toEqual([
      {
        type: 'Container',
        max: { cpu: '2' },
        min: { memory: '1Mi' },
        default: { cpu: '2' },
        defaultRequest: { cpu: '2', memory: '1Mi' },
      },
      { type: 'Pod', max: { cpu: '4' } },
    ]);
  });

  const wrong: [what: string, item: object, text: string][] = [
    [
      'an unknown type',
      { type: 'Foo' },
      'spec.limits[0].type: Invalid value: "Foo": must be a standard limit type or fully qualified',
    ],
    [
      'an unknown resource',
      { type: 'Pod', max: { disk: '1' } },
      'spec.limits[0].max[disk]: Invalid value: "disk": must be a standard resource for containers',
    ],
    [
      'defaults of a pod',
      { type: 'Pod', default: { cpu: '1' } },
      "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
    ],
    [
      'min above max',
      { type: 'Pod', min: { cpu: '2' }, max: { cpu: '1' } },
      'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1',
    ],
    [
      'a default above max',
      { type: 'Container', max: { cpu: '1' }, default: { cpu: '2' }, defaultRequest: { cpu: '1' } },
      'spec.limits[0].default[cpu]: Invalid value: "1": default value 2 is greater than max value 1',
    ],
    [
      'a default request above the default',
      { type: 'Container', default: { cpu: '1' }, defaultRequest: { cpu: '2' } },
      'spec.limits[0].defaultRequest[cpu]: Invalid value: "2": default request value 2 is greater than default limit value 1',
    ],
    [
      'a ratio below 1',
      { type: 'Container', maxLimitRequestRatio: { cpu: '800m' } },
      'spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "800m": ratio 800m is less than 1',
    ],
    [
      'a ratio out of reach',
      { type: 'Pod', min: { cpu: '1' }, max: { cpu: '2' }, maxLimitRequestRatio: { cpu: '10' } },
      'spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "10": ratio 10 is greater than max/min = 2.000000',
    ],
    [
      'devices overcommitted',
      { type: 'Container', default: { 'a.b/gpu': '2' }, defaultRequest: { 'a.b/gpu': '1' } },
      'spec.limits[0].defaultRequest[a.b/gpu]: Invalid value: "1": default value 2 must equal to defaultRequest value 1 in a.b/gpu',
    ],
    [
      'claims without storage',
      { type: 'PersistentVolumeClaim', min: { cpu: '1' } },
      'spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided',
    ],
  ];
  it.each(wrong)('refuses %s', async (_, item, text) => {
    expect(await refusal(range(item))).toBe(`422 LimitRange "l" is invalid: ${text}`);
  });

  it('refuses a type twice', async () => {
    expect(await refusal(range({ type: 'Pod' }, { type: 'Pod' }))).toBe(
      '422 LimitRange "l" is invalid: spec.limits[1].type: Duplicate value: "Pod"',
    );
  });
});

describe('LimitRanger', () => {
  it('gives containers what they leave open, and says so', async () => {
    await range({
      type: 'Container',
      default: { cpu: '100m', memory: '10Mi' },
      defaultRequest: { cpu: '50m', memory: '5Mi' },
    });
    const p = await made(pod({ limits: { memory: '8Mi' } }, { initContainers: [{ name: 'b', image: 'i' }] }));
    expect(p.spec?.containers[0]?.resources).toEqual({
      limits: { memory: '8Mi', cpu: '100m' },
      requests: { memory: '8Mi', cpu: '50m' },
    });
    expect(p.metadata?.annotations).toEqual({
      'kubernetes.io/limit-ranger':
        'LimitRanger plugin set: cpu request for container a; cpu limit for container a; ' +
        'cpu, memory request for init container b; cpu, memory limit for init container b',
    });
  });

  const gi = (memory: string, limit?: string) => ({
    requests: { memory },
    ...(limit ? { limits: { memory: limit } } : {}),
  });
  const cases: [item: object, resources: object, text: string, more?: object][] = [
    [
      { type: 'Pod', min: { memory: '100Mi' } },
      {},
      'minimum memory usage per Pod is 100Mi.  No request is specified',
    ],
    [
      { type: 'Pod', min: { memory: '100Mi' } },
      gi('50Mi'),
      'minimum memory usage per Pod is 100Mi, but request is 50Mi',
    ],
    [{ type: 'Pod', min: { memory: '100Mi' } }, gi('100Mi'), ''],
    [
      { type: 'Pod', max: { memory: '1Gi' } },
      gi('1Gi'),
      'maximum memory usage per Pod is 1Gi.  No limit is specified',
    ],
    [
      { type: 'Pod', max: { memory: '1Gi' } },
      gi('1Gi', '2Gi'),
      'maximum memory usage per Pod is 1Gi, but limit is 2Gi',
    ],
    [
      { type: 'Pod', max: { memory: '1Gi' } },
      gi('600Mi', '600Mi'),
      'maximum memory usage per Pod is 1Gi, but limit is 1200Mi',
      {
        initContainers: [{ name: 'b', image: 'i', restartPolicy: 'Always', resources: gi('600Mi', '600Mi') }],
      },
    ],
    [
      { type: 'Pod', max: { memory: '1Gi' } },
      gi('600Mi', '600Mi'),
      '',
      { initContainers: [{ name: 'b', image: 'i', resources: gi('600Mi', '600Mi') }] },
    ],
    [
      { type: 'Pod', maxLimitRequestRatio: { cpu: '2' } },
      { requests: { cpu: '1' }, limits: { cpu: '3' } },
      'cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000',
    ],
    [
      { type: 'Pod', maxLimitRequestRatio: { cpu: '2' } },
      { limits: { memory: '1' } },
      'cpu max limit to request ratio per Pod is 2, but no request is specified or request is 0',
    ],
    [
      { type: 'Pod', maxLimitRequestRatio: { cpu: '2' } },
      { requests: { cpu: '1' } },
      'cpu max limit to request ratio per Pod is 2, but no limit is specified or limit is 0',
    ],
    [
      { type: 'Container', max: { cpu: '1' } },
      { limits: { cpu: '2' } },
      'maximum cpu usage per Container is 1, but limit is 2',
    ],
    [
      { type: 'Pod', min: { cpu: '1', memory: '1Gi' } },
      {},
      '[minimum cpu usage per Pod is 1.  No request is specified, minimum memory usage per Pod is 1Gi.  No request is specified]',
    ],
  ];
  it.each(cases)('%j and %j: %s', async (item, resources, text, more) => {
    await range(item);
    expect(await refusal(made(pod(resources, more)))).toBe(
      text ? `403 pods "p" is forbidden: ${text}` : 'accepted',
    );
  });

  it('leaves other namespaces alone', async () => {
    await range({ type: 'Pod', min: { memory: '1Gi' } });
    await r.create(pods, 'kube-system', pod());
  });
});
