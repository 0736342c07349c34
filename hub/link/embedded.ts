/**
 * The embedded broker: aedes behind TLS. A certificate of the hub's CA names the node, and the node is held to its own
 * topics; a client without one may do nothing but join. The hub itself is in-process: what it sends goes straight to
 * the receiver's connection, so that one slow node never holds up another.
 */
import { constants, type X509Certificate } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import type { Aedes, Client, PublishPacket } from 'aedes';
import { type Clock, systemClock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { keyId } from '../../api/wire/codec.js';
import { leanPackets } from '../../api/wire/packets.js';
import {
  JOIN_ID,
  joinTopic,
  LIMITS,
  NODE_CN_PREFIX,
  nodeSubscriptions,
  nodeTopic,
  parseTopic,
} from '../../api/wire/topics.js';
import { commonName } from '../pki/issued.js';
import type { Pki } from '../pki/pki.js';
import type { Bus, BusHandlers } from './bus.js';

export interface EmbeddedOptions {
  pki: Pki;
  log: Log;
  /** Default 8883; 0 picks a free one. */
  port?: number;
  /** Address to listen on; default all. */
  host?: string;
  clock?: Clock;
}

/** Messages per second and client, and how many may come at once; who sends more is read from more slowly. */
const RATE = 1000;
const BURST = 4000;
/** Clients that have not shown a certificate, at once, and how long each may stay. */
const MAX_JOINING = 64;
const JOINING_MS = 60_000;
const MAX_CONNECTIONS = 20_000;
/** Seconds; aedes refuses clients that ask for more or for none, so that every half-open connection dies. */
const MAX_KEEPALIVE = 1200;

/** The longest that TLS 1.3 allows. */
const TICKET_SECONDS = 7 * 86_400;

interface Peer {
  id: string;
  /** Topics that it may publish to, and subscribe to. */
  up: ReadonlySet<string>;
  down: ReadonlySet<string>;
  maxPacket: number;
  burst: number;
  tokens: number;
  /** Messages read that wait for a token, in order. */
  waiting: (() => void)[];
  at: number;
}

/** aedes' client with what its types leave out. */
type Inner = Client & {
  id: string;
  _parser: { parse(b: Buffer): number; packet?: { length?: number } };
};

export class EmbeddedBroker implements Bus {
  readonly #o: EmbeddedOptions;
  readonly #peers = new WeakMap<object, Peer>();
  readonly #sockets = new Set<TLSSocket>();
  #aedes: Aedes | undefined;
  #server: Server | undefined;
  #handlers: BusHandlers | undefined;
  #joining = 0;

  constructor(options: EmbeddedOptions) {
    this.#o = options;
  }

  /** The port that it listens on. */
  get port(): number {
    return (this.#server?.address() as AddressInfo | null)?.port ?? 0;
  }

  async start(handlers: BusHandlers): Promise<void> {
    leanPackets();
    this.#handlers = handlers;
    const { Aedes } = await import('aedes');
    const { log } = this.#o;
    const broker = new Aedes({
      connectTimeout: 10_000,
      drainTimeout: 60_000,
      keepaliveLimit: MAX_KEEPALIVE,
      maxInflightInbound: 16,
      queueLimit: 42,
      preConnect: (client, packet, done) => {
        const peer = this.#identify(client as Inner, packet.clientId);
        if (!peer) {
          done(new Error('no certificate that this hub takes, and not joining'), false);
          return;
        }
        // Sessions and retained messages would only be state that others can fill.
        packet.clean = true;
        this.#peers.set(client, peer);
        this.#limitPackets(client as Inner, peer);
        done(null, true);
      },
      authenticate: (client, _user, _password, done) => {
        const peer = this.#peers.get(client);
        // The client id is the certificate's name: nobody can take over another's connection.
        if (peer) (client as Inner).id = peer.id;
        done(null, peer !== undefined);
      },
      authorizePublish: (client, packet, done) => {
        const refused = this.#mayPublish(client, packet);
        const peer = client ? this.#peers.get(client) : undefined;
        if (refused || !peer) done(refused);
        else admit(peer, done);
      },
      authorizeSubscribe: (client, sub, done) => {
        const ok = this.#peers.get(client)?.down.has(sub.topic) ?? false;
        if (!ok) log.warn({ client: client.id, topic: sub.topic }, 'subscription refused');
        done(null, ok ? { ...sub, qos: 0 } : null);
      },
      published: (packet, client, done) => {
        if (client) handlers.message(packet.topic, packet.payload as Buffer);
        done(null);
      },
    });
    broker.on('clientError', (client, e) =>
      log.debug({ client: client.id, err: e.message }, 'mqtt client error'),
    );
    broker.on('connectionError', (_c, e) => log.debug({ err: e.message }, 'mqtt connection refused'));
    (broker as unknown as NodeJS.EventEmitter).on('error', (e: Error) =>
      log.error({ err: e.message }, 'embedded broker'),
    );
    await broker.listen();
    this.#aedes = broker;
    const server = createServer(
      { ...this.#tls(), requestCert: true, rejectUnauthorized: false, handshakeTimeout: 10_000 },
      (socket) => this.#accept(socket, broker),
    );
    server.maxConnections = MAX_CONNECTIONS;
    server.on('tlsClientError', (e: Error) => log.debug({ err: e.message }, 'tls handshake failed'));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (e: NodeJS.ErrnoException) => {
        const port = this.#o.port ?? 8883;
        const hint =
          e.code === 'EADDRINUSE'
            ? `MQTT port ${port} is in use. Stop what listens there or pass --mqtt-port.`
            : '';
        broker.close();
        reject(hint ? new Error(hint, { cause: e }) : e);
      });
      server.listen(this.#o.port ?? 8883, this.#o.host, resolve);
    });
    server.on('error', (e) => log.error({ err: e.message }, 'mqtt listener'));
    handlers.up();
  }

  async stop(): Promise<void> {
    const server = this.#server;
    const broker = this.#aedes;
    this.#server = undefined;
    this.#aedes = undefined;
    if (server) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const s of this.#sockets) s.destroy();
      await closed;
    }
    if (broker) await new Promise<void>((resolve) => broker.close(resolve));
  }

  renewed(): void {
    this.#server?.setSecureContext(this.#tls());
  }

  #tls() {
    const { pki } = this.#o;
    return {
      key: pki.server.key,
      // With the CA, so that a joining device can compare it with the hash in its token.
      cert: pki.server.cert + pki.caPem,
      ca: pki.caPem,
      minVersion: 'TLSv1.2',
      // Nodes come back after hours offline, or a restart of this hub, with the cheap handshake: 1.5 KB, not 4.2.
      sessionTimeout: TICKET_SECONDS,
      ticketKeys: Buffer.concat([pki.deriveKey('tls tickets'), pki.deriveKey('tls ticket names')]).subarray(
        0,
        48,
      ),
      secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
    } as const;
  }

  recheck(): void {
    for (const socket of this.#sockets) {
      const why = this.#refusal(socket.getPeerX509Certificate());
      if (!why) continue;
      this.#o.log.warn({ from: socket.remoteAddress, why }, 'connection cut');
      socket.destroy();
    }
  }

  #refusal(cert: X509Certificate | undefined): string | undefined {
    const cn = cert && commonName(cert);
    return cn ? this.#handlers?.refusal?.(cn, keyId(cert.publicKey)) : undefined;
  }

  publish(topic: string, payload: Uint8Array): Promise<void> {
    const to = parseTopic(topic);
    const id = to && ('node' in to ? NODE_CN_PREFIX + to.node : to.join);
    const client = id
      ? (this.#aedes as unknown as { clients: Record<string, Client> } | undefined)?.clients[id]
      : undefined;
    if (!client || client.closed) return Promise.resolve();
    return new Promise((resolve) => {
      client.publish(
        { cmd: 'publish', topic, payload: payload as Buffer, qos: 0, retain: false, dup: false },
        () => resolve(),
      );
    });
  }

  #accept(socket: TLSSocket, broker: Aedes): void {
    socket.setNoDelay(true);
    this.#sockets.add(socket);
    const anonymous = !socket.authorized;
    if (anonymous) this.#joining++;
    const limit = anonymous ? setTimeout(() => socket.destroy(), JOINING_MS) : undefined;
    limit?.unref();
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#sockets.delete(socket);
      clearTimeout(limit);
      if (anonymous) this.#joining--;
    });
    if (anonymous && this.#joining > MAX_JOINING) {
      this.#o.log.warn({ joining: this.#joining }, 'too many clients without certificate');
      socket.destroy();
      return;
    }
    broker.handle(socket);
  }

  #identify(client: Inner, clientId: string): Peer | undefined {
    const socket = client.conn as TLSSocket;
    const budget = { burst: BURST, tokens: BURST, at: performance.now(), waiting: [] };
    if (!socket.authorized) {
      // A certificate that does not verify is no way in either: only joining is open to all.
      if (!JOIN_ID.test(clientId)) return undefined;
      return {
        id: clientId,
        up: new Set([joinTopic(clientId, 'u')]),
        down: new Set([joinTopic(clientId, 'd')]),
        maxPacket: LIMITS.join,
        ...budget,
        burst: 20,
        tokens: 20,
      };
    }
    const cert = socket.getPeerX509Certificate();
    const cn = cert && commonName(cert);
    if (!cert || !cn?.startsWith(NODE_CN_PREFIX)) return undefined;
    // Within a resumed session nobody has looked at it again.
    const expired = Date.parse(cert.validTo) < (this.#o.clock ?? systemClock).now();
    const why = expired ? `it expired on ${cert.validTo}` : this.#refusal(cert);
    if (why) {
      this.#o.log.warn({ client: cn, why }, 'certificate refused');
      return undefined;
    }
    const node = cn.slice(NODE_CN_PREFIX.length);
    return {
      id: cn,
      up: new Set([nodeTopic(node, 'u'), nodeTopic(node, 's/u')]),
      down: new Set(nodeSubscriptions(node)),
      maxPacket: LIMITS.frame + 1024,
      ...budget,
    };
  }

  #mayPublish(client: Client | null, packet: PublishPacket): Error | null {
    const peer = client ? this.#peers.get(client) : undefined;
    if (!peer) return client ? new Error('unknown client') : null;
    if (!peer.up.has(packet.topic)) {
      this.#o.log.warn({ client: peer.id, topic: packet.topic }, 'publication refused');
      return new Error(`${peer.id} may not publish to ${packet.topic}`);
    }
    packet.retain = false;
    return null;
  }

  /** aedes' parser collects a packet of any announced length; this one ends the connection instead. */
  #limitPackets(client: Inner, peer: Peer): void {
    const parser = client._parser;
    const parse = parser.parse.bind(parser);
    parser.parse = (chunk) => {
      const left = parse(chunk);
      const announced = parser.packet?.length ?? 0;
      if (announced > peer.maxPacket)
        (client.conn as TLSSocket).destroy(
          new Error(`packet of ${announced} bytes; at most ${peer.maxPacket} are allowed`),
        );
      return left;
    };
  }
}

function takeToken(p: Peer): boolean {
  const now = performance.now();
  p.tokens = Math.min(p.burst, p.tokens + ((now - p.at) / 1000) * RATE);
  p.at = now;
  if (p.tokens < 1) return false;
  p.tokens--;
  return true;
}

/**
 * Calls `go` once the client has a token, in order. aedes reads on from the socket when all that it has read is let
 * go, so what waits is bounded by one read.
 */
function admit(p: Peer, go: () => void): void {
  if (p.waiting.length === 0 && takeToken(p)) {
    go();
    return;
  }
  if (p.waiting.push(go) > 1) return;
  const drain = () => {
    while (p.waiting.length > 0 && takeToken(p)) p.waiting.shift()!();
    if (p.waiting.length > 0) setTimeout(drain, 1000 / RATE).unref();
  };
  setTimeout(drain, 1000 / RATE).unref();
}
