/** MutatingAdmissionWebhook and ValidatingAdmissionWebhook (apiserver pkg/admission/plugin/webhook). */
import { randomUUID } from 'node:crypto';
import type { MutatingWebhook } from 'kubernetes-types/admissionregistration/v1.js';
import { loadCel } from '../../../../api/cel/cel.js';
import type { Clock } from '../../../../api/clock.js';
import {
  mutatingWebhookConfigurations,
  validatingWebhookConfigurations,
} from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import type { Log } from '../../../../api/log.js';
import { ApiError, internalError } from '../../../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../../../api/meta/json.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Authorizer } from '../../../auth/attributes.js';
import type { Frozen } from '../../../client.js';
import { endpointOf } from '../../../outbound/service.js';
import { post } from '../../../outbound/transport.js';
import { jsonPatch } from '../../patch.js';
import { settled, Unconverted } from '../../unconverted.js';
import { forbidden, type Plugin, type Request, type Target, type World } from '../plugin.js';
import { conditionsHold, Facts } from './conditions.js';
import { asVersion, type Criteria, isExempt, matchedKind, selected } from './match.js';
import { readPatched } from './patched.js';
import { Reinvocation } from './reinvocation.js';
import { callProblem, denial, readAnswer, reviewBody, reviewVersion, type Verdict } from './review.js';

export interface ExternalParts {
  readonly clock: Clock;
  readonly log: Log;
  /** What is served now. */
  readonly kinds: () => readonly Kind[];
  /** Who knows users' rights; undefined before there is one. */
  readonly authorizer: () => Authorizer | undefined;
}

type Webhook = Frozen<MutatingWebhook>;

interface Hook {
  readonly configuration: string;
  readonly webhook: Webhook;
  readonly criteria: Criteria;
}

/** A hook and the version of the request's kind in which it is asked. */
interface Call {
  readonly hook: Hook;
  readonly as: Kind;
}

/** All webhooks of one sort, in order, with what each target needs of them: kept while no configuration changes. */
class Hooks {
  readonly #hooks: readonly Hook[];
  readonly #byTarget = new Map<string, readonly Call[]>();

  constructor(
    configurations: readonly Frozen<AnyObject>[],
    readonly kinds: readonly Kind[],
  ) {
    const name = (o: Frozen<AnyObject>) => o.metadata?.name ?? '';
    this.#hooks = [...configurations]
      .sort((a, b) => (name(a) < name(b) ? -1 : 1))
      .flatMap((o) =>
        ((o['webhooks'] ?? []) as readonly Webhook[]).map((webhook) => ({
          configuration: name(o),
          webhook,
          criteria: webhook as Criteria,
        })),
      );
  }

  of(target: Target): readonly Call[] {
    const { operation, kind, subresource = '' } = target;
    const key = `${operation} ${kind.group}/${kind.version}/${kind.plural}/${subresource}`;
    let calls = this.#byTarget.get(key);
    if (!calls) {
      calls = this.#hooks.flatMap((hook) => {
        const as = matchedKind(hook.criteria, target, this.kinds);
        return as ? [{ hook, as }] : [];
      });
      this.#byTarget.set(key, calls);
    }
    return calls;
  }
}

const NONE: readonly Call[] = [];

/** Configurations of one kind, as the world has them now. */
class Configured {
  readonly #known = new WeakMap<readonly object[], Hooks>();

  constructor(
    private readonly kind: Kind,
    private readonly kinds: () => readonly Kind[],
  ) {}

  calls(target: Target, world: World): readonly Call[] {
    const list = world.list(this.kind);
    if (list.length === 0) return NONE;
    let hooks = this.#known.get(list);
    if (!hooks || hooks.kinds !== this.kinds()) {
      hooks = new Hooks(list, this.kinds());
      this.#known.set(list, hooks);
    }
    return hooks.of(target);
  }
}

/** All webhooks that one write asks, together, as Kubernetes' request timeout: a client has given up by then. */
const REQUEST_MS = 60_000;

/** A call without a usable answer. */
class CallFailed extends Error {}

/** What both sorts share: whether a hook is asked, and the call. */
class Caller {
  constructor(private readonly parts: ExternalParts) {}

  /** False when labels or conditions leave the hook out. Throws Forbidden when that cannot be found out and must be. */
  wanted({ hook }: Call, request: Request, facts: Facts): boolean {
    if (!selected(hook.criteria, request)) return false;
    try {
      return conditionsHold(hook.webhook.matchConditions, () => facts.values);
    } catch (e) {
      if (e instanceof Unconverted) throw e;
      if (hook.webhook.failurePolicy === 'Ignore') return false;
      throw forbidden(request, (e as Error).message);
    }
  }

  facts(request: Request, as: Kind): Facts {
    return new Facts(request, as, this.parts.authorizer());
  }

  /** Asks; undefined when there was no usable answer and that does not matter. Throws the denial, or InternalError. */
  async ask(
    { hook, as }: Call,
    request: Request,
    mutating: boolean,
    deadline: number,
  ): Promise<Verdict | undefined> {
    const { name, failurePolicy } = hook.webhook;
    let verdict: Verdict;
    try {
      verdict = await this.#call(hook.webhook, as, request, mutating, deadline);
    } catch (e) {
      if (!(e instanceof CallFailed)) throw e;
      const why = `failed calling webhook ${JSON.stringify(name)}: ${e.message}`;
      if (failurePolicy !== 'Ignore') throw internalError(why);
      this.parts.log.warn({ webhook: name, configuration: hook.configuration, why }, 'webhook failed open');
      if (this.parts.clock.monotonic() >= deadline)
        throw new ApiError('Timeout', 'request did not complete within requested timeout');
      request.annotate(
        `failed-open.${mutating ? 'mutating' : 'validating'}.webhook.admission.k8s.io/${name}`,
        name,
      );
      return undefined;
    }
    for (const [key, value] of verdict.annotations) request.annotate(`${name}/${key}`, value);
    for (const w of verdict.warnings) request.warn(w);
    if (!verdict.allowed) throw denial(name, verdict.status);
    return verdict;
  }

