/** Startup, readiness and liveness probes of one pod, as the kubelet's prober: exec, httpGet, tcpSocket, grpc. */
import type { Container, Probe } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { type ContainerStatus, type Shim, ShimError } from '../../shims/shim.js';
import { grpc, httpProbe, portOf, tcp, urlOf } from './handlers.js';

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

/** Why a container must be restarted, and the time that the probe gives it to end, in seconds, where it says so. */
export interface Illness {
  why: string;
  graceSeconds?: number;
}

export class Probes {
  /** Containers (by id) that their readiness probe holds back, or that have not started by their startup probe. */
  readonly notReady = new Set<string>();
  readonly notStarted = new Set<string>();
  /** Containers that must be restarted. */
  readonly unhealthy = new Map<string, Illness>();
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
        if (bad >= (probe.failureThreshold ?? 3)) this.#bad(status.id, kind, spec.name, probe, state);
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

  #bad(id: string, kind: Kind, name: string, probe: Probe, state: Running): void {
    if (kind === 'readiness') {
      if (this.notReady.has(id)) return;
      this.notReady.add(id);
    } else {
      // What is being stopped is left in peace.
      state.over = true;
      const graceSeconds = probe.terminationGracePeriodSeconds;
      this.unhealthy.set(id, {
        why: `Container ${name} failed ${kind} probe, will be restarted`,
        ...(graceSeconds === undefined ? {} : { graceSeconds }),
      });
    }
    this.#host.changed();
  }

  /** Undefined: well; a text: not, and why. Rejects when the probe itself could not be made. */
  async #ask(p: Probe, id: string, spec: Container): Promise<string | undefined> {
    const timeoutMs = (p.timeoutSeconds ?? 1) * 1000;
    if (p.exec) {
      const shim = this.#host.shim();
      if (!shim?.execSync) throw new Error(`the ${shim?.handler} runtime cannot run commands in a container`);
      const ran = await shim.execSync(id, p.exec.command ?? [], timeoutMs).catch((e: unknown) => {
        if (e instanceof ShimError && e.reason === 'ExecTimeout') return e.message;
        throw e;
      });
      if (typeof ran === 'string') return ran;
      return ran.exitCode === 0
        ? undefined
        : Buffer.concat([ran.stdout, ran.stderr]).toString('utf8').slice(0, OUTPUT_MAX);
    }
    const ip = this.#host.podIP() ?? '127.0.0.1';
    if (p.tcpSocket) return tcp(p.tcpSocket.host || ip, portOf(spec, p.tcpSocket.port), timeoutMs);
    if (p.httpGet) return httpProbe(urlOf(p.httpGet, spec, ip), p.httpGet, timeoutMs);
    if (p.grpc) return grpc(ip, p.grpc.port, p.grpc.service ?? '', timeoutMs);
    throw new Error('the probe has no handler that is known here (exec, httpGet, tcpSocket, grpc)');
  }
}
