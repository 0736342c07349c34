/** Who is asked once more when others changed the object later (apiserver webhook and policy reinvocation contexts). */
import { deepCopy, deepEqual } from '../../../../api/meta/json.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Request } from '../plugin.js';

/** Of one request and one plugin, from one round to the next. `K` says who was asked. */
export class Reinvocation<K> {
  /** The object as the plugin left it. */
  #output: AnyObject | undefined;
  readonly #asked = new Set<K>();
  readonly #again = new Set<K>();

  constructor(private readonly request: Request) {}

  /** At the start of a round. */
  begin(): void {
    if (this.request.round === 2 && !deepEqual(this.request.object, this.#output)) this.changed();
  }

  /** Whether this one is not asked in this round. */
  skips(key: K): boolean {
    return this.request.round === 2 && !this.#again.has(key);
  }

  /** Somebody changed the object: those asked before that want to be asked again will be. */
  changed(): void {
    for (const key of this.#asked) this.#again.add(key);
    this.#asked.clear();
    this.request.again = true;
  }

  /** This one was asked, and wants to be asked again. */
  asked(key: K): void {
    this.#asked.add(key);
  }

  /** At the end of a round. */
  end(): void {
    this.#output = deepCopy(this.request.object);
  }
}
