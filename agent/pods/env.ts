/** A container's environment, command and args from its spec: references resolved, `$(VAR)` expanded. Pure. */
import type { ConfigMap, Container, EnvVar, Pod, Secret, Service } from 'kubernetes-types/core/v1.js';
import { envVarName } from '../../api/meta/names.js';
import { milliQuantity, quantity } from '../../api/meta/quantity.js';

/** The objects of the desired set that references may name. */
export interface Config {
  configMap(namespace: string, name: string): ConfigMap | undefined;
  secret(namespace: string, name: string): Secret | undefined;
  /** The token that a volume of a pod asks for; undefined until the hub has sent one. */
  token(podUid: string, source: { audience?: string; expirationSeconds?: number }): string | undefined;
  /** Services that have an address, of a namespace. */
  services(namespace: string): readonly Service[];
  /** Names of a service account's imagePullSecrets. */
  pullSecrets(namespace: string, serviceAccount: string): string[];
}

/** What fieldRef and resourceFieldRef can see beyond the pod itself. */
export interface PodFacts {
  nodeName: string;
  hostIP: string;
  podIPs: string[];
  /** `host:port` at which the API is reached from here; absent until the hub has said it. */
  api?: string;
  /** The node's allocatable, for limits that are not set. */
  allocatable: { cpuMilli: number; memoryBytes: number; ephemeralStorageBytes: number };
}

/** The container cannot be made from its spec for now; the message is the kubelet's. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

/**
 * `$(NAME)` replaced by its value, `$$` by `$`; what names no variable stays as it is
 * (third_party/forked/golang/expansion).
 */
export function expand(text: string, lookUp: (name: string) => string | undefined): string {
  return text.replace(/\$(?:\$|\(([^)]*)\))/g, (whole, name: string | undefined) =>
    name === undefined ? '$' : (lookUp(name) ?? whole),
  );
}

const shouted = (name: string): string => name.toUpperCase().replaceAll('-', '_');

/** The variables by which programs find a Service (the kubelet's envvars). */
function serviceVariables({ metadata, spec }: Service): [name: string, value: string][] {
  const host = spec?.clusterIP ?? '';
  const ports = spec?.ports ?? [];
  const [first] = ports;
  if (!first) return [];
  const name = shouted(metadata?.name ?? '');
  const out: [string, string][] = [
    [`${name}_SERVICE_HOST`, host],
    [`${name}_SERVICE_PORT`, String(first.port)],
  ];
  for (const p of ports) if (p.name) out.push([`${name}_SERVICE_PORT_${shouted(p.name)}`, String(p.port)]);
  for (const p of ports) {
    const protocol = p.protocol ?? 'TCP';
    const url = `${protocol.toLowerCase()}://${host.includes(':') ? `[${host}]` : host}:${p.port}`;
    if (p === first) out.push([`${name}_PORT`, url]);
    const prefix = `${name}_PORT_${p.port}_${protocol}`;
    out.push(
      [prefix, url],
      [`${prefix}_PROTO`, protocol.toLowerCase()],
      [`${prefix}_PORT`, String(p.port)],
      [`${prefix}_ADDR`, host],
    );
  }
  return out;
}

/** The Service `kubernetes`, at the address where this device reaches the API. */
function apiService(api: string): Service {
  const at = api.lastIndexOf(':');
  const clusterIP = api.slice(0, at).replace(/^\[|\]$/g, '');
  const ports = [{ name: 'https', protocol: 'TCP', port: Number(api.slice(at + 1)) }];
  return { metadata: { name: 'kubernetes' }, spec: { clusterIP, ports } };
}

/** Resolves the environment; throws ConfigError naming what is missing. */
export function containerEnv(
  pod: Pod,
  c: Container,
  config: Config,
  facts: PodFacts,
): { name: string; value: string }[] {
  const namespace = pod.metadata?.namespace ?? 'default';
  const services = [
    ...(pod.spec?.enableServiceLinks === false ? [] : config.services(namespace)),
    ...(facts.api ? [apiService(facts.api)] : []),
  ];
  const env = new Map<string, string>(services.flatMap(serviceVariables));
  for (const from of c.envFrom ?? []) {
    const ref = from.configMapRef ?? from.secretRef;
    if (!ref?.name) continue;
    const data = from.configMapRef
      ? config.configMap(namespace, ref.name)?.data
      : textOf(config.secret(namespace, ref.name));
    const exists = from.configMapRef
      ? config.configMap(namespace, ref.name)
      : config.secret(namespace, ref.name);
    if (!exists) {
      if (ref.optional) continue;
      throw new ConfigError(`${from.configMapRef ? 'configmap' : 'secret'} "${ref.name}" not found`);
    }
    for (const [key, value] of Object.entries(data ?? {})) {
      const name = (from.prefix ?? '') + key;
      // The kubelet leaves such keys out as well (InvalidEnvironmentVariableNames).
      if (envVarName(name).length === 0) env.set(name, value);
    }
  }
  for (const e of c.env ?? []) {
    const value = variableValue(e, pod, c, config, facts, env);
    if (value !== undefined) env.set(e.name, value);
  }
  return [...env].map(([name, value]) => ({ name, value }));
}

