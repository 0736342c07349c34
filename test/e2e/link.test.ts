/** The link with real TLS and real brokers: the embedded one, and Debian's mosquitto. One suite for both. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { generateKeyPairSync, randomBytes, sign, X509Certificate } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join as path } from 'node:path';
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import type { ConfigMap, Node, Pod, Secret } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadIdentity, saveIdentity } from '../../agent/link/identity.js';
import { ensureIdentity, JoinError, join } from '../../agent/link/join.js';
import { AgentLink } from '../../agent/link/link.js';
import { TlsTransport } from '../../agent/link/transport.js';
import type { PodHost } from '../../agent/ports.js';
import { rfc3339, systemClock } from '../../api/clock.js';
import { configMaps, nodes, pods, secrets } from '../../api/kinds/index.js';
import { type Log, silentLog } from '../../api/log.js';
import { Decoder, encode, keyId } from '../../api/wire/codec.js';
import type { DesiredSet } from '../../api/wire/desired.js';
import {
  agentMac,
  formatToken,
  type JoinChallenge,
  type JoinHello,
  parseToken,
  transcript,
} from '../../api/wire/join.js';
import { TYPE } from '../../api/wire/messages.js';
import { type MqttConnection, openMqtt } from '../../api/wire/mqtt.js';
import type { NodeStats } from '../../api/wire/streams.js';
import { joinTopic, nodeSubscriptions, nodeTopic } from '../../api/wire/topics.js';
import { broker as brokerCommand } from '../../cli/broker.js';
import type { Bus, BusHandlers } from '../../hub/link/bus.js';
import { EmbeddedBroker } from '../../hub/link/embedded.js';
import { ExternalBus } from '../../hub/link/external.js';
import { HubLink } from '../../hub/link/link.js';
import { REVOKED } from '../../hub/link/revocation.js';
import { bootstrapTokenSecret } from '../../hub/link/token.js';
import { createPki, nodeSubject, type Pki } from '../../hub/pki/pki.js';
import { MemoryClient } from '../../hub/testing/memory-client.js';
import { missing } from './support/needs.js';
import { eventually } from './support/system.js';

const root = mkdtempSync(path(tmpdir(), 'cox-link-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const collectLog = (into: string[]): Log => ({
  ...silentLog,
  warn: (f, m) => void into.push(`${m} ${JSON.stringify(f)}`),
  error: (f, m) => void into.push(`${m} ${JSON.stringify(f)}`),
  child: () => collectLog(into),
});

/** Two neighbouring free ports. */
async function freePorts(): Promise<number> {
  const listen = (port: number) =>
    new Promise<{ port: number; close: () => void } | undefined>((done) => {
      const s = createServer();
      s.once('error', () => done(undefined));
      s.listen(port, '127.0.0.1', () => {
        const at = (s.address() as { port: number }).port;
        done({ port: at, close: () => s.close() });
      });
    });
  for (;;) {
    const a = await listen(0);
    const b = await listen(a!.port + 1);
    a!.close();
    b?.close();
    if (b) return a!.port;
  }
}

interface Site {
  pki: Pki;
  /** Ports for nodes and for joining. */
  port: number;
  joinPort: number;
  bus: Bus;
  warnings: string[];
  /** The broker goes away and comes back on the same ports. */
  restartBroker(): Promise<void>;
  stop(): Promise<void>;
}

async function embeddedSite(): Promise<Site> {
  const dir = mkdtempSync(path(root, 'hub-'));
  const pki = await createPki(dir, { hosts: ['127.0.0.1'] });
  const warnings: string[] = [];
  const broker = new EmbeddedBroker({
    pki,
    log: collectLog(warnings),
    port: await freePorts(),
    host: '127.0.0.1',
  });
  let handlers: BusHandlers;
  const site: Site = {
    pki,
    port: 0,
    joinPort: 0,
    bus: {
      start: async (h) => {
        handlers = h;
        await broker.start(h);
        site.port = site.joinPort = broker.port;
      },
      stop: () => broker.stop(),
      publish: (t, p) => broker.publish(t, p),
      recheck: () => broker.recheck(),
      renewed: () => broker.renewed(),
      addresses: () => ({ node: [`127.0.0.1:${broker.port}`], join: [`127.0.0.1:${broker.port}`] }),
    },
    warnings,
    restartBroker: async () => {
      await broker.stop();
      await broker.start(handlers);
    },
    stop: () => broker.stop(),
  };
  return site;
}

