import type {
  FlowSchema,
  NonResourcePolicyRule,
  PolicyRulesWithSubjects,
  PriorityLevelConfiguration,
  QueuingConfiguration,
  ResourcePolicyRule,
  Subject,
} from 'kubernetes-types/flowcontrol/v1.js';
import { duplicate, forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label, dns1123Subdomain } from '../meta/names.js';
import { ageColumn, column, nameColumn } from './columns.js';
import { EXEMPT, mandatoryLevels, mandatorySchemas } from './flowcontrol-defaults.js';
import type { FieldError, Kind } from './kind.js';

/** Limits and words of pkg/apis/flowcontrol/validation. */
const MAX_PRECEDENCE = 10_000;
const MAX_QUEUES = 10_000_000;
/** Bits of a hash that a hand of queues may use up (apiserver shufflesharding). */
const MAX_HASH_BITS = 60;
const VERBS = ['get', 'list', 'create', 'update', 'delete', 'deletecollection', 'patch', 'watch', 'proxy'];
const DISTINGUISHERS = ['ByNamespace', 'ByUser'];
const SUBJECTS = ['Group', 'ServiceAccount', 'User'] as const;

const members = { Group: 'group', ServiceAccount: 'serviceAccount', User: 'user' } as const;

function validateSubject(s: Subject, at: string): FieldError[] {
  const kind = SUBJECTS.find((k) => k === s.kind);
  if (!kind) return [notSupported(`${at}.kind`, s.kind ?? '', SUBJECTS)];
  const member = members[kind];
  const who = s[member];
  const errors: FieldError[] = [];
  if (!who) errors.push(required(`${at}.${member}`, `${member} is required when subject kind is '${kind}'`));
  else if (!who.name) errors.push(required(`${at}.${member}.name`));
  if (who && kind === 'ServiceAccount') {
    const { name, namespace } = s.serviceAccount!;
    if (name && name !== '*')
      for (const e of dns1123Subdomain(name)) errors.push(invalid(`${at}.${member}.name`, name, e));
    if (!namespace)
      errors.push(required(`${at}.${member}.namespace`, 'must specify namespace for service account'));
    else
      for (const e of dns1123Label(namespace))
        errors.push(invalid(`${at}.${member}.namespace`, namespace, e));
  }
  for (const other of SUBJECTS)
    if (other !== kind && s[members[other]])
      errors.push(
        forbidden(
          `${at}.${members[other]}`,
          `${members[other]} is forbidden when subject kind is not '${other}'`,
        ),
      );
  return errors;
}

/** A list that is `*` alone or names things one by one; undefined when it is neither or empty and that was told. */
function oneByOne(
  list: readonly string[] | undefined,
  at: string,
  empty: string,
  what: string,
  errors: FieldError[],
): readonly string[] {
  if (!list?.length) {
    errors.push(required(at, empty));
    return [];
  }
  if (!list.includes('*')) return list;
  if (list.length > 1) errors.push(invalid(at, list, `if '*' is present, must not specify other ${what}`));
  return [];
}

function validateVerbs(verbs: readonly string[] | undefined, at: string, errors: FieldError[]): void {
  const named = oneByOne(verbs, at, 'verbs must contain at least one value', 'verbs', errors);
  if (named.some((v) => !VERBS.includes(v))) errors.push(notSupported(at, verbs, VERBS));
}

function pathProblem(path: string): string | undefined {
  if (path === '') return 'must not be empty';
  if (path === '/') return undefined;
  if (!path.startsWith('/')) return 'must start with slash';
  if (path.includes(' ')) return 'must not contain white-space';
  if (path.includes('//')) return 'must not contain double slash';
  const stars = path.split('*').length - 1;
  return stars > 1 || (stars === 1 && !path.endsWith('/*'))
    ? 'wildcard can only do suffix matching'
    : undefined;
}

