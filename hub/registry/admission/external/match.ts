/** Which requests a webhook or a policy is about (apiserver pkg/admission/plugin/webhook/predicates and /matcher). */
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import type { Rule } from '../../../../api/kinds/admission-rules.js';
import { namespaces } from '../../../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../../../api/kinds/kind.js';
import { notFound } from '../../../../api/meta/errors.js';
import { deepCopy, isPlainObject } from '../../../../api/meta/json.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import { matchesSelector } from '../../../../api/meta/selector.js';
import type { Frozen } from '../../../client.js';
import { type Forms, formsOf } from '../../forms.js';
import { type Request, same, type Target } from '../plugin.js';

/** What it takes to be asked. */
export interface Criteria {
  readonly rules?: readonly Frozen<Rule>[];
  readonly excludeRules?: readonly Frozen<Rule>[];
  readonly matchPolicy?: string;
  readonly namespaceSelector?: Frozen<LabelSelector>;
  readonly objectSelector?: Frozen<LabelSelector>;
}

/** Nobody is asked about who is asked. */
const EXEMPT = new Set([
  'validatingwebhookconfigurations',
  'mutatingwebhookconfigurations',
  'validatingadmissionpolicies',
  'validatingadmissionpolicybindings',
  'mutatingadmissionpolicies',
  'mutatingadmissionpolicybindings',
]);
export const isExempt = (kind: Kind): boolean =>
  kind.group === 'admissionregistration.k8s.io' && EXEMPT.has(kind.plural);

const has = (list: readonly string[] | undefined, x: string): boolean =>
  list !== undefined && (list.includes('*') || list.includes(x));

function resourceMatches(r: Frozen<Rule>, kind: Kind, subresource: string): boolean {
  return (r.resources ?? []).some((text) => {
    const slash = text.indexOf('/');
    const resource = slash < 0 ? text : text.slice(0, slash);
    const sub = slash < 0 ? '' : text.slice(slash + 1);
    return (resource === '*' || resource === kind.plural) && (sub === '*' || sub === subresource);
  });
}

/** A Namespace is in no namespace, whatever its requests say. */
const scopeMatches = (r: Frozen<Rule>, kind: Kind): boolean =>
  r.scope === undefined || r.scope === '*' || r.scope === (kind.namespaced ? 'Namespaced' : 'Cluster');

/** `kind` stands for the version that is asked about, which need not be the request's. */
const ruleMatches = (r: Frozen<Rule>, kind: Kind, t: Target): boolean =>
  has(r.operations as readonly string[], t.operation) &&
  has(r.apiGroups, kind.group) &&
  has(r.apiVersions, kind.version) &&
  resourceMatches(r, kind, t.subresource ?? '') &&
  scopeMatches(r, kind);

const named = (r: Frozen<Rule>, name: string): boolean =>
  !r.resourceNames?.length || r.resourceNames.includes(name);

/** Other versions of the same resource: those of custom kinds, which show the same stored object. */
const equivalents = (kind: Kind, kinds: readonly Kind[]): Kind[] =>
  kind.custom
    ? kinds.filter((k) => k.custom && k !== kind && k.group === kind.group && k.plural === kind.plural)
    : [];

/**
 * The version of the request's kind in which something with these criteria wants to be asked; undefined when it does not.
 * Looks at nothing but what a target says; names are asked about when there is a `request`.
 */
export function matchedKind(
  c: Criteria,
  target: Target,
  kinds: readonly Kind[],
  request?: Request,
): Kind | undefined {
  if (isExempt(target.kind)) return undefined;
  const hit = (r: Frozen<Rule>, kind: Kind) =>
    ruleMatches(r, kind, target) && (!request || named(r, request.name));
  const versions = [target.kind, ...(c.matchPolicy === 'Exact' ? [] : equivalents(target.kind, kinds))];
  if (request && c.excludeRules?.some((r) => versions.some((kind) => hit(r, kind)))) return undefined;
  return versions.find((kind) => c.rules?.some((r) => hit(r, kind)));
}

/** Whether labels of the namespace and of the object fit. Throws NotFound when there is no such namespace. */
export function selected(c: Criteria, request: Request): boolean {
  return namespaceSelected(c, request) && objectSelected(c, request);
}

const isEmpty = (s: Frozen<LabelSelector> | undefined): boolean =>
  !s || (!s.matchExpressions?.length && Object.keys(s.matchLabels ?? {}).length === 0);

function objectSelected({ objectSelector }: Criteria, { object, oldObject }: Request): boolean {
  if (isEmpty(objectSelector)) return true;
  const labels = (o: Frozen<AnyObject> | undefined) =>
    o !== undefined && matchesSelector(objectSelector as LabelSelector, o.metadata?.labels);
  return labels(object) || labels(oldObject);
}

function namespaceSelected({ namespaceSelector }: Criteria, request: Request): boolean {
  if (isEmpty(namespaceSelector)) return true;
  const ns = namespaceOf(request);
  return !ns || matchesSelector(namespaceSelector as LabelSelector, ns.metadata?.labels);
}

/** The namespace of a request, or the Namespace that it is about; undefined for other cluster-wide ones. */
export function namespaceOf({
  kind,
  namespace,
  object,
  oldObject,
  world,
}: Request): Frozen<AnyObject> | undefined {
  if (same(kind, namespaces)) return object ?? oldObject;
  if (!kind.namespaced || !namespace) return undefined;
  const ns = world.get(namespaces as unknown as Kind, { name: namespace });
  if (!ns) throw notFound('namespaces', namespace);
  return ns;
}

/** What of a request was converted already. */
const forms = new WeakMap<Request, Forms>();

function formsFor(request: Request): Forms | undefined {
  const known = forms.get(request) ?? formsOf(request.kind);
  if (known) forms.set(request, known);
  return known;
}

/**
 * One of a request's objects in another version of its kind. A copy: whoever gets it may change it. Throws Unconverted.
 */
export function asVersion<T extends Frozen<AnyObject> | undefined>(
  request: Request,
  o: T,
  from: Kind,
  to: Kind,
): T {
  // What subresources carry is the same in all versions.
  if (!o || from === to || !to.custom || (o.kind && o.kind !== from.kind)) return o;
  // What it is given is frozen and kept.
  const copy = deepCopy(o) as AnyObject;
  const other = formsFor(request)?.of({ ...copy, apiVersion: apiVersionOf(from) }, apiVersionOf(to));
  return deepCopy(other?.object ?? to.custom.view(copy)) as T;
}

/** Group, version and kind of what a request carries: a subresource has a body of its own kind. */
export function kindOfBody(
  { kind, object, oldObject }: Request,
  as: Kind,
): {
  group: string;
  version: string;
  kind: string;
} {
  const o = object ?? oldObject;
  const own = isPlainObject(o) && typeof o.kind === 'string' && o.kind !== kind.kind ? o : undefined;
  if (!own) return { group: as.group, version: as.version, kind: as.kind };
  const [version = '', group = ''] = String(own.apiVersion ?? '')
    .split('/')
    .reverse();
  return { group, version, kind: String(own.kind) };
}
