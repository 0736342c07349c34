/**
 * Hubs and agents of different versions: today's code against frozen peers of version 2 (test/support/frozen-wire.ts)
 * and against newer ones, and a made-up version 3 of today's code against both, across upgrades and downgrades in
 * mid-life.
 */
import { createPublicKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ConfigMap, Node, Pod, Secret } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Identity, identityOf } from '../../agent/link/identity.js';
import { AgentLink } from '../../agent/link/link.js';
import type { PodHost } from '../../agent/ports.js';
import { configMaps, nodes, pods, secrets } from '../../api/kinds/index.js';
import { type Log, silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { DesiredSet, NodeReport } from '../../api/wire/desired.js';
import {
  type Channel,
  HUB_SUBSCRIPTIONS,
  nodeSubscriptions,
  nodeTopic,
  parseTopic,
} from '../../api/wire/topics.js';
import { FORMATS, GREETING, type WireFormat } from '../../api/wire/versions.js';
import { HubLink } from '../../hub/link/link.js';
import { createPki, nodeSubject, type Pki } from '../../hub/pki/pki.js';
import { MemoryClient } from '../../hub/testing/memory-client.js';
import { desiredFile, ed25519, FrozenAgent, FrozenHub, type Peculiar, p256 } from '../support/frozen-wire.js';
import { MemoryNetwork } from '../support/memory-network.js';

const golden = JSON.parse(readFileSync(join(import.meta.dirname, '../support/golden-wire.json'), 'utf8'));
const dictionary = Buffer.from(golden.dictionary);
const WORDS_3 = Buffer.from('"a quite different dictionary":{"apiVersion":"v3","kind":"Pod","spec":{');
const V2 = FORMATS;
const V3: WireFormat = { version: 3, dictionary: WORDS_3 };
const V23: readonly WireFormat[] = [GREETING, V3];
const ONLY3: readonly WireFormat[] = [V3];

let dir: string;
let pki: Pki;
let identity: Identity;
let cert: string;
const key = p256('golden node');

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'versions-'));
  pki = await createPki(dir, { localHosts: () => [] });
  cert = await pki.issueClientCert({ ...nodeSubject('pi1'), publicKey: key.publicKey });
  const signingKey = pki.signingPublicKey.toString('base64');
  identity = identityOf({ cert, ca: pki.caPem, signingKey, addresses: ['h:1'] }, key.privateKey);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const nodeReport: NodeReport = {
  labels: {},
  capacity: { cpu: '4', memory: '1Gi', pods: '110' },
  allocatable: { cpu: '4', memory: '1Gi', pods: '110' },
  addresses: [],
  nodeInfo: { kubeletVersion: 'v1.36.0' } as NodeReport['nodeInfo'],
  conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady', message: 'well' }],
  runtimeHandlers: ['oci'],
};

class Host implements PodHost {
  desired: DesiredSet | undefined;
  calls = 0;
  link: AgentLink | undefined;
  async *logs() {
    yield Buffer.from('a line\n');
  }
  stats: PodHost['stats'] = async () => {
    throw new Error('nobody asks');
  };
  setDesired(d: DesiredSet): void {
    this.calls++;
    this.desired = d;
    for (const p of d.pods) {
      const { namespace, name, uid, deletionTimestamp } = p.metadata!;
      const status = { phase: 'Running' };
      const gone = deletionTimestamp ? { gone: true } : {};
      this.link?.pod({ namespace: namespace!, name: name!, uid: uid!, status, ...gone });
    }
  }
  get names() {
    return (this.desired?.pods ?? []).map((p) => p.metadata?.name);
  }
}

class World {
  readonly clock = new VirtualClock({ seed: 1 });
  readonly client = new MemoryClient(this.clock);
  readonly net = new MemoryNetwork(this.clock);
  readonly log: string[] = [];
  hub: HubLink | undefined;
  agent: AgentLink | undefined;
  host = new Host();
  readonly dataDir = mkdtempSync(join(dir, 'agent-'));

  #log(): Log {
    const note = (f: object, m: string) => void this.log.push(`${m} ${JSON.stringify(f)}`);
    return { ...silentLog, warn: note, error: note, child: () => this.#log() };
  }

