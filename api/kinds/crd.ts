import type { CustomResourceDefinition as Definition } from 'kubernetes-types/apiextensions/v1.js';
import { Costs } from '../custom/costs.js';
import { JsonPathError, jsonPath } from '../custom/jsonpath.js';
import { loadCel, problemsOfRules, rulesOf } from '../custom/rules.js';
import type { JsonSchema } from '../custom/schema.js';
import { validateSchema } from '../custom/structural.js';
import { forbidden, invalid, notSupported, required, tooMany } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Subdomain } from '../meta/names.js';
import { validateClientConfig, validateReviewVersions } from './client-config.js';
import { column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

export type CustomResourceDefinition = Definition;

/** Keeps a CustomResourceDefinition that is being deleted until its objects are gone. */
export const CRD_CLEANUP = 'customresourcecleanup.apiextensions.k8s.io';

const COLUMN_TYPES = ['boolean', 'date', 'integer', 'number', 'string'];
const DNS1035 = /^[a-z]([-a-z0-9]*[a-z0-9])?$/;
const DNS1035_TEXT =
  "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const APPROVAL = 'api-approved.kubernetes.io';
const MAX_VERSIONS = 100;

const dns1035 = (v: string): string[] => [
  ...(v.length > 63 ? ['must be no more than 63 bytes'] : []),
  ...(v.length <= 4096 && DNS1035.test(v) ? [] : [DNS1035_TEXT]),
];

/** A condition of the definition holds. */
export const crdCondition = (
  crd: { readonly status?: { readonly conditions?: readonly { type: string; status: string }[] } },
  type: string,
): boolean => crd.status?.conditions?.some((c) => c.type === type && c.status === 'True') ?? false;

const storageVersion = (crd: Definition): string | undefined =>
  (crd.spec?.versions ?? []).find((v) => v.storage)?.name;

type Versions = Definition['spec']['versions'];

function validateNames(names: Definition['spec']['names'], field: string): FieldError[] {
  const errors: FieldError[] = [];
  const label = (name: 'plural' | 'singular' | 'kind' | 'listKind', text: string | undefined) => {
    if (!text) return errors.push(required(`${field}.${name}`));
    const asResource = name === 'plural' || name === 'singular';
    for (const e of dns1035(asResource ? text : text.toLowerCase()))
      errors.push(
        invalid(
          `${field}.${name}`,
          text,
          asResource ? e : `may have mixed case, but should otherwise match: ${e}`,
        ),
      );
    return undefined;
  };
  label('plural', names?.plural);
  if (names?.singular) label('singular', names.singular);
  label('kind', names?.kind);
  if (names?.listKind) label('listKind', names.listKind);
  for (const [list, name] of [
    [names?.shortNames, 'shortNames'],
    [names?.categories, 'categories'],
  ] as const)
    (list ?? []).forEach((s, i) => {
      for (const e of dns1035(s)) errors.push(invalid(`${field}.${name}[${i}]`, s, e));
    });
  if (names?.kind && names.kind === names.listKind)
    errors.push(invalid(`${field}.listKind`, names.listKind, 'kind and listKind may not be the same'));
  return errors;
}

const pathProblem = (path: string, under?: string): string | undefined => {
  if (under && !path.startsWith(`${under}.`)) return `should be a json path under ${under}`;
  try {
    jsonPath(path);
    return undefined;
  } catch (e) {
    if (e instanceof JsonPathError) return e.message;
    throw e;
  }
};

function validateVersion(v: Versions[number], field: string, schemaField: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const e of dns1035(v.name ?? '')) errors.push(invalid(`${field}.name`, v.name ?? '', e));
  const schema = v.schema?.openAPIV3Schema as JsonSchema | undefined;
  if (!schema) errors.push(required(`${field}.schema.openAPIV3Schema`, 'schemas are required'));
  else errors.push(...validateSchema(schema, schemaField));
  (v.additionalPrinterColumns ?? []).forEach((c, i) => {
    const at = `${field}.additionalPrinterColumns[${i}]`;
    if (!c.name) errors.push(required(`${at}.name`));
    if (!c.type) errors.push(required(`${at}.type`, `must be one of ${COLUMN_TYPES.join(',')}`));
    else if (!COLUMN_TYPES.includes(c.type))
      errors.push(invalid(`${at}.type`, c.type, `must be one of ${COLUMN_TYPES.join(',')}`));
    if (!c.jsonPath) errors.push(required(`${at}.JSONPath`));
    else {
      const wrong = pathProblem(c.jsonPath);
      if (wrong) errors.push(invalid(`${at}.JSONPath`, c.jsonPath, wrong));
    }
  });
  const { scale } = v.subresources ?? {};
  if (scale) {
    const at = `${field}.subresources.scale`;
    const path = (name: 'specReplicasPath' | 'statusReplicasPath' | 'labelSelectorPath', under: string[]) => {
      const text = scale[name];
      if (!text) {
        if (name !== 'labelSelectorPath') errors.push(required(`${at}.${name}`));
        return;
      }
      // No arrays: these are written to as well.
      const fits = under.some((u) => text.startsWith(`${u}.`)) && !text.includes('[');
      if (!fits)
        errors.push(
          invalid(
            `${at}.${name}`,
            text,
            `should be a json path under ${under.join(' or ')}${text.includes('[') ? ' without array notation' : ''}`,
          ),
        );
    };
    path('specReplicasPath', ['.spec']);
    path('statusReplicasPath', ['.status']);
    path('labelSelectorPath', ['.spec', '.status']);
  }
  const fields = (v as { selectableFields?: readonly { jsonPath?: string }[] }).selectableFields ?? [];
  if (fields.length > 8) errors.push(tooMany(`${field}.selectableFields`, fields.length, 8));
  fields.forEach((f, i) => {
    const at = `${field}.selectableFields[${i}].jsonPath`;
    if (!f.jsonPath) errors.push(required(at));
    else {
      const wrong = f.jsonPath.includes('[') ? 'must not contain array notation' : pathProblem(f.jsonPath);
      if (wrong) errors.push(invalid(at, f.jsonPath, wrong));
    }
  });
  return errors;
}

