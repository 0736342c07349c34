import type { Deployment, DeploymentCondition, ReplicaSet } from 'kubernetes-types/apps/v1.js';
import { deployments, replicaSets } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import { keyOf } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { claim, controllerRef } from './adopt.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';
import { controllerOf, hasEnded, podsOf } from './pods.js';
import {
  conditionOf,
  counts,
  DESIRED_REPLICAS,
  type Dep,
  deadlineIn,
  fence,
  isComplete,
  isRolling,
  MAX_REPLICAS,
  NOT_COPIED,
  newSize,
  oldSizes,
  POD_TEMPLATE_HASH,
  proportionalSizes,
  REVISION,
  REVISION_HISTORY,
  type Rs,
  revisionOf,
  setCondition,
  specReplicas,
  statusOf,
} from './rollout.js';

const CATCH_UP_MS = 1_000;

/** Rolls a Deployment's template over into ReplicaSets, one per version of the template. */
export function deploymentLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('deployment-controller');
  const all = informers.of(deployments).index('namespace', (d) => [d.metadata!.namespace!]);
  const sets = informers
    .of(replicaSets)
    .index('controller', (rs) => {
      const c = controllerOf(rs);
      return c ? [c.uid] : [];
    })
    .index('orphans', (rs) => (controllerOf(rs) ? [] : [rs.metadata!.namespace!]));
  const allPods = podsOf(informers);
  const byUid = new Map<string, string>();

  all.onChange((key, now, before) => {
    if (before && before.metadata!.uid !== now?.metadata?.uid) byUid.delete(before.metadata!.uid!);
    if (now) byUid.set(now.metadata!.uid!, key);
    keys.add(key);
  });
  sets.onChange((_, now, before) => {
    for (const rs of [now, before]) {
      const owner = rs && byUid.get(controllerOf(rs)?.uid ?? '');
      if (owner) keys.add(owner);
    }
    if (now && !controllerOf(now))
      for (const d of all.by('namespace', now.metadata!.namespace!))
        if (matchesSelector(d.spec?.selector as never, now.metadata?.labels as never))
          keys.add(keyOf(d as Deployment));
  });
  // Recreate waits until the last old pod is gone, which no ReplicaSet's status tells.
  allPods.onChange((_, now, before) => {
    if (now && !hasEnded(now)) return;
    const c = before && controllerOf(before);
    if (c?.kind !== 'ReplicaSet') return;
    const rs = sets.get(`${before!.metadata!.namespace}/${c.name}`);
    const owner = rs && byUid.get(controllerOf(rs)?.uid ?? '');
    if (owner) keys.add(owner);
  });

  /** Deployment → the revision of our last write to one of its ReplicaSets: an older view of them is not to be acted on. */
  const written = new Map<string, number>();
  const wrote = (d: Dep, rs: Rs): Rs => {
    written.set(keyOf(d as Deployment), Number(rs.metadata!.resourceVersion));
    return rs;
  };

  const ref = (o: Dep | Rs) => ({ namespace: o.metadata!.namespace, name: o.metadata!.name! });

  /** Scales, and keeps the notes that proportional scaling needs. Says whether the size changed. */
  async function scale(d: Dep, rs: Rs, size: number): Promise<boolean> {
    const notes = {
      [DESIRED_REPLICAS]: `${specReplicas(d)}`,
      [MAX_REPLICAS]: `${specReplicas(d) + fence(d).maxSurge}`,
    };
    const from = specReplicas(rs);
    const noted = Object.entries(notes).every(([k, v]) => rs.metadata?.annotations?.[k] === v);
    if (from === size && noted) return false;
    const metadata = {
      uid: rs.metadata!.uid,
      resourceVersion: rs.metadata!.resourceVersion,
      annotations: notes,
    };
    const change = { metadata, ...(from === size ? {} : { spec: { replicas: size } }) };
    wrote(d, await client.patch(replicaSets, ref(rs), change));
    if (from === size) return false;
    events.tell(
      deployments,
      d as Deployment,
      'Normal',
      'ScalingReplicaSet',
      `Scaled ${size > from ? 'up' : 'down'} replica set ${rs.metadata!.name} from ${from} to ${size}`,
    );
    return true;
  }

  async function scaleAll(d: Dep, sizes: Iterable<readonly [Rs, number]>): Promise<boolean> {
    let changed = false;
    for (const [rs, size] of sizes) if (await scale(d, rs, size)) changed = true;
    return changed;
  }

  /** Brings revision numbers and copied annotations of the current ReplicaSet up to date. */
  async function annotate(d: Dep, fresh: Rs, revision: bigint): Promise<Rs> {
    const has = fresh.metadata?.annotations ?? {};
    const want: Record<string, string> = {};
    for (const [k, v] of Object.entries(d.metadata?.annotations ?? {})) if (!NOT_COPIED.has(k)) want[k] = v;
    const was = revisionOf(fresh);
    if (was < revision) {
      want[REVISION] = `${revision}`;
      // It was current before: remember as what.
      if (was > 0n) want[REVISION_HISTORY] = [has[REVISION_HISTORY], `${was}`].filter(Boolean).join(',');
    }
    const minReadySeconds = d.spec?.minReadySeconds ?? 0;
    if (
      Object.entries(want).every(([k, v]) => has[k] === v) &&
      (fresh.spec?.minReadySeconds ?? 0) === minReadySeconds
    )
      return fresh;
    const metadata = {
      uid: fresh.metadata!.uid,
      resourceVersion: fresh.metadata!.resourceVersion,
      annotations: want,
    };
    return wrote(d, await client.patch(replicaSets, ref(fresh), { metadata, spec: { minReadySeconds } }));
  }

  async function create(d: Dep, old: readonly Rs[], revision: bigint): Promise<Rs> {
    const template = deepCopy(d.spec!.template) as unknown as NonNullable<ReplicaSet['spec']>['template'] &
      object;
    const hash = templateHash(template, d.status?.collisionCount ?? 0);
    const name = `${d.metadata!.name!.slice(0, 252 - hash.length)}-${hash}`;
    const labels = { ...template.metadata?.labels, [POD_TEMPLATE_HASH]: hash };
    const size = newSize(d, old, 0);
    const annotations: Record<string, string> = {
      [REVISION]: `${revision}`,
      [DESIRED_REPLICAS]: `${specReplicas(d)}`,
      [MAX_REPLICAS]: `${specReplicas(d) + fence(d).maxSurge}`,
    };
    for (const [k, v] of Object.entries(d.metadata?.annotations ?? {}))
      if (!NOT_COPIED.has(k)) annotations[k] = v;
    const set: ReplicaSet = {
      apiVersion: 'apps/v1',
      kind: 'ReplicaSet',
      metadata: {
        namespace: d.metadata!.namespace,
        name,
        labels,
        annotations,
        ownerReferences: [controllerRef(deployments as never, d)],
      },
      spec: {
        replicas: size,
        minReadySeconds: d.spec?.minReadySeconds ?? 0,
        selector: {
          ...(deepCopy(d.spec!.selector) as object),
          matchLabels: { ...d.spec!.selector.matchLabels, [POD_TEMPLATE_HASH]: hash },
        },
        template: { ...template, metadata: { ...template.metadata, labels } },
      },
    };
    let made: Rs;
    try {
      made = wrote(d, await client.create(replicaSets, set));
    } catch (e) {
      if (!isApiError(e, 'AlreadyExists')) {
        await note(
          d,
          'Progressing',
          'False',
          'ReplicaSetCreateError',
          `Failed to create new replica set "${name}": ${errorText(e)}`,
        );
        throw e;
      }
      const there = await client.get(replicaSets, { namespace: d.metadata!.namespace, name });
      if (controllerOf(there)?.uid === d.metadata!.uid && sameTemplate(there, d)) return there;
      // Somebody else has the name: try another one.
      await client.patch(
        deployments,
        ref(d),
        { status: { collisionCount: (d.status?.collisionCount ?? 0) + 1 } },
        'status',
      );
      throw e;
    }
    if (size > 0)
      events.tell(
        deployments,
        d as Deployment,
        'Normal',
        'ScalingReplicaSet',
        `Scaled up replica set ${name} from 0 to ${size}`,
      );
    await note(d, 'Progressing', 'True', 'NewReplicaSetCreated', `Created new replica set "${name}"`);
    return made;
  }

  async function note(d: Dep, type: string, status: string, reason: string, message: string): Promise<void> {
    const conditions = [...(d.status?.conditions ?? [])] as DeploymentCondition[];
    setCondition(conditions, type, status, reason, message, clock.now());
    await client.patch(
      deployments,
      ref(d),
      { metadata: { uid: d.metadata!.uid }, status: { conditions } },
      'status',
    );
  }

  /** Old ReplicaSets beyond `revisionHistoryLimit` that have nothing left to do. */
  async function cleanUp(d: Dep, old: readonly Rs[]): Promise<void> {
    const alive = old
      .filter((rs) => !rs.metadata?.deletionTimestamp)
      .sort((a, b) => (revisionOf(a) < revisionOf(b) ? -1 : 1));
    for (const rs of alive.slice(0, Math.max(0, alive.length - (d.spec?.revisionHistoryLimit ?? 10)))) {
      const s = rs.status;
      if (s?.replicas || specReplicas(rs) || (s?.observedGeneration ?? 0) < (rs.metadata?.generation ?? 0))
        continue;
      await ifThere(client.delete(replicaSets, ref(rs), { uid: rs.metadata!.uid }));
    }
  }

  async function writeStatus(
    d: Dep,
    fresh: Rs | undefined,
    sets: readonly Rs[],
    rolling: boolean,
  ): Promise<void> {
    const status = statusOf(d, fresh, sets, clock.now(), rolling);
    if (deepEqual(status, d.status)) return;
    // Whole, so that nothing of the old one stays; a newer Deployment is not overwritten.
    await ifThere(client.updateStatus(deployments, { ...(d as Deployment), status }));
  }

  async function reconcile(key: string) {
    const d = all.get(key);
    if (!d) {
      written.delete(key);
      return undefined;
    }
    // The event that we miss brings us back; the delay is for the case that it never comes.
    if ((written.get(key) ?? 0) > Number(sets.revision)) return CATCH_UP_MS;
    if (Object.keys(d.spec?.selector ?? {}).length === 0) {
      events.tell(
        deployments,
        d as Deployment,
        'Warning',
        'SelectingAll',
        'This deployment is selecting all pods. A non-empty selector is required.',
      );
      return undefined;
    }
    const uid = d.metadata!.uid!;
    const mine = await claim(
      client,
      deployments,
      d,
      replicaSets,
      sets.by('controller', uid),
      sets.by('orphans', d.metadata!.namespace!),
    );
    mine.sort((a, b) => created(a) - created(b) || (a.metadata!.name! < b.metadata!.name! ? -1 : 1));
    let fresh = mine.find((rs) => sameTemplate(rs, d));
    const old = mine.filter((rs) => rs !== fresh);
    if (d.metadata?.deletionTimestamp) {
      await writeStatus(d, fresh, mine, false);
      return undefined;
    }
    if (await notePause(d)) return undefined;

    const inForce = mine.filter((rs) => specReplicas(rs) > 0);
    const paused = d.spec?.paused === true;
    // Recreate with two at once is in the middle of a change; it ends by itself.
    const scaling =
      (isRolling(d) || inForce.length <= 1) &&
      inForce.some(
        (rs) =>
          (rs.metadata?.annotations?.[DESIRED_REPLICAS] ?? `${specReplicas(d)}`) !== `${specReplicas(d)}`,
      );
    if (paused || scaling) {
      await scaleAll(d, scaledSizes(d, fresh, old, inForce));
      if (paused) await cleanUp(d, old);
      await writeStatus(d, fresh, mine, false);
      return undefined;
    }

    const revision = old.map(revisionOf).reduce((most, r) => (r > most ? r : most), 0n) + 1n;
    const makeFresh = async () => {
      fresh = fresh ? await annotate(d, fresh, revision) : await create(d, mine, revision);
      const now = `${revisionOf(fresh)}`;
      if (d.metadata?.annotations?.[REVISION] !== now)
        await client.patch(deployments, ref(d), { metadata: { uid, annotations: { [REVISION]: now } } });
    };

    if (!isRolling(d)) {
      const shrunk = await scaleAll(
        d,
        old.map((rs) => [rs, 0] as const),
      );
      const lingering = old.some((rs) =>
        allPods.by('controller', rs.metadata!.uid!).some((p) => !hasEnded(p)),
      );
      if (!shrunk && !lingering) {
        await makeFresh();
        await scale(d, fresh!, specReplicas(d));
      }
    } else {
      await makeFresh();
      const grown = await scale(d, fresh!, newSize(d, [...old, fresh!], specReplicas(fresh!)));
      if (!grown) await scaleAll(d, oldSizes(d, fresh, old));
    }
    const now = fresh && !mine.includes(fresh) ? [...old, fresh] : mine;
    if (isComplete(d, counts(d, fresh, now))) await cleanUp(d, old);
    await writeStatus(await latest(d), fresh, now, true);
    const late = deadlineIn(d, clock.now());
    return late > 0 && Number.isFinite(late) ? late : undefined;
  }

  /** Our own writes above changed the object: its status is to go on from there. */
  const latest = async (d: Dep): Promise<Dep> => {
    const now = await client.get(deployments, ref(d));
    // Of a newer spec, status must not claim to have seen it.
    return now.metadata?.generation === d.metadata?.generation ? now : d;
  };

  /** Progress is not expected of a paused Deployment. Says whether it wrote. */
  async function notePause(d: Dep): Promise<boolean> {
    const reason = conditionOf(d.status, 'Progressing')?.reason;
    if (reason === 'ProgressDeadlineExceeded') return false;
    if (d.spec?.paused && reason !== 'DeploymentPaused')
      await note(d, 'Progressing', 'Unknown', 'DeploymentPaused', 'Deployment is paused');
    else if (!d.spec?.paused && reason === 'DeploymentPaused')
      await note(d, 'Progressing', 'Unknown', 'DeploymentResumed', 'Deployment is resumed');
    else return false;
    return true;
  }

  return reconcile;
}

