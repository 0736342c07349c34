import type { FieldError } from '../kinds/kind.js';
import { duplicate, forbidden, invalid, required, tooLong } from './field-errors.js';
import { deepEqual } from './json.js';
import { dns1123Label, dns1123Subdomain, qualifiedName, type Validator, validLabelValue } from './names.js';
import type { ObjectMeta } from './object.js';

const MAX_ANNOTATIONS = 256 * 1024;
/** Finalizers of Kubernetes itself that have no domain in front. */
const STANDARD_FINALIZERS = ['kubernetes', 'orphan', 'foregroundDeletion'];

export function validateLabels(labels: unknown, field: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [k, v] of Object.entries((labels ?? {}) as Record<string, string>)) {
    for (const e of qualifiedName(k)) errors.push(invalid(field, k, e));
    for (const e of validLabelValue(v)) errors.push(invalid(field, v, e));
  }
  return errors;
}

export function validateAnnotations(annotations: unknown, field: string): FieldError[] {
  const errors: FieldError[] = [];
  let size = 0;
  for (const [k, v] of Object.entries((annotations ?? {}) as Record<string, string>)) {
    for (const e of qualifiedName(k.toLowerCase())) errors.push(invalid(field, k, e));
    size += Buffer.byteLength(k) + Buffer.byteLength(v);
  }
  if (size > MAX_ANNOTATIONS) errors.push(tooLong(field, MAX_ANNOTATIONS));
  return errors;
}

function validateFinalizers(finalizers: readonly string[], field: string, custom: boolean): FieldError[] {
  const errors = finalizers.flatMap((f) => {
    const wrong = qualifiedName(f).map((e) => invalid(field, f, e));
    if (wrong.length === 0 && !custom && !isKnownFinalizer(f))
      return [invalid(field, f, 'name is neither a standard finalizer name nor is it fully qualified')];
    return wrong;
  });
  if (finalizers.includes('orphan') && finalizers.includes('foregroundDeletion'))
    errors.push(invalid(field, finalizers, 'finalizer orphan and foregroundDeletion cannot be both set'));
  return errors;
}

function validateOwners(meta: ObjectMeta, field: string): FieldError[] {
  const errors: FieldError[] = [];
  let controller = '';
  (meta.ownerReferences ?? []).forEach((o, i) => {
    const at = `${field}[${i}]`;
    if (!o.apiVersion)
      errors.push(invalid(`${at}.apiVersion`, o.apiVersion ?? '', 'version must not be empty'));
    for (const k of ['kind', 'name', 'uid'] as const)
      if (!o[k]) errors.push(invalid(`${at}.${k}`, o[k] ?? '', 'must not be empty'));
    if (!o.controller) return;
    if (controller)
      errors.push(
        invalid(
          field,
          meta.ownerReferences,
          `Only one reference can have Controller set to true. Found "true" in references for ${controller} and ${o.kind}/${o.name}`,
        ),
      );
    controller = `${o.kind}/${o.name}`;
  });
  return errors;
}

const isKnownFinalizer = (f: string): boolean => f.includes('/') || STANDARD_FINALIZERS.includes(f);

/** What the writer of a custom object should know of its finalizers (apiextensions customresource/validator.go). */
export const finalizerWarnings = (finalizers: readonly string[] = []): string[] =>
  finalizers
    .filter((f) => !isKnownFinalizer(f))
    .map(
      (f) =>
        `metadata.finalizers: ${JSON.stringify(f)}: prefer a domain-qualified finalizer name ${f.includes('.') ? 'including a path (/) ' : ''}to avoid accidental conflicts with other finalizer writers`,
    );

/** Kubernetes' ValidateObjectMeta. `custom`: of a custom object, whose finalizers may have any qualified name. */
export function validateObjectMeta(
  meta: ObjectMeta,
  namespaced: boolean,
  validName: Validator = dns1123Subdomain,
  custom = false,
): FieldError[] {
  const errors: FieldError[] = [];
  const at = 'metadata';
  // A name cut from the end is still a name: what generateName is checked as.
  if (meta.generateName)
    for (const e of validName(meta.generateName.replace(/[-.]$/, '')))
      errors.push(invalid(`${at}.generateName`, meta.generateName, e));
  if (!meta.name) errors.push(required(`${at}.name`, 'name or generateName is required'));
  else for (const e of validName(meta.name)) errors.push(invalid(`${at}.name`, meta.name, e));
  if (namespaced) {
    if (!meta.namespace) errors.push(required(`${at}.namespace`));
    else
      for (const e of dns1123Label(meta.namespace))
        errors.push(invalid(`${at}.namespace`, meta.namespace, e));
  } else if (meta.namespace) errors.push(forbidden(`${at}.namespace`, 'not allowed on this type'));
  errors.push(...validateLabels(meta.labels, `${at}.labels`));
  errors.push(...validateAnnotations(meta.annotations, `${at}.annotations`));
  errors.push(...validateOwners(meta, `${at}.ownerReferences`));
  errors.push(...validateFinalizers(meta.finalizers ?? [], `${at}.finalizers`, custom));
  return errors;
}

/** Kubernetes' ValidateObjectMetaUpdate: what must stay as it was. */
export function validateObjectMetaUpdate(meta: ObjectMeta, old: ObjectMeta): FieldError[] {
  const errors: FieldError[] = [];
  for (const k of ['name', 'namespace', 'uid', 'creationTimestamp', 'deletionTimestamp'] as const)
    if (!deepEqual(meta[k], old[k])) errors.push(invalid(`metadata.${k}`, meta[k], 'field is immutable'));
  if (old.deletionTimestamp) {
    const added = (meta.finalizers ?? []).filter((f) => !old.finalizers?.includes(f));
    if (added.length)
      errors.push(
        forbidden(
          'metadata.finalizers',
          `no new finalizers can be added if the object is being deleted, found new finalizers []string{${added.map((f) => JSON.stringify(f)).join(', ')}}`,
        ),
      );
  }
  return errors;
}

/** The first text that occurs twice, as an error each time. */
export function duplicates(
  values: readonly (string | undefined)[],
  field: (i: number) => string,
): FieldError[] {
  const seen = new Set<string>();
  return values.flatMap((v, i) => {
    if (v === undefined || v === '') return [];
    if (seen.has(v)) return [duplicate(field(i), v)];
    seen.add(v);
    return [];
  });
}
