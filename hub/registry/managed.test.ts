import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { allKinds } from '../../api/kinds/index.js';
import { apiVersionOf } from '../../api/kinds/kind.js';
import { type Schema, schemaNamed } from '../../api/kinds/schema.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { deepEqual, deepFreeze } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { MemoryStore } from '../store/memory.js';
import { SAMPLES } from '../testing/samples.js';
import type { RequestContext } from './api.js';
import { FieldSet, field, keyElement, pathText, setElement } from './fieldset.js';
import {
  type Applied,
  afterCreate,
  afterUpdate,
  apply,
  emptyOf,
  encodeOwners,
  type Manager,
  type Owners,
  ownersOf,
  type Write,
} from './managed.js';
import { writeThrough } from './owners.js';
import { Registry, stampResourceVersion } from './registry.js';
import { compare, fieldsOf, merge, problemsOf, withoutFields } from './typed.js';

const POD = schemaNamed('io.k8s.api.core.v1.Pod');
const write: Write = { schema: POD, door: (s) => s.without(field('status')), time: '2026-01-01T00:00:00Z' };
const applier = (manager: string): Manager => ({ manager, operation: 'Apply', apiVersion: 'v1' });
const updater = (manager: string): Manager => ({ manager, operation: 'Update', apiVersion: 'v1' });
const pod = (o: { labels?: object; finalizers?: string[]; spec?: object }): AnyObject => {
  const { spec, ...meta } = o;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p', ...meta } as object,
    ...(spec ? { spec } : {}),
  };
};
const containers = (...list: object[]) => pod({ spec: { containers: list } });
const names = (o: AnyObject) =>
  (o['spec'] as { containers: { name: string }[] }).containers.map((c) => c.name);
const fieldsBy = (owners: Owners, manager: string) =>
  [...owners.values()].filter((o) => o.manager === manager).flatMap((o) => o.fields.paths().map(pathText));

