import { describe, expect, it } from 'vitest';
import { driverConformance, take } from './conformance.js';
import type { Change } from './driver.js';
import { DriverStore, StoreBusy } from './driver-store.js';
import { MemoryDriver, MemoryStore } from './memory.js';
import { Compacted, RevisionConflict } from './store.js';

driverConformance('memory', async () => {
  const driver = new MemoryDriver();
  return { make: () => driver };
});

async function opened(options?: ConstructorParameters<typeof MemoryStore>[0]): Promise<MemoryStore> {
  const s = new MemoryStore(options);
  await s.open();
  return s;
}

/** A driver whose commits wait for `release` and fail when told to. */
class SlowDriver extends MemoryDriver {
  batches: Change[][] = [];
  failNext = false;
  #gate: (() => void)[] = [];
  held = false;
  override async commit(batch: readonly Change[]): Promise<void> {
    this.batches.push([...batch]);
    if (this.held) await new Promise<void>((r) => this.#gate.push(r));
    if (this.failNext) {
      this.failNext = false;
      throw new Error('disk full');
    }
    await super.commit(batch);
  }
  release(): void {
    for (const g of this.#gate.splice(0)) g();
  }
}

const turn = () => new Promise<void>((r) => setImmediate(() => setImmediate(r)));

describe('compare-and-swap', () => {
  it('creates, updates and deletes with one revision each', async () => {
    const s = await opened();
    const a = await s.create('/a', { n: 1 });
    expect(a).toMatchObject({ revision: 1, createRevision: 1 });
    const b = await s.update('/a', { n: 2 }, 1);
    expect(b).toMatchObject({ revision: 2, createRevision: 1 });
    expect(await s.delete('/a', 2)).toBe(b);
    expect(s.revision).toBe(3);
    expect(s.get('/a')).toBeUndefined();
  });

  it('refuses what rests on an old revision and says what is there', async () => {
    const s = await opened();
    const a = await s.create('/a', {});
    await expect(s.create('/a', {})).rejects.toMatchObject({ name: 'RevisionConflict', current: a });
    await expect(s.update('/a', {}, 7)).rejects.toMatchObject({ current: a });
    await expect(s.update('/b', {}, 7)).rejects.toMatchObject({ current: undefined });
    await expect(s.delete('/b', 0)).rejects.toBeInstanceOf(RevisionConflict);
    await expect(s.delete('/a', 0)).rejects.toMatchObject({ current: a });
    expect(s.revision).toBe(1);
  });

  it('lets exactly one of many concurrent writers win, in one batch', async () => {
    const s = await opened();
    await s.create('/a', { n: 0 });
    const results = await Promise.allSettled(Array.from({ length: 50 }, (_, n) => s.update('/a', { n }, 1)));
    expect(results.filter((r) => r.status === 'fulfilled')).toHaveLength(1);
    expect(s.revision).toBe(2);
  });

  it('shows nothing before it is durable, and batches what waits', async () => {
    const d = new SlowDriver();
    const s = new DriverStore(d);
    await s.open();
    d.held = true;
    const w = s.watch('/', 0);
    const first = s.create('/a', {});
    await turn();
    const rest = Array.from({ length: 10 }, (_, i) => s.create(`/b${i}`, {}));
    await turn();
    expect(s.get('/a')).toBeUndefined();
    expect(s.revision).toBe(0);
    expect(w.revision).toBe(0);
    d.held = false;
    d.release();
    await Promise.all([first, ...rest]);
    expect(d.batches.map((b) => b.length)).toEqual([1, 10]);
    expect((await take(w, 11)).map((e) => e.revision)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  });

  it('rejects every write of a batch that failed, refusals that rested on it too, and goes on', async () => {
    const d = new SlowDriver();
    const s = new DriverStore(d);
    await s.open();
    const w = s.watch('/', 0);
    d.failNext = true;
    const results = await Promise.allSettled([s.create('/a', { n: 1 }), s.create('/a', { n: 2 })]);
    expect(results.map((r) => (r as PromiseRejectedResult).reason.message)).toEqual([
      'disk full',
      'disk full',
    ]);
    expect(s.revision).toBe(0);
    expect(s.failing).toBe('disk full');
    await s.create('/a', { n: 3 });
    expect(s.failing).toBeUndefined();
    const [e] = await take(w, 1);
    expect(e).toMatchObject({ type: 'put', revision: 1, entry: { value: { n: 3 } } });
    expect(e!.previous).toBeUndefined();
  });

  it('bounds what waits', async () => {
    const d = new SlowDriver();
    const s = new DriverStore(d, { queuedWrites: 2 });
    await s.open();
    d.held = true;
    const first = s.create('/0', {});
    await turn();
    const waiting = [s.create('/1', {}), s.create('/2', {})];
    await expect(s.create('/3', {})).rejects.toBeInstanceOf(StoreBusy);
    d.held = false;
    d.release();
    await Promise.all([first, ...waiting]);
  });

  it('waits for pending writes when closed, and refuses later ones', async () => {
    const s = await opened();
    const writes = Array.from({ length: 5 }, (_, i) => s.create(`/${i}`, {}));
    await s.close();
    expect((await Promise.all(writes)).map((e) => e.revision)).toEqual([1, 2, 3, 4, 5]);
    await expect(s.create('/x', {})).rejects.toThrow('closed');
  });

  it('rejects what is not JSON without harming its neighbours', async () => {
    const s = await opened();
    const loop: Record<string, unknown> = {};
    loop['self'] = loop;
    const [bad, good] = await Promise.allSettled([s.create('/bad', loop), s.create('/good', {})]);
    expect(bad.status).toBe('rejected');
    expect(good.status).toBe('fulfilled');
  });

  it('stamps the revision into values, at commit and after a restart, and not into what is stored', async () => {
    const stamp = (v: object, revision: number) => {
      (v as { at?: number }).at = revision;
    };
    const driver = new MemoryDriver();
    const one = new DriverStore(driver, { stamp });
    await one.open();
    await one.create('/a', { n: 1 });
    const updated = await one.update('/a', { n: 2 }, 1);
    expect(updated.value).toEqual({ n: 2, at: 2 });
    // A value that cannot be stamped is its own writer's mistake and nobody else's.
    const [bad, good] = await Promise.allSettled([one.create('/x', Object.freeze({})), one.create('/y', {})]);
    expect([bad.status, good.status]).toEqual(['rejected', 'fulfilled']);
    expect(one.get('/y')!.revision).toBe(3);
    await one.close();
    expect([...(await driver.open()).records][0]!.json).toBe('{"n":2}');
    const two = new DriverStore(driver, { stamp });
    await two.open();
    expect(two.get('/a')!.value).toEqual({ n: 2, at: 2 });
  });

  it('hands out deeply frozen values', async () => {
    const s = await opened();
    const e = await s.create('/a', { deep: { list: [{ n: 1 }] } });
    const v = e.value as { deep: { list: { n: number }[] } };
    expect(() => {
      v.deep.list[0]!.n = 2;
    }).toThrow(TypeError);
    expect(() => v.deep.list.push({ n: 3 })).toThrow(TypeError);
  });
});

describe('watch', () => {
  it('delivers what came after the revision, then what comes', async () => {
    const s = await opened();
    for (let i = 1; i <= 3; i++) await s.create(`/a/${i}`, {});
    await s.create('/b/1', {});
    const w = s.watch('/a/', 1);
    const events = take(w, 4);
    await s.delete('/a/1', 1);
    await s.create('/a/4', {});
    expect((await events).map((e) => [e.type, e.key, e.revision])).toEqual([
      ['put', '/a/2', 2],
      ['put', '/a/3', 3],
      ['delete', '/a/1', 5],
      ['put', '/a/4', 6],
    ]);
  });

  it('says how far its consumer got', async () => {
    const s = await opened();
    const w = s.watch('/a', 0);
    const it = w[Symbol.asyncIterator]();
    await s.create('/a', {});
    expect(w.revision).toBe(0);
    await it.next();
    expect(w.revision).toBe(0);
    const next = it.next();
    expect(w.revision).toBe(1);
    await s.create('/b', {});
    expect(w.revision).toBe(2);
    await s.update('/a', {}, 1);
    await next;
    expect(w.revision).toBe(2);
    w.close();
    expect(w.revision).toBe(2);
  });

  it('is Compacted before the history and after the present', async () => {
    const s = await opened({ historyEvents: 3 });
    for (let i = 1; i <= 10; i++) await s.create(`/${i}`, {});
    await expect(take(s.watch('/', 6), 1)).rejects.toMatchObject({ name: 'Compacted', asked: 6, oldest: 7 });
    await expect(take(s.watch('/', 11), 1)).rejects.toBeInstanceOf(Compacted);
    expect((await take(s.watch('/', 7), 3)).map((e) => e.revision)).toEqual([8, 9, 10]);
  });

  it('bounds the history by bytes', async () => {
    const s = await opened({ historyBytes: 1000 });
    for (let i = 1; i <= 10; i++) await s.create(`/${i}`, { text: 'x'.repeat(400) });
    await expect(take(s.watch('/', 7), 1)).rejects.toBeInstanceOf(Compacted);
    expect(await take(s.watch('/', 8), 2)).toHaveLength(2);
  });

  it('drops a slow watcher and no other', async () => {
    const s = await opened({ watcherEvents: 5 });
    const slow = s.watch('/', 0);
    const elsewhere = s.watch('/z', 0);
    const seen: number[] = [];
    const fast = (async () => {
      for await (const e of s.watch('/', 0)) if (seen.push(e.revision) === 20) break;
    })();
    for (let i = 1; i <= 20; i++) await s.create(`/${i}`, {});
    await fast;
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    await expect(take(slow, 1)).rejects.toBeInstanceOf(Compacted);
    expect(await take(slow, 1)).toEqual([]);
    const z = await s.create('/z', {});
    expect((await take(elsewhere, 1))[0]!.entry).toBe(z);
  });

  it('ends when closed, by either side', async () => {
    const s = await opened();
    const a = s.watch('/', 0);
    const pending = take(a, 1);
    a.close();
    a.close();
    expect(await pending).toEqual([]);
    const b = take(s.watch('/', 0), 1);
    await s.close();
    expect(await b).toEqual([]);
  });

  it('starts from the present after a restart', async () => {
    const driver = new MemoryDriver();
    const one = new DriverStore(driver);
    await one.open();
    await one.create('/a', {});
    await one.close();
    const two = new DriverStore(driver);
    await two.open();
    await expect(take(two.watch('/', 0), 1)).rejects.toBeInstanceOf(Compacted);
    const w = take(two.watch('/', 1), 1);
    await two.update('/a', { n: 1 }, 1);
    expect((await w)[0]!.previous).toMatchObject({ revision: 1 });
  });
});
