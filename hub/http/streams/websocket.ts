/** Kubernetes' channels over a WebSocket: each message begins with the number of its channel (wsstream/conn.go). */
import type { IncomingMessage } from 'node:http';
import { type Duplex, Readable, Writable } from 'node:stream';
import { createWebSocketStream, type WebSocket, WebSocketServer } from 'ws';

/** Of one message. */
const MAX_MESSAGE = 1 << 20;
const CLOSE = 255;
const NORMAL = 1000;
/** Bytes of one channel that nobody has read, before the client has to wait. */
const UNREAD = 64 * 1024;

const server = new WebSocketServer({
  noServer: true,
  maxPayload: MAX_MESSAGE,
  perMessageDeflate: false,
  clientTracking: false,
});

/** Resolves with the connection; never, when the client's request is no WebSocket's (it has been told then). */
function accept(req: IncomingMessage, socket: Duplex, head: Buffer, protocol: string): Promise<WebSocket> {
  // Only what was agreed on is left to choose from.
  if (protocol) req.headers['sec-websocket-protocol'] = protocol;
  else delete req.headers['sec-websocket-protocol'];
  return new Promise((resolve) => server.handleUpgrade(req, socket, head, resolve));
}

/** The connection itself, for whoever sends messages without channels. What breaks it shows in its end. */
export async function acceptMessages(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  protocol: string,
): Promise<WebSocket> {
  const ws = await accept(req, socket, head, protocol);
  ws.on('error', () => {});
  return ws;
}

/** The connection as a stream of bytes, for what is tunnelled through it. */
export async function acceptTunnel(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  protocol: string,
): Promise<Duplex> {
  const tunnel = createWebSocketStream(await accept(req, socket, head, protocol));
  tunnel.on('error', () => {});
  return tunnel;
}

export class WebSocketChannels {
  readonly #readers = new Map<number, Readable>();
  readonly #base64: boolean;

  private constructor(
    private readonly ws: WebSocket,
    protocol: string,
    reads: readonly number[],
  ) {
    this.#base64 = protocol.startsWith('base64.') || protocol.includes('.base64.');
    const closes = protocol === 'v5.channel.k8s.io';
    for (const n of reads) {
      const r = new Readable({ highWaterMark: UNREAD, read: () => ws.resume() });
      r.on('error', () => {});
      this.#readers.set(n, r);
    }
    ws.on('message', (data: Buffer) => {
      const [channel, bytes] = this.#unpack(data);
      if (closes && channel === CLOSE) this.#readers.get(bytes[0] ?? -1)?.push(null);
      else {
        const r = this.#readers.get(channel);
        if (r && !r.destroyed && !r.readableEnded && bytes.length > 0 && !r.push(bytes)) ws.pause();
      }
    });
    ws.on('error', () => {});
    ws.once('close', () => {
      for (const r of this.#readers.values()) r.destroy();
    });
  }

  /** `reads`: the channels on which the client may send. */
  static async accept(
    req: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    protocol: string,
    reads: readonly number[],
  ): Promise<WebSocketChannels> {
    return new WebSocketChannels(await accept(req, socket, head, protocol), protocol, reads);
  }

  readable(channel: number): Readable {
    return this.#readers.get(channel)!;
  }

  writable(channel: number): Writable {
    const w = new Writable({
      write: (chunk: Buffer, _encoding, done) =>
        this.ws.send(this.#pack(channel, chunk), (e) => done(e ?? null)),
    });
    w.on('error', () => {});
    return w;
  }

  /** Resolves when it was handed to the network, or is lost. */
  send(channel: number, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => this.ws.send(this.#pack(channel, bytes), () => resolve()));
  }

  onClose(listener: () => void): void {
    this.ws.once('close', listener);
  }

  close(): void {
    this.ws.close(NORMAL);
    // The client's part of the goodbye is to be read.
    this.ws.resume();
  }

  #pack(channel: number, bytes: Uint8Array): Buffer | string {
    return this.#base64
      ? `${channel}${Buffer.from(bytes).toString('base64')}`
      : Buffer.concat([Uint8Array.of(channel), bytes]);
  }

  #unpack(data: Buffer): [channel: number, bytes: Buffer] {
    const first = data[0] ?? -1;
    return this.#base64
      ? [first - 48, Buffer.from(data.toString('latin1', 1), 'base64')]
      : [first, data.subarray(1)];
  }
}
