/** Hub and agents over a hostile network, under a virtual clock: what is wanted and what is reported converge. */
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Lease } from 'kubernetes-types/coordination/v1.js';
import type { ConfigMap, Node, Pod, Secret } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Identity, identityOf, loadIdentity, saveIdentity } from '../../agent/link/identity.js';
import { AgentLink } from '../../agent/link/link.js';
import type { PodHost } from '../../agent/ports.js';
import { configMaps, events, leases, nodes, pods, secrets } from '../../api/kinds/index.js';
import { type Log, silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { keyOf } from '../../api/meta/object.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { DesiredSet, NodeReport } from '../../api/wire/desired.js';
import { TYPE } from '../../api/wire/messages.js';
import type { NodeStats, StatsOptions } from '../../api/wire/streams.js';
import { HubLink } from '../../hub/link/link.js';
import { NodeUsage } from '../../hub/metrics/usage.js';
import { createPki, nodeSubject, type Pki } from '../../hub/pki/pki.js';
import { MemoryClient } from '../../hub/testing/memory-client.js';
import { eventually } from '../e2e/support/system.js';
import { CALM, MemoryNetwork } from '../support/memory-network.js';

let dir: string;
let pki: Pki;
const identities = new Map<string, Identity>();

async function identity(node: string): Promise<Identity> {
  let id = identities.get(node);
  if (!id) {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const cert = await pki.issueClientCert({ ...nodeSubject(node), publicKey });
    const signingKey = pki.signingPublicKey.toString('base64');
    id = identityOf({ cert, ca: pki.caPem, signingKey, addresses: ['h:1'] }, privateKey);
    identities.set(node, id);
  }
  return id;
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'link-'));
  pki = await createPki(dir, { localHosts: () => [] });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const report = (extra: Partial<NodeReport> = {}): NodeReport => ({
  labels: { 'kubernetes.io/arch': 'arm64' },
  capacity: { cpu: '4', memory: '1Gi', pods: '110' },
  allocatable: { cpu: '4', memory: '1Gi', pods: '110' },
  addresses: [{ type: 'InternalIP', address: '10.0.0.7' }],
  nodeInfo: {
    architecture: 'arm64',
    bootID: 'b',
    containerRuntimeVersion: 'fake://1',
    kernelVersion: '6',
    kubeProxyVersion: '',
    kubeletVersion: 'v1.36.0',
    machineID: 'm',
    operatingSystem: 'linux',
    osImage: 'Debian',
    systemUUID: 's',
  },
  conditions: [
    { type: 'MemoryPressure', status: 'False', reason: 'KubeletHasSufficientMemory', message: 'enough' },
    { type: 'Ready', status: 'True', reason: 'KubeletReady', message: 'agent is posting ready status' },
  ],
  runtimeHandlers: ['wasm'],
  ...extra,
});

/** A pod host that runs everything at once, and remembers what it was told. */
class Host implements PodHost {
  desired: DesiredSet | undefined;
  calls = 0;
  link: AgentLink | undefined;
  text = 'line 1\nline 2\n';
  logs: PodHost['logs'] = async function* (this: Host) {
    yield Buffer.from(this.text);
  }.bind(this);

  /** Each question for usage. */
  readonly asked: StatsOptions[] = [];
  usage: NodeStats | Error = { w: 1000, n: [250_000, 65_536] };
  async stats(options: StatsOptions): Promise<NodeStats> {
    this.asked.push(options);
    if (this.usage instanceof Error) throw this.usage;
    return this.usage;
  }

  setDesired(d: DesiredSet): void {
    this.calls++;
    this.desired = d;
    for (const p of d.pods) {
      const { namespace, name, uid, deletionTimestamp } = p.metadata!;
      this.link?.pod({
        namespace: namespace!,
        name: name!,
        uid: uid!,
        status: { phase: 'Running', podIP: '10.1.1.1', conditions: [{ type: 'Ready', status: 'True' }] },
        ...(deletionTimestamp ? { gone: true } : {}),
      });
    }
  }
}

class World {
  readonly clock: VirtualClock;
  readonly client: MemoryClient;
  readonly net: MemoryNetwork;
  readonly warnings: string[] = [];
  hub!: HubLink;
  readonly agents = new Map<string, { host: Host; link: AgentLink; dir: string }>();

  constructor(seed = 1) {
    this.clock = new VirtualClock({ seed });
    this.client = new MemoryClient(this.clock);
    this.net = new MemoryNetwork(this.clock);
  }

  get log(): Log {
    const warn = (_f: object, m: string) => void this.warnings.push(m);
    return {
      ...silentLog,
      warn,
      error: (f, m) => void this.warnings.push(`${m} ${JSON.stringify(f)}`),
      child: () => this.log,
    };
  }

