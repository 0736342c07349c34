import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goDuration, humanDuration } from './duration.js';
import { ApiError } from './errors.js';
import { deepCopy, deepEqual, deepFreeze, jsonSizeBound } from './json.js';
import {
  configMapKey,
  dns1123Label,
  dns1123Subdomain,
  envVarName,
  portName,
  qualifiedName,
} from './names.js';
import { addQuantities, canonicalQuantity, compareQuantity, parseQuantity } from './quantity.js';
import {
  formatSelector,
  matchesAll,
  matchesSelector,
  parseFieldSelector,
  parseSelector,
  requirementsOf,
} from './selector.js';

describe('label selectors', () => {
  const labels = { app: 'web', tier: 'front', n: '5', '': 'x' };
  it.each([
    ['', true],
    ['app=web', true],
    ['app==web,tier=front', true],
    ['app = web , tier != db', true],
    ['app!=web', false],
    ['gone!=web', true],
    ['app in (web, api)', true],
    ['app notin (web)', false],
    ['gone notin (web)', true],
    ['app', true],
    ['!app', false],
    ['! gone', true],
    ['n>4,n<6', true],
    ['n>5', false],
    ['app>5', false],
    ['gone=', false],
    ['constructor', false],
    ['in in (a)', false],
  ])('%j: %s', (text, expected) => {
    expect(matchesAll(parseSelector(text), labels)).toBe(expected);
  });

  it.each([
    ['=x', /found '='/],
    ['a=b=c', /found '='/],
    ['a in b', /found 'b', expected: '\('/],
    ['a in (b', /expected: ',' or '\)'/],
    ['a,', /expected: identifier after ','/],
    ['a,,b', /found ','/],
    ['!', /found ''/],
    ['a b', /expected: in, notin/],
    ['a>x', /must be an integer/],
    ['-a', /Invalid value: "-a"/],
    ['a=-x', /a valid label must be/],
    ['a/b/c=d', /a qualified name/],
  ])('refuses %j', (text, message) => {
    expect(() => parseSelector(text)).toThrow(message);
    expect(() => parseSelector(text)).toThrow(ApiError);
  });

  it('never throws but BadRequest', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('a', '=', '!', '(', ')', ',', ' ', 'in', '<', '/') }),
        (text) => {
          try {
            parseSelector(text);
          } catch (e) {
            expect(e).toBeInstanceOf(ApiError);
          }
        },
      ),
    );
  });

  const k = fc.constantFrom('a', 'b', 'x.io/c');
  const v = fc.constantFrom('1', '2', '');
  const requirement = fc.oneof(
    fc.record({
      key: k,
      operator: fc.constantFrom('In', 'NotIn'),
      values: fc.uniqueArray(v, { minLength: 1, maxLength: 3 }),
    }),
    fc.record({ key: k, operator: fc.constantFrom('Exists', 'DoesNotExist') }),
  );

  it('mean the same as text', () => {
    fc.assert(
      fc.property(fc.array(requirement, { maxLength: 4 }), fc.dictionary(k, v), (matchExpressions, of) => {
        const text = formatSelector(requirementsOf({ matchExpressions }));
        expect(matchesAll(parseSelector(text), of)).toBe(matchesSelector({ matchExpressions }, of));
      }),
    );
  });

  it('absent matches nothing, empty everything', () => {
    expect(matchesSelector(undefined, { a: 'b' })).toBe(false);
    expect(matchesSelector({}, undefined)).toBe(true);
  });
});

describe('field selectors', () => {
  it('parse with escapes', () => {
    expect(parseFieldSelector('a=b,c!=d\\,e,f==\\=g,,h=')).toEqual([
      { field: 'a', value: 'b', equal: true },
      { field: 'c', value: 'd,e', equal: false },
      { field: 'f', value: '=g', equal: true },
      { field: 'h', value: '', equal: true },
    ]);
    for (const bad of ['x', 'a=b=c', 'a=\\q']) expect(() => parseFieldSelector(bad)).toThrow(ApiError);
  });
});

describe('quantities', () => {
  it.each([
    ['1000m', '1'],
    ['0.5', '500m'],
    ['1.5Gi', '1536Mi'],
    ['1024', '1024'],
    ['1024Ki', '1Mi'],
    ['1000Ki', '1000Ki'],
    ['0.5Ki', '512'],
    ['0.1Ki', '102400m'],
    ['1e3', '1e3'],
    ['1200e-1', '120'],
    ['1E6', '1e6'],
    ['1000k', '1M'],
    ['0', '0'],
    ['0Gi', '0'],
    ['-1500m', '-1500m'],
    ['+1', '1'],
    ['1e-12', '1e-9'],
    ['1e999999999', '9223372036854775807'],
  ])('%s is %s', (text, canonical) => {
    expect(canonicalQuantity(text)).toBe(canonical);
  });

  const amount = fc
    .tuple(
      fc.integer({ min: -1_000_000, max: 1_000_000 }),
      fc.constantFrom('', 'm', 'u', 'k', 'M', 'Ki', 'Mi', 'Gi', 'e3', '.5'),
    )
    .map(([n, s]) => `${n}${s}`);

  it('keep their value in canonical form, which is a fixed point', () => {
    fc.assert(
      fc.property(amount, (text) => {
        const canonical = canonicalQuantity(text);
        expect(parseQuantity(canonical).nanos).toBe(parseQuantity(text).nanos);
        expect(canonicalQuantity(canonical)).toBe(canonical);
        expect(compareQuantity(text, canonical)).toBe(0);
      }),
    );
  });

  it('add like numbers and compare like them', () => {
    fc.assert(
      fc.property(amount, amount, (a, b) => {
        const sum = addQuantities(a, b);
        expect(parseQuantity(sum).nanos).toBe(parseQuantity(a).nanos + parseQuantity(b).nanos);
        expect(compareQuantity(a, b)).toBe(-compareQuantity(b, a) || 0);
      }),
    );
  });
});

