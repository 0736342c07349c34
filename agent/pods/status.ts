/** The status that a kubelet would report for what is seen of a pod. Pure, and the same for the same picture, so that nothing is reported twice. */
import type {
  Container,
  ContainerState,
  ContainerStateTerminated,
  ContainerStatus as KContainerStatus,
  Pod,
  PodCondition,
  PodStatus,
  ResourceRequirements,
} from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { qosClassOf } from '../../api/kinds/qos.js';
import type { ContainerStatus, SandboxStatus } from '../../shims/shim.js';
import { ANNOTATIONS, attemptsOf, isSidecar, type Plan } from './plan.js';
import type { PodEnd } from './record.js';
import { changes, type Refusal, resourcesOf } from './resize.js';
import { type Policy, restarts } from './restarts.js';

export interface StatusInput {
  pod: Pod;
  sandboxes: readonly SandboxStatus[];
  containers: readonly ContainerStatus[];
  plan: Pick<Plan, 'waiting'>;
  /** The status last reported: transition times and addresses are carried over from it. */
  previous: PodStatus | undefined;
  hostIP: string;
  /** Wall time in milliseconds. */
  now: number;
  /** Wall time in milliseconds at which the agent took the pod on. */
  startTime: number;
  /** `containerd`, `wasm` …: what container ids begin with. */
  scheme: string;
  /** Termination messages by container id. */
  messages: ReadonlyMap<string, string>;
  /** By container id: the readiness probe said no (absent: there is none, or it said yes). */
  notReady: ReadonlySet<string>;
  /** By container id: the startup probe has not succeeded yet. */
  notStarted: ReadonlySet<string>;
  /** CPU and memory that containers (by id) have, where that is known. */
  actual: ReadonlyMap<string, ResourceRequirements>;
  /** Why a wanted resize is not being done; `pod` then has the resources of before. */
  refused: Refusal | undefined;
  failures: ReadonlyMap<string, { message: string }>;
  /** Its containers are being ended for a reason that only the end can tell: until then it has not ended. */
  failing: boolean;
  /** The end, once settled: it overrides the phase. */
  end: PodEnd | undefined;
}

export function podStatus(i: StatusInput): PodStatus {
  const { pod, end, previous } = i;
  const inits = (pod.spec?.initContainers ?? []).map((c) => containerStatus(i, c, true));
  const mains = (pod.spec?.containers ?? []).map((c) => containerStatus(i, c, false));
  const ephemeral = (pod.spec?.ephemeralContainers ?? []).map((c) => ({
    ...containerStatus(i, c as Container, false),
    // They count for nothing, and nobody waits for them.
    ready: false,
  }));
  const shown = phaseOf(i, inits, mains);
  const phase =
    end?.phase ?? (i.failing && (shown === 'Failed' || shown === 'Succeeded') ? 'Running' : shown);
  const newest = [...i.sandboxes].sort((a, b) => b.attempt - a.attempt)[0];
  const ready = newest?.state === 'ready' ? newest : undefined;
  const own = pod.spec?.hostNetwork ? (newest && i.hostIP ? [i.hostIP] : []) : (ready?.ips ?? []);
  // A pod that has ended keeps the address under which it was known.
  const ips = own.length > 0 ? own : end || !ready ? (previous?.podIPs ?? []).map((x) => x.ip!) : [];
  const { generation } = pod.metadata ?? {};
  const status: PodStatus & { observedGeneration?: number } = {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    phase,
    conditions: conditions(i, phase, ready !== undefined, inits, mains),
    ...(i.hostIP ? { hostIP: i.hostIP, hostIPs: [{ ip: i.hostIP }] } : {}),
    ...(ips.length > 0 ? { podIP: ips[0]!, podIPs: ips.map((ip) => ({ ip })) } : {}),
    startTime: rfc3339(i.startTime),
    ...(ephemeral.length > 0 ? { ephemeralContainerStatuses: ephemeral } : {}),
    ...(inits.length > 0 && !end?.rejected ? { initContainerStatuses: inits } : {}),
    ...(end?.rejected ? {} : { containerStatuses: mains }),
    qosClass: qosClassOf(pod),
    ...(end?.reason ? { reason: end.reason } : {}),
    ...(end?.message ? { message: end.message } : {}),
  };
  return status;
}

