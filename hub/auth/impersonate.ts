import type { IncomingHttpHeaders } from 'node:http';
import { badRequest } from '../../api/meta/errors.js';
import { ANONYMOUS, type Authorizer, demand, type User } from './attributes.js';

const AUTHENTICATION = 'authentication.k8s.io';
const EXTRA = 'impersonate-extra-';
const ACCOUNT = /^system:serviceaccount:([^:]+):([^:]+)$/;

/** Namespace and name of the ServiceAccount that a user name stands for. */
export const accountOf = (user: string): { namespace: string; name: string } | undefined => {
  const [, namespace, name] = ACCOUNT.exec(user) ?? [];
  return namespace && name ? { namespace, name } : undefined;
};

/** Groups of the ServiceAccounts of a namespace. */
export const accountGroups = (namespace: string): string[] => [
  'system:serviceaccounts',
  `system:serviceaccounts:${namespace}`,
];

const PREFIX = 'impersonate-';

/**
 * `headers` with a list for each `Impersonate-*` header, one item for each time it was sent: Node joins them with commas,
 * which a group may have in its name. `raw` has names and values in turn.
 */
export function distinctImpersonation(
  headers: IncomingHttpHeaders,
  raw: readonly string[],
): IncomingHttpHeaders {
  let out = headers;
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase();
    if (!name.startsWith(PREFIX)) continue;
    if (out === headers) {
      out = { ...headers };
      for (const k of Object.keys(out)) if (k.startsWith(PREFIX)) out[k] = [];
    }
    (out[name] as string[]).push(raw[i + 1]!);
  }
  return out;
}

const values = (v: string | string[] | undefined): string[] =>
  (Array.isArray(v) ? v : v === undefined ? [] : [v]).filter((text) => text !== '');

/**
 * Whom a request is to count as: `user`, or whom its `Impersonate-*` headers name (apiserver endpoints/filters
 * impersonation). Throws Forbidden when `user` may not act as that, BadRequest when no user is named.
 */
export function actingUser(authorizer: Authorizer, user: User, headers: IncomingHttpHeaders): User {
  const name = values(headers['impersonate-user'])[0] ?? '';
  const groups = values(headers['impersonate-group']);
  const uid = values(headers['impersonate-uid'])[0];
  const extra: Record<string, string[]> = {};
  for (const [header, v] of Object.entries(headers)) {
    if (!header.startsWith(EXTRA)) continue;
    let key = header.slice(EXTRA.length);
    try {
      key = decodeURIComponent(key);
    } catch {
      // Kubernetes takes what is not percent-encoded as it is.
    }
    Object.defineProperty(extra, key.toLowerCase(), { value: values(v), enumerable: true });
  }
  const asked = groups.length + Object.keys(extra).length + (uid ? 1 : 0);
  if (!name) {
    if (asked)
      throw badRequest('requested impersonation of groups, uid or extra without impersonating a user');
    return user;
  }
  const check = (
    resource: string,
    of: string,
    more: { group?: string; namespace?: string; subresource?: string } = {},
  ) => demand(authorizer, user, { verb: 'impersonate', group: '', resource, name: of, ...more });

  const account = accountOf(name);
  if (account) check('serviceaccounts', account.name, { namespace: account.namespace });
  else check('users', name);
  for (const g of groups) check('groups', g);
  for (const [key, list] of Object.entries(extra))
    for (const v of list) check('userextras', v, { group: AUTHENTICATION, subresource: key });
  if (uid) check('uids', uid, { group: AUTHENTICATION });

  const acting = groups.length || !account ? groups : accountGroups(account.namespace);
  const known = acting.some((g) => g === 'system:authenticated' || g === 'system:unauthenticated');
  if (!known) acting.push(name === ANONYMOUS.name ? 'system:unauthenticated' : 'system:authenticated');
  return { name, groups: acting, ...(uid ? { uid } : {}), ...(Object.keys(extra).length ? { extra } : {}) };
}
