import { afterAll, describe, expect, it } from 'vitest';
import { ApiError } from '../../api/meta/errors.js';
import { ApiClient, readAccess } from '../../cli/client.js';
import { eventually, remove, TestHub } from './support/system.js';

const ROUNDS = Number(process.env['COX_CRASH_ROUNDS'] ?? 10);
const WRITERS = 12;
const PATH = '/api/v1/namespaces/default/configmaps';

interface ConfigMap {
  metadata: { name: string; resourceVersion: string };
  data?: Record<string, string>;
}
type Known = { id: string; revision: number } | null;

const hub = new TestHub();
afterAll(async () => {
  await hub.process?.stop('SIGKILL');
  remove(hub.dataDir);
});

describe('a hub killed while clients write', () => {
  it(`keeps what it acknowledged, in order, ${ROUNDS} times over`, async () => {
    const object = (name: string, id: string) => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name },
      data: { id },
    });
    /** What was acknowledged last, per object. */
    const acknowledged = new Map<string, Known>();
    /** Writes under way when the hub died, per object: they may have come to be or not. */
    const pending = new Map<string, string | null>();
    let highest = 0;
    let writes = 0;
    for (let round = 0; round <= ROUNDS; round++) {
      await hub.start();
      const api = new ApiClient(readAccess(hub.dataDir));
      try {
        const list = await api.call<{ metadata: { resourceVersion: string }; items: ConfigMap[] }>(
          'GET',
          PATH,
        );
        expect(Number(list.metadata.resourceVersion)).toBeGreaterThanOrEqual(highest);
        const found = new Map(list.items.map((o) => [o.metadata.name, o]));
        for (const name of new Set([...acknowledged.keys(), ...pending.keys()])) {
          const known = acknowledged.get(name) ?? null;
          const o = found.get(name);
          const now: Known = o ? { id: o.data!['id']!, revision: Number(o.metadata.resourceVersion) } : null;
          if (!pending.has(name)) expect(now, `round ${round}, ${name}`).toEqual(known);
          else
            expect([known?.id ?? null, pending.get(name)], `round ${round}, ${name}`).toContain(
              now?.id ?? null,
            );
          acknowledged.set(name, now);
        }
        pending.clear();
        if (round === ROUNDS) break;

        const killed = { yet: false };
        const writer = async (name: string) => {
          for (let i = 0; !killed.yet; i++) {
            const known = acknowledged.get(name) ?? null;
            const id = known && Math.random() < 0.2 ? null : `${round}/${i}`;
            pending.set(name, id);
            try {
              const o =
                id === null
                  ? await api.call<{ metadata?: unknown }>('DELETE', `${PATH}/${name}`)
                  : known
                    ? await api.call<ConfigMap>('PUT', `${PATH}/${name}`, object(name, id))
                    : await api.call<ConfigMap>('POST', PATH, object(name, id));
              writes++;
              pending.delete(name);
              if (id === null) {
                acknowledged.set(name, null);
                continue;
              }
              const revision = Number((o as ConfigMap).metadata.resourceVersion);
              expect(revision).toBeGreaterThan(known?.revision ?? 0);
              highest = Math.max(highest, revision);
              acknowledged.set(name, { id, revision });
            } catch (e) {
              // Before the kill nothing may fail; after it everything does, and not by an answer.
              if (!killed.yet || e instanceof ApiError) throw e;
              return;
            }
          }
        };
        const writers = Array.from({ length: WRITERS }, (_, w) => writer(`w${w}`));
        const all = Promise.all(writers);
        // At any moment, but not before every writer has come to change what it wrote.
        const enough = writes + WRITERS * 3;
        const moment = new Promise((r) => setTimeout(r, 100 + Math.random() * 700));
        const written = moment.then(() => eventually('writes', () => writes >= enough, { everyMs: 5 }));
        await Promise.race([all, written]);
        killed.yet = true;
        hub.process.child.kill('SIGKILL');
        await Promise.all([all, hub.process.exited]);
      } finally {
        api.close();
      }
    }
  });
});
