/**
 * `metadata.managedFields`: who owns which field (Kubernetes' server-side apply; apimachinery util/managedfields). Pure:
 * decoding, what a write changes about ownership, what an apply makes of an object, encoding.
 */
import { resolve, type Schema } from '../../api/kinds/schema.js';
import { ApiError } from '../../api/meta/errors.js';
import { deepEqual, deepFreeze, isPlainObject } from '../../api/meta/json.js';
import type { AnyObject, ObjectMeta } from '../../api/meta/object.js';
import { byShape } from './created.js';
import { FieldSet, field, pathText } from './fieldset.js';
import type { Forms } from './forms.js';
import {
  type Comparison,
  compare,
  fieldsOf,
  merge,
  reconciled,
  withoutFields,
  withParents,
} from './typed.js';

type Entry = NonNullable<ObjectMeta['managedFields']>[number];
type Entries = readonly Entry[];

/** Who writes, and how. An applier is the same one in whatever version it applies. */
export interface Manager {
  readonly manager: string;
  readonly operation: 'Apply' | 'Update';
  readonly apiVersion: string;
  readonly subresource?: string;
}

interface Owner extends Manager {
  /** RFC 3339 with seconds. */
  readonly time?: string;
  readonly fields: FieldSet;
}

/** By identity. */
export type Owners = ReadonlyMap<string, Owner>;

/** What of an object a door lets through: fields outside are nobody's. */
export type Door = (set: FieldSet) => FieldSet;

/** More updaters than this are merged, the oldest first. */
const MAX_UPDATERS = 10;
const OLD_UPDATERS = 'ancient-changes';
/** Owns what was there when an object that nobody tracked is applied for the first time. */
const BEFORE_FIRST_APPLY = 'before-first-apply';
export const LAST_APPLIED = 'kubectl.kubernetes.io/last-applied-configuration';

const STRIPPED = ['name', 'namespace', 'creationTimestamp', 'selfLink', 'uid', 'clusterName', 'generation'];
/** What the server alone writes. */
const NEVER_OWNED = [...STRIPPED, 'managedFields', 'resourceVersion'].reduce(
  (set, name) => set.insert([field('metadata'), field(name)]),
  new FieldSet()
    .insert([field('apiVersion')])
    .insert([field('kind')])
    .insert([field('metadata')]),
);

const identity = (m: Manager): string =>
  JSON.stringify([m.manager, m.operation, m.operation === 'Apply' ? '' : m.apiVersion, m.subresource ?? '']);

// ---- the form in objects

/** Equal sets are one object in memory, by their JSON: the pods of a Deployment differ in little else. */
const interned = new Map<string, WeakRef<object>>();
const forget = new FinalizationRegistry<string>((text) => {
  if (interned.get(text)?.deref() === undefined) interned.delete(text);
});
/** Both ways between the form in objects and the set, which nobody changes from then on. */
const setOf = new WeakMap<object, FieldSet>();
const formOf = new WeakMap<FieldSet, object>();

function intern(fieldsV1: object): object {
  const text = JSON.stringify(fieldsV1);
  const known = interned.get(text)?.deref();
  if (known) return known;
  deepFreeze(fieldsV1);
  interned.set(text, new WeakRef(fieldsV1));
  forget.register(fieldsV1, text);
  return fieldsV1;
}

function encodeSet(set: FieldSet): object {
  let form = formOf.get(set);
  if (!form) {
    form = intern(set.toFieldsV1());
    formOf.set(set, form);
    if (!setOf.has(form)) setOf.set(form, set);
  }
  return form;
}

/** Throws on what is no FieldsV1. */
function decodeSet(form: object): FieldSet {
  let set = setOf.get(form);
  if (!set) {
    set = FieldSet.fromFieldsV1(form);
    // What a client sent is short-lived and its own.
    if (Object.isFrozen(form)) setOf.set(form, set);
  }
  return set;
}

/** Makes an object that comes from elsewhere (the disk) share its sets of fields with others. */
export function shareFields(o: AnyObject): void {
  const entries = o.metadata?.managedFields as { fieldsV1?: object }[] | undefined;
  if (!entries || Object.isFrozen(entries)) return;
  for (const e of entries) if (isPlainObject(e.fieldsV1)) e.fieldsV1 = intern(e.fieldsV1);
}

