import type { Pod } from 'kubernetes-types/core/v1.js';
import { nodes } from '../../api/kinds/index.js';
import { parseFieldSelector } from '../../api/meta/selector.js';
import { podsOf } from '../controllers/pods.js';
import type { Informer, Informers } from '../informer.js';
import { referencesOf } from '../link/desired.js';
import type { Attributes, Decision, ResourceAttributes, User } from './attributes.js';
import { NODE_RULES } from './defaults.js';
import { ruleAllows } from './rules.js';

const PREFIX = 'system:node:';

/** The node that a user is (Kubernetes' node identifier), '' for a node without a name; undefined for other users. */
export const nodeOf = (user: User): string | undefined =>
  user.name.startsWith(PREFIX) && user.groups.includes('system:nodes')
    ? user.name.slice(PREFIX.length)
    : undefined;

const ALLOWED: Decision = { allowed: true, reason: '' };
const no = (reason = ''): Decision => ({ allowed: false, reason });

const selects = (selector: string | undefined, field: string, value: string): boolean => {
  try {
    return (
      !!selector &&
      parseFieldSelector(selector).some((t) => t.field === field && t.equal && t.value === value)
    );
  } catch {
    return false;
  }
};

/** Kubernetes' node authorizer: a node may see its own Node, the pods bound to it and what these refer to. */
export class NodeRules {
  readonly #pods: Informer<Pod>;

  constructor(informers: Informers) {
    this.#pods = podsOf(informers);
    informers.of(nodes);
  }

  /** Undefined when the user is no node. */
  authorize(user: User, what: Attributes): Decision | undefined {
    const node = nodeOf(user);
    if (node === undefined) return undefined;
    if (node === '') return no(`unknown node for user ${JSON.stringify(user.name)}`);
    if (!('path' in what)) {
      const special = Object.hasOwn(RULES, `${what.group}/${what.resource}`)
        ? RULES[`${what.group}/${what.resource}`]
        : undefined;
      if (special) return special(node, what, this.#pods);
    }
    return NODE_RULES.some((r) => ruleAllows(r, what)) ? ALLOWED : no();
  }
}

type NodeRule = (node: string, what: ResourceAttributes, all: Informer<Pod>) => Decision;

const unrelated = (node: string) => no(`no relationship found between node '${node}' and this object`);

const readReferred =
  (list: 'c' | 's'): NodeRule =>
  (node, { verb, subresource, namespace, name }, all) => {
    if (!['get', 'list', 'watch'].includes(verb)) return no('can only read resources of this type');
    if (subresource) return no('cannot read subresource');
    if (!namespace) return no('can only read namespaced object of this type');
    if (!name) return no('No Object name found');
    const related = all
      .by('node', node)
      .some((p) => p.metadata?.namespace === namespace && referencesOf(p.spec)[list].has(name));
    return related ? ALLOWED : unrelated(node);
  };

const RULES: Readonly<Record<string, NodeRule>> = {
  '/secrets': readReferred('s'),
  '/configmaps': readReferred('c'),
  '/serviceaccounts'(node, { verb, subresource, namespace, name }, all) {
    if (verb !== 'create' || !name) return no('can only create tokens for individual service accounts');
    if (subresource !== 'token') return no('can only create token subresource of serviceaccount');
    const related = all
      .by('node', node)
      .some((p) => p.metadata?.namespace === namespace && (p.spec?.serviceAccountName || 'default') === name);
    return related ? ALLOWED : unrelated(node);
  },
  'coordination.k8s.io/leases'(node, { verb, namespace, name }) {
    if (!['get', 'create', 'update', 'patch', 'delete'].includes(verb))
      return no('can only get, create, update, patch, or delete a node lease');
    if (namespace !== 'kube-node-lease')
      return no('can only access leases in the "kube-node-lease" system namespace');
    if (verb !== 'create' && name !== node)
      return no('can only access node lease with the same name as the requesting node');
    return ALLOWED;
  },
  '/nodes'(node, { verb, subresource, name }) {
    if (subresource === 'status') return verb === 'update' || verb === 'patch' ? ALLOWED : no();
    if (subresource) return no();
    if (['create', 'update', 'patch'].includes(verb)) return ALLOWED;
    if (!['get', 'list', 'watch'].includes(verb)) return no();
    if (name === node) return ALLOWED;
    return no(
      name
        ? `node '${node}' cannot read '${name}', only its own Node object`
        : `node '${node}' cannot read all nodes, only its own Node object`,
    );
  },
  '/pods'(node, { verb, subresource, namespace, name, fieldSelector }, all) {
    const mine = () => (all.get(`${namespace}/${name}`)?.spec?.nodeName === node ? ALLOWED : unrelated(node));
    if (subresource === 'status') return verb === 'update' || verb === 'patch' ? ALLOWED : no();
    if (subresource === 'eviction') return verb === 'create' ? ALLOWED : no();
    if (subresource) return no();
    if (verb === 'create' || verb === 'delete') return ALLOWED;
    if (verb === 'get') return mine();
    if (verb !== 'list' && verb !== 'watch') return no();
    if (selects(fieldSelector, 'spec.nodeName', node)) return ALLOWED;
    return name ? mine() : no('can only list/watch pods with spec.nodeName field selector');
  },
};
