/**
 * The keys of a session. The hub makes a P-256 key at every start, the agent one at every start of its own; each
 * proves itself, the hub by its Ed25519 signature over the challenge, the node by the key in its certificate:
 *
 *   agent → hub  hello                 without proof: who it is, and a new session number
 *   hub → agent  challenge (signed)    the hub's key of this start, and a nonce
 *   agent → hub  hello                 the agent's key of this start, nonce, number, and a MAC over all of it
 *   hub → agent  welcome (signed)      from here on every frame of both directions is sealed
 *
 * The secret lasts as long as both processes: a reconnect says hello with the same nonce and the next number, and is
 * welcomed at once. Nothing of an earlier hub process, an earlier node of that name or an earlier hello is ever good
 * again. What was recorded cannot be read later with the node's key or the hub's disk: both ephemeral keys are gone.
 */
import {
  createHmac,
  createPublicKey,
  diffieHellman,
  ECDH,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  timingSafeEqual,
} from 'node:crypto';
import { keyId, WireError } from './codec.js';
import type { Hello } from './messages.js';
import type { Channel } from './topics.js';

/** SPKI of a P-256 key up to its point (RFC 5480). */
const SPKI_P256 = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');

/** An ephemeral key; `point` is its public half as it travels (compressed, base64url, 44 characters). */
export interface LinkKey {
  privateKey: KeyObject;
  point: string;
}

export function newLinkKey(): LinkKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const point = publicKey.export({ type: 'spki', format: 'der' }).subarray(-65);
  const compressed = Buffer.concat([Buffer.from([2 + (point[64]! & 1)]), point.subarray(1, 33)]);
  return { privateKey, point: compressed.toString('base64url') };
}

/** Throws WireError when it is no point of P-256. */
function publicKeyOf(point: string): KeyObject {
  try {
    const raw = ECDH.convertKey(
      Buffer.from(point, 'base64url'),
      'prime256v1',
      undefined,
      undefined,
      'uncompressed',
    );
    return createPublicKey({ key: Buffer.concat([SPKI_P256, raw as Buffer]), format: 'der', type: 'spki' });
  } catch {
    throw new WireError('not a public key');
  }
}

export interface Parties {
  node: string;
  /** The node's own key, the one in its certificate. */
  publicKey: KeyObject;
  nonce: string;
  /** Ephemeral public keys. */
  hub: string;
  agent: string;
}

const secretOf = (shared: Buffer[], p: Parties): Buffer =>
  Buffer.from(
    hkdfSync(
      'sha256',
      Buffer.concat(shared),
      p.nonce,
      ['coxswain/2 link', p.node, keyId(p.publicKey), p.hub, p.agent].join('\0'),
      32,
    ),
  );

/** At the agent, with the node's own key and its ephemeral one. 32 bytes; throws WireError. */
export function agentSecret(p: Parties, own: KeyObject, ephemeral: KeyObject): Buffer {
  const publicKey = publicKeyOf(p.hub);
  return secretOf(
    [own, ephemeral].map((privateKey) => diffieHellman({ privateKey, publicKey })),
    p,
  );
}

/** At the hub, with its ephemeral key. 32 bytes, the same; throws WireError. */
export function hubSecret(p: Parties, ephemeral: KeyObject): Buffer {
  return secretOf(
    [p.publicKey, publicKeyOf(p.agent)].map((publicKey) =>
      diffieHellman({ privateKey: ephemeral, publicKey }),
    ),
    p,
  );
}

/** The MAC of a hello: 16 bytes, base64url. `h` is the hello without it, its fields in the order in which they travel. */
export const helloProof = (secret: Buffer, node: string, h: Omit<Hello, 'p'>): string =>
  createHmac('sha256', secret)
    .update(`hello\0${node}\0${JSON.stringify(h)}`)
    .digest()
    .subarray(0, 16)
    .toString('base64url');

/** In constant time. */
export function isProven(secret: Buffer, node: string, { p, ...h }: Hello): boolean {
  const mine = Buffer.from(helloProof(secret, node, h));
  const told = Buffer.from(typeof p === 'string' ? p : '');
  return mine.length === told.length && timingSafeEqual(mine, told);
}

/** The key of one channel of a session, and of the version that it speaks: nobody can talk the two sides into another. */
export const sessionKey = (secret: Buffer, session: string, channel: Channel, version: number): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, session, `coxswain/${version} ${channel}`, 32));
