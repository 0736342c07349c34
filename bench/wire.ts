/** Bytes on the wire, counted at the socket by a proxy between agent and broker: TLS included, TCP/IP headers not. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join as path } from 'node:path';
import type { ConfigMap, Pod, Secret } from 'kubernetes-types/core/v1.js';
import { join } from '../agent/link/join.js';
import { AgentLink } from '../agent/link/link.js';
import { rfc3339, systemClock } from '../api/clock.js';
import { configMaps, pods, secrets } from '../api/kinds/index.js';
import { silentLog } from '../api/log.js';
import { formatToken } from '../api/wire/join.js';
import { KEEPALIVE_SECONDS } from '../api/wire/topics.js';
import { EmbeddedBroker } from '../hub/link/embedded.js';
import { HubLink } from '../hub/link/link.js';
import { bootstrapTokenSecret } from '../hub/link/token.js';
import { NodeUsage } from '../hub/metrics/usage.js';
import { createPki } from '../hub/pki/pki.js';
import { MemoryClient } from '../hub/testing/memory-client.js';
import { InstantHost, Meter, nodeReport, pause } from './fake-agent.js';
import { latencyRows, type Row } from './row.js';

async function until(what: string, done: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 20_000; i++) {
    if (await done()) return;
    await pause(1);
  }
  throw new Error(`gave up waiting for ${what}`);
}

/** What a question for usage costs, and an autoscaler that asks all the time. */
async function metricsRows(link: HubLink, meter: Meter): Promise<Row[]> {
  const usage = new NodeUsage({ link, clock: systemClock, log: silentLog });
  const node = {
    metadata: { name: 'bench', annotations: { 'link.coxswain.dev/metrics-interval': '0' } },
  };
  const ask = async (pods: boolean): Promise<number> => {
    const times = 5;
    let bytes = 0;
    for (let i = 0; i < times; i++)
      bytes += await meter.count(async () => {
        if ((await usage.of([node], pods)).usage.size !== 1) throw new Error('no answer');
      });
    return bytes / times;
  };
  const [alone, withPods] = [await ask(false), await ask(true)];
  const hourly = (seconds: number) => ((3600 / seconds) * withPods) / 1024;
  return [
    { name: 'wire: usage of a node, asked once', value: alone, unit: 'B' },
    { name: `wire: usage of a node and its ${PODS} pods, asked once`, value: withPods, unit: 'B' },
    {
      name: `wire: an autoscaler of pods on a node with ${PODS}, metrics-interval 15`,
      value: hourly(15),
      unit: 'KB/h',
      note: `${hourly(60).toFixed(0)} at 60, ${hourly(300).toFixed(0)} at 300, nothing when metered; on top of the idle link`,
    },
  ];
}

/** A pod as a Deployment makes it, about 1.5 KB of JSON. */
const podOf = (name: string): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name,
    namespace: 'default',
    labels: { app: 'web', 'pod-template-hash': '5d8f7c9b6' },
    ownerReferences: [
      {
        apiVersion: 'apps/v1',
        kind: 'ReplicaSet',
        name: 'web-5d8f7c9b6',
        uid: '7f0c8d5e-6a1b-4c3d-9e2f-1a2b3c4d5e6f',
        controller: true,
        blockOwnerDeletion: true,
      },
    ],
  },
  spec: {
    nodeName: 'bench',
    restartPolicy: 'Always',
    terminationGracePeriodSeconds: 30,
    dnsPolicy: 'ClusterFirst',
    serviceAccountName: 'default',
    serviceAccount: 'default',
    schedulerName: 'default-scheduler',
    securityContext: {},
    volumes: [{ name: 'data', emptyDir: {} }],
    containers: [
      {
        name: 'app',
        image: 'registry.example.org/team/web:1.4.2',
        imagePullPolicy: 'IfNotPresent',
        env: [
          { name: 'LOG_LEVEL', value: 'info' },
          { name: 'POD_NAME', valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.name' } } },
        ],
        resources: { limits: { memory: '64Mi' }, requests: { cpu: '10m', memory: '32Mi' } },
        volumeMounts: [{ name: 'data', mountPath: '/data' }],
        terminationMessagePath: '/dev/termination-log',
        terminationMessagePolicy: 'File',
      },
    ],
  },
});

const PODS = 20;
const SAMPLES = 100;