describe('merging', () => {
  it.each([
    [
      ['a', 'b'],
      ['b', 'c'],
      ['a', 'b', 'c'],
    ],
    [
      ['a', 'b', 'c'],
      ['c', 'a'],
      ['b', 'c', 'a'],
    ],
    [['a', 'b'], ['x'], ['a', 'b', 'x']],
    [
      ['b', 'c', 'd'],
      ['x', 'c'],
      ['b', 'x', 'c', 'd'],
    ],
    [
      ['c', 'a', 'd'],
      ['a', 'c', 'x'],
      ['a', 'd', 'c', 'x'],
    ],
    [[], ['b', 'a'], ['b', 'a']],
    [['a'], [], ['a']],
  ])('%j with %j is %j', (live, applied, result) => {
    const of = (list: string[]) => containers(...list.map((name) => ({ name })));
    expect(names(merge(of(live), of(applied), POD) as AnyObject)).toEqual(result);
  });

  it('goes into items of the same key, two keys and a default included', () => {
    const ports = (...list: object[]) => containers({ name: 'a', image: 'i', ports: list });
    const live = ports(
      { containerPort: 1, protocol: 'TCP', name: 'x' },
      { containerPort: 1, protocol: 'UDP' },
    );
    expect(merge(live, ports({ containerPort: 1, hostPort: 9 }), POD)).toEqual(
      ports(
        { containerPort: 1, protocol: 'TCP', name: 'x', hostPort: 9 },
        { containerPort: 1, protocol: 'UDP' },
      ),
    );
  });

  it('knows custom schemas: keyed lists, what is open, and what may be anything', () => {
    const schema: Schema = {
      type: 'object',
      properties: {
        spec: {
          type: 'object',
          properties: {
            list: {
              type: 'array',
              'x-kubernetes-list-type': 'map',
              'x-kubernetes-list-map-keys': ['id'],
              items: { type: 'object', properties: { id: { type: 'integer' }, v: { type: 'string' } } },
            },
            plain: { type: 'array', items: { type: 'string' } },
            open: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
            any: { type: 'object', additionalProperties: {} },
            whole: {
              type: 'object',
              'x-kubernetes-map-type': 'atomic',
              properties: { a: { type: 'string' }, b: { type: 'string' } },
            },
          },
        },
      },
    };
    const spec = (o: object) => ({ spec: o });
    const live = spec({
      list: [{ id: 1, v: 'a' }, { id: 2 }],
      plain: ['x'],
      open: { a: { b: 1 }, c: [1] },
      any: { k: { b: 1 } },
      whole: { a: '1' },
    });
    const config = spec({
      list: [{ id: 1, v: 'b' }],
      plain: ['y'],
      open: { a: { d: 2 }, c: [2] },
      any: { k: { d: 2 } },
      whole: { b: '1' },
    });
    expect(merge(live, config, schema)).toEqual(
      spec({
        list: [{ id: 1, v: 'b' }, { id: 2 }],
        plain: ['y'],
        open: { a: { b: 1, d: 2 }, c: [2] },
        any: { k: { b: 1, d: 2 } },
        whole: { b: '1' },
      }),
    );
    expect(fieldsOf(config, schema).toFieldsV1()).toEqual({
      'f:spec': {
        'f:any': { 'f:k': { '.': {}, 'f:d': {} } },
        'f:list': { 'k:{"id":1}': { '.': {}, 'f:id': {}, 'f:v': {} } },
        'f:open': { 'f:a': { '.': {}, 'f:d': {} }, 'f:c': {} },
        'f:plain': {},
        'f:whole': {},
      },
    });
    expect(problemsOf(spec({ open: { x: 1 }, any: { y: {} }, no: 1 }), schema)).toEqual([
      '.spec.no: field not declared in schema',
    ]);
    expect(emptyOf(schema)).toEqual({});
  });

  it('knows what a new object of each type has before anything is in it', () => {
    expect(emptyOf(schemaNamed('io.k8s.api.apps.v1.Deployment'))).toEqual({
      metadata: {},
      spec: { strategy: {}, template: { metadata: {}, spec: { containers: [] } } },
      status: {},
    });
    expect(emptyOf(schemaNamed('io.k8s.api.core.v1.Event'))).toEqual({ metadata: {}, source: {} });
  });

  it('takes leaves as they are', () => {
    const spec = (nodeSelector: object, args: string[]) =>
      pod({ spec: { nodeSelector, containers: [{ name: 'a', args }] } });
    expect(merge(spec({ a: '1' }, ['x', 'y']), spec({ b: '2' }, ['z']), POD)).toEqual(
      spec({ b: '2' }, ['z']),
    );
  });
});

describe('fields of what is applied', () => {
  it('are leaves, entries and items', () => {
    const set = fieldsOf(
      pod({
        labels: { app: 'x' },
        finalizers: ['a/b'],
        spec: { nodeSelector: { a: 'b' }, containers: [{ name: 'c', args: ['1'], resources: {}, env: [] }] },
      }),
      POD,
    ).difference(new FieldSet().insert([field('apiVersion')]).insert([field('kind')]));
    expect(set.toFieldsV1()).toEqual({
      'f:metadata': { 'f:name': {}, 'f:labels': { 'f:app': {} }, 'f:finalizers': { 'v:"a/b"': {} } },
      'f:spec': {
        'f:nodeSelector': {},
        'f:containers': {
          'k:{"name":"c"}': { '.': {}, 'f:name': {}, 'f:args': {}, 'f:resources': {} },
        },
      },
    });
  });
});

