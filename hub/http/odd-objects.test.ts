import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { allKinds } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import type { Log } from '../../api/log.js';
import { setOwn } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { type TestApi, testApi } from '../testing/api.js';
import { SAMPLES } from '../testing/samples.js';
import { rootOf, subresourcesOf } from './discovery.js';

// What is only read comes from elsewhere.
const kinds = (allKinds as readonly Kind[]).filter((k) => !k.verbs || k.verbs.includes('create'));
const keyOf = (k: Kind) => `${apiVersionOf(k).includes('/') ? '' : '/'}${apiVersionOf(k)}/${k.plural}`;
const stored = kinds.filter((k) => !k.verbs);

type Path = readonly (string | number)[];
/** Every place in a JSON value, and places that it does not have. */
const placesIn = (o: unknown, at: Path = []): Path[] => {
  if (typeof o !== 'object' || o === null) return [at];
  const inside = Object.entries(o).flatMap(([k, v]) => placesIn(v, [...at, k]));
  return [at, ...inside, ...['__proto__', 'constructor', 'unknown'].map((k) => [...at, k])];
};
const TWICE = Symbol('what is there, twice');
/** A copy with another value at a place. */
const spoil = (o: unknown, [at, ...rest]: Path, value: unknown): unknown => {
  if (at === undefined) return value === TWICE ? [o, o] : value;
  if (typeof o !== 'object' || o === null) return o;
  if (Array.isArray(o) && rest.length === 0 && value === TWICE) return [...o, ...o];
  const copy = (Array.isArray(o) ? [...o] : { ...o }) as Record<string, unknown>;
  const k = String(at);
  setOwn(copy, k, spoil(Object.hasOwn(copy, k) ? copy[k] : undefined, rest, value));
  return copy;
};
const odd = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom<unknown>(
      // Takes the member away.
      undefined,
      TWICE,
      null,
      {},
      [],
      '',
      'x',
      'X/y/z',
      '../..',
      '\u0000',
      'x'.repeat(5000),
      -1,
      0,
      1.5,
      2 ** 31,
      2 ** 53,
      1e300,
      true,
      [null],
      [{}],
      [''],
      { '': '' },
      { a: null },
    ),
  },
  { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
);

const METHODS = ['POST', 'PUT', 'PATCH'] as const;
const PATCHES = [
  'application/merge-patch+json',
  'application/strategic-merge-patch+json',
  'application/apply-patch+yaml',
  'application/json-patch+json',
];
const ACCEPT = [
  'application/json',
  'application/json;as=Table;v=v1;g=meta.k8s.io',
  'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io',
  'application/vnd.kubernetes.protobuf,application/json',
  'application/yaml',
];

const sampleOf = (kind: Kind, name: string): AnyObject => {
  const sample = structuredClone(SAMPLES[keyOf(kind)]!);
  return {
    ...sample,
    apiVersion: apiVersionOf(kind),
    kind: kind.kind,
    metadata: {
      labels: { a: 'b' },
      annotations: { a: 'b' },
      finalizers: ['x.io/y'],
      ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name: 'x', uid: 'u' }],
      managedFields: [
        { manager: 'm', operation: 'Update', apiVersion: apiVersionOf(kind), fieldsV1: { 'f:metadata': {} } },
      ],
      name,
      ...(sample.metadata as object | undefined),
    },
  } as AnyObject;
};

/** What the API itself answers: behind a proxy is somebody else. */
const own = ({ name }: { name: string }) => (name === 'proxy' ? [] : [`/${name}`]);

/** Runs for a name of its own: what one left behind is in the way of no other. */
const ask = fc.constantFrom(...stored).chain((kind) =>
  fc.record({
    kind: fc.constant(kind),
    method: fc.constantFrom(...METHODS),
    spoilers: fc.array(fc.tuple(fc.constantFrom(...placesIn(sampleOf(kind, 'p'))), odd), {
      minLength: 1,
      maxLength: 3,
    }),
    subresource: fc.constantFrom('', '', '', ...subresourcesOf(kind).flatMap(own)),
    type: fc.constantFrom(...PATCHES),
    query: fc.subarray(['dryRun=All', 'fieldValidation=Strict', 'fieldManager=f', 'force=true']),
  }),
);

