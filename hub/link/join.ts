/** The hub's side of joining: checks tokens against bootstrap-token Secrets in kube-system and issues certificates. */
import { createHash, createPublicKey, type KeyObject, randomBytes, verify } from 'node:crypto';
import type { Node, Secret } from 'kubernetes-types/core/v1.js';
import { nodes, secrets } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { Decoder, encode, keyId, spkiOf } from '../../api/wire/codec.js';
import {
  agentMac,
  hubMac,
  type JoinChallenge,
  type JoinGrant,
  type JoinHello,
  type JoinProof,
  type JoinRefusal,
  NODE_NAME,
  sameMac,
  TOKEN_ID,
  transcript,
} from '../../api/wire/join.js';
import { TYPE } from '../../api/wire/messages.js';
import { joinTopic, LIMITS } from '../../api/wire/topics.js';
import {
  commonFormat,
  FORMATS,
  heardVersions,
  mismatch,
  versionsOf,
  type WireFormat,
} from '../../api/wire/versions.js';
import type { Client, Frozen } from '../client.js';
import { nodeSubject } from '../pki/pki.js';
import type { BusAddresses } from './bus.js';
import { Limiter } from './limiter.js';
import { KEY_ANNOTATION } from './nodes.js';
import { RenewalDesk, type RenewalDeskOptions } from './renewal.js';
import type { Revocations } from './revocation.js';
import { TOKEN_NAMESPACE, TOKEN_TYPE, tokenSecretName } from './token.js';

export interface JoinDeskOptions extends RenewalDeskOptions {
  /** Versions of the wire; default: those of this build. */
  formats?: readonly WireFormat[];
  client: Client;
  revocations: Revocations;
  /** Where nodes reach the broker. */
  addresses(): BusAddresses;
  isLinked(node: string): boolean;
  keyChanged(node: string): void;
}

/** Conversations at once, and how long one may take, in ms. */
const MAX_OPEN = 128;
const OPEN_MS = 30_000;
/** Failed proofs per token and minute, and joins per minute over all. */
const MAX_FAILURES = 10;
const MAX_JOINS = 600;

interface Conversation {
  hello: JoinHello;
  challenge: JoinChallenge;
  key: KeyObject;
  cancel: () => void;
}

class Refusal extends Error {
  constructor(
    readonly reason: JoinRefusal,
    message: string,
  ) {
    super(message);
  }
}

const text = (s: Frozen<Secret>, key: string): string =>
  Buffer.from(s.data?.[key] ?? '', 'base64').toString('utf8');

export class JoinDesk {
  readonly #open = new Map<string, Conversation>();
  readonly #renewals: RenewalDesk;
  readonly #failures: Limiter;
  readonly #joins: Limiter;
  #uses: Promise<void> = Promise.resolve();

  constructor(private readonly o: JoinDeskOptions) {
    this.#renewals = new RenewalDesk(o);
    this.#failures = new Limiter(o.clock, MAX_FAILURES);
    this.#joins = new Limiter(o.clock, MAX_JOINS);
  }

