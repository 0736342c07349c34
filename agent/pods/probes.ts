/** Startup, readiness and liveness probes of one pod, as the kubelet's prober: exec, httpGet, tcpSocket. */

import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect } from 'node:net';
import type { Container, Probe } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import type { ContainerStatus, Shim } from '../../shims/shim.js';

type Kind = 'startup' | 'readiness' | 'liveness';
const KINDS: readonly Kind[] = ['startup', 'readiness', 'liveness'];
const PROBE = { startup: 'startupProbe', readiness: 'readinessProbe', liveness: 'livenessProbe' } as const;
const TITLE = { startup: 'Startup', readiness: 'Readiness', liveness: 'Liveness' } as const;
const OUTPUT_MAX = 1024;

export interface ProbeHost {
  clock: Clock;
  /** Asked at each probe: both may change. */
  shim(): Shim | undefined;
  podIP(): string | undefined;
  event(type: 'Warning', reason: string, message: string, container: string): void;
  /** Something in `notReady`, `notStarted` or `unhealthy` changed. */
  changed(): void;
}

interface Running {
  cancel: () => void;
  over: boolean;
}

export class Probes {
  /** Containers (by id) that their readiness probe holds back, or that have not started by their startup probe. */
  readonly notReady = new Set<string>();
  readonly notStarted = new Set<string>();
  /** Containers that must be restarted, and why. */
  readonly unhealthy = new Map<string, string>();
  readonly #host: ProbeHost;
  readonly #running = new Map<string, Running[]>();

  constructor(host: ProbeHost) {
    this.#host = host;
  }

  /** Probes these running containers and no others. */
  sync(running: readonly { status: ContainerStatus; spec: Container }[]): void {
    const ids = new Set(running.map((r) => r.status.id));
    for (const id of this.#running.keys()) if (!ids.has(id)) this.#drop(id);
    for (const { status, spec } of running) {
      if (this.#running.has(status.id) || !KINDS.some((k) => spec[PROBE[k]])) continue;
      this.#running.set(status.id, []);
      if (spec.startupProbe) this.notStarted.add(status.id);
      if (spec.readinessProbe) this.notReady.add(status.id);
      const rest = () => {
        for (const kind of ['readiness', 'liveness'] as const) this.#begin(status, spec, kind);
      };
      if (spec.startupProbe) this.#begin(status, spec, 'startup', rest);
      else rest();
    }
  }

  stop(): void {
    for (const id of [...this.#running.keys()]) this.#drop(id);
  }

  #drop(id: string): void {
    for (const r of this.#running.get(id) ?? []) {
      r.over = true;
      r.cancel();
    }
    this.#running.delete(id);
    this.notReady.delete(id);
    this.notStarted.delete(id);
    this.unhealthy.delete(id);
  }

  #begin(status: ContainerStatus, spec: Container, kind: Kind, passed?: () => void): void {
    const probe = spec[PROBE[kind]];
    const all = this.#running.get(status.id);
    if (!probe || !all) return;
    const { clock } = this.#host;
    const state: Running = { cancel() {}, over: false };
    all.push(state);
    let good = 0;
    let bad = 0;
    const turn = async () => {
      const failure = await this.#ask(probe, status.id, spec).catch((e: Error) => ({ error: e.message }));
      if (state.over) return;
      if (typeof failure === 'object')
        this.#host.event(
          'Warning',
          'ProbeError',
          `${TITLE[kind]} probe errored and resulted in unknown state: ${failure.error}`,
          spec.name,
        );
      else if (failure === undefined) {
        good++;
        bad = 0;
        if (good >= (probe.successThreshold ?? 1)) this.#good(status.id, kind, state, passed);
      } else {
        bad++;
        good = 0;
        this.#host.event('Warning', 'Unhealthy', `${TITLE[kind]} probe failed: ${failure}`, spec.name);
        if (bad >= (probe.failureThreshold ?? 3)) this.#bad(status.id, kind, spec.name);
      }
      if (!state.over) state.cancel = clock.after((probe.periodSeconds ?? 10) * 1000, () => void turn());
    };
    // A container that was adopted has had its delay.
    const delay = Math.max(0, (probe.initialDelaySeconds ?? 0) * 1000 - (clock.now() - status.startedAt));
    state.cancel = clock.after(delay, () => void turn());
  }

  #good(id: string, kind: Kind, state: Running, passed: (() => void) | undefined): void {
    if (kind === 'startup') {
      state.over = true;
      this.notStarted.delete(id);
      passed?.();
      this.#host.changed();
    } else if (kind === 'readiness' && this.notReady.delete(id)) this.#host.changed();
  }

