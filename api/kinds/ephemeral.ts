/** Ephemeral containers: added to a pod that runs, for debugging (core validation, validateEphemeralContainers). */
import type { Container, EphemeralContainer, Pod, PodSpec } from 'kubernetes-types/core/v1.js';
import { duplicate, forbidden, notFoundField } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import type { FieldError } from './kind.js';

/** The subresource through which they come, and the only way to. */
export const EPHEMERAL_DOOR = 'ephemeralcontainers';

const REFUSED = ['ports', 'livenessProbe', 'readinessProbe', 'startupProbe', 'lifecycle'] as const;
const CANNOT = 'cannot be set for an Ephemeral Container';

/** `validate` holds for containers of every sort. */
export function validateEphemeralContainers(
  spec: PodSpec,
  at: string,
  validate: (c: Container, at: string) => FieldError[],
): FieldError[] {
  if (!spec.ephemeralContainers?.length) return [];
  const others = new Set([...(spec.containers ?? []), ...(spec.initContainers ?? [])].map((c) => c.name));
  const names = new Set(others);
  return spec.ephemeralContainers.flatMap((c, i) => {
    const f = `${at}[${i}]`;
    const errors = validate(c as Container, f);
    if (names.has(c.name)) errors.push(duplicate(`${f}.name`, c.name));
    names.add(c.name);
    const target = c.targetContainerName;
    if (target && !others.has(target)) errors.push(notFoundField(`${f}.targetContainerName`, target));
    for (const k of REFUSED) if (c[k] !== undefined) errors.push(forbidden(`${f}.${k}`, CANNOT));
    if (c.resources && Object.keys(c.resources).length > 0) errors.push(forbidden(`${f}.resources`, CANNOT));
    c.volumeMounts?.forEach((m, n) => {
      for (const k of ['subPath', 'subPathExpr'] as const)
        if (m[k]) errors.push(forbidden(`${f}.volumeMounts[${n}].${k}`, CANNOT));
    });
    return errors;
  });
}

/** What the door lets through. */
export function withEphemeral(current: PodSpec, wanted: PodSpec): PodSpec {
  const { ephemeralContainers: _, ...spec } = current;
  const { ephemeralContainers } = wanted;
  return ephemeralContainers === undefined ? spec : { ...spec, ephemeralContainers };
}

/** They come, and never change or go. */
export function validateEphemeralUpdate(o: Pod, old: Pod): FieldError[] {
  const now = new Map(
    (o.spec?.ephemeralContainers ?? []).map((c): [string, EphemeralContainer] => [c.name, c]),
  );
  const at = `spec.ephemeralContainers`;
  return (old.spec?.ephemeralContainers ?? []).flatMap((c) => {
    const kept = now.get(c.name);
    const said = `existing ephemeral containers ${JSON.stringify(c.name)} may not be`;
    if (!kept) return [forbidden(at, `${said} removed\n`)];
    return deepEqual(kept, c) ? [] : [forbidden(at, `${said} changed\n`)];
  });
}
