import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { pods } from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { ADMIN, type TestApi, testApi } from '../testing/api.js';
import { ANONYMOUS } from './auth.js';

const TABLE = 'application/json;as=Table;v=v1;g=meta.k8s.io';
const NS = '/api/v1/namespaces/default';
const pod = (name: string, containers = ['main']) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels: { app: name } },
  spec: { containers: containers.map((c) => ({ name: c, image: `${c}:1` })) },
});
const configMap = (name: string, data: object = {}) => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name },
  data,
});

async function apiWithDefault(options: Parameters<typeof testApi>[0] = {}): Promise<TestApi> {
  const t = await testApi(options);
  const made = await t.call('/api/v1/namespaces', {
    method: 'POST',
    body: { metadata: { name: 'default' } },
  });
  expect(made.status).toBe(201);
  return t;
}

describe('documents', () => {
  let t: TestApi;
  beforeAll(async () => {
    t = await testApi({ health: [{ name: 'store', failing: () => undefined }] });
  });

  it('lists groups, versions and resources', async () => {
    expect((await t.call('/api')).json().versions).toEqual(['v1']);
    const groups = (await t.call('/apis')).json().groups.map((g: { name: string }) => g.name);
    expect(groups).toEqual(expect.arrayContaining(['apps', 'node.k8s.io', 'coordination.k8s.io']));
    const apps = (await t.call('/apis/apps/v1')).json();
    expect(apps).toMatchObject({ kind: 'APIResourceList', apiVersion: 'v1', groupVersion: 'apps/v1' });
    const names = apps.resources.map((r: { name: string }) => r.name);
    expect(names).toEqual(expect.arrayContaining(['deployments', 'deployments/scale', 'deployments/status']));
    expect((await t.call('/apis/apps')).json().preferredVersion).toEqual({
      groupVersion: 'apps/v1',
      version: 'v1',
    });
  });

  it('lists them all at once for those who ask so', async () => {
    const accept = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json';
    const reply = await t.call('/api', { headers: { accept } });
    expect(reply.headers['content-type']).toBe(
      'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList',
    );
    const etag = String(reply.headers['etag']);
    const again = await t.call('/api', { headers: { accept, 'if-none-match': etag } });
    expect([again.status, again.text, again.headers['etag']]).toEqual([304, '', etag]);
    expect((await t.call('/apis', { headers: { accept, 'if-none-match': etag } })).status).toBe(200);
    const [core] = reply.json().items;
    const podsFound = core.versions[0].resources.find((r: { resource: string }) => r.resource === 'pods');
    expect(podsFound).toMatchObject({
      scope: 'Namespaced',
      shortNames: ['po'],
      responseKind: { kind: 'Pod' },
    });
    expect(podsFound.subresources.map((s: { subresource: string }) => s.subresource)).toEqual(
      expect.arrayContaining(['log', 'binding', 'eviction', 'status']),
    );
  });

  it('counts requests for Prometheus', async () => {
    await t.call('/api/v1/namespaces/default/pods/nobody');
    const reply = await t.call('/metrics');
    expect(reply.headers['content-type']).toMatch(/^text\/plain; version=0\.0\.4/);
    expect(reply.text).toMatch(
      /^apiserver_request_total\{code="404",group="",resource="pods",subresource="",verb="GET",version="v1"\} \d+$/m,
    );
    for (const line of reply.text.trim().split('\n'))
      expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [\d.]+)$/);
    expect((await t.call('/metrics', { user: ANONYMOUS })).status).toBe(403);
  });

  it('tells version and health', async () => {
    expect((await t.call('/version')).json()).toMatchObject({
      major: '1',
      minor: '36',
      gitVersion: 'v1.36.0+coxswain0.1.0',
    });
    for (const path of ['/healthz', '/livez', '/readyz']) {
      expect(await t.call(path, { user: ANONYMOUS })).toMatchObject({ status: 200, text: 'ok' });
    }
    expect((await t.call('/readyz/ping', { user: ANONYMOUS })).status).toBe(403);
    expect((await t.call('/readyz/ping')).text).toBe('ok');
    expect((await t.call('/livez?verbose')).text).toBe('[+]ping ok\n[+]store ok\nlivez check passed\n');
  });

  it('is unwell when a check fails, and keeps the reason for the log', async () => {
    const logged: unknown[] = [];
    const log: Log = { ...silentLog, warn: (fields) => logged.push(fields) };
    const sick = await testApi({ log, health: [{ name: 'store', failing: () => 'the disk is full' }] });
    const reply = await sick.call('/readyz', { user: ANONYMOUS });
    expect(reply.status).toBe(500);
    expect(reply.text).toBe('[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n');
    expect(logged).toEqual([{ check: 'store', why: 'the disk is full' }]);
    expect((await sick.call('/readyz?exclude=store')).status).toBe(200);
    expect((await sick.call('/readyz/ping')).text).toBe('ok');
    expect((await sick.call('/readyz/store?exclude=store')).status).toBe(500);
    expect((await sick.call('/readyz/nothing')).status).toBe(404);
    expect((await sick.call('/livez?verbose&exclude=store&exclude=nothing')).text).toBe(
      '[+]ping ok\n[+]store excluded: ok\nwarn: some health checks cannot be excluded: no matches for "nothing"\nlivez check passed\n',
    );
    expect((await sick.call('/')).json().paths).toEqual(
      expect.arrayContaining(['/livez/ping', '/readyz/store', '/openapi/v3', '/apis/apps/v1']),
    );
  });

  it('serves OpenAPI v3 with what kubectl looks for', async () => {
    const index = (await t.call('/openapi/v3')).json().paths;
    const doc = await t.call(index['apis/apps/v1'].serverRelativeURL);
    const patch = doc.json().paths['/apis/apps/v1/namespaces/{namespace}/deployments/{name}'].patch;
    expect(patch['x-kubernetes-group-version-kind']).toEqual({
      group: 'apps',
      version: 'v1',
      kind: 'Deployment',
    });
    expect(patch['x-kubernetes-action']).toBe('patch');
    expect(patch.parameters.map((p: { name: string }) => p.name)).toContain('fieldValidation');
    expect(Object.keys(patch.requestBody.content)).toContain('application/strategic-merge-patch+json');
    const podSpec = doc.json().components.schemas['io.k8s.api.core.v1.PodSpec'];
    expect(podSpec.properties.containers['x-kubernetes-patch-merge-key']).toBe('name');
    // Every reference leads somewhere.
    const refs = [...doc.text.matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)].map((m) => m[1]!);
    for (const ref of new Set(refs)) expect(doc.json().components.schemas).toHaveProperty([ref]);
    expect(doc.text).not.toContain('#/definitions/');
    const again = await t.call('/openapi/v3/apis/apps/v1', {
      headers: { 'if-none-match': String(doc.headers['etag']) },
    });
    expect([again.status, again.text]).toEqual([304, '']);
    // What has a hash never changes; another hash leads to the one that is served.
    expect(doc.headers['cache-control']).toBe('public, immutable');
    expect(Date.parse(String(doc.headers['expires']))).toBeGreaterThan(Date.now() + 364 * 86_400_000);
    const old = await t.call('/openapi/v3/apis/apps/v1?hash=OLD');
    expect([old.status, old.headers['location']]).toEqual([301, index['apis/apps/v1'].serverRelativeURL]);
    expect((await t.call('/openapi/v3/apis/apps/v1')).headers['cache-control']).toBe('no-cache, private');
  });

  it('serves OpenAPI v2 as JSON and as protobuf', async () => {
    const doc = (await t.call('/openapi/v2')).json();
    expect(doc.swagger).toBe('2.0');
    expect(doc.definitions).toHaveProperty(['io.k8s.api.core.v1.Pod']);
    const accept = 'application/com.github.proto-openapi.spec.v2@v1.0+protobuf';
    const proto = await t.call('/openapi/v2', { headers: { accept } });
    expect(proto.headers['content-type']).toBe('application/com.github.proto-openapi.spec.v2.v1.0+protobuf');
    expect(proto.text).toContain('io.k8s.api.core.v1.Pod');
    expect((await t.call('/openapi/v3/api/v1', { headers: { accept: 'text/html' } })).status).toBe(406);
  });
});

