import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { deepCopy, deepFreeze } from '../meta/json.js';
import { jsonPath } from './jsonpath.js';
import { type JsonSchema, prune, validateValue, withDefaults } from './schema.js';
import { validateSchema } from './structural.js';

const texts = (v: unknown, s: JsonSchema, path = 'spec', old?: unknown): string[] =>
  validateValue(v, s, path, old).map((e) => `${e.field}: ${e.message}`);
const problems = (s: object): string[] =>
  validateSchema(s as JsonSchema, 'S').map((e) => `${e.field}: ${e.message}`);

describe('validation', () => {
  it.each<[string, unknown, JsonSchema, string[]]>([
    [
      'type',
      'x',
      { type: 'integer' },
      ['spec: Invalid value: "string": spec in body must be of type integer: "string"'],
    ],
    [
      'null',
      null,
      { type: 'string' },
      ['spec: Invalid value: "null": spec in body must be of type string: "null"'],
    ],
    ['nullable', null, { type: 'string', nullable: true }, []],
    [
      'int-or-string',
      true,
      { 'x-kubernetes-int-or-string': true },
      ['spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean"'],
    ],
    ['integers are numbers', 1, { type: 'number' }, []],
    [
      'exclusive',
      3,
      { type: 'integer', maximum: 3, exclusiveMaximum: true },
      ['spec: Invalid value: 3: spec in body should be less than 3'],
    ],
    [
      'minimum',
      0,
      { type: 'integer', minimum: 1 },
      ['spec: Invalid value: 0: spec in body should be greater than or equal to 1'],
    ],
    ['multipleOf', 0.3, { type: 'number', multipleOf: 0.1 }, []],
    [
      'not a multiple',
      7,
      { type: 'number', multipleOf: 2 },
      ['spec: Invalid value: 7: spec in body should be a multiple of 2'],
    ],
    [
      'minLength',
      'é',
      { type: 'string', minLength: 2 },
      ['spec: Invalid value: "é": spec in body should be at least 2 chars long'],
    ],
    ['maxLength', 'abc', { type: 'string', maxLength: 2 }, ['spec: Too long: may not be more than 2 bytes']],
    [
      'pattern',
      'a1',
      { type: 'string', pattern: '^[[:alpha:]]+$' },
      ['spec: Invalid value: "a1": spec in body should match \'^[[:alpha:]]+$\''],
    ],
    [
      'format',
      'soon',
      { type: 'string', format: 'date-time' },
      ['spec: Invalid value: "soon": spec in body must be of type date-time: "soon"'],
    ],
    ['unknown format', 'soon', { type: 'string', format: 'whatever' }, []],
    [
      'minItems',
      [],
      { type: 'array', minItems: 1 },
      ['spec: Invalid value: 0: spec in body should have at least 1 items'],
    ],
    ['maxItems', [1, 2], { type: 'array', maxItems: 1 }, ['spec: Too many: 2: must have at most 1 items']],
    [
      'items',
      [1, 'a'],
      { type: 'array', items: { type: 'integer' } },
      ['spec[1]: Invalid value: "string": spec[1] in body must be of type integer: "string"'],
    ],
    [
      'set',
      ['a', 'b', 'a'],
      { type: 'array', 'x-kubernetes-list-type': 'set', items: { type: 'string' } },
      ['spec[2]: Duplicate value: "a"'],
    ],
    [
      'map',
      [
        { k: 1, v: 1 },
        { k: 1, v: 2 },
      ],
      {
        type: 'array',
        'x-kubernetes-list-type': 'map',
        'x-kubernetes-list-map-keys': ['k'],
        items: { type: 'object' },
      },
      ['spec[1]: Duplicate value: {"k":1}'],
    ],
    ['required', {}, { type: 'object', required: ['a'] }, ['spec.a: Required value']],
    [
      'values of a map',
      { a: 1 },
      { type: 'object', additionalProperties: { type: 'string' } },
      ['spec.a: Invalid value: "integer": spec.a in body must be of type string: "integer"'],
    ],
    [
      'maxProperties',
      { a: 1, b: 1 },
      { type: 'object', maxProperties: 1 },
      ['spec: Too many: 2: must have at most 1 items'],
    ],
    [
      'anyOf',
      {},
      { anyOf: [{ required: ['a'] }, { required: ['b'] }] },
      ['spec: Invalid value: "": "spec" must validate at least one schema (anyOf)', 'spec.a: Required value'],
    ],
    [
      'oneOf, both',
      { a: 1, b: 1 },
      { oneOf: [{ required: ['a'] }, { required: ['b'] }] },
      [
        'spec: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives',
      ],
    ],
    [
      'not',
      { a: 1 },
      { not: { required: ['a'] } },
      ['spec: Invalid value: "": "spec" must not validate the schema (not)'],
    ],
  ])('%s', (_, v, s, wanted) => expect(texts(v, s)).toEqual(wanted));

  it('lets stay what was wrong before', () => {
    const s: JsonSchema = { type: 'object', properties: { a: { maximum: 1 }, b: { maximum: 1 } } };
    expect(texts({ a: 5, b: 5 }, s, 'spec', { a: 5, b: 1 })).toHaveLength(1);
  });

  it('runs patterns that trap backtracking in no time', () => {
    const s: JsonSchema = { type: 'string', pattern: '^(a+)+$' };
    expect(texts(`${'a'.repeat(5000)}!`, s)).toHaveLength(1);
  });

  it('gives up on work without bound, with an error', () => {
    const many: JsonSchema = { anyOf: Array.from({ length: 3000 }, () => ({ pattern: 'x[a-z]{100}y' })) };
    const s: JsonSchema = { type: 'array', items: many };
    const v = Array.from({ length: 1000 }, () => 'z'.repeat(100));
    expect(texts(v, s).at(-1)).toContain('too large to be validated');
  });
});

