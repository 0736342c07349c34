/** What binds a pod to a node: the body of pods/NAME/binding. */
import type { Binding, Pod } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import type { FieldError } from '../../api/kinds/kind.js';
import { conflict } from '../../api/meta/errors.js';
import { invalid, invalidObject } from '../../api/meta/field-errors.js';
import type { AnyObject } from '../../api/meta/object.js';

/** Throws Invalid when the Binding names no node. */
export function checkBinding(name: string, { target }: Binding): void {
  const errors: FieldError[] = [];
  if (target?.kind && target.kind !== 'Node')
    errors.push(invalid('target.kind', target.kind, 'must be empty, "Node" is the only kind'));
  if (!target?.name) errors.push({ type: 'Required', field: 'target.name', message: 'Required value' });
  if (errors.length) throw invalidObject({ kind: 'Binding', group: '' }, name, errors);
}

/** Binds `o`, a shallow copy of the pod. Throws Conflict for a pod that is another one, ending, bound or gated. */
export function bindPod(o: AnyObject, binding: Binding, now: number): void {
  const name = o.metadata?.name ?? '';
  const refuse = (why: string) => conflict('pods/binding', name, why);
  const pod = o as { -readonly [K in keyof Pod]: Pod[K] };
  const { uid } = binding.metadata ?? {};
  if (uid && uid !== o.metadata?.uid)
    throw refuse(`Precondition failed: UID in precondition: ${uid}, UID in object meta: ${o.metadata?.uid}`);
  if (o.metadata?.deletionTimestamp)
    throw refuse(`pod ${name} is being deleted, cannot be assigned to a host`);
  if (pod.spec?.nodeName)
    throw refuse(`pod ${name} is already assigned to node ${JSON.stringify(pod.spec.nodeName)}`);
  if (pod.spec?.schedulingGates?.length) throw refuse(`pod ${name} has non-empty .spec.schedulingGates`);
  pod.spec = { ...pod.spec!, nodeName: binding.target.name! };
  pod.metadata = { ...pod.metadata };
  if (binding.metadata?.annotations)
    pod.metadata.annotations = { ...pod.metadata.annotations, ...binding.metadata.annotations };
  const conditions = (pod.status?.conditions ?? []).filter((c) => c.type !== 'PodScheduled');
  pod.status = {
    ...pod.status,
    conditions: [
      ...conditions,
      {
        type: 'PodScheduled',
        status: 'True',
        lastTransitionTime: rfc3339(now),
      },
    ],
  };
}
