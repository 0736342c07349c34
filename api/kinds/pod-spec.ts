/** Defaults and validation of the PodSpec, for pods and for templates (Kubernetes' core/v1 defaults and validation). */
import type {
  Affinity,
  Container,
  ContainerPort,
  EnvFromSource,
  EnvVar,
  EphemeralContainer,
  HTTPGetAction,
  Lifecycle,
  NodeSelectorTerm,
  PodSpec,
  Probe,
  ResourceRequirements,
  Toleration,
  Volume,
  VolumeMount,
} from 'kubernetes-types/core/v1.js';
import {
  duplicate,
  forbidden,
  invalid,
  notFoundField,
  notSupported,
  required,
} from '../meta/field-errors.js';
import {
  configMapKey,
  dns1123Label,
  dns1123Subdomain,
  envVarName,
  portName,
  qualifiedName,
  type Validator,
  validLabelValue,
} from '../meta/names.js';
import { validateLabels } from '../meta/object-meta.js';
import { compareQuantity } from '../meta/quantity.js';
import { validateSelector } from '../meta/selector.js';
import { validateEphemeralContainers } from './ephemeral.js';
import type { FieldError } from './kind.js';
import { containerResourceName } from './resource-names.js';

type Errors = FieldError[];

// ---- defaults

function defaultHttpGet(get: HTTPGetAction | undefined): void {
  if (!get) return;
  get.path ||= '/';
  get.scheme ||= 'HTTP';
}

function defaultProbe(p: Probe | undefined): void {
  if (!p) return;
  p.timeoutSeconds ||= 1;
  p.periodSeconds ||= 10;
  p.successThreshold ||= 1;
  p.failureThreshold ||= 3;
  defaultHttpGet(p.httpGet);
  if (p.grpc) p.grpc.service ??= '';
}

/** `latest` or no tag at all means: look for a newer one each time. */
function defaultPullPolicy(image: string): string {
  if (image.includes('@')) return 'IfNotPresent';
  const tag = /:([^:/]+)$/.exec(image)?.[1] ?? 'latest';
  return tag === 'latest' ? 'Always' : 'IfNotPresent';
}

function defaultContainer(c: Container | EphemeralContainer): void {
  c.imagePullPolicy ||= defaultPullPolicy(c.image ?? '');
  c.terminationMessagePath ||= '/dev/termination-log';
  c.terminationMessagePolicy ||= 'File';
  c.resources ??= {};
  for (const p of c.ports ?? []) p.protocol ||= 'TCP';
  for (const e of c.env ?? []) if (e.valueFrom?.fieldRef) e.valueFrom.fieldRef.apiVersion ||= 'v1';
  for (const p of [c.livenessProbe, c.readinessProbe, c.startupProbe]) defaultProbe(p);
  defaultHttpGet(c.lifecycle?.postStart?.httpGet);
  defaultHttpGet(c.lifecycle?.preStop?.httpGet);
}

const DEFAULT_MODE = 0o644;

function defaultVolume(v: Volume): void {
  if (!Object.keys(v).some((k) => k !== 'name')) v.emptyDir = {};
  if (v.hostPath) v.hostPath.type ??= '';
  for (const source of [v.secret, v.configMap, v.downwardAPI, v.projected])
    if (source) source.defaultMode ??= DEFAULT_MODE;
  const files = [v.downwardAPI, ...(v.projected?.sources ?? []).map((s) => s.downwardAPI)];
  for (const f of files)
    for (const item of f?.items ?? []) if (item.fieldRef) item.fieldRef.apiVersion ||= 'v1';
  for (const s of v.projected?.sources ?? [])
    if (s.serviceAccountToken) s.serviceAccountToken.expirationSeconds ??= 3600;
}

export const containersOf = (spec: PodSpec | undefined): (Container | EphemeralContainer)[] => [
  ...(spec?.initContainers ?? []),
  ...(spec?.containers ?? []),
  ...(spec?.ephemeralContainers ?? []),
];

/** In place. `spec` is mutable. */
export function defaultPodSpec(spec: PodSpec): void {
  spec.restartPolicy ||= 'Always';
  spec.dnsPolicy ||= 'ClusterFirst';
  spec.schedulerName ||= 'default-scheduler';
  spec.securityContext ??= {};
  spec.terminationGracePeriodSeconds ??= 30;
  spec.serviceAccountName ||= spec.serviceAccount;
  if (spec.serviceAccountName) spec.serviceAccount = spec.serviceAccountName;
  else delete spec.serviceAccountName;
  for (const c of containersOf(spec)) {
    defaultContainer(c);
    if (spec.hostNetwork) for (const p of c.ports ?? []) p.hostPort ||= p.containerPort;
  }
  for (const v of spec.volumes ?? []) defaultVolume(v);
}

