import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { allKinds } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { resolve, type Schema, schemaNamed } from '../../api/kinds/schema.js';
import { ADMIN, testApi } from '../testing/api.js';
import { rootOf, subresourcesOf } from './discovery.js';
import { callOf } from './resources.js';
import { Router } from './route.js';

const kinds = allKinds as readonly Kind[];
const NAMES = ['p', 'x.example', 'NOT A NAME', '__proto__'];

/** Every route that the declarations make, with the kind of object that belongs there. */
const routes = kinds.flatMap((kind) => {
  const root = `/${rootOf(kind)}`;
  const base = kind.namespaced ? `${root}/namespaces/default/${kind.plural}` : `${root}/${kind.plural}`;
  return [
    { path: `${root}/${kind.plural}`, kind },
    { path: `${root}/watch/${kind.plural}`, kind },
    { path: base, kind },
    ...NAMES.flatMap((name) => [
      { path: `${base}/${encodeURIComponent(name)}`, kind },
      ...subresourcesOf(kind).map((s) => ({ path: `${base}/${encodeURIComponent(name)}/${s.name}`, kind })),
    ]),
  ];
});

const junk = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    '',
    'p',
    0,
    -1,
    1.5,
    1e300,
    true,
    [],
    {},
    [null],
    { a: { b: 1 } },
    '\u0000',
    '../x',
  ),
  fc.jsonValue({ maxDepth: 2 }),
);
const TEXTS = [
  'p',
  'a',
  'default',
  'x.example/y',
  'TCP',
  '5Gi',
  '100m',
  '2026-01-01T00:00:00Z',
  'Always',
  '80%',
  '10.0.0.1',
  '',
];

const made = new Map<string, fc.Arbitrary<unknown>>();
/** Values of a schema, most of them of the right type, few of them right. */
function valuesOf(schema: Schema, depth: number): fc.Arbitrary<unknown> {
  const { schema: s, name } = resolve(schema);
  if (depth === 0) return junk;
  const key = name && `${name} ${depth}`;
  const known = key && made.get(key);
  if (known) return known;
  const right = rightOf(s, depth);
  const values = fc.oneof({ weight: 8, arbitrary: right }, { weight: 1, arbitrary: junk });
  if (key) made.set(key, values);
  return values;
}

function rightOf(s: Schema, depth: number): fc.Arbitrary<unknown> {
  if (s.properties) {
    const { properties } = s;
    const required = (s.required ?? []).filter((k) => properties[k]);
    return fc
      .subarray(Object.keys(properties), { maxLength: Math.min(5, Object.keys(properties).length) })
      .chain((some) =>
        fc.record(
          Object.fromEntries(
            [...new Set([...some, ...required])].map((k) => [
              k,
              fc.constant(k).chain(() => valuesOf(properties[k]!, depth - 1)),
            ]),
          ),
        ),
      );
  }
  if (s.items) return fc.array(valuesOf(s.items, depth - 1), { maxLength: 3 });
  if (s.additionalProperties)
    return fc.dictionary(
      fc.constantFrom(...TEXTS, '__proto__'),
      valuesOf(s.additionalProperties, depth - 1),
      { maxKeys: 3 },
    );
  if (s.type === 'integer') return fc.constantFrom(0, 1, 2, 8080, -1, 2 ** 31, 2 ** 53);
  if (s.type === 'number') return fc.constantFrom(0, 0.5, -1);
  if (s.type === 'boolean') return fc.boolean();
  if (s.type === 'string')
    return fc.constantFrom<unknown>(...TEXTS, ...(s.format === 'int-or-string' ? [1] : []));
  return junk;
}

/** An object of the kind with names and types in place, so that it gets past the door. */
const objectOf = (kind: Kind) =>
  fc
    .tuple(valuesOf(schemaNamed(kind.schema), 5), fc.constantFrom('p', 'x.example', undefined))
    .map(([o, name]) => {
      if (typeof o !== 'object' || o === null || Array.isArray(o)) return o;
      const { metadata } = o as { metadata?: unknown };
      const meta = typeof metadata === 'object' && !Array.isArray(metadata) ? metadata : {};
      return {
        ...o,
        apiVersion: apiVersionOf(kind),
        kind: kind.kind,
        ...(name ? { metadata: { labels: (meta as { labels?: unknown } | null)?.labels, name } } : {}),
      };
    });

