import type { ReplicaSet, ReplicaSetCondition, ReplicaSetStatus } from 'kubernetes-types/apps/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { pods, replicaSets, replicationControllers } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { deepEqual } from '../../api/meta/json.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { claim } from './adopt.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';
import { isTerminating, PodControl, podFrom } from './podcontrol.js';
import { availableIn, isActive, isReady, leastValuableFirst, podsOf } from './pods.js';

type Rs = Frozen<ReplicaSet>;

/** Pods created or deleted in one go. */
const BURST = 500;

/** What a ReplicaSet and a ReplicationController differ in. */
interface Flavour {
  /** Both have the same spec, but for the form of the selector, and the same status. */
  kind: Kind<ReplicaSet>;
  component: string;
  selector(rs: Rs): LabelSelector | undefined;
}

export const replicaSetLoop = (ctx: Context, keys: Keys): Reconcile =>
  replicaLoop(ctx, keys, {
    kind: replicaSets,
    component: 'replicaset-controller',
    selector: (rs) => rs.spec?.selector as LabelSelector,
  });

export const replicationControllerLoop = (ctx: Context, keys: Keys): Reconcile =>
  replicaLoop(ctx, keys, {
    kind: replicationControllers as unknown as Kind<ReplicaSet>,
    component: 'replication-controller',
    selector: (rc) => ({ matchLabels: rc.spec?.selector as never as Record<string, string> }),
  });

/** Keeps as many pods of a template as `spec.replicas` says. */
function replicaLoop(ctx: Context, keys: Keys, { kind, component, selector }: Flavour): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder(component);
  const control = new PodControl(ctx, kind, events);
  const { expectations } = control;
  const allPods = podsOf(informers);
  const all = informers.of(kind).index('namespace', (rs) => [rs.metadata!.namespace!]);
  control.follow(all, allPods, keys, (orphan) =>
    all
      .by('namespace', orphan.metadata!.namespace!)
      .filter((rs) => matchesSelector(selector(rs), orphan.metadata?.labels as never)),
  );

  const createPods = (rs: Rs, n: number): Promise<void> =>
    control.create(
      rs,
      Array.from({ length: n }, () => podFrom(kind as never, rs, rs.spec!.template)),
    );

  function deletePods(rs: Rs, mine: readonly Frozen<Pod>[], n: number): Promise<void> {
    const perNode = new Map<string, number>();
    for (const p of mine) perNode.set(p.spec?.nodeName ?? '', (perNode.get(p.spec?.nodeName ?? '') ?? 0) + 1);
    return control.delete(
      rs,
      leastValuableFirst(mine, (node) => perNode.get(node) ?? 0, clock.now()).slice(0, n),
    );
  }

  return async (key) => {
    const rs = all.get(key);
    if (!rs) return undefined;
    const wait = expectations.wait(key);
    const claimed = await claim(
      client,
      kind,
      rs,
      pods,
      allPods.by('controller', rs.metadata!.uid!),
      allPods.by('orphans', rs.metadata!.namespace!).filter(isActive),
      { selector: selector(rs) },
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
        client.updateStatus(kind, {
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
  // The first reason stays: each text names another pod, and would be another status.
  if (old) return [...others, old];
  const reason = missing < 0 ? 'FailedDelete' : 'FailedCreate';
  const message = errorText(failure);
  return [...others, { type: 'ReplicaFailure', status: 'True', lastTransitionTime: at, reason, message }];
}
