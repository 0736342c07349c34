import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import {
  configMaps,
  deployments,
  events,
  leases,
  namespaces,
  nodes,
  pods,
  replicaSets,
  runtimeClasses,
  secrets,
  serviceAccounts,
} from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { deepCopy, setOwn } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { Watcher } from '../client.js';
import { MemoryStore } from '../store/memory.js';
import { PATCH_TYPES, type RequestContext } from './api.js';
import { Registry, stampResourceVersion } from './registry.js';

const ctx = (over: Partial<RequestContext> = {}): RequestContext => ({
  user: 'test',
  groups: [],
  warnings: [],
  ...over,
});
const K = (k: unknown) => k as Kind;
const pod = (name: string, over: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name },
  spec: { containers: [{ name: 'main', image: 'busybox' }] },
  ...over,
});

let store: MemoryStore;
let registry: Registry;
beforeEach(async () => {
  store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  registry = new Registry({ store, clock: systemClock, log: silentLog });
  await registry.bootstrap();
});

const failure = async (run: () => unknown): Promise<ApiError> => {
  try {
    await run();
  } catch (e) {
    expect(e).toBeInstanceOf(ApiError);
    return e as ApiError;
  }
  throw new Error('should have failed');
};

describe('bootstrap', () => {
  it('makes the namespaces and runtime classes once', async () => {
    const names = (k: unknown) => registry.list(ctx(), K(k), {}).items.map((o) => o.metadata?.name);
    expect(names(namespaces)).toEqual(['default', 'kube-node-lease', 'kube-public', 'kube-system']);
    expect(names(runtimeClasses)).toEqual(['oci', 'wasm', 'wasmtime']);
    const before = registry.resourceVersion;
    await registry.bootstrap();
    expect(registry.resourceVersion).toBe(before);
  });
});

describe('create', () => {
  it('stamps, defaults and freezes', async () => {
    const o = await registry.create(ctx(), K(pods), 'default', pod('a'));
    expect(o.metadata).toMatchObject({ name: 'a', namespace: 'default', generation: 1 });
    expect(o.metadata?.resourceVersion).toBe(registry.resourceVersion);
    expect(o.metadata?.uid).toMatch(/^[0-9a-f-]{36}$/);
    expect(Object.isFrozen(o) && Object.isFrozen(o['spec'])).toBe(true);
    expect(registry.get(ctx(), K(pods), { namespace: 'default', name: 'a' })).toBe(o);
  });

  it('generates names', async () => {
    const o = await registry.create(ctx(), K(pods), 'default', {
      ...pod(''),
      metadata: { generateName: 'web-' },
    });
    expect(o.metadata?.name).toMatch(/^web-[bcdfghjklmnpqrstvwxz2456789]{5}$/);
  });

  it('says who is in the way', async () => {
    await registry.create(ctx(), K(pods), 'default', pod('a'));
    const e = await failure(() => registry.create(ctx(), K(pods), 'default', pod('a')));
    expect(e.toStatus()).toMatchObject({
      reason: 'AlreadyExists',
      code: 409,
      message: 'pods "a" already exists',
    });
  });

  it('wants the namespace', async () => {
    const e = await failure(() => registry.create(ctx(), K(pods), 'nope', pod('a')));
    expect(e.message).toBe('namespaces "nope" not found');
  });
});

const key = (name: string) => ({ namespace: 'default', name });
const make = (o: object, k: unknown = pods) => registry.create(ctx(), K(k), 'default', o);
const thaw = (o: unknown) => deepCopy(o) as AnyObject & { spec: Record<string, unknown> };