const REVIEWS = ['v1', 'v1beta1'];

/** Fields are named as in the internal version of Kubernetes, where the webhook's stand beside the strategy. */
function validateConversion(conversion: Definition['spec']['conversion']): FieldError[] {
  if (!conversion) return [];
  const { strategy, webhook } = conversion;
  const field = 'spec.conversion';
  const reviews = (webhook?.conversionReviewVersions ?? []) as readonly string[];
  if (strategy !== 'Webhook') {
    const extra = 'should not be set when strategy is not set to Webhook';
    return [
      ...(strategy === 'None' ? [] : [notSupported(`${field}.strategy`, strategy, ['None', 'Webhook'])]),
      ...(webhook?.clientConfig ? [forbidden(`${field}.webhookClientConfig`, extra)] : []),
      ...(reviews.length ? [forbidden(`${field}.conversionReviewVersions`, extra)] : []),
    ];
  }
  const at = `${field}.conversionReviewVersions`;
  return [
    ...(webhook?.clientConfig
      ? validateClientConfig(webhook.clientConfig, `${field}.webhookClientConfig`)
      : [required(`${field}.webhookClientConfig`, 'required when strategy is set to Webhook')]),
    ...(reviews.length ? validateReviewVersions(reviews, at) : [required(at)]),
    ...(reviews.length && !reviews.some((v) => REVIEWS.includes(v))
      ? [invalid(at, reviews, `must include at least one of ${REVIEWS.join(', ')}`)]
      : []),
  ];
}

function validate(o: Definition): FieldError[] {
  const { spec } = o;
  if (!spec) return [required('spec')];
  const errors: FieldError[] = [];
  const { group, names, scope } = spec;
  const versions = spec.versions ?? [];
  const name = `${names?.plural}.${group}`;
  if (o.metadata?.name && o.metadata.name !== name)
    errors.push(invalid('metadata.name', o.metadata.name, 'must be spec.names.plural+"."+spec.group'));
  if (!group) errors.push(required('spec.group'));
  else {
    for (const e of dns1123Subdomain(group)) errors.push(invalid('spec.group', group, e));
    if (!group.includes('.'))
      errors.push(invalid('spec.group', group, 'should be a domain with at least one dot'));
    if (/(^|\.)(k8s|kubernetes)\.io$/.test(group) && !o.metadata?.annotations?.[APPROVAL])
      errors.push(
        required(
          `metadata.annotations[${APPROVAL}]`,
          `protected groups must have approval annotation "${APPROVAL}", see https://github.com/kubernetes/enhancements/pull/1111`,
        ),
      );
  }
  if (!scope) errors.push(required('spec.scope'));
  else if (scope !== 'Cluster' && scope !== 'Namespaced')
    errors.push(notSupported('spec.scope', scope, ['Cluster', 'Namespaced']));
  if (spec.preserveUnknownFields)
    errors.push(
      invalid(
        'spec.preserveUnknownFields',
        true,
        'cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead',
      ),
    );
  if (versions.length > MAX_VERSIONS)
    return [...errors, tooMany('spec.versions', versions.length, MAX_VERSIONS)];
  if (versions.length === 0) errors.push(required('spec.versions', 'must have at least one version'));
  if (new Set(versions.map((v) => v.name)).size !== versions.length)
    errors.push(
      invalid(
        'spec.versions',
        versions.map((v) => v.name),
        'must contain unique version names',
      ),
    );
  if (versions.length && versions.filter((v) => v.storage).length !== 1)
    errors.push(
      invalid(
        'spec.versions',
        versions.map((v) => v.name),
        'must have exactly one version marked as storage version',
      ),
    );
  // Kubernetes speaks of one schema where all versions have the same.
  const one = versions.every((v) => deepEqual(v.schema, versions[0]?.schema));
  versions.forEach((v, i) => {
    const field = `spec.versions[${i}]`;
    if (one && i > 0) {
      errors.push(
        ...validateVersion({ ...v, schema: { openAPIV3Schema: { type: 'object' } } }, field, field),
      );
      return;
    }
    const schemaField = one ? 'spec.validation.openAPIV3Schema' : `${field}.schema.openAPIV3Schema`;
    errors.push(...validateVersion(v, field, schemaField));
  });
  errors.push(...validateNames(names, 'spec.names'));
  errors.push(...validateConversion(spec.conversion));
  const known = new Set(versions.map((v) => v.name));
  (o.status?.storedVersions ?? []).forEach((v, i) => {
    if (!known.has(v))
      errors.push(
        invalid(
          `status.storedVersions[${i}]`,
          v,
          `missing from spec.versions; ${v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in ${v} and removes ${v} from status.storedVersions`,
        ),
      );
  });
  return errors;
}

