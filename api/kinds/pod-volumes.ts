/** Validation of the volumes of a PodSpec, and of references to fields of the pod, which environments have as well. */
import type { Volume } from 'kubernetes-types/core/v1.js';
import { duplicate, forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { isDeepFrozen } from '../meta/json.js';
import { dns1123Label, qualifiedName } from '../meta/names.js';
import { compareQuantity } from '../meta/quantity.js';
import { type Errors, each, named, relativePath } from './pod-fields.js';

const mode = (m: number | undefined, at: string): Errors =>
  m === undefined || (m >= 0 && m <= 0o777)
    ? []
    : [invalid(at, m, 'must be a number between 0 and 0777 (octal), both inclusive')];

interface FileItem {
  key?: string;
  path?: string;
  mode?: number;
}

const itemsOf = (items: readonly FileItem[] | undefined, at: string): Errors =>
  each(items, at, (item, f) => [
    ...(item.key ? [] : [required(`${f}.key`)]),
    ...(item.path ? relativePath(item.path, `${f}.path`) : [required(`${f}.path`)]),
    ...mode(item.mode, `${f}.mode`),
  ]);

/** What an environment may name of the pod. */
export const ENV_FIELDS = [
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'spec.nodeName',
  'spec.serviceAccountName',
  'status.hostIP',
  'status.hostIPs',
  'status.podIP',
  'status.podIPs',
];
const VOLUME_FIELDS = [
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'metadata.labels',
  'metadata.annotations',
];
const RESOURCES = /^(?:(?:limits|requests)\.(?:cpu|memory|ephemeral-storage|hugepages-.+))$/;

export function fieldRef(
  ref: { fieldPath?: string; apiVersion?: string },
  at: string,
  fields: readonly string[],
): Errors {
  const path = ref.fieldPath ?? '';
  if (!path) return [required(`${at}.fieldPath`)];
  const subscript = /^metadata\.(labels|annotations)\['(.*)'\]$/.exec(path);
  if (subscript) return qualifiedName((subscript[2] ?? '').toLowerCase()).map((e) => invalid(at, path, e));
  return fields.includes(path) ? [] : [notSupported(`${at}.fieldPath`, path, fields)];
}

export function resourceRef(
  ref: { resource?: string; containerName?: string },
  at: string,
  volume: boolean,
): Errors {
  if (volume && !ref.containerName) return [required(`${at}.containerName`)];
  if (!ref.resource) return [required(`${at}.resource`)];
  if (RESOURCES.test(ref.resource)) return [];
  const known = ['limits', 'requests'].flatMap((l) =>
    ['cpu', 'memory', 'ephemeral-storage'].map((r) => `${l}.${r}`),
  );
  return [notSupported(`${at}.resource`, ref.resource, known)];
}

interface DownwardFile extends FileItem {
  fieldRef?: { fieldPath?: string };
  resourceFieldRef?: { resource?: string; containerName?: string };
}

const downwardFiles = (items: readonly DownwardFile[] | undefined, at: string): Errors =>
  each(items, at, (item, f) => {
    const errors = item.path ? relativePath(item.path, `${f}.path`) : [required(`${f}.path`)];
    if (item.fieldRef && item.resourceFieldRef)
      errors.push(
        invalid(f, 'resource', 'fieldRef and resourceFieldRef can not be specified simultaneously'),
      );
    else if (item.fieldRef) errors.push(...fieldRef(item.fieldRef, `${f}.fieldRef`, VOLUME_FIELDS));
    else if (item.resourceFieldRef)
      errors.push(...resourceRef(item.resourceFieldRef, `${f}.resourceFieldRef`, true));
    else errors.push(required(f, 'one of fieldRef and resourceFieldRef is required'));
    return [...errors, ...mode(item.mode, `${f}.mode`)];
  });

const HOST_PATH_TYPES = [
  '',
  'DirectoryOrCreate',
  'Directory',
  'FileOrCreate',
  'File',
  'Socket',
  'CharDevice',
  'BlockDevice',
];

type SourceCheck = { [K in keyof Volume]?: (source: NonNullable<Volume[K]>, at: string) => Errors };

/** What each kind of volume must say; kinds that are not here need a node that knows them. */
export const VOLUME_SOURCES: SourceCheck = {
  emptyDir: (s, at) =>
    s.sizeLimit !== undefined && compareQuantity(s.sizeLimit, '0') < 0
      ? [forbidden(`${at}.sizeLimit`, 'SizeLimit field must be a valid resource quantity')]
      : [],
  hostPath: (s, at) => [
    ...(s.path
      ? s.path.split('/').includes('..')
        ? [invalid(`${at}.path`, s.path, "must not contain '..'")]
        : []
      : [required(`${at}.path`)]),
    ...(HOST_PATH_TYPES.includes(s.type ?? '') ? [] : [notSupported(`${at}.type`, s.type, HOST_PATH_TYPES)]),
  ],
  secret: (s, at) => [
    ...(s.secretName ? [] : [required(`${at}.secretName`)]),
    ...mode(s.defaultMode, `${at}.defaultMode`),
    ...itemsOf(s.items, `${at}.items`),
  ],
  configMap: (s, at) => [
    ...(s.name ? [] : [required(`${at}.name`)]),
    ...mode(s.defaultMode, `${at}.defaultMode`),
    ...itemsOf(s.items, `${at}.items`),
  ],
  downwardAPI: (s, at) => [...mode(s.defaultMode, `${at}.defaultMode`), ...downwardFiles(s.items, at)],
  projected: (s, at) => {
    const errors = mode(s.defaultMode, `${at}.defaultMode`);
    const paths = new Set<string>();
    (s.sources ?? []).forEach((source, i) => {
      const f = `${at}.sources[${i}]`;
      const kinds = Object.keys(source);
      if (kinds.length > 1) errors.push(forbidden(f, 'may not specify more than 1 volume type per source'));
      if (source.secret) {
        if (!source.secret.name) errors.push(required(`${f}.secret.name`));
        errors.push(...itemsOf(source.secret.items, `${f}.secret.items`));
      }
      if (source.configMap) {
        if (!source.configMap.name) errors.push(required(`${f}.configMap.name`));
        errors.push(...itemsOf(source.configMap.items, `${f}.configMap.items`));
      }
      if (source.downwardAPI) errors.push(...downwardFiles(source.downwardAPI.items, `${f}.downwardAPI`));
      const token = source.serviceAccountToken;
      if (token) {
        if (!token.path) errors.push(required(`${f}.serviceAccountToken.path`));
        else errors.push(...relativePath(token.path, `${f}.serviceAccountToken.path`));
        if ((token.expirationSeconds ?? 3600) < 600)
          errors.push(
            invalid(
              `${f}.serviceAccountToken.expirationSeconds`,
              token.expirationSeconds,
              'may not specify a duration less than 10 minutes',
            ),
          );
      }
      const items = [source.secret?.items, source.configMap?.items, source.downwardAPI?.items];
      for (const path of [...items.flatMap((l) => (l ?? []).map((x) => x.path)), token?.path]) {
        if (!path) continue;
        if (paths.has(path)) errors.push(invalid(f, path, 'conflicting duplicate paths'));
        paths.add(path);
      }
    });
    return errors;
  },
};

/** Sources that were found right and never change, and of which kind: one that many pods share is looked at once. */
const right = new WeakMap<object, string>();

export function validateVolumes(volumes: readonly Volume[] | undefined, at: string): Errors {
  const names = new Set<string>();
  return each(volumes, at, (v, f) => {
    const errors = named(v.name, `${f}.name`, dns1123Label);
    if (names.has(v.name)) errors.push(duplicate(`${f}.name`, v.name));
    names.add(v.name);
    const sources = Object.keys(v).filter((k) => k !== 'name');
    for (const extra of sources.slice(1))
      errors.push(forbidden(`${f}.${extra}`, 'may not specify more than 1 volume type'));
    const [source] = sources;
    const check = (VOLUME_SOURCES as Record<string, ((s: unknown, at: string) => Errors) | undefined>)[
      source ?? ''
    ];
    const said: unknown = v[source as keyof Volume];
    if (!check || right.get(said as object) === source) return errors;
    const wrong = check(said, `${f}.${source}`);
    if (wrong.length === 0 && isDeepFrozen(said)) right.set(said, source!);
    errors.push(...wrong);
    return errors;
  });
}
