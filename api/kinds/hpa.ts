import type {
  HorizontalPodAutoscaler,
  HorizontalPodAutoscalerSpec,
  HPAScalingRules,
  MetricSpec,
  MetricTarget,
} from 'kubernetes-types/autoscaling/v2.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { pathSegmentName } from '../meta/names.js';
import { compareQuantity } from '../meta/quantity.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

type Source = { name?: string; metric?: { name?: string }; target?: MetricTarget; container?: string };

/** Metric type → the member that describes it. */
const SOURCES: Readonly<Record<string, keyof MetricSpec>> = {
  Object: 'object',
  Pods: 'pods',
  Resource: 'resource',
  ContainerResource: 'containerResource',
  External: 'external',
};
const sourceOf = (m: MetricSpec): Source | undefined => {
  const member = SOURCES[m.type];
  return member ? (m[member] as Source | undefined) : undefined;
};

/** TARGETS as `kubectl get hpa` shows them (Kubernetes' formatHPAMetrics). */
function targets(o: HorizontalPodAutoscaler): string {
  const specs = o.spec?.metrics ?? [];
  if (specs.length === 0) return '<none>';
  const texts = specs.map((m, i) => {
    const target = sourceOf(m)?.target;
    if (!target) return '<unknown type>';
    const current = sourceOf((o.status?.currentMetrics?.[i] ?? {}) as MetricSpec) as
      | { current?: { averageValue?: string; value?: string; averageUtilization?: number } }
      | undefined;
    const now = current?.current;
    const byResource = m.type === 'Resource' || m.type === 'ContainerResource';
    const name = byResource ? `${sourceOf(m)?.name}: ` : '';
    if (byResource && target.averageValue === undefined) {
      const percent = (n: number | undefined, none: string) => (n === undefined ? none : `${n}%`);
      return `${name}${percent(now?.averageUtilization, '<unknown>')}/${percent(target.averageUtilization, '<auto>')}`;
    }
    if (target.averageValue !== undefined) {
      const mean = m.type === 'External' || m.type === 'Object' ? ' (avg)' : '';
      return `${name}${now?.averageValue ?? '<unknown>'}/${target.averageValue}${mean}`;
    }
    return `${now?.value ?? '<unknown>'}/${target.value}`;
  });
  const shown = texts.slice(0, 2).join(', ');
  return texts.length > 2 ? `${shown} + ${texts.length - 2} more...` : shown;
}

const positive = (v: string | undefined, at: string): FieldError[] =>
  v !== undefined && compareQuantity(v, '0') <= 0 ? [invalid(at, v, 'must be positive')] : [];

function validateTarget(t: MetricTarget | undefined, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (!t?.type) errors.push(required(`${at}.type`, 'must specify a metric target type'));
  else if (!['Utilization', 'Value', 'AverageValue'].includes(t.type))
    errors.push(invalid(`${at}.type`, t.type, 'must be either Utilization, Value, or AverageValue'));
  if (t?.averageUtilization !== undefined && t.averageUtilization < 1)
    errors.push(invalid(`${at}.averageUtilization`, t.averageUtilization, 'must be greater than 0'));
  return [
    ...errors,
    ...positive(t?.value, `${at}.value`),
    ...positive(t?.averageValue, `${at}.averageValue`),
  ];
}

function validateSource(type: string, s: Source, at: string): FieldError[] {
  const errors = validateTarget(s.target, `${at}.target`);
  const { target } = s;
  if (type === 'Resource' || type === 'ContainerResource') {
    if (!s.name) errors.push(required(`${at}.name`, 'must specify a resource name'));
    if (type === 'ContainerResource' && !s.container)
      errors.push(required(`${at}.container`, 'must specify a container'));
    if (target?.averageUtilization === undefined && target?.averageValue === undefined)
      errors.push(
        required(
          `${at}.target.averageUtilization`,
          'must set either a target raw value or a target utilization',
        ),
      );
    if (target?.averageUtilization !== undefined && target.averageValue !== undefined)
      errors.push(
        forbidden(
          `${at}.target.averageValue`,
          'may not set both a target raw value and a target utilization',
        ),
      );
  } else {
    if (!s.metric?.name) errors.push(required(`${at}.metric.name`, 'must specify a metric name'));
    if (type === 'Pods' && target?.averageValue === undefined)
      errors.push(required(`${at}.target.averageValue`, 'must specify a positive target averageValue'));
    if (type !== 'Pods' && target?.value === undefined && target?.averageValue === undefined)
      errors.push(
        required(
          `${at}.target.averageValue`,
          'must set either a target value for metric or a per-pod target',
        ),
      );
  }
  return errors;
}

function validateMetric(m: MetricSpec, at: string): FieldError[] {
  const errors: FieldError[] = [];
  if (!m.type) errors.push(required(`${at}.type`, 'must specify a metric source type'));
  if (!Object.hasOwn(SOURCES, m.type ?? ''))
    return [...errors, notSupported(`${at}.type`, m.type ?? '', Object.keys(SOURCES))];
  const member = SOURCES[m.type]!;
  const source = m[member] as Source | undefined;
  if (!source)
    errors.push(required(`${at}.${member}`, 'must populate information for the given metric source'));
  else errors.push(...validateSource(m.type, source, `${at}.${member}`));
  for (const other of Object.values(SOURCES))
    if (other !== member && m[other])
      errors.push(forbidden(`${at}.${other}`, 'must populate the given metric source only'));
  return errors;
}

