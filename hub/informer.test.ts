import type { ConfigMap } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { configMaps } from '../api/kinds/index.js';
import { silentLog } from '../api/log.js';
import { ApiError } from '../api/meta/errors.js';
import { turn, VirtualClock } from '../api/testing/virtual-clock.js';
import { Informers } from './informer.js';
import { Disturbed, memoryRegistry } from './testing/disturbed.js';

const cm = (name: string, data: Record<string, string> = {}): ConfigMap => ({
  metadata: { namespace: 'default', name },
  data,
});

async function world() {
  const clock = new VirtualClock();
  const disturbed = new Disturbed((await memoryRegistry(clock)).client());
  const { client } = disturbed;
  const informers = new Informers(client, clock, silentLog);
  const informer = informers
    .of(configMaps)
    .index('color', (o) => (o.data?.['color'] ? [o.data['color']] : []));
  const heard: string[] = [];
  informer.onChange((key, now, before) => {
    heard.push(`${key} ${before ? (now ? 'changed' : 'gone') : 'new'}`);
  });
  return { clock, client, disturbed, informers, informer, heard };
}

describe('Informer', () => {
  it('shows what was there and what comes, as the very objects of the registry', async () => {
    const w = await world();
    await w.client.create(configMaps, cm('a'));
    await w.informers.start();
    expect(w.informer.get('default/a')).toBe(
      await w.client.get(configMaps, { namespace: 'default', name: 'a' }),
    );
    const b = await w.client.create(configMaps, cm('b'));
    await turn();
    expect(w.informer.get('default/b')).toBe(b);
    await w.client.update(configMaps, { ...cm('b'), data: { x: '1' } });
    await w.client.delete(configMaps, { namespace: 'default', name: 'a' });
    await turn();
    expect(w.heard).toEqual(['default/a new', 'default/b new', 'default/b changed', 'default/a gone']);
    expect([...w.informer.keys()]).toEqual(['default/b']);
    expect(w.informers.of(configMaps)).toBe(w.informer);
    await w.informers.stop();
  });

  it('tells a listener that comes late what is there, once that one is made', async () => {
    const w = await world();
    await w.client.create(configMaps, cm('a'));
    await w.informers.start();
    const late: string[] = [];
    // As the control loops do: the listener uses what the call gives back.
    const informer = w.informer.onChange((key) => late.push(`${key} ${informer.get(key) !== undefined}`));
    expect(late).toEqual([]);
    await turn();
    expect(late).toEqual(['default/a true']);
    await w.informers.stop();
  });

  it('keeps its indexes through changes and deletions', async () => {
    const w = await world();
    await w.client.create(configMaps, cm('a', { color: 'red' }));
    await w.informers.start();
    await w.client.create(configMaps, cm('b', { color: 'red' }));
    await turn();
    expect(w.informer.by('color', 'red')).toHaveLength(2);
    await w.client.update(configMaps, cm('a', { color: 'blue' }));
    await w.client.delete(configMaps, { namespace: 'default', name: 'b' });
    await turn();
    expect(w.informer.count('color', 'red')).toBe(0);
    expect(w.informer.by('color', 'blue').map((o) => o.metadata!.name)).toEqual(['a']);
    expect(() => w.informer.by('shape', 'round')).toThrow('no index "shape"');
    await w.informers.stop();
  });

  it('lists again when the watch expired, telling only what differs', async () => {
    const w = await world();
    await w.client.create(configMaps, cm('same'));
    await w.client.create(configMaps, cm('gone'));
    await w.client.create(configMaps, cm('anew'));
    await w.informers.start();
    w.heard.length = 0;
    w.disturbed.expire('configmaps');
    await Promise.all([
      w.client.delete(configMaps, { namespace: 'default', name: 'gone' }),
      w.client.delete(configMaps, { namespace: 'default', name: 'anew' }),
      w.client.create(configMaps, cm('anew')),
    ]);
    await turn();
    expect([...w.heard].sort()).toEqual(['default/anew gone', 'default/anew new', 'default/gone gone']);
    expect(w.heard.indexOf('default/anew gone')).toBeLessThan(w.heard.indexOf('default/anew new'));
    await w.client.create(configMaps, cm('later'));
    await turn();
    expect(w.heard.at(-1)).toBe('default/later new');
    await w.informers.stop();
  });

  it('retries a failing list with growing pauses, and one failing listener disturbs no other', async () => {
    const w = await world();
    let tries = 0;
    w.disturbed.fault = (verb) => {
      if (verb === 'list' && ++tries < 4) throw new ApiError('InternalError', 'disk on fire');
    };
    const also: string[] = [];
    w.informer.onChange(() => {
      throw new Error('listener');
    });
    w.informer.onChange((key) => void also.push(key));
    let synced = false;
    const started = w.informers.start().then(() => {
      synced = true;
    });
    await w.clock.advance(300);
    expect([tries, synced]).toEqual([2, false]);
    await w.clock.advance(2000);
    await started;
    expect(tries).toBe(4);
    await w.client.create(configMaps, cm('a'));
    await turn();
    expect(also).toEqual(['default/a']);
    await w.informers.stop();
    expect(w.clock.pending).toBe(0);
  });
});