  async startHub(formats: readonly WireFormat[]): Promise<void> {
    const log = this.#log();
    this.hub = new HubLink({
      client: this.client,
      bus: this.net.bus(),
      pki,
      clock: this.clock,
      log,
      formats,
    });
    await this.hub.start();
  }

  /** With an embedded broker every connection breaks with the hub. */
  async restartHub(formats: readonly WireFormat[], cut = true): Promise<void> {
    await this.hub!.stop();
    if (cut) this.net.cut('pi1');
    await this.startHub(formats);
  }

  startAgent(formats: readonly WireFormat[], id = identity): void {
    this.host = new Host();
    this.agent = new AgentLink({
      dataDir: this.dataDir,
      identity: id,
      host: this.host,
      clock: this.clock,
      log: this.#log(),
      transport: this.net.transport('pi1'),
      formats,
    });
    this.host.link = this.agent;
    this.agent.start();
    this.agent.node(nodeReport);
  }

  async restartAgent(formats: readonly WireFormat[]): Promise<void> {
    await this.agent!.stop();
    this.startAgent(formats);
  }

  run = (ms: number) => this.clock.advance(ms);

  async pod(name: string): Promise<void> {
    await this.client.create<Pod>(pods, {
      metadata: { namespace: 'default', name },
      spec: {
        nodeName: 'pi1',
        containers: [{ name: 'app', image: 'x' }],
        volumes: [{ name: 'c', configMap: { name: 'conf' } }],
      },
    } as Pod);
  }

  conf = (a: string) =>
    this.client
      .patch<ConfigMap>(configMaps, { namespace: 'default', name: 'conf' }, { data: { a } })
      .catch(() =>
        this.client.create<ConfigMap>(configMaps, {
          metadata: { namespace: 'default', name: 'conf' },
          data: { a },
        } as ConfigMap),
      );

  phase = async (name: string) =>
    (await this.client.get<Pod>(pods, { namespace: 'default', name })).status?.phase;

  ready = async () =>
    (await this.client.get<Node>(nodes, { name: 'pi1' })).status?.conditions?.find((c) => c.type === 'Ready');

  /** Versions of the sealed frames since the last call. */
  spoken(): number[] {
    const seen = new Set(this.net.log.splice(0).flatMap((m) => (m.payload[1]! & 2 ? [m.payload[0]!] : [])));
    return [...seen].sort();
  }

  async stop(): Promise<void> {
    await this.agent?.stop();
    await this.hub?.stop();
  }
}

async function logOf(w: World, pod: string): Promise<string> {
  const options = { namespace: 'default', pod, uid: 'u', container: 'app' };
  let text = '';
  const read = w.hub!.logs('pi1', options, new AbortController().signal).then(async (log) => {
    for await (const bytes of log) text += Buffer.from(bytes).toString();
  });
  await w.run(2000);
  await read;
  return text;
}

/** Everything that a link is for, once. */
async function works(w: World, version: number): Promise<void> {
  await w.run(200_000);
  w.spoken();
  const name = `pod-${w.clock.now()}`;
  await w.conf(name);
  await w.pod(name);
  await w.run(1000);
  expect(await w.phase(name)).toBe('Running');
  expect(w.host.names).toContain(name);
  expect(w.host.desired?.configMaps[0]?.data).toEqual({ a: name });
  expect((await w.ready())?.status).toBe('True');
  const text = await logOf(w, name);
  expect(text).toBe('a line\n');
  await w.client.delete(pods, { namespace: 'default', name }, { gracePeriodSeconds: 30 });
  await w.run(1000);
  await expect(w.phase(name)).rejects.toThrow(/not found/);
  expect(w.spoken()).toEqual([version]);
}

