import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { IoError, type Outside, type Sink, type Source } from './io.js';
import { type Address, type Command, type NetEvent, WINDOW } from './net-worker.js';

/** The program is bundled to one CommonJS file, which the network's thread runs as well. */
declare const __filename: string;

type Without<T> = T extends unknown ? Omit<T, 'id'> : never;

/** How long the guest's end waits for what it has written to go out. */
const DRAIN_MS = 2000;

/** The guest's side of its network. The thread behind it starts with the first use. */
export class Network implements Outside {
  readonly #signal = new Int32Array(new SharedArrayBuffer(4));
  readonly #channels = new Map<number, Channel>();
  #port: MessagePort | undefined;
  #seen = 0;
  #last = -1;

  open(): Channel {
    this.#last += 2;
    return this.#made(this.#last);
  }

  #made(id: number): Channel {
    const channel = new Channel(this, id);
    this.#channels.set(id, channel);
    return channel;
  }

  forget(channel: Channel): void {
    this.#channels.delete(channel.id);
  }

  send(command: Command, transfer: ArrayBuffer[] = []): void {
    this.#port ??= this.#start();
    this.#port.postMessage(command, transfer);
  }

  #start(): MessagePort {
    const { port1, port2 } = new MessageChannel();
    new Worker(__filename, {
      workerData: { port: port2, signal: this.#signal },
      transferList: [port2],
      env: {},
      resourceLimits: { maxOldGenerationSizeMb: 48, maxYoungGenerationSizeMb: 2, stackSizeMb: 1 },
    }).unref();
    return port1;
  }

  pump(): void {
    if (!this.#port) return;
    this.#seen = Atomics.load(this.#signal, 0);
    for (;;) {
      const received = receiveMessageOnPort(this.#port) as { message: NetEvent } | undefined;
      if (!received) return;
      const e = received.message;
      if (e.is === 'broken') throw new Error(`the network failed: ${e.message}`);
      const channel = this.#channels.get(e.id);
      if (e.is === 'accept') {
        // Dropped meanwhile by the guest: so is what came.
        if (!channel) this.send({ id: e.child, do: 'close' });
        else channel.accepted.push(this.#made(e.child).connected(e));
      } else channel?.happened(e);
    }
  }

  sleep(ms: number): void {
    Atomics.wait(this.#signal, 0, this.#seen, ms);
  }

  /** Before the guest's end: a kernel would still send what was written. */
  drain(): void {
    const end = performance.now() + DRAIN_MS;
    for (;;) {
      this.pump();
      const left = end - performance.now();
      if (left <= 0 || ![...this.#channels.values()].some((c) => !c.flushed())) return;
      this.sleep(left);
    }
  }
}

/** A response's head. */
export interface Head {
  status: number;
  headers: [string, string][];
}

/** One connection, listener, datagram socket, lookup or request: what is known of it, and what waits to be read. */
export class Channel implements Source, Sink {
  local: Address | undefined;
  remote: Address | undefined;
  /** POSIX's code, Node's, or one of wasi:http. */
  error: { code: string; message: string } | undefined;
  readonly accepted: Channel[] = [];
  readonly datagrams: { bytes: Uint8Array; from: Address }[] = [];
  addresses: { host: string; v6: boolean }[] | undefined;
  head: Head | undefined;
  trailers: [string, string][] = [];
  ended = false;
  /** Set for bodies: wasi:http's code for an error. */
  httpCode: ((error: { code: string; message: string }) => unknown) | undefined;
  /** Commands that wait until the channel exists on the other side. */
  #held: Command[] | undefined;
  #chunks: Uint8Array[] = [];
  #outstanding = 0;
  #shut = false;
  #discards = false;
  /** The guest's handles on it: closed with the last one. */
  #holders = 0;

  constructor(
    private readonly network: Network,
    readonly id: number,
  ) {}

  send(command: Without<Command>): void {
    const whole = { id: this.id, ...command } as Command;
    if (this.#held) this.#held.push(whole);
    else this.network.send(whole);
  }

  /** Keeps commands back until {@link release}. */
  hold(): void {
    this.#held = [];
  }
  /** Sends `first`, then what was kept back. */
  release(first: Without<Command>): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    this.send(first);
    for (const c of held) this.network.send(c);
  }

  /** `resource` is one of those that keep the channel open. */
  keptBy<T extends object>(resource: T, dropped: () => void = () => {}): T {
    this.#holders++;
    let held = true;
    Object.defineProperty(resource, Symbol.dispose, {
      value: () => {
        if (!held) return;
        held = false;
        dropped();
        if (--this.#holders === 0) this.close();
      },
    });
    return resource;
  }
  close(): void {
    this.network.forget(this);
    // Never used: nothing is there to close.
    if (this.#held) return;
    this.send({ do: 'close' });
  }

  connected({ local, remote }: { local: Address; remote: Address }): this {
    this.local = local;
    this.remote = remote;
    return this;
  }

  happened(e: NetEvent): void {
    if (e.is === 'data') {
      if (this.#discards) this.send({ do: 'credit', count: e.bytes.length });
      else this.#chunks.push(e.bytes);
    } else if (e.is === 'wrote') this.#outstanding -= e.count;
    else if (e.is === 'end') {
      this.ended = true;
      this.trailers = e.trailers ?? [];
    } else if (e.is === 'error') {
      this.error = { code: e.code, message: e.message };
      this.#outstanding = 0;
    } else if (e.is === 'bound') this.local = e.local;
    else if (e.is === 'connected') this.connected(e);
    else if (e.is === 'datagram') this.datagrams.push({ bytes: e.bytes, from: e.from });
    else if (e.is === 'resolved') this.addresses = e.addresses;
    else if (e.is === 'response') this.head = { status: e.status, headers: e.headers };
  }

  #fail(): never {
    const { code } = this.error!;
    throw new IoError(code, this.httpCode?.(this.error!));
  }

  ready(): boolean {
    return this.#chunks.length > 0 || this.ended || this.error !== undefined;
  }
  read(length: number): Uint8Array | undefined {
    const first = this.#chunks[0];
    if (!first) {
      if (this.ended) return new Uint8Array(0);
      return this.error ? this.#fail() : undefined;
    }
    const part = first.subarray(0, length);
    if (part.length < first.length) this.#chunks[0] = first.subarray(length);
    else this.#chunks.shift();
    this.send({ do: 'credit', count: part.length });
    return part;
  }
  /** Whatever has come and comes yet is not for the guest. */
  discard(): void {
    this.#discards = true;
    for (const chunk of this.#chunks.splice(0)) this.send({ do: 'credit', count: chunk.length });
  }
  shutReceive(): void {
    this.discard();
    this.ended = true;
  }

  room(): number {
    if (this.#shut) throw new IoError('EPIPE', this.httpCode?.({ code: 'EPIPE', message: '' }));
    if (this.error) this.#fail();
    return Math.max(0, WINDOW - this.#outstanding);
  }
  write(bytes: Uint8Array): void {
    this.#outstanding += bytes.length;
    this.send({ do: 'write', bytes });
  }
  flushed(): boolean {
    // What is held back goes once the guest says whereto: it must not wait for that.
    return this.#outstanding <= 0 || this.error !== undefined || this.#held !== undefined;
  }
  end(trailers: [string, string][] = []): void {
    if (this.#shut) return;
    this.#shut = true;
    this.send({ do: 'end', trailers });
  }

  datagram(bytes: Uint8Array, to: Address): void {
    this.#outstanding += bytes.length + 1;
    this.send({ do: 'send', bytes, to });
  }
}
