/**
 * A broker and the connections to it. Within one connection messages keep their order, as over TCP, unless the weather
 * says otherwise: loss, doubling and overtaking stand for brokers that do so (QoS 0, bridges, queues that overflow).
 */
import type { Transport } from '../../../agent/link/transport.js';
import type { VirtualClock } from '../../../api/testing/virtual-clock.js';
import type { MqttConnection } from '../../../api/wire/mqtt.js';
import { HUB_SUBSCRIPTIONS, KEEPALIVE_SECONDS } from '../../../api/wire/topics.js';
import type { Bus, BusHandlers } from '../../../hub/link/bus.js';
import type { SimProcess } from './process.js';

export interface Weather {
  /** Probabilities per message. */
  loss: number;
  double: number;
  /** Share of messages that may overtake others. */
  overtake: number;
  /** Milliseconds, at most. */
  delay: number;
}

export const CALM: Weather = { loss: 0, double: 0, overtake: 0, delay: 20 };

/** The client gives up at about this, the broker after half as long again (MQTT 3.1.1, 3.1.2.10). */
const SILENT_MS = KEEPALIVE_SECONDS * 1500;
const CONNECT_TIMEOUT_MS = 20_000;
const MAX_UNDERWAY = 20_000;

interface Connection {
  client: string;
  /** Answers for both ends; the client's code runs in it. */
  process: SimProcess;
  topics: readonly string[];
  will?: { topic: string; payload: Uint8Array };
  deliver(topic: string, payload: Uint8Array): void;
  /** The client's end noticed that it is over. */
  ended(reason: string): void;
  /** What each end believes. */
  clientOpen: boolean;
  brokerOpen: boolean;
  /** Nothing gets through, and nobody has noticed yet. */
  silent: boolean;
  /** When the last message to and from the client arrives. */
  lastDown: number;
  lastUp: number;
}

export class SimNetwork {
  weather: Weather = CALM;
  up = true;
  readonly partitioned = new Set<string>();
  /** Messages on their way. */
  underway = 0;
  maxUnderway = 0;
  carried = 0;
  bytes = 0;
  readonly #connections = new Set<Connection>();

  constructor(
    private readonly clock: VirtualClock,
    private readonly trace: (line: string) => void,
  ) {}

  /** Open as the broker sees it. */
  get connections(): number {
    return this.#connections.size;
  }

  #publish(from: Connection | undefined, topic: string, payload: Uint8Array): void {
    if (from && (from.silent || !from.brokerOpen || this.partitioned.has(from.client))) return;
    const { weather, clock } = this;
    this.trace(`msg ${topic} ${payload[2]}`);
    this.carried++;
    this.bytes += payload.length;
    const copies = clock.random() < weather.double ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (clock.random() < weather.loss || this.underway >= MAX_UNDERWAY) continue;
      this.underway++;
      this.maxUnderway = Math.max(this.maxUnderway, this.underway);
      const free = clock.random() < weather.overtake;
      let at = clock.monotonic() + clock.random() * weather.delay * (free ? 3 : 1);
      if (from && !free) {
        at = Math.max(at, from.lastUp);
        from.lastUp = at;
      }
      clock.after(at - clock.monotonic(), () => {
        this.underway--;
        if (!this.up || (from && !from.brokerOpen)) return;
        for (const c of [...this.#connections])
          if (c.brokerOpen && c.topics.some((t) => matches(t, topic))) this.#deliver(c, topic, payload, free);
      });
    }
  }

