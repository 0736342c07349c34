import type {
  HorizontalPodAutoscaler,
  HorizontalPodAutoscalerCondition,
  HorizontalPodAutoscalerStatus,
  MetricSpec,
  MetricStatus,
  MetricTarget,
  MetricValueStatus,
} from 'kubernetes-types/autoscaling/v2.js';
import { rfc3339 } from '../../api/clock.js';
import { horizontalPodAutoscalers, podMetrics, pods } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { goDuration } from '../../api/meta/duration.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { canonicalQuantity, milliQuantity } from '../../api/meta/quantity.js';
import type { Frozen } from '../client.js';
import { scaleOf } from '../registry/scale.js';
import { type Past, type PodUsage, paced, replicasFor, requestsOf } from './hpa-plan.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';

/** Kubernetes' period. */
const PERIOD_MS = 15_000;

const NO_CUSTOM =
  'unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered';
const NO_EXTERNAL =
  'unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered';

/** What one metric asks for. */
interface Proposal {
  replicas: number;
  /** As events name it. */
  name: string;
  status: MetricStatus;
}

interface Scaled {
  namespace: string;
  /** What selects the pods, as text. */
  selector: string;
  replicas: number;
}

/** Metric type → the reason of the condition when it cannot be had, and how it is had; throws in Kubernetes' words. */
const SOURCES: Readonly<
  Record<
    string,
    { reason: string; propose: (m: Frozen<MetricSpec>, ctx: Context, of: Scaled) => Promise<Proposal> }
  >
> = {
  Resource: {
    reason: 'FailedGetResourceMetric',
    propose: async (m, ctx, of) => {
      const { name, target } = m.resource!;
      const { replicas, current, how } = await byResource(ctx, of, name, target, undefined);
      return {
        replicas,
        name: `${name} resource${how}`,
        status: { type: m.type, resource: { name, current } },
      };
    },
  },
  ContainerResource: {
    reason: 'FailedGetContainerResourceMetric',
    propose: async (m, ctx, of) => {
      const { name, target, container } = m.containerResource!;
      const { replicas, current, how } = await byResource(ctx, of, name, target, container);
      return {
        replicas,
        name: `${name} container resource${how}`,
        status: { type: m.type, containerResource: { name, container, current } },
      };
    },
  },
  Pods: {
    reason: 'FailedGetPodsMetric',
    propose: (m) => Promise.reject(new Error(`unable to get metric ${m.pods?.metric.name}: ${NO_CUSTOM}`)),
  },
  Object: {
    reason: 'FailedGetObjectMetric',
    propose: (m) => Promise.reject(new Error(`unable to get metric ${m.object?.metric.name}: ${NO_CUSTOM}`)),
  },
  External: {
    reason: 'FailedGetExternalMetric',
    propose: (m) =>
      Promise.reject(new Error(`unable to get external metric ${m.external?.metric.name}: ${NO_EXTERNAL}`)),
  },
};

/** What the pods use, or one container of each. */
async function usageOf(
  ctx: Context,
  { namespace, selector }: Scaled,
  resource: string,
  container: string | undefined,
): Promise<Map<string, PodUsage>> {
  const { items } = await ctx.client
    .list(podMetrics, { namespace, labelSelector: selector })
    .catch((e: unknown) => {
      throw new Error(
        `unable to fetch metrics from resource metrics API: ${errorText(e)} (get pods.metrics.k8s.io)`,
      );
    });
  if (items.length === 0) throw new Error('no metrics returned from resource metrics API');
  const out = new Map<string, PodUsage>();
  for (const m of items) {
    const { name } = m.metadata!;
    const counted = m.containers.filter((c) => container === undefined || c.name === container);
    if (counted.length === 0)
      throw new Error(`container ${container} not present in metrics for pod ${namespace}/${name}`);
    const amounts = counted.map((c) => (c.usage as Record<string, string | undefined>)[resource]);
    if (amounts.includes(undefined)) continue;
    out.set(name!, {
      value: amounts.reduce((sum, q) => sum + milliQuantity(q!), 0),
      at: Date.parse(m.timestamp),
      windowMs: goDuration(m.window) ?? 0,
    });
  }
  return out;
}