async function mosquittoSite(): Promise<Site> {
  const dir = mkdtempSync(path(root, 'hub-'));
  const out = mkdtempSync(path(root, 'mosquitto-'));
  const port = await freePorts();
  const pki = await createPki(dir);
  const stdout = process.stdout.write.bind(process.stdout);
  process.stdout.write = () => true;
  try {
    const args = ['mosquitto', '--data-dir', dir, '--out', out, '--port', `${port}`, '--host', '127.0.0.1'];
    expect(await brokerCommand(args)).toBe(0);
  } finally {
    process.stdout.write = stdout;
  }
  let child: ChildProcess;
  let output = '';
  const start = async () => {
    // Started by root, mosquitto becomes the user of its name, who must reach and read the files.
    if (process.getuid?.() === 0) {
      for (const dir of [root, out]) chmodSync(dir, 0o755);
      execFileSync('chown', ['mosquitto', path(out, 'server.key')]);
    }
    const conf = path(out, 'mosquitto.conf');
    child = spawn('mosquitto', ['-c', conf], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        PATH: `${process.env['PATH']}:/usr/sbin`,
        OPENSSL_CONF: path(out, 'openssl.cnf'),
      },
    });
    child.stdout!.on('data', (c) => {
      output += c;
    });
    child.stderr!.on('data', (c) => {
      output += c;
    });
    await eventually(
      'mosquitto to listen',
      () => {
        if (child.exitCode !== null) throw new Error(`mosquitto exited: ${output}`);
        return new Promise((done, fail) => {
          const s = tlsConnect({ port: port + 1, host: '127.0.0.1', rejectUnauthorized: false }, () => {
            s.destroy();
            done(true);
          });
          s.on('error', fail);
        });
      },
      { context: () => output, timeoutMs: 10_000 },
    );
  };
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = new Promise((done) => child.once('exit', done));
      child.kill('SIGTERM');
      await gone;
    }
  };
  await start();
  const warnings: string[] = [];
  return {
    pki,
    port,
    joinPort: port + 1,
    bus: new ExternalBus({ url: `mqtts://127.0.0.1:${port}`, pki, log: collectLog(warnings) }),
    warnings,
    restartBroker: async () => {
      await stop();
      await start();
    },
    stop,
  };
}

class Host implements PodHost {
  desired: DesiredSet | undefined;
  link: AgentLink | undefined;
  setDesired(d: DesiredSet): void {
    this.desired = d;
    for (const p of d.pods)
      this.link?.pod({
        namespace: p.metadata!.namespace!,
        name: p.metadata!.name!,
        uid: p.metadata!.uid!,
        status: { phase: 'Running' },
        ...(p.metadata!.deletionTimestamp ? { gone: true } : {}),
      });
  }
  async stats(): Promise<NodeStats> {
    return { w: 1000, n: [0, 0], p: [] };
  }
  async *logs(): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < 30_000; i++)
      yield Buffer.from(`line ${i} of a log that is longer than one window of credit\n`);
  }
}

const certified = async (pki: Pki, cn: string) => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const cert = await pki.issueClientCert({ cn, publicKey });
  return { cert, key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string };
};

const dial = (port: number, options: object = {}): Promise<TLSSocket> =>
  new Promise((done, fail) => {
    const s = tlsConnect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options }, () => done(s));
    s.on('error', fail);
  });

interface Raw {
  mqtt: MqttConnection;
  got: string[];
  closed: () => boolean;
}

/** A client that keeps to no rules. Rejects when the broker does not let it in. */
async function raw(
  port: number,
  clientId: string,
  credentials: object,
  subscribe: string[],
  will?: { topic: string; payload: Uint8Array },
): Promise<Raw> {
  const got: string[] = [];
  let closed = false;
  const mqtt = await openMqtt(await dial(port, credentials), {
    clientId,
    keepalive: 60,
    subscribe,
    ...(will ? { will } : {}),
    onMessage: (topic, payload) => void got.push(`${topic} ${Buffer.from(payload)}`),
    onClose: () => {
      closed = true;
    },
  });
  return { mqtt, got, closed: () => closed };
}

const pause = (ms: number) => new Promise((r) => setTimeout(r, ms));

const brokers: [string, () => Promise<Site>, boolean][] = [
  ['embedded broker', embeddedSite, false],
  ['mosquitto', mosquittoSite, missing('mosquitto')],
];

