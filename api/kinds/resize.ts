/** Changing the CPU and memory of a pod that runs (core validation, ValidatePodResize). */
import type { Container, Pod, PodSpec, ResourceRequirements } from 'kubernetes-types/core/v1.js';
import { duplicate, forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import type { FieldError } from './kind.js';
import { qosClassOf } from './qos.js';

/** The subresource through which it is done, and the only way to. */
export const RESIZE_DOOR = 'resize';

/** What to do with a container when this resource of it changes; kubernetes-types has no such field. */
export interface ResizePolicy {
  resourceName: string;
  restartPolicy: 'NotRequired' | 'RestartContainer';
}
export type Resizable = Container & { resizePolicy?: ResizePolicy[] };

const LISTS = ['containers', 'initContainers'] as const;
const RESIZED = ['cpu', 'memory'];

/** What the door lets through: resources and resize policies. A list that is not the same containers is taken as it is, to be refused. */
export function resizedSpec(current: PodSpec, wanted: PodSpec): PodSpec {
  const next: PodSpec & { resources?: unknown } = { ...current };
  const names = (list: readonly Container[] | undefined) => (list ?? []).map((c) => c.name);
  for (const k of LISTS) {
    if (!deepEqual(names(current[k]), names(wanted[k]))) {
      Object.assign(next, { [k]: wanted[k] });
      continue;
    }
    if (!current[k]) continue;
    next[k] = (current[k] as Resizable[]).map((c, i) => {
      const { resources: _r, resizePolicy: _p, ...rest } = c;
      const { resources, resizePolicy } = wanted[k]![i] as Resizable;
      return { ...rest, ...(resources ? { resources } : {}), ...(resizePolicy ? { resizePolicy } : {}) };
    });
  }
  const { resources } = wanted as { resources?: unknown };
  if (resources === undefined) delete next.resources;
  else next.resources = resources;
  return next;
}

const POLICIES = ['NotRequired', 'RestartContainer'];

export function validateResizePolicy(c: Container, at: string, podRestartPolicy: string): FieldError[] {
  const seen = new Set<string>();
  return ((c as Resizable).resizePolicy ?? []).flatMap((p, i) => {
    const f = `${at}.resizePolicy[${i}]`;
    const errors: FieldError[] = [];
    if (seen.has(p.resourceName)) errors.push(duplicate(f, p.resourceName));
    seen.add(p.resourceName);
    if (!p.resourceName) errors.push(required(`${f}.resourceName`));
    else if (!RESIZED.includes(p.resourceName))
      errors.push(notSupported(`${f}.resourceName`, p.resourceName, RESIZED));
    if (!p.restartPolicy) errors.push(required(`${f}.restartPolicy`));
    else if (!POLICIES.includes(p.restartPolicy))
      errors.push(notSupported(`${f}.restartPolicy`, p.restartPolicy, POLICIES));
    else if (podRestartPolicy === 'Never' && p.restartPolicy !== 'NotRequired')
      errors.push(
        invalid(
          `${f}.restartPolicy`,
          p.restartPolicy,
          "must be 'NotRequired' when `restartPolicy` is 'Never'",
        ),
      );
    return errors;
  });
}

const removed = (now: Record<string, string> | undefined, before: Record<string, string> | undefined) =>
  Object.keys(before ?? {}).some((name) => now?.[name] === undefined);

/** Everything that a resize may not change, to compare. */
function others(r: ResourceRequirements | undefined): object {
  const rest = (list: Record<string, string> | undefined) =>
    Object.fromEntries(Object.entries(list ?? {}).filter(([name]) => !RESIZED.includes(name)));
  return { ...r, limits: rest(r?.limits), requests: rest(r?.requests) };
}

/** Agents tell the resources of what runs; an older one, which does not, cannot change them either. */
function supported({ spec, status }: Pod): boolean {
  const running = status?.containerStatuses?.find((s) => s.state?.running) as
    | { name: string; resources?: object }
    | undefined;
  if (!running || running.resources) return true;
  const { limits, requests } = spec?.containers.find((c) => c.name === running.name)?.resources ?? {};
  return !limits && !requests;
}

export function validateResize(o: Pod, old: Pod): FieldError[] {
  const errors: FieldError[] = [];
  const spec = o.spec!;
  const before = old.spec!;
  if (qosClassOf(o) !== (old.status?.qosClass ?? qosClassOf(old)))
    errors.push(
      invalid('spec', old.status?.qosClass ?? '', 'Pod QOS Class may not change as a result of resizing'),
    );
  if (!supported(old)) errors.push(forbidden('spec', 'Pod running on node without support for resize'));
  for (const k of LISTS) {
    const [now, then] = [spec[k] ?? [], before[k] ?? []];
    if (now.length !== then.length)
      return [...errors, forbidden(`spec.${k}`, `${k} may not be added or removed on resize`)];
    const moved = then.findIndex((c, i) => now[i]!.name !== c.name);
    if (moved >= 0)
      return [
        ...errors,
        forbidden(`spec.${k}[${moved}].name`, 'containers may not be renamed or reordered on resize'),
      ];
    then.forEach((c, i) => {
      const f = `spec.${k}[${i}].resources`;
      const wanted = now[i]!;
      for (const list of ['requests', 'limits'] as const)
        if (removed(wanted.resources?.[list], c.resources?.[list]))
          errors.push(forbidden(`${f}.${list}`, `resource ${list} cannot be removed`));
      if (!deepEqual(others(wanted.resources), others(c.resources)))
        errors.push(
          k === 'containers'
            ? forbidden('spec', 'only cpu and memory resources are mutable')
            : forbidden(
                `spec.${k}[${i}]`,
                'only cpu and memory resources for init or sidecar containers are mutable',
              ),
        );
      const restarts = (wanted as Resizable).resizePolicy?.some(
        (p) => p.restartPolicy === 'RestartContainer',
      );
      if (
        k === 'initContainers' &&
        c.restartPolicy !== 'Always' &&
        restarts &&
        !deepEqual(wanted.resources, c.resources)
      )
        errors.push(
          forbidden(
            `spec.${k}[${i}]`,
            'non-sidecar init containers with a resize policy of RestartContainer cannot be resized',
          ),
        );
    });
  }
  const podLevel = (s: PodSpec) => (s as { resources?: ResourceRequirements }).resources;
  if (!deepEqual(others(podLevel(spec)), others(podLevel(before))))
    errors.push(forbidden('spec', 'only cpu and memory resources are mutable at pod-level'));
  return errors;
}