/** Throws on entries that are wrong in any way. */
function decodeOwners(entries: Entries): Map<string, Owner> {
  const owners = new Map<string, Owner>();
  for (const e of entries) {
    const { operation, apiVersion } = e;
    if (operation !== 'Apply' && operation !== 'Update')
      throw new Error('operation must be `Apply` or `Update`');
    if (!apiVersion) throw new Error('apiVersion must not be empty');
    if (e.fieldsType !== 'FieldsV1') throw new Error('fieldsType must be `FieldsV1`');
    const owner: Owner = {
      manager: e.manager ?? '',
      operation,
      apiVersion,
      ...(e.subresource ? { subresource: e.subresource } : {}),
      ...(e.time ? { time: String(e.time) } : {}),
      fields: decodeSet(e.fieldsV1 ?? {}),
    };
    owners.set(identity(owner), owner);
  }
  return owners;
}

function tryDecode(entries: Entries | undefined): Map<string, Owner> | undefined {
  try {
    return decodeOwners(entries ?? []);
  } catch {
    return undefined;
  }
}

/** A client's way to say that nobody owns anything: an empty list, or one empty entry. */
const isReset = (entries: Entries | undefined): boolean =>
  entries !== undefined &&
  (entries.length === 0 || (entries.length === 1 && Object.keys(entries[0]!).length === 0));

/**
 * The owners that a write starts from: those that it sends, when it sends any that make sense, else those of the stored
 * object (clients that know nothing of managedFields must not drop them).
 */
export function ownersOf(stored: Entries | undefined, sent?: Entries): Owners {
  if (isReset(sent)) return new Map();
  const given = tryDecode(sent);
  return given?.size ? given : (tryDecode(stored) ?? new Map());
}

const seconds = (time: string | undefined): number => (time ? Math.floor(Date.parse(time) / 1000) || 0 : 0);
const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Frozen; undefined when there is no owner. */
export function encodeOwners(owners: Owners): ObjectMeta['managedFields'] {
  if (owners.size === 0) return undefined;
  const entries = [...owners.values()].sort(
    (a, b) =>
      order(a.operation, b.operation) ||
      seconds(a.time) - seconds(b.time) ||
      order(a.manager, b.manager) ||
      order(a.apiVersion, b.apiVersion) ||
      order(a.subresource ?? '', b.subresource ?? ''),
  );
  return deepFreeze(
    entries.map(({ fields, manager, operation, apiVersion, subresource, time }) => ({
      manager,
      operation,
      apiVersion,
      ...(time ? { time } : {}),
      fieldsType: 'FieldsV1',
      fieldsV1: encodeSet(fields),
      ...(subresource ? { subresource } : {}),
    })),
  ) as ObjectMeta['managedFields'];
}

/** The same owners of the same fields, whenever they came to own them. */
export function sameOwners(a: Entries | undefined, b: Entries | undefined): boolean {
  const timeless = (entries: Entries | undefined) => entries?.map(({ time: _, ...e }) => e);
  return deepEqual(timeless(a), timeless(b));
}

// ---- objects without what is nobody's

/** The object as ownership sees it: managedFields are no field of it. */
function bare(o: AnyObject): AnyObject {
  if (!o.metadata?.managedFields) return o;
  const { managedFields: _, ...metadata } = o.metadata;
  return { ...o, metadata };
}

/** What an object of the schema has before anything is in it; creators do not own these parts themselves. */
export function emptyOf(schema: Schema): AnyObject {
  const { schema: s, name } = resolve(schema);
  // What users define has no Go type.
  if (!name?.startsWith('io.k8s.')) return {};
  const out: Record<string, unknown> = {};
  for (const [key, property] of Object.entries(s.properties ?? {})) {
    const { schema: type } = resolve(property);
    // Structs that Kubernetes' types embed by value are there even when they are empty; so are lists that may not be left out.
    const embedded = type.properties && isPlainObject(property.default);
    if (embedded && type['x-kubernetes-map-type'] !== 'atomic') out[key] = emptyOf(property);
    else if (type.type === 'array' && s.required?.includes(key)) out[key] = [];
  }
  return out as AnyObject;
}

// ---- writes

export interface Write {
  schema: Schema;
  door: Door;
  /** RFC 3339 of now. */
  time: string;
  /** Where versions differ in form: the object in others than this, in which some own their fields. */
  forms?: Forms;
  apiVersion?: string;
}

/**
 * What changed from `before` to `after` as owners of each version see it, `changes` being what this write's version sees;
 * undefined for a version that is no more.
 */
