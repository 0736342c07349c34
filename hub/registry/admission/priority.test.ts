import type { Pod } from 'kubernetes-types/core/v1.js';
import { beforeEach, describe, expect, it } from 'vitest';
import { pods, priorityClasses } from '../../../api/kinds/index.js';
import { refusal, type TestRegistry, testRegistry } from '../../testing/registry.js';

let r: TestRegistry;
beforeEach(async () => {
  r = await testRegistry();
});
const aClass = (name: string, more: object) =>
  r.create(priorityClasses, undefined, { metadata: { name }, ...more });
const pod = async (spec: object, name = 'p') => {
  const o = { metadata: { name }, spec: { containers: [{ name: 'a', image: 'i' }], ...spec } };
  const { priority, priorityClassName, preemptionPolicy } = (await r.create<Pod>(pods, 'default', o)).spec!;
  return [priority, priorityClassName, preemptionPolicy];
};

describe('PriorityClass', () => {
  it('has the two of the system from the start', () => {
    expect(r.get(priorityClasses, undefined, 'system-node-critical')).toMatchObject({
      value: 2_000_001_000,
      preemptionPolicy: 'PreemptLowerPriority',
    });
  });
  it.each([
    [
      'a',
      { value: 1_000_000_001 },
      'value: Forbidden: maximum allowed value of a user defined priority is 1000000000',
    ],
    [
      'system-x',
      { value: 1 },
      "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
    ],
    [
      'a',
      { value: 1, preemptionPolicy: 'Sometimes' },
      'preemptionPolicy: Unsupported value: "Sometimes": supported values: "Never", "PreemptLowerPriority"',
    ],
  ])('refuses %s %j', async (name, more, text) => {
    expect(await refusal(aClass(name, more))).toBe(
      `422 PriorityClass.scheduling.k8s.io "${name}" is invalid: ${text}`,
    );
  });
  it('keeps its value', async () => {
    await aClass('a', { value: 1 });
    expect(await refusal(r.patch(priorityClasses, undefined, 'a', { value: 2 }))).toBe(
      '422 PriorityClass.scheduling.k8s.io "a" is invalid: value: Forbidden: may not be changed in an update.',
    );
  });
  it('is the default once at most', async () => {
    await aClass('a', { value: 1, globalDefault: true });
    expect(await refusal(aClass('b', { value: 2, globalDefault: true }))).toBe(
      '403 priorityclasses.scheduling.k8s.io "b" is forbidden: PriorityClass a is already marked as default. Only one default can exist',
    );
    await r.patch(priorityClasses, undefined, 'a', { description: 'still' });
  });
});

describe('Priority', () => {
  it('computes the number', async () => {
    await aClass('high', { value: 1000, preemptionPolicy: 'Never' });
    expect(await pod({})).toEqual([0, undefined, 'PreemptLowerPriority']);
    expect(await pod({ priorityClassName: 'high' }, 'q')).toEqual([1000, 'high', 'Never']);
    expect(await pod({ priorityClassName: 'system-node-critical' }, 's')).toEqual([
      2_000_001_000,
      'system-node-critical',
      'PreemptLowerPriority',
    ]);
    await aClass('usual', { value: 7, globalDefault: true });
    expect(await pod({}, 't')).toEqual([7, 'usual', 'PreemptLowerPriority']);
  });
  it('refuses numbers and unknown classes', async () => {
    expect(await refusal(pod({ priorityClassName: 'none' }))).toBe(
      '403 pods "p" is forbidden: no PriorityClass with name none was found',
    );
    expect(await refusal(pod({ priority: 5 }))).toBe(
      '403 pods "p" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name',
    );
    expect(await refusal(pod({ preemptionPolicy: 'Never' }))).toBe(
      '403 pods "p" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name',
    );
  });
  it('stays with a pod that is written without it', async () => {
    await aClass('high', { value: 1000 });
    await pod({ priorityClassName: 'high' });
    const { metadata, spec } = r.get<Pod>(pods, 'default', 'p');
    const { priority: _, preemptionPolicy: __, ...rest } = spec!;
    const next = await r.registry.update(
      r.context(),
      pods as never,
      { namespace: 'default', name: 'p' },
      structuredClone({ metadata: { ...metadata, labels: { a: 'b' } }, spec: rest }),
    );
    expect((next as Pod).spec?.priority).toBe(1000);
  });
});
