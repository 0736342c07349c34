/**
 * Another certificate for a key that has one, at the joining door: for devices that were away past the end of theirs,
 * and whom no broker lets in any more. The proof is the key; what is on the revocation list gets none, and is told so.
 */
import { randomBytes, verify, X509Certificate } from 'node:crypto';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { encode, keyId, signingContext } from '../../api/wire/codec.js';
import {
  type JoinChallenge,
  type RenewHello,
  type RenewProof,
  renewTranscript,
} from '../../api/wire/join.js';
import { type Certificate, type Refused, TYPE } from '../../api/wire/messages.js';
import { joinTopic, NODE_CN_PREFIX } from '../../api/wire/topics.js';
import { commonName } from '../pki/issued.js';
import { nodeSubject, type Pki } from '../pki/pki.js';
import { Limiter } from './limiter.js';

const MAX_OPEN = 128;
const OPEN_MS = 30_000;
/** A minute, over all devices: each costs a signature and a certificate. */
const MAX_RENEWALS = 600;

/** A certificate that lasts longer than this is good as it is. */
const RENEWABLE_MS = 365 * 86_400_000;

export interface RenewalDeskOptions {
  pki: Pki;
  clock: Clock;
  log: Log;
  /** What a node is told that may not come in; undefined when it may. */
  refusal(node: string, key: string): Refused | undefined;
  send(topic: string, payload: Uint8Array): void;
}

interface Conversation {
  hello: RenewHello;
  challenge: JoinChallenge;
  node: string;
  cert: X509Certificate;
  answers: number;
  cancel: () => void;
}

export class RenewalDesk {
  readonly #open = new Map<string, Conversation>();
  readonly #renewals: Limiter;

  constructor(private readonly o: RenewalDeskOptions) {
    this.#renewals = new Limiter(o.clock, MAX_RENEWALS);
  }

  /** Takes one message. What makes no sense gets no answer. */
  async receive(id: string, type: number, body: unknown): Promise<void> {
    if (type === TYPE.renewHello) this.#hello(id, body as RenewHello);
    else await this.#proof(id, body as RenewProof);
  }

  #hello(id: string, h: RenewHello): void {
    if (typeof h?.c !== 'string' || typeof h.nonce !== 'string' || h.nonce.length > 64) return;
    if (this.#open.size >= MAX_OPEN || this.#renewals.exhausted('')) return;
    this.#renewals.add('');
    const cert = this.#certificate(h.c);
    const cn = cert && commonName(cert);
    if (!cert || !cn?.startsWith(NODE_CN_PREFIX)) return;
    this.#forget(id);
    const talk: Conversation = {
      hello: h,
      challenge: { nonce: randomBytes(16).toString('base64') },
      node: cn.slice(NODE_CN_PREFIX.length),
      cert,
      answers: 0,
      cancel: this.o.clock.after(OPEN_MS, () => this.#open.delete(id)),
    };
    this.#open.set(id, talk);
    this.#answer(id, talk, TYPE.renewChallenge, talk.challenge);
  }

  async #proof(id: string, p: RenewProof): Promise<void> {
    const talk = this.#open.get(id);
    if (!talk) return;
    this.#forget(id);
    const { cert, node } = talk;
    const said = Buffer.from(renewTranscript(talk.hello, talk.challenge));
    if (!verify('sha256', said, cert.publicKey, Buffer.from(String(p?.sig), 'base64'))) return;
    const refused = this.o.refusal(node, keyId(cert.publicKey));
    if (refused) {
      this.o.log.warn({ node, why: refused.m }, 'certificate not renewed');
      this.#answer(id, talk, TYPE.refused, refused satisfies Refused);
      return;
    }
    if (Date.parse(cert.validTo) - this.o.clock.now() > RENEWABLE_MS) {
      // Nothing is wrong with it: the device was turned away for another reason.
      this.#answer(id, talk, TYPE.certificate, { c: cert.toString() } satisfies Certificate);
      return;
    }
    const c = await this.o.pki.issueClientCert({ ...nodeSubject(node), publicKey: cert.publicKey });
    this.o.pki.issued.record(c);
    this.o.log.info({ node, expired: cert.validTo }, 'certificate renewed at the joining door');
    this.#answer(id, talk, TYPE.certificate, { c } satisfies Certificate);
  }

  #answer(id: string, talk: Conversation, type: number, body: unknown): void {
    const context = signingContext(talk.node, 'join', talk.hello.nonce);
    const signer = { context, counter: talk.answers++, sign: (d: Uint8Array) => this.o.pki.sign(d) };
    for (const frame of encode(type, body, { signer })) this.o.send(joinTopic(id, 'd'), frame);
  }

  /** One of this hub's, expired or not. */
  #certificate(base64: string): X509Certificate | undefined {
    try {
      const cert = new X509Certificate(Buffer.from(base64, 'base64'));
      return cert.verify(new X509Certificate(this.o.pki.caPem).publicKey) ? cert : undefined;
    } catch {
      return undefined;
    }
  }

  #forget(id: string): void {
    this.#open.get(id)?.cancel();
    this.#open.delete(id);
  }
}
