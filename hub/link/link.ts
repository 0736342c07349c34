/**
 * The hub's end of every node's link: who is there (sessions.ts), desired sets down (desired-sync.ts), reports up
 * (intake.ts), what is known into Node objects (node-objects.ts), streams both ways. docs/wire.md tells the protocol;
 * nothing here depends on what a broker remembers.
 */
import type { Node } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { nodes, pods } from '../../api/kinds/index.js';
import { LINK_PREFIX, type LinkSettings, linkSettings } from '../../api/kinds/link-settings.js';
import type { Log } from '../../api/log.js';
import { ApiError, isApiError } from '../../api/meta/errors.js';
import { BombError, Decoder, type Received, WireError } from '../../api/wire/codec.js';
import {
  type Applied,
  type Bye,
  type Hello,
  type Inventory,
  type Renew,
  type Report,
  type StreamRequests,
  TYPE,
} from '../../api/wire/messages.js';
import type { PodLogOptions, StatsOptions } from '../../api/wire/streams.js';
import { parseTopic } from '../../api/wire/topics.js';
import { FORMATS, type WireFormat } from '../../api/wire/versions.js';
import type { PodTokenSource } from '../auth/podtokens.js';
import type { Client } from '../client.js';
import { EventRecorder } from '../events.js';
import { Informers } from '../informer.js';
import type { Pki } from '../pki/pki.js';
import { WorkQueue } from '../queue.js';
import type { ConnectOptions, NodeStream, NodeStreams, PodConnections, UsageStreams } from '../streams.js';
import { announce } from './announce.js';
import type { Bus, BusAddresses } from './bus.js';
import { DesiredSets } from './desired.js';
import { DesiredSync } from './desired-sync.js';
import { HeldReports } from './held-reports.js';
import { Intake } from './intake.js';
import { JoinDesk } from './join.js';
import { type NodeLink, newNodeLink } from './node-link.js';
import { NodeObjects } from './node-objects.js';
import { extrasDiffer, KEY_ANNOTATION } from './nodes.js';
import { pinnedKey, Revocations } from './revocation.js';
import { QUERY_EVERY_MS, Sender } from './sender.js';
import { Sessions } from './sessions.js';

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
  /** Versions of the wire; default: those of this build. */
  formats?: readonly WireFormat[];
  /** Milliseconds after a link broke until the Node says so. Default 10,000: an agent's restart passes unnoticed. */
  graceMs?: number;
  /** Milliseconds after a start until nodes that have not come back are given up. Default 60,000. */
  startGraceMs?: number;
}

const ANNOUNCE_RETRY_MS = 2_000;
/** From the end of a revoked session until its connection is cut. */
const CUT_MS = 200;
/** Hello and bye, which anybody who reaches the broker can send. */
const MAX_UNPROVEN = 8 * 1024;
const SWEEP_MS = 30 * 60_000;
const GRACE_MS = 10_000;

export class HubLink implements NodeStreams, PodConnections, UsageStreams {
  readonly #o: HubLinkOptions;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #informers: Informers;
  readonly #ownInformers: boolean;
  readonly #graceMs: number;
  readonly #nodes = new Map<string, NodeLink>();
  readonly #revocations: Revocations;
  readonly #sender: Sender;
  readonly #desired: DesiredSets;
  readonly #sync: DesiredSync;
  readonly #objects: NodeObjects;
  readonly #intake: Intake;
  readonly #queue: WorkQueue;
  readonly #sessions: Sessions;
  readonly #joins: JoinDesk;
  #cancelSweep: (() => void) | undefined;
  #stopped = false;