describe('pruning', () => {
  it('drops what no schema knows, and keeps what is open', () => {
    const s: JsonSchema = {
      type: 'object',
      properties: {
        spec: {
          type: 'object',
          properties: {
            a: { type: 'integer' },
            open: {
              type: 'object',
              'x-kubernetes-preserve-unknown-fields': true,
              properties: { in: { type: 'object', properties: {} } },
            },
            map: {
              type: 'object',
              additionalProperties: { type: 'object', properties: { x: { type: 'integer' } } },
            },
            list: { type: 'array', items: { type: 'object', properties: {} } },
            embedded: {
              type: 'object',
              'x-kubernetes-embedded-resource': true,
              properties: { spec: { type: 'object' } },
            },
          },
        },
      },
    };
    const o = {
      apiVersion: 'v',
      kind: 'K',
      metadata: { name: 'n' },
      extra: 1,
      spec: {
        a: 1,
        b: 2,
        open: { any: 1, in: { gone: 1 } },
        map: { k: { x: 1, y: 2 } },
        list: [{ z: 1 }],
        embedded: { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' }, status: {} },
      },
    };
    expect(prune(o, s)).toEqual([
      'extra',
      'spec.b',
      'spec.open.in.gone',
      'spec.map.k.y',
      'spec.list[0].z',
      'spec.embedded.status',
    ]);
    expect(o.spec).toEqual({
      a: 1,
      open: { any: 1, in: {} },
      map: { k: { x: 1 } },
      list: [{}],
      embedded: { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' } },
    });
  });

  it('of anything by anything leaves what it says it leaves', () => {
    const s: JsonSchema = { type: 'object', properties: { a: { type: 'object', properties: { b: {} } } } };
    fc.assert(
      fc.property(
        fc.dictionary(fc.constantFrom('a', 'b', '__proto__', 'constructor', 'x'), fc.jsonValue()),
        (o) => {
          const v = deepCopy(o) as Record<string, unknown>;
          prune(v, s);
          expect(prune(v, s)).toEqual([]);
          expect(Object.keys(v).every((k) => k === 'a')).toBe(true);
        },
      ),
    );
  });
});

describe('defaults', () => {
  const s: JsonSchema = {
    type: 'object',
    properties: {
      foo: { type: 'string', default: 'd' },
      bar: { type: 'string', nullable: true },
      baz: { type: 'string' },
      deep: { type: 'object', default: {}, properties: { x: { type: 'integer', default: 3 } } },
    },
  };
  it('replace nulls where none may be, and fill in from the outside', () => {
    const o = deepFreeze({ foo: null, bar: null, baz: null });
    expect(withDefaults(o, s)).toEqual({ foo: 'd', bar: null, deep: { x: 3 } });
  });
  it('share what is complete', () => {
    const o = deepFreeze({ foo: 'x', deep: { x: 1 } });
    expect(withDefaults(o, s)).toBe(o);
  });
});

describe('structural schemas', () => {
  it.each<[string, object, string]>([
    ['no type at the root', {}, 'S.type: Required value: must not be empty at the root'],
    [
      'a list at the root',
      { type: 'array', items: { type: 'string' } },
      'S.type: Invalid value: "array": must be object at the root',
    ],
    [
      'a field without a type',
      { type: 'object', properties: { a: {} } },
      'S.properties[a].type: Required value: must not be empty for specified object fields',
    ],
    [
      'items without a type',
      { type: 'object', properties: { a: { type: 'array', items: {} } } },
      'S.properties[a].items.type: Required value: must not be empty for specified array items',
    ],
    [
      'a type below anyOf',
      { type: 'object', anyOf: [{ type: 'object' }] },
      'S.anyOf[0].type: Forbidden: must be empty to be structural',
    ],
    [
      'a field below anyOf only',
      { type: 'object', anyOf: [{ properties: { a: { minimum: 1 } } }] },
      'S.properties[a]: Required value: because it is defined in S.anyOf[0].properties[a]',
    ],
    ['$ref', { type: 'object', $ref: '#' }, 'S.$ref: Forbidden: $ref is not supported'],
    [
      'uniqueItems',
      { type: 'object', properties: { a: { type: 'array', uniqueItems: true, items: { type: 'string' } } } },
      'S.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic',
    ],
    [
      'a wrong default',
      { type: 'object', properties: { a: { type: 'integer', default: 'x' } } },
      'S.properties[a].default: Invalid value: "string": S.properties[a].default in body must be of type integer: "string"',
    ],
    [
      'a map without keys',
      {
        type: 'object',
        properties: { a: { type: 'array', 'x-kubernetes-list-type': 'map', items: { type: 'object' } } },
      },
      'S.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map',
    ],
  ])('%s is refused', (_, s, wanted) => expect(problems(s)).toContain(wanted));

  it('int-or-string may say so in anyOf', () => {
    const port = { 'x-kubernetes-int-or-string': true, anyOf: [{ type: 'integer' }, { type: 'string' }] };
    expect(problems({ type: 'object', properties: { port } })).toEqual([]);
  });
  it('a bad or a huge pattern, a bottomless schema are refused', () => {
    const of = (pattern: string) => ({ type: 'object', properties: { a: { type: 'string', pattern } } });
    expect(problems(of('(('))[0]).toContain('must be a valid regular expression');
    expect(problems(of('((a{1000}){1000}){1000}'))[0]).toContain('must be a valid regular expression');
    expect(problems(of('a'.repeat(5000)))[0]).toContain('no more than');
    let deep: object = { type: 'object' };
    for (let i = 0; i < 200; i++) deep = { type: 'object', properties: { a: deep } };
    expect(problems(deep)).toEqual(['S: Forbidden: is nested deeper than 64 levels']);
  });
});

describe('JSON paths', () => {
  const o = {
    spec: { a: 1, 'b.c': 2, list: [1, 2, 3] },
    status: {
      conditions: [
        { type: 'Ready', status: 'True' },
        { type: 'Other', status: 'False' },
      ],
    },
  };
  it.each<[string, unknown[]]>([
    ['.spec.a', [1]],
    ['{.spec.a}', [1]],
    ['.spec.b\\.c', [2]],
    [".spec['b.c']", [2]],
    ['.spec.list[0]', [1]],
    ['.spec.list[-1]', [3]],
    ['.spec.list[1:]', [2, 3]],
    ['.spec.list[*]', [1, 2, 3]],
    ['.status.conditions[?(@.type=="Ready")].status', ['True']],
    ['.status.conditions[?(@.type != "Ready")].type', ['Other']],
    ['..type', ['Ready', 'Other']],
    ['.nowhere.at.all', []],
    ['.constructor', []],
  ])('%s', (path, wanted) => expect(jsonPath(path)(o)).toEqual(wanted));
  it.each(['spec', '.a[', '.a[x]', '.a[?(x)]', '.a..'])('%s is none', (path) =>
    expect(() => jsonPath(path)).toThrow(),
  );
});
