/**
 * A container runtime's streaming server: exec, attach and port-forward answer with a URL, and what is behind it speaks
 * SPDY/3.1 on the loopback interface (containerd and CRI-O both use Kubernetes' own server for it).
 */
import type { IncomingMessage } from 'node:http';
import { Duplex, type Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { SpdySession } from '../../api/spdy/session.js';
import { type ProcessStreams, ShimError } from '../shim.js';

const MAX_ERROR = 4096;
/** How long the server may take to let us in, in ms. */
const UPGRADE_MS = 30_000;

const failed = (message: string, cause?: unknown): ShimError =>
  new ShimError('RunContainerError', message, { cause });

/** Rejects with ShimError when the server does not want to. */
async function connect(url: string, protocol: string, signal: AbortSignal): Promise<SpdySession> {
  const secure = url.startsWith('https:');
  const { request } = secure ? await import('node:https') : await import('node:http');
  return new Promise((resolve, reject) => {
    const req = request(url, {
      method: 'POST',
      agent: false,
      timeout: UPGRADE_MS,
      signal,
      // Its certificate is its own; it is reached at the loopback interface, with the token in the URL.
      ...(secure ? { rejectUnauthorized: false } : {}),
      headers: { connection: 'Upgrade', upgrade: 'SPDY/3.1', 'x-stream-protocol-version': protocol },
    });
    req.once('error', (e) => reject(failed(`cannot reach the container runtime's streams: ${e.message}`, e)));
    req.once('timeout', () => req.destroy(new Error('no answer')));
    req.once('response', (res: IncomingMessage) => {
      text(res).then(
        (body) => reject(failed(`${res.statusCode}: ${body.trim().slice(0, MAX_ERROR)}`)),
        (e: Error) => reject(failed(e.message, e)),
      );
    });
    req.once('upgrade', (_res, socket, head) => {
      socket.setTimeout(0);
      if (head.length > 0) socket.unshift(head);
      const session = new SpdySession(socket, { server: false });
      const gone = () => session.close();
      signal.addEventListener('abort', gone, { once: true });
      void session.closed.then(() => signal.removeEventListener('abort', gone));
      resolve(session);
    });
    req.end();
  });
}

/** What an error stream says until it ends, however that is. */
async function lastWords(stream: Readable): Promise<string> {
  let said = '';
  try {
    for await (const chunk of stream) said = (said + String(chunk)).slice(0, MAX_ERROR);
  } catch {
    // The connection is gone; what was said counts.
  }
  return said;
}

interface Status {
  status?: string;
  reason?: string;
  message?: string;
  details?: { causes?: { reason?: string; message?: string }[] };
}

/** The exit code in the server's last word. Throws ShimError where that is no end of a process. */
export function exitCodeOf(said: string): number {
  let status: Status;
  try {
    status = JSON.parse(said) as Status;
  } catch {
    throw failed(said ? said.slice(0, MAX_ERROR) : 'the container runtime ended the connection');
  }
  if (status.status === 'Success') return 0;
  const code = status.details?.causes?.find((c) => c.reason === 'ExitCode')?.message;
  if (status.reason === 'NonZeroExitCode' && code !== undefined) return Number(code);
  throw failed((status.message ?? said).replace(/^Internal error occurred: /, ''));
}

/** Serves a command or an attached container to its end; resolves with the exit code. */
export async function runProcess(url: string, streams: ProcessStreams): Promise<number> {
  const session = await connect(url, 'v4.channel.k8s.io', streams.signal);
  const open = (streamtype: string) => session.open({ streamtype });
  const quietly = (p: Promise<unknown>) => p.catch(() => {});
  try {
    // The server waits until all of them are there.
    const error = open('error');
    error.end();
    if (streams.stdin) void quietly(pipeline(streams.stdin, open('stdin')));
    const outputs = (['stdout', 'stderr'] as const).map((name) => {
      const to = streams[name];
      if (!to) return undefined;
      const from = open(name);
      from.end();
      return quietly(pipeline(from, to));
    });
    if (streams.tty) {
      const resize = open('resize');
      streams.onResize(({ width, height }) => resize.write(JSON.stringify({ Width: width, Height: height })));
    }
    const said = await lastWords(error);
    await Promise.all(outputs);
    if (streams.signal.aborted) return 0;
    return exitCodeOf(said);
  } finally {
    session.close();
  }
}

/** One connection to a port. What goes wrong is the error that its readable side ends with. */
export async function forwardPort(url: string, port: number, signal: AbortSignal): Promise<Duplex> {
  const session = await connect(url, 'portforward.k8s.io', signal);
  const open = (streamtype: string) => session.open({ streamtype, port: String(port), requestid: '0' });
  const error = open('error');
  error.end();
  const said = lastWords(error);
  const data = open('data');
  const read = async function* () {
    for await (const chunk of data.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
    const why = await said;
    // It names the sandbox; whoever asked knows the pod.
    if (why) throw failed(why.replace(/^error forwarding port \d+ to pod \S+, uid ?\S*: /, ''));
  };
  const both = Duplex.from({ readable: read(), writable: data });
  both.once('close', () => session.close());
  return both;
}