const MAX_WINDOW = 3600;
const MAX_PERIOD = 1800;

function validateRules(r: HPAScalingRules | undefined, at: string): FieldError[] {
  if (!r) return [];
  const errors: FieldError[] = [];
  const window = r.stabilizationWindowSeconds;
  const f = `${at}.stabilizationWindowSeconds`;
  if (window !== undefined && window < 0)
    errors.push(invalid(f, window, 'must be greater than or equal to zero'));
  if (window !== undefined && window > MAX_WINDOW)
    errors.push(invalid(f, window, `must be less than or equal to ${MAX_WINDOW}`));
  const select = ['Max', 'Min', 'Disabled'];
  if (r.selectPolicy !== undefined && !select.includes(r.selectPolicy))
    errors.push(notSupported(`${at}.selectPolicy`, r.selectPolicy, select));
  if (!r.policies?.length) errors.push(required(`${at}.policies`, 'must specify at least one Policy'));
  for (const [i, p] of (r.policies ?? []).entries()) {
    const g = `${at}.policies[${i}]`;
    if (!['Pods', 'Percent'].includes(p.type))
      errors.push(notSupported(`${g}.type`, p.type ?? '', ['Pods', 'Percent']));
    if (p.value <= 0) errors.push(invalid(`${g}.value`, p.value, 'must be greater than zero'));
    if (p.periodSeconds <= 0)
      errors.push(invalid(`${g}.periodSeconds`, p.periodSeconds, 'must be greater than zero'));
    if (p.periodSeconds > MAX_PERIOD)
      errors.push(
        invalid(`${g}.periodSeconds`, p.periodSeconds, `must be less than or equal to ${MAX_PERIOD}`),
      );
  }
  return errors;
}

function validate(o: HorizontalPodAutoscaler): FieldError[] {
  const spec = o.spec!;
  const { minReplicas: min, maxReplicas: max = 0, scaleTargetRef: ref } = spec;
  const errors: FieldError[] = [];
  if (min !== undefined && min < 1)
    errors.push(invalid('spec.minReplicas', min, 'must be greater than or equal to 1'));
  if (max < 1) errors.push(invalid('spec.maxReplicas', max, 'must be greater than 0'));
  if (min !== undefined && max < min)
    errors.push(invalid('spec.maxReplicas', max, 'must be greater than or equal to `minReplicas`'));
  for (const k of ['kind', 'name'] as const) {
    const v = ref?.[k] ?? '';
    if (!v) errors.push(required(`spec.scaleTargetRef.${k}`));
    errors.push(...pathSegmentName(v).map((e) => invalid(`spec.scaleTargetRef.${k}`, v, e)));
  }
  return [
    ...errors,
    ...(spec.metrics ?? []).flatMap((m, i) => validateMetric(m, `spec.metrics[${i}]`)),
    ...validateRules(spec.behavior?.scaleUp, 'spec.behavior.scaleUp'),
    ...validateRules(spec.behavior?.scaleDown, 'spec.behavior.scaleDown'),
  ];
}

/** Kubernetes' defaults, filled into what a user said of the behaviour. */
function defaultBehavior(spec: HorizontalPodAutoscalerSpec): void {
  const { behavior } = spec as { behavior?: { scaleUp?: HPAScalingRules; scaleDown?: HPAScalingRules } };
  if (!behavior) return;
  const up = {
    stabilizationWindowSeconds: 0,
    selectPolicy: 'Max',
    policies: [
      { type: 'Pods', value: 4, periodSeconds: 15 },
      { type: 'Percent', value: 100, periodSeconds: 15 },
    ],
  };
  const down = { selectPolicy: 'Max', policies: [{ type: 'Percent', value: 100, periodSeconds: 15 }] };
  behavior.scaleUp = { ...up, ...behavior.scaleUp };
  behavior.scaleDown = { ...down, ...behavior.scaleDown };
}

export const horizontalPodAutoscalers: Kind<HorizontalPodAutoscaler> = {
  group: 'autoscaling',
  version: 'v2',
  kind: 'HorizontalPodAutoscaler',
  plural: 'horizontalpodautoscalers',
  singular: 'horizontalpodautoscaler',
  shortNames: ['hpa'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler',
  columns: [
    nameColumn,
    column(
      'Reference',
      'string',
      'What is scaled.',
      (o) => `${o.spec?.scaleTargetRef.kind}/${o.spec?.scaleTargetRef.name}`,
    ),
    column('Targets', 'string', 'Measured and wanted values.', targets),
    column('MinPods', 'string', 'No fewer pods than this.', (o) => String(o.spec?.minReplicas ?? '<unset>')),
    column('MaxPods', 'string', 'No more pods than this.', (o) => o.spec?.maxReplicas ?? 0),
    column('Replicas', 'string', 'Pods there are.', (o) => o.status?.currentReplicas ?? 0),
    ageColumn,
  ],
  status: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {} as HorizontalPodAutoscalerSpec;
    o.spec.minReplicas ??= 1;
    if (!o.spec.metrics?.length)
      o.spec.metrics = [
        {
          type: 'Resource',
          resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: 80 } },
        },
      ];
    defaultBehavior(o.spec);
  },
  prepareForCreate(o) {
    (o as { status: object }).status = { desiredReplicas: 0, currentMetrics: null };
    delete (o.status as { currentMetrics?: unknown }).currentMetrics;
  },
  validate,
};
