/**
 * The device's end of the link: keeps the last good desired set, tells what is, and serves streams, over one outbound
 * connection. With no hub it goes on with what is on disk. docs/wire.md tells the protocol.
 */
import { randomBytes, X509Certificate } from 'node:crypto';
import type { Clock } from '../../api/clock.js';
import { LINK_PREFIX, type LinkSettings, linkSettings, withinWindow } from '../../api/kinds/link-settings.js';
import type { Log } from '../../api/log.js';
import {
  Decoder,
  encode,
  type Frame,
  keyId,
  type SealKey,
  signingContext,
  WireError,
} from '../../api/wire/codec.js';
import type { AgentEvent, DesiredSet, NodeReport, PodReport } from '../../api/wire/desired.js';
import { heardHeld, reportHash } from '../../api/wire/held-reports.js';
import {
  type Ack,
  type Applied,
  type Bye,
  type Certificate,
  type Challenge,
  type Delta,
  type Hello,
  type Inventory,
  type Refused,
  type Renew,
  TYPE,
  type Welcome,
} from '../../api/wire/messages.js';
import type { MqttConnection } from '../../api/wire/mqtt.js';
import { agentSecret, helloProof, type LinkKey, newLinkKey, sessionKey } from '../../api/wire/session.js';
import { applyDelta, digestOf, type Items, toDesiredSet } from '../../api/wire/set.js';
import { type Channel, nodeSubscriptions, nodeTopic } from '../../api/wire/topics.js';
import { FORMATS, GREETING, sayVersions, type WireFormat } from '../../api/wire/versions.js';
import type { PodConnections, PodHost, PullGate, Reporter } from '../ports.js';
import { DataMeter } from './data-meter.js';
import { DesiredFile } from './desired-file.js';
import { DeviceTime } from './device-time.js';
import { eraseIdentity, type Identity, renewCertificate } from './identity.js';
import { Outbox } from './outbox.js';
import { AgentStreams } from './streams.js';
import { TlsTransport, type Transport, TurnedAway } from './transport.js';

export interface AgentLinkOptions {
  /** Where `desired.bin` is kept, and the identity. */
  dataDir: string;
  identity: Identity;
  host: PodHost;
  /** Without it exec, attach and port-forward are refused. */
  connections?: PodConnections;
  clock: Clock;
  log: Log;
  /** Default: TLS to the identity's addresses. */
  transport?: Transport;
  /** Told at every welcome where the hub's OCI registry is, `host:port`. */
  registry?: (address: string) => void;
  /** Seconds between MQTT pings; default `KEEPALIVE_SECONDS`. */
  keepalive?: number;
  /** Versions of the wire; default: those of this build. */
  formats?: readonly WireFormat[];
}

const RECONNECT_FIRST_MS = 500;
const RECONNECT_MAX_MS = 60_000;
/** Until the hub's welcome; then hello is said again, ever more seldom. */
const HELLO_MS = 5_000;
const HELLO_MAX_MS = 300_000;
/** On an idle link both sides compare digests this often, for the case that the hub has forgotten this node. */
const COMPARE_MS = 3_600_000;
/** A certificate with less than this left is renewed; the hub makes them for five years. */
const RENEW_BEFORE_MS = 365 * 86_400_000;
/** A broker that turns this node away is taken for one that does not like its certificate, so often. */
const ASK_MS = 600_000;
/** A revoked node tries again this seldom: its owner may have changed their mind. */
const REVOKED_MS = 3_600_000;
/** The hub's queries are answered at most this often. */
const QUERY_MS = 500;
/** When the day's bytes are used up the hub is told, and so much later the connection ends. */
const LAST_WORDS_MS = 3_000;

/** Challenges answered at once; a hub that goes on asking gets its next hello with the timer. */
const MAX_CHALLENGES = 3;

const SIGNED_TYPES = new Set<number>([TYPE.challenge, TYPE.welcome, TYPE.refused]);

/** What this process and the hub's have agreed on (api/wire/session.ts). */
interface Agreement {
  nonce: string;
  secret: Buffer;
  /** Number of the last hello under it. */
  counter: number;
  /** A welcome has shown that the hub has this side's key. */
  confirmed: boolean;
}