/** The kubelet's getPhase. */
function phaseOf(
  i: StatusInput,
  inits: KContainerStatus[],
  mains: KContainerStatus[],
): NonNullable<PodStatus['phase']> {
  const policy = (i.pod.spec?.restartPolicy ?? 'Always') as Policy;
  const regular = inits.flatMap((s, n) => {
    const spec = i.pod.spec!.initContainers![n]!;
    return isSidecar(spec) ? [] : [{ s, spec }];
  });
  const begun = mains.some((s) => s.state?.running || s.state?.terminated || s.lastState?.terminated);
  if (!begun)
    for (const { s, spec } of regular) {
      const done = s.state?.terminated ?? s.lastState?.terminated;
      if (done?.exitCode === 0) continue;
      const last = s.state?.terminated;
      return last && !restarts(spec, policy, last.exitCode) ? 'Failed' : 'Pending';
    }
  const running = mains.filter((s) => s.state?.running).length;
  const stopped = mains.flatMap((s, n) => {
    const last = s.state?.running ? undefined : (s.state?.terminated ?? s.lastState?.terminated);
    return last ? [{ code: last.exitCode, spec: i.pod.spec!.containers[n]! }] : [];
  });
  if (running + stopped.length < mains.length || mains.length === 0) return 'Pending';
  if (running > 0 || stopped.some(({ code, spec }) => restarts(spec, policy, code))) return 'Running';
  return stopped.every(({ code }) => code === 0) ? 'Succeeded' : 'Failed';
}

function terminated(i: StatusInput, c: ContainerStatus): ContainerStateTerminated {
  const message = i.messages.get(c.id) || c.message;
  const lost = c.state === 'unknown';
  return {
    containerID: `${i.scheme}://${c.id}`,
    exitCode: lost ? 137 : c.exitCode,
    reason: lost ? 'ContainerStatusUnknown' : c.reason || (c.exitCode === 0 ? 'Completed' : 'Error'),
    ...(lost
      ? { message: 'The container could not be located when the pod was terminated' }
      : message
        ? { message }
        : {}),
    ...(c.startedAt ? { startedAt: rfc3339(c.startedAt) } : {}),
    ...(c.finishedAt ? { finishedAt: rfc3339(c.finishedAt) } : {}),
  };
}

function containerStatus(i: StatusInput, spec: Container, init: boolean): KContainerStatus {
  const [c, ...older] = attemptsOf(i.containers, spec.name);
  const previous = older.find((x) => x.state === 'exited' || x.state === 'unknown');
  const waiting = i.plan.waiting[spec.name];
  const over = c?.state === 'exited' || c?.state === 'unknown';
  let state: ContainerState;
  let last: ContainerStatus | undefined = previous;
  if (c?.state === 'running') state = { running: { startedAt: rfc3339(c.startedAt) } };
  else if (over && (!waiting || i.end)) state = { terminated: terminated(i, c) };
  else {
    state = {
      waiting: waiting ?? { reason: waitsForInit(i, init) ? 'PodInitializing' : 'ContainerCreating' },
    };
    if (over) last = c;
  }
  const started = state.running !== undefined && !i.notStarted.has(c!.id);
  const ready =
    init && !isSidecar(spec)
      ? state.terminated?.exitCode === 0
      : started && !i.notReady.has(c!.id) && i.end === undefined;
  const requests = spec.resources?.requests;
  return {
    name: spec.name,
    state,
    lastState: last ? { terminated: terminated(i, last) } : {},
    ready,
    restartCount: c?.attempt ?? 0,
    image: spec.image ?? '',
    imageID: c ? (c.annotations[ANNOTATIONS.imageId] ?? c.imageRef) : '',
    ...(c && c.state !== 'created' ? { containerID: `${i.scheme}://${c.id}` } : {}),
    started,
    ...(c && requests ? { allocatedResources: requests } : {}),
    ...(c ? { resources: resourcesOf(i.actual.get(c.id) ?? spec.resources ?? {}) } : {}),
  };
}

