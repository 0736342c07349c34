/**
 * Decides what to do next for one pod. Pure: the same picture gives the same plan, and every detail (attempt, sandbox,
 * image, grace) is in it; carrying it out makes no choices. A plan holds only what can begin at once; what is under way
 * (`busy`) is never begun twice, and whatever ends makes a new picture and a new plan.
 */
import type { Container, Pod, ResourceRequirements } from 'kubernetes-types/core/v1.js';
import type { ContainerStatus, SandboxStatus } from '../../shims/shim.js';
import { changes, needsRestart } from './resize.js';
import { type Policy, restarts } from './restarts.js';

/** Annotations and labels on containers and sandboxes by which a new agent knows them again; the kubelet's own names. */
export const LABELS = {
  podName: 'io.kubernetes.pod.name',
  podNamespace: 'io.kubernetes.pod.namespace',
  podUid: 'io.kubernetes.pod.uid',
  containerName: 'io.kubernetes.container.name',
} as const;
export const ANNOTATIONS = {
  hash: 'io.kubernetes.container.hash',
  restartCount: 'io.kubernetes.container.restartCount',
  grace: 'io.kubernetes.pod.terminationGracePeriod',
  terminationMessagePath: 'io.kubernetes.container.terminationMessagePath',
  terminationMessagePolicy: 'io.kubernetes.container.terminationMessagePolicy',
  imageId: 'coxswain.dev/image-id',
  resources: 'coxswain.dev/resources',
} as const;

/** The final phase that the API has of a pod; the desired set carries no other. */
export function endedPhase({ status }: Pod): 'Succeeded' | 'Failed' | undefined {
  const phase = status?.phase;
  return phase === 'Succeeded' || phase === 'Failed' ? phase : undefined;
}

export type Goal =
  /** As the spec says, until its containers have ended for good. */
  | { kind: 'run' }
  /** Must leave no trace: deleted, or bound here no more. */
  | { kind: 'remove'; graceSeconds: number }
  /** Must end, but stays to be looked at: past its deadline, evicted. */
  | { kind: 'fail'; reason: string; message: string; graceSeconds: number }
  /** Has ended: nothing of it may run, its containers stay for their logs. */
  | { kind: 'rest' };

/** Something that went wrong and is tried again. Times are `Clock.monotonic`. */
export interface Failure {
  reason: string;
  message: string;
  count: number;
  at: number;
  retryAt: number;
}

export interface Backoff {
  delayMs: number;
}

export interface Tuning {
  /** CrashLoopBackOff: the first delay, the longest, and how long a run makes it forgotten. */
  backoffBaseMs: number;
  backoffMaxMs: number;
  backoffResetMs: number;
}

export interface Picture {
  pod: Pod;
  goal: Goal;
  /** `Clock.monotonic` */
  now: number;
  /** Why no runtime here can run the pod. */
  noRuntime?: string;
  sandboxes: SandboxStatus[];
  containers: ContainerStatus[];
  /** When the agent first saw a container running and ended (monotonic): wall clocks may jump. */
  seen: ReadonlyMap<string, { running?: number; ended?: number }>;
  volumes: 'up' | 'down';
  /** Images found or pulled, by container: good for one attempt. */
  images: ReadonlyMap<string, { attempt: number; image: string; ref: string }>;
  /** By operation: `volumes`, `sandbox`, `image:<container>`, `start:<container>`. */
  failures: ReadonlyMap<string, Failure>;
  /** Restart counts known from the record on disk, for containers that are no longer there. */
  attempts: Readonly<Record<string, number>>;
  backoff: Readonly<Record<string, Backoff>>;
  /** Operations under way, by {@link keyOf}. */
  busy: ReadonlySet<string>;
  /** Sandboxes that were stopped through this agent. */
  stopped: ReadonlySet<string>;
  /** The final status is settled. */
  settled: boolean;
  /** A probe wants this container (by id) restarted; why, and with which grace if not the pod's. */
  unhealthy: ReadonlyMap<string, { why: string; graceSeconds?: number }>;
  /** CPU and memory that a container (by id) has, where that is known. */
  actual: ReadonlyMap<string, ResourceRequirements>;
  /** Sidecars that may be passed, by container id: started, and their startup probe succeeded. */
  notStarted: ReadonlySet<string>;
  tuning: Tuning;
}

