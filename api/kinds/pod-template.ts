/** Defaults and validation that kinds with a pod template share. */
import type { PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { validateAnnotations, validateLabels } from '../meta/object-meta.js';
import { matchesSelector, validateSelector } from '../meta/selector.js';
import type { FieldError } from './kind.js';
import { defaultPodSpec } from './pod-defaults.js';
import { validatePodSpec } from './pod-spec.js';

/** Paths of the `scale` subresource. */
export const SCALE = {
  specReplicas: '.spec.replicas',
  statusReplicas: '.status.replicas',
  labelSelector: '.spec.selector',
};

/** In place. */
export function defaultTemplate(spec: { template?: PodTemplateSpec }): void {
  spec.template ??= {};
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
}

export const atLeastZero = (v: number | undefined, field: string): FieldError[] =>
  v === undefined || v >= 0 ? [] : [invalid(field, v, 'must be greater than or equal to 0')];

/** Kubernetes' ValidatePodTemplateSpec. */
export const validateTemplate = (template: PodTemplateSpec | undefined, at: string): FieldError[] => [
  ...validateLabels(template?.metadata?.labels, `${at}.labels`),
  ...validateAnnotations(template?.metadata?.annotations, `${at}.annotations`),
  ...validatePodSpec(template?.spec, `${at}.spec`),
  ...(template?.spec?.ephemeralContainers?.length
    ? [forbidden(`${at}.spec.ephemeralContainers`, 'ephemeral containers not allowed in pod template')]
    : []),
];

/** The selector is there, means something and matches the template. */
export function validateSelected(
  selector: LabelSelector | undefined,
  template: PodTemplateSpec | undefined,
  what: string,
): FieldError[] {
  if (!selector) return [required('spec.selector')];
  const errors = validateSelector(selector, 'spec.selector');
  if (!Object.keys(selector.matchLabels ?? {}).length && !selector.matchExpressions?.length)
    return [...errors, invalid('spec.selector', selector, `empty selector is invalid for ${what}`)];
  if (errors.length === 0 && !matchesSelector(selector, template?.metadata?.labels))
    errors.push(
      invalid(
        'spec.template.metadata.labels',
        template?.metadata?.labels ?? {},
        '`selector` does not match template `labels`',
      ),
    );
  return errors;
}

/** Pods that are to run for ever start again whatever happens, and have no deadline. */
export function validateEndless(template: PodTemplateSpec | undefined, kind: string): FieldError[] {
  const { restartPolicy, activeDeadlineSeconds } = template?.spec ?? {};
  const at = 'spec.template.spec';
  const errors: FieldError[] = [];
  if (restartPolicy && restartPolicy !== 'Always' && ['OnFailure', 'Never'].includes(restartPolicy))
    errors.push(notSupported(`${at}.restartPolicy`, restartPolicy, ['Always']));
  if (activeDeadlineSeconds !== undefined)
    errors.push(
      forbidden(`${at}.activeDeadlineSeconds`, `activeDeadlineSeconds in ${kind} is not Supported`),
    );
  return errors;
}

interface TemplateOwner {
  selector?: LabelSelector;
  template?: PodTemplateSpec;
}

/** Selector and template of a kind whose pods run for ever. `what` is the kind in the message about an empty selector. */
export const validateSelectedTemplate = (spec: TemplateOwner, what: string, kind: string): FieldError[] => [
  ...validateSelected(spec.selector, spec.template, what),
  ...validateTemplate(spec.template, 'spec.template'),
  ...validateEndless(spec.template, kind),
];

interface HasSpec {
  spec?: object;
}

/** A check that members of the spec stay as they were. */
export const immutable =
  (...members: string[]) =>
  (o: HasSpec, old: HasSpec): FieldError[] =>
    members.flatMap((m) => {
      const now = (o.spec as Record<string, unknown>)?.[m];
      return deepEqual(now, (old.spec as Record<string, unknown>)?.[m])
        ? []
        : [invalid(`spec.${m}`, now, 'field is immutable')];
    });

/** A count, or the number before a percent sign; undefined: neither. */
export const amount = (v: number | string | undefined): number | undefined => {
  if (typeof v === 'number') return v;
  const m = /^(\d{1,9})%$/.exec(v ?? '');
  return m ? Number(m[1]) : undefined;
};

/** Kubernetes' ValidatePositiveIntOrPercent. */
export function validateIntOrPercent(v: number | string | undefined, field: string): FieldError[] {
  if (amount(v) === undefined)
    return [
      invalid(
        field,
        v,
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
      ),
    ];
  return typeof v === 'number' ? atLeastZero(v, field) : [];
}

export const notMoreThanAll = (v: number | string | undefined, field: string): FieldError[] =>
  typeof v === 'string' && (amount(v) ?? 0) > 100 ? [invalid(field, v, 'must not be greater than 100%')] : [];
