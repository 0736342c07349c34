import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../../../api/clock.js';
import {
  configMaps,
  customResourceDefinitions,
  mutatingWebhookConfigurations,
  namespaces,
  pods,
  validatingWebhookConfigurations,
} from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { silentLog } from '../../../../api/log.js';
import { ApiError } from '../../../../api/meta/errors.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import { createPki } from '../../../pki/pki.js';
import { MemoryStore } from '../../../store/memory.js';
import { PATCH_TYPES, type RequestContext } from '../../api.js';
import { CustomDefinitions } from '../../custom/definitions.js';
import { Registry, stampResourceVersion } from '../../registry.js';

const K = (k: unknown) => k as Kind;
const maps = K(configMaps);

interface Review {
  apiVersion: string;
  request: {
    uid: string;
    operation: string;
    name?: string;
    namespace?: string;
    kind: object;
    resource: object;
    subResource?: string;
    requestKind: object;
    object: AnyObject | null;
    oldObject: AnyObject | null;
    dryRun: boolean;
    options: object;
    userInfo: { username: string; groups: string[] };
  };
}
/** What a scripted webhook answers: an AdmissionResponse, or whatever it does to the connection. */
type Behaviour = (
  review: Review,
  raw: { write(data: string): void; end(data?: string): void; status(code: number): void; destroy(): void },
) => object | undefined;

