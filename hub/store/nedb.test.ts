import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import type NedbDatastore from '@seald-io/nedb';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { DataDirLocked } from '../../api/lock.js';
import { driverConformance } from './conformance.js';
import { type Change, StoreUnreadable, StoreWriteFailed } from './driver.js';
import { type Files, NedbDriver, NedbStore } from './nedb.js';

// CommonJS whose types speak of a default export that is not there.
const Datastore = createRequire(import.meta.url)('@seald-io/nedb') as typeof NedbDatastore.default;

const dirs: string[] = [];
function tempDir(): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'cox-store-'));
  dirs.push(dir);
  return dir;
}
afterEach(() => {
  for (const d of dirs.splice(0)) fs.rmSync(d, { recursive: true, force: true });
});

for (const compactBytes of [8 << 20, 0]) {
  driverConformance(compactBytes ? 'nedb' : 'nedb, compacting all the time', async () => {
    const dir = tempDir();
    return { make: () => new NedbDriver(dir, { compactBytes }) };
  });
}

const put = (key: string, revision: number, n: number, pad = ''): Change => ({
  type: 'put',
  key,
  json: JSON.stringify({ n, pad }),
  revision,
  createRevision: revision,
});
const del = (key: string, revision: number): Change => ({ type: 'delete', key, revision });

type State = Record<string, number>;
async function stateOf(driver: NedbDriver): Promise<{ revision: number; state: State }> {
  const { records, revision } = await driver.open();
  const state: State = {};
  for (const r of records) state[r.key] = (JSON.parse(r.json) as { n: number }).n;
  return { revision, state };
}

interface Inode {
  data: Buffer;
  durable: Buffer;
  /** Writes since the last sync, oldest first; `at` < 0: truncate to `-at - 1`. */
  unsynced: { at: number; bytes: Buffer }[];
}

function applyWrite(data: Buffer, at: number, bytes: Buffer): Buffer {
  if (at < 0) {
    const size = -at - 1;
    return size <= data.length
      ? data.subarray(0, size)
      : Buffer.concat([data, Buffer.alloc(size - data.length)]);
  }
  const out = Buffer.alloc(Math.max(data.length, at + bytes.length));
  data.copy(out);
  bytes.copy(out, at);
  return out;
}

/** A fake disk needs no lock on a real one. */
const on = (files: Files) => ({ files, lock: () => () => {} });

const errno = (code: string) => Object.assign(new Error(code), { code, syscall: 'write' });

/** A disk in memory that loses what was not synced, and that runs full or fails on demand. */
class Disk {
  names = new Map<string, Inode>();
  durableNames = new Map<string, Inode>();
  capacity = Number.POSITIVE_INFINITY;
  /** Called before each operation; throws to make it fail. */
  onOp: (op: string, file: string) => void = () => {};
  syncs = 0;

  static of(files: Map<string, Buffer>): Disk {
    const d = new Disk();
    for (const [name, data] of files) d.names.set(name, { data, durable: data, unsynced: [] });
    d.durableNames = new Map(d.names);
    return d;
  }

  /** The same disk, as another process finds it after this one was killed now. */
  clone(): Disk {
    const copies = new Map<Inode, Inode>();
    const copy = (names: Map<string, Inode>) =>
      new Map(
        [...names].map(([name, i]) => {
          if (!copies.has(i)) copies.set(i, { ...i, unsynced: [...i.unsynced] });
          return [name, copies.get(i)!];
        }),
      );
    const d = new Disk();
    d.names = copy(this.names);
    d.durableNames = copy(this.durableNames);
    return d;
  }

