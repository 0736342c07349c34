/** The only file that knows every room of the agent: it makes them, hands each what it needs, and starts them in order. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../api/clock.js';
import { writeFileAtomic } from '../api/files.js';
import { lockFile } from '../api/lock.js';
import type { Log } from '../api/log.js';
import { version } from '../api/version.js';
import { ImageCache } from '../shims/images/cache.js';
import type { HubAccess } from '../shims/images/hub-agent.js';
import type { Shim } from '../shims/shim.js';

import { ensureIdentity } from './link/join.js';
import { AgentLink } from './link/link.js';
import { NodeReporter, type NodeSettings } from './node/node.js';
import { PodManager } from './pods/manager.js';
import type { Reporter } from './ports.js';

const CONTAINERD = '/run/containerd/containerd.sock';

export interface AgentOptions {
  dataDir: string;
  /** From `cox token create`; needed once. */
  join?: string;
  nodeName?: string;
  /** `unix://…`; absent: containerd's socket where there is one, else no containers. */
  runtimeEndpoint?: string;
  /** IPv4 CIDR of the bridge network that is written where the machine has no CNI configuration. */
  podSubnet?: string;
  wasmAllowUnjailed?: boolean;
  /** Adds the handler `fake`, which runs pods by the script in their annotations: for simulations. */
  fake?: boolean;
  /** Seconds between MQTT pings. */
  keepalive?: number;
  node: NodeSettings;
  clock: Clock;
  log: Log;
}

/**
 * Where the hub's API and registry are, as the hub last said; on disk, so that a device can pull, and tell its pods,
 * before its first welcome.
 */
class RegistryAddress {
  #address: string | undefined;
  readonly #file: string;
  constructor(dataDir: string) {
    this.#file = join(dataDir, 'registry');
    try {
      this.#address = readFileSync(this.#file, 'utf8').trim() || undefined;
    } catch {
      // Not told yet.
    }
  }
  get(): string | undefined {
    return this.#address;
  }
  set(address: string): void {
    if (address === this.#address) return;
    this.#address = address;
    writeFileAtomic(this.#file, `${address}\n`, 0o600);
  }
}

export class Agent {
  readonly #running: { stop(): Promise<void> | void }[] = [];
  #link: AgentLink | undefined;

  constructor(private readonly options: AgentOptions) {}

  /** Joins when it must, then runs; resolves when the pods of the last good desired state are being looked after. */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (e) {
      await this.stop();
      throw e;
    }
  }

  async #start(): Promise<void> {
    const { dataDir, clock, log } = this.options;
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    const unlock = lockFile(join(dataDir, 'agent.lock'), dataDir);
    this.#running.push({ stop: unlock });
    const identity = await ensureIdentity({
      dataDir,
      token: this.options.join,
      nodeName: this.options.nodeName,
      clock,
      log: log.child({ room: 'link' }),
    });
    const registry = new RegistryAddress(dataDir);
    const hub = () => {
      const host = registry.get();
      if (host === undefined) return undefined;
      const key = identity.key.export({ type: 'pkcs8', format: 'pem' }) as string;
      return { host, ca: identity.ca, cert: identity.cert, key, now: () => this.#link?.hubTime };
    };

    const shims = await this.#shims(identity.node, hub);
    for (const shim of shims.values()) {
      await shim.start();
      this.#running.push(shim);
    }
    const defaultHandler = shims.has('oci') ? 'oci' : 'wasm';
    // Pods and node talk to the link, and the link to the pods: the link is made last and reached through this.
    const reporter: Reporter = {
      node: (r) => this.#link?.node(r),
      pod: (r) => this.#link?.pod(r),
      event: (e) => this.#link?.event(e),
    };
    let pods: PodManager | undefined;
    const node = new NodeReporter({
      ...this.options.node,
      nodeName: identity.node,
      shims,
      defaultHandler,
      version: version(),
      reporter,
      clock,
      log: log.child({ room: 'node' }),
      dataDir,
      onPressure: (shortages) => void pods?.relieve(shortages),
    });
    pods = new PodManager({
      nodeName: identity.node,
      shims,
      defaultHandler,
      reporter,
      clock,
      log,
      dataDir,
      api: () => registry.get(),
      hostIP: () => node.hostIP(),
      allocatable: () => node.allocatable(),
      resourcesForPods: () => node.resourcesForPods(),
      pulls: {
        refused: () => this.#link?.refused(),
        pulled: (bytes) => this.#link?.pulled(bytes),
      },
    });
    this.#link = new AgentLink({
      dataDir,
      identity,
      host: pods,
      connections: pods,
      clock,
      log: log.child({ room: 'link' }),
      registry: (address) => registry.set(address),
      keepalive: this.options.keepalive,
    });
    // The node's facts come first: pods may ask for its address. Reports wait in the link until there is a connection.
    for (const part of [node, pods, this.#link]) {
      this.#running.push(part);
      await part.start();
    }
  }

  async #shims(node: string, hub: () => HubAccess | undefined): Promise<Map<string, Shim>> {
    const { dataDir, clock, log, runtimeEndpoint, podSubnet, wasmAllowUnjailed, fake } = this.options;
    const shims = new Map<string, Shim>();
    const endpoint = runtimeEndpoint ?? (existsSync(CONTAINERD) ? `unix://${CONTAINERD}` : undefined);
    if (endpoint) {
      const { CriShim } = await import('../shims/cri/cri.js');
      shims.set(
        'oci',
        new CriShim({ endpoint, owner: node, hub, podSubnet, clock, log: log.child({ shim: 'oci' }) }),
      );
    }
    const { WasmShim } = await import('../shims/wasm/shim.js');
    const images = new ImageCache(join(dataDir, 'images'), {
      hub,
      clock,
      log: log.child({ room: 'images' }),
    });
    shims.set(
      'wasm',
      new WasmShim({
        dataDir: join(dataDir, 'wasm'),
        images,
        hub,
        allowUnjailed: wasmAllowUnjailed,
        clock,
        log: log.child({ shim: 'wasm' }),
      }),
    );
    if (fake) {
      const { FakeShim } = await import('../shims/fake/fake.js');
      shims.set('fake', new FakeShim({ dir: join(dataDir, 'fake'), clock }));
    }
    return shims;
  }

  /** Detaches; workloads go on. */
  async stop(): Promise<void> {
    for (const part of this.#running.splice(0).reverse()) {
      try {
        await part.stop();
      } catch (err) {
        this.options.log.warn({ err }, 'a part did not stop cleanly');
      }
    }
  }
}