const waitsForInit = (i: StatusInput, init: boolean) => init || (i.pod.spec?.initContainers?.length ?? 0) > 0;

function conditions(
  i: StatusInput,
  phase: PodStatus['phase'],
  sandboxReady: boolean,
  inits: KContainerStatus[],
  mains: KContainerStatus[],
): PodCondition[] {
  const spec = i.pod.spec;
  const names = (list: KContainerStatus[]) => `[${list.map((s) => s.name).join(' ')}]`;
  const isSide = (s: KContainerStatus) =>
    (spec?.initContainers ?? []).some((c) => c.name === s.name && isSidecar(c));
  const begun = mains.some((s) => s.state?.running || s.state?.terminated || s.lastState?.terminated);
  const incomplete = begun ? [] : inits.filter((s) => (isSide(s) ? !s.started : !s.ready));
  const initialized =
    phase === 'Succeeded'
      ? yes('PodCompleted')
      : incomplete.length > 0
        ? no('ContainersNotInitialized', `containers with incomplete status: ${names(incomplete)}`)
        : yes();
  const unready = [...inits.filter(isSide), ...mains].filter((s) => !s.ready);
  const containersReady =
    phase === 'Succeeded'
      ? no('PodCompleted')
      : phase === 'Failed'
        ? no('PodFailed')
        : unready.length > 0
          ? no('ContainersNotReady', `containers with unready status: ${names(unready)}`)
          : yes();
  const gates = (spec?.readinessGates ?? [])
    .map((g) => g.conditionType)
    .filter((t) => i.pod.status?.conditions?.find((c) => c.type === t)?.status !== 'True');
  const ready =
    containersReady.status === 'True' && gates.length > 0
      ? no(
          'ReadinessGatesNotReady',
          gates.map((g) => `corresponding condition of pod readiness gate "${g}" does not exist.`).join(', '),
        )
      : containersReady;
  const made: [string, Omit<PodCondition, 'type'>][] = [
    ['PodReadyToStartContainers', sandboxReady ? yes() : no()],
    ['Initialized', initialized],
    ['Ready', ready],
    ['ContainersReady', containersReady],
    ['PodScheduled', yes()],
  ];
  made.push(...resizeConditions(i));
  if (i.end?.reason === 'Evicted')
    made.push(['DisruptionTarget', { ...yes('TerminationByKubelet'), message: i.end.message }]);
  return made.map(([type, c]) => {
    const old = i.previous?.conditions?.find((x) => x.type === type);
    const known =
      type === 'PodScheduled' ? i.pod.status?.conditions?.find((x) => x.type === type) : undefined;
    const since = [old, known].find((x) => x?.status === c.status)?.lastTransitionTime;
    return { type, ...c, lastTransitionTime: since ?? rfc3339(i.now) } as PodCondition;
  });
}

/** There while a resize waits or is being done, and gone afterwards. */
function resizeConditions(i: StatusInput): [string, Omit<PodCondition, 'type'>][] {
  if (i.end) return [];
  const made: [string, Omit<PodCondition, 'type'>][] = [];
  if (i.refused) made.push(['PodResizePending', { ...yes(i.refused.reason), message: i.refused.message }]);
  const unsized = [...(i.pod.spec?.initContainers ?? []), ...(i.pod.spec?.containers ?? [])].filter(
    (spec) => {
      const c = attemptsOf(i.containers, spec.name)[0];
      const actual = c?.state === 'running' ? i.actual.get(c.id) : undefined;
      return actual && changes(actual, spec.resources).length > 0;
    },
  );
  if (unsized.length === 0) return made;
  const failure = unsized.map((c) => i.failures.get(`resize:${c.name}`)).find((f) => f !== undefined);
  made.push(['PodResizeInProgress', failure ? { ...yes('Error'), message: failure.message } : yes()]);
  return made;
}

const yes = (reason?: string): Omit<PodCondition, 'type'> => ({
  status: 'True',
  ...(reason ? { reason } : {}),
});
const no = (reason?: string, message?: string): Omit<PodCondition, 'type'> => ({
  status: 'False',
  ...(reason ? { reason } : {}),
  ...(message ? { message } : {}),
});
