import type {
  FlowSchema,
  NonResourcePolicyRule,
  PolicyRulesWithSubjects,
  ResourcePolicyRule,
  Subject,
} from 'kubernetes-types/flowcontrol/v1.js';
import type { Attributes, ResourceAttributes, User } from '../auth/attributes.js';
import type { Frozen } from '../client.js';
import type { Level } from './level.js';

/** A FlowSchema as requests meet it. */
export interface Schema {
  readonly name: string;
  readonly level: Level;
  readonly distinguisher: string | undefined;
  /** What tells a client how its request was classified; absent for a schema that is no object of the API. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly rules: Frozen<PolicyRulesWithSubjects[]>;
}

/** What of a schema concerns one user: most match everything. */
interface Candidate {
  schema: Schema;
  anyResource: boolean;
  anyPath: boolean;
  resources: readonly Frozen<ResourcePolicyRule>[];
  paths: readonly Frozen<NonResourcePolicyRule>[];
}

/** `matchingPrecedence` decides, then the name. */
export const inOrder = (a: Frozen<FlowSchema>, b: Frozen<FlowSchema>): number =>
  a.spec!.matchingPrecedence! - b.spec!.matchingPrecedence! ||
  (a.metadata!.name! < b.metadata!.name! ? -1 : 1);

/**
 * Finds the schema of a request (apiserver util/flowcontrol/rule.go). What concerns a user is found out once per user
 * object, which a connection keeps; a request then mostly takes one look.
 */
export class Classifier {
  readonly #ofUser = new WeakMap<User, readonly Candidate[]>();

  /** `schemas` in order of precedence; the last one takes whatever nobody else does. */
  constructor(private readonly schemas: readonly Schema[]) {}

  schemaOf(user: User, what: Attributes): Schema {
    let candidates = this.#ofUser.get(user);
    if (!candidates) {
      candidates = this.schemas.flatMap((s) => candidateOf(s, user));
      this.#ofUser.set(user, candidates);
    }
    for (const c of candidates)
      if ('path' in what ? matchesPath(c, what) : matchesResource(c, what)) return c.schema;
    return this.schemas[this.schemas.length - 1]!;
  }

  /** The key of the flow within its schema. */
  static flowOf(schema: Schema, user: User, what: Attributes): string {
    switch (schema.distinguisher) {
      case 'ByUser':
        return `${schema.name}/${user.name}`;
      case 'ByNamespace':
        return `${schema.name}/${('path' in what ? undefined : what.namespace) ?? ''}`;
      default:
        return schema.name;
    }
  }
}

function candidateOf(schema: Schema, user: User): Candidate[] {
  const rules = schema.rules.filter((r) => r.subjects.some((s) => isSubject(s, user)));
  if (rules.length === 0) return [];
  const resources = rules.flatMap((r) => r.resourceRules ?? []);
  const paths = rules.flatMap((r) => r.nonResourceRules ?? []);
  return [
    {
      schema,
      resources,
      paths,
      anyResource: resources.some(
        (r) =>
          isAll(r.verbs) && isAll(r.apiGroups) && isAll(r.resources) && isAll(r.namespaces) && r.clusterScope,
      ),
      anyPath: paths.some((r) => isAll(r.verbs) && isAll(r.nonResourceURLs)),
    },
  ];
}

function isSubject(s: Frozen<Subject>, user: User): boolean {
  switch (s.kind) {
    case 'User':
      return s.user?.name === '*' || s.user?.name === user.name;
    case 'Group':
      return s.group?.name === '*' || (s.group !== undefined && user.groups.includes(s.group.name));
    default: {
      const { namespace = '', name = '' } = s.serviceAccount ?? {};
      const prefix = `system:serviceaccount:${namespace}:`;
      return name === '*' ? user.name.startsWith(prefix) : user.name === prefix + name;
    }
  }
}

const isAll = (list: readonly string[] | undefined): boolean => list?.length === 1 && list[0] === '*';
const has = (list: readonly string[] | undefined, x: string): boolean =>
  list !== undefined && (isAll(list) || list.includes(x));

const matchesResource = (c: Candidate, a: ResourceAttributes): boolean =>
  c.anyResource ||
  c.resources.some(
    (r) =>
      has(r.verbs, a.verb) &&
      has(r.resources, a.subresource ? `${a.resource}/${a.subresource}` : a.resource) &&
      has(r.apiGroups, a.group) &&
      (a.namespace ? has(r.namespaces, a.namespace) : r.clusterScope === true),
  );

const matchesPath = (c: Candidate, a: { verb: string; path: string }): boolean =>
  c.anyPath || c.paths.some((r) => has(r.verbs, a.verb) && r.nonResourceURLs.some((u) => covers(u, a.path)));

/** A path covers itself and what is below it. */
function covers(url: string, path: string): boolean {
  if (url === '*' || url === path) return true;
  const prefix = url.endsWith('*') ? url.slice(0, -1) : url;
  return path.startsWith(prefix.endsWith('/') ? prefix : `${prefix}/`);
}