  get files(): Files {
    const used = () => [...new Set(this.names.values())].reduce((n, i) => n + i.data.length, 0);
    return {
      mkdir: async () => undefined,
      readdir: async () => [...this.names.keys()],
      rm: async (f: string) => {
        this.onOp('rm', path.basename(f));
        this.names.delete(path.basename(f));
      },
      rename: async (from: string, to: string) => {
        this.onOp('rename', path.basename(from));
        const inode = this.names.get(path.basename(from))!;
        this.names.delete(path.basename(from));
        this.names.set(path.basename(to), inode);
      },
      open: async (f: string, flags: string) => {
        if (flags === 'r') {
          return {
            sync: async () => {
              this.onOp('syncdir', '');
              this.durableNames = new Map(this.names);
            },
            close: async () => {},
          };
        }
        const name = path.basename(f);
        this.onOp('open', name);
        if (flags === 'r+' && !this.names.has(name)) throw errno('ENOENT');
        const inode: Inode =
          flags === 'r+'
            ? this.names.get(name)!
            : { data: Buffer.alloc(0), durable: Buffer.alloc(0), unsynced: [] };
        this.names.set(name, inode);
        return {
          stat: async () => ({
            size: inode.data.length,
            nlink: [...this.names.values()].includes(inode) ? 1 : 0,
          }),
          read: async (b: Buffer, off: number, len: number, at: number) => ({
            bytesRead: inode.data.copy(b, off, at, at + len),
          }),
          write: async (b: Buffer, off: number, len: number, at: number) => {
            this.onOp('write', name);
            const room = this.capacity - used() + inode.data.length - at;
            const n = Math.min(len, Math.max(0, room));
            if (n === 0 && len > 0) throw errno('ENOSPC');
            const bytes = Buffer.from(b.subarray(off, off + n));
            inode.unsynced.push({ at, bytes });
            inode.data = applyWrite(inode.data, at, bytes);
            return { bytesWritten: n };
          },
          truncate: async (size: number) => {
            this.onOp('truncate', name);
            inode.unsynced.push({ at: -size - 1, bytes: Buffer.alloc(0) });
            inode.data = applyWrite(inode.data, -size - 1, Buffer.alloc(0));
          },
          datasync: async () => {
            this.onOp('datasync', name);
            this.syncs++;
            inode.durable = inode.data;
            inode.unsynced = [];
          },
          close: async () => {},
        };
      },
    } as unknown as Files;
  }

  /** Every way the disk may look after the power went just now: names synced or not, unsynced writes torn anywhere. */
  *afterPowerCut(): Generator<Map<string, Buffer>> {
    for (const names of [this.durableNames, this.names]) {
      const synced = new Map([...names].map(([name, i]) => [name, i.durable] as const));
      yield synced;
      for (const [name, inode] of names) {
        let sofar = inode.durable;
        for (const w of inode.unsynced) {
          for (let n = 0; n < w.bytes.length; n++) {
            yield new Map(synced).set(name, applyWrite(sofar, w.at, w.bytes.subarray(0, n)));
            // The file's length reached the disk before its content did.
            const holes = Buffer.from(w.bytes);
            holes.fill(0, n, Math.min(w.bytes.length, n + 37));
            yield new Map(synced).set(name, applyWrite(sofar, w.at, holes));
          }
          sofar = applyWrite(sofar, w.at, w.bytes);
          yield new Map(synced).set(name, sofar);
        }
      }
    }
  }
}

describe('the data file', () => {
  it('is one that a plain NeDB Datastore reads', async () => {
    const dir = tempDir();
    const store = new NedbStore(dir);
    await store.open();
    for (let i = 0; i < 20; i++) await store.create(`/core/pods/a.b/${i}`, { labels: { 'a.b/c': `${i}` } });
    for (let i = 0; i < 20; i += 2) await store.delete(`/core/pods/a.b/${i}`, i + 1);
    await store.close();
    const copy = path.join(tempDir(), 'copy.db');
    fs.copyFileSync(path.join(dir, 'store.db'), copy);
    const db = new Datastore({ filename: copy, corruptAlertThreshold: 0 });
    await db.loadDatabaseAsync();
    const docs = (await db.findAsync({})) as { _id: string; v: string }[];
    const records = docs.filter((d) => d._id.startsWith('/'));
    expect(records).toHaveLength(10);
    for (const d of records) {
      expect(JSON.parse(d.v)).toEqual({ labels: { 'a.b/c': d._id.split('/').at(-1) } });
    }
  });

  it('is private to its user', async () => {
    const dir = path.join(tempDir(), 'new');
    const store = new NedbStore(dir);
    await store.open();
    await store.close();
    expect(fs.statSync(dir).mode & 0o777).toBe(0o700);
    expect(fs.statSync(path.join(dir, 'store.db')).mode & 0o777).toBe(0o600);
  });

  it('stays small under many updates, and is not rewritten more often than it doubles', async () => {
    const dir = tempDir();
    let written = 0;
    let compactions = 0;
    const disk = new Disk();
    disk.onOp = (op, file) => {
      if (op === 'rename') compactions++;
      if (op === 'write' && file.endsWith('~')) written++;
    };
    const driver = new NedbDriver(dir, { ...on(disk.files), compactBytes: 20_000 });
    await driver.open();
    compactions = written = 0;
    for (let r = 1; r <= 2000; r++) await driver.commit([put(`/k${r % 10}`, r, r, 'x'.repeat(200))]);
    await driver.close();
    const total = 2000 * 380;
    expect(disk.names.get('store.db')!.data.length).toBeLessThan(30_000);
    expect(compactions).toBeGreaterThan(5);
    expect(compactions).toBeLessThan(total / 20_000 + 1);
    const again = await stateOf(new NedbDriver(dir, { ...on(disk.files) }));
    expect(again).toEqual({
      revision: 2000,
      state: Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`/k${i}`, i === 0 ? 2000 : 1990 + i])),
    });
  });

  it('is not touched while nothing changes', async () => {
    const dir = tempDir();
    const store = new NedbStore(dir);
    await store.open();
    await store.create('/a', {});
    const before = fs.statSync(path.join(dir, 'store.db'));
    await Promise.allSettled([store.create('/a', {}), store.update('/b', {}, 3), store.delete('/c', 1)]);
    store.list('/');
    await store.close();
    const again = new NedbStore(dir);
    await again.open();
    await again.close();
    const after = fs.statSync(path.join(dir, 'store.db'));
    expect([after.ino, after.size, after.mtimeMs]).toEqual([before.ino, before.size, before.mtimeMs]);
  });
});