describe('hubs and agents of different versions', () => {
  it.each([
    ['this hub', 'this agent', V2, V2, 2],
    ['a newer hub', 'this agent', V23, V2, 2],
    ['this hub', 'a newer agent', V2, V23, 2],
    ['a newer hub', 'a newer agent', V23, V23, 3],
    ['a newer hub', 'an agent that knows only the new', V23, ONLY3, 3],
    ['a hub that knows only the new', 'a newer agent', ONLY3, V23, 3],
  ] as const)('%s and %s speak the newest that both know', async (_h, _a, hub, agent, version) => {
    const w = new World();
    await w.startHub(hub);
    w.startAgent(agent);
    await works(w, version);
    expect(w.log).toEqual([]);
    await w.stop();
  });

  it('go through upgrades and downgrades of either side without a pod noticing', async () => {
    const w = new World();
    await w.startHub(V2);
    w.startAgent(V2);
    await w.conf('1');
    await w.pod('stays');
    await works(w, 2);
    const uid = w.host.desired!.pods[0]!.metadata!.uid;
    const steps: [string, () => Promise<void>, number][] = [
      ['hub up', () => w.restartHub(V23), 2],
      ['agent up', () => w.restartAgent(V23), 3],
      ['hub down, same broker', () => w.restartHub(V2, false), 2],
      ['hub up, same broker', () => w.restartHub(V23, false), 3],
      ['agent down', () => w.restartAgent(V2), 2],
      ['agent up', () => w.restartAgent(V23), 3],
      ['hub without 2', () => w.restartHub(ONLY3), 3],
    ];
    for (const [what, step, version] of steps) {
      await step();
      // From its disk, before it hears of any hub.
      expect(w.host.names, what).toContain('stays');
      await works(w, version);
      expect(
        w.host.desired!.pods.map((p) => p.metadata!.uid),
        what,
      ).toEqual([uid]);
    }
    expect(w.log).toEqual([]);
    await w.stop();
  });

  it.each([
    [
      'too old',
      ONLY3,
      V2,
      V23,
      /agent speaks version 2 of the wire and this hub version 3: upgrade the agent/,
    ],
    ['too new', V2, ONLY3, V23, /agent speaks version 3 of the wire and this hub version 2: upgrade the hub/],
  ] as const)(
    'an agent that is %s is refused with the remedy until it fits',
    async (_n, hub, agent, fits, why) => {
      const w = new World();
      await w.startHub(V23);
      w.startAgent(V23);
      await w.conf('1');
      await w.pod('stays');
      await w.run(1000);
      await w.restartHub(hub);
      await w.restartAgent(agent);
      await w.run(60_000);
      expect(w.host.names, 'its pods run on').toEqual(['stays']);
      expect(w.hub!.isLinked('pi1')).toBe(false);
      expect(await w.ready()).toMatchObject({ status: 'Unknown', reason: 'WireVersionUnsupported' });
      expect((await w.ready())!.message).toMatch(why);
      expect(w.log.filter((l) => l.startsWith('node refused')).join()).toMatch(why);
      expect(w.log.filter((l) => l.startsWith('the hub refuses this node')).join()).toMatch(why);
      expect(w.log.filter((l) => /dropped/.test(l))).toEqual([]);
      const said = w.log.length;
      await w.run(3_600_000);
      expect(w.log.length - said, 'seldom').toBeLessThan(40);
      await (agent === V2 ? w.restartAgent(fits) : w.restartHub(fits));
      await works(w, 3);
      await w.stop();
    },
  );
});

// --- frozen peers -----------------------------------------------------------------------------------------------------

const NEWER: Peculiar = {
  versions: [2, 3],
  dictionaries: { 3: WORDS_3 },
  fields: { zz: { what: 'nobody knows' }, q1: [1, 2] },
  type: 99,
};

function agentPeer(w: World, peculiar: Peculiar, epoch = 'epoch1'): FrozenAgent {
  const agent = new FrozenAgent(
    {
      dictionary,
      node: 'pi1',
      peculiar,
      publish: (channel, payload) => w.net.send(nodeTopic('pi1', channel as Channel), payload),
    },
    {
      node: key.privateKey,
      nodePublic: key.publicKey,
      cert: new X509Certificate(cert).raw.toString('base64'),
      hub: identity.signingKey,
    },
    epoch,
    nodeReport as unknown as Record<string, unknown>,
  );
  void w.net.transport('pi1').connect({
    subscribe: nodeSubscriptions('pi1'),
    onMessage: (topic, payload) =>
      agent.receive((parseTopic(topic) as { channel: string }).channel, Buffer.from(payload)),
    onClose: () => {},
  });
  return agent;
}