describe('a creator', () => {
  it('owns what is in the object, not the parts that every object has', () => {
    const owners = afterCreate(
      write,
      {
        ...pod({ labels: { a: '1' }, spec: { containers: [{ name: 'c', image: 'i' }] } }),
        status: { phase: 'x' },
      },
      updater('me'),
    );
    expect(encodeOwners(owners)).toEqual([
      {
        manager: 'me',
        operation: 'Update',
        apiVersion: 'v1',
        time: write.time,
        fieldsType: 'FieldsV1',
        fieldsV1: {
          'f:metadata': { 'f:labels': { '.': {}, 'f:a': {} } },
          'f:spec': { 'f:containers': { 'k:{"name":"c"}': { '.': {}, 'f:name': {}, 'f:image': {} } } },
        },
      },
    ]);
  });

  it('may name other owners', () => {
    const sent = encodeOwners(afterCreate(write, pod({ labels: { a: '1', b: '1' } }), applier('other')));
    const owners = afterCreate(write, pod({ labels: { a: '1' } }), updater('me'), sent);
    expect(fieldsBy(owners, 'other')).toEqual(['.metadata.labels.b']);
    expect(fieldsBy(owners, 'me')).toEqual(['.metadata.labels', '.metadata.labels.a']);
  });

  it('shares equal sets in memory', () => {
    const one = () =>
      encodeOwners(
        afterCreate(write, pod({ spec: { containers: [{ name: 'c', image: 'i' }] } }), updater('me')),
      );
    expect(one()![0]!.fieldsV1).toBe(one()![0]!.fieldsV1);
  });
});

describe('what a creator owns', () => {
  const kinds = allKinds.filter((k) => Object.hasOwn(SAMPLES, `${apiVersionOf(k)}/${k.plural}`));
  const odd = fc.constantFrom<() => unknown>(
    ...[
      ...[undefined, null, '', 'x', 1, {}, [], [1, 1], ['1', 1], { a: 1 }, { '1:a': {} }],
      [{ name: 'a' }, { name: 'a' }],
      [{ name: 'a' }, 1],
      [{}],
      [{ port: 1 }, { port: 1, protocol: 'UDP' }],
      // A new one each time: a later change may lead into it.
    ].map((v) => () => structuredClone(v)),
  );
  /** Puts something odd where the numbers lead, or takes away what is there. */
  const disturb = (o: object, way: readonly number[], value: unknown, remove: boolean) => {
    let at = o as Record<string, unknown>;
    for (const step of way) {
      const keys = Object.keys(at);
      if (keys.length === 0) return;
      const key = keys[step % keys.length]!;
      const below = at[key];
      if (step < 20 && typeof below === 'object' && below !== null) at = below as typeof at;
      else {
        if (remove && !Array.isArray(at)) delete at[key];
        else at[key] = value;
        return;
      }
    }
  };
  it('is the same whether such an object was seen before or not', () => {
    const change = fc.tuple(fc.array(fc.nat(24), { minLength: 1, maxLength: 8 }), odd, fc.boolean());
    fc.assert(
      fc.property(
        fc.constantFrom(...kinds),
        fc.array(fc.array(change, { maxLength: 4 }), { minLength: 1, maxLength: 4 }),
        (kind, variants) => {
          const w = writeThrough(kind, undefined, 0);
          const sample = { ...SAMPLES[`${apiVersionOf(kind)}/${kind.plural}`]!, status: { a: 1 } };
          for (const changes of variants) {
            const o = structuredClone(sample) as AnyObject;
            for (const [way, value, remove] of changes) disturb(o, way, value(), remove);
            const found = afterCreate(w, o, updater('me'));
            const anew = afterUpdate(w, new Map(), emptyOf(w.schema), o, updater('me'));
            expect(encodeOwners(found)).toEqual(encodeOwners(anew));
          }
        },
      ),
      { numRuns: 400 },
    );
  });
});