export type Action =
  | { do: 'setUpVolumes' }
  | { do: 'pullImage'; container: string; attempt: number }
  | { do: 'runSandbox'; attempt: number; changed: boolean }
  | {
      do: 'startContainer';
      container: string;
      attempt: number;
      sandboxId: string;
      imageRef: string;
      backoff: Backoff | undefined;
    }
  | { do: 'resumeContainer'; container: string; id: string }
  | { do: 'resizeContainer'; container: string; id: string }
  | { do: 'stopContainer'; container: string; id: string; graceSeconds: number; why: string }
  | { do: 'settle'; phase: 'Succeeded' | 'Failed'; reason?: string; message?: string }
  | { do: 'stopSandbox'; id: string }
  | { do: 'removeContainer'; id: string }
  | { do: 'removeSandbox'; id: string }
  | { do: 'tearDownVolumes' }
  | { do: 'forget' };

export interface Waiting {
  reason: string;
  message?: string;
}

export interface Plan {
  actions: Action[];
  /** Plan again at this monotonic time even if nothing happens. */
  wakeAt?: number;
  /** Why a container does not run though it shall. */
  waiting: Record<string, Waiting>;
}

/** What an action works on: two actions with the same key never run at the same time. */
export function keyOf(a: Action): string {
  switch (a.do) {
    case 'pullImage':
      return `image:${a.container}`;
    case 'startContainer':
    case 'resumeContainer':
      return `start:${a.container}`;
    // A shorter grace than that of the stop under way is a new stop.
    case 'stopContainer':
      return `stop:${a.id}:${a.graceSeconds}`;
    case 'removeContainer':
      return `remove:${a.id}`;
    case 'resizeContainer':
      return `resize:${a.id}`;
    case 'stopSandbox':
    case 'removeSandbox':
      return `sandbox:${a.id}`;
    case 'runSandbox':
      return 'sandbox';
    case 'setUpVolumes':
    case 'tearDownVolumes':
      return 'volumes';
    default:
      return a.do;
  }
}

/** For how long ErrImagePull is shown before it becomes ImagePullBackOff. */
const FRESH_FAILURE_MS = 1000;

type Verdict =
  | { is: 'running'; c: ContainerStatus }
  /** Runs, but must make room: its definition changed, a probe failed, or its sandbox is gone. */
  | { is: 'unwanted'; c: ContainerStatus; why: string; graceSeconds?: number }
  /** Made but never started; good as it is. */
  | { is: 'created'; c: ContainerStatus }
  /** Ended for good. */
  | { is: 'done'; c: ContainerStatus }
  | {
      is: 'due';
      attempt: number;
      notBefore: number;
      delayMs: number;
      backoff: Backoff | undefined;
    };

type Draft = Plan & { p: Picture; sandbox: SandboxStatus | undefined };
/** Does what it can; `wait` keeps the steps after it from their turn. */
type Step = (d: Draft) => 'next' | 'wait';

/** The life of a pod, in order. */
export const RUN: readonly (readonly [name: string, Step])[] = [
  ['has it ended?', ended],
  ['a runtime that can run it', runtime],
  ['what runs but should not', unwanted],
  ['volumes', volumes],
  ['images', images],
  ['sandbox', sandbox],
  ['ephemeral containers', ephemeralContainers],
  ['init containers, one after another', initContainers],
  ['containers', containers],
  ['resources of what runs', resize],
  ['leftovers of earlier attempts', leftovers],
];

/** The end of a pod, in order. */
export const END: readonly (readonly [name: string, Step])[] = [
  ['stop containers', stopContainers],
  ['settle the final status', settle],
  ['stop the sandbox', stopSandboxes],
  ['remove containers and sandboxes', removeAll],
  ['take down volumes', tearDownVolumes],
  ['forget it', forget],
];

