/** ControllerRevisions: the versions of a template that a DaemonSet or StatefulSet can go back to. */
import type { ControllerRevision } from 'kubernetes-types/apps/v1.js';
import { controllerRevisions } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import type { KubeObject } from '../../api/meta/object.js';
import type { Client, Frozen } from '../client.js';
import type { Informer, Informers } from '../informer.js';
import { claim, controllerRef } from './adopt.js';
import { templateHash } from './deployment.js';
import { ifThere } from './loop.js';
import { controllerOf } from './pods.js';
import { NOT_COPIED } from './rollout.js';

export type Revision = Frozen<ControllerRevision>;

/** Label of a pod that says which revision it is of. */
export const REVISION_HASH = 'controller-revision-hash';
const HASH = 'controller.kubernetes.io/hash';

export const revisionsOf = (informers: Informers): Informer<ControllerRevision> =>
  informers
    .of(controllerRevisions)
    .index('controller', (r) => {
      const c = controllerOf(r);
      return c ? [c.uid] : [];
    })
    .index('orphans', (r) => (controllerOf(r) ? [] : [r.metadata!.namespace!]));

export type Versioned = KubeObject & {
  spec?: { selector?: unknown; template?: unknown; revisionHistoryLimit?: number };
  status?: { collisionCount?: number };
};

export interface History {
  readonly current: Revision;
  /** Oldest first; without the current one. */
  readonly old: readonly Revision[];
}

/** Members in the order in which Go writes maps: kubectl compares texts to tell whether there is anything to undo. */
const sorted = (v: unknown): unknown =>
  Array.isArray(v)
    ? v.map(sorted)
    : typeof v === 'object' && v !== null
      ? Object.fromEntries(
          Object.entries(v)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([k, x]) => [k, sorted(x)]),
        )
      : v;

/** The strategic merge patch that brings a template back, as kubectl applies it. */
export const templatePatch = (template: unknown): object =>
  sorted({ spec: { template: { ...(deepCopy(template) as object), $patch: 'replace' } } }) as object;

const byRevision = (a: Revision, b: Revision): number =>
  (a.revision ?? 0) - (b.revision ?? 0) || (a.metadata!.name! < b.metadata!.name! ? -1 : 1);

/**
 * The owner's revisions, with the one of its present template made or renumbered to be the newest. `hashLabel` says under
 * which label the hash is kept. Rejects with Conflict when its view of them is old.
 */
export async function historyOf<T extends Versioned>(
  client: Client,
  kind: Kind<T>,
  owner: Frozen<T>,
  all: Informer<ControllerRevision>,
  hashLabel: typeof HASH | typeof REVISION_HASH = HASH,
): Promise<History> {
  const o = owner as unknown as Frozen<Versioned>;
  const { uid, namespace } = o.metadata!;
  const mine = await claim(
    client,
    kind as unknown as Kind<Versioned>,
    o,
    controllerRevisions,
    all.by('controller', uid!),
    all.by('orphans', namespace!),
  );
  mine.sort(byRevision);
  const data = templatePatch(o.spec?.template);
  let current = mine.filter((r) => deepEqual(r.data, data)).at(-1);
  const old = mine.filter((r) => r !== current);
  const next = (old.at(-1)?.revision ?? 0) + 1;
  if (!current) current = await create(client, kind, o, data, next, hashLabel);
  else if ((current.revision ?? 0) < next)
    current = await client.patch(
      controllerRevisions,
      { namespace, name: current.metadata!.name! },
      {
        metadata: { uid: current.metadata!.uid, resourceVersion: current.metadata!.resourceVersion },
        revision: next,
      },
    );
  return { current, old: old.filter((r) => r.metadata!.uid !== current.metadata!.uid) };
}

async function create<T extends Versioned>(
  client: Client,
  kind: Kind<T>,
  o: Frozen<Versioned>,
  data: object,
  revision: number,
  hashLabel: string,
): Promise<Revision> {
  const { namespace, name: owner, uid } = o.metadata!;
  const collisions = o.status?.collisionCount ?? 0;
  const hash = templateHash(o.spec?.template, collisions);
  const name = `${owner!.slice(0, 252 - hash.length)}-${hash}`;
  const labels = (o.spec?.template as Frozen<{ metadata?: { labels?: Record<string, string> } }>)?.metadata
    ?.labels;
  const annotations = Object.fromEntries(
    Object.entries(o.metadata?.annotations ?? {}).filter(([k]) => !NOT_COPIED.has(k)),
  );
  try {
    return await client.create(controllerRevisions, {
      metadata: {
        namespace,
        name,
        labels: { ...labels, [hashLabel]: hash },
        annotations,
        ownerReferences: [controllerRef(kind as never, o as Frozen<KubeObject>)],
      },
      data: data as ControllerRevision['data'],
      revision,
    });
  } catch (e) {
    if (!isApiError(e, 'AlreadyExists')) throw e;
    const there = await client.get(controllerRevisions, { namespace, name });
    if (controllerOf(there)?.uid === uid && deepEqual(there.data, data)) return there;
    // Another template has the same hash, or the name is somebody else's: try another one.
    await client.patch(
      kind,
      { namespace, name: owner! },
      { metadata: { uid }, status: { collisionCount: collisions + 1 } },
      'status',
    );
    throw e;
  }
}

/** Deletes the oldest revisions beyond the owner's limit that `inUse` does not need. */
export async function truncateHistory(
  client: Client,
  limit: number | undefined,
  old: readonly Revision[],
  inUse: (r: Revision) => boolean,
): Promise<void> {
  let surplus = old.length - (limit ?? 10);
  for (const r of old) {
    if (surplus <= 0) return;
    if (inUse(r) || r.metadata!.deletionTimestamp) continue;
    const { namespace, name, uid } = r.metadata!;
    await ifThere(client.delete(controllerRevisions, { namespace, name: name! }, { uid }));
    surplus--;
  }
}