  #deliver(c: Connection, topic: string, payload: Uint8Array, free: boolean): void {
    if (c.silent || this.partitioned.has(c.client)) return;
    let at = this.clock.monotonic() + this.clock.random() * this.weather.delay;
    if (!free) {
      at = Math.max(at, c.lastDown);
      c.lastDown = at;
    }
    this.clock.after(at - this.clock.monotonic(), () => {
      if (c.clientOpen && c.brokerOpen && !c.silent) c.process.run(() => c.deliver(topic, payload));
    });
  }

  #open(c: Pick<Connection, 'client' | 'process' | 'topics' | 'will' | 'deliver' | 'ended'>): Connection {
    // MQTT 3.1.1, 3.1.4: a second connection of a client id ends the first.
    for (const old of [...this.#connections]) if (old.client === c.client) this.#closeBroker(old, true);
    const connection: Connection = {
      ...c,
      clientOpen: true,
      brokerOpen: true,
      silent: false,
      lastDown: 0,
      lastUp: 0,
    };
    this.#connections.add(connection);
    void c.process.died.then(() => {
      // The kernel of a machine that still runs says so; one without power says nothing.
      if (connection.silent) connection.clientOpen = false;
      else this.#cut(connection, true);
    });
    return connection;
  }

  #closeBroker(c: Connection, will: boolean): void {
    if (!c.brokerOpen) return;
    c.brokerOpen = false;
    this.#connections.delete(c);
    if (will && c.will && this.up) this.#publish(undefined, c.will.topic, c.will.payload);
    // The client hears of it, if anything gets through.
    if (!c.silent && !this.partitioned.has(c.client))
      this.clock.after(1, () => this.#closeClient(c, 'the broker closed it'));
    else this.clock.after(SILENT_MS, () => this.#closeClient(c, 'no answer to pings'));
  }

  #closeClient(c: Connection, why: string): void {
    if (!c.clientOpen) return;
    c.clientOpen = false;
    c.process.run(() => c.ended(why));
  }

  /** Both ends learn of it at once. */
  #cut(c: Connection, will: boolean): void {
    this.#closeBroker(c, will);
    this.#closeClient(c, 'cut');
  }

  /** Nothing gets through any more and each end finds out for itself, much later. */
  #hush(c: Connection): void {
    if (c.silent) return;
    c.silent = true;
    this.clock.after(SILENT_MS * (0.6 + this.clock.random()), () =>
      this.#closeClient(c, 'no answer to pings'),
    );
    this.clock.after(SILENT_MS * (0.6 + this.clock.random()), () => this.#closeBroker(c, true));
  }

  #of(client: string): Connection[] {
    return [...this.#connections].filter((c) => c.client === client);
  }

  cut(client: string): void {
    for (const c of this.#of(client)) this.#cut(c, true);
  }

  hush(client: string): void {
    for (const c of this.#of(client)) this.#hush(c);
  }

  /** No path to the broker until `heal`. */
  partition(client: string): void {
    this.partitioned.add(client);
    for (const c of this.#of(client)) this.#hush(c);
  }

  heal(client?: string): void {
    if (client === undefined) this.partitioned.clear();
    else this.partitioned.delete(client);
  }

  /** The broker dies and forgets everything; back with `start`. */
  stop(): void {
    this.up = false;
    for (const c of [...this.#connections]) this.#cut(c, false);
  }

  start(): void {
    this.up = true;
  }

  #client(name: string, process: SimProcess) {
    return async (
      o: Pick<Parameters<Transport['connect']>[0], 'subscribe' | 'will' | 'onMessage' | 'onClose'>,
    ): Promise<MqttConnection> => {
      const wait = (ms: number) => new Promise<void>((resolve) => void process.after(ms, resolve));
      await wait(1 + this.clock.random() * this.weather.delay);
      if (this.partitioned.has(name)) {
        await wait(CONNECT_TIMEOUT_MS);
        throw new Error('no answer');
      }
      if (!this.up) throw new Error('connection refused');
      const c = this.#open({
        client: name,
        process,
        topics: o.subscribe,
        ...(o.will ? { will: o.will } : {}),
        deliver: o.onMessage,
        ended: o.onClose,
      });
      return {
        publish: async (topic, payload) => {
          if (c.clientOpen && process.alive) this.#publish(c, topic, payload);
        },
        close: async () => {
          c.clientOpen = false;
          // What was published before still goes out.
          this.clock.after(Math.max(0, c.lastUp - this.clock.monotonic()) + 1, () =>
            this.#closeBroker(c, false),
          );
        },
        destroy: () => this.#cut(c, true),
      };
    };
  }

  transport(name: string, process: SimProcess): Transport {
    return { connect: this.#client(name, process) };
  }

  /** The hub's end: reconnects by itself, as an external broker's bus does. */
  bus(process: SimProcess): Bus {
    let connection: MqttConnection | undefined;
    let stopped = false;
    const connect = this.#client('hub', process);
    const dial = async (h: BusHandlers): Promise<void> => {
      if (stopped) return;
      try {
        connection = await connect({
          subscribe: HUB_SUBSCRIPTIONS,
          onMessage: h.message,
          onClose: () => {
            connection = undefined;
            if (stopped) return;
            h.down();
            process.after(500 + process.random() * 500, () => void dial(h));
          },
        });
        h.up();
      } catch {
        process.after(500 + process.random() * 1500, () => void dial(h));
      }
    };
    return {
      start: async (h) => void dial(h),
      stop: async () => {
        stopped = true;
        await connection?.close();
      },
      publish: async (topic, payload) => {
        await connection?.publish(topic, payload);
      },
    };
  }
}

function matches(filter: string, topic: string): boolean {
  const f = filter.split('/');
  const t = topic.split('/');
  return f.length === t.length && f.every((w, i) => w === '+' || w === t[i]);
}
