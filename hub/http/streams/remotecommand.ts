/** exec and attach between a client and a node: Kubernetes' remote command protocols, over WebSocket and over SPDY. */
import type { IncomingMessage } from 'node:http';
import type { Duplex, Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import type { Clock } from '../../../api/clock.js';
import { SpdySession, type SpdyStream } from '../../../api/spdy/session.js';
import { type StreamEnd, SUB } from '../../../api/wire/stream-end.js';
import type { AttachOptions } from '../../../api/wire/streams.js';
import type { NodeStream } from '../../streams.js';
import { WebSocketChannels } from './websocket.js';

/** The channel that tells how it ended. */
const ERROR = 3;
/** How long a client may take to open the streams that it asked for, in ms (the kubelet's default). */
const STREAMS_MS = 30_000;
/** How long a client may take to read the last of it, in ms. */
const LAST_MS = 10_000;

/** In the order in which a server prefers them; a client's order counts. */
export const WEBSOCKET_PROTOCOLS = [
  'v5.channel.k8s.io',
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  'base64.v4.channel.k8s.io',
  'channel.k8s.io',
  'base64.channel.k8s.io',
];
export const SPDY_PROTOCOLS = [
  'v4.channel.k8s.io',
  'v3.channel.k8s.io',
  'v2.channel.k8s.io',
  'channel.k8s.io',
];

/** From the fourth version on the end is told as a Status, before as a text when something went wrong. */
const tellsStatus = (protocol: string): boolean => /v[45]\./.test(protocol);

/** The client's side. */
interface Door {
  stdin?: Readable;
  stdout?: Writable;
  stderr?: Writable;
  resize?: Readable;
  /** The last word; resolves when it was handed to the network, or is lost. */
  tell(text: string): Promise<void>;
  close(): void;
  onClose(listener: () => void): void;
  /** Whether a Status is expected. */
  status: boolean;
}

interface ExecStatus {
  metadata: object;
  status: 'Success' | 'Failure';
  message?: string;
  reason?: string;
  details?: { causes: { reason?: string; message: string }[] };
  code?: number;
}

const exitStatus = (code: number): ExecStatus =>
  code === 0
    ? { metadata: {}, status: 'Success' }
    : {
        metadata: {},
        status: 'Failure',
        message: `command terminated with non-zero exit code: exit status ${code}`,
        reason: 'NonZeroExitCode',
        details: { causes: [{ reason: 'ExitCode', message: String(code) }] },
      };

/** `Internal error occurred: …` (500): what anything but an exit code becomes. */
export const failure = (why: string): ExecStatus => ({
  metadata: {},
  status: 'Failure',
  message: `Internal error occurred: ${why}`,
  reason: 'InternalError',
  details: { causes: [{ message: why }] },
  code: 500,
});

/** Joins client and node until one of them ends it. Never rejects. */
export async function serveProcess(door: Door, stream: NodeStream, clock: Clock): Promise<void> {
  const { end } = stream;
  door.onClose(() => stream.cancel());
  const quietly = (p: Promise<unknown>) => p.catch(() => {});
  if (door.stdin) void quietly(pipeline(door.stdin, end.writable(SUB.stdin, { closes: true })));
  if (door.resize) void quietly(pipeline(door.resize, end.writable(SUB.resize)));
  const outputs = [copy(end, SUB.stdout, door.stdout), copy(end, SUB.stderr, door.stderr)];
  const status = await stream.done.then(exitStatus, (e: Error) => failure(e.message));
  let cancel = () => {};
  const late = new Promise<void>((resolve) => {
    cancel = clock.after(LAST_MS, resolve);
  });
  await Promise.race([Promise.all(outputs), late]);
  cancel();
  await tellEnd(door, status);
}

/** What the node sends on a sub-channel; dropped where the client wants none. Resolves at its end, never rejects. */
async function copy(end: StreamEnd, sub: number, to: Writable | undefined): Promise<void> {
  const from = end.readable(sub);
  if (!to) {
    from.on('error', () => {}).resume();
    return;
  }
  await pipeline(from, to, { end: false }).catch(() => {});
  to.end();
  if (!to.writableFinished) await finished(to, { readable: false }).catch(() => {});
}

async function tellEnd(door: Door, status: ExecStatus): Promise<void> {
  if (door.status) await door.tell(JSON.stringify(status));
  else if (status.status === 'Failure') await door.tell(status.message ?? '');
  door.close();
}

/** Tells a client that was let in why there is nothing for it. */
export const refuseProcess = (door: Door, why: string): Promise<void> => tellEnd(door, failure(why));

export async function webSocketDoor(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  protocol: string,
  o: AttachOptions,
): Promise<Door> {
  const ws = await WebSocketChannels.accept(req, socket, head, protocol, [SUB.stdin, SUB.resize]);
  // An empty message on the lowest channel says that the connection stands.
  void ws.send(o.stdout ? SUB.stdout : o.stderr ? SUB.stderr : ERROR, Buffer.alloc(0));
  return {
    ...(o.stdin ? { stdin: ws.readable(SUB.stdin) } : {}),
    ...(o.stdout ? { stdout: ws.writable(SUB.stdout) } : {}),
    ...(o.stderr ? { stderr: ws.writable(SUB.stderr) } : {}),
    ...(o.tty ? { resize: ws.readable(SUB.resize) } : {}),
    status: tellsStatus(protocol),
    tell: (text) => ws.send(ERROR, Buffer.from(text)),
    close: () => ws.close(),
    onClose: (listener) => ws.onClose(listener),
  };
}

/** Resolves when the client has opened all its streams; rejects, with the connection closed, when it does not. */
export async function spdyDoor(
  socket: Duplex,
  protocol: string,
  o: AttachOptions,
  clock: Clock,
): Promise<Door> {
  const wanted = ['error', ...(['stdin', 'stdout', 'stderr'] as const).filter((s) => o[s])];
  if (o.tty && protocol !== 'v2.channel.k8s.io' && protocol !== 'channel.k8s.io') wanted.push('resize');
  const streams = new Map<string, SpdyStream>();
  let complete = () => {};
  const all = new Promise<boolean>((resolve) => {
    complete = () => resolve(true);
  });
  const session = new SpdySession(socket, {
    server: true,
    onStream: (s) => {
      const type = s.headers['streamtype'] ?? '';
      if (!wanted.includes(type) || streams.has(type)) throw new Error(`unexpected stream type: "${type}"`);
      streams.set(type, s);
      if (streams.size === wanted.length) complete();
    },
  });
  let cancel = () => {};
  const late = new Promise<boolean>((resolve) => {
    cancel = clock.after(STREAMS_MS, () => resolve(false));
  });
  const there = await Promise.race([all, late, session.closed.then(() => false)]);
  cancel();
  if (!there) {
    session.close();
    throw new Error('timed out waiting for client to create streams');
  }
  const { stdin, stdout, stderr, resize, error } = Object.fromEntries(streams);
  return {
    ...(stdin ? { stdin } : {}),
    ...(stdout ? { stdout } : {}),
    ...(stderr ? { stderr } : {}),
    ...(resize ? { resize } : {}),
    status: tellsStatus(protocol),
    tell: (text) => new Promise((resolve) => error!.end(text, () => resolve())),
    close: () => session.close(),
    onClose: (listener) => void session.closed.then(listener),
  };
}
