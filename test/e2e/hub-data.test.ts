import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ApiClient, readAccess } from '../../cli/client.js';
import { CoxProcess, remove, scratch, TestHub } from './support/system.js';

const hub = new TestHub();
const store = path.join(hub.dataDir, 'store');
const elsewhere = scratch('kept');
afterAll(async () => {
  await hub.process?.stop('SIGKILL');
  remove(hub.dataDir, elsewhere);
});

const PATH = '/api/v1/namespaces/default/configmaps';
async function withApi<T>(work: (api: ApiClient) => Promise<T>): Promise<T> {
  const api = new ApiClient(readAccess(hub.dataDir));
  try {
    return await work(api);
  } finally {
    api.close();
  }
}

/** Starts a hub that must not come up; returns what it said. */
async function refused(): Promise<string> {
  const p = new CoxProcess([
    'hub',
    '--data-dir',
    hub.dataDir,
    '--host',
    '127.0.0.1',
    '--api-port',
    '0',
    '--mqtt-port',
    '0',
  ]);
  const { code } = await p.exited;
  expect(code).not.toBe(0);
  return p.log;
}

describe("the hub's data directory", () => {
  it('belongs to one hub at a time, and the second says who has it', async () => {
    await hub.start();
    await withApi((api) =>
      api.call('POST', PATH, {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'kept' },
        data: { a: 'b' },
      }),
    );
    expect(await refused()).toContain(`in use by process ${hub.process.pid}`);
    await withApi((api) => api.call('GET', `${PATH}/kept`));
  });

  it('is not taken for a new one after it was damaged, and comes back from a backup', async () => {
    expect(await hub.stop()).toBe(0);
    const file = path.join(store, 'store.db');
    const backup = path.join(elsewhere, 'backup');
    fs.copyFileSync(file, backup);
    const bytes = fs.readFileSync(file);
    bytes[bytes.length >> 1] = bytes[bytes.length >> 1]! ^ 0x55;
    fs.writeFileSync(file, bytes);
    for (let start = 0; start < 2; start++) {
      const said = await refused();
      expect(said).toContain(`${file} cannot be read`);
      expect(said).toContain('store.db.unreadable-');
      expect(said).toContain('Restore a backup');
    }
    const [aside] = fs.readdirSync(store).filter((f) => f.includes('unreadable'));
    expect(fs.readFileSync(path.join(store, aside!)).equals(bytes)).toBe(true);
    fs.copyFileSync(backup, file);
    await hub.start();
    const kept = await withApi((api) => api.call<{ data: object }>('GET', `${PATH}/kept`));
    expect(kept.data).toEqual({ a: 'b' });
  });

  it('takes what cox push brings', async () => {
    const file = path.join(elsewhere, 'm.wasm');
    fs.writeFileSync(file, Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
    const p = new CoxProcess(['push', file, 'apps/m:1', '--data-dir', hub.dataDir], { COX_LOG: 'error' });
    expect((await p.exited).code, p.log).toBe(0);
    expect(p.log).toContain('image: coxswain.internal/apps/m:1');
    const tags = await withApi((api) => api.call('GET', '/v2/apps/m/tags/list'));
    expect(tags).toEqual({ name: 'apps/m', tags: ['1'] });
    const bad = new CoxProcess(['push', path.join(elsewhere, 'none.wasm'), 'm:1', '--data-dir', hub.dataDir]);
    expect((await bad.exited).code).toBe(1);
    expect(bad.log).toContain('there is no such file');
  });
});
