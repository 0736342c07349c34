/** Kinds of admissionregistration.k8s.io/v1: who else is asked about writes (pkg/apis/admissionregistration). */
import type {
  MatchCondition,
  MatchResources,
  MutatingWebhook,
  MutatingWebhookConfiguration,
  ParamRef,
  RuleWithOperations,
  ValidatingAdmissionPolicy,
  ValidatingAdmissionPolicyBinding,
  ValidatingWebhook,
  ValidatingWebhookConfiguration,
} from 'kubernetes-types/admissionregistration/v1.js';
import { checkingLanguage, conditionLanguage, expressionProblem, type Names } from '../cel/admission.js';
import { type Language, loadCel } from '../cel/cel.js';
import { duplicate, forbidden, invalid, notSupported, required, tooMany } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1035Label, dns1123Subdomain, pathSegmentName, qualifiedName } from '../meta/names.js';
import { validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

/** What requests a webhook or policy is about; the package's type lacks half of it. */
export interface Rule extends RuleWithOperations {
  resources?: string[];
  scope?: string;
  /** Of policies alone. */
  resourceNames?: string[];
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
const GROUP = { group: 'admissionregistration.k8s.io', version: 'v1' } as const;

// ---- defaults (pkg/apis/admissionregistration/v1/defaults.go)

function defaultRules(rules: readonly Rule[] | undefined): void {
  for (const r of rules ?? []) r.scope ??= '*';
}

function defaultWebhook(w: Mutable<MutatingWebhook | ValidatingWebhook>): void {
  w.failurePolicy ??= 'Fail';
  w.matchPolicy ??= 'Equivalent';
  w.namespaceSelector ??= {};
  w.objectSelector ??= {};
  w.timeoutSeconds ??= 10;
  if (w.clientConfig?.service) (w.clientConfig.service as { port?: number }).port ??= 443;
  defaultRules(w.rules);
}

function defaultMatch(m: Mutable<MatchResources> | undefined): void {
  if (!m) return;
  m.matchPolicy ??= 'Equivalent';
  m.namespaceSelector ??= {};
  m.objectSelector ??= {};
  defaultRules(m.resourceRules);
  defaultRules(m.excludeResourceRules);
}

// ---- validation

const OPERATIONS = ['*', 'CREATE', 'UPDATE', 'DELETE', 'CONNECT'];
const SCOPES = ['Cluster', 'Namespaced', '*'];
const FAILURES = ['Fail', 'Ignore'];
const MATCHES = ['Equivalent', 'Exact'];
const REVIEWS = ['v1', 'v1beta1'];
const REASONS = ['Forbidden', 'Invalid', 'RequestEntityTooLarge'];
const MAX_CONDITIONS = 64;
const MAX_ANNOTATIONS = 20;
const MAX_ANNOTATION_EXPRESSION = 5 * 1024;

const oneOf = (value: string | undefined, supported: readonly string[], field: string): FieldError[] =>
  value === undefined || supported.includes(value) ? [] : [notSupported(field, value, supported)];

/** A `*` stands alone. */
const alone = (list: readonly string[], field: string, others: string): FieldError[] =>
  list.length > 1 && list.includes('*')
    ? [invalid(field, list, `if '*' is present, must not specify other ${others}`)]
    : [];

function validateResources(resources: readonly string[], field: string): FieldError[] {
  const errors: FieldError[] = [];
  if (resources.length === 0) errors.push(required(field));
  const allOf = new Set<string>();
  const ofAll = new Set<string>();
  resources.forEach((text, i) => {
    if (text === '') {
      errors.push(required(`${field}[${i}]`));
      return;
    }
    const slash = text.indexOf('/');
    if (slash < 0) return;
    const [resource, sub] = [text.slice(0, slash), text.slice(slash + 1)];
    if (allOf.has(resource))
      errors.push(invalid(`${field}[${i}]`, text, `if '${resource}/*' is present, must not specify ${text}`));
    if (ofAll.has(sub))
      errors.push(invalid(`${field}[${i}]`, text, `if '*/${sub}' is present, must not specify ${text}`));
    if (sub === '*') allOf.add(resource);
    if (resource === '*') ofAll.add(sub);
  });
  if (resources.length > 1 && resources.includes('*/*'))
    errors.push(invalid(field, resources, "if '*/*' is present, must not specify other resources"));
  if (resources.includes('*') && resources.some((r) => r !== '*' && !r.includes('/')))
    errors.push(
      invalid(field, resources, "if '*' is present, must not specify other resources without subresources"),
    );
  return errors;
}

function validateRule(r: Rule, field: string): FieldError[] {
  const operations = (r.operations ?? []) as readonly string[];
  const groups = r.apiGroups ?? [];
  const versions = r.apiVersions ?? [];
  return [
    ...(operations.length ? [] : [required(`${field}.operations`)]),
    ...alone(operations, `${field}.operations`, 'operations'),
    ...operations.flatMap((o, i) => oneOf(o, OPERATIONS, `${field}.operations[${i}]`)),
    ...(groups.length ? [] : [required(`${field}.apiGroups`)]),
    ...alone(groups, `${field}.apiGroups`, 'API groups'),
    ...(versions.length ? [] : [required(`${field}.apiVersions`)]),
    ...alone(versions, `${field}.apiVersions`, 'API versions'),
    ...versions.flatMap((v, i) => (v ? [] : [required(`${field}.apiVersions[${i}]`)])),
    ...validateResources(r.resources ?? [], `${field}.resources`),
    ...oneOf(r.scope, SCOPES, `${field}.scope`),
  ];
}

function validateConditions(
  conditions: readonly MatchCondition[] | undefined,
  field: string,
  params: boolean,
): FieldError[] {
  if (!conditions?.length) return [];
  const errors: FieldError[] = [];
  if (conditions.length > MAX_CONDITIONS) return [tooMany(field, conditions.length, MAX_CONDITIONS)];
  const names = new Set<string>();
  conditions.forEach((c, i) => {
    const at = `${field}[${i}]`;
    const expression = c.expression?.trim();
    if (!expression) errors.push(required(`${at}.expression`));
    else {
      const wrong = expressionProblem(conditionLanguage(params, true), expression, ['bool']);
      if (wrong) errors.push(invalid(`${at}.expression`, expression, wrong));
    }
    if (!c.name) errors.push(required(`${at}.name`));
    else {
      errors.push(...qualifiedName(c.name).map((e) => invalid(`${at}.name`, c.name, e)));
      if (names.has(c.name)) errors.push(duplicate(`${at}.name`, c.name));
      names.add(c.name);
    }
  });
  return errors;
}

/** Kubernetes' webhook.ValidateWebhookURL, with https alone. */
function validateUrl(text: string, field: string): FieldError[] {
  const form = '; desired format: https://host[/path]';
  if (!URL.canParse(text)) return [required(field, `url must be a valid URL: parse error${form}`)];
  const u = new URL(text);
  return [
    ...(u.protocol === 'https:'
      ? []
      : [invalid(field, u.protocol.slice(0, -1), `'https' is the only allowed URL scheme${form}`)]),
    ...(u.hostname ? [] : [invalid(field, u.hostname, `host must be specified${form}`)]),
    ...(u.username || u.password
      ? [invalid(field, u.username, 'user information is not permitted in the URL')]
      : []),
    ...(u.hash ? [invalid(field, u.hash.slice(1), 'fragments are not permitted in the URL')] : []),
    ...(u.search ? [invalid(field, u.search.slice(1), 'query parameters are not permitted in the URL')] : []),
  ];
}

function validateService(
  s: { name?: string; namespace?: string; path?: string; port?: number },
  field: string,
): FieldError[] {
  const errors: FieldError[] = [];
  if (!s.name) errors.push(required(`${field}.name`, 'service name is required'));
  if (!s.namespace) errors.push(required(`${field}.namespace`, 'service namespace is required'));
  if (s.port !== undefined && (s.port < 1 || s.port > 65535))
    errors.push(
      invalid(`${field}.port`, s.port, 'port is not valid: must be between 1 and 65535, inclusive'),
    );
  const { path } = s;
  if (path === undefined || path === '/' || path === '') return errors;
  const at = `${field}.path`;
  if (path === '//') return [...errors, invalid(at, path, 'segment[0] may not be empty')];
  if (!path.startsWith('/')) errors.push(invalid(at, path, "must start with a '/'"));
  const segments = path.slice(1).split('/');
  if (segments.at(-1) === '') segments.pop();
  segments.forEach((segment, i) => {
    if (segment === '') errors.push(invalid(at, path, `segment[${i}] may not be empty`));
    else errors.push(...dns1123Subdomain(segment).map((e) => invalid(at, path, `segment[${i}]: ${e}`)));
  });
  return errors;
}

function validateName(name: string | undefined, field: string): FieldError[] {
  if (!name) return [required(field)];
  const wrong = dns1123Subdomain(name).map((e) => invalid(field, name, e));
  if (wrong.length) return wrong;
  return name.split('.').length < 3
    ? [invalid(field, name, 'should be a domain with at least three segments separated by dots')]
    : [];
}

function validateWebhook(w: MutatingWebhook | ValidatingWebhook, field: string, load: boolean): FieldError[] {
  const errors = validateName(w.name, `${field}.name`);
  (w.rules ?? []).forEach((r, i) => {
    errors.push(...validateRule(r, `${field}.rules[${i}]`));
  });
  errors.push(...oneOf(w.failurePolicy, FAILURES, `${field}.failurePolicy`));
  errors.push(...oneOf(w.matchPolicy, MATCHES, `${field}.matchPolicy`));
  const effects = ['None', 'NoneOnDryRun'];
  if (w.sideEffects === undefined)
    errors.push(required(`${field}.sideEffects`, `must specify one of ${effects.join(', ')}`));
  else errors.push(...oneOf(w.sideEffects, effects, `${field}.sideEffects`));
  const { timeoutSeconds: timeout } = w;
  if (timeout !== undefined && (timeout < 1 || timeout > 30))
    errors.push(
      invalid(`${field}.timeoutSeconds`, timeout, 'the timeout value must be between 1 and 30 seconds'),
    );
  errors.push(...validateSelector(w.namespaceSelector, `${field}.namespaceSelector`));
  errors.push(...validateSelector(w.objectSelector, `${field}.objectSelector`));
  const { url, service, caBundle } = w.clientConfig ?? {};
  const at = `${field}.clientConfig`;
  if ((url === undefined) === (service === undefined))
    errors.push(required(at, 'exactly one of url or service is required'));
  else if (url !== undefined) errors.push(...validateUrl(url, `${at}.url`));
  else errors.push(...validateService(service!, `${at}.service`));
  if (caBundle && !Buffer.from(String(caBundle), 'base64').includes('-----BEGIN CERTIFICATE-----'))
    errors.push(
      invalid(
        `${at}.caBundle`,
        caBundle,
        'unable to load root certificates: unable to parse bytes as PEM block',
      ),
    );
  if (load) errors.push(...validateConditions(w.matchConditions, `${field}.matchConditions`, false));
  if ('reinvocationPolicy' in w)
    errors.push(...oneOf(w.reinvocationPolicy, ['IfNeeded', 'Never'], `${field}.reinvocationPolicy`));
  const reviews = (w.admissionReviewVersions ?? []) as readonly string[];
  const reviewField = `${field}.admissionReviewVersions`;
  if (reviews.length === 0) errors.push(required(reviewField, `must specify one of ${REVIEWS.join(', ')}`));
  reviews.forEach((v, i) => {
    if (reviews.indexOf(v) < i) errors.push(invalid(`${reviewField}[${i}]`, v, 'duplicate version'));
    else errors.push(...dns1035Label(v).map((e) => invalid(`${reviewField}[${i}]`, v, e)));
  });
  if (reviews.length && !reviews.some((v) => REVIEWS.includes(v)))
    errors.push(invalid(reviewField, reviews, `must include at least one of ${REVIEWS.join(', ')}`));
  return errors;
}

type Configuration = MutatingWebhookConfiguration | ValidatingWebhookConfiguration;

function validateConfiguration(o: Configuration, old?: Configuration): FieldError[] {
  const errors: FieldError[] = [];
  const names = new Set<string>();
  const conditions = (c: Configuration | undefined) => c?.webhooks?.map((w) => w.matchConditions);
  const changed = !old || !deepEqual(conditions(o), conditions(old));
  (o.webhooks ?? []).forEach((w, i) => {
    errors.push(...validateWebhook(w, `webhooks[${i}]`, changed));
    if (w.name && names.has(w.name)) errors.push(duplicate(`webhooks[${i}].name`, w.name));
    names.add(w.name);
  });
  return errors;
}

const webhookColumns = (): Kind<Configuration>['columns'] => [
  nameColumn as Kind<Configuration>['columns'][number],
  column(
    'Webhooks',
    'integer',
    'Webhooks indicates the number of webhooks registered in this configuration',
    (o) => o.webhooks?.length ?? 0,
  ),
  ageColumn as Kind<Configuration>['columns'][number],
];

const configuration = {
  ...GROUP,
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  columns: webhookColumns(),
  status: false,
  generation: (o: Configuration) => o.webhooks,
  selectable: {},
  load: loadCel,
  validate: validateConfiguration,
} as const;

export const validatingWebhookConfigurations: Kind<ValidatingWebhookConfiguration> = {
  ...configuration,
  kind: 'ValidatingWebhookConfiguration',
  plural: 'validatingwebhookconfigurations',
  singular: 'validatingwebhookconfiguration',
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration',
  setDefaults: (o) => o.webhooks?.forEach(defaultWebhook),
};

export const mutatingWebhookConfigurations: Kind<MutatingWebhookConfiguration> = {
  ...configuration,
  kind: 'MutatingWebhookConfiguration',
  plural: 'mutatingwebhookconfigurations',
  singular: 'mutatingwebhookconfiguration',
  schema: 'io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration',
  setDefaults: (o) =>
    o.webhooks?.forEach((w: Mutable<MutatingWebhook>) => {
      defaultWebhook(w);
      w.reinvocationPolicy ??= 'Never';
    }),
};

// ---- policies

function validateMatch(m: MatchResources | undefined, field: string): FieldError[] {
  if (!m) return [];
  const rules = (list: readonly Rule[] | undefined, name: string) =>
    (list ?? []).flatMap((r, i) => {
      const at = `${field}.${name}[${i}]`;
      const names = r.resourceNames ?? [];
      return [
        ...names.flatMap((n, j) => [
          ...pathSegmentName(n).map((e) => invalid(`${at}.resourceNames[${j}]`, n, e)),
          ...(names.indexOf(n) < j ? [duplicate(`${at}.resourceNames[${j}]`, n)] : []),
        ]),
        ...validateRule(r, at),
      ];
    });
  return [
    ...oneOf(m.matchPolicy, MATCHES, `${field}.matchPolicy`),
    ...validateSelector(m.namespaceSelector, `${field}.namespaceSelector`),
    ...validateSelector(m.objectSelector, `${field}.objectSelector`),
    ...rules(m.resourceRules, 'resourceRules'),
    ...rules(m.excludeResourceRules, 'excludeResourceRules'),
  ];
}

function validateParamKind(k: { apiVersion?: string; kind?: string }, field: string): FieldError[] {
  const errors: FieldError[] = [];
  const { apiVersion, kind } = k;
  if (!apiVersion) errors.push(required(`${field}.apiVersion`));
  else {
    const parts = apiVersion.split('/');
    if (parts.length > 2)
      errors.push(
        invalid(`${field}.apiVersion`, apiVersion, `unexpected GroupVersion string: ${apiVersion}`),
      );
    else {
      const [version = '', group] = parts.reverse();
      if (group) errors.push(...dns1123Subdomain(group).map((e) => invalid(`${field}.apiVersion`, group, e)));
      if (!version) errors.push(invalid(`${field}.apiVersion`, apiVersion, 'version must be specified'));
      else errors.push(...dns1035Label(version).map((e) => invalid(`${field}.apiVersion`, version, e)));
    }
  }
  if (!kind) errors.push(required(`${field}.kind`));
  else
    errors.push(
      ...dns1035Label(kind.toLowerCase()).map((e) =>
        invalid(`${field}.kind`, kind, `may have mixed case, but should otherwise match: ${e}`),
      ),
    );
  return errors;
}

const RESERVED = new Set(
  'true false null in as break const continue else for function if import let loop package namespace return var void while'.split(
    ' ',
  ),
);
const newlines = /[\r\n]/;

/** Each expression of a policy: where it stands, what it is and what it may be of. */
export interface PolicyExpression {
  field: string;
  expression: string;
  types: readonly string[];
  /** Its language, given the variables before it. */
  language: Language;
}

/**
 * All expressions of a policy but its match conditions, in order; each variable is known to those after it. `names`
 * says what is known about objects.
 */
export function* policyExpressions(
  o: ValidatingAdmissionPolicy,
  names: Names = {},
): Generator<PolicyExpression> {
  const { spec } = o;
  const params = spec?.paramKind !== undefined;
  const variables: Record<string, string> = {};
  let languages: Record<string, Language> = {};
  const language = (authorizer: boolean): Language => {
    languages[String(authorizer)] ??= checkingLanguage({
      ...names,
      params,
      authorizer,
      ...(spec?.variables?.length ? { variables: { ...variables } } : {}),
    });
    return languages[String(authorizer)]!;
  };
  for (const [i, v] of (spec?.variables ?? []).entries()) {
    if (!v.expression?.trim()) continue;
    const l = language(true);
    yield { field: `spec.variables[${i}].expression`, expression: v.expression, types: [], language: l };
    const c = l.compile(v.expression);
    variables[v.name] = 'wrong' in c || c.type.includes('kubernetes.variables') ? 'dyn' : c.type;
    languages = {};
  }
  for (const [i, v] of (spec?.validations ?? []).entries()) {
    const at = `spec.validations[${i}]`;
    if (v.expression?.trim())
      yield {
        field: `${at}.expression`,
        expression: v.expression,
        types: ['bool'],
        language: language(true),
      };
    if (v.messageExpression?.trim())
      yield {
        field: `${at}.messageExpression`,
        expression: v.messageExpression,
        types: ['string'],
        language: language(false),
      };
  }
  for (const [i, a] of (spec?.auditAnnotations ?? []).entries())
    if (a.valueExpression?.trim())
      yield {
        field: `spec.auditAnnotations[${i}].valueExpression`,
        expression: a.valueExpression,
        types: ['string', 'null'],
        language: language(true),
      };
}

function validatePolicy(o: ValidatingAdmissionPolicy, old?: ValidatingAdmissionPolicy): FieldError[] {
  const errors: FieldError[] = [];
  const { spec } = o;
  if (!spec) return [required('spec')];
  errors.push(...oneOf(spec.failurePolicy, FAILURES, 'spec.failurePolicy'));
  if (spec.paramKind) errors.push(...validateParamKind(spec.paramKind, 'spec.paramKind'));
  if (!spec.matchConstraints) errors.push(required('spec.matchConstraints'));
  else {
    errors.push(...validateMatch(spec.matchConstraints, 'spec.matchConstraints'));
    if (!spec.matchConstraints.resourceRules?.length)
      errors.push(required('spec.matchConstraints.resourceRules'));
  }
  const settled =
    old &&
    deepEqual(spec.paramKind, old.spec?.paramKind) &&
    deepEqual(spec.matchConditions, old.spec?.matchConditions);
  if (!settled)
    errors.push(
      ...validateConditions(spec.matchConditions, 'spec.matchConditions', spec.paramKind !== undefined),
    );
  (spec.variables ?? []).forEach((v, i) => {
    const at = `spec.variables[${i}]`;
    if (!v.name?.trim()) errors.push(required(`${at}.name`, 'name is not specified'));
    else if (!/^[_a-zA-Z][_a-zA-Z0-9]*$/.test(v.name) || RESERVED.has(v.name))
      errors.push(invalid(`${at}.name`, v.name, 'name is not a valid CEL identifier'));
    if (!v.expression?.trim()) errors.push(required(`${at}.expression`, 'expression is not specified'));
  });
  const either = 'validations or auditAnnotations must contain at least one item';
  if (!spec.validations?.length && !spec.auditAnnotations?.length)
    errors.push(required('spec.validations', either), required('spec.auditAnnotations', either));
  (spec.validations ?? []).forEach((v, i) => {
    const at = `spec.validations[${i}]`;
    if (!v.expression?.trim()) errors.push(required(`${at}.expression`, 'expression is not specified'));
    if (v.messageExpression && !v.messageExpression.trim())
      errors.push(invalid(`${at}.messageExpression`, v.messageExpression, 'must be non-empty if specified'));
    if (v.message && !v.message.trim())
      errors.push(invalid(`${at}.message`, v.message, 'message must be non-empty if specified'));
    else if (v.message && newlines.test(v.message.trim()))
      errors.push(invalid(`${at}.message`, v.message, 'message must not contain line breaks'));
    errors.push(...oneOf(v.reason, REASONS, `${at}.reason`));
  });
  const annotations = spec.auditAnnotations ?? [];
  if (annotations.length > MAX_ANNOTATIONS)
    errors.push(
      invalid(
        'spec.auditAnnotations',
        annotations,
        `must not have more than ${MAX_ANNOTATIONS} auditAnnotations`,
      ),
    );
  annotations.forEach((a, i) => {
    const at = `spec.auditAnnotations[${i}]`;
    const name = o.metadata?.name;
    if (!name) errors.push(invalid(`${at}.key`, a.key, 'requires metadata.name be non-empty'));
    else
      errors.push(
        ...qualifiedName(`${name}/${a.key}`).map((e) => invalid(`${at}.key`, `${name}/${a.key}`, e)),
      );
    if (!a.valueExpression?.trim())
      errors.push(required(`${at}.valueExpression`, 'valueExpression is not specified'));
    else if (a.valueExpression.trim().length > MAX_ANNOTATION_EXPRESSION)
      errors.push(
        required(`${at}.valueExpression`, `must not exceed ${MAX_ANNOTATION_EXPRESSION} bytes in length`),
      );
    if (annotations.findIndex((b) => b.key === a.key) < i) errors.push(duplicate(`${at}.key`, a.key));
  });
  // Names that are wrong cannot be declared; and what was right once is not asked again.
  if (errors.length === 0 && !deepEqual(spec, old?.spec))
    for (const { field, expression, types, language } of policyExpressions(o)) {
      const anyType = types.length === 0;
      const wrong = anyType
        ? variableProblem(language, expression)
        : expressionProblem(language, expression, types);
      if (wrong) errors.push(invalid(field, expression, wrong));
    }
  return errors;
}

function variableProblem(language: Language, expression: string): string | undefined {
  const c = language.compile(expression);
  return 'wrong' in c ? `compilation failed: ${c.wrong}` : undefined;
}

export const validatingAdmissionPolicies: Kind<ValidatingAdmissionPolicy> = {
  ...GROUP,
  kind: 'ValidatingAdmissionPolicy',
  plural: 'validatingadmissionpolicies',
  singular: 'validatingadmissionpolicy',
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy',
  columns: [
    nameColumn as Kind<ValidatingAdmissionPolicy>['columns'][number],
    column(
      'Validations',
      'integer',
      'Validations indicates the number of validation rules defined in this configuration',
      (o) => o.spec?.validations?.length ?? 0,
    ),
    column(
      'ParamKind',
      'string',
      'ParamKind specifies the kind of resources used to parameterize this policy',
      (o) => (o.spec?.paramKind ? `${o.spec.paramKind.apiVersion}/${o.spec.paramKind.kind}` : '<unset>'),
    ),
    ageColumn as Kind<ValidatingAdmissionPolicy>['columns'][number],
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    const spec = o.spec as Mutable<NonNullable<typeof o.spec>> | undefined;
    if (!spec) return;
    spec.failurePolicy ??= 'Fail';
    defaultMatch(spec.matchConstraints);
  },
  prepareForCreate: (o) => {
    delete (o as { status?: unknown }).status;
  },
  load: loadCel,
  validate: validatePolicy,
};

const ACTIONS = ['Audit', 'Deny', 'Warn'];

function validateParamRef(p: ParamRef | undefined, field: string): FieldError[] {
  if (!p) return [];
  const both = 'name and selector are mutually exclusive';
  const errors: FieldError[] = [];
  if (p.name) {
    errors.push(...pathSegmentName(p.name).map((e) => invalid(`${field}.name`, p.name, e)));
    if (p.selector) errors.push(forbidden(`${field}.name`, both));
  }
  if (p.selector) {
    errors.push(...validateSelector(p.selector, `${field}.selector`));
    if (p.name) errors.push(forbidden(`${field}.selector`, both));
  } else if (!p.name) errors.push(required(field, 'one of name or selector must be specified'));
  const at = `${field}.parameterNotFoundAction`;
  if (!p.parameterNotFoundAction) errors.push(required(at));
  else errors.push(...oneOf(p.parameterNotFoundAction, ['Deny', 'Allow'], at));
  return errors;
}

function validateBinding(o: ValidatingAdmissionPolicyBinding): FieldError[] {
  const { spec } = o;
  if (!spec) return [required('spec')];
  const errors: FieldError[] = [];
  if (!spec.policyName) errors.push(required('spec.policyName'));
  else
    errors.push(
      ...dns1123Subdomain(spec.policyName).map((e) => invalid('spec.policyName', spec.policyName, e)),
    );
  errors.push(...validateParamRef(spec.paramRef, 'spec.paramRef'));
  // Spelt as Kubernetes does.
  errors.push(...validateMatch(spec.matchResources, 'spec.matchResouces'));
  const actions = (spec.validationActions ?? []) as readonly string[];
  const at = 'spec.validationActions';
  actions.forEach((a, i) => {
    errors.push(...oneOf(a, ACTIONS, `${at}[${i}]`));
    if (actions.indexOf(a) < i) errors.push(duplicate(`${at}[${i}]`, a));
  });
  if (actions.includes('Deny') && actions.includes('Warn'))
    errors.push(
      invalid(
        at,
        actions,
        'must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)',
      ),
    );
  if (actions.length === 0) errors.push(required(at, 'at least one validation action is required'));
  return errors;
}

export const validatingAdmissionPolicyBindings: Kind<ValidatingAdmissionPolicyBinding> = {
  ...GROUP,
  kind: 'ValidatingAdmissionPolicyBinding',
  plural: 'validatingadmissionpolicybindings',
  singular: 'validatingadmissionpolicybinding',
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding',
  columns: [
    nameColumn as Kind<ValidatingAdmissionPolicyBinding>['columns'][number],
    column(
      'PolicyName',
      'string',
      'PolicyName indicates the policy definition which the policy binding binded to',
      (o) => o.spec?.policyName ?? '',
    ),
    column(
      'ParamRef',
      'string',
      'ParamRef indicates the param resource which sets the configration param',
      (o) => {
        const p = o.spec?.paramRef;
        if (!p) return '<unset>';
        return p.namespace ? `${p.namespace}/${p.name ?? '*'}` : (p.name ?? '*');
      },
    ),
    ageColumn as Kind<ValidatingAdmissionPolicyBinding>['columns'][number],
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults: (o) => defaultMatch(o.spec?.matchResources),
  validate: validateBinding,
};