describe('odd objects', () => {
  let t: TestApi;
  const failures: unknown[] = [];
  beforeAll(async () => {
    const log = { error: (o: unknown) => failures.push(o), warn() {}, info() {}, debug() {} };
    const full = { ...log, child: () => full } as unknown as Log;
    t = await testApi({ log: full });
    await t.registry.bootstrap();
    // The whole chain has something to do.
    const levels = Object.fromEntries(
      ['enforce', 'warn', 'audit'].map((m) => [
        `pod-security.kubernetes.io/${m}`,
        m === 'enforce' ? 'privileged' : 'restricted',
      ]),
    );
    await post('/api/v1/namespaces', { metadata: { name: 'odd', labels: levels } });
    await post('/api/v1/namespaces/odd/limitranges', SAMPLES['/v1/limitranges']!, 'l');
    await post(
      '/api/v1/namespaces/odd/resourcequotas',
      {
        spec: {
          hard: { pods: '100000', 'requests.cpu': '90000', services: '90000', 'requests.storage': '9Ei' },
        },
      },
      'q',
    );
    await post('/api/v1/namespaces/odd/serviceaccounts', {}, 'default');
    const group = '/apis/admissionregistration.k8s.io/v1';
    await post(
      `${group}/validatingadmissionpolicies`,
      {
        spec: {
          matchConstraints: {
            resourceRules: [{ operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'] }],
          },
          validations: [
            { expression: '!has(object.spec) || string(object.spec) != "" || object.metadata.name != ""' },
          ],
        },
      },
      'odd',
    );
    await post(
      `${group}/validatingadmissionpolicybindings`,
      {
        spec: { policyName: 'odd', validationActions: ['Warn'] },
      },
      'odd',
    );
    await post(
      `${group}/mutatingadmissionpolicies`,
      {
        spec: {
          matchConstraints: {
            resourceRules: [{ operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'] }],
          },
          mutations: [
            {
              patchType: 'ApplyConfiguration',
              applyConfiguration: {
                expression: 'Object{metadata: Object.metadata{annotations: {"odd": "yes"}}}',
              },
            },
          ],
          reinvocationPolicy: 'IfNeeded',
          failurePolicy: 'Ignore',
        },
      },
      'odd',
    );
    await post(`${group}/mutatingadmissionpolicybindings`, { spec: { policyName: 'odd' } }, 'odd');
  });

  async function post(path: string, body: AnyObject, name?: string): Promise<void> {
    const reply = await t.call(path, {
      method: 'POST',
      body: name ? { ...body, metadata: { ...body.metadata, name } } : body,
    });
    expect(reply.status, reply.text).toBe(201);
  }

  it('has a sample of every kind that is taken as it is', async () => {
    expect(Object.keys(SAMPLES).sort()).toEqual(kinds.map(keyOf).sort());
    for (const kind of kinds) {
      const base = kind.namespaced ? `/${rootOf(kind)}/namespaces/odd` : `/${rootOf(kind)}`;
      const reply = await t.call(`${base}/${kind.plural}?fieldValidation=Strict&dryRun=All`, {
        method: 'POST',
        body: kind.verbs
          ? { ...SAMPLES[keyOf(kind)], apiVersion: apiVersionOf(kind), kind: kind.kind }
          : sampleOf(kind, 'sample'),
      });
      const namespaceElsewhere = kind.plural === 'localsubjectaccessreviews';
      if (!namespaceElsewhere) expect(reply.status, `${keyOf(kind)}: ${reply.text}`).toBe(201);
    }
  });

  it('are an internal error for no kind and no verb, and can be shown once they are in', async () => {
    let n = 0;
    await fc.assert(
      fc.asyncProperty(ask, async ({ kind, method, spoilers, subresource, type, query }) => {
        const name = `p${++n}`;
        const base = `/${rootOf(kind)}${kind.namespaced ? '/namespaces/odd' : ''}/${kind.plural}`;
        const sample = sampleOf(kind, name);
        let target = (sample.metadata as { name: string }).name;
        let body: unknown = sample;
        for (const [path, value] of spoilers) body = spoil(body, path, value);
        if (body === TWICE) body = [sample, sample];
        if (method !== 'POST') {
          const made = await t.call(base, { method: 'POST', body: sample });
          if (made.status === 201) target = made.json().metadata.name;
        } else target = '';
        const path = `${base}${target ? `/${target}${subresource}` : ''}?${query.join('&')}`;
        const jsonPatch = method === 'PATCH' && type === 'application/json-patch+json';
        const reply = await t.call(path, {
          method,
          headers: method === 'PATCH' ? { 'content-type': type } : {},
          body: jsonPatch
            ? [{ op: 'replace', path: '/spec', value: (body as AnyObject | null)?.['spec'] ?? null }]
            : (body ?? null),
        });
        expect(
          reply.status,
          `${reply.text} ${String((failures.at(-1) as { err?: Error })?.err?.stack)}`,
        ).toBeLessThan(500);
        for (const accept of ACCEPT)
          expect((await t.call(base, { headers: { accept } })).status, accept).toBe(200);
        // Away with it, whatever holds it.
        for (const o of t.registry.list({ user: '', groups: [], warnings: [] }, kind, {
          labelSelector: 'a=b',
        }).items) {
          const at = `${base}/${o.metadata!.name}`;
          const headers = { 'content-type': 'application/merge-patch+json' };
          await t.call(at, { method: 'DELETE', body: { gracePeriodSeconds: 0 } });
          await t.call(at, { method: 'PATCH', headers, body: { metadata: { finalizers: null } } });
          if (kind.plural === 'namespaces')
            await t.call(`${at}/finalize`, { method: 'PUT', body: { ...o, spec: {} } });
        }
      }),
      { numRuns: Number(process.env['ODD_RUNS'] ?? 300) },
    );
    expect(failures).toEqual([]);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  }, 1_200_000);
});
