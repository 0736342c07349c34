import { beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { events, leases, newEvents } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import type { AnyObject } from '../../api/meta/object.js';
import { MemoryStore } from '../store/memory.js';
import { PATCH_TYPES, type RequestContext } from './api.js';
import { Registry, stampResourceVersion } from './registry.js';

const K = (k: unknown) => k as Kind;
const CORE = K(events);
const NEW = K(newEvents);
const ctx = (over: Partial<RequestContext> = {}): RequestContext => ({
  user: 'test',
  groups: [],
  warnings: [],
  fieldManager: 'test',
  ...over,
});
const key = { namespace: 'default', name: 'e' };
const event = (over: object = {}): AnyObject => ({
  apiVersion: 'events.k8s.io/v1',
  kind: 'Event',
  metadata: { name: 'e', namespace: 'default' },
  eventTime: '2026-01-01T00:00:00.000000Z',
  type: 'Normal',
  reason: 'Tested',
  action: 'Test',
  note: 'it works',
  reportingController: 'test.example/tester',
  reportingInstance: 'one',
  regarding: { kind: 'Pod', namespace: 'default', name: 'p' },
  ...over,
});
const failure = async (work: () => unknown): Promise<ApiError> => {
  try {
    await work();
  } catch (e) {
    if (e instanceof ApiError) return e;
    throw e;
  }
  throw new Error('should have failed');
};

let registry: Registry;
beforeEach(async () => {
  const store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  registry = new Registry({ store, clock: systemClock, log: silentLog });
  await registry.bootstrap();
});

describe('a view', () => {
  it('shows the same object under both names', async () => {
    const made = await registry.create(ctx(), NEW, 'default', event());
    expect(made).toMatchObject({ apiVersion: 'events.k8s.io/v1', note: 'it works' });
    expect(made).not.toHaveProperty('message');
    const core = registry.get(ctx(), CORE, key);
    expect(core).toMatchObject({
      apiVersion: 'v1',
      message: 'it works',
      reportingComponent: 'test.example/tester',
      involvedObject: { name: 'p' },
      metadata: { uid: made.metadata!.uid, resourceVersion: made.metadata!.resourceVersion },
    });
    expect(core).not.toHaveProperty('note');
    expect(registry.get(ctx(), NEW, key)).toEqual(made);
    const select = (kind: Kind, fieldSelector: string) =>
      registry.list(ctx(), kind, { fieldSelector }).items.length;
    expect(select(NEW, 'regarding.name=p,reason=Tested')).toBe(1);
    expect(select(CORE, 'involvedObject.name=p')).toBe(1);
    expect(() => select(NEW, 'involvedObject.name=p')).toThrow('field label not supported');
    expect(Object.isFrozen(made['regarding'])).toBe(true);
  });

  it('is watched, patched, applied and deleted through either name', async () => {
    const watch = (kind: Kind) => registry.watch(ctx(), kind, {})[Symbol.asyncIterator]();
    const [old, modern] = [watch(CORE), watch(NEW)];
    const next = async (w: typeof old) => {
      const { value } = await w.next();
      const o = value.object as AnyObject;
      return [value.type, o.apiVersion, (o['message'] ?? o['note']) as string];
    };
    const both = async (type: string, text: string) => {
      expect(await next(old)).toEqual([type, 'v1', text]);
      expect(await next(modern)).toEqual([type, 'events.k8s.io/v1', text]);
    };
    await registry.create(ctx(), NEW, 'default', event());
    await both('ADDED', 'it works');
    const series = { count: 2, lastObservedTime: '2026-01-01T00:00:01.000000Z' };
    const patched = await registry.patch(ctx(), NEW, key, PATCH_TYPES.merge, { series });
    expect(patched).toMatchObject({ note: 'it works', series });
    await both('MODIFIED', 'it works');
    await registry.patch(ctx(), CORE, key, PATCH_TYPES.strategic, { message: 'still' });
    await both('MODIFIED', 'still');
    const removed = await registry.delete(ctx(), NEW, key, {});
    expect(removed).toMatchObject({ removed: true, object: { note: 'still' } });
    await both('DELETED', 'still');
  });

  it('owns fields in the stored form', async () => {
    const apply = (kind: Kind, manager: string, body: AnyObject, force = false) =>
      registry.apply(ctx({ fieldManager: manager }), kind, key, body, { force });
    const { object, created } = await apply(NEW, 'a', event());
    expect(created).toBe(true);
    expect(object).toMatchObject({ note: 'it works', apiVersion: 'events.k8s.io/v1' });
    expect(object.metadata!.managedFields).toMatchObject([
      { manager: 'a', operation: 'Apply', apiVersion: 'v1', fieldsV1: { 'f:message': {} } },
    ]);
    const mine = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: 'e', namespace: 'default' },
      message: 'mine',
    };
    const refused = await failure(() => apply(CORE, 'b', { ...mine }));
    expect(refused.message).toBe('Apply failed with 1 conflict: conflict with "a": .message');
    await apply(CORE, 'b', { ...mine }, true);
    expect(registry.get(ctx(), NEW, key)).toMatchObject({ note: 'mine', reason: 'Tested' });
    // What a applies no more, and nobody else owns, goes.
    const { action: _, note: __, ...less } = event();
    const rest = await failure(() => apply(NEW, 'a', { ...less }));
    expect(rest.message).toContain('action: Required value');
  });

  it('has rules of its own', async () => {
    const create = (over: object) => failure(() => registry.create(ctx(), NEW, 'default', event(over)));
    expect((await create({ eventTime: null, deprecatedCount: 3 })).message).toBe(
      'Event "e" is invalid: [eventTime: Required value, count: Invalid value: "": needs to be unset]',
    );
    expect((await create({ reportingController: '' })).message).toContain(
      'reportingComponent: Required value',
    );
    await registry.create(ctx(), NEW, 'default', event());
    const changed = await failure(() =>
      registry.patch(ctx(), NEW, key, PATCH_TYPES.merge, { note: 'other' }),
    );
    expect(changed.message).toBe('Event "e" is invalid: message: Invalid value: "other": field is immutable');
  });
});

describe('an update of what is not there', () => {
  const lease = (over: object = {}) => ({
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { name: 'l', ...over },
    spec: { holderIdentity: 'me' },
  });
  const at = { namespace: 'default', name: 'l' };

  it('makes kinds that Kubernetes makes so', async () => {
    let asked = 0;
    const made = await registry.update(ctx({ checkCreate: () => void asked++ }), K(leases), at, lease());
    expect(made).toMatchObject({
      metadata: { name: 'l', namespace: 'default' },
      spec: { holderIdentity: 'me' },
    });
    expect(asked).toBe(1);
    const { resourceVersion } = made.metadata!;
    await registry.update(
      ctx({ checkCreate: () => void asked++ }),
      K(leases),
      at,
      lease({ resourceVersion }),
    );
    expect(asked).toBe(1);
  });

  it('is refused when another one is meant', async () => {
    const e = await failure(() => registry.update(ctx(), K(leases), at, lease({ uid: 'u' })));
    expect(e.message).toBe(
      'Operation cannot be fulfilled on leases.coordination.k8s.io "l": Precondition failed: UID in precondition: u, UID in object meta: ',
    );
  });
});
