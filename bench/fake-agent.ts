/** The parts of an agent that runs nothing behind a link that is the product's own. */
import { connect, createServer, type Socket } from 'node:net';
import type { AgentLink } from '../agent/link/link.js';
import type { PodHost } from '../agent/ports.js';
import { rfc3339 } from '../api/clock.js';
import type { DesiredSet, NodeReport } from '../api/wire/desired.js';
import {
  type NodeStats,
  type PodLogOptions,
  STATS_UID,
  type StatsOptions,
  type Usage,
} from '../api/wire/streams.js';

export const pause = (ms: number) => new Promise((r) => setTimeout(r, ms));

/** Forwards connections to a port of this machine and counts their bytes. */
export class Meter {
  up = 0;
  down = 0;
  /** Connections so far. */
  accepted = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((near) => {
    this.accepted++;
    const far = connect(this.to, '127.0.0.1');
    near.setNoDelay(true);
    far.setNoDelay(true);
    near.on('data', (c) => {
      this.up += c.length;
      far.write(c);
    });
    far.on('data', (c) => {
      this.down += c.length;
      near.write(c);
    });
    for (const [a, b] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(a);
      a.on('error', () => {});
      a.on('close', () => {
        this.#sockets.delete(a);
        b.destroy();
      });
    }
  });

  constructor(private readonly to: number) {}

  get total(): number {
    return this.up + this.down;
  }

  async start(): Promise<number> {
    await new Promise<void>((r) => this.#server.listen(0, '127.0.0.1', r));
    return (this.#server.address() as { port: number }).port;
  }

  cut(): void {
    for (const s of this.#sockets) s.destroy();
  }

  stop(): void {
    this.cut();
    this.#server.close();
  }

  /** Bytes of what happens until the wire has been silent for 300 ms. */
  async count(work: () => Promise<void>): Promise<number> {
    const before = this.total;
    await work();
    for (let last = -1; last !== this.total; ) {
      last = this.total;
      await pause(300);
    }
    return this.total - before;
  }
}

/** What an agent says of a Raspberry Pi 4. */
export const nodeReport: NodeReport = {
  labels: { 'kubernetes.io/arch': 'arm64', 'kubernetes.io/os': 'linux', 'kubernetes.io/hostname': 'bench' },
  capacity: { cpu: '4', memory: '3884Mi', pods: '110', 'ephemeral-storage': '30Gi' },
  allocatable: { cpu: '3900m', memory: '3628Mi', pods: '110', 'ephemeral-storage': '27Gi' },
  addresses: [
    { type: 'InternalIP', address: '192.168.1.20' },
    { type: 'Hostname', address: 'bench' },
  ],
  nodeInfo: {
    architecture: 'arm64',
    bootID: 'c1f1f0c2-9b3f-4c7e-9c39-3f3f2b1f0a51',
    containerRuntimeVersion: 'containerd://1.6.20',
    kernelVersion: '6.6.31+rpt-rpi-v8',
    kubeProxyVersion: '',
    kubeletVersion: 'v1.36.0+coxswain0.1.0',
    machineID: '1c9d8f7e6b5a4c3d2e1f0a9b8c7d6e5f',
    operatingSystem: 'linux',
    osImage: 'Debian GNU/Linux 12 (bookworm)',
    systemUUID: '1c9d8f7e6b5a4c3d2e1f0a9b8c7d6e5f',
  },
  conditions: ['MemoryPressure', 'DiskPressure', 'PIDPressure'].map((type) => ({
    type,
    status: 'False',
    reason: `KubeletHasNo${type}`,
    message: `kubelet has no ${type}`,
  })),
  runtimeHandlers: ['oci', 'wasm'],
};

/** Runs nothing, and reports every pod as running as soon as it hears of it. */
export class InstantHost implements PodHost {
  #link: AgentLink | undefined;
  /** What was reported to this link: a pod's uid, once more with `gone`. */
  readonly #told = new Set<string>();

  attach(link: AgentLink): void {
    this.#link = link;
    this.#told.clear();
  }

  setDesired(d: DesiredSet): void {
    const at = rfc3339(Date.now());
    for (const p of d.pods) {
      const { name, namespace, uid, deletionTimestamp } = p.metadata!;
      const what = deletionTimestamp ? `${uid} gone` : uid!;
      if (this.#told.has(what)) continue;
      this.#told.add(what);
      this.#link?.pod({
        name: name!,
        namespace: namespace!,
        uid: uid!,
        status: {
          phase: 'Running',
          hostIP: '192.168.1.20',
          podIP: '10.88.0.7',
          podIPs: [{ ip: '10.88.0.7' }],
          startTime: p.metadata!.creationTimestamp,
          conditions: ['Initialized', 'Ready', 'ContainersReady'].map((type) => ({
            type,
            status: 'True',
            lastTransitionTime: p.metadata!.creationTimestamp ?? at,
          })),
          containerStatuses: [
            {
              name: 'app',
              image: 'registry.example.org/team/web:1.4.2',
              imageID: `registry.example.org/team/web@sha256:${'0123456789abcdef'.repeat(4)}`,
              containerID: `containerd://${uid!.replaceAll('-', '').repeat(2)}`,
              ready: true,
              started: true,
              restartCount: 0,
              state: { running: { startedAt: p.metadata!.creationTimestamp } },
            },
          ],
        },
        ...(deletionTimestamp ? { gone: true } : {}),
      });
    }
  }
  /** Something for each pod, with as many digits as real ones have. */
  async stats({ p }: StatsOptions): Promise<NodeStats> {
    const some = (): Usage => [
      Math.round(Math.random() * 50_000),
      20_000 + Math.round(Math.random() * 80_000),
    ];
    const uids = [...this.#told].filter((uid) => !uid.includes(' '));
    return {
      w: 15_000 + Math.round(Math.random() * 100),
      n: [812_345, 1_234_567],
      ...(p ? { p: uids.map((uid) => [uid.slice(0, STATS_UID), some()]) } : {}),
    };
  }
  /** As many bytes as are asked for, of lines as a web server writes them. */
  async *logs({ limitBytes = 0 }: PodLogOptions): AsyncGenerator<Uint8Array> {
    for (let sent = 0, n = 0; sent < limitBytes; n++) {
      const at = new Date(1_800_000_000_000 + n * 137).toISOString();
      const line = `${at} 192.168.1.${n % 200} "GET /api/v1/items/${(n * 7919) % 10_007} HTTP/1.1" 200 ${(n * 131) % 4096}\n`;
      sent += line.length;
      yield Buffer.from(line);
    }
  }
}