function seenBy(
  { forms, apiVersion, door }: Write,
  before: AnyObject,
  after: AnyObject,
  changes: Comparison,
): (owner: Owner) => Comparison | undefined {
  const known = new Map<string, Comparison | undefined>();
  return ({ apiVersion: version }) => {
    if (!forms || version === apiVersion) return changes;
    if (!known.has(version)) {
      const [old, now] = [forms.of(before, version), forms.of(after, version)];
      known.set(
        version,
        old && now && through(door, compare(bare(old.object), bare(now.object), now.schema)),
      );
    }
    return known.get(version);
  };
}

/** Others lose what changed. Says who would lose something that was set or changed (not removed). */
function takeFromOthers(
  owners: Owners,
  changesFor: (owner: Owner) => Comparison | undefined,
  self: string | undefined,
): { left: Map<string, Owner>; conflicts: Map<string, FieldSet> } {
  const left = new Map<string, Owner>();
  const conflicts = new Map<string, FieldSet>();
  for (const [id, owner] of owners) {
    if (id === self) {
      left.set(id, owner);
      continue;
    }
    const changes = changesFor(owner);
    if (!changes) continue;
    const lost = owner.fields.intersection(changes.added.union(changes.modified));
    if (!lost.empty) conflicts.set(id, lost);
    const gone = lost.union(owner.fields.intersection(changes.removed));
    const fields = gone.empty ? owner.fields : owner.fields.difference(gone);
    if (!fields.empty) left.set(id, gone.empty ? owner : { ...owner, fields });
  }
  return { left, conflicts };
}

function through(door: Door, c: Comparison): Comparison {
  return { added: door(c.added), modified: door(c.modified), removed: door(c.removed) };
}

/**
 * Owners after an update from `before` to `after`. Without a manager nobody comes to own what changed, but those who
 * owned it before lose it.
 */
export function afterUpdate(
  write: Write,
  owners: Owners,
  before: AnyObject,
  after: AnyObject,
  manager: Manager | undefined,
): Owners {
  const { schema, door, time } = write;
  const changes = through(door, compare(bare(before), bare(after), schema));
  if (changes.added.empty && changes.modified.empty && changes.removed.empty) return owners;
  const { left } = takeFromOthers(owners, seenBy(write, before, after, changes), undefined);
  const fields = changes.added.union(changes.modified).difference(NEVER_OWNED);
  if (manager && !fields.empty) {
    const id = identity(manager);
    const mine = left.get(id);
    left.set(id, { ...manager, time, fields: mine ? mine.fields.union(fields) : fields });
  }
  const same = left.size === owners.size && [...left].every(([id, o]) => owners.get(id) === o);
  return same ? owners : capped(left);
}

/** Owners of a new object: all that is in it belongs to its creator; others whom the creator names keep the rest. */
export function afterCreate(
  write: Write,
  created: AnyObject,
  manager: Manager | undefined,
  sent?: Entries,
): Owners {
  const { schema, door, time } = write;
  const before = ownersOf(undefined, sent);
  if (before.size > 0 || !manager) return afterUpdate(write, before, emptyOf(schema), created, manager);
  const object = bare(created);
  const fields = byShape(object, schema, door, () => {
    const { added, modified } = through(door, compare(emptyOf(schema), object, schema));
    return added.union(modified).difference(NEVER_OWNED);
  });
  return fields.empty ? before : new Map([[identity(manager), { ...manager, time, fields }]]);
}

function capped(owners: Map<string, Owner>): Owners {
  const updaters = [...owners].filter(([, o]) => o.operation === 'Update');
  let excess = updaters.length - MAX_UPDATERS;
  if (excess <= 0) return owners;
  updaters.sort(([a, x], [b, y]) => seconds(x.time) - seconds(y.time) || order(a, b));
  const first = new Map<string, string>();
  for (const [id, owner] of updaters) {
    if (excess <= 0) break;
    const { apiVersion } = owner;
    const old = first.get(apiVersion);
    if (old === undefined) {
      first.set(apiVersion, id);
      continue;
    }
    const bucket: Manager = { manager: OLD_UPDATERS, operation: 'Update', apiVersion };
    const into = identity(bucket);
    const there = owners.get(into) ?? owners.get(old)!;
    owners.delete(old);
    owners.delete(id);
    owners.set(into, { ...bucket, time: owner.time, fields: there.fields.union(owner.fields) });
    excess--;
  }
  return owners;
}

