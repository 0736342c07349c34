import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { namespaces } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { silentLog } from '../../api/log.js';
import { createPki, type KeyPair, type Pki } from '../pki/pki.js';
import { type TestApi, testApi } from '../testing/api.js';
import { HttpServer, type HttpServerOptions } from './server.js';

const NS = '/api/v1/namespaces/default';
const dir = mkdtempSync(join(tmpdir(), 'cox-http-'));
let pki: Pki;
let admin: KeyPair;
let t: TestApi;

beforeAll(async () => {
  pki = await createPki(dir, { localHosts: () => [] });
  admin = await certificate('admin', ['system:masters']);
  t = await testApi();
  await t.registry.client().create(namespaces as unknown as Kind, { metadata: { name: 'default' } });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function certificate(cn: string, o: string[]): Promise<KeyPair> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    cert: await pki.issueClientCert({ cn, o, publicKey }),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
  };
}

const serve = async (options: Partial<HttpServerOptions> = {}): Promise<HttpServer> => {
  const server = new HttpServer({
    api: t.api,
    clock: systemClock,
    log: silentLog,
    host: '127.0.0.1',
    port: 0,
    tls: { ...pki.server, ca: pki.caPem },
    ...options,
  });
  await server.start();
  return server;
};

interface Answer {
  status: number;
  headers: IncomingMessage['headers'];
  body: Buffer;
}
const json = (a: Answer) => JSON.parse(a.body.toString('utf8'));

/** One HTTP/1.1 request; `client: null` is nobody. */
function h1(
  server: HttpServer,
  path: string,
  {
    client = admin as KeyPair | null,
    body,
    ...options
  }: https.RequestOptions & { client?: KeyPair | null; body?: string | Buffer } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const req = https.request(
      { host: '127.0.0.1', port: server.port, path, ca: pki.caPem, agent: false, ...client, ...options },
      (res) => {
        const parts: Buffer[] = [];
        res.on('data', (d) => parts.push(d));
        res.on('end', () =>
          resolve({ status: res.statusCode!, headers: res.headers, body: Buffer.concat(parts) }),
        );
        res.on('error', reject);
      },
    );
    req.on('error', reject);
    req.end(body);
  });
}

const session = (server: HttpServer, client?: KeyPair) =>
  http2.connect(`https://127.0.0.1:${server.port}`, { ca: pki.caPem, ...client });

async function h2(
  s: http2.ClientHttp2Session,
  headers: http2.OutgoingHttpHeaders,
  body?: string | Buffer,
): Promise<Answer> {
  const stream = s.request(headers);
  stream.end(body);
  const [head] = await once(stream, 'response');
  const parts: Buffer[] = [];
  for await (const d of stream) parts.push(d as Buffer);
  return { status: head[':status'], headers: head, body: Buffer.concat(parts) };
}

