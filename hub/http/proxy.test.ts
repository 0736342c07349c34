import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer as listen, type Socket } from 'node:net';
import { Duplex, duplexPair, pipeline } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { endpoints, pods, services } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ApiError } from '../../api/meta/errors.js';
import { type Credit, TYPE, unpackData } from '../../api/wire/messages.js';
import { StreamEnd, SUB } from '../../api/wire/stream-end.js';
import { LIMITS } from '../../api/wire/topics.js';
import { NodeRefusal, type NodeStream, type PodConnections } from '../streams.js';
import { ADMIN, testApi } from '../testing/api.js';
import { backendOf, moved, proxyPath } from './proxy.js';

/** The hub's end of a stream whose other end is joined with a TCP connection, as a device does it. */
async function joinedStream(port: number): Promise<NodeStream> {
  const socket = connect(port, '127.0.0.1');
  await new Promise<void>((opened, failed) => {
    socket.once('connect', opened);
    socket.once('error', () => failed(new NodeRefusal('InternalError', 'connection refused')));
  });
  const deliver = (to: () => StreamEnd) => async (type: number, body: unknown) => {
    const copy = Buffer.isBuffer(body) ? Buffer.from(body) : body;
    await new Promise((resolve) => setImmediate(resolve));
    if (type === TYPE.data) to().receive(unpackData(copy as Buffer)!);
    else to().grant((copy as Credit).w);
  };
  const options = { credit: LIMITS.window, reads: [SUB.stdin, SUB.stdout] };
  const hub: StreamEnd = new StreamEnd(
    1,
    deliver(() => device),
    options,
  );
  const device: StreamEnd = new StreamEnd(
    1,
    deliver(() => hub),
    options,
  );
  const far = Duplex.from({
    readable: device.readable(SUB.stdin),
    writable: device.writable(SUB.stdout, { closes: true }),
  });
  const done = new Promise<number>((ended) => void pipeline(far, socket, far, () => ended(0)));
  return { end: hub, done, cancel: () => socket.destroy() };
}

const meta = (name: string) => ({ name, namespace: 'default' });