const request = fc.constantFrom(...routes).chain(({ path, kind }) =>
  fc.record({
    path: fc.constant(path),
    kind: fc.constant(kind),
    method: fc.constantFrom('POST', 'POST', 'PUT', 'PATCH', 'PATCH', 'GET', 'DELETE'),
    query: fc.constantFrom(
      '',
      '',
      '?dryRun=All',
      '?limit=1&continue=x',
      '?fieldManager=f&force=true',
      '?watch=true&timeoutSeconds=1&resourceVersion=1',
      '?fieldSelector=metadata.name%3Dp',
      '?labelSelector=%28',
      '?resourceVersion=99999999999',
      '?timeout=x',
    ),
    type: fc.constantFrom(
      'application/json',
      'application/merge-patch+json',
      'application/strategic-merge-patch+json',
      'application/apply-patch+yaml',
      'application/json-patch+json',
    ),
    accept: fc.constantFrom(
      'application/json',
      'application/json;as=Table;v=v1;g=meta.k8s.io',
      'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json',
      'application/yaml',
    ),
    body: fc.oneof({ weight: 8, arbitrary: objectOf(kind) }, { weight: 1, arbitrary: junk }),
  }),
);

describe('what discovery names', () => {
  const METHODS: Readonly<Record<string, string>> = {
    create: 'POST',
    update: 'PUT',
    patch: 'PATCH',
    delete: 'DELETE',
    deletecollection: 'DELETE',
    get: 'GET',
    list: 'GET',
    watch: 'GET',
  };
  const ON_ALL = new Set(['create', 'deletecollection', 'list', 'watch']);

  it('is served', () => {
    const router = new Router(kinds);
    for (const kind of kinds) {
      const all = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'];
      const where = kind.namespaced ? ['namespaces', 'default', kind.plural] : [kind.plural];
      const check = (verb: string, path: string[]) => {
        const query = new URLSearchParams(verb === 'watch' ? 'watch=true' : '');
        expect(callOf(METHODS[verb]!, router.resolve(apiVersionOf(kind), path), query).verb).toBe(verb);
      };
      for (const verb of kind.verbs ?? all) check(verb, ON_ALL.has(verb) ? where : [...where, 'p']);
      for (const s of subresourcesOf(kind)) for (const verb of s.verbs) check(verb, [...where, 'p', s.name]);
    }
  });
});

describe('malformed objects', () => {
  it('are an internal error at no route of any kind, and leave a hub that answers', async () => {
    const t = await testApi({ streams: { logs: async () => (async function* () {})() } });
    const created = await t.call('/api/v1/namespaces', {
      method: 'POST',
      body: { metadata: { name: 'default' } },
    });
    expect(created.status).toBe(201);
    const seen = new Set<number>();
    await fc.assert(
      fc.asyncProperty(request, async ({ path, method, query, type, accept, body }) => {
        // What takes the world of this test away has tests of its own.
        fc.pre(method !== 'DELETE' || path.split('/').length > 5);
        const abort = new AbortController();
        const reply = await t.send(path + query, {
          method,
          user: ADMIN,
          signal: abort.signal,
          headers: { accept, ...(method === 'PATCH' ? { 'content-type': type } : {}) },
          body: method === 'GET' ? undefined : body,
        });
        if (reply.longRunning) abort.abort();
        let text = '';
        if (typeof reply.body === 'string') text = reply.body;
        else if (reply.body && !(reply.body instanceof Uint8Array))
          for await (const c of reply.body) text += c;
        expect(reply.status, text).not.toBe(500);
        seen.add(reply.status);
      }),
      { numRuns: 2500 },
    );
    expect([...seen]).toEqual(expect.arrayContaining([200, 201, 400, 404, 405, 422]));
    expect((await t.call('/readyz')).text).toBe('ok');
    // What got in can be shown in every form.
    for (const kind of kinds) {
      if (kind.verbs) continue;
      for (const accept of ['application/json', 'application/json;as=Table;v=v1;g=meta.k8s.io'])
        expect((await t.call(`/${rootOf(kind)}/${kind.plural}`, { headers: { accept } })).status).toBe(200);
    }
  }, 120_000);
});