describe('HttpServer', () => {
  it('speaks HTTP/1.1 and HTTP/2', async () => {
    const server = await serve();
    expect(json(await h1(server, '/version')).major).toBe('1');
    const s = session(server, admin);
    const [a, b] = await Promise.all([h2(s, { ':path': '/version' }), h2(s, { ':path': `${NS}/pods` })]);
    expect(json(a).gitVersion).toMatch(/^v1\.36/);
    expect(json(b)).toMatchObject({ kind: 'PodList', items: [] });
    const made = await h2(
      s,
      { ':path': `${NS}/configmaps`, ':method': 'POST', 'content-type': 'application/json' },
      JSON.stringify({ metadata: { name: 'h2' } }),
    );
    expect(made.status).toBe(201);
    expect((await h2(s, { ':path': `${NS}/configmaps/h2`, ':method': 'DELETE' })).status).toBe(200);
    s.close();
    await server.stop();
  });

  it('takes the user from the certificate', async () => {
    const server = await serve();
    const alice = await certificate('alice', ['dev']);
    expect(json(await h1(server, `${NS}/pods`, { client: alice })).message).toMatch(
      /User "alice" cannot list/,
    );
    expect(json(await h1(server, `${NS}/pods`, { client: null })).message).toMatch(
      /User "system:anonymous" cannot list/,
    );
    expect((await h1(server, '/healthz', { client: null })).body.toString()).toBe('ok');
    expect(await h1(server, '/version', { client: null })).toMatchObject({ status: 200 });
    expect(
      await h1(server, '/version', { client: null, headers: { authorization: 'Bearer x' } }),
    ).toMatchObject({ status: 401 });

    const other = await createPki(join(dir, 'other'), { localHosts: () => [] });
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const forged = {
      cert: await other.issueClientCert({ cn: 'admin', o: ['system:masters'], publicKey }),
      key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    };
    for (const path of ['/version', `${NS}/pods`]) {
      expect(json(await h1(server, path, { client: forged }))).toMatchObject({
        code: 401,
        reason: 'Unauthorized',
        message: 'Unauthorized',
      });
    }
    const s = session(server, forged);
    expect((await h2(s, { ':path': `${NS}/pods` })).status).toBe(401);
    s.close();
    await server.stop();
  });

  it('names port and remedy when the port is taken', async () => {
    const server = await serve();
    await expect(serve({ port: server.port })).rejects.toThrow(
      `the API cannot listen on 127.0.0.1:${server.port}: another program has it. Stop that one (ss -ltnp shows which it is) or choose another with --api-port`,
    );
    await server.stop();
  });

  it('mounts other handlers before authentication', async () => {
    const server = await serve({
      mounts: [
        {
          prefix: '/v2/',
          handler: async (req, res) => {
            if (req.url === '/v2/broken') throw new Error('no such blob');
            res.end(`mounted ${req.url}`);
          },
        },
      ],
    });
    expect((await h1(server, '/v2/x', { client: null })).body.toString()).toBe('mounted /v2/x');
    expect((await h1(server, '/v2', { client: null })).body.toString()).toBe('mounted /v2');
    expect((await h1(server, '/v2/broken', { client: null })).status).toBe(500);
    expect((await h1(server, '/v2x', { client: null })).status).toBe(403);
    await server.stop();
  });

  it('answers 413 to what is too big, over both protocols, said beforehand or not', async () => {
    const server = await serve({ limits: { body: 1000 } });
    const big = Buffer.alloc(2_000_000, 'x');
    const status = {
      kind: 'Status',
      code: 413,
      reason: 'RequestEntityTooLarge',
      message: 'Request entity too large: limit is 1000',
    };
    expect(json(await h1(server, `${NS}/pods`, { method: 'POST', body: big }))).toMatchObject(status);
    const chunked = { 'transfer-encoding': 'chunked' };
    expect(
      json(await h1(server, `${NS}/pods`, { method: 'POST', body: big, headers: chunked })),
    ).toMatchObject(status);
    const s = session(server, admin);
    expect(json(await h2(s, { ':path': `${NS}/pods`, ':method': 'POST' }, big))).toMatchObject(status);
    expect((await h2(s, { ':path': '/version' })).status).toBe(200);
    s.close();
    await server.stop();
  });

  it('bounds the memory of all bodies together', async () => {
    const server = await serve({ limits: { bodies: 1000 } });
    const refused = await h1(server, `${NS}/pods`, { method: 'POST', body: Buffer.alloc(5000, 'x') });
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '1']);
    // What was taken is given back.
    for (let i = 0; i < 5; i++) {
      expect((await h1(server, `${NS}/pods`, { method: 'POST', body: Buffer.alloc(900, 'x') })).status).toBe(
        400,
      );
    }
    await server.stop();
  });

  it('gives up on bodies that do not come', async () => {
    const server = await serve({ limits: { bodyTimeout: 50 } });
    const req = https.request({
      host: '127.0.0.1',
      port: server.port,
      path: `${NS}/pods`,
      method: 'POST',
      ca: pki.caPem,
      agent: false,
      ...admin,
    });
    req.on('error', () => {}); // the server hangs up afterwards
    req.write('{');
    const [res] = (await once(req, 'response')) as [IncomingMessage];
    expect(res.statusCode).toBe(504);
    res.resume();
    await once(req, 'close');

    // The same for a body that nobody waits for, stated too big or not wanted at all.
    for (const [method, size] of [
      ['POST', '99999999'],
      ['GET', '100'],
    ]) {
      const unread = https.request({
        host: '127.0.0.1',
        port: server.port,
        path: `${NS}/pods`,
        method,
        headers: { 'content-length': size },
        ca: pki.caPem,
        agent: false,
        ...admin,
      });
      unread.on('error', () => {});
      unread.write('{');
      const [early] = (await once(unread, 'response')) as [IncomingMessage];
      early.resume();
      await once(unread, 'close');
    }
    await server.stop();
  });

  it('compresses big answers for those who take it', async () => {
    const server = await serve();
    const data = { a: 'x'.repeat(200_000) };
    await h1(server, `${NS}/configmaps`, {
      method: 'POST',
      body: JSON.stringify({ metadata: { name: 'big' }, data }),
    });
    for (const path of [`${NS}/configmaps`, `${NS}/configmaps/big`]) {
      const plain = await h1(server, path);
      expect(plain.headers['content-encoding']).toBeUndefined();
      const zipped = await h1(server, path, { headers: { 'accept-encoding': 'gzip' } });
      expect(zipped.headers['content-encoding']).toBe('gzip');
      expect(zipped.body.length).toBeLessThan(5000);
      expect(JSON.parse(gunzipSync(zipped.body).toString())).toEqual(json(plain));
    }
    const small = await h1(server, `${NS}/pods`, { headers: { 'accept-encoding': 'gzip' } });
    expect(small.headers['content-encoding']).toBeUndefined();
    await h1(server, `${NS}/configmaps/big`, { method: 'DELETE' });
    await server.stop();
  });

  it.each(['h1', 'h2'] as const)('watches over %s, and ends watches when it stops', async (protocol) => {
    const server = await serve();
    const path = `${NS}/configmaps?watch=true`;
    let stream: NodeJS.ReadableStream;
    let s: http2.ClientHttp2Session | undefined;
    if (protocol === 'h2') {
      s = session(server, admin);
      const request = s.request({ ':path': path });
      request.end();
      await once(request, 'response'); // before there is any event
      stream = request;
    } else {
      const req = https
        .request({ host: '127.0.0.1', port: server.port, path, ca: pki.caPem, agent: false, ...admin })
        .end();
      [stream] = (await once(req, 'response')) as [IncomingMessage];
    }
    stream.setEncoding('utf8');
    await h1(server, `${NS}/configmaps`, {
      method: 'POST',
      body: JSON.stringify({ metadata: { name: `w-${protocol}` } }),
    });
    const [line] = await once(stream, 'data');
    expect(JSON.parse(line)).toMatchObject({
      type: 'ADDED',
      object: { metadata: { name: `w-${protocol}` } },
    });
    const ended = once(stream, 'end');
    await server.stop();
    await ended;
    s?.destroy();
    await t.call(`${NS}/configmaps/w-${protocol}`, { method: 'DELETE' });
  });

  it('stops at once when clients keep idle connections', async () => {
    // A clock on which the grace never ends: only what closes by itself closes.
    const server = await serve({ clock: { ...systemClock, after: () => () => {} } });
    const agent = new https.Agent({ keepAlive: true });
    expect((await h1(server, '/healthz', { agent })).status).toBe(200);
    const s = session(server, admin);
    expect((await h2(s, { ':path': '/healthz' })).status).toBe(200);
    await server.stop();
    agent.destroy();
    s.destroy();
  });

  it('drops a client that does not read, and lets its watch go', async () => {
    const server = await serve({ limits: { drainTimeout: 50 } });
    let closed = 0;
    const watch = t.registry.watch.bind(t.registry);
    const object = { kind: 'ConfigMap', metadata: { name: 'x' }, data: { a: 'x'.repeat(100_000) } };
    t.registry.watch = () => ({
      close: () => closed++,
      async *[Symbol.asyncIterator]() {
        for (;;) yield { type: 'ADDED' as const, object: object as never };
      },
    });
    const socket = tls.connect({ host: '127.0.0.1', port: server.port, ca: pki.caPem, ...admin });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    socket.write(`GET ${NS}/configmaps?watch=true HTTP/1.1\r\nhost: x\r\n\r\n`);
    socket.pause();
    while (closed === 0) await new Promise((r) => setTimeout(r, 10));
    t.registry.watch = watch;
    socket.destroy();
    await server.stop();
  });

  it('takes so many connections from one address and no more', async () => {
    const server = await serve({ limits: { connectionsPerAddress: 2 } });
    const connect = () => tls.connect({ host: '127.0.0.1', port: server.port, ca: pki.caPem, ...admin });
    const kept = [connect(), connect()];
    await Promise.all(kept.map((s) => once(s, 'secureConnect')));
    const refused = connect();
    await once(refused, 'error');
    const gone = once(kept[0]!, 'close');
    kept[0]!.destroy();
    await gone;
    // Given back as soon as the server has seen the end of it.
    for (;;) {
      const next = connect();
      const isIn = await once(next, 'secureConnect').then(
        () => true,
        () => false,
      );
      next.destroy();
      if (isIn) break;
    }
    kept[1]!.destroy();
    await server.stop();
  });

  it('refuses URLs and headers that are too long, in either protocol', async () => {
    const server = await serve();
    const long = `${NS}/pods?labelSelector=${'x'.repeat(40_000)}`;
    expect((await h1(server, long)).status).toBe(414);
    expect((await h1(server, `${NS}/pods?labelSelector=${'x'.repeat(20_000)}`)).status).toBe(400);
    expect((await h1(server, '/version', { headers: { x: 'y'.repeat(70_000) } })).status).toBe(431);
    const s = session(server, admin);
    s.on('error', () => {});
    expect((await h2(s, { ':path': long })).status).toBe(414);
    const stream = s.request({ ':path': '/version', x: 'y'.repeat(60_000), z: 'y'.repeat(60_000) });
    await expect(once(stream, 'response')).rejects.toThrow(
      /NGHTTP2_REFUSED_STREAM|NGHTTP2_ENHANCE_YOUR_CALM/,
    );
    s.destroy();
    expect((await h1(server, '/healthz')).status).toBe(200);
    await server.stop();
  });

  it('survives a rapid reset, and floods of pings and settings', async () => {
    const server = await serve();
    const attack = async (act: (s: http2.ClientHttp2Session) => void) => {
      const s = session(server, admin);
      s.on('error', () => {});
      await once(s, 'connect');
      for (let i = 0; i < 3000 && !s.destroyed && !s.closed; i++) act(s);
      await new Promise((resolve) => setTimeout(resolve, 50));
      s.destroy();
    };
    await attack((s) => {
      const stream = s.request({ ':path': `${NS}/pods` });
      stream.on('error', () => {});
      stream.close(http2.constants.NGHTTP2_CANCEL);
    });
    await attack((s) => {
      s.ping(() => {});
    });
    await attack((s) => {
      try {
        s.settings({ initialWindowSize: 65_535 });
      } catch {
        // Node's own limit of settings without an answer.
      }
    });
    const s = session(server, admin);
    expect((await h2(s, { ':path': `${NS}/pods` })).status).toBe(200);
    s.close();
    await server.stop();
  });

  it('survives what is not HTTP, and clients that leave in the middle', async () => {
    const server = await serve();
    const send = async (bytes: string | Buffer, alpn?: string[]) => {
      const socket = tls.connect({
        host: '127.0.0.1',
        port: server.port,
        ca: pki.caPem,
        ALPNProtocols: alpn,
        ...admin,
      });
      socket.on('error', () => {});
      socket.resume();
      await once(socket, 'secureConnect');
      socket.end(bytes);
      await once(socket, 'close');
    };
    await send('nonsense\r\n\r\n');
    await send('GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n');
    await send(`GET / HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`);
    await send(`POST ${NS}/pods HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"half":`);
    await send(`GET //%zz?%zz HTTP/1.1\r\nhost: x\r\n\r\n`);
    await send('CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n');
    await send(Buffer.alloc(500, 0xff), ['h2']);
    await send('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish', ['h2']);
    const plain = (await import('node:net')).connect(server.port, '127.0.0.1');
    plain.on('error', () => {});
    plain.end('GET / HTTP/1.1\r\n\r\n');
    plain.resume();
    await once(plain, 'close');
    expect((await h1(server, '/healthz')).body.toString()).toBe('ok');
    await server.stop();
  });
});