interface Session {
  id: string;
  welcomed: boolean;
  /** What the hub says before the session is sealed: challenge, welcome, refused. */
  signed: Decoder;
  /** Shared with the hub; absent when hello went out without proof. */
  secret?: Buffer;
  /** From the welcome on. */
  sealed?: {
    format: WireFormat;
    decoders: Record<'d' | 's/d', Decoder>;
    sealers: Record<'u' | 's/u', SealKey>;
  };
}

/** Whether the hub that said this welcome has a report, by its text. */
function heldBy(w: Welcome, session: Session): ((text: string) => boolean) | undefined {
  const held = heardHeld(w.o);
  if (held.size === 0 || !session.secret) return undefined;
  const hash = reportHash(session.secret, session.id);
  return (text) => held.has(hash(text));
}

function sealedBy(format: WireFormat, secret: Buffer, session: string): Session['sealed'] {
  const key = (channel: Channel): SealKey => ({
    key: sessionKey(secret, session, channel, format.version),
    counter: 0,
  });
  return {
    format,
    decoders: {
      d: new Decoder({ format, opener: key('d') }),
      's/d': new Decoder({ format, opener: key('s/d') }),
    },
    sealers: { u: key('u'), 's/u': key('s/u') },
  };
}

export class AgentLink implements Reporter, PullGate {
  readonly #o: AgentLinkOptions;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #file: DesiredFile;
  readonly #time: DeviceTime;
  readonly #outbox: Outbox;
  readonly #streams: AgentStreams;
  /** Names this process: reports are numbered within it. */
  readonly epoch: string;
  readonly #transport: Transport;
  /** Counts this device's bytes; pulls of images ask it as well. */
  readonly meter: DataMeter;
  #settings: LinkSettings = {};
  /** Seconds, of the next connection. */
  #keepalive: number | undefined;
  readonly #formats: readonly WireFormat[];
  #nodeReport: NodeReport | undefined;
  #items: Items = new Map();
  #generation = 0;
  #connection: MqttConnection | undefined;
  #connectionId = '';
  #session: Session | undefined;
  #helloAt = Number.NEGATIVE_INFINITY;
  #hellos = 0;
  /** The one timer of a session: hello again until welcomed, then comparing. */
  #cancelTimer: (() => void) | undefined;
  #cancelReconnect: (() => void) | undefined;
  #failures = 0;
  #sendCertificate = false;
  #ephemeral: LinkKey | undefined;
  #agreement: Agreement | undefined;
  #challenges = 0;
  #askedAt = Number.NEGATIVE_INFINITY;
  #revoked = false;
  #stopped = false;
  /** The hub has said since the start that this set is the one. */
  #confirmed = false;

