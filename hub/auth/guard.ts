import type { CertificateSigningRequest } from 'kubernetes-types/certificates/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { ClusterRole, ClusterRoleBinding, PolicyRule } from 'kubernetes-types/rbac/v1.js';
import { CERTIFICATES_GROUP, certificateSigningRequests, requestOf, SIGNER } from '../../api/kinds/csr.js';
import type { Kind } from '../../api/kinds/kind.js';
import { isNodesOwnLabel } from '../../api/kinds/node-labels.js';
import { RBAC_GROUP } from '../../api/kinds/rbac.js';
import { notFound } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { Guard, GuardedWrite, RequestContext } from '../registry/api.js';
import { refused } from './attributes.js';
import type { RbacAuthorizer } from './authorizer.js';
import { nodeOf } from './node.js';
import { userOf } from './reviews.js';
import { escalationText, type Rule } from './rules.js';

/** Checks of writes that depend on who writes: nobody grants more than they have, nodes keep to themselves. */
export const accessGuard =
  (authorizer: RbacAuthorizer): Guard =>
  (ctx, write) => {
    if (isRequest(write.kind)) checkSubject(write);
    if (ctx.groups.includes('system:masters')) return;
    if (isRequest(write.kind)) checkSigner(authorizer, ctx, write);
    if (write.kind.group === RBAC_GROUP && write.verb !== 'delete') checkEscalation(authorizer, ctx, write);
    const node = nodeOf(userOf(ctx));
    if (node) checkNode(node, write);
  };

const isRequest = (kind: Kind) =>
  kind.group === CERTIFICATES_GROUP && kind.plural === certificateSigningRequests.plural;

/** Kubernetes' CertificateSubjectRestriction admission: nobody, not even an administrator, asks for `system:masters`. */
function checkSubject({ verb, kind, next }: GuardedWrite): void {
  if (verb !== 'create') return;
  const csr = next as unknown as CertificateSigningRequest;
  if (csr.spec.signerName === SIGNER.client && requestOf(csr).organizations.includes('system:masters'))
    throw refused(
      kind.plural,
      kind.group,
      next.metadata?.name,
      `use of ${SIGNER.client} signer with system:masters group is not allowed`,
    );
}

/**
 * Kubernetes' CertificateApproval and CertificateSigning admission: writing approvals and certificates needs the verb
 * `approve` or `sign` on the signer besides the right to write the object.
 */
function checkSigner(authorizer: RbacAuthorizer, ctx: RequestContext, write: GuardedWrite): void {
  const { kind, subresource, next, current } = write;
  if (!current || (subresource !== 'approval' && subresource !== 'status')) return;
  const verb = subresource === 'approval' ? 'approve' : 'sign';
  const status = (o: AnyObject) => (o as { status?: Record<string, unknown> }).status ?? {};
  if (
    verb === 'sign' &&
    ['certificate', 'conditions'].every((f) => deepEqual(status(next)[f], status(current)[f]))
  )
    return;
  const { signerName } = (current as unknown as CertificateSigningRequest).spec;
  // All of a domain's signers, as Kubernetes spells it.
  const names = [signerName, `${signerName.split('/')[0]}/*`];
  const may = (name: string) =>
    authorizer.authorize(userOf(ctx), { verb, group: CERTIFICATES_GROUP, resource: 'signers', name }).allowed;
  if (!names.some(may))
    throw refused(
      kind.plural,
      kind.group,
      next.metadata?.name,
      `user not permitted to ${verb} requests with signerName ${JSON.stringify(signerName)}`,
    );
}

