import type { Kind } from '../../../api/kinds/kind.js';
import { ApiError, qualifiedResource } from '../../../api/meta/errors.js';
import type { AnyObject, ObjectKey } from '../../../api/meta/object.js';
import type { DeleteOptions, Frozen } from '../../client.js';
import type { RequestContext } from '../api.js';

export type Operation = 'CREATE' | 'UPDATE' | 'DELETE' | 'CONNECT';

/** What plugins may read: from memory, at once. */
export interface World {
  /** Undefined when there is none. */
  get(kind: Kind, key: ObjectKey): Frozen<AnyObject> | undefined;
  /**
   * All objects of a kind (of one namespace), the same array again while none of that kind changes. For kinds that are
   * few and change rarely: policies, classes, configurations.
   */
  list(kind: Kind, namespace?: string): readonly Frozen<AnyObject>[];
  /** The same, of any kind and found anew. */
  scan(kind: Kind, namespace?: string): Frozen<AnyObject>[];
  /** All kinds that are served now. */
  kinds(): readonly Kind[];
}

/** Resource, operation and door of a request: what decides which plugins are asked. */
export interface Target {
  readonly operation: Operation;
  readonly kind: Kind;
  /** `status`, `scale`, `binding`, `eviction`, `token` …; absent for the main door. */
  readonly subresource?: string;
}

/** Which meta/v1 options a request came with. */
export type OptionsKind = 'CreateOptions' | 'UpdateOptions' | 'PatchOptions' | 'DeleteOptions';

interface RequestParts extends Target {
  namespace: string | undefined;
  name: string;
  object: AnyObject | undefined;
  oldObject: Frozen<AnyObject> | undefined;
  ctx: RequestContext;
  world: World;
  optionsKind: OptionsKind;
  /** Of a delete. */
  deleteOptions?: DeleteOptions;
}

/** One write on its way through the chain (Kubernetes' admission.Attributes). */
export class Request implements Target {
  readonly operation: Operation;
  readonly kind: Kind;
  readonly subresource?: string;
  readonly namespace: string | undefined;
  /** '' for a create that leaves the name to the server, until it has one. */
  name: string;
  /**
   * What is to be stored, or the body of a subresource (Binding, Eviction, TokenRequest, Scale); with its defaults.
   * Undefined for deletes. Mutating plugins change it in place or put another in its place, validating ones leave it.
   */
  object: AnyObject | undefined;
  /** What is there now; undefined for creates. */
  readonly oldObject: Frozen<AnyObject> | undefined;
  /** Who asks; whether it is a dry run. Warnings are appended to `ctx.warnings`. */
  readonly ctx: RequestContext;
  readonly world: World;
  /** Whether nothing will be written. */
  readonly dryRun: boolean;
  readonly #options: { kind: OptionsKind; forDelete: DeleteOptions };
  /**
   * Mutating plugins run once more when one of them asks for it after it changed the object (a webhook): it sets `again`,
   * and tells the second time by `round`.
   */
  round: 1 | 2 = 1;
  again = false;
  #audit: Map<string, string> | undefined;
  #undo: (() => void)[] | undefined;

  constructor(parts: RequestParts) {
    this.operation = parts.operation;
    this.kind = parts.kind;
    if (parts.subresource) this.subresource = parts.subresource;
    this.namespace = parts.namespace;
    this.name = parts.name;
    this.object = parts.object;
    this.oldObject = parts.oldObject;
    this.ctx = parts.ctx;
    this.world = parts.world;
    this.#options = { kind: parts.optionsKind, forDelete: parts.deleteOptions ?? {} };
    this.dryRun = (parts.ctx.dryRun || parts.deleteOptions?.dryRun) === true;
  }

  /** CreateOptions, UpdateOptions, PatchOptions or DeleteOptions (meta.k8s.io/v1), as the client gave them. */
  get options(): Readonly<Record<string, unknown>> {
    const { fieldManager, fieldValidation } = this.ctx;
    const { kind, forDelete } = this.#options;
    const { gracePeriodSeconds, propagationPolicy, uid, resourceVersion } = forDelete;
    const preconditions = { ...(uid ? { uid } : {}), ...(resourceVersion ? { resourceVersion } : {}) };
    return {
      kind,
      apiVersion: 'meta.k8s.io/v1',
      ...(this.dryRun ? { dryRun: ['All'] } : {}),
      ...(kind === 'DeleteOptions'
        ? {
            ...(gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds }),
            ...(propagationPolicy ? { propagationPolicy } : {}),
            ...(uid || resourceVersion ? { preconditions } : {}),
          }
        : {
            ...(fieldManager ? { fieldManager } : {}),
            ...(fieldValidation ? { fieldValidation } : {}),
          }),
    };
  }

  /** What an audit log would say, by `<plugin>/<key>`. */
  get audit(): ReadonlyMap<string, string> | undefined {
    return this.#audit;
  }

  annotate(key: string, value: string): void {
    this.#audit ??= new Map();
    this.#audit.set(key, value);
  }

  warn(text: string): void {
    if (!this.ctx.warnings.includes(text)) this.ctx.warnings.push(text);
  }

  /** `take` runs when the write does not happen after all: it takes back what a plugin charged. */
  onFailure(take: () => void): void {
    this.#undo ??= [];
    this.#undo.push(take);
  }

  /** Takes everything back, the last first. */
  failed(): void {
    for (const take of this.#undo?.splice(0).reverse() ?? []) take();
  }
}

/** Of a step that answers at once: undefined. */
export type Step = Promise<void> | undefined | void;

/**
 * One step of the chain. `mutate` runs on what the client sent, after defaults and before validation; `validate` on what
 * would be stored, after it. Both throw ApiError to refuse.
 */
export interface Plugin {
  /** Kubernetes' name, e.g. `LimitRanger`. */
  readonly name: string;
  /** Whether it ever has a say about such requests; asked once per target. */
  handles(target: Target): boolean;
  /**
   * Whether it may have to wait for others than this process. Such a write holds up no other one of the same object; it
   * starts anew when the object changed meanwhile. Asked for every request: cheap.
   */
  waits?(target: Target, world: World): boolean;
  mutate?(request: Request): Step;
  validate?(request: Request): Step;
  /** After every write of any kind: `now` is undefined after a removal, `before` after a creation. Never throws. */
  committed?(kind: Kind, now: Frozen<AnyObject> | undefined, before: Frozen<AnyObject> | undefined): void;
}

/** `pods "web" is forbidden: …` (403): Kubernetes' admission.NewForbidden. */
export function forbidden({ kind, name: asked, object }: Request, why: string): ApiError {
  const name = asked || object?.metadata?.name || object?.metadata?.generateName || 'Unknown';
  return new ApiError(
    'Forbidden',
    `${qualifiedResource(kind.plural, kind.group)} ${JSON.stringify(name)} is forbidden: ${why}`,
    { name, ...(kind.group ? { group: kind.group } : {}), kind: kind.plural },
  );
}

/** Kinds as the tables have them, for comparing with a request's. */
export const same = (kind: Kind, declared: object): boolean => (kind as object) === declared;
