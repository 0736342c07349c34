/**
 * A node that was away for a month while much changed: what it costs to catch up, what is over when it has, and when
 * things are said to have happened. Production code at both ends, a virtual clock.
 */
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ConfigMap, Event, Node, Pod } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Identity, identityOf } from '../../agent/link/identity.js';
import { AgentLink } from '../../agent/link/link.js';
import type { PodHost } from '../../agent/ports.js';
import { type Clock, rfc3339 } from '../../api/clock.js';
import { configMaps, events, nodes, pods } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { DesiredSet, NodeReport } from '../../api/wire/desired.js';
import { HubLink } from '../../hub/link/link.js';
import { createPki, nodeSubject, type Pki } from '../../hub/pki/pki.js';
import { MemoryClient } from '../../hub/testing/memory-client.js';
import { MemoryNetwork } from '../support/memory-network.js';

const MINUTE = 60_000;
const DAY = 86_400_000;
const MONTH = 30 * DAY;
/** TLS record and MQTT header, about, of each message. */
const PER_MESSAGE = 30;

let dir: string;
let pki: Pki;
let identity: Identity;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'away-'));
  pki = await createPki(dir, { localHosts: () => [] });
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const cert = await pki.issueClientCert({ ...nodeSubject('pi1'), publicKey });
  const signingKey = pki.signingPublicKey.toString('base64');
  identity = identityOf({ cert, ca: pki.caPem, signingKey, addresses: ['h:1'] }, privateKey);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const nodeReport = {
  labels: {},
  capacity: { cpu: '4', memory: '1Gi', pods: '110' },
  allocatable: { cpu: '4', memory: '1Gi', pods: '110' },
  addresses: [],
  nodeInfo: { kubeletVersion: 'v1.36.0' },
  conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady', message: 'well' }],
  runtimeHandlers: ['oci'],
} as unknown as NodeReport;

/** Runs at once what it is told to, ends what it is told to end, and tells times by the device's clock. */
class Host implements PodHost {
  link: AgentLink | undefined;
  names: string[] = [];
  /** Every pod that it was ever told of. */
  readonly seen = new Set<string>();
  readonly #since = new Map<string, string>();
  constructor(private readonly clock: Clock) {}
  stats: PodHost['stats'] = async () => {
    throw new Error('nobody asks');
  };
  async *logs() {}
  setDesired(d: DesiredSet): void {
    this.names = d.pods.map((p) => p.metadata!.name!).sort();
    for (const p of d.pods) {
      this.seen.add(p.metadata!.name!);
      this.tell(p);
    }
  }
  tell(p: Pod, restartCount = 0): void {
    const { namespace = '', name = '', uid = '', deletionTimestamp } = p.metadata!;
    const since = this.#since.get(uid) ?? rfc3339(this.clock.now());
    this.#since.set(uid, since);
    const startedAt = restartCount ? rfc3339(this.clock.now()) : since;
    this.link?.pod({
      namespace,
      name,
      uid,
      status: {
        phase: 'Running',
        startTime: since,
        containerStatuses: [
          {
            name: 'app',
            ready: true,
            image: 'x',
            imageID: 'x',
            restartCount,
            state: { running: { startedAt } },
          },
        ],
      },
      ...(deletionTimestamp ? { gone: true } : {}),
    });
  }
}

class World {
  readonly clock = new VirtualClock({ seed: 1 });
  readonly client = new MemoryClient(this.clock);
  readonly net = new MemoryNetwork(this.clock);
  /** How far the device's clock is off. */
  wrong = 0;
  readonly wall: Clock = {
    now: () => this.clock.now() + this.wrong,
    monotonic: () => this.clock.monotonic(),
    random: () => this.clock.random(),
    after: (ms, fn) => this.clock.after(ms, fn),
  };
  readonly host = new Host(this.wall);
  readonly dataDir = mkdtempSync(join(dir, 'agent-'));
  readonly agent = new AgentLink({
    dataDir: this.dataDir,
    identity,
    host: this.host,
    clock: this.wall,
    log: silentLog,
    transport: this.net.transport('pi1'),
  });
  hub!: HubLink;

  async start(): Promise<void> {
    await this.startHub();
    this.host.link = this.agent;
    this.agent.start();
    this.agent.node(nodeReport);
    await this.run(1000);
  }

  async startHub(): Promise<void> {
    const { client, clock } = this;
    this.hub = new HubLink({ client, bus: this.net.bus(), pki, clock, log: silentLog });
    await this.hub.start();
  }

  run = (ms: number) => this.clock.advance(ms);

