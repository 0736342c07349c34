import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex, Readable } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { silentLog } from '../../api/log.js';
import { Informers } from '../informer.js';
import { createPki, type Pki } from '../pki/pki.js';
import { CustomDefinitions } from '../registry/custom/definitions.js';
import { type TestApi, testApi } from '../testing/api.js';
import { Aggregator } from './aggregator.js';
import { forward } from './proxy.js';
import { type RemoteTable, Upstream } from './remote.js';

const SERVICES = '/apis/apiregistration.k8s.io/v1/apiservices';
const NAME = 'v1alpha1.wardle.example.com';
const ROOT = '/apis/wardle.example.com/v1alpha1';
const FLUNDERS = `${ROOT}/namespaces/default/flunders`;

let dir: string;
let pki: Pki;
let server: Server;
let port: number;
let ca: string;
let seen: { method?: string; url?: string; headers: IncomingMessage['headers']; cn?: string }[] = [];
let answer: (req: IncomingMessage, res: ServerResponse) => void;

const RESOURCES = {
  kind: 'APIResourceList',
  apiVersion: 'v1',
  groupVersion: 'wardle.example.com/v1alpha1',
  resources: [
    {
      name: 'flunders',
      singularName: 'flunder',
      namespaced: true,
      kind: 'Flunder',
      verbs: ['create', 'get', 'list', 'watch'],
      shortNames: ['fl'],
    },
    { name: 'flunders/status', singularName: '', namespaced: true, kind: 'Flunder', verbs: ['get'] },
  ],
};
const json = (res: ServerResponse, body: object, status = 200) => {
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify(body));
};
const usual = (req: IncomingMessage, res: ServerResponse): void => {
  if (req.url === ROOT) json(res, RESOURCES);
  else if (req.url === '/openapi/v3')
    json(res, {
      paths: { 'apis/wardle.example.com/v1alpha1': { serverRelativeURL: `/openapi/v3${ROOT}?hash=A` } },
    });
  else if (req.url === `/openapi/v3${ROOT}?hash=A`)
    json(res, { openapi: '3.0.0', info: { title: 'Wardle' } });
  else if (req.url === '/openapi/v2')
    json(res, {
      paths: { [FLUNDERS]: { get: {} }, '/elsewhere': {} },
      definitions: { 'com.example.Flunder': { type: 'object' } },
    });
  else json(res, { kind: 'FlunderList', items: [] });
};

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'aggregator-'));
  pki = await createPki(dir, { localHosts: () => ['127.0.0.1'] });
  const pair = await pki.issueServerCert('wardle', ['wardle.default.svc']);
  ca = Buffer.from(pki.caPem).toString('base64');
  server = createServer(
    { cert: pair.cert, key: pair.key, ca: pki.frontProxyCaPem, requestCert: true, rejectUnauthorized: false },
    (req, res) => {
      const socket = req.socket as TLSSocket;
      const { method, url, headers } = req;
      seen.push({
        method,
        url,
        headers,
        cn: socket.authorized ? String(socket.getPeerCertificate().subject.CN) : undefined,
      });
      answer(req, res);
    },
  );
  server.listen(0, 'localhost');
  await once(server, 'listening');
  port = (server.address() as AddressInfo).port;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Two ends of one connection. */
function duplexPair(): [Duplex, Duplex] {
  const make = (other: () => Duplex): Duplex =>
    new Duplex({
      read() {},
      write(chunk, _e, done) {
        other().push(chunk);
        done();
      },
      final(done) {
        other().push(null);
        done();
      },
      destroy(e, done) {
        if (!other().destroyed) other().push(null);
        done(e);
      },
    });
  const a: Duplex = make(() => b);
  const b: Duplex = make(() => a);
  return [a, b];
}

