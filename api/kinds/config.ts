import type { ConfigMap, Secret, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { forbidden, invalid, required, tooLong } from '../meta/field-errors.js';
import { deepEqual, isPlainObject, setOwn } from '../meta/json.js';
import { configMapKey } from '../meta/names.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

/** Kubernetes' limit for the data of one ConfigMap or Secret, in bytes. */
const MAX_DATA = 1024 * 1024;
const UTF8 = new TextDecoder();

const count = (...maps: (object | undefined)[]): number =>
  maps.reduce((n, m) => n + Object.keys(m ?? {}).length, 0);

const bytesOf = (base64: string): number => Buffer.byteLength(base64, 'base64');

const keyErrors = (map: object | undefined, field: string): FieldError[] =>
  Object.keys(map ?? {}).flatMap((k) => configMapKey(k).map((e) => invalid(`${field}[${k}]`, k, e)));

/** An object marked immutable stays as it is, but for its metadata. */
function immutability<T extends ConfigMap | Secret>(
  o: T,
  old: T,
  fields: readonly (keyof T & string)[],
): FieldError[] {
  if (!old.immutable) return [];
  const why = 'field is immutable when `immutable` is set';
  return [
    ...(o.immutable ? [] : [forbidden('immutable', why)]),
    ...fields.filter((f) => !deepEqual(o[f] ?? {}, old[f] ?? {})).map((f) => forbidden(f, why)),
  ];
}

export const configMaps: Kind<ConfigMap> = {
  group: '',
  version: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  singular: 'configmap',
  shortNames: ['cm'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.ConfigMap',
  columns: [
    nameColumn,
    column('Data', 'string', 'The number of keys.', (o) => count(o.data, o.binaryData)),
    ageColumn,
  ],
  status: false,
  selectable: {},
  validate(o) {
    const errors = [...keyErrors(o.data, 'data'), ...keyErrors(o.binaryData, 'binaryData')];
    let size = 0;
    for (const v of Object.values(o.data ?? {})) size += Buffer.byteLength(v);
    for (const [k, v] of Object.entries(o.binaryData ?? {})) {
      size += bytesOf(v as unknown as string);
      if (o.data && Object.hasOwn(o.data, k))
        errors.push(invalid(`data[${k}]`, k, 'duplicate of key present in binaryData'));
    }
    if (size > MAX_DATA) errors.push(tooLong('[]', MAX_DATA));
    return errors;
  },
  validateUpdate: (o, old) => immutability(o, old, ['data', 'binaryData']),
};

/** What a Secret of a known type must hold: keys (any one of a group), and whether a key is JSON. */
const SECRET_TYPES: Readonly<Record<string, { keys: readonly (readonly string[])[]; json?: string }>> = {
  'kubernetes.io/dockercfg': { keys: [['.dockercfg']], json: '.dockercfg' },
  'kubernetes.io/dockerconfigjson': { keys: [['.dockerconfigjson']], json: '.dockerconfigjson' },
  'kubernetes.io/basic-auth': { keys: [['username', 'password']] },
  'kubernetes.io/ssh-auth': { keys: [['ssh-privatekey']] },
  'kubernetes.io/tls': { keys: [['tls.crt'], ['tls.key']] },
};
const ACCOUNT_TOKEN = 'kubernetes.io/service-account-token';
const ACCOUNT_NAME = 'kubernetes.io/service-account.name';

function validateSecretType(o: Secret): FieldError[] {
  const { type = '' } = o;
  if (type === ACCOUNT_TOKEN && !o.metadata?.annotations?.[ACCOUNT_NAME])
    return [required(`metadata.annotations[${ACCOUNT_NAME}]`)];
  const rule = Object.hasOwn(SECRET_TYPES, type) ? SECRET_TYPES[type] : undefined;
  if (!rule) return [];
  const data = (o.data ?? {}) as unknown as Record<string, string>;
  const errors: FieldError[] = [];
  for (const group of rule.keys)
    if (!group.some((k) => Object.hasOwn(data, k)))
      for (const k of group) errors.push(required(`data[${k}]`));
  if (rule.json && errors.length === 0) {
    const bad = (why: string) => invalid(`data[${rule.json}]`, '<secret contents redacted>', why);
    try {
      const content: unknown = JSON.parse(UTF8.decode(Buffer.from(data[rule.json] ?? '', 'base64')));
      if (!isPlainObject(content)) errors.push(bad('must be a JSON object'));
    } catch {
      // The parser's own message would quote the secret.
      errors.push(bad('is not valid JSON'));
    }
  }
  return errors;
}

export const secrets: Kind<Secret> = {
  group: '',
  version: 'v1',
  kind: 'Secret',
  plural: 'secrets',
  singular: 'secret',
  shortNames: [],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.Secret',
  columns: [
    nameColumn,
    column('Type', 'string', 'What the secret is for.', (o) => o.type ?? ''),
    column('Data', 'string', 'The number of keys.', (o) => count(o.data)),
    ageColumn,
  ],
  status: false,
  selectable: { type: (o) => o.type ?? '' },
  setDefaults(o) {
    o.type ||= 'Opaque';
    if (!o.stringData) return;
    const data = { ...o.data };
    for (const [k, v] of Object.entries(o.stringData)) setOwn(data, k, Buffer.from(v).toString('base64'));
    o.data = data;
    delete o.stringData;
  },
  validate(o) {
    const errors = keyErrors(o.data, 'data');
    let size = 0;
    for (const v of Object.values(o.data ?? {})) size += bytesOf(v as unknown as string);
    if (size > MAX_DATA) errors.push(tooLong('data', MAX_DATA));
    return [...errors, ...validateSecretType(o)];
  },
  validateUpdate: (o, old) => [
    ...(o.type === old.type ? [] : [invalid('type', o.type, 'field is immutable')]),
    ...immutability(o, old, ['data']),
  ],
};

export const serviceAccounts: Kind<ServiceAccount> = {
  group: '',
  version: 'v1',
  kind: 'ServiceAccount',
  plural: 'serviceaccounts',
  singular: 'serviceaccount',
  shortNames: ['sa'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.ServiceAccount',
  columns: [
    nameColumn,
    column('Secrets', 'string', 'The number of secrets.', (o) => o.secrets?.length ?? 0),
    ageColumn,
  ],
  status: false,
  selectable: {},
};