export function plan(p: Picture): Plan {
  const newest = newestOf(p.sandboxes);
  const d: Draft = {
    p,
    actions: [],
    waiting: {},
    sandbox: newest?.state === 'ready' ? newest : undefined,
  };
  for (const [, step] of p.goal.kind === 'run' ? RUN : END) if (step(d) === 'wait') break;
  const { actions, waiting, wakeAt } = d;
  return { actions: actions.filter((a) => !p.busy.has(keyOf(a))), waiting, wakeAt };
}

// ---- the world as seen

const newestOf = <T extends { attempt: number }>(list: readonly T[]): T | undefined =>
  list.reduce<T | undefined>((best, x) => (best && best.attempt >= x.attempt ? best : x), undefined);

/** All attempts of one container, newest first. */
export const attemptsOf = (containers: readonly ContainerStatus[], name: string): ContainerStatus[] =>
  containers.filter((c) => c.name === name).sort((a, b) => b.attempt - a.attempt);

export const isSidecar = (c: Container): boolean =>
  (c as { restartPolicy?: string }).restartPolicy === 'Always';

const initOf = (p: Picture) => p.pod.spec?.initContainers ?? [];
const mainOf = (p: Picture) => p.pod.spec?.containers ?? [];
const ephemeralOf = (p: Picture) => (p.pod.spec?.ephemeralContainers ?? []) as Container[];
const sidecarsOf = (p: Picture) => initOf(p).filter(isSidecar);

/** Name and image, as the kubelet's HashContainer: what else may change in a running pod needs no restart. */
export const hashOf = (c: Container): string => `${c.name}\n${c.image ?? ''}`;

const policyOf = (p: Picture) => (p.pod.spec?.restartPolicy ?? 'Always') as Policy;
/** Init containers run once to a good end: Always means OnFailure for them. */
const initPolicyOf = (p: Picture): Policy => (policyOf(p) === 'Never' ? 'Never' : 'OnFailure');

/** Main containers were begun in this sandbox: its init containers are over. */
const initialized = (d: Draft): boolean =>
  d.sandbox !== undefined &&
  d.p.containers.some((c) => c.sandboxId === d.sandbox!.id && mainOf(d.p).some((m) => m.name === c.name));

function verdict(d: Draft, spec: Container, policy: Policy): Verdict {
  const { p } = d;
  const c = attemptsOf(p.containers, spec.name)[0];
  const hash = c?.annotations[ANNOTATIONS.hash];
  const changed = c !== undefined && hash !== undefined && hash !== hashOf(spec);
  const here = c !== undefined && c.sandboxId === d.sandbox?.id;
  const next = Math.max((c?.attempt ?? -1) + 1, p.attempts[spec.name] ?? 0);
  const now = { is: 'due', attempt: next, notBefore: 0, delayMs: 0, backoff: undefined } as const;
  if (!c) return now;
  if (c.state === 'running') {
    if (!here) return { is: 'unwanted', c, why: 'its sandbox is gone' };
    if (changed)
      return { is: 'unwanted', c, why: `Container ${c.name} definition changed, will be restarted` };
    if (restartsToResize(p, c, spec))
      return { is: 'unwanted', c, why: `Container ${c.name} resize requires restart` };
    const ill = p.unhealthy.get(c.id);
    return ill === undefined ? { is: 'running', c } : { is: 'unwanted', c, ...ill };
  }
  if (c.state === 'created') {
    const failed = p.failures.get(`start:${spec.name}`);
    if (here && !changed && !failed) return { is: 'created', c };
    return { ...now, notBefore: failed?.retryAt ?? 0 };
  }
  if (changed || restartsToResize(p, c, spec)) return now;
  if (!restarts(spec, policy, c.state === 'exited' ? c.exitCode : undefined)) return { is: 'done', c };
  const seen = p.seen.get(c.id);
  const endedAt = seen?.ended ?? p.now;
  // A start that failed has an end but no beginning.
  const toldMs = c.startedAt > 0 ? Math.max(0, c.finishedAt - c.startedAt) : 0;
  const ranMs = seen?.running !== undefined ? endedAt - seen.running : toldMs;
  const { backoffBaseMs, backoffMaxMs, backoffResetMs } = p.tuning;
  const last = ranMs >= backoffResetMs ? undefined : p.backoff[spec.name];
  const delayMs = last?.delayMs ?? 0;
  return {
    is: 'due',
    attempt: next,
    notBefore: endedAt + delayMs,
    delayMs,
    backoff: { delayMs: last ? Math.min(last.delayMs * 2, backoffMaxMs) : backoffBaseMs },
  };
}

