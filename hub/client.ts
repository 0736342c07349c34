import type { Kind } from '../api/kinds/kind.js';
import type { KubeObject, ObjectKey } from '../api/meta/object.js';

/** Deeply read-only: objects from the registry are shared and frozen; `structuredClone` before changing one. */
export type Frozen<T> = T extends (infer U)[]
  ? readonly Frozen<U>[]
  : T extends object
    ? { readonly [K in keyof T]: Frozen<T[K]> }
    : T;

export interface ListOptions {
  namespace?: string;
  /** Kubernetes' selector text, e.g. `app=web,tier!=db`. */
  labelSelector?: string;
  /** Kubernetes' field selector text, e.g. `spec.nodeName=pi1`. */
  fieldSelector?: string;
}

export interface WatchOptions extends ListOptions {
  /** Deliver changes after this revision; absent: synthetic ADDED events for all that exists first. */
  resourceVersion?: string;
}

export type WatchEvent<T> =
  | { type: 'ADDED' | 'MODIFIED' | 'DELETED'; object: T }
  | { type: 'BOOKMARK'; object: KubeObject };

/** The kinds that are served now: custom kinds come and go. */
export interface KindTable {
  /** Another array after every change; its order is that of discovery. */
  readonly kinds: readonly Kind[];
  /** Calls `listener` after every change. */
  onKinds(listener: () => void): void;
}

/** What the quotas of a namespace come to, as admission counts it. */
export interface QuotaUsage {
  /** `status` by name of the quota. */
  statusOf(
    namespace: string,
  ): ReadonlyMap<string, { hard: Record<string, string>; used: Record<string, string> }>;
  /** Ms until something changes though nobody writes; undefined: nothing will. */
  changesIn(namespace: string): number | undefined;
  /** Calls `listener` after what is used in a namespace changed. */
  onUsage(listener: (namespace: string, quotas: readonly string[]) => void): void;
}

/** Ends when `close` is called or when the watcher fell too far behind (then it throws ApiError 'Expired'). */
export interface Watcher<T> extends AsyncIterable<WatchEvent<T>> {
  close(): void;
}

export interface DeleteOptions {
  gracePeriodSeconds?: number;
  uid?: string;
  resourceVersion?: string;
  propagationPolicy?: 'Background' | 'Foreground' | 'Orphan';
  /** Everything is checked and answered, nothing is deleted. */
  dryRun?: boolean;
}

/**
 * The narrow door through which scheduler, controllers and link read and write the cluster; a remote client has the
 * same one. Every method rejects with ApiError. Reads come from memory. Writers that pass a `metadata.resourceVersion`
 * get compare-and-swap.
 */
export interface Client {
  get<T extends KubeObject>(kind: Kind<T>, key: ObjectKey): Promise<Frozen<T>>;
  list<T extends KubeObject>(
    kind: Kind<T>,
    options?: ListOptions,
  ): Promise<{ items: Frozen<T>[]; resourceVersion: string }>;
  watch<T extends KubeObject>(kind: Kind<T>, options?: WatchOptions): Watcher<Frozen<T>>;
  create<T extends KubeObject>(kind: Kind<T>, object: T): Promise<Frozen<T>>;
  update<T extends KubeObject>(kind: Kind<T>, object: T): Promise<Frozen<T>>;
  updateStatus<T extends KubeObject>(kind: Kind<T>, object: T): Promise<Frozen<T>>;
  /**
   * A JSON merge patch (RFC 7386) of the object, or of its status when `subresource` is 'status', or of a terminating
   * Namespace's `spec.finalizers` when it is 'finalize' (the last one taken away removes the Namespace), or of a
   * CertificateSigningRequest's conditions when it is 'approval'.
   */
  patch<T extends KubeObject>(
    kind: Kind<T>,
    key: ObjectKey,
    patch: object,
    subresource?: 'status' | 'finalize' | 'approval',
  ): Promise<Frozen<T>>;
  /** Sets `spec.nodeName`, as the pods/binding subresource does; rejects with Conflict when already bound. */
  bind(pod: ObjectKey & { uid: string }, nodeName: string): Promise<void>;
  delete<T extends KubeObject>(kind: Kind<T>, key: ObjectKey, options?: DeleteOptions): Promise<void>;
}
