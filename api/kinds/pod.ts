import type { Container, ContainerStatus, Pod, PodSpec, Toleration } from 'kubernetes-types/core/v1.js';
import { humanDuration } from '../meta/duration.js';
import { forbidden, invalid } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { ageColumn, column, nameColumn } from './columns.js';
import { EPHEMERAL_DOOR, validateEphemeralUpdate, withEphemeral } from './ephemeral.js';
import type { FieldError, Kind } from './kind.js';
import { containersOf, defaultPodSpec } from './pod-defaults.js';
import { validatePodSpec } from './pod-spec.js';
import { qosClassOf } from './qos.js';
import { RESIZE_DOOR, resizedSpec, validateResize } from './resize.js';

const isSidecar = (c: Container): boolean => c.restartPolicy === 'Always';

const conditionTrue = (o: Pod, type: string): boolean =>
  o.status?.conditions?.some((c) => c.type === type && c.status === 'True') ?? false;

/** `Signal:9` or `ExitCode:1`, for a container that ended without saying why. */
const ending = (t: { signal?: number; exitCode: number }): string =>
  t.signal ? `Signal:${t.signal}` : `ExitCode:${t.exitCode}`;

interface Summary {
  ready: number;
  total: number;
  status: string;
  restarts: number;
  /** Unix milliseconds; 0 for never. */
  lastRestart: number;
}

/** READY, STATUS and RESTARTS as `kubectl get pods` shows them (Kubernetes' printers, printPod). */
export function summarize(o: Pod): Summary {
  const { spec, status } = o;
  let reason: string = status?.reason || status?.phase || '';
  if (status?.conditions?.some((c) => c.type === 'PodScheduled' && c.reason === 'SchedulingGated'))
    reason = 'SchedulingGated';
  const inits = new Map((spec?.initContainers ?? []).map((c) => [c.name, c]));
  const sidecars = [...inits.values()].filter(isSidecar).length;
  const sum = { ready: 0, restarts: 0, sidecarRestarts: 0, last: 0, lastSidecar: 0 };
  const ended = (s: ContainerStatus) => Date.parse(s.lastState?.terminated?.finishedAt ?? '') || 0;

  let initializing = false;
  for (const [i, s] of (status?.initContainerStatuses ?? []).entries()) {
    sum.restarts += s.restartCount ?? 0;
    sum.last = Math.max(sum.last, ended(s));
    const c = inits.get(s.name);
    if (c && isSidecar(c)) {
      sum.sidecarRestarts += s.restartCount ?? 0;
      sum.lastSidecar = Math.max(sum.lastSidecar, ended(s));
      if (s.started) {
        if (s.ready) sum.ready++;
        continue;
      }
    }
    const { terminated, waiting } = s.state ?? {};
    if (terminated?.exitCode === 0) continue;
    initializing = true;
    if (terminated) reason = `Init:${terminated.reason || ending(terminated)}`;
    else if (waiting?.reason && waiting.reason !== 'PodInitializing') reason = `Init:${waiting.reason}`;
    else reason = `Init:${i}/${inits.size}`;
    break;
  }
  if (!initializing || conditionTrue(o, 'Initialized')) {
    sum.restarts = sum.sidecarRestarts;
    sum.last = sum.lastSidecar;
    let running = false;
    for (const s of [...(status?.containerStatuses ?? [])].reverse()) {
      sum.restarts += s.restartCount ?? 0;
      sum.last = Math.max(sum.last, ended(s));
      const { terminated, waiting } = s.state ?? {};
      if (waiting?.reason) reason = waiting.reason;
      else if (terminated) reason = terminated.reason || ending(terminated);
      else if (s.ready && s.state?.running) {
        running = true;
        sum.ready++;
      }
    }
    // One container has completed while another still runs.
    if (reason === 'Completed' && running) reason = conditionTrue(o, 'Ready') ? 'Running' : 'NotReady';
  }
  const phase = status?.phase;
  if (o.metadata?.deletionTimestamp) {
    if (status?.reason === 'NodeLost') reason = 'Unknown';
    else if (phase !== 'Succeeded' && phase !== 'Failed') reason = 'Terminating';
  }
  return {
    ready: sum.ready,
    total: (spec?.containers?.length ?? 0) + sidecars,
    status: reason,
    restarts: sum.restarts,
    lastRestart: sum.last,
  };
}

