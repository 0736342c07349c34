import type { Kind } from '../../api/kinds/kind.js';
import { notFound } from '../../api/meta/errors.js';
import { invalid, invalidObject } from '../../api/meta/field-errors.js';
import { isPlainObject } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { formatSelector, requirementsOf } from '../../api/meta/selector.js';

export const SCALE_SCHEMA = 'io.k8s.api.autoscaling.v1.Scale';

const at = (o: AnyObject, path: string): unknown =>
  path
    .split('.')
    .slice(1)
    .reduce<unknown>((v, key) => (v as Record<string, unknown> | undefined)?.[key], o);

const paths = (kind: Kind) => {
  if (!kind.scale) throw notFound(kind.plural, 'scale', kind.group);
  return kind.scale;
};

/** The autoscaling/v1 Scale of an object. */
export function scaleOf(kind: Kind, o: AnyObject): AnyObject {
  const { specReplicas, statusReplicas, labelSelector } = paths(kind);
  const { name, namespace, uid, resourceVersion, creationTimestamp } = o.metadata ?? {};
  const selector = labelSelector ? at(o, labelSelector) : undefined;
  // A ReplicationController's selector is a plain map of labels.
  const labels = kind.plural === 'replicationcontrollers' ? { matchLabels: selector } : selector;
  const text =
    typeof selector === 'string' ? selector : selector && formatSelector(requirementsOf(labels as object));
  return {
    kind: 'Scale',
    apiVersion: 'autoscaling/v1',
    metadata: { name, ...(namespace ? { namespace } : {}), uid, resourceVersion, creationTimestamp },
    spec: { replicas: at(o, specReplicas) ?? 0 },
    status: {
      replicas: at(o, statusReplicas) ?? 0,
      ...(text ? { selector: text } : {}),
    },
  };
}

/** Writes the wanted replicas into `o`, a mutable object. Throws Invalid on a negative number. */
export function setScale(kind: Kind, o: AnyObject, scale: AnyObject): void {
  const { specReplicas } = paths(kind);
  const replicas = (scale['spec'] as { replicas?: number } | undefined)?.replicas ?? 0;
  if (replicas < 0)
    throw invalidObject({ kind: 'Scale', group: 'autoscaling' }, o.metadata?.name ?? '', [
      invalid('spec.replicas', replicas, 'must be greater than or equal to 0'),
    ]);
  const path = specReplicas.split('.').slice(1);
  const last = path.pop()!;
  let parent: Record<string, unknown> = o;
  for (const key of path) {
    // A custom object may have left out what is on the way.
    if (!isPlainObject(parent[key])) parent[key] = {};
    parent = parent[key] as Record<string, unknown>;
  }
  parent[last] = replicas;
}