it('objects read from disk share equal sets too', () => {
  const read = (): AnyObject => {
    const o = { ...pod({}), metadata: { name: 'p', managedFields: encodeOwners(begunBy('me')) } };
    const parsed = JSON.parse(JSON.stringify(o)) as AnyObject;
    stampResourceVersion(parsed, 7);
    return parsed;
  };
  const [a, b] = [read(), read()];
  expect(a.metadata!.managedFields![0]!.fieldsV1).toBe(b.metadata!.managedFields![0]!.fieldsV1);
  expect(a).toEqual({ ...b });
});
const begunBy = (who: string) => afterCreate(write, pod({ labels: { a: '1' } }), updater(who));

describe('updates', () => {
  const start = pod({ labels: { a: '1', b: '1' } });
  const begun = afterCreate(write, start, updater('one'));

  it('move ownership to who changed', () => {
    const owners = afterUpdate(write, begun, start, pod({ labels: { a: '2', c: '1' } }), updater('two'));
    expect(fieldsBy(owners, 'one')).toEqual(['.metadata.labels']);
    expect(fieldsBy(owners, 'two')).toEqual(['.metadata.labels.a', '.metadata.labels.c']);
  });

  it('of the hub’s own parts make nobody an owner', () => {
    const owners = afterUpdate(write, begun, start, pod({ labels: { a: '2', b: '1' } }), undefined);
    expect([...owners.values()].map((o) => o.manager)).toEqual(['one']);
    expect(fieldsBy(owners, 'one')).toEqual(['.metadata.labels', '.metadata.labels.b']);
  });

  it('that change nothing keep everything', () => {
    expect(afterUpdate(write, begun, start, structuredClone(start), updater('two'))).toBe(begun);
  });

  it('by more than ten merge the oldest', () => {
    let owners: Owners = begun;
    let o = start;
    for (let i = 0; i < 20; i++) {
      const next = pod({ labels: { ...o.metadata!.labels, [`l${i}`]: '1' } });
      const time = `2026-01-01T00:00:${String(i).padStart(2, '0')}Z`;
      owners = afterUpdate({ ...write, time }, owners, o, next, updater(`m${i}`));
      o = next;
    }
    const managers = encodeOwners(owners)!.map((e) => e.manager);
    expect(managers).toHaveLength(10);
    expect(managers[0]).toBe('ancient-changes');
    expect(managers).toContain('m19');
    expect(fieldsBy(owners, 'ancient-changes')).toContain('.metadata.labels.l5');
  });
});

describe('who a write starts from', () => {
  const stored = encodeOwners(afterCreate(write, pod({ labels: { a: '1' } }), updater('one')));
  const sent = encodeOwners(afterCreate(write, pod({ labels: { a: '1' } }), updater('two')));
  const managers = (o: Owners) => [...o.values()].map((x) => x.manager);

  it('is who is sent, else who is stored', () => {
    expect(managers(ownersOf(stored, sent))).toEqual(['two']);
    expect(managers(ownersOf(stored, undefined))).toEqual(['one']);
    expect(managers(ownersOf(stored, [{ ...sent![0]!, operation: 'Nonsense' }]))).toEqual(['one']);
    expect(managers(ownersOf(stored, [{ ...sent![0]!, fieldsV1: { 'k:x': {} } }]))).toEqual(['one']);
  });
  it('is nobody after a reset', () => {
    expect(managers(ownersOf(stored, []))).toEqual([]);
    expect(managers(ownersOf(stored, [{}]))).toEqual([]);
  });
});

// ---- properties

const text = fc.constantFrom('1', '2', '3');
const small = (values: readonly string[]) =>
  fc.uniqueArray(fc.constantFrom(...values), { maxLength: values.length });
const keyed = <T extends object>(key: string, values: readonly string[], rest: fc.Arbitrary<T>) =>
  small(values).chain((list) =>
    fc.tuple(...list.map((v) => rest.map((r) => ({ [key]: v, ...r })))).map((x) => x as object[]),
  );
