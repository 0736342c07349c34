/**
 * A hub and one device as they are in the field, for tests that look at the device: real processes, a containerd of
 * its own, Debian's docker-registry, and images in both the registry and the hub.
 */
import { copyFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildModule } from '../../modules/build.js';
import { busyboxImage, Containerd, exec, mountsBelow, Registry } from './containerd.js';
import { startMosquitto } from './mosquitto.js';
import {
  CoxProcess,
  eventually,
  type Kubectl,
  nodeReady,
  remove,
  scratch,
  TestAgent,
  TestHub,
} from './system.js';

/** What `missing()` must find for a {@link Device}. */
export const DEVICE_PARTS = [
  'root',
  'kubectl-1.36',
  'containerd',
  'runc',
  'cni',
  'iptables',
  'iproute2',
  'busybox',
  'docker-registry',
  'skopeo',
  'umoci',
] as const;

/** The tool box of test/modules as the hub serves it. */
export const BOX = 'coxswain.internal/box:1';

/** PIDs of the processes whose command line names this text: an agent with its workloads, by its data directory. */
export function processesOf(text: string): number[] {
  return readdirSync('/proc')
    .filter((d) => /^\d+$/.test(d))
    .map(Number)
    .filter((pid) => {
      try {
        return pid !== process.pid && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(text);
      } catch {
        return false;
      }
    });
}

export const kill = (pids: readonly number[]): void => {
  for (const pid of pids)
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
};

export class Device {
  readonly dir = scratch('device');
  hub!: TestHub;
  agent!: TestAgent;
  containerd!: Containerd;
  registry!: Registry;
  k!: Kubectl;
  /** busybox in the registry. */
  busybox = '';
  /** The OCI layout it was pushed from. */
  layout = '';
  #stopBroker = async () => {};

  static async start(
    broker: 'embedded' | 'mosquitto',
    agentArgs: string[] = [],
    hubArgs: string[] = [],
  ): Promise<Device> {
    const d = new Device();
    try {
      await d.#start(broker, agentArgs, hubArgs);
      return d;
    } catch (e) {
      await d.stop();
      throw e;
    }
  }

  async #start(broker: 'embedded' | 'mosquitto', agentArgs: string[], hubArgs: string[]): Promise<void> {
    this.containerd = await Containerd.start();
    this.registry = await Registry.start();
    this.layout = await busyboxImage(this.dir);
    this.busybox = await this.registry.push(this.layout, 'busybox:1');
    const dataDir = scratch('hub');
    const args = [...hubArgs];
    if (broker === 'mosquitto') {
      const mosquitto = await startMosquitto(dataDir);
      this.#stopBroker = mosquitto.stop;
      args.push('--broker', mosquitto.url);
    }
    this.hub = await new TestHub(dataDir, args).start();
    this.k = this.hub.kubectl();
    const push = new CoxProcess(['push', await buildModule('box'), 'box:1', '--data-dir', dataDir]);
    if ((await push.exited).code !== 0) throw new Error(push.tail());
    this.agent = new TestAgent('pi1', ['--runtime-endpoint', this.containerd.endpoint, ...agentArgs]);
    await this.agent.start('--join', await this.hub.token());
    await nodeReady(this.k, 'pi1', this.context);
  }

  /** Copies the OCI layout into the hub's registry with skopeo; gives the name by which pods know it. */
  async pushToHub(layout: string, name: string): Promise<string> {
    const certs = join(this.dir, 'certs');
    mkdirSync(certs, { recursive: true });
    copyFileSync(join(this.hub.dataDir, 'pki', 'ca.crt'), join(certs, 'ca.crt'));
    const token = readFileSync(join(this.hub.dataDir, 'push.token'), 'utf8').trim();
    await exec('skopeo', [
      ...['copy', '-q', '--dest-cert-dir', certs, '--dest-creds', `cox:${token}`],
      ...[`oci:${layout}`, `docker://127.0.0.1:${this.hub.apiPort}/${name}`],
    ]);
    return `coxswain.internal/${name}`;
  }

  readonly context = (): string =>
    [this.hub?.process.tail(20), this.agent?.process.tail(50)].filter(Boolean).join('\n');

  /** As the test's `eventually`, and the logs of hub and agent when it does not come true. */
  until<T>(what: string, probe: () => T | Promise<T>, timeoutMs?: number): Promise<NonNullable<T>> {
    return eventually(what, probe, { context: this.context, timeoutMs });
  }

  pod = (name: string) => this.k.json('get', 'pod', name);

  phase(name: string, wanted: string) {
    return this.until(`pod ${name} ${wanted}`, async () => {
      const p = await this.pod(name);
      if (p.status.phase === wanted) return p;
      if (/Succeeded|Failed/.test(p.status.phase)) {
        const { stdout } = await this.k.try('logs', name);
        throw new Error(`${JSON.stringify(p.status)}\nits log:\n${stdout}`);
      }
      throw new Error(JSON.stringify(p.status));
    });
  }

  /** The status of a container when it is as wanted. */
  container(pod: string, wanted: (status: any) => unknown, name = 'main'): Promise<any> {
    return this.until(`container ${name} of pod ${pod} as wanted`, async () => {
      const { status } = await this.pod(pod);
      const all = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
      const s = all.find((c: { name: string }) => c.name === name);
      if (s && wanted(s)) return s;
      throw new Error(JSON.stringify(status));
    });
  }

  /** Waits until `kubectl describe pod` shows this text; gives all of it. */
  described(pod: string, wanted: string | RegExp): Promise<string> {
    return this.until(`${wanted} in the description of pod ${pod}`, async () => {
      const text = await this.k('describe', 'pod', pod);
      if (typeof wanted === 'string' ? text.includes(wanted) : wanted.test(text)) return text;
      throw new Error(text);
    });
  }

  /** Waits until the pod's log has this; gives the match. */
  says(pod: string, text: RegExp, ...args: string[]): Promise<RegExpExecArray> {
    return this.until(`pod ${pod} to log ${text}`, async () => {
      const log = await this.k('logs', pod, ...args);
      const m = text.exec(log);
      if (m) return m;
      throw new Error(log);
    });
  }

  async delete(...pods: string[]): Promise<void> {
    const r = await this.k.try('delete', 'pod', ...pods, '--timeout=60s');
    if (r.code !== 0) throw new Error(`${r.stderr}\n${this.context()}`);
  }

  /** The containers that containerd has, by id. */
  containers = async (): Promise<string[]> =>
    (await this.containerd.ctr('containers', 'list', '-q')).split('\n').filter(Boolean);

  async stop(): Promise<void> {
    await this.k?.try('delete', 'pods', '--all', '--grace-period=1', '--timeout=60s');
    await this.agent?.stop();
    await this.hub?.stop();
    await this.#stopBroker();
    if (this.agent) kill(processesOf(this.agent.dataDir));
    await this.containerd?.stop();
    await this.registry?.stop();
    // After a test that failed.
    for (const m of this.agent ? mountsBelow(this.agent.dataDir).reverse() : [])
      await exec('umount', ['-l', m]);
    remove(this.dir, this.hub?.dataDir ?? '', this.agent?.dataDir ?? '');
  }
}
