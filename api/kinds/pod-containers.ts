/** Validation of the containers of a PodSpec: environment, ports, mounts, resources, probes, hooks, security. */
import type {
  Container,
  ContainerPort,
  EnvFromSource,
  EnvVar,
  Lifecycle,
  Probe,
  ResourceRequirements,
  VolumeMount,
} from 'kubernetes-types/core/v1.js';
import {
  duplicate,
  forbidden,
  invalid,
  notFoundField,
  notSupported,
  required,
  tooMany,
} from '../meta/field-errors.js';
import { configMapKey, dns1123Label, dns1123Subdomain, envVarName, portName } from '../meta/names.js';
import { compareQuantity } from '../meta/quantity.js';
import {
  atLeast,
  between,
  type Errors,
  each,
  MAX_INT32,
  named,
  oneOf,
  optional,
  relativePath,
} from './pod-fields.js';
import { ENV_FIELDS, fieldRef, resourceRef } from './pod-volumes.js';
import { validateResizePolicy } from './resize.js';
import { containerResourceName } from './resource-names.js';

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

const RESTART_POLICIES = ['Always', 'Never', 'OnFailure'];
const MAX_RULES = 20;
const MAX_CODES = 255;

/** A container's own restart policy, and rules by exit code. The action RestartAllContainers is not done on devices. */
function validateRestarts(c: Container, at: string): Errors {
  const { restartPolicy, restartPolicyRules: rules = [] } = c as {
    restartPolicy?: string;
    restartPolicyRules?: { action?: string; exitCodes?: { operator?: string; values?: number[] } }[];
  };
  const errors: Errors = [];
  if (restartPolicy === undefined && rules.length > 0)
    errors.push(required(`${at}.restartPolicy`, 'must specify restartPolicy when restart rules are used'));
  if (restartPolicy !== undefined && !RESTART_POLICIES.includes(restartPolicy))
    errors.push(notSupported(`${at}.restartPolicy`, restartPolicy, RESTART_POLICIES));
  if (rules.length > MAX_RULES) errors.push(tooMany(`${at}.restartPolicyRules`, rules.length, MAX_RULES));
  rules.forEach(({ action = '', exitCodes }, i) => {
    const f = `${at}.restartPolicyRules[${i}]`;
    if (action !== 'Restart') errors.push(notSupported(`${f}.action`, action, ['Restart']));
    if (!exitCodes) errors.push(required(`${f}.exitCodes`, 'must be specified'));
    else {
      const { operator = '', values = [] } = exitCodes;
      if (!['In', 'NotIn'].includes(operator))
        errors.push(notSupported(`${f}.exitCodes.operator`, operator, ['In', 'NotIn']));
      if (values.length > MAX_CODES) errors.push(tooMany(`${f}.exitCodes.values`, values.length, MAX_CODES));
    }
  });
  return errors;
}

const PULL_POLICIES = ['Always', 'IfNotPresent', 'Never'];
const MESSAGE_POLICIES = ['FallbackToLogsOnError', 'File'];

export function validateContainer(
  c: Container,
  at: string,
  volumes: ReadonlySet<string>,
  hostNetwork: boolean,
  init: boolean,
  podRestartPolicy: string,
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
  errors.push(...validateResizePolicy(c, at, podRestartPolicy));
  const sidecar = init && c.restartPolicy === 'Always';
  if (init && !sidecar)
    for (const k of ['lifecycle', 'livenessProbe', 'readinessProbe', 'startupProbe'] as const)
      if (c[k])
        errors.push(
          forbidden(`${at}.${k}`, 'may not be set for init containers without restartPolicy=Always'),
        );
  errors.push(...validateRestarts(c, at));
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

export function hostPortConflicts(containers: readonly Container[] | undefined, at: string): Errors {
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