describe('create, refused', () => {
  it.each<[object, number, RegExp]>([
    [
      { ...pod('A_') },
      422,
      /^Pod "A_" is invalid: metadata.name: Invalid value: "A_": a lowercase RFC 1123 subdomain/,
    ],
    [{ ...pod(''), metadata: {} }, 422, /metadata.name: Required value: name or generateName is required/],
    [
      { ...pod('a'), spec: { containers: [{ name: 'x' }] } },
      422,
      /^Pod "a" is invalid: spec.containers\[0\].image: Required value$/,
    ],
    [{ ...pod('a'), spec: {} }, 422, /^Pod "a" is invalid: spec.containers: Required value$/],
    [
      { ...pod('a'), metadata: { name: 'a', namespace: 'kube-system' } },
      400,
      /does not match the namespace sent/,
    ],
    [
      { ...pod('a'), metadata: { name: 'a', resourceVersion: '1' } },
      400,
      /resourceVersion should not be set/,
    ],
    [{ ...pod('a'), kind: 'Node' }, 400, /^Node in version "v1" cannot be handled as a Pod/],
    [
      { ...pod('a'), apiVersion: 'v2' },
      400,
      /the API version in the data \(v2\) does not match the expected API version \(v1\)/,
    ],
    [
      { ...pod('a'), spec: { containers: 'x' } },
      400,
      /^Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type \[\]v1.Container$/,
    ],
    [[], 400, /couldn't get version\/kind/],
    [
      { ...pod('a'), spec: { containers: [{ name: 'x', image: 'y' }], runtimeClassName: 'nope' } },
      403,
      /^pods "a" is forbidden: pod rejected: RuntimeClass "nope" not found$/,
    ],
    [
      { ...pod('a'), spec: { containers: [{ name: 'x', image: 'y' }], serviceAccountName: 'nope' } },
      403,
      /serviceaccount "nope" not found/,
    ],
    [
      { ...pod('a'), spec: { containers: [{ name: 'x', image: 'y' }], priorityClassName: 'nope' } },
      403,
      /no PriorityClass with name nope was found/,
    ],
  ])('%j', async (body, code, message) => {
    const e = await failure(() => make(body));
    expect(e.code).toBe(code);
    expect(e.message).toMatch(message);
  });

  it('names each cause', async () => {
    const e = await failure(() => make({ ...pod('a'), spec: { containers: [{}] } }));
    expect(e.toStatus()).toMatchObject({
      reason: 'Invalid',
      details: {
        name: 'a',
        kind: 'Pod',
        causes: [
          { reason: 'FieldValueRequired', message: 'Required value', field: 'spec.containers[0].name' },
          { reason: 'FieldValueRequired', message: 'Required value', field: 'spec.containers[0].image' },
        ],
      },
    });
  });

  it('an object that is too large', async () => {
    const data = { a: 'x'.repeat(1_000_000), b: '"'.repeat(10) };
    await make({ metadata: { name: 'fits' }, data }, configMaps);
    const annotations = { a: 'x'.repeat(200_000) };
    const env = Array.from({ length: 40 }, (_, i) => ({ name: `E${i}`, value: 'y'.repeat(40_000) }));
    const e = await failure(() =>
      make({ metadata: { name: 'a', annotations }, spec: { containers: [{ name: 'c', image: 'i', env }] } }),
    );
    expect(e.toStatus()).toMatchObject({
      reason: 'RequestEntityTooLarge',
      message: 'etcdserver: request is too large',
    });
  });
});

describe('unknown fields', () => {
  const body = () => ({ ...pod('a'), spec: { containers: [{ name: 'c', image: 'i', foo: 1 }], bar: {} } });

  it('are refused when strict', async () => {
    const e = await failure(() =>
      registry.create(ctx({ fieldValidation: 'Strict' }), K(pods), 'default', body()),
    );
    expect(e.code).toBe(400);
    expect(e.message).toBe(
      'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].foo", unknown field "spec.bar"',
    );
  });

  it('are warned of by default, and dropped', async () => {
    const c = ctx();
    const o = await registry.create(c, K(pods), 'default', body());
    expect(c.warnings).toEqual(['unknown field "spec.containers[0].foo"', 'unknown field "spec.bar"']);
    expect(JSON.stringify(o)).not.toMatch(/foo|bar/);
  });

  it('are dropped without a word when ignored', async () => {
    const c = ctx({ fieldValidation: 'Ignore' });
    await registry.create(c, K(pods), 'default', body());
    expect(c.warnings).toEqual([]);
  });
});

describe('dry run', () => {
  it('checks and answers, and writes nothing', async () => {
    const there = await make(pod('there'));
    const before = registry.resourceVersion;
    const c = ctx({ dryRun: true });
    expect((await registry.create(c, K(pods), 'default', pod('a'))).metadata?.uid).toBeDefined();
    expect((await failure(() => registry.create(c, K(pods), 'default', pod('there')))).code).toBe(409);
    const labels = { metadata: { labels: { a: 'b' } } };
    const patched = await registry.patch(c, K(pods), key('there'), PATCH_TYPES.merge, labels);
    expect(patched.metadata).toMatchObject({
      labels: { a: 'b' },
      resourceVersion: there.metadata?.resourceVersion,
    });
    expect((await registry.delete(c, K(pods), key('there'), {})).removed).toBe(true);
    expect((await registry.delete(ctx(), K(pods), key('there'), { dryRun: true })).removed).toBe(true);
    expect(registry.resourceVersion).toBe(before);
  });
});

describe('update', () => {
  it('takes the resourceVersion 0 for none', async () => {
    await registry.create(ctx(), K(pods), 'default', pod('web'));
    const metadata = { name: 'web', labels: { a: 'b' }, resourceVersion: '0' };
    const current = deepCopy(registry.get(ctx(), K(pods), { namespace: 'default', name: 'web' })) as object;
    const now = await registry.update(
      ctx(),
      K(pods),
      { namespace: 'default', name: 'web' },
      { ...current, metadata },
    );
    expect(now.metadata).toMatchObject({ labels: { a: 'b' } });
  });

  it('asks kinds with strict updates for the resourceVersion, but not the hub itself', async () => {
    const lease = { metadata: { name: 'l' }, spec: { holderIdentity: 'a' } };
    const put = (c: RequestContext, metadata: object) =>
      registry.update(c, K(leases), key('l'), { ...deepCopy(lease), metadata: { name: 'l', ...metadata } });
    const user = ctx({ fieldManager: 'curl' });
    // What is not there has no version.
    const { resourceVersion } = (await put(user, {})).metadata!;
    for (const none of [{}, { resourceVersion: '0' }]) {
      const e = await failure(() => put(user, none));
      expect(e.code).toBe(422);
      expect(e.message).toBe(
        'leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update',
      );
    }
    expect((await put(user, { resourceVersion })).spec).toEqual(lease.spec);
    await put(ctx(), {});
  });

  it('compares and swaps', async () => {
    const o = await make({ metadata: { name: 'c' }, data: { a: '1' } }, configMaps);
    await registry.update(ctx(), K(configMaps), key('c'), { ...thaw(o), data: { a: '2' } });
    const e = await failure(() =>
      registry.update(ctx(), K(configMaps), key('c'), { ...thaw(o), data: { a: '3' } }),
    );
    expect(e.toStatus()).toMatchObject({
      reason: 'Conflict',
      code: 409,
      message:
        'Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again',
    });
  });

  it('without a version overwrites; without a change writes nothing', async () => {
    await make({ metadata: { name: 'c' }, data: { a: '1' } }, configMaps);
    const b = { metadata: { name: 'c' }, data: { a: '2' } };
    const second = await registry.update(ctx(), K(configMaps), key('c'), deepCopy(b));
    const before = registry.resourceVersion;
    expect(await registry.update(ctx(), K(configMaps), key('c'), deepCopy(b))).toBe(second);
    expect(registry.resourceVersion).toBe(before);
  });

  it('keeps what is not the caller’s: uid, creation, status', async () => {
    const o = await make(pod('a'));
    await registry.update(ctx(), K(pods), key('a'), { ...thaw(o), status: { phase: 'Running' } }, 'status');
    const body = thaw(registry.get(ctx(), K(pods), key('a')));
    body.metadata = { ...body.metadata, creationTimestamp: '2000-01-01T00:00:00Z', labels: { a: 'b' } };
    body['status'] = { phase: 'Failed' };
    const next = await registry.update(ctx(), K(pods), key('a'), body);
    expect(next.metadata).toMatchObject({ creationTimestamp: o.metadata?.creationTimestamp, generation: 1 });
    expect(next['status']).toEqual({ phase: 'Running' });
  });

  it('of the status never touches the spec, and of metadata what is a user’s where a client writes it', async () => {
    const client = ctx({ fieldManager: 'curl' });
    const o = thaw(await registry.create(client, K(pods), 'default', pod('a')));
    o.spec['nodeName'] = 'x';
    o.metadata = { ...o.metadata, labels: { a: 'b' }, annotations: { c: 'd' }, generation: 7 };
    o.metadata.ownerReferences = [{ apiVersion: 'v1', kind: 'Node', name: 'n', uid: 'n' }];
    o['status'] = { phase: 'Running' };
    const next = await registry.update(client, K(pods), key('a'), deepCopy(o), 'status');
    expect(next.metadata).toMatchObject({ labels: { a: 'b' }, annotations: { c: 'd' }, generation: 1 });
    expect(next.metadata?.ownerReferences).toBeUndefined();
    expect((next['spec'] as { nodeName?: string }).nodeName).toBeUndefined();
    expect(next['status']).toEqual({ phase: 'Running' });
    const fields = next.metadata!.managedFields!.find((m) => m.subresource === 'status')!.fieldsV1;
    expect(fields).toMatchObject({
      'f:metadata': { 'f:labels': { 'f:a': {} } },
      'f:status': { 'f:phase': {} },
    });
    expect(fields).not.toHaveProperty('f:spec');

    o['status'] = { phase: 'Failed' };
    o.metadata = { name: 'a' };
    const own = await registry.update(ctx(), K(pods), key('a'), deepCopy(o), 'status');
    expect(own.metadata?.labels).toEqual({ a: 'b' });
    const wrong = { ...deepCopy(o), metadata: { name: 'a', labels: { a: '!' } } };
    expect(
      (await failure(() => registry.update(client, K(pods), key('a'), wrong, 'status'))).message,
    ).toMatch(/metadata.labels: Invalid value: "!"/);
  });

  it('of the status leaves all of metadata alone where the kind says so', async () => {
    const labels = { app: 'd' };
    const template = { metadata: { labels }, spec: { containers: [{ name: 'main', image: 'busybox' }] } };
    const spec = { selector: { matchLabels: labels }, template };
    const made = await make({ metadata: { name: 'd' }, spec }, deployments);
    const o = { ...thaw(made), metadata: { name: 'd', labels: { a: 'b' }, annotations: { c: 'd' } } };
    const client = ctx({ fieldManager: 'curl' });
    const next = await registry.update(client, K(deployments), key('d'), o, 'status');
    expect(next.metadata?.labels).toBeUndefined();
    expect(next.metadata?.annotations).toEqual({ c: 'd' });
  });

  it('refuses another uid and another name', async () => {
    const o = await make(pod('a'));
    const uid = { ...thaw(o), metadata: { name: 'a', uid: 'other' } };
    expect((await failure(() => registry.update(ctx(), K(pods), key('a'), uid))).message).toMatch(
      /^Operation cannot be fulfilled on pods "a": Precondition failed: UID in precondition: other/,
    );
    expect((await failure(() => registry.update(ctx(), K(pods), key('a'), pod('b')))).message).toBe(
      'the name of the object (b) does not match the name on the URL (a)',
    );
    expect((await failure(() => registry.update(ctx(), K(pods), key('b'), pod('b')))).code).toBe(404);
  });

  it('counts generations by the spec alone', async () => {
    const spec = {
      selector: { matchLabels: { a: 'b' } },
      template: { metadata: { labels: { a: 'b' } }, spec: { containers: [{ name: 'c', image: 'i' }] } },
    };
    const d = await make({ metadata: { name: 'd' }, spec }, deployments);
    expect(d.metadata?.generation).toBe(1);
    const labelled = { ...thaw(d), metadata: { name: 'd', labels: { x: 'y' } } };
    expect((await registry.update(ctx(), K(deployments), key('d'), labelled)).metadata?.generation).toBe(1);
    const scaled = await registry.patch(
      ctx(),
      K(deployments),
      key('d'),
      PATCH_TYPES.merge,
      { spec: { replicas: 3 } },
      'scale',
    );
    expect(scaled).toMatchObject({
      kind: 'Scale',
      apiVersion: 'autoscaling/v1',
      spec: { replicas: 3 },
      status: { replicas: 0, selector: 'a=b' },
    });
    const now = registry.get(ctx(), K(deployments), key('d'));
    expect(now.metadata?.generation).toBe(2);
    const negative = { metadata: { name: 'd' }, spec: { replicas: -1 } };
    const e = await failure(() => registry.update(ctx(), K(deployments), key('d'), negative, 'scale'));
    expect(e.message).toBe(
      'Scale.autoscaling "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0',
    );
  });

  it('many at once without a version all come through', async () => {
    await make({ metadata: { name: 'c' } }, configMaps);
    await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        registry.patch(ctx(), K(configMaps), key('c'), PATCH_TYPES.merge, { data: { [`k${i}`]: 'v' } }),
      ),
    );
    const o = registry.get(ctx(), K(configMaps), key('c'));
    expect(Object.keys(o['data'] as object)).toHaveLength(50);
  });
});