for (const [name, make, absent] of brokers)
  describe.skipIf(absent)(`${name}: bus and isolation`, () => {
    let site: Site;
    const heard: string[] = [];
    beforeAll(async () => {
      site = await make();
      let up = () => {};
      const ready = new Promise<void>((r) => {
        up = r;
      });
      await site.bus.start({
        message: (topic, payload) => void heard.push(`${topic} ${Buffer.from(payload)}`),
        up,
        down: () => {},
      });
      await ready;
    });
    afterAll(async () => {
      await site?.bus.stop();
      await site?.stop();
    });
    const nodeClient = async (node: string, subscribe: string[], clientId = `system:node:${node}`) =>
      raw(site.port, clientId, await certified(site.pki, `system:node:${node}`), subscribe);
    /** What the hub hears next of `marker`. */
    const hears = (text: string) => eventually(text, () => heard.includes(text), { timeoutMs: 10_000 });

    it('carries messages between the hub and a node, both ways', async () => {
      const a = await nodeClient('a', nodeSubscriptions('a'));
      await a.mqtt.publish(nodeTopic('a', 'u'), Buffer.from('up'));
      await hears(`${nodeTopic('a', 'u')} up`);
      await site.bus.publish(nodeTopic('a', 'd'), Buffer.from('down'));
      await site.bus.publish(nodeTopic('a', 's/d'), Buffer.from('stream'));
      await eventually('both', () => a.got.length === 2);
      expect(a.got).toEqual([`${nodeTopic('a', 'd')} down`, `${nodeTopic('a', 's/d')} stream`]);
      await a.mqtt.close();
    });

    it('drops what is for nobody, and tells of a broken connection by its will', async () => {
      await site.bus.publish(nodeTopic('nobody', 'd'), Buffer.from('x'));
      const will = { topic: nodeTopic('w', 'u'), payload: Buffer.from('gone') };
      const w = await raw(
        site.port,
        'x',
        await certified(site.pki, 'system:node:w'),
        nodeSubscriptions('w'),
        will,
      );
      w.mqtt.destroy();
      await hears(`${nodeTopic('w', 'u')} gone`);
    });

    it("lets no node hear another's messages", async () => {
      const b = await nodeClient('b', nodeSubscriptions('b'));
      const spies: Raw[] = [];
      for (const filter of [
        ...nodeSubscriptions('b'),
        nodeTopic('b', 'u'),
        '#',
        'cox/v1/n/+/d',
        'cox/v1/#',
        '+/+/+/+/+',
      ])
        try {
          spies.push(await nodeClient(`spy${spies.length}`, [filter]));
        } catch (e) {
          expect((e as Error).message).toMatch(/refused the subscription|closed/);
        }
      await site.bus.publish(nodeTopic('b', 'd'), Buffer.from('secret'));
      await b.mqtt.publish(nodeTopic('b', 'u'), Buffer.from('report'));
      await eventually('b', () => b.got.length === 1);
      await hears(`${nodeTopic('b', 'u')} report`);
      await pause(300);
      for (const s of spies) expect(s.got).toEqual([]);
      for (const c of [b, ...spies]) await c.mqtt.close();
    });

    it("lets no node speak as another, as the hub, or in another's last will", async () => {
      const victim = await nodeClient('victim', nodeSubscriptions('victim'));
      const lies = [
        nodeTopic('victim', 'u'),
        nodeTopic('victim', 's/u'),
        nodeTopic('victim', 'd'),
        nodeTopic('evil', 'd'),
        'cox/v1/j/x/u',
        '$SYS/x',
      ];
      for (const topic of lies) {
        const evil = await nodeClient('evil', nodeSubscriptions('evil'));
        await evil.mqtt.publish(topic, Buffer.from('lie'));
        await pause(50);
        evil.mqtt.destroy();
      }
      const will = { topic: nodeTopic('victim', 'u'), payload: Buffer.from('lie') };
      const w = await raw(site.port, 'x', await certified(site.pki, 'system:node:evil'), [], will).catch(
        () => undefined,
      );
      w?.mqtt.destroy();
      await victim.mqtt.publish(nodeTopic('victim', 'u'), Buffer.from('truth'));
      await hears(`${nodeTopic('victim', 'u')} truth`);
      await pause(300);
      expect(heard.filter((h) => h.endsWith('lie'))).toEqual([]);
      expect(victim.got).toEqual([]);
      await victim.mqtt.close();
    });

    it('lets nobody push another off by its client id', async () => {
      const own = await nodeClient('own', nodeSubscriptions('own'));
      const thief = await nodeClient('thief', nodeSubscriptions('thief'), 'system:node:own');
      await pause(300);
      expect(own.closed()).toBe(false);
      await site.bus.publish(nodeTopic('own', 'd'), Buffer.from('still'));
      await eventually('own', () => own.got.length === 1);
      expect(thief.got).toEqual([]);
      // But the node itself takes its own stale connection over.
      const again = await nodeClient('own', nodeSubscriptions('own'), 'whatever');
      await eventually('the old one to go', () => own.closed());
      for (const c of [thief, again]) await c.mqtt.close();
    });

    it('lets a client without certificate do nothing but join, on its own topics', async () => {
      const id = `j-${randomBytes(16).toString('hex')}`;
      const other = `j-${randomBytes(16).toString('hex')}`;
      const joiner = await raw(site.joinPort, id, {}, [joinTopic(id, 'd')]);
      await joiner.mqtt.publish(joinTopic(id, 'u'), Buffer.from('hello'));
      await hears(`${joinTopic(id, 'u')} hello`);
      await site.bus.publish(joinTopic(id, 'd'), Buffer.from('hi'));
      await eventually('answer', () => joiner.got.length === 1);
      await joiner.mqtt.close();
      for (const filter of [joinTopic(other, 'd'), 'cox/v1/j/+/d', '#', nodeTopic('b', 'd')]) {
        const spy = await raw(site.joinPort, id, {}, [filter]).catch(() => undefined);
        await site.bus.publish(joinTopic(other, 'd'), Buffer.from('for other'));
        await site.bus.publish(nodeTopic('b', 'd'), Buffer.from('for b'));
        await pause(100);
        expect(spy?.got ?? []).toEqual([]);
        await spy?.mqtt.close();
      }
      for (const topic of [joinTopic(other, 'u'), nodeTopic('b', 'u'), joinTopic(id, 'd')]) {
        const liar = await raw(site.joinPort, id, {}, [joinTopic(id, 'd')]);
        await liar.mqtt.publish(topic, Buffer.from('lie'));
        await pause(50);
        liar.mqtt.destroy();
      }
      await pause(200);
      expect(heard.filter((h) => h.endsWith('lie'))).toEqual([]);
    });

    it('lets nobody in as a node without a certificate of this hub', async () => {
      const elsewhere = await createPki(mkdtempSync(path(root, 'other-')));
      const foreign = await certified(elsewhere, 'system:node:a');
      await expect(raw(site.port, 'system:node:a', {}, nodeSubscriptions('a'))).rejects.toThrow();
      await expect(raw(site.port, 'system:node:a', foreign, nodeSubscriptions('a'))).rejects.toThrow();
    });
  });

