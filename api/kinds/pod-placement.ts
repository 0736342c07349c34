/** Validation of where a pod may go: tolerations, node selector terms, affinity. */
import type { Affinity, NodeSelectorTerm, Toleration } from 'kubernetes-types/core/v1.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { qualifiedName, validLabelValue } from '../meta/names.js';
import { validateSelector } from '../meta/selector.js';
import { type Errors, each, optional } from './pod-fields.js';

const EFFECTS = ['NoSchedule', 'PreferNoSchedule', 'NoExecute'];

export const validateTolerations = (tolerations: readonly Toleration[] | undefined, at: string): Errors =>
  each(tolerations, at, (t, f) => {
    const errors = optional(t.key, `${f}.key`, qualifiedName);
    if (!t.key && t.operator !== 'Exists')
      errors.push(
        invalid(
          `${f}.operator`,
          t.operator ?? '',
          'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        ),
      );
    if (t.tolerationSeconds !== undefined && t.effect !== 'NoExecute')
      errors.push(
        invalid(`${f}.effect`, t.effect ?? '', "effect must be 'NoExecute' when `tolerationSeconds` is set"),
      );
    const operator = t.operator || 'Equal';
    if (operator === 'Exists') {
      if (t.value)
        errors.push(invalid(`${f}.operator`, t, "value must be empty when `operator` is 'Exists'"));
    } else if (operator === 'Equal') errors.push(...optional(t.value, `${f}.operator`, validLabelValue));
    else errors.push(notSupported(`${f}.operator`, operator, ['Equal', 'Exists']));
    if (t.effect && !EFFECTS.includes(t.effect)) errors.push(notSupported(`${f}.effect`, t.effect, EFFECTS));
    return errors;
  });

const NODE_OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist', 'Gt', 'Lt'];

export const validateNodeSelectorTerm = (term: NodeSelectorTerm | undefined, at: string): Errors =>
  each(term?.matchExpressions, `${at}.matchExpressions`, (e, f) => {
    const errors = qualifiedName(e.key ?? '').map((w) => invalid(`${f}.key`, e.key ?? '', w));
    const n = e.values?.length ?? 0;
    if (!NODE_OPERATORS.includes(e.operator))
      errors.push(invalid(`${f}.operator`, e.operator ?? '', 'not a valid selector operator'));
    else if (['In', 'NotIn'].includes(e.operator) && n === 0)
      errors.push(required(`${f}.values`, "must be specified when `operator` is 'In' or 'NotIn'"));
    else if (['Exists', 'DoesNotExist'].includes(e.operator) && n > 0)
      errors.push(
        forbidden(`${f}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
      );
    else if (['Gt', 'Lt'].includes(e.operator) && n !== 1)
      errors.push(required(`${f}.values`, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
    return errors;
  });

export function validateAffinity(a: Affinity | undefined, at: string): Errors {
  if (!a) return [];
  const node = a.nodeAffinity;
  const errors: Errors = [];
  const hard = node?.requiredDuringSchedulingIgnoredDuringExecution;
  const name = 'requiredDuringSchedulingIgnoredDuringExecution';
  const soft = 'preferredDuringSchedulingIgnoredDuringExecution';
  if (hard) {
    const f = `${at}.nodeAffinity.${name}.nodeSelectorTerms`;
    if (!hard.nodeSelectorTerms?.length)
      errors.push(required(f, 'must have at least one node selector term'));
    errors.push(...each(hard.nodeSelectorTerms, f, validateNodeSelectorTerm));
  }
  errors.push(
    ...each(node?.[soft], `${at}.nodeAffinity.${soft}`, (p, f) => [
      ...(p.weight >= 1 && p.weight <= 100
        ? []
        : [invalid(`${f}.weight`, p.weight ?? 0, 'must be in the range 1-100')]),
      ...validateNodeSelectorTerm(p.preference, `${f}.preference`),
    ]),
  );
  for (const k of ['podAffinity', 'podAntiAffinity'] as const) {
    const terms = [
      ...(a[k]?.[name] ?? []).map((t, i) => [t, `${at}.${k}.${name}[${i}]`] as const),
      ...(a[k]?.[soft] ?? []).map(
        (t, i) => [t.podAffinityTerm, `${at}.${k}.${soft}[${i}].podAffinityTerm`] as const,
      ),
    ];
    for (const [t, f] of terms) {
      errors.push(...validateSelector(t?.labelSelector, `${f}.labelSelector`));
      if (!t?.topologyKey) errors.push(required(`${f}.topologyKey`, 'can not be empty'));
      else
        errors.push(
          ...qualifiedName(t.topologyKey).map((e) => invalid(`${f}.topologyKey`, t.topologyKey, e)),
        );
    }
  }
  return errors;
}
