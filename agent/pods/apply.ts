/** Carries out the actions of a plan. No choices are made here: an operation does its one thing, tells it as the kubelet would, or notes why it failed. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Container, EphemeralContainer, Pod } from 'kubernetes-types/core/v1.js';
import type { ContainerSpec, ImageAuth, ImageStatus, Mount, SandboxSpec, Shim } from '../../shims/shim.js';
import { ShimError } from '../../shims/shim.js';
import { VolumeError } from '../volumes/payload.js';
import { credentialsFor } from './auth.js';
import type { PodContext } from './context.js';
import { ConfigError, containerEnv, expand } from './env.js';
import { runHook } from './hooks.js';
import { hostnameOf, hostsFile } from './hosts.js';
import { type Action, ANNOTATIONS, goDuration, hashOf, LABELS } from './plan.js';
import { resourcesOf } from './resize.js';
import { allContainers, containerResources, podResources } from './resources.js';
import { checkRunAsNonRoot, securitySettings } from './security.js';

type Of<K extends Action['do']> = Extract<Action, { do: K }>;
type Operations = { [K in Action['do']]: (w: PodContext, a: Of<K>) => Promise<void> };

/** Image pulls back off as the kubelet's do. */
const PULL_BASE_MS = 10_000;
const PULL_MAX_MS = 300_000;
/** What a container keeps of its grace when the preStop hook took it all (the kubelet's minimumGracePeriodInSeconds). */
const MIN_GRACE_SECONDS = 2;