// ---- apply

export interface Applied {
  object: AnyObject;
  owners: Owners;
}

/** What an apply would take from others. */
class Conflicts extends Error {
  constructor(readonly by: readonly { owner: Owner; fields: FieldSet }[]) {
    super('conflicts');
  }
}

/**
 * Lays `config` over `live` for `manager`: what the manager applied before, applies no more and nobody else owns goes.
 * Neither object is changed; the result shares parts with both. Throws Conflict with one cause per field when others own
 * what it changes, unless `force` takes it over.
 */
export function apply(
  write: Write,
  stored: Entries | undefined,
  live: AnyObject,
  config: AnyObject,
  manager: Manager,
  force: boolean,
): Applied {
  let owners: Owners;
  try {
    owners = decodeOwners(stored ?? []);
  } catch (e) {
    throw new ApiError('InternalError', `failed to decode managed fields: ${(e as Error).message}`);
  }
  if (owners.size === 0 && live.metadata?.uid) {
    const before: Manager = {
      manager: BEFORE_FIRST_APPLY,
      operation: 'Update',
      apiVersion: manager.apiVersion,
    };
    owners = afterUpdate(write, owners, emptyOf(write.schema), live, before);
  }
  try {
    return synced(write, owners, live, config, manager, force);
  } catch (e) {
    if (!(e instanceof Conflicts)) throw e;
    throw conflictError(e.by);
  }
}

/**
 * kubectl comes from client-side apply: what it put there then (and the annotation tells) is its own now, not another's.
 * As long as the annotation is there, kubectl's applies keep it in step.
 */
function synced(
  write: Write,
  owners: Owners,
  live: AnyObject,
  config: AnyObject,
  manager: Manager,
  force: boolean,
): Applied {
  if (manager.manager !== 'kubectl') return laidOver(write, owners, live, config, manager, force);
  let applied: Applied;
  try {
    applied = laidOver(write, owners, live, config, manager, force);
  } catch (e) {
    const allowed =
      e instanceof Conflicts ? fromLastApplied(write.schema, live, manager.apiVersion) : undefined;
    if (!allowed) throw e;
    const left = (e as Conflicts).by
      .map(({ owner, fields }) => ({ owner, fields: fields.difference(allowed) }))
      .filter(({ fields }) => !fields.empty);
    if (left.length > 0) throw new Conflicts(left);
    applied = laidOver(write, owners, live, config, manager, true);
  }
  const { metadata } = applied.object;
  if (!metadata?.annotations?.[LAST_APPLIED]) return applied;
  const { [LAST_APPLIED]: _, ...annotations } = config.metadata?.annotations ?? {};
  const plain = { ...config, metadata: { ...config.metadata, annotations } };
  if (Object.keys(annotations).length === 0) delete (plain.metadata as { annotations?: object }).annotations;
  const text = `${JSON.stringify(plain)}\n`;
  if (sameJson(metadata.annotations[LAST_APPLIED], plain)) return applied;
  const object = {
    ...applied.object,
    metadata: { ...metadata, annotations: { ...metadata.annotations, [LAST_APPLIED]: text } },
  };
  return { ...applied, object };
}

function sameJson(text: string, value: unknown): boolean {
  try {
    return deepEqual(JSON.parse(text), value);
  } catch {
    return false;
  }
}

/** Fields of the last client-side apply that are still as they were applied. */
function fromLastApplied(schema: Schema, live: AnyObject, apiVersion: string): FieldSet | undefined {
  const text = live.metadata?.annotations?.[LAST_APPLIED];
  if (!text) return undefined;
  try {
    const last = JSON.parse(text) as AnyObject;
    if (!isPlainObject(last) || last.apiVersion !== apiVersion) return undefined;
    const { added, modified, removed } = compare(last, bare(live), schema);
    return fieldsOf(last, schema).difference(modified).difference(added).difference(removed);
  } catch {
    return undefined;
  }
}