/** What single changes cost; the pods of `web-…-0` and following run. Leaves one more ConfigMap, Secret and pod. */
async function changeRows(
  client: MemoryClient,
  hub: HubLink,
  meter: Meter,
  agent: () => AgentLink,
): Promise<Row[]> {
  const namespace = 'default';
  const key = { namespace, name: 'conf' };
  const lines = 'level: info\nlisten: 0.0.0.0:8080\n';
  await client.create<ConfigMap>(configMaps, { metadata: key, data: { 'app.yaml': lines } });
  await client.create<Secret>(secrets, { metadata: key, data: { token: btoa('0123456789abcdef') } });
  const pod = podOf('changes');
  pod.spec!.volumes = [
    { name: 'c', configMap: { name: 'conf' } },
    { name: 's', secret: { secretName: 'conf' } },
  ];
  await client.create<Pod>(pods, pod);
  await meter.count(async () => {});
  const { metadata, status } = await client.get<Pod>(pods, { namespace, name: 'changes' });
  const { uid = '' } = metadata ?? {};
  let n = 0;
  const tell = (restartCount: number) => {
    const told = structuredClone(status) as NonNullable<Pod['status']>;
    told.containerStatuses![0]!.restartCount = restartCount;
    agent().pod({ namespace, name: 'changes', uid, status: told });
  };
  const involved = {
    kind: 'Pod',
    namespace,
    name: 'changes',
    uid,
    fieldPath: 'spec.containers{app}',
  } as const;
  const changes: [what: string, change: () => unknown][] = [
    [
      'a label of a pod changed',
      () => client.patch<Pod>(pods, { namespace, name: 'changes' }, { metadata: { labels: { n: `${n}` } } }),
    ],
    [
      'a line of a ConfigMap changed',
      () => client.patch<ConfigMap>(configMaps, key, { data: { 'app.yaml': `${lines}n: ${n}\n` } }),
    ],
    [
      'a key of a Secret changed',
      () => client.patch<Secret>(secrets, key, { data: { token: btoa(`0123456789abcde${n}`) } }),
    ],
    ["a pod's status changed", () => tell(n)],
    [
      'an event',
      () => {
        const message = `Back-off restarting failed container app in pod changes_default(${uid}) ${n}`;
        agent().event({ involved, type: 'Warning', reason: 'BackOff', message, at: Date.now(), count: 1 });
      },
    ],
  ];
  const rows: Row[] = [];
  for (const [what, change] of changes) {
    const samples: number[] = [];
    for (let i = 0; i < 5; i++) {
      n++;
      samples.push(
        await meter.count(async () => {
          await change();
        }),
      );
    }
    const value = samples.sort((a, b) => a - b)[2]!;
    rows.push({ name: `wire: ${what}`, value, unit: 'B', note: `median of ${samples.length}, both ways` });
  }
  const kilobytes = 256;
  const read = async () => {
    const options = { namespace, pod: 'changes', uid, container: 'app', limitBytes: kilobytes * 1024 };
    for await (const _ of await hub.logs('bench', options, new AbortController().signal));
  };
  rows.push({
    name: 'wire: a log, per KB of lines',
    value: (await meter.count(read)) / kilobytes,
    unit: 'B',
    note: `${kilobytes} KB of lines as web servers write them`,
  });
  const away = await meter.count(async () => {
    meter.cut();
    await until('unlink', () => !agent().connected);
    for (n = 1; n <= 30; n++) {
      await client.patch<ConfigMap>(configMaps, key, { data: { 'app.yaml': `${lines}n: ${n}\n` } });
      const name = `rolled-${n}`;
      await client.create<Pod>(pods, podOf(name));
      if (n > 1)
        await client.delete(pods, { namespace, name: `rolled-${n - 1}` }, { gracePeriodSeconds: 30 });
    }
    await until('link', () => agent().idle);
  });
  rows.push({
    name: 'wire: coming back after a pod was rolled 30 times and a ConfigMap changed 30 times',
    value: away,
    unit: 'B',
    note: 'reconnection and the Running of the last one included',
  });
  return rows;
}