describe('patch', () => {
  it.each([
    [
      PATCH_TYPES.strategic,
      'patch: Invalid value: "map[metadata:map[labels:invalid]]": cannot restore map from string',
    ],
    [
      PATCH_TYPES.merge,
      'json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map[string]string',
    ],
  ])('of a wrong type by %s is refused in the words of its kind', async (type, message) => {
    await registry.create(ctx(), K(pods), 'default', pod('web'));
    const key = { namespace: 'default', name: 'web' };
    const e = await failure(() =>
      registry.patch(ctx(), K(pods), key, type, { metadata: { labels: 'invalid' } }),
    );
    expect(e).toMatchObject({ code: 422, message: expect.stringContaining(message) });
  });

  it('answers 415 to what it does not speak', async () => {
    await make({ metadata: { name: 'c' } }, configMaps);
    const e = await failure(() => registry.patch(ctx(), K(configMaps), key('c'), PATCH_TYPES.apply, {}));
    expect(e.code).toBe(415);
    expect(e.message).toMatch(
      /^the body of the request was in an unknown format - accepted media types include: /,
    );
  });

  it('with a stale version conflicts', async () => {
    await make({ metadata: { name: 'c' } }, configMaps);
    const patch = { metadata: { resourceVersion: '1', labels: { a: 'b' } } };
    const e = await failure(() => registry.patch(ctx(), K(configMaps), key('c'), PATCH_TYPES.merge, patch));
    expect(e.reason).toBe('Conflict');
  });

  it('cannot rename, move or change the kind', async () => {
    await make({ metadata: { name: 'c' } }, configMaps);
    const patch = (p: object) =>
      failure(() => registry.patch(ctx(), K(configMaps), key('c'), PATCH_TYPES.merge, p));
    expect((await patch({ metadata: { name: 'd' } })).code).toBe(422);
    expect((await patch({ metadata: { namespace: 'kube-system' } })).code).toBe(400);
    expect((await patch({ kind: 'Secret' })).code).toBe(400);
    expect((await patch({ apiVersion: 'v2' })).code).toBe(400);
  });
});

describe('delete', () => {
  const bound = async (name: string, over: object = {}) => {
    const o = await make({ ...pod(name), ...over });
    await registry.bind(ctx(), key(name), {
      metadata: { name, uid: o.metadata?.uid },
      target: { kind: 'Node', name: 'n1' },
    });
    return registry.get(ctx(), K(pods), key(name));
  };
  const del = (name: string, options: object = {}) => registry.delete(ctx(), K(pods), key(name), options);

  it('removes a pod on no node at once', async () => {
    await make(pod('a'));
    expect(await del('a')).toMatchObject({ removed: true, object: { metadata: { name: 'a' } } });
    expect((await failure(() => del('a'))).code).toBe(404);
  });

  it('gives a bound pod its grace period, which may only become shorter', async () => {
    await bound('a');
    const first = await del('a');
    expect(first.removed).toBe(false);
    expect(first.object.metadata).toMatchObject({ deletionGracePeriodSeconds: 30, generation: 2 });
    const end = Date.parse(first.object.metadata!.deletionTimestamp!);
    expect((await del('a', { gracePeriodSeconds: 60 })).object).toBe(first.object);
    const second = await del('a', { gracePeriodSeconds: 5 });
    expect(second.object.metadata?.deletionGracePeriodSeconds).toBe(5);
    expect(Date.parse(second.object.metadata!.deletionTimestamp!)).toBe(end - 25_000);
    expect((await del('a', { gracePeriodSeconds: 0 })).removed).toBe(true);
  });

  it('checks preconditions', async () => {
    await make(pod('a'));
    const uid = await failure(() => del('a', { uid: 'other' }));
    expect(uid.message).toMatch(/the UID in the precondition \(other\) does not match the UID in record/);
    const rv = await failure(() => del('a', { resourceVersion: '1' }));
    expect(rv.reason).toBe('Conflict');
  });

  it('waits for finalizers and takes no new ones', async () => {
    await make({ metadata: { name: 'c', finalizers: ['x.io/a', 'x.io/b'] } }, configMaps);
    const d = await registry.delete(ctx(), K(configMaps), key('c'), {});
    expect(d.removed).toBe(false);
    expect(d.object.metadata?.deletionTimestamp).toBeDefined();
    const set = (finalizers: string[] | null) =>
      registry.patch(ctx(), K(configMaps), key('c'), PATCH_TYPES.merge, { metadata: { finalizers } });
    expect((await failure(() => set(['x.io/a', 'x.io/b', 'x.io/c']))).message).toMatch(
      /no new finalizers can be added if the object is being deleted, found new finalizers \[\]string\{"x.io\/c"\}/,
    );
    await set(['x.io/b']);
    await set(null);
    expect((await failure(() => registry.get(ctx(), K(configMaps), key('c')))).code).toBe(404);
  });

  it('puts the finalizers of the propagation policy', async () => {
    await make({ metadata: { name: 'c' } }, configMaps);
    const d = await registry.delete(ctx(), K(configMaps), key('c'), { propagationPolicy: 'Foreground' });
    expect(d.object.metadata?.finalizers).toEqual(['foregroundDeletion']);
    const o = await registry.delete(ctx(), K(configMaps), key('c'), { propagationPolicy: 'Orphan' });
    expect(o.object.metadata?.finalizers).toEqual(['orphan']);
    const b = await registry.delete(ctx(), K(configMaps), key('c'), { propagationPolicy: 'Background' });
    expect(b.removed).toBe(true);
  });

  it('deletes what a selector matches', async () => {
    for (const app of ['a', 'b', 'a'])
      await make({ metadata: { generateName: 'c-', labels: { app } } }, configMaps);
    const query = { namespace: 'default', labelSelector: 'app=a' };
    const gone = await registry.deleteCollection(ctx(), K(configMaps), query, {});
    expect(gone.items).toHaveLength(2);
    expect(registry.list(ctx(), K(configMaps), { namespace: 'default' }).items).toHaveLength(1);
  });

  it('reads options from body and query', () => {
    const { deleteOptions: read } = registry;
    const options = (body: unknown, query = {}) => read.call(registry, body, query);
    expect(options(undefined, { gracePeriodSeconds: '5', propagationPolicy: 'Orphan' })).toEqual({
      gracePeriodSeconds: 5,
      propagationPolicy: 'Orphan',
    });
    expect(
      options({
        kind: 'DeleteOptions',
        apiVersion: 'v1',
        gracePeriodSeconds: 0,
        preconditions: { uid: 'u' },
      }),
    ).toEqual({ gracePeriodSeconds: 0, uid: 'u' });
    expect(options({ orphanDependents: false })).toEqual({ propagationPolicy: 'Background' });
    for (const bad of [
      'x',
      [],
      { gracePeriodSeconds: 'x' },
      { propagationPolicy: 'x' },
      { preconditions: 1 },
    ])
      expect(() => options(bad)).toThrow(ApiError);
    expect(() => options({}, { gracePeriodSeconds: '1.5' })).toThrow(ApiError);
  });
});

