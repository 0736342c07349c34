/** A bad link between real processes: a TCP proxy on loopback whose faults are set while it runs, drawn from a seed. */
import { connect, createServer, type Socket } from 'node:net';
import { seeded } from '../../../api/testing/virtual-clock.js';

export interface Faults {
  /** One way, in milliseconds. */
  latencyMs?: number;
  /** Up to so much more, in milliseconds. Order stays: this is TCP. */
  jitterMs?: number;
  /** Share of chunks (0 … 1) that come late by `stallMs` and hold up what is behind them: lost packets as TCP shows them. */
  loss?: number;
  stallMs?: number;
  /** In each direction. */
  bytesPerSecond?: number;
  /** Nothing gets through and nobody is told: open connections and new ones are black holes, for good. */
  silent?: boolean;
}

/** What waits in one direction of one connection before its sender is slowed down, in bytes. */
const BUFFER = 64 * 1024;
/** Chunks are cut to this, so that loss and bandwidth bite on long messages too. */
const SEGMENT = 1448;

export class FaultProxy {
  faults: Faults = {};
  /** Bytes that arrived at either end so far. */
  bytes = 0;
  port = 0;
  readonly #random: () => number;
  readonly #sockets = new Set<Socket>();
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #server = createServer((near) => this.#accept(near));

  constructor(
    private readonly to: number,
    readonly seed: number,
  ) {
    this.#random = seeded(seed);
  }

  async start(): Promise<this> {
    await new Promise<void>((listening) => this.#server.listen(0, '127.0.0.1', listening));
    this.port = (this.#server.address() as { port: number }).port;
    return this;
  }

  /** Resets every connection, as a NAT that forgot them does. */
  reset(): void {
    for (const s of this.#sockets) s.resetAndDestroy();
  }

  stop(): void {
    for (const t of this.#timers) clearTimeout(t);
    for (const s of this.#sockets) s.destroy();
    this.#server.close();
  }

  #accept(near: Socket): void {
    const far = connect(this.to, '127.0.0.1');
    const link = { hole: this.faults.silent === true };
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.setNoDelay(true);
      from.on('error', () => {});
      const carry = this.#carry(from, to, link);
      from.on('data', (chunk: Buffer) => {
        for (let i = 0; i < chunk.length; i += SEGMENT) carry(chunk.subarray(i, i + SEGMENT));
      });
      from.on('close', () => {
        this.#sockets.delete(from);
        if (!link.hole && !this.faults.silent) to.destroy();
      });
    }
  }

  #carry(from: Socket, to: Socket, link: { hole: boolean }): (chunk: Buffer) => void {
    /** When the last chunk arrives; no later one does before. */
    let free = 0;
    let waiting = 0;
    return (chunk) => {
      const { latencyMs = 0, jitterMs = 0, loss = 0, stallMs = 600, bytesPerSecond, silent } = this.faults;
      if (silent) link.hole = true;
      if (link.hole) return;
      const now = performance.now();
      const lost = this.#random() < loss ? stallMs : 0;
      const sent = Math.max(now, free) + (bytesPerSecond ? (chunk.length / bytesPerSecond) * 1000 : 0);
      free = Math.max(free, sent + latencyMs + jitterMs * this.#random() + lost);
      waiting += chunk.length;
      if (waiting > BUFFER) from.pause();
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        waiting -= chunk.length;
        if (waiting <= BUFFER) from.resume();
        if (link.hole || this.faults.silent || to.destroyed) return;
        this.bytes += chunk.length;
        to.write(chunk);
      }, free - now);
      this.#timers.add(timer);
    };
  }
}
