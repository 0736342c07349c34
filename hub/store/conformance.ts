import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Change, Driver } from './driver.js';
import { DriverStore } from './driver-store.js';
import { Compacted, type Entry, RevisionConflict, type StoreEvent, type StoreWatch } from './store.js';

export interface DriverUnderTest {
  /** A driver over the same data each time it is called; new data per harness. */
  make(): Driver;
  dispose?(): Promise<void>;
}

const put = (key: string, value: object, revision: number, createRevision = revision): Change => ({
  type: 'put',
  key,
  json: JSON.stringify(value),
  revision,
  createRevision,
});
const del = (key: string, revision: number): Change => ({ type: 'delete', key, revision });

async function contents(driver: Driver): Promise<{ revision: number; records: unknown[] }> {
  const { records, revision } = await driver.open();
  const found = [...records].map(({ key, json, revision: r, createRevision }) => [
    key,
    JSON.parse(json),
    r,
    createRevision,
  ]);
  return { revision, records: found.sort((a, b) => (String(a[0]) < String(b[0]) ? -1 : 1)) };
}

/** Up to `n` events of a watch. */
export async function take(watch: StoreWatch, n: number): Promise<StoreEvent[]> {
  const events: StoreEvent[] = [];
  const it = watch[Symbol.asyncIterator]();
  while (events.length < n) {
    const r = await it.next();
    if (r.done) break;
    events.push(r.value);
  }
  return events;
}

interface Write {
  op: 'create' | 'update' | 'delete';
  key: string;
  stale: boolean;
  n: number;
}
type Op = Write | { op: 'reopen' } | { op: 'watch' };

const key = fc.constantFrom('/p/a', '/p/b', '/p/c', '/q/a', '/p', '/pp');
const arbitraryWrite: fc.Arbitrary<Write> = fc.record({
  op: fc.constantFrom('create', 'update', 'delete'),
  key,
  stale: fc.boolean(),
  n: fc.nat(9),
});
const arbitraryOps: fc.Arbitrary<Op[]> = fc.array(
  fc.oneof(
    { weight: 12, arbitrary: arbitraryWrite },
    { weight: 1, arbitrary: fc.constantFrom<Op>({ op: 'reopen' }, { op: 'watch' }) },
  ),
  { maxLength: 80 },
);

/** Any sequence of writes, reopenings and watches, compared with a plain map after every step. */
async function modelRun(makeDriver: () => Driver, ops: Op[]): Promise<void> {
  let driver = makeDriver();
  let store = new DriverStore(driver, { batchChanges: 3 });
  await store.open();
  const model = new Map<string, { n: number; revision: number; createRevision: number }>();
  let revision = 0;
  let watch = store.watch('/p', 0);
  let expected: [string, string, number][] = [];
  /** Lists by the revision at which they were right, from when the store was opened. */
  let past = new Map<number, readonly Entry[]>([[0, []]]);
  const check = () => {
    past.set(revision, store.list('/p').entries);
    for (const [at, entries] of past) expect(store.listAt('/p', at)).toEqual(entries);
    expect(() => store.listAt('/p', revision + 1)).toThrow(Compacted);
    expect(() => store.listAt('/p', Math.min(...past.keys()) - 1)).toThrow(Compacted);
    expect(store.revision).toBe(revision);
    for (const prefix of ['/', '/p', '/p/', '/q/', '/zzz']) {
      const want = [...model].filter(([k]) => k.startsWith(prefix)).sort(([a], [b]) => (a < b ? -1 : 1));
      expect(store.list(prefix).entries.map((e) => [e.key, e.value, e.revision, e.createRevision])).toEqual(
        want.map(([k, v]) => [k, { n: v.n }, v.revision, v.createRevision]),
      );
    }
  };
  const drain = async () => {
    expect((await take(watch, expected.length)).map((e) => [e.type, e.key, e.revision])).toEqual(expected);
    expected = [];
  };
  for (const o of ops) {
    if (o.op === 'reopen') {
      await drain();
      await store.close();
      driver = makeDriver();
      store = new DriverStore(driver, { batchChanges: 3 });
      await store.open();
      watch = store.watch('/p', revision);
      past = new Map();
    } else if (o.op === 'watch') {
      await drain();
      watch.close();
      watch = store.watch('/p', revision);
    } else {
      const there = model.get(o.key);
      const at = o.stale ? 999_999 : (there?.revision ?? 0);
      const wins =
        o.op === 'create'
          ? !there
          : o.op === 'update'
            ? !o.stale && there !== undefined
            : !o.stale && there !== undefined;
      const done =
        o.op === 'create'
          ? store.create(o.key, { n: o.n })
          : o.op === 'update'
            ? store.update(o.key, { n: o.n }, at)
            : store.delete(o.key, at);
      if (!wins) {
        await expect(done).rejects.toMatchObject({ name: 'RevisionConflict', current: store.get(o.key) });
        continue;
      }
      await done;
      revision++;
      if (o.op === 'delete') model.delete(o.key);
      else model.set(o.key, { n: o.n, revision, createRevision: there?.createRevision ?? revision });
      if (o.key.startsWith('/p')) expected.push([o.op === 'delete' ? 'delete' : 'put', o.key, revision]);
    }
    check();
  }
  await drain();
  await store.close();
}