  #bad(id: string, kind: Kind, name: string): void {
    if (kind === 'readiness') {
      if (this.notReady.has(id)) return;
      this.notReady.add(id);
    } else {
      if (this.unhealthy.has(id)) return;
      this.unhealthy.set(id, `Container ${name} failed ${kind} probe, will be restarted`);
    }
    this.#host.changed();
  }

  /** Undefined: well; a text: not, and why. Rejects when the probe itself could not be made. */
  async #ask(p: Probe, id: string, spec: Container): Promise<string | undefined> {
    const timeoutMs = (p.timeoutSeconds ?? 1) * 1000;
    if (p.exec) {
      const shim = this.#host.shim();
      if (!shim?.execSync) throw new Error(`the ${shim?.handler} runtime cannot run commands in a container`);
      const r = await shim.execSync(id, p.exec.command ?? [], timeoutMs);
      return r.exitCode === 0
        ? undefined
        : Buffer.concat([r.stdout, r.stderr]).toString('utf8').slice(0, OUTPUT_MAX);
    }
    const ip = this.#host.podIP() ?? '127.0.0.1';
    if (p.tcpSocket) return tcp(p.tcpSocket.host || ip, portOf(spec, p.tcpSocket.port), timeoutMs);
    if (p.httpGet) {
      const { host, path = '/', port, scheme = 'HTTP', httpHeaders = [] } = p.httpGet;
      const headers = Object.fromEntries(httpHeaders.map((h) => [h.name, h.value]));
      return http(scheme, host || ip, portOf(spec, port), path, headers, timeoutMs);
    }
    throw new Error('the probe has no handler that is known here (exec, httpGet, tcpSocket)');
  }
}

/** A port by number or by the name that the container gives it. */
export function portOf(c: Container, port: number | string | undefined): number {
  const n = Number(port);
  if (Number.isInteger(n) && n > 0 && n < 65536) return n;
  const named = c.ports?.find((x) => x.name === port)?.containerPort;
  if (named === undefined) throw new Error(`couldn't find port: ${port} in container ${c.name}`);
  return named;
}

function tcp(host: string, port: number, timeoutMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: timeoutMs });
    const end = (failure?: string) => {
      socket.destroy();
      resolve(failure);
    };
    socket.on('connect', () => end());
    socket.on('timeout', () => end(`dial tcp ${host}:${port}: i/o timeout`));
    socket.on('error', (e) => end(`dial tcp ${host}:${port}: ${e.message}`));
  });
}

/** Undefined for a status of 200 to 399, else what was wrong. The body is thrown away, certificates are not checked, redirects are success. */
export function http(
  scheme: string,
  host: string,
  port: number,
  path: string,
  headers: Record<string, string>,
  timeoutMs: number,
): Promise<string | undefined> {
  const make = scheme === 'HTTPS' ? httpsRequest : httpRequest;
  return new Promise((resolve) => {
    const req = make(
      {
        host,
        port,
        path: path.startsWith('/') ? path : `/${path}`,
        headers: { 'user-agent': 'kube-probe/1.36', accept: '*/*', ...headers },
        agent: false,
        ...(scheme === 'HTTPS' ? { rejectUnauthorized: false } : {}),
      },
      (res) => {
        const code = res.statusCode ?? 0;
        res.destroy();
        done(code >= 200 && code < 400 ? undefined : `HTTP probe failed with statuscode: ${code}`);
      },
    );
    // The whole exchange, not only silence: a server that drips is not well either.
    const timer = setTimeout(() => {
      req.destroy();
      done(`Get "${scheme.toLowerCase()}://${host}:${port}${path}": context deadline exceeded`);
    }, timeoutMs);
    const done = (failure: string | undefined) => {
      clearTimeout(timer);
      resolve(failure);
    };
    req.on('error', (e) => done(`Get "${scheme.toLowerCase()}://${host}:${port}${path}": ${e.message}`));
    req.end();
  });
}