describe('embedded broker: hostile clients', () => {
  it('ends a connection that announces a huge packet', async () => {
    const site = await embeddedSite();
    await site.bus.start({ message: () => {}, up: () => {}, down: () => {} });
    const socket = await dial(site.port, await certified(site.pki, 'system:node:big'));
    const id = Buffer.from('x');
    socket.write(Buffer.from([0x10, 12 + id.length, 0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, id.length, ...id]));
    const closed = new Promise((r) => socket.once('close', r));
    socket.on('error', () => {});
    socket.once('data', () => {
      // PUBLISH of 200 MB, of which a little comes.
      socket.write(Buffer.from([0x30, 0x80, 0x80, 0x80, 0x60]));
      socket.write(Buffer.alloc(1000));
    });
    await closed;
    await site.bus.stop();
  });

  it('reads more slowly from a client that sends too much, and loses nothing of it', async () => {
    const site = await embeddedSite();
    const heard: number[] = [];
    await site.bus.start({
      message: (_t, p) => void heard.push(Number(Buffer.from(p).toString())),
      up: () => {},
      down: () => {},
    });
    const loud = await raw(
      site.port,
      'x',
      await certified(site.pki, 'system:node:a'),
      nodeSubscriptions('a'),
    );
    const count = 6000;
    for (let i = 0; i < count; i++) void loud.mqtt.publish(nodeTopic('a', 'u'), Buffer.from(`${i}`));
    await eventually('all of it', () => heard.length === count);
    expect(heard).toEqual(Array.from({ length: count }, (_, i) => i));
    expect(loud.closed()).toBe(false);
    await site.bus.stop();
  });

  it("takes the hub's renewed certificate over", async () => {
    const site = await embeddedSite();
    await site.bus.start({ message: () => {}, up: () => {}, down: () => {} });
    const serial = async () => {
      const s = await dial(site.port);
      const cert = s.getPeerX509Certificate()!;
      s.destroy();
      return cert.serialNumber;
    };
    const before = await serial();
    Object.assign(site.pki.server, await site.pki.issueServerCert('coxswain-hub', ['127.0.0.1']));
    site.bus.renewed!();
    const after = await serial();
    expect(after).not.toBe(before);
    expect(after).toBe(new X509Certificate(site.pki.server.cert).serialNumber);
    const node = await certified(site.pki, 'system:node:a');
    const still = await raw(site.port, 'x', node, nodeSubscriptions('a'));
    await still.mqtt.close();
    await site.bus.stop();
  });

  it('says which port is taken and what to do', async () => {
    const site = await embeddedSite();
    await site.bus.start({ message: () => {}, up: () => {}, down: () => {} });
    const second = new EmbeddedBroker({ pki: site.pki, log: silentLog, port: site.port, host: '127.0.0.1' });
    await expect(second.start({ message: () => {}, up: () => {}, down: () => {} })).rejects.toThrow(
      new RegExp(`MQTT port ${site.port} is in use.*--mqtt-port`),
    );
    await site.bus.stop();
  });
});