const optional = <T>(shape: { [K in keyof T]: fc.Arbitrary<T[K]> }) => fc.record(shape, { requiredKeys: [] });
const port = fc.constantFrom(
  { containerPort: 80 },
  { containerPort: 80, protocol: 'UDP' },
  { containerPort: 81, name: 'x' },
  { containerPort: 81, name: 'y' },
);
const container = optional({
  image: text,
  args: fc.array(text, { maxLength: 2 }),
  env: keyed('name', ['E', 'F'], optional({ value: text })),
  ports: fc.uniqueArray(port, { selector: (p) => `${p.containerPort}${p.protocol}`, maxLength: 2 }),
});
const config: fc.Arbitrary<AnyObject> = optional({
  labels: fc.dictionary(fc.constantFrom('a', 'b', 'c'), text),
  finalizers: small(['x/a', 'x/b']),
  spec: optional({
    nodeName: text,
    nodeSelector: fc.dictionary(fc.constantFrom('a', 'b'), text),
    containers: keyed('name', ['c1', 'c2', 'c3'], container),
  }),
}).map((o) => pod(o as object));
/** Without empty parts: those go with the last thing that others put there. */
function solid<T>(v: T): T {
  if (typeof v !== 'object' || v === null) return v;
  const left = Object.entries(v)
    .map(([k, x]) => [k, solid(x)] as const)
    .filter(([, x]) => typeof x !== 'object' || Object.keys(x as object).length > 0);
  return (Array.isArray(v) ? left.map(([, x]) => x) : Object.fromEntries(left)) as T;
}
const manager = fc.constantFrom('ann', 'bob', 'eve');
const step = fc.record({ manager, config });

const none: Applied = { object: {}, owners: new Map() };
const entries = (owners: Owners) => encodeOwners(owners);
const run = (before: Applied, who: string, what: AnyObject, force: boolean): Applied =>
  apply(write, entries(before.owners), before.object, deepFreeze(structuredClone(what)), applier(who), force);
const OWN = new FieldSet()
  .insert([field('apiVersion')])
  .insert([field('kind')])
  .insert([field('metadata'), field('name')]);
const owned = (a: Applied, who: string) =>
  [...a.owners.values()].find((o) => o.manager === who)?.fields ?? new FieldSet();
const forced = (steps: readonly { manager: string; config: AnyObject }[]) =>
  steps.reduce((a, s) => run(a, s.manager, s.config, true), none);