/** What of a container's CPU and memory is not as its spec says. */
const unsized = (p: Picture, c: ContainerStatus, spec: Container): string[] => {
  const actual = p.actual.get(c.id);
  return actual ? changes(actual, spec.resources) : [];
};
const restartsToResize = (p: Picture, c: ContainerStatus, spec: Container): boolean =>
  needsRestart(spec, unsized(p, c, spec));

/** An init container that ended well counts for the sandbox in which it did so. */
function initVerdict(d: Draft, spec: Container): Verdict {
  if (isSidecar(spec)) return verdict(d, spec, 'Always');
  const v = verdict(d, spec, initPolicyOf(d.p));
  if (v.is === 'done' && v.c.exitCode === 0 && v.c.sandboxId !== d.sandbox?.id)
    return { is: 'due', attempt: v.c.attempt + 1, notBefore: 0, delayMs: 0, backoff: undefined };
  return v;
}

const wake = (d: Draft, at: number): void => {
  d.wakeAt = Math.min(d.wakeAt ?? Number.POSITIVE_INFINITY, at);
};

/** A failure that must not be tried again yet. */
function pending(d: Draft, key: string): Failure | undefined {
  const f = d.p.failures.get(key);
  if (!f || f.retryAt <= d.p.now) return undefined;
  wake(d, f.retryAt);
  return f;
}

const allOf = (p: Picture): Container[] => [...initOf(p), ...mainOf(p), ...ephemeralOf(p)];

/** Every container that has no reason of its own yet waits for this one. */
function allWait(d: Draft, w: Waiting): void {
  for (const c of allOf(d.p)) d.waiting[c.name] ??= w;
}

const podGrace = (p: Picture): number => p.pod.spec?.terminationGracePeriodSeconds ?? 30;

const stop = (c: ContainerStatus, graceSeconds: number, why = `Stopping container ${c.name}`): Action => ({
  do: 'stopContainer',
  container: c.name,
  id: c.id,
  graceSeconds,
  why,
});

// ---- the life

function ended(d: Draft): 'next' | 'wait' {
  const { p } = d;
  // What is being started may yet change everything.
  if ([...p.busy].some((k) => k.startsWith('start:'))) return 'next';
  const main = mainOf(p).map((c) => verdict(d, c, policyOf(p)));
  const failedInit =
    !initialized(d) &&
    initOf(p).some((c) => {
      const v = initVerdict(d, c);
      return v.is === 'done' && v.c.exitCode !== 0;
    });
  if (!failedInit && !(main.length > 0 && main.every((v) => v.is === 'done'))) return 'next';
  const running = p.containers.filter((c) => c.state === 'running');
  if (running.length > 0) {
    d.actions.push(...lastInLine(p, running).map((c) => stop(c, podGrace(p))));
    return 'wait';
  }
  const good = !failedInit && main.every((v) => v.is === 'done' && v.c.exitCode === 0);
  d.actions.push({ do: 'settle', phase: good ? 'Succeeded' : 'Failed' });
  return 'wait';
}

function runtime(d: Draft): 'next' | 'wait' {
  if (d.p.noRuntime === undefined) return 'next';
  allWait(d, { reason: 'RuntimeUnavailable', message: d.p.noRuntime });
  return 'wait';
}

