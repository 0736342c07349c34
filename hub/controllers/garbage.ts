import { events } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { isApiError } from '../../api/meta/errors.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import type { Frozen, KindTable } from '../client.js';
import type { Informer } from '../informer.js';
import { type Context, ifThere, type Keys, onePerResource, type Reconcile } from './loop.js';

/** Finalizers with which the API marks how a deletion treats dependents (meta/v1). */
const ORPHAN = 'orphan';
const FOREGROUND = 'foregroundDeletion';
/** Owners that are known to be gone: their kind may be gone with them before their dependents are looked at. */
const MAX_GONE = 1000;

type Obj = Frozen<AnyObject>;
interface Home {
  readonly kind: Kind;
  readonly all: Informer<AnyObject>;
}

/**
 * Deletes objects whose owners are all gone, and ends foreground and orphaning deletions of owners once their
 * dependents are seen to. Keys: `<apiVersion>/<plural>|<object key>`.
 */
export function garbageLoop(table: KindTable) {
  return (ctx: Context, keys: Keys): Reconcile => {
    const { client, informers } = ctx;
    const homes = new Map<string, Home>();
    /** By apiVersion and kind, as owner references name them. */
    const byKind = new Map<string, Home>();
    const goneOwners = new Set<string>();
    const add = (kind: Kind): Home => {
      const all = informers
        .of(kind as Kind<AnyObject>)
        .index('owners', (o) => (o.metadata?.ownerReferences ?? []).map((r) => r.uid))
        .index('uid', (o) => [o.metadata!.uid!]);
      const home = { kind, all };
      homes.set(`${apiVersionOf(kind)}/${kind.plural}`, home);
      const keyFor = (key: string) => `${apiVersionOf(kind)}/${kind.plural}|${key}`;
      all.onChange((key, now, before) => {
        if (now?.metadata?.ownerReferences?.length || marked(now, ORPHAN) || marked(now, FOREGROUND))
          keys.add(keyFor(key));
        if (!now) {
          const [oldest] = goneOwners;
          if (kind.custom && goneOwners.size >= MAX_GONE) goneOwners.delete(oldest!);
          if (kind.custom) goneOwners.add(before!.metadata!.uid!);
          queueDependents(before!.metadata!.uid!);
          // The last dependent of an owner that waits for it.
          for (const r of before!.metadata?.ownerReferences ?? []) queueOwner(r.uid);
        } else if (now.metadata?.deletionTimestamp && !before?.metadata?.deletionTimestamp)
          queueDependents(now.metadata.uid!);
      });
      return home;
    };
    const look = () => {
      // Events own nothing and nobody owns them; they are too many to watch for nothing.
      const kinds = table.kinds.filter((k) => k.plural !== events.plural);
      const wanted = onePerResource(kinds);
      for (const [name, { kind }] of homes) {
        if (wanted.includes(kind)) continue;
        homes.delete(name);
        informers
          .drop(kind)
          .catch((err: unknown) => ctx.log.warn({ err, kind: kind.kind }, 'an informer did not stop'));
      }
      const ofResource = new Map<string, Home>();
      for (const kind of wanted)
        ofResource.set(
          `${kind.group}/${kind.plural}`,
          homes.get(`${apiVersionOf(kind)}/${kind.plural}`) ?? add(kind),
        );
      byKind.clear();
      for (const k of kinds)
        byKind.set(`${apiVersionOf(k)}|${k.kind}`, ofResource.get(`${k.group}/${k.plural}`)!);
    };
    look();
    table.onKinds(look);

    function* dependents(uid: string): Generator<[Home, Obj]> {
      for (const home of homes.values()) for (const o of home.all.by('owners', uid)) yield [home, o];
    }
    const nameOf = (home: Home, o: Obj): string => {
      const { namespace, name } = o.metadata!;
      return `${apiVersionOf(home.kind)}/${home.kind.plural}|${namespace ? `${namespace}/${name}` : name}`;
    };
    function queueDependents(uid: string): void {
      for (const [home, o] of dependents(uid)) keys.add(nameOf(home, o));
    }
    function queueOwner(uid: string): void {
      for (const home of homes.values())
        for (const o of home.all.by('uid', uid))
          if (marked(o, FOREGROUND) || marked(o, ORPHAN)) keys.add(nameOf(home, o));
    }

    const keyOfObject = (o: Obj): ObjectKey => ({
      ...(o.metadata!.namespace ? { namespace: o.metadata!.namespace } : {}),
      name: o.metadata!.name!,
    });

    /** Present, absent, or present but only waiting for its dependents to go. Unknown kinds count as present. */
    async function ownerState(o: Obj, ref: { apiVersion: string; kind: string; name: string; uid: string }) {
      const home = byKind.get(`${ref.apiVersion}|${ref.kind}`);
      if (!home) return goneOwners.has(ref.uid) ? 'gone' : 'there';
      let [owner] = home.all.by('uid', ref.uid) as Obj[];
      if (!owner) {
        // Our cache may be behind: ask before deleting anything. An owner in another namespace is no owner.
        const namespace = home.kind.namespaced ? o.metadata!.namespace : undefined;
        if (home.kind.namespaced && !namespace) return 'there';
        owner = await ifThere(client.get(home.kind, { ...(namespace ? { namespace } : {}), name: ref.name }));
        if (owner?.metadata?.uid !== ref.uid) return 'gone';
      } else if (home.kind.namespaced && owner.metadata?.namespace !== o.metadata?.namespace) return 'gone';
      return marked(owner, FOREGROUND) ? 'waiting' : 'there';
    }

    async function collect(home: Home, o: Obj): Promise<void> {
      const refs = o.metadata?.ownerReferences ?? [];
      if (refs.length === 0 || o.metadata?.deletionTimestamp) return;
      const states = await Promise.all(refs.map((r) => ownerState(o, r)));
      const { uid, resourceVersion } = o.metadata!;
      if (states.includes('there')) {
        const kept = refs.filter((_, i) => states[i] === 'there');
        if (kept.length < refs.length)
          await ifThere(
            client.patch(home.kind, keyOfObject(o), {
              metadata: { uid, resourceVersion, ownerReferences: kept },
            }),
          );
        return;
      }
      const own = [...dependents(uid!)];
      const blocks = states.includes('waiting') && own.length > 0;
      // Owner and dependent both wait, maybe for each other: this one stops holding up its owners.
      if (blocks && own.some(([, d]) => marked(d, FOREGROUND)) && refs.some((r) => r.blockOwnerDeletion))
        await ifThere(
          client.patch(home.kind, keyOfObject(o), {
            metadata: { uid, ownerReferences: refs.map((r) => ({ ...r, blockOwnerDeletion: false })) },
          }),
        );
      const propagationPolicy = marked(o, ORPHAN, true)
        ? 'Orphan'
        : blocks || marked(o, FOREGROUND, true)
          ? 'Foreground'
          : 'Background';
      await ifThere(client.delete(home.kind, keyOfObject(o), { uid, propagationPolicy }));
    }

    const without = (home: Home, o: Obj, finalizer: string) =>
      ifThere(
        client.patch(home.kind, keyOfObject(o), {
          metadata: {
            uid: o.metadata!.uid,
            resourceVersion: o.metadata!.resourceVersion,
            finalizers: (o.metadata!.finalizers ?? []).filter((f) => f !== finalizer),
          },
        }),
      );

    async function orphan(home: Home, owner: Obj): Promise<void> {
      for (const [h, o] of [...dependents(owner.metadata!.uid!)])
        await ifThere(
          client.patch(h.kind, keyOfObject(o), {
            metadata: {
              uid: o.metadata!.uid,
              resourceVersion: o.metadata!.resourceVersion,
              ownerReferences: (o.metadata!.ownerReferences ?? []).filter(
                (r) => r.uid !== owner.metadata!.uid,
              ),
            },
          }),
        );
      await without(home, owner, ORPHAN);
    }

    async function foreground(home: Home, owner: Obj): Promise<void> {
      const { uid } = owner.metadata!;
      const blocking = [...dependents(uid!)].filter(([, o]) =>
        o.metadata?.ownerReferences?.some((r) => r.uid === uid && r.blockOwnerDeletion),
      );
      if (blocking.length === 0) await without(home, owner, FOREGROUND);
    }

    return async (key) => {
      const bar = key.indexOf('|');
      const home = homes.get(key.slice(0, bar));
      const o = home?.all.get(key.slice(bar + 1));
      if (!home || !o) return;
      try {
        if (marked(o, ORPHAN)) await orphan(home, o);
        else if (marked(o, FOREGROUND)) await foreground(home, o);
        else await collect(home, o);
      } catch (e) {
        // Another object by now; its own event brings us back.
        if (!isApiError(e, 'Conflict') || home.all.get(key.slice(bar + 1)) === o) throw e;
      }
    };
  };
}

/** Has the finalizer and, unless `early`, is being deleted. */
const marked = (o: Obj | undefined, finalizer: string, early = false): boolean =>
  !!o?.metadata?.finalizers?.includes(finalizer) && (early || !!o.metadata.deletionTimestamp);
