import type { TLSSocket } from 'node:tls';
import { ApiError } from '../../api/meta/errors.js';
import { ANONYMOUS, type User } from '../auth/attributes.js';

export { ANONYMOUS, type User };

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

export const unauthorized = (): ApiError => new ApiError('Unauthorized', 'Unauthorized');
