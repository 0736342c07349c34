import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { NodeReport, PodReport } from '../../api/wire/desired.js';
import { nodeReportText, podReportText } from '../../api/wire/held-reports.js';
import type { Report } from '../../api/wire/messages.js';
import { DeviceTime } from './device-time.js';
import { Outbox } from './outbox.js';

const pod = (uid: string, podIP: string, gone?: true): PodReport => ({
  namespace: 'default',
  name: `p-${uid}`,
  uid,
  status: { phase: 'Running', podIP },
  ...(gone ? { gone } : {}),
});
const node = { labels: {}, conditions: [{ type: 'Ready', status: 'True' }] } as unknown as NodeReport;

function outbox() {
  const clock = new VirtualClock({ seed: 1 });
  const sent: Report[] = [];
  const box = new Outbox(clock, 'epoch', new DeviceTime(clock), (r) => void sent.push(structuredClone(r)));
  /** What went since the last call: `''` for the node, `<uid>=<IP>` for a pod. */
  const said = () =>
    sent.splice(0).flatMap((r) => {
      box.ack(r.q);
      return [...(r.n ? [''] : []), ...(r.p ?? []).map(([, p]) => `${p.uid}=${p.status.podIP}`)];
    });
  return { clock, box, sent, said };
}

const holding = (...texts: string[]) => {
  const all = new Set(texts);
  return (text: string) => all.has(text);
};
const textOf = (p: PodReport) => podReportText(p.uid, p.status);

describe('what the hub holds already', () => {
  it('does not travel, whether it was there before the welcome or comes after', async () => {
    const { clock, box, sent, said } = outbox();
    box.node(node);
    box.pod(pod('a', '1'));
    box.pod(pod('b', '1'));
    box.connected(true, holding(nodeReportText(node), textOf(pod('a', '1')), textOf(pod('c', '1'))));
    await clock.advance(1000);
    expect(sent.map((r) => r.f)).toEqual([1]);
    expect(said()).toEqual(['b=1']);
    box.pod(pod('c', '1'));
    box.pod(pod('d', '1'));
    await clock.advance(1000);
    expect(said()).toEqual(['d=1']);
    expect(box.idle).toBe(true);
  });

  it('is answered when nothing else is to be said', async () => {
    const { clock, box, sent, said } = outbox();
    box.pod(pod('a', '1'));
    box.connected(true, holding(textOf(pod('a', '1'))));
    await clock.advance(1000);
    expect(sent).toMatchObject([{ f: 1 }]);
    expect(said()).toEqual([]);
    await clock.advance(600_000);
    expect(sent).toEqual([]);
  });

  it('is no longer the point once something else was said', async () => {
    const { clock, box, said } = outbox();
    box.connected(true, holding(textOf(pod('a', '1'))));
    box.pod(pod('a', '2'));
    await clock.advance(1000);
    // Not acknowledged: it may have arrived or not.
    box.pod(pod('a', '1'));
    await clock.advance(60_000);
    expect(said().at(-1)).toBe('a=1');
  });

  it('says nothing of the end of a pod, nor to the next session', async () => {
    const { clock, box, said } = outbox();
    box.connected(true, holding(textOf(pod('a', '1')), textOf(pod('b', '1'))));
    box.pod(pod('a', '1', true));
    await clock.advance(1000);
    expect(said()).toEqual(['a=1']);
    box.connected(true);
    box.pod(pod('b', '1'));
    await clock.advance(1000);
    expect(said()).toEqual(['b=1']);
  });
});