function validateNonResourceRule(r: NonResourcePolicyRule, at: string): FieldError[] {
  const errors: FieldError[] = [];
  validateVerbs(r.verbs, `${at}.verbs`, errors);
  const urls = `${at}.nonResourceURLs`;
  const empty = 'nonResourceURLs must contain at least one value';
  for (const [i, path] of oneByOne(r.nonResourceURLs, urls, empty, 'non-resource URLs', errors).entries()) {
    const why = pathProblem(path);
    if (why) errors.push(invalid(`${urls}[${i}]`, path, why));
  }
  return errors;
}

function validateResourceRule(r: ResourcePolicyRule, at: string): FieldError[] {
  const errors: FieldError[] = [];
  validateVerbs(r.verbs, `${at}.verbs`, errors);
  const groups = 'resource rules must supply at least one api group';
  oneByOne(r.apiGroups, `${at}.apiGroups`, groups, 'api groups', errors);
  const resources = 'resource rules must supply at least one resource';
  oneByOne(r.resources, `${at}.resources`, resources, 'resources', errors);
  if (r.namespaces?.length || !r.clusterScope) {
    const namespaces = 'resource rules that are not cluster scoped must supply at least one namespace';
    const named = oneByOne(r.namespaces, `${at}.namespaces`, namespaces, 'namespaces', errors);
    for (const [i, ns] of named.entries())
      for (const e of dns1123Label(ns))
        errors.push(
          invalid(
            `${at}.namespaces[${i}]`,
            ns,
            `each member of this list must be '*' or a DNS-1123 label; ${e}`,
          ),
        );
  }
  return errors;
}

function validateRule(r: PolicyRulesWithSubjects, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (!r.subjects?.length)
    errors.push(required(`${at}.subjects`, 'subjects must contain at least one value'));
  for (const [i, s] of (r.subjects ?? []).entries())
    errors.push(...validateSubject(s, `${at}.subjects[${i}]`));
  if (!r.resourceRules?.length && !r.nonResourceRules?.length)
    errors.push(required(at, 'at least one of resourceRules and nonResourceRules has to be non-empty'));
  for (const [i, rule] of (r.resourceRules ?? []).entries())
    errors.push(...validateResourceRule(rule, `${at}.resourceRules[${i}]`));
  for (const [i, rule] of (r.nonResourceRules ?? []).entries())
    errors.push(...validateNonResourceRule(rule, `${at}.nonResourceRules[${i}]`));
  return errors;
}

type Conditions = readonly { type?: string }[];

function validateConditions(conditions: Conditions = []): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [i, { type = '' }] of conditions.entries()) {
    const at = `status.conditions[${i}].type`;
    if (seen.has(type)) errors.push(duplicate(at, type));
    seen.add(type);
    if (!type) errors.push(required(at));
  }
  return errors;
}

