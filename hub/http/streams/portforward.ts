/** Port-forward between a client and a node: each connection of the client is a stream of its own on the link. */
import type { IncomingMessage } from 'node:http';
import { Duplex, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Clock } from '../../../api/clock.js';
import { SpdySession, type SpdyStream } from '../../../api/spdy/session.js';
import { SUB } from '../../../api/wire/stream-end.js';
import type { PodTarget } from '../../../api/wire/streams.js';
import type { NodeStream } from '../../streams.js';
import { WebSocketChannels } from './websocket.js';

/** The protocol inside of SPDY, and the name of SPDY inside of a WebSocket. */
export const PROTOCOL = 'portforward.k8s.io';
export const TUNNEL = `SPDY/3.1+${PROTOCOL}`;
export const WEBSOCKET_PROTOCOLS = [
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  'base64.v4.channel.k8s.io',
];

/** How long both streams of a connection may take to be opened, in ms (the kubelet's default). */
const PAIR_MS = 30_000;
const MAX_PORTS = 64;

/** Connects to a port of the pod. */
export type Connect = (port: number) => Promise<NodeStream>;

/** One connection to its end: what goes wrong is told on `error`. Never rejects. */
async function forward(
  pod: PodTarget,
  port: number,
  data: Duplex,
  error: Writable,
  connect: Connect,
): Promise<void> {
  let stream: NodeStream | undefined;
  try {
    stream = await connect(port);
    const { end, cancel } = stream;
    data.once('close', cancel);
    void pipeline(data, end.writable(SUB.stdin, { closes: true })).catch(() => {});
    const down = pipeline(end.readable(SUB.stdout), data);
    // Its error is that of the stream, or of a client that has gone.
    await down.catch(() => {});
    await stream.done;
    error.end();
  } catch (e) {
    error.end(`error forwarding port ${port} to pod ${pod.pod}, uid ${pod.uid}: ${(e as Error).message}`);
    data.destroy();
  } finally {
    stream?.cancel();
  }
}

/** SPDY, on a connection of its own or in a tunnel: pairs of streams, one for data and one for errors. */
export function serveSpdy(transport: Duplex, pod: PodTarget, connect: Connect, clock: Clock): Promise<void> {
  const halves = new Map<string, { data?: SpdyStream; error?: SpdyStream; cancel: () => void }>();
  const session = new SpdySession(transport, {
    server: true,
    onStream: (s) => {
      const { port: portText = '', streamtype: type = '' } = s.headers;
      const port = Number(portText);
      if (!/^\d+$/.test(portText) || port < 1 || port > 65_535) throw new Error('"port" header is required');
      if (type !== 'data' && type !== 'error') throw new Error(`invalid stream type "${type}"`);
      // Clients without request ids open the stream for errors and then, two numbers later, the one for data.
      const request = s.headers['requestid'] ?? String(type === 'error' ? s.id : s.id - 2);
      let pair = halves.get(request);
      if (!pair) {
        const late = clock.after(PAIR_MS, () => {
          halves.get(request)?.error?.end(`timed out waiting for streams of request ${request}`);
          halves.delete(request);
        });
        pair = { cancel: late };
        halves.set(request, pair);
      }
      if (pair[type]) throw new Error(`${type} stream already assigned`);
      pair[type] = s;
      if (!pair.data || !pair.error) return;
      pair.cancel();
      halves.delete(request);
      // Nothing is read from it.
      pair.error.resume();
      void forward(pod, port, pair.data, pair.error, connect);
    },
  });
  return session.closed.then(() => {
    for (const { cancel } of halves.values()) cancel();
  });
}

/** Ports that the query names, each with two channels. It ends when all connections have. */
export async function serveWebSocket(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  protocol: string,
  ports: readonly number[],
  pod: PodTarget,
  connect: Connect,
): Promise<void> {
  const channel = (i: number) => ({ data: 2 * i, error: 2 * i + 1 });
  const some = ports.slice(0, MAX_PORTS);
  const reads = some.map((_, i) => channel(i).data);
  const ws = await WebSocketChannels.accept(req, socket, head, protocol, reads);
  await Promise.all(
    some.map(async (port, i) => {
      const { data, error } = channel(i);
      const name = Buffer.alloc(2);
      name.writeUInt16LE(port);
      await Promise.all([ws.send(data, name), ws.send(error, name)]);
      const both = Duplex.from({ readable: ws.readable(data), writable: ws.writable(data) });
      both.on('error', () => {});
      await forward(pod, port, both, ws.writable(error), connect);
    }),
  );
  ws.close();
}
