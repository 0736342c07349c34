import type { Pod, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import type { OwnerReference } from 'kubernetes-types/meta/v1.js';
import { persistentVolumeClaims, pods, statefulSets } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import { keyOf } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { claim, controllerRef } from './adopt.js';
import { historyOf, REVISION_HASH, type Revision, revisionsOf, truncateHistory } from './history.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';
import { isTerminating, PodControl } from './podcontrol.js';
import { availableIn, isReady, podsOf } from './pods.js';
import {
  claimOwner,
  claimsOf,
  ordinalOf,
  POD_NAME,
  planStateful,
  type Sts,
  specOf,
  statefulPod,
  statefulStatus,
} from './stateful.js';

const CATCH_UP_MS = 1_000;
/** Keeps pods with names, storage and an order. */
export function statefulSetLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('statefulset-controller');
  const control = new PodControl(ctx, statefulSets, events);
  const all = informers.of(statefulSets).index('namespace', (s) => [s.metadata!.namespace!]);
  const allPods = podsOf(informers);
  const revisions = revisionsOf(informers);
  const claims = informers.of(persistentVolumeClaims);
  control.follow(all, allPods, keys, (orphan) =>
    all
      .by('namespace', orphan.metadata!.namespace!)
      .filter(
        (s) =>
          matchesSelector(s.spec?.selector as never, orphan.metadata?.labels as never) &&
          ordinalOf(s, orphan) !== undefined,
      ),
  );
  // A claim that goes may be one that a pod waits for to be made anew.
  claims.onChange((key, now) => {
    if (now) return;
    const slash = key.indexOf('/');
    for (const s of all.by('namespace', key.slice(0, slash)))
      if (s.spec?.volumeClaimTemplates?.length && key.includes(`-${s.metadata!.name}-`))
        keys.add(keyOf(s as never));
  });
  /** Set → the revision of our last write to one of its pods: an older view of them is not to be acted on. */
  const written = new Map<string, number>();

  /** Does it and tells of it, in Kubernetes' words. */
  async function told<T>(
    set: Sts,
    verb: string,
    what: string,
    done: string,
    work: () => Promise<T>,
  ): Promise<T> {
    const tell = (ok: boolean, message: string) =>
      events.tell(
        statefulSets,
        set as never,
        ok ? 'Normal' : 'Warning',
        `${ok ? 'Successful' : 'Failed'}${verb}`,
        message,
      );
    try {
      const result = await work();
      tell(true, `${verb} ${what} in StatefulSet ${set.metadata!.name} ${done}`);
      return result;
    } catch (e) {
      if (!isApiError(e, 'AlreadyExists') && !isTerminating(e))
        tell(false, `${verb} ${what} in StatefulSet ${set.metadata!.name} failed error: ${errorText(e)}`);
      throw e;
    }
  }

  async function makeClaims(set: Sts, ordinal: number): Promise<void> {
    for (const { claim } of claimsOf(set, ordinal)) {
      const there = claims.get(keyOf(claim));
      const { name } = claim.metadata!;
      if (there?.metadata?.deletionTimestamp) throw new Error(`pvc ${name} is being deleted`);
      if (there) continue;
      const what = `Claim ${name} Pod ${set.metadata!.name}-${ordinal}`;
      try {
        await told(set, 'Create', what, 'success', () => client.create(persistentVolumeClaims, claim));
      } catch (e) {
        if (!isApiError(e, 'AlreadyExists')) throw e;
      }
    }
  }

  /** Owner references of claims, so that they go with the set or with a pod that is scaled away, as its policy says. */
  async function ownClaims(set: Sts, ordinal: number, pod: Frozen<Pod> | undefined): Promise<void> {
    const owner = claimOwner(set, ordinal);
    const podName = `${set.metadata!.name}-${ordinal}`;
    const isOurs = (r: Frozen<OwnerReference>) =>
      (r.kind === 'StatefulSet' && r.name === set.metadata!.name) || (r.kind === 'Pod' && r.name === podName);
    const known = [set.metadata!.uid, pod?.metadata?.uid];
    for (const { claim } of claimsOf(set, ordinal)) {
      const there = claims.get(keyOf(claim));
      const refs = there?.metadata?.ownerReferences ?? [];
      // Of an earlier set or pod of the name: the garbage collector's.
      if (!there || refs.some((r) => isOurs(r) && !known.includes(r.uid))) continue;
      const others = refs.filter((r) => !isOurs(r));
      const controlled = others.some((r) => r.controller);
      const wanted =
        owner === 'nobody' || controlled || (owner === 'pod' && !pod)
          ? []
          : [
              owner === 'set'
                ? controllerRef(statefulSets as never, set)
                : controllerRef(pods as never, pod!),
            ];
      const ours = refs.filter(isOurs);
      if (ours.length === wanted.length && ours.every((r) => r.controller && r.uid === wanted[0]!.uid))
        continue;
      await ifThere(
        client.patch(
          persistentVolumeClaims,
          { namespace: there.metadata!.namespace, name: there.metadata!.name! },
          {
            metadata: {
              uid: there.metadata!.uid,
              resourceVersion: there.metadata!.resourceVersion,
              ownerReferences: [...others, ...wanted],
            },
          },
        ),
      );
    }
  }

  /** A claim that goes with a pod of the same name that is gone: it must not be taken over. */
  const isStale = (set: Sts, ordinal: number): boolean =>
    specOf(set).persistentVolumeClaimRetentionPolicy?.whenScaled === 'Delete' &&
    claimsOf(set, ordinal).some(({ claim }) =>
      claims
        .get(keyOf(claim))
        ?.metadata?.ownerReferences?.some(
          (r) => r.kind === 'Pod' && r.name === `${set.metadata!.name}-${ordinal}`,
        ),
    );

  async function makePod(set: Sts, known: readonly Revision[], what: { ordinal: number; revision: string }) {
    if (isStale(set, what.ordinal)) return;
    const { $patch: _, ...template } = (known.find((r) => r.metadata!.name === what.revision)
      ?.data as never as {
      spec: { template: PodTemplateSpec & { $patch?: string } };
    })!.spec.template;
    await makeClaims(set, what.ordinal);
    const pod = statefulPod(set, template as Frozen<PodTemplateSpec>, what);
    const made = await told(set, 'Create', `Pod ${pod.metadata!.name}`, 'successful', () =>
      client.create(pods, pod),
    );
    written.set(keyOf(set as never), Number(made.metadata!.resourceVersion));
  }

  async function remove(set: Sts, p: Frozen<Pod>): Promise<void> {
    const { namespace, name, uid } = p.metadata!;
    await told(set, 'Delete', `Pod ${name}`, 'successful', () =>
      ifThere(client.delete(pods, { namespace, name: name! }, { uid })),
    );
  }

  async function apply(
    set: Sts,
    mine: readonly Frozen<Pod>[],
    known: readonly Revision[],
    plan: ReturnType<typeof planStateful>,
  ) {
    for (const p of mine) {
      const ordinal = ordinalOf(set, p);
      if (ordinal !== undefined && set.spec?.volumeClaimTemplates?.length) await ownClaims(set, ordinal, p);
    }
    for (const p of plan.claims) await makeClaims(set, ordinalOf(set, p)!);
    for (const what of plan.create) await makePod(set, known, what);
    for (const p of plan.label)
      await ifThere(
        client.patch(
          pods,
          { namespace: p.metadata!.namespace, name: p.metadata!.name! },
          { metadata: { uid: p.metadata!.uid, labels: { [POD_NAME]: p.metadata!.name } } },
        ),
      );
    for (const p of plan.delete) await remove(set, p);
  }

  return async (key) => {
    const set = all.get(key);
    if (!set) {
      written.delete(key);
      return undefined;
    }
    if ((written.get(key) ?? 0) > Number(allPods.revision)) return CATCH_UP_MS;
    const { uid, namespace, deletionTimestamp } = set.metadata!;
    const mine = await claim(
      client,
      statefulSets,
      set,
      pods,
      allPods.by('controller', uid!),
      allPods.by('orphans', namespace!),
      { member: (p) => ordinalOf(set, p) !== undefined },
    );
    // Whether its history is still there cannot be told of one that is on its way out.
    if (deletionTimestamp) return undefined;
    const history = await historyOf(client, statefulSets, set, revisions);
    const known = [...history.old, history.current];
    const update = history.current.metadata!.name!;
    const current =
      known.find((r) => r.metadata!.name === set.status?.currentRevision)?.metadata?.name ?? update;
    const now = clock.now();
    let failure: unknown;
    try {
      await apply(set, mine, known, planStateful(set, mine, { current, update }, now));
      const used = new Set([current, ...mine.map((p) => p.metadata?.labels?.[REVISION_HASH])]);
      await truncateHistory(
        client,
        set.spec?.revisionHistoryLimit,
        history.old.filter((r) => !used.has(r.metadata!.name)),
        () => false,
      );
    } catch (e) {
      failure = e;
    }
    const status = statefulStatus(set, mine, { current, update }, now);
    if (!deepEqual(status, set.status))
      await ifThere(
        client.updateStatus(statefulSets, {
          ...(set as never as object),
          metadata: { ...(set.metadata as object), resourceVersion: undefined },
          status,
        } as never),
      );
    if (failure && !isTerminating(failure)) throw failure;
    const minReady = set.spec?.minReadySeconds ?? 0;
    const soon = mine
      .filter(isReady)
      .map((p) => availableIn(p, minReady, now))
      .filter((ms) => ms > 0);
    return soon.length ? Math.min(...soon) : undefined;
  };
}
