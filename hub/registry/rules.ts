/**
 * What stands in the store after a write: the wanted object through its door, defaulted, within the rules of its kind.
 */
import { rfc3339 } from '../../api/clock.js';
import type { FieldError, Kind } from '../../api/kinds/kind.js';
import { ApiError } from '../../api/meta/errors.js';
import { invalidObject } from '../../api/meta/field-errors.js';
import { deepCopy, deepEqual, jsonSizeBound } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { validateObjectMeta, validateObjectMetaUpdate } from '../../api/meta/object-meta.js';
import type { Subresource } from './api.js';
import { metaOf, placeInNamespace } from './meta.js';
import { setScale } from './scale.js';
import { kept, shown } from './views.js';

/** etcd's limit for one value, and therefore Kubernetes'. */
const MAX_OBJECT_BYTES = 1.5 * 1024 * 1024;

type Plain = Record<string, unknown>;

/** What counts in `metadata.generation`: of a custom kind everything that is not status, since nobody knows its form. */
const wishOf = (kind: Kind, o: AnyObject): unknown => {
  if (typeof kind.generation === 'function') return kind.generation(o);
  if (!kind.custom) return o['spec'];
  const { metadata: _m, status, ...rest } = o;
  return kind.status ? rest : { ...rest, status };
};

/** Throws Invalid. The kind's own rules are asked even when metadata is wrong, as in Kubernetes. */
export function validate(kind: Kind, name: string, meta: FieldError[], rules: () => FieldError[]): void {
  const errors = [...meta, ...rules()];
  if (errors.length) throw invalidObject(kind, name, errors);
}

/** A whole object in the form in which it is stored. */
export function storedForm(kind: Kind, o: AnyObject, stored?: AnyObject): AnyObject {
  if (!kind.view) return o;
  kind.setDefaults?.(o);
  const old = stored && shown(kind, stored);
  validate(kind.view.of, o.metadata?.name ?? '', [], () => kind.validate?.(o, old) ?? []);
  return kept(kind, o, stored);
}

const USERS = ['labels', 'annotations', 'finalizers', 'ownerReferences'] as const;

/** What of metadata goes through the door of the status as well. */
export const metadataOfStatus = (kind: Kind): readonly (typeof USERS)[number][] =>
  kind.custom || kind.keptByStatus === 'metadata' ? [] : USERS.filter((k) => k !== kind.keptByStatus);

/**
 * What is stored after a write: `wanted` through the given door, everything else as it is; with defaults.
 * `metadataToo`: a write of the status brings labels and the like along, as one of the hub's own parts never does.
 */
export function place(
  kind: Kind,
  current: AnyObject,
  wanted: AnyObject,
  subresource: Subresource | undefined,
  now: number,
  metadataToo: boolean,
): AnyObject {
  const meta = current.metadata!;
  if (subresource === 'status' || subresource === 'approval') {
    const next: AnyObject = { ...current, metadata: { ...meta }, status: wanted['status'] };
    if (metadataToo)
      for (const k of metadataOfStatus(kind)) {
        delete metaOf(next)[k];
        const value = wanted.metadata?.[k];
        if (value !== undefined) (metaOf(next) as Plain)[k] = value;
      }
    kind.prepareForStatus?.(next, current, subresource, rfc3339(now));
    if (next['status'] === undefined) delete next['status'];
    delete metaOf(next).resourceVersion;
    if (kind.custom) kind.setDefaults?.(next);
    return next;
  }
  let next = wanted;
  if (subresource === 'scale') {
    next = deepCopy(current);
    setScale(kind, next, wanted);
  }
  const door = subresource && kind.specDoors?.[subresource];
  if (door) {
    next = deepCopy(current);
    next['spec'] = door(next['spec'], wanted['spec'] ?? {});
  }
  const m = metaOf(next);
  placeInNamespace(kind, m, meta.namespace);
  m.name ??= meta.name!;
  m.uid = meta.uid!;
  m.creationTimestamp = meta.creationTimestamp!;
  delete m.resourceVersion;
  for (const k of ['deletionTimestamp', 'deletionGracePeriodSeconds', 'generation'] as const) {
    delete m[k];
    if (meta[k] !== undefined) (m as Plain)[k] = meta[k];
  }
  if (meta.generateName) m.generateName = meta.generateName;
  if (kind.status) {
    delete next['status'];
    if (current['status'] !== undefined) next['status'] = current['status'];
  }
  kind.prepareForUpdate?.(next, current, subresource);
  kind.setDefaults?.(next);
  return next;
}

/** Validates what is to take the place of `current`, and counts its generation. */
export function checkUpdate(
  kind: Kind,
  current: AnyObject,
  next: AnyObject,
  subresource: Subresource | undefined,
): void {
  const m = metaOf(next);
  const meta = current.metadata!;
  if (subresource === 'status' || subresource === 'approval') {
    const same = metadataOfStatus(kind).every((k) => m[k] === meta[k] || deepEqual(m[k], meta[k]));
    const wrong = same
      ? []
      : [
          ...validateObjectMeta(m, kind.namespaced, kind.validName, kind.custom !== undefined),
          ...validateObjectMetaUpdate(m, meta),
        ];
    validate(kind, meta.name ?? '', wrong, () => [
      ...((kind.custom && kind.validate?.(next, current)) || []),
      ...(kind.validateStatus?.(next, current, subresource) ?? []),
    ]);
    return;
  }
  validate(
    kind,
    meta.name ?? '',
    [
      ...validateObjectMeta(m, kind.namespaced, kind.validName, kind.custom !== undefined),
      ...validateObjectMetaUpdate(m, meta),
    ],
    () => [
      ...(kind.validate?.(next, current) ?? []),
      ...(kind.validateUpdate?.(next, current, subresource) ?? []),
    ],
  );
  if (kind.generation && !deepEqual(wishOf(kind, next), wishOf(kind, current)))
    m.generation = (meta.generation ?? 0) + 1;
}

/** Who owns what is forgotten where it makes an object too large, except for `applied` ones. */
export function checkSize(o: AnyObject, applied = false): void {
  if (jsonSizeBound(o, MAX_OBJECT_BYTES) <= MAX_OBJECT_BYTES) return;
  const tooLarge = () => Buffer.byteLength(JSON.stringify(o)) > MAX_OBJECT_BYTES;
  if (tooLarge() && !applied) delete metaOf(o).managedFields;
  if (tooLarge()) throw new ApiError('RequestEntityTooLarge', 'etcdserver: request is too large');
}
