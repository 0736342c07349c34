import type { PersistentVolume, Pod } from 'kubernetes-types/core/v1.js';
import type { VolumeAttachment } from 'kubernetes-types/storage/v1.js';
import { nodes, persistentVolumes, volumeAttachments } from '../../api/kinds/index.js';
import { parseFieldSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { podsOf } from '../controllers/pods.js';
import type { Informer, Informers } from '../informer.js';
import { referencesOf } from '../link/desired.js';
import { claimNames } from '../volumes.js';
import type { Attributes, Decision, ResourceAttributes, User } from './attributes.js';
import { CLUSTER_RULES } from './default-rules.js';
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
  readonly #world: World;

  constructor(informers: Informers) {
    this.#world = {
      pods: podsOf(informers),
      volumes: informers.of(persistentVolumes),
      attachments: informers.of(volumeAttachments),
    };
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
      if (special) return special(node, what, this.#world);
    }
    return CLUSTER_RULES['system:node'].some((r) => ruleAllows(r, what)) ? ALLOWED : no();
  }
}

interface World {
  readonly pods: Informer<Pod>;
  readonly volumes: Informer<PersistentVolume>;
  readonly attachments: Informer<VolumeAttachment>;
}

type NodeRule = (node: string, what: ResourceAttributes, world: World) => Decision;

const unrelated = (node: string) => no(`no relationship found between node '${node}' and this object`);

/** Whether an object of this namespace and name has to do with the node. */
type Relation = (node: string, namespace: string, name: string, world: World) => boolean;

const ofPod =
  (related: (pod: Frozen<Pod>, name: string) => boolean): Relation =>
  (node, namespace, name, { pods }) =>
    pods.by('node', node).some((p) => p.metadata?.namespace === namespace && related(p, name));

const refersTo = (list: 'c' | 's') => ofPod((p, name) => referencesOf(p.spec)[list].has(name));
const claims = ofPod((p, name) => claimNames(p).includes(name));
const runsAs = ofPod((p, name) => (p.spec?.serviceAccountName || 'default') === name);
const mounts: Relation = (node, _, name, world) => {
  const { namespace, name: claim } = world.volumes.get(name)?.spec?.claimRef ?? {};
  return !!namespace && !!claim && claims(node, namespace, claim, world);
};
const attached: Relation = (node, _, name, { attachments }) => attachments.get(name)?.spec.nodeName === node;

const judge = (relation: Relation): NodeRule => {
  return (node, { namespace = '', name }, world) => {
    if (!name) return no('No Object name found');
    return relation(node, namespace, name, world) ? ALLOWED : unrelated(node);
  };
};

const readReferred = (relation: Relation): NodeRule => {
  const judged = judge(relation);
  return (node, what, world) => {
    if (!['get', 'list', 'watch'].includes(what.verb)) return no('can only read resources of this type');
    if (what.subresource) return no('cannot read subresource');
    if (!what.namespace) return no('can only read namespaced object of this type');
    return judged(node, what, world);
  };
};

const getRelated = (relation: Relation): NodeRule => {
  const judged = judge(relation);
  return (node, what, world) => {
    if (what.verb !== 'get') return no('can only get individual resources of this type');
    return what.subresource ? no('cannot get subresource') : judged(node, what, world);
  };
};

const OWN_VERBS = ['get', 'create', 'update', 'patch', 'delete'];
const getClaim = getRelated(claims);
const judgeClaim = judge(claims);
const readAccount = readReferred(runsAs);
const judgeAccount = judge(runsAs);

const RULES: Readonly<Record<string, NodeRule>> = {
  '/secrets': readReferred(refersTo('s')),
  '/configmaps': readReferred(refersTo('c')),
  '/persistentvolumeclaims'(node, what, world) {
    if (what.subresource !== 'status') return getClaim(node, what, world);
    return what.verb === 'update' || what.verb === 'patch'
      ? judgeClaim(node, what, world)
      : no('can only get/update/patch this type');
  },
  '/persistentvolumes': getRelated(mounts),
  'storage.k8s.io/volumeattachments': getRelated(attached),
  '/serviceaccounts'(node, what, world) {
    const { verb, subresource, name } = what;
    if (verb === 'get' && !subresource) return readAccount(node, what, world);
    if (verb !== 'create' || !name) return no('can only create tokens for individual service accounts');
    if (subresource !== 'token') return no('can only create token subresource of serviceaccount');
    return judgeAccount(node, what, world);
  },
  // A new object's name is not known here.
  'storage.k8s.io/csinodes'(node, { verb, subresource, name }) {
    if (!OWN_VERBS.includes(verb)) return no('can only get, create, update, patch, or delete a CSINode');
    if (subresource) return no('cannot authorize CSINode subresources');
    if (verb !== 'create' && name !== node)
      return no('can only access CSINode with the same name as the requesting node');
    return ALLOWED;
  },
  'coordination.k8s.io/leases'(node, { verb, namespace, name }) {
    if (!OWN_VERBS.includes(verb)) return no('can only get, create, update, patch, or delete a node lease');
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
  '/pods'(node, { verb, subresource, namespace, name, fieldSelector }, { pods }) {
    const mine = () =>
      pods.get(`${namespace}/${name}`)?.spec?.nodeName === node ? ALLOWED : unrelated(node);
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
