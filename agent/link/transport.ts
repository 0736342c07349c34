/** How AgentLink reaches the hub's broker: MQTT over TLS with the node's certificate. */
import { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import type { Certificate, Refused } from '../../api/wire/messages.js';
import { type MqttConnection, type MqttOptions, openMqtt } from '../../api/wire/mqtt.js';
import { KEEPALIVE_SECONDS, NODE_CN_PREFIX } from '../../api/wire/topics.js';
import { serverProblem } from '../../api/wire/trust.js';
import { dialFirst } from './dial.js';
import type { Identity } from './identity.js';
import { askForCertificate } from './renew.js';

/** The hub's broker was there and ended the connection before it had begun: it does not take this certificate. */
export class TurnedAway extends Error {}

/** How AgentLink reaches the broker; tests replace it. */
export interface Transport {
  connect(
    options: Pick<MqttOptions, 'subscribe' | 'will' | 'onMessage' | 'onClose'>,
  ): Promise<MqttConnection>;
  /** Asks at the joining door for another certificate, after {@link TurnedAway}; resolves with what the hub said. */
  renew?(): Promise<Certificate | Refused>;
}

export interface TlsTransportOptions {
  identity: Identity;
  /** Seconds, asked at each connection; default `KEEPALIVE_SECONDS`. */
  keepalive?: () => number | undefined;
  /** Told of every connection that is begun, for those who count bytes. */
  onSocket?: (socket: Socket) => void;
}

/** MQTT over TLS with the node's certificate. Resumes TLS sessions, which halves the bytes of a reconnect. */
export class TlsTransport implements Transport {
  readonly #o: TlsTransportOptions;
  readonly #ca: X509Certificate;
  #session: Buffer | undefined;
  #best: string | undefined;

  constructor(options: TlsTransportOptions) {
    this.#o = options;
    this.#ca = new X509Certificate(options.identity.ca);
  }

  async connect(
    options: Pick<MqttOptions, 'subscribe' | 'will' | 'onMessage' | 'onClose'>,
  ): Promise<MqttConnection> {
    const { identity } = this.#o;
    const others = identity.addresses.filter((a) => a !== this.#best);
    const addresses = this.#best ? [this.#best, ...others] : others;
    const session = this.#session;
    // Back when this try succeeds: a server that chokes on the ticket would otherwise be out of reach for ever.
    this.#session = undefined;
    const { socket, address } = await dialFirst(
      addresses,
      {
        ca: identity.ca,
        cert: identity.cert,
        key: identity.key.export({ type: 'pkcs8', format: 'pem' }) as string,
        ...(session ? { session } : {}),
        onSocket: this.#o.onSocket,
        onSession: (s) => {
          this.#session = s;
        },
      },
      (s) => {
        // A resumed session was judged when it was made; the server sends no certificate again.
        if (s.isSessionReused()) return undefined;
        const leaf = s.getPeerX509Certificate();
        return leaf ? serverProblem(leaf, this.#ca) : 'the broker showed no certificate';
      },
    ).catch((e: Error) => {
      // With TLS 1.2 the broker says so within the handshake; a session that it no longer knows is no such case.
      throw /alert (certificate|bad certificate|handshake failure|access denied)/i.test(e.message)
        ? new TurnedAway(e.message)
        : e;
    });
    this.#best = address;
    // A server sends no new ticket with a resumed session.
    if (socket.isSessionReused()) this.#session ??= session;
    try {
      return await openMqtt(socket, {
        ...options,
        clientId: NODE_CN_PREFIX + identity.node,
        keepalive: this.#o.keepalive?.() ?? KEEPALIVE_SECONDS,
      });
    } catch (e) {
      // Perhaps it was the session, made with a certificate that has run out since.
      this.#session = undefined;
      throw new TurnedAway(`${address}: ${(e as Error).message}`);
    }
  }

  renew(): Promise<Certificate | Refused> {
    return askForCertificate(this.#o.identity);
  }
}