// ---- validation

const named = (v: string | undefined, at: string, check: Validator): Errors =>
  v ? check(v).map((e) => invalid(at, v, e)) : [required(at)];

const optional = (v: string | undefined, at: string, check: Validator): Errors =>
  v ? check(v).map((e) => invalid(at, v, e)) : [];

const oneOf = (v: string | undefined, at: string, values: readonly string[]): Errors => {
  if (!v) return [required(at)];
  return values.includes(v) ? [] : [notSupported(at, v, values)];
};

const atLeast = (v: number | undefined, at: string, min: number): Errors =>
  v === undefined || v >= min
    ? []
    : [invalid(at, v, min === 1 ? 'must be greater than 0' : `must be greater than or equal to ${min}`)];

const between = (v: number | undefined, at: string, min: number, max: number): Errors =>
  v === undefined || (v >= min && v <= max)
    ? []
    : [invalid(at, v, `must be between ${min} and ${max}, inclusive`)];

const each = <T>(list: readonly T[] | undefined, at: string, check: (x: T, at: string) => Errors): Errors =>
  (list ?? []).flatMap((x, i) => check(x, `${at}[${i}]`));

const MAX_INT32 = 2 ** 31 - 1;

function relativePath(path: string, at: string): Errors {
  const errors: Errors = [];
  if (path.startsWith('/')) errors.push(invalid(at, path, 'must be a relative path'));
  if (path.split('/').includes('..')) errors.push(invalid(at, path, "must not contain '..'"));
  return errors;
}

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