  async startHub(): Promise<void> {
    this.hub = new HubLink({
      client: this.client,
      bus: this.net.bus(),
      pki,
      clock: this.clock,
      log: this.log,
    });
    await this.hub.start();
  }

  async startAgent(node: string, where?: string): Promise<Host> {
    const host = new Host();
    const dataDir = where ?? mkdtempSync(join(dir, 'agent-'));
    const link = new AgentLink({
      dataDir,
      identity: await identity(node),
      host,
      clock: this.clock,
      log: this.log,
      transport: this.net.transport(node),
    });
    host.link = link;
    this.agents.set(node, { host, link, dir: dataDir });
    link.start();
    link.node(report());
    return host;
  }

  run(ms: number): Promise<void> {
    return this.clock.advance(ms);
  }

  async stop(): Promise<void> {
    for (const a of this.agents.values()) await a.link.stop();
    await this.hub.stop();
  }

  pod(name: string, node: string, spec: Partial<Pod['spec']> = {}): Promise<unknown> {
    return this.client.create<Pod>(pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace: 'default', name },
      spec: { nodeName: node, containers: [{ name: 'app', image: 'x' }], ...spec },
    });
  }

  phase = async (name: string) =>
    (await this.client.get<Pod>(pods, { namespace: 'default', name })).status?.phase;

  node = (name: string) => this.client.get<Node>(nodes, { name });

  ready = async (name: string) => (await this.node(name)).status?.conditions?.find((c) => c.type === 'Ready');
}

const names = (d: DesiredSet | undefined) => (d?.pods ?? []).map((p) => p.metadata?.name);

