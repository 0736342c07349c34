/** Who comes to own which fields (`metadata.managedFields`) by a write. */
import { rfc3339 } from '../../api/clock.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { schemaOf } from '../../api/kinds/schema.js';
import { deepEqual } from '../../api/meta/json.js';
import type { AnyObject, ObjectMeta } from '../../api/meta/object.js';
import type { RequestContext, Subresource } from './api.js';
import { field } from './fieldset.js';
import type { Forms } from './forms.js';
import {
  afterUpdate,
  type Door,
  encodeOwners,
  type Manager,
  type Owners,
  ownersOf,
  sameOwners,
  type Write,
} from './managed.js';
import { metaOf, unchanged } from './meta.js';
import { metadataOfStatus } from './rules.js';

/** Not one of the hub's own parts. */
export const isClient = (ctx: RequestContext): boolean => ctx.fieldManager !== undefined;

/** Who writes; undefined for the hub's own parts. */
export function managerOf(
  ctx: RequestContext,
  kind: Kind,
  subresource?: Subresource,
  operation: Manager['operation'] = 'Update',
): Manager | undefined {
  if (!isClient(ctx)) return undefined;
  return {
    manager: ctx.fieldManager || 'unknown',
    operation,
    apiVersion: apiVersionOf(kind),
    ...(subresource ? { subresource } : {}),
  };
}

const STATUS = field('status');
const statusAlone: Door = (set) => set.only(STATUS);
const allButSpec: Door = (set) => set.without(field('spec'));
const allButStatus: Door = (set) => set.without(STATUS);
const everything: Door = (set) => set;

function doorOf(kind: Kind, subresource: Subresource | undefined): Door {
  if (subresource === 'status' || subresource === 'approval')
    return metadataOfStatus(kind).length ? allButSpec : statusAlone;
  return !subresource && kind.status ? allButStatus : everything;
}

/** The fields that a door lets through: the main one keeps status, that of status the rest. */
export const writeThrough = (
  kind: Kind,
  subresource: Subresource | undefined,
  now: number,
  forms?: Forms,
): Write => ({
  schema: schemaOf(kind),
  door: doorOf(kind, subresource),
  time: rfc3339(now),
  ...(forms ? { forms, apiVersion: apiVersionOf(kind) } : {}),
});

/** Writes into `next` who owns what after it takes the place of `current`; `owners` when an apply knows already. */
export function setOwners(
  ctx: RequestContext,
  kind: Kind,
  subresource: Subresource | undefined,
  next: AnyObject,
  current: AnyObject,
  sent: ObjectMeta['managedFields'],
  owners: Owners | undefined,
  now: number,
  forms?: Forms,
): void {
  const meta = metaOf(next);
  const stored = current.metadata!.managedFields;
  const entries = (): ObjectMeta['managedFields'] => {
    if (owners) return encodeOwners(owners);
    // What nobody was tracked for stays so until the first apply.
    if (!stored && !sent) return undefined;
    const before = ownersOf(stored, sent);
    if (before.size === 0) return undefined;
    const manager = managerOf(ctx, kind, subresource);
    const after = afterUpdate(writeThrough(kind, subresource, now, forms), before, current, next, manager);
    return after === before && !sent ? stored : encodeOwners(after);
  };
  const owned = entries();
  if (stored && sameOwners(owned, stored)) {
    // A write that changes nothing is none, so the time does not move either; and equal entries are one in memory.
    meta.managedFields = stored;
    if (unchanged(next, current) || deepEqual(owned, stored)) return;
  }
  if (owned) meta.managedFields = owned;
  else delete meta.managedFields;
}