describe('power cut', () => {
  const script: Change[][] = [
    [put('/a', 1, 1)],
    [put('/b', 2, 2), put('/c', 3, 3), del('/a', 4)],
    [put('/b', 5, 5), put('/a', 6, 6)],
    [del('/b', 7), del('/c', 8)],
    [put('/c', 9, 9, '\n"#commit"')],
  ];
  const states: { revision: number; state: State }[] = [{ revision: 0, state: {} }];
  for (const batch of script) {
    const state = { ...states.at(-1)!.state };
    for (const c of batch) {
      if (c.type === 'put') state[c.key] = (JSON.parse(c.json) as { n: number }).n;
      else delete state[c.key];
    }
    states.push({ revision: batch.at(-1)!.revision, state });
  }

  // compactBytes 0 compacts whenever garbage outweighs the rest, so power also goes during compactions.
  it.each([8 << 20, 0])(
    'at any moment leaves all acknowledged batches, and whole ones only (%i)',
    async (compactBytes) => {
      const dir = tempDir();
      const disk = new Disk();
      let acknowledged = 0;
      let images = 0;
      const pending = new Map<string, { image: Map<string, Buffer>; least: number; most: number }>();
      // Power goes just before each operation that changes or syncs anything.
      disk.onOp = () => {
        for (const image of disk.afterPowerCut()) {
          const id = [
            acknowledged,
            ...[...image].map(([name, data]) => name + data.toString('latin1')),
          ].join();
          pending.set(id, { image, least: acknowledged, most: acknowledged + 1 });
        }
      };
      const driver = new NedbDriver(dir, { ...on(disk.files), compactBytes });
      await driver.open();
      for (const batch of script) {
        await driver.commit(batch);
        acknowledged++;
      }
      await driver.close();
      disk.onOp('', '');
      for (const { image, least, most } of pending.values()) {
        images++;
        const survivor = new NedbDriver(dir, { ...on(Disk.of(image).files) });
        const found = await stateOf(survivor);
        const n = states.findIndex((s) => s.revision === found.revision);
        expect(n, `revision ${found.revision}`).toBeGreaterThanOrEqual(least);
        expect(n).toBeLessThanOrEqual(most);
        expect(found).toEqual(states[n]);
        // And it can be written to.
        await survivor.commit([put('/z', found.revision + 1, 7)]);
        await survivor.close();
      }
      expect(images).toBeGreaterThan(1000);
    },
  );

  it.each([8 << 20, 0])('takes nothing that was read after a kill -9 (%i)', async (compactBytes) => {
    const dir = tempDir();
    const disk = new Disk();
    const killed: Disk[] = [];
    disk.onOp = () => void killed.push(disk.clone());
    const driver = new NedbDriver(dir, { ...on(disk.files), compactBytes });
    await driver.open();
    for (const batch of script) await driver.commit(batch);
    await driver.close();
    let images = 0;
    for (const d of killed) {
      const reopened = new NedbDriver(dir, { ...on(d.files) });
      const found = await stateOf(reopened);
      for (const image of d.afterPowerCut()) {
        images++;
        expect(await stateOf(new NedbDriver(dir, { ...on(Disk.of(image).files) }))).toEqual(found);
      }
      await reopened.close();
    }
    expect(images).toBeGreaterThan(killed.length);
  });

  it('with garbage behind the last sync leaves everything before it', async () => {
    const dir = tempDir();
    const disk = new Disk();
    const driver = new NedbDriver(dir, { ...on(disk.files) });
    await driver.open();
    for (const batch of script) await driver.commit(batch);
    await driver.close();
    const good = disk.names.get('store.db')!.data;
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.boolean(), async (junk, line) => {
        const bytes = Buffer.concat([
          good,
          line ? Buffer.from('{"_id":"#commit","r":') : Buffer.alloc(0),
          junk,
        ]);
        const again = new NedbDriver(dir, { ...on(Disk.of(new Map([['store.db', bytes]])).files) });
        expect(await stateOf(again)).toEqual(states.at(-1));
        await again.close();
      }),
      { numRuns: 300 },
    );
  });

  it('damage anywhere else is never passed over', async () => {
    const dir = tempDir();
    const disk = new Disk();
    const driver = new NedbDriver(dir, { ...on(disk.files) });
    await driver.open();
    let lastBatch = 0;
    for (const batch of script) {
      lastBatch = disk.names.get('store.db')!.data.length;
      await driver.commit(batch);
    }
    await driver.close();
    const good = disk.names.get('store.db')!.data;
    for (let at = 0; at < lastBatch; at++) {
      for (const flip of [0x01, 0x80, good[at]! ^ 0x0a]) {
        const bytes = Buffer.from(good);
        bytes[at] = bytes[at]! ^ flip;
        if (bytes.equals(good)) continue;
        const bad = new Disk();
        bad.names.set('store.db', { data: bytes, durable: bytes, unsynced: [] });
        const again = new NedbDriver(dir, { ...on(bad.files) });
        const outcome = await again.open().then(
          () => undefined,
          (e: unknown) => e,
        );
        expect(outcome, `byte ${at} ^ ${flip}`).toBeInstanceOf(StoreUnreadable);
        expect([...bad.names.values()][0]!.data).toEqual(bytes);
      }
    }
  }, 120_000);
});

