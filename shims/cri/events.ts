/**
 * Tells that something changed, as early as the runtime lets us know:
 * - containerd publishes the end of every task on its own events service, beside the CRI on one socket;
 * - other runtimes (CRI-O) may have the CRI's GetContainerEvents. containerd 1.7 has it too, but there each event goes to
 *   one reader only, and a kubelet on the same machine would lose its own;
 * - where neither is there, a list of our containers is compared with the last one, often while things happen and
 *   rarely while nothing does.
 */
import { type Clock, sleep } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { GRPC, type GrpcClient, GrpcError } from './grpc.js';

export interface EventSource {
  cri: GrpcClient;
  containerd: GrpcClient;
  clock: Clock;
  log: Log;
  /** The runtime answers (again): learns what it is. Rejects when it does not answer. */
  connected(): Promise<{ runtimeName: string }>;
  /** A task of this id (container or sandbox, not only ours) changed; `ended` when it exited. */
  task(id: string, ended: boolean): void;
  /** The CRI itself says that this container changed. */
  changed(containerId: string): void;
  /** Events may have been missed: everything is to be read again. */
  gap(): void;
  /** One line per container of ours and its state, for comparing. */
  fingerprint(): Promise<string>;
}

const BACKOFF_MS = { first: 50, most: 5_000 };
/** Between two looks where there are no events: right after a change, and at most. */
export const POLL_MS = { busy: 100, idle: 2_000, growth: 1.3 };

const CONTAINERD_TOPICS = ['/tasks/exit', '/tasks/oom'];

/** Runs until `signal` aborts. Never rejects. */
export async function watchRuntime(source: EventSource, signal: AbortSignal): Promise<void> {
  const { clock, log } = source;
  let backoff = BACKOFF_MS.first;
  let pollOnly = false;
  while (!signal.aborted) {
    const began = clock.monotonic();
    try {
      const { runtimeName } = await source.connected();
      if (signal.aborted) return;
      if (pollOnly) await poll(source, signal);
      else if (runtimeName === 'containerd') await containerdEvents(source, signal);
      else await criEvents(source, signal);
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof GrpcError && e.code === GRPC.UNIMPLEMENTED && !pollOnly) {
        log.info({ why: e.message }, 'the container runtime sends no events: asking it instead');
        pollOnly = true;
        continue;
      }
      log.debug({ err: (e as Error).message }, 'container runtime events ended');
    }
    // What held for a while starts over quickly; what fails at once is tried more and more rarely.
    if (clock.monotonic() - began > BACKOFF_MS.most) backoff = BACKOFF_MS.first;
    await pause(clock, backoff * (0.5 + clock.random() / 2), signal);
    backoff = Math.min(backoff * 2, BACKOFF_MS.most);
  }
}

/** Waits `ms`, or until `signal` aborts. */
async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = () => {
      cancel();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const cancel = clock.after(ms, done);
    signal.addEventListener('abort', done, { once: true });
    if (signal.aborted) done();
  });
}

async function containerdEvents(source: EventSource, signal: AbortSignal): Promise<void> {
  const { containerd } = source;
  const stream = containerd.stream<{ topic: string; event?: { value: Buffer } }>(
    '/containerd.services.events.v1.Events/Subscribe',
    [{ filters: CONTAINERD_TOPICS.map((t) => `namespace=="k8s.io",topic=="${t}"`) }],
    ({ topic, event }) => {
      if (!event) return;
      const ended = topic === '/tasks/exit';
      const { containerId, id } = containerd.schema.decode<{ containerId: string; id?: string }>(
        ended ? 'TaskExit' : 'TaskOOM',
        event.value,
      );
      // The end of an exec (a probe's, say) changes nothing.
      if (ended && id !== containerId) return;
      source.task(containerId, ended);
    },
    { signal, metadata: { 'containerd-namespace': 'k8s.io' } },
  );
  await whileStreaming(source, stream);
}

async function criEvents(source: EventSource, signal: AbortSignal): Promise<void> {
  const stream = source.cri.stream<{ containerId: string }>(
    '/runtime.v1.RuntimeService/GetContainerEvents',
    [{}],
    ({ containerId }) => source.changed(containerId),
    { signal },
  );
  await whileStreaming(source, stream);
}

/** What happened before the subscription stood is read once it does: the server has taken the request by the next answer. */
async function whileStreaming(source: EventSource, stream: Promise<void>): Promise<void> {
  const [first] = await Promise.allSettled([Promise.race([stream, source.connected()])]);
  if (first.status === 'fulfilled') source.gap();
  await stream;
}

async function poll(source: EventSource, signal: AbortSignal): Promise<void> {
  let last: string | undefined;
  let interval = POLL_MS.busy;
  while (!signal.aborted) {
    const now = await source.fingerprint();
    if (now !== last) {
      if (last !== undefined) interval = POLL_MS.busy;
      last = now;
      source.gap();
    } else interval = Math.min(interval * POLL_MS.growth, POLL_MS.idle);
    await pause(source.clock, interval, signal);
  }
}

/** Calls `probe` until it says true, quickly at first; gives up after about ten seconds. */
export async function settle(clock: Clock, probe: () => Promise<boolean>): Promise<boolean> {
  for (let wait = 2; wait < 5_000; wait *= 2) {
    if (await probe()) return true;
    await sleep(clock, wait);
  }
  return probe();
}