/** Sizes after a change of `spec.replicas`. */
function scaledSizes(
  d: Dep,
  fresh: Rs | undefined,
  old: readonly Rs[],
  active: readonly Rs[],
): Map<Rs, number> {
  const target = specReplicas(d);
  if (active.length <= 1) {
    const one = active[0] ?? fresh ?? old.at(-1);
    return new Map(one ? [[one, target]] : []);
  }
  // Fully rolled out, but an old one grew back: nothing of it is wanted.
  if (
    fresh &&
    specReplicas(fresh) === target &&
    Number(fresh.metadata?.annotations?.[DESIRED_REPLICAS]) === target &&
    fresh.status?.availableReplicas === target
  )
    return new Map(old.filter((rs) => specReplicas(rs) > 0).map((rs) => [rs, 0]));
  return isRolling(d) ? proportionalSizes(d, active) : new Map();
}

const created = (rs: Rs): number => Date.parse(rs.metadata?.creationTimestamp ?? '') || 0;

/** Same pod template, apart from the hash label that the ReplicaSet's has. */
export function sameTemplate(rs: Rs, d: Dep): boolean {
  const strip = (t: Frozen<{ metadata?: { labels?: Record<string, string> } }> | undefined) => {
    const { [POD_TEMPLATE_HASH]: _, ...labels } = t?.metadata?.labels ?? {};
    return { ...t, metadata: { ...t?.metadata, labels } };
  };
  return deepEqual(strip(rs.spec?.template as never), strip(d.spec?.template as never));
}

/** Without vowels, so that no hash reads as a word; Kubernetes' alphabet for generated names. */
const SAFE = 'bcdfghjklmnpqrstvwxz2456789';

/** Up to ten characters that stand for the template: FNV-1a over its JSON with sorted keys. */
export function templateHash(template: unknown, collisions: number): string {
  const text = JSON.stringify(template, (_, v) =>
    v && typeof v === 'object' && !Array.isArray(v)
      ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1)))
      : v,
  );
  let h = 0x811c9dc5;
  for (const byte of Buffer.from(collisions ? `${text}${collisions}` : text))
    h = Math.imul(h ^ byte, 0x01000193);
  return [...String(h >>> 0)].map((c) => SAFE[c.charCodeAt(0) % SAFE.length]).join('');
}
