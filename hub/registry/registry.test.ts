import { beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { configMaps, namespaces, nodes, pods, runtimeClasses } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
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

describe('patch', () => {
  it('answers 415 to what it does not speak', async () => {
    await registry.create(ctx(), K(configMaps), 'default', { metadata: { name: 'c' } });
    const key = { namespace: 'default', name: 'c' };
    const e = await failure(() => registry.patch(ctx(), K(configMaps), key, PATCH_TYPES.apply, {}));
    expect(e.code).toBe(415);
  });
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
