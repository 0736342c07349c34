/** One MQTT 3.1.1 connection over a socket that the caller dialled: no reconnecting, no queue, QoS 0. */
import { createRequire } from 'node:module';
import type { Duplex } from 'node:stream';

import { leanPackets } from './packets.js';
import { LIMITS } from './topics.js';

leanPackets();
// The client alone: the package's main entry loads WebSockets and more, 4 MB that nobody here uses. Through require,
// since it is CommonJS whose default export every loader wraps differently.
const { default: MqttClient } = createRequire(import.meta.url)(
  'mqtt/lib/client',
) as typeof import('mqtt/lib/client');

export interface MqttOptions {
  clientId: string;
  /** Seconds. */
  keepalive: number;
  subscribe: readonly string[];
  will?: { topic: string; payload: Uint8Array };
  /** Milliseconds for CONNACK and SUBACK together. Default 15,000. */
  timeoutMs?: number;
  onMessage(topic: string, payload: Uint8Array): void;
  /** Once, however it ended; never before `openMqtt` has resolved. */
  onClose(reason: string): void;
}

export interface MqttConnection {
  /** Resolves when handed to the socket (or when the connection is gone). */
  publish(topic: string, payload: Uint8Array): Promise<void>;
  /** Ends it without a last will; resolves when closed. */
  close(): Promise<void>;
  /** Ends it at once, as a cut cable would. */
  destroy(): void;
}

/** CONNACK return codes (MQTT 3.1.1, table 3.1). */
const REFUSALS: Record<number, string> = {
  1: 'the broker does not speak MQTT 3.1.1',
  2: 'the broker refused the client id',
  3: 'the broker is not available',
  4: 'the broker refused user name or password',
  5: 'the broker does not authorize this client',
};

/** Connects and subscribes. Rejects with an Error that says why not; the socket is gone then. */
export function openMqtt(socket: Duplex, options: MqttOptions): Promise<MqttConnection> {
  return new Promise((resolve, reject) => {
    const client = new MqttClient(() => socket as never, {
      clientId: options.clientId,
      clean: true,
      protocolVersion: 4,
      keepalive: options.keepalive,
      reconnectPeriod: 0,
      connectTimeout: options.timeoutMs ?? 15_000,
      queueQoSZero: false,
      resubscribe: false,
      writeCache: false,
      ...(options.will
        ? {
            will: {
              topic: options.will.topic,
              payload: Buffer.from(options.will.payload),
              qos: 0 as const,
              retain: false,
            },
          }
        : {}),
    });
    let open = false;
    let over = false;
    let why = 'connection closed';
    const finish = () => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      // TLS' own goodbye gets a moment to leave: a server that misses it forgets the session that it keeps (OpenSSL),
      // and the next connection costs three times as much.
      socket.end();
      setImmediate(() => {
        client.end(true);
        socket.destroy();
      });
      if (open) options.onClose(why);
      else reject(new Error(why));
    };
    const timer = setTimeout(() => {
      why = 'the broker did not answer in time';
      finish();
    }, options.timeoutMs ?? 15_000);
    client.on('error', (e) => {
      const code = (e as { code?: unknown }).code;
      why = (typeof code === 'number' && REFUSALS[code]) || e.message;
      finish();
    });
    client.on('close', finish);
    client.on('offline', finish);
    client.on('message', (topic, payload) => {
      if (!over && payload.length <= LIMITS.frame) options.onMessage(topic, payload);
    });
    client.on('connect', () => {
      client.subscribe([...options.subscribe], { qos: 0 }, (err, granted) => {
        if (over) return;
        const refused = granted?.find((g) => g.qos === 128);
        if (err || refused) {
          why = `the broker refused the subscription to ${refused?.topic ?? options.subscribe.join()}`;
          finish();
          return;
        }
        clearTimeout(timer);
        open = true;
        resolve({
          publish: (topic, payload) =>
            new Promise((done) => {
              if (over) done();
              else client.publish(topic, payload as Buffer, { qos: 0 }, () => done());
            }),
          close: () =>
            new Promise((done) => {
              if (over) return done();
              why = 'closed by this side';
              client.end(false, {}, () => {
                finish();
                done();
              });
            }),
          destroy: finish,
        });
      });
    });
  });
}
