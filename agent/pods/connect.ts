/** exec, attach and port-forward: finds what is meant, and joins the hub's channels with the runtime's. */
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Clock } from '../../api/clock.js';
import { ApiError, badRequest, type StatusReason } from '../../api/meta/errors.js';
import type { AttachOptions, PodTarget } from '../../api/wire/streams.js';
import type { ContainerStatus, ProcessStreams, Shim } from '../../shims/shim.js';
import type { ChannelRequest, Channels } from '../ports.js';
import { readLog } from './logs.js';
import { allContainers } from './resources.js';
import type { PodWorker } from './worker.js';

/** The kubelet's answers of this kind have texts and no reasons. */
const failed = (message: string, reason: StatusReason = 'InternalError'): ApiError =>
  new ApiError(reason, message);

/** Carries one request to its end. Rejects with ApiError, in the kubelet's words where it has some. */
export async function connectTo(
  worker: PodWorker | undefined,
  request: ChannelRequest,
  channels: Channels,
  clock: Clock,
): Promise<number> {
  const { options } = request;
  if (!worker?.present || worker.pod.metadata?.name !== options.pod)
    throw failed('pod does not exist', 'NotFound');
  const { shim } = worker;
  if (request.kind === 'forward') {
    const sandbox = worker.seen.sandboxes.find((s) => s.state === 'ready');
    if (!shim || !sandbox) throw failed(`pod not found (${JSON.stringify(fullName(options))})`);
    if (!shim.portForward) throw unsupported('port-forward', shim);
    const socket = await shim.portForward(sandbox.id, request.options.port, channels.signal);
    channels.accepted();
    // The pod's side decides when it is over: it may have more to say after the client's last word.
    const up = pipeline(channels.stdin, socket).catch(() => {});
    try {
      await pipeline(socket, channels.stdout);
    } finally {
      socket.destroy();
      await up;
    }
    return 0;
  }
  const { container } = request.options;
  const c = worker.seen.containers.find((x) => x.name === container && x.state === 'running');
  if (request.kind === 'exec') {
    if (!shim || !c) throw failed(`container not found (${JSON.stringify(container)})`);
    if (!shim.exec) throw unsupported('exec', shim);
    channels.accepted();
    return shim.exec(
      c.id,
      request.options.command,
      processStreams(request.options, channels, request.options.tty ?? false),
    );
  }
  if (!shim || !c) throw failed(`container ${container} not found in pod ${fullName(options)}`);
  const spec = allContainers(worker.pod).find((x) => x.name === container);
  const streams = processStreams(request.options, channels, spec?.tty ?? false);
  channels.accepted();
  if (shim.attach) await shim.attach(c.id, streams);
  else await attachToLog(shim, worker, c, streams, clock);
  return 0;
}

const fullName = (t: PodTarget): string => `${t.pod}_${t.namespace}`;

const unsupported = (what: string, shim: Shim): ApiError =>
  badRequest(
    `${what} is not possible in pods of runtime handler "${shim.handler}": ${WHY[shim.handler] ?? 'it has no such thing'}`,
  );

const WHY: Readonly<Record<string, string>> = {
  wasm: 'a WebAssembly module is one program, with nothing beside it that could be run. Use kubectl logs, attach or port-forward',
};

function processStreams(o: AttachOptions, channels: Channels, tty: boolean): ProcessStreams {
  const listeners: ((size: { width: number; height: number }) => void)[] = [];
  let last: { width: number; height: number } | undefined;
  readSizes(channels.resize, (size) => {
    last = size;
    for (const l of listeners) l(size);
  });
  return {
    ...(o.stdin ? { stdin: channels.stdin } : {}),
    ...(o.stdout ? { stdout: channels.stdout } : {}),
    ...(o.stderr && !tty ? { stderr: channels.stderr } : {}),
    tty,
    onResize: (listener) => {
      listeners.push(listener);
      if (last) listener(last);
    },
    signal: channels.signal,
  };
}

const MAX_SIZE_TEXT = 4096;

/** Sizes of a terminal, as JSON objects one after the other. What is none is left out. */
export function readSizes(
  source: Readable,
  listener: (size: { width: number; height: number }) => void,
): void {
  let text = '';
  source.on('data', (chunk: Buffer) => {
    text = (text + chunk.toString('latin1')).slice(-MAX_SIZE_TEXT);
    for (let end = text.indexOf('}'); end >= 0; end = text.indexOf('}')) {
      const one = text.slice(0, end + 1);
      text = text.slice(end + 1);
      try {
        const { Width: width, Height: height } = JSON.parse(one) as { Width: unknown; Height: unknown };
        const fine = (n: unknown): n is number =>
          Number.isInteger(n) && (n as number) > 0 && (n as number) < 65_536;
        if (fine(width) && fine(height)) listener({ width, height });
      } catch {
        // Not a size.
      }
    }
  });
}

/** Where the runtime keeps the log and nothing else: what is written from now on is what the log gets. */
async function attachToLog(
  shim: Shim,
  worker: PodWorker,
  c: ContainerStatus,
  streams: ProcessStreams,
  clock: Clock,
): Promise<void> {
  const source = {
    path: worker.logFile(c.name, c.attempt),
    running: () => worker.seen.containers.some((x) => x.id === c.id && x.state === 'running'),
  };
  const follow = (stream: 'stdout' | 'stderr') =>
    readLog(source, { follow: true, tailLines: 0, stream }, clock, streams.signal);
  const input = streams.stdin && shim.input?.(c.id);
  const typed = input ? pipeline(streams.stdin!, input).catch(() => {}) : undefined;
  await Promise.all([
    streams.stdout ? pipeline(follow('stdout'), streams.stdout) : undefined,
    streams.stderr ? pipeline(follow('stderr'), streams.stderr) : undefined,
    // Nothing to be shown: until the container or the input ends.
    streams.stdout || streams.stderr ? undefined : typed,
  ]);
  input?.destroy();
}
