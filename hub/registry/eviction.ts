/** What an eviction does to the budget that guards a pod (Kubernetes' registry/core/pod/storage/eviction.go). */
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { PodDisruptionBudget, PodDisruptionBudgetStatus } from 'kubernetes-types/policy/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { podDisruptionBudgets, pods } from '../../api/kinds/index.js';
import { ApiError, isApiError } from '../../api/meta/errors.js';
import type { ObjectKey } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Client, DeleteOptions, Frozen } from '../client.js';

type Budget = Frozen<PodDisruptionBudget>;

/** Evictions that the controller has not seen done yet; more mean that it does not work. */
const MAX_DISRUPTED = 2000;
const VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget.";

const refuse = (message: string, retryAfterSeconds?: number): ApiError =>
  new ApiError('TooManyRequests', VIOLATES, {
    causes: [{ reason: 'DisruptionBudget', message }],
    ...(retryAfterSeconds ? { retryAfterSeconds } : {}),
  });

/** The refusal that makes clients try again soon. */
export const stillProcessed = (budget: string): ApiError =>
  refuse(`The disruption budget ${budget} is still being processed by the server.`, 10);

const forbidden = (name: string, why: string): ApiError =>
  new ApiError('Forbidden', `poddisruptionbudget.policy ${JSON.stringify(name)} is forbidden: ${why}`, {
    name,
    group: 'policy',
    kind: 'poddisruptionbudget',
  });

/** Nothing is disrupted by the end of a pod that does not run, or that is ending already. */
export const needsNoBudget = (p: Frozen<Pod>): boolean =>
  !!p.metadata?.deletionTimestamp ||
  ['Succeeded', 'Failed', 'Pending'].includes(p.status?.phase ?? 'Pending');

/** An unready pod does no good, so that its budget may have nothing against its end. */
export function isUnguarded(p: Frozen<Pod>, budget: Budget): boolean {
  const ready = p.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True');
  if (ready) return false;
  if (budget.spec?.unhealthyPodEvictionPolicy === 'AlwaysAllow') return true;
  const { currentHealthy = 0, desiredHealthy = 0 } = budget.status ?? {};
  return desiredHealthy > 0 && currentHealthy >= desiredHealthy;
}

/** Says in the conditions whether a disruption is allowed. */
export function withDisruptionCondition(
  status: Frozen<PodDisruptionBudgetStatus>,
  generation: number | undefined,
  now: number,
  failure?: string,
): PodDisruptionBudgetStatus {
  const allowed = failure === undefined && status.disruptionsAllowed > 0;
  const before = status.conditions?.find((c) => c.type === 'DisruptionAllowed');
  const value = allowed ? 'True' : 'False';
  const condition = {
    type: 'DisruptionAllowed',
    status: value,
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    lastTransitionTime: before?.status === value ? before.lastTransitionTime : rfc3339(now),
    reason: failure === undefined ? (allowed ? 'SufficientPods' : 'InsufficientPods') : 'SyncFailed',
    message: failure ?? '',
  };
  const others = (status.conditions ?? []).filter((c) => c.type !== 'DisruptionAllowed');
  return { ...status, conditions: [...others, condition] } as PodDisruptionBudgetStatus;
}