function checkEscalation(authorizer: RbacAuthorizer, ctx: RequestContext, write: GuardedWrite): void {
  const { kind, next, current } = write;
  const user = userOf(ctx);
  const { namespace = '', name } = next.metadata ?? {};
  const may = (verb: string, resource: string, of: string | undefined) =>
    authorizer.authorize(user, { verb, group: RBAC_GROUP, resource, namespace, name: of }).allowed;
  const confirm = (wanted: readonly Rule[]) => {
    const missing: PolicyRule[] = authorizer.missing(user, namespace, wanted);
    if (missing.length) throw refused(kind.plural, RBAC_GROUP, name, escalationText(user, missing));
  };
  if (kind.plural === 'roles' || kind.plural === 'clusterroles') {
    const role = next as ClusterRole;
    const before = current as ClusterRole | undefined;
    // Metadata may change without holding what the role grants.
    if (
      before &&
      deepEqual(role.rules ?? [], before.rules ?? []) &&
      deepEqual(role.aggregationRule ?? null, before.aggregationRule ?? null)
    )
      return;
    if (may('escalate', kind.plural, name)) return;
    // An aggregated role may come to grant anything.
    const everything: Rule[] = [
      { apiGroups: ['*'], resources: ['*'], verbs: ['*'] },
      { nonResourceURLs: ['*'], verbs: ['*'] },
    ];
    if (role.aggregationRule && authorizer.missing(user, namespace, everything).length)
      throw refused(
        kind.plural,
        RBAC_GROUP,
        name,
        'must have cluster-admin privileges to use the aggregationRule',
      );
    confirm((role.rules ?? []) as Rule[]);
    return;
  }
  const binding = next as unknown as ClusterRoleBinding;
  const before = current as unknown as ClusterRoleBinding | undefined;
  if (
    before &&
    deepEqual(binding.roleRef, before.roleRef) &&
    deepEqual(binding.subjects ?? [], before.subjects ?? [])
  )
    return;
  const { kind: of, name: role } = binding.roleRef;
  const resource = of === 'ClusterRole' ? 'clusterroles' : 'roles';
  if (may('bind', resource, role)) return;
  const rules = authorizer.rulesOf(binding.roleRef, namespace);
  if (!rules) throw notFound(resource, role, RBAC_GROUP);
  confirm(rules);
}

/** Kubernetes' NodeRestriction admission, for the kinds that are served. */
function checkNode(node: string, { kind, verb, subresource, next, current }: GuardedWrite): void {
  const { name } = next.metadata ?? {};
  const refuse = (why: string) => refused(kind.plural, kind.group, name, why);
  const shown = JSON.stringify(node);
  if (kind.group === '' && kind.plural === 'nodes') {
    if (name !== node) throw refuse(`node ${shown} is not allowed to modify node ${JSON.stringify(name)}`);
    const labels = (o: { metadata?: { labels?: Record<string, string> } } | undefined) =>
      o?.metadata?.labels ?? {};
    const [is, was] = [labels(next), labels(current)];
    const changed = Object.keys({ ...is, ...was }).filter((k) => is[k] !== was[k] && !isNodesOwnLabel(k));
    if (verb !== 'delete' && changed.length > 0)
      throw refuse(
        current
          ? `is not allowed to modify labels: ${changed.sort().join(', ')}`
          : `node ${shown} is not allowed to set the following labels: ${changed.sort().join(', ')}`,
      );
    const taints = (o: unknown) => (o as { spec?: { taints?: unknown } } | undefined)?.spec?.taints ?? [];
    if (current && verb !== 'delete' && !deepEqual(taints(next), taints(current)))
      throw refuse(`node ${shown} is not allowed to modify taints`);
    return;
  }
  if (kind.group === '' && kind.plural === 'pods') {
    if (verb === 'create') {
      if (!next.metadata?.annotations?.['kubernetes.io/config.mirror'])
        throw refuse(
          `pod does not have "kubernetes.io/config.mirror" annotation, node ${shown} can only create mirror pods`,
        );
      if ((next as Pod).spec?.nodeName !== node)
        throw refuse(`node ${shown} can only create pods with spec.nodeName set to itself`);
      return;
    }
    const what = verb === 'delete' ? 'delete pods' : 'update pod status for pods';
    if (verb === 'update' && subresource !== 'status')
      throw refuse(`unexpected operation "UPDATE", node ${shown} can only create and delete mirror pods`);
    if ((current as Pod | undefined)?.spec?.nodeName !== node)
      throw refuse(`node ${shown} can only ${what} with spec.nodeName set to itself`);
    return;
  }
  if (kind.group === 'coordination.k8s.io' && name !== node)
    throw refuse('can only access node lease with the same name as the requesting node');
  if (kind.plural === 'csinodes' && name !== node)
    throw refuse('can only access CSINode with the same name as the requesting node');
}
