import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { StoreWriteFailed } from '../../hub/store/driver.js';
import { NedbStore } from '../../hub/store/nedb.js';
import { missing } from './support/needs.js';
import { scratch } from './support/system.js';

describe.skipIf(missing('root'))('the store on a real disk that fails', () => {
  let mount: string;
  beforeEach(() => {
    mount = scratch('disk');
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0700', 'tmpfs', mount]);
  });
  afterEach(() => {
    execFileSync('umount', ['-l', mount]);
    fs.rmdirSync(mount);
  });

  /** Writes until a write fails; returns what was acknowledged and the failure. */
  async function writeUntilFailure(
    store: NedbStore,
    tag: string,
  ): Promise<{ keys: string[]; error: unknown }> {
    const keys: string[] = [];
    for (let i = 0; i < 10_000; i++) {
      const batch = Array.from(
        { length: 1 + (i % 5) },
        (_, k) => `/core/configmaps/default/${tag}-${i}-${k}`,
      );
      const results = await Promise.allSettled(
        batch.map((key) => store.create(key, { text: 'x'.repeat(900 + i) })),
      );
      for (const [k, r] of results.entries()) if (r.status === 'fulfilled') keys.push(batch[k]!);
      const failed = results.find((r) => r.status === 'rejected');
      if (failed) return { keys, error: (failed as PromiseRejectedResult).reason };
    }
    throw new Error('the disk never became full');
  }

  it('full: writes fail with the remedy, nothing acknowledged is lost, and it goes on when there is room', async () => {
    const filler = path.join(mount, 'filler');
    fs.writeFileSync(filler, Buffer.alloc(500_000));
    const data = path.join(mount, 'data');
    let store = new NedbStore(data);
    await store.open();
    const first = await writeUntilFailure(store, 'first');
    expect(first.error).toBeInstanceOf(StoreWriteFailed);
    expect(first.error).toMatchObject({
      code: 'ENOSPC',
      message: expect.stringContaining('free some space'),
    });
    expect(first.keys.length).toBeGreaterThan(100);
    // As full as it is, it can be read, and opened again.
    expect(store.list('/').entries).toHaveLength(first.keys.length);
    await store.close();
    store = new NedbStore(data);
    await store.open();
    expect(store.list('/').entries.map((e) => e.key)).toEqual([...first.keys].sort());
    const { revision } = store;

    fs.rmSync(filler);
    const second = await writeUntilFailure(store, 'second');
    expect(second.keys.length).toBeGreaterThan(100);
    expect(store.get(second.keys[0]!)!.revision).toBe(revision + 1);
    await store.close();
    store = new NedbStore(data);
    await store.open();
    expect(store.list('/').entries.map((e) => e.key)).toEqual([...first.keys, ...second.keys].sort());
    await store.close();
  });

  it('read-only: neither opens nor writes, says why, and goes on when it is writable again', async () => {
    const remount = (how: string) => execFileSync('mount', ['-o', `remount,${how}`, mount]);
    remount('ro');
    await expect(new NedbStore(path.join(mount, 'data')).open()).rejects.toMatchObject({
      name: 'StoreWriteFailed',
      code: 'EROFS',
      message: expect.stringContaining('read-only'),
    });
    remount('rw');
    const store = new NedbStore(path.join(mount, 'data'));
    await store.open();
    await store.create('/a', {});
    await store.close();
    remount('ro');
    await expect(new NedbStore(path.join(mount, 'data')).open()).rejects.toMatchObject({ code: 'EROFS' });
    remount('rw');
    await store.close();
    const again = new NedbStore(path.join(mount, 'data'));
    await again.open();
    expect(again.get('/a')).toBeDefined();
    await again.close();
  });
});
