/**
 * Joining: the token, and the proofs that both sides give of knowing its secret. The secret itself never travels.
 *
 *   agent → hub  joinHello      token id, node name, public key, nonce
 *   hub → agent  joinChallenge  nonce
 *   agent → hub  joinProof      HMAC over all of it, and a signature with the node's key
 *   hub → agent  joinGrant      certificate, CA, signing key, addresses, HMAC; or joinRefused
 */
import { createHash, createHmac, timingSafeEqual, type X509Certificate } from 'node:crypto';
import type { Versions } from './versions.js';

/** Kubernetes' bootstrap token: id and secret (bootstrap.kubernetes.io/token, as kubeadm makes it). */
export const TOKEN_ID = /^[a-z0-9]{6}$/;
export const TOKEN_SECRET = /^[a-z0-9]{16}$/;

export interface JoinToken {
  /** Where the broker listens, `host:port`, best first. */
  addresses: string[];
  /** `sha256:<hex>` of the CA's public key. */
  caHash: string;
  id: string;
  secret: string;
}

const PREFIX = 'cox1';
const MAX_TOKEN = 4096;

/** One word to copy: `cox1.<id>.<secret>.<rest>`. */
export function formatToken(t: JoinToken): string {
  const hash = Buffer.from(t.caHash.replace(/^sha256:/, ''), 'hex');
  const rest = Buffer.concat([hash, Buffer.from(t.addresses.join(','))]).toString('base64url');
  return `${PREFIX}.${t.id}.${t.secret}.${rest}`;
}

/** Throws an Error that says what is wrong with it. */
export function parseToken(text: string): JoinToken {
  const bad = (why: string) =>
    new Error(`this is not a join token (${why}); make one on the hub with: cox token create`);
  const [prefix, id, secret, rest, ...more] = text.trim().split('.');
  if (text.length > MAX_TOKEN || prefix !== PREFIX || !rest || more.length) throw bad('cut off or mistyped');
  if (!TOKEN_ID.test(id ?? '') || !TOKEN_SECRET.test(secret ?? '')) throw bad('mistyped');
  const bytes = Buffer.from(rest, 'base64url');
  const addresses = bytes.subarray(32).toString('utf8').split(',').filter(Boolean);
  if (bytes.length < 33 || !addresses.every((a) => /^.+:\d{1,5}$/.test(a))) throw bad('cut off');
  return {
    addresses,
    caHash: `sha256:${bytes.subarray(0, 32).toString('hex')}`,
    id: id!,
    secret: secret!,
  };
}

/** `sha256:<hex>` of a certificate's public key, as kubeadm's discovery hashes are. */
export const spkiHash = (cert: X509Certificate): string =>
  `sha256:${createHash('sha256')
    .update(cert.publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex')}`;

export interface JoinHello {
  id: string;
  name: string;
  /** The versions spoken (versions.ts); absent: 2 alone. */
  v?: Versions;
  /** SPKI, base64. */
  key: string;
  nonce: string;
}

export interface JoinChallenge {
  nonce: string;
}

export interface JoinProof {
  mac: string;
  /** ECDSA-SHA256 by the node's key over the transcript: the key is the sender's own. */
  sig: string;
}

export interface JoinGrant {
  /** PEM. */
  cert: string;
  ca: string;
  /** Raw Ed25519, base64. */
  signingKey: string;
  addresses: string[];
  /** The address that was joined at is for joining only. */
  joinOnly: boolean;
  /** Unix milliseconds at the hub. */
  time: number;
  mac: string;
}

/** Machine-readable reason of a refusal; the message is for people. */
export type JoinRefusal =
  | 'unknown'
  | 'wrong'
  | 'expired'
  | 'used'
  | 'taken'
  | 'revoked'
  | 'invalid'
  | 'version'
  | 'busy'
  | 'failed';

export interface JoinRefused {
  reason: JoinRefusal;
  message: string;
}

/** Everything said before the proof, unambiguously. */
export const transcript = (h: JoinHello, c: JoinChallenge): string =>
  JSON.stringify(['coxswain join 1', h.id, h.name, h.key, h.nonce, c.nonce]);

const mac = (secret: string, role: string, text: string): string =>
  createHmac('sha256', secret).update(`${role}\0${text}`).digest('base64');

export const agentMac = (secret: string, said: string): string => mac(secret, 'agent', said);

export const hubMac = (secret: string, said: string, g: Omit<JoinGrant, 'mac'>): string =>
  mac(secret, 'hub', JSON.stringify([said, g.cert, g.ca, g.signingKey, g.addresses, g.joinOnly, g.time]));

/** In constant time. */
export function sameMac(a: string, b: unknown): boolean {
  const x = Buffer.from(a);
  const y = Buffer.from(typeof b === 'string' ? b : '');
  return x.length === y.length && timingSafeEqual(x, y);
}

/** A node's name: a DNS subdomain (RFC 1123), as Kubernetes wants it. */
export const NODE_NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

/**
 * A certificate that has run out, or that the broker will not take: the device asks at the joining door for another for
 * the same key. Answers of the hub are signed, for the session `nonce`: `renewChallenge`, then `certificate` or
 * `refused` (messages.ts).
 */
export interface RenewHello {
  /** The old certificate, DER in base64. */
  c: string;
  nonce: string;
}

export interface RenewProof {
  /** ECDSA-SHA256 by the certificate's key over the transcript. */
  sig: string;
}

export const renewTranscript = (h: RenewHello, c: JoinChallenge): string =>
  JSON.stringify(['coxswain renewal 2', h.c, h.nonce, c.nonce]);
