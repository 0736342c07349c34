/** Tells what this node is and how it fares: once at the start, and then only when something changed. */
import type { NodeCondition } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339 } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { isQuantity, milliQuantity, quantity } from '../../api/meta/quantity.js';
import type { NodeReport } from '../../api/wire/desired.js';
import type { Shim, ShimHealth } from '../../shims/shim.js';
import type { Reporter } from '../ports.js';
import { diskBytes, type MachineFacts, machineFacts, mainAddress } from './facts.js';
import {
  broken,
  DEFAULT_EVICTION_HARD,
  hardMemoryBytes,
  type PressureState,
  parseThresholds,
  pressure,
  type Readings,
  type Threshold,
} from './pressure.js';
import { systemReadings } from './readings.js';

/** What the user may set; the flags of `cox agent`. */
export interface NodeSettings {
  labels?: Record<string, string>;
  /** The kubelet's --max-pods; default 110. */
  maxPods?: number;
  /** What is kept for the system, as a list: `cpu=100m,memory=256Mi,ephemeral-storage=1Gi`. */
  systemReserved?: string;
  /** The kubelet's --eviction-hard. */
  evictionHard?: string;
  /** The kubelet's --eviction-pressure-transition-period; default 300. */
  pressureTransitionSeconds?: number;
}

export interface NodeReporterOptions extends NodeSettings {
  nodeName: string;
  shims: ReadonlyMap<string, Shim>;
  /** Whose runtime is shown as the node's. */
  defaultHandler: string;
  reporter: Reporter;
  clock: Clock;
  log: Log;
  dataDir: string;
  /** Shown as kubeletVersion, e.g. `v1.36.0+coxswain0.1.0`. */
  version: string;
  /** Where the runtime keeps its images, when on another file system than dataDir. */
  imageDir?: string;
  /** Told while thresholds are broken, at every look: which signals, in absolute numbers. */
  onPressure?: (shortages: { signal: string; limit: number; available: number }[]) => void;
  /** For tests and simulators. */
  readings?: () => Readings;
  facts?: () => Promise<MachineFacts>;
  address?: () => string;
}

const LOOK_MS = 10_000;
/** Every so many looks: ask the runtimes how they are and what images they have. */
const HEALTH_EVERY = 6;
/** The kubelet's nodeStatusMaxImages. */
const MAX_IMAGES = 50;

export class NodeReporter {
  readonly #o: NodeReporterOptions;
  readonly #thresholds: Threshold[];
  readonly #reserved: Readonly<Record<string, string>>;
  #facts: MachineFacts | undefined;
  #state: PressureState = {};
  #health = new Map<string, ShimHealth>();
  #images: NodeReport['images'] = [];
  #since = new Map<string, { status: string; at: string }>();
  #address = '';
  #reported = '';
  #looks = 0;
  #cancel: (() => void) | undefined;
  #running = false;

  /** Throws when `evictionHard` or `systemReserved` cannot be understood. */
  constructor(options: NodeReporterOptions) {
    this.#o = options;
    this.#thresholds = parseThresholds(options.evictionHard ?? DEFAULT_EVICTION_HARD);
    this.#reserved = parseReserve(options.systemReserved ?? '');
  }

  /** Resolves when the first report has been made. */
  async start(): Promise<void> {
    this.#running = true;
    this.#facts = await (this.#o.facts?.() ?? machineFacts(this.#o.log));
    await this.look();
  }

  async stop(): Promise<void> {
    this.#running = false;
    this.#cancel?.();
  }

  /** The node's main address as last seen; empty before the start. */
  hostIP(): string {
    return this.#address;
  }

  /** What containers without limits may see as theirs. */
  allocatable(): { cpuMilli: number; memoryBytes: number; ephemeralStorageBytes: number } {
    const a = this.#resources().allocatable;
    return {
      cpuMilli: milliQuantity(a['cpu']!),
      memoryBytes: quantity(a['memory']!),
      ephemeralStorageBytes: quantity(a['ephemeral-storage']!),
    };
  }