  /** Takes one message of a joining client. Never rejects. */
  async receive(id: string, payload: Uint8Array): Promise<void> {
    const reply = (type: number, body: unknown) => {
      for (const f of encode(type, body)) this.o.send(joinTopic(id, 'd'), f);
    };
    try {
      if (payload.length > LIMITS.join) throw new Refusal('invalid', 'message too large');
      const frame = new Decoder({ maxMessage: LIMITS.join, maxInflated: 2 * LIMITS.join }).push(payload);
      if (!frame) throw new Refusal('invalid', 'joining messages come in one piece');
      if (frame.type === TYPE.renewHello || frame.type === TYPE.renewProof) {
        await this.#renewals.receive(id, frame.type, frame.body);
        return;
      }
      if (frame.type === TYPE.joinHello) reply(TYPE.joinChallenge, this.#hello(id, frame.body as JoinHello));
      else if (frame.type === TYPE.joinProof)
        reply(TYPE.joinGrant, await this.#proof(id, frame.body as JoinProof));
      else throw new Refusal('invalid', 'unexpected message');
    } catch (e) {
      const node = this.#open.get(id)?.hello.name;
      this.#forget(id);
      if (e instanceof Refusal) {
        this.o.log.warn({ node, reason: e.reason, message: e.message }, 'join refused');
        reply(TYPE.joinRefused, { reason: e.reason, message: e.message });
      } else {
        this.o.log.error({ node, err: (e as Error).message }, 'join failed');
        reply(TYPE.joinRefused, {
          reason: 'failed',
          message: 'the hub could not complete the join; its log has the reason. Try again.',
        });
      }
    }
  }

  #hello(id: string, h: JoinHello): JoinChallenge {
    if (!h || ![h.id, h.name, h.key, h.nonce].every((v) => typeof v === 'string') || !TOKEN_ID.test(h.id))
      throw new Refusal('invalid', 'malformed request');
    if (!NODE_NAME.test(h.name))
      throw new Refusal(
        'invalid',
        `"${h.name}" cannot name a node: lower case letters, digits, "-" and "." only. Pass --node-name.`,
      );
    const formats = this.o.formats ?? FORMATS;
    const spoken = heardVersions(h.v);
    if (!spoken) throw new Refusal('invalid', 'malformed versions');
    if (!commonFormat(formats, spoken)) throw new Refusal('version', mismatch(versionsOf(formats), spoken));
    if (this.#joins.exhausted('') || this.#open.size >= MAX_OPEN)
      throw new Refusal('busy', 'too many devices are joining at this moment; try again in a minute');
    this.#joins.add('');
    let key: KeyObject;
    try {
      key = createPublicKey({ key: Buffer.from(h.key, 'base64'), format: 'der', type: 'spki' });
    } catch {
      throw new Refusal('invalid', 'the public key cannot be read');
    }
    if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
      throw new Refusal('invalid', 'the public key is not on P-256');
    this.#forget(id);
    const challenge = { nonce: randomBytes(16).toString('base64') };
    const cancel = this.o.clock.after(OPEN_MS, () => this.#open.delete(id));
    this.#open.set(id, { hello: h, challenge, key, cancel });
    return challenge;
  }

  async #proof(id: string, p: JoinProof): Promise<JoinGrant> {
    const talk = this.#open.get(id);
    if (!talk || !p)
      throw new Refusal('invalid', 'the request took too long or came out of order; try again');
    const { hello, challenge, key } = talk;
    if (this.#failures.exhausted(hello.id))
      throw new Refusal('busy', 'too many wrong attempts with this token; try again in a minute');
    const said = transcript(hello, challenge);
    const secret = await this.#token(hello.id);
    const tokenSecret = text(secret, 'token-secret');
    const mine = agentMac(tokenSecret, said);
    if (!sameMac(mine, p.mac)) {
      this.#failures.add(hello.id);
      throw new Refusal('wrong', 'the secret of the join token is wrong; copy the whole token again');
    }
    if (!verify('sha256', Buffer.from(said), key, Buffer.from(String(p.sig), 'base64')))
      throw new Refusal('invalid', 'the request is not signed by the key that it names');
    // Only who knows the secret learns more than that it is wrong.
    this.#notExpired(secret);
    if (this.o.revocations.of(keyId(key)))
      throw new Refusal(
        'revoked',
        'the key of this device was revoked. To take it back, empty its data directory and join again',
      );
    await this.#claimName(hello, key, text(secret, 'node-name'));
    await this.#use(hello.id, keyId(key));
    const cert = await this.o.pki.issueClientCert({ ...nodeSubject(hello.name), publicKey: key });
    const before = this.o.pki.issued.holder(hello.name);
    this.o.pki.issued.record(cert);
    if (before && before !== keyId(key)) this.o.keyChanged(hello.name);
    this.#forget(id);
    const { node: forNodes, join: forJoining } = this.o.addresses();
    const grant = {
      cert,
      ca: this.o.pki.caPem,
      signingKey: this.o.pki.signingPublicKey.toString('base64'),
      addresses: forNodes,
      joinOnly: forNodes.length > 0 && !forJoining.some((a) => forNodes.includes(a)),
      time: this.o.clock.now(),
    };
    this.o.log.info({ node: hello.name, token: hello.id }, 'node joined');
    return { ...grant, mac: hubMac(tokenSecret, said, grant) };
  }

  async #token(id: string): Promise<Frozen<Secret>> {
    try {
      const s = await this.o.client.get<Secret>(secrets, {
        namespace: TOKEN_NAMESPACE,
        name: tokenSecretName(id),
      });
      if (s.type === TOKEN_TYPE && text(s, 'token-id') === id) return s;
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
    }
    this.#failures.add(id);
    throw new Refusal(
      'unknown',
      `the hub knows no join token "${id}" (deleted, or of another hub); make one there with: cox token create`,
    );
  }

  #notExpired(s: Frozen<Secret>): void {
    const expiration = text(s, 'expiration');
    if (expiration && Date.parse(expiration) <= this.o.clock.now())
      throw new Refusal(
        'expired',
        `the join token expired at ${expiration}; make a new one on the hub with: cox token create`,
      );
  }

  /**
   * A name belongs to the key of its Node object. Another device gets it when that was deleted, or with a token made
   * for this very name (`node-name`) and while the old device is not connected.
   */
  async #claimName({ name }: JoinHello, key: KeyObject, only: string): Promise<void> {
    if (only && only !== name)
      throw new Refusal('taken', `the join token is for a node named "${only}"; pass --node-name ${only}`);
    let node: Frozen<Node>;
    try {
      node = await this.o.client.get<Node>(nodes, { name });
    } catch (e) {
      if (isApiError(e, 'NotFound')) return;
      throw e;
    }
    const spki = spkiOf(key);
    const pinned = node.metadata?.annotations?.[KEY_ANNOTATION];
    if (!pinned || pinned === spki) return;
    if (only !== name || this.o.isLinked(name))
      throw new Refusal(
        'taken',
        `there is a node named "${name}" with another key. Pass another --node-name, or, if this device replaces it, ` +
          `switch the old one off and run: kubectl delete node ${name}`,
      );
    await this.o.client.patch<Node>(
      nodes,
      { name },
      { metadata: { annotations: { [KEY_ANNOTATION]: spki } } },
    );
  }

