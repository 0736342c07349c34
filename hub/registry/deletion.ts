/** What a delete asks for, and what it writes into the object that it ends. */
import { rfc3339 } from '../../api/clock.js';
import type { FieldError, Kind } from '../../api/kinds/kind.js';
import { badRequest, conflict } from '../../api/meta/errors.js';
import { invalid, invalidObject, notSupported } from '../../api/meta/field-errors.js';
import type { AnyObject, ObjectMeta } from '../../api/meta/object.js';
import type { DeleteOptions } from '../client.js';
import { decodeBody } from './decode.js';
import { metaOf } from './meta.js';

const POLICIES: readonly string[] = ['Foreground', 'Background', 'Orphan'];

/** Reads a `DeleteOptions` body (or nothing) and query parameters of the same names; throws BadRequest or Invalid. */
export function deleteOptions(
  body: unknown,
  query: Readonly<Record<string, string | undefined>>,
): DeleteOptions {
  const o = (
    body === undefined || body === null
      ? {}
      : decodeBody(body, 'DeleteOptions', 'v1', 'io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions').object
  ) as {
    gracePeriodSeconds?: number;
    propagationPolicy?: string;
    orphanDependents?: boolean;
    dryRun?: string[];
    preconditions?: { uid?: string; resourceVersion?: string };
  };
  const fromQuery = query['gracePeriodSeconds'];
  if (fromQuery !== undefined && o.gracePeriodSeconds === undefined) {
    if (!/^-?\d{1,10}$/.test(fromQuery))
      throw badRequest(`gracePeriodSeconds: ${JSON.stringify(fromQuery)} is no whole number`);
    o.gracePeriodSeconds = Number(fromQuery);
  }
  const orphan = o.orphanDependents ?? { true: true, false: false }[query['orphanDependents'] ?? ''];
  let policy = o.propagationPolicy ?? query['propagationPolicy'];
  const errors: FieldError[] = [];
  if (policy && orphan !== undefined)
    errors.push(
      invalid('propagationPolicy', policy, 'orphanDependents and deletionPropagation cannot be both set'),
    );
  // In Kubernetes' order, and with its "nil".
  if (policy && !POLICIES.includes(policy))
    errors.push({
      ...notSupported('propagationPolicy', policy, []),
      message: `Unsupported value: ${JSON.stringify(policy)}: supported values: ${[...POLICIES, 'nil'].map((p) => JSON.stringify(p)).join(', ')}`,
    });
  if (o.dryRun?.some((d) => d !== 'All')) errors.push(notSupported('dryRun', o.dryRun, ['All']));
  if (errors.length) throw invalidObject({ kind: 'DeleteOptions', group: 'meta.k8s.io' }, '', errors);
  if (orphan !== undefined) policy = orphan ? 'Orphan' : 'Background';
  return {
    ...(o.dryRun?.length ? { dryRun: true } : {}),
    ...(o.gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds: o.gracePeriodSeconds }),
    ...(o.preconditions?.uid ? { uid: o.preconditions.uid } : {}),
    ...(o.preconditions?.resourceVersion ? { resourceVersion: o.preconditions.resourceVersion } : {}),
    ...(policy ? { propagationPolicy: policy as NonNullable<DeleteOptions['propagationPolicy']> } : {}),
  };
}

/** Throws Conflict when the uid or resourceVersion of the options is not the current one. */
export function checkDeletePreconditions(
  kind: Kind,
  name: string,
  options: DeleteOptions,
  current: ObjectMeta,
): void {
  if (options.uid && options.uid !== current.uid)
    throw conflict(
      kind.plural,
      name,
      `the UID in the precondition (${options.uid}) does not match the UID in record (${current.uid}). The object might have been deleted and then recreated`,
      kind.group,
    );
  if (options.resourceVersion && options.resourceVersion !== current.resourceVersion)
    throw conflict(
      kind.plural,
      name,
      `the ResourceVersion in the precondition (${options.resourceVersion}) does not match the ResourceVersion in record (${current.resourceVersion}). The object might have been modified`,
      kind.group,
    );
}

/** A deleted object that nothing holds any more. */
export function mayGo(kind: Kind, o: AnyObject): boolean {
  const m = o.metadata!;
  return (
    m.deletionTimestamp !== undefined &&
    !m.finalizers?.length &&
    !kind.holdsDeletion?.(o) &&
    !m.deletionGracePeriodSeconds
  );
}

/** `current` with what a delete writes into it (registry/rest BeforeDelete and deletionFinalizersForGarbageCollection). */
export function markDeleted(kind: Kind, current: AnyObject, options: DeleteOptions, now: number): AnyObject {
  const next: AnyObject = { ...current, metadata: { ...current.metadata } };
  const m = metaOf(next);
  delete m.resourceVersion;
  const finalizers = new Set(m.finalizers ?? []);
  const { propagationPolicy: policy } = options;
  if (policy) {
    finalizers.delete('orphan');
    finalizers.delete('foregroundDeletion');
    if (policy === 'Orphan') finalizers.add('orphan');
    if (policy === 'Foreground') finalizers.add('foregroundDeletion');
  } else if (kind.orphansByDefault && !finalizers.has('foregroundDeletion')) finalizers.add('orphan');
  if (finalizers.size || m.finalizers) m.finalizers = [...finalizers];
  if (m.finalizers?.length === 0) delete m.finalizers;
  // Kubernetes reads a negative grace period as one second.
  const asked =
    options.gracePeriodSeconds === undefined
      ? undefined
      : options.gracePeriodSeconds < 0
        ? 1
        : options.gracePeriodSeconds;
  if (m.deletionTimestamp === undefined) {
    const grace = kind.defaultGracePeriod ? graceOf(kind, current, asked) : 0;
    m.deletionTimestamp = rfc3339(now + grace * 1000);
    m.deletionGracePeriodSeconds = grace;
    if (m.generation !== undefined) m.generation++;
    kind.prepareForDelete?.(next);
  } else if (kind.defaultGracePeriod) {
    // Already going: the grace period may only become shorter.
    const before = m.deletionGracePeriodSeconds ?? 0;
    const grace = asked === undefined ? before : graceOf(kind, current, asked);
    if (grace < before) {
      const started = Date.parse(String(m.deletionTimestamp)) - before * 1000;
      m.deletionTimestamp = rfc3339(started + grace * 1000);
      m.deletionGracePeriodSeconds = grace;
    }
  }
  return next;
}

function graceOf(kind: Kind, o: AnyObject, asked: number | undefined): number {
  const byDefault = kind.defaultGracePeriod!(o);
  // 0 from the kind says that nothing runs (a pod that is on no node, or has ended): there is no one to wait for.
  return byDefault === 0 ? 0 : (asked ?? byDefault);
}
