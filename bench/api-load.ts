/** The client side of bench/api.ts, in a process of its own: `api-load.js HUB_DIR http/1.1|h2 SECONDS HUB_PID`. */
import { readFileSync } from 'node:fs';
import { connect } from 'node:http2';
import { Agent, request } from 'node:https';
import { connect as tls } from 'node:tls';
import { type Access, readAccess } from '../cli/client.js';
import { quantile, type Row } from './row.js';

const CLIENTS = 32;
const WATCHERS = 32;
const PODS = 1000;

const MANY_WATCHERS = 500;

const [dir, protocol, seconds, hubPid] = process.argv.slice(2) as [string, string, string, string];
const durationMs = Number(seconds) * 1000;

interface Transport {
  call(
    method: string,
    path: string,
    body?: object,
    headers?: Record<string, string>,
  ): Promise<{ status: number; text: string }>;
  /** Calls back with each chunk of the body. */
  stream(path: string, onData: (chunk: Buffer) => void): () => void;
  close(): void;
}

function http1({ server, ca, cert, key }: Access): Transport {
  const agent = new Agent({ ca, cert, key, keepAlive: true, maxSockets: CLIENTS });
  const others = new Agent({ ca, keepAlive: true, maxSockets: CLIENTS });
  const at = { host: server.hostname, port: server.port, ca, cert, key };
  return {
    call: (method, path, body, extra = {}) =>
      new Promise((resolve, reject) => {
        const text = body && Buffer.from(JSON.stringify(body));
        const headers = {
          accept: 'application/json',
          ...(text ? { 'content-length': text.length, 'content-type': contentType(method) } : {}),
          ...extra,
        };
        // A token speaks only where no certificate does.
        const who = extra['authorization'] ? { cert: undefined, key: undefined, agent: others } : { agent };
        const req = request({ ...at, method, path, headers, ...who }, (res) => {
          const parts: Buffer[] = [];
          res.on('data', (c: Buffer) => parts.push(c));
          res.on('end', () =>
            resolve({ status: res.statusCode!, text: Buffer.concat(parts).toString('utf8') }),
          );
        });
        req.on('error', reject);
        req.end(text);
      }),
    stream(path, onData) {
      const req = request({ ...at, path, agent: false }, (res) => {
        res.on('data', onData);
        res.on('error', () => {});
      });
      req.on('error', () => {});
      req.end();
      return () => req.destroy();
    },
    close: () => {
      agent.destroy();
      others.destroy();
    },
  };
}

/** Several connections: one session's streams would share one flow-control window, as no real set of clients does. */
function http2({ server, ca, cert, key }: Access): Transport {
  // Node leaves Nagle's algorithm on for HTTP/2, so that a body waits 40 ms for the ACK of its headers; Go, and so
  // kubectl, does not.
  const open = (who: { cert?: Buffer; key?: Buffer }) =>
    Array.from({ length: CLIENTS }, () =>
      connect(server.origin, {
        createConnection: () =>
          tls({
            host: server.hostname,
            port: Number(server.port),
            ca,
            ...who,
            ALPNProtocols: ['h2'],
          }).setNoDelay(true),
      }),
    );
  const sessions = open({ cert, key });
  // A token speaks only where no certificate does.
  const others = open({});
  let turn = 0;
  const next = (of = sessions) => of[turn++ % of.length]!;
  return {
    call: (method, path, body, extra = {}) =>
      new Promise((resolve, reject) => {
        const text = body && Buffer.from(JSON.stringify(body));
        const s = next(extra['authorization'] ? others : sessions).request({
          ':method': method,
          ':path': path,
          accept: 'application/json',
          ...(text ? { 'content-type': contentType(method) } : {}),
          ...extra,
        });
        let status = 0;
        const parts: Buffer[] = [];
        s.on('response', (h) => {
          status = Number(h[':status']);
        });
        s.on('data', (c: Buffer) => parts.push(c));
        s.on('end', () => resolve({ status, text: Buffer.concat(parts).toString('utf8') }));
        s.on('error', reject);
        s.end(text);
      }),
    stream(path, onData) {
      const s = next().request({ ':path': path });
      s.on('data', onData);
      s.on('error', () => {});
      return () => s.close();
    },
    close: () => {
      for (const s of [...sessions, ...others]) s.destroy();
    },
  };
}

const contentType = (method: string) =>
  method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';

const pod = (i: number) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: `pod-${i}`, labels: { app: 'bench', shard: `${i % 10}` } },
  spec: {
    // Nobody schedules them: the API alone is measured.
    schedulerName: 'nobody',
    containers: [
      {
        name: 'main',
        image: 'coxswain.internal/greeter:1',
        env: [{ name: 'INDEX', value: `${i}` }],
        resources: { requests: { cpu: '10m', memory: '16Mi' }, limits: { memory: '32Mi' } },
      },
    ],
  },
});

const PATH = '/api/v1/namespaces/default/pods';
const transport = protocol === 'h2' ? http2(readAccess(dir)) : http1(readAccess(dir));

const rows: Row[] = [];

