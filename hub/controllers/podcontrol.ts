import type { Pod, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import { pods } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ApiError, isApiError } from '../../api/meta/errors.js';
import { deepCopy } from '../../api/meta/json.js';
import { type KubeObject, keyOf } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import type { EventRecorder } from '../events.js';
import type { Informer } from '../informer.js';
import { controllerRef } from './adopt.js';
import { Expectations } from './expectations.js';
import { type Context, errorText, type Keys } from './loop.js';
import { controllerOf, isActive } from './pods.js';

/** The pod that a template describes, owned by `owner`; without a name unless it is given one. */
export function podFrom(
  kind: Kind<never> | Kind,
  owner: Frozen<KubeObject>,
  template: Frozen<PodTemplateSpec> | undefined,
): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace: owner.metadata!.namespace,
      // Kubernetes cuts the name so that five random characters fit.
      generateName: `${owner.metadata!.name!.slice(0, 247)}-`,
      labels: { ...template?.metadata?.labels },
      annotations: { ...template?.metadata?.annotations },
      finalizers: [...(template?.metadata?.finalizers ?? [])],
      ownerReferences: [controllerRef(kind, owner)],
    },
    spec: deepCopy(template?.spec) as Pod['spec'],
  };
}

/** The namespace is being deleted: no use in trying again. */
export const isTerminating = (e: unknown): boolean =>
  e instanceof ApiError && e.reason === 'Forbidden' && e.message.includes('being terminated');

/** Creates and deletes the pods of one kind's objects, tells of it, and remembers what has not been seen done yet. */
export class PodControl<T extends KubeObject> {
  readonly expectations: Expectations;
  /** uid → key, to find the owner that a controller reference means. */
  readonly #byUid = new Map<string, string>();

  constructor(
    private readonly ctx: Context,
    private readonly kind: Kind<T>,
    private readonly events: EventRecorder,
  ) {
    this.expectations = new Expectations(ctx.clock);
  }

  /** Queues an owner when it, or a pod of its, changes; and those that `takers` says would take an orphan. */
  follow(
    owners: Informer<T>,
    allPods: Informer<Pod>,
    keys: Keys,
    takers: (orphan: Frozen<Pod>) => Iterable<Frozen<T>>,
  ): void {
    owners.onChange((key, now, before) => {
      const uid = (o: Frozen<T> | undefined) => (o as Frozen<KubeObject> | undefined)?.metadata?.uid;
      if (before && uid(before) !== uid(now)) {
        this.#byUid.delete(uid(before)!);
        this.expectations.forget(key);
      }
      if (now) this.#byUid.set(uid(now)!, key);
      keys.add(key);
    });
    allPods.onChange((_, now, before) => {
      const owner = this.ownerKey(now);
      const formerly = this.ownerKey(before);
      if (formerly && formerly !== owner) keys.add(formerly);
      const uid = (now ?? before)!.metadata!.uid!;
      if (owner && !before) this.expectations.created(owner);
      if (!now && formerly) this.expectations.deleted(formerly, uid);
      if (now?.metadata?.deletionTimestamp && owner) this.expectations.deleted(owner, uid);
      if (owner) keys.add(owner);
      else if (now && !controllerOf(now) && isActive(now))
        for (const o of takers(now)) keys.add(keyOf(o as KubeObject));
    });
  }

  /** The key of the object that controls the pod, if it is one of this kind that exists. */
  ownerKey(p: Frozen<Pod> | undefined): string | undefined {
    const uid = p && controllerOf(p)?.uid;
    return uid === undefined ? undefined : this.#byUid.get(uid);
  }

  #tell(owner: Frozen<T>, type: 'Normal' | 'Warning', reason: string, message: string): void {
    this.events.tell(this.kind, owner as T, type, reason, message);
  }

  /**
   * Makes the pods in batches that double: when the first fails, a thousand more would as well. Rejects with the first
   * failure; what was not tried is not expected.
   */
  async create(owner: Frozen<T>, wanted: readonly Pod[]): Promise<void> {
    if (wanted.length === 0) return;
    const key = keyOf(owner as KubeObject);
    const create = async (pod: Pod) => {
      try {
        const made = await this.ctx.client.create(pods, pod);
        this.#tell(owner, 'Normal', 'SuccessfulCreate', `Created pod: ${made.metadata!.name}`);
      } catch (e) {
        this.expectations.created(key);
        if (!isTerminating(e))
          this.#tell(owner, 'Warning', 'FailedCreate', `Error creating: ${errorText(e)}`);
        throw e;
      }
    };
    this.expectations.expectCreations(key, wanted.length);
    for (let done = 0, batch = 1; done < wanted.length; batch *= 2) {
      const results = await Promise.allSettled(wanted.slice(done, done + batch).map(create));
      done += results.length;
      const failed = results.find((r) => r.status === 'rejected');
      if (failed) {
        this.expectations.created(key, wanted.length - done);
        throw (failed as PromiseRejectedResult).reason;
      }
    }
  }

  /** Deletes the pods; those that are gone already are fine. Rejects with the first failure, after all were tried. */
  async delete(owner: Frozen<T>, doomed: readonly Frozen<Pod>[]): Promise<void> {
    if (doomed.length === 0) return;
    const key = keyOf(owner as KubeObject);
    this.expectations.expectDeletions(
      key,
      doomed.map((p) => p.metadata!.uid!),
    );
    const results = await Promise.allSettled(
      doomed.map(async (p) => {
        const { namespace, name, uid } = p.metadata!;
        try {
          await this.ctx.client.delete(pods, { namespace, name: name! }, { uid });
          this.#tell(owner, 'Normal', 'SuccessfulDelete', `Deleted pod: ${name}`);
        } catch (e) {
          this.expectations.deleted(key, uid!);
          if (isApiError(e, 'NotFound')) return;
          this.#tell(owner, 'Warning', 'FailedDelete', `Error deleting: ${errorText(e)}`);
          throw e;
        }
      }),
    );
    const failed = results.find((r) => r.status === 'rejected');
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }
}
