import { describe, expect, it } from 'vitest';
import { events, namespaces, pods } from '../api/kinds/index.js';
import { silentLog } from '../api/log.js';
import { ApiError } from '../api/meta/errors.js';
import { turn, VirtualClock } from '../api/testing/virtual-clock.js';
import { EventRecorder } from './events.js';
import { Disturbed, memoryRegistry } from './testing/disturbed.js';

async function world() {
  const clock = new VirtualClock();
  const disturbed = new Disturbed((await memoryRegistry(clock)).client());
  const { client } = disturbed;
  await client.create(namespaces, { metadata: { name: 'shop' } });
  const recorder = new EventRecorder(client, { component: 'default-scheduler' }, clock, silentLog);
  const list = async () => (await client.list(events)).items;
  return { clock, client, disturbed, recorder, list };
}
const pod = { metadata: { namespace: 'shop', name: 'web', uid: 'u1' } };

describe('EventRecorder', () => {
  it('writes an Event beside its object, cluster-scoped ones in default', async () => {
    const w = await world();
    w.recorder.tell(pods, pod, 'Normal', 'Scheduled', 'Successfully assigned shop/web to pi1');
    w.recorder.record({
      involved: { kind: 'Node', name: 'pi1' },
      type: 'Normal',
      reason: 'NodeReady',
      message: 'x',
    });
    await turn();
    const [b, a] = await w.list();
    expect(a).toMatchObject({
      metadata: { namespace: 'shop', name: expect.stringMatching(/^web\.[0-9a-f]{16}$/) },
      involvedObject: { apiVersion: 'v1', kind: 'Pod', namespace: 'shop', name: 'web', uid: 'u1' },
      type: 'Normal',
      reason: 'Scheduled',
      count: 1,
      source: { component: 'default-scheduler' },
      firstTimestamp: '2026-01-01T00:00:00Z',
      lastTimestamp: '2026-01-01T00:00:00Z',
    });
    expect(b!.metadata!.namespace).toBe('default');
  });

  it('joins repetitions into one object, written rarely', async () => {
    const w = await world();
    let writes = 0;
    w.disturbed.fault = (verb) => {
      if (verb === 'patch' || verb === 'create') writes++;
    };
    for (let i = 0; i < 100; i++) {
      w.recorder.tell(pods, pod, 'Warning', 'BackOff', 'Back-off restarting failed container');
      await w.clock.advance(500);
    }
    await w.clock.advance(20_000);
    const all = await w.list();
    expect(all).toHaveLength(1);
    expect(all[0]).toMatchObject({ count: 100, lastTimestamp: '2026-01-01T00:00:49Z' });
    expect(writes).toBeLessThanOrEqual(7);
    expect(w.clock.pending).toBe(0);
  });

  it('makes a new object when the old one was removed or is too old', async () => {
    const w = await world();
    w.recorder.tell(pods, pod, 'Normal', 'Pulled', 'm');
    await turn();
    const [first] = await w.list();
    await w.client.delete(events, { namespace: 'shop', name: first!.metadata!.name! });
    await w.clock.advance(20_000);
    w.recorder.tell(pods, pod, 'Normal', 'Pulled', 'm');
    await turn();
    expect(await w.list()).toMatchObject([{ count: 2 }]);
    await w.clock.advance(3_600_000);
    w.recorder.tell(pods, pod, 'Normal', 'Pulled', 'm');
    await turn();
    expect((await w.list()).map((e) => e.count).sort()).toEqual([1, 2]);
  });

  it('goes on after a failed write, and writes nothing once stopped', async () => {
    const w = await world();
    w.disturbed.fault = (verb) => {
      if (verb === 'create') throw new ApiError('Forbidden', 'namespace is being terminated');
    };
    w.recorder.tell(pods, pod, 'Normal', 'A', 'm');
    await turn();
    w.disturbed.fault = () => {};
    w.recorder.tell(pods, pod, 'Normal', 'B', 'm'.repeat(5000));
    await turn();
    const all = await w.list();
    expect(all.map((e) => e.reason)).toEqual(['B']);
    expect(all[0]!.message).toHaveLength(1024);
    w.recorder.stop();
    w.recorder.tell(pods, pod, 'Normal', 'C', 'm');
    await w.clock.advance(60_000);
    expect(await w.list()).toHaveLength(1);
  });
});