  /** One after the other: of many joins at once each would otherwise find the Secret changed by another. */
  #use(id: string, joiner: string): Promise<void> {
    const mine = this.#uses.then(() => this.#takeUse(id, joiner));
    this.#uses = mine.catch(() => {});
    return mine;
  }

  /** Counts a use, unless the same key has had one: a grant that was lost on the way may be asked for again. */
  async #takeUse(id: string, joiner: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const s = await this.#token(id);
      const joined = text(s, 'joined').split(',').filter(Boolean);
      const mark = createHash('sha256').update(joiner).digest('hex').slice(0, 16);
      if (joined.includes(mark)) return;
      const uses = text(s, 'uses');
      // Without the field it is kubeadm's kind of token: good for any number until it expires.
      const left = uses === '' ? Number.POSITIVE_INFINITY : Number(uses);
      if (!(left > 0))
        throw new Refusal(
          'used',
          'the join token is used up; make a new one on the hub with: cox token create [--uses N]',
        );
      const b64 = (v: string) => Buffer.from(v).toString('base64');
      const data = {
        ...s.data,
        ...(uses === '' ? {} : { uses: b64(String(left - 1)) }),
        joined: b64([...joined.slice(-255), mark].join()),
      };
      try {
        await this.o.client.update<Secret>(secrets, { ...(s as Secret), data });
        return;
      } catch (e) {
        if (!isApiError(e, 'Conflict') || attempt >= 8) throw e;
      }
    }
  }

  #forget(id: string): void {
    this.#open.get(id)?.cancel();
    this.#open.delete(id);
  }
}
