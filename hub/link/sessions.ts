/** Who is there: hellos proven and answered, sessions begun and ended, nodes given up after a while. */
import { type KeyObject, X509Certificate } from 'node:crypto';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { Decoder, keyId, type SealKey, WireError } from '../../api/wire/codec.js';
import { type HashText, reportHash } from '../../api/wire/held-reports.js';
import {
  type Bye,
  type Certificate,
  type Challenge,
  type Hello,
  type Refused,
  type Renew,
  TYPE,
  type Welcome,
} from '../../api/wire/messages.js';
import { sessionKey } from '../../api/wire/session.js';
import { type Channel, LIMITS, NODE_CN_PREFIX } from '../../api/wire/topics.js';
import {
  commonFormat,
  GREETING,
  heardVersions,
  mismatch,
  versionsOf,
  type WireFormat,
} from '../../api/wire/versions.js';
import { nodeSubject, type Pki } from '../pki/pki.js';
import { Greeter } from './greeter.js';
import type { NodeLink } from './node-link.js';
import type { Revocations } from './revocation.js';
import type { Sender } from './sender.js';

const MAX_UPLINK_MESSAGE = 1024 * 1024;
/** An agent says something every 75 minutes at least. One that has not is gone, whatever the broker says or does not. */
const SILENT_MS = 3 * 3_600_000;

export interface SessionsOptions {
  pki: Pki;
  clock: Clock;
  log: Log;
  sender: Sender;
  revocations: Revocations;
  formats: readonly WireFormat[];
  /** Milliseconds after a link broke until the node is given up. */
  graceMs: number;
  node(name: string): NodeLink;
  known(name: string): NodeLink | undefined;
  /** The key that the Node object names. */
  pinnedKey(name: string): KeyObject | undefined;
  /** What else a welcome says; the session is there already. `hash` is for its reports. */
  welcome(n: NodeLink, hello: Hello, hash: HashText): Omit<Welcome, 't' | 'v'>;
  /** The welcome is out. */
  linked(n: NodeLink): void;
  ended(n: NodeLink): void;
  /** It has not come back in time. */
  down(n: NodeLink): void;
}

export class Sessions {
  readonly #o: SessionsOptions;
  readonly #greeter = new Greeter();

  constructor(options: SessionsOptions) {
    this.#o = options;
  }

  /** What a node is told that may not come in; undefined when it may. */
  refusal(node: string, key: string): Refused | undefined {
    const { revocations } = this.#o;
    const m = revocations.refusal(NODE_CN_PREFIX + node, key);
    const revoked = revocations.of(key);
    if (m) return { m, ...(revoked ? { r: revoked.wipe ? 2 : 1 } : {}) };
    const pinned = this.#o.pinnedKey(node);
    if (!pinned || keyId(pinned) === key) return undefined;
    return {
      m:
        `the name "${node}" belongs to a node with another key. Delete that node (kubectl delete node ${node}), ` +
        'or give this one another name: join again with an empty data directory and --node-name.',
    };
  }