  leave(): void {
    this.net.unreachable.add('pi1');
    this.net.cut('pi1');
  }

  /** Comes back; resolves with the bytes of it, both ways. */
  async comeBack(): Promise<number> {
    this.net.log.length = 0;
    this.net.unreachable.clear();
    await this.run(3 * MINUTE);
    expect(this.agent.idle).toBe(true);
    return this.net.log.reduce((n, m) => n + m.payload.length + m.topic.length + PER_MESSAGE, 0);
  }

  async stop(): Promise<void> {
    await this.agent.stop();
    await this.hub.stop();
  }

  pod = (name: string, namespace = 'default', conf = 'conf') =>
    this.client.create<Pod>(pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace, name, labels: { app: 'web', 'pod-template-hash': '5d8f7c9b6' } },
      spec: {
        nodeName: 'pi1',
        containers: [{ name: 'app', image: 'registry.example.org/team/web:1.4.2' }],
        volumes: [{ name: 'c', configMap: { name: conf } }],
      },
    } as Pod);

  remove = (name: string, namespace = 'default', gracePeriodSeconds = 30) =>
    this.client.delete(pods, { namespace, name }, { gracePeriodSeconds });

  async conf(name: string, text: string, namespace = 'default'): Promise<void> {
    const data = { 'app.conf': text };
    await this.client
      .patch<ConfigMap>(configMaps, { namespace, name }, { data })
      .catch(() =>
        this.client.create<ConfigMap>(configMaps, { metadata: { namespace, name }, data } as ConfigMap),
      );
  }

  /** Every pod that the API has, those that are to end marked. */
  async pods(): Promise<string[]> {
    const all = (await this.client.list<Pod>(pods)).items;
    return all.map((p) => `${p.metadata!.name}${p.metadata!.deletionTimestamp ? ' ends' : ''}`).sort();
  }

  ready = async () =>
    (await this.client.get<Node>(nodes, { name: 'pi1' })).status?.conditions?.find((c) => c.type === 'Ready')
      ?.status;

  told = async () => (await this.client.list<Event>(events)).items;
}

/** So much time in which everything is rolled `rolls` times. Returns the bytes of catching up. */
async function away(
  rolls: number,
  ms: number,
  between: (w: World) => Promise<void> = async () => {},
): Promise<number> {
  const w = new World();
  await w.start();
  await w.conf('conf', 'first');
  await w.conf('conf', 'theirs', 'gone');
  for (let i = 0; i < 5; i++) await w.pod(`web-${i}-0`);
  await w.pod('steady');
  for (let i = 0; i < 3; i++) await w.pod(`gone-${i}`, 'gone');
  await w.run(MINUTE);
  expect(w.host.names).toHaveLength(9);
  w.leave();
  for (let r = 1; r <= rolls; r++) {
    await w.run(ms / rolls);
    await w.conf('conf', `text ${r}`);
    for (let i = 0; i < 5; i++) {
      await w.pod(`web-${i}-${r}`);
      await w.remove(`web-${i}-${r - 1}`);
    }
  }
  for (let i = 0; i < 3; i++) await w.remove(`gone-${i}`, 'gone');
  await w.client.delete(configMaps, { namespace: 'gone', name: 'conf' });
  expect(await w.ready()).toBe('Unknown');
  expect(w.host.names, 'it goes on with what it had').toHaveLength(9);
  await between(w);
  const bytes = await w.comeBack();
  const expected = ['steady', ...[0, 1, 2, 3, 4].map((i) => `web-${i}-${rolls}`)];
  expect(await w.pods(), 'nothing is left terminating').toEqual(expected);
  expect(w.host.names).toEqual(expected);
  const never = [...w.host.seen].filter(
    (n) => /^web-\d-\d+$/.test(n) && !/-0$/.test(n) && !expected.includes(n),
  );
  expect(never, 'it never heard of those that came and went').toEqual([]);
  const { items } = await w.client.list<Pod>(pods);
  for (const p of items) expect(p.status?.phase).toBe('Running');
  expect(await w.ready()).toBe('True');
  expect(w.agent.sizes().batches).toBe(0);
  await w.stop();
  return bytes;
}

