import { type Clock, systemClock } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { RequestContext } from '../registry/api.js';
import { Registry, stampResourceVersion } from '../registry/registry.js';
import { MemoryStore } from '../store/memory.js';

/** A registry over a store in memory, with what every cluster has from the start, and short forms of its verbs. */
export async function testRegistry(clock: Clock = systemClock) {
  const store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  const registry = new Registry({ store, clock, log: silentLog });
  await registry.bootstrap();
  const context = (over: Partial<RequestContext> = {}): RequestContext => ({
    user: 'test',
    groups: [],
    warnings: [],
    ...over,
  });
  const K = (k: unknown) => k as Kind;
  return {
    store,
    registry,
    context,
    /** Copies what it is given; so do the others. */
    async create<T = AnyObject>(kind: unknown, namespace: string | undefined, o: object, over = {}) {
      return (await registry.create(context(over), K(kind), namespace, structuredClone(o))) as unknown as T;
    },
    get<T = AnyObject>(kind: unknown, namespace: string | undefined, name: string) {
      return registry.get(context(), K(kind), { namespace, name }) as unknown as T;
    },
    patch: (kind: unknown, namespace: string | undefined, name: string, body: object, status = false) =>
      registry.patch(
        context(),
        K(kind),
        { namespace, name },
        'application/merge-patch+json',
        structuredClone(body),
        status ? 'status' : undefined,
      ),
    delete: (kind: unknown, namespace: string | undefined, name: string, options = {}) =>
      registry.delete(context(), K(kind), { namespace, name }, options),
  };
}

export type TestRegistry = Awaited<ReturnType<typeof testRegistry>>;

/** The message of what `run` rejects with, with its HTTP status in front. */
export async function refusal(run: Promise<unknown>): Promise<string> {
  try {
    await run;
  } catch (e) {
    if (e instanceof ApiError) return `${e.code} ${e.message}`;
    throw e;
  }
  return 'accepted';
}
