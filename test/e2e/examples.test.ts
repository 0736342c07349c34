/** Each folder of examples/ as its README says: build, push, apply; on one node with both runtimes. */
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { busyboxImage, Containerd, exec, freePort } from './support/containerd.js';
import { missing } from './support/needs.js';
import {
  CoxProcess,
  eventually,
  type Kubectl,
  nodeReady,
  remove,
  repoFile,
  scratch,
  TestAgent,
  TestHub,
} from './support/system.js';

const REPO = resolve(import.meta.dirname, '../..');
const EXAMPLES = join(REPO, 'examples');

const lacking = missing(
  'root',
  'kubectl-1.36',
  'containerd',
  'runc',
  'cni',
  'iptables',
  'iproute2',
  'busybox',
  'skopeo',
  'umoci',
);

interface PodJson {
  metadata: { name: string };
  spec: { nodeName?: string };
  status: {
    phase: string;
    podIP?: string;
    hostIP?: string;
    conditions?: { message?: string; reason?: string }[];
  };
}

describe.skipIf(lacking)('examples', () => {
  const images = scratch('images');
  let containerd: Containerd;
  let hub: TestHub;
  let agent: TestAgent;
  let k: Kubectl;
  const context = () => `${hub.process.tail(20)}\n${agent?.process?.tail(40) ?? ''}`;
  const log = (target: string, ...args: string[]) => k('logs', target, ...args);
  const says = (target: string, text: RegExp, ...args: string[]) =>
    eventually(`${target} to log ${text}`, async () => text.exec(await log(target, ...args)), { context });
  const available = async (deployment: string) => {
    try {
      await k('rollout', 'status', `deployment/${deployment}`, '--timeout=90s');
    } catch (e) {
      throw new Error(`${(e as Error).message}\n${await k('describe', 'pods')}\n${context()}`);
    }
  };
  const pods = async (label: string): Promise<PodJson[]> => (await k.json('get', 'pods', '-l', label)).items;
  /** The manifests of an example; `edit` stands for what its README tells a user to change. */
  const apply = async (name: string, edit: (text: string) => string = (t) => t) => {
    for (const file of readdirSync(join(EXAMPLES, name)).filter((f) => f.endsWith('.yaml')))
      await k.apply(edit(repoFile(`examples/${name}/${file}`)));
  };

  beforeAll(async () => {
    await promisify(execFile)(process.execPath, [join(REPO, 'scripts/examples.mjs')]);
    containerd = await Containerd.start();
    hub = await new TestHub().start();
    k = hub.kubectl();
    for (const name of readdirSync(EXAMPLES)) {
      const build = join(EXAMPLES, name, 'build');
      const modules = await Promise.resolve()
        .then(() => readdirSync(build))
        .catch(() => [] as string[]);
      for (const file of modules.filter((f) => f.endsWith('.wasm'))) {
        const tag = `${file.replace(/\.wasm$/, '')}:1`;
        const push = new CoxProcess(['push', join(build, file), tag, '--data-dir', hub.dataDir]);
        expect((await push.exited).code, push.tail()).toBe(0);
      }
    }
    // What a user on the internet gets from docker.io comes from the hub's own registry here.
    const certs = join(images, 'certs');
    mkdirSync(certs);
    copyFileSync(join(hub.dataDir, 'pki', 'ca.crt'), join(certs, 'ca.crt'));
    const token = (await exec('cat', [join(hub.dataDir, 'push.token')])).trim();
    await exec('skopeo', [
      ...['copy', '-q', '--dest-cert-dir', certs, '--dest-creds', `cox:${token}`],
      ...[`oci:${await busyboxImage(images)}`, `docker://127.0.0.1:${hub.apiPort}/busybox:1.37`],
    ]);
    agent = await new TestAgent('pi1').start(
      ...['--join', await hub.token(), '--runtime-endpoint', containerd.endpoint],
    );
    await nodeReady(k, 'pi1', context);
  });

  afterAll(async () => {
    if (k) await k.try('delete', 'deployments', '--all', '--cascade=foreground', '--timeout=60s');
    await agent?.stop();
    await hub?.stop();
    await containerd?.stop();
    remove(images, ...(hub ? [hub.dataDir] : []), ...(agent ? [agent.dataDir] : []));
  });

  const fromHub = (text: string) => text.replaceAll('docker.io/library/', 'coxswain.internal/');

  it('wasm-sensor: a device file is read in one container and summarised in the other', async () => {
    // As its README says, with one command.
    await k('apply', '-f', join(EXAMPLES, 'wasm-sensor'));
    await available('sensor');
    await says('deploy/sensor', /^reading -?\d+(\.\d)?°C$/m, '-c', 'sensor');
    const many = await says(
      'deploy/sensor',
      /^([2-9]|\d\d+) readings, lowest (-?[\d.]+)°C, mean (-?[\d.]+)°C, highest (-?[\d.]+)°C$/m,
      ...['-c', 'summary'],
    );
    const [low, mean, high] = many.slice(2).map(Number) as [number, number, number];
    expect(low).toBeGreaterThanOrEqual(-40);
    expect(high).toBeLessThanOrEqual(85);
    expect(mean).toBeGreaterThanOrEqual(low);
    expect(high).toBeGreaterThanOrEqual(mean);
    const types = JSON.stringify(await k.json('get', 'deployment', 'sensor'));
    expect(types).toContain('"type":"CharDevice"');
  });

  it('container-web: a container serves the page of its ConfigMap on the node’s port', async () => {
    const port = await freePort();
    await apply('container-web', (t) => fromHub(t).replace('hostPort: 8080', `hostPort: ${port}`));
    await available('web');
    const [pod] = await pods('app=web');
    const page = (address: string) =>
      eventually(`the page at ${address}`, async () => (await fetch(`http://${address}/`)).text(), {
        context,
      });
    expect(await page(`${pod!.status.podIP}:8080`)).toContain('<h1>Hello from a container</h1>');
    expect(await page(`${pod!.status.hostIP}:${port}`)).toContain('<h1>Hello from a container</h1>');
  });

  it('mixed-runtimes: each pod runs where and how it says, and one without a fitting node says why it waits', async () => {
    await apply('mixed-runtimes', fromHub);
    const [here, elsewhere] = process.arch === 'arm64' ? ['arm64', 'amd64'] : ['amd64', 'arm64'];
    await available('greeter-wasm');
    await available(`greeter-${here}`);
    await says('deploy/greeter-wasm', /^hello from WebAssembly on pi1$/m);
    await says(`deploy/greeter-${here}`, /^hello from a container on pi1$/m);
    const waiting = await eventually('the other pod to say why it waits', async () => {
      const [pod] = await pods(`runs-as=${elsewhere}`);
      return pod?.status.conditions?.find((c) => c.reason === 'Unschedulable')?.message;
    });
    expect(waiting).toBe("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.");
    expect(await k('describe', 'pods', '-l', `runs-as=${elsewhere}`)).toContain('FailedScheduling');
  });

  it('configured: ConfigMap and Secret arrive as variables and files, and a restart takes up changes', async () => {
    await k('apply', '-f', join(EXAMPLES, 'configured'));
    await available('configured');
    await says(
      'deploy/configured',
      /^GREETING=ahoy LEVEL=info PASSWORD=c\*{27} settings\.ini: \[sensor\]; interval = 5 api\.key: k\*{11} on pi1$/m,
    );
    await k(
      ...['patch', 'configmap', 'app', '--type', 'merge', '-p'],
      JSON.stringify({ data: { LEVEL: 'debug', 'settings.ini': '[sensor]\ninterval = 1\n' } }),
    );
    await k('rollout', 'restart', 'deployment/configured');
    await available('configured');
    await eventually(
      'the new pod with the new values',
      async () => {
        const texts = await Promise.all((await pods('app=configured')).map((p) => log(p.metadata.name)));
        return texts.some((t) => t.includes('LEVEL=debug') && t.includes('interval = 1 '));
      },
      { context },
    );
  });
});