describe('the aggregation layer', () => {
  let api: TestApi;
  let aggregator: Aggregator;
  let upstream: Upstream;
  let informers: Informers;
  let definitions: CustomDefinitions;

  beforeEach(async () => {
    seen = [];
    answer = usual;
    const table: { now?: RemoteTable } = {};
    let made: Upstream | undefined;
    api = await testApi({
      aggregation: {
        table: {
          get remotes() {
            return table.now?.remotes ?? [];
          },
        },
        forward: (remote, req) => forward(made!, remote, req),
        openApiV2: (remote) => aggregator.openApiV2(remote),
      },
    });
    const { registry } = api;
    await registry.bootstrap();
    const client = registry.client();
    const parts = { client, clock: systemClock, log: silentLog };
    definitions = new CustomDefinitions({ ...parts, table: registry });
    await definitions.start();
    informers = new Informers(client, systemClock, silentLog);
    upstream = new Upstream({
      directory: registry.directory,
      client: () => pki.frontProxy,
      clock: systemClock,
    });
    made = upstream;
    aggregator = new Aggregator({ ...parts, informers, kinds: registry, upstream });
    table.now = aggregator;
    await aggregator.start();
  });
  afterEach(async () => {
    await aggregator.stop();
    await informers.stop();
    await definitions.stop();
    await api.store.close();
  });

  const until = async (check: () => Promise<boolean>) => {
    while (!(await check())) await new Promise((r) => setTimeout(r, 5));
  };
  const get = async (url: string, headers = {}) => (await api.call(url, { headers })).json();
  const condition = async (name = NAME) =>
    (await get(`${SERVICES}/${name}`)).status?.conditions?.find(
      (c: { type: string }) => c.type === 'Available',
    );
  const post = async (url: string, body: object) => {
    const reply = await api.call(url, { method: 'POST', body });
    expect(reply.status, reply.text).toBe(201);
  };
  const apiService = (more: object = {}) => ({
    metadata: { name: NAME },
    spec: {
      group: 'wardle.example.com',
      version: 'v1alpha1',
      groupPriorityMinimum: 2000,
      versionPriority: 200,
      service: { namespace: 'default', name: 'wardle', port },
      caBundle: ca,
      ...more,
    },
  });
  const service = () =>
    post('/api/v1/namespaces/default/services', {
      metadata: { name: 'wardle' },
      spec: { type: 'ExternalName', externalName: 'localhost' },
    });
  const register = async (more: object = {}) => {
    await service();
    await post(SERVICES, apiService(more));
  };
  const available = () => until(async () => (await condition())?.status === 'True');

  it('registers what the API serves itself', async () => {
    await until(async () => (await condition('v1.apps'))?.status === 'True');
    const apps = await get(`${SERVICES}/v1.apps`);
    expect(apps.spec).toEqual({
      group: 'apps',
      version: 'v1',
      groupPriorityMinimum: 17800,
      versionPriority: 15,
    });
    expect(apps.metadata.labels).toEqual({ 'kube-aggregator.kubernetes.io/automanaged': 'onstart' });
    expect(await condition('v1.')).toMatchObject({
      reason: 'Local',
      message: 'Local APIServices are always available',
    });
    expect((await api.call(`${SERVICES}/v1.apiregistration.k8s.io`)).status).toBe(404);

    await post('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', {
      metadata: { name: 'lamps.example.com' },
      spec: {
        group: 'example.com',
        scope: 'Namespaced',
        names: { plural: 'lamps', kind: 'Lamp' },
        versions: [
          { name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: { type: 'object' } } },
        ],
      },
    });
    await until(async () => (await condition('v1.example.com'))?.status === 'True');
    expect((await get(`${SERVICES}/v1.example.com`)).metadata.labels).toEqual({
      'kube-aggregator.kubernetes.io/automanaged': 'true',
    });
    await api.call('/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lamps.example.com', {
      method: 'DELETE',
    });
    await until(async () => (await api.call(`${SERVICES}/v1.example.com`)).status === 404);
  });

  it('passes requests on in the name of who asks, with the front proxy’s certificate', async () => {
    await register();
    await available();
    expect(await condition()).toMatchObject({ reason: 'Passed', message: 'all checks passed' });
    seen = [];
    const reply = await api.call(`${FLUNDERS}?limit=5`, {
      headers: {
        authorization: 'Bearer secret',
        'x-remote-user': 'mallory',
        'x-remote-group': 'x',
        'x-mine': '1',
      },
      user: {
        name: 'ann',
        uid: '7',
        groups: ['system:masters', 'team'],
        extra: { 'Example.com/Scopes': ['a', 'b'] },
      },
    });
    expect(reply.json()).toEqual({ kind: 'FlunderList', items: [] });
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatchObject({ method: 'GET', url: `${FLUNDERS}?limit=5`, cn: 'front-proxy-client' });
    expect(seen[0]!.headers).toMatchObject({
      'x-remote-user': 'ann',
      'x-remote-uid': '7',
      'x-remote-group': 'system:masters, team',
      'x-remote-extra-example.com%2fscopes': 'a, b',
      'x-mine': '1',
    });
    expect(seen[0]!.headers.authorization).toBeUndefined();
  });

  it('asks for the user’s rights first', async () => {
    await register();
    await available();
    seen = [];
    const reply = await api.call(FLUNDERS, { user: { name: 'bob', groups: ['system:authenticated'] } });
    expect(reply.status).toBe(403);
    expect(reply.json().message).toBe(
      'flunders.wardle.example.com is forbidden: User "bob" cannot list resource "flunders" in API group "wardle.example.com" in the namespace "default"',
    );
    expect(seen).toHaveLength(0);
  });

  it('shows in discovery and OpenAPI what others serve', async () => {
    await register();
    await available();
    const groups = (await get('/apis')).groups as { name: string }[];
    expect(groups.find((g) => g.name === 'wardle.example.com')).toEqual({
      name: 'wardle.example.com',
      versions: [{ groupVersion: 'wardle.example.com/v1alpha1', version: 'v1alpha1' }],
      preferredVersion: { groupVersion: 'wardle.example.com/v1alpha1', version: 'v1alpha1' },
    });
    expect((await get('/apis/wardle.example.com')).kind).toBe('APIGroup');
    expect((await get(ROOT)).resources).toHaveLength(2);
    const accept = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList';
    const all = (await get('/apis', { accept })).items as {
      metadata: { name: string };
      versions: object[];
    }[];
    expect(all.find((g) => g.metadata.name === 'wardle.example.com')!.versions).toEqual([
      {
        version: 'v1alpha1',
        freshness: 'Current',
        resources: [
          {
            resource: 'flunders',
            responseKind: { group: 'wardle.example.com', version: 'v1alpha1', kind: 'Flunder' },
            scope: 'Namespaced',
            singularResource: 'flunder',
            verbs: ['create', 'get', 'list', 'watch'],
            shortNames: ['fl'],
            subresources: [
              {
                subresource: 'status',
                responseKind: { group: 'wardle.example.com', version: 'v1alpha1', kind: 'Flunder' },
                verbs: ['get'],
              },
            ],
          },
        ],
      },
    ]);
    const { serverRelativeURL } = (await get('/openapi/v3')).paths['apis/wardle.example.com/v1alpha1'];
    expect((await get(serverRelativeURL)).info.title).toBe('Wardle');
    const v2 = await get('/openapi/v2');
    expect(v2.paths[FLUNDERS]).toBeDefined();
    expect(v2.paths['/elsewhere']).toBeUndefined();
    expect(v2.definitions['com.example.Flunder']).toBeDefined();
    expect(v2.definitions['io.k8s.api.core.v1.Pod']).toBeDefined();

    await api.call(`${SERVICES}/${NAME}`, { method: 'DELETE' });
    await until(async () => (await api.call('/apis/wardle.example.com')).status === 404);
  });

  it('streams bodies both ways, and ends with the client', async () => {
    await register();
    await available();
    const reading = new Promise<number>((resolve) => {
      answer = (req, res) => {
        let size = 0;
        req.on('data', (d: Buffer) => {
          size += d.length;
        });
        req.on('end', () => {
          json(res, { size }, 201);
          resolve(size);
        });
      };
    });
    const chunk = Buffer.alloc(1 << 20);
    const request = (signal: AbortSignal, incoming?: Readable) =>
      api.api.handle({
        method: incoming ? 'POST' : 'GET',
        url: incoming ? FLUNDERS : `${FLUNDERS}?watch=true`,
        headers: {},
        user: { name: 'admin', groups: ['system:masters'] },
        body: async () => Buffer.alloc(0),
        ...(incoming ? { incoming } : {}),
        signal: () => signal,
      });
    // More than any request may have that the API reads itself.
    const made = await request(
      new AbortController().signal,
      Readable.from([chunk, chunk, chunk, chunk, chunk]),
    );
    expect(made.status).toBe(201);
    expect(await reading).toBe(5 << 20);

    const closed = new Promise<void>((resolve) => {
      answer = (_req, res) => {
        res.writeHead(200, { 'content-type': 'application/json' });
        res.write('{"type":"ADDED"}\n');
        res.once('close', resolve);
      };
    });
    const abort = new AbortController();
    const watch = await request(abort.signal);
    const lines = (watch.body as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
    expect(String((await lines.next()).value)).toBe('{"type":"ADDED"}\n');
    abort.abort();
    await closed;
    await lines.next().catch(() => {});
  });

  it('passes on connections that change their protocol', async () => {
    await register();
    await available();
    const asked = new Promise<IncomingMessage['headers']>((resolve) =>
      server.once('upgrade', (req: IncomingMessage, socket: Duplex) => {
        resolve(req.headers);
        socket.write(
          'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ',
        );
        socket.pipe(socket);
      }),
    );
    const abort = new AbortController();
    const reply = await api.api.handle({
      method: 'GET',
      url: `${FLUNDERS}/a/exec`,
      headers: { connection: 'Upgrade', upgrade: 'echo', 'sec-test': 'x' },
      user: { name: 'ann', groups: ['system:masters'] },
      upgrade: 'echo',
      body: async () => Buffer.alloc(0),
      signal: () => abort.signal,
    });
    expect(await asked).toMatchObject({ upgrade: 'echo', 'sec-test': 'x', 'x-remote-user': 'ann' });
    const [ours, client] = duplexPair();
    const over = reply.takeOver!(undefined as never, ours, Buffer.from('early '));
    client.write('late');
    let heard = '';
    for await (const part of client) {
      heard += part;
      if (heard.endsWith('late')) break;
    }
    expect(heard).toBe(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello early late',
    );
    await over;
  });

  it('says what is wrong with a server', async () => {
    await post(SERVICES, apiService());
    await until(async () => (await condition())?.reason === 'ServiceNotFound');
    expect(await condition()).toMatchObject({
      status: 'False',
      message: 'service/wardle in "default" is not present',
    });
    expect(await api.call(FLUNDERS)).toMatchObject({ status: 503, text: 'service unavailable\n' });
    await service();
    await available();
    answer = (_req, res) => json(res, {}, 500);
    await api.call(`${SERVICES}/${NAME}`, {
      method: 'PATCH',
      headers: { 'content-type': 'application/merge-patch+json' },
      body: { spec: { versionPriority: 100 } },
    });
    await until(async () => (await condition())?.reason === 'FailedDiscoveryCheck');
    expect((await condition()).message).toMatch(
      /^failing or missing response from https:\/\/localhost:\d+\/apis\/wardle.example.com\/v1alpha1: bad status from .*: 500$/,
    );
    answer = usual;
    await available();
    answer = (_req, res) => {
      res.writeHead(302, { location: 'https://evil.example.com/' });
      res.end();
    };
    expect(await api.call(FLUNDERS)).toMatchObject({
      status: 502,
      text: 'the backend attempted to redirect this request, which is not permitted',
    });
    answer = (req) => req.socket.destroy();
    expect(await api.call(FLUNDERS)).toMatchObject({
      status: 503,
      text: expect.stringContaining('error trying to reach service: '),
    });
  });

  it('does not trust a server that another CA vouches for, unless told to', async () => {
    const other = Buffer.from(pki.clientCaPem).toString('base64');
    await register({ caBundle: other });
    await until(async () => (await condition())?.reason === 'FailedDiscoveryCheck');
    expect((await condition()).message).toContain('x509: certificate signed by unknown authority');
    const path = `${SERVICES}/${NAME}`;
    const { metadata } = await get(path);
    await api.call(path, {
      method: 'PUT',
      body: { ...apiService({ caBundle: undefined, insecureSkipTLSVerify: true }), metadata },
    });
    await available();
  });

  it('keeps conditions of others, and an APIService that somebody put in the place of its own', async () => {
    await until(async () => (await condition('v1beta1.metrics.k8s.io'))?.status === 'True');
    await service();
    answer = (req, res) =>
      json(res, req.url!.startsWith('/apis/metrics') ? { ...RESOURCES, resources: [] } : {});
    const path = `${SERVICES}/v1beta1.metrics.k8s.io`;
    const patch = (to: string, body: object) =>
      api.call(to, {
        method: 'PATCH',
        headers: { 'content-type': 'application/merge-patch+json' },
        body,
      });
    const { status } = await get(path);
    await patch(`${path}/status`, {
      status: { conditions: [...status.conditions, { type: 'Mine', status: 'True' }] },
    });
    await patch(path, {
      spec: { service: { namespace: 'default', name: 'wardle', port }, caBundle: ca },
    });
    await until(async () => (await condition('v1beta1.metrics.k8s.io'))?.reason === 'Passed');
    expect((await get(path)).status.conditions.map((c: { type: string }) => c.type)).toEqual([
      'Available',
      'Mine',
    ]);
    answer = (_req, res) => json(res, { kind: 'NodeMetricsList', items: ['theirs'] });
    expect((await get('/apis/metrics.k8s.io/v1beta1/nodes')).items).toEqual(['theirs']);
  });

  it.each([
    [{ versionPriority: 0 }, 'spec.versionPriority: Invalid value: 0: must be positive and less than 1000'],
    [{ version: 'v2' }, 'must be `spec.version+"."+spec.group`: "v2.wardle.example.com"'],
    [{ insecureSkipTLSVerify: true }, 'may not be true if caBundle is present'],
    [{ service: undefined }, 'local APIServices may not have a caBundle'],
    [{ service: { name: 'x' } }, 'spec.service.namespace: Required value'],
  ])('refuses %j', async (more, message) => {
    const reply = await api.call(SERVICES, { method: 'POST', body: apiService(more) });
    expect(reply.status).toBe(422);
    expect(reply.json().message).toContain(message);
  });
});