describe('an unreadable store', () => {
  async function unreadable(content: Buffer | string): Promise<{ dir: string; error: StoreUnreadable }> {
    const dir = tempDir();
    fs.writeFileSync(path.join(dir, 'store.db'), content);
    const error = await new NedbStore(dir, {
      clock: { ...systemClock, now: () => Date.UTC(2026, 0, 2, 3, 4, 5) },
    })
      .open()
      .then(
        () => undefined,
        (e: unknown) => e,
      );
    expect(error).toBeInstanceOf(StoreUnreadable);
    return { dir, error: error as StoreUnreadable };
  }

  it.each([
    ['empty', ''],
    ['something else', 'hello\nworld\n'],
    ['a plain NeDB file', '{"_id":"a"}\n'],
    ['zeros', Buffer.alloc(10_000)],
    ['JSON null', 'null\n'],
  ])('is set aside, and not replaced by an empty one at the next start: %s', async (_, content) => {
    const { dir, error } = await unreadable(content);
    const aside = path.join(dir, 'store.db.unreadable-2026-01-02T030405000Z');
    expect(error.movedTo).toBe(aside);
    expect(error.message).toContain(aside);
    expect(error.message).toContain('Restore a backup');
    expect(fs.readFileSync(aside)).toEqual(Buffer.from(content));
    await expect(new NedbStore(dir).open()).rejects.toMatchObject({
      name: 'StoreUnreadable',
      movedTo: aside,
    });
    // The remedy that the message names.
    fs.renameSync(aside, path.join(tempDir(), 'kept'));
    const store = new NedbStore(dir);
    await store.open();
    expect(store.revision).toBe(0);
    await store.close();
  });

  it('of a newer version stays where it is', async () => {
    const content = '{"_id":"#coxswain","format":2}\n';
    const { dir, error } = await unreadable(content);
    expect(error.message).toContain('newer');
    expect(error.movedTo).toBe('');
    expect(fs.readFileSync(path.join(dir, 'store.db'), 'utf8')).toBe(content);
  });
});