describe('who may do what', () => {
  let t: TestApi;
  beforeAll(async () => {
    t = await apiWithDefault();
  });
  const node = { name: 'system:node:pi1', groups: ['system:nodes', 'system:authenticated'] };
  const alice = { name: 'alice', groups: ['dev', 'system:authenticated'] };

  it.each([
    [
      ANONYMOUS,
      'GET',
      `${NS}/pods`,
      'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default"',
    ],
    [ANONYMOUS, 'GET', '/apis', 'forbidden: User "system:anonymous" cannot get path "/apis"'],
    [
      alice,
      'GET',
      '/api/v1/pods?watch=true',
      'pods is forbidden: User "alice" cannot watch resource "pods" in API group "" at the cluster scope',
    ],
    [
      alice,
      'DELETE',
      '/apis/apps/v1/namespaces/x/deployments/web',
      'deployments.apps "web" is forbidden: User "alice" cannot delete resource "deployments" in API group "apps" in the namespace "x"',
    ],
    [
      alice,
      'GET',
      `${NS}/pods/p/log`,
      'pods "p" is forbidden: User "alice" cannot get resource "pods/log" in API group "" in the namespace "default"',
    ],
    [
      alice,
      'DELETE',
      '/api/v1/nodes',
      'nodes is forbidden: User "alice" cannot deletecollection resource "nodes" in API group "" at the cluster scope',
    ],
    [
      node,
      'GET',
      '/api/v1/nodes/pi2',
      `nodes "pi2" is forbidden: User "system:node:pi1" cannot get resource "nodes" in API group "" at the cluster scope: node 'pi1' cannot read 'pi2', only its own Node object`,
    ],
  ])('%s may not %s %s', async (user, method, url, message) => {
    const reply = await t.call(url, { user, method });
    expect(reply.status).toBe(403);
    expect(reply.json()).toMatchObject({ kind: 'Status', reason: 'Forbidden', code: 403, message });
  });

  it('lets everyone with a certificate discover', async () => {
    for (const path of ['/api', '/apis/apps/v1', '/openapi/v3']) {
      expect((await t.call(path, { user: alice })).status).toBe(200);
    }
  });
});