let dir: string;
let server: Server;
let url: string;
let caBundle: string;
const behaviours = new Map<string, Behaviour>();
let asked: [path: string, review: Review][] = [];

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'webhooks-'));
  const pki = await createPki(dir, { localHosts: () => ['127.0.0.1'] });
  caBundle = Buffer.from(pki.caPem).toString('base64');
  server = createServer({ cert: pki.server.cert, key: pki.server.key }, (req, res) => {
    const parts: Buffer[] = [];
    req.on('data', (d: Buffer) => parts.push(d));
    req.on('end', () => {
      const path = req.url!.replace(/\?.*$/, '');
      const review = JSON.parse(Buffer.concat(parts).toString()) as Review;
      asked.push([path, review]);
      const answer = behaviours.get(path)!(review, {
        write: (d) => res.write(d),
        end: (d) => res.end(d),
        status: (code) => res.writeHead(code),
        destroy: () => res.destroy(),
      });
      if (answer)
        res.end(
          JSON.stringify({
            kind: 'AdmissionReview',
            apiVersion: review.apiVersion,
            response: { uid: review.request.uid, ...answer },
          }),
        );
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

let registry: Registry;
const ctx = (more: Partial<RequestContext> = {}): RequestContext => ({
  user: 'ann',
  groups: ['system:authenticated'],
  warnings: [],
  ...more,
});
beforeEach(async () => {
  asked = [];
  behaviours.clear();
  const store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  registry = new Registry({ store, clock: systemClock, log: silentLog });
  await registry.bootstrap();
});

const RULE = { operations: ['*'], apiGroups: [''], apiVersions: ['v1'], resources: ['configmaps'] };
const hook = (path: string, behaviour: Behaviour, more: object = {}) => {
  behaviours.set(`/${path}`, behaviour);
  return {
    name: `${path}.example.com`,
    clientConfig: { url: `${url}/${path}`, caBundle },
    rules: [RULE],
    sideEffects: 'None',
    admissionReviewVersions: ['v1'],
    ...more,
  };
};
const configure = (kind: unknown, name: string, ...webhooks: object[]) =>
  registry.create(ctx(), K(kind), undefined, structuredClone({ metadata: { name }, webhooks }));
const mutating = (name: string, ...webhooks: object[]) =>
  configure(mutatingWebhookConfigurations, name, ...webhooks);
const validating = (name: string, ...webhooks: object[]) =>
  configure(validatingWebhookConfigurations, name, ...webhooks);
const patch = (...ops: object[]) => ({
  allowed: true,
  patchType: 'JSONPatch',
  patch: Buffer.from(JSON.stringify(ops)).toString('base64'),
});
const label = (k: string, v = 'x') => ({ op: 'add', path: `/metadata/labels/${k}`, value: v });
const make = (name: string, more: object = {}, c = ctx()) =>
  registry.create(c, maps, 'default', { metadata: { name, labels: { a: 'b' } }, data: { k: 'v' }, ...more });
const refusal = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
  } catch (e) {
    if (e instanceof ApiError) return `${e.toStatus().code} ${e.toStatus().message}`;
    throw e;
  }
  throw new Error('was not refused');
};

describe('mutating webhooks', () => {
  it('change objects in the order of names, each seeing what the one before left', async () => {
    await mutating(
      'b',
      hook('second', ({ request }) =>
        patch(label('second', String('first' in request.object!.metadata!.labels!))),
      ),
    );
    await mutating(
      'a',
      hook('first', () => patch(label('first'))),
    );
    const o = await make('m');
    expect(o.metadata?.labels).toEqual({ a: 'b', first: 'x', second: 'true' });
    const [, { apiVersion, request }] = asked[0]!;
    expect(apiVersion).toBe('admission.k8s.io/v1');
    expect(request).toMatchObject({
      kind: { group: '', version: 'v1', kind: 'ConfigMap' },
      resource: { group: '', version: 'v1', resource: 'configmaps' },
      requestKind: { kind: 'ConfigMap' },
      name: 'm',
      namespace: 'default',
      operation: 'CREATE',
      userInfo: { username: 'ann', groups: ['system:authenticated'] },
      object: { kind: 'ConfigMap', apiVersion: 'v1', data: { k: 'v' } },
      oldObject: null,
      dryRun: false,
      options: { kind: 'CreateOptions', apiVersion: 'meta.k8s.io/v1' },
    });
  });

  it('are asked about updates, patches and deletes, with what was there', async () => {
    await make('m');
    await mutating(
      'a',
      hook('w', ({ request }) => (request.operation === 'UPDATE' ? patch(label('seen')) : { allowed: true })),
    );
    const key = { namespace: 'default', name: 'm' };
    const o = await registry.patch(ctx(), maps, key, PATCH_TYPES.merge, { data: { k: 'w' } });
    expect(o).toMatchObject({ data: { k: 'w' }, metadata: { labels: { seen: 'x' } } });
    await registry.delete(ctx({ dryRun: true }), maps, key, {});
    await registry.delete(ctx(), maps, key, {});
    expect(
      asked.map(([, r]) => [
        r.request.operation,
        r.request.dryRun,
        !!r.request.object,
        !!r.request.oldObject,
      ]),
    ).toEqual([
      ['UPDATE', false, true, true],
      ['DELETE', true, false, true],
      ['DELETE', false, false, true],
    ]);
  });

  it('see each object of a deleted collection', async () => {
    for (const n of ['x', 'y']) await make(n);
    await validating(
      'a',
      hook('w', ({ request }) => ({ allowed: request.operation !== 'DELETE' || request.name !== 'y' })),
    );
    await refusal(registry.deleteCollection(ctx(), maps, { namespace: 'default' }, {}));
    expect(asked.map(([, r]) => r.request.name).sort()).toEqual(['x', 'y']);
  });

  it('are asked again when they want it and another one changed something', async () => {
    await mutating(
      'a',
      hook('again', () => patch(label(`n${asked.length}`)), { reinvocationPolicy: 'IfNeeded' }),
    );
    await mutating(
      'b',
      hook('once', () => patch(label('other'))),
    );
    const o = await make('m');
    expect(asked.map(([p]) => p)).toEqual(['/again', '/once', '/again']);
    expect(o.metadata?.labels).toEqual({ a: 'b', n1: 'x', other: 'x', n3: 'x' });
  });

  it('are asked once when nobody else changed anything', async () => {
    await mutating(
      'a',
      hook('again', () => patch(label('me')), { reinvocationPolicy: 'IfNeeded' }),
    );
    await make('m');
    expect(asked).toHaveLength(1);
  });

  it('cannot break an object', async () => {
    await mutating(
      'a',
      hook('w', ({ request }) =>
        patch(
          JSON.parse(
            request.object!['data'] ? (request.object!['data'] as Record<string, string>)['op']! : '',
          ),
        ),
      ),
    );
    const tried = (op: object, more = {}) =>
      refusal(make('m', { data: { op: JSON.stringify(op) }, ...more }));
    expect(await tried({ op: 'replace', path: '/data', value: 7 })).toMatch(
      /^500 Internal error occurred: .*cannot unmarshal/,
    );
    expect(await tried({ op: 'replace', path: '/kind', value: 'Secret' })).toMatch(
      /^500 Internal error occurred/,
    );
    expect(await tried({ op: 'remove', path: '/no/such' })).toMatch(/^500 Internal error occurred/);
    expect(await tried({ op: 'replace', path: '', value: [] })).toMatch(/^500 Internal error occurred/);
    expect(await tried({ op: 'replace', path: '/metadata/namespace', value: 'other' })).toMatch(
      /^400 the namespace/,
    );
    expect(await tried({ op: 'replace', path: '/metadata/name', value: 'NOT a name' })).toMatch(
      /^422 ConfigMap "NOT a name" is invalid/,
    );
  });
});

describe('validating webhooks', () => {
  it('deny in their own words, with their own code', async () => {
    await validating(
      'a',
      hook('w', () => ({ allowed: false, status: { code: 418, message: 'I am a teapot', reason: 'Tea' } })),
    );
    expect(await refusal(make('m'))).toBe(
      '418 admission webhook "w.example.com" denied the request: I am a teapot',
    );
  });

  it('deny without a word', async () => {
    await validating(
      'a',
      hook('w', () => ({ allowed: false })),
    );
    expect(await refusal(make('m'))).toBe(
      '400 admission webhook "w.example.com" denied the request without explanation',
    );
  });

  it('warn', async () => {
    await validating(
      'a',
      hook('w', () => ({ allowed: true, warnings: ['careful', 'x'.repeat(10_000)] })),
    );
    const c = ctx();
    await make('m', {}, c);
    expect(c.warnings[0]).toBe('careful');
    expect(c.warnings[1]!.length).toBe(4096);
  });

  it('are asked at the same time', async () => {
    const waiting: (() => void)[] = [];
    const wait: Behaviour = (review, raw) => {
      waiting.push(() =>
        raw.end(
          JSON.stringify({
            kind: 'AdmissionReview',
            apiVersion: 'admission.k8s.io/v1',
            response: { uid: review.request.uid, allowed: true },
          }),
        ),
      );
      // Neither is answered before both are there.
      if (waiting.length === 2) for (const answer of waiting) answer();
      return undefined;
    };
    await validating('a', hook('one', wait), hook('two', wait));
    await make('m');
    expect(asked).toHaveLength(2);
  });

  it('are left out by selectors, rules and conditions', async () => {
    const no: Behaviour = () => ({ allowed: false });
    await validating(
      'a',
      hook('op', no, { rules: [{ ...RULE, operations: ['DELETE'] }] }),
      hook('group', no, { rules: [{ ...RULE, apiGroups: ['apps'] }] }),
      hook('resource', no, { rules: [{ ...RULE, resources: ['*/status', 'secrets'] }] }),
      hook('scope', no, { rules: [{ ...RULE, scope: 'Cluster' }] }),
      hook('object', no, { objectSelector: { matchLabels: { a: 'other' } } }),
      hook('namespace', no, {
        namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'other' } },
      }),
      hook('condition', no, { matchConditions: [{ name: 'x', expression: 'object.data.k == "other"' }] }),
      hook('authz', no, {
        matchConditions: [
          { name: 'x', expression: 'authorizer.group("").resource("configmaps").check("get").allowed()' },
        ],
      }),
      hook('user', no, {
        matchConditions: [{ name: 'x', expression: '"nobody" in request.userInfo.groups' }],
        failurePolicy: 'Ignore',
      }),
    );
    registry.authorizer = { authorize: () => ({ allowed: false, reason: '' }) };
    await make('m');
    expect(asked).toEqual([]);
  });

  it('fail or not when a condition fails', async () => {
    const w = (failurePolicy: string) =>
      hook('w', () => ({ allowed: true }), {
        failurePolicy,
        matchConditions: [{ name: 'x', expression: 'object.data.nope == "x"' }],
      });
    await validating('a', w('Ignore'));
    await make('one');
    await registry.delete(ctx(), K(validatingWebhookConfigurations), { name: 'a' }, {});
    await validating('a', w('Fail'));
    expect(await refusal(make('two'))).toBe(
      `403 configmaps "two" is forbidden: expression 'object.data.nope == "x"' resulted in error: no such key: nope`,
    );
  });

  it('never hear of their own configuration', async () => {
    await validating(
      'a',
      hook('w', () => ({ allowed: false }), {
        rules: [{ operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'] }],
      }),
    );
    await registry.delete(ctx(), K(validatingWebhookConfigurations), { name: 'a' }, {});
    await make('m');
    expect(asked).toEqual([]);
  });

  it('see subresources', async () => {
    await registry.create(ctx(), K(pods), 'default', {
      metadata: { name: 'p' },
      spec: { containers: [{ name: 'a', image: 'b' }] },
    });
    const rules = [{ ...RULE, resources: ['pods/*'] }];
    await validating(
      'a',
      hook(
        'w',
        ({ request }) => ({ allowed: request.subResource !== 'eviction', status: { message: 'stay' } }),
        { rules },
      ),
    );
    const key = { namespace: 'default', name: 'p' };
    await registry.patch(ctx(), K(pods), key, PATCH_TYPES.merge, { status: { phase: 'Running' } }, 'status');
    await registry.bind(ctx(), key, { metadata: { name: 'p' }, target: { kind: 'Node', name: 'n' } });
    expect(await refusal(registry.evict(ctx(), key, { metadata: { name: 'p' } }))).toContain(
      'denied the request: stay',
    );
    expect(
      asked.map(([, r]) => [
        r.request.operation,
        r.request.subResource,
        (r.request.kind as { kind: string }).kind,
      ]),
    ).toEqual([
      ['UPDATE', 'status', 'Pod'],
      ['CREATE', 'binding', 'Binding'],
      ['CREATE', 'eviction', 'Eviction'],
    ]);
  });

  it('are asked about who connects to a pod, with what for', async () => {
    await registry.create(ctx(), K(pods), 'default', {
      metadata: { name: 'p' },
      spec: { containers: [{ name: 'a', image: 'b' }] },
    });
    const rules = [{ ...RULE, operations: ['CONNECT'], resources: ['pods/attach'] }];
    await mutating(
      'a',
      hook('m', () => patch({ op: 'add', path: '/tty', value: true }), { rules }),
    );
    await validating(
      'a',
      hook('w', () => ({ allowed: false, status: { message: 'not allowed' } }), { rules }),
    );
    const options = { apiVersion: 'v1', kind: 'PodAttachOptions', stdin: true, container: 'a' };
    const key = { namespace: 'default', name: 'p' };
    expect(await refusal(registry.connect(ctx(), pods as never, key, 'attach', options))).toContain(
      'denied the request: not allowed',
    );
    expect(asked[1]![1].request).toMatchObject({
      operation: 'CONNECT',
      subResource: 'attach',
      name: 'p',
      kind: { group: '', version: 'v1', kind: 'PodAttachOptions' },
      resource: { resource: 'pods' },
      object: { ...options, tty: true },
      oldObject: null,
      options: null,
    });
    await registry.connect(ctx(), pods as never, key, 'exec', { apiVersion: 'v1', kind: 'PodExecOptions' });
  });

  it('speak v1beta1 too', async () => {
    await mutating(
      'a',
      hook('w', () => ({ allowed: true, uid: 'wrong', patch: patch(label('old')).patch }), {
        admissionReviewVersions: ['v2', 'v1beta1'],
      }),
    );
    expect((await make('m')).metadata?.labels).toMatchObject({ old: 'x' });
    expect(asked[0]![1].apiVersion).toBe('admission.k8s.io/v1beta1');
  });
});

describe('webhooks of custom kinds', () => {
  it('are asked in the version that they know', async () => {
    const definitions = new CustomDefinitions({
      client: registry.client(),
      table: registry,
      clock: systemClock,
      log: silentLog,
    });
    await definitions.start();
    try {
      const schema = { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } };
      await registry.create(ctx(), K(customResourceDefinitions), undefined, {
        metadata: { name: 'lamps.example.com' },
        spec: {
          group: 'example.com',
          scope: 'Namespaced',
          names: { plural: 'lamps', kind: 'Lamp' },
          versions: ['v1', 'v1beta1'].map((name) => ({
            name,
            served: true,
            storage: name === 'v1',
            schema: structuredClone(schema),
          })),
        },
      });
      await vi.waitFor(() => expect(registry.kindFor('example.com', 'v1', 'lamps')).toBeDefined());
      const rules = [
        { operations: ['*'], apiGroups: ['example.com'], apiVersions: ['v1beta1'], resources: ['lamps'] },
      ];
      await mutating(
        'a',
        hook('equivalent', () => patch({ op: 'add', path: '/spec', value: { on: true } }), { rules }),
        hook('exact', () => ({ allowed: false }), { rules, matchPolicy: 'Exact' }),
      );
      const lamp = await registry.create(ctx(), registry.kindFor('example.com', 'v1', 'lamps')!, 'default', {
        apiVersion: 'example.com/v1',
        kind: 'Lamp',
        metadata: { name: 'a' },
      });
      expect(lamp).toMatchObject({ apiVersion: 'example.com/v1', spec: { on: true } });
      expect(
        asked.map(([path, { request: r }]) => [path, r.kind, r.requestKind, r.object?.apiVersion]),
      ).toEqual([
        [
          '/equivalent',
          { group: 'example.com', version: 'v1beta1', kind: 'Lamp' },
          { group: 'example.com', version: 'v1', kind: 'Lamp' },
          'example.com/v1beta1',
        ],
      ]);
    } finally {
      await definitions.stop();
    }
  });
});

describe('webhooks behind a Service', () => {
  const service = (name: string, more: object = {}) =>
    registry.create(ctx(), registry.kindFor('', 'v1', 'services')!, 'default', {
      metadata: { name },
      spec: { selector: { app: name }, ports: [{ port: 443, targetPort: 'https' }], ...more },
    });
  const w = (name: string, port = 443) =>
    hook('w', () => ({ allowed: true }), {
      clientConfig: { service: { namespace: 'default', name, port }, caBundle },
    });

  it('are found by its ready pods, and checked under its name', async () => {
    const port = Number(new URL(url).port);
    await service('web');
    await validating('a', w('web'));
    const why = (text: string) =>
      `500 Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: Post "https://web.default.svc:443/?timeout=10s": ${text}`;
    expect(await refusal(make('m'))).toBe(why('no endpoints available for service "web"'));
    const key = { namespace: 'default', name: 'p' };
    await registry.create(ctx(), K(pods), 'default', {
      metadata: { name: 'p', labels: { app: 'web' } },
      spec: { containers: [{ name: 'a', image: 'b', ports: [{ name: 'https', containerPort: port }] }] },
    });
    await registry.patch(
      ctx(),
      K(pods),
      key,
      PATCH_TYPES.merge,
      {
        status: {
          podIP: '127.0.0.1',
          podIPs: [{ ip: '127.0.0.1' }],
          conditions: [{ type: 'Ready', status: 'True' }],
        },
      },
      'status',
    );
    // It is reached; its certificate is of another name.
    expect(await refusal(make('m'))).toBe(
      why('tls: failed to verify certificate: x509: certificate is not valid for web.default.svc'),
    );
  });

  it('need a port that the Service has', async () => {
    await service('web');
    await validating('a', w('web', 444));
    expect(await refusal(make('m'))).toContain('no service port 444 found for service "web"');
  });
});

describe('webhooks that misbehave', () => {
  const cases: [name: string, behaviour: Behaviour, text: string, more?: object][] = [
    [
      'a wrong uid',
      () => ({ allowed: true, uid: 'other' }),
      'received invalid webhook response: expected response.uid=',
    ],
    [
      'garbage',
      (_, r) => void r.end('<html>'),
      "failed to call webhook: couldn't get version/kind; json parse error",
    ],
    [
      'another kind',
      (_, r) => void r.end('{"kind":"Pod","apiVersion":"v1"}'),
      'expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod',
    ],
    [
      'no answer inside',
      (_, r) => void r.end('{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}'),
      'webhook response was absent',
    ],
    [
      'error 500',
      (_, r) => {
        r.status(500);
        r.end('ouch');
        return undefined;
      },
      'an error on the server ("ouch") has prevented the request from succeeding',
    ],
    [
      'error 404',
      (_, r) => {
        r.status(404);
        r.end();
        return undefined;
      },
      'the server could not find the requested resource',
    ],
    ['a cut connection', (_, r) => void r.destroy(), ': EOF'],
    [
      'a half answer',
      (_, r) => {
        r.write('{"kind":');
        setTimeout(() => r.destroy(), 20);
        return undefined;
      },
      'failed to call webhook',
    ],
    ['a patch from a validating one', () => patch(), 'validating webhook may not return response.patch'],
    [
      'deep nesting',
      (_, r) => void r.end(`{"a":${'['.repeat(200_000)}${']'.repeat(200_000)}}`),
      'failed to call webhook',
    ],
    ['silence', () => undefined, 'context deadline exceeded', { timeoutSeconds: 1 }],
    [
      'a slow drip',
      (_, r) => {
        const t = setInterval(() => r.write(' '), 100);
        setTimeout(() => clearInterval(t), 3000).unref();
        return undefined;
      },
      'context deadline exceeded',
      { timeoutSeconds: 1 },
    ],
    [
      'an endless body',
      (_, r) => {
        const chunk = ' '.repeat(256 * 1024);
        for (let i = 0; i < 32; i++) r.write(chunk);
        return undefined;
      },
      'the answer is larger than',
    ],
    [
      'nobody there',
      () => undefined,
      'connect: connection refused',
      { clientConfig: { url: 'https://127.0.0.1:1/x' } },
    ],
    [
      'a service that is not there',
      () => undefined,
      'Post "https://web.default.svc:443/x?timeout=10s": service "web" not found',
      { clientConfig: { service: { namespace: 'default', name: 'web', path: '/x' } } },
    ],
  ];
  it.each(cases)('%s', async (_, behaviour, text, more = {}) => {
    await validating('a', hook('w', behaviour, more));
    const told = await refusal(make('m'));
    expect(told).toMatch(/^500 Internal error occurred: failed calling webhook "w.example.com": /);
    expect(told).toContain(text);
    await registry.delete(ctx(), K(validatingWebhookConfigurations), { name: 'a' }, {});
    await validating('a', hook('w', behaviour, { ...more, failurePolicy: 'Ignore' }));
    await make('n');
  });

  it('a certificate that nobody vouches for', async () => {
    await validating(
      'a',
      hook('w', () => ({ allowed: true }), { clientConfig: { url: `${url}/w` } }),
    );
    expect(await refusal(make('m'))).toContain(
      'tls: failed to verify certificate: x509: certificate signed by unknown authority',
    );
  });

  it('a slow one holds up no other write of the same object', async () => {
    await make('m');
    let release = () => {};
    await validating(
      'a',
      hook('w', (review, raw) => {
        if (review.request.userInfo.username !== 'slow') return { allowed: true };
        release = () =>
          raw.end(
            JSON.stringify({
              kind: 'AdmissionReview',
              apiVersion: 'admission.k8s.io/v1',
              response: { uid: review.request.uid, allowed: true },
            }),
          );
        return undefined;
      }),
    );
    const key = { namespace: 'default', name: 'm' };
    const slow = registry.patch(ctx({ user: 'slow' }), maps, key, PATCH_TYPES.merge, { data: { slow: '1' } });
    await registry.patch(ctx(), maps, key, PATCH_TYPES.merge, { data: { quick: '1' } });
    // The slow one starts anew from what the quick one left.
    const timer = setInterval(() => release(), 10);
    try {
      expect((await slow)['data']).toEqual({ k: 'v', slow: '1', quick: '1' });
    } finally {
      clearInterval(timer);
    }
  });
});

describe('configurations', () => {
  const wrong = async (w: object) =>
    refusal(mutating('x', { ...hook('w', () => ({ allowed: true })), ...w }));
  it.each<[object, string]>([
    [
      { name: 'short' },
      'webhooks[0].name: Invalid value: "short": should be a domain with at least three segments separated by dots',
    ],
    [
      { sideEffects: null },
      'webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun',
    ],
    [{ sideEffects: 'Some' }, 'webhooks[0].sideEffects: Unsupported value: "Some"'],
    [{ timeoutSeconds: 31 }, 'the timeout value must be between 1 and 30 seconds'],
    [{ clientConfig: {} }, 'exactly one of url or service is required'],
    [{ clientConfig: { url: 'http://a/b' } }, "'https' is the only allowed URL scheme"],
    [{ clientConfig: { url: 'https://a/b?c' } }, 'query parameters are not permitted in the URL'],
    [{ admissionReviewVersions: ['v9'] }, 'must include at least one of v1, v1beta1'],
    [
      { rules: [{ ...RULE, operations: ['CREATE', '*'] }] },
      "if '*' is present, must not specify other operations",
    ],
    [
      { rules: [{ ...RULE, resources: ['*/*', 'pods'] }] },
      "if '*/*' is present, must not specify other resources",
    ],
    [{ matchConditions: [{ name: 'a', expression: 'nope' }] }, "undeclared reference to 'nope'"],
    [{ matchConditions: [{ name: 'a', expression: '1' }] }, 'must evaluate to bool'],
    [{ reinvocationPolicy: 'Often' }, 'webhooks[0].reinvocationPolicy: Unsupported value: "Often"'],
  ])('%j', async (w, text) => expect(await wrong(w)).toContain(text));

  it('have Kubernetes’ defaults and count changes', async () => {
    const o = await mutating(
      'x',
      hook('w', () => ({ allowed: true }), { clientConfig: { service: { namespace: 'a', name: 'b' } } }),
    );
    expect(o).toMatchObject({
      metadata: { generation: 1 },
      webhooks: [
        {
          failurePolicy: 'Fail',
          matchPolicy: 'Equivalent',
          namespaceSelector: {},
          objectSelector: {},
          reinvocationPolicy: 'Never',
          timeoutSeconds: 10,
          rules: [{ scope: '*' }],
          clientConfig: { service: { port: 443 } },
        },
      ],
    });
    const patched = await registry.patch(
      ctx(),
      K(mutatingWebhookConfigurations),
      { name: 'x' },
      PATCH_TYPES.json,
      [{ op: 'replace', path: '/webhooks/0/timeoutSeconds', value: 5 }],
    );
    expect(patched.metadata?.generation).toBe(2);
  });

  it('do not keep a hub from starting', async () => {
    await validating(
      'a',
      hook('w', () => ({ allowed: false }), {
        rules: [{ operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'] }],
      }),
    );
    await registry.bootstrap();
    expect(asked).toEqual([]);
    expect(
      await refusal(registry.create(ctx(), K(namespaces), undefined, { metadata: { name: 'n' } })),
    ).toContain('denied');
    expect(K(customResourceDefinitions).plural).toBe('customresourcedefinitions');
  });
});
