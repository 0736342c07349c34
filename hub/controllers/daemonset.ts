import type { Affinity, Node, Pod } from 'kubernetes-types/core/v1.js';
import { shimOfHandler } from '../../api/kinds/handlers.js';
import { daemonSets, nodes, pods, runtimeClasses } from '../../api/kinds/index.js';
import { deepEqual } from '../../api/meta/json.js';
import { keyOf } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { claim } from './adopt.js';
import { Backoff } from './backoff.js';
import {
  type Ds,
  daemonStatus,
  daemonTolerations,
  type Plan,
  pinnedTo,
  planDaemons,
  type World,
} from './daemons.js';
import { historyOf, REVISION_HASH, revisionsOf, truncateHistory } from './history.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';
import { isTerminating, PodControl, podFrom } from './podcontrol.js';
import { availableIn, isReady, podsOf } from './pods.js';

/** Pods created or deleted in one go. */
const BURST = 250;
const FAILED_FIRST_MS = 1_000;
const FAILED_MAX_MS = 15 * 60_000;

/** Keeps one pod of a template on every node that suits it. */
export function daemonSetLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('daemonset-controller');
  const control = new PodControl(ctx, daemonSets, events);
  const backoff = new Backoff(clock, FAILED_FIRST_MS, FAILED_MAX_MS);
  const all = informers.of(daemonSets).index('namespace', (d) => [d.metadata!.namespace!]);
  const allPods = podsOf(informers);
  const revisions = revisionsOf(informers);
  const classes = informers.of(runtimeClasses);
  const everyKey = () => {
    for (const key of all.keys()) keys.add(key);
  };
  control.follow(all, allPods, keys, (orphan) =>
    all
      .by('namespace', orphan.metadata!.namespace!)
      .filter((d) => matchesSelector(d.spec?.selector as never, orphan.metadata?.labels as never)),
  );
  const known = informers.of(nodes).onChange((_, now, before) => {
    const view = (n: Frozen<Node> | undefined) => n && [n.metadata?.labels, n.spec?.taints];
    if (!now || !before || !deepEqual(view(now), view(before))) everyKey();
  });
  classes.onChange((_, now, before) => {
    if (now?.handler !== before?.handler) everyKey();
  });

  function podOn(ds: Ds, node: string, hash: string): Pod {
    const pod = podFrom(daemonSets as never, ds, ds.spec!.template);
    pod.metadata = { ...pod.metadata, labels: { ...pod.metadata?.labels, [REVISION_HASH]: hash } };
    pod.spec = {
      ...pod.spec!,
      tolerations: daemonTolerations(pod.spec),
      affinity: pinnedTo(node, pod.spec?.affinity as Affinity | undefined),
    };
    return pod;
  }

  async function apply(ds: Ds, plan: Plan, hash: string): Promise<void> {
    for (const { pod, node } of plan.ended) {
      const failed = pod.status?.phase === 'Failed';
      if (failed) backoff.next(`${ds.metadata!.uid}/${node}`);
      events.tell(
        daemonSets,
        ds as never,
        failed ? 'Warning' : 'Normal',
        failed ? 'FailedDaemonPod' : 'SucceededDaemonPod',
        `Found ${failed ? 'failed' : 'succeeded'} daemon pod ${keyOf(pod as Pod)} on node ${node}, will try to ${failed ? 'kill' : 'delete'} it`,
      );
    }
    const results = await Promise.allSettled([
      control.create(
        ds,
        plan.create.slice(0, BURST).map((node) => podOn(ds, node, hash)),
      ),
      control.delete(ds, plan.delete.slice(0, BURST)),
    ]);
    for (const r of results) if (r.status === 'rejected' && !isTerminating(r.reason)) throw r.reason;
  }

  return async (key) => {
    const ds = all.get(key);
    // Whether its history is still there cannot be told of one that is on its way out.
    if (!ds || ds.metadata?.deletionTimestamp) return undefined;
    const { uid, namespace } = ds.metadata!;
    const history = await historyOf(client, daemonSets, ds, revisions, REVISION_HASH);
    const hash = history.current.metadata!.labels?.[REVISION_HASH] ?? history.current.metadata!.name!;
    const mine = await claim(
      client,
      daemonSets,
      ds,
      pods,
      allPods.by('controller', uid!),
      allPods.by('orphans', namespace!),
    );
    const className = ds.spec?.template.spec?.runtimeClassName;
    const world: World = {
      nodes: [...known.values()],
      pods: mine,
      hash,
      now: clock.now(),
      handler: className ? shimOfHandler(classes.get(className)?.handler ?? className) : undefined,
      backsOff: (node) => backoff.left(`${uid}/${node}`) > 0,
    };
    const wait = control.expectations.wait(key);
    let failure: unknown;
    if (wait === 0)
      try {
        await apply(ds, planDaemons(ds, world), hash);
        const used = new Set(mine.map((p) => p.metadata?.labels?.[REVISION_HASH]));
        await truncateHistory(client, ds.spec?.revisionHistoryLimit, history.old, (r) =>
          used.has(r.metadata!.labels?.[REVISION_HASH]),
        );
      } catch (e) {
        failure = e;
      }
    const status = daemonStatus(ds, world, wait === 0);
    if (!deepEqual(status, ds.status))
      await ifThere(
        client.updateStatus(daemonSets, {
          ...(ds as never as object),
          metadata: { ...(ds.metadata as object), resourceVersion: undefined },
          status,
        } as never),
      );
    if (failure) throw failure;
    const soon = [
      wait,
      ...mine.filter(isReady).map((p) => availableIn(p, ds.spec?.minReadySeconds ?? 0, world.now)),
      ...world.nodes.map((n) => backoff.left(`${uid}/${n.metadata!.name}`)),
    ].filter((ms) => ms > 0);
    return soon.length ? Math.min(...soon) : undefined;
  };
}