describe('link', () => {
  it('registers a node, runs a pod with its configuration, and takes it away again', async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    await w.run(100);
    expect((await w.ready('pi1'))?.status).toBe('True');
    expect((await w.node('pi1')).status?.capacity?.cpu).toBe('4');
    expect(
      (await w.client.get<Lease>(leases, { namespace: 'kube-node-lease', name: 'pi1' })).spec?.holderIdentity,
    ).toBe('pi1');

    await w.client.create<ConfigMap>(configMaps, {
      metadata: { namespace: 'default', name: 'conf' },
      data: { a: '1' },
    });
    await w.client.create<ConfigMap>(configMaps, {
      metadata: { namespace: 'default', name: 'other' },
      data: { a: '1' },
    });
    await w.client.create<Secret>(secrets, {
      metadata: { namespace: 'default', name: 'tls' },
      data: { k: 'c2VjcmV0' },
    });
    await w.pod('web', 'pi1', {
      volumes: [{ name: 'c', configMap: { name: 'conf' } }],
      imagePullSecrets: [{ name: 'tls' }],
    });
    await w.run(100);
    expect(names(host.desired)).toEqual(['web']);
    expect(host.desired?.configMaps.map((c) => c.metadata?.name)).toEqual(['conf']);
    expect(host.desired?.secrets[0]?.data).toEqual({ k: 'c2VjcmV0' });
    expect(await w.phase('web')).toBe('Running');
    const calls = host.calls;

    await w.client.patch<ConfigMap>(
      configMaps,
      { namespace: 'default', name: 'other' },
      { data: { a: '2' } },
    );
    await w.run(100);
    expect(host.calls, 'a change of what no pod uses goes nowhere').toBe(calls);
    await w.client.patch<ConfigMap>(configMaps, { namespace: 'default', name: 'conf' }, { data: { a: '2' } });
    await w.run(100);
    expect(host.desired?.configMaps[0]?.data).toEqual({ a: '2' });

    await w.client.delete(pods, { namespace: 'default', name: 'web' }, { gracePeriodSeconds: 30 });
    await w.run(100);
    await expect(w.phase('web')).rejects.toThrow(/not found/);
    expect(names(host.desired)).toEqual([]);
    expect(w.warnings).toEqual([]);
    await w.stop();
  });

  it('keeps secrets and names off the wire', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.client.create<Secret>(secrets, {
      metadata: { namespace: 'default', name: 's' },
      data: { k: 'QUJDREVGR0g=' },
    });
    await w.pod('web', 'pi1', { volumes: [{ name: 'c', secret: { secretName: 's' } }] });
    await w.run(100);
    expect(w.agents.get('pi1')!.host.desired?.secrets).toHaveLength(1);
    for (const m of w.net.log)
      if (m.topic.endsWith('/d')) expect(Buffer.from(m.payload).includes('QUJDREVGR0g')).toBe(false);
    await w.stop();
  });

  it('says nothing of the desired set when an agent comes back and nothing has changed', async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    for (let i = 0; i < 20; i++) await w.pod(`p${i}`, 'pi1');
    await w.run(1000);
    const { calls } = host;
    w.net.unreachable.add('pi1');
    w.net.cut('pi1');
    await w.run(3_600_000);
    w.net.log.length = 0;
    w.net.unreachable.clear();
    await w.run(120_000);
    expect(w.hub.isLinked('pi1')).toBe(true);
    expect(host.calls).toBe(calls);
    const bytes = w.net.log.reduce((n, m) => n + m.payload.length + m.topic.length, 0);
    expect(w.net.log.map((m) => m.payload[2])).toEqual([1, 17]);
    expect(bytes).toBeLessThan(500);
    await w.stop();
  });

  it('tells a hub or is an agent that was restarted only what differs', async () => {
    const w = new World();
    await w.startHub();
    let host = await w.startAgent('pi1');
    for (let i = 0; i < 20; i++) await w.pod(`p${i}`, 'pi1');
    await w.run(1000);
    const { dir } = w.agents.get('pi1')!;
    const change = (name: string, podIP: string) => {
      const { uid } = host.desired!.pods.find((p) => p.metadata!.name === name)!.metadata!;
      host.link!.pod({ namespace: 'default', name, uid: uid!, status: { phase: 'Running', podIP } });
    };
    const ip = async (name: string) =>
      (await w.client.get<Pod>(pods, { namespace: 'default', name })).status?.podIP;
    /** Bytes of reports. */
    const reported = async () => {
      await w.run(20_000);
      expect(w.hub.isLinked('pi1')).toBe(true);
      expect(w.agents.get('pi1')!.link.idle).toBe(true);
      return w.net.log
        .splice(0)
        .reduce((n, m) => n + (m.payload[2] === TYPE.report ? m.payload.length : 0), 0);
    };
    expect(await reported(), 'of all').toBeGreaterThan(700);
    for (const what of ['agent', 'hub'] as const) {
      const restart = async () => {
        await (what === 'hub' ? w.hub : w.agents.get('pi1')!.link).stop();
        return async () => {
          if (what === 'hub') await w.startHub();
          else host = await w.startAgent('pi1', dir);
        };
      };
      await (await restart())();
      expect(await reported(), `${what}, nothing changed`).toBeLessThan(100);
      // What happens after a restart is told, and the node is kept.
      change('p3', `10.0.0.3-${what}`);
      await reported();
      expect(await ip('p3')).toBe(`10.0.0.3-${what}`);
      w.net.unreachable.add('pi1');
      w.net.cut('pi1');
      await w.run(30_000);
      expect((await w.ready('pi1'))?.status).toBe('Unknown');
      w.net.unreachable.clear();
      await w.run(60_000);
      expect((await w.ready('pi1'))?.status).toBe('True');
      // And what happened meanwhile, alone.
      const start = await restart();
      if (what === 'hub') change('p4', '10.0.0.4');
      await start();
      if (what === 'agent') {
        await w.run(1000);
        change('p4', '10.0.0.5');
      }
      expect(await reported(), `${what}, one changed`).toBeLessThan(500);
      expect(await ip('p4')).toBe(what === 'hub' ? '10.0.0.4' : '10.0.0.5');
    }
    expect(w.warnings).toEqual([]);
    await w.stop();
  });

  it('tells a lost link from a dead pod: the node becomes unknown, pods stay, all comes back', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.run(1000);
    w.net.unreachable.add('pi1');
    w.net.cut('pi1');
    await w.run(5_000);
    expect((await w.ready('pi1'))?.status, 'within the grace').toBe('True');
    await w.run(10_000);
    expect(await w.ready('pi1')).toMatchObject({
      status: 'Unknown',
      reason: 'NodeStatusUnknown',
      message: 'Kubelet stopped posting node status.',
    });
    expect(await w.phase('web')).toBe('Running');
    await expect(
      w.hub.logs(
        'pi1',
        { namespace: 'default', pod: 'web', uid: 'u', container: 'app' },
        new AbortController().signal,
      ),
    ).rejects.toMatchObject({ reason: 'ServiceUnavailable' });
    w.net.unreachable.clear();
    await w.run(120_000);
    expect((await w.ready('pi1'))?.status).toBe('True');
    await w.stop();
  });

  it('survives a restart of the hub and gives up nodes that do not come back', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.startAgent('pi2');
    await w.pod('web', 'pi1');
    await w.run(1000);
    await w.hub.stop();
    await w.agents.get('pi2')!.link.stop();
    await w.client.delete(pods, { namespace: 'default', name: 'web' }, { gracePeriodSeconds: 30 });
    await w.startHub();
    await w.run(10_000);
    expect(w.hub.isLinked('pi1')).toBe(true);
    await expect(w.phase('web')).rejects.toThrow(/not found/);
    expect((await w.ready('pi2'))?.status).toBe('True');
    await w.run(120_000);
    expect((await w.ready('pi2'))?.status).toBe('Unknown');
    expect((await w.ready('pi1'))?.status).toBe('True');
    await w.stop();
  });

  it('tells a hub that has forgotten everything all that it knows, with nothing changed', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.run(1000);
    await w.hub.stop();
    w.net.unreachable.add('pi1');
    w.net.cut('pi1');
    await w.startHub();
    await w.run(120_000);
    expect((await w.ready('pi1'))?.status).toBe('Unknown');
    w.net.unreachable.clear();
    await w.run(120_000);
    expect((await w.ready('pi1'))?.status).toBe('True');
    // A deleted node comes back whole with its next connection.
    await w.client.delete(nodes, { name: 'pi1' });
    await w.hub.stop();
    await w.startHub();
    w.net.cut('pi1');
    await w.run(10_000);
    expect((await w.node('pi1')).status?.capacity?.cpu).toBe('4');
    await w.stop();
  });

  it('hands the last desired set to a new agent with no hub, and sets a torn file aside', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.run(10_000);
    const a = w.agents.get('pi1')!;
    await a.link.stop();
    await w.hub.stop();
    expect(statSync(join(a.dir, 'desired.bin')).mode & 0o777).toBe(0o600);
    w.net.unreachable.add('pi1');
    const host = await w.startAgent('pi1', a.dir);
    expect(names(host.desired)).toEqual(['web']);
    await w.agents.get('pi1')!.link.stop();

    truncateSync(join(a.dir, 'desired.bin'), 200);
    const torn = await w.startAgent('pi1', a.dir);
    expect(torn.desired).toBeUndefined();
    expect(statSync(join(a.dir, 'desired.bin.torn')).size).toBe(200);
    w.net.unreachable.clear();
    await w.startHub();
    await w.run(120_000);
    expect(names(torn.desired)).toEqual(['web']);
    const told = await w.client.list(events);
    expect(JSON.stringify(told.items)).toContain('DesiredStateCorrupt');
    await w.stop();
  });

  it('renews a certificate that nears its end, for the same key', async () => {
    const w = new World();
    await w.startHub();
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const cert = await pki.issueClientCert({ ...nodeSubject('old'), publicKey, ttl: 3_600_000 });
    const signingKey = pki.signingPublicKey.toString('base64');
    const file = { cert, ca: pki.caPem, signingKey, addresses: ['h:1'] };
    const dataDir = mkdtempSync(join(dir, 'agent-'));
    writeFileSync(join(dataDir, 'node.key'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    saveIdentity(dataDir, file);
    identities.set('old', identityOf(file, privateKey));
    await w.startAgent('old', dataDir);
    await w.run(1000);
    await eventually('certificate', async () => {
      await w.run(10);
      return loadIdentity(dataDir)?.cert !== cert;
    });
    const next = new X509Certificate(loadIdentity(dataDir)!.cert);
    expect(next.subject).toBe(new X509Certificate(cert).subject);
    expect(Date.parse(next.validTo) - Date.now()).toBeGreaterThan(4 * 365 * 86_400_000);
    // The next session asks for none.
    w.net.log.length = 0;
    w.net.cut('old');
    await w.run(10_000);
    expect(w.net.log.filter((m) => m.payload[2] === TYPE.renew)).toEqual([]);
    await w.stop();
  });

  it('writes the file only when something changed', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.run(10_000);
    const path = join(w.agents.get('pi1')!.dir, 'desired.bin');
    const before = statSync(path, { bigint: true });
    w.net.cut('pi1');
    await w.run(3_600_000);
    const after = statSync(path, { bigint: true });
    expect([after.mtimeNs, after.ino]).toEqual([before.mtimeNs, before.ino]);
    await w.stop();
  });

  it('refuses another key under a taken name, and says so', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.run(1000);
    const first = w.agents.get('pi1')!;
    const own = identities.get('pi1')!;
    identities.delete('pi1');
    const imposter = await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.run(10_000);
    expect(imposter.desired).toBeUndefined();
    expect(w.warnings.join()).toMatch(/belongs to a node with another key.*kubectl delete node pi1/);
    expect(names(first.host.desired)).toEqual(['web']);
    await first.link.stop();
    await w.stop();
    identities.set('pi1', own);
  });

  it('does not make a deleted node again until its agent says hello anew', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.run(1000);
    await w.client.delete(nodes, { name: 'pi1' });
    w.agents.get('pi1')!.link.node(report({ labels: { a: 'b' } }));
    await w.run(10_000);
    await expect(w.node('pi1')).rejects.toThrow(/not found/);
    w.net.cut('pi1');
    await w.run(10_000);
    expect((await w.ready('pi1'))?.status).toBe('True');
    await w.stop();
  });

  it("keeps the agent's labels in sync and the user's untouched", async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.run(1000);
    await w.client.patch<Node>(nodes, { name: 'pi1' }, { metadata: { labels: { room: 'kitchen' } } });
    w.agents.get('pi1')!.link.node(report({ labels: { 'coxswain.dev/runtime.wasm': 'true' } }));
    await w.run(1000);
    expect((await w.node('pi1')).metadata?.labels).toEqual({
      room: 'kitchen',
      'coxswain.dev/runtime.wasm': 'true',
    });
    await w.stop();
  });

  it("accepts no report of another node's pod, and none that revives a finished one", async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.startAgent('pi2');
    await w.pod('web', 'pi1');
    await w.run(1000);
    const uid = (await w.client.get<Pod>(pods, { namespace: 'default', name: 'web' })).metadata!.uid!;
    const evil = w.agents.get('pi2')!.link;
    evil.pod({ namespace: 'default', name: 'web', uid, status: { phase: 'Failed' }, gone: true });
    await w.run(1000);
    expect(await w.phase('web')).toBe('Running');
    const own = w.agents.get('pi1')!.link;
    own.pod({ namespace: 'default', name: 'web', uid, status: { phase: 'Succeeded' } });
    await w.run(1000);
    own.pod({ namespace: 'default', name: 'web', uid, status: { phase: 'Running' } });
    await w.run(1000);
    expect(await w.phase('web')).toBe('Succeeded');
    expect(w.agents.get('pi1')!.host.desired?.pods[0]?.status, 'the agent is told of the end').toEqual({
      phase: 'Succeeded',
    });
    await w.stop();
  });

  it('preserves conditions that belong to the hub', async () => {
    const w = new World();
    await w.startHub();
    await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.client.patch<Pod>(
      pods,
      { namespace: 'default', name: 'web' },
      {
        status: { qosClass: 'BestEffort', conditions: [{ type: 'PodScheduled', status: 'True' }] },
      },
    );
    await w.run(1000);
    const { status } = await w.client.get<Pod>(pods, { namespace: 'default', name: 'web' });
    expect(status?.conditions?.map((c) => c.type).sort()).toEqual(['PodScheduled', 'Ready']);
    expect(status?.qosClass).toBe('BestEffort');
    await w.stop();
  });

  it('sends a large set in steps that each fit, configuration before pods', async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    for (let i = 0; i < 12; i++) {
      const data = {
        blob: Buffer.from(Array.from({ length: 60_000 }, (_, k) => (k * (i + 7919)) & 255)).toString(
          'base64',
        ),
      };
      await w.client.create<ConfigMap>(configMaps, {
        metadata: { namespace: 'default', name: `c${i}` },
        data,
      });
      await w.pod(`p${i}`, 'pi1', { volumes: [{ name: 'c', configMap: { name: `c${i}` } }] });
    }
    await w.run(60_000);
    expect(host.desired?.pods).toHaveLength(12);
    expect(host.desired?.configMaps).toHaveLength(12);
    expect(host.calls).toBeGreaterThan(2);
    await w.stop();
  });

  it('comes back from a store that was restored from a backup', async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    for (let i = 0; i < 5; i++) await w.pod(`p${i}`, 'pi1');
    await w.run(1000);
    await w.hub.stop();
    const old = w.client.revision;
    const fresh = new MemoryClient(w.clock);
    Object.assign(w, { client: fresh });
    await w.pod('only', 'pi1');
    expect(fresh.revision).toBeLessThan(old);
    await w.startHub();
    // The restored store does not even know the node: the hourly comparison brings it back.
    await w.run(2 * 3_600_000);
    expect(names(host.desired)).toEqual(['only']);
    await w.stop();
  });

  it('asks what a node uses over a stream, and costs nothing while nobody wants to know', async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    await w.run(5_000);
    const usage = new NodeUsage({ link: w.hub, clock: w.clock, log: w.log });
    const ask = async (pods: boolean) => {
      const answer = usage.of([await w.node('pi1')], pods);
      await w.run(3_000);
      return answer;
    };
    const quiet = w.net.log.length;
    host.usage = { w: 1000, n: [250_000, 65_536], p: [['0a1b2c3d', [1, 2], null, [3, 4]]] };
    expect((await ask(true)).usage.get('pi1')).toMatchObject(host.usage);
    // Question, answer, and its end.
    expect(w.net.log.length - quiet).toBe(3);
    expect(host.asked).toEqual([{ p: 1 }]);
    await ask(true);
    expect(w.net.log.length - quiet).toBe(3);
    await w.run(30_000);
    expect(w.net.log.length - quiet).toBe(3);

    host.usage = new Error('no such runtime');
    expect([...(await ask(true)).absent]).toEqual([['pi1', 'did not answer']]);
    await w.run(30_000);
    w.net.cut('pi1');
    await w.run(200);
    expect([...(await ask(false)).absent]).toEqual([['pi1', 'has no link']]);
    expect(host.asked).toHaveLength(2);
    usage.stop();
    await w.stop();
  });

  it('ignores replays of everything that was ever sent', async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    await w.pod('web', 'pi1');
    await w.run(1000);
    await w.client.delete(pods, { namespace: 'default', name: 'web' }, { gracePeriodSeconds: 1 });
    await w.run(1000);
    w.net.cut('pi1');
    await w.run(5_000);
    await w.pod('other', 'pi1');
    await w.run(1000);
    const { revision } = w.client;
    const { calls } = host;
    // Byes too: they name connections that are gone.
    for (const m of [...w.net.log])
      if (m.payload[2] !== 2 && m.payload[2] !== 1) w.net.send(m.topic, m.payload);
    await w.run(1000);
    expect(names(host.desired)).toEqual(['other']);
    expect(host.calls).toBe(calls);
    expect(w.client.revision).toBe(revision);
    await w.stop();
  });

  it('aggregates events, and loses none while the hub is away', async () => {
    const w = new World();
    await w.startAgent('pi1');
    const { link } = w.agents.get('pi1')!;
    const event = (reason: string, count = 1) =>
      link.event({
        involved: {
          kind: 'Pod',
          namespace: 'default',
          name: 'web',
          uid: 'u1',
          fieldPath: 'spec.containers{app}',
        },
        type: 'Normal',
        reason,
        message: `${reason} it`,
        at: w.clock.now(),
        count,
      });
    event('Pulled');
    event('Started');
    await w.run(5_000);
    await w.startHub();
    await w.run(60_000);
    event('Started', 2);
    await w.run(60_000);
    const all = (await w.client.list(events)).items;
    expect(all.map((e) => [e.reason, e.count]).sort()).toEqual([
      ['Pulled', 1],
      ['Started', 3],
    ]);
    expect(all[0]).toMatchObject({ source: { component: 'coxswain-agent', host: 'pi1' } });
    await w.stop();
  });
});