/** What is wrong with the CEL rules of all versions; nothing of a schema that is not even one. */
function validateRules(o: Definition): FieldError[] {
  const versions = o.spec?.versions ?? [];
  const one = versions.every((v) => deepEqual(v.schema, versions[0]?.schema));
  return (one ? versions.slice(0, 1) : versions).flatMap((v, i) => {
    const schema = v.schema?.openAPIV3Schema as JsonSchema | undefined;
    const field = one ? 'spec.validation.openAPIV3Schema' : `spec.versions[${i}].schema.openAPIV3Schema`;
    if (!schema || validateSchema(schema, field).length) return [];
    const costs = new Costs();
    const errors = [...rulesOf(schema, field)].flatMap((part) => problemsOfRules(part, costs));
    return [...errors, ...costs.problems(field)];
  });
}

export const customResourceDefinitions: Kind<Definition> = {
  group: 'apiextensions.k8s.io',
  version: 'v1',
  kind: 'CustomResourceDefinition',
  plural: 'customresourcedefinitions',
  keptByStatus: 'metadata',
  singular: 'customresourcedefinition',
  shortNames: ['crd', 'crds'],
  categories: ['api-extensions'],
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition',
  columns: [
    nameColumn as Kind<Definition>['columns'][number],
    column(
      'Created At',
      'date',
      'CreationTimestamp is a timestamp representing the server time when this object was created.',
      (o) => o.metadata?.creationTimestamp ?? null,
    ),
  ],
  status: true,
  generation: true,
  selectable: {},
  validName: (name) => (name.length > 253 ? ['must be no more than 253 bytes'] : []),
  setDefaults(o) {
    const names = o.spec?.names as { kind?: string; singular?: string; listKind?: string } | undefined;
    if (names?.kind) {
      names.singular ||= names.kind.toLowerCase();
      names.listKind ||= `${names.kind}List`;
    }
    if (o.spec && !o.spec.conversion?.strategy)
      (o.spec as { conversion?: object }).conversion = { ...o.spec.conversion, strategy: 'None' };
    const service = o.spec?.conversion?.webhook?.clientConfig?.service as { port?: number } | undefined;
    if (service) service.port ??= 443;
  },
  prepareForCreate(o) {
    const storage = storageVersion(o);
    (o as { status?: unknown }).status = {
      conditions: [],
      acceptedNames: { plural: '', kind: '' },
      storedVersions: storage ? [storage] : [],
    };
  },
  prepareForUpdate(o) {
    const storage = storageVersion(o);
    const stored = o.status?.storedVersions ?? [];
    if (storage && !stored.includes(storage))
      (o as { status?: unknown }).status = { ...o.status, storedVersions: [...stored, storage] };
  },
  prepareForDelete(o) {
    const meta = o.metadata as { finalizers?: string[] };
    if (!meta.finalizers?.includes(CRD_CLEANUP)) meta.finalizers = [...(meta.finalizers ?? []), CRD_CLEANUP];
  },
  load: loadCel,
  // Rules that were there before are not judged again: what a new version knows better may not lock a definition.
  validate: (o, old) => [
    ...validate(o),
    ...(deepEqual(o.spec?.versions, old?.spec.versions) ? [] : validateRules(o)),
  ],
  validateUpdate(o, old) {
    const errors: FieldError[] = [];
    if (!crdCondition(old, 'Established')) return errors;
    const same = (now: unknown, before: unknown, field: string) => {
      if (now !== before) errors.push(invalid(field, now, 'field is immutable'));
    };
    same(o.spec?.scope, old.spec.scope, 'spec.scope');
    same(o.spec?.names?.kind, old.spec.names.kind, 'spec.names.kind');
    same(o.spec?.names?.plural, old.spec.names.plural, 'spec.names.plural');
    same(o.spec?.group, old.spec.group, 'spec.group');
    return errors;
  },
};
