/**
 * A broker that belongs to an attacker: it reads everything, and drops, doubles, delays, reorders, replays, misdelivers,
 * truncates, changes and forges as it likes, before and after restarts of the hub and with an earlier device of the
 * same name. Production code at both ends, a virtual clock, a seed. It may gain nothing but denial of service.
 */
import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Node, Pod, Secret } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Identity, identityOf } from '../../agent/link/identity.js';
import { AgentLink } from '../../agent/link/link.js';
import type { Transport } from '../../agent/link/transport.js';
import type { PodHost } from '../../agent/ports.js';
import { nodes, pods, secrets } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { Decoder, encode, signingContext, spkiOf } from '../../api/wire/codec.js';
import type { DesiredSet } from '../../api/wire/desired.js';
import { type Hello, TYPE } from '../../api/wire/messages.js';
import type { NodeStats } from '../../api/wire/streams.js';
import { HUB_SUBSCRIPTIONS, nodeTopic, parseTopic } from '../../api/wire/topics.js';
import type { Bus, BusHandlers } from '../../hub/link/bus.js';
import { HubLink } from '../../hub/link/link.js';
import { KEY_ANNOTATION } from '../../hub/link/nodes.js';
import { createPki, nodeSubject, type Pki } from '../../hub/pki/pki.js';
import { MemoryClient } from '../../hub/testing/memory-client.js';

let dir: string;
let pki: Pki;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'hostile-'));
  pki = await createPki(dir, { localHosts: () => [] });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** What must never be seen in any byte that passed, packed or not. */
const MARKS = ['SeCrEtVaLuE', 'EnViRoNmEnT', 'PoDnAmE', 'LoGlInE', 'StAtUsTeXt'].map((m) => m.toLowerCase());
const [SECRET, ENV, POD, LOG, STATUS] = MARKS as [string, string, string, string, string];

interface Message {
  topic: string;
  payload: Buffer;
}
interface Peer {
  name: string;
  topics: readonly string[];
  deliver(topic: string, payload: Uint8Array): void;
  cut(): void;
  will?: Message;
}

/** Probabilities of each evil, per message. */
interface Mood {
  drop: number;
  double: number;
  delay: number;
  /** Something else is done as well: a replay, a forgery, a changed or misdelivered copy. */
  mischief: number;
}

const matches = (filter: string, topic: string): boolean => {
  const [f, t] = [filter.split('/'), topic.split('/')];
  return f.length === t.length && f.every((w, i) => w === '+' || w === t[i]);
};

class EvilBroker {
  mood: Mood = { drop: 0, double: 0, delay: 0, mischief: 0 };
  /** Farewells and wills are kept back: nobody is to learn that a device is gone. */
  mute = false;
  readonly seen: Message[] = [];
  /** Names and uids. */
  pods: () => [string, string][] = () => [];
  readonly #peers = new Set<Peer>();
  readonly #own = generateKeyPairSync('ed25519').privateKey;

  constructor(
    private readonly clock: VirtualClock,
    private readonly names: readonly string[],
  ) {}

