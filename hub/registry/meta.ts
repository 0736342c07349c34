/** Metadata of an object on its way into the store, and the preconditions that a write states by it. */
import type { Kind } from '../../api/kinds/kind.js';
import { badRequest, conflict } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import type { AnyObject, ObjectMeta } from '../../api/meta/object.js';

export const MODIFIED =
  'the object has been modified; please apply your changes to the latest version and try again';

/** Metadata of an object on its way into the store: only the registry writes what is read-only to everybody else. */
export type WritableMeta = { -readonly [K in keyof ObjectMeta]: ObjectMeta[K] };

/** The metadata of `o`, made when there is none. */
export const metaOf = (o: AnyObject): WritableMeta => {
  o.metadata ??= {};
  return o.metadata;
};

/** Puts the namespace of the request into what came without. Throws BadRequest when they differ. */
export function placeInNamespace(kind: Kind, meta: ObjectMeta, namespace: string | undefined): void {
  if (!kind.namespaced) {
    if (meta.namespace === '') delete meta.namespace;
    return;
  }
  if (meta.namespace && namespace && meta.namespace !== namespace)
    throw badRequest('the namespace of the provided object does not match the namespace sent on the request');
  if (namespace) meta.namespace = namespace;
}

/** Clears what a creator may not choose. Throws BadRequest on a resourceVersion. */
export function clearForCreate(kind: Kind, meta: WritableMeta, namespace: string | undefined): void {
  if (meta.resourceVersion) throw badRequest('resourceVersion should not be set on objects to be created');
  placeInNamespace(kind, meta, namespace);
  delete meta.resourceVersion;
  delete meta.deletionTimestamp;
  delete meta.deletionGracePeriodSeconds;
  delete meta.generation;
  delete meta.uid;
  delete meta.creationTimestamp;
}

/** Throws Conflict when a written uid or resourceVersion is not the current one. */
export function checkPreconditions(
  kind: Kind,
  name: string,
  wanted: ObjectMeta | undefined,
  current: ObjectMeta,
): void {
  if (wanted?.uid && wanted.uid !== current.uid)
    throw conflict(
      kind.plural,
      name,
      `Precondition failed: UID in precondition: ${wanted.uid}, UID in object meta: ${current.uid}`,
      kind.group,
    );
  if (wanted?.resourceVersion && wanted.resourceVersion !== current.resourceVersion) {
    parseRevision(wanted.resourceVersion);
    throw conflict(kind.plural, name, MODIFIED, kind.group);
  }
}

/** The number of a resourceVersion. Throws BadRequest with Go's words. */
export function parseRevision(rv: string): number {
  if (!/^\d{1,15}$/.test(rv))
    throw badRequest(
      `invalid resource version: resourceVersion: Invalid value: ${JSON.stringify(rv.slice(0, 64))}: strconv.ParseUint: parsing ${JSON.stringify(rv.slice(0, 64))}: invalid syntax`,
    );
  return Number(rv);
}

/** Equal but for resourceVersion. */
export function unchanged(next: AnyObject, current: AnyObject): boolean {
  const { resourceVersion: _a, ...a } = next.metadata ?? {};
  const { resourceVersion: _b, ...b } = current.metadata ?? {};
  return deepEqual(a, b) && deepEqual({ ...next, metadata: null }, { ...current, metadata: null });
}