describe('names', () => {
  it('say what is wrong', () => {
    expect(dns1123Label('a-b')).toEqual([]);
    expect(dns1123Label('A')[0]).toMatch(/^a lowercase RFC 1123 label must consist of/);
    expect(dns1123Label('a'.repeat(64))).toEqual(['must be no more than 63 bytes']);
    expect(dns1123Subdomain('a.b-c.d')).toEqual([]);
    expect(dns1123Subdomain('a..b')).toHaveLength(1);
    expect(qualifiedName('example.com/a_b')).toEqual([]);
    expect(qualifiedName('/a')).toEqual(['prefix part must be non-empty']);
    expect(qualifiedName('a/')[0]).toBe('name part must be non-empty');
    expect(configMapKey('..x')).toEqual(["must not start with '..'"]);
    expect(envVarName('A=B')).toHaveLength(1);
    expect(envVarName('a.b-c')).toEqual([]);
    expect(portName('http')).toEqual([]);
    expect(portName('80')).toEqual(['must contain at least one letter (a-z)']);
  });

  it('are judged in linear time', () => {
    for (const check of [dns1123Label, dns1123Subdomain, qualifiedName])
      expect(check(`${'a-'.repeat(100_000)}!`).length).toBeGreaterThan(0);
  });
});

describe('durations', () => {
  it.each([
    [-5000, '<invalid>'],
    [-1000, '0s'],
    [0, '0s'],
    [119_000, '119s'],
    [120_000, '2m'],
    [185_000, '3m5s'],
    [600_000, '10m'],
    [3 * 3_600_000, '3h'],
    [3 * 3_600_000 + 60_000, '3h1m'],
    [8 * 3_600_000, '8h'],
    [50 * 3_600_000, '2d2h'],
    [9 * 86_400_000, '9d'],
    [800 * 86_400_000, '2y70d'],
    [9 * 365 * 86_400_000, '9y'],
  ])('%d ms is %s', (ms, text) => {
    expect(humanDuration(ms)).toBe(text);
  });
});

describe('JSON values', () => {
  it('are copied whole and compared by value', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (v) => {
        const o = JSON.parse(JSON.stringify(v)) as unknown;
        const copy = deepCopy(deepFreeze(o));
        expect(deepEqual(copy, o)).toBe(true);
        expect(JSON.stringify(copy)).toBe(JSON.stringify(o));
        expect(jsonSizeBound(o)).toBeGreaterThanOrEqual(Buffer.byteLength(JSON.stringify(o)));
      }),
    );
  });

  it('differ where they differ', () => {
    expect(deepEqual({ a: 1 }, { a: 1, b: undefined })).toBe(true);
    expect(deepEqual({ a: 1, b: undefined }, { a: 1, c: 1 })).toBe(false);
    expect(deepEqual({ a: null }, {})).toBe(false);
    expect(deepEqual([], {})).toBe(false);
    expect(deepEqual([1, 2], [1])).toBe(false);
    expect(deepEqual({ toString: 1 }, {})).toBe(false);
    expect(deepEqual({}, JSON.parse('{"__proto__":1}'))).toBe(false);
  });

  it('keep a member called __proto__', () => {
    const o = JSON.parse('{"a":{"__proto__":{"x":1}}}') as { a: object };
    const copy = deepCopy(o);
    expect(JSON.stringify(copy)).toBe('{"a":{"__proto__":{"x":1}}}');
    expect(Object.getPrototypeOf(copy.a)).toBe(Object.prototype);
  });
});

describe('goDuration', () => {
  it.each([
    ['0', 0],
    ['32s', 32_000],
    ['1h15m', 4_500_000],
    ['-1.5s', -1500],
    ['.5ms', 0.5],
    ['+2us', 0.002],
  ])('%s is %d ms', (text, ms) => expect(goDuration(text)).toBeCloseTo(ms, 9));
  it.each(['', '5', 's', '1x', '1s ', '1.2.3s', '-', '1e3s', 'x\n1s'])('%j is none', (text) =>
    expect(goDuration(text)).toBeUndefined(),
  );
});
