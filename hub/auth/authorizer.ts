import type { PolicyRule, RoleBinding, RoleRef, Subject } from 'kubernetes-types/rbac/v1.js';
import { clusterRoleBindings, clusterRoles, roleBindings, roles } from '../../api/kinds/index.js';
import type { Frozen } from '../client.js';
import type { Informers } from '../informer.js';
import type { Attributes, Authorizer, Decision, User } from './attributes.js';
import { NodeRules } from './node.js';
import { isSubject, notCovered, type Rule, ruleAllows } from './rules.js';

const ALLOWED: Decision = { allowed: true, reason: '' };

type Binding = Pick<Frozen<RoleBinding>, 'metadata' | 'roleRef' | 'subjects'>;

/** A rule that a user has and what gives it, or why there is none. */
type Found = { rule: Rule; source: () => string } | { error: string };

/** `RoleBinding "b/ns" of Role "r" to User "u"`, in Kubernetes' order. */
function describe(b: Binding, kind: string, s: Frozen<Subject>): string {
  const { namespace, name } = b.metadata ?? {};
  const quote = (...parts: (string | undefined)[]) => JSON.stringify(parts.filter((p) => p).join('/'));
  const subject = s.kind === 'ServiceAccount' ? quote(s.name, s.namespace || namespace) : quote(s.name);
  return `${kind} ${quote(name, namespace)} of ${b.roleRef.kind} ${quote(b.roleRef.name)} to ${s.kind} ${subject}`;
}

/** The rules that a user has, and what could not be found out. */
export interface Held {
  rules: Rule[];
  errors: string[];
}

/**
 * Kubernetes' authorization: `system:masters` may do everything, nodes what concerns them, everyone else what roles
 * and bindings say. Knows these by informers; answers from memory.
 */
export class RbacAuthorizer implements Authorizer {
  readonly #roles;
  readonly #clusterRoles;
  readonly #roleBindings;
  readonly #clusterRoleBindings;
  readonly #nodes: NodeRules;

  constructor(private readonly informers: Informers) {
    this.#roles = informers.of(roles);
    this.#clusterRoles = informers.of(clusterRoles);
    this.#roleBindings = informers.of(roleBindings).index('namespace', (b) => [b.metadata!.namespace!]);
    this.#clusterRoleBindings = informers.of(clusterRoleBindings);
    this.#nodes = new NodeRules(informers);
  }

  /** Resolves when it knows all roles, bindings and pods; before that it allows too little. */
  start(): Promise<void> {
    return this.informers.start();
  }

  authorize(user: User, what: Attributes): Decision {
    if (user.groups.includes('system:masters')) return ALLOWED;
    const node = this.#nodes.authorize(user, what);
    if (node?.allowed) return ALLOWED;
    const reasons = node?.reason ? [node.reason] : [];
    const errors: string[] = [];
    const namespace = ('path' in what ? undefined : what.namespace) ?? '';
    for (const found of this.#visit(user, namespace)) {
      if ('error' in found) errors.push(found.error);
      else if (ruleAllows(found.rule, what))
        return { allowed: true, reason: `RBAC: allowed by ${found.source()}` };
    }
    if (errors.length) {
      const texts = [...new Set(errors)];
      reasons.push(`RBAC: ${texts.length === 1 ? texts[0] : `[${texts.join(', ')}]`}`);
    }
    return { allowed: false, reason: reasons.join('\n') };
  }

  /** Every rule that `user` has in a namespace, or in the whole cluster when it is ''. */
  held(user: User, namespace: string): Held {
    const rules: Rule[] = [];
    const errors: string[] = [];
    for (const found of this.#visit(user, namespace)) {
      if ('error' in found) errors.push(found.error);
      else rules.push(found.rule);
    }
    return { rules, errors };
  }

  /** What of `wanted` the user does not have in that namespace. */
  missing(user: User, namespace: string, wanted: readonly Rule[]): PolicyRule[] {
    return notCovered(this.held(user, namespace).rules, wanted);
  }

  /** The rules of the role that a binding names; undefined when there is none. `namespace` is the binding's. */
  rulesOf(ref: Frozen<RoleRef>, namespace: string): readonly Rule[] | undefined {
    const role =
      ref.kind === 'ClusterRole'
        ? this.#clusterRoles.get(ref.name)
        : this.#roles.get(`${namespace}/${ref.name}`);
    return role && ((role.rules ?? []) as readonly Rule[]);
  }

  *#visit(user: User, namespace: string): Generator<Found> {
    for (const b of this.#clusterRoleBindings.values())
      yield* this.#resolve(user, b, 'ClusterRoleBinding', '');
    if (!namespace) return;
    for (const b of this.#roleBindings.by('namespace', namespace))
      yield* this.#resolve(user, b, 'RoleBinding', namespace);
  }

  *#resolve(user: User, binding: Binding, kind: string, namespace: string): Generator<Found> {
    const subject = binding.subjects?.find((s) => isSubject(user, s, namespace));
    if (!subject) return;
    const ref = binding.roleRef;
    const rules = this.rulesOf(ref, namespace);
    if (!rules) {
      const resource = ref.kind === 'ClusterRole' ? 'clusterrole' : 'role';
      yield { error: `${resource}.rbac.authorization.k8s.io ${JSON.stringify(ref.name)} not found` };
    } else for (const rule of rules) yield { rule, source: () => describe(binding, kind, subject) };
  }
}