const ENV_FIELDS = [
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

function fieldRef(
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

function resourceRef(
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

function validateVolumes(volumes: readonly Volume[] | undefined, at: string): Errors {
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
    if (check) errors.push(...check(v[source as keyof Volume], `${f}.${source}`));
    return errors;
  });
}

function validateEnv(env: readonly EnvVar[] | undefined, at: string): Errors {
  return each(env, at, (e, f) => {
    const errors: Errors = e.name
      ? envVarName(e.name).map((w) => invalid(`${f}.name`, e.name, w))
      : [required(`${f}.name`)];
    const from = e.valueFrom;
    if (!from) return errors;
    const g = `${f}.valueFrom`;
    const kinds = Object.keys(from);
    if (kinds.length === 0)
      errors.push(
        invalid(
          g,
          '',
          'must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`',
        ),
      );
    else if (e.value) errors.push(invalid(g, '', 'may not be specified when `value` is not empty'));
    if (kinds.length > 1) errors.push(invalid(g, '', 'may not have more than one field specified at a time'));
    if (from.fieldRef) errors.push(...fieldRef(from.fieldRef, `${g}.fieldRef`, ENV_FIELDS));
    if (from.resourceFieldRef)
      errors.push(...resourceRef(from.resourceFieldRef, `${g}.resourceFieldRef`, false));
    for (const k of ['configMapKeyRef', 'secretKeyRef'] as const) {
      const ref = from[k];
      if (!ref) continue;
      if (!ref.name) errors.push(required(`${g}.${k}.name`));
      errors.push(...named(ref.key, `${g}.${k}.key`, configMapKey));
    }
    return errors;
  });
}

const validateEnvFrom = (from: readonly EnvFromSource[] | undefined, at: string): Errors =>
  each(from, at, (e, f) => {
    const errors = optional(e.prefix, `${f}.prefix`, envVarName);
    if (e.configMapRef && e.secretRef)
      errors.push(invalid(f, '', 'may not have more than one field specified at a time'));
    if (!e.configMapRef && !e.secretRef)
      errors.push(invalid(f, '', 'must specify one of: `configMapRef` or `secretRef`'));
    for (const k of ['configMapRef', 'secretRef'] as const)
      if (e[k]) errors.push(...named(e[k].name, `${f}.${k}.name`, dns1123Subdomain));
    return errors;
  });

const PROTOCOLS = ['SCTP', 'TCP', 'UDP'];
const PORT = 'must be between 1 and 65535, inclusive';

function validatePorts(
  ports: readonly ContainerPort[] | undefined,
  at: string,
  hostNetwork: boolean,
): Errors {
  const names = new Set<string>();
  return each(ports, at, (p, f) => {
    const errors: Errors = [];
    if (p.name) {
      for (const e of portName(p.name)) errors.push(invalid(`${f}.name`, p.name, e));
      if (names.has(p.name)) errors.push(duplicate(`${f}.name`, p.name));
      names.add(p.name);
    }
    if (!p.containerPort) errors.push(required(`${f}.containerPort`));
    else if (p.containerPort < 1 || p.containerPort > 65535)
      errors.push(invalid(`${f}.containerPort`, p.containerPort, PORT));
    if (p.hostPort && (p.hostPort < 1 || p.hostPort > 65535))
      errors.push(invalid(`${f}.hostPort`, p.hostPort, PORT));
    if (hostNetwork && p.hostPort && p.hostPort !== p.containerPort)
      errors.push(
        invalid(`${f}.containerPort`, p.containerPort, 'must match `hostPort` when `hostNetwork` is true'),
      );
    return [...errors, ...oneOf(p.protocol, `${f}.protocol`, PROTOCOLS)];
  });
}

const PROPAGATIONS = ['Bidirectional', 'HostToContainer', 'None'];

function validateMounts(
  mounts: readonly VolumeMount[] | undefined,
  volumes: ReadonlySet<string>,
  at: string,
): Errors {
  const paths = new Set<string>();
  return each(mounts, at, (m, f) => {
    const errors: Errors = [];
    if (!m.name) errors.push(required(`${f}.name`));
    else if (!volumes.has(m.name)) errors.push(notFoundField(`${f}.name`, m.name));
    if (!m.mountPath) errors.push(required(`${f}.mountPath`));
    else if (paths.has(m.mountPath)) errors.push(invalid(`${f}.mountPath`, m.mountPath, 'must be unique'));
    paths.add(m.mountPath);
    if (m.subPath && m.subPathExpr)
      errors.push(
        invalid(`${f}.subPathExpr`, m.subPathExpr, 'subPathExpr and subPath are mutually exclusive'),
      );
    if (m.subPath) errors.push(...relativePath(m.subPath, `${f}.subPath`));
    if (m.subPathExpr) errors.push(...relativePath(m.subPathExpr, `${f}.subPathExpr`));
    if (m.mountPropagation && !PROPAGATIONS.includes(m.mountPropagation))
      errors.push(notSupported(`${f}.mountPropagation`, m.mountPropagation, PROPAGATIONS));
    return errors;
  });
}

function validateResources(r: ResourceRequirements | undefined, at: string): Errors {
  const errors: Errors = [];
  for (const list of ['limits', 'requests'] as const)
    for (const [name, amount] of Object.entries(r?.[list] ?? {})) {
      const f = `${at}.${list}`;
      errors.push(...containerResourceName(name, f));
      if (compareQuantity(amount, '0') < 0)
        errors.push(invalid(`${f}[${name}]`, amount, 'must be greater than or equal to 0'));
    }
  for (const [name, amount] of Object.entries(r?.requests ?? {})) {
    const limit = r?.limits && Object.hasOwn(r.limits, name) ? r.limits[name] : undefined;
    if (limit !== undefined && compareQuantity(amount, limit) > 0)
      errors.push(
        invalid(`${at}.requests`, amount, `must be less than or equal to ${name} limit of ${limit}`),
      );
  }
  return errors;
}

const portRef = (port: number | string | undefined, at: string): Errors => {
  if (typeof port === 'string') return portName(port).map((e) => invalid(at, port, e));
  return port !== undefined && port >= 1 && port <= 65535 ? [] : [invalid(at, port ?? 0, PORT)];
};

type Handler = Pick<Probe, 'exec' | 'httpGet' | 'tcpSocket' | 'grpc'> & { sleep?: { seconds?: number } };

function validateHandler(h: Handler, at: string, kinds: readonly (keyof Handler)[]): Errors {
  const set = kinds.filter((k) => h[k] !== undefined);
  const errors: Errors = set
    .slice(1)
    .map((k) => forbidden(`${at}.${k}`, 'may not specify more than 1 handler type'));
  if (set.length === 0) errors.push(required(at, 'must specify a handler type'));
  if (h.exec && !h.exec.command?.length) errors.push(required(`${at}.exec.command`));
  if (h.httpGet) {
    if (!h.httpGet.path) errors.push(required(`${at}.httpGet.path`));
    errors.push(...portRef(h.httpGet.port, `${at}.httpGet.port`));
    errors.push(...oneOf(h.httpGet.scheme, `${at}.httpGet.scheme`, ['HTTP', 'HTTPS']));
  }
  if (h.tcpSocket) errors.push(...portRef(h.tcpSocket.port, `${at}.tcpSocket.port`));
  if (h.grpc) errors.push(...portRef(h.grpc.port, `${at}.grpc.port`));
  return errors;
}

const PROBE_NUMBERS = [
  'initialDelaySeconds',
  'timeoutSeconds',
  'periodSeconds',
  'successThreshold',
  'failureThreshold',
] as const;

function validateProbe(p: Probe | undefined, at: string, mustSucceedOnce: boolean): Errors {
  if (!p) return [];
  const errors = validateHandler(p, at, ['exec', 'httpGet', 'tcpSocket', 'grpc']);
  for (const k of PROBE_NUMBERS) errors.push(...atLeast(p[k], `${at}.${k}`, 0));
  if (mustSucceedOnce && p.successThreshold !== 1)
    errors.push(invalid(`${at}.successThreshold`, p.successThreshold, 'must be 1'));
  return errors;
}

function validateLifecycle(l: Lifecycle | undefined, at: string): Errors {
  return (['postStart', 'preStop'] as const).flatMap((k) =>
    l?.[k] ? validateHandler(l[k], `${at}.${k}`, ['exec', 'httpGet', 'tcpSocket', 'sleep']) : [],
  );
}

const PULL_POLICIES = ['Always', 'IfNotPresent', 'Never'];
const MESSAGE_POLICIES = ['FallbackToLogsOnError', 'File'];

function validateContainer(
  c: Container,
  at: string,
  volumes: ReadonlySet<string>,
  hostNetwork: boolean,
  init: boolean,
): Errors {
  const errors = named(c.name, `${at}.name`, dns1123Label);
  if (!c.image) errors.push(required(`${at}.image`));
  else if (c.image.trim() !== c.image)
    errors.push(invalid(`${at}.image`, c.image, 'must not have leading or trailing whitespace'));
  errors.push(...oneOf(c.imagePullPolicy, `${at}.imagePullPolicy`, PULL_POLICIES));
  errors.push(...oneOf(c.terminationMessagePolicy, `${at}.terminationMessagePolicy`, MESSAGE_POLICIES));
  errors.push(...validatePorts(c.ports, `${at}.ports`, hostNetwork));
  errors.push(...validateEnv(c.env, `${at}.env`), ...validateEnvFrom(c.envFrom, `${at}.envFrom`));
  errors.push(...validateMounts(c.volumeMounts, volumes, `${at}.volumeMounts`));
  errors.push(...validateResources(c.resources, `${at}.resources`));
  const sidecar = init && c.restartPolicy === 'Always';
  if (init && !sidecar)
    for (const k of ['lifecycle', 'livenessProbe', 'readinessProbe', 'startupProbe'] as const)
      if (c[k])
        errors.push(
          forbidden(`${at}.${k}`, 'may not be set for init containers without restartPolicy=Always'),
        );
  if (init && c.restartPolicy !== undefined && !sidecar)
    errors.push(notSupported(`${at}.restartPolicy`, c.restartPolicy, ['Always']));
  if (!init && c.restartPolicy !== undefined && !['Always', 'Never', 'OnFailure'].includes(c.restartPolicy))
    errors.push(notSupported(`${at}.restartPolicy`, c.restartPolicy, ['Always', 'Never', 'OnFailure']));
  if (!init || sidecar) {
    errors.push(...validateProbe(c.livenessProbe, `${at}.livenessProbe`, true));
    errors.push(...validateProbe(c.readinessProbe, `${at}.readinessProbe`, false));
    errors.push(...validateProbe(c.startupProbe, `${at}.startupProbe`, true));
    errors.push(...validateLifecycle(c.lifecycle, `${at}.lifecycle`));
  }
  for (const k of ['runAsUser', 'runAsGroup'] as const)
    errors.push(...between(c.securityContext?.[k], `${at}.securityContext.${k}`, 0, MAX_INT32));
  const s = c.securityContext;
  if (s?.allowPrivilegeEscalation === false && s.privileged)
    errors.push(
      invalid(
        `${at}.securityContext`,
        s,
        'cannot set `allowPrivilegeEscalation` to false and `privileged` to true',
      ),
    );
  return errors;
}

function hostPortConflicts(containers: readonly Container[] | undefined, at: string): Errors {
  const seen = new Set<string>();
  return each(containers, at, (c, f) =>
    each(c.ports, `${f}.ports`, (p, g) => {
      if (!p.hostPort) return [];
      const id = `${p.protocol}/${p.hostIP ?? ''}/${p.hostPort}`;
      if (seen.has(id)) return [duplicate(`${g}.hostPort`, id)];
      seen.add(id);
      return [];
    }),
  );
}

const EFFECTS = ['NoSchedule', 'PreferNoSchedule', 'NoExecute'];

export const validateTolerations = (tolerations: readonly Toleration[] | undefined, at: string): Errors =>
  each(tolerations, at, (t, f) => {
    const errors = optional(t.key, `${f}.key`, qualifiedName);
    if (!t.key && t.operator !== 'Exists')
      errors.push(
        invalid(
          `${f}.operator`,
          t.operator ?? '',
          'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        ),
      );
    if (t.tolerationSeconds !== undefined && t.effect !== 'NoExecute')
      errors.push(
        invalid(`${f}.effect`, t.effect ?? '', "effect must be 'NoExecute' when `tolerationSeconds` is set"),
      );
    const operator = t.operator || 'Equal';
    if (operator === 'Exists') {
      if (t.value)
        errors.push(invalid(`${f}.operator`, t, "value must be empty when `operator` is 'Exists'"));
    } else if (operator === 'Equal') errors.push(...optional(t.value, `${f}.operator`, validLabelValue));
    else errors.push(notSupported(`${f}.operator`, operator, ['Equal', 'Exists']));
    if (t.effect && !EFFECTS.includes(t.effect)) errors.push(notSupported(`${f}.effect`, t.effect, EFFECTS));
    return errors;
  });

const NODE_OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist', 'Gt', 'Lt'];

export const validateNodeSelectorTerm = (term: NodeSelectorTerm | undefined, at: string): Errors =>
  each(term?.matchExpressions, `${at}.matchExpressions`, (e, f) => {
    const errors = qualifiedName(e.key ?? '').map((w) => invalid(`${f}.key`, e.key ?? '', w));
    const n = e.values?.length ?? 0;
    if (!NODE_OPERATORS.includes(e.operator))
      errors.push(invalid(`${f}.operator`, e.operator ?? '', 'not a valid selector operator'));
    else if (['In', 'NotIn'].includes(e.operator) && n === 0)
      errors.push(required(`${f}.values`, "must be specified when `operator` is 'In' or 'NotIn'"));
    else if (['Exists', 'DoesNotExist'].includes(e.operator) && n > 0)
      errors.push(
        forbidden(`${f}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
      );
    else if (['Gt', 'Lt'].includes(e.operator) && n !== 1)
      errors.push(required(`${f}.values`, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
    return errors;
  });

function validateAffinity(a: Affinity | undefined, at: string): Errors {
  const node = a?.nodeAffinity;
  const errors: Errors = [];
  const hard = node?.requiredDuringSchedulingIgnoredDuringExecution;
  const name = 'requiredDuringSchedulingIgnoredDuringExecution';
  const soft = 'preferredDuringSchedulingIgnoredDuringExecution';
  if (hard) {
    const f = `${at}.nodeAffinity.${name}.nodeSelectorTerms`;
    if (!hard.nodeSelectorTerms?.length)
      errors.push(required(f, 'must have at least one node selector term'));
    errors.push(...each(hard.nodeSelectorTerms, f, validateNodeSelectorTerm));
  }
  errors.push(
    ...each(node?.[soft], `${at}.nodeAffinity.${soft}`, (p, f) => [
      ...(p.weight >= 1 && p.weight <= 100
        ? []
        : [invalid(`${f}.weight`, p.weight ?? 0, 'must be in the range 1-100')]),
      ...validateNodeSelectorTerm(p.preference, `${f}.preference`),
    ]),
  );
  for (const k of ['podAffinity', 'podAntiAffinity'] as const) {
    const terms = [
      ...(a?.[k]?.[name] ?? []).map((t, i) => [t, `${at}.${k}.${name}[${i}]`] as const),
      ...(a?.[k]?.[soft] ?? []).map(
        (t, i) => [t.podAffinityTerm, `${at}.${k}.${soft}[${i}].podAffinityTerm`] as const,
      ),
    ];
    for (const [t, f] of terms) {
      errors.push(...validateSelector(t?.labelSelector, `${f}.labelSelector`));
      if (!t?.topologyKey) errors.push(required(`${f}.topologyKey`, 'can not be empty'));
      else
        errors.push(
          ...qualifiedName(t.topologyKey).map((e) => invalid(`${f}.topologyKey`, t.topologyKey, e)),
        );
    }
  }
  return errors;
}

const DNS_POLICIES = ['ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None'];
const RESTART_POLICIES = ['Always', 'OnFailure', 'Never'];
const UNSATISFIABLE = ['DoNotSchedule', 'ScheduleAnyway'];

/** `at` is the field path of the spec: `spec`, or `spec.template.spec`. */
export function validatePodSpec(spec: PodSpec | undefined, at: string): Errors {
  if (!spec) return [required(`${at}.containers`)];
  const errors = validateVolumes(spec.volumes, `${at}.volumes`);
  const volumes = new Set((spec.volumes ?? []).map((v) => v.name));
  const names = new Set<string>();
  const host = spec.hostNetwork === true;
  const container = (init: boolean) => (c: Container, f: string) => {
    const found = validateContainer(c, f, volumes, host, init);
    if (c.name && names.has(c.name)) found.push(duplicate(`${f}.name`, c.name));
    names.add(c.name);
    return found;
  };
  if (!spec.containers?.length) errors.push(required(`${at}.containers`));
  errors.push(...each(spec.containers, `${at}.containers`, container(false)));
  errors.push(...each(spec.initContainers, `${at}.initContainers`, container(true)));
  const ephemeral = (c: Container, f: string) => validateContainer(c, f, volumes, host, false);
  errors.push(...validateEphemeralContainers(spec, `${at}.ephemeralContainers`, ephemeral));
  errors.push(...hostPortConflicts(spec.containers, `${at}.containers`));
  errors.push(...oneOf(spec.restartPolicy, `${at}.restartPolicy`, RESTART_POLICIES));
  errors.push(...oneOf(spec.dnsPolicy, `${at}.dnsPolicy`, DNS_POLICIES));
  if (spec.dnsPolicy === 'None' && !spec.dnsConfig?.nameservers?.length)
    errors.push(
      required(
        `${at}.dnsConfig.nameservers`,
        'must provide at least one DNS nameserver when `dnsPolicy` is None',
      ),
    );
  errors.push(...validateLabels(spec.nodeSelector, `${at}.nodeSelector`));
  errors.push(...optional(spec.serviceAccountName, `${at}.serviceAccountName`, dns1123Subdomain));
  errors.push(...optional(spec.nodeName, `${at}.nodeName`, dns1123Subdomain));
  errors.push(...optional(spec.runtimeClassName, `${at}.runtimeClassName`, dns1123Subdomain));
  errors.push(...optional(spec.priorityClassName, `${at}.priorityClassName`, dns1123Subdomain));
  errors.push(...optional(spec.hostname, `${at}.hostname`, dns1123Label));
  errors.push(...optional(spec.subdomain, `${at}.subdomain`, dns1123Label));
  errors.push(...between(spec.activeDeadlineSeconds, `${at}.activeDeadlineSeconds`, 1, MAX_INT32));
  errors.push(...atLeast(spec.terminationGracePeriodSeconds, `${at}.terminationGracePeriodSeconds`, 0));
  for (const k of ['runAsUser', 'runAsGroup', 'fsGroup'] as const)
    errors.push(...between(spec.securityContext?.[k], `${at}.securityContext.${k}`, 0, MAX_INT32));
  errors.push(...validateTolerations(spec.tolerations, `${at}.tolerations`));
  errors.push(...validateAffinity(spec.affinity, `${at}.affinity`));
  errors.push(
    ...each(spec.topologySpreadConstraints, `${at}.topologySpreadConstraints`, (c, f) => [
      ...(c.maxSkew > 0 ? [] : [invalid(`${f}.maxSkew`, c.maxSkew ?? 0, 'must be greater than zero')]),
      ...(c.topologyKey ? [] : [required(`${f}.topologyKey`, 'can not be empty')]),
      ...(UNSATISFIABLE.includes(c.whenUnsatisfiable)
        ? []
        : [notSupported(`${f}.whenUnsatisfiable`, c.whenUnsatisfiable ?? '', UNSATISFIABLE)]),
      ...validateSelector(c.labelSelector, `${f}.labelSelector`),
    ]),
  );
  errors.push(
    ...each(spec.schedulingGates, `${at}.schedulingGates`, (g, f) =>
      named(g.name, `${f}.name`, qualifiedName),
    ),
  );
  return errors;
}