describe('namespaces', () => {
  it('terminate: nothing new comes in, and the last finalizer takes them away', async () => {
    const ns = { metadata: { name: 'x' } };
    const made = await registry.create(ctx(), K(namespaces), undefined, ns);
    expect(made.metadata?.labels).toEqual({ 'kubernetes.io/metadata.name': 'x' });
    const keep = { spec: { finalizers: null } };
    const kept = await registry.patch(ctx(), K(namespaces), { name: 'x' }, PATCH_TYPES.merge, keep);
    expect(kept['spec']).toEqual({ finalizers: ['kubernetes'] });
    const { object, removed } = await registry.delete(ctx(), K(namespaces), { name: 'x' }, {});
    expect(removed).toBe(false);
    expect(object['status']).toEqual({ phase: 'Terminating' });
    const e = await failure(() => registry.create(ctx(), K(configMaps), 'x', { metadata: { name: 'c' } }));
    expect(e.toStatus()).toMatchObject({
      reason: 'Forbidden',
      message:
        'configmaps "c" is forbidden: unable to create new content in namespace x because it is being terminated',
      details: { causes: [{ reason: 'NamespaceTerminating' }] },
    });
    await registry.client().patch(namespaces, { name: 'x' }, { spec: { finalizers: [] } }, 'finalize');
    expect((await failure(() => registry.get(ctx(), K(namespaces), { name: 'x' }))).code).toBe(404);
  });

  it('of the system stay', async () => {
    const e = await failure(() => registry.delete(ctx(), K(namespaces), { name: 'default' }, {}));
    expect(e.message).toBe('namespaces "default" is forbidden: this namespace may not be deleted');
  });
});

describe('runtime classes', () => {
  it('give their overhead, node selector and tolerations to pods', async () => {
    await registry.create(ctx(), K(runtimeClasses), undefined, {
      metadata: { name: 'heavy' },
      handler: 'heavy',
      overhead: { podFixed: { memory: '64Mi' } },
      scheduling: { nodeSelector: { big: 'yes' }, tolerations: [{ key: 'x', operator: 'Exists' }] },
    });
    const with_ = (over: object) => ({
      metadata: { generateName: 'p-' },
      spec: { containers: [{ name: 'c', image: 'i' }], runtimeClassName: 'heavy', ...over },
    });
    expect(await make(with_({ nodeSelector: { a: 'b' } }))).toMatchObject({
      spec: {
        overhead: { memory: '64Mi' },
        nodeSelector: { a: 'b', big: 'yes' },
        tolerations: [{ key: 'x', operator: 'Exists' }],
      },
    });
    const e = await failure(() => make(with_({ nodeSelector: { big: 'no' } })));
    expect(e.message).toMatch(
      /conflict: runtimeClass.scheduling.nodeSelector\[big\] = yes; pod.spec.nodeSelector\[big\] = no/,
    );
    expect((await failure(() => make(with_({ overhead: { memory: '1Mi' } })))).code).toBe(403);
  });

  it('pods get no default eviction tolerations', async () => {
    expect((await make(pod('a')))['spec']).not.toHaveProperty('tolerations');
  });
});

describe('eviction', () => {
  it('deletes, as its options say', async () => {
    await make(pod('a'));
    const evict = (deleteOptions: object) =>
      registry.evict(ctx(), key('a'), {
        apiVersion: 'policy/v1',
        kind: 'Eviction',
        metadata: { name: 'a' },
        deleteOptions,
      });
    await evict({ dryRun: ['All'] });
    expect((await failure(() => evict({ preconditions: { uid: 'other' } }))).reason).toBe('Conflict');
    await evict({});
    expect((await failure(() => evict({}))).code).toBe(404);
  });
});

describe('resize', () => {
  const key = { namespace: 'default', name: 'sized' };
  const list = (cpu: string, memory = '64Mi') => ({ cpu, memory });
  const sized = (resources: object, more: object = {}) =>
    ({
      metadata: { name: 'sized' },
      spec: { containers: [{ name: 'main', image: 'x', resources, ...more }], restartPolicy: 'OnFailure' },
    }) as unknown as AnyObject;
  const resize = (resources: object, more: object = {}) =>
    registry.patch(
      ctx(),
      K(pods),
      key,
      PATCH_TYPES.strategic,
      {
        metadata: { labels: { other: 'thing' } },
        spec: { containers: [{ name: 'main', resources, ...more }] },
      },
      'resize',
    ) as Promise<any>;
  beforeEach(() =>
    registry.create(ctx(), K(pods), 'default', sized({ requests: list('100m'), limits: list('200m') })),
  );

  it('changes CPU and memory, and nothing else, through its own door', async () => {
    const after = await resize({ requests: { cpu: '150m' } }, { image: 'other' });
    expect(after.spec.containers[0]).toMatchObject({
      image: 'x',
      resources: { requests: list('150m'), limits: list('200m') },
    });
    expect(after.metadata).toMatchObject({ generation: 2 });
    expect(after.metadata.labels).toBeUndefined();
    expect((registry.get(ctx(), K(pods), key, 'resize') as any).spec).toEqual(after.spec);
  });

  it.each<[object, string]>([
    [
      { requests: list('200m'), limits: list('200m') },
      'Pod QOS Class may not change as a result of resizing',
    ],
    [
      { limits: { cpu: null } },
      'spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed',
    ],
    [
      { requests: { 'ephemeral-storage': '1Gi' } },
      'spec: Forbidden: only cpu and memory resources are mutable',
    ],
    [{ requests: { cpu: '300m' } }, 'must be less than or equal to cpu limit of 200m'],
  ])('refuses %j', async (resources, message) => {
    expect((await failure(() => resize(resources))).message).toContain(message);
  });

  it('a policy that restarts is none for a pod that never does', async () => {
    const resizePolicy = [{ resourceName: 'cpu', restartPolicy: 'RestartContainer' }];
    const never = sized({}, { resizePolicy });
    (never as any).spec.restartPolicy = 'Never';
    (never as any).metadata.name = 'never';
    expect((await failure(() => registry.create(ctx(), K(pods), 'default', never))).message).toContain(
      "must be 'NotRequired' when `restartPolicy` is 'Never'",
    );
  });
});

describe('ephemeral containers', () => {
  const door = 'ephemeralcontainers';
  const key = { namespace: 'default', name: 'web' };
  const add = (containers: object[], over?: Partial<RequestContext>) =>
    registry.patch(
      ctx(over),
      K(pods),
      key,
      PATCH_TYPES.strategic,
      { metadata: { labels: { other: 'thing' } }, spec: { ephemeralContainers: containers } },
      door,
    );
  beforeEach(() => registry.create(ctx(), K(pods), 'default', pod('web')));

  it('come through their own door, which changes nothing else, and stay', async () => {
    const after = (await add([{ name: 'debug', image: 'busybox' }])) as any;
    expect(after.spec.ephemeralContainers).toMatchObject([{ name: 'debug', imagePullPolicy: 'Always' }]);
    expect(after.metadata.labels).toBeUndefined();
    await add([{ name: 'more', image: 'busybox', targetContainerName: 'main' }]);
    const now = registry.get(ctx(), K(pods), key) as any;
    expect(now.spec.ephemeralContainers.map((c: any) => c.name).sort()).toEqual(['debug', 'more']);
    expect(now.metadata.generation).toBe(3);
    const changed = await failure(() => add([{ name: 'debug', image: 'other' }]));
    expect(changed.message).toContain('existing ephemeral containers "debug" may not be changed');
    const gone = await failure(() =>
      registry.patch(
        ctx(),
        K(pods),
        key,
        PATCH_TYPES.json,
        [{ op: 'remove', path: '/spec/ephemeralContainers' }],
        door,
      ),
    );
    expect(gone.message).toContain('existing ephemeral containers "debug" may not be removed');
  });

  it.each([
    [{ name: 'main', image: 'x' }, 'spec.ephemeralContainers[0].name: Duplicate value: "main"'],
    [{ name: 'd' }, 'spec.ephemeralContainers[0].image: Required value'],
    [
      { name: 'd', image: 'x', targetContainerName: 'no' },
      'spec.ephemeralContainers[0].targetContainerName: Not found: "no"',
    ],
    [
      { name: 'd', image: 'x', ports: [{ containerPort: 80 }] },
      'spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container',
    ],
  ])('refuses %j', async (container, message) => {
    const e = await failure(() => add([container]));
    expect(e).toMatchObject({ reason: 'Invalid', message: expect.stringContaining(message) });
  });

  it('come by no other way', async () => {
    const spec = {
      containers: [{ name: 'c', image: 'x' }],
      ephemeralContainers: [{ name: 'd', image: 'x' }],
    };
    const made = await failure(() => registry.create(ctx(), K(pods), 'default', pod('two', { spec })));
    expect(made.message).toContain('spec.ephemeralContainers: Forbidden: cannot be set on create');
    const patch = { spec: { ephemeralContainers: [{ name: 'd', image: 'x' }] } };
    const patched = await failure(() => registry.patch(ctx(), K(pods), key, PATCH_TYPES.strategic, patch));
    expect(patched.message).toContain('pod updates may not change fields other than');
  });
});