function unwanted(d: Draft): 'next' | 'wait' {
  let strays = false;
  for (const c of d.p.containers) {
    if (c.state !== 'running') continue;
    const spec = allOf(d.p).find((s) => s.name === c.name);
    const v = spec && verdict(d, spec, 'Always');
    const own = v?.is === 'unwanted' && v.c.id === c.id ? v : undefined;
    const why = !v
      ? `Container ${c.name} is not in the spec any more`
      : own
        ? own.why
        : c.sandboxId !== d.sandbox?.id || attemptsOf(d.p.containers, c.name)[0] !== c
          ? 'another one has taken its place'
          : undefined;
    if (why === undefined) continue;
    d.actions.push(stop(c, own?.graceSeconds ?? podGrace(d.p), why));
    strays ||= c.sandboxId !== d.sandbox?.id;
  }
  // A sandbox is made anew only when nothing of the old one runs.
  return strays ? 'wait' : 'next';
}

/** Why a container does not run of which there is nothing more to say: the same for all of a pod. */
const notYet = (p: Picture): Waiting => ({
  reason: initOf(p).length > 0 ? 'PodInitializing' : 'ContainerCreating',
});

function volumes(d: Draft): 'next' | 'wait' {
  if (d.p.volumes === 'up') return 'next';
  allWait(d, notYet(d.p));
  if (!pending(d, 'volumes')) d.actions.push({ do: 'setUpVolumes' });
  return 'wait';
}

/** The containers whose turn it is: the first unfinished init container, or all the others; ephemeral ones at any time, once. */
function wave(d: Draft): { spec: Container; v: Verdict }[] {
  const out = ephemeralOf(d.p).map((spec) => ({ spec, v: verdict(d, spec, 'Never') }));
  const done = initialized(d);
  for (const spec of initOf(d.p)) {
    if (done && !isSidecar(spec)) continue;
    const v = initVerdict(d, spec);
    if (v.is === 'done') continue;
    out.push({ spec, v });
    if (done) continue;
    if (!isSidecar(spec) || v.is !== 'running' || d.p.notStarted.has(v.c.id)) return out;
  }
  return [...out, ...mainOf(d.p).map((spec) => ({ spec, v: verdict(d, spec, policyOf(d.p)) }))];
}

function images(d: Draft): 'next' | 'wait' {
  for (const { spec, v } of wave(d)) {
    if (v.is !== 'due' || v.notBefore > d.p.now || imageFor(d, spec, v.attempt)) continue;
    const failed = pending(d, `image:${spec.name}`);
    if (!failed) d.actions.push({ do: 'pullImage', container: spec.name, attempt: v.attempt });
    const shown = failed ?? d.p.failures.get(`image:${spec.name}`);
    if (shown) d.waiting[spec.name] = imageWaiting(d, spec, shown);
  }
  return 'next';
}

function imageFor(d: Draft, spec: Container, attempt: number) {
  const known = d.p.images.get(spec.name);
  return known && known.attempt === attempt && known.image === spec.image ? known : undefined;
}

function imageWaiting(d: Draft, spec: Container, f: Failure): Waiting {
  const fresh = f.at + FRESH_FAILURE_MS;
  if (f.reason !== 'ErrImagePull' && f.reason !== 'RegistryUnavailable')
    return { reason: f.reason, message: f.message };
  if (d.p.now < fresh) {
    wake(d, fresh);
    return { reason: f.reason, message: f.message };
  }
  return {
    reason: 'ImagePullBackOff',
    message: `Back-off pulling image "${spec.image}": ${f.reason}: ${f.message}`,
  };
}

function sandbox(d: Draft): 'next' | 'wait' {
  if (d.sandbox) return 'next';
  const newest = newestOf(d.p.sandboxes);
  allWait(d, notYet(d.p));
  if (!pending(d, 'sandbox'))
    d.actions.push({
      do: 'runSandbox',
      attempt: newest ? newest.attempt + 1 : 0,
      changed: newest !== undefined,
    });
  return 'wait';
}

