import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../../api/clock.js';
import { silentLog } from '../../../api/log.js';
import { createPki } from '../../pki/pki.js';
import { type TestApi, testApi } from '../../testing/api.js';
import { CustomDefinitions } from './definitions.js';

const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const V1 = '/apis/stable.example.com/v1/namespaces/default/relays';
const V2 = '/apis/stable.example.com/v2/namespaces/default/relays';

interface Obj {
  apiVersion: string;
  kind: string;
  metadata: Record<string, any>;
  [key: string]: any;
}
interface Review {
  apiVersion: string;
  kind: string;
  request: { uid: string; desiredAPIVersion: string; objects: Obj[] };
}

/** v1 has `hostPort`, v2 `host` and `port`. */
function convert(o: Obj, apiVersion: string): Obj {
  const { hostPort, host, port, ...rest } = o;
  if (apiVersion.endsWith('/v2')) {
    const [h, p] = String(hostPort ?? '').split(':');
    return { ...rest, apiVersion, ...(hostPort === undefined ? {} : { host: h, port: p }) } as Obj;
  }
  return { ...rest, apiVersion, ...(host === undefined ? {} : { hostPort: `${host}:${port}` }) } as Obj;
}

let dir: string;
let server: Server;
let url: string;
let caBundle: string;
let asked: Review[] = [];
let answer: (review: Review) => object;
const good = (review: Review) => ({
  apiVersion: review.apiVersion,
  kind: 'ConversionReview',
  response: {
    uid: review.request.uid,
    result: { status: 'Success' },
    convertedObjects: review.request.objects.map((o) => convert(o, review.request.desiredAPIVersion)),
  },
});

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'conversion-'));
  const pki = await createPki(dir, { localHosts: () => ['127.0.0.1'] });
  caBundle = Buffer.from(pki.caPem).toString('base64');
  server = createServer({ cert: pki.server.cert, key: pki.server.key }, (req, res) => {
    const parts: Buffer[] = [];
    req.on('data', (d: Buffer) => parts.push(d));
    req.on('end', () => {
      const review = JSON.parse(Buffer.concat(parts).toString()) as Review;
      asked.push(review);
      res.end(JSON.stringify(answer(review)));
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/convert`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

const text = { type: 'string' };
const version = (name: string, fields: string[], storage: boolean) => ({
  name,
  served: true,
  storage,
  schema: {
    openAPIV3Schema: {
      type: 'object',
      properties: {
        ...Object.fromEntries(fields.map((f) => [f, text])),
        volts: { type: 'integer', default: 5 },
        status: { type: 'object', properties: { on: { type: 'boolean' } } },
      },
    },
  },
  subresources: { status: {} },
});
const definition = (storage: string, more: object = {}) => ({
  metadata: { name: 'relays.stable.example.com' },
  spec: {
    group: 'stable.example.com',
    scope: 'Namespaced',
    names: { plural: 'relays', kind: 'Relay' },
    versions: [
      version('v1', ['hostPort'], storage === 'v1'),
      version('v2', ['host', 'port'], storage === 'v2'),
    ],
    conversion: {
      strategy: 'Webhook',
      webhook: { clientConfig: { url, caBundle }, conversionReviewVersions: ['v1', 'v1beta1'] },
    },
    ...more,
  },
});

describe('webhook conversion', () => {
  let api: TestApi;
  let definitions: CustomDefinitions;
  const post = (to: string, body: object) => api.call(to, { method: 'POST', body });
  const put = (to: string, body: object) => api.call(to, { method: 'PUT', body });
  const apply = (to: string, manager: string, body: object, force = false) =>
    api.call(`${to}?fieldManager=${manager}${force ? '&force=true' : ''}`, {
      method: 'PATCH',
      headers: { 'content-type': 'application/apply-patch+yaml' },
      body,
    });
  const v1 = (name: string, hostPort: string, more: object = {}) => ({
    apiVersion: 'stable.example.com/v1',
    kind: 'Relay',
    metadata: { name },
    hostPort,
    ...more,
  });
  const v2 = (name: string, host: string, port: string) => ({
    apiVersion: 'stable.example.com/v2',
    kind: 'Relay',
    metadata: { name },
    host,
    port,
  });
  const stored = (name: string) =>
    api.store.get(`/stable.example.com/relays/default/${name}`)?.value as Obj | undefined;
  const established = async () => {
    for (;;) {
      const crd = (await api.call(`${CRDS}/relays.stable.example.com`)).json();
      if (crd.status?.conditions?.some((c: { type: string }) => c.type === 'Established')) break;
      await new Promise((r) => setTimeout(r, 5));
    }
    while ((await api.call(V1)).status !== 200) await new Promise((r) => setTimeout(r, 5));
  };
  const define = async (storage = 'v1', more: object = {}) => {
    const reply = await post(CRDS, definition(storage, more));
    expect(reply.status, reply.text).toBe(201);
    await established();
  };
  const redefine = async (storage: string, more: object = {}) => {
    const path = `${CRDS}/relays.stable.example.com`;
    const { metadata } = (await api.call(path)).json();
    const reply = await put(path, { ...definition(storage, more), metadata });
    expect(reply.status, reply.text).toBe(200);
    // Known once the informer has it.
    await new Promise((r) => setTimeout(r, 50));
  };

  beforeEach(async () => {
    asked = [];
    answer = good;
    api = await testApi();
    await api.registry.bootstrap();
    definitions = new CustomDefinitions({
      client: api.registry.client(),
      table: api.registry,
      clock: systemClock,
      log: silentLog,
    });
    await definitions.start();
  });
  afterEach(async () => {
    await definitions.stop();
    await api.store.close();
  });

  it('serves what was written in one version in the other, and stores the storage version', async () => {
    await define();
    expect((await post(V1, v1('a', 'localhost:8080'))).json()).toMatchObject({ hostPort: 'localhost:8080' });
    const other = (await api.call(`${V2}/a`)).json();
    expect(other).toMatchObject({
      apiVersion: 'stable.example.com/v2',
      host: 'localhost',
      port: '8080',
      volts: 5,
    });
    expect(other.hostPort).toBeUndefined();

    const made = await post(V2, v2('b', 'example.org', '1'));
    expect(made.status, made.text).toBe(201);
    expect(made.json()).toMatchObject({
      apiVersion: 'stable.example.com/v2',
      host: 'example.org',
      port: '1',
    });
    expect(stored('b')).toMatchObject({ apiVersion: 'stable.example.com/v1', hostPort: 'example.org:1' });
    expect(stored('b')!['host']).toBeUndefined();
    expect(asked[0]).toMatchObject({
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'ConversionReview',
      request: { desiredAPIVersion: 'stable.example.com/v2', objects: [{ hostPort: 'localhost:8080' }] },
    });
  });

  it('lists objects of several stored versions, asks once for all and not again', async () => {
    await define();
    for (let i = 0; i < 5; i++) await post(V1, v1(`a${i}`, `h:${i}`));
    await redefine('v2');
    await post(V1, v1('b', 'h:b'));
    expect(stored('b')).toMatchObject({ apiVersion: 'stable.example.com/v2', host: 'h', port: 'b' });
    asked = [];
    const [one, two] = await Promise.all([api.call(V2), api.call(V2)]);
    expect(one.json().items.map((o: Obj) => o['port'])).toEqual(['0', '1', '2', '3', '4', 'b']);
    expect(two.json().items).toEqual(one.json().items);
    expect(asked.map((r) => r.request.objects.length)).toEqual([5]);
    const old = await api.call(V1);
    expect(old.json().items.map((o: Obj) => o['hostPort'])).toEqual([
      'h:0',
      'h:1',
      'h:2',
      'h:3',
      'h:4',
      'h:b',
    ]);
    await api.call(V2);
    // Only what is not stored in v1 was asked about, and nothing twice.
    expect(asked.length).toBeLessThanOrEqual(2);
    expect((await api.call(`${CRDS}/relays.stable.example.com`)).json().status.storedVersions).toEqual([
      'v1',
      'v2',
    ]);
  });

  it('moves an object to the storage version by a write that changes nothing', async () => {
    await define();
    await post(V1, v1('a', 'h:1'));
    await redefine('v2');
    const now = (await api.call(`${V2}/a`)).json();
    expect(stored('a')!.apiVersion).toBe('stable.example.com/v1');
    expect((await put(`${V2}/a`, now)).status).toBe(200);
    expect(stored('a')).toMatchObject({ apiVersion: 'stable.example.com/v2', host: 'h', port: '1' });
  });

  it('updates, patches and writes status through either version', async () => {
    await define();
    await post(V1, v1('a', 'h:1'));
    const patched = await api.call(`${V2}/a`, {
      method: 'PATCH',
      headers: { 'content-type': 'application/merge-patch+json' },
      body: { port: '2', metadata: { labels: { x: 'y' } } },
    });
    expect(patched.status, patched.text).toBe(200);
    expect(stored('a')).toMatchObject({ hostPort: 'h:2', metadata: { labels: { x: 'y' }, generation: 2 } });
    const status = await put(`${V2}/a/status`, { ...patched.json(), status: { on: true } });
    expect(status.status, status.text).toBe(200);
    expect((await api.call(`${V1}/a`)).json()).toMatchObject({ hostPort: 'h:2', status: { on: true } });
  });

  it('keeps who owns what in the names of their own versions', async () => {
    await define();
    expect((await apply(`${V1}/a`, 'one', v1('a', 'h:1'))).status).toBe(201);
    const conflict = await apply(`${V2}/a`, 'two', v2('a', 'h', '2'));
    expect(conflict.status).toBe(409);
    expect(conflict.json().message).toContain('conflict with "one": .hostPort');
    const forced = await apply(`${V2}/a`, 'two', v2('a', 'h', '2'), true);
    expect(forced.status, forced.text).toBe(200);
    expect(stored('a')).toMatchObject({ hostPort: 'h:2' });
    expect(
      forced
        .json()
        .metadata.managedFields.map((m: Obj) => [m['manager'], m.apiVersion, Object.keys(m['fieldsV1'])]),
    ).toEqual([['two', 'stable.example.com/v2', ['f:host', 'f:port']]]);
    // What an applier leaves out goes, whatever version it applies it in.
    const { host: _h, port: _p, ...bare } = v2('a', '', '');
    const less = await apply(`${V1}/a`, 'two', { ...bare, apiVersion: 'stable.example.com/v1' });
    expect(less.status, less.text).toBe(200);
    expect(less.json().hostPort).toBeUndefined();
  });

  it('is watched in either version', async () => {
    await define();
    await post(V1, v1('a', 'h:1'));
    const kind = api.registry.kindFor('stable.example.com', 'v2', 'relays')!;
    const ctx = { user: 'ann', groups: [], warnings: [] };
    const watcher = api.registry.watch(ctx, kind, { namespace: 'default' });
    const events = watcher[Symbol.asyncIterator]();
    const next = async () => (await events.next()).value as { type: string; object: Obj };
    expect(await next()).toMatchObject({ type: 'ADDED', object: { host: 'h', port: '1' } });
    await post(V1, v1('b', 'h:2'));
    expect(await next()).toMatchObject({
      type: 'ADDED',
      object: { apiVersion: 'stable.example.com/v2', port: '2' },
    });
    await api.call(`${V1}/a`, { method: 'DELETE' });
    expect(await next()).toMatchObject({ type: 'DELETED', object: { port: '1' } });
    await post(V1, v1('c', 'h:3'));
    answer = (r) => ({ ...good(r), response: undefined });
    await expect(next()).rejects.toThrow(
      'conversion webhook for stable.example.com/v1, Kind=Relay failed: no response provided',
    );
  });

  it('fails in Kubernetes’ words', async () => {
    await define();
    await post(V1, v1('a', 'h:1'));
    const error = async () => {
      const reply = await api.call(`${V2}/a`);
      expect(reply.status).toBe(500);
      expect(reply.json().reason).toBeUndefined();
      return reply.json().message as string;
    };
    const about = 'conversion webhook for stable.example.com/v1, Kind=Relay';
    const result = (more: object) => (r: Review) => ({
      ...good(r),
      response: { ...good(r).response, ...more },
    });
    answer = result({ result: { status: 'Failed', message: 'no way' } });
    expect(await error()).toBe(`${about} failed: no way`);
    answer = result({ result: {} });
    expect(await error()).toBe(`${about} failed: response.result.status was '', not 'Success'`);
    answer = result({ convertedObjects: [] });
    expect(await error()).toBe(`${about} returned 0 objects, expected 1`);
    answer = (r) => ({ ...good(r), response: { ...good(r).response, uid: 'x' } });
    expect(await error()).toContain(`${about} failed: expected response.uid="`);
    answer = (r) => ({
      ...good(r),
      response: {
        ...good(r).response,
        convertedObjects: [
          { ...convert(r.request.objects[0]!, 'stable.example.com/v2'), metadata: { name: 'z' } },
        ],
      },
    });
    expect(await error()).toBe(`${about} returned invalid object: must have the same name: a != z`);
    answer = result({ convertedObjects: [v1('a', 'x')] });
    expect(await error()).toContain(
      'invalid groupVersion (expected stable.example.com/v2, received stable.example.com/v1)',
    );
    const failedWrite = await post(V2, v2('n', 'h', '1'));
    expect(failedWrite.status).toBe(500);
    expect(stored('n')).toBeUndefined();
    // The version that is stored needs nobody.
    expect((await api.call(`${V1}/a`)).status).toBe(200);
  });

  it('shows admission webhooks the version that they ask for, and takes their patches in it', async () => {
    await define();
    const seen: any[] = [];
    answer = (r: any) => {
      if (r.kind !== 'AdmissionReview') return good(r);
      seen.push(r.request);
      const ops = [{ op: 'replace', path: '/port', value: '9' }];
      return {
        apiVersion: r.apiVersion,
        kind: r.kind,
        response: {
          uid: r.request.uid,
          allowed: true,
          patchType: 'JSONPatch',
          patch: Buffer.from(JSON.stringify(ops)).toString('base64'),
        },
      };
    };
    const made = await post('/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations', {
      metadata: { name: 'm' },
      webhooks: [
        {
          name: 'm.example.com',
          clientConfig: { url, caBundle },
          rules: [
            {
              operations: ['*'],
              apiGroups: ['stable.example.com'],
              apiVersions: ['v2'],
              resources: ['relays'],
            },
          ],
          matchConditions: [{ name: 'c', expression: "object.host == 'h'" }],
          sideEffects: 'None',
          admissionReviewVersions: ['v1'],
        },
      ],
    });
    expect(made.status, made.text).toBe(201);
    const reply = await post(V1, v1('a', 'h:1'));
    expect(reply.status, reply.text).toBe(201);
    expect(reply.json().hostPort).toBe('h:9');
    expect(seen[0]).toMatchObject({
      kind: { version: 'v2' },
      requestKind: { version: 'v1' },
      object: { apiVersion: 'stable.example.com/v2', host: 'h', port: '1' },
    });
  });

  it('does not keep definitions and namespaces from going', async () => {
    await define();
    await post(V1, v1('a', 'h:1'));
    await redefine('v2');
    answer = () => ({});
    expect((await api.call(`${CRDS}/relays.stable.example.com`, { method: 'DELETE' })).status).toBe(200);
    while ((await api.call(`${CRDS}/relays.stable.example.com`)).status !== 404)
      await new Promise((r) => setTimeout(r, 20));
    expect(stored('a')).toBeUndefined();
  });

  it('keeps labels and annotations of the answer and the rest of the metadata', async () => {
    await define();
    answer = (r) => {
      const reply = good(r);
      for (const o of reply.response.convertedObjects)
        o.metadata = { ...o.metadata, labels: { by: 'webhook' }, generation: 99, finalizers: ['x/y'] };
      return reply;
    };
    await post(V1, v1('a', 'h:1'));
    expect((await api.call(`${V2}/a`)).json().metadata).toMatchObject({
      labels: { by: 'webhook' },
      generation: 1,
    });
    expect((await api.call(`${V2}/a`)).json().metadata.finalizers).toBeUndefined();
  });

  it.each([
    [{ strategy: 'Webhook' }, 'spec.conversion.webhookClientConfig: Required value'],
    [
      { strategy: 'None', webhook: { conversionReviewVersions: ['v1'], clientConfig: { url: 'https://x' } } },
      'spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook',
    ],
    [
      {
        strategy: 'Webhook',
        webhook: { conversionReviewVersions: ['v9'], clientConfig: { url: 'https://x' } },
      },
      'must include at least one of v1, v1beta1',
    ],
    [
      { strategy: 'Webhook', webhook: { conversionReviewVersions: ['v1'], clientConfig: {} } },
      'exactly one of url or service is required',
    ],
    [{ strategy: 'Magic' }, 'spec.conversion.strategy: Unsupported value: "Magic"'],
  ])('%j is refused', async (conversion, message) => {
    const reply = await post(CRDS, definition('v1', { conversion }));
    expect(reply.status).toBe(422);
    expect(reply.json().message).toContain(message);
  });
});