describe('proxy', () => {
  let backend: Server;
  let seen: { method?: string; url?: string; headers: IncomingMessage['headers']; body: string }[];
  let answer: (req: IncomingMessage, res: ServerResponse) => void;
  let asked: object[];
  let refuse: ApiError | undefined;
  let api: Awaited<ReturnType<typeof testApi>>;
  let port: number;

  beforeEach(async () => {
    seen = [];
    asked = [];
    refuse = undefined;
    answer = (_, res) => res.end('hello');
    backend = createServer((req, res) => {
      let body = '';
      req.on('data', (c) => {
        body += c;
      });
      req.on('end', () => {
        seen.push({ method: req.method, url: req.url, headers: req.headers, body });
        answer(req, res);
      });
    });
    await new Promise<void>((up) => backend.listen(0, '127.0.0.1', up));
    port = (backend.address() as AddressInfo).port;
    const connections: PodConnections = {
      mayConnect: () => {
        if (refuse) throw refuse;
      },
      connect: async (node, kind, options) => {
        asked.push({ node, kind, ...options });
        return joinedStream((options as { port: number }).port);
      },
    };
    api = await testApi({ connections });
    await api.registry.bootstrap();
    const kind = pods as unknown as Kind;
    const ctx = { user: ADMIN.name, groups: ADMIN.groups, warnings: [] } as never;
    await api.registry.create(ctx, kind, 'default', {
      metadata: meta('web'),
      spec: {
        nodeName: 'pi1',
        containers: [{ name: 'c', image: 'i', ports: [{ containerPort: port }] }],
      },
    });
    const status = { podIP: '10.1.2.3', podIPs: [{ ip: '10.1.2.3' }], phase: 'Running' };
    await api.registry.update(
      ctx,
      kind,
      meta('web'),
      { ...structuredClone(api.registry.get(ctx, kind, meta('web'))), status },
      'status',
    );
  });
  afterEach(async () => {
    backend.closeAllConnections();
    await new Promise((closed) => backend.close(closed));
  });

  const path = '/api/v1/namespaces/default';

  it('passes method, path, query, headers and body on, and the answer back', async () => {
    answer = (_, res) => res.writeHead(201, { 'x-mine': '1' }).end('made');
    const r = await api.call(`${path}/pods/web:${port}/proxy/a//b%20c/?x=1&y`, {
      method: 'POST',
      headers: { authorization: 'Bearer secret', 'x-own': 'yes', 'impersonate-user': undefined },
      body: { n: 1 },
    });
    expect(r).toMatchObject({ status: 201, text: 'made' });
    expect(r.headers['x-mine']).toBe('1');
    expect(seen).toMatchObject([{ method: 'POST', url: '/a//b%20c/?x=1&y', body: '{"n":1}' }]);
    expect(seen[0]!.headers).toMatchObject({
      'x-own': 'yes',
      'x-forwarded-uri': `${path}/pods/web:${port}/proxy/a//b%20c/`,
    });
    expect(seen[0]!.headers.authorization).toBeUndefined();
    expect(asked).toMatchObject([{ node: 'pi1', kind: 'forward', pod: 'web', port }]);
  });

  it('asks the first port of the pod when none is named', async () => {
    expect((await api.call(`${path}/pods/web/proxy/`)).text).toBe('hello');
  });

  it('sends who asks without a slash to where relative links work', async () => {
    const r = await api.call(`${path}/pods/web/proxy?q=1`);
    expect(r).toMatchObject({ status: 301, headers: { location: `${path}/pods/web/proxy/?q=1` } });
    expect(seen).toEqual([]);
  });

  it('leads redirects through the proxy again', async () => {
    answer = (_, res) => res.writeHead(302, { location: '/login?next=%2F' }).end();
    const r = await api.call(`${path}/pods/web/proxy/`);
    expect(r.headers['location']).toBe(`${path}/pods/web/proxy/login?next=%2F`);
  });

  it('finds a pod behind a Service, by port, by name and by scheme', async () => {
    const ctx = { user: ADMIN.name, groups: ADMIN.groups, warnings: [] } as never;
    const create = (kind: unknown, o: object) => api.registry.create(ctx, kind as Kind, 'default', o);
    await create(services, {
      metadata: meta('web'),
      spec: { ports: [{ name: 'http', port: 80, targetPort: port }] },
    });
    const none = await api.call(`${path}/services/web:80/proxy/`);
    expect(none).toMatchObject({ status: 404 });
    const address = (targetRef?: object) => ({ ip: '10.1.2.3', ...(targetRef ? { targetRef } : {}) });
    await create(endpoints, {
      metadata: meta('web'),
      subsets: [
        {
          addresses: [address({ kind: 'Pod', name: 'web', namespace: 'default' })],
          ports: [{ name: 'http', port }],
        },
      ],
    });
    for (const id of ['web:80', 'web:http', 'http:web:http'])
      expect((await api.call(`${path}/services/${id}/proxy/`)).text).toBe('hello');
    expect((await api.call(`${path}/services/web:81/proxy/`)).json()).toMatchObject({
      code: 503,
      message: 'no service port 81 found for service "web"',
    });
    expect((await api.call(`${path}/services/web:other/proxy/`)).json()).toMatchObject({
      message: 'no endpoints available for service "web:other"',
    });
    // Not a pod: the hub is no way into the network around it.
    await create(services, { metadata: meta('odd'), spec: { ports: [{ port: 80 }] } });
    await create(endpoints, {
      metadata: meta('odd'),
      subsets: [{ addresses: [address()], ports: [{ port }] }],
    });
    expect((await api.call(`${path}/services/odd:80/proxy/`)).json()).toMatchObject({
      message: 'no endpoints available for service "odd:80"',
    });
  });

  it('says what is wrong', async () => {
    const message = async (id: string) => (await api.call(`${path}/pods/${id}/proxy/`)).json();
    expect(await message('ftp:web:80')).toMatchObject({
      code: 400,
      message: 'invalid pod request "ftp:web:80"',
    });
    expect(await message('web:0')).toMatchObject({ code: 400 });
    expect(await message('nobody')).toMatchObject({ code: 404, message: 'pods "nobody" not found' });
    const free = listen().listen(0, '127.0.0.1');
    await new Promise((up) => free.once('listening', up));
    const closed = (free.address() as AddressInfo).port;
    await new Promise((down) => free.close(down));
    expect(await message(`web:${closed}`)).toMatchObject({
      code: 503,
      reason: 'ServiceUnavailable',
      message: 'error trying to reach service: connection refused',
    });
    refuse = new ApiError('ServiceUnavailable', 'node "pi1" has no link to the hub');
    expect(await message('web')).toMatchObject({ code: 503, message: 'node "pi1" has no link to the hub' });
  });

  it('breaks off with an answer that breaks off', async () => {
    answer = (_, res) => {
      res.writeHead(200, { 'content-length': '100' }).write('half');
      setImmediate(() => (res.socket as Socket).destroy());
    };
    await expect(api.call(`${path}/pods/web/proxy/`)).rejects.toThrow();
  });

  it('joins the two ends of a connection that leaves HTTP', async () => {
    backend.on('upgrade', (req, socket: Socket, head: Buffer) => {
      socket.write(
        `HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: ${req.headers.upgrade}\r\nX-Path: ${req.url}\r\n\r\n`,
      );
      socket.write(head);
      socket.pipe(socket);
    });
    const reply = await api.api.handle({
      method: 'GET',
      url: `${path}/pods/web/proxy/echo`,
      headers: { upgrade: 'echo', connection: 'Upgrade' },
      upgrade: 'echo',
      user: ADMIN,
      body: async () => Buffer.alloc(0),
      signal: () => new AbortController().signal,
    });
    expect(reply.status).toBe(101);
    const [client, hub] = duplexPair();
    const over = reply.takeOver!(undefined as never, hub, Buffer.from('early '));
    client.write('late');
    let got = '';
    for await (const chunk of client) {
      got += chunk;
      if (got.endsWith('early late')) client.end();
    }
    await over;
    expect(got).toContain(
      '101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Path: /echo\r\n\r\nearly late',
    );
  });

  it('wants the verb of the method', async () => {
    const user = { name: 'viewer', groups: ['system:authenticated'] };
    const r = await api.call(`${path}/pods/web/proxy/`, { user, method: 'DELETE' });
    expect(r.json().message).toContain('cannot delete resource "pods/proxy"');
  });
});

