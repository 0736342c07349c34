import type {
  PodTemplate,
  ReplicationController,
  ReplicationControllerSpec,
} from 'kubernetes-types/core/v1.js';
import { invalid, required } from '../meta/field-errors.js';
import { matchesSelector } from '../meta/selector.js';
import { ageColumn, column, labelsText, nameColumn, replicaColumns, templateColumns } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { atLeastZero, defaultTemplate, SCALE, validateEndless, validateTemplate } from './pod-template.js';

function validate(o: ReplicationController): FieldError[] {
  const spec = o.spec!;
  const { selector, template } = spec;
  const errors = [
    ...atLeastZero(spec.minReadySeconds, 'spec.minReadySeconds'),
    ...atLeastZero(spec.replicas, 'spec.replicas'),
  ];
  if (!Object.keys(selector ?? {}).length) errors.push(required('spec.selector'));
  if (!template) return [...errors, required('spec.template')];
  const labels = template.metadata?.labels;
  if (selector && !matchesSelector({ matchLabels: selector }, labels))
    errors.push(
      invalid('spec.template.metadata.labels', labels ?? {}, '`selector` does not match template `labels`'),
    );
  return [
    ...errors,
    ...validateTemplate(template, 'spec.template'),
    ...validateEndless(template, 'ReplicationController'),
  ];
}

const [containers, images] = templateColumns;

export const replicationControllers: Kind<ReplicationController> = {
  group: '',
  version: 'v1',
  kind: 'ReplicationController',
  plural: 'replicationcontrollers',
  singular: 'replicationcontroller',
  shortNames: ['rc'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.ReplicationController',
  columns: [
    nameColumn,
    ...replicaColumns,
    ageColumn,
    containers!,
    images!,
    column('Selector', 'string', 'Label selector for pods.', (o) => labelsText(o.spec?.selector), 1),
  ],
  status: true,
  generation: true,
  orphansByDefault: true,
  scale: SCALE,
  selectable: { 'status.replicas': (o) => String(o.status?.replicas ?? 0) },
  setDefaults(o) {
    o.spec ??= {} as ReplicationControllerSpec;
    const { spec } = o;
    if (spec.template) defaultTemplate(spec);
    const labels = spec.template?.metadata?.labels;
    if (labels) {
      const metadata = o.metadata as { labels?: Record<string, string> };
      if (!Object.keys(spec.selector ?? {}).length) spec.selector = { ...labels };
      if (!Object.keys(metadata.labels ?? {}).length) metadata.labels = { ...labels };
    }
    spec.replicas ??= 1;
  },
  prepareForCreate(o) {
    (o as { status: object }).status = { replicas: 0 };
  },
  validate,
};

export const podTemplates: Kind<PodTemplate> = {
  group: '',
  version: 'v1',
  kind: 'PodTemplate',
  plural: 'podtemplates',
  singular: 'podtemplate',
  shortNames: [],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.PodTemplate',
  columns: [
    nameColumn,
    column('Containers', 'string', 'Names of each container in the template.', (o) =>
      (o.template?.spec?.containers ?? []).map((c) => c.name).join(','),
    ),
    column('Images', 'string', 'Images referenced by each container in the template.', (o) =>
      (o.template?.spec?.containers ?? []).map((c) => c.image ?? '').join(','),
    ),
    column('Pod Labels', 'string', 'The labels for the pod template.', (o) =>
      labelsText(o.template?.metadata?.labels),
    ),
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults: (o) => defaultTemplate(o),
  validate: (o) => validateTemplate(o.template, 'template'),
};
