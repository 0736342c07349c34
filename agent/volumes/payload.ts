/** What the files of a configMap, secret, downwardAPI or projected volume hold. Pure. */
import type {
  ConfigMap,
  ConfigMapVolumeSource,
  DownwardAPIVolumeFile,
  KeyToPath,
  Pod,
  Secret,
  SecretVolumeSource,
  ServiceAccountTokenProjection,
  Volume,
} from 'kubernetes-types/core/v1.js';
import { type Config, fieldValue, type PodFacts, resourceValue } from '../pods/env.js';

export interface FileContent {
  data: Buffer;
  mode: number;
}
/** Relative path (checked) → content. */
export type Payload = Map<string, FileContent>;

/** A volume that cannot be had; the message is the kubelet's, without the volume's name. */
export class VolumeError extends Error {
  override name = 'VolumeError';
}

/** Kubernetes' default for files of these volumes. */
const DEFAULT_MODE = 0o644;

/** Volumes whose content is made by {@link payloadOf}. */
export const PAYLOAD_TYPES = ['configMap', 'secret', 'downwardAPI', 'projected'] as const;

export function payloadOf(v: Volume, pod: Pod, config: Config, facts: PodFacts): Payload {
  const out: Payload = new Map();
  if (v.configMap) addConfigMap(out, v.configMap, v.configMap.defaultMode, pod, config);
  if (v.secret) addSecret(out, { ...v.secret, name: v.secret.secretName }, v.secret.defaultMode, pod, config);
  if (v.downwardAPI) addDownward(out, v.downwardAPI.items, v.downwardAPI.defaultMode, pod, facts);
  for (const s of v.projected?.sources ?? []) {
    const mode = v.projected?.defaultMode;
    if (s.configMap) addConfigMap(out, s.configMap, mode, pod, config);
    else if (s.secret) addSecret(out, s.secret, mode, pod, config);
    else if (s.downwardAPI) addDownward(out, s.downwardAPI.items, mode, pod, facts);
    else if (s.serviceAccountToken) addToken(out, s.serviceAccountToken, mode, pod, config);
    else throw new VolumeError(`projected source ${Object.keys(s).join(', ') || '(empty)'} is not supported`);
  }
  return out;
}

function addConfigMap(
  out: Payload,
  source: Pick<ConfigMapVolumeSource, 'name' | 'items' | 'optional'>,
  mode: number | undefined,
  pod: Pod,
  config: Config,
): void {
  const name = source.name ?? '';
  const o = config.configMap(pod.metadata?.namespace ?? 'default', name);
  if (!o && !source.optional) throw new VolumeError(`configmap "${name}" not found`);
  addKeys(out, configMapData(o), source.items, mode, source.optional, 'config');
}

function addSecret(
  out: Payload,
  source: { name?: string } & Pick<SecretVolumeSource, 'items' | 'optional'>,
  mode: number | undefined,
  pod: Pod,
  config: Config,
): void {
  const name = source.name ?? '';
  const o = config.secret(pod.metadata?.namespace ?? 'default', name);
  if (!o && !source.optional) throw new VolumeError(`secret "${name}" not found`);
  addKeys(out, secretData(o), source.items, mode, source.optional, 'secret');
}

const configMapData = (o: ConfigMap | undefined): Map<string, Buffer> =>
  new Map([
    ...Object.entries(o?.data ?? {}).map(([k, v]) => [k, Buffer.from(v)] as const),
    ...Object.entries(o?.binaryData ?? {}).map(([k, v]) => [k, Buffer.from(v, 'base64')] as const),
  ]);

const secretData = (o: Secret | undefined): Map<string, Buffer> =>
  new Map(Object.entries(o?.data ?? {}).map(([k, v]) => [k, Buffer.from(v, 'base64')]));

function addKeys(
  out: Payload,
  data: Map<string, Buffer>,
  items: KeyToPath[] | undefined,
  mode: number | undefined,
  optional: boolean | undefined,
  what: 'config' | 'secret',
): void {
  if (!items?.length) {
    for (const [key, bytes] of data) put(out, key, bytes, mode);
    return;
  }
  for (const { key, path, mode: own } of items) {
    const bytes = data.get(key);
    if (!bytes) {
      if (optional) continue;
      throw new VolumeError(`references non-existent ${what} key: ${key}`);
    }
    put(out, path, bytes, own ?? mode);
  }
}

/** Only the owner and, where there is one, the fsGroup may read a token; without an fsGroup anyone in the pod may. */
function addToken(
  out: Payload,
  source: ServiceAccountTokenProjection,
  mode: number | undefined,
  pod: Pod,
  config: Config,
): void {
  const token = config.token(pod.metadata?.uid ?? '', source);
  if (token === undefined)
    throw new VolumeError(
      `failed to fetch token: the hub has sent none yet for service account "${pod.spec?.serviceAccountName || 'default'}"`,
    );
  const grouped = pod.spec?.securityContext?.fsGroup !== undefined;
  put(out, source.path, Buffer.from(token), grouped ? 0o600 : mode);
}

function addDownward(
  out: Payload,
  items: DownwardAPIVolumeFile[] | undefined,
  mode: number | undefined,
  pod: Pod,
  facts: PodFacts,
): void {
  for (const f of items ?? []) {
    const text = f.fieldRef
      ? fieldValue(pod, f.fieldRef.fieldPath, facts)
      : f.resourceFieldRef
        ? resourceValue(
            pod,
            f.resourceFieldRef.containerName ?? '',
            f.resourceFieldRef.resource,
            f.resourceFieldRef.divisor,
            facts,
          )
        : '';
    put(out, f.path, Buffer.from(text), f.mode ?? mode);
  }
}

function put(out: Payload, path: string, data: Buffer, mode = DEFAULT_MODE): void {
  const parts = path.split('/');
  if (
    path === '' ||
    path.startsWith('/') ||
    parts.includes('..') ||
    parts.includes('') ||
    path.startsWith('..')
  )
    throw new VolumeError(`invalid path "${path}": must be relative and must not contain or begin with ".."`);
  out.set(path, { data, mode });
}
