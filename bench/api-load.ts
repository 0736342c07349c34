/** The client side of bench/api.ts, in a process of its own: `api-load.js HUB_DIR http/1.1|h2 SECONDS`. */
import { connect } from 'node:http2';
import { Agent, request } from 'node:https';
import { connect as tls } from 'node:tls';
import { type Access, readAccess } from '../cli/client.js';

const CLIENTS = 32;
const WATCHERS = 32;
const PODS = 1000;

const [dir, protocol, seconds] = process.argv.slice(2) as [string, string, string];
const durationMs = Number(seconds) * 1000;

interface Transport {
  call(method: string, path: string, body?: object): Promise<{ status: number; bytes: number }>;
  /** Calls back with each chunk of the body. */
  stream(path: string, onData: (chunk: Buffer) => void): () => void;
  close(): void;
}

function http1({ server, ca, cert, key }: Access): Transport {
  const agent = new Agent({ ca, cert, key, keepAlive: true, maxSockets: CLIENTS });
  const at = { host: server.hostname, port: server.port, ca, cert, key };
  return {
    call: (method, path, body) =>
      new Promise((resolve, reject) => {
        const text = body && Buffer.from(JSON.stringify(body));
        const headers = {
          accept: 'application/json',
          ...(text ? { 'content-length': text.length, 'content-type': contentType(method) } : {}),
        };
        const req = request({ ...at, method, path, agent, headers }, (res) => {
          let bytes = 0;
          res.on('data', (c: Buffer) => {
            bytes += c.length;
          });
          res.on('end', () => resolve({ status: res.statusCode!, bytes }));
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
    close: () => agent.destroy(),
  };
}

/** Several connections: one session's streams would share one flow-control window, as no real set of clients does. */
function http2({ server, ca, cert, key }: Access): Transport {
  // Node leaves Nagle's algorithm on for HTTP/2, so that a body waits 40 ms for the ACK of its headers; Go, and so
  // kubectl, does not.
  const createConnection = () =>
    tls({
      host: server.hostname,
      port: Number(server.port),
      ca,
      cert,
      key,
      ALPNProtocols: ['h2'],
    }).setNoDelay(true);
  const sessions = Array.from({ length: CLIENTS }, () => connect(server.origin, { createConnection }));
  let turn = 0;
  const next = () => sessions[turn++ % sessions.length]!;
  return {
    call: (method, path, body) =>
      new Promise((resolve, reject) => {
        const text = body && Buffer.from(JSON.stringify(body));
        const s = next().request({
          ':method': method,
          ':path': path,
          accept: 'application/json',
          ...(text ? { 'content-type': contentType(method) } : {}),
        });
        let status = 0;
        let bytes = 0;
        s.on('response', (h) => {
          status = Number(h[':status']);
        });
        s.on('data', (c: Buffer) => {
          bytes += c.length;
        });
        s.on('end', () => resolve({ status, bytes }));
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
      for (const s of sessions) s.destroy();
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

/** Keeps CLIENTS requests under way until the time is over (or `limit` are done); answers per second. */
async function rate(
  once: (i: number) => Promise<{ status: number }>,
  options: { limit?: number; clients?: number } = {},
): Promise<number> {
  const begin = performance.now();
  let started = 0;
  let done = 0;
  const one = async () => {
    while (performance.now() - begin < durationMs && started < (options.limit ?? Number.POSITIVE_INFINITY)) {
      const { status } = await once(started++);
      if (status >= 300) throw new Error(`HTTP ${status}`);
      done++;
    }
  };
  await Promise.all(Array.from({ length: options.clients ?? CLIENTS }, one));
  return done / ((performance.now() - begin) / 1000);
}

const figures: Record<string, number> = {};
let made = 0;
figures['create'] = await rate((i) => {
  made = Math.max(made, i + 1);
  return transport.call('POST', PATH, pod(i));
});
figures['get'] = await rate((i) => transport.call('GET', `${PATH}/pod-${i % made}`));
// Exactly 1,000 of them for the list.
for (let i = made; i < PODS; i++) await transport.call('POST', PATH, pod(i));
for (let i = PODS; i < made; i += CLIENTS)
  await Promise.all(
    Array.from({ length: Math.min(CLIENTS, made - i) }, (_, k) =>
      transport.call('DELETE', `${PATH}/pod-${i + k}`),
    ),
  );
figures['list of 1,000 pods'] = await rate(() => transport.call('GET', PATH));

const NEWLINE = 10;
let delivered = 0;
const closers = Array.from({ length: WATCHERS }, () =>
  transport.stream(`${PATH}?watch=true&resourceVersion=`, (chunk) => {
    for (let i = chunk.indexOf(NEWLINE); i >= 0; i = chunk.indexOf(NEWLINE, i + 1)) delivered++;
  }),
);
// Each begins with the 1,000 that exist.
while (delivered < WATCHERS * PODS) await new Promise((r) => setTimeout(r, 50));
const begin = performance.now();
delivered = 0;
const writes = await rate((i) =>
  transport.call('PATCH', `${PATH}/pod-${i % PODS}`, { metadata: { annotations: { i: `${i}` } } }),
);
const expected = Math.round((writes * (performance.now() - begin)) / 1000) * WATCHERS;
// What is still on its way counts with the time that it takes.
for (let last = -1; delivered < expected * 0.999 && last !== delivered; ) {
  last = delivered;
  await new Promise((r) => setTimeout(r, 200));
}
figures['watch deliveries'] = delivered / ((performance.now() - begin) / 1000);
figures['update with 32 watchers'] = writes;
for (const close of closers) close();
transport.close();
process.send!(figures, () => process.exit(0));
