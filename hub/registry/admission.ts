import type { Namespace, Pod, PodSpec } from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import { namespaces, runtimeClasses, serviceAccounts } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ApiError, notFound, qualifiedResource } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import type { RequestContext, Subresource } from './api.js';

/** Reads another object; undefined when there is none. */
export type Lookup = (kind: Kind, key: ObjectKey) => AnyObject | undefined;

/** A write that is about to happen. `next` is what is stored after it (what is deleted, for a delete). */
export interface GuardedWrite {
  verb: 'create' | 'update' | 'delete';
  kind: Kind;
  subresource?: Subresource;
  next: AnyObject;
  current?: AnyObject;
}

/** Throws when who writes may not write this; asked on every write, after validation. */
export type Guard = (ctx: RequestContext, write: GuardedWrite) => void;

const forbid = (kind: Kind, name: string, why: string): ApiError =>
  new ApiError(
    'Forbidden',
    `${qualifiedResource(kind.plural, kind.group)} ${JSON.stringify(name)} is forbidden: ${why}`,
    { name, ...(kind.group ? { group: kind.group } : {}), kind: kind.plural },
  );

/** PriorityClasses that every Kubernetes has; others are not served. */
const PRIORITIES: Readonly<Record<string, number>> = {
  'system-cluster-critical': 2_000_000_000,
  'system-node-critical': 2_000_001_000,
};

/**
 * What Kubernetes' default admission plugins do on a create, as far as their objects are served: NamespaceLifecycle,
 * ServiceAccount, Priority, RuntimeClass. Changes `o`, which has its defaults, in place.
 */
export function admitCreate(kind: Kind, o: AnyObject, lookup: Lookup): void {
  const { namespace, name = '' } = o.metadata ?? {};
  if (!kind.namespaced || !namespace || namespace.includes('/')) return;
  const ns = lookup(namespaces as unknown as Kind, { name: namespace }) as Namespace | undefined;
  if (!ns) throw notFound('namespaces', namespace);
  if (ns.metadata?.deletionTimestamp) {
    const why = `unable to create new content in namespace ${namespace} because it is being terminated`;
    const e = forbid(kind, name, why);
    throw new ApiError('Forbidden', e.message, {
      ...e.details,
      causes: [
        {
          reason: 'NamespaceTerminating',
          message: `namespace ${namespace} is being terminated`,
          field: 'metadata.namespace',
        },
      ],
    });
  }
  if (kind.plural === 'pods') admitPod(kind, o as Pod, lookup);
}

function admitPod(kind: Kind, pod: Pod, lookup: Lookup): void {
  const spec = pod.spec;
  if (!spec) return;
  const { namespace = '', name = '' } = pod.metadata ?? {};
  const refuse = (why: string) => forbid(kind, name, why);

  spec.serviceAccountName ||= 'default';
  // The default account is made by a controller right after its namespace; a pod need not wait for it.
  const account = spec.serviceAccountName;
  spec.serviceAccount = account;
  if (
    account !== 'default' &&
    !account.includes('/') &&
    !lookup(serviceAccounts as unknown as Kind, { namespace, name: account })
  )
    throw refuse(
      `error looking up service account ${namespace}/${account}: serviceaccount ${JSON.stringify(account)} not found`,
    );

  const className = spec.priorityClassName;
  if (className && !Object.hasOwn(PRIORITIES, className))
    throw refuse(`no PriorityClass with name ${className} was found`);
  const priority = className ? PRIORITIES[className]! : 0;
  if (spec.priority !== undefined && spec.priority !== priority)
    throw refuse(
      `the integer value of priority (${spec.priority}) must not be provided in pod spec; priority admission controller computed ${priority} from the given PriorityClass name`,
    );
  spec.priority = priority;
  spec.preemptionPolicy ??= 'PreemptLowerPriority';

  const runtime = spec.runtimeClassName;
  if (runtime && !runtime.includes('/')) {
    const rc = lookup(runtimeClasses as unknown as Kind, { name: runtime }) as RuntimeClass | undefined;
    if (!rc) throw refuse(`pod rejected: RuntimeClass ${JSON.stringify(runtime)} not found`);
    applyRuntimeClass(spec, rc, refuse);
  } else if (spec.overhead)
    throw refuse('pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead');
}

function applyRuntimeClass(spec: PodSpec, rc: RuntimeClass, refuse: (why: string) => ApiError): void {
  const overhead = rc.overhead?.podFixed;
  if (spec.overhead && !deepEqual(spec.overhead, overhead))
    throw refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead");
  if (overhead) spec.overhead = deepCopy(overhead);
  for (const [k, v] of Object.entries(rc.scheduling?.nodeSelector ?? {})) {
    const there = spec.nodeSelector?.[k];
    if (there !== undefined && there !== v)
      throw refuse(
        `conflict: runtimeClass.scheduling.nodeSelector[${k}] = ${v}; pod.spec.nodeSelector[${k}] = ${there}`,
      );
    spec.nodeSelector = { ...spec.nodeSelector, [k]: v };
  }
  for (const t of rc.scheduling?.tolerations ?? [])
    if (!spec.tolerations?.some((x) => deepEqual(x, t)))
      spec.tolerations = [...(spec.tolerations ?? []), deepCopy(t)];
}
