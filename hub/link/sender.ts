/** What goes down to the nodes: sealed within a session, signed outside of one. */
import type { Clock } from '../../api/clock.js';
import { encode, signingContext } from '../../api/wire/codec.js';
import { TYPE } from '../../api/wire/messages.js';
import { type Channel, nodeTopic } from '../../api/wire/topics.js';
import type { Pki } from '../pki/pki.js';
import type { Bus } from './bus.js';
import type { NodeLink } from './node-link.js';

export const QUERY_EVERY_MS = 5_000;
/** Names without a node object that queries went to lately. */
const MAX_QUERIED = 4096;

export class Sender {
  readonly #queriedAt = new Map<string, number>();

  constructor(
    private readonly bus: Pick<Bus, 'publish'>,
    private readonly pki: Pick<Pki, 'sign'>,
    private readonly clock: Clock,
  ) {}

  /** Throws WireError when the message is too large; without a session it goes nowhere. */
  sealed(n: NodeLink, channel: Channel & ('d' | 's/d'), type: number, body: unknown): void {
    const s = n.session;
    if (s)
      this.#publish(n.name, channel, encode(type, body, { format: s.format, sealer: s.sealers[channel] }));
  }

  /** Outside of what is sealed: the answer to a hello, and after it (`counter` 1) the end of its session. */
  signed(node: string, session: string, type: number, body: unknown, counter = 0): void {
    const context = signingContext(node, 'd', session);
    const sign = (data: Uint8Array) => this.pki.sign(data);
    this.#publish(node, 'd', encode(type, body, { signer: { context, counter, sign } }));
  }

  /** Asks an agent whose session is not known to say hello. */
  query(node: string): void {
    const now = this.clock.monotonic();
    if (now - (this.#queriedAt.get(node) ?? Number.NEGATIVE_INFINITY) < QUERY_EVERY_MS) return;
    this.#queriedAt.delete(node);
    this.#queriedAt.set(node, now);
    if (this.#queriedAt.size > MAX_QUERIED) this.#queriedAt.delete(this.#queriedAt.keys().next().value!);
    this.signed(node, '', TYPE.query, undefined);
  }

  #publish(node: string, channel: Channel, frames: Buffer[]): void {
    const topic = nodeTopic(node, channel);
    for (const frame of frames) void this.bus.publish(topic, frame);
  }
}