describe('a node that was away for a month', () => {
  it('catches up at the price of the difference, however much happened', async () => {
    const [once, often] = [await away(1, DAY), await away(100, MONTH)];
    expect(often).toBeLessThan(6 * 1024);
    expect(Math.abs(often - once)).toBeLessThan(0.15 * once);
  });

  it('does so with a hub that was started anew meanwhile', async () => {
    const bytes = await away(100, DAY, async (w) => {
      await w.hub.stop();
      await w.startHub();
    });
    expect(bytes).toBeLessThan(8 * 1024);
  });

  it('hears of a pod that is to end when it has it, and when somebody told of it', async () => {
    const w = new World();
    await w.start();
    await w.conf('conf', 'x');
    await w.pod('here');
    await w.run(1000);
    w.leave();
    await w.remove('here');
    const told = await w.pod('told');
    await w.client.updateStatus<Pod>(pods, {
      ...(told as Pod),
      status: { phase: 'Running', startTime: rfc3339(w.clock.now()) },
    });
    await w.remove('told');
    await w.run(DAY);
    expect(await w.pods()).toEqual(['here ends', 'told ends']);
    await w.comeBack();
    expect(w.host.seen.has('told')).toBe(true);
    expect(await w.pods()).toEqual([]);
    await w.stop();
  });

  it('is told that its set is right when the hub has to ask for it first', async () => {
    const w = new World();
    await w.start();
    await w.conf('conf', 'x');
    await w.pod('here');
    await w.run(1000);
    w.leave();
    await w.hub.stop();
    // Wanted for a moment that the agent does not live to see: the hub knows by the inventory alone.
    await w.pod('brief');
    await w.remove('brief');
    await w.startHub();
    await w.run(DAY);
    await w.comeBack();
    expect(await w.pods()).toEqual(['here']);
    expect(w.host.seen.has('brief')).toBe(false);
    await w.stop();
  });
});

describe('what a device tells when it comes back', () => {
  it.each([
    ['with a clock that is right', MONTH, [0, 0, 0]],
    ['with a clock that is three hours ahead', DAY, [3 * 3_600_000, 3 * 3_600_000, 3 * 3_600_000]],
    ['with a clock of 1970', 2 * DAY, [-1.8e12, -1.8e12, -1.8e12]],
    ['with a clock of 1970 that somebody sets meanwhile', 2 * DAY, [-1.8e12, 0, 0]],
    ['with a clock that is lost meanwhile', 2 * DAY, [0, 0, -1.8e12]],
  ] as const)('comes coalesced and with its true times, %s', async (_n, ms, [first, second, third]) => {
    const w = new World();
    w.wrong = first;
    await w.start();
    await w.conf('conf', 'x');
    await w.pod('web');
    await w.run(1000);
    const began = w.clock.now();
    w.leave();
    const pod = (await w.client.get<Pod>(pods, { namespace: 'default', name: 'web' })) as Pod;
    expect(Math.abs(Date.parse(pod.status!.startTime!) - began)).toBeLessThan(2 * MINUTE);
    const involved = { kind: 'Pod', namespace: 'default', name: 'web', uid: pod.metadata!.uid! } as const;
    const event = (reason: string) =>
      w.agent.event({ involved, type: 'Warning', reason, message: 'it did', at: w.wall.now(), count: 1 });
    // It restarts again and again; the node's clock is set or lost twice.
    const started: number[] = [];
    for (let i = 1; i <= 120; i++) {
      if (i === 40) w.wrong = second;
      if (i === 80) w.wrong = third;
      await w.run(ms / 120);
      event('BackOff');
      if (i === 60) event('OnceInTheMiddle');
      w.host.tell(pod, i);
      started.push(w.clock.now());
    }
    expect(w.agent.sizes()).toMatchObject({ events: 2, pods: 1 });
    const bytes = await w.comeBack();
    expect(bytes).toBeLessThan(2500);
    await w.run(MINUTE);
    const near = (text: string | undefined, ms: number) =>
      expect(Math.abs(Date.parse(text ?? '') - ms), `${text} is not ${rfc3339(ms)}`).toBeLessThan(
        MINUTE + 2000,
      );
    const told = await w.told();
    const backOff = told.filter((e) => e.reason === 'BackOff');
    expect(backOff.map((e) => e.count)).toEqual([120]);
    near(backOff[0]!.firstTimestamp, started[0]!);
    near(backOff[0]!.lastTimestamp, started[119]!);
    const middle = told.find((e) => e.reason === 'OnceInTheMiddle')!;
    near(middle.lastTimestamp, started[59]!);
    const { status } = (await w.client.get<Pod>(pods, { namespace: 'default', name: 'web' })) as Pod;
    expect(status!.containerStatuses![0]!.restartCount).toBe(120);
    near(status!.containerStatuses![0]!.state!.running!.startedAt, started[119]!);
    near(status!.startTime, began);
    await w.stop();
  });
});