describe('applying', () => {
  it('with force never conflicts, takes exactly what it applies, and gets its way', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 6 }), step, (steps, { manager: who, config: mine }) => {
        const after = run(forced(steps), who, mine, true);
        const wanted = fieldsOf(mine, POD).difference(OWN);
        expect(owned(after, who).paths()).toEqual(wanted.paths());
        // Laying it over once more changes nothing: all of it is in the object.
        expect(deepEqual(merge(after.object, mine, POD), after.object)).toBe(true);
      }),
    );
  });

  it('twice is as good as once', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 6 }), step, (steps, { manager: who, config: mine }) => {
        const once = run(forced(steps), who, mine, true);
        const twice = run(once, who, mine, false);
        expect(twice.object).toEqual(once.object);
        expect(entries(twice.owners)).toEqual(entries(once.owners));
      }),
    );
  });

  it('leaves nobody with fields that are not there', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 8 }), (steps) => {
        const after = forced(steps);
        const there = compare(undefined, after.object, POD).added;
        for (const o of after.owners.values()) expect(o.fields.difference(there).paths()).toEqual([]);
      }),
    );
  });

  it('without force either takes nothing from others or says exactly what it would take', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 6 }), step, (steps, { manager: who, config: mine }) => {
        const before = forced(steps);
        const taken = run(before, who, mine, true);
        const others = [...before.owners.values()].filter((o) => o.manager !== who);
        const { added, modified } = compare(before.object, taken.object, POD);
        const lost = others.flatMap((o) =>
          o.fields.intersection(added.union(modified)).paths().map(pathText),
        );
        let conflicts: string[] = [];
        try {
          const after = run(before, who, mine, false);
          expect(after.object).toEqual(taken.object);
        } catch (e) {
          const { details, message } = e as { details: { causes: { field: string }[] }; message: string };
          conflicts = details.causes.map((c) => c.field);
          expect(message).toMatch(
            conflicts.length === 1 ? /^Apply failed with 1 conflict: / : /^Apply failed with \d+ conflicts: /,
          );
        }
        expect(conflicts.sort()).toEqual(lost.sort());
      }),
    );
  });

  it('nothing any more takes everything back that others do not own', () => {
    fc.assert(
      fc.property(config, config.map(solid), (first, second) => {
        const alone = run(none, 'ann', first, true);
        const both = run(alone, 'bob', second, true);
        const left = run(both, 'ann', pod({}), true);
        const bobs = run(none, 'bob', second, true);
        // What is left is what bob alone would have made of it, but for empty values that nobody owns.
        expect(fieldsOf(left.object, POD).difference(fieldsOf(bobs.object, POD)).paths()).toEqual([]);
        expect(owned(left, 'bob').paths()).toEqual(owned(both, 'bob').paths());
      }),
    );
  });

  it('compares as it merges', () => {
    fc.assert(
      fc.property(config, config, (a, b) => {
        const [there, back] = [compare(a, b, POD), compare(b, a, POD)];
        expect(there.added.paths()).toEqual(back.removed.paths());
        expect(there.modified.paths()).toEqual(back.modified.paths());
        expect(there.added.intersection(there.modified).empty).toBe(true);
        expect(compare(a, structuredClone(a), POD)).toEqual({
          added: new FieldSet(),
          modified: new FieldSet(),
          removed: new FieldSet(),
        });
        // A merge never removes.
        expect(compare(a, merge(a, b, POD), POD).removed.paths()).toEqual([]);
        // Without what came new it is what it was, but for parts that are empty.
        const merged = merge(a, b, POD);
        const back2 = withoutFields(merged, compare(a, merged, POD).added, POD);
        expect(compare(a, back2, POD).added.paths()).toEqual([]);
      }),
    );
  });
});

// ---- through the registry

