/**
 * The hub's end of every node's link: desired sets down, reports up, liveness into Node objects, streams both ways.
 * docs/wire.md tells the protocol; nothing here depends on what a broker remembers.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import type { Lease } from 'kubernetes-types/coordination/v1.js';
import type { ConfigMap, Node } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339Micro } from '../../api/clock.js';
import { configMaps, leases, nodes } from '../../api/kinds/index.js';
import { LINK_PREFIX, linkSettings } from '../../api/kinds/link-settings.js';
import type { Log } from '../../api/log.js';
import { ApiError, isApiError } from '../../api/meta/errors.js';
import {
  Decoder,
  encode,
  keyId,
  type SealKey,
  signingContext,
  spkiOf,
  WireError,
} from '../../api/wire/codec.js';
import type { NodeReport } from '../../api/wire/desired.js';
import {
  type Applied,
  type Bye,
  type Certificate,
  type Challenge,
  type Delta,
  type Hello,
  type Inventory,
  type Refused,
  type Renew,
  type Report,
  TYPE,
  type Welcome,
} from '../../api/wire/messages.js';
import { sessionKey } from '../../api/wire/session.js';
import { canonical, digestOf, EMPTY_DIGEST, type Held, type Items, planDelta } from '../../api/wire/set.js';
import type { PodLogOptions } from '../../api/wire/streams.js';
import { type Channel, LIMITS, NODE_CN_PREFIX, nodeTopic, parseTopic } from '../../api/wire/topics.js';
import type { PodTokenSource } from '../auth/podtokens.js';
import type { Client, Frozen } from '../client.js';
import { EventRecorder } from '../events.js';
import { Informers } from '../informer.js';
import { nodeSubject, type Pki } from '../pki/pki.js';
import { WorkQueue } from '../queue.js';
import type { NodeStreams } from '../streams.js';
import type { Bus, BusAddresses } from './bus.js';
import { DesiredSets } from './desired.js';
import { Greeter } from './greeter.js';
import { JoinDesk } from './join.js';
import { KEY_ANNOTATION, type NodeFacts, planNode } from './nodes.js';
import { applyPodReport } from './reports.js';
import { pinnedKey, Revocations } from './revocation.js';
import { NodeStreamTable } from './streams.js';
import { LINK_CONFIG } from './token.js';

export interface HubLinkOptions {
  client: Client;
  bus: Bus;
  pki: Pki;
  clock: Clock;
  log: Log;
  /** Shared with the controllers; the link starts those that it needs, and its own when none are given. */
  informers?: Informers;
  /** Started by the caller; absent: the link's own. */
  revocations?: Revocations;
  /** Where agents reach an embedded broker: `host:port`, best first. An external one knows its own address. */
  addresses?: () => string[];
  /** Where agents reach the hub's OCI registry, told at every welcome: `host:port`. */
  registry?: () => string;
  /** Tokens for the pods' ServiceAccounts; without it volumes that ask for one cannot be set up. */
  tokens?: PodTokenSource;
  /** Milliseconds after a link broke until the Node says so. Default 10,000: an agent's restart passes unnoticed. */
  graceMs?: number;
  /** Milliseconds after a start until nodes that have not come back are given up. Default 60,000. */
  startGraceMs?: number;
}

/** Changes to a node's set travel together: those of one moment, and then all that come while a delta is on its way. */
const COALESCE_MS = 0;
/** An unanswered delta is planned and sent anew. */
const DELTA_RETRY_MS = 10_000;
const DELTA_RETRY_MAX_MS = 120_000;
const QUERY_EVERY_MS = 5_000;
const LEASE_EVERY_MS = 6 * 3_600_000;
const ANNOUNCE_RETRY_MS = 2_000;
const LEASE_MIN_MS = 600_000;
/** Batches of one node being written at once; further ones are dropped and come again. */
const MAX_BATCHES = 16;
/** Pods of one node whose report numbers are kept. */
const MAX_REMEMBERED = 2048;
const MAX_UPLINK_MESSAGE = 1024 * 1024;
/** From the end of a revoked session until its connection is cut. */
const CUT_MS = 200;
/** Hello and bye, which anybody who reaches the broker can send. */
const MAX_UNPROVEN = 8 * 1024;
/** An agent says something every 75 minutes at least. One that has not is gone, whatever the broker says or does not. */
const SILENT_MS = 3 * 3_600_000;
const SWEEP_MS = 30 * 60_000;
/** Names without a node object that queries went to lately. */
const MAX_QUERIED = 4096;