  async #call(
    webhook: Webhook,
    as: Kind,
    request: Request,
    mutating: boolean,
    deadline: number,
  ): Promise<Verdict> {
    const { clock } = this.parts;
    const version = reviewVersion(webhook.admissionReviewVersions as readonly string[]);
    if (!version)
      throw new CallFailed('webhook does not accept known AdmissionReview versions (v1, v1beta1)');
    const uid = randomUUID();
    const left = deadline - clock.monotonic();
    if (left <= 0) throw new CallFailed('failed to call webhook: context deadline exceeded');
    const timeout = Math.min((webhook.timeoutSeconds ?? 10) * 1000, left);
    try {
      const directory = {
        world: request.world,
        kinds: this.parts.kinds,
        random: () => clock.random(),
      };
      const at = endpointOf(webhook.clientConfig, directory, Math.ceil(timeout / 1000));
      const body = await settled(() => reviewBody(version, uid, request, as));
      const answer = await post(at, body, timeout, clock);
      return readAnswer(answer, version, uid, mutating);
    } catch (e) {
      throw new CallFailed(callProblem(e));
    }
  }
}

/** After a restart nobody has needed the language yet. */
const loadFor = async (calls: readonly Call[]): Promise<void> => {
  if (calls.some(({ hook }) => hook.webhook.matchConditions?.length)) await loadCel();
};

const plugin = (kind: object, parts: ExternalParts) => {
  const configured = new Configured(kind as Kind, parts.kinds);
  return {
    configured,
    caller: new Caller(parts),
    handles: (t: Target) => !isExempt(t.kind),
    waits: (t: Target, world: World) => configured.calls(t, world).length > 0,
  };
};

/** What a request's mutating webhooks did, from one round to the next. */
interface Progress {
  readonly deadline: number;
  readonly rounds: Reinvocation<Hook>;
}

export function mutatingWebhooks(parts: ExternalParts): Plugin {
  const { configured, caller, handles, waits } = plugin(mutatingWebhookConfigurations, parts);
  const progress = new WeakMap<Request, Progress>();

  async function mutate(request: Request, calls: readonly Call[]): Promise<void> {
    let p = progress.get(request);
    if (!p) {
      p = { deadline: parts.clock.monotonic() + REQUEST_MS, rounds: new Reinvocation(request) };
      progress.set(request, p);
    }
    await loadFor(calls);
    const { rounds, deadline } = p;
    rounds.begin();
    const facts = new Map<Kind, Facts>();
    for (const call of calls) {
      const { hook, as } = call;
      let seen = facts.get(as);
      if (!seen) {
        seen = caller.facts(request, as);
        facts.set(as, seen);
      }
      const using = seen;
      if (!(await settled(() => caller.wanted(call, request, using)))) continue;
      if (rounds.skips(hook)) continue;
      const verdict = await caller.ask(call, request, true, deadline);
      const patch = verdict?.patch;
      if (patch && (await settled(() => applyPatch(request, call, patch)))) {
        facts.clear();
        rounds.changed();
      }
      if (hook.webhook.reinvocationPolicy === 'IfNeeded') rounds.asked(hook);
    }
    rounds.end();
  }

  return {
    name: 'MutatingAdmissionWebhook',
    handles,
    waits,
    mutate(request) {
      const calls = configured.calls(request, request.world);
      return calls.length ? mutate(request, calls) : undefined;
    },
  };
}

/**
 * Puts the patched object in its place; false when nothing changed. Throws InternalError for a patch that breaks it, and
 * Unconverted.
 */
function applyPatch(request: Request, { hook, as }: Call, patch: readonly unknown[]): boolean {
  const { name } = hook.webhook;
  const { kind, object } = request;
  if (!object)
    throw internalError(
      `admission webhook ${JSON.stringify(name)} attempted to modify the object, which is not supported for this operation`,
    );
  let next: AnyObject;
  try {
    const from = asVersion(request, object, kind, as);
    next = jsonPatch(deepCopy(from) as Record<string, unknown>, patch) as AnyObject;
    next = readPatched(request, as, from, next).object;
  } catch (e) {
    if (e instanceof Unconverted) throw e;
    throw internalError((e as Error).message);
  }
  if (deepEqual(next, object)) return false;
  request.object = next;
  return true;
}

export function validatingWebhooks(parts: ExternalParts): Plugin {
  const { configured, caller, handles, waits } = plugin(validatingWebhookConfigurations, parts);

  async function validate(request: Request, calls: readonly Call[]): Promise<void> {
    await loadFor(calls);
    const facts = new Map<Kind, Facts>();
    const wanted = await settled(() =>
      calls.filter((call) => {
        let seen = facts.get(call.as);
        if (!seen) {
          seen = caller.facts(request, call.as);
          facts.set(call.as, seen);
        }
        return caller.wanted(call, request, seen);
      }),
    );
    const deadline = parts.clock.monotonic() + REQUEST_MS;
    const results = await Promise.allSettled(
      wanted.map((call) => caller.ask(call, request, false, deadline)),
    );
    for (const r of results) if (r.status === 'rejected') throw r.reason;
  }

  return {
    name: 'ValidatingAdmissionWebhook',
    handles,
    waits,
    validate(request) {
      const calls = configured.calls(request, request.world);
      return calls.length ? validate(request, calls) : undefined;
    },
  };
}