async function byResource(
  ctx: Context,
  of: Scaled,
  resource: string,
  target: Frozen<MetricTarget>,
  container: string | undefined,
): Promise<{ replicas: number; current: MetricValueStatus; how: string }> {
  const { averageValue, averageUtilization } = target;
  try {
    const usage = await usageOf(ctx, of, resource, container).catch((e: unknown) => {
      throw new Error(`unable to get metrics for resource ${resource}: ${errorText(e)}`);
    });
    const selected = await ctx.client.list(pods, { namespace: of.namespace, labelSelector: of.selector });
    const goal =
      averageValue !== undefined
        ? { average: milliQuantity(averageValue) }
        : { utilization: averageUtilization!, requests: requestsOf(selected.items, resource, container) };
    const now = ctx.clock.now();
    const { replicas, average, utilization } = replicasFor(
      of.replicas,
      selected.items,
      usage,
      goal,
      resource,
      now,
    );
    return {
      replicas,
      current: {
        averageValue: canonicalQuantity(`${average}m`),
        ...(utilization === undefined ? {} : { averageUtilization: utilization }),
      },
      how: utilization === undefined ? '' : ' utilization (percentage of request)',
    };
  } catch (e) {
    throw new Error(
      `failed to get ${resource} ${averageValue === undefined ? 'utilization' : 'usage'}: ${errorText(e)}`,
    );
  }
}

/** The metric that asks for most, what each says, and what cannot be had. */
async function proposals(ctx: Context, metrics: readonly Frozen<MetricSpec>[], of: Scaled) {
  let best: Proposal | undefined;
  const statuses: MetricStatus[] = [];
  const failures: { reason: string; why: string }[] = [];
  for (const m of metrics) {
    const { reason, propose } = SOURCES[m.type]!;
    try {
      const p = await propose(m, ctx, of);
      statuses.push(p.status);
      if (!best || p.replicas > best.replicas) best = p;
    } catch (e) {
      failures.push({ reason, why: errorText(e) });
    }
  }
  return { best, statuses, failures };
}

/**
 * Scales by what pods use, within bounds and no faster than allowed. There is no API for custom and external metrics,
 * which it says as Kubernetes does without one.
 */
