import type { Kind } from '../../../api/kinds/kind.js';
import type { AnyObject } from '../../../api/meta/object.js';
import type { Frozen } from '../../client.js';
import type { Plugin, Request, Target, World } from './plugin.js';

/** The plugins that have a say about one target. */
interface Plan {
  readonly mutating: readonly Plugin[];
  readonly validating: readonly Plugin[];
  readonly waiting: readonly Plugin[];
}

/** Asks plugins in order. Costs next to nothing where none has a say, and no turn of the event loop where none waits. */
export class AdmissionChain {
  readonly #plans = new WeakMap<Kind, Map<string, Plan>>();
  readonly #committed: readonly Plugin[];

  constructor(
    private readonly plugins: readonly Plugin[],
    private readonly world: World,
  ) {
    this.#committed = plugins.filter((p) => p.committed);
  }

  /** Whether any plugin has a say. */
  concerns(target: Target): boolean {
    const { mutating, validating } = this.#plan(target);
    return mutating.length > 0 || validating.length > 0;
  }

  /** Whether the answer may have to come from outside of this process. */
  waits(target: Target): boolean {
    return this.#plan(target).waiting.some((p) => p.waits!(target, this.world));
  }

  /** Lets plugins change `request.object`. A promise when one waits. */
  mutate(request: Request): Promise<void> | undefined {
    const { mutating } = this.#plan(request);
    if (mutating.length === 0) return undefined;
    const wait = run(mutating, 'mutate', request);
    if (wait) return wait.then(() => this.#once(mutating, request));
    return this.#once(mutating, request);
  }

  #once(mutating: readonly Plugin[], request: Request): Promise<void> | undefined {
    if (!request.again) return undefined;
    request.round = 2;
    return run(mutating, 'mutate', request);
  }

  /** A promise when a plugin waits. */
  validate(request: Request): Promise<void> | undefined {
    return run(this.#plan(request).validating, 'validate', request);
  }

  /** Tells of a write that was done. */
  committed(kind: Kind, now: Frozen<AnyObject> | undefined, before: Frozen<AnyObject> | undefined): void {
    for (const p of this.#committed) p.committed!(kind, now, before);
  }

  #plan(target: Target): Plan {
    let ofKind = this.#plans.get(target.kind);
    if (!ofKind) {
      ofKind = new Map();
      this.#plans.set(target.kind, ofKind);
    }
    const key = `${target.operation}/${target.subresource ?? ''}`;
    let plan = ofKind.get(key);
    if (!plan) {
      const asked = this.plugins.filter((p) => p.handles(target));
      plan = {
        mutating: asked.filter((p) => p.mutate),
        validating: asked.filter((p) => p.validate),
        waiting: asked.filter((p) => p.waits),
      };
      ofKind.set(key, plan);
    }
    return plan;
  }
}

function run(
  plugins: readonly Plugin[],
  phase: 'mutate' | 'validate',
  request: Request,
): Promise<void> | undefined {
  for (let i = 0; i < plugins.length; i++) {
    const wait = plugins[i]![phase]!(request);
    if (wait)
      return (async () => {
        await wait;
        for (const later of plugins.slice(i + 1)) await later[phase]!(request);
      })();
  }
  return undefined;
}