function ephemeralContainers(d: Draft): 'next' | 'wait' {
  for (const { spec, v } of wave(d)) if (ephemeralOf(d.p).includes(spec)) bring(d, spec, v);
  return 'next';
}

function initContainers(d: Draft): 'next' | 'wait' {
  if (initOf(d.p).length === 0) return 'next';
  const turn = wave(d);
  for (const { spec, v } of turn) if (initOf(d.p).includes(spec)) bring(d, spec, v);
  if (turn.some(({ spec }) => mainOf(d.p).includes(spec))) return 'next';
  allWait(d, { reason: 'PodInitializing' });
  return 'wait';
}

function containers(d: Draft): 'next' | 'wait' {
  for (const { spec, v } of wave(d)) if (mainOf(d.p).includes(spec)) bring(d, spec, v);
  return 'next';
}

function resize(d: Draft): 'next' | 'wait' {
  for (const spec of allOf(d.p)) {
    const c = attemptsOf(d.p.containers, spec.name)[0];
    if (c?.state !== 'running' || unsized(d.p, c, spec).length === 0) continue;
    if (verdict(d, spec, 'Always').is === 'running' && !pending(d, `resize:${spec.name}`))
      d.actions.push({ do: 'resizeContainer', container: spec.name, id: c.id });
  }
  return 'next';
}

/** One step towards a running container. */
function bring(d: Draft, spec: Container, v: Verdict): void {
  const { p } = d;
  // An earlier attempt that still runs is being stopped; two of a kind never run at once.
  if (p.containers.some((c) => c.name === spec.name && c.state === 'running')) return;
  if (v.is === 'created') {
    d.waiting[spec.name] ??= notYet(p);
    d.actions.push({ do: 'resumeContainer', container: spec.name, id: v.c.id });
  }
  if (v.is !== 'due') return;
  const failed = pending(d, `start:${spec.name}`) ?? p.failures.get(`start:${spec.name}`);
  const inBackOff = v.notBefore > p.now && v.delayMs > 0;
  // As with the kubelet a failure to start is shown for a moment, then that it is backed off from.
  if (failed && (failed.retryAt > p.now || !inBackOff))
    d.waiting[spec.name] = { reason: failed.reason, message: failed.message };
  if (v.notBefore > p.now) {
    wake(d, v.notBefore);
    d.waiting[spec.name] ??= {
      reason: 'CrashLoopBackOff',
      message: `back-off ${goDuration(v.delayMs)} restarting failed container=${spec.name} pod=${podId(p.pod)}`,
    };
    return;
  }
  const image = imageFor(d, spec, v.attempt);
  if (!p.containers.some((c) => c.name === spec.name)) d.waiting[spec.name] ??= notYet(p);
  if (!image || !d.sandbox || (failed && failed.retryAt > p.now)) return;
  d.actions.push({
    do: 'startContainer',
    container: spec.name,
    attempt: v.attempt,
    sandboxId: d.sandbox.id,
    imageRef: image.ref,
    backoff: v.backoff,
  });
}

/** Keeps, of each container, the newest attempt and the last one that ended before it (`kubectl logs --previous`). */
function leftovers(d: Draft): 'next' | 'wait' {
  const keep = new Set<string>();
  for (const { name } of allOf(d.p)) {
    const [newest, ...older] = attemptsOf(d.p.containers, name);
    if (newest) keep.add(newest.id);
    const previous = older.find((c) => c.state === 'exited' || c.state === 'unknown');
    if (previous) keep.add(previous.id);
  }
  const remaining = new Set<string>();
  for (const c of d.p.containers)
    if (keep.has(c.id) || c.state === 'running') remaining.add(c.sandboxId);
    else d.actions.push({ do: 'removeContainer', id: c.id });
  for (const s of d.p.sandboxes) {
    if (s.id === d.sandbox?.id) continue;
    if (!remaining.has(s.id)) d.actions.push({ do: 'removeSandbox', id: s.id });
    // Gives the address back although the containers stay.
    else if (!d.p.stopped.has(s.id)) d.actions.push({ do: 'stopSandbox', id: s.id });
  }
  return 'next';
}