function validateSchema(o: FlowSchema): FieldError[] {
  const { name } = o.metadata ?? {};
  const { matchingPrecedence: precedence = 0, distinguisherMethod, priorityLevelConfiguration } = o.spec!;
  const errors: FieldError[] = [];
  const at = 'spec.matchingPrecedence';
  if (precedence <= 0) errors.push(invalid(at, precedence, 'must be a positive value'));
  if (precedence > MAX_PRECEDENCE)
    errors.push(invalid(at, precedence, `must not be greater than ${MAX_PRECEDENCE}`));
  if (precedence === 1 && name !== EXEMPT)
    errors.push(invalid(at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1"));
  if (distinguisherMethod && !DISTINGUISHERS.includes(distinguisherMethod.type))
    errors.push(notSupported('spec.distinguisherMethod.type', distinguisherMethod, DISTINGUISHERS));
  const level = priorityLevelConfiguration?.name;
  if (!level)
    errors.push(required('spec.priorityLevelConfiguration.name', 'must reference a priority level'));
  else
    for (const e of dns1123Subdomain(level))
      errors.push(invalid('spec.priorityLevelConfiguration.name', level, e));
  for (const [i, rule] of (o.spec!.rules ?? []).entries())
    errors.push(...validateRule(rule, `spec.rules[${i}]`));
  const fixed = mandatorySchemas.find((s) => s.metadata!.name === name);
  if (fixed && !deepEqual(fixed.spec, o.spec))
    errors.push(invalid('spec', o.spec, `spec of '${name}' must equal the fixed value`));
  return [...errors, ...validateConditions(o.status?.conditions)];
}

export const flowSchemas: Kind<FlowSchema> = {
  group: 'flowcontrol.apiserver.k8s.io',
  version: 'v1',
  kind: 'FlowSchema',
  plural: 'flowschemas',
  keptByStatus: 'metadata',
  singular: 'flowschema',
  shortNames: [],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.flowcontrol.v1.FlowSchema',
  columns: [
    nameColumn,
    column(
      'PriorityLevel',
      'string',
      'The priority level of its requests.',
      (o) => o.spec?.priorityLevelConfiguration?.name ?? '',
    ),
    column(
      'MatchingPrecedence',
      'string',
      'Of the schemas that a request matches, the one with the lowest number has it.',
      (o) => o.spec?.matchingPrecedence ?? 0,
    ),
    column(
      'DistinguisherMethod',
      'string',
      'What tells one flow of requests from another.',
      (o) => o.spec?.distinguisherMethod?.type ?? '<none>',
    ),
    ageColumn,
    column(
      'MissingPL',
      'string',
      'Whether the priority level is broken or not there.',
      (o) => o.status?.conditions?.find((c) => c.type === 'Dangling')?.status ?? '?',
    ),
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= { priorityLevelConfiguration: { name: '' } };
    o.spec.matchingPrecedence ||= 1000;
  },
  validate: validateSchema,
  validateStatus: (o) => validateConditions(o.status?.conditions),
};

function validateQueuing(q: QueuingConfiguration, at: string): FieldError[] {
  const { queueLengthLimit = 0, queues = 0, handSize = 0 } = q;
  const errors: FieldError[] = [];
  if (queueLengthLimit <= 0)
    errors.push(invalid(`${at}.queueLengthLimit`, queueLengthLimit, 'must be positive'));
  if (queues <= 0) errors.push(invalid(`${at}.queues`, queues, 'must be positive'));
  else if (queues > MAX_QUEUES)
    errors.push(invalid(`${at}.queues`, queues, `must not be greater than ${MAX_QUEUES}`));
  const bits = Math.ceil(Math.log2(queues) * handSize);
  if (handSize <= 0) errors.push(invalid(`${at}.handSize`, handSize, 'must be positive'));
  else if (handSize > queues)
    errors.push(invalid(`${at}.handSize`, handSize, `should not be greater than queues (${queues})`));
  else if (bits > MAX_HASH_BITS)
    errors.push(
      invalid(
        `${at}.handSize`,
        handSize,
        `required entropy bits of deckSize ${queues} and handSize ${handSize} should not be greater than ${MAX_HASH_BITS}`,
      ),
    );
  return errors;
}

interface Shares {
  nominalConcurrencyShares?: number;
  lendablePercent?: number;
}

function validateShares(s: Shares, at: string): FieldError[] {
  const { nominalConcurrencyShares: shares, lendablePercent: percent } = s;
  const errors: FieldError[] = [];
  if (shares !== undefined && shares < 0)
    errors.push(invalid(`${at}.nominalConcurrencyShares`, shares, 'must be a non-negative integer'));
  if (percent !== undefined && (percent < 0 || percent > 100))
    errors.push(invalid(`${at}.lendablePercent`, percent, 'must be between 0 and 100, inclusive'));
  return errors;
}

function validateLimited(o: NonNullable<PriorityLevelConfiguration['spec']>['limited']): FieldError[] {
  if (!o) return [required('spec.limited', 'must not be empty when type is Limited')];
  const { borrowingLimitPercent: borrowing, limitResponse: { type = '', queuing } = { type: '' } } = o;
  const errors = validateShares(o, 'spec.limited');
  const at = 'spec.limited.limitResponse';
  if (type === 'Reject') {
    if (queuing)
      errors.push(forbidden(`${at}.queuing`, 'must be nil if limited.limitResponse.type is not Limited'));
  } else if (type !== 'Queue') errors.push(notSupported(`${at}.type`, type, ['Queue', 'Reject']));
  else if (queuing) errors.push(...validateQueuing(queuing, `${at}.queuing`));
  else errors.push(required(`${at}.queuing`, 'must not be empty if limited.limitResponse.type is Limited'));
  if (borrowing !== undefined && borrowing < 0)
    errors.push(
      invalid(
        'spec.limited.borrowingLimitPercent',
        borrowing,
        'if specified, must be a non-negative integer',
      ),
    );
  return errors;
}

function validateLevel(o: PriorityLevelConfiguration): FieldError[] {
  const { name } = o.metadata ?? {};
  const { type = '', limited, exempt } = o.spec!;
  const errors: FieldError[] = [];
  if ((name === EXEMPT) !== (type === 'Exempt'))
    errors.push(invalid('spec.type', type, "must be 'Exempt' if and only if `name` is 'exempt'"));
  if (type === 'Exempt') {
    if (limited) errors.push(forbidden('spec.limited', 'must be nil if the type is not Limited'));
    if (exempt) errors.push(...validateShares(exempt, 'spec.exempt'));
  } else if (type === 'Limited') {
    if (exempt) errors.push(forbidden('spec.exempt', 'must be nil if the type is Limited'));
    errors.push(...validateLimited(limited));
  } else errors.push(notSupported('spec.type', type, ['Exempt', 'Limited']));
  const fixed = mandatoryLevels.find((l) => l.metadata!.name === name)?.spec;
  if (fixed && name === EXEMPT) {
    if (!deepEqual({ ...o.spec, exempt: undefined }, { ...fixed, exempt: undefined }))
      errors.push(
        invalid(
          'spec',
          o.spec,
          `spec of '${name}' except the 'spec.exempt' field must equal the fixed value`,
        ),
      );
  } else if (fixed && !deepEqual(o.spec, fixed))
    errors.push(invalid('spec', o.spec, `spec of '${name}' must equal the fixed value`));
  return [...errors, ...validateConditions(o.status?.conditions)];
}

const NONE = '<none>';
const queuing = (name: string, description: string, of: (q: QueuingConfiguration) => number | undefined) =>
  column<PriorityLevelConfiguration>(name, 'string', description, (o) => {
    const q = o.spec?.limited?.limitResponse?.queuing;
    return q ? (of(q) ?? 0) : NONE;
  });

export const priorityLevelConfigurations: Kind<PriorityLevelConfiguration> = {
  group: 'flowcontrol.apiserver.k8s.io',
  version: 'v1',
  kind: 'PriorityLevelConfiguration',
  plural: 'prioritylevelconfigurations',
  keptByStatus: 'metadata',
  singular: 'prioritylevelconfiguration',
  shortNames: [],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration',
  columns: [
    nameColumn,
    column('Type', 'string', 'Whether its requests are limited.', (o) => o.spec?.type ?? ''),
    column(
      'NominalConcurrencyShares',
      'string',
      'Its share of the requests that are carried out at the same time.',
      (o) => o.spec?.limited?.nominalConcurrencyShares ?? NONE,
    ),
    queuing('Queues', 'How many queues there are at most.', (q) => q.queues),
    queuing('HandSize', 'How many queues a flow may choose from.', (q) => q.handSize),
    queuing('QueueLengthLimit', 'How many requests may wait in one queue.', (q) => q.queueLengthLimit),
    ageColumn,
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= { type: '' };
    const { exempt, limited } = o.spec;
    if (exempt) {
      exempt.nominalConcurrencyShares ??= 0;
      exempt.lendablePercent ??= 0;
    }
    if (!limited) return;
    limited.nominalConcurrencyShares ??= 30;
    limited.lendablePercent ??= 0;
    const q = limited.limitResponse?.queuing;
    if (!q) return;
    q.handSize ||= 8;
    q.queues ||= 64;
    q.queueLengthLimit ||= 50;
  },
  validate: validateLevel,
  validateStatus: (o) => validateConditions(o.status?.conditions),
};