describe('streams', () => {
  const request = { namespace: 'default', pod: 'web', uid: 'u', container: 'app' };
  const open = async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    await w.run(1000);
    return { w, host };
  };
  /** Reads while virtual time goes on. */
  const drive = async <T>(w: World, p: Promise<T>): Promise<T> => {
    let done = false;
    const guarded = p.finally(() => {
      done = true;
    });
    guarded.catch(() => {});
    for (let i = 0; i < 2000 && !done; i++) await w.run(50);
    expect(done).toBe(true);
    return guarded;
  };
  const collect = async (s: AsyncIterable<Uint8Array>): Promise<Buffer> => {
    const out: Uint8Array[] = [];
    for await (const c of s) out.push(c);
    return Buffer.concat(out);
  };

  it('carry a log larger than the window, whole and in order', async () => {
    const { w, host } = await open();
    host.text = Array.from({ length: 40_000 }, (_, i) => `line ${i}`).join('\n');
    const s = await drive(w, w.hub.logs('pi1', request, new AbortController().signal));
    expect((await drive(w, collect(s))).toString()).toBe(host.text);
    await w.stop();
  });

  it('never have more than a window in flight when nobody reads', async () => {
    const { w, host } = await open();
    let produced = 0;
    host.logs = async function* () {
      for (;;) {
        produced += 4096;
        yield Buffer.alloc(4096, 65);
      }
    };
    const stop = new AbortController();
    const s = await drive(w, w.hub.logs('pi1', request, stop.signal));
    await w.run(60_000);
    expect(produced).toBeLessThanOrEqual(64 * 1024 + 2 * 8192);
    const it = s[Symbol.asyncIterator]();
    expect((await it.next()).value).toHaveLength(8192);
    stop.abort();
    await w.run(1000);
    const after = produced;
    await w.run(10_000);
    expect(produced).toBe(after);
    await w.stop();
  });

  it("bring the agent's refusal as the kubelet would say it", async () => {
    const { w, host } = await open();
    host.logs = async function* () {
      yield* [];
      throw new ApiError('BadRequest', 'container "app" in pod "web" is waiting to start: ContainerCreating');
    };
    await expect(drive(w, w.hub.logs('pi1', request, new AbortController().signal))).rejects.toMatchObject({
      reason: 'BadRequest',
      message: 'container "app" in pod "web" is waiting to start: ContainerCreating',
    });
    await w.stop();
  });

  it('end with an error when the link breaks, and the agent stops producing', async () => {
    const { w, host } = await open();
    let aborted = false;
    host.logs = async function* (_o, signal) {
      yield Buffer.from('first\n');
      await new Promise<void>((r) => signal.addEventListener('abort', () => r()));
      aborted = true;
    };
    const s = await drive(w, w.hub.logs('pi1', { ...request, follow: true }, new AbortController().signal));
    const all = collect(s);
    all.catch(() => {});
    await w.run(1000);
    w.net.cut('pi1');
    await expect(drive(w, all)).rejects.toMatchObject({ reason: 'ServiceUnavailable' });
    expect(aborted).toBe(true);
    await w.stop();
  });

  it('open although the log says nothing yet', async () => {
    const { w, host } = await open();
    host.logs = async function* (_o, signal) {
      await new Promise<void>((r) => signal.addEventListener('abort', () => r()));
      yield* [];
    };
    const stop = new AbortController();
    const s = await drive(w, w.hub.logs('pi1', { ...request, follow: true }, stop.signal));
    stop.abort();
    expect(await drive(w, collect(s))).toHaveLength(0);
    await w.stop();
  });
});

