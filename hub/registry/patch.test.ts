import fc from 'fast-check';
import { applyPatch, createPatch } from 'rfc6902';
import { describe, expect, it } from 'vitest';
import { schemaNamed } from '../../api/kinds/schema.js';
import { ApiError } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import { jsonPatch, mergePatch, strategicMergePatch } from './patch.js';

type Json = Record<string, unknown>;

const key = fc.constantFrom('a', 'b', 'c', 'd/e', '~f', '');
const { json } = fc.letrec((tie) => ({
  json: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom<unknown>(null, true, 0, 1, 'x', 'y'),
    fc.array(tie('json'), { maxLength: 3 }),
    fc.dictionary(key, tie('json'), { maxKeys: 4, noNullPrototype: true }),
  ),
}));
const object = fc.dictionary(key, json, { maxKeys: 4, noNullPrototype: true }) as fc.Arbitrary<Json>;

describe('JSON patch (RFC 6902)', () => {
  it('turns one document into another along any diff', () => {
    fc.assert(
      fc.property(object, object, (from, to) => {
        expect(jsonPatch(deepCopy(from), createPatch(from, to))).toEqual(to);
      }),
      { numRuns: 500 },
    );
  });

  it('does with random operations what rfc6902 does', () => {
    const pointer = fc
      .array(fc.constantFrom('a', 'b', 'c', '0', '1', '-'), { minLength: 1, maxLength: 3 })
      .map((t) => `/${t.join('/')}`);
    const operation = fc.oneof(
      fc.record({ op: fc.constant('add'), path: pointer, value: json }),
      fc.record({ op: fc.constant('remove'), path: pointer }),
      fc.record({ op: fc.constant('replace'), path: pointer, value: json }),
      fc.record({ op: fc.constant('test'), path: pointer, value: json }),
      fc.record({ op: fc.constant('copy'), path: pointer, from: pointer }),
      fc.record({ op: fc.constant('move'), path: pointer, from: pointer }),
    );
    fc.assert(
      fc.property(object, operation, (doc, op) => {
        const theirs = deepCopy(doc);
        const into = 'from' in op && `${op.path}/`.startsWith(`${op.from}/`);
        // The oracle lets a value be moved into itself and reads `length` of arrays.
        fc.pre(!(op.op === 'move' && into));
        // What is not there is null for a test, as in Kubernetes.
        fc.pre(!(op.op === 'test' && op.value === null));
        let ours: unknown;
        try {
          ours = jsonPatch(deepCopy(doc), [op]);
        } catch (e) {
          // The oracle is laxer (missing parents, indexes out of bounds), so nothing follows for it.
          expect(e).toBeInstanceOf(ApiError);
          return;
        }
        const [error] = applyPatch(theirs, [op as never]);
        expect(error).toBeNull();
        expect(ours).toEqual(theirs);
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    [[{ op: 'add', path: '/metadata/toString/x', value: 1 }], 422],
    [[{ op: 'add', path: '/__proto__/polluted', value: 1 }], 422],
    [[{ op: 'add', path: '/constructor/prototype/polluted', value: 1 }], 422],
    [[{ op: 'replace', path: '/nope', value: 1 }], 422],
    [[{ op: 'test', path: '/metadata/name', value: 'y' }], 422],
    [[{ op: 'test', path: '/metadata/nope', value: 'y' }], 422],
    [[{ op: 'remove', path: '' }], 422],
    [[{ op: 'add', path: 'x', value: 1 }], 400],
    [[{ op: 'add', path: '/x' }], 400],
    [[{ op: 'explode', path: '/x' }], 400],
    [[null], 400],
    [{ op: 'add' }, 400],
    [Array.from({ length: 10_001 }, () => ({ op: 'test', path: '', value: 1 })), 413],
    [
      [
        { op: 'add', path: '/a', value: ['x'.repeat(1000)] },
        ...Array.from({ length: 30 }, () => ({ op: 'copy', from: '/a', path: '/a/-' })),
      ],
      413,
    ],
  ])('refuses %#', (patch, code) => {
    expect.assertions(2);
    try {
      jsonPatch({ metadata: { name: 'x' } }, patch);
    } catch (e) {
      expect((e as ApiError).code).toBe(code);
    }
    expect(({} as Json)['polluted']).toBeUndefined();
  });

  it('takes labels of any name', () => {
    const patch = [
      { op: 'add', path: '/labels/constructor', value: 'a' },
      { op: 'add', path: '/labels/__proto__', value: 'b' },
      { op: 'test', path: '/labels/constructor', value: 'a' },
    ];
    const o = jsonPatch({ labels: {} }, patch);
    expect(JSON.stringify(o)).toBe('{"labels":{"constructor":"a","__proto__":"b"}}');
  });
});

describe('merge patch (RFC 7386)', () => {
  // The examples of the RFC's appendix A.
  it.each([
    [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
    [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
    [{ a: 'b' }, { a: null }, {}],
    [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
    [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
    [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
    [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
    [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
    [
      ['a', 'b'],
      ['c', 'd'],
      ['c', 'd'],
    ],
    [{ a: 'b' }, ['c'], ['c']],
    [{ a: 'foo' }, null, null],
    [{ a: 'foo' }, 'bar', 'bar'],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: 'b', c: null }, { a: 'b' }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ])('%j + %j = %j', (target, patch, result) => {
    expect(mergePatch(deepCopy(target), patch)).toEqual(result);
  });

  it('is idempotent, and the empty patch changes nothing', () => {
    fc.assert(
      fc.property(object, object, (target, patch) => {
        const once = mergePatch(deepCopy(target), patch);
        expect(mergePatch(deepCopy(once), patch)).toEqual(once);
        expect(mergePatch(deepCopy(target), {})).toEqual(target);
      }),
    );
  });

  it('leaves what the patch does not name and never leaves a null of the patch', () => {
    fc.assert(
      fc.property(object, object, (target, patch) => {
        const out = mergePatch(deepCopy(target), patch) as Json;
        for (const k of Object.keys(target)) if (!Object.hasOwn(patch, k)) expect(out[k]).toEqual(target[k]);
        for (const k of Object.keys(patch)) expect(Object.hasOwn(out, k)).toBe(patch[k] !== null);
      }),
    );
  });

  it('shares nothing with the patch', () => {
    const patch = { a: { b: [1] } };
    const out = mergePatch({}, patch) as typeof patch;
    out.a.b.push(2);
    expect(patch.a.b).toEqual([1]);
  });
});

const podSchema = schemaNamed('io.k8s.api.core.v1.Pod');
const deploymentSchema = schemaNamed('io.k8s.api.apps.v1.Deployment');
const smp = (target: Json, patch: unknown, schema = podSchema) =>
  strategicMergePatch(deepCopy(target), patch, schema);

const pod = {
  metadata: { name: 'p', labels: { a: '1', b: '2' }, finalizers: ['x/1', 'x/2'] },
  spec: {
    containers: [
      {
        name: 'one',
        image: 'i1',
        env: [
          { name: 'A', value: '1' },
          { name: 'B', value: '2' },
        ],
      },
      { name: 'two', image: 'i2', args: ['a', 'b'] },
    ],
    tolerations: [{ key: 'k' }],
    volumes: [{ name: 'v', emptyDir: { medium: 'Memory' } }],
  },
};
const spec = (o: Json) => o['spec'] as typeof pod.spec & Json;

describe('strategic merge patch', () => {
  it('merges lists by their key, replaces what is atomic', () => {
    const out = spec(
      smp(pod, {
        spec: {
          containers: [
            { name: 'two', image: 'i3', args: ['c'] },
            { name: 'three', image: 'i4' },
          ],
          tolerations: [{ key: 'other' }],
        },
      }),
    );
    expect(out.containers.map((c) => [c.name, c.image])).toEqual([
      ['one', 'i1'],
      ['two', 'i3'],
      ['three', 'i4'],
    ]);
    expect(out.containers[1]!.args).toEqual(['c']);
    expect(out.tolerations).toEqual([{ key: 'other' }]);
  });

  it('deletes fields, map entries and elements', () => {
    const out = smp(pod, {
      metadata: { labels: { a: null }, '$deleteFromPrimitiveList/finalizers': ['x/1'] },
      spec: {
        containers: [
          { name: 'one', $patch: 'delete' },
          { name: 'two', args: null },
          { name: 'absent', $patch: 'delete' },
        ],
      },
    });
    expect(out['metadata']).toEqual({ name: 'p', labels: { b: '2' }, finalizers: ['x/2'] });
    expect(spec(out).containers).toEqual([{ name: 'two', image: 'i2' }]);
  });

  it('merges sets of scalars', () => {
    const out = smp(pod, { metadata: { finalizers: ['x/3', 'x/1', 'x/3'] } });
    expect((out['metadata'] as Json)['finalizers']).toEqual(['x/3', 'x/1', 'x/2']);
  });

  it('puts what is new before what only the server has', () => {
    const out = spec(smp(pod, { spec: { containers: [{ name: 'new' }] } }));
    expect(out.containers.map((c) => c.name)).toEqual(['new', 'one', 'two']);
  });

  it('replaces a map or a list when told', () => {
    const out = smp(pod, {
      metadata: { labels: { $patch: 'replace', c: '3' } },
      spec: { containers: [{ $patch: 'replace' }, { name: 'only', image: 'i' }] },
    });
    expect((out['metadata'] as Json)['labels']).toEqual({ c: '3' });
    expect(spec(out).containers).toEqual([{ name: 'only', image: 'i' }]);
  });

  it('deletes a map when told', () => {
    const out = smp(pod, { metadata: { labels: { $patch: 'delete' } } });
    expect((out['metadata'] as Json)['labels']).toEqual({});
  });

  it('keeps only the keys of $retainKeys: a volume changes its source', () => {
    const out = spec(
      smp(pod, {
        spec: { volumes: [{ name: 'v', $retainKeys: ['name', 'hostPath'], hostPath: { path: '/x' } }] },
      }),
    );
    expect(out.volumes).toEqual([{ name: 'v', hostPath: { path: '/x' } }]);
    const d = { spec: { strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1 } } } };
    expect(
      smp(d, { spec: { strategy: { $retainKeys: ['type'], type: 'Recreate' } } }, deploymentSchema),
    ).toEqual({ spec: { strategy: { type: 'Recreate' } } });
  });

  it('orders by $setElementOrder and leaves what only the server has where it was', () => {
    const env = (...names: string[]) => names.map((name) => ({ name }));
    const order = (before: string[], patched: string[], asked: string[]) => {
      const out = spec(
        smp(
          { spec: { containers: [{ name: 'c', env: env(...before) }] } },
          {
            spec: {
              '$setElementOrder/containers': [{ name: 'c' }],
              containers: [
                {
                  name: 'c',
                  '$setElementOrder/env': env(...asked),
                  ...(patched.length ? { env: env(...patched) } : {}),
                },
              ],
            },
          },
        ),
      );
      return out.containers[0]!.env!.map((e) => e.name).join('');
    };
    expect(order(['A', 'B'], [], ['B', 'A'])).toBe('BA');
    expect(order(['A', 'B'], ['C'], ['C', 'A', 'B'])).toBe('CAB');
    expect(order(['A', 'S', 'B'], [], ['A', 'B'])).toBe('ASB');
    expect(order(['S', 'A', 'B'], ['C'], ['B', 'A', 'C'])).toBe('SBAC');
  });

  it('takes a key that repeats: a port open for TCP and UDP', () => {
    const ports = [
      { containerPort: 53, protocol: 'UDP' },
      { containerPort: 80, protocol: 'TCP' },
      { containerPort: 53, protocol: 'TCP' },
    ];
    const order = ports.map(({ containerPort }) => ({ containerPort }));
    const patch = { name: 'c', ports, '$setElementOrder/ports': order };
    const out = spec(smp({ spec: { containers: [{ name: 'c' }] } }, { spec: { containers: [patch] } }));
    // All are there; equal keys stand together, as Kubernetes sorts them.
    expect((out.containers[0] as Json)['ports']).toEqual([ports[0], ports[2], ports[1]]);
    const live = { spec: { containers: [{ name: 'c', ports }] } };
    expect(smp(live, { spec: { containers: [{ name: 'c', image: 'i' }] } })).toEqual({
      spec: { containers: [{ name: 'c', image: 'i', ports }] },
    });
    const gone = { name: 'c', ports: [{ containerPort: 53, $patch: 'delete' }] };
    expect((spec(smp(live, { spec: { containers: [gone] } })).containers[0] as Json)['ports']).toEqual([
      ports[1],
    ]);
  });

  it('orders scalars', () => {
    const out = smp(pod, {
      metadata: { '$setElementOrder/finalizers': ['x/3', 'x/1'], finalizers: ['x/3'] },
    });
    expect((out['metadata'] as Json)['finalizers']).toEqual(['x/3', 'x/1', 'x/2']);
  });

  it.each<[unknown]>([
    [[]],
    ['x'],
    [{ $patch: 'explode' }],
    [{ metadata: { $unknown: 1 } }],
    [{ spec: { containers: [{ image: 'no-name' }] } }],
    [{ spec: { containers: ['x'] } }],
    [{ spec: { containers: [{ name: 'c', $retainKeys: 'x' }] } }],
    [{ spec: { volumes: [{ name: 'v', $retainKeys: ['name'], hostPath: {} }] } }],
    [{ metadata: { '$deleteFromPrimitiveList/finalizers': 'x' } }],
    [{ spec: { '$setElementOrder/containers': [{ name: 'one' }], containers: [{ name: 'two' }] } }],
    [{ spec: { '$setElementOrder/containers': 1 } }],
  ])('refuses %j', (patch) => {
    expect(() => smp(pod, patch)).toThrow(ApiError);
  });

  // A model of a list that merges by name.
  it('agrees with a map under any sequence of element changes; what a change names is in its order, the rest in the old one', () => {
    const name = fc.constantFrom('a', 'b', 'c', 'd', 'e');
    const change = fc.record({ name, value: fc.option(fc.constantFrom('1', '2', '3')) });
    const list = fc.uniqueArray(fc.record({ name, value: fc.constantFrom('0', '9') }), {
      selector: (e) => e.name,
    });
    fc.assert(
      fc.property(
        list,
        fc.array(fc.uniqueArray(change, { selector: (c) => c.name }), { maxLength: 5 }),
        (before, patches) => {
          const model = new Map<string, string>(before.map((e) => [e.name, e.value]));
          let o: Json = { spec: { containers: [{ name: 'c', env: before }] } };
          for (const changes of patches) {
            for (const c of changes) {
              if (c.value === null) model.delete(c.name);
              else model.set(c.name, c.value);
            }
            const was = spec(o).containers[0]!.env ?? [];
            const env = changes.map((c) =>
              c.value === null ? { name: c.name, $patch: 'delete' } : { name: c.name, value: c.value },
            );
            o = smp(o, { spec: { containers: [{ name: 'c', env }] } });
            const names = (spec(o).containers[0]!.env ?? []).map((e) => e.name);
            const named = changes.filter((c) => c.value !== null).map((c) => c.name);
            expect(names.filter((n) => named.includes(n as never))).toEqual(named);
            const others = was.map((e) => e.name).filter((n) => !changes.some((c) => c.name === n));
            expect(names.filter((n) => !named.includes(n as never))).toEqual(others);
          }
          const got = spec(o).containers[0]!.env ?? [];
          expect(Object.fromEntries(got.map((e) => [e.name, e.value]))).toEqual(Object.fromEntries(model));
          expect(got).toHaveLength(model.size);
        },
      ),
    );
  });

  // What `kubectl apply` sends: from last-applied to new, with the order of all elements.
  it('brings a list to any wanted state and order with $setElementOrder', () => {
    const entry = fc.record({
      name: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
      value: fc.constantFrom('0', '1'),
    });
    const list = fc.uniqueArray(entry, { selector: (e) => e.name });
    fc.assert(
      fc.property(list, list, (before, wanted) => {
        const gone = before.filter((e) => !wanted.some((w) => w.name === e.name));
        const env = [
          ...wanted.filter((w) => !before.some((e) => deepEqual(e, w))),
          ...gone.map((e) => ({ name: e.name, $patch: 'delete' })),
        ];
        const o = smp(
          { spec: { containers: [{ name: 'c', env: before }] } },
          {
            spec: {
              containers: [
                {
                  name: 'c',
                  '$setElementOrder/env': wanted.map(({ name }) => ({ name })),
                  ...(env.length ? { env } : {}),
                },
              ],
            },
          },
        );
        expect(spec(o).containers[0]!.env).toEqual(wanted);
      }),
    );
  });

  it('is a merge patch where nothing has a strategy', () => {
    // Of objects in a list, nulls are dropped, which RFC 7386 does not do.
    const { plain } = fc.letrec((tie) => ({
      plain: fc.oneof(
        { maxDepth: 3 },
        fc.constantFrom<unknown>(null, true, 'x'),
        fc.array(fc.constantFrom(1, 2, 3), { maxLength: 3 }),
        fc.dictionary(key, tie('plain'), { maxKeys: 4, noNullPrototype: true }),
      ),
    }));
    const plainObject = fc.dictionary(key, plain, { maxKeys: 4, noNullPrototype: true });
    fc.assert(
      fc.property(object, plainObject, (target, patch) => {
        const strategic = strategicMergePatch(deepCopy({ x: target }), { x: patch }, {});
        expect(strategic).toEqual(mergePatch(deepCopy({ x: target }), { x: patch }));
      }),
    );
  });
});