/** Many writers at once: whatever the batches, the watch tells one order that explains every answer. */
async function concurrentRun(makeDriver: () => Driver, ops: Write[]): Promise<void> {
  const store = new DriverStore(makeDriver(), { batchChanges: 4 });
  await store.open();
  const watch = store.watch('/', 0);
  const answers = await Promise.allSettled(
    ops.map(async (o, i) => {
      // Some read before others have written.
      if (i % 3 === 0) await new Promise((r) => setImmediate(r));
      const at = o.stale ? 999_999 : (store.get(o.key)?.revision ?? 999_999);
      if (o.op === 'create') return store.create(o.key, { i });
      return o.op === 'update' ? store.update(o.key, { i }, at) : store.delete(o.key, at);
    }),
  );
  const succeeded = answers.filter((a) => a.status === 'fulfilled').length;
  for (const a of answers) if (a.status === 'rejected') expect(a.reason).toBeInstanceOf(RevisionConflict);
  expect(store.revision).toBe(succeeded);
  const replayed = new Map<string, Entry>();
  for (const [n, e] of (await take(watch, succeeded)).entries()) {
    expect(e.revision).toBe(n + 1);
    expect(e.previous).toBe(replayed.get(e.key));
    if (e.entry) replayed.set(e.key, e.entry);
    else replayed.delete(e.key);
  }
  const listed = store.list('/').entries;
  expect(listed).toEqual([...replayed.values()].sort((a, b) => (a.key < b.key ? -1 : 1)));
  await store.close();
  const again = new DriverStore(makeDriver());
  await again.open();
  expect(again.list('/').entries).toEqual(listed);
  expect(again.revision).toBe(succeeded);
  await again.close();
}

/** What every driver keeps; `harness` makes new, empty data. */
export function driverConformance(name: string, harness: () => Promise<DriverUnderTest>): void {
  describe(`driver conformance: ${name}`, () => {
    const scenario = (title: string, body: (t: DriverUnderTest) => Promise<void>) =>
      it(title, async () => {
        const t = await harness();
        try {
          await body(t);
        } finally {
          await t.dispose?.();
        }
      });

    scenario('starts empty at revision 0', async (t) => {
      const d = t.make();
      expect(await contents(d)).toEqual({ revision: 0, records: [] });
      await d.close();
    });

    scenario('gives back what was committed, with both revisions', async (t) => {
      const d = t.make();
      await d.open();
      await d.commit([put('/a', { n: 1 }, 1), put('/b', { n: 2 }, 2)]);
      await d.commit([put('/a', { n: 3 }, 3, 1)]);
      await d.close();
      const again = t.make();
      expect(await contents(again)).toEqual({
        revision: 3,
        records: [
          ['/a', { n: 3 }, 3, 1],
          ['/b', { n: 2 }, 2, 2],
        ],
      });
      await again.close();
    });

    scenario('remembers the revision of a delete though nothing is left', async (t) => {
      const d = t.make();
      await d.open();
      await d.commit([put('/a', {}, 1)]);
      await d.commit([del('/a', 2)]);
      await d.close();
      for (let i = 0; i < 3; i++) {
        const again = t.make();
        expect(await contents(again)).toEqual({ revision: 2, records: [] });
        await again.close();
      }
    });

    scenario('takes several changes of one key in one batch', async (t) => {
      const d = t.make();
      await d.open();
      await d.commit([
        put('/a', { n: 1 }, 1),
        del('/a', 2),
        put('/a', { n: 2 }, 3),
        put('/b', {}, 4),
        del('/b', 5),
      ]);
      await d.close();
      const again = t.make();
      expect(await contents(again)).toEqual({ revision: 5, records: [['/a', { n: 2 }, 3, 3]] });
      await again.close();
    });

    scenario('keeps any text: dots and dollars in keys, line ends, astral and lone surrogates', async (t) => {
      const value = {
        'app.kubernetes.io/name': 'x',
        $set: { $$date: 5, $$deleted: true },
        lines: 'a\nb\r\n\u2028\u0000"\\',
        astral: '🚣',
        lone: '\ud800',
        __proto__x: null,
      };
      const d = t.make();
      await d.open();
      await d.commit([put('/core/pods/ns/ü $x.y', value, 1)]);
      await d.close();
      const again = t.make();
      expect(await contents(again)).toEqual({
        revision: 1,
        records: [['/core/pods/ns/ü $x.y', value, 1, 1]],
      });
      await again.close();
    });

    scenario('goes on after many reopenings', async (t) => {
      for (let r = 1; r <= 20; r++) {
        const d = t.make();
        expect((await contents(d)).revision).toBe(r - 1);
        await d.commit([put('/k', { r }, r, 1)]);
        await d.close();
      }
    });

    scenario('closes twice', async (t) => {
      const d = t.make();
      await d.open();
      await d.close();
      await d.close();
    });

    it('agrees with a plain map under any sequence of writes, watches and reopenings', async () => {
      await fc.assert(
        fc.asyncProperty(arbitraryOps, async (ops) => {
          const t = await harness();
          try {
            await modelRun(t.make, ops);
          } finally {
            await t.dispose?.();
          }
        }),
        { numRuns: 60 },
      );
    });

    it('explains every answer to many writers at once by one order', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(arbitraryWrite, { maxLength: 60 }), async (ops) => {
          const t = await harness();
          try {
            await concurrentRun(t.make, ops);
          } finally {
            await t.dispose?.();
          }
        }),
        { numRuns: 40 },
      );
    });

    scenario('holds values of a megabyte', async (t) => {
      const big = { text: 'é'.repeat(1 << 20) };
      const d = t.make();
      await d.open();
      await d.commit([put('/big', big, 1), put('/small', {}, 2)]);
      await d.close();
      const again = t.make();
      expect((await contents(again)).records).toEqual([
        ['/big', big, 1, 1],
        ['/small', {}, 2, 2],
      ]);
      await again.close();
    });
  });
}