function variableValue(
  e: EnvVar,
  pod: Pod,
  c: Container,
  config: Config,
  facts: PodFacts,
  env: Map<string, string>,
): string | undefined {
  const from = e.valueFrom;
  if (!from) return expand(e.value ?? '', (n) => env.get(n));
  const namespace = pod.metadata?.namespace ?? 'default';
  if (from.fieldRef) return fieldValue(pod, from.fieldRef.fieldPath, facts);
  if (from.resourceFieldRef) {
    const { containerName, resource, divisor } = from.resourceFieldRef;
    return resourceValue(pod, containerName ?? c.name, resource, divisor, facts);
  }
  const ref = from.configMapKeyRef ?? from.secretKeyRef;
  if (!ref) return undefined;
  const what = from.configMapKeyRef ? 'configmap' : 'secret';
  const name = ref.name ?? '';
  const object = from.configMapKeyRef ? config.configMap(namespace, name) : config.secret(namespace, name);
  if (!object) {
    if (ref.optional) return undefined;
    throw new ConfigError(`${what} "${name}" not found`);
  }
  const data = from.configMapKeyRef ? (object as ConfigMap).data : textOf(object as Secret);
  const value = data?.[ref.key];
  if (value === undefined && !ref.optional)
    throw new ConfigError(
      `couldn't find key ${ref.key} in ${what === 'secret' ? 'Secret' : 'ConfigMap'} ${namespace}/${name}`,
    );
  return value;
}

/** A Secret's data as text (environment variables cannot hold anything else). */
function textOf(s: Secret | undefined): Record<string, string> | undefined {
  if (!s) return undefined;
  return Object.fromEntries(
    Object.entries(s.data ?? {}).map(([k, v]) => [k, Buffer.from(v, 'base64').toString('utf8')]),
  );
}

/** A downward API field of the pod (pkg/fieldpath and the kubelet's podFieldSelectorRuntimeValue); throws ConfigError. */
export function fieldValue(pod: Pod, path: string, facts: PodFacts): string {
  const meta = pod.metadata ?? {};
  const subscript = /^metadata\.(labels|annotations)\['(.+)'\]$/.exec(path);
  if (subscript) return meta[subscript[1] as 'labels' | 'annotations']?.[subscript[2]!] ?? '';
  const table: Record<string, () => string> = {
    'metadata.name': () => meta.name ?? '',
    'metadata.namespace': () => meta.namespace ?? '',
    'metadata.uid': () => meta.uid ?? '',
    'metadata.labels': () => formatMap(meta.labels),
    'metadata.annotations': () => formatMap(meta.annotations),
    'spec.nodeName': () => pod.spec?.nodeName ?? facts.nodeName,
    'spec.serviceAccountName': () => pod.spec?.serviceAccountName ?? 'default',
    'status.hostIP': () => facts.hostIP,
    'status.hostIPs': () => facts.hostIP,
    'status.podIP': () => facts.podIPs[0] ?? '',
    'status.podIPs': () => facts.podIPs.join(','),
  };
  const read = table[path];
  if (!read) throw new ConfigError(`unsupported fieldPath: ${path}`);
  return read();
}

/** `key="value"` lines, sorted, with Go's quoting, as files of the downward API show maps. */
const formatMap = (m: Record<string, string> | undefined): string =>
  Object.keys(m ?? {})
    .sort()
    .map((k) => `${k}=${JSON.stringify(m![k])}`)
    .join('\n');

/** A container's request or limit divided by the divisor, rounded up (pkg/api/v1/resource ExtractContainerResourceValue). */
export function resourceValue(
  pod: Pod,
  containerName: string,
  resource: string,
  divisor: string | undefined,
  facts: PodFacts,
): string {
  const c = [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? [])].find(
    (x) => x.name === containerName,
  );
  if (!c) throw new ConfigError(`container ${containerName} not found`);
  const m = /^(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-.+)$/.exec(resource);
  if (!m) throw new ConfigError(`unsupported container resource : ${resource}`);
  const [, kind, name] = m as unknown as [string, 'limits' | 'requests', string];
  const text = c.resources?.[kind]?.[name];
  const by = divisor && divisor !== '0' ? divisor : '1';
  if (name === 'cpu') {
    const milli =
      text !== undefined ? milliQuantity(text) : kind === 'limits' ? facts.allocatable.cpuMilli : 0;
    return String(Math.ceil(milli / milliQuantity(by)));
  }
  const whole: Record<string, number> = {
    memory: facts.allocatable.memoryBytes,
    'ephemeral-storage': facts.allocatable.ephemeralStorageBytes,
  };
  const bytes = text !== undefined ? quantity(text) : kind === 'limits' ? (whole[name] ?? 0) : 0;
  return String(Math.ceil(bytes / quantity(by)));
}
