/** A broker and a network in memory, under a virtual clock, that lose, double, delay and reorder as told. */

import type { Transport } from '../../agent/link/transport.js';
import type { Clock } from '../../api/clock.js';
import type { MqttConnection, MqttOptions } from '../../api/wire/mqtt.js';
import { HUB_SUBSCRIPTIONS } from '../../api/wire/topics.js';
import type { Bus, BusHandlers } from '../../hub/link/bus.js';

export interface Weather {
  /** Probabilities. */
  loss: number;
  double: number;
  /** Milliseconds; each message takes a random time up to it, so that messages overtake each other. */
  delay: number;
}

export const CALM: Weather = { loss: 0, double: 0, delay: 0 };

interface Peer {
  topics: readonly string[];
  deliver(topic: string, payload: Uint8Array): void;
}

export class MemoryNetwork {
  weather: Weather = CALM;
  /** Every message that was carried, for tests that replay or count. */
  readonly log: { topic: string; payload: Uint8Array }[] = [];
  readonly #peers = new Set<Peer>();
  readonly #cuts = new Map<string, Set<() => void>>();
  /** Nodes that cannot connect now. */
  readonly unreachable = new Set<string>();

  constructor(private readonly clock: Clock) {}

  send(topic: string, payload: Uint8Array): void {
    this.log.push({ topic, payload });
    const copies = this.clock.random() < this.weather.double ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (this.clock.random() < this.weather.loss) continue;
      this.clock.after(this.clock.random() * this.weather.delay, () => {
        for (const p of this.#peers) if (p.topics.some((t) => matches(t, topic))) p.deliver(topic, payload);
      });
    }
  }

  bus(): Bus {
    let peer: Peer | undefined;
    return {
      start: async (h: BusHandlers) => {
        peer = { topics: HUB_SUBSCRIPTIONS, deliver: h.message };
        this.#peers.add(peer);
        h.up();
      },
      stop: async () => {
        if (peer) this.#peers.delete(peer);
      },
      publish: async (topic, payload) => this.send(topic, payload),
    };
  }

  transport(node: string): Transport {
    return {
      connect: async (o: Pick<MqttOptions, 'subscribe' | 'will' | 'onMessage' | 'onClose'>) => {
        if (this.unreachable.has(node)) throw new Error('no route to host');
        const peer: Peer = { topics: o.subscribe, deliver: o.onMessage };
        this.#peers.add(peer);
        let open = true;
        const end = (will: boolean, tell: boolean) => {
          if (!open) return;
          open = false;
          this.#peers.delete(peer);
          this.#cuts.get(node)?.delete(cut);
          if (will && o.will) this.send(o.will.topic, o.will.payload);
          if (tell) o.onClose('cut');
        };
        const cut = () => end(true, true);
        if (!this.#cuts.has(node)) this.#cuts.set(node, new Set());
        this.#cuts.get(node)!.add(cut);
        const connection: MqttConnection = {
          publish: async (topic, payload) => {
            if (open) this.send(topic, payload);
          },
          close: async () => end(false, false),
          destroy: () => end(true, true),
        };
        return connection;
      },
    };
  }

  /** The node's connection breaks; both sides learn of it. */
  cut(node: string): void {
    for (const c of [...(this.#cuts.get(node) ?? [])]) c();
  }
}

function matches(filter: string, topic: string): boolean {
  const f = filter.split('/');
  const t = topic.split('/');
  return f.length === t.length && f.every((w, i) => w === '+' || w === t[i]);
}