  hello(name: string, h: Hello): void {
    if (![h.s, h.w, h.d, h.k, h.e].every((v) => typeof v === 'string' && v.length <= 64))
      throw new WireError('malformed hello');
    const { sender, clock } = this.#o;
    const answer = (type: number, body: unknown) => sender.signed(name, h.s, type, body);
    const refused = this.refusal(name, h.k);
    if (refused) {
      answer(TYPE.refused, refused);
      return;
    }
    const pinned = this.#o.pinnedKey(name);
    let key = [this.#o.known(name)?.publicKey, pinned].find((k) => k && keyId(k) === h.k);
    if (!key && h.c) key = this.#certifiedKey(name, h.c);
    const secret = key && this.#greeter.check(name, h, key);
    if (!key || !secret) {
      answer(TYPE.challenge, {
        ...this.#greeter.challenge(name),
        ...(key ? {} : { c: 1 }),
      } satisfies Challenge);
      return;
    }
    const n = this.#o.node(name);
    this.end(n);
    n.publicKey = key;
    const spoken = heardVersions(h.v);
    if (!spoken) throw new WireError('malformed versions');
    const { formats } = this.#o;
    const format = commonFormat(formats, spoken);
    if (!format) {
      n.incompatible = mismatch(versionsOf(formats), spoken);
      this.#o.log.error({ node: name }, `node refused: ${n.incompatible}`);
      answer(TYPE.refused, { m: n.incompatible } satisfies Refused);
      this.downAfter(n, 0);
      return;
    }
    n.incompatible = undefined;
    const sealKey = (channel: Channel): SealKey => ({
      key: sessionKey(secret, h.s, channel, format.version),
      counter: 0,
    });
    const [maxMessage, maxInflated] = [MAX_UPLINK_MESSAGE, 8 * MAX_UPLINK_MESSAGE];
    n.session = {
      id: h.s,
      format,
      connection: h.w,
      epoch: h.e,
      sealers: { d: sealKey('d'), 's/d': sealKey('s/d') },
      decoders: {
        u: new Decoder({ format, opener: sealKey('u'), maxMessage, maxInflated }),
        's/u': new Decoder({
          format,
          opener: sealKey('s/u'),
          maxMessage: LIMITS.frame,
          maxInflated: LIMITS.frame,
        }),
      },
      key,
      heardAt: clock.monotonic(),
      renewed: false,
    };
    n.mayRegister = true;
    n.link = 'up';
    n.cancelDown?.();
    n.cancelDown = undefined;
    this.#o.log.info({ node: n.name, generation: h.g }, 'node linked');
    answer(TYPE.welcome, {
      t: clock.now(),
      ...(format === GREETING ? {} : { v: format.version }),
      ...this.#o.welcome(n, h, reportHash(secret, h.s)),
    } satisfies Welcome);
    this.#o.linked(n);
  }

  bye(n: NodeLink | undefined, b: Bye): void {
    // The last will of a connection that has been replaced since comes late and means nothing.
    if (!n?.session || b.w !== n.session.connection) return;
    this.#o.log.info({ node: n.name }, 'node lost its link');
    this.end(n);
    this.downAfter(n, this.#o.graceMs);
  }

  async renew(n: NodeLink, r: Renew): Promise<void> {
    const { session } = n;
    if (!session || r.s !== session.id || session.renewed) return;
    session.renewed = true;
    const { pki, log } = this.#o;
    try {
      const c = await pki.issueClientCert({ ...nodeSubject(n.name), publicKey: session.key });
      if (n.session !== session) return;
      pki.issued.record(c);
      this.#o.sender.sealed(n, 'd', TYPE.certificate, { c } satisfies Certificate);
      log.info({ node: n.name }, 'certificate renewed');
    } catch (e) {
      log.error({ node: n.name, err: (e as Error).message }, 'certificate cannot be renewed');
    }
  }

  /** A last will can get lost, and a hostile broker keeps it: silence tells as well, only later. */
  endSilent(all: Iterable<NodeLink>): void {
    const now = this.#o.clock.monotonic();
    for (const n of all) {
      if (!n.session || now - n.session.heardAt < SILENT_MS) continue;
      this.#o.log.info({ node: n.name }, 'node has been silent for too long');
      this.end(n);
      this.downAfter(n, this.#o.graceMs);
      this.#o.sender.query(n.name);
    }
  }

  /** The list of revoked keys has changed: whoever is on it now is told so, and has no session from here on. */
  endRevoked(all: Iterable<NodeLink>): void {
    for (const n of all) {
      const refused = n.session && this.refusal(n.name, keyId(n.session.key));
      if (!refused) continue;
      this.#o.log.warn({ node: n.name }, 'node refused: its key was revoked');
      this.#o.sender.signed(n.name, n.session!.id, TYPE.refused, refused, 1);
      this.forget(n);
      this.downAfter(n, 0);
    }
  }

  end(n: NodeLink): void {
    n.session = undefined;
    n.streams.closeAll();
    this.#o.ended(n);
  }

  /** Its key is no longer to be believed in. */
  forget(n: NodeLink): void {
    this.end(n);
    n.publicKey = undefined;
    this.#greeter.forget(n.name);
  }

  downAfter(n: NodeLink, ms: number): void {
    n.cancelDown?.();
    n.cancelDown = this.#o.clock.after(ms, () => {
      n.cancelDown = undefined;
      n.link = 'down';
      this.#o.down(n);
    });
  }

  /** The key in a certificate of this hub's CA for this node; throws WireError when it is not one. */
  #certifiedKey(node: string, base64: string): KeyObject {
    try {
      const cert = new X509Certificate(Buffer.from(base64, 'base64'));
      const ca = new X509Certificate(this.#o.pki.caPem);
      const cn = cert.subject.split('\n').find((l) => l.startsWith('CN='));
      // Expired or not: it says whose the key is, and the proof that it is held follows.
      if (cert.verify(ca.publicKey) && cn === `CN=${NODE_CN_PREFIX}${node}`) return cert.publicKey;
    } catch {
      // Told below.
    }
    throw new WireError(`no certificate of this hub for node ${node}`);
  }
}
