/**
 * The whole system over links that fail: real processes of `cox`, Debian's mosquitto, three devices (two with Wasm pods,
 * one with containers as well), each behind a proxy that delays, stalls, throttles, resets and swallows. What runs must
 * go on running, and what is wanted must come true as soon as the link lets it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { buildModule } from '../modules/build.js';
import { busyboxImage, Containerd, Registry } from './support/containerd.js';
import { BOX, DEVICE_PARTS, kill, processesOf } from './support/device.js';
import { FaultProxy, type Faults } from './support/fault-proxy.js';
import { type Mosquitto, startMosquitto } from './support/mosquitto.js';
import { missing } from './support/needs.js';
import {
  CoxProcess,
  eventually,
  type Kubectl,
  nodeReady,
  remove,
  scratch,
  TestAgent,
  TestHub,
} from './support/system.js';

/** Drawn anew in each run, and printed when something fails. */
const SEED = Number(process.env['COX_FAULT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
/** How long a device hears nothing and nobody is told. An hour: COX_SILENCE_SECONDS=3600. */
const SILENCE_MS = Number(process.env['COX_SILENCE_SECONDS'] ?? 30) * 1000;
/** The shortest that `cox agent` takes, in seconds: a dead link is noticed after one and a half of it. */
const KEEPALIVE = 10;
/** A village at the end of a bad mobile network. */
const VILLAGE: Faults = { latencyMs: 250, jitterMs: 200, loss: 0.3, stallMs: 700, bytesPerSecond: 2000 };
const NODES = ['near', 'far', 'box'] as const;
type NodeName = (typeof NODES)[number];

const pause = (ms: number) => new Promise((r) => setTimeout(r, ms));

describe.skipIf(missing(...DEVICE_PARTS, 'mosquitto'))(`links that fail (COX_FAULT_SEED=${SEED})`, () => {
  let hub: TestHub;
  let k: Kubectl;
  let mosquitto: Mosquitto;
  let containerd: Containerd;
  let registry: Registry;
  let busybox: string;
  let hubLink: FaultProxy;
  const agents = {} as Record<NodeName, TestAgent>;
  const links = {} as Record<NodeName, FaultProxy>;
  const images = scratch('images');

  const context = () =>
    [hub.process.tail(30), ...NODES.map((n) => agents[n]?.process?.tail(30) ?? '')].join('\n');
  const until = <T>(what: string, probe: () => T | Promise<T>, timeoutMs = 120_000) =>
    eventually(what, probe, { context, timeoutMs });
  const pod = (name: string) => k.json('get', 'pod', name);
  const phase = (name: string, wanted: string) =>
    until(`pod ${name} ${wanted}`, async () => {
      const p = await pod(name);
      if (p.status.phase === wanted) return p;
      throw new Error(JSON.stringify(p.status));
    });
  const ready = (node: NodeName, status: 'True' | 'Unknown') =>
    until(`node ${node} ${status}`, async () => {
      const { conditions } = (await k.json('get', 'node', node)).status;
      const c = conditions.find((x: { type: string }) => x.type === 'Ready');
      if (c?.status === status) return c;
      throw new Error(JSON.stringify(c));
    });

  /** A Wasm pod with the tool box. */
  const wasm = (name: string, nodeName: NodeName, args: string[], spec: object = {}, main: object = {}) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      nodeName,
      runtimeClassName: 'wasm',
      terminationGracePeriodSeconds: 1,
      ...spec,
      containers: [{ name: 'main', image: BOX, args, ...main }],
    },
  });
  const container = (name: string, script: string) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      nodeName: 'box',
      runtimeClassName: 'oci',
      terminationGracePeriodSeconds: 1,
      containers: [{ name: 'main', image: busybox, command: ['sh', '-c', script] }],
    },
  });

  /** What must not change while only links and masters fail: pod, container, and how often it was started. */
  const residents = async () => {
    const { items } = await k.json('get', 'pods', '-l', 'resident=yes');
    return items
      .map((p: any) => {
        const c = p.status.containerStatuses[0];
        return `${p.metadata.name} ${p.metadata.uid} ${c.containerID} restarts ${c.restartCount} ${Object.keys(c.state)[0]}`;
      })
      .sort();
  };

  /** A device whose only way to the broker is its proxy. */
  const addDevice = async (node: NodeName, index: number, args: string[]) => {
    links[node] = await new FaultProxy(mosquitto.port, SEED + index).start();
    const agent = new TestAgent(node, args);
    agents[node] = agent;
    await agent.start('--join', await hub.token());
    await nodeReady(k, node, context);
    await agent.stop();
    const file = join(agent.dataDir, 'identity.json');
    const identity = JSON.parse(readFileSync(file, 'utf8'));
    writeFileSync(file, JSON.stringify({ ...identity, addresses: [`127.0.0.1:${links[node].port}`] }));
    await agent.start('--keepalive', String(KEEPALIVE));
    await agent.process.line('linked to the hub');
    await nodeReady(k, node, context);
  };

  beforeAll(async () => {
    const dataDir = scratch('hub');
    [containerd, registry, mosquitto] = await Promise.all([
      Containerd.start(),
      Registry.start(),
      startMosquitto(dataDir),
    ]);
    busybox = await registry.push(await busyboxImage(images), 'busybox:1');
    hubLink = await new FaultProxy(mosquitto.port, SEED).start();
    hub = new TestHub(dataDir, ['--broker', `mqtts://127.0.0.1:${hubLink.port}?join=${mosquitto.port + 1}`]);
    await hub.start();
    k = hub.kubectl();
    const push = new CoxProcess(['push', await buildModule('box'), 'box:1', '--data-dir', dataDir]);
    expect((await push.exited).code, push.tail()).toBe(0);
    await addDevice('near', 1, []);
    await addDevice('far', 2, []);
    await addDevice('box', 3, ['--runtime-endpoint', containerd.endpoint]);
    const resident = (p: ReturnType<typeof wasm> | ReturnType<typeof container>) => ({
      ...p,
      metadata: { ...p.metadata, labels: { resident: 'yes' } },
    });
    for (const node of NODES) await k.apply(resident(wasm(`res-${node}`, node, ['count', '0', '500'])));
    await k.apply(resident(container('res-container', 'while true; do sleep 0.5; done')));
    for (const name of [...NODES.map((n) => `res-${n}`), 'res-container']) await phase(name, 'Running');
  });

  afterEach(() => {
    for (const l of Object.values(links)) l.faults = {};
  });

  afterAll(async () => {
    await k?.try('delete', 'pods', '--all', '--grace-period=1', '--timeout=90s');
    for (const a of Object.values(agents)) await a.stop('SIGKILL');
    await hub?.stop();
    await mosquitto?.stop();
    for (const a of Object.values(agents)) kill(processesOf(a.dataDir));
    await containerd?.stop();
    await registry?.stop();
    for (const l of [hubLink, ...Object.values(links)]) l?.stop();
    remove(images, hub?.dataDir ?? '', ...Object.values(agents).map((a) => a.dataDir));
  });

  it('serves a device over 2 kB/s with a third of its packets late: run, change, read logs, delete', async () => {
    const before = await residents();
    links.far.faults = VILLAGE;
    await k('create', 'configmap', 'words', '--from-literal=word=one');
    await k.apply(
      wasm(
        'reader',
        'far',
        ['echo', 'hello', ';', 'sleep', '100000000'],
        { volumes: [{ name: 'c', configMap: { name: 'words' } }] },
        { volumeMounts: [{ name: 'c', mountPath: '/c' }] },
      ),
    );
    const p = await phase('reader', 'Running');
    expect(await k('logs', 'reader')).toBe('hello\n');
    await k('patch', 'configmap', 'words', '-p', '{"data":{"word":"two"}}');
    const file = join(agents.far.dataDir, 'pods', p.metadata.uid, 'volumes/configMap/c/word');
    await until('the new word on the device', () => readFileSync(file, 'utf8') === 'two');
    await k('delete', 'pod', 'reader', '--timeout=90s');
    await k('delete', 'configmap', 'words');
    expect(await residents()).toEqual(before);
  });

  it("converges while every connection, the hub's as well, is reset again and again", async () => {
    const before = await residents();
    const made = Array.from({ length: 6 }, (_, i) => `reset-${i}`);
    let resets = true;
    const storm = (async () => {
      for (let i = 0; resets && i < 60; i++) {
        for (const l of [...Object.values(links), ...(i % 4 === 3 ? [hubLink] : [])]) l.reset();
        await pause(1500);
      }
    })();
    for (const [i, name] of made.entries()) await k.apply(wasm(name, NODES[i % 3]!, ['sleep', '100000000']));
    for (const name of made) await phase(name, 'Running');
    await k('delete', 'pod', ...made, '--timeout=90s');
    resets = false;
    await storm;
    for (const n of NODES) await ready(n, 'True');
    expect(await residents()).toEqual(before);
  });

  it(
    'leaves a device alone that hears nothing, and has it up to date when it hears again',
    async () => {
      const before = await residents();
      // Started before, ends while nobody hears of it.
      await k.apply(wasm('ends', 'far', ['sleep', '8000', ';', 'exit', '7'], { restartPolicy: 'Never' }));
      await phase('ends', 'Running');
      const doomed = ['doomed-0', 'doomed-1', 'doomed-2'];
      for (const name of doomed) {
        await k.apply(wasm(name, 'far', ['count', '0', '500']));
        await phase(name, 'Running');
      }
      links.far.faults = { silent: true };
      const silence = pause(SILENCE_MS);
      const began = Date.now();
      expect((await ready('far', 'Unknown')).reason).toBe('NodeStatusUnknown');
      // The world goes on: deletions and a new pod for the device that is away.
      await k('delete', 'pod', ...doomed, '--wait=false');
      await k.apply(wasm('fresh', 'far', ['count', '0', '500']));
      await silence;
      const away = await residents();
      expect(away).toEqual(before);
      expect((await pod('fresh')).status.phase).toBe('Pending');
      expect((await pod('ends')).status.phase).toBe('Running');
      // It still runs what it had; the rest of the fleet never noticed.
      expect(processesOf(agents.far.dataDir).length).toBeGreaterThan(doomed.length + 1);
      await ready('near', 'True');

      links.far.faults = {};
      const healed = Date.now();
      await ready('far', 'True');
      await phase('fresh', 'Running');
      const { status } = await phase('ends', 'Failed');
      const end = status.containerStatuses[0].state.terminated;
      expect(end.exitCode).toBe(7);
      // The time at which it ended, not the one at which it could be told (whole seconds).
      expect(Date.parse(end.finishedAt)).toBeGreaterThanOrEqual(began - 10_000);
      expect(Date.parse(end.finishedAt)).toBeLessThan(Math.min(healed, began + 15_000));
      await until('no pod Terminating', async () => {
        const { items } = await k.json('get', 'pods');
        return items.every((p: any) => !p.metadata.deletionTimestamp && !doomed.includes(p.metadata.name));
      });
      expect(await residents()).toEqual(before);
      await k('delete', 'pod', 'fresh', 'ends', '--timeout=60s');
    },
    SILENCE_MS + 300_000,
  );

  it.each(['broker', 'hub', 'agents', 'broker and hub'] as const)(
    'loses nothing when kill -9 hits the %s',
    async (what) => {
      const before = await residents();
      const name = `after-${what.replaceAll(' ', '-')}`;
      if (what.includes('broker')) await mosquitto.kill();
      if (what.includes('hub')) await hub.stop('SIGKILL');
      else if (what !== 'agents') await k.apply(wasm(name, 'near', ['count', '0', '500']));
      if (what === 'agents') {
        await Promise.all(NODES.map((n) => agents[n].stop('SIGKILL')));
        await k.apply(wasm(name, 'near', ['count', '0', '500']));
        await Promise.all(NODES.map((n) => agents[n].start('--keepalive', String(KEEPALIVE))));
      }
      if (what.includes('broker')) await mosquitto.start();
      if (what.includes('hub')) {
        await hub.start();
        await k.apply(wasm(name, 'near', ['count', '0', '500']));
      }
      await phase(name, 'Running');
      for (const n of NODES) await ready(n, 'True');
      expect(await residents()).toEqual(before);
      await k('delete', 'pod', name, '--timeout=60s');
    },
  );

  it('brings the same pods back after a power cut of every device, with neither hub nor broker', async () => {
    const uids = async () =>
      (await k.json('get', 'pods', '-l', 'resident=yes')).items.map((p: any) => p.metadata.uid).sort();
    const before = await uids();
    await hub.stop('SIGKILL');
    await mosquitto.kill();
    await Promise.all(NODES.map((n) => agents[n].stop('SIGKILL')));
    await containerd.powerCut();
    await until('every device dark', () =>
      NODES.every((n) => {
        const left = processesOf(agents[n].dataDir);
        kill(left);
        return left.length === 0;
      }),
    );
    await containerd.up();
    await Promise.all(NODES.map((n) => agents[n].start('--keepalive', String(KEEPALIVE))));
    for (const n of NODES)
      await until(`Wasm runs again on ${n}`, () => processesOf(agents[n].dataDir).length > 1);
    await until(
      'the container runs again',
      async () =>
        // Its sandbox and itself.
        ((await containerd.ctr('tasks', 'list')).match(/RUNNING/g) ?? []).length === 2,
    );
    await mosquitto.start();
    await hub.start();
    for (const n of NODES) await ready(n, 'True');
    await until('every restart told', async () => {
      const all = await residents();
      return all.length === 4 && all.every((r: string) => r.endsWith('restarts 1 running'));
    });
    expect(await uids()).toEqual(before);
  });
});