  constructor(options: HubLinkOptions) {
    const { client, bus, pki, clock, log } = options;
    const formats = options.formats ?? FORMATS;
    this.#o = options;
    this.#clock = clock;
    this.#log = log;
    this.#graceMs = options.graceMs ?? GRACE_MS;
    this.#ownInformers = !options.informers;
    this.#informers = options.informers ?? new Informers(client, clock, log);
    this.#revocations =
      options.revocations ?? new Revocations({ ...options, informers: this.#informers, issued: pki.issued });
    this.#revocations.onChange(() => this.#recheck());
    this.#sender = new Sender(bus, pki, clock);
    this.#desired = new DesiredSets(
      this.#informers,
      pki.deriveKey('desired item hashes'),
      clock,
      options.tokens,
      (name) => {
        const n = this.#nodes.get(name);
        if (n) this.#sync.changed(n);
      },
    );
    this.#sync = new DesiredSync(
      this.#desired,
      this.#sender,
      async (pod) => {
        const { namespace, name = '', uid } = pod.metadata ?? {};
        await client.delete(pods, { namespace, name }, { gracePeriodSeconds: 0, uid }).catch((e: unknown) => {
          if (!isApiError(e, 'NotFound') && !isApiError(e, 'Conflict')) throw e;
        });
      },
      clock,
      log,
    );
    this.#objects = new NodeObjects(client, clock, log);
    const reported = async (n: NodeLink) => void (await this.#objects.reconcile(n));
    this.#intake = new Intake(client, this.#sender, clock, log, reported, new HeldReports(this.#informers));
    this.#queue = new WorkQueue('nodes', (name) => this.#objects.reconcile(this.#node(name)), clock, log, {
      concurrency: 16,
      baseDelayMs: 200,
    });
    this.#sessions = new Sessions({
      pki,
      clock,
      log,
      sender: this.#sender,
      revocations: this.#revocations,
      formats,
      graceMs: this.#graceMs,
      node: (name) => this.#node(name),
      known: (name) => this.#nodes.get(name),
      pinnedKey: (name) => pinnedKey(this.#informers.of<Node>(nodes).get(name)),
      welcome: (n, h, hash) => ({
        ...this.#sync.welcome(n, h.d),
        ...this.#intake.welcome(n, h.e, hash),
        ...(options.registry ? { a: options.registry() } : {}),
      }),
      linked: (n) => {
        this.#sync.linked(n);
        this.#queue.add(n.name);
      },
      ended: (n) => this.#sync.ended(n),
      down: (n) => {
        this.#desired.forget(n.name);
        this.#queue.add(n.name);
      },
    });
    this.#joins = new JoinDesk({
      revocations: this.#revocations,
      client,
      pki,
      clock,
      log,
      addresses: () => this.#addresses(),
      refusal: (node, key) => this.#sessions.refusal(node, key),
      isLinked: (node) => this.isLinked(node),
      keyChanged: (node) => this.#keyChanged(node),
      formats,
      send: (topic, payload) => void bus.publish(topic, payload),
    });
  }

  /** Resolves when the bus works and the caches are filled. */
  async start(): Promise<void> {
    const nodeInformer = this.#informers.of<Node>(nodes).onChange((name, now) => {
      // Deleted and gone: forget it. One that is still linked registers again with its next hello.
      if (!now && !this.isLinked(name)) this.#forget(name);
      if (now && this.isLinked(name) && extrasDiffer(now)) this.#queue.add(name);
    });
    await this.#informers.start();
    if (!this.#o.revocations) await this.#revocations.start();
    const known = [...nodeInformer.values()].filter((n) => n.metadata?.annotations?.[KEY_ANNOTATION]);
    for (const n of known)
      this.#sessions.downAfter(this.#node(n.metadata!.name!), this.#o.startGraceMs ?? 60_000);
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
          this.#sessions.end(n);
          this.#sessions.downAfter(n, 4 * this.#graceMs);
        }
      },
    });
    this.#sweep();
    await this.#announce();
  }

  #sweep(): void {
    this.#cancelSweep = this.#clock.after(SWEEP_MS, () => {
      this.#sessions.endSilent(this.#nodes.values());
      this.#sweep();
    });
  }

  #addresses(): BusAddresses {
    const own = this.#o.addresses?.() ?? [];
    return this.#o.bus.addresses?.() ?? { node: own, join: own };
  }

  /** Tried until it is written. */
  async #announce(): Promise<void> {
    try {
      await announce(this.#o.client, { join: this.#addresses().join.join(), caHash: this.#o.pki.caHash });
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
      this.#sessions.end(n);
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
    const n = this.#linked(node, 'its logs can be read again once its agent is connected');
    const settings = this.#settingsOf(node);
    if (options.follow && settings.metered && !settings.logFollow)
      throw new ApiError(
        'Forbidden',
        `node "${node}" is metered: its logs are not followed. Leave out --follow, or allow it: ` +
          `kubectl annotate node ${node} ${LINK_PREFIX}log-follow=allowed`,
      );
    return n.streams.read('logs', options, this.#sendTo(n), signal);
  }

  async stats(node: string, options: StatsOptions, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const n = this.#nodes.get(node);
    if (!n?.session) throw new ApiError('ServiceUnavailable', `node "${node}" has no link to the hub`);
    return n.streams.read('stats', options, this.#sendTo(n), signal);
  }

  mayConnect(node: string): void {
    this.#linked(node, 'try again once its agent is connected');
    const settings = this.#settingsOf(node);
    if (settings.metered && !settings.connect)
      throw new ApiError(
        'Forbidden',
        `node "${node}" is metered: exec, attach, cp and port-forward are not let through. Allow them: ` +
          `kubectl annotate node ${node} ${LINK_PREFIX}connect=allowed`,
      );
  }

  async connect<K extends keyof ConnectOptions>(
    node: string,
    kind: K,
    options: ConnectOptions[K],
    signal: AbortSignal,
  ): Promise<NodeStream> {
    this.mayConnect(node);
    const n = this.#nodes.get(node)!;
    return n.streams.open(kind, options as StreamRequests[K], this.#sendTo(n), signal);
  }

  #linked(node: string, remedy: string): NodeLink {
    const n = this.#nodes.get(node);
    if (n?.session) return n;
    throw new ApiError('ServiceUnavailable', `node "${node}" has no link to the hub; ${remedy}`);
  }

  #settingsOf = (node: string): LinkSettings =>
    linkSettings(this.#informers.of<Node>(nodes).get(node)?.metadata?.annotations);

  #sendTo =
    (n: NodeLink) =>
    (type: number, body: unknown): void =>
      this.#sender.sealed(n, 's/d', type, body);

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
      if (frame.type === TYPE.hello) this.#sessions.hello(from.node, frame.body as Hello);
      else this.#sessions.bye(this.#nodes.get(from.node), frame.body as Bye);
      return;
    }
    const n = this.#nodes.get(from.node);
    if (!n?.session) {
      this.#sender.query(from.node);
      return;
    }
    if (from.channel === 'u' && n.unpacking.left <= 0)
      throw new WireError('more than a node may say at once; it will say it again');
    let frame: Received | undefined;
    try {
      frame = n.session.decoders[from.channel].push(payload);
    } catch (e) {
      if (e instanceof BombError) n.unpacking.take(e.size);
      throw e;
    }
    if (from.channel === 'u' && frame) n.unpacking.take(frame.size);
    n.session.heardAt = this.#clock.monotonic();
    if (!frame) return;
    if (from.channel === 's/u') {
      n.streams.receive(frame, this.#sendTo(n));
      return;
    }
    const handle = (
      {
        [TYPE.inventory]: (b) => this.#sync.inventory(n, b as Inventory),
        [TYPE.applied]: (b) => this.#sync.applied(n, b as Applied),
        [TYPE.report]: (b) => void this.#intake.report(n, b as Report),
        [TYPE.renew]: (b) => void this.#sessions.renew(n, b as Renew),
      } as Record<number, (body: unknown) => void>
    )[frame.type];
    if (!handle) {
      // A newer agent may say more than this hub understands.
      this.#log.debug({ node: n.name, type: frame.type }, 'message of an unknown type ignored');
      return;
    }
    if (typeof frame.body !== 'object' || frame.body === null) throw new WireError('empty body');
    handle(frame.body);
  }

  /** The list of revoked keys has changed. */
  #recheck(): void {
    this.#sessions.endRevoked(this.#nodes.values());
    // Once the order above has had time to leave. Nothing from that connection is listened to meanwhile.
    this.#clock.after(CUT_MS, () => this.#o.bus.recheck?.());
  }

  /** A query may be lost: three times, a few seconds apart. */
  #queryUntilLinked(name: string, attempt: number): void {
    if (this.#stopped || attempt >= 3 || this.isLinked(name)) return;
    this.#sender.query(name);
    this.#clock.after(QUERY_EVERY_MS * 2 ** attempt, () => this.#queryUntilLinked(name, attempt + 1));
  }

  /** The node joined anew with another key: what was known of the old one is void. */
  #keyChanged(name: string): void {
    const n = this.#nodes.get(name);
    if (!n) return;
    this.#sessions.forget(n);
    n.sync.held = undefined;
    n.intake.epoch = undefined;
  }

  #forget(name: string): void {
    const n = this.#nodes.get(name);
    if (!n) return;
    n.cancelDown?.();
    n.events.stop();
    this.#sessions.forget(n);
    this.#desired.forget(name);
    this.#nodes.delete(name);
  }

  #node(name: string): NodeLink {
    let n = this.#nodes.get(name);
    if (!n) {
      const log = this.#log.child({ node: name });
      const { client } = this.#o;
      const events = new EventRecorder(client, { component: 'coxswain-agent', host: name }, this.#clock, log);
      n = newNodeLink(name, this.#clock, events);
      this.#nodes.set(name, n);
    }
    return n;
  }
}
