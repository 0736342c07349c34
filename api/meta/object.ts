import type { ListMeta as KListMeta, ObjectMeta as KObjectMeta } from 'kubernetes-types/meta/v1.js';

/** Kubernetes' ObjectMeta as it travels in JSON: timestamps are RFC 3339 strings, resourceVersion is opaque. */
export type ObjectMeta = KObjectMeta;
export type ListMeta = KListMeta;

/** What every served object has. Specific kinds come from `kubernetes-types` (types only, nothing at run time). */
export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata?: ObjectMeta;
}

/** An object of a kind known only at run time (the generic machinery's view). */
export type AnyObject = KubeObject & Record<string, unknown>;

/** Identifies one object of a known kind. `namespace` is absent for cluster-scoped kinds. */
export interface ObjectKey {
  namespace?: string;
  name: string;
}

/** `namespace/name`, or `name` for a cluster-scoped object: the form in which queues carry keys. */
export function keyOf(o: KubeObject): string {
  const { namespace, name } = o.metadata ?? {};
  return namespace ? `${namespace}/${name}` : `${name}`;
}

/** The inverse of {@link keyOf}. */
export function parseKey(key: string): ObjectKey {
  const slash = key.indexOf('/');
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}
