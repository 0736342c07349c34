import type { ReplicaSet, ReplicaSetCondition, ReplicaSetStatus } from 'kubernetes-types/apps/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { pods, replicaSets } from '../../api/kinds/index.js';
import { ApiError, isApiError } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import { keyOf } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { claim, controllerRef } from './adopt.js';
import { Expectations } from './expectations.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';
import { availableIn, controllerOf, isActive, isReady, leastValuableFirst, podsOf } from './pods.js';

type Rs = Frozen<ReplicaSet>;

/** Pods created or deleted in one go. */
const BURST = 500;

/** Keeps as many pods of a template as `spec.replicas` says. */
export function replicaSetLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('replicaset-controller');
  const expectations = new Expectations(clock);
  const allPods = podsOf(informers);
  const all = informers.of(replicaSets).index('namespace', (rs) => [rs.metadata!.namespace!]);
  /** uid → key, to find the ReplicaSet that a controller reference means. */
  const byUid = new Map<string, string>();

  all.onChange((key, now, before) => {
    if (!now) {
      byUid.delete(before!.metadata!.uid!);
      expectations.forget(key);
    } else byUid.set(now.metadata!.uid!, key);
    keys.add(key);
  });

  const ownerOf = (p: Frozen<Pod> | undefined): string | undefined => {
    const uid = p && controllerOf(p)?.uid;
    return uid === undefined ? undefined : byUid.get(uid);
  };
  allPods.onChange((_, now, before) => {
    const owner = ownerOf(now);
    const formerly = ownerOf(before);
    if (formerly && formerly !== owner) keys.add(formerly);
    const uid = (now ?? before)!.metadata!.uid!;
    if (owner && !before) expectations.created(owner);
    if (!now && formerly) expectations.deleted(formerly, uid);
    if (now?.metadata?.deletionTimestamp && owner) expectations.deleted(owner, uid);
    if (owner) keys.add(owner);
    else if (now && !controllerOf(now) && isActive(now))
      for (const rs of all.by('namespace', now.metadata!.namespace!))
        if (matchesSelector(rs.spec?.selector as never, now.metadata?.labels as never))
          keys.add(keyOf(rs as ReplicaSet));
  });

  async function createPods(rs: Rs, n: number): Promise<void> {
    const key = keyOf(rs as ReplicaSet);
    const template = rs.spec!.template!;
    const create = async () => {
      try {
        const pod = await client.create(pods, {
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: {
            namespace: rs.metadata!.namespace,
            // Kubernetes cuts the name so that five random characters fit.
            generateName: `${rs.metadata!.name!.slice(0, 247)}-`,
            labels: { ...template.metadata?.labels },
            annotations: { ...template.metadata?.annotations },
            finalizers: [...(template.metadata?.finalizers ?? [])],
            ownerReferences: [controllerRef(replicaSets as never, rs)],
          },
          spec: deepCopy(template.spec) as Pod['spec'],
        });
        events.tell(
          replicaSets,
          rs as ReplicaSet,
          'Normal',
          'SuccessfulCreate',
          `Created pod: ${pod.metadata!.name}`,
        );
      } catch (e) {
        expectations.created(key);
        if (!isTerminating(e))
          events.tell(
            replicaSets,
            rs as ReplicaSet,
            'Warning',
            'FailedCreate',
            `Error creating: ${errorText(e)}`,
          );
        throw e;
      }
    };
    expectations.expectCreations(key, n);
    // Batches that double: when the first fails, a thousand more would as well.
    for (let done = 0, batch = 1; done < n; batch *= 2) {
      const size = Math.min(batch, n - done);
      const results = await Promise.allSettled(Array.from({ length: size }, create));
      done += size;
      const failed = results.find((r) => r.status === 'rejected');
      if (failed) {
        expectations.created(key, n - done);
        throw (failed as PromiseRejectedResult).reason;
      }
    }
  }

  async function deletePods(rs: Rs, mine: readonly Frozen<Pod>[], n: number): Promise<void> {
    const key = keyOf(rs as ReplicaSet);
    const perNode = new Map<string, number>();
    for (const p of mine) perNode.set(p.spec?.nodeName ?? '', (perNode.get(p.spec?.nodeName ?? '') ?? 0) + 1);
    const doomed = leastValuableFirst(mine, (node) => perNode.get(node) ?? 0, clock.now()).slice(0, n);
    expectations.expectDeletions(
      key,
      doomed.map((p) => p.metadata!.uid!),
    );
    const results = await Promise.allSettled(
      doomed.map(async (p) => {
        const { namespace, name, uid } = p.metadata!;
        try {
          await client.delete(pods, { namespace, name: name! }, { uid });
          events.tell(replicaSets, rs as ReplicaSet, 'Normal', 'SuccessfulDelete', `Deleted pod: ${name}`);
        } catch (e) {
          expectations.deleted(key, uid!);
          if (isApiError(e, 'NotFound')) return;
          events.tell(
            replicaSets,
            rs as ReplicaSet,
            'Warning',
            'FailedDelete',
            `Error deleting: ${errorText(e)}`,
          );
          throw e;
        }
      }),
    );
    const failed = results.find((r) => r.status === 'rejected');
    if (failed) throw (failed as PromiseRejectedResult).reason;
  }

  return async (key) => {
    const rs = all.get(key);
    if (!rs) return undefined;
    const wait = expectations.wait(key);
    const claimed = await claim(
      client,
      replicaSets,
      rs,
      pods,
      allPods.by('controller', rs.metadata!.uid!),
      allPods.by('orphans', rs.metadata!.namespace!).filter(isActive),
    );
    const mine = claimed.filter(isActive);
    const wanted = rs.spec?.replicas ?? 1;
    let failure: unknown;
    if (wait === 0 && !rs.metadata?.deletionTimestamp) {
      const diff = wanted - mine.length;
      try {
        if (diff > 0) await createPods(rs, Math.min(diff, BURST));
        else if (diff < 0) await deletePods(rs, mine, Math.min(-diff, BURST));
      } catch (e) {
        failure = e;
      }
    }

    const now = clock.now();
    const waits = mine.map((p) => availableIn(p, rs.spec?.minReadySeconds ?? 0, now));
    const status: ReplicaSetStatus = {
      replicas: mine.length,
      fullyLabeledReplicas: mine.filter((p) =>
        Object.entries(rs.spec?.template?.metadata?.labels ?? {}).every(
          ([k, v]) => p.metadata?.labels?.[k] === v,
        ),
      ).length,
      readyReplicas: mine.filter(isReady).length,
      availableReplicas: waits.filter((w) => w === 0).length,
      observedGeneration: rs.metadata!.generation,
      conditions: conditions(rs, failure, wanted - mine.length, rfc3339(now)),
    };
    if (!status.conditions!.length) delete status.conditions;
    if (!deepEqual(status, rs.status))
      await ifThere(
        client.updateStatus(replicaSets, {
          ...(rs as ReplicaSet),
          metadata: { ...(rs as ReplicaSet).metadata, resourceVersion: undefined },
          status,
        }),
      );
    if (failure && !isTerminating(failure)) throw failure;
    const soonest = Math.min(wait || Number.POSITIVE_INFINITY, ...waits.filter((w) => w > 0));
    return Number.isFinite(soonest) ? soonest : undefined;
  };
}

function conditions(rs: Rs, failure: unknown, missing: number, at: string): ReplicaSetCondition[] {
  const others = (rs.status?.conditions ?? []).filter(
    (c) => c.type !== 'ReplicaFailure',
  ) as ReplicaSetCondition[];
  if (!failure) return others;
  const old = rs.status?.conditions?.find((c) => c.type === 'ReplicaFailure') as
    | ReplicaSetCondition
    | undefined;
  const reason = missing < 0 ? 'FailedDelete' : 'FailedCreate';
  const message = errorText(failure);
  if (old?.reason === reason && old.message === message) return [...others, old];
  return [...others, { type: 'ReplicaFailure', status: 'True', lastTransitionTime: at, reason, message }];
}

/** The namespace is being deleted: no use in trying again. */
const isTerminating = (e: unknown): boolean =>
  e instanceof ApiError && e.reason === 'Forbidden' && e.message.includes('being terminated');
