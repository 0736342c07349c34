import { beforeAll, describe, expect, it } from 'vitest';
import { checkRules, compileRule, loadCel } from './cel.js';
import { type JsonSchema, validateValue } from './schema.js';

const texts = (v: unknown, s: JsonSchema, old?: unknown): string[] =>
  validateValue(v, s, 'spec', old, checkRules).map((e) => `${e.field}: ${e.message}`);
const object = (rule: object, properties: Record<string, JsonSchema> = {}): JsonSchema => ({
  type: 'object',
  properties: {
    min: { type: 'integer' },
    max: { type: 'integer' },
    name: { type: 'string' },
    list: { type: 'array', items: { type: 'string' } },
    ...properties,
  },
  'x-kubernetes-validations': [rule as { rule: string }],
});

describe('CEL rules', () => {
  beforeAll(loadCel);

  it.each<[string, object, boolean]>([
    ['self.min <= self.max', { min: 1, max: 2 }, true],
    ['self.min <= self.max', { min: 3, max: 2 }, false],
    ['self.min + 1 == self.max', { min: 1, max: 2 }, true],
    ['!has(self.name) || self.name.startsWith("a")', { min: 1 }, true],
    ['self.list.all(x, x.matches("^[a-z]+$"))', { list: ['a', 'B'] }, false],
    ['self.list.exists_one(x, x == "a")', { list: ['a', 'b'] }, true],
    ['matches(self.name, "a.c") && size(self.name) == 3', { name: 'abc' }, true],
    ['self.name.contains("matches") && self.name.matches("^m")', { name: 'matches' }, true],
  ])('%s of %j: %s', (rule, v, right) => expect(texts(v, object({ rule })).length === 0).toBe(right));

  it('say what is wrong as they were told to', () => {
    const v = { min: 3, max: 2 };
    const rule = 'self.min <= self.max';
    expect(texts(v, object({ rule }))).toEqual([
      'spec: Invalid value: "object": failed rule: self.min <= self.max',
    ]);
    expect(texts(v, object({ rule, message: 'too small' }))).toEqual([
      'spec: Invalid value: "object": too small',
    ]);
    expect(
      texts(v, object({ rule, messageExpression: '"is " + string(self.min)', fieldPath: '.min' })),
    ).toEqual(['spec.min: Invalid value: "object": is 3']);
    expect(texts(v, object({ rule, reason: 'FieldValueForbidden', message: 'no' }))).toEqual([
      'spec: Forbidden: no',
    ]);
    expect(texts({}, object({ rule }))[0]).toContain('No such key: min evaluating rule');
  });

  it('compare with what was there', () => {
    const s = object({ rule: 'self.name == oldSelf.name', message: 'name is immutable' });
    expect(texts({ name: 'a' }, s)).toEqual([]);
    expect(texts({ name: 'b' }, s, { name: 'a' })).toEqual([
      'spec: Invalid value: "object": name is immutable',
    ]);
    expect(texts({ name: 'a', min: 2 }, s, { name: 'a' })).toEqual([]);
  });

  it('wait until the schema is satisfied', () => {
    expect(texts({ min: 'x' }, object({ rule: 'false' })).at(-1)).toContain(
      'some validation rules were not checked',
    );
  });

  it('escape names that CEL cannot spell', () => {
    const s = object(
      { rule: 'self.a__dash__b == 1 && self.__in__ == 2' },
      { 'a-b': { type: 'integer' }, in: { type: 'integer' } },
    );
    expect(texts({ 'a-b': 1, in: 2 }, s)).toEqual([]);
  });

  it('cannot take the hub’s time or memory', () => {
    const list = Array.from({ length: 2000 }, (_, i) => `x${i}`);
    const nested = 'self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))';
    expect(texts({ list }, object({ rule: nested }))[0]).toContain('too large');
    const doubling = `self.list${'.map(x, x + x)'.repeat(40)}.size() > 0`;
    const s = object({ rule: doubling });
    const compiled = compileRule(doubling);
    if (!('wrong' in compiled)) expect(texts({ list: ['x'] }, s)[0]).toContain('too large');
    const trap = object({ rule: 'self.name.matches("^(a+)+$")' });
    expect(texts({ name: `${'a'.repeat(3000)}!` }, trap)).toHaveLength(1);
  });

  it('are told apart: no CEL at all, and what is not served', () => {
    expect(compileRule('self.a +')).toMatchObject({ syntax: true });
    expect(compileRule('quantity(self.a).isGreaterThan(quantity("1Gi"))')).toMatchObject({ syntax: false });
  });
});
