import type { Container, Pod, PodSpec, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import { namespaces, pods } from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { invalidObject } from '../../../../api/meta/field-errors.js';
import { deepEqual } from '../../../../api/meta/json.js';
import type { AnyObject, ObjectMeta } from '../../../../api/meta/object.js';
import type { Frozen } from '../../../client.js';
import { forbidden, type Plugin, type Request, same } from '../plugin.js';
import { containersOf } from './checks.js';
import {
  detailText,
  equal,
  type LevelVersion,
  MODES,
  PREFIX,
  policyOf,
  rank,
  reasonText,
  textOf,
  violations,
} from './levels.js';

/** Where a kind keeps the pods that it makes. */
const TEMPLATES: Readonly<Record<string, (o: AnyObject) => PodTemplateSpec | undefined>> = {
  ...Object.fromEntries(
    [
      '/replicationcontrollers',
      'apps/replicasets',
      'apps/deployments',
      'apps/statefulsets',
      'apps/daemonsets',
      'batch/jobs',
    ].map((k) => [k, (o: AnyObject) => (o['spec'] as { template?: PodTemplateSpec } | undefined)?.template]),
  ),
  '/podtemplates': (o) => o['template'] as PodTemplateSpec | undefined,
  'batch/cronjobs': (o) =>
    (o['spec'] as { jobTemplate?: { spec?: { template?: PodTemplateSpec } } } | undefined)?.jobTemplate?.spec
      ?.template,
};
const templateOf = (kind: Kind) => {
  const key = `${kind.group}/${kind.plural}`;
  return Object.hasOwn(TEMPLATES, key) ? TEMPLATES[key] : undefined;
};

/** More existing pods than these are not looked at when a namespace becomes stricter. */
const MAX_PODS = 3000;

/** Who is exempt, as `PodSecurityConfiguration` has it. */
export interface Exemptions {
  usernames?: readonly string[];
  namespaces?: readonly string[];
  runtimeClasses?: readonly string[];
}

/** The Pod Security Standards, by the labels of the namespace. */
export const podSecurity = (exempt: Exemptions = {}): Plugin => ({
  name: 'PodSecurity',
  handles: ({ kind, operation, subresource }) =>
    (operation === 'CREATE' || operation === 'UPDATE') &&
    ((same(kind, pods) && ['', 'resize', 'ephemeralcontainers'].includes(subresource ?? '')) ||
      (!subresource && (same(kind, namespaces) || templateOf(kind) !== undefined))),
  validate(request) {
    if (same(request.kind, namespaces)) {
      validateNamespace(request, exempt);
      return;
    }
    const ns = request.world.get(namespaces as unknown as Kind, { name: request.namespace ?? '' });
    const labels = ns?.metadata?.labels;
    // The label `kubernetes.io/metadata.name` is on every namespace.
    if (!labels || Object.keys(labels).length < 2) return;
    if (exempt.namespaces?.includes(request.namespace ?? '')) {
      request.annotate(`${PREFIX}exempt`, 'namespace');
      return;
    }
    if (exempt.usernames?.includes(request.ctx.user)) return request.annotate(`${PREFIX}exempt`, 'user');
    if (same(request.kind, pods)) {
      const pod = request.object as Pod;
      if (request.oldObject && !matters(pod, request.oldObject as Frozen<Pod>)) return;
      evaluate(request, labels, pod.spec, pod.metadata, true, exempt);
      return;
    }
    const template = templateOf(request.kind)?.(request.object!);
    if (template) evaluate(request, labels, template.spec, template.metadata, false, exempt);
  },
});

/** Of a running pod only images change, and ephemeral containers are added. */
function matters(pod: Pod, old: Frozen<Pod>): boolean {
  const images = (spec: PodSpec | undefined) =>
    spec && containersOf(spec).map((c: Container) => [c.name, c.image ?? '']);
  return !deepEqual(images(pod.spec), images(old.spec as PodSpec | undefined));
}

function evaluate(
  request: Request,
  labels: Readonly<Record<string, string>>,
  spec: PodSpec | undefined,
  meta: Pick<ObjectMeta, 'annotations'> | undefined,
  enforce: boolean,
  exempt: Exemptions,
): void {
  const { policy, errors } = policyOf(labels);
  if (errors.length)
    request.annotate(
      `${PREFIX}error`,
      `Failed to parse policy: ${errors.map((e) => `${e.field}: ${e.message}`).join(', ')}`,
    );
  const idle = (of: LevelVersion) => of.level === 'privileged';
  if (!spec || (idle(policy.warn) && idle(policy.audit) && (!enforce || idle(policy.enforce)))) return;
  if (spec.runtimeClassName && exempt.runtimeClasses?.includes(spec.runtimeClassName)) {
    request.annotate(`${PREFIX}exempt`, 'runtimeClass');
    return;
  }
  const results = new Map<string, string>();
  /** What a level says against the pod; '' for nothing. */
  const said = (of: LevelVersion): string => {
    const key = textOf(of);
    let text = results.get(key);
    if (text === undefined) {
      const found = violations(of, spec, meta ?? {});
      text = detailText(found);
      results.set(key, text);
    }
    return text;
  };
  const audited = said(policy.audit);
  if (audited)
    request.annotate(
      `${PREFIX}audit-violations`,
      `would violate PodSecurity ${JSON.stringify(textOf(policy.audit))}: ${audited}`,
    );
  if (enforce) {
    request.annotate(`${PREFIX}enforce-policy`, textOf(policy.enforce));
    const refused = said(policy.enforce);
    if (refused)
      throw forbidden(request, `violates PodSecurity ${JSON.stringify(textOf(policy.enforce))}: ${refused}`);
  }
  const warned = said(policy.warn);
  if (warned) request.warn(`would violate PodSecurity ${JSON.stringify(textOf(policy.warn))}: ${warned}`);
}

function validateNamespace(request: Request, exempt: Exemptions): void {
  const { labels } = request.object!.metadata!;
  const { policy, errors } = policyOf(labels);
  const old = request.oldObject && policyOf(request.oldObject.metadata?.labels);
  // Labels that were wrong before may stay: another change must be possible.
  if (errors.length && !(old && deepEqual(errors, old.errors)))
    throw invalidObject(request.kind, request.name, errors);
  const isExempt = exempt.namespaces?.includes(request.name);
  if (!old) {
    if (isExempt) warnExempt(request, policy);
    return;
  }
  const { enforce } = policy;
  const before = old.policy.enforce;
  if (equal(enforce, before) || enforce.level === 'privileged') return;
  if (enforce.version === before.version && rank(enforce.level) <= rank(before.level)) return;
  if (isExempt) warnExempt(request, policy);
  else for (const text of existingPods(request, enforce, exempt)) request.warn(text);
}

function warnExempt(request: Request, policy: ReturnType<typeof policyOf>['policy']): void {
  const labels = request.object?.metadata?.labels ?? {};
  const set = MODES.filter(
    (m) => policy[m].level !== 'privileged' && (PREFIX + m in labels || `${PREFIX}${m}-version` in labels),
  );
  if (set.length)
    request.warn(
      `namespace ${JSON.stringify(request.name)} is exempt from Pod Security, and the policy (${set.map((m) => `${m}=${textOf(policy[m])}`).join(', ')}) will be ignored`,
    );
}

/** What a writer should know about the pods that a stricter namespace has already. */
function existingPods(request: Request, enforce: LevelVersion, exempt: Exemptions): string[] {
  const all = request.world
    .scan(pods as unknown as Kind, request.name)
    .filter(({ spec }) => !exempt.runtimeClasses?.includes((spec as PodSpec).runtimeClassName ?? ''));
  // One of each controller first: the others are alike.
  const seen = new Set<string>();
  const first: typeof all = [];
  const rest: typeof all = [];
  for (const p of all) {
    const owner = p.metadata?.ownerReferences?.find((r) => r.controller)?.uid;
    if (owner && seen.has(owner)) rest.push(p);
    else first.push(p);
    if (owner) seen.add(owner);
  }
  const looked = [...first, ...rest].slice(0, MAX_PODS);
  const named = new Map<string, string[]>();
  for (const p of looked) {
    const found = violations(enforce, p['spec'] as PodSpec, p.metadata as ObjectMeta);
    if (found.length === 0) continue;
    const reason = reasonText(found);
    named.set(reason, [...(named.get(reason) ?? []), p.metadata?.name ?? '']);
  }
  const texts: string[] = [];
  if (looked.length < all.length)
    texts.push(
      `new PodSecurity enforce level only checked against the first ${looked.length} of ${all.length} existing pods`,
    );
  if (named.size)
    texts.push(
      `existing pods in namespace ${JSON.stringify(request.name)} violate the new PodSecurity enforce level ${JSON.stringify(textOf(enforce))}`,
    );
  const others = (n: number) => (n === 0 ? '' : n === 1 ? ' (and 1 other pod)' : ` (and ${n} other pods)`);
  const lines = [...named].map(
    ([reason, names]) => `${[...names].sort()[0]}${others(names.length - 1)}: ${reason}`,
  );
  return [...texts, ...lines.sort()];
}