  #pick<T>(from: readonly T[]): T | undefined {
    return from[Math.floor(this.clock.random() * from.length)];
  }

  #deliver(m: Message): void {
    for (const p of [...this.#peers])
      if (p.topics.some((t) => matches(t, m.topic))) p.deliver(m.topic, m.payload);
  }

  send(topic: string, payload: Uint8Array): void {
    const m = { topic, payload: Buffer.from(payload) };
    if (this.mute && payload[2] === TYPE.bye) return;
    this.seen.push(m);
    const { mood, clock } = this;
    const copies = clock.random() < mood.double ? 3 : 1;
    for (let i = 0; i < copies; i++)
      if (clock.random() >= mood.drop)
        clock.after(clock.random() * mood.delay, () =>
          this.#deliver({ ...m, payload: Buffer.from(m.payload) }),
        );
    if (clock.random() < mood.mischief) clock.after(clock.random() * 2000, () => this.mischief());
  }

  /** One evil deed. */
  mischief(): void {
    const old = this.#pick(this.seen);
    if (!old) return;
    const payload = Buffer.from(old.payload);
    const deeds: (() => Message)[] = [
      () => ({ topic: old.topic, payload }),
      () => {
        const from = parseTopic(old.topic);
        const other = this.#pick(this.names)!;
        return { topic: from && 'node' in from ? nodeTopic(other, from.channel) : old.topic, payload };
      },
      () => {
        const to = this.#pick(['u', 'd', 's/u', 's/d'] as const)!;
        return { topic: nodeTopic(this.#pick(this.names)!, to), payload };
      },
      () => {
        for (let i = 0; i < 1 + this.clock.random() * 3; i++)
          payload[Math.floor(this.clock.random() * payload.length)]! ^=
            1 << Math.floor(this.clock.random() * 8);
        return { topic: old.topic, payload };
      },
      () => ({
        topic: old.topic,
        payload: payload.subarray(0, Math.floor(this.clock.random() * payload.length)),
      }),
      () => this.#forge(),
    ];
    this.#deliver(this.#pick(deeds)!());
  }

  /** With everything that it knows, and a signing key of its own. */
  #forge(): Message {
    const node = this.#pick(this.names)!;
    const hellos = this.seen
      .filter((m) => m.topic === nodeTopic(node, 'u') && m.payload[2] === TYPE.hello)
      .map((m) => new Decoder().push(m.payload)!.body as Hello);
    const h = hellos.at(-1) ?? { s: 's', w: 'w', g: 1, d: 'd', k: 'k', e: 'e' };
    const signer = {
      context: signingContext(node, 'd', h.s),
      counter: 5,
      sign: (d: Uint8Array) => sign(null, d, this.#own),
    };
    const sealer = { key: Buffer.alloc(32, 1), counter: 1000 };
    const pod = {
      metadata: { namespace: 'default', name: 'injected', uid: 'evil' },
      spec: { containers: [] },
    };
    const delta = { g: 1e9, b: h.d, d: 'x', u: [['p/default/injected', 'h', pod]] };
    // Let it even know what it cannot: which pods there are.
    const status = { phase: 'Failed', message: 'forged' };
    const told = this.pods().map(([name, uid]) => ({ namespace: 'default', name, uid, status, gone: true }));
    const report = { e: h.e, q: 1e6, p: told.map((pod) => [1e9, pod]) };
    const up = (type: number, body: unknown, how = {}) => ({
      topic: nodeTopic(node, 'u'),
      payload: encode(type, body, how)[0]!,
    });
    const down = (type: number, body: unknown, how: object) => ({
      topic: nodeTopic(node, 'd'),
      payload: encode(type, body, how)[0]!,
    });
    return this.#pick([
      () => up(TYPE.hello, { ...h, n: (h.n ?? 0) + 1 }),
      () => up(TYPE.hello, { ...h, s: 'other', p: undefined }),
      () => up(TYPE.report, report),
      () => up(TYPE.report, report, { sealer }),
      () => up(TYPE.applied, { s: h.s, g: 1e9, d: h.d }),
      () => down(TYPE.delta, delta, {}),
      () => down(TYPE.delta, delta, { signer }),
      () => down(TYPE.delta, delta, { sealer }),
      () => down(TYPE.welcome, { g: 0, t: 0, m: 1 }, { signer }),
      () => down(TYPE.challenge, { h: 'nonce', k: 'A'.repeat(44), c: 1 }, { signer }),
      () => down(TYPE.refused, { m: 'wipe yourself', r: 2 }, { signer }),
      () => down(TYPE.query, undefined, { signer: { ...signer, context: signingContext(node, 'd', '') } }),
    ])!();
  }

  bus(): Bus {
    let peer: Peer | undefined;
    return {
      start: async (h: BusHandlers) => {
        peer = { name: 'hub', topics: HUB_SUBSCRIPTIONS, deliver: h.message, cut: () => {} };
        this.#peers.add(peer);
        h.up();
      },
      stop: async () => {
        if (peer) this.#peers.delete(peer);
      },
      publish: async (topic, payload) => this.send(topic, payload),
    };
  }

  transport(name: string): Transport {
    return {
      connect: async (o) => {
        const end = (tell: boolean) => {
          if (!this.#peers.delete(peer)) return;
          if (peer.will && tell && !this.mute) this.send(peer.will.topic, peer.will.payload);
          if (tell) o.onClose('cut');
        };
        const peer: Peer = { name, topics: o.subscribe, deliver: o.onMessage, cut: () => end(true) };
        if (o.will) peer.will = { topic: o.will.topic, payload: Buffer.from(o.will.payload) };
        this.#peers.add(peer);
        return {
          publish: async (topic, payload) => {
            if (this.#peers.has(peer)) this.send(topic, payload);
          },
          close: async () => end(false),
          destroy: () => end(true),
        };
      },
    };
  }

  cut(name: string): void {
    for (const p of [...this.#peers]) if (p.name === name) p.cut();
  }

  /** What it can make of a message: the bytes, and the body where that is not sealed. */
  static read({ payload }: Message): string {
    let body = '';
    for (const tail of [0, 64])
      try {
        const plain = Buffer.from(payload.subarray(0, payload.length - tail));
        const head = tail ? Buffer.concat([plain.subarray(0, 3), plain.subarray(7)]) : plain;
        body += JSON.stringify(new Decoder().push(head)?.body);
      } catch {
        // Sealed, or of the other form.
      }
    return `${payload.toString('latin1')}${body}`.toLowerCase();
  }
}

/** Runs everything at once, and checks every set that it is given. */
class Host implements PodHost {
  desired: DesiredSet | undefined;
  link: AgentLink | undefined;

  constructor(
    private readonly node: string,
    private readonly world: World,
  ) {}

  setDesired(d: DesiredSet): void {
    const uids = new Set(d.pods.map((p) => p.metadata!.uid!));
    for (const uid of uids)
      if (this.world.bound.get(uid) !== this.node) this.world.problems.push(`injected ${uid}`);
    for (const p of this.desired?.pods ?? [])
      if (!uids.has(p.metadata!.uid!) && !this.world.deleted.has(p.metadata!.uid!))
        this.world.problems.push(`${p.metadata!.name} was taken away`);
    if (d.generation < (this.desired?.generation ?? 0)) this.world.problems.push('an older generation');
    for (const s of d.secrets) if (atob(s.data!['k']!) !== SECRET) this.world.problems.push('another secret');
    this.desired = d;
    this.tell();
  }

  /** Every report has a higher number in it than all before, those of earlier processes of the agent as well. */
  tell(): void {
    for (const p of this.desired?.pods ?? [])
      this.link?.pod({
        namespace: 'default',
        name: p.metadata!.name!,
        uid: p.metadata!.uid!,
        status: { phase: 'Running', message: `${STATUS} ${++this.world.told}` },
        ...(p.metadata!.deletionTimestamp ? { gone: true } : {}),
      });
  }

  async stats(): Promise<NodeStats> {
    return { w: 1000, n: [0, 0], p: [] };
  }
  async *logs(): AsyncGenerator<Uint8Array> {
    yield Buffer.from(`${LOG}\n`.repeat(20));
  }
}

interface Device {
  host: Host;
  link: AgentLink;
  identity: Identity;
  dataDir: string;
}

let runs = 0;

class World {
  readonly clock: VirtualClock;
  readonly client: MemoryClient;
  readonly broker: EvilBroker;
  readonly names: string[];
  readonly problems: string[] = [];
  /** Pods' uids to the node that they were bound to, and those that their owner deleted. */
  readonly bound = new Map<string, string>();
  readonly deleted = new Set<string>();
  readonly devices = new Map<string, Device>();
  /** Of the last report that somebody was asked to send. */
  told = 0;
  readonly #statuses = new Map<string, number>();
  hub!: HubLink;
  #serial = 0;

  constructor(seed: number) {
    this.clock = new VirtualClock({ seed });
    this.client = new MemoryClient(this.clock);
    // Names that no run before has used: the hub remembers who had them.
    const run = ++runs;
    this.names = [`a${run}`, `b${run}`];
    this.broker = new EvilBroker(this.clock, this.names);
    this.broker.pods = () => [...this.bound.keys()].map((uid, i) => [`${POD}${i}`, uid]);
  }

  async start(): Promise<void> {
    await this.client.create<Secret>(secrets, {
      metadata: { namespace: 'default', name: 's' },
      data: { k: btoa(SECRET) },
    });
    await this.startHub();
    for (const name of this.names) this.startAgent(name, await this.join(name));
    void this.#watch();
  }

  async startHub(): Promise<void> {
    this.hub = new HubLink({
      client: this.client,
      bus: this.broker.bus(),
      pki,
      clock: this.clock,
      log: silentLog,
    });
    await this.hub.start();
  }

  /** What a device with a new key has after joining: from then on the name is its. */
  async join(name: string): Promise<Identity> {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const cert = await pki.issueClientCert({ ...nodeSubject(name), publicKey });
    pki.issued.record(cert);
    const signingKey = pki.signingPublicKey.toString('base64');
    return identityOf({ cert, ca: pki.caPem, signingKey, addresses: ['h:1'] }, privateKey);
  }

  startAgent(name: string, identity: Identity, dataDir = mkdtempSync(join(dir, 'agent-'))): void {
    const host = new Host(name, this);
    const link = new AgentLink({
      dataDir,
      identity,
      host,
      clock: this.clock,
      log: silentLog,
      transport: this.broker.transport(name),
    });
    host.link = link;
    this.devices.set(name, { host, link, identity, dataDir });
    link.start();
    link.node({
      labels: {},
      capacity: { cpu: '4' },
      allocatable: { cpu: '4' },
      addresses: [],
      nodeInfo: {} as never,
      conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady', message: 'well' }],
      runtimeHandlers: [],
    });
  }

  async restartAgent(name: string): Promise<void> {
    const { link, identity, dataDir } = this.devices.get(name)!;
    await link.stop();
    this.startAgent(name, identity, dataDir);
  }

  /** The device is replaced by another of the same name, as its owner may do. */
  async replace(name: string): Promise<void> {
    const { link, host } = this.devices.get(name)!;
    await link.stop();
    for (const p of host.desired?.pods ?? []) this.deleted.add(p.metadata!.uid!);
    // A hello of the old device may still be on its way; it comes too late once another has the name.
    const identity = await this.join(name);
    await this.client.delete(nodes, { name }).catch(() => {});
    this.startAgent(name, identity);
  }

  /**
   * Does what the hub tells a device whose name another key has: its owner deletes the Node. An earlier device that was
   * linked and not yet in the API may have registered after its replacement.
   */
  async heedRefusals(): Promise<void> {
    for (const node of (await this.client.list<Node>(nodes)).items) {
      const name = node.metadata!.name!;
      const { publicKey } = this.devices.get(name)!.identity;
      if (node.metadata!.annotations?.[KEY_ANNOTATION] !== spkiOf(publicKey))
        await this.client.delete(nodes, { name });
    }
    await this.clock.advance(3_600_000);
  }

  /** Every status that reaches the store: nobody's but the device's own, and never an older one after a newer. */
  async #watch(): Promise<void> {
    for await (const e of this.client.watch<Pod>(pods)) {
      if (e.type !== 'ADDED' && e.type !== 'MODIFIED') continue;
      const { metadata, status } = e.object as Pod;
      if (!status?.message) continue;
      const number = Number(status.message.split(' ')[1]);
      const uid = metadata!.uid!;
      if (status.phase !== 'Running' || !status.message.startsWith(STATUS))
        this.problems.push('a forged status');
      if (number < (this.#statuses.get(uid) ?? 0)) this.problems.push('an old status');
      this.#statuses.set(uid, number);
    }
  }

  async pod(node: string): Promise<void> {
    const made = await this.client.create<Pod>(pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace: 'default', name: `${POD}${this.#serial++}` },
      spec: {
        nodeName: node,
        containers: [{ name: 'app', image: 'x', env: [{ name: 'E', value: ENV }] }],
        volumes: [{ name: 's', secret: { secretName: 's' } }],
      },
    });
    this.bound.set(made.metadata!.uid!, node);
  }

  async deletePod(n: number): Promise<void> {
    const { items } = await this.client.list<Pod>(pods);
    const p = items[n % Math.max(1, items.length)];
    if (!p) return;
    this.deleted.add(p.metadata!.uid!);
    const key = { namespace: 'default', name: p.metadata!.name! };
    await this.client.delete(pods, key, { gracePeriodSeconds: 5 });
  }

  async log(node: string): Promise<void> {
    const stop = new AbortController();
    this.clock.after(5000, () => stop.abort());
    try {
      const request = { namespace: 'default', pod: 'p', uid: 'u', container: 'app' };
      for await (const bytes of await this.hub.logs(node, request, stop.signal))
        if (!/^(logline\n)*$/.test(Buffer.from(bytes).toString())) this.problems.push('a forged log');
    } catch {
      // Denied, which is all that it can do.
    }
  }

  ready = async (name: string) =>
    (await this.client.get<Node>(nodes, { name })).status?.conditions?.find((c) => c.type === 'Ready')
      ?.status;

  async stop(): Promise<void> {
    for (const d of this.devices.values()) await d.link.stop();
    await this.hub.stop();
  }
}

type Step = {
  do: 'pod' | 'delete' | 'tell' | 'log' | 'cut' | 'agent' | 'hub' | 'replace' | 'wait';
  n: number;
};
const steps = fc.array(
  fc.record({
    do: fc.constantFrom<Step['do']>(
      'pod',
      'pod',
      'pod',
      'delete',
      'tell',
      'tell',
      'log',
      'cut',
      'agent',
      'hub',
      'replace',
      'wait',
    ),
    n: fc.integer({ min: 0, max: 7 }),
  }),
  { minLength: 8, maxLength: 25 },
);

describe('a hostile broker', () => {
  it('gains nothing but denial of service', async () => {
    let kinds = new Set<number>();
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1e6 }), steps, async (seed, todo) => {
        const w = new World(seed);
        w.broker.mood = { drop: 0.1, double: 0.2, delay: 200, mischief: 0.5 };
        await w.start();
        await w.clock.advance(20_000);
        for (const s of todo) {
          const name = w.names[s.n % 2]!;
          const deeds: Record<Step['do'], () => unknown> = {
            pod: () => w.pod(name),
            delete: () => w.deletePod(s.n),
            tell: () => w.devices.get(name)!.host.tell(),
            log: () => void w.log(name),
            cut: () => w.broker.cut(name),
            agent: () => w.restartAgent(name),
            hub: async () => {
              await w.hub.stop();
              await w.startHub();
            },
            replace: () => w.replace(name),
            wait: () => w.clock.advance(s.n * 10_000),
          };
          await deeds[s.do]();
          for (let i = 0; i < 5; i++) w.broker.mischief();
          await w.clock.advance(500 + s.n * 300);
        }
        for (let i = 0; i < 100; i++) w.broker.mischief();
        await w.clock.advance(5_000);
        expect(w.problems).toEqual([]);
        for (const m of w.broker.seen) {
          kinds.add(m.payload[2]!);
          const text = EvilBroker.read(m);
          for (const mark of [...MARKS, btoa(SECRET).toLowerCase()])
            expect(text.includes(mark), mark).toBe(false);
        }
        // Honest again, everything is as it should be.
        w.broker.mood = { drop: 0, double: 0, delay: 0, mischief: 0 };
        await w.clock.advance(2 * 3_600_000);
        await w.heedRefusals();
        const all = (await w.client.list<Pod>(pods)).items;
        for (const name of w.names) {
          const mine = all.filter((p) => p.spec?.nodeName === name).map((p) => p.metadata!.uid!);
          const held = (w.devices.get(name)!.host.desired?.pods ?? []).map((p) => p.metadata!.uid!);
          expect(held.sort()).toEqual(mine.sort());
          expect(await w.ready(name)).toBe('True');
        }
        expect(w.problems).toEqual([]);
        await w.stop();
      }),
      // A failure that shrinks for long is to print its seed before the test's time is over.
      { numRuns: 12, interruptAfterTimeLimit: 90_000 },
    );
    // What it read was not only hellos.
    for (const t of [TYPE.hello, TYPE.challenge, TYPE.welcome, TYPE.delta, TYPE.report, TYPE.data])
      expect(kinds.has(t), `type ${t}`).toBe(true);
    kinds = new Set();
  }, 120_000);

  it('cannot keep a dead device alive, nor bring back what it said', async () => {
    const w = new World(7);
    await w.start();
    const [name] = w.names as [string, string];
    await w.pod(name);
    await w.clock.advance(10_000);
    expect(await w.ready(name)).toBe('True');
    w.broker.mute = true;
    await w.devices.get(name)!.link.stop();
    const { revision } = w.client;
    for (let t = 0; t < 5 * 60; t++) {
      w.broker.mischief();
      await w.clock.advance(60_000);
    }
    expect(await w.ready(name)).toBe('Unknown');
    expect(w.client.revision, 'nothing but that was written').toBeLessThan(revision + 10);
    expect(w.problems).toEqual([]);
    await w.stop();
  });
});
