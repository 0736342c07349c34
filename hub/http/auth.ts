import type { TLSSocket } from 'node:tls';
import { ApiError } from '../../api/meta/errors.js';

/** Who asks: Kubernetes' user.Info. */
export interface User {
  readonly name: string;
  readonly groups: readonly string[];
}

export const ANONYMOUS: User = { name: 'system:anonymous', groups: ['system:unauthenticated'] };

/** What is asked for: Kubernetes' authorization attributes. */
export type Attributes =
  | {
      verb: string;
      resource: string;
      subresource?: string;
      group: string;
      namespace?: string;
      name?: string;
    }
  | { verb: string; path: string };

const list = (v: unknown): string[] =>
  typeof v === 'string' ? [v] : Array.isArray(v) ? v.filter((x): x is string => typeof x === 'string') : [];

/**
 * The user that a connection's client certificate names: CN is the user, every O a group. No certificate is the
 * anonymous user; one that the hub's CA did not sign, or that is out of date, is `undefined`: Unauthorized.
 */
export function userOfConnection(socket: TLSSocket): User | undefined {
  const subject = socket.getPeerCertificate()?.subject as unknown as Record<string, unknown> | undefined;
  if (!subject) return ANONYMOUS;
  const name = list(subject['CN']).at(-1);
  if (!socket.authorized || !name) return undefined;
  return { name, groups: [...list(subject['O']), 'system:authenticated'] };
}

/** Open to everyone, as Kubernetes' role `system:public-info-viewer` has it. */
const PUBLIC = new Set(['/healthz', '/livez', '/readyz', '/version']);
/** Open to everyone with a certificate, as `system:discovery` has it; exact paths or, with a slash, what is below. */
const DISCOVERY = ['/api', '/api/', '/apis', '/apis/', '/openapi', '/openapi/'];

/**
 * Throws Forbidden unless `user` may do it. For now: `system:masters` may do all, others may look at what the server
 * offers; a node has no business here, its door is the link.
 */
export function authorize(user: User, what: Attributes): void {
  if (user.groups.includes('system:masters')) return;
  if ('path' in what && what.verb === 'get') {
    const second = what.path.indexOf('/', 1);
    if (PUBLIC.has(second < 0 ? what.path : what.path.slice(0, second))) return;
    const known = user.groups.includes('system:authenticated') && !user.groups.includes('system:nodes');
    if (known && DISCOVERY.some((p) => (p.endsWith('/') ? what.path.startsWith(p) : what.path === p))) return;
  }
  throw forbidden(user, what);
}

/** Kubernetes' words (apiserver endpoints/handlers/responsewriters/errors.go). */
function forbidden(user: User, what: Attributes): ApiError {
  if ('path' in what) {
    return new ApiError(
      'Forbidden',
      `forbidden: User "${user.name}" cannot ${what.verb} path "${what.path}"`,
      {},
    );
  }
  const { group, name } = what;
  const resource = group ? `${what.resource}.${group}` : what.resource;
  const asked = what.subresource ? `${what.resource}/${what.subresource}` : what.resource;
  const where = what.namespace ? `in the namespace "${what.namespace}"` : 'at the cluster scope';
  const why = `User "${user.name}" cannot ${what.verb} resource "${asked}" in API group "${group}" ${where}`;
  return new ApiError('Forbidden', `${resource}${name ? ` "${name}"` : ''} is forbidden: ${why}`, {
    ...(name ? { name } : {}),
    ...(group ? { group } : {}),
    kind: what.resource,
  });
}

export const unauthorized = (): ApiError => new ApiError('Unauthorized', 'Unauthorized');