describe('agents of other releases at this hub', () => {
  it.each([
    ['version 2 as released', {}],
    ['a newer one with further fields and messages', NEWER],
  ] as const)('%s', async (_n, peculiar) => {
    const w = new World();
    await w.startHub(V2);
    const agent = agentPeer(w, peculiar);
    agent.hello();
    await w.run(1000);
    expect((await w.ready())?.status).toBe('True');
    await w.conf('1');
    await w.client.create<Secret>(secrets, {
      metadata: { namespace: 'default', name: 's' },
      data: { k: 'c2VjcmV0' },
    } as Secret);
    await w.pod('web');
    await w.run(1000);
    expect([...agent.items.keys()].sort()).toEqual(['c/default/conf', 'p/default/web']);
    expect(await w.phase('web')).toBe('Running');
    await w.conf('2');
    await w.run(1000);
    expect(agent.items.get('c/default/conf')!.object.data).toEqual({ a: '2' });
    expect(await logOf(w, 'web')).toBe('log of web\n');
    // It comes back and has everything; then the hub has forgotten what it had.
    agent.hello();
    await w.run(1000);
    expect(agent.heard.filter((m) => m.type === 17).at(-1)?.body).toMatchObject({ m: 1 });
    await w.restartHub(V2, false);
    await w.conf('3');
    await w.run(20_000);
    expect(agent.items.get('c/default/conf')!.object.data).toEqual({ a: '3' });
    await w.client.delete(pods, { namespace: 'default', name: 'web' }, { gracePeriodSeconds: 30 });
    await w.run(1000);
    expect([...agent.items.keys()]).toEqual([]);
    await expect(w.phase('web')).rejects.toThrow(/not found/);
    expect(w.log).toEqual([]);
    await w.stop();
  });

  it('one that sends bombs is heard seldom, and others as before', async () => {
    const w = new World();
    await w.startHub(V2);
    const agent = agentPeer(w, {});
    agent.hello();
    await w.run(1000);
    expect((await w.ready())?.status).toBe('True');
    const said = (pattern: RegExp) => w.log.splice(0).filter((l) => pattern.test(l)).length;
    // 6 MB of JSON in a few KB, fifty times: three or four are unpacked, as one a minute is from then on.
    const bomb = { zz: 'x'.repeat(6 << 20), e: 'epoch1', q: 0 };
    const send = async (times: number) => {
      for (let q = 1; q <= times; q++) agent.sendReport({ ...bomb, q });
      await w.run(1000);
      return said(/more than a node may say at once/);
    };
    expect(await send(50)).toBeGreaterThan(45);
    await w.run(60_000);
    expect(await send(5)).toBeLessThan(5);
    // What cannot be unpacked at all costs as much.
    await w.run(60_000);
    agent.sendReport({ zz: 'x'.repeat(12 << 20) });
    await w.run(100);
    expect(said(/cannot inflate/)).toBe(1);
    // Nobody is shut out for ever.
    await w.run(300_000);
    agent.hello();
    await w.run(1000);
    expect((await w.ready())?.status).toBe('True');
    await w.stop();
  });

  it('a newer one that speaks the new with a hub that does', async () => {
    const w = new World();
    await w.startHub(V23);
    const agent = agentPeer(w, NEWER);
    agent.hello();
    await w.conf('1');
    await w.pod('web');
    await w.run(1000);
    expect(await w.phase('web')).toBe('Running');
    expect(w.spoken()).toEqual([3]);
    await w.stop();
  });
});

const podObject = (name: string) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace: 'default', name, uid: `uid-${name}` },
  spec: { nodeName: 'pi1', containers: [{ name: 'app', image: 'x' }] },
});

/** A set of a hub that knows a kind of item which this agent does not. */
const wanted = (...names: string[]) =>
  new Map<string, { hash: string; object: object }>([
    [
      'z/default/thing',
      { hash: 'hz', object: { kind: 'Thing', metadata: { name: 'thing' }, much: 'to say' } },
    ],
    ...names.map((n) => [`p/default/${n}`, { hash: `h-${n}`, object: podObject(n) }] as const),
  ]);