function laidOver(
  write: Write,
  owners: Owners,
  live: AnyObject,
  config: AnyObject,
  manager: Manager,
  force: boolean,
): Applied {
  const { schema, door, time, forms, apiVersion } = write;
  const id = identity(manager);
  const seen = bare(live);
  const mine = door(fieldsOf(config, schema)).difference(NEVER_OWNED);
  const all = new Map<string, Owner>();
  const foreign = (o: Owner) => forms !== undefined && o.apiVersion !== apiVersion;
  for (const [k, o] of owners)
    all.set(k, foreign(o) ? o : { ...o, fields: reconciled(o.fields, seen, schema) });
  const before = all.get(id);
  all.set(id, { ...manager, time, fields: mine });
  let object = merge(seen, config, schema) as AnyObject;
  if (before && forms) object = prunedInAllVersions(forms, object, before, all, config, write);
  else if (before) {
    let owned = NEVER_OWNED;
    for (const o of all.values()) owned = owned.union(o.fields);
    const gone = withParents(before.fields, schema).difference(withParents(owned, schema));
    // Laid over once more for parts that are empty now but applied as empty.
    if (!gone.empty) object = merge(withoutFields(object, gone, schema) ?? {}, config, schema) as AnyObject;
  }
  const { left, conflicts } = takeFromOthers(
    all,
    seenBy(write, seen, object, through(door, compare(seen, object, schema))),
    id,
  );
  if (conflicts.size > 0 && !force)
    throw new Conflicts([...conflicts].map(([k, fields]) => ({ owner: all.get(k)!, fields })));
  if (mine.empty) left.delete(id);
  return { object, owners: left };
}

/**
 * `object` without what its applier owned `before` and nobody owns now, each owner asked in its own version
 * (structured-merge-diff's prune and addBackOwnedItems).
 */
function prunedInAllVersions(
  forms: Forms,
  object: AnyObject,
  before: Owner,
  owners: Owners,
  config: AnyObject,
  { schema, apiVersion = '' }: Write,
): AnyObject {
  const home = forms.of({ ...object, apiVersion }, before.apiVersion);
  // Of a version that is no more nobody can tell what was applied.
  if (!home) return object;
  let whole = home.object;
  let pruned = (withoutFields(whole, withParents(before.fields, home.schema), home.schema) ??
    {}) as AnyObject;
  for (const version of new Set([...owners.values()].map((o) => o.apiVersion))) {
    const now = forms.of(whole, version);
    const less = forms.of(complete(pruned, whole), version);
    if (!now || !less) continue;
    let owned = NEVER_OWNED;
    for (const o of owners.values()) if (o.apiVersion === version) owned = owned.union(o.fields);
    const gone = fieldsOf(bare(now.object), now.schema)
      .difference(fieldsOf(bare(less.object), now.schema))
      .difference(withParents(owned, now.schema));
    whole = now.object;
    pruned = gone.empty ? whole : ((withoutFields(whole, gone, now.schema) ?? {}) as AnyObject);
  }
  const back = forms.of(complete(pruned, whole), apiVersion)?.object ?? object;
  return merge(back, config, schema) as AnyObject;
}

/** What is left of an object says what it is, as the webhook must be able to tell. */
const complete = (pruned: AnyObject, { apiVersion, kind, metadata }: AnyObject): AnyObject => ({
  ...pruned,
  apiVersion: apiVersion!,
  kind: kind!,
  metadata: {
    ...pruned.metadata,
    ...Object.fromEntries(
      STRIPPED.flatMap((name) => {
        const value = (metadata as Record<string, unknown> | undefined)?.[name];
        return value === undefined ? [] : [[name, value]];
      }),
    ),
  },
});

function ownerText({ manager, operation, apiVersion, subresource }: Owner): string {
  const name =
    JSON.stringify(manager) + (subresource ? ` with subresource ${JSON.stringify(subresource)}` : '');
  return operation === 'Update' ? `${name} using ${apiVersion}` : name;
}

function conflictError(by: readonly { owner: Owner; fields: FieldSet }[]): ApiError {
  const found = by
    .map(({ owner, fields }) => ({ name: ownerText(owner), paths: fields.paths().map(pathText) }))
    .sort((a, b) => order(a.name, b.name));
  const causes = found.flatMap(({ name, paths }) =>
    paths.map((path) => ({ reason: 'FieldManagerConflict', message: `conflict with ${name}`, field: path })),
  );
  const text =
    causes.length === 1
      ? `1 conflict: ${causes[0]!.message}: ${causes[0]!.field}`
      : `${causes.length} conflicts: ${found
          .map(({ name, paths }) => [`conflicts with ${name}:`, ...paths.map((p) => `- ${p}`)].join('\n'))
          .join('\n')}`;
  return new ApiError('Conflict', `Apply failed with ${text}`, { causes });
}