describe('the registry', () => {
  let registry: Registry;
  const clock = new VirtualClock();
  const as = (fieldManager?: string, more: Partial<RequestContext> = {}): RequestContext => ({
    user: 'u',
    groups: [],
    fieldManager,
    warnings: [],
    ...more,
  });
  const maps = () => registry.kindFor('', 'v1', 'configmaps')!;
  const deployments = () => registry.kindFor('apps', 'v1', 'deployments')!;
  const map = (name: string, data: object, more: object = {}) => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, ...more },
    data,
  });
  const deployment = (name: string, replicas?: number) => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name },
    spec: {
      ...(replicas === undefined ? {} : { replicas }),
      selector: { matchLabels: { a: 'b' } },
      template: { metadata: { labels: { a: 'b' } }, spec: { containers: [{ name: 'c', image: 'i' }] } },
    },
  });
  const key = (name: string) => ({ namespace: 'default', name });
  const put = (who: string, body: { metadata: { name: string }; kind: string }, force = false, more = {}) =>
    registry.apply(
      as(who, more),
      body.kind === 'ConfigMap' ? maps() : deployments(),
      key(body.metadata.name),
      structuredClone(body),
      { force },
    );
  const managersOf = (o: { metadata?: { managedFields?: readonly { manager?: string }[] } }) =>
    (o.metadata?.managedFields ?? []).map((m) => m.manager);

  beforeAll(async () => {
    const store = new MemoryStore({ stamp: stampResourceVersion });
    await store.open();
    registry = new Registry({ store, clock, log: silentLog });
    await registry.bootstrap();
  });

  it('makes, changes, and does not write what is the same', async () => {
    const made = await put('me', map('a', { x: '1' }));
    expect(made.created).toBe(true);
    await clock.advance(5000);
    const again = await put('me', map('a', { x: '1' }));
    expect(again).toEqual({ object: made.object, created: false });
    const changed = await put('me', map('a', { y: '1' }));
    expect(changed.object['data']).toEqual({ y: '1' });
    expect(changed.object.metadata!.managedFields![0]!.time).not.toBe(
      made.object.metadata!.managedFields![0]!.time,
    );
  });

  it('does not write for parts that only the server writes, or that are null', async () => {
    const generated = { ...deployment('gen', 1), status: {} };
    (generated.metadata as object as { creationTimestamp: null }).creationTimestamp = null;
    const { object } = await put('me', generated);
    await clock.advance(5000);
    expect((await put('me', generated)).object).toEqual(object);
    expect(object.metadata!.managedFields![0]!.fieldsV1).not.toHaveProperty('f:status');
  });

  it('asks whether it may make what is not there', async () => {
    const checkCreate = () => {
      throw new ApiError('Forbidden', 'no');
    };
    await expect(put('me', map('forbidden', {}), false, { checkCreate })).rejects.toMatchObject({
      reason: 'Forbidden',
    });
    await put('me', map('allowed', { x: '1' }));
    expect((await put('me', map('allowed', { x: '2' }), false, { checkCreate })).object['data']).toEqual({
      x: '2',
    });
  });

  it('writes nothing on a dry run', async () => {
    await put('me', map('dry', { x: '1' }, {}), false, { dryRun: true });
    await expect(async () => registry.get(as(), maps(), key('dry'))).rejects.toMatchObject({
      reason: 'NotFound',
    });
  });

  it('leaves its own parts out', async () => {
    await registry
      .client()
      .create(maps(), { ...map('own', { x: '1' }, { namespace: 'default' }) } as AnyObject);
    expect(managersOf(registry.get(as(), maps(), key('own')) as AnyObject)).toEqual([]);
    const { object } = await put('me', map('own', { x: '1', y: '1' }));
    expect(managersOf(object).sort()).toEqual(['before-first-apply', 'me']);
    await expect(put('me', map('own', { x: '2', y: '1' }))).rejects.toMatchObject({
      reason: 'Conflict',
      message: 'Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.x',
      details: {
        causes: [
          {
            reason: 'FieldManagerConflict',
            message: 'conflict with "before-first-apply" using v1',
            field: '.data.x',
          },
        ],
      },
    });
  });

  it('keeps owners that a client does not send back, and takes those that it does', async () => {
    await put('me', map('keep', { x: '1' }));
    const o = await registry.update(as('you'), maps(), key('keep'), map('keep', { x: '1', y: '1' }));
    expect(managersOf(o as AnyObject)).toEqual(['me', 'you']);
    const sent = structuredClone(o) as AnyObject;
    sent.metadata!.managedFields = sent.metadata!.managedFields!.filter((m) => m.manager === 'you');
    expect(managersOf((await registry.update(as('you'), maps(), key('keep'), sent)) as AnyObject)).toEqual([
      'you',
    ]);
  });

  it('scales: replicas change hands, by update and by apply', async () => {
    await put('me', deployment('d', 1));
    const body = {
      apiVersion: 'autoscaling/v1',
      kind: 'Scale',
      metadata: { name: 'd' },
      spec: { replicas: 2 },
    };
    await registry.update(as('hpa'), deployments(), key('d'), structuredClone(body), 'scale');
    await expect(put('me', deployment('d', 1))).rejects.toMatchObject({
      message:
        'Apply failed with 1 conflict: conflict with "hpa" with subresource "scale" using apps/v1: .spec.replicas',
    });
    const scale = (who: string, replicas: number, force: boolean) =>
      registry.apply(
        as(who),
        deployments(),
        key('d'),
        { ...structuredClone(body), spec: { replicas } },
        { force },
        'scale',
      );
    await expect(scale('me', 3, false)).rejects.toMatchObject({ reason: 'Conflict' });
    expect((await scale('me', 3, true)).object).toMatchObject({ kind: 'Scale', spec: { replicas: 3 } });
    const o = registry.get(as(), deployments(), key('d')) as AnyObject;
    expect(o['spec']).toMatchObject({ replicas: 3 });
    expect(o.metadata!.managedFields!.find((m) => m.subresource === 'scale')).toMatchObject({
      manager: 'me',
      operation: 'Apply',
      apiVersion: 'apps/v1',
      fieldsV1: { 'f:spec': { 'f:replicas': {} } },
    });
  });

  it('holds an apply to the resourceVersion and the uid it names', async () => {
    const { object } = await put('me', map('pinned', { x: '1' }));
    const { resourceVersion } = object.metadata!;
    await put('me', map('pinned', { x: '2' }, { resourceVersion }));
    await expect(put('me', map('pinned', { x: '3' }, { resourceVersion }))).rejects.toMatchObject({
      reason: 'Conflict',
    });
    await expect(put('me', map('pinned', { x: '3' }, { uid: 'other' }))).rejects.toMatchObject({
      reason: 'Conflict',
    });
    await expect(put('me', map('unmade', {}, { uid: 'other' }))).rejects.toMatchObject({
      reason: 'Conflict',
      message: expect.stringContaining('uid mismatch: the provided object specified uid other'),
    });
  });

  it.each([
    [{ kind: 'Secret' }, 'invalid object type: /v1, Kind=Secret'],
    [{ apiVersion: 'v2' }, 'invalid object type: /v2, Kind=ConfigMap'],
    [
      { metadata: { name: 'other' } },
      'the name of the object (other) does not match the name on the URL (bad)',
    ],
    [{ metadata: {} }, 'the name of the object (bad based on URL) was undeterminable: name must be provided'],
    [{ metadata: { name: 'bad', managedFields: [{}] } }, 'metadata.managedFields must be nil'],
    [
      { metadata: { name: 'bad', ownerReferences: [{ uid: '1' }, { uid: '1' }] } },
      'failed to create typed patch object (default/bad; /v1, Kind=ConfigMap): .metadata.ownerReferences: duplicate entries for key [uid="1"]',
    ],
    [
      { nope: 1, metadata: { name: 'bad', no: 1 } },
      'failed to create typed patch object (default/bad; /v1, Kind=ConfigMap): errors:\n  .metadata.no: field not declared in schema\n  .nope: field not declared in schema',
    ],
    [
      { metadata: { name: 'bad', ownerReferences: [{ name: 'x' }] } },
      'failed to create typed patch object (default/bad; /v1, Kind=ConfigMap): .metadata.ownerReferences: element 0: associative list with keys has an element that omits all key fields ["uid"] (and doesn\'t have default values for any key fields)',
    ],
  ])('refuses %j', async (change, message) => {
    const body = { ...map('bad', {}), ...change };
    await expect(registry.apply(as('me'), maps(), key('bad'), body, { force: true })).rejects.toMatchObject({
      reason: 'BadRequest',
      message,
    });
  });

  it('survives two who apply at once to what is not there yet', async () => {
    const both = await Promise.all([
      put('one', map('race', { a: '1' })),
      put('two', map('race', { b: '1' })),
    ]);
    expect(both.filter((x) => x.created)).toHaveLength(1);
    const o = registry.get(as(), maps(), key('race')) as AnyObject;
    expect(o['data']).toEqual({ a: '1', b: '1' });
    expect(managersOf(o).sort()).toEqual(['one', 'two']);
  });

  it('uses elements as JSON does', () => {
    expect(setElement('x')).toBe('v:"x"');
    expect(keyElement({ port: 80, name: 'x' })).toBe('k:{"name":"x","port":80}');
  });
});
