import type {
  HorizontalPodAutoscaler,
  HorizontalPodAutoscalerCondition,
  HorizontalPodAutoscalerStatus,
  MetricSpec,
} from 'kubernetes-types/autoscaling/v2.js';
import { rfc3339 } from '../../api/clock.js';
import { horizontalPodAutoscalers } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';

/** Kubernetes' period. */
const PERIOD_MS = 15_000;

/** Metric type → what a condition says about it when it cannot be had: no metrics API is served. */
const UNAVAILABLE: Readonly<Record<string, (m: Frozen<MetricSpec>) => { reason: string; why: string }>> = {
  Resource: (m) => ({
    reason: 'FailedGetResourceMetric',
    why: `failed to get ${m.resource?.name} ${m.resource?.target.averageValue === undefined ? 'utilization' : 'usage'}: unable to get metrics for resource ${m.resource?.name}: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)`,
  }),
  ContainerResource: (m) => ({
    reason: 'FailedGetContainerResourceMetric',
    why: `failed to get ${m.containerResource?.name} usage: unable to get metrics for resource ${m.containerResource?.name}: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)`,
  }),
  Pods: (m) => ({
    reason: 'FailedGetPodsMetric',
    why: `unable to get metric ${m.pods?.metric.name}: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered`,
  }),
  Object: (m) => ({
    reason: 'FailedGetObjectMetric',
    why: `unable to get metric ${m.object?.metric.name}: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered`,
  }),
  External: (m) => ({
    reason: 'FailedGetExternalMetric',
    why: `unable to get external metric ${m.external?.metric.name}: unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered`,
  }),
};

/**
 * Keeps what is scaled within its bounds. It cannot go by metrics, since no metrics API is served, and says so as
 * Kubernetes does without one.
 */
export function hpaLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('horizontal-pod-autoscaler');
  const all = informers.of(horizontalPodAutoscalers).onChange((key) => keys.add(key));

  return async (key) => {
    const h = all.get(key);
    if (!h || h.metadata?.deletionTimestamp) return undefined;
    const { scaleTargetRef: ref, minReplicas: min = 1, maxReplicas: max, metrics = [] } = h.spec!;
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
      const bounded = Math.min(max, Math.max(min, wanted));
      if (bounded !== wanted) {
        const reason =
          wanted > max
            ? 'Current number of replicas above Spec.MaxReplicas'
            : 'Current number of replicas below Spec.MinReplicas';
        const parts = kind.scale.specReplicas.split('.').slice(1).reverse();
        const patch = parts.reduce<unknown>((inner, k) => ({ [k]: inner }), bounded) as object;
        const { uid, resourceVersion } = object.metadata!;
        await client.patch(kind, target, { metadata: { uid, resourceVersion }, ...patch });
        tell('Normal', 'SuccessfulRescale', `New size: ${bounded}; reason: ${reason}`);
        note(
          'AbleToScale',
          'True',
          'SucceededRescale',
          `the HPA controller was able to update the target scale to ${bounded}`,
        );
        status.lastScaleTime = rfc3339(clock.now());
        status.desiredReplicas = bounded;
        return;
      }
      const [first] = metrics;
      if (!first) return;
      const { reason, why } = UNAVAILABLE[first.type]!(first);
      note('ScalingActive', 'False', reason, `the HPA was unable to compute the replica count: ${why}`);
      tell('Warning', reason, why);
      tell(
        'Warning',
        'FailedComputeMetricsReplicas',
        `invalid metrics (${metrics.length} invalid out of ${metrics.length}), first error is: ${why}`,
      );
    };
    await scaled();
    if (!deepEqual(status, h.status))
      await ifThere(
        client.updateStatus(horizontalPodAutoscalers, { ...(h as HorizontalPodAutoscaler), status }),
      );
    return PERIOD_MS;
  };
}