it('names are split as Kubernetes splits them', () => {
  expect(backendOf('a', 'pod')).toEqual({ scheme: 'http', name: 'a', port: '' });
  expect(backendOf('a:80', 'pod')).toEqual({ scheme: 'http', name: 'a', port: '80' });
  expect(backendOf('https:a:', 'pod')).toEqual({ scheme: 'https', name: 'a', port: '' });
  for (const bad of ['', ':80', 'a:b:c:d', 'tcp:a:1'])
    expect(() => backendOf(bad, 'service')).toThrow(`invalid service request ${JSON.stringify(bad)}`);
});

it('the path is what follows, as it was written', () => {
  const prefix = '/api/v1/namespaces/n/services/s/proxy';
  expect(proxyPath(`${prefix}/x%2Fy?proxy/=1`)).toEqual({ prefix, path: '/x%2Fy', query: '?proxy/=1' });
  expect(proxyPath(prefix)).toEqual({ prefix, path: '', query: '' });
  expect(() => proxyPath('/api/v1/namespaces/n/services/s/prox%79/')).toThrow('could not find');
});

it('only redirects within the pod are rewritten', () => {
  const at = (l: string) => moved(l, '/p/proxy', ['hub:6443', '10.0.0.1']);
  expect(at('/x?y#z')).toBe('/p/proxy/x?y#z');
  expect(at('/p/proxy/x')).toBe('/p/proxy/x');
  expect(at('x')).toBe('x');
  expect(at('http://10.0.0.1:8080/x')).toBe('/p/proxy/x');
  expect(at('https://hub:6443')).toBe('/p/proxy/');
  expect(at('http://elsewhere/x')).toBe('http://elsewhere/x');
  expect(at('//elsewhere/x')).toBe('//elsewhere/x');
});