type Step =
  | { do: 'pod' | 'delete' | 'config'; n: number; node: number }
  | { do: 'cut'; node: number }
  | { do: 'restartAgent'; node: number }
  | { do: 'restartHub' }
  | { do: 'wait'; ms: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constantFrom('pod', 'pod', 'delete', 'config'),
    n: fc.integer({ min: 0, max: 5 }),
    node: fc.integer({ min: 0, max: 1 }),
  }),
  fc.record({ do: fc.constantFrom('cut', 'restartAgent'), node: fc.integer({ min: 0, max: 1 }) }),
  fc.record({ do: fc.constant('restartHub') }),
  fc.record({ do: fc.constant('wait'), ms: fc.integer({ min: 1, max: 20_000 }) }),
) as fc.Arbitrary<Step>;

describe('a hostile network', () => {
  it('changes nothing about where it all ends', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 1e6 }),
        fc.double({ min: 0, max: 0.4, noNaN: true }),
        fc.array(step, { minLength: 5, maxLength: 25 }),
        async (seed, bad, steps) => {
          const w = new World(seed);
          w.net.weather = { loss: bad, double: bad, delay: 300 };
          await w.startHub();
          const nodesOf = ['pi1', 'pi2'];
          for (const n of nodesOf) await w.startAgent(n);
          for (const s of steps) {
            if (s.do === 'wait') await w.run(s.ms);
            else if (s.do === 'cut') w.net.cut(nodesOf[s.node]!);
            else if (s.do === 'restartHub') {
              await w.hub.stop();
              await w.startHub();
            } else if (s.do === 'restartAgent') {
              const a = w.agents.get(nodesOf[s.node]!)!;
              await a.link.stop();
              await w.startAgent(nodesOf[s.node]!, a.dir);
            } else {
              const key = { namespace: 'default', name: `x${s.n}` };
              const volumes = [{ name: 'v', configMap: { name: `x${s.n}` } }];
              if (s.do === 'pod') await w.pod(key.name, nodesOf[s.node]!, { volumes }).catch(() => {});
              else if (s.do === 'delete')
                await w.client.delete(pods, key, { gracePeriodSeconds: 5 }).catch(() => {});
              else
                await w.client
                  .create<ConfigMap>(configMaps, { metadata: key, data: { v: `${seed}` } })
                  .catch(() => w.client.patch(configMaps, key, { data: { v: `${s.node}${seed}` } }));
            }
            await w.run(20);
          }
          w.net.weather = CALM;
          // Long enough for the hourly comparison, should a stale welcome have covered a query.
          await w.run(2 * 3_600_000);
          const all = (await w.client.list<Pod>(pods)).items;
          const maps = (await w.client.list<ConfigMap>(configMaps)).items;
          for (const n of nodesOf) {
            const mine = all.filter((p) => p.spec?.nodeName === n);
            const { host } = w.agents.get(n)!;
            expect(host.desired?.pods.map(keyOf) ?? []).toEqual(mine.map((p) => keyOf(p as Pod)).sort());
            for (const p of mine) {
              expect(p.metadata?.deletionTimestamp, 'a deleted pod goes').toBeUndefined();
              expect(p.status?.phase).toBe('Running');
              const map = maps.find((m) => m.metadata?.name === p.metadata?.name);
              const held = host.desired?.configMaps.find((m) => m.metadata?.name === p.metadata?.name);
              expect(held?.data).toEqual(map?.data);
            }
            expect((await w.ready(n))?.status).toBe('True');
          }
          await w.stop();
        },
      ),
      { numRuns: 25 },
    );
  }, 120_000);
});

