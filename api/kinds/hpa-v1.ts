import type { HorizontalPodAutoscaler as V1 } from 'kubernetes-types/autoscaling/v1.js';
import type { MetricSpec, HorizontalPodAutoscaler as V2 } from 'kubernetes-types/autoscaling/v2.js';
import { horizontalPodAutoscalers } from './hpa.js';
import type { Kind } from './kind.js';

/** The one metric that the older version can say. */
const isCpu = (m: MetricSpec | { type?: string; resource?: { name?: string } }): boolean =>
  m.type === 'Resource' && m.resource?.name === 'cpu';

function show(o: V2): V1 {
  const { apiVersion: _a, kind: _k, spec, status, ...rest } = o;
  const target = spec?.metrics?.find((m) => isCpu(m) && m.resource?.target.averageUtilization !== undefined);
  const current = status?.currentMetrics?.find((m) => isCpu(m as never))?.resource?.current
    .averageUtilization;
  const { scaleTargetRef, minReplicas, maxReplicas } = spec ?? ({} as NonNullable<V2['spec']>);
  const { observedGeneration, lastScaleTime, currentReplicas, desiredReplicas = 0 } = status ?? {};
  const percent = target?.resource?.target.averageUtilization;
  return {
    ...rest,
    spec: {
      scaleTargetRef,
      ...(minReplicas === undefined ? {} : { minReplicas }),
      maxReplicas,
      ...(percent === undefined ? {} : { targetCPUUtilizationPercentage: percent }),
    },
    status: {
      ...(observedGeneration === undefined ? {} : { observedGeneration }),
      ...(lastScaleTime === undefined ? {} : { lastScaleTime }),
      currentReplicas: currentReplicas ?? 0,
      desiredReplicas,
      ...(current === undefined ? {} : { currentCPUUtilizationPercentage: current }),
    },
  } as V1;
}

function keep(o: V1, stored?: V2): V2 {
  const { apiVersion: _a, kind: _k, spec, status, ...rest } = o;
  const { targetCPUUtilizationPercentage: percent, ...others } = spec ?? ({} as NonNullable<V1['spec']>);
  const kept = (stored?.spec?.metrics ?? []).filter(
    (m) => !isCpu(m) || m.resource?.target.averageUtilization === undefined,
  );
  const cpu =
    percent === undefined
      ? []
      : [
          {
            type: 'Resource',
            resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: percent } },
          },
        ];
  const metrics = [...cpu, ...kept];
  const { currentCPUUtilizationPercentage: _c, ...state } = status ?? ({} as NonNullable<V1['status']>);
  return {
    ...rest,
    ...(spec
      ? {
          spec: {
            ...others,
            ...(metrics.length ? { metrics } : {}),
            ...(stored?.spec?.behavior ? { behavior: stored.spec.behavior } : {}),
          },
        }
      : {}),
    ...(status ? { status: { ...stored?.status, ...state } } : {}),
  } as V2;
}

/** The older version: a target for the CPU and nothing else. */
export const horizontalPodAutoscalersV1: Kind<V1> = {
  ...(horizontalPodAutoscalers as unknown as Kind<V1>),
  version: 'v1',
  schema: 'io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler',
  columns: horizontalPodAutoscalers.columns.map((c) => ({
    ...c,
    value: (o: V1, now: number) => c.value(keep(o), now),
  })),
  setDefaults: undefined,
  prepareForCreate: undefined,
  validate: undefined,
  view: { of: horizontalPodAutoscalers, show, keep },
};