/** The budget's status with one disruption less. Throws TooManyRequests or Forbidden when there is none left. */
export function spend(budget: Budget, pod: string, now: number): PodDisruptionBudgetStatus {
  const name = budget.metadata!.name!;
  const status = budget.status as Frozen<PodDisruptionBudgetStatus>;
  const { disruptionsAllowed = 0, disruptedPods = {}, currentHealthy, desiredHealthy } = status;
  const generation = budget.metadata?.generation;
  if ((status.observedGeneration ?? 0) < (generation ?? 0)) throw stillProcessed(name);
  if (disruptionsAllowed < 0) throw forbidden(name, 'pdb disruptions allowed is negative');
  if (Object.keys(disruptedPods).length > MAX_DISRUPTED)
    throw forbidden(name, 'DisruptedPods map too big - too many evictions not confirmed by PDB controller');
  if (disruptionsAllowed === 0) {
    const c = status.conditions?.find(
      (x) => x.type === 'DisruptionAllowed' && x.status === 'False' && x.message,
    );
    const what = `The disruption budget ${name}`;
    if (c?.reason === 'SyncFailed')
      throw refuse(`${what} does not allow evicting pods currently because it failed sync: ${c.message}`);
    if (currentHealthy <= desiredHealthy)
      throw refuse(`${what} needs ${desiredHealthy} healthy pods and has ${currentHealthy} currently`);
    throw refuse(`${what} does not allow evicting pods currently${c ? ` (${c.reason}): ${c.message}` : ''}`);
  }
  const spent = {
    ...status,
    disruptionsAllowed: disruptionsAllowed - 1,
    disruptedPods: { ...disruptedPods, [pod]: rfc3339(now) },
  };
  return disruptionsAllowed === 1
    ? withDisruptionCondition(spent, generation, now)
    : (spent as PodDisruptionBudgetStatus);
}

/** How often a budget may change under our hands. */
const ATTEMPTS = 16;

/**
 * Asks the budget of a pod, if it has one, for leave to delete it, and spends it. Returns what the pod is to be deleted
 * with. Rejects with TooManyRequests when the budget has nothing left.
 */
export async function leaveToEvict(
  client: Client,
  key: ObjectKey,
  options: DeleteOptions,
  now: number,
): Promise<DeleteOptions> {
  const pod = await client.get(pods, key);
  const asItIs = options.resourceVersion
    ? options
    : { ...options, resourceVersion: pod.metadata!.resourceVersion! };
  if (needsNoBudget(pod))
    return pod.status?.phase === 'Pending' && !pod.metadata?.deletionTimestamp ? asItIs : options;
  const { items } = await client.list(podDisruptionBudgets, { namespace: pod.metadata!.namespace });
  const budgets = items.filter((b) =>
    matchesSelector(b.spec?.selector as never, pod.metadata?.labels as never),
  );
  if (budgets.length > 1)
    throw new ApiError(
      'InternalError',
      'This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.',
    );
  let [budget] = budgets;
  if (!budget) return options;
  if (isUnguarded(pod, budget)) return asItIs;
  for (let attempt = 1; ; attempt++) {
    const status = spend(budget, key.name, now);
    if (options.dryRun) return options;
    try {
      await client.updateStatus(podDisruptionBudgets, { ...(budget as PodDisruptionBudget), status });
      return options;
    } catch (e) {
      if (!isApiError(e, 'Conflict') || attempt >= ATTEMPTS) throw e;
      const name: string = budget.metadata!.name!;
      budget = await client.get(podDisruptionBudgets, { namespace: key.namespace, name });
    }
  }
}

/** Says on the pod why it ends. Returns its revision, for a delete that must not hit a changed pod. */
export async function noteEviction(
  client: Client,
  key: ObjectKey,
  options: DeleteOptions,
  now: number,
): Promise<string> {
  const pod = await client.get(pods, key);
  const { uid, resourceVersion } = pod.metadata!;
  if (options.resourceVersion && options.resourceVersion !== resourceVersion)
    throw new ApiError(
      'Conflict',
      `Operation cannot be fulfilled on Pod "${key.name}": the ResourceVersion in the precondition (${options.resourceVersion}) does not match the ResourceVersion in record (${resourceVersion}). The object might have been modified`,
    );
  if (options.uid && options.uid !== uid)
    throw new ApiError(
      'Conflict',
      `Operation cannot be fulfilled on Pod "${key.name}": the UID in the precondition (${options.uid}) does not match the UID in record (${uid}). The object might have been deleted and then recreated`,
    );
  const condition = {
    type: 'DisruptionTarget',
    status: 'True',
    lastTransitionTime: rfc3339(now),
    reason: 'EvictionByEvictionAPI',
    message: 'Eviction API: evicting',
  };
  const others = (pod.status?.conditions ?? []).filter((c) => c.type !== 'DisruptionTarget');
  const noted = await client.patch(
    pods,
    key,
    { metadata: { uid }, status: { conditions: [...others, condition] } },
    'status',
  );
  return noted.metadata!.resourceVersion!;
}