function restarts(o: Pod, now: number): string {
  const { restarts: n, lastRestart } = summarize(o);
  return n > 0 && lastRestart > 0 ? `${n} (${humanDuration(now - lastRestart)} ago)` : String(n);
}

function readinessGates(o: Pod): string {
  const gates = o.spec?.readinessGates ?? [];
  if (gates.length === 0) return '<none>';
  return `${gates.filter((g) => conditionTrue(o, g.conditionType)).length}/${gates.length}`;
}

/** A limit without a request asks for as much as it allows. */
function defaultRequests(spec: PodSpec): void {
  for (const c of containersOf(spec)) {
    const { limits } = c.resources ?? {};
    if (!limits || !c.resources) continue;
    c.resources.requests = { ...limits, ...c.resources.requests };
  }
}

const IMMUTABLE =
  'pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)';

/** Paths that differ, the first few. */
function differences(a: unknown, b: unknown, at: string, found: string[] = []): string[] {
  if (found.length >= 5 || deepEqual(a, b)) return found;
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b || Array.isArray(a) !== Array.isArray(b)) {
    found.push(`${at}: ${JSON.stringify(b)?.slice(0, 80)} -> ${JSON.stringify(a)?.slice(0, 80)}`);
    return found;
  }
  const list = Array.isArray(a);
  for (const k of new Set([...Object.keys(a), ...Object.keys(b)]))
    differences(
      (a as Record<string, unknown>)[k],
      (b as Record<string, unknown>)[k],
      list ? `${at}[${k}]` : `${at}.${k}`,
      found,
    );
  return found;
}

function validatePodUpdate(o: Pod, old: Pod): FieldError[] {
  const spec = o.spec;
  const before = old.spec;
  if (!spec || !before || deepEqual(spec, before)) return [];
  const errors: FieldError[] = [];
  for (const list of ['containers', 'initContainers'] as const)
    if ((spec[list]?.length ?? 0) !== (before[list]?.length ?? 0))
      return [forbidden(`spec.${list}`, 'pod updates may not add or remove containers')];
  const deadline = spec.activeDeadlineSeconds;
  if (before.activeDeadlineSeconds !== undefined) {
    if (deadline === undefined)
      errors.push(
        invalid(
          'spec.activeDeadlineSeconds',
          deadline,
          'must not update from a positive integer to nil value',
        ),
      );
    else if (deadline > before.activeDeadlineSeconds)
      errors.push(
        invalid('spec.activeDeadlineSeconds', deadline, 'must be less than or equal to previous value'),
      );
  }
  const untimed = ({ tolerationSeconds: _, ...t }: Toleration) => t;
  for (const t of before.tolerations ?? []) {
    const kept = spec.tolerations?.some(
      (x) => deepEqual(x, t) || (t.effect === 'NoExecute' && deepEqual(untimed(x), untimed(t))),
    );
    if (!kept) {
      errors.push(
        forbidden('spec.tolerations', 'existing toleration can not be modified except its tolerationSeconds'),
      );
      break;
    }
  }
  // What a gated pod may still change decides where it can go.
  const gated = (before.schedulingGates?.length ?? 0) > 0;
  const gates = new Set((before.schedulingGates ?? []).map((g) => g.name));
  for (const g of spec.schedulingGates ?? [])
    if (!gates.has(g.name))
      errors.push(
        forbidden('spec.schedulingGates', 'only deletion is allowed, but found new scheduling gate'),
      );
  if (errors.length) return errors;
  // The rest must be as it was: put back what may differ and compare.
  const images = (list: readonly Container[] | undefined, from: readonly Container[] | undefined) =>
    list?.map((c, i) => ({ ...c, image: from?.[i]?.image }));
  const munged = { ...spec };
  munged.containers = images(spec.containers, before.containers) ?? [];
  if (spec.initContainers) munged.initContainers = images(spec.initContainers, before.initContainers);
  const free: (keyof PodSpec)[] = ['activeDeadlineSeconds', 'tolerations', 'schedulingGates'];
  if (gated) free.push('nodeSelector', 'affinity');
  for (const k of free) {
    delete munged[k];
    if (before[k] !== undefined) Object.assign(munged, { [k]: before[k] });
  }
  const changed = differences(munged, before, 'spec');
  if (changed.length) errors.push(forbidden('spec', `${IMMUTABLE}\n${changed.join('\n')}`));
  return errors;
}