/** Keeps CLIENTS requests under way until the time is over: how many per second, and how long each took. */
async function measure(
  name: string,
  once: (i: number) => Promise<{ status: number }>,
  clients = CLIENTS,
): Promise<number> {
  const begin = performance.now();
  const cpuBefore = hubCpu();
  const took: number[] = [];
  let started = 0;
  const one = async () => {
    while (performance.now() - begin < durationMs) {
      const at = performance.now();
      const { status } = await once(started++);
      if (status >= 300) throw new Error(`${name}: HTTP ${status}`);
      took.push(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: clients }, one));
  const rate = took.length / ((performance.now() - begin) / 1000);
  rows.push({ name, value: rate, unit: '1/s' });
  rows.push({
    name: `${name}, CPU of the hub each`,
    value: ((hubCpu() - cpuBefore) / took.length) * 1e6,
    unit: 'µs',
    note: 'does not depend on what else the machine does',
  });
  for (const q of [50, 95, 99])
    rows.push({
      name: `${name}, p${q}`,
      value: quantile(took, q / 100),
      unit: 'ms',
      note: `n=${took.length}, ${clients} at once`,
    });
  return rate;
}

/** Seconds of CPU that the hub has used; the kernel counts in hundredths. */
function hubCpu(): number {
  const stat = readFileSync(`/proc/${hubPid}/stat`, 'utf8');
  const [utime, stime] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number);
  return (utime! + stime!) / 100;
}

/** Of the hub, in MB. */
function rss(name: string): void {
  const [, kb] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${hubPid}/status`, 'utf8')) ?? [];
  rows.push({ name: `hub, RSS ${name}`, value: Number(kb) / 1024, unit: 'MB', note: 'VmRSS' });
}

const until = async (done: () => boolean) => {
  while (!done()) await new Promise((r) => setTimeout(r, 50));
};

let writes = 0;
/** A change each time: a patch that changes nothing is no event. */
const changed = () => ({ metadata: { annotations: { i: `${writes++}` } } });

rss('before');
let made = 0;
await measure('create', (i) => {
  made = Math.max(made, i + 1);
  return transport.call('POST', PATH, pod(i));
});
await measure('get', (i) => transport.call('GET', `${PATH}/pod-${i % made}`));

// The same by someone whom RBAC looks at: administrators are let through.
const inDefault = '/api/v1/namespaces/default';
await transport.call('POST', `${inDefault}/serviceaccounts`, { metadata: { name: 'bench' } });
await transport.call('POST', '/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings', {
  metadata: { name: 'bench' },
  roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'view' },
  subjects: [{ kind: 'ServiceAccount', name: 'bench', namespace: 'default' }],
});
const issued = await transport.call('POST', `${inDefault}/serviceaccounts/bench/token`, { spec: {} });
const { token } = (JSON.parse(issued.text) as { status: { token: string } }).status;
const asAccount = { authorization: `Bearer ${token}` };
await measure('get by a ServiceAccount', (i) =>
  transport.call('GET', `${PATH}/pod-${i % made}`, undefined, asAccount),
);

// Exactly 1,000 of them for the list.
for (let i = made; i < PODS; i++) await transport.call('POST', PATH, pod(i));
for (let i = PODS; i < made; i += CLIENTS)
  await Promise.all(
    Array.from({ length: Math.min(CLIENTS, made - i) }, (_, k) =>
      transport.call('DELETE', `${PATH}/pod-${i + k}`),
    ),
  );
await measure('list of 1,000 pods', () => transport.call('GET', PATH));
await measure('list of 1,000 pods as a Table', () =>
  transport.call('GET', PATH, undefined, { accept: 'application/json;as=Table;v=v1;g=meta.k8s.io' }),
);
await measure('merge patch', (i) => transport.call('PATCH', `${PATH}/pod-${i % PODS}`, changed()));
await measure('server-side apply', (i) =>
  transport.call(
    'PATCH',
    `${PATH}/pod-${i % PODS}?fieldManager=bench&force=true`,
    {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: `pod-${i % PODS}`, labels: { applied: `${i}` } },
    },
    { 'content-type': 'application/apply-patch+yaml' },
  ),
);
rss('after these');

const NEWLINE = 10;
for (const watchers of [WATCHERS, MANY_WATCHERS]) {
  const name = `watch deliveries to ${watchers} watchers`;
  let delivered = 0;
  const closers = Array.from({ length: watchers }, () =>
    transport.stream(`${PATH}?watch=true&resourceVersion=`, (chunk) => {
      for (let i = chunk.indexOf(NEWLINE); i >= 0; i = chunk.indexOf(NEWLINE, i + 1)) delivered++;
    }),
  );
  // Each begins with the 1,000 that exist.
  await until(() => delivered >= watchers * PODS);
  rss(`with ${watchers} watchers`);
  const begin = performance.now();
  delivered = 0;
  // Fewer writers where each write is sent to so many, lest the watchers be dropped.
  const rate = await measure(
    `update with ${watchers} watchers`,
    (i) => transport.call('PATCH', `${PATH}/pod-${i % PODS}`, changed()),
    watchers === WATCHERS ? CLIENTS : 2,
  );
  const expected = Math.round((rate * (performance.now() - begin)) / 1000) * watchers;
  // What is still on its way counts with the time that it takes.
  const giveUp = performance.now() + 30_000;
  await until(() => delivered >= expected * 0.999 || performance.now() > giveUp);
  rows.push({ name, value: delivered / ((performance.now() - begin) / 1000), unit: '1/s' });
  rss(`after updates with ${watchers} watchers`);
  for (const close of closers) close();
}
transport.close();
process.send!(rows, () => process.exit(0));