export async function run(): Promise<Row[]> {
  const dir = mkdtempSync(path(tmpdir(), 'cox-bench-wire-'));
  const rows: Row[] = [];
  const clock = systemClock;
  const client = new MemoryClient(clock);
  const pki = await createPki(path(dir, 'hub'));
  let broker!: EmbeddedBroker;
  const startHub = async (port: number) => {
    broker = new EmbeddedBroker({ pki, log: silentLog, port, host: '127.0.0.1' });
    const hub = new HubLink({ client, bus: broker, pki, clock, log: silentLog, addresses: () => [] });
    await hub.start();
    return hub;
  };
  let hub = await startHub(0);
  const meter = new Meter(broker.port);
  const port = await meter.start();
  const agents: AgentLink[] = [];
  try {
    const secret = 'abcdefghij012345';
    const expiration = rfc3339(clock.now() + 3_600_000);
    await client.create<Secret>(secrets, bootstrapTokenSecret({ id: 'bench0', secret, expiration, uses: 1 }));
    const token = formatToken({ addresses: [`127.0.0.1:${port}`], caHash: pki.caHash, id: 'bench0', secret });
    const dataDir = path(dir, 'agent');
    const joined = await meter.count(async () => {
      await join({ dataDir, token, nodeName: 'bench', log: silentLog });
    });
    rows.push({ name: 'wire: joining, once', value: joined, unit: 'B' });

    const { loadIdentity } = await import('../agent/link/identity.js');
    const host = new InstantHost();
    const newAgent = (keepalive?: number) => {
      const link = new AgentLink({
        dataDir,
        identity: loadIdentity(dataDir)!,
        host,
        clock,
        log: silentLog,
        ...(keepalive ? { keepalive } : {}),
      });
      host.attach(link);
      agents.push(link);
      link.start();
      link.node(nodeReport);
      return link;
    };
    let agent = newAgent();
    const first = await meter.count(() => until('link', () => agent.idle));
    rows.push({ name: 'wire: first connection, node report included', value: first, unit: 'B' });

    const names = Array.from({ length: PODS }, (_, i) => `web-5d8f7c9b6-${i}`);
    const phase = async (name: string) =>
      (await client.get<Pod>(pods, { namespace: 'default', name })).status?.phase;
    const created = await meter.count(async () => {
      for (const name of names) {
        await client.create<Pod>(pods, podOf(name));
        await until('Running', async () => (await phase(name)) === 'Running');
      }
    });
    rows.push({
      name: 'wire: a pod created, until Running is stored',
      value: created / PODS,
      unit: 'B',
      note: `n=${PODS}, one after the other`,
    });

    rows.push(...(await metricsRows(hub, meter)));
    rows.push(...(await changeRows(client, hub, meter, () => agent)));

    const reconnects: number[] = [];
    for (let i = 0; i < 5; i++)
      reconnects.push(
        await meter.count(async () => {
          meter.cut();
          await until('unlink', () => !agent.connected);
          await until('link', () => agent.idle);
        }),
      );
    rows.push({
      name: `wire: reconnecting with ${PODS} pods, nothing changed`,
      value: Math.max(...reconnects),
      unit: 'B',
      budget: '<= 2048',
      note: `the largest of ${reconnects.length}; TLS session resumed`,
    });
    await client.delete(pods, { namespace: 'default', name: 'changes' }, { gracePeriodSeconds: 30 });
    await meter.count(() => until('idle', () => agent.idle));
    await agent.stop();
    const restarted = await meter.count(async () => {
      agent = newAgent(1);
      await until('link', () => agent.connected);
    });
    rows.push({
      name: `wire: a restarted agent with ${PODS} pods, nothing changed`,
      value: restarted,
      unit: 'B',
      note: 'full TLS handshake',
    });
    const address = broker.port;
    const rehubbed = await meter.count(async () => {
      await hub.stop();
      await until('unlink', () => !agent.connected);
      hub = await startHub(address);
      await until('link', () => agent.idle);
    });
    rows.push({
      name: `wire: a restarted hub, for an agent with ${PODS} pods, nothing changed`,
      value: rehubbed,
      unit: 'B',
      note: 'TLS session resumed',
    });

    const seconds = 12;
    await pause(1500);
    const before = meter.total;
    await pause(seconds * 1000);
    const perPing = (meter.total - before) / seconds;
    // Once an hour the agent sends its digest: 9 bytes of MQTT and topic around a message of about 70, in a TLS record.
    const compare = 160;
    rows.push({
      name: 'wire: idle node, both directions',
      value: ((3600 / KEEPALIVE_SECONDS) * perPing + compare) / 1024,
      unit: 'KB/h',
      budget: '<= 15',
      note: `extrapolated: ${perPing.toFixed(0)} B per ping measured over ${seconds} pings, one each ${KEEPALIVE_SECONDS} s, and the hourly comparison; TCP/IP headers would add about ${(((3600 / KEEPALIVE_SECONDS) * 208) / 1024).toFixed(1)} KB/h`,
    });

    const pings = (every: number) => ((3600 / every) * perPing + compare) / 1024;
    for (const every of [300, 1200])
      rows.push({
        name: `wire: idle node, keepalive ${every}`,
        value: pings(every),
        unit: 'KB/h',
        note: 'extrapolated as above',
      });

    const deleted = await meter.count(async () => {
      for (const name of names) {
        await client.delete(pods, { namespace: 'default', name }, { gracePeriodSeconds: 30 });
        await until('gone', () =>
          phase(name).then(
            () => false,
            () => true,
          ),
        );
      }
    });
    rows.push({
      name: 'wire: a pod deleted, until its object is gone',
      value: deleted / PODS,
      unit: 'B',
      note: `n=${PODS}`,
    });

    const delays: number[] = [];
    for (let i = 0; i < SAMPLES; i++) {
      const name = `lat-${i}`;
      const t = performance.now();
      await client.create<Pod>(pods, podOf(name));
      while ((await phase(name)) !== 'Running') await new Promise((r) => setImmediate(r));
      delays.push(performance.now() - t);
    }
    rows.push(...latencyRows('link: pod bound to Running stored, with an agent that starts nothing', delays));
    return rows;
  } finally {
    for (const a of agents) await a.stop();
    await hub.stop();
    meter.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