// ---- the end

/** Those that end now: first all but the sidecars, then the sidecars from the last to the first. */
function lastInLine(p: Picture, running: ContainerStatus[]): ContainerStatus[] {
  const order = sidecarsOf(p).map((c) => c.name);
  const others = running.filter((c) => !order.includes(c.name));
  if (others.length > 0) return others;
  const last = order.filter((n) => running.some((c) => c.name === n)).at(-1);
  return running.filter((c) => c.name === last);
}

function stopContainers(d: Draft): 'next' | 'wait' {
  const { p } = d;
  const grace = p.goal.kind === 'remove' || p.goal.kind === 'fail' ? p.goal.graceSeconds : podGrace(p);
  const running = p.containers.filter((c) => c.state === 'running');
  d.actions.push(...lastInLine(p, running).map((c) => stop(c, grace)));
  const starting = [...p.busy].some((k) => k === 'sandbox' || k === 'volumes' || /^(start|image):/.test(k));
  return running.length > 0 || starting ? 'wait' : 'next';
}

function settle(d: Draft): 'next' | 'wait' {
  const { p } = d;
  if (p.settled) return 'next';
  const all = mainOf(p).map((c) => attemptsOf(p.containers, c.name)[0]);
  const good = all.length > 0 && all.every((c) => c?.state === 'exited' && c.exitCode === 0);
  d.actions.push(
    p.goal.kind === 'fail'
      ? { do: 'settle', phase: 'Failed', reason: p.goal.reason, message: p.goal.message }
      : { do: 'settle', phase: endedPhase(p.pod) ?? (good ? 'Succeeded' : 'Failed') },
  );
  return 'wait';
}

function stopSandboxes(d: Draft): 'next' | 'wait' {
  const open = d.p.sandboxes.filter((s) => s.state === 'ready' || !d.p.stopped.has(s.id));
  for (const s of open) d.actions.push({ do: 'stopSandbox', id: s.id });
  return open.length > 0 ? 'wait' : 'next';
}

function removeAll(d: Draft): 'next' | 'wait' {
  if (d.p.goal.kind !== 'remove') {
    // Made but never run: there is nothing to look at.
    for (const c of d.p.containers)
      if (c.state === 'created') d.actions.push({ do: 'removeContainer', id: c.id });
    return 'next';
  }
  for (const c of d.p.containers) d.actions.push({ do: 'removeContainer', id: c.id });
  if (d.p.containers.length > 0) return 'wait';
  for (const s of d.p.sandboxes) d.actions.push({ do: 'removeSandbox', id: s.id });
  return d.p.sandboxes.length > 0 ? 'wait' : 'next';
}

function tearDownVolumes(d: Draft): 'next' | 'wait' {
  if (d.p.volumes === 'down') return 'next';
  if (!pending(d, 'volumes')) d.actions.push({ do: 'tearDownVolumes' });
  return 'wait';
}

function forget(d: Draft): 'next' | 'wait' {
  if (d.p.goal.kind === 'remove') d.actions.push({ do: 'forget' });
  return 'next';
}

/** `name_namespace(uid)`, as the kubelet names a pod in messages (pkg/kubelet/util/format). */
export const podId = (pod: Pod): string =>
  `${pod.metadata?.name}_${pod.metadata?.namespace}(${pod.metadata?.uid})`;

/** Milliseconds as Go prints a duration: `10s`, `1m20s`, `5m0s`, `1.5s`, `250ms`. */
export function goDuration(ms: number): string {
  if (ms < 1000) return ms === 0 ? '0s' : `${Math.round(ms)}ms`;
  const s = Math.round(ms) / 1000;
  const h = Math.floor(s / 3600);
  const m = Math.floor((s % 3600) / 60);
  const rest = `${Number((s % 60).toFixed(3))}s`;
  return h ? `${h}h${m}m${rest}` : m ? `${m}m${rest}` : rest;
}