describe('binding', () => {
  it('happens once, to the pod that was meant', async () => {
    const o = await make(pod('a'));
    const bind = (uid: string | undefined, name: string) =>
      registry.bind(ctx(), key('a'), { metadata: { name: 'a', uid }, target: { name } });
    expect((await failure(() => bind('other', 'n1'))).message).toMatch(/UID in precondition: other/);
    await bind(o.metadata?.uid, 'n1');
    const b = registry.get(ctx(), K(pods), key('a'));
    expect(b).toMatchObject({
      spec: { nodeName: 'n1' },
      status: { phase: 'Pending', conditions: [{ type: 'PodScheduled', status: 'True' }] },
    });
    expect((await failure(() => bind(o.metadata?.uid, 'n2'))).message).toBe(
      'Operation cannot be fulfilled on pods/binding "a": pod a is already assigned to node "n1"',
    );
    expect((await failure(() => registry.bind(ctx(), key('a'), {}))).code).toBe(422);
    expect((await failure(() => registry.bind(ctx(), key('a'), 'x'))).code).toBe(400);
  });
});

describe('list', () => {
  beforeEach(async () => {
    for (let i = 0; i < 7; i++)
      await make({ metadata: { name: `c${i}`, labels: { odd: String(i % 2 === 1) } } }, configMaps);
  });
  const names = (r: { items: readonly { readonly metadata?: { readonly name?: string } }[] }) =>
    r.items.map((o) => o.metadata?.name).join(' ');

  it('selects by labels and fields', () => {
    const list = (q: object) => names(registry.list(ctx(), K(configMaps), { namespace: 'default', ...q }));
    expect(list({ labelSelector: 'odd=true' })).toBe('c1 c3 c5');
    expect(list({ fieldSelector: 'metadata.name=c2' })).toBe('c2');
    expect(
      list({
        fieldSelector: 'metadata.name!=c2,metadata.namespace=default',
        labelSelector: 'odd in (false)',
      }),
    ).toBe('c0 c4 c6');
    expect(() => list({ fieldSelector: 'spec.x=y' })).toThrow('field label not supported: spec.x');
    expect(() => list({ labelSelector: 'a in (' })).toThrow(ApiError);
  });

  it('goes on in chunks from one snapshot, whatever happens meanwhile', async () => {
    const q = { namespace: 'default', limit: 3 };
    const first = registry.list(ctx(), K(configMaps), q);
    expect(names(first)).toBe('c0 c1 c2');
    expect(first.remainingItemCount).toBe(4);
    await registry.delete(ctx(), K(configMaps), key('c4'), {});
    await make({ metadata: { name: 'c31' } }, configMaps);
    const second = registry.list(ctx(), K(configMaps), { ...q, continue: first.continue });
    expect(names(second)).toBe('c3 c4 c5');
    const third = registry.list(ctx(), K(configMaps), { ...q, continue: second.continue });
    expect(names(third)).toBe('c6');
    expect(third.continue).toBeUndefined();
    expect(third.resourceVersion).toBe(first.resourceVersion);
  });

  it('answers 410 with a way on when the snapshot is gone', async () => {
    const q = { namespace: 'default', limit: 3 };
    const small = new MemoryStore({ stamp: stampResourceVersion, historyEvents: 1 });
    await small.open();
    const one = new Registry({ store: small, clock: systemClock, log: silentLog });
    await one.bootstrap();
    const add = (name: string) => one.create(ctx(), K(configMaps), 'default', { metadata: { name } });
    for (const name of ['c0', 'c1', 'c2', 'c3', 'c4']) await add(name);
    const first = one.list(ctx(), K(configMaps), q);
    await add('c31');
    await add('c32');
    // Neither kept (by another's registry) nor in the store's history.
    const other = new Registry({ store: small, clock: systemClock, log: silentLog });
    const e = await failure(() => other.list(ctx(), K(configMaps), { ...q, continue: first.continue }));
    expect(e.code).toBe(410);
    const token = (e.toStatus().metadata as { continue: string }).continue;
    expect(names(other.list(ctx(), K(configMaps), { ...q, continue: token }))).toBe('c3 c31 c32');
  });

  it('answers 410 when a list has gone on for five minutes, and what is begun then is of a newer revision', async () => {
    const clock = new VirtualClock();
    const store = new MemoryStore({ stamp: stampResourceVersion });
    await store.open();
    const quiet = new Registry({ store, clock, log: silentLog });
    await quiet.bootstrap();
    for (const name of ['c0', 'c1', 'c2'])
      await quiet.create(ctx(), K(configMaps), 'default', { metadata: { name } });
    const q = { namespace: 'default', limit: 1 };
    const first = quiet.list(ctx(), K(configMaps), q);
    await clock.advance(299_000);
    const second = quiet.list(ctx(), K(configMaps), { ...q, continue: first.continue });
    expect([names(second), second.resourceVersion]).toEqual(['c1', first.resourceVersion]);
    await clock.advance(1000);
    const e = await failure(() => quiet.list(ctx(), K(configMaps), { ...q, continue: second.continue }));
    expect(e.code).toBe(410);
    const token = (e.toStatus().metadata as { continue: string }).continue;
    const later = quiet.list(ctx(), K(configMaps), { ...q, continue: token });
    expect(names(later)).toBe('c2');
    expect(Number(later.resourceVersion)).toBeGreaterThan(Number(first.resourceVersion));
    // Once, not for as long as nothing happens.
    const { revision } = store;
    await clock.advance(3_600_000);
    expect(store.revision).toBe(revision);
  });

  it('takes a revision for the one to show, or for the oldest one, as it was meant', async () => {
    const old = registry.resourceVersion;
    await make({ metadata: { name: 'late' } }, configMaps);
    const now = registry.resourceVersion;
    const list = (q: object) => registry.list(ctx(), K(configMaps), { namespace: 'default', ...q });
    expect(names(list({ resourceVersion: old }))).toContain('late');
    expect(names(list({ resourceVersion: old, resourceVersionMatch: 'NotOlderThan', limit: 99 }))).toContain(
      'late',
    );
    expect(names(list({ resourceVersion: now, resourceVersionMatch: 'Exact' }))).toContain('late');
    expect(names(list({ resourceVersion: now, limit: 99 }))).toContain('late');
    expect(names(list({ resourceVersion: '0', limit: 99 }))).toContain('late');
    for (const q of [{ resourceVersionMatch: 'Exact' }, { limit: 99 }]) {
      const then = list({ resourceVersion: old, ...q });
      expect(names(then)).not.toContain('late');
      expect(then.resourceVersion).toBe(old);
    }
    const small = new MemoryStore({ stamp: stampResourceVersion, historyEvents: 2 });
    await small.open();
    const forgets = new Registry({ store: small, clock: systemClock, log: silentLog });
    await forgets.bootstrap();
    for (const q of [{ resourceVersionMatch: 'Exact' as const }, { limit: 2 }]) {
      const e = await failure(() =>
        forgets.list(ctx(), K(configMaps), { namespace: 'default', resourceVersion: '1', ...q }),
      );
      expect(e.toStatus()).toMatchObject({
        code: 410,
        reason: 'Expired',
        message: 'The resourceVersion for the provided list is too old.',
      });
    }
    const get = (resourceVersion: string) =>
      registry.get(ctx({ resourceVersion }), K(configMaps), key('late')).metadata?.name;
    expect(get('0') && get(old) && get(now)).toBe('late');
    expect((await failure(() => get('999999'))).toStatus()).toMatchObject({
      code: 504,
      message: `Timeout: Too large resource version: 999999, current: ${now}`,
      details: { causes: [{ reason: 'ResourceVersionTooLarge' }] },
    });
    expect((await failure(() => get('x'))).code).toBe(400);
  });

  it.each([
    { limit: -1 },
    { limit: 1.5 },
    { continue: 'x' },
    { continue: Buffer.from('{"prefix":"/core/secrets/","rv":1,"after":"x"}').toString('base64url') },
    { resourceVersion: 'x' },
    { resourceVersionMatch: 'Exact' },
    { resourceVersion: '999999' },
    { resourceVersion: '1', resourceVersionMatch: 'Newest' },
  ])('refuses %j', async (q) => {
    const e = await failure(() => registry.list(ctx(), K(configMaps), q as object));
    expect(e.code).toBeLessThan(505);
    expect(e.code).not.toBe(500);
  });
});