  constructor(options: AgentLinkOptions) {
    this.#o = options;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#formats = options.formats ?? FORMATS;
    this.epoch = randomBytes(6).toString('base64url');
    this.#time = new DeviceTime(this.#clock);
    this.meter = new DataMeter(options.dataDir, this.#clock, this.#time, this.#log, () =>
      this.#limitChanged(),
    );
    this.#keepalive = options.keepalive;
    this.#file = new DesiredFile(options.dataDir, options.identity.key, this.#clock, this.#log);
    this.#outbox = new Outbox(
      this.#clock,
      this.epoch,
      this.#time,
      (r) => void this.#send('u', TYPE.report, r),
    );
    this.#streams = new AgentStreams(options.host, options.connections, this.#clock, (type, body) =>
      this.#send('s/u', type, body),
    );
    this.#transport =
      options.transport ??
      new TlsTransport({
        identity: options.identity,
        keepalive: () => this.#keepalive,
        onSocket: (socket) => this.meter.track(socket),
      });
  }

  /** The hub has answered this connection's hello. */
  get connected(): boolean {
    return this.#session?.welcomed ?? false;
  }

  /** The hub's time, once it has told it: this device's own clock may be years off. */
  get hubTime(): number | undefined {
    return this.#time.hubNow();
  }

  /** Everything told has been acknowledged. */
  get idle(): boolean {
    return this.connected && this.#outbox.idle;
  }

  /** What waits for the hub. */
  sizes(): ReturnType<Outbox['sizes']> {
    return this.#outbox.sizes();
  }

  /** Delivers the last good desired set to the pod host, then connects in the background, for ever. */
  start(): void {
    const { held, torn } = this.#file.load();
    if (held) {
      this.#generation = held.generation;
      this.#items = held.items;
      this.#deliver({ ...toDesiredSet(this.#generation, this.#items), confirmed: false });
    }
    if (torn)
      this.event({
        involved: { kind: 'Node', name: this.#o.identity.node },
        type: 'Warning',
        reason: 'DesiredStateCorrupt',
        message: `the desired state on disk was torn (${torn}); it was set aside and is fetched from the hub`,
        at: this.#clock.now(),
        count: 1,
      });
    void this.#connect();
  }

  /** Says bye, writes what waits to disk, ends the connection. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#leave();
    this.meter.stop();
    this.#file.flush();
  }

  node(report: NodeReport): void {
    this.#nodeReport = report;
    const limit = this.meter.condition();
    this.#outbox.node(limit ? { ...report, conditions: [...report.conditions, limit] } : report);
  }

  pod(report: PodReport): void {
    this.#outbox.pod(report);
  }

  event(event: AgentEvent): void {
    this.#outbox.event(event);
  }

  // --- settings -----------------------------------------------------------------------------------------------------

  /** What the set says of the link is done here; pods and their images are the host's. */
  #deliver(set: DesiredSet): void {
    this.#settings = linkSettings(set.nodes?.[0]?.metadata?.annotations);
    this.#outbox.gatherMs = (this.#settings.reportInterval ?? 0) * 1000;
    if (this.#settings.dailyLimit !== this.meter.limit) {
      this.meter.limit = this.#settings.dailyLimit;
      if (this.#nodeReport) this.node(this.#nodeReport);
    }
    const keepalive = this.#settings.keepalive ?? this.#o.keepalive;
    if (keepalive !== this.#keepalive) {
      this.#keepalive = keepalive;
      // MQTT agrees on it when it connects. Not from inside of the message that brought it.
      if (this.#connection) this.#clock.after(0, () => void this.#leave().then(() => this.#connect()));
    }
    this.#o.host.setDesired(set);
  }

  refused(): string | undefined {
    const { pullWindow } = this.#settings;
    if (this.meter.exhausted)
      return `this day's ${this.meter.limit} bytes are used up (annotation ${LINK_PREFIX}daily-limit of the node)`;
    if (pullWindow && !withinWindow(pullWindow, this.meter.now()))
      return `images are pulled between ${pullWindow.text} UTC here (annotation ${LINK_PREFIX}pull-window of the node)`;
    return undefined;
  }

  pulled(bytes: number): void {
    this.meter.add(bytes);
  }

  #limitChanged(): void {
    if (this.#nodeReport) this.node(this.#nodeReport);
    if (this.meter.exhausted) {
      this.#outbox.flush();
      this.#clock.after(LAST_WORDS_MS, () => {
        if (this.meter.exhausted) void this.#leave();
      });
    } else if (!this.#connection && !this.#stopped) {
      this.#cancelReconnect?.();
      void this.#connect();
    }
  }

  /** Ends the connection; nothing opens another by itself. */
  async #leave(): Promise<void> {
    this.#cancelReconnect?.();
    const c = this.#connection;
    if (!c) return;
    await this.#send('u', TYPE.bye, { w: this.#connectionId } satisfies Bye);
    this.#closed();
    await c.close();
  }

  // --- connection ---------------------------------------------------------------------------------------------------

  async #connect(): Promise<void> {
    // The meter says when there is a new day.
    if (this.#stopped || this.meter.exhausted) return;
    const { node } = this.#o.identity;
    const id = randomBytes(8).toString('base64url');
    try {
      const connection = await this.#transport.connect({
        subscribe: nodeSubscriptions(node),
        will: { topic: nodeTopic(node, 'u'), payload: encode(TYPE.bye, { w: id } satisfies Bye)[0]! },
        onMessage: (topic, payload) => {
          try {
            this.#message(topic, payload);
          } catch (e) {
            const level = e instanceof WireError ? 'warn' : 'error';
            this.#log[level]({ topic, err: (e as Error).message }, 'message dropped');
          }
        },
        onClose: (reason) => {
          if (this.#connectionId !== id) return;
          this.#log.info({ reason }, 'link to the hub is down');
          this.#closed();
          this.#reconnect();
        },
      });
      if (this.#stopped) {
        await connection.close();
        return;
      }
      this.#connection = connection;
      this.#connectionId = id;
      this.#hellos = 0;
      this.#challenges = 0;
      this.#hello();
    } catch (e) {
      this.#log.info({ err: (e as Error).message }, 'cannot reach the hub');
      if (e instanceof TurnedAway) await this.#askAtTheDoor();
      this.#reconnect();
    }
  }

  /** The broker is there and does not let this node in: its certificate may have run out, or was revoked. */
  async #askAtTheDoor(): Promise<void> {
    const now = this.#clock.monotonic();
    if (!this.#transport.renew || now - this.#askedAt < ASK_MS) return;
    this.#askedAt = now;
    try {
      const answer = await this.#transport.renew();
      if (this.#stopped) return;
      if ('m' in answer) this.#refused(answer);
      else if (this.#certificate(answer)) this.#failures = 0;
    } catch (e) {
      this.#log.info({ err: (e as Error).message }, 'cannot ask the hub for another certificate');
    }
  }

  #closed(): void {
    this.#connection = undefined;
    this.#connectionId = '';
    this.#endSession();
  }

  #endSession(): void {
    this.#session = undefined;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#outbox.disconnected();
    this.#streams.closeAll();
  }

  #reconnect(): void {
    if (this.#stopped) return;
    const usual = Math.min(RECONNECT_MAX_MS, RECONNECT_FIRST_MS * 2 ** Math.min(this.#failures++, 20));
    const ms = this.#revoked ? REVOKED_MS : usual;
    this.#cancelReconnect = this.#clock.after(
      ms * (0.5 + this.#clock.random() / 2),
      () => void this.#connect(),
    );
  }

  /** Frames are handed over in one go: those of two messages must not mix. */
  async #send(channel: Channel & ('u' | 's/u'), type: number, body: unknown): Promise<void> {
    this.meter.check();
    const c = this.#connection;
    const sealed = this.#session?.sealed;
    const unproven = type === TYPE.hello || type === TYPE.bye;
    if (!c || !(sealed || unproven)) return;
    try {
      const topic = nodeTopic(this.#o.identity.node, channel);
      const frames = encode(
        type,
        body,
        unproven ? {} : { format: sealed!.format, sealer: sealed!.sealers[channel] },
      );
      await Promise.all(frames.map((frame) => c.publish(topic, frame)));
    } catch (e) {
      this.#log.error({ type, err: (e as Error).message }, 'message cannot be sent');
    }
  }

  /** A new session: its number, its keys and its streams start anew. */
  #hello(): void {
    this.#endSession();
    const { node, signingKey, publicKey, cert } = this.#o.identity;
    const id = randomBytes(9).toString('base64url');
    const verifier = { context: signingContext(node, 'd', id), counter: 0, key: signingKey };
    this.#session = { id, welcomed: false, signed: new Decoder({ verifier }) };
    const hello: Hello = {
      s: id,
      w: this.#connectionId,
      g: this.#generation,
      d: digestOf(this.#items),
      k: keyId(publicKey),
      e: this.epoch,
      ...sayVersions(this.#formats),
      ...(this.#sendCertificate ? { c: new X509Certificate(cert).raw.toString('base64') } : {}),
    };
    const agreed = this.#agreement;
    if (agreed) {
      const { secret } = agreed;
      hello.h = agreed.nonce;
      hello.n = ++agreed.counter;
      if (!agreed.confirmed) hello.x = this.#ephemeral!.point;
      hello.p = helloProof(secret, node, hello);
      this.#session.secret = secret;
    }
    this.#helloAt = this.#clock.monotonic();
    void this.#send('u', TYPE.hello, hello);
    this.#helloAgainAfter(Math.min(HELLO_MAX_MS, HELLO_MS * 2 ** Math.min(this.#hellos++, 20)));
  }

  #helloAgainAfter(ms: number): void {
    this.#cancelTimer?.();
    this.#cancelTimer = this.#clock.after(ms * (1 + this.#clock.random() / 4), () => this.#hello());
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  #message(topic: string, payload: Uint8Array): void {
    this.meter.check();
    const { node } = this.#o.identity;
    if (!this.#connection) return;
    const session = this.#session;
    if (topic === nodeTopic(node, 's/d')) {
      const frame = session?.welcomed ? session.sealed?.decoders['s/d'].push(payload) : undefined;
      if (frame) this.#streams.receive(frame);
      return;
    }
    if (topic !== nodeTopic(node, 'd')) return;
    if (payload[2] === TYPE.query) {
      this.#query(payload);
      return;
    }
    if (!session) return;
    const signed = SIGNED_TYPES.has(payload[2]!);
    // What is sealed may overtake the welcome; it is not looked at before.
    const decoder = signed ? session.signed : session.welcomed ? session.sealed?.decoders.d : undefined;
    const frame = decoder?.push(payload);
    if (frame) this.#control(frame, session);
  }

  /** Signed, but for no session: it can be replayed, so all it does is to make this side say hello, seldom. */
  #query(payload: Uint8Array): void {
    const { node, signingKey } = this.#o.identity;
    const verifier = { context: signingContext(node, 'd', ''), counter: 0, key: signingKey };
    new Decoder({ verifier }).push(payload);
    if (this.#clock.monotonic() - this.#helloAt >= QUERY_MS) this.#hello();
    // Too soon, but not to be forgotten: the hub that had the last hello may be gone. A welcome until then settles it.
    else this.#helloAgainAfter(QUERY_MS);
  }

  #control(frame: Frame, session: Session): void {
    const handle = (
      {
        [TYPE.challenge]: (b) => this.#challenge(b as Challenge),
        [TYPE.welcome]: (b) => this.#welcome(b as Welcome, session),
        [TYPE.delta]: (b) => this.#delta(b as Delta, session),
        [TYPE.ack]: (b) => this.#outbox.ack((b as Ack).q),
        [TYPE.certificate]: (b) => this.#certificate(b as Certificate),
        [TYPE.refused]: (b) => this.#refused(b as Refused),
      } as Record<number, (body: unknown) => void>
    )[frame.type];
    if (!handle) {
      // A newer hub may say more than this agent understands.
      this.#log.debug({ type: frame.type }, 'message of an unknown type ignored');
      return;
    }
    handle(frame.body);
  }

  #challenge(c: Challenge): void {
    const { node, publicKey, key } = this.#o.identity;
    this.#ephemeral ??= newLinkKey();
    const parties = { node, publicKey, nonce: c.h, hub: c.k, agent: this.#ephemeral.point };
    const secret = agentSecret(parties, key, this.#ephemeral.privateKey);
    this.#agreement = { nonce: c.h, secret, counter: 0, confirmed: false };
    this.#sendCertificate = c.c === 1;
    if (++this.#challenges <= MAX_CHALLENGES) this.#hello();
  }

  #welcome(w: Welcome, session: Session): void {
    if (!session.secret || !this.#agreement) throw new WireError('welcome without proof');
    const format = this.#formats.find((f) => f.version === (w.v ?? GREETING.version));
    if (!format) throw new WireError(`the hub picked version ${w.v}, which this agent does not speak`);
    session.sealed = sealedBy(format, session.secret, session.id);
    this.#agreement.confirmed = true;
    this.#sendCertificate = false;
    this.#challenges = 0;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#failures = 0;
    this.#hellos = 0;
    this.#revoked = false;
    this.#time.told(w.t);
    session.welcomed = true;
    if (typeof w.a === 'string' && w.a.length < 300) this.#o.registry?.(w.a);
    this.#log.info({ generation: this.#generation }, 'linked to the hub');
    this.meter.check();
    const skew = Math.abs(w.t - this.#clock.now());
    if (skew > 3_600_000)
      this.#log.warn({ skewSeconds: Math.round(skew / 1000) }, "this device's clock differs from the hub's");
    // From here on deltas are at least of the hub's revision. It is lower than ours when the hub's store was restored
    // from a backup; the signature covers this session's random number, so this is no replay.
    this.#generation = w.g;
    if (w.m && !this.#confirmed) {
      this.#confirmed = true;
      this.#deliver(toDesiredSet(this.#generation, this.#items));
    }
    if (w.i) this.#sendInventory(session);
    // By the hub's time, since this device's own may be wrong.
    const end = Date.parse(new X509Certificate(this.#o.identity.cert).validTo);
    if (end - w.t < RENEW_BEFORE_MS) void this.#send('u', TYPE.renew, { s: session.id } satisfies Renew);
    this.#outbox.connected(w.r === 1, heldBy(w, session));
    this.#compareLater(session);
  }

  #compareLater(session: Session): void {
    this.#cancelTimer = this.#clock.after(COMPARE_MS * (1 + this.#clock.random() / 4), () => {
      this.#sendApplied(session);
      this.#compareLater(session);
    });
  }

  #sendApplied(session: Session): void {
    const applied: Applied = { s: session.id, g: this.#generation, d: digestOf(this.#items) };
    void this.#send('u', TYPE.applied, applied);
  }

  #delta(d: Delta, session: Session): void {
    if (d.g < this.#generation) throw new WireError(`delta of old generation ${d.g}`);
    const here = digestOf(this.#items);
    if (here !== d.d) {
      const next = applyDelta(this.#items, d);
      if (!next) {
        this.#log.info({ generation: d.g }, 'delta does not fit; sending the inventory');
        this.#sendInventory(session);
        return;
      }
      // What ends a pod is on disk before it is acted on: with an older set on disk, a restart would run it once more.
      const ends = [...this.#items].some(([k, { hash }]) => k.startsWith('p/') && next.get(k)?.hash !== hash);
      this.#items = next;
      this.#generation = d.g;
      const set = toDesiredSet(d.g, next);
      this.#confirmed = true;
      this.#file.save({ generation: d.g, items: next });
      if (ends) this.#file.flush();
      this.#deliver(set);
      this.#outbox.prune(new Set(set.pods.map((p) => p.metadata?.uid ?? '')));
    } else if (!this.#confirmed) {
      this.#confirmed = true;
      this.#deliver(toDesiredSet(this.#generation, this.#items));
    }
    this.#sendApplied(session);
  }

  #sendInventory(session: Session): void {
    const inventory: Inventory = {
      s: session.id,
      g: this.#generation,
      i: [...this.#items].map(([key, { hash }]) => [key, hash]),
    };
    void this.#send('u', TYPE.inventory, inventory);
  }

  /** Whether it was a newer one than this node has. */
  #certificate(c: Certificate): boolean {
    const { dataDir, identity } = this.#o;
    try {
      if (new X509Certificate(c.c).fingerprint256 === new X509Certificate(identity.cert).fingerprint256)
        return false;
      renewCertificate(dataDir, identity, c.c);
      this.#log.info({}, "this node's certificate was renewed");
      return true;
    } catch (e) {
      this.#log.error({ err: (e as Error).message }, "this node's new certificate cannot be used");
      return false;
    }
  }

  /** Signed by the hub: no broker can make it up. */
  #refused(r: Refused): void {
    this.#log.error({}, `the hub refuses this node: ${r.m}`);
    if (r.r === 2) this.#wipe(r.m);
    if (!r.r) {
      this.#helloAgainAfter(HELLO_MAX_MS);
      return;
    }
    this.#revoked = true;
    // The broker may leave the connection open; there is nothing to say over it.
    this.#connection?.destroy();
  }

  /** Everything that the hub ever gave this device: its name, its secrets, its pods. */
  #wipe(why: string): void {
    const { dataDir, host } = this.#o;
    this.#stopped = true;
    this.#cancelReconnect?.();
    this.#file.close();
    try {
      eraseIdentity(dataDir, why, this.#clock.now());
      this.#log.error({}, 'key, identity and desired state were erased, as the hub ordered');
    } catch (e) {
      this.#log.error({ err: (e as Error).message }, 'identity cannot be erased');
    }
    this.#items = new Map();
    host.setDesired(toDesiredSet(++this.#generation, this.#items));
  }
}
