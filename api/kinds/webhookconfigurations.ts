/** Webhook configurations: what is asked about writes over HTTP (pkg/apis/admissionregistration). */
import type {
  MutatingWebhook,
  MutatingWebhookConfiguration,
  ValidatingWebhook,
  ValidatingWebhookConfiguration,
} from 'kubernetes-types/admissionregistration/v1.js';
import { loadCel } from '../cel/cel.js';
import { duplicate, invalid, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Subdomain } from '../meta/names.js';
import { validateSelector } from '../meta/selector.js';
import {
  defaultRules,
  FAILURES,
  GROUP,
  MATCHES,
  type Mutable,
  oneOf,
  validateConditions,
  validateRule,
} from './admission-rules.js';
import { validateClientConfig, validateReviewVersions } from './client-config.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

const REVIEWS = ['v1', 'v1beta1'];

function defaultWebhook(w: Mutable<MutatingWebhook | ValidatingWebhook>): void {
  w.failurePolicy ??= 'Fail';
  w.matchPolicy ??= 'Equivalent';
  w.namespaceSelector ??= {};
  w.objectSelector ??= {};
  w.timeoutSeconds ??= 10;
  if (w.clientConfig?.service) (w.clientConfig.service as { port?: number }).port ??= 443;
  defaultRules(w.rules);
}

function validateName(name: string | undefined, field: string): FieldError[] {
  if (!name) return [required(field)];
  const wrong = dns1123Subdomain(name).map((e) => invalid(field, name, e));
  if (wrong.length) return wrong;
  return name.split('.').length < 3
    ? [invalid(field, name, 'should be a domain with at least three segments separated by dots')]
    : [];
}

function validateWebhook(w: MutatingWebhook | ValidatingWebhook, field: string, load: boolean): FieldError[] {
  const errors = validateName(w.name, `${field}.name`);
  (w.rules ?? []).forEach((r, i) => {
    errors.push(...validateRule(r, `${field}.rules[${i}]`));
  });
  errors.push(...oneOf(w.failurePolicy, FAILURES, `${field}.failurePolicy`));
  errors.push(...oneOf(w.matchPolicy, MATCHES, `${field}.matchPolicy`));
  const effects = ['None', 'NoneOnDryRun'];
  if (w.sideEffects === undefined)
    errors.push(required(`${field}.sideEffects`, `must specify one of ${effects.join(', ')}`));
  else errors.push(...oneOf(w.sideEffects, effects, `${field}.sideEffects`));
  const { timeoutSeconds: timeout } = w;
  if (timeout !== undefined && (timeout < 1 || timeout > 30))
    errors.push(
      invalid(`${field}.timeoutSeconds`, timeout, 'the timeout value must be between 1 and 30 seconds'),
    );
  errors.push(...validateSelector(w.namespaceSelector, `${field}.namespaceSelector`));
  errors.push(...validateSelector(w.objectSelector, `${field}.objectSelector`));
  errors.push(...validateClientConfig(w.clientConfig, `${field}.clientConfig`));
  if (load) errors.push(...validateConditions(w.matchConditions, `${field}.matchConditions`, false));
  if ('reinvocationPolicy' in w)
    errors.push(...oneOf(w.reinvocationPolicy, ['IfNeeded', 'Never'], `${field}.reinvocationPolicy`));
  const reviews = (w.admissionReviewVersions ?? []) as readonly string[];
  const reviewField = `${field}.admissionReviewVersions`;
  if (reviews.length === 0) errors.push(required(reviewField, `must specify one of ${REVIEWS.join(', ')}`));
  errors.push(...validateReviewVersions(reviews, reviewField));
  if (reviews.length && !reviews.some((v) => REVIEWS.includes(v)))
    errors.push(invalid(reviewField, reviews, `must include at least one of ${REVIEWS.join(', ')}`));
  return errors;
}

type Configuration = MutatingWebhookConfiguration | ValidatingWebhookConfiguration;

function validateConfiguration(o: Configuration, old?: Configuration): FieldError[] {
  const errors: FieldError[] = [];
  const names = new Set<string>();
  const conditions = (c: Configuration | undefined) => c?.webhooks?.map((w) => w.matchConditions);
  const changed = !old || !deepEqual(conditions(o), conditions(old));
  (o.webhooks ?? []).forEach((w, i) => {
    errors.push(...validateWebhook(w, `webhooks[${i}]`, changed));
    if (w.name && names.has(w.name)) errors.push(duplicate(`webhooks[${i}].name`, w.name));
    names.add(w.name);
  });
  return errors;
}

const webhookColumns = (): Kind<Configuration>['columns'] => [
  nameColumn as Kind<Configuration>['columns'][number],
  column(
    'Webhooks',
    'integer',
    'Webhooks indicates the number of webhooks registered in this configuration',
    (o) => o.webhooks?.length ?? 0,
  ),
  ageColumn as Kind<Configuration>['columns'][number],
];

const configuration = {
  ...GROUP,
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  updateNeedsVersion: true,
  columns: webhookColumns(),
  status: false,
  generation: (o: Configuration) => o.webhooks,
  selectable: {},
  load: loadCel,
  validate: validateConfiguration,
} as const;

export const validatingWebhookConfigurations: Kind<ValidatingWebhookConfiguration> = {
  ...configuration,
  kind: 'ValidatingWebhookConfiguration',
  plural: 'validatingwebhookconfigurations',
  singular: 'validatingwebhookconfiguration',
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration',
  setDefaults: (o) => o.webhooks?.forEach(defaultWebhook),
};

export const mutatingWebhookConfigurations: Kind<MutatingWebhookConfiguration> = {
  ...configuration,
  kind: 'MutatingWebhookConfiguration',
  plural: 'mutatingwebhookconfigurations',
  singular: 'mutatingwebhookconfiguration',
  schema: 'io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration',
  setDefaults: (o) =>
    o.webhooks?.forEach((w: Mutable<MutatingWebhook>) => {
      defaultWebhook(w);
      w.reinvocationPolicy ??= 'Never';
    }),
};