  /** What pods may ask for together, as reported. */
  resourcesForPods(): Readonly<Record<string, string>> {
    return this.#resources().allocatable;
  }

  /** Says it all once more, e.g. to a hub that lost it. */
  reportAgain(): void {
    this.#reported = '';
    this.#report(this.#conditions());
  }

  /** Reads everything, reports what changed, and comes back in a while. */
  async look(): Promise<void> {
    this.#cancel?.();
    try {
      if (this.#looks++ % HEALTH_EVERY === 0 || [...this.#health.values()].some((h) => !h.ready))
        await this.#askShims();
      this.#address = this.#o.address?.() ?? mainAddress();
      if (this.#running) this.#report(this.#conditions());
    } catch (e) {
      this.#o.log.warn({ err: (e as Error).message }, 'cannot look at the node');
    }
    if (this.#running) this.#cancel = this.#o.clock.after(LOOK_MS, () => void this.look());
  }

  async #askShims(): Promise<void> {
    const images: NonNullable<NodeReport['images']> = [];
    for (const [handler, shim] of this.#o.shims) {
      const health = await shim.health().catch(
        (e: Error): ShimHealth => ({
          ready: false,
          message: e.message,
          runtimeVersion: this.#health.get(handler)?.runtimeVersion ?? '',
          conditions: [],
          labels: {},
          podNetwork: false,
        }),
      );
      this.#health.set(handler, health);
      if (!health.ready) continue;
      for (const i of await shim.listImages().catch(() => []))
        images.push({
          names: i.repoDigests.length > 0 ? [...i.repoDigests] : [i.ref],
          sizeBytes: i.sizeBytes,
        });
    }
    images.sort((a, b) => b.sizeBytes - a.sizeBytes || a.names[0]!.localeCompare(b.names[0]!));
    this.#images = images.slice(0, MAX_IMAGES);
  }

  #conditions(): NodeCondition[] {
    const { clock, pressureTransitionSeconds = 300, onPressure } = this.#o;
    const readings = this.#o.readings?.() ?? systemReadings(this.#o.dataDir, this.#o.imageDir);
    const { state, conditions } = pressure(
      this.#thresholds,
      readings,
      this.#state,
      clock.monotonic(),
      pressureTransitionSeconds * 1000,
    );
    this.#state = state;
    const shortages = broken(this.#thresholds, readings);
    if (shortages.length > 0) onPressure?.(shortages);
    const notReady = [...this.#health]
      .filter(([, h]) => !h.ready)
      .map(([name, h]) => `${name}: ${h.message}`);
    const ready = [...this.#health.values()].some((h) => h.ready);
    const own: Omit<NodeCondition, 'lastTransitionTime'>[] = [
      ...conditions,
      ...[...this.#health.values()].flatMap((h) => h.conditions),
      ready
        ? {
            type: 'Ready',
            status: 'True',
            reason: 'KubeletReady',
            // A node that runs Wasm only because its container runtime is down must not look well.
            message: `kubelet is posting ready status${notReady.length > 0 ? `; not ready: ${notReady.join('; ')}` : ''}`,
          }
        : {
            type: 'Ready',
            status: 'False',
            reason: 'KubeletNotReady',
            message: `no runtime works here: ${notReady.join('; ') || 'none is configured'}`,
          },
    ];
    return own.map((c) => {
      const old = this.#since.get(c.type);
      const at = old?.status === c.status ? old.at : rfc3339(clock.now());
      this.#since.set(c.type, { status: c.status, at });
      return { ...c, lastTransitionTime: at } as NodeCondition;
    });
  }

  #resources(): { capacity: Record<string, string>; allocatable: Record<string, string> } {
    const { cpus = 1, memoryBytes = 0 } = this.#facts ?? {};
    const { maxPods = 110 } = this.#o;
    const disk = diskBytes(this.#o.dataDir);
    const reserved = (name: string) => quantity(this.#reserved[name] ?? '0');
    const cpu = cpus * 1000 - milliQuantity(this.#reserved['cpu'] ?? '0');
    const memory = memoryBytes - reserved('memory') - hardMemoryBytes(this.#thresholds, memoryBytes);
    const ki = (bytes: number) => `${Math.max(0, Math.floor(bytes / 1024))}Ki`;
    return {
      capacity: {
        cpu: String(cpus),
        memory: ki(memoryBytes),
        'ephemeral-storage': ki(disk),
        pods: String(maxPods),
      },
      allocatable: {
        cpu: cpu % 1000 === 0 ? String(cpu / 1000) : `${Math.max(0, cpu)}m`,
        memory: ki(memory),
        'ephemeral-storage': ki(disk - reserved('ephemeral-storage')),
        pods: String(maxPods),
      },
    };
  }

  #labels(f: MachineFacts): Record<string, string> {
    const handlers = [...this.#health].filter(([, h]) => h.ready);
    return {
      'kubernetes.io/arch': f.architecture,
      'kubernetes.io/os': f.operatingSystem,
      'kubernetes.io/hostname': this.#o.nodeName,
      ...(f.model ? { 'node.kubernetes.io/instance-type': labelValue(f.model) } : {}),
      ...Object.fromEntries(handlers.map(([name]) => [`coxswain.dev/runtime.${name}`, 'true'])),
      ...Object.assign({}, ...handlers.map(([, h]) => h.labels)),
      ...this.#o.labels,
    };
  }

  #report(conditions: NodeCondition[]): void {
    const f = this.#facts;
    if (!f) return;
    const runtime = this.#health.get(this.#o.defaultHandler) ?? [...this.#health.values()][0];
    const report: NodeReport = {
      labels: this.#labels(f),
      ...this.#resources(),
      addresses: [
        ...(this.#address ? [{ type: 'InternalIP', address: this.#address }] : []),
        { type: 'Hostname', address: this.#o.nodeName },
      ],
      nodeInfo: {
        architecture: f.architecture,
        bootID: f.bootID,
        containerRuntimeVersion: asUrl(runtime?.runtimeVersion ?? ''),
        kernelVersion: f.kernelVersion,
        kubeProxyVersion: '',
        kubeletVersion: this.#o.version,
        machineID: f.machineID,
        operatingSystem: f.operatingSystem,
        osImage: f.osImage,
        systemUUID: f.systemUUID,
      },
      conditions,
      runtimeHandlers: [...this.#health].filter(([, h]) => h.ready).map(([name]) => name),
      images: this.#images ?? [],
    };
    const text = JSON.stringify(report);
    if (text === this.#reported) return;
    this.#reported = text;
    this.#o.reporter.node(report);
  }
}

const RESERVABLE = ['cpu', 'memory', 'ephemeral-storage'];

/** Parses the kubelet's --system-reserved; throws an Error that names the part. */
export function parseReserve(text: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const part of text.split(',').map((p) => p.trim())) {
    if (part === '') continue;
    const [name = '', q = ''] = part.split('=');
    if (!RESERVABLE.includes(name) || !isQuantity(q) || milliQuantity(q) < 0)
      throw new Error(
        `invalid system reserve "${part}": want ${RESERVABLE.join(', ')} = a quantity, e.g. memory=256Mi`,
      );
    out[name] = q;
  }
  return out;
}

/** `containerd 1.6.20` → `containerd://1.6.20`, as nodes show it. */
const asUrl = (v: string): string => (v.includes('://') ? v : v.replace(/\s+/, '://'));

/** Any text as a label value: at most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends. */
export const labelValue = (text: string): string =>
  text
    .replace(/[^A-Za-z0-9_.]+/g, '-')
    .slice(0, 63)
    .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '');