export const OPERATIONS: Operations = {
  async setUpVolumes(w) {
    try {
      await w.host.volumes.setUp(w.pod, w.host.config, w.host.facts(podIPs(w)));
      w.volumesUp = true;
      w.failures.delete('volumes');
    } catch (e) {
      const f = w.failed('volumes', e, 'FailedMount');
      w.event('Warning', 'FailedMount', f.message);
    }
  },

  async pullImage(w, { container, attempt }) {
    const c = w.container(container);
    const image = c.image ?? '';
    const key = `image:${container}`;
    const { signal } = w.life;
    try {
      const status = await haveImage(w, c, image);
      w.images.set(container, {
        attempt,
        image,
        ref: status.ref,
        id: status.repoDigests[0] ?? status.ref,
        status,
      });
      w.failures.delete(key);
    } catch (e) {
      if (signal.aborted) return;
      const f = w.failed(key, e, 'ErrImagePull', PULL_BASE_MS, PULL_MAX_MS);
      if (f.reason === 'ErrImageNeverPull') w.event('Warning', 'ErrImageNeverPull', f.message, container);
      else if (f.reason === 'InvalidImageName')
        w.event(
          'Warning',
          'InspectFailed',
          startingWith(`Failed to apply default image tag "${image}": `, f.message),
          container,
        );
      else
        w.event('Warning', 'Failed', startingWith(`Failed to pull image "${image}": `, f.message), container);
      w.event('Warning', 'Failed', `Error: ${f.reason}`, container);
    }
  },

  async runSandbox(w, { attempt, changed }) {
    if (changed)
      w.event('Normal', 'SandboxChanged', 'Pod sandbox changed, it will be killed and re-created.');
    try {
      mkdirSync(w.host.logDir(w.pod), { recursive: true, mode: 0o755 });
      await shimOf(w).runSandbox(sandboxSpec(w, attempt));
      w.failures.delete('sandbox');
    } catch (e) {
      const f = w.failed('sandbox', e, 'CreatePodSandboxError');
      w.event('Warning', 'FailedCreatePodSandBox', `Failed to create pod sandbox: ${f.message}`);
    }
  },

  async startContainer(w, { container, attempt, sandboxId, imageRef, backoff }) {
    const c = w.container(container);
    const key = `start:${container}`;
    let id: string | undefined;
    try {
      const spec = await containerSpec(w, c, attempt, imageRef);
      if (backoff) w.backoff[container] = backoff;
      else delete w.backoff[container];
      id = await shimOf(w).createContainer(sandboxId, spec);
      w.event('Normal', 'Created', `Created container: ${container}`, container);
      if (attempt > 0 && w.record) {
        w.record.attempts[container] = attempt;
        void w.saveRecord();
      }
      await shimOf(w).startContainer(id);
      w.event('Normal', 'Started', `Started container ${container}`, container);
      w.failures.delete(key);
    } catch (e) {
      const config = e instanceof ConfigError || e instanceof VolumeError;
      const reason = config
        ? 'CreateContainerConfigError'
        : id
          ? 'RunContainerError'
          : 'CreateContainerError';
      const f = w.failed(key, e, reason);
      w.event('Warning', 'Failed', `Error: ${f.message}`, container);
      return;
    }
    await postStart(w, c, id);
  },

  async resumeContainer(w, { container, id }) {
    try {
      await shimOf(w).startContainer(id);
      w.event('Normal', 'Started', `Started container ${container}`, container);
    } catch (e) {
      const f = w.failed(`start:${container}`, e, 'RunContainerError');
      w.event('Warning', 'Failed', `Error: ${f.message}`, container);
    }
  },

  async resizeContainer(w, { container, id }) {
    const c = w.container(container);
    const key = `resize:${container}`;
    try {
      await shimOf(w).updateContainer?.(id, containerResources(w.pod, c, w.host.nodeMemoryBytes));
      w.failures.delete(key);
      if (!w.record) return;
      w.record.resized = {
        ...w.record.resized,
        [container]: { id, resources: resourcesOf(c.resources ?? {}) },
      };
      await w.saveRecord();
    } catch (e) {
      const f = w.failed(key, e, 'Error');
      w.event('Warning', 'ResizeError', f.message, container);
    }
  },

  async stopContainer(w, { container, id, graceSeconds, why }) {
    const { clock } = w.host;
    const begun = clock.monotonic();
    if (!w.killing.has(id)) {
      w.killing.add(id);
      w.event('Normal', 'Killing', why, container);
      const hook = allContainers(w.pod).find((c) => c.name === container)?.lifecycle?.preStop;
      if (hook && graceSeconds > 0) {
        const failure = await runHook(w, id, container, hook, graceSeconds * 1000);
        if (failure) w.event('Warning', 'FailedPreStopHook', `PreStopHook failed: ${failure}`, container);
      }
    }
    const spent = (clock.monotonic() - begun) / 1000;
    const left =
      graceSeconds === 0 ? 0 : Math.max(Math.min(MIN_GRACE_SECONDS, graceSeconds), graceSeconds - spent);
    await shimOf(w).stopContainer(id, left);
  },

  async settle(w, { do: _, ...end }) {
    if (end.reason === 'Evicted') w.event('Warning', 'Evicted', end.message ?? '');
    if (w.goal().kind === 'remove' || !w.record) {
      w.ended = end;
      return;
    }
    w.record.end = end;
    await w.saveRecord();
  },

  async stopSandbox(w, { id }) {
    await shimOf(w).stopSandbox(id);
    w.stopped.add(id);
  },

  async removeContainer(w, { id }) {
    const c = w.seen.containers.find((x) => x.id === id);
    await shimOf(w).removeContainer(id);
    w.killing.delete(id);
    if (!c) return;
    removeLogs(w.logFile(c.name, c.attempt));
    rmSync(w.messageFile(c.name, c.attempt), { force: true });
  },

  async removeSandbox(w, { id }) {
    await shimOf(w).stopSandbox(id);
    await shimOf(w).removeSandbox(id);
    w.stopped.delete(id);
  },

  async tearDownVolumes(w) {
    try {
      await w.host.volumes.tearDown(w.uid);
      w.volumesDown = true;
      w.volumesUp = false;
      w.failures.delete('volumes');
    } catch (e) {
      const f = w.failed('volumes', e, 'FailedUnMount');
      w.event('Warning', 'FailedUnMount', `UnmountVolume.TearDown failed: ${f.message}`);
    }
  },

  async forget(w) {
    w.reportGone();
    await w.settledWrites();
    await rm(w.host.logDir(w.pod), { recursive: true, force: true });
    await rm(w.host.podDir(w.uid), { recursive: true, force: true });
    w.host.forget(w.uid);
  },
};

