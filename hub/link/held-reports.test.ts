import fc from 'fast-check';
import type { PodStatus } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import type { NodeReport } from '../../api/wire/desired.js';
import {
  AGENT_CONDITIONS,
  heardHeld,
  MAX_HELD,
  nodeReportText,
  podReportText,
  reportHash,
  sayHeld,
} from '../../api/wire/held-reports.js';
import { planNode, reportOf } from './nodes.js';
import { mergeStatus } from './reports.js';

const word = fc.constantFrom('', 'a', 'b', 'True', 'False');
const some = <T>(a: fc.Arbitrary<T>) => fc.option(a, { nil: undefined });
const condition = (types: string[]) =>
  fc.record({
    type: fc.constantFrom(...types),
    status: fc.constantFrom('True', 'False'),
    reason: some(word),
    message: some(word),
    lastTransitionTime: some(fc.constantFrom('2026-01-01T00:00:00Z', '2026-02-01T00:00:00Z')),
  });
const conditions = (...types: string[]) =>
  fc.uniqueArray(condition(types), { selector: (c) => c.type, maxLength: types.length });
const status = (...types: string[]) =>
  fc.record({
    phase: fc.constantFrom('Pending', 'Running', 'Failed'),
    podIP: some(word),
    observedGeneration: some(fc.nat(3)),
    qosClass: some(fc.constantFrom('BestEffort', 'Burstable')),
    conditions: some(conditions(...types)),
  }) as fc.Arbitrary<PodStatus>;

describe('what the hub says it holds', () => {
  it('of a pod is what the agent told, whatever the hub adds to it', () => {
    const hubs = ['PodScheduled', 'DisruptionTarget', 'example.org/gate'];
    fc.assert(
      fc.property(status(...hubs, 'Ready'), status(...AGENT_CONDITIONS, 'PodScheduled'), (old, told) => {
        const stored = mergeStatus(old, told);
        if (!stored) return;
        expect(podReportText('u', stored)).toBe(podReportText('u', told));
        expect(mergeStatus(stored, told)).toBeUndefined();
      }),
    );
  });

  it('of a pod changes with everything that the agent tells', () => {
    fc.assert(
      fc.property(status('Ready', 'Initialized'), status('Ready', 'Initialized'), (a, b) => {
        const bare = ({ conditions, qosClass: _, ...rest }: PodStatus) =>
          JSON.stringify([
            rest,
            (conditions ?? [])
              .map(({ type, status, reason, message }) => [type, status, reason || '', message || ''])
              .sort(),
          ]);
        expect(podReportText('u', a) === podReportText('u', b)).toBe(bare(a) === bare(b));
      }),
    );
    expect(podReportText('u', {})).not.toBe(podReportText('v', {}));
  });

  const report = fc.record({
    labels: fc.dictionary(fc.constantFrom('x', 'y/z'), word),
    capacity: fc.constant({ cpu: '4' }),
    allocatable: fc.constant({ cpu: '3' }),
    addresses: fc.array(fc.record({ type: fc.constant('Hostname'), address: word }), { maxLength: 2 }),
    nodeInfo: fc.constant({ kernelVersion: '6' }),
    conditions: conditions('MemoryPressure', 'DiskPressure', 'DataLimitReached').map((c) => [
      { type: 'Ready', status: 'True', reason: 'KubeletReady', message: 'well' },
      ...c,
    ]),
    runtimeHandlers: fc.uniqueArray(fc.constantFrom('oci', 'wasm')),
    images: fc.array(fc.record({ names: fc.array(word, { maxLength: 2 }), sizeBytes: fc.nat() }), {
      maxLength: 2,
    }),
  }) as unknown as fc.Arbitrary<NodeReport>;

  it('of a node is the report that its object was made of, and nothing when it does not say', () => {
    fc.assert(
      fc.property(report, fc.boolean(), (r, extra) => {
        const facts = { name: 'pi', report: r, link: 'up' as const };
        const told = planNode(undefined, facts, 0).status!;
        const made = structuredClone(told);
        if (extra)
          for (const m of ['capacity', 'allocatable'] as const) made.status![m]!['example.org/gpu'] = '1';
        const found = reportOf(made)!;
        expect(nodeReportText(found)).toBe(nodeReportText(r));
        expect(planNode(made, { ...facts, report: found }, 1000)).toEqual({});
        const away = planNode(made, { ...facts, link: 'down' }, 0).status!;
        expect(reportOf(away)).toBeUndefined();
        expect(reportOf(planNode(away, { name: 'pi', link: 'up' }, 0).status!)).toBeUndefined();
        expect(reportOf({ ...made, metadata: { name: 'pi' } })).toBeUndefined();
      }),
    );
  });

  it('leaves out the labels that a node may not give itself', () => {
    fc.assert(
      fc.property(report, (r) => {
        const labels = { ...r.labels, 'node-role.kubernetes.io/control-plane': '' };
        const old = planNode(undefined, { name: 'pi', report: r, link: 'up' }, 0).main!;
        old.metadata!.labels!['node-restriction.kubernetes.io/safe'] = 'no';
        const facts = {
          name: 'pi',
          report: { ...r, labels: { ...labels, 'node-restriction.kubernetes.io/safe': 'yes' } },
        };
        const made = planNode(old, { ...facts, link: 'up' }, 0).main ?? old;
        expect(made.metadata!.labels).toEqual({ ...r.labels, 'node-restriction.kubernetes.io/safe': 'no' });
      }),
    );
  });

  it('is a hash of each, another in each session, and not without limit', () => {
    const secret = Buffer.alloc(32, 1);
    const [a, b] = [reportHash(secret, 's1'), reportHash(secret, 's2')];
    const said = sayHeld([a('x'), a('y')]);
    expect(said).toHaveLength(16);
    expect([...heardHeld(said)]).toEqual([a('x'), a('y')]);
    expect(b('x')).not.toBe(a('x'));
    expect(heardHeld(sayHeld(Array<string>(5000).fill(a('x')))).size).toBe(1);
    for (const odd of [undefined, 7, '', 'short', 'x'.repeat(8 * MAX_HELD + 1), ['a']])
      expect(heardHeld(odd).size, String(odd).slice(0, 20)).toBe(0);
  });
});
