/** The device's side of joining (see api/wire/join.ts). */

import { createPublicKey, randomBytes, sign, X509Certificate } from 'node:crypto';
import { hostname } from 'node:os';
import { type Clock, systemClock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { Decoder, encode } from '../../api/wire/codec.js';
import {
  agentMac,
  hubMac,
  type JoinChallenge,
  type JoinGrant,
  type JoinHello,
  type JoinRefusal,
  type JoinRefused,
  parseToken,
  sameMac,
  spkiHash,
  transcript,
} from '../../api/wire/join.js';
import { TYPE } from '../../api/wire/messages.js';
import { serverProblem } from '../../api/wire/trust.js';
import { FORMATS, sayVersions, type WireFormat } from '../../api/wire/versions.js';
import { dialFirst, pinnedCa } from './dial.js';
import { openDoor } from './door.js';
import {
  type Identity,
  IdentityError,
  identityOf,
  loadIdentity,
  loadOrMakeKey,
  revokedMessage,
  saveIdentity,
  setIdentityAside,
} from './identity.js';

/** Joining failed; the message is for the user and has the remedy. */
export class JoinError extends Error {
  constructor(
    readonly reason: JoinRefusal | 'token' | 'unreachable' | 'hub',
    message: string,
  ) {
    super(message);
    this.name = 'JoinError';
  }
}

export interface JoinOptions {
  dataDir: string;
  token: string;
  /** Default: the host's name. */
  nodeName?: string;
  clock?: Clock;
  log: Log;
  /** Default: those of this build. */
  formats?: readonly WireFormat[];
  /** Milliseconds for each answer of the hub. Default 20,000. */
  timeoutMs?: number;
}

/** This host's name as a node name. */
export const defaultNodeName = (): string =>
  hostname()
    .toLowerCase()
    .replace(/[^a-z0-9.-]+/g, '-')
    .replace(/^[.-]+|[.-]+$/g, '') || 'node';

/**
 * The identity on disk, or a new one by joining. With an identity, a token of the same hub is ignored (so that a
 * service may keep its command line) and one of another hub refused. Rejects with IdentityError or JoinError.
 */
export async function ensureIdentity(
  options: Omit<JoinOptions, 'token'> & { token?: string | undefined },
): Promise<Identity> {
  const { dataDir, token, log } = options;
  let known: Identity | undefined;
  try {
    known = loadIdentity(dataDir);
  } catch (e) {
    if (!token || !(e instanceof IdentityError)) throw e;
    log.error({ err: e.message }, 'identity set aside; joining anew');
    setIdentityAside(dataDir);
  }
  if (known && token) {
    const wanted = readToken(token).caHash;
    if (wanted !== spkiHash(new X509Certificate(known.ca)))
      throw new JoinError(
        'hub',
        `${dataDir} belongs to another hub than the token. Use another --data-dir, or remove this one to move the device.`,
      );
    log.info({ node: known.node }, 'already joined; --join is ignored');
  }
  if (known) return known;
  const revoked = token ? undefined : revokedMessage(dataDir);
  if (revoked)
    throw new JoinError(
      'revoked',
      `the hub has revoked this device (${revoked}) and it has erased what it had. To take it back, make a token on ` +
        'the hub (cox token create) and pass it: cox agent --join TOKEN',
    );
  if (!token)
    throw new JoinError(
      'token',
      `${dataDir} has not joined a hub yet. Make a token on the hub (cox token create) and pass it: cox agent --join TOKEN`,
    );
  return join({ ...options, token });
}

function readToken(token: string) {
  try {
    return parseToken(token);
  } catch (e) {
    throw new JoinError('token', (e as Error).message);
  }
}

/** Joins and stores the identity. Rejects with JoinError. */
export async function join(options: JoinOptions): Promise<Identity> {
  const { dataDir, log } = options;
  const clock = options.clock ?? systemClock;
  const token = readToken(options.token);
  const name = options.nodeName ?? defaultNodeName();
  const key = loadOrMakeKey(dataDir);
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64');

  let ca: X509Certificate | undefined;
  const { socket, address } = await dialFirst(token.addresses, {}, (s) => {
    // Asked for once: Node 20 hands out the chain with the first call only.
    const leaf = s.getPeerX509Certificate();
    ca = pinnedCa(leaf, token.caHash);
    if (!ca || !leaf) return 'this is not the hub of the token (another CA); nothing was sent to it';
    return serverProblem(leaf, ca);
  }).catch((e: Error) => {
    throw new JoinError(
      'unreachable',
      `cannot reach the hub: ${e.message}. Is it running, and is its MQTT port open to this device?`,
    );
  });

  const decoder = new Decoder();
  const door = await openDoor(socket, (payload) => decoder.push(payload), options.timeoutMs).catch(
    (e: Error) => {
      throw new JoinError('unreachable', `${address}: ${e.message}`);
    },
  );
  const ask = async <T>(type: number, body: unknown, answer: number): Promise<T> => {
    const m = await door.ask(encode(type, body), [answer, TYPE.joinRefused]).catch((e: Error) => {
      throw new JoinError('unreachable', e.message);
    });
    if (m.type === answer) return m.body as T;
    const r = m.body as JoinRefused;
    throw new JoinError(r.reason, `the hub refuses to let this device join: ${r.message}`);
  };
  try {
    const hello: JoinHello = {
      id: token.id,
      name,
      key: spki,
      nonce: randomBytes(16).toString('base64'),
      ...sayVersions(options.formats ?? FORMATS),
    };
    const challenge = await ask<JoinChallenge>(TYPE.joinHello, hello, TYPE.joinChallenge);
    const said = transcript(hello, challenge);
    const proof = {
      mac: agentMac(token.secret, said),
      sig: sign('sha256', Buffer.from(said), key).toString('base64'),
    };
    const { mac, ...grant } = await ask<JoinGrant>(TYPE.joinProof, proof, TYPE.joinGrant);
    if (!sameMac(hubMac(token.secret, said, grant), mac))
      throw new JoinError('hub', 'the answer does not come from the hub of the token; it was discarded');
    if (spkiHash(new X509Certificate(grant.ca)) !== token.caHash)
      throw new JoinError('hub', 'the hub sent another CA than the token names');
    const file = {
      cert: grant.cert,
      ca: grant.ca,
      signingKey: grant.signingKey,
      // The one that worked first, then whatever else may.
      addresses: [
        ...new Set(grant.joinOnly ? grant.addresses : [address, ...token.addresses, ...grant.addresses]),
      ],
      joinAddresses: [...new Set([address, ...token.addresses])],
    };
    const identity = identityOf(file, key);
    saveIdentity(dataDir, file);
    log.info({ node: identity.node, hub: address }, 'joined');
    const skew = Math.abs(grant.time - clock.now());
    if (skew > 3_600_000) log.warn({ skewSeconds: Math.round(skew / 1000) }, "this device's clock is wrong");
    return identity;
  } finally {
    await door.close();
  }
}
