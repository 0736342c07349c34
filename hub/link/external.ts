/** A broker of one's own (`--broker mqtts://host:port`), reached with the hub's client certificate. Reconnects for ever. */
import { connect as tlsConnect } from 'node:tls';
import { type Clock, systemClock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import type { MqttConnection } from '../../api/wire/mqtt.js';
import { HUB_SUBSCRIPTIONS } from '../../api/wire/topics.js';
import { HUB_CN, type Pki } from '../pki/pki.js';
import type { Bus, BusAddresses, BusHandlers } from './bus.js';

export interface ExternalOptions {
  /** `mqtts://host[:port]`; port 8883 when it names none. */
  url: string;
  pki: Pki;
  log: Log;
  clock?: Clock;
  /** Seconds; default 30: the hub must know soon when it has lost its broker. */
  keepalive?: number;
}

const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 15_000;
/** Messages handed over while the socket is not taking any; more are dropped, and the protocol sends them again. */
const MAX_WAITING = 4096;

/**
 * An `mqtts:` URL. Devices join at the port after the broker's, or at the one that `?join=` names: where certificates
 * are asked for, mosquitto has no way in without one. Throws an Error that names the flag.
 */
export function parseBrokerUrl(url: string): { host: string; port: number; joinPort: number } {
  let u: URL;
  try {
    u = new URL(url);
  } catch {
    throw new Error(`--broker ${url}: not a URL; give mqtts://host:port`);
  }
  if (u.protocol !== 'mqtts:')
    throw new Error(`--broker ${url}: only mqtts:// (MQTT over TLS with certificates) is served`);
  const port = u.port ? Number(u.port) : 8883;
  const joinPort = Number(u.searchParams.get('join') ?? port + 1);
  if (!Number.isInteger(joinPort) || joinPort < 1 || joinPort > 65535)
    throw new Error(`--broker ${url}: join= must be a port`);
  return { host: u.hostname.replace(/^\[|\]$/g, ''), port, joinPort };
}

export class ExternalBus implements Bus {
  readonly #o: ExternalOptions;
  readonly #clock: Clock;
  readonly #address: { host: string; port: number; joinPort: number };
  #connection: MqttConnection | undefined;
  #handlers: BusHandlers | undefined;
  #stopped = false;
  #failures = 0;
  #waiting = 0;
  #cancelRetry: (() => void) | undefined;

  constructor(options: ExternalOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
    this.#address = parseBrokerUrl(options.url);
  }

  addresses(): BusAddresses {
    const { host, port, joinPort } = this.#address;
    const h = host.includes(':') ? `[${host}]` : host;
    return { node: [`${h}:${port}`], join: [`${h}:${joinPort}`] };
  }

  async start(handlers: BusHandlers): Promise<void> {
    this.#handlers = handlers;
    await this.#dial();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelRetry?.();
    await this.#connection?.close();
    this.#connection = undefined;
  }

  async publish(topic: string, payload: Uint8Array): Promise<void> {
    const c = this.#connection;
    if (!c || this.#waiting >= MAX_WAITING) return;
    this.#waiting++;
    try {
      await c.publish(topic, payload);
    } finally {
      this.#waiting--;
    }
  }

  async #dial(): Promise<void> {
    const { pki, log, url } = this.#o;
    try {
      const { openMqtt } = await import('../../api/wire/mqtt.js');
      const socket = tlsConnect({
        host: this.#address.host,
        port: this.#address.port,
        ca: pki.caPem,
        ...(await pki.brokerClient()),
        // Any server with a certificate of the hub's own CA may be the broker, under whatever name it is reached.
        checkServerIdentity: () => undefined,
      });
      socket.setNoDelay(true);
      const connection = await openMqtt(socket, {
        clientId: HUB_CN,
        keepalive: this.#o.keepalive ?? 30,
        subscribe: HUB_SUBSCRIPTIONS,
        onMessage: (topic, payload) => this.#handlers!.message(topic, payload),
        onClose: (reason) => {
          this.#connection = undefined;
          if (this.#stopped) return;
          log.warn({ broker: url, reason }, 'lost the broker');
          this.#handlers!.down();
          this.#retry();
        },
      });
      if (this.#stopped) {
        await connection.close();
        return;
      }
      this.#connection = connection;
      this.#failures = 0;
      log.info({ broker: url }, 'connected to the broker');
      this.#handlers!.up();
    } catch (e) {
      if (this.#stopped) return;
      log.warn({ broker: url, err: (e as Error).message }, 'cannot reach the broker');
      this.#retry();
    }
  }

  #retry(): void {
    const ms = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.#failures++);
    this.#cancelRetry = this.#clock.after(ms * (0.5 + this.#clock.random() / 2), () => void this.#dial());
  }
}