/** Shims' messages often say by themselves what failed. */
const startingWith = (prefix: string, message: string): string =>
  message.startsWith(prefix.replace(/: $/, '')) ? message : prefix + message;

function shimOf(w: PodContext): Shim {
  if (!w.shim) throw new Error(`no runtime for pod ${w.uid}`);
  return w.shim;
}

const podIPs = (w: PodContext): string[] => w.seen.sandboxes.find((s) => s.state === 'ready')?.ips ?? [];

/** Removes a log file and what rotation made of it. */
function removeLogs(file: string): void {
  const dir = dirname(file);
  if (!existsSync(dir)) return;
  const name = basename(file);
  for (const f of readdirSync(dir))
    if (f === name || f.startsWith(`${name}.`)) rmSync(join(dir, f), { force: true });
}

// ---- images

/** `Always` for `:latest` and for no tag at all, as the API defaults it. */
export function pullPolicy(c: Container): 'Always' | 'IfNotPresent' | 'Never' {
  if (c.imagePullPolicy) return c.imagePullPolicy as 'Always';
  const image = c.image ?? '';
  if (image.includes('@')) return 'IfNotPresent';
  const tag = /:([^/:]+)$/.exec(image)?.[1] ?? 'latest';
  return tag === 'latest' ? 'Always' : 'IfNotPresent';
}

async function haveImage(w: PodContext, c: Container, image: string): Promise<ImageStatus> {
  const { clock } = w.host;
  const shim = shimOf(w);
  const policy = pullPolicy(c);
  const present = await shim.imageStatus(image);
  if (policy === 'Never' && !present)
    throw new ShimError(
      'ErrImageNeverPull',
      `Container image "${image}" is not present with pull policy of Never`,
    );
  if (present && policy !== 'Always') {
    w.event('Normal', 'Pulled', `Container image "${image}" already present on machine`, c.name);
    return present;
  }
  const asked = clock.monotonic();
  try {
    const refused = w.host.pulls?.refused();
    if (refused) throw new ShimError('RegistryUnavailable', refused);
    w.event('Normal', 'Pulling', `Pulling image "${image}"`, c.name);
    return await w.host.pulling(async () => {
      const begun = clock.monotonic();
      const status = await pullWithCredentials(w, shim, image);
      if (status.ref !== present?.ref) w.host.pulls?.pulled(status.sizeBytes);
      const now = clock.monotonic();
      w.event(
        'Normal',
        'Pulled',
        `Successfully pulled image "${image}" in ${goDuration(now - begun)} (${goDuration(now - asked)} including waiting). Image size: ${status.sizeBytes} bytes.`,
        c.name,
      );
      return status;
    });
  } catch (e) {
    // A device must come back by itself after a power cut, with no registry in reach: the copy it has will do.
    if (!present || !(e instanceof ShimError) || e.reason !== 'RegistryUnavailable') throw e;
    w.event(
      'Warning',
      'Failed',
      `${startingWith(`Failed to pull image "${image}": `, e.message)}; using the copy present on machine`,
      c.name,
    );
    return present;
  }
}

async function pullWithCredentials(w: PodContext, shim: Shim, image: string): Promise<ImageStatus> {
  const namespace = w.pod.metadata?.namespace ?? 'default';
  const own = (w.pod.spec?.imagePullSecrets ?? []).map((r) => r.name ?? '');
  // A pod without any uses its service account's, as the ServiceAccount admission would have written into it.
  const names =
    own.length > 0 ? own : w.host.config.pullSecrets(namespace, w.pod.spec?.serviceAccountName ?? 'default');
  const secrets = names.map((name) => w.host.config.secret(namespace, name)).filter((s) => s !== undefined);
  const candidates: (ImageAuth | undefined)[] = credentialsFor(image, secrets);
  if (candidates.length === 0) candidates.push(undefined);
  let last: unknown;
  for (const auth of candidates)
    try {
      return await unlessAborted(shim.pullImage(image, auth, w.life.signal), w.life.signal);
    } catch (e) {
      last = e;
      if (w.life.signal.aborted) break;
    }
  throw last;
}