describe('verbs', () => {
  it('create, get, list, update, patch, delete', async () => {
    const t = await apiWithDefault();
    const made = await t.call(`${NS}/configmaps`, { method: 'POST', body: configMap('c', { a: '1' }) });
    expect(made.status).toBe(201);
    expect(made.json()).toMatchObject({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'c', namespace: 'default' },
    });
    const list = (await t.call(`${NS}/configmaps`)).json();
    expect(list).toMatchObject({
      kind: 'ConfigMapList',
      apiVersion: 'v1',
      metadata: { resourceVersion: t.registry.resourceVersion },
    });
    expect(list.items).toHaveLength(1);
    const put = await t.call(`${NS}/configmaps/c`, { method: 'PUT', body: configMap('c', { a: '2' }) });
    expect(put.json().data).toEqual({ a: '2' });
    const patched = await t.call(`${NS}/configmaps/c`, {
      method: 'PATCH',
      headers: { 'content-type': 'application/merge-patch+json' },
      body: { data: { b: '3' } },
    });
    expect(patched.json().data).toEqual({ a: '2', b: '3' });
    const gone = await t.call(`${NS}/configmaps/c`, { method: 'DELETE' });
    expect(gone.json()).toMatchObject({
      kind: 'Status',
      status: 'Success',
      details: { name: 'c', kind: 'configmaps' },
    });
    expect((await t.call(`${NS}/configmaps/c`)).json()).toMatchObject({
      reason: 'NotFound',
      message: 'configmaps "c" not found',
    });
  });

  it('deletes collections by selector', async () => {
    const t = await apiWithDefault();
    for (const n of ['a', 'b']) await t.call(`${NS}/pods`, { method: 'POST', body: pod(n) });
    const reply = await t.call(`${NS}/pods?labelSelector=app%3Da`, {
      method: 'DELETE',
      body: { gracePeriodSeconds: 0 },
    });
    expect(reply.json()).toMatchObject({ kind: 'PodList', items: [{ metadata: { name: 'a' } }] });
    expect(
      (await t.call(`${NS}/pods`)).json().items.map((i: { metadata: { name: string } }) => i.metadata.name),
    ).toEqual(['b']);
  });

  it('a dry run changes nothing', async () => {
    const t = await apiWithDefault();
    expect(
      (await t.call(`${NS}/configmaps?dryRun=All`, { method: 'POST', body: configMap('c') })).status,
    ).toBe(201);
    expect((await t.call(`${NS}/configmaps/c`)).status).toBe(404);
    const wrong = await t.call(`${NS}/configmaps?dryRun=yes`, { method: 'POST', body: configMap('c') });
    expect(wrong.json()).toMatchObject({
      reason: 'Invalid',
      message:
        'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["yes"]: supported values: "All"',
    });
  });

  it('warns of unknown fields in a header', async () => {
    const t = await apiWithDefault();
    const reply = await t.call(`${NS}/configmaps?fieldValidation=Warn`, {
      method: 'POST',
      body: { ...configMap('c'), 'o"dd': 1 },
    });
    expect(reply.status).toBe(201);
    expect(reply.headers['warning']).toEqual([String.raw`299 - "unknown field \"o\\\"dd\""`]);
  });

  it('pages through lists', async () => {
    const t = await apiWithDefault();
    for (const n of ['a', 'b', 'c']) await t.call(`${NS}/configmaps`, { method: 'POST', body: configMap(n) });
    const first = (await t.call(`${NS}/configmaps?limit=2`)).json();
    expect(first.items).toHaveLength(2);
    expect(first.metadata.remainingItemCount).toBe(1);
    const rest = (
      await t.call(`${NS}/configmaps?limit=2&continue=${encodeURIComponent(first.metadata.continue)}`)
    ).json();
    expect(rest.items.map((i: { metadata: { name: string } }) => i.metadata.name)).toEqual(['c']);
    expect(rest.metadata.continue).toBeUndefined();
    expect((await t.call(`${NS}/configmaps?limit=two`)).json()).toMatchObject({
      code: 400,
      reason: 'BadRequest',
    });
  });

  it('tells what a body has twice, as fieldValidation wants it', async () => {
    const t = await apiWithDefault();
    const text = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"NAME"},"data":{"a":"1","a":"2"}}';
    const send = (name: string, fieldValidation: string) =>
      t.call(`/api/v1/namespaces/default/configmaps?fieldValidation=${fieldValidation}`, {
        method: 'POST',
        body: text.replace('NAME', name),
      });
    const strict = await send('strict', 'Strict');
    expect(strict.status).toBe(400);
    expect(strict.json().message).toBe(
      'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a"',
    );
    const both = await t.call(`${NS}/configmaps?fieldValidation=Strict`, {
      method: 'POST',
      body: '{"metadata":{"name":"both","odd":1},"data":{"a":"1","a":"2"},"datum":{}}',
    });
    expect(both.json().message).toContain(
      'strict decoding error: unknown field "metadata.odd", duplicate field "data.a", unknown field "datum"',
    );
    const warned = await send('warned', 'Warn');
    expect(warned.json().data).toEqual({ a: '2' });
    expect(warned.headers['warning']).toEqual(['299 - "duplicate field \\"data.a\\""']);
    const ignored = await send('ignored', 'Ignore');
    expect(ignored.status).toBe(201);
    expect(ignored.headers['warning']).toBeUndefined();
    const patched = await t.call('/api/v1/namespaces/default/configmaps/warned?fieldValidation=Strict', {
      method: 'PATCH',
      headers: { 'content-type': 'application/merge-patch+json' },
      body: '{"datum":{},"data":{"a":"3","a":"4"}}',
    });
    expect(patched.status).toBe(422);
    expect(patched.json().message).toContain(
      'strict decoding error: duplicate field "data.a", unknown field "datum"',
    );
  });

  it('applies: with a manager, by force, and makes what is not there', async () => {
    const t = await apiWithDefault();
    const url = '/api/v1/namespaces/default/configmaps/c';
    const apply = (
      query: string,
      data: object,
      type = 'application/apply-patch+yaml',
      agent = 'tool/1.0 (x)',
    ) =>
      t.call(`${url}?${query}`, {
        method: 'PATCH',
        headers: { 'content-type': type, 'user-agent': agent },
        body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'c' }, data },
      });
    const nobody = await apply('', { a: '1' });
    expect(nobody.status).toBe(422);
    expect(nobody.json().message).toBe(
      'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
    );
    expect((await apply('fieldManager=me', { a: '1' })).status).toBe(201);
    expect((await apply('fieldManager=me', { a: '1' })).status).toBe(200);
    const other = await apply('fieldManager=you', { a: '2' });
    expect(other.status).toBe(409);
    expect(other.json()).toMatchObject({
      reason: 'Conflict',
      message: 'Apply failed with 1 conflict: conflict with "me": .data.a',
      details: {
        causes: [{ reason: 'FieldManagerConflict', message: 'conflict with "me"', field: '.data.a' }],
      },
    });
    expect((await apply('fieldManager=you&force=true', { a: '2' })).json().data).toEqual({ a: '2' });
    const merged = await apply('', { b: '1' }, 'application/merge-patch+json');
    expect(
      merged
        .json()
        .metadata.managedFields.map((m: { manager: string }) => m.manager)
        .sort(),
    ).toEqual(['tool', 'you']);
    const force = await apply('force=true', { b: '1' }, 'application/merge-patch+json');
    expect(force.json().message).toBe(
      'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch',
    );
    const odd = await apply(`fieldManager=${encodeURIComponent('a\nb')}`, {});
    expect(odd.json().message).toContain(
      'fieldManager: Invalid value: "a\\nb": invalid character U+000A (at position 1)',
    );
    expect((await apply(`fieldManager=${'x'.repeat(129)}`, {})).json().message).toContain(
      'fieldManager: Too long: may not be more than 128 bytes',
    );
    const table = await t.call(`${url}?fieldManager=you`, {
      method: 'PATCH',
      headers: {
        'content-type': 'application/apply-patch+yaml',
        accept: 'application/json;as=Table;v=v1;g=meta.k8s.io',
      },
      body: 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: "2"}\n',
    });
    expect(table.json()).toMatchObject({ kind: 'Table', rows: [{}] });
    const meta = await t.call(url, {
      headers: { accept: 'application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io' },
    });
    expect(meta.json().metadata.managedFields).toHaveLength(2);
  });

  it('answers in the form that was asked for', async () => {
    const t = await apiWithDefault();
    await t.call(`${NS}/pods`, { method: 'POST', body: pod('p') });
    const table = (await t.call(`${NS}/pods`, { headers: { accept: TABLE } })).json();
    expect(table).toMatchObject({ kind: 'Table', apiVersion: 'meta.k8s.io/v1' });
    expect(table.columnDefinitions.map((c: { name: string }) => c.name).slice(0, 3)).toEqual([
      'Name',
      'Ready',
      'Status',
    ]);
    expect(table.columnDefinitions).toHaveLength(pods.columns.length);
    expect(table.rows[0].cells.slice(0, 3)).toEqual(['p', '0/1', 'Pending']);
    expect(table.rows[0].object).toMatchObject({ kind: 'PartialObjectMetadata', metadata: { name: 'p' } });
    const bare = (await t.call(`${NS}/pods/p?includeObject=None`, { headers: { accept: TABLE } })).json();
    expect(bare.rows).toHaveLength(1);
    expect(bare.rows[0].object).toBeUndefined();
    const whole = (await t.call(`${NS}/pods?includeObject=Object`, { headers: { accept: TABLE } })).json();
    expect(whole.rows[0].object.spec.containers).toHaveLength(1);
    const meta = await t.call(`${NS}/pods`, {
      headers: { accept: 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io' },
    });
    expect(meta.json()).toMatchObject({
      kind: 'PartialObjectMetadataList',
      items: [{ metadata: { name: 'p' } }],
    });
    expect(meta.text).not.toContain('"containers"');
    const yaml = await t.call(`${NS}/pods`, { headers: { accept: 'application/yaml' } });
    expect(yaml.text).toMatch(/^kind: PodList\napiVersion: v1\n/);
    expect((await t.call(`${NS}/pods/p?pretty=true`)).text).toMatch(/^\{\n {2}"/);
    expect((await t.call(`${NS}/pods/p`, { headers: { 'user-agent': 'curl/8' } })).text).toMatch(
      /^\{\n {2}"/,
    );
    const one = 'application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io';
    expect((await t.call(`${NS}/pods`, { headers: { accept: one } })).status).toBe(406);
    expect(
      (await t.call(`${NS}/pods`, { headers: { accept: 'application/vnd.kubernetes.protobuf' } })).json(),
    ).toMatchObject({ code: 406, reason: 'NotAcceptable' });
  });

  it.each([
    ['POST', '/api/v1/pods', 405],
    ['PUT', `${NS}/pods`, 405],
    ['POST', `${NS}/pods/p`, 405],
    ['DELETE', `${NS}/pods/p/status`, 405],
    ['BREW', `${NS}/pods`, 405],
    ['GET', `${NS}/cheeses`, 404],
    ['GET', '/api/v2/pods', 404],
    ['GET', '/apis/nope/v1/x', 404],
    ['GET', `${NS}/pods/p/cheese`, 404],
    ['GET', `${NS}/pods/p/log/x`, 404],
    ['GET', '/api/v1/pods/p', 404],
    ['GET', `${NS}/nodes`, 404],
    ['GET', '/nope', 404],
    ['GET', `${NS}/pods/%E0%A4%A`, 400],
    ['GET', `${NS}/pods/${'x'.repeat(20_000)}`, 400],
    ['POST', `${NS}/pods`, 400],
    ['PATCH', `${NS}/pods/p`, 415],
    ['GET', '/api/v1/pods?watch=true&resourceVersion=abc', 400],
    ['GET', '/api/v1/pods?watch=true&sendInitialEvents=true', 422],
    ['GET', '/api/v1/pods?resourceVersionMatch=Exact', 422],
    ['GET', '/api/v1/pods?includeObject=Some', 400],
    ['GET', '/api/v1/pods?continue=garbage', 400],
    ['GET', '/api/v1/pods?resourceVersion=7x', 400],
    ['GET', '/api/v1/pods?timeoutSeconds=soon', 400],
    ['GET', '/api/v1/watch/cheeses', 404],
    ['GET', '/api/v1/watch', 404],
    ['POST', '/api/v1/watch/namespaces/default/pods', 405],
    ['GET', '/api/v1/watch/namespaces/default/pods/p/log', 405],
  ])('%s %s is %i', async (method, url, status) => {
    const t = await apiWithDefault();
    const reply = await t.call(url, { method });
    expect(reply.status).toBe(status);
    if (url !== '/nope')
      expect(reply.json()).toMatchObject({ kind: 'Status', status: 'Failure', code: status });
  });

  it('says what is wrong with the options of a list or watch as Kubernetes does', async () => {
    const t = await apiWithDefault();
    const wrong = async (query: string) => {
      const reply = (await t.call(`/api/v1/pods?${query}`)).json();
      expect(reply).toMatchObject({
        code: 422,
        reason: 'Invalid',
        details: { kind: 'ListOptions', group: 'meta.k8s.io' },
      });
      expect(reply.details.causes.length).toBeGreaterThan(0);
      return reply.message.replace('ListOptions.meta.k8s.io "" is invalid: ', '');
    };
    const match = 'resourceVersionMatch: Forbidden: resourceVersionMatch';
    expect(await wrong('resourceVersionMatch=Exact')).toBe(
      `${match} is forbidden unless resourceVersion is provided`,
    );
    expect(await wrong('resourceVersionMatch=Exact&resourceVersion=0')).toBe(
      `${match} "exact" is forbidden for resourceVersion "0"`,
    );
    expect(await wrong('resourceVersionMatch=x&resourceVersion=1&continue=y')).toBe(
      `[${match} is forbidden when continue is provided, resourceVersionMatch: Unsupported value: "x": supported values: "Exact", "NotOlderThan", ""]`,
    );
    expect(await wrong('sendInitialEvents=true')).toBe(
      'sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list',
    );
    expect(await wrong('watch=1&sendInitialEvents=false')).toBe(
      'resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan',
    );
    expect(await wrong('watch=1&resourceVersionMatch=Exact')).toBe(
      `[${match} is forbidden for watch unless sendInitialEvents is provided, resourceVersionMatch: Unsupported value: "Exact": supported values: "NotOlderThan"]`,
    );
  });

  it('tells what went wrong inside, in answer and log', async () => {
    const logged: { err: Error }[] = [];
    const t = await testApi({ log: { ...silentLog, error: (f) => logged.push(f as { err: Error }) } });
    t.registry.list = () => {
      throw new Error('disk on fire');
    };
    const reply = await t.call('/api/v1/pods');
    expect(reply.json()).toMatchObject({
      code: 500,
      reason: 'InternalError',
      message: 'Internal error occurred: disk on fire',
    });
    expect(logged[0]?.err.message).toBe('disk on fire');
  });

  it('refuses more than it can do at once', async () => {
    const t = await apiWithDefault({ limits: { exemptSeats: 1, longRunning: 1 } });
    const slow = t.call(`${NS}/configmaps`, { method: 'POST', body: configMap('c') });
    const refused = await t.call(`${NS}/configmaps`);
    expect([refused.status, refused.headers['retry-after'], refused.text]).toEqual([
      429,
      '1',
      'Too many requests, please try again later.\n',
    ]);
    expect((await t.call('/livez', { user: ANONYMOUS })).status).toBe(200);
    expect((await slow).status).toBe(201);

    const abort = new AbortController();
    const watching = await t.send('/api/v1/pods?watch=true', { signal: abort.signal });
    expect((await t.send('/api/v1/pods?watch=true')).status).toBe(429);
    abort.abort();
    for await (const _ of watching.body as AsyncIterable<string>);
    const again = new AbortController();
    const next = await t.send('/api/v1/pods?watch=true', { signal: again.signal });
    expect(next.status).toBe(200);
    again.abort();
    for await (const _ of next.body as AsyncIterable<string>);
  });

  it('gives a request a minute, or less when the client says so', async () => {
    const clock = new VirtualClock();
    const t = await apiWithDefault({ clock, limits: { exemptSeats: 1 } });
    const never = () => new Promise<never>(() => {});
    const create = t.registry.create.bind(t.registry);
    t.registry.create = never;
    for (const [query, ms] of [
      ['', 60_000],
      ['?timeout=1h', 60_000],
      ['?timeout=1.5s', 1500],
    ] as const) {
      const fresh = await testApi({ clock });
      fresh.registry.create = never;
      const slow = fresh.call(`${NS}/configmaps${query}`, { method: 'POST', body: configMap('c') });
      let answered = false;
      slow.then(() => {
        answered = true;
      });
      await clock.advance(ms - 1);
      expect(answered).toBe(false);
      await clock.advance(1);
      expect((await slow).json()).toMatchObject({
        code: 504,
        reason: 'Timeout',
        message: 'Timeout: request did not complete within the allotted timeout',
      });
    }
    const wrong = await t.call(`${NS}/configmaps?timeout=soon`);
    expect(wrong.json()).toMatchObject({
      code: 400,
      message: 'invalid timeout specified in the request URL - time: invalid duration "soon"',
    });
    // What does not end keeps its seat: a disk that hangs is not buried under more work.
    const stuck = t.call(`${NS}/configmaps?timeout=1s`, { method: 'POST', body: configMap('c') });
    await clock.advance(1000);
    expect((await stuck).status).toBe(504);
    expect((await t.call(`${NS}/configmaps`)).status).toBe(429);
    t.registry.create = create;
  });

  it('keeps the seat of a list until it is read, or given up', async () => {
    const t = await apiWithDefault({ limits: { exemptSeats: 1 } });
    for (const end of ['read', 'give up'] as const) {
      const { body } = await t.send(`${NS}/configmaps`);
      expect((await t.call(`${NS}/configmaps`)).status).toBe(429);
      const chunks = (body as Iterable<string>)[Symbol.iterator]();
      if (end === 'read') while (!chunks.next().done);
      else chunks.return?.();
      expect((await t.call(`${NS}/configmaps`)).status).toBe(200);
    }
  });
});

describe('watch', () => {
  /** Reads events until `n` are there. */
  async function take(body: AsyncIterator<string | Uint8Array>, n: number): Promise<any[]> {
    const events: unknown[] = [];
    while (events.length < n) {
      const { value, done } = await body.next();
      if (done) break;
      for (const line of String(value).trim().split('\n')) events.push(JSON.parse(line));
    }
    return events;
  }
  const open = async (t: TestApi, url: string, accept?: string) => {
    const abort = new AbortController();
    const { status, body } = await t.send(url, { signal: abort.signal, headers: accept ? { accept } : {} });
    expect(status).toBe(200);
    return { abort, events: (body as AsyncIterable<string>)[Symbol.asyncIterator]() };
  };

  it('begins with what is there, goes on with what changes, ends with the client', async () => {
    const t = await apiWithDefault();
    await t.call(`${NS}/configmaps`, { method: 'POST', body: configMap('a') });
    const { abort, events } = await open(t, `${NS}/configmaps?watch=1`);
    expect(await take(events, 1)).toMatchObject([{ type: 'ADDED', object: { metadata: { name: 'a' } } }]);
    await t.call(`${NS}/configmaps/a`, { method: 'PUT', body: configMap('a', { x: '1' }) });
    await t.call(`${NS}/configmaps/a`, { method: 'DELETE' });
    expect(await take(events, 2)).toMatchObject([
      { type: 'MODIFIED' },
      { type: 'DELETED', object: { data: { x: '1' } } },
    ]);
    abort.abort();
    expect((await events.next()).done).toBe(true);
  });

  it('sends tables, columns once', async () => {
    const t = await apiWithDefault();
    for (const n of ['a', 'b']) await t.call(`${NS}/pods`, { method: 'POST', body: pod(n) });
    const { abort, events } = await open(t, `${NS}/pods?watch=true`, TABLE);
    const [first, second] = await take(events, 2);
    expect(first.object).toMatchObject({ kind: 'Table', rows: [{ cells: expect.arrayContaining(['a']) }] });
    expect(first.object.columnDefinitions.length).toBeGreaterThan(3);
    expect(second.object.columnDefinitions).toBeNull();
    abort.abort();
    await events.next();
  });

  it('ends the initial events with a bookmark when asked to', async () => {
    const t = await apiWithDefault();
    await t.call(`${NS}/configmaps`, { method: 'POST', body: configMap('a') });
    const url = `${NS}/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true`;
    const { abort, events } = await open(t, url);
    const [, bookmark] = await take(events, 2);
    expect(bookmark).toMatchObject({
      type: 'BOOKMARK',
      object: { kind: 'ConfigMap', metadata: { annotations: { 'k8s.io/initial-events-end': 'true' } } },
    });
    abort.abort();
    await events.next();
  });

  it('ends after timeoutSeconds', async () => {
    const t = await apiWithDefault();
    const { events } = await open(t, `${NS}/configmaps?watch=true&timeoutSeconds=1`);
    expect((await events.next()).done).toBe(true);
  });

  it('tells a watcher that fell behind with an ERROR event', async () => {
    const t = await apiWithDefault();
    t.registry.watch = () => ({
      close() {},
      // biome-ignore lint/correctness/useYield: it fails before its first event
      async *[Symbol.asyncIterator]() {
        throw new ApiError('Expired', 'too old resource version: 1 (5)');
      },
    });
    const { events } = await open(t, `${NS}/configmaps?watch=true&resourceVersion=1`);
    expect(await take(events, 1)).toMatchObject([
      { type: 'ERROR', object: { kind: 'Status', code: 410, reason: 'Expired' } },
    ]);
    expect((await events.next()).done).toBe(true);
  });

  it.each([
    `${NS}/configmaps/b?watch=true`,
    `${NS}/configmaps?watch=true&fieldSelector=metadata.name%3Db`,
    '/api/v1/configmaps?watch=true&fieldSelector=metadata.name%3Db,metadata.namespace%3Ddefault',
    '/api/v1/watch/namespaces/default/configmaps/b',
  ])('of one name: %s', async (url) => {
    const t = await apiWithDefault();
    for (const n of ['a', 'b', 'b2'])
      await t.call(`${NS}/configmaps`, { method: 'POST', body: configMap(n) });
    const { abort, events } = await open(t, url);
    expect(await take(events, 1)).toMatchObject([{ object: { metadata: { name: 'b' } } }]);
    abort.abort();
    await events.next();
  });
});

describe('pod logs', () => {
  const streams = {
    logs: async () =>
      (async function* () {
        yield Buffer.from('x\n');
      })(),
  };
  const bound = async () => {
    const t = await apiWithDefault({ streams });
    const made = await t.call(`${NS}/pods`, { method: 'POST', body: pod('p', ['a', 'b']) });
    const target = { apiVersion: 'v1', kind: 'Node', name: 'pi1' };
    const binding = {
      apiVersion: 'v1',
      kind: 'Binding',
      metadata: { name: 'p', uid: made.json().metadata.uid },
      target,
    };
    const reply = await t.call(`${NS}/pods/p/binding`, { method: 'POST', body: binding });
    expect(reply.json()).toMatchObject({ kind: 'Status', status: 'Success', code: 201 });
    return t;
  };

  it.each([
    ['', 400, 'a container name must be specified for pod p, choose one of: [a b]'],
    ['container=c', 400, 'container c is not valid for pod p'],
    [
      'container=a&tailLines=-1',
      422,
      'PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0',
    ],
    [
      'container=a&limitBytes=0',
      422,
      'PodLogOptions "p" is invalid: limitBytes: Invalid value: 0: must be greater than 0',
    ],
    [
      'container=a&sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z',
      422,
      'PodLogOptions "p" is invalid: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified',
    ],
    [
      'container=a&tailLines=x',
      400,
      'invalid value "x" of the query parameter tailLines: it must be an integer',
    ],
  ])('?%s is refused', async (query, code, message) => {
    const t = await bound();
    expect((await t.call(`${NS}/pods/p/log?${query}`)).json()).toMatchObject({ code, message });
  });

  it('come as text', async () => {
    const t = await bound();
    const reply = await t.call(`${NS}/pods/p/log?container=a`);
    expect([reply.status, reply.text, reply.headers['content-type']]).toEqual([
      200,
      'x\n',
      'text/plain; charset=utf-8',
    ]);
  });
});

describe('garbage', () => {
  const segment = fc.oneof(
    fc.constantFrom(
      'api',
      'apis',
      'v1',
      'apps',
      'namespaces',
      'default',
      'pods',
      'p',
      'status',
      'scale',
      'log',
      'binding',
      'eviction',
    ),
    fc.constantFrom(
      'deployments',
      'nodes',
      'configmaps',
      'openapi',
      'v2',
      'v3',
      'healthz',
      'version',
      '..',
      '%2e',
      '%00',
      '%E0',
      '__proto__',
      'constructor',
    ),
    fc.string({ maxLength: 20 }),
  );
  const path = fc.oneof(
    fc.array(segment, { maxLength: 8 }).map((s) => `/${s.join('/')}`),
    {
      weight: 4,
      arbitrary: fc.constantFrom(
        NS,
        `${NS}/pods`,
        `${NS}/pods/p`,
        `${NS}/pods/p/status`,
        `${NS}/pods/p/log`,
        `${NS}/pods/p/binding`,
        `${NS}/pods/p/eviction`,
        '/apis/apps/v1/namespaces/default/deployments',
        '/apis/apps/v1/namespaces/default/deployments/d',
        '/apis/apps/v1/namespaces/default/deployments/d/scale',
        '/api/v1/nodes',
        '/api/v1/namespaces',
        '/api/v1/namespaces/default/finalize',
        '/apis/node.k8s.io/v1/runtimeclasses',
        `${NS}/configmaps`,
        `${NS}/configmaps/c`,
      ),
    },
  );
  const parameter = fc.tuple(
    fc.constantFrom(
      'limit',
      'continue',
      'resourceVersion',
      'resourceVersionMatch',
      'labelSelector',
      'fieldSelector',
      'timeoutSeconds',
      'dryRun',
      'fieldManager',
      'fieldValidation',
      'gracePeriodSeconds',
      'propagationPolicy',
      'pretty',
      'includeObject',
      'sendInitialEvents',
      'container',
      'tailLines',
      'sinceTime',
      'orphanDependents',
    ),
    fc.oneof(
      fc.string({ maxLength: 12 }),
      fc.constantFrom(
        '1',
        '-1',
        'true',
        'a=b',
        'a in (',
        'metadata.name=x',
        'All',
        'Exact',
        '99999999999999999999',
        '__proto__',
      ),
    ),
  );
  const leaf = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom('Pod', 'p', 'v1', 'apps/v1', '', 0, -1, null, [], {}),
  );
  const objectLike = fc.record(
    {
      apiVersion: leaf,
      kind: leaf,
      metadata: fc.oneof(
        leaf,
        fc.record(
          {
            name: leaf,
            namespace: leaf,
            labels: leaf,
            uid: leaf,
            resourceVersion: leaf,
            finalizers: leaf,
            ownerReferences: leaf,
            generateName: leaf,
            deletionTimestamp: leaf,
          },
          { requiredKeys: [] },
        ),
      ),
      spec: fc.oneof(
        leaf,
        fc.record(
          { containers: leaf, replicas: leaf, template: leaf, selector: leaf, nodeName: leaf, volumes: leaf },
          { requiredKeys: [] },
        ),
      ),
      status: leaf,
      target: leaf,
      data: leaf,
    },
    { requiredKeys: [] },
  );
  const patches = fc.array(
    fc.record(
      {
        op: fc.constantFrom('add', 'remove', 'replace', 'move', 'copy', 'test', 'x'),
        path: fc.constantFrom(
          '',
          '/',
          '/spec',
          '/metadata/name',
          '/a/-',
          '/__proto__/x',
          '/spec/containers/0',
        ),
        from: fc.constantFrom('', '/spec', '/'),
        value: leaf,
      },
      { requiredKeys: [] },
    ),
    { maxLength: 4 },
  );
  /** Whole objects, each with one or two of its values replaced by something else or taken away. */
  const whole = fc.constantFrom<object>(
    {
      ...pod('p', ['a', 'b']),
      spec: {
        ...pod('p', ['a', 'b']).spec,
        volumes: [{ name: 'v', emptyDir: {} }],
        tolerations: [{ key: 'k', operator: 'Exists' }],
      },
    },
    { metadata: { generateName: 'g-' }, spec: pod('x').spec },
    configMap('c', { a: 'b' }),
    {
      metadata: { name: 'd', finalizers: ['x.example/y'] },
      spec: {
        replicas: 1,
        selector: { matchLabels: { a: 'b' } },
        template: { metadata: { labels: { a: 'b' } }, spec: pod('x').spec },
      },
    },
    {
      metadata: { name: 'n' },
      spec: { taints: [{ key: 'a', effect: 'NoSchedule' }] },
      status: { capacity: { cpu: '1' }, conditions: [{ type: 'Ready', status: 'True' }] },
    },
    { apiVersion: 'autoscaling/v1', kind: 'Scale', metadata: { name: 'd' }, spec: { replicas: 3 } },
    { metadata: { name: 'p' }, target: { kind: 'Node', name: 'n' } },
    { metadata: { name: 'x' }, handler: 'wasm' },
  );
  const mutated = fc
    .tuple(whole, fc.array(fc.tuple(fc.nat(), leaf, fc.boolean()), { maxLength: 2 }))
    .map(([o, changes]) => {
      const copy = structuredClone(o);
      for (const [pick, value, remove] of changes) {
        const places: [Record<string, unknown>, string][] = [];
        const walk = (v: unknown): void => {
          if (typeof v !== 'object' || v === null) return;
          for (const [k, x] of Object.entries(v)) {
            places.push([v as Record<string, unknown>, k]);
            walk(x);
          }
        };
        walk(copy);
        const [at, key] = places[pick % places.length]!;
        if (remove) delete at[key];
        else at[key] = structuredClone(value);
      }
      return copy;
    });
  const body = fc.oneof(
    { weight: 6, arbitrary: mutated },
    objectLike,
    patches,
    leaf,
    fc.uint8Array({ maxLength: 60 }).map((b) => Buffer.from(b)),
    fc.string({ maxLength: 60 }),
  );
  const oddHeaders = fc.record(
    {
      'content-type': fc.oneof(
        fc.constantFrom(
          'application/json',
          'application/yaml',
          'application/vnd.kubernetes.protobuf',
          'application/json-patch+json',
          'application/merge-patch+json',
          'application/strategic-merge-patch+json',
          'application/apply-patch+yaml',
          ';;;',
        ),
        fc.string({ maxLength: 20 }),
      ),
      accept: fc.oneof(
        fc.constantFrom(TABLE, 'application/json', 'application/yaml', '*/*'),
        fc.string({ maxLength: 20 }),
      ),
      'user-agent': fc.string({ maxLength: 10 }),
    },
    { requiredKeys: [] },
  );
  const PATCHES = [
    'application/json-patch+json',
    'application/merge-patch+json',
    'application/strategic-merge-patch+json',
  ];
  const headers = fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    { weight: 3, arbitrary: fc.constantFrom(...PATCHES).map((type) => ({ 'content-type': type })) },
    oddHeaders,
  );
  const method = fc.constantFrom(
    'GET',
    'POST',
    'PUT',
    'PATCH',
    'DELETE',
    'HEAD',
    'OPTIONS',
    'TRACE',
    'constructor',
  );

  it('at any route is never an internal error', async () => {
    const t = await apiWithDefault({ streams: { logs: async () => (async function* () {})() } });
    await t.call(`${NS}/pods`, { method: 'POST', body: pod('p') });
    const deployment = {
      metadata: { name: 'd' },
      spec: {
        selector: { matchLabels: { a: 'b' } },
        template: { metadata: { labels: { a: 'b' } }, spec: pod('x').spec },
      },
    };
    expect(
      (await t.call('/apis/apps/v1/namespaces/default/deployments', { method: 'POST', body: deployment }))
        .status,
    ).toBe(201);
    const seen = new Set<number>();
    await fc.assert(
      fc.asyncProperty(
        method,
        path,
        fc.oneof(
          { weight: 3, arbitrary: fc.constant<[string, string][]>([]) },
          fc.array(parameter, { maxLength: 3 }),
        ),
        headers,
        body,
        async (m, p, q, h, b) => {
          const query = q.map(([k, v]) => `${k}=${encodeURIComponent(v)}`).join('&');
          // What takes the world of this test away has tests of its own.
          fc.pre(m !== 'DELETE' || p.split('/').length > 5);
          const reply = await t.call(query ? `${p}?${query}` : p, {
            method: m,
            user: ADMIN,
            headers: h,
            body: b,
          });
          expect(reply.status, reply.text).not.toBe(500);
          expect(reply.status).toBeLessThan(600);
          seen.add(reply.status);
        },
      ),
      { numRuns: 3000 },
    );
    // It went deep enough to mean something.
    expect([...seen]).toEqual(expect.arrayContaining([200, 201, 400, 404, 405, 406, 415, 422]));
  }, 120_000);
});
