import type { Clock } from '../../api/clock.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import type { Client, Frozen, WatchEvent, Watcher } from '../client.js';
import { Registry, stampResourceVersion } from '../registry/registry.js';
import { MemoryStore } from '../store/memory.js';

/** A registry over memory, with what every cluster has from the start. For tests. */
export async function memoryRegistry(clock: Clock): Promise<Registry> {
  const store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  const registry = new Registry({ store, clock, log: silentLog });
  await registry.bootstrap();
  return registry;
}

type Any = (...args: never[]) => unknown;

/** A client that a test can disturb. */
export class Disturbed {
  /** Called before each call; what it throws is the call's answer. */
  fault: (verb: string, plural: string) => void = () => {};
  readonly #watchers = new Map<{ fail(e: Error): void }, string>();
  readonly client: Client;

  constructor(inner: Client) {
    const pass =
      (verb: keyof Client) =>
      async (first: { plural?: string }, ...rest: unknown[]) => {
        this.fault(verb, first.plural ?? 'pods');
        return (inner[verb] as Any)(...([first, ...rest] as never[]));
      };
    const client = Object.fromEntries(
      (['get', 'list', 'create', 'update', 'updateStatus', 'patch', 'bind', 'delete'] as const).map((v) => [
        v,
        pass(v),
      ]),
    );
    client['watch'] = ((kind: { plural: string }, options: object) => {
      this.fault('watch', kind.plural);
      return this.#watch(kind.plural, inner.watch(kind as never, options));
    }) as never;
    this.client = client as unknown as Client;
  }

  /** Every watcher of the kind fails as if it had fallen behind. */
  expire(plural: string): void {
    for (const [w, p] of this.#watchers) if (p === plural) w.fail(new ApiError('Expired', 'too old'));
  }

  #watch<T>(plural: string, inner: Watcher<Frozen<T>>): Watcher<Frozen<T>> {
    let fail = (_: Error) => {};
    const failed = new Promise<never>((_, reject) => {
      fail = reject;
    });
    failed.catch(() => {});
    const handle = { fail: (e: Error) => fail(e) };
    this.#watchers.set(handle, plural);
    const close = () => {
      this.#watchers.delete(handle);
      inner.close();
    };
    async function* events(): AsyncGenerator<WatchEvent<Frozen<T>>> {
      const it = inner[Symbol.asyncIterator]();
      for (;;) {
        const next = await Promise.race([failed, it.next()]);
        if (next.done) return;
        yield next.value;
      }
    }
    const iterator = events();
    return { close, [Symbol.asyncIterator]: () => iterator };
  }
}