export function hpaLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('horizontal-pod-autoscaler');
  const all = informers.of(horizontalPodAutoscalers).onChange((key) => keys.add(key));

  /** What was wanted and done lately, by uid: it does not outlive this process, as in Kubernetes. */
  const past = new Map<string, Past>();
  all.onChange((_, now, before) => {
    if (!now) past.delete(before?.metadata?.uid ?? '');
  });

  return async (key) => {
    const h = all.get(key);
    if (!h || h.metadata?.deletionTimestamp) return undefined;
    const { scaleTargetRef: ref, minReplicas: min = 1, maxReplicas: max, metrics = [], behavior } = h.spec!;
    const uid = h.metadata!.uid!;
    const status = deepCopy(h.status ?? {}) as HorizontalPodAutoscalerStatus & {
      observedGeneration?: number;
    };
    const tell = (type: 'Normal' | 'Warning', reason: string, message: string) =>
      events.tell(horizontalPodAutoscalers, h as HorizontalPodAutoscaler, type, reason, message);
    const note = (type: string, value: string, reason: string, message: string) => {
      const list = [...(status.conditions ?? [])] as HorizontalPodAutoscalerCondition[];
      const i = list.findIndex((c) => c.type === type);
      const before = list[i];
      const lastTransitionTime = before?.status === value ? before.lastTransitionTime : rfc3339(clock.now());
      const next = { type, status: value, lastTransitionTime, reason, message };
      if (i < 0) list.push(next);
      else list[i] = next;
      status.conditions = list;
    };
    const scaled = async (): Promise<void> => {
      const kind = ctx.kinds.kinds.find(
        (k) => k.kind === ref.kind && (!ref.apiVersion || apiVersionOf(k) === ref.apiVersion),
      ) as Kind<AnyObject> | undefined;
      const target = { namespace: h.metadata!.namespace, name: ref.name };
      let object: AnyObject;
      try {
        if (!kind?.scale)
          throw new Error(
            `no matches for kind ${JSON.stringify(ref.kind)} in group ${JSON.stringify(ref.apiVersion ?? '')}`,
          );
        object = (await client.get(kind, target)) as AnyObject;
      } catch (e) {
        tell('Warning', 'FailedGetScale', errorText(e));
        note(
          'AbleToScale',
          'False',
          'FailedGetScale',
          `the HPA controller was unable to get the target's current scale: ${errorText(e)}`,
        );
        return;
      }
      note(
        'AbleToScale',
        'True',
        'SucceededGetScale',
        "the HPA controller was able to get the target's current scale",
      );
      const at = (path: string): number =>
        Number(
          path
            .split('.')
            .slice(1)
            .reduce<unknown>((o, k) => (o as Record<string, unknown> | undefined)?.[k], object) ?? 0,
        );
      const wanted = at(kind.scale.specReplicas);
      status.currentReplicas = at(kind.scale.statusReplicas);
      if (wanted === 0) {
        status.desiredReplicas = 0;
        note(
          'ScalingActive',
          'False',
          'ScalingDisabled',
          'scaling is disabled since the replica count of the target is zero',
        );
        return;
      }
      const resize = async (replicas: number, reason: string): Promise<void> => {
        const parts = kind.scale!.specReplicas.split('.').slice(1).reverse();
        const patch = parts.reduce<unknown>((inner, k) => ({ [k]: inner }), replicas) as object;
        const { uid, resourceVersion } = object.metadata!;
        await client.patch(kind, target, { metadata: { uid, resourceVersion }, ...patch });
        tell('Normal', 'SuccessfulRescale', `New size: ${replicas}; reason: ${reason}`);
        note(
          'AbleToScale',
          'True',
          'SucceededRescale',
          `the HPA controller was able to update the target scale to ${replicas}`,
        );
        status.lastScaleTime = rfc3339(clock.now());
        status.desiredReplicas = replicas;
      };
      if (wanted > max) return resize(max, 'Current number of replicas above Spec.MaxReplicas');
      if (wanted < min) return resize(min, 'Current number of replicas below Spec.MinReplicas');

      const selector = (scaleOf(kind, object)['status'] as { selector?: string }).selector;
      if (!selector) {
        tell('Warning', 'SelectorRequired', 'selector is required');
        note('ScalingActive', 'False', 'InvalidSelector', "the HPA target's scale is missing a selector");
        return;
      }
      const of = { namespace: h.metadata!.namespace!, selector, replicas: wanted };
      const { best, statuses, failures } = await proposals(ctx, metrics, of);
      for (const { reason, why } of failures) tell('Warning', reason, why);
      const [failed] = failures;
      // With some metrics missing it may only grow: they could have asked for more.
      if (failed && (!best || best.replicas < wanted)) {
        const { reason, why } = failed;
        note('ScalingActive', 'False', reason, `the HPA was unable to compute the replica count: ${why}`);
        tell(
          'Warning',
          'FailedComputeMetricsReplicas',
          `invalid metrics (${failures.length} invalid out of ${metrics.length}), first error is: ${why}`,
        );
        return;
      }
      if (!best) return;
      note(
        'ScalingActive',
        'True',
        'ValidMetricFound',
        `the HPA was able to successfully calculate a replica count from ${best.name}`,
      );
      status.currentMetrics = statuses;
      const known = past.get(uid) ?? { wanted: [], up: [], down: [] };
      past.set(uid, known);
      const { replicas, remarks } = paced(best.replicas, wanted, h.spec!, known, clock.monotonic());
      for (const r of remarks) note(r.type, r.status, r.reason, r.message);
      status.desiredReplicas = replicas;
      if (replicas === wanted) return;
      await resize(replicas, replicas > wanted ? `${best.name} above target` : 'All metrics below target');
      if (behavior)
        known[replicas > wanted ? 'up' : 'down'].push({
          at: clock.monotonic(),
          count: Math.abs(replicas - wanted),
        });
    };
    await scaled();
    if (!deepEqual(status, h.status))
      await ifThere(
        client.updateStatus(horizontalPodAutoscalers, { ...(h as HorizontalPodAutoscaler), status }),
      );
    return PERIOD_MS;
  };
}