/** A runtime that goes on pulling does so alone: the pod does not wait for it. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

// ---- sandbox and containers

const identity = (w: PodContext) => ({
  [LABELS.podName]: w.pod.metadata?.name ?? '',
  [LABELS.podNamespace]: w.pod.metadata?.namespace ?? 'default',
  [LABELS.podUid]: w.uid,
});

function sandboxSpec(w: PodContext, attempt: number): SandboxSpec {
  const { pod } = w;
  const { spec = { containers: [] }, metadata = {} } = pod;
  return {
    namespace: metadata.namespace ?? 'default',
    name: metadata.name ?? '',
    uid: w.uid,
    attempt,
    hostname: hostnameOf(pod).hostname,
    hostNetwork: spec.hostNetwork ?? false,
    hostPID: spec.hostPID ?? false,
    hostIPC: spec.hostIPC ?? false,
    sharePID: spec.shareProcessNamespace ?? false,
    privileged: allContainers(pod).some((c) => c.securityContext?.privileged === true),
    ...dns(pod),
    portMappings: allContainers(pod).flatMap((c) =>
      (c.ports ?? [])
        .filter((p) => p.hostPort && !spec.hostNetwork)
        .map((p) => ({
          protocol: (p.protocol ?? 'TCP') as 'TCP',
          containerPort: p.containerPort,
          hostPort: p.hostPort!,
          hostIP: p.hostIP ?? '',
        })),
    ),
    ...(spec.securityContext?.sysctls
      ? { sysctls: Object.fromEntries(spec.securityContext.sysctls.map((s) => [s.name, s.value])) }
      : {}),
    resources: podResources(pod, w.host.nodeMemoryBytes),
    logDirectory: w.host.logDir(pod),
    ...(w.runtimeHandler === undefined ? {} : { runtimeHandler: w.runtimeHandler }),
    labels: { ...metadata.labels, ...identity(w) },
    annotations: metadata.annotations ?? {},
    allowNetwork:
      spec.hostNetwork === true || metadata.annotations?.['coxswain.dev/allow-network'] === 'true',
  };
}

/** Undefined leaves it to the runtime, which hands on the host's resolv.conf: there is no cluster DNS. */
function dns(pod: Pod): Pick<SandboxSpec, 'dns'> {
  const { dnsConfig, dnsPolicy } = pod.spec ?? {};
  if (!dnsConfig && dnsPolicy !== 'None') return {};
  const host = dnsPolicy === 'None' ? { servers: [], searches: [], options: [] } : hostDns();
  return {
    dns: {
      servers: [...host.servers, ...(dnsConfig?.nameservers ?? [])],
      searches: [...host.searches, ...(dnsConfig?.searches ?? [])],
      options: [
        ...host.options,
        ...(dnsConfig?.options ?? []).map((o) => (o.value === undefined ? o.name! : `${o.name}:${o.value}`)),
      ],
    },
  };
}

function hostDns(): NonNullable<SandboxSpec['dns']> {
  const out = { servers: [] as string[], searches: [] as string[], options: [] as string[] };
  let text = '';
  try {
    text = readFileSync('/etc/resolv.conf', 'utf8');
  } catch {
    return out;
  }
  for (const line of text.split('\n')) {
    const [key, ...values] = line.trim().split(/\s+/);
    if (key === 'nameserver') out.servers.push(...values.slice(0, 1));
    if (key === 'search') out.searches = values;
    if (key === 'options') out.options = values;
  }
  return out;
}

