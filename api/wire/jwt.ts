/**
 * Tokens of ServiceAccounts as they travel to nodes: what they say and the signature, from which the node puts the
 * token together. So most of a token deflates against the pod that it is sent with, and a newer one is a small patch.
 */
import { canonical } from './set.js';

const encode = (o: object): string => Buffer.from(canonical(o)).toString('base64url');

/** What is signed, as text (RFC 7515). */
export const signedPart = (kid: string, claims: object): string =>
  `${encode({ alg: 'ES256', kid, typ: 'JWT' })}.${encode(claims)}`;

/** The token. */
export const jwt = (kid: string, claims: object, signature: string): string =>
  `${signedPart(kid, claims)}.${signature}`;
