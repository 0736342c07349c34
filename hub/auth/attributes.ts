import { ApiError, qualifiedResource } from '../../api/meta/errors.js';

/** Who asks: Kubernetes' user.Info. */
export interface User {
  readonly name: string;
  readonly groups: readonly string[];
  readonly uid?: string;
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

export const ANONYMOUS: User = { name: 'system:anonymous', groups: ['system:unauthenticated'] };

export interface ResourceAttributes {
  verb: string;
  resource: string;
  subresource?: string;
  group: string;
  namespace?: string;
  name?: string;
  /** The field selector of a list or watch, as it came. */
  fieldSelector?: string;
  /** Of a question in CEL; as in Kubernetes, neither RBAC nor the rights of nodes depend on it. */
  labelSelector?: string;
}

/** What is asked for: Kubernetes' authorization attributes. */
export type Attributes = ResourceAttributes | { verb: string; path: string };

/** Nobody ever says a final no: what is not allowed is not allowed, and `reason` may tell why. */
export interface Decision {
  allowed: boolean;
  reason: string;
}

export interface Authorizer {
  authorize(user: User, what: Attributes): Decision;
}

/** Throws Forbidden unless `user` may do it. */
export function demand(authorizer: Authorizer, user: User, what: Attributes): void {
  const { allowed, reason } = authorizer.authorize(user, what);
  if (!allowed) throw forbidden(user, what, reason);
}

/** Kubernetes' words (apiserver endpoints/handlers/responsewriters/errors.go). */
export function forbidden(user: User, what: Attributes, reason = ''): ApiError {
  const because = reason ? `: ${reason}` : '';
  if ('path' in what) {
    return new ApiError(
      'Forbidden',
      `forbidden: User "${user.name}" cannot ${what.verb} path "${what.path}"${because}`,
      {},
    );
  }
  const { group, name } = what;
  const asked = what.subresource ? `${what.resource}/${what.subresource}` : what.resource;
  const where = what.namespace ? `in the namespace "${what.namespace}"` : 'at the cluster scope';
  const why = `User "${user.name}" cannot ${what.verb} resource "${asked}" in API group "${group}" ${where}${because}`;
  return refused(what.resource, group, name, why);
}

/** Kubernetes' `errors.NewForbidden`. */
export const refused = (resource: string, group: string, name: string | undefined, why: string): ApiError =>
  new ApiError(
    'Forbidden',
    `${qualifiedResource(resource, group)}${name ? ` ${JSON.stringify(name)}` : ''} is forbidden: ${why}`,
    { ...(name ? { name } : {}), ...(group ? { group } : {}), kind: resource },
  );