interface Session {
  id: string;
  connection: string;
  epoch: string;
  sealers: Record<'d' | 's/d', SealKey>;
  decoders: Record<'u' | 's/u', Decoder>;
  key: KeyObject;
  /** When it last said anything, by the monotonic clock. */
  heardAt: number;
  renewed: boolean;
}

/** What the hub knows of one node's link. Kept in memory only: all of it can be asked for again. */
interface NodeLink {
  readonly name: string;
  session: Session | undefined;
  link: 'up' | 'down';
  cancelDown: (() => void) | undefined;
  publicKey: KeyObject | undefined;
  report: NodeReport | undefined;
  /** A hello may make the Node object; a report alone may not, so that a deleted Node stays deleted until then. */
  mayRegister: boolean;
  leaseAt: number | undefined;
  /** Reports taken in, by key (`''` the node's own, else a pod's uid): numbers within `epoch`. */
  epoch: string | undefined;
  /** The agent knows that this hub wants all of them. */
  asked: boolean;
  stored: Map<string, number>;
  latest: Map<string, number>;
  batches: Set<number>;
  /** Undefined while the agent's set is not known. */
  held: Held | undefined;
  generation: number;
  inflight: { result: Held; digest: string; cancel: () => void } | undefined;
  retries: number;
  dirty: boolean;
  cancelFlush: (() => void) | undefined;
  readonly streams: NodeStreamTable;
  readonly events: EventRecorder;
}

export class HubLink implements NodeStreams {
  readonly #o: HubLinkOptions;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #informers: Informers;
  readonly #ownInformers: boolean;
  readonly #desired: DesiredSets;
  readonly #nodes = new Map<string, NodeLink>();
  readonly #queue: WorkQueue;
  readonly #joins: JoinDesk;
  readonly #greeter = new Greeter();
  readonly #revocations: Revocations;
  readonly #queriedAt = new Map<string, number>();
  #cancelSweep: (() => void) | undefined;
  #stopped = false;