function hubPeer(
  w: World,
  peculiar: Peculiar,
  want: Map<string, { hash: string; object: object }>,
): FrozenHub {
  const hub = new FrozenHub(
    {
      dictionary,
      node: 'pi1',
      peculiar,
      publish: (channel, payload) => w.net.send(nodeTopic('pi1', channel as Channel), payload),
    },
    { nodePublic: key.publicKey, signing: ed25519('golden signing') },
    'hub1',
    w.clock.now(),
    want,
  );
  void w.net.bus().start({
    message: (topic, payload) => {
      const at = parseTopic(topic) as { channel: string };
      hub.receive(at.channel, Buffer.from(payload));
    },
    up: () => {},
    down: () => {},
  });
  return hub;
}

/** An identity of the frozen hub's. */
function frozenIdentity(): Identity {
  const raw = createPublicKey(ed25519('golden signing'))
    .export({ type: 'spki', format: 'der' })
    .subarray(-32);
  const signingKey = Buffer.from(raw).toString('base64');
  return identityOf({ cert, ca: pki.caPem, signingKey, addresses: ['h:1'] }, key.privateKey);
}

describe('hubs of other releases with this agent', () => {
  it.each([
    ['version 2 as released', {}],
    ['a newer one with further fields, messages and kinds of items', NEWER],
  ] as const)('%s', async (_n, peculiar) => {
    expect(HUB_SUBSCRIPTIONS).toContain('cox/v1/n/+/u');
    const w = new World();
    const hub = hubPeer(w, peculiar, wanted('web'));
    w.startAgent(V2, frozenIdentity());
    await w.run(1000);
    expect(w.host.names).toEqual(['web']);
    expect(hub.acked.length).toBeGreaterThan(0);
    const told = hub.heard.filter((m) => m.type === 5).flatMap((m) => m.body.p ?? []);
    expect(told.map(([, r]) => [r.name, r.status.phase])).toContainEqual(['web', 'Running']);
    const { applied } = hub;
    // An agent that does not know the kind holds the item all the same: its digest is the hub's.
    w.net.cut('pi1');
    await w.run(10_000);
    expect(hub.matched).toBe(true);
    expect(w.host.calls, 'delivered from the delta alone').toBe(1);
    // Over a restart as well.
    await w.agent!.stop();
    w.startAgent(V2, frozenIdentity());
    await w.run(10_000);
    expect(hub.matched).toBe(true);
    hub.want = wanted('web', 'second');
    hub.generation = 5;
    hub.query();
    await w.run(10_000);
    expect(w.host.names).toEqual(['second', 'web']);
    expect(hub.applied).not.toBe(applied);
    expect(w.log).toEqual([]);
    await w.stop();
  });
});

describe("an older agent's disk", () => {
  it('is read by this one, with items that it does not know, and goes back to the older as it is', async () => {
    const w = new World();
    const items = [...wanted('web')].map(([k, v]) => [k, v.hash, v.object] as [string, string, object]);
    writeFileSync(join(w.dataDir, 'desired.bin'), desiredFile(key.privateKey, dictionary, 9, items));
    w.net.unreachable.add('pi1');
    for (const formats of [V2, V23, V2, ONLY3]) {
      w.startAgent(formats, frozenIdentity());
      expect(w.host.names).toEqual(['web']);
      await w.agent!.stop();
    }
    const hub = hubPeer(w, NEWER, wanted('web', 'new'));
    w.net.unreachable.clear();
    w.startAgent(V23, frozenIdentity());
    await w.run(5000);
    expect(
      hub.heard.some((m) => m.type === 3),
      'by inventory',
    ).toBe(true);
    expect(w.spoken()).toEqual([3]);
    await w.agent!.stop();
    w.net.unreachable.add('pi1');
    w.startAgent(V2, frozenIdentity());
    expect(w.host.names).toEqual(['new', 'web']);
    expect(w.log).toEqual([]);
    await w.stop();
  });
});
