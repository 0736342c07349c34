/** Whom to believe that it is the node that it says: only who answers a challenge of this hub process, once each. */
import type { KeyObject } from 'node:crypto';
import { randomBytes } from 'node:crypto';
import { keyId, WireError } from '../../api/wire/codec.js';
import type { Challenge, Hello } from '../../api/wire/messages.js';
import { hubSecret, isProven, type LinkKey, newLinkKey } from '../../api/wire/session.js';

/** Challenges that wait for their answer. Anybody who reaches the broker can cause one, so the oldest go. */
const MAX_PENDING = 4096;

interface Known {
  nonce: string;
  keyId: string;
  secret: Buffer;
  /** Number of the last hello that was taken. */
  counter: number;
}

export class Greeter {
  #key: LinkKey | undefined;
  readonly #pending = new Map<string, string>();
  readonly #known = new Map<string, Known>();

  /** The same one until it is answered, so that doubled and late hellos do no harm. */
  challenge(node: string): Challenge {
    this.#key ??= newLinkKey();
    const h = this.#pending.get(node) ?? randomBytes(9).toString('base64url');
    this.#pending.delete(node);
    this.#pending.set(node, h);
    if (this.#pending.size > MAX_PENDING) this.#pending.delete(this.#pending.keys().next().value!);
    return { h, k: this.#key.point };
  }

  /**
   * The secret shared with the node of that key, when the hello proves that it holds the key now; undefined when it
   * needs a challenge first. Throws WireError on a wrong answer to a challenge and on a number that was taken before.
   */
  check(node: string, hello: Hello, publicKey: KeyObject): Buffer | undefined {
    const { h, n, x } = hello;
    if (!h || !Number.isSafeInteger(n)) return undefined;
    const known = this.#known.get(node);
    if (known?.nonce === h && known.keyId === keyId(publicKey)) {
      // An earlier process of the agent answered this challenge, and this one got it again from a broker that repeats
      // itself: its answer is not the one we know. Without another challenge it would give it for ever.
      if (!isProven(known.secret, node, hello)) return undefined;
      if (n! <= known.counter) throw new WireError('replayed or late hello');
      known.counter = n!;
      return known.secret;
    }
    if (this.#pending.get(node) !== h || !this.#key || typeof x !== 'string') return undefined;
    const parties = { node, publicKey, nonce: h, hub: this.#key.point, agent: x };
    const secret = hubSecret(parties, this.#key.privateKey);
    if (!isProven(secret, node, hello)) throw new WireError('hello with a wrong proof');
    this.#pending.delete(node);
    this.#known.set(node, { nonce: h, keyId: keyId(publicKey), secret, counter: n! });
    return secret;
  }

  forget(node: string): void {
    this.#known.delete(node);
  }
}