describe('a failing disk', () => {
  it('that is full rejects the write, loses nothing, and is written to again when there is room', async () => {
    const dir = tempDir();
    const disk = new Disk();
    const store = new NedbStore(dir, { ...on(disk.files) });
    await store.open();
    await store.create('/a', { n: 1 });
    for (let room = 0; room < 300; room += 7) {
      const before = disk.names.get('store.db')!.data;
      disk.capacity = before.length + room;
      const outcome = await store.create(`/x${room}`, { text: 'x'.repeat(300) }).then(
        () => undefined,
        (e: unknown) => e as StoreWriteFailed,
      );
      expect(outcome).toBeInstanceOf(StoreWriteFailed);
      expect(outcome).toMatchObject({ code: 'ENOSPC' });
      expect(outcome!.message).toMatch(/disk is full: free some space/);
      expect(disk.names.get('store.db')!.data).toEqual(before);
      expect(store.revision).toBe(1);
    }
    disk.capacity = Number.POSITIVE_INFINITY;
    expect((await store.create('/b', {})).revision).toBe(2);
    await store.close();
    const again = new NedbStore(dir, { ...on(disk.files) });
    await again.open();
    expect(again.list('/').entries.map((e) => e.key)).toEqual(['/a', '/b']);
    await again.close();
  });

  it.each(['write', 'datasync', 'truncate', 'rename', 'syncdir', 'open'])(
    'at %s never loses or invents an acknowledged write',
    async (failing) => {
      const dir = tempDir();
      const disk = new Disk();
      const store = new NedbStore(dir, { ...on(disk.files), compactBytes: 500 });
      await store.open();
      let seed = 42;
      const random = () => {
        seed = (seed * 1103515245 + 12345) % 2147483648;
        return seed / 2147483648;
      };
      let broken = false;
      disk.onOp = (op) => {
        if (op === failing && random() < 0.4) throw errno('EIO');
        // A failed write is what makes `truncate` come about.
        if (failing === 'truncate' && op === 'datasync' && broken) throw errno('EIO');
      };
      const expected: State = {};
      const revisions: Record<string, number> = {};
      let failures = 0;
      for (let i = 0; i < 300; i++) {
        broken = random() < 0.3;
        const key = `/k${Math.floor(random() * 5)}`;
        const value = { n: i, pad: 'x'.repeat(Math.floor(random() * 100)) };
        try {
          const at = revisions[key];
          const e = at ? await store.update(key, value, at) : await store.create(key, value);
          expected[key] = i;
          revisions[key] = e.revision;
        } catch (e) {
          expect(e).toBeInstanceOf(StoreWriteFailed);
          failures++;
        }
      }
      const revision = store.revision;
      // Without a word, as after a power cut: only what was synced counts.
      const image = new Map([...disk.durableNames].map(([name, inode]) => [name, inode.durable] as const));
      await store.close();
      if (['write', 'datasync', 'truncate'].includes(failing)) expect(failures).toBeGreaterThan(10);
      const found = await stateOf(new NedbDriver(tempDir(), { ...on(Disk.of(image).files) }));
      expect(found.state).toEqual(expected);
      expect(found.revision).toBe(revision);
    },
  );

  it('says so when the file was deleted under a running hub', async () => {
    const dir = tempDir();
    const store = new NedbStore(dir);
    await store.open();
    await store.create('/a', {});
    fs.rmSync(path.join(dir, 'store.db'));
    await expect(store.create('/b', {})).rejects.toThrow(/deleted while the hub was running/);
    await store.close();
  });
});

describe('the lock', () => {
  it('refuses a second store on the same data, naming the holder, until the first closes', async () => {
    const dir = tempDir();
    const one = new NedbStore(dir);
    await one.open();
    const outcome = await new NedbStore(dir).open().catch((e: unknown) => e);
    expect(outcome).toBeInstanceOf(DataDirLocked);
    expect(outcome).toMatchObject({ pid: process.pid });
    expect((outcome as Error).message).toContain(`in use by process ${process.pid}`);
    await one.close();
    const two = new NedbStore(dir);
    await two.open();
    await two.close();
  });

  it('of a killed process is gone, also while another process has its pid', async () => {
    const dir = tempDir();
    const lock = path.join(dir, 'store.lock');
    // Holds the lock as a hub would, and says so.
    const child = spawn('flock', ['-n', lock, 'sh', '-c', 'echo held; exec sleep 1000'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    });
    await once(child.stdout, 'data');
    fs.writeFileSync(lock, `${process.pid}\n`);
    await expect(new NedbStore(dir).open()).rejects.toBeInstanceOf(DataDirLocked);
    process.kill(-child.pid!, 'SIGKILL');
    await once(child, 'close');
    const store = new NedbStore(dir);
    await store.open();
    await store.close();
  });
});