describe('history', () => {
  const name = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f');
  const write = fc.record({ put: fc.boolean(), name, app: fc.constantFrom('x', 'y') });
  type Change = { put: boolean; name: string; app: string };

  async function changing() {
    const s = new MemoryStore({ stamp: stampResourceVersion });
    await s.open();
    const r = new Registry({ store: s, clock: systemClock, log: silentLog });
    await r.bootstrap();
    const change = async (w: Change) => {
      const o = { metadata: { name: w.name, labels: { app: w.app } } };
      try {
        if (!w.put) await r.delete(ctx(), K(configMaps), key(w.name), {});
        else await r.create(ctx(), K(configMaps), 'default', deepCopy(o));
      } catch (e) {
        if (!(e instanceof ApiError)) throw e;
        if (w.put) await r.update(ctx(), K(configMaps), key(w.name), o);
      }
    };
    return { r, change };
  }

  it('pages exactly the snapshot, whatever is written meanwhile', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(write, { maxLength: 12 }),
        fc.array(write, { minLength: 1 }),
        fc.integer({ min: 1, max: 4 }),
        fc.constantFrom(undefined, 'app=x'),
        async (before, meanwhile, limit, labelSelector) => {
          const { r, change } = await changing();
          for (const w of before) await change(w);
          const query = { namespace: 'default', labelSelector };
          const whole = r.list(ctx(), K(configMaps), query);
          const paged: unknown[] = [];
          let next: string | undefined;
          for (let i = 0; i === 0 || next; i++) {
            const page = r.list(ctx(), K(configMaps), { ...query, limit, continue: next });
            expect(page.resourceVersion).toBe(whole.resourceVersion);
            expect(page.items.length).toBeLessThanOrEqual(limit);
            paged.push(...page.items);
            next = page.continue;
            await change(meanwhile[i % meanwhile.length]!);
          }
          expect(paged).toEqual(whole.items);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('lists at any revision what a watch from there turns into every later list', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(write, { minLength: 1, maxLength: 15 }),
        fc.nat(),
        fc.nat(),
        async (writes, i, j) => {
          const { r, change } = await changing();
          const revisions = [r.resourceVersion];
          for (const w of writes) {
            await change(w);
            revisions.push(r.resourceVersion);
          }
          const [from, to] = [i % revisions.length, j % revisions.length].sort((a, b) => a - b) as [
            number,
            number,
          ];
          const at = (n: number, selector?: string) =>
            r.list(ctx(), K(configMaps), {
              namespace: 'default',
              labelSelector: selector,
              resourceVersion: revisions[n]!,
              resourceVersionMatch: 'Exact',
            });
          for (const selector of [undefined, 'app=x']) {
            const state = new Map(at(from, selector).items.map((o) => [o.metadata?.name, o as AnyObject]));
            const watch = r.watch(ctx(), K(configMaps), {
              namespace: 'default',
              labelSelector: selector,
              resourceVersion: revisions[from]!,
            });
            const events = watch[Symbol.asyncIterator]();
            const want = at(to, selector).items;
            const end = Number(revisions[to]);
            // As many as there are: those of the selector up to the end.
            for (;;) {
              const next = await Promise.race([
                events.next(),
                new Promise<undefined>((resolve) => setImmediate(() => setImmediate(resolve, undefined))),
              ]);
              if (!next || next.done) break;
              const o = next.value.object;
              if (Number(o.metadata?.resourceVersion) > end) break;
              if (next.value.type === 'DELETED') state.delete(o.metadata?.name);
              else state.set(o.metadata?.name, o as AnyObject);
            }
            watch.close();
            expect([...state.keys()].sort()).toEqual(want.map((o) => o.metadata?.name));
            for (const o of want) expect(state.get(o.metadata?.name)).toEqual(o);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('closes the watches of a kind that goes', async () => {
    const { r } = await changing();
    const custom = {
      ...K(configMaps),
      group: 'x.example',
      custom: { view: (o: AnyObject) => o },
    } as unknown as Kind;
    const kept = { ...custom, plural: 'others' } as Kind;
    r.setCustomKinds([custom, kept]);
    const gone = r.watch(ctx(), custom, {})[Symbol.asyncIterator]();
    const stays = r.watch(ctx(), kept, {});
    const next = gone.next();
    r.setCustomKinds([kept]);
    expect(await next).toEqual({ done: true, value: undefined });
    const waits = stays[Symbol.asyncIterator]().next();
    const idle = new Promise((resolve) => setImmediate(resolve, 'open'));
    expect(await Promise.race([waits, idle])).toBe('open');
    stays.close();
  });
});

describe('watch', () => {
  const take = async (w: Watcher<unknown>, n: number) => {
    const seen: string[] = [];
    for await (const e of w) {
      const o = e.object as AnyObject;
      seen.push(`${e.type} ${o.metadata?.name ?? ''}`.trim());
      if (seen.length === n) break;
    }
    return seen;
  };
  const label = (name: string, app: string) =>
    registry.patch(ctx(), K(configMaps), key(name), PATCH_TYPES.merge, { metadata: { labels: { app } } });

  it('translates what enters and leaves the selector', async () => {
    await make({ metadata: { name: 'a', labels: { app: 'x' } } }, configMaps);
    await make({ metadata: { name: 'b', labels: { app: 'y' } } }, configMaps);
    const w = registry.watch(ctx(), K(configMaps), { labelSelector: 'app=x' });
    await label('b', 'x');
    await label('a', 'y');
    await label('a', 'z');
    await registry.delete(ctx(), K(configMaps), key('b'), {});
    expect(await take(w, 4)).toEqual(['ADDED a', 'ADDED b', 'DELETED a', 'DELETED b']);
  });

  it('tells a deletion with the revision of the deletion', async () => {
    await make({ metadata: { name: 'a' } }, configMaps);
    const w = registry.watch(ctx(), K(configMaps), { resourceVersion: registry.resourceVersion });
    await registry.delete(ctx(), K(configMaps), key('a'), {});
    const it = w[Symbol.asyncIterator]();
    const { value } = await it.next();
    expect(value.object.metadata.resourceVersion).toBe(registry.resourceVersion);
    w.close();
    expect((await it.next()).done).toBe(true);
  });

  it('goes on from a version, and marks the end of what was there', async () => {
    await make({ metadata: { name: 'a' } }, configMaps);
    const from = registry.resourceVersion;
    await make({ metadata: { name: 'b' } }, configMaps);
    const w = registry.watch(ctx(), K(configMaps), { resourceVersion: from });
    expect(await take(w, 1)).toEqual(['ADDED b']);
    const s = registry.watch(ctx(), K(configMaps), { sendInitialEvents: true, allowWatchBookmarks: true });
    expect(await take(s, 3)).toEqual(['ADDED a', 'ADDED b', 'BOOKMARK']);
    // The end is told to nobody who takes no bookmarks.
    const t = registry.watch(ctx(), K(configMaps), { sendInitialEvents: true });
    await make({ metadata: { name: 'c' } }, configMaps);
    expect(await take(t, 3)).toEqual(['ADDED a', 'ADDED b', 'ADDED c']);
    const u = registry.watch(ctx(), K(configMaps), { sendInitialEvents: false });
    await make({ metadata: { name: 'd' } }, configMaps);
    expect(await take(u, 1)).toEqual(['ADDED d']);
  });

  it('sends bookmarks when asked, between events and without losing one', async () => {
    const clock = new VirtualClock();
    const r = new Registry({ store, clock, log: silentLog });
    const w = r.watch(ctx(), K(configMaps), {
      resourceVersion: r.resourceVersion,
      allowWatchBookmarks: true,
    });
    const it = w[Symbol.asyncIterator]();
    const first = it.next();
    await clock.advance(61_000);
    expect((await first).value).toMatchObject({
      type: 'BOOKMARK',
      object: { kind: 'ConfigMap', apiVersion: 'v1', metadata: { resourceVersion: r.resourceVersion } },
    });
    await make({ metadata: { name: 'a' } }, configMaps);
    expect((await it.next()).value).toMatchObject({ type: 'ADDED' });
    w.close();
  });

  it('sends a bookmark shortly before the end that it was told of', async () => {
    const clock = new VirtualClock();
    const r = new Registry({ store, clock, log: silentLog });
    const options = { resourceVersion: r.resourceVersion, allowWatchBookmarks: true, endsIn: 10_000 };
    const w = r.watch(ctx(), K(configMaps), options);
    const events: unknown[] = [];
    const all = (async () => {
      for await (const e of w) events.push(e.type);
    })();
    await clock.advance(7_900);
    expect(events).toEqual([]);
    await clock.advance(200);
    expect(events).toEqual(['BOOKMARK']);
    w.close();
    await all;
  });

  it('refuses versions that are gone, that never were and that are none', async () => {
    const small = new MemoryStore({ stamp: stampResourceVersion, historyEvents: 2 });
    await small.open();
    const r = new Registry({ store: small, clock: systemClock, log: silentLog });
    await r.bootstrap();
    const w = r.watch(ctx(), K(namespaces), { resourceVersion: '1' });
    const e = await failure(() => w[Symbol.asyncIterator]().next());
    expect(e.code).toBe(410);
    expect((await failure(() => r.watch(ctx(), K(pods), { resourceVersion: '999' }))).code).toBe(504);
    expect((await failure(() => r.watch(ctx(), K(pods), { resourceVersion: 'x' }))).code).toBe(400);
  });

  it('with a list equals the store, under any sequence of writes and for any selector', async () => {
    const name = fc.constantFrom('a', 'b', 'c');
    const app = fc.constantFrom('x', 'y', 'z');
    const write = fc.oneof(
      fc.record({ op: fc.constantFrom('put' as const), name, app }),
      fc.record({ op: fc.constantFrom('delete' as const), name, app }),
    );
    const selector = fc.constantFrom('app=x', 'app in (x,y)', 'app!=z', '!app', 'app');
    await fc.assert(
      fc.asyncProperty(fc.array(write, { maxLength: 20 }), fc.nat(20), selector, async (writes, at, text) => {
        const s = new MemoryStore({ stamp: stampResourceVersion });
        await s.open();
        const r = new Registry({ store: s, clock: systemClock, log: silentLog });
        await r.bootstrap();
        const run = async (w: { op: 'put' | 'delete'; name: string; app: string }) => {
          const o = { metadata: { name: w.name, labels: { app: w.app } } };
          try {
            if (w.op === 'delete') await r.delete(ctx(), K(configMaps), key(w.name), {});
            else await r.create(ctx(), K(configMaps), 'default', deepCopy(o));
          } catch (e) {
            if (!(e instanceof ApiError)) throw e;
            if (w.op === 'put') await r.update(ctx(), K(configMaps), key(w.name), o);
          }
        };
        for (const w of writes.slice(0, at)) await run(w);
        const query = { namespace: 'default', labelSelector: text };
        const listed = r.list(ctx(), K(configMaps), query);
        const watch = r.watch(ctx(), K(configMaps), { ...query, resourceVersion: listed.resourceVersion });
        for (const w of writes.slice(at)) await run(w);
        await r.create(ctx(), K(configMaps), 'default', { metadata: { name: 'end', labels: { app: 'x' } } });
        const want = r.list(ctx(), K(configMaps), query).items;
        const seen = new Map(listed.items.map((o) => [o.metadata?.name, o]));
        const ends = want.some((o) => o.metadata?.name === 'end');
        let last = Number(listed.resourceVersion);
        const apply = async () => {
          for await (const e of watch) {
            const o = e.object as AnyObject;
            const revision = Number(o.metadata?.resourceVersion);
            expect(revision).toBeGreaterThan(last);
            last = revision;
            expect(e.type === 'ADDED').toBe(!seen.has(o.metadata?.name));
            if (e.type === 'DELETED') seen.delete(o.metadata?.name);
            else seen.set(o.metadata?.name, o);
            if (o.metadata?.name === 'end') break;
          }
        };
        if (ends) await apply();
        else {
          const done = apply();
          await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
          watch.close();
          await done;
        }
        expect([...seen.values()].sort((a, b) => (a.metadata!.name! < b.metadata!.name! ? -1 : 1))).toEqual([
          ...want,
        ]);
      }),
      { numRuns: 60 },
    );
  });
});

describe('a store that does not stamp', () => {
  it('serves the same objects', async () => {
    const plain = new MemoryStore();
    await plain.open();
    const r = new Registry({ store: plain, clock: systemClock, log: silentLog });
    await r.bootstrap();
    const o = await r.create(ctx(), K(configMaps), 'default', { metadata: { name: 'c' }, data: { a: 'b' } });
    expect(o.metadata?.resourceVersion).toBe(r.resourceVersion);
    expect(r.get(ctx(), K(configMaps), key('c'))).toBe(o);
  });
});

describe('whatever is thrown at it', () => {
  const json = fc.oneof(
    // undefined takes the member away.
    {
      weight: 5,
      arbitrary: fc.constantFrom<unknown>(
        undefined,
        null,
        {},
        [],
        '',
        'x',
        -1,
        0,
        1.5,
        1e300,
        true,
        [null],
        [{}],
      ),
    },
    { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
  );
  type Path = readonly (string | number)[];
  /** Every place in a JSON value, and places that it does not have. */
  const placesIn = (o: unknown, at: Path = []): Path[] => {
    if (typeof o !== 'object' || o === null) return [at];
    const inside = Object.entries(o).flatMap(([k, v]) => placesIn(v, [...at, k]));
    return [at, ...inside, ...['__proto__', 'constructor', 'unknown'].map((k) => [...at, k])];
  };
  /** A copy with another value at a place. */
  const spoil = (o: unknown, [at, ...rest]: Path, value: unknown): unknown => {
    if (at === undefined) return value;
    if (typeof o !== 'object' || o === null) return o;
    const copy = (Array.isArray(o) ? [...o] : { ...o }) as Record<string, unknown>;
    const k = String(at);
    setOwn(copy, k, spoil(Object.hasOwn(copy, k) ? copy[k] : undefined, rest, value));
    return copy;
  };
  const rich = {
    ...pod('rich'),
    metadata: {
      name: 'rich',
      labels: { a: 'b' },
      annotations: { a: 'b' },
      finalizers: ['x.io/y'],
      ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name: 'x', uid: 'u' }],
    },
    spec: {
      containers: [
        {
          name: 'c',
          image: 'i',
          command: ['x'],
          ports: [{ containerPort: 80, name: 'http', protocol: 'TCP' }],
          env: [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
          envFrom: [{ configMapRef: { name: 'c' } }],
          resources: { limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: 0.5 } },
          volumeMounts: [{ name: 'v', mountPath: '/x' }],
          livenessProbe: { httpGet: { path: '/', port: 'http' } },
          lifecycle: { preStop: { exec: { command: ['x'] } } },
          securityContext: { runAsUser: 1 },
        },
      ],
      initContainers: [{ name: 'i', image: 'i', restartPolicy: 'Always' }],
      volumes: [
        {
          name: 'v',
          projected: {
            sources: [{ downwardAPI: { items: [{ path: 'x', fieldRef: { fieldPath: 'metadata.name' } }] } }],
          },
        },
        { name: 'w', hostPath: { path: '/x' } },
      ],
      tolerations: [{ key: 'k', operator: 'Exists' }],
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: {
            nodeSelectorTerms: [{ matchExpressions: [{ key: 'k', operator: 'In', values: ['v'] }] }],
          },
        },
        podAffinity: {
          preferredDuringSchedulingIgnoredDuringExecution: [
            { weight: 1, podAffinityTerm: { topologyKey: 'x' } },
          ],
        },
      },
      topologySpreadConstraints: [{ maxSkew: 1, topologyKey: 'x', whenUnsatisfiable: 'DoNotSchedule' }],
      nodeSelector: { a: 'b' },
      runtimeClassName: 'wasm',
    },
    status: {
      phase: 'Running',
      conditions: [{ type: 'Ready', status: 'True' }],
      containerStatuses: [
        { name: 'c', state: { running: { startedAt: '2020-01-01T00:00:00Z' } }, restartCount: 1 },
      ],
      initContainerStatuses: [{ name: 'i', state: { terminated: { exitCode: 1 } } }],
    },
  };
  const template = { metadata: { labels: { a: 'b' } }, spec: rich.spec };
  const samples: [unknown, object][] = [
    [pods, rich],
    [
      deployments,
      {
        metadata: { name: 'd' },
        spec: {
          selector: { matchLabels: { a: 'b' } },
          template,
          strategy: { rollingUpdate: { maxSurge: '25%' } },
        },
      },
    ],
    [
      replicaSets,
      {
        metadata: { name: 'd' },
        spec: { selector: { matchExpressions: [{ key: 'a', operator: 'Exists' }] }, template },
      },
    ],
    [
      nodes,
      {
        metadata: { name: 'n', labels: { 'node-role.kubernetes.io/x': '' } },
        spec: { taints: [{ key: 'k', effect: 'NoSchedule' }] },
        status: {
          addresses: [{ type: 'InternalIP', address: '::1' }],
          conditions: [{ type: 'Ready', status: 'True' }],
          nodeInfo: {},
          capacity: { cpu: 1 },
        },
      },
    ],
    [
      namespaces,
      { metadata: { name: 'n' }, spec: { finalizers: ['kubernetes'] }, status: { phase: 'Active' } },
    ],
    [configMaps, { metadata: { name: 'c' }, data: { a: 'b' }, binaryData: { c: 'AAAA' }, immutable: false }],
    [
      secrets,
      {
        metadata: { name: 's' },
        type: 'kubernetes.io/dockerconfigjson',
        data: { '.dockerconfigjson': 'e30=' },
        stringData: { a: 'b' },
      },
    ],
    [serviceAccounts, { metadata: { name: 's' }, secrets: [{ name: 'x' }] }],
    [
      events,
      {
        metadata: { name: 'e' },
        involvedObject: { kind: 'Pod', namespace: 'default', name: 'p' },
        source: { component: 'c' },
        lastTimestamp: '2020-01-01T00:00:00Z',
        eventTime: '2020-01-01T00:00:00.000000Z',
        reason: 'Tested',
        action: 'Test',
        reportingComponent: 'test.example/tester',
        reportingInstance: 'one',
        series: { count: 1 },
      },
    ],
    [
      leases,
      { metadata: { name: 'l' }, spec: { holderIdentity: 'x', renewTime: '2020-01-01T00:00:00.000000Z' } },
    ],
    [
      runtimeClasses,
      {
        metadata: { name: 'r' },
        handler: 'h',
        overhead: { podFixed: { cpu: '1m' } },
        scheduling: { tolerations: [{ key: 'x' }] },
      },
    ],
  ];

  it('accepts the samples as they are', async () => {
    for (const [k, o] of samples) {
      const kind = K(k);
      await registry.create(
        ctx({ fieldValidation: 'Strict' }),
        kind,
        kind.namespaced ? 'default' : undefined,
        deepCopy(o),
      );
    }
  });

  it('answers with an ApiError below 500, and what it accepts can be shown', async () => {
    const spoiled = fc.oneof(
      { weight: 3, arbitrary: fc.constant(samples[0]!) },
      { weight: 5, arbitrary: fc.constantFrom(...samples) },
    );
    await fc.assert(
      fc.asyncProperty(
        spoiled.chain((sample) =>
          fc.tuple(
            fc.constant(sample),
            fc.array(fc.tuple(fc.constantFrom(...placesIn(sample[1])), json), { minLength: 1, maxLength: 4 }),
          ),
        ),
        fc.constantFrom('create', 'update', 'status', 'scale', 'json', 'merge', 'strategic', 'bind', 'evict'),
        async ([[k, sample], spoilers], verb) => {
          const kind = K(k);
          const namespace = kind.namespaced ? 'default' : undefined;
          let body: unknown = deepCopy(sample);
          for (const [path, value] of spoilers) body = spoil(body, path, value);
          // Through JSON, as a body comes.
          body = JSON.parse(JSON.stringify(body) ?? 'null');
          const target = await registry.create(ctx(), kind, namespace, {
            ...deepCopy(sample),
            metadata: { generateName: 't-' },
          });
          const at = { namespace, name: target.metadata!.name! };
          const rename = (b: unknown) => {
            const m = (b as AnyObject | null)?.metadata;
            if (m && typeof m === 'object' && m.name === (sample as AnyObject).metadata?.name)
              m.name = at.name;
            return b;
          };
          const patch = (type: string) => registry.patch(ctx(), kind, at, type, rename(body));
          const verbs: Record<string, () => Promise<unknown>> = {
            create: () => registry.create(ctx(), kind, namespace, body),
            update: () => registry.update(ctx(), kind, at, rename(body)),
            status: () => registry.update(ctx(), kind, at, rename(body), 'status'),
            scale: () => registry.update(ctx(), kind, at, rename(body), 'scale'),
            json: () =>
              registry.patch(ctx(), kind, at, PATCH_TYPES.json, [{ op: 'add', path: '/spec', value: body }]),
            merge: () => patch(PATCH_TYPES.merge),
            strategic: () => patch(PATCH_TYPES.strategic),
            bind: () => registry.bind(ctx(), { namespace: 'default', name: at.name }, body),
            evict: () => registry.evict(ctx(), { namespace: 'default', name: at.name }, body),
          };
          try {
            await verbs[verb]!();
          } catch (e) {
            if (!(e instanceof ApiError)) throw e;
            expect(e.code, e.message).toBeLessThan(500);
            expect(e.toStatus()).toMatchObject({ kind: 'Status', status: 'Failure' });
          }
          for (const o of registry.list(ctx(), kind, { namespace }).items) {
            for (const c of kind.columns) c.value(o as AnyObject, 0);
            for (const f of Object.values(kind.selectable)) expect(typeof f(o as AnyObject)).toBe('string');
            expect(JSON.parse(JSON.stringify(o))).toEqual(o);
          }
          await registry
            .deleteCollection(ctx(), kind, { namespace }, { gracePeriodSeconds: 0 })
            .catch(() => {});
          for (const o of registry.list(ctx(), kind, { namespace }).items) {
            const left = { namespace, name: o.metadata!.name! };
            const release = { metadata: { finalizers: null } };
            await registry.patch(ctx(), kind, left, PATCH_TYPES.merge, release).catch(() => {});
          }
          await registry.bootstrap();
        },
      ),
      { numRuns: 2000 },
    );
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  }, 120_000);
});

describe('client', () => {
  it('does what controllers do', async () => {
    const client = registry.client();
    await client.create(nodes, { metadata: { name: 'n1' } });
    const created = await client.create(
      pods,
      pod('p', { metadata: { name: 'p', namespace: 'default' } }) as never,
    );
    await client.bind({ namespace: 'default', name: 'p', uid: created.metadata!.uid! }, 'n1');
    const bound = await client.get(pods, { namespace: 'default', name: 'p' });
    expect(bound.spec?.nodeName).toBe('n1');
    const list = await client.list(pods, { fieldSelector: 'spec.nodeName=n1' });
    expect(list.items).toHaveLength(1);
    await client.delete(pods, { namespace: 'default', name: 'p' });
    expect(
      (await client.get(pods, { namespace: 'default', name: 'p' })).metadata?.deletionGracePeriodSeconds,
    ).toBe(30);
    await client.delete(pods, { namespace: 'default', name: 'p' }, { gracePeriodSeconds: 0 });
    expect((await failure(() => client.get(pods, { namespace: 'default', name: 'p' }))).message).toBe(
      'pods "p" not found',
    );
  });
});