for (const [name, make, absent] of brokers)
  describe.skipIf(absent)(`${name}: joining and the link`, () => {
    let site: Site;
    let client: MemoryClient;
    let hub: HubLink;
    const agents: AgentLink[] = [];
    const logLines: string[] = [];
    beforeAll(async () => {
      site = await make();
      client = new MemoryClient(systemClock);
      hub = new HubLink({
        client,
        bus: site.bus,
        pki: site.pki,
        clock: systemClock,
        log: collectLog(site.warnings),
        graceMs: 300,
      });
      await hub.start();
    });
    afterAll(async () => {
      for (const a of agents) await a.stop();
      await hub?.stop();
      await site?.stop();
    });

    let serial = 0;
    async function token(
      o: { ttl?: number; uses?: number; secret?: string; nodeName?: string } = {},
    ): Promise<string> {
      const id = `t${`${serial++}`.padStart(5, '0')}`;
      const secret = 'abcdefghij012345';
      const expiration = rfc3339(Date.now() + (o.ttl ?? 3_600_000));
      await client.create<Secret>(
        secrets,
        bootstrapTokenSecret({
          id,
          secret,
          expiration,
          uses: o.uses ?? 1,
          ...(o.nodeName ? { nodeName: o.nodeName } : {}),
        }),
      );
      const addresses = [`127.0.0.1:${site.joinPort}`];
      return formatToken({ addresses, caHash: site.pki.caHash, id, secret: o.secret ?? secret });
    }
    const fresh = () => mkdtempSync(path(root, 'node-'));
    const joinAs = (nodeName: string, tok: string, dataDir = fresh()) =>
      join({ dataDir, token: tok, nodeName, log: collectLog(logLines) });
    const start = async (nodeName: string, dataDir = fresh(), onSocket?: (s: Socket) => void) => {
      const identity = await ensureIdentity({
        dataDir,
        token: existsSync(path(dataDir, 'identity.json')) ? undefined : await token(),
        nodeName,
        log: silentLog,
      });
      const host = new Host();
      const link = new AgentLink({
        dataDir,
        identity,
        host,
        clock: systemClock,
        log: collectLog(logLines),
        ...(onSocket ? { transport: new TlsTransport({ identity, onSocket }) } : {}),
      });
      host.link = link;
      agents.push(link);
      link.start();
      link.node({
        labels: {},
        capacity: { cpu: '1' },
        allocatable: { cpu: '1' },
        addresses: [],
        nodeInfo: {} as never,
        conditions: [{ type: 'Ready', status: 'True' }],
        runtimeHandlers: [],
      });
      await eventually(`${nodeName} linked`, () => link.connected && hub.isLinked(nodeName));
      return { link, host, dataDir };
    };

    it('gives a device its identity, and keeps key and secret to themselves', async () => {
      const dataDir = fresh();
      const identity = await joinAs('dev1', await token(), dataDir);
      expect(identity.node).toBe('dev1');
      for (const f of readdirSync(dataDir)) expect(statSync(path(dataDir, f)).mode & 0o777, f).toBe(0o600);
      expect(loadIdentity(dataDir)?.node).toBe('dev1');
      expect(readFileSync(path(dataDir, 'identity.json'), 'utf8')).not.toContain('PRIVATE');
      // Later starts need no token, and one of the same hub is ignored.
      expect((await ensureIdentity({ dataDir, log: silentLog })).node).toBe('dev1');
      expect((await ensureIdentity({ dataDir, token: await token(), log: silentLog })).node).toBe('dev1');
    });

    it('refuses a wrong, an expired, a used-up and an unknown token, each by name', async () => {
      const used = await token();
      await joinAs('dev2', used);
      const cases: [string, string, RegExp][] = [
        ['wrong', await token({ secret: 'zzzzzzzzzzzzzzzz' }), /secret of the join token is wrong/],
        ['expired', await token({ ttl: -1000 }), /expired at .*cox token create/],
        ['used', used, /used up.*cox token create/],
        ['unknown', used.replace(/\.t\d+\./, '.zzzzzz.'), /knows no join token "zzzzzz"/],
      ];
      for (const [reason, tok, message] of cases) {
        const e = await joinAs('dev3', tok).catch((e: unknown) => e);
        expect(e).toBeInstanceOf(JoinError);
        expect(e).toMatchObject({ reason, message: expect.stringMatching(message) });
      }
    });

    it('counts uses by device: the same key may ask again, another may not', async () => {
      const tok = await token({ uses: 2 });
      const dataDir = fresh();
      await joinAs('dev4', tok, dataDir);
      await joinAs('dev4', tok, dataDir);
      await joinAs('dev5', tok);
      await expect(joinAs('dev6', tok)).rejects.toMatchObject({ reason: 'used' });
    });

    it('lets as many devices join at once as the token has uses', async () => {
      const tok = await token({ uses: 24 });
      const names = await Promise.all(
        Array.from({ length: 24 }, async (_, i) => (await joinAs(`crowd${i}`, tok)).node),
      );
      expect(new Set(names).size).toBe(24);
      await expect(joinAs('crowd24', tok)).rejects.toMatchObject({ reason: 'used' });
    });

    it('grants nothing to who repeats the join of another, or changes it on the way', async () => {
      const { id, secret } = parseToken(await token({ uses: 5 }));
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const spki = publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
      const hello: JoinHello = { id, name: 'dev30', key: spki, nonce: 'AAAA' };
      const talk = async (first: JoinHello, answer: (c: JoinChallenge) => object) => {
        const me = `j-${randomBytes(16).toString('hex')}`;
        const heard: { type: number; body: unknown }[] = [];
        const mqtt = await openMqtt(await dial(site.joinPort), {
          clientId: me,
          keepalive: 60,
          subscribe: [joinTopic(me, 'd')],
          onMessage: (_t, p) => void heard.push(new Decoder().push(p)!),
          onClose: () => {},
        });
        const say = async (type: number, body: object) => {
          const before = heard.length;
          await mqtt.publish(joinTopic(me, 'u'), encode(type, body)[0]!);
          await eventually('an answer', () => heard.length > before);
          return heard.at(-1)!;
        };
        const challenge = await say(TYPE.joinHello, first);
        const proof = answer(challenge.body as JoinChallenge);
        const last = await say(TYPE.joinProof, proof);
        const again = await say(TYPE.joinProof, proof);
        await mqtt.close();
        return { proof, last, again };
      };
      const prove = (h: JoinHello) => (c: JoinChallenge) => {
        const said = transcript(h, c);
        const sig = sign('sha256', Buffer.from(said), privateKey).toString('base64');
        return { mac: agentMac(secret, said), sig };
      };
      const good = await talk(hello, prove(hello));
      expect(good.last.type).toBe(TYPE.joinGrant);
      expect(good.again.type, 'a proof is good once').toBe(TYPE.joinRefused);
      const replayed = await talk(hello, () => good.proof);
      expect(replayed.last).toMatchObject({ type: TYPE.joinRefused, body: { reason: 'wrong' } });
      // What the device proves is not what the broker made of its hello.
      const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey;
      const foreign = other.export({ type: 'spki', format: 'der' }).toString('base64');
      for (const changed of [{ name: 'dev31' }, { key: foreign }]) {
        const { last } = await talk({ ...hello, ...changed }, prove(hello));
        expect(last).toMatchObject({ type: TYPE.joinRefused, body: { reason: 'wrong' } });
      }
      // Nor does the token's secret help to join with a key that one does not have.
      const stolen = { ...hello, name: 'dev32', key: foreign };
      const { last } = await talk(stolen, prove(stolen));
      expect(last).toMatchObject({ type: TYPE.joinRefused, body: { reason: 'invalid' } });
    });

    it('sends nothing to a hub with another CA', async () => {
      const tok = await token();
      const other = await createPki(mkdtempSync(path(root, 'other-')));
      const { parseToken } = await import('../../api/wire/join.js');
      const forged = formatToken({ ...parseToken(tok), caHash: other.caHash });
      await expect(joinAs('dev7', forged)).rejects.toMatchObject({
        reason: 'unreachable',
        message: expect.stringMatching(/not the hub of the token/),
      });
      await joinAs('dev7', tok);
    });

    it('limits guesses', async () => {
      const tok = await token({ secret: 'zzzzzzzzzzzzzzzz' });
      const reasons: string[] = [];
      for (let i = 0; i < 12; i++)
        reasons.push(
          await joinAs('dev8', tok).then(
            () => 'joined',
            (e) => e.reason,
          ),
        );
      expect(reasons.slice(0, 10)).toEqual(Array(10).fill('wrong'));
      expect(reasons.slice(10)).toEqual(['busy', 'busy']);
    });

    it("refuses a node's name to another key, until the Node is deleted or a token names it", async () => {
      const { link, dataDir } = await start('dev9');
      await eventually('registered', () => client.get<Node>(nodes, { name: 'dev9' }).catch(() => undefined));
      await expect(joinAs('dev9', await token())).rejects.toMatchObject({
        reason: 'taken',
        message: expect.stringMatching(/kubectl delete node dev9/),
      });
      // Not even with a token for that name while the old one is connected.
      const named = await token({ nodeName: 'dev9', uses: 2 });
      await expect(joinAs('dev9', named)).rejects.toMatchObject({ reason: 'taken' });
      await expect(joinAs('dev90', named)).rejects.toMatchObject({
        reason: 'taken',
        message: expect.stringMatching(/for a node named "dev9"/),
      });
      await link.stop();
      await eventually('gone', () => !hub.isLinked('dev9'));
      await expect(joinAs('dev9', await token())).rejects.toMatchObject({ reason: 'taken' });
      const replaced = fresh();
      await joinAs('dev9', named, replaced);
      const second = await start('dev9', replaced);
      await second.link.stop();
      await client.delete(nodes, { name: 'dev9' });
      await start('dev9');
      // The first device is out for good: its name has gone to others.
      const lines = logLines.length;
      const host = new Host();
      const old = new AgentLink({
        dataDir,
        identity: loadIdentity(dataDir)!,
        host,
        clock: systemClock,
        log: collectLog(logLines),
      });
      agents.push(old);
      old.start();
      await eventually('refusal', () =>
        logLines.slice(lines).some((l) => /another device has joined under the name/.test(l)),
      );
      expect(old.connected).toBe(false);
      await old.stop();
    });

    it('lets a device with an expired certificate recover by its key, and not one that was revoked', async () => {
      const expired = async (nodeName: string) => {
        const dataDir = fresh();
        await joinAs(nodeName, await token(), dataDir);
        const file = JSON.parse(readFileSync(path(dataDir, 'identity.json'), 'utf8'));
        const publicKey = loadIdentity(dataDir)!.publicKey;
        file.cert = await site.pki.issueClientCert({ ...nodeSubject(nodeName), publicKey, ttl: -60_000 });
        saveIdentity(dataDir, file);
        return { dataDir, key: keyId(publicKey) };
      };
      const away = await expired('dev20');
      const clock = { ...systemClock, now: () => Date.UTC(2090, 0, 1) };
      const link = new AgentLink({
        dataDir: away.dataDir,
        identity: loadIdentity(away.dataDir)!,
        host: new Host(),
        clock,
        log: collectLog(logLines),
      });
      agents.push(link);
      link.start();
      await eventually('recovered', () => link.connected);
      const end = Date.parse(new X509Certificate(loadIdentity(away.dataDir)!.cert).validTo);
      expect(end).toBeGreaterThan(Date.now() + 4 * 365 * 86_400_000);

      const stolen = await expired('dev21');
      await client.create<ConfigMap>(configMaps, {
        metadata: { ...REVOKED },
        data: { [stolen.key]: JSON.stringify({ node: 'dev21', wipe: true }) },
      });
      const host = new Host();
      const thief = new AgentLink({
        dataDir: stolen.dataDir,
        identity: loadIdentity(stolen.dataDir)!,
        host,
        clock: systemClock,
        log: collectLog(logLines),
      });
      agents.push(thief);
      thief.start();
      await eventually('erased', () => !existsSync(path(stolen.dataDir, 'node.key')));
      expect(readdirSync(stolen.dataDir)).toEqual(['revoked.json']);
      expect(host.desired?.pods).toEqual([]);
      await expect(ensureIdentity({ dataDir: stolen.dataDir, log: silentLog })).rejects.toThrow(
        /has revoked this device.*cox token create/,
      );
      // With a token of its owner it starts anew, with another key.
      const again = await ensureIdentity({
        dataDir: stolen.dataDir,
        token: await token(),
        nodeName: 'dev21',
        log: silentLog,
      });
      expect(keyId(again.publicKey)).not.toBe(stolen.key);
      expect(existsSync(path(stolen.dataDir, 'revoked.json'))).toBe(false);
    });

    it('ends the session of a revoked node at once, for good, and lets it in again when taken off the list', async () => {
      const { link, dataDir } = await start('dev22');
      const { publicKey, cert, key } = loadIdentity(dataDir)!;
      const id = keyId(publicKey);
      await client.patch<ConfigMap>(configMaps, REVOKED, { data: { [id]: '{"node":"dev22"}' } });
      await eventually('cut', () => !link.connected && !hub.isLinked('dev22'));
      await link.stop();
      expect(loadIdentity(dataDir)?.node, 'a lock erases nothing').toBe('dev22');
      const credentials = { cert, key: key.export({ type: 'pkcs8', format: 'pem' }) as string };
      if (name === 'embedded broker')
        await expect(raw(site.port, 'x', credentials, nodeSubscriptions('dev22'))).rejects.toThrow();
      const tried = new AgentLink({
        dataDir,
        identity: loadIdentity(dataDir)!,
        host: new Host(),
        clock: systemClock,
        log: collectLog(logLines),
      });
      const lines = logLines.length;
      agents.push(tried);
      tried.start();
      await eventually('refusal', () =>
        logLines.slice(lines).some((l) => /refuses this node: the key of this device was revoked/.test(l)),
      );
      expect(hub.isLinked('dev22')).toBe(false);
      await tried.stop();
      await client.patch<ConfigMap>(configMaps, REVOKED, { data: { [id]: null } });
      await start('dev22', dataDir);
    });

    it('runs a pod end to end, streams a log, and notices a cut', async () => {
      const { host, link } = await start('dev10');
      await client.create<Pod>(pods, {
        metadata: { namespace: 'default', name: `web-${name.length}` },
        spec: { nodeName: 'dev10', containers: [{ name: 'app', image: 'x' }] },
      });
      const key = { namespace: 'default', name: `web-${name.length}` };
      await eventually('Running', async () => (await client.get<Pod>(pods, key)).status?.phase === 'Running');
      expect(host.desired?.pods).toHaveLength(1);
      const log = await hub.logs(
        'dev10',
        { namespace: 'default', pod: 'web', uid: 'u', container: 'app' },
        new AbortController().signal,
      );
      let bytes = 0;
      for await (const c of log) bytes += c.length;
      expect(bytes).toBeGreaterThan(128 * 1024);
      await link.stop();
      const ready = async () =>
        (await client.get<Node>(nodes, { name: 'dev10' })).status?.conditions?.find((c) => c.type === 'Ready')
          ?.status;
      await eventually('Unknown', async () => (await ready()) === 'Unknown');
    });

    it('reconnects with nothing changed for less than 2 KB, TLS included', async () => {
      const sockets: Socket[] = [];
      const { link } = await start('dev15', fresh(), (s) => sockets.push(s));
      // The second session is the first that is resumed, the third the first that was resumed from a resumed one.
      for (const _ of [1, 2, 3]) {
        await eventually('everything told', () => link.idle);
        const before = sockets.length;
        sockets.at(-1)!.resetAndDestroy();
        await eventually('linked again', () => sockets.length > before && link.idle && hub.isLinked('dev15'));
        const bytes = () => sockets.at(-1)!.bytesRead + sockets.at(-1)!.bytesWritten;
        for (let last = -1; last !== bytes(); await pause(200)) last = bytes();
        expect(bytes()).toBeLessThanOrEqual(2048);
      }
    });

    it('comes back by itself when the broker was away', async () => {
      const { host } = await start('dev11');
      await site.restartBroker();
      await client.create<Pod>(pods, {
        metadata: { namespace: 'default', name: `later-${name.length}` },
        spec: { nodeName: 'dev11', containers: [{ name: 'app', image: 'x' }] },
      });
      await eventually('the pod', () => host.desired?.pods.length === 1);
    });

    it('connects with a clock of 1970', async () => {
      const { dataDir, link } = await start('dev12');
      await link.stop();
      const identity = loadIdentity(dataDir)!;
      const clock = { ...systemClock, now: () => 1000 };
      const early = new AgentLink({ dataDir, identity, host: new Host(), clock, log: silentLog });
      agents.push(early);
      early.start();
      await eventually('linked', () => early.connected);
      const again = fresh();
      const id = await join({
        dataDir: again,
        token: await token(),
        nodeName: 'dev13',
        clock,
        log: silentLog,
      });
      expect(id.node).toBe('dev13');
    });

    it('refuses the identity of another hub with a clear error', async () => {
      const elsewhere = await createPki(mkdtempSync(path(root, 'other-')));
      const { dataDir } = await start('dev14');
      const tok = formatToken({
        addresses: ['127.0.0.1:1'],
        caHash: elsewhere.caHash,
        id: 'aaaaaa',
        secret: 'a'.repeat(16),
      });
      await expect(ensureIdentity({ dataDir, token: tok, log: silentLog })).rejects.toThrow(/another hub/);
      await expect(ensureIdentity({ dataDir: fresh(), log: silentLog })).rejects.toThrow(
        /not joined.*cox token create/,
      );
    });
  });
