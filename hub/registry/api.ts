import type { Kind } from '../../api/kinds/kind.js';
import type { AnyObject, KubeObject, ObjectKey } from '../../api/meta/object.js';
import type {
  Client,
  DeleteOptions,
  Frozen,
  KindTable,
  ListOptions,
  Watcher,
  WatchOptions,
} from '../client.js';

/** Fields that a body has more than once. */
export interface Duplicates {
  /** As warnings have it: `duplicate field "spec.replicas"`. */
  readonly texts: string[];
  /** Where each field of a JSON body stands, by its path in quotes; filled when some are there twice. */
  readonly order: Map<string, number>;
}

/** Who asks, and how: carried through every verb. */
export interface RequestContext {
  readonly user: string;
  readonly groups: readonly string[];
  readonly uid?: string;
  readonly extra?: Readonly<Record<string, readonly string[]>>;
  /** `dryRun=All`: everything is checked and answered, nothing is written. */
  readonly dryRun?: boolean;
  /**
   * Who comes to own the fields that are written (`metadata.managedFields`). Absent for the hub's own parts: what they
   * write belongs to nobody.
   */
  readonly fieldManager?: string;
  readonly duplicates?: Duplicates;
  /** Rejects when the user may not create: asked before an apply makes an object. */
  readonly checkCreate?: () => void | Promise<void>;
  /** Of a get: the answer must not be older. */
  readonly resourceVersion?: string;
  /** What to do about unknown and duplicate fields; absent: `Warn`, as Kubernetes does. */
  readonly fieldValidation?: 'Strict' | 'Warn' | 'Ignore';
  /** Texts for the `Warning` response header; verbs append. */
  readonly warnings: string[];
}

/** Answers an object of a kind that is not stored, or a part of one; gets and gives the whole object. */
export type Answer = (ctx: RequestContext, o: AnyObject, namespace: string | undefined) => Promise<AnyObject>;

/** Where the objects of a kind come from that are read and never stored: asked anew each time. Rejects with ApiError. */
export interface Source {
  get(ctx: RequestContext, key: ObjectKey): Promise<KubeObject>;
  /** In the order of their keys; selectors are the source's business, checked before. */
  list(ctx: RequestContext, query: ListQuery): Promise<KubeObject[]>;
}

/** A write that is about to happen. `next` is what is stored after it (what is deleted, for a delete). */
export interface GuardedWrite {
  verb: 'create' | 'update' | 'delete';
  kind: Kind;
  subresource?: Subresource;
  next: AnyObject;
  current?: AnyObject;
}

/** Throws when who writes may not write this; asked on every write, after validation. */
export type Guard = (ctx: RequestContext, write: GuardedWrite) => void;

export type Subresource = 'status' | 'scale' | 'finalize' | 'approval' | 'ephemeralcontainers' | 'resize';

/** `namespace` absent on a namespaced kind: all namespaces. */
export interface ListQuery extends ListOptions {
  limit?: number;
  continue?: string;
  resourceVersion?: string;
  resourceVersionMatch?: 'Exact' | 'NotOlderThan';
}

export interface ListResult {
  readonly items: readonly Frozen<AnyObject>[];
  /** Empty for what is not stored. */
  readonly resourceVersion: string;
  readonly continue?: string;
  readonly remainingItemCount?: number;
}

export interface WatchQuery extends WatchOptions {
  allowWatchBookmarks?: boolean;
  /** Ms until whoever asks ends the watch: a bookmark comes shortly before, so that the next one begins late. */
  endsIn?: number;
  /** Streaming lists: synthetic ADDED events, then a bookmark annotated `k8s.io/initial-events-end`. */
  sendInitialEvents?: boolean;
}

export const PATCH_TYPES = {
  json: 'application/json-patch+json',
  merge: 'application/merge-patch+json',
  strategic: 'application/strategic-merge-patch+json',
  apply: 'application/apply-patch+yaml',
} as const;

export interface DeleteResult {
  /** The object as it is now (being deleted), or as it last was (removed). */
  readonly object: Frozen<AnyObject>;
  /** Gone from the store: answer `Status` Success. Otherwise answer the object: it ends later (grace, finalizers). */
  readonly removed: boolean;
}

/**
 * All verbs for all kinds. Every method throws or rejects with ApiError and nothing else, but for `get` and `list` of a
 * kind whose versions a webhook converts, which are to be run by `settled` (unconverted.ts). Objects given out are frozen
 * and shared.
 */
export interface RegistryVerbs extends KindTable {
  /** The store's revision now, as a resourceVersion. */
  readonly resourceVersion: string;
  kindFor(group: string, version: string, plural: string): Kind | undefined;

  get(ctx: RequestContext, kind: Kind, key: ObjectKey, subresource?: Subresource): Frozen<AnyObject>;
  list(ctx: RequestContext, kind: Kind, query: ListQuery): ListResult;
  /** {@link get} and {@link list} of a kind that is not stored. */
  ask(ctx: RequestContext, kind: Kind, key: ObjectKey): Promise<Frozen<AnyObject>>;
  askAll(ctx: RequestContext, kind: Kind, query: ListQuery): Promise<ListResult>;
  watch(ctx: RequestContext, kind: Kind, query: WatchQuery): Watcher<Frozen<AnyObject>>;
  /**
   * `body` is what JSON.parse returned, of whatever shape; it belongs to the registry from then on. So for the other
   * verbs that take a body.
   */
  create(
    ctx: RequestContext,
    kind: Kind,
    namespace: string | undefined,
    body: unknown,
  ): Promise<Frozen<AnyObject>>;
  /** POST pods/NAME/binding with a core/v1 Binding. */
  bind(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<void>;
  /**
   * Asks admission whether somebody may connect to a pod or Service, with PodExecOptions or its like, and then
   * `ctx.checkCreate`.
   */
  connect(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    subresource: string,
    options: AnyObject,
  ): Promise<void>;
  /** POST serviceaccounts/NAME/token with an authentication.k8s.io/v1 TokenRequest. */
  requestToken(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<AnyObject>;
  /** POST pods/NAME/eviction with a policy/v1 Eviction. */
  evict(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<void>;
  update(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    body: unknown,
    subresource?: Subresource,
  ): Promise<Frozen<AnyObject>>;
  patch(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    type: string,
    body: unknown,
    subresource?: Subresource,
  ): Promise<Frozen<AnyObject>>;
  /**
   * Server-side apply for `ctx.fieldManager`; makes the object when it is not there. `force` takes over what others own
   * and the body changes; without it that is a Conflict.
   */
  apply(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    body: unknown,
    options: { force: boolean },
    subresource?: Subresource,
  ): Promise<{ object: Frozen<AnyObject>; created: boolean }>;
  delete(ctx: RequestContext, kind: Kind, key: ObjectKey, options: DeleteOptions): Promise<DeleteResult>;
  /** Deletes all that match; the list is as it was before. */
  deleteCollection(
    ctx: RequestContext,
    kind: Kind,
    query: ListQuery,
    options: DeleteOptions,
  ): Promise<ListResult>;
  /** Reads a `DeleteOptions` body (or nothing) and query parameters of the same names; throws BadRequest. */
  deleteOptions(body: unknown, query: Readonly<Record<string, string | undefined>>): DeleteOptions;
  /** The narrow door for scheduler, controllers and link, acting as `user`. */
  client(user?: string): Client;
}