describe('link settings', () => {
  const annotate = (w: World, settings: Record<string, string | null>) =>
    w.client.patch<Node>(
      nodes,
      { name: 'pi1' },
      {
        metadata: {
          annotations: Object.fromEntries(
            Object.entries(settings).map(([k, v]) => [`link.coxswain.dev/${k}`, v]),
          ),
        },
      },
    );
  const linked = async () => {
    const w = new World();
    await w.startHub();
    const host = await w.startAgent('pi1');
    await w.run(100);
    return { w, host, agent: w.agents.get('pi1')! };
  };
  const upward = (w: World) => w.net.log.filter((m) => m.topic.endsWith('/u')).length;

  it('travel to the agent, and are known to its next process with no hub', async () => {
    const { w, host, agent } = await linked();
    expect(host.desired?.nodes).toEqual([]);
    await annotate(w, { keepalive: '300', 'pull-window': '01:00-02:00' });
    await w.run(2000);
    const told = {
      name: 'pi1',
      annotations: { 'link.coxswain.dev/keepalive': '300', 'link.coxswain.dev/pull-window': '01:00-02:00' },
    };
    expect(host.desired?.nodes?.[0]?.metadata).toEqual(told);
    expect(agent.link.connected).toBe(true);
    // The virtual day begins at midnight.
    expect(agent.link.refused()).toContain('images are pulled between 01:00-02:00 UTC here');
    await agent.link.stop();
    w.net.unreachable.add('pi1');
    const again = await w.startAgent('pi1', agent.dir);
    expect(again.desired?.nodes?.[0]?.metadata).toEqual(told);
    await w.run(3_600_000);
    expect(w.agents.get('pi1')!.link.refused()).toBeUndefined();
    w.net.unreachable.delete('pi1');
    await w.run(120_000);
    await annotate(w, { keepalive: null, 'pull-window': null });
    await w.run(2000);
    expect(again.desired?.nodes).toEqual([]);
    await w.stop();
  });

  it('let reports gather', async () => {
    const { w, agent } = await linked();
    await w.pod('a', 'pi1');
    await annotate(w, { 'report-interval': '60' });
    await w.run(65_000);
    w.net.log.length = 0;
    const uid = (await w.client.get<Pod>(pods, { namespace: 'default', name: 'a' })).metadata!.uid!;
    for (let i = 0; i < 20; i++) {
      agent.link.pod({ namespace: 'default', name: 'a', uid, status: { phase: 'Running', message: `${i}` } });
      await w.run(2000);
    }
    expect(upward(w)).toBe(0);
    await w.run(25_000);
    expect(upward(w)).toBe(1);
    const { status } = await w.client.get<Pod>(pods, { namespace: 'default', name: 'a' });
    expect(status?.message).toBe('19');
    await w.stop();
  });

  it('end a day that has cost enough, show it on the node, and go on with the next', async () => {
    const { w, host, agent } = await linked();
    await w.pod('a', 'pi1');
    await annotate(w, { 'daily-limit': '100Ki' });
    await w.run(1000);
    const limit = async () =>
      (await w.node('pi1')).status?.conditions?.find((c) => c.type === 'DataLimitReached');
    expect(await limit()).toMatchObject({ status: 'False', reason: 'WithinDailyLimit' });
    expect(agent.link.refused()).toBeUndefined();
    agent.link.pulled(96 * 1024);
    expect(agent.link.refused()).toContain("this day's 102400 bytes are used up");
    await w.run(60_000);
    expect(agent.link.connected).toBe(false);
    expect((await w.ready('pi1'))?.status).toBe('Unknown');
    // Why it is away is told although nothing else is known any more.
    expect(await limit()).toMatchObject({ status: 'True', reason: 'DailyLimitReached' });
    const said = w.net.log.length;
    await w.run(20 * 3_600_000);
    expect(w.net.log.filter((m) => m.topic.endsWith('/u')).length).toBeLessThanOrEqual(said);
    expect(agent.link.connected).toBe(false);
    await w.pod('b', 'pi1');
    await w.run(4 * 3_600_000);
    expect(agent.link.connected).toBe(true);
    expect((await w.ready('pi1'))?.status).toBe('True');
    expect(await limit()).toMatchObject({ status: 'False' });
    expect(names(host.desired)).toEqual(['a', 'b']);
    await annotate(w, { 'daily-limit': null });
    await w.run(1000);
    expect(await limit()).toBeUndefined();
    await w.stop();
  });

  it('keep a metered node from having its logs followed, unless that is asked for', async () => {
    const { w } = await linked();
    await w.pod('a', 'pi1');
    await annotate(w, { metered: 'true' });
    await w.run(1000);
    const logs = (follow: boolean) =>
      w.hub.logs(
        'pi1',
        { namespace: 'default', pod: 'a', uid: 'u', container: 'app', follow },
        new AbortController().signal,
      );
    await expect(logs(true)).rejects.toMatchObject({
      reason: 'Forbidden',
      message: expect.stringContaining('kubectl annotate node pi1 link.coxswain.dev/log-follow=allowed'),
    });
    const open = logs(false);
    await w.run(1000);
    await open;
    await annotate(w, { 'log-follow': 'allowed' });
    await w.run(10);
    const followed = logs(true);
    await w.run(1000);
    await followed;
    await w.stop();
  });
});
