/** RBAC as pure functions over rules (Kubernetes' pkg/registry/rbac/validation and plugin authorizer/rbac). */
import type { PolicyRule, Subject } from 'kubernetes-types/rbac/v1.js';
import type { Frozen } from '../client.js';
import type { Attributes, User } from './attributes.js';

export type Rule = Frozen<PolicyRule>;

const ALL = '*';
const NONE: readonly string[] = [];

/** `*` in a rule's list, or the value itself. */
const matches = (list: readonly string[] | undefined, value: string): boolean =>
  list !== undefined && (list.includes(ALL) || list.includes(value));

const urlMatches = (pattern: string, path: string): boolean =>
  pattern === ALL ||
  pattern === path ||
  (pattern.endsWith(ALL) && path.startsWith(pattern.replace(/\*+$/, '')));

const resourceMatches = (list: readonly string[], resource: string, subresource: string): boolean => {
  const whole = subresource ? `${resource}/${subresource}` : resource;
  return list.some((r) => r === ALL || r === whole || (subresource !== '' && r === `*/${subresource}`));
};

/** Whether one rule allows what is asked for. */
export function ruleAllows(rule: Rule, what: Attributes): boolean {
  if (!matches(rule.verbs, what.verb)) return false;
  if ('path' in what) return (rule.nonResourceURLs ?? NONE).some((p) => urlMatches(p, what.path));
  return (
    matches(rule.apiGroups, what.group) &&
    resourceMatches(rule.resources ?? NONE, what.resource, what.subresource ?? '') &&
    (!rule.resourceNames?.length || rule.resourceNames.includes(what.name ?? ''))
  );
}

/** Whether a binding's subject is `user`; `namespace` is the binding's, '' for a ClusterRoleBinding. */
export function isSubject(user: User, s: Frozen<Subject>, namespace: string): boolean {
  if (s.kind === 'User') return user.name === s.name;
  if (s.kind === 'Group') return user.groups.includes(s.name);
  const of = s.namespace || namespace;
  return s.kind === 'ServiceAccount' && of !== '' && user.name === `system:serviceaccount:${of}:${s.name}`;
}

/** A rule as rules of one verb, one group, one resource and at most one name, or of one verb and one URL. */
function* breakDown(rule: Rule): Generator<PolicyRule> {
  for (const verb of rule.verbs ?? NONE) {
    for (const group of rule.apiGroups ?? NONE)
      for (const resource of rule.resources ?? NONE) {
        const one = { apiGroups: [group], resources: [resource], verbs: [verb] };
        if (!rule.resourceNames?.length) yield one;
        else for (const name of rule.resourceNames) yield { ...one, resourceNames: [name] };
      }
    for (const url of rule.nonResourceURLs ?? NONE) yield { nonResourceURLs: [url], verbs: [verb] };
  }
}

/** Whether `owner` allows all that `one`, a rule broken down, allows. */
function coversOne(owner: Rule, one: PolicyRule): boolean {
  const all = (list: readonly string[] | undefined, wanted: readonly string[] | undefined) =>
    (wanted ?? NONE).every((v) => matches(list, v));
  return (
    all(owner.verbs, one.verbs) &&
    all(owner.apiGroups, one.apiGroups) &&
    (one.resources ?? NONE).every((r) => {
      const slash = r.indexOf('/');
      return matches(owner.resources, r) || (slash >= 0 && !!owner.resources?.includes(`*${r.slice(slash)}`));
    }) &&
    (!owner.resourceNames?.length ||
      (!!one.resourceNames?.length && one.resourceNames.every((n) => owner.resourceNames!.includes(n)))) &&
    (one.nonResourceURLs ?? NONE).every((u) => (owner.nonResourceURLs ?? NONE).some((p) => urlMatches(p, u)))
  );
}

/** What of `wanted` no rule of `held` covers, broken down; empty when there is nothing. */
export function notCovered(held: readonly Rule[], wanted: readonly Rule[]): PolicyRule[] {
  const missing: PolicyRule[] = [];
  for (const rule of wanted)
    for (const one of breakDown(rule)) if (!held.some((h) => coversOne(h, one))) missing.push(one);
  return missing;
}

/** Puts the verbs of rules for the same resource together, as Kubernetes shows them. */
export function compact(rules: readonly PolicyRule[]): PolicyRule[] {
  const out: PolicyRule[] = [];
  const simple = new Map<string, PolicyRule>();
  for (const r of rules) {
    const [group, ...groups] = r.apiGroups ?? [];
    const [resource, ...resources] = r.resources ?? [];
    const one =
      group !== undefined &&
      resource !== undefined &&
      groups.length + resources.length === 0 &&
      !r.nonResourceURLs?.length &&
      (r.resourceNames?.length ?? 0) <= 1;
    if (!one) {
      out.push(r);
      continue;
    }
    const key = JSON.stringify([group, resource, r.resourceNames?.[0]]);
    const known = simple.get(key);
    if (known) known.verbs = [...known.verbs, ...r.verbs];
    else {
      const copy = { ...r, verbs: [...r.verbs] };
      simple.set(key, copy);
      out.push(copy);
    }
  }
  return out;
}

const quoted = (list: readonly string[]): string => `[${list.map((v) => JSON.stringify(v)).join(' ')}]`;

/** `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`: Kubernetes' rbac CompactString. */
export function ruleText(r: Rule): string {
  const parts: readonly [string, readonly string[] | undefined][] = [
    ['APIGroups', r.apiGroups],
    ['Resources', r.resources],
    ['NonResourceURLs', r.nonResourceURLs],
    ['ResourceNames', r.resourceNames],
    ['Verbs', r.verbs],
  ];
  return `{${parts
    .filter(([, list]) => list?.length)
    .map(([name, list]) => `${name}:${quoted(list!)}`)
    .join(', ')}}`;
}

/** What Kubernetes says to who would grant more than they have. */
export const escalationText = (user: User, missing: readonly PolicyRule[]): string =>
  `user ${JSON.stringify(user.name)} (groups=${quoted(user.groups)}) is attempting to grant RBAC permissions not currently held:\n${[
    ...new Set(compact(missing).map(ruleText)),
  ]
    .sort()
    .join('\n')}`;