async function containerSpec(
  w: PodContext,
  c: Container,
  attempt: number,
  imageRef: string,
): Promise<ContainerSpec> {
  const { pod, host } = w;
  const image = w.images.get(c.name);
  if (image) checkRunAsNonRoot(pod, c, image.status);
  const env = containerEnv(pod, c, host.config, host.facts(podIPs(w)));
  const lookUp = (name: string) => env.find((e) => e.name === name)?.value;
  const { mounts, devices } = await host.volumes.mounts(pod, c, env);
  mkdirSync(dirname(w.logFile(c.name, attempt)), { recursive: true, mode: 0o755 });
  return {
    name: c.name,
    attempt,
    image: c.image ?? '',
    imageRef,
    ...(c.command?.length ? { command: c.command.map((x) => expand(x, lookUp)) } : {}),
    ...(c.args?.length ? { args: c.args.map((x) => expand(x, lookUp)) } : {}),
    ...(c.workingDir ? { workingDir: c.workingDir } : {}),
    env,
    mounts: [...mounts, ...etcHosts(w, mounts), ...terminationMessage(w, c, attempt)],
    ...(devices.length > 0 ? { devices } : {}),
    resources: containerResources(pod, c, host.nodeMemoryBytes),
    security: securitySettings(pod, c),
    ...targetOf(w, c),
    ...(c.stdin ? { stdin: true } : {}),
    ...(c.stdinOnce ? { stdinOnce: true } : {}),
    ...(c.tty ? { tty: true } : {}),
    logPath: join(c.name, `${attempt}.log`),
    labels: { ...identity(w), [LABELS.containerName]: c.name },
    annotations: {
      [ANNOTATIONS.hash]: hashOf(c),
      [ANNOTATIONS.restartCount]: String(attempt),
      [ANNOTATIONS.grace]: String(pod.spec?.terminationGracePeriodSeconds ?? 30),
      [ANNOTATIONS.terminationMessagePolicy]: c.terminationMessagePolicy ?? 'File',
      [ANNOTATIONS.imageId]: image?.id ?? imageRef,
      [ANNOTATIONS.resources]: JSON.stringify(resourcesOf(c.resources ?? {})),
    },
  };
}

/** An ephemeral container may look into another one. */
function targetOf(w: PodContext, c: Container): { targetId?: string } {
  const { targetContainerName: name } = c as EphemeralContainer;
  if (!name) return {};
  const target = w.seen.containers.find((x) => x.name === name && x.state === 'running');
  if (!target) throw new ConfigError(`unable to find target container ${name}`);
  return { targetId: target.id };
}

/** A file on the host that the container may write its last words to. */
function terminationMessage(w: PodContext, c: Container, attempt: number): Mount[] {
  const containerPath = c.terminationMessagePath ?? '/dev/termination-log';
  if (!containerPath) return [];
  const hostPath = w.messageFile(c.name, attempt);
  mkdirSync(dirname(hostPath), { recursive: true, mode: 0o755 });
  writeFileSync(hostPath, '');
  // Whatever user the container runs as; the umask has no say.
  chmodSync(hostPath, 0o666);
  return [{ hostPath, containerPath, readOnly: false }];
}

/** The pod's own /etc/hosts, where the pod has a network of its own or asks for aliases. */
function etcHosts(w: PodContext, mounts: Mount[]): Mount[] {
  const { pod, health } = w;
  const aliases = pod.spec?.hostAliases ?? [];
  const own = health?.podNetwork && !pod.spec?.hostNetwork;
  if ((!own && aliases.length === 0) || mounts.some((m) => m.containerPath === '/etc/hosts')) return [];
  const hostPath = join(w.host.podDir(w.uid), 'etc-hosts');
  writeFileSync(hostPath, hostsFile(pod, podIPs(w), own ? undefined : hostsOfHost()), { mode: 0o644 });
  return [{ hostPath, containerPath: '/etc/hosts', readOnly: false }];
}

function hostsOfHost(): string {
  try {
    return readFileSync('/etc/hosts', 'utf8');
  } catch {
    return '127.0.0.1\tlocalhost\n';
  }
}

/** A postStart hook that fails costs the container its life, as with the kubelet. */
async function postStart(w: PodContext, c: Container, id: string): Promise<void> {
  const hook = c.lifecycle?.postStart;
  if (!hook) return;
  const failure = await runHook(w, id, c.name, hook, undefined);
  if (!failure) return;
  w.event('Warning', 'FailedPostStartHook', `PostStartHook failed: ${failure}`, c.name);
  w.event('Normal', 'Killing', 'FailedPostStartHook', c.name);
  await shimOf(w).stopContainer(id, w.pod.spec?.terminationGracePeriodSeconds ?? 30);
}