  constructor(options: HubLinkOptions) {
    this.#o = options;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#ownInformers = !options.informers;
    this.#informers = options.informers ?? new Informers(options.client, options.clock, options.log);
    this.#desired = new DesiredSets(
      this.#informers,
      options.pki.deriveKey('desired item hashes'),
      this.#clock,
      options.tokens,
      (n) => this.#changed(n),
    );
    this.#queue = new WorkQueue('nodes', (name) => this.#reconcile(name), this.#clock, this.#log, {
      concurrency: 16,
      baseDelayMs: 200,
    });
    this.#revocations =
      options.revocations ??
      new Revocations({ ...options, informers: this.#informers, issued: options.pki.issued });
    this.#revocations.onChange(() => this.#recheck());
    this.#joins = new JoinDesk({
      revocations: this.#revocations,
      client: options.client,
      pki: options.pki,
      clock: options.clock,
      log: options.log,
      addresses: () => this.#addresses(),
      refusal: (node, key) => this.#refusal(node, key),
      isLinked: (node) => this.isLinked(node),
      keyChanged: (node) => this.#keyChanged(node),
      send: (topic, payload) => void options.bus.publish(topic, payload),
    });
  }

  /** Resolves when the bus works and the caches are filled. */
  async start(): Promise<void> {
    const nodeInformer = this.#informers.of<Node>(nodes).onChange((name, now) => {
      // Deleted and gone: forget it. One that is still linked registers again with its next hello.
      if (!now && !this.isLinked(name)) this.#forget(name);
    });
    await this.#informers.start();
    if (!this.#o.revocations) await this.#revocations.start();
    const known = [...nodeInformer.values()].filter((n) => n.metadata?.annotations?.[KEY_ANNOTATION]);
    for (const n of known) this.#downAfter(this.#node(n.metadata!.name!), this.#o.startGraceMs ?? 60_000);
    this.#queue.start();
    await this.#o.bus.start({
      message: (topic, payload) => {
        try {
          this.#message(topic, payload);
        } catch (e) {
          const level = e instanceof WireError ? 'warn' : 'error';
          this.#log[level]({ topic, err: (e as Error).message }, 'message dropped');
        }
      },
      up: () => {
        for (const n of this.#informers.of<Node>(nodes).values())
          if (n.metadata?.annotations?.[KEY_ANNOTATION]) this.#queryUntilLinked(n.metadata.name!, 0);
      },
      refusal: (cn, key) => this.#revocations.refusal(cn, key),
      down: () => {
        for (const n of this.#nodes.values()) {
          this.#endSession(n);
          this.#downAfter(n, 4 * (this.#o.graceMs ?? 10_000));
        }
      },
    });
    this.#sweep();
    await this.#announce();
  }

  /** A last will can get lost, and a hostile broker keeps it: silence tells as well, only later. */
  #sweep(): void {
    this.#cancelSweep = this.#clock.after(SWEEP_MS, () => {
      const now = this.#clock.monotonic();
      for (const n of this.#nodes.values()) {
        if (!n.session || now - n.session.heardAt < SILENT_MS) continue;
        this.#log.info({ node: n.name }, 'node has been silent for too long');
        this.#endSession(n);
        this.#downAfter(n, this.#o.graceMs ?? 10_000);
        this.#query(n.name);
      }
      this.#sweep();
    });
  }

  #addresses(): BusAddresses {
    const own = this.#o.addresses?.() ?? [];
    return this.#o.bus.addresses?.() ?? { node: own, join: own };
  }

  /** Says in the API where devices join, for `cox token create`. Tried until it is written. */
  async #announce(): Promise<void> {
    const data = { join: this.#addresses().join.join(), caHash: this.#o.pki.caHash };
    const { client } = this.#o;
    try {
      const old = await client.get<ConfigMap>(configMaps, LINK_CONFIG).catch((e: unknown) => {
        if (!isApiError(e, 'NotFound')) throw e;
        return undefined;
      });
      if (!old)
        await client.create<ConfigMap>(configMaps, {
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: { ...LINK_CONFIG },
          data,
        });
      else if (canonical(old.data) !== canonical(data))
        await client.patch<ConfigMap>(configMaps, LINK_CONFIG, { data });
    } catch (e) {
      if (this.#stopped) return;
      this.#log.warn({ err: (e as Error).message }, 'cannot say in the API where devices join; trying again');
      this.#clock.after(ANNOUNCE_RETRY_MS, () => void this.#announce());
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelSweep?.();
    this.#desired.stop();
    for (const n of this.#nodes.values()) {
      n.cancelDown?.();
      n.events.stop();
      this.#endSession(n);
    }
    await this.#o.bus.stop();
    await this.#queue.stop();
    if (!this.#o.revocations) await this.#revocations.stop();
    if (this.#ownInformers) await this.#informers.stop();
  }

  /** The node's agent is connected and has said hello. */
  isLinked(node: string): boolean {
    return this.#nodes.get(node)?.session !== undefined;
  }

  async logs(node: string, options: PodLogOptions, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const n = this.#nodes.get(node);
    if (!n?.session)
      throw new ApiError(
        'ServiceUnavailable',
        `node "${node}" has no link to the hub; its logs can be read again once its agent is connected`,
      );
    const settings = linkSettings(this.#informers.of<Node>(nodes).get(node)?.metadata?.annotations);
    if (options.follow && settings.metered && !settings.logFollow)
      throw new ApiError(
        'Forbidden',
        `node "${node}" is metered: its logs are not followed. Leave out --follow, or allow it: ` +
          `kubectl annotate node ${node} ${LINK_PREFIX}log-follow=allowed`,
      );
    return n.streams.open('logs', options, (type, body) => this.#send(n, 's/d', type, body), signal);
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  #message(topic: string, payload: Uint8Array): void {
    const from = parseTopic(topic);
    if (!from || this.#stopped) return;
    if ('join' in from) {
      void this.#joins.receive(from.join, payload);
      return;
    }
    if (from.channel !== 'u' && from.channel !== 's/u') return;
    if (from.channel === 'u' && (payload[2] === TYPE.hello || payload[2] === TYPE.bye)) {
      const unproven = new Decoder({ maxMessage: MAX_UNPROVEN, maxInflated: 2 * MAX_UNPROVEN });
      const frame = payload.length <= MAX_UNPROVEN ? unproven.push(payload) : undefined;
      if (typeof frame?.body !== 'object' || frame.body === null) throw new WireError('empty body');
      if (frame.type === TYPE.hello) this.#hello(from.node, frame.body as Hello);
      else this.#bye(this.#nodes.get(from.node), frame.body as Bye);
      return;
    }
    const n = this.#nodes.get(from.node);
    if (!n?.session) {
      this.#query(from.node);
      return;
    }
    const frame = n.session.decoders[from.channel].push(payload);
    n.session.heardAt = this.#clock.monotonic();
    if (!frame) return;
    if (from.channel === 's/u') {
      n.streams.receive(frame, (type, body) => this.#send(n, 's/d', type, body));
      return;
    }
    const handle = (
      {
        [TYPE.inventory]: (b) => this.#inventory(n, b as Inventory),
        [TYPE.applied]: (b) => this.#applied(n, b as Applied),
        [TYPE.report]: (b) => void this.#report(n, b as Report),
        [TYPE.renew]: (b) => void this.#renew(n, b as Renew),
      } as Record<number, (body: unknown) => void>
    )[frame.type];
    if (!handle) throw new WireError(`message type ${frame.type} is not known here`);
    if (typeof frame.body !== 'object' || frame.body === null) throw new WireError('empty body');
    handle(frame.body);
  }

  #send(n: NodeLink, channel: Channel & ('d' | 's/d'), type: number, body: unknown): void {
    const s = n.session;
    if (s) this.#publish(n.name, channel, encode(type, body, { sealer: s.sealers[channel] }));
  }

  /** Outside of what is sealed: the answer to a hello, and after it (`counter` 1) the end of its session. */
  #sendSigned(node: string, session: string, type: number, body: unknown, counter = 0): void {
    const context = signingContext(node, 'd', session);
    const sign = (data: Uint8Array) => this.#o.pki.sign(data);
    this.#publish(node, 'd', encode(type, body, { signer: { context, counter, sign } }));
  }

  /** What a node is told that may not come in; undefined when it may. */
  #refusal(node: string, key: string): Refused | undefined {
    const m = this.#revocations.refusal(NODE_CN_PREFIX + node, key);
    const revoked = this.#revocations.of(key);
    if (m) return { m, ...(revoked ? { r: revoked.wipe ? 2 : 1 } : {}) };
    const pinned = this.#pinnedKey(node);
    if (!pinned || keyId(pinned) === key) return undefined;
    return {
      m:
        `the name "${node}" belongs to a node with another key. Delete that node (kubectl delete node ${node}), ` +
        'or give this one another name: join again with an empty data directory and --node-name.',
    };
  }

  /** The list has changed: whoever is on it now is told so, and has no session from here on. */
  #recheck(): void {
    for (const n of this.#nodes.values()) {
      const refused = n.session && this.#refusal(n.name, keyId(n.session.key));
      if (!refused) continue;
      this.#log.warn({ node: n.name }, 'node refused: its key was revoked');
      this.#sendSigned(n.name, n.session!.id, TYPE.refused, refused, 1);
      this.#endSession(n);
      n.publicKey = undefined;
      this.#greeter.forget(n.name);
      this.#downAfter(n, 0);
    }
    // Once the order above has had time to leave. Nothing from that connection is listened to meanwhile.
    this.#clock.after(CUT_MS, () => this.#o.bus.recheck?.());
  }

  #publish(node: string, channel: Channel, frames: Buffer[]): void {
    const topic = nodeTopic(node, channel);
    for (const frame of frames) void this.#o.bus.publish(topic, frame);
  }

  /** Asks an agent whose session is not known to say hello. */
  #query(node: string): void {
    const now = this.#clock.monotonic();
    if (now - (this.#queriedAt.get(node) ?? Number.NEGATIVE_INFINITY) < QUERY_EVERY_MS) return;
    this.#queriedAt.delete(node);
    this.#queriedAt.set(node, now);
    if (this.#queriedAt.size > MAX_QUERIED) this.#queriedAt.delete(this.#queriedAt.keys().next().value!);
    this.#sendSigned(node, '', TYPE.query, undefined);
  }

  /** A query may be lost: three times, a few seconds apart. */
  #queryUntilLinked(name: string, attempt: number): void {
    if (this.#stopped || attempt >= 3 || this.isLinked(name)) return;
    this.#query(name);
    this.#clock.after(QUERY_EVERY_MS * 2 ** attempt, () => this.#queryUntilLinked(name, attempt + 1));
  }

  // --- sessions -----------------------------------------------------------------------------------------------------

  #hello(name: string, h: Hello): void {
    if (![h.s, h.w, h.d, h.k, h.e].every((v) => typeof v === 'string' && v.length <= 64))
      throw new WireError('malformed hello');
    const answer = (type: number, body: unknown) => this.#sendSigned(name, h.s, type, body);
    const refused = this.#refusal(name, h.k);
    if (refused) {
      answer(TYPE.refused, refused);
      return;
    }
    const pinned = this.#pinnedKey(name);
    let key = [this.#nodes.get(name)?.publicKey, pinned].find((k) => k && keyId(k) === h.k);
    if (!key && h.c) key = this.#certifiedKey(name, h.c);
    const secret = key && this.#greeter.check(name, h, key);
    if (!key || !secret) {
      answer(TYPE.challenge, {
        ...this.#greeter.challenge(name),
        ...(key ? {} : { c: 1 }),
      } satisfies Challenge);
      return;
    }
    const n = this.#node(name);
    const welcome: Welcome = {
      g: this.#desired.revision,
      t: this.#clock.now(),
      ...(this.#o.registry ? { a: this.#o.registry() } : {}),
    };
    this.#endSession(n);
    n.publicKey = key;
    const sealKey = (channel: Channel): SealKey => ({ key: sessionKey(secret, h.s, channel), counter: 0 });
    const [maxMessage, maxInflated] = [MAX_UPLINK_MESSAGE, 8 * MAX_UPLINK_MESSAGE];
    n.session = {
      id: h.s,
      connection: h.w,
      epoch: h.e,
      sealers: { d: sealKey('d'), 's/d': sealKey('s/d') },
      decoders: {
        u: new Decoder({ opener: sealKey('u'), maxMessage, maxInflated }),
        's/u': new Decoder({
          opener: sealKey('s/u'),
          maxMessage: LIMITS.frame,
          maxInflated: LIMITS.frame,
        }),
      },
      key,
      heardAt: this.#clock.monotonic(),
      renewed: false,
    };
    n.mayRegister = true;
    n.link = 'up';
    n.cancelDown?.();
    n.cancelDown = undefined;
    if (n.epoch !== h.e) {
      n.epoch = h.e;
      n.stored = new Map();
      n.latest = new Map();
      n.asked = false;
    }
    if (!n.asked) welcome.r = 1;
    const want = this.#desired.of(n.name);
    if (h.d === digestOf(want)) {
      n.held = want;
      welcome.m = 1;
    } else if (h.d === EMPTY_DIGEST) n.held = new Map();
    else if (!n.held || digestOf(n.held) !== h.d) {
      n.held = undefined;
      welcome.i = 1;
    }
    n.generation = welcome.g;
    n.retries = 0;
    this.#log.info({ node: n.name, generation: h.g }, 'node linked');
    answer(TYPE.welcome, welcome);
    if (welcome.i) this.#queryUntilHeld(n);
    n.dirty = true;
    this.#flush(n);
    this.#queue.add(n.name);
  }

  /** The inventory, or the query for another hello, may be lost: asked again until one of them came through. */
  #queryUntilHeld(n: NodeLink): void {
    const wait = Math.min(DELTA_RETRY_MAX_MS, DELTA_RETRY_MS * 2 ** n.retries);
    n.cancelFlush = this.#clock.after(wait, () => {
      n.cancelFlush = undefined;
      if (n.held || this.#stopped) return;
      n.retries++;
      this.#query(n.name);
      this.#queryUntilHeld(n);
    });
  }

  async #renew(n: NodeLink, r: Renew): Promise<void> {
    const { session } = n;
    if (!session || r.s !== session.id || session.renewed) return;
    session.renewed = true;
    try {
      const c = await this.#o.pki.issueClientCert({ ...nodeSubject(n.name), publicKey: session.key });
      if (n.session !== session) return;
      this.#o.pki.issued.record(c);
      this.#send(n, 'd', TYPE.certificate, { c } satisfies Certificate);
      this.#log.info({ node: n.name }, 'certificate renewed');
    } catch (e) {
      this.#log.error({ node: n.name, err: (e as Error).message }, 'certificate cannot be renewed');
    }
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

  #pinnedKey(name: string): KeyObject | undefined {
    return pinnedKey(this.#informers.of<Node>(nodes).get(name));
  }

  /** The node joined anew with another key: what was known of the old one is void. */
  #keyChanged(name: string): void {
    const n = this.#nodes.get(name);
    if (!n) return;
    this.#endSession(n);
    n.publicKey = undefined;
    n.held = undefined;
    n.epoch = undefined;
    this.#greeter.forget(name);
  }

  #bye(n: NodeLink | undefined, b: Bye): void {
    // The last will of a connection that has been replaced since comes late and means nothing.
    if (!n?.session || b.w !== n.session.connection) return;
    this.#log.info({ node: n.name }, 'node lost its link');
    this.#endSession(n);
    this.#downAfter(n, this.#o.graceMs ?? 10_000);
  }

  #endSession(n: NodeLink): void {
    n.session = undefined;
    n.inflight?.cancel();
    n.inflight = undefined;
    n.cancelFlush?.();
    n.cancelFlush = undefined;
    n.streams.closeAll();
  }

  #forget(name: string): void {
    const n = this.#nodes.get(name);
    if (!n) return;
    n.cancelDown?.();
    n.events.stop();
    this.#desired.forget(name);
    this.#greeter.forget(name);
    this.#nodes.delete(name);
  }

  #downAfter(n: NodeLink, ms: number): void {
    n.cancelDown?.();
    n.cancelDown = this.#clock.after(ms, () => {
      n.cancelDown = undefined;
      n.link = 'down';
      this.#desired.forget(n.name);
      this.#queue.add(n.name);
    });
  }

  // --- desired state ------------------------------------------------------------------------------------------------

  #changed(node: string): void {
    const n = this.#nodes.get(node);
    if (!n?.session) return;
    n.dirty = true;
    if (n.cancelFlush || !n.held) return;
    n.cancelFlush = this.#clock.after(COALESCE_MS, () => {
      n.cancelFlush = undefined;
      this.#flush(n);
    });
  }

  /** Sends the next step towards the wanted set, one at a time. */
  #flush(n: NodeLink): void {
    if (!n.session || n.inflight || !n.held || !n.dirty) return;
    const want: Items = this.#desired.of(n.name);
    const plan = planDelta(n.held, want, Math.max(n.generation, this.#desired.revision), LIMITS.batch);
    if (!plan) {
      n.dirty = false;
      return;
    }
    n.generation = plan.delta.g;
    const wait = Math.min(DELTA_RETRY_MAX_MS, DELTA_RETRY_MS * 2 ** n.retries);
    n.inflight = {
      result: plan.result,
      digest: plan.delta.d,
      cancel: this.#clock.after(wait, () => {
        n.inflight = undefined;
        n.retries++;
        this.#flush(n);
      }),
    };
    try {
      this.#send(n, 'd', TYPE.delta, plan.delta satisfies Delta);
    } catch (e) {
      this.#log.error({ node: n.name, err: (e as Error).message }, 'desired set cannot be sent');
    }
  }

  #applied(n: NodeLink, a: Applied): void {
    if (!n.session) return;
    if (a.s !== n.session.id) return;
    if (a.d !== n.inflight?.digest) {
      // The hourly comparison: what the agent holds must be what this side thinks that it holds.
      if (!n.inflight && (!n.held || a.d !== digestOf(n.held))) this.#query(n.name);
      return;
    }
    n.inflight.cancel();
    n.held = n.inflight.result;
    n.inflight = undefined;
    n.retries = 0;
    this.#flush(n);
  }

  #inventory(n: NodeLink, inv: Inventory): void {
    if (!n.session || inv.s !== n.session.id || !Array.isArray(inv.i)) return;
    n.cancelFlush?.();
    n.cancelFlush = undefined;
    n.inflight?.cancel();
    n.inflight = undefined;
    n.held = new Map(inv.i.map(([key, hash]) => [String(key), { hash: String(hash) }]));
    n.dirty = true;
    this.#flush(n);
  }

  // --- reports ------------------------------------------------------------------------------------------------------

  async #report(n: NodeLink, r: Report): Promise<void> {
    const session = n.session;
    if (!session || r.e !== session.epoch) {
      this.#query(n.name);
      return;
    }
    if (n.batches.has(r.q) || n.batches.size >= MAX_BATCHES) return;
    n.batches.add(r.q);
    if (r.f) n.asked = true;
    try {
      const work: Promise<void>[] = [];
      for (const [seq, event] of r.v ?? []) {
        if (seq <= (n.stored.get('events') ?? 0)) continue;
        n.stored.set('events', seq);
        const { involved } = event;
        n.events.record({
          involved: {
            ...involved,
            apiVersion: 'v1',
            // Kubernetes' kubelet names a Node by its name in place of a uid.
            ...(involved.kind === 'Node' ? { name: n.name, uid: n.name } : {}),
          },
          type: event.type,
          reason: event.reason,
          message: event.message,
          count: event.count,
          ...this.#eventTime(event.at),
        });
      }
      if (r.n) work.push(this.#once(n, '', r.n[0], () => this.#nodeReport(n, r.n![1])));
      for (const [seq, pod] of r.p ?? [])
        work.push(this.#once(n, pod.uid, seq, () => applyPodReport(this.#o.client, n.name, pod, this.#log)));
      await Promise.all(work);
      if (n.session === session) this.#send(n, 'd', TYPE.ack, { q: r.q });
    } catch (e) {
      this.#log.warn(
        { node: n.name, err: (e as Error).message },
        'report not stored; the agent will send it again',
      );
    } finally {
      n.batches.delete(r.q);
      this.#forgetOld(n.latest);
      this.#forgetOld(n.stored);
    }
  }

  /** Takes in number `seq` of a key, after what came before it; skips it when a newer one is known. */
  #once(n: NodeLink, key: string, seq: number, work: () => Promise<void>): Promise<void> {
    const { epoch } = n;
    n.latest.set(key, Math.max(seq, n.latest.get(key) ?? 0));
    return this.#inOrder(`${n.name}/${key}`, async () => {
      if (n.epoch !== epoch || seq <= (n.stored.get(key) ?? 0) || seq < (n.latest.get(key) ?? 0)) return;
      await work();
      n.stored.set(key, seq);
    });
  }

  readonly #tails = new Map<string, Promise<void>>();

  /** Pods come and go; what a replay of a forgotten one says, its uid makes void. */
  #forgetOld(numbers: Map<string, number>): void {
    for (const key of numbers.keys()) {
      if (numbers.size <= MAX_REMEMBERED) return;
      if (key !== '' && key !== 'events') numbers.delete(key);
    }
  }

  /** Work of one key, one after the other. */
  #inOrder(key: string, work: () => Promise<void>): Promise<void> {
    const next = (this.#tails.get(key) ?? Promise.resolve()).then(work, work);
    this.#tails.set(key, next);
    const clean = () => {
      if (this.#tails.get(key) === next) this.#tails.delete(key);
    };
    next.then(clean, clean);
    return next;
  }

  /** A device without a clock tells times of 1970, or of its last shutdown: the hub's own time is nearer. */
  #eventTime(at: number): { at?: number } {
    return Math.abs(at - this.#clock.now()) < 7 * 86_400_000 ? { at } : {};
  }

  async #nodeReport(n: NodeLink, report: NodeReport): Promise<void> {
    if (!Array.isArray(report?.conditions) || typeof report.labels !== 'object' || !report.capacity)
      throw new WireError('malformed node report');
    n.report = report;
    await this.#reconcile(n.name);
  }

  // --- Node objects -------------------------------------------------------------------------------------------------

  /** Makes Node and Lease say what is known. Resolves with the ms after which to look again. */
  async #reconcile(name: string): Promise<number | undefined> {
    const n = this.#node(name);
    let again: number | undefined;
    await this.#inOrder(`node ${name}`, async () => {
      for (let attempt = 1; ; attempt++) {
        try {
          await this.#writeNode(n);
          break;
        } catch (e) {
          if (!isApiError(e, 'Conflict') || attempt >= 8) throw e;
        }
      }
      if (n.link === 'up' && n.session) again = await this.#renewLease(n);
    });
    return again;
  }

  async #writeNode(n: NodeLink): Promise<void> {
    const { client } = this.#o;
    let old: Frozen<Node> | undefined;
    try {
      old = await client.get<Node>(nodes, { name: n.name });
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
      if (!n.mayRegister || !n.report || n.link === 'down') return;
    }
    const facts: NodeFacts = {
      name: n.name,
      publicKey: n.publicKey && spkiOf(n.publicKey),
      report: n.report,
      link: n.link,
    };
    const plan = planNode(old, facts, this.#clock.now());
    if (plan.main) {
      if (old) await client.update<Node>(nodes, plan.main);
      else await client.create<Node>(nodes, plan.main);
    }
    if (plan.status) {
      // Of the status this is the only writer; others may write the rest between the two.
      const { resourceVersion: _, ...metadata } = plan.status.metadata!;
      await client.updateStatus<Node>(nodes, { ...plan.status, metadata } as Node);
    }
    if (!old) this.#log.info({ node: n.name }, 'node registered');
    n.mayRegister = false;
  }

  async #renewLease(n: NodeLink): Promise<number> {
    const now = this.#clock.monotonic();
    const age = n.leaseAt === undefined ? Number.POSITIVE_INFINITY : now - n.leaseAt;
    if (age < LEASE_MIN_MS) return LEASE_EVERY_MS;
    const key = { namespace: 'kube-node-lease', name: n.name };
    const renewTime = rfc3339Micro(this.#clock.now());
    const spec = { holderIdentity: n.name, leaseDurationSeconds: LEASE_EVERY_MS / 1000, renewTime };
    try {
      await this.#o.client.patch<Lease>(leases, key, { spec });
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
      await this.#o.client.create<Lease>(leases, {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: key,
        spec,
      });
    }
    n.leaseAt = now;
    return LEASE_EVERY_MS;
  }

  #node(name: string): NodeLink {
    let n = this.#nodes.get(name);
    if (!n) {
      const log = this.#log.child({ node: name });
      n = {
        name,
        session: undefined,
        link: 'up',
        cancelDown: undefined,
        publicKey: undefined,
        report: undefined,
        mayRegister: false,
        leaseAt: undefined,
        epoch: undefined,
        asked: false,
        stored: new Map(),
        latest: new Map(),
        batches: new Set(),
        held: undefined,
        generation: 0,
        inflight: undefined,
        retries: 0,
        dirty: false,
        cancelFlush: undefined,
        streams: new NodeStreamTable(name, this.#clock),
        events: new EventRecorder(
          this.#o.client,
          { component: 'coxswain-agent', host: name },
          this.#clock,
          log,
        ),
      };
      this.#nodes.set(name, n);
    }
    return n;
  }
}