/** What may change through which door. */
const UPDATES: Readonly<Record<string, (o: Pod, old: Pod) => FieldError[]>> = {
  [EPHEMERAL_DOOR]: validateEphemeralUpdate,
  [RESIZE_DOOR]: validateResize,
};

export const pods: Kind<Pod> = {
  group: '',
  version: 'v1',
  kind: 'Pod',
  plural: 'pods',
  keptByStatus: 'ownerReferences',
  singular: 'pod',
  shortNames: ['po'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.Pod',
  columns: [
    nameColumn,
    column('Ready', 'string', 'Ready containers of all.', (o) => {
      const { ready, total } = summarize(o);
      return `${ready}/${total}`;
    }),
    column('Status', 'string', 'The aggregate status of the containers.', (o) => summarize(o).status),
    column('Restarts', 'string', 'How often containers were restarted, and when last.', restarts),
    ageColumn,
    column(
      'IP',
      'string',
      'Address of the pod.',
      (o) => o.status?.podIPs?.[0]?.ip || o.status?.podIP || '<none>',
      1,
    ),
    column('Node', 'string', 'The node that it is bound to.', (o) => o.spec?.nodeName || '<none>', 1),
    column(
      'Nominated Node',
      'string',
      'The node that it may get.',
      (o) => o.status?.nominatedNodeName || '<none>',
      1,
    ),
    column('Readiness Gates', 'string', 'Conditions that count for readiness.', readinessGates, 1),
  ],
  status: true,
  generation: true,
  selectable: {
    'spec.nodeName': (o) => o.spec?.nodeName ?? '',
    'spec.restartPolicy': (o) => o.spec?.restartPolicy ?? '',
    'spec.schedulerName': (o) => o.spec?.schedulerName ?? '',
    'spec.serviceAccountName': (o) => o.spec?.serviceAccountName ?? '',
    'spec.hostNetwork': (o) => String(o.spec?.hostNetwork ?? false),
    'status.phase': (o) => o.status?.phase ?? '',
    'status.podIP': (o) => o.status?.podIP ?? '',
    'status.nominatedNodeName': (o) => o.status?.nominatedNodeName ?? '',
  },
  // Nothing runs of a pod that is on no node or has ended: it goes at once.
  defaultGracePeriod: (o) =>
    !o.spec?.nodeName || o.status?.phase === 'Succeeded' || o.status?.phase === 'Failed'
      ? 0
      : (o.spec.terminationGracePeriodSeconds ?? 30),
  setDefaults(o) {
    o.spec ??= { containers: [] };
    const { spec } = o;
    defaultPodSpec(spec);
    defaultRequests(spec);
    spec.enableServiceLinks ??= true;
  },
  prepareForCreate(o) {
    (o as { status: Pod['status'] }).status = { phase: 'Pending', qosClass: qosClassOf(o) };
  },
  specDoors: { [EPHEMERAL_DOOR]: withEphemeral, [RESIZE_DOOR]: resizedSpec },
  validate(o, old) {
    const errors = validatePodSpec(o.spec, 'spec');
    if (!old && o.spec?.ephemeralContainers?.length)
      errors.push(forbidden('spec.ephemeralContainers', 'cannot be set on create'));
    return errors;
  },
  validateUpdate: (o, old, door) => (UPDATES[door ?? ''] ?? validatePodUpdate)(o, old),
};
