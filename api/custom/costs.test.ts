import { beforeAll, describe, expect, it } from 'vitest';
import { Costs, costOf } from './costs.js';
import { loadCel, problemsOfRules, rulesOf } from './rules.js';
import type { JsonSchema } from './schema.js';

/** The cost of the rule of a schema, as it is told to those who exceed it. */
function cost(schema: JsonSchema, rule: string): number {
  let found = Number.NaN;
  const costs = new Costs();
  costs.add = (_f, _w, root, s, isRoot) => {
    found = costOf(root, s, isRoot);
    return [];
  };
  const wrong = problemsOfRules(
    { at: 'at', schema: { ...schema, 'x-kubernetes-validations': [{ rule }] }, root: false, times: 1 },
    costs,
  );
  expect(wrong).toEqual([]);
  return found;
}

type Make = (max?: number) => JsonSchema;
const of = (type: string): JsonSchema =>
  type === 'int-or-string'
    ? { 'x-kubernetes-int-or-string': true }
    : ['date', 'date-time', 'duration', 'byte'].includes(type)
      ? { type: 'string', format: type }
      : { type };
const limit = (key: string, max: number | undefined) => (max === undefined ? {} : { [key]: max });
const list =
  (items: JsonSchema): Make =>
  (max) => ({ type: 'array', items, ...limit('maxItems', max) });
const map =
  (values: JsonSchema): Make =>
  (max) => ({ type: 'object', additionalProperties: values, ...limit('maxProperties', max) });
const text: Make = (max) => ({ type: 'string', ...limit('maxLength', max) });
const bytes: Make = (max) => ({ type: 'string', format: 'byte', ...limit('maxLength', max) });
const object: JsonSchema = {
  type: 'object',
  properties: { required: of('string'), optional: of('string') },
  required: ['required'],
};
const nested: Make = (max) => map(text(max))(max);
const objects: Make = (max) => list(map(object)(max))(max);

describe('the estimated cost of rules', () => {
  beforeAll(loadCel);

  // Costs of apiextensions-apiserver's own tests (schema/cel/compilation_test.go TestCostEstimation): without a limit on
  // the size, and with one.
  it.each<[string, string, Make, number, number, number]>([
    ['numbers', 'self.all(x, true)', list(of('number')), 4718591, 10, 32],
    ['texts', 'self.all(x, true)', list(of('string')), 3145727, 20, 62],
    ['bools', 'self.all(x, true)', list(of('boolean')), 1887437, 5, 17],
    ['lists', 'self.all(x, true)', list(list(of('number'))()), 3145727, 100, 302],
    ['objects', 'self.all(x, true)', list(object), 555128, 50, 152],
    ['map of numbers', 'self.all(x, true)', map(of('number')), 1348169, 10, 32],
    ['map of texts', 'self.all(x, true)', map(of('string')), 1179647, 3, 11],
    ['map of bools', 'self.all(x, true)', map(of('boolean')), 943718, 100, 302],
    ['text', "self.contains('test')", text, 314574, 10, 5],
    ['text', "self.startsWith('test')", text, 2, 15, 2],
    ['text', "self.endsWith('test')", text, 2, 30, 2],
    ['text', 'size(self + "hello") > size("hello")', text, 314578, 4, 7],
    ['numbers', 'self[1] == 0.0', list(of('number')), 2, 5000, 2],
    ['texts', 'self[1] == self[1]', list(of('string')), 314577, 8, 314577],
    ['numbers', 'self.all(x, self.all(y, true))', list(of('number')), 7421697114116, 10, 352],
    ['text', 'self.matches("x")', text, 314574, 50, 22],
    ['text', '"".matches("(((((((((())))))))))[0-9]")', text, 7, 10, 7],
    ['text', 'self.matches("")', text, 1, 100, 1],
    ['nested', 'self.all(x, x.contains(self[x]))', nested, 2752507, 10, 72],
    ['map of numbers', 'self["x"] == 0.0', map(of('number')), 2, 0, 2],
    ['text', 'self == "x"', text, 2, 0, 1],
    ['bytes', 'self == b"x"', bytes, 2, 0, 1],
    ['numbers', 'self.all(x, x == 0.0)', list(of('number')), 6291454, 6291456, 25165826],
    ['maps of objects', 'self.all(x, x["y"].required == "z")', objects, 7340027, 10, 72],
    ['int-or-string', 'self.all(x, true)', list(of('int-or-string')), 4718591, 10, 32],
    ['int-or-string', 'self[0] == 5', list(of('int-or-string')), 3, 10, 3],
    ['bools', 'self[0] == false', list(of('boolean')), 2, 25, 2],
    ['lists', 'self[0][0] == -1.0', list(list(of('number'))()), 3, 51, 3],
    ['maps', 'self.all(x, x.y == 25.2)', list(map(of('number'))()), 6291452, 12, 74],
    ['maps', 'self[0].x > 2.0', list(map(of('number'))()), 4, 3000, 4],
    ['durations', 'self.all(x, true)', list(of('duration')), 2359295, 5, 17],
    ['durations', 'self[0].getHours() == 2', list(of('duration')), 4, 525, 4],
    ['dates', 'self.all(x, true)', list(of('date')), 725936, 15, 47],
    ['dates', 'self[2].getDayOfMonth() == 13', list(of('date')), 4, 42, 4],
    ['times', 'self.all(x, true)', list(of('date-time')), 428963, 25, 77],
    ['map of int-or-string', 'self.all(x, true)', map(of('int-or-string')), 1348169, 15, 47],
    ['map of durations', 'self.all(x, true)', map(of('duration')), 1048577, 5, 17],
    ['map of times', 'self["a"] == self["b"]', map(of('date-time')), 8, 7, 8],
    ['map of integers', 'oldSelf.size() == self.size()', map(of('integer')), 5, 10, 5],
    ['text', "self.find('[0-9]+') == ''", text, 629147, 10, 11],
  ])('%s: %s', (_, rule, make, unlimited, max, limited) => {
    if (unlimited < 1e12) expect(cost(make(), rule)).toBe(unlimited);
    else expect(cost(make(), rule)).toBeGreaterThan(1e12);
    expect(cost(make(max), rule)).toBe(limited);
  });

  const problems = (schema: JsonSchema): string[] => {
    const costs = new Costs();
    const all = [...rulesOf(schema, 'schema')].flatMap((part) => problemsOfRules(part, costs));
    return [...all, ...costs.problems('schema')].map((e) => `${e.field}: ${e.message}`);
  };

  it('counts how often data may be there', () => {
    const inner = (max: object): JsonSchema => ({
      type: 'array',
      items: of('string'),
      ...max,
      'x-kubernetes-validations': [{ rule: "self.all(s, s == 'string constant')" }],
    });
    const outer = (items: JsonSchema, max = {}): JsonSchema => ({
      type: 'object',
      properties: { x: { type: 'array', items, ...max } },
    });
    const advice =
      '(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)';
    expect(problems(outer(inner({})))).toEqual([
      `schema.properties[x].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x ${advice}`,
      'schema.properties[x].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema',
      `schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x ${advice}`,
    ]);
    expect(problems(outer(inner({ maxItems: 10 }), { maxItems: 10 }))).toEqual([]);
    expect(problems(outer(inner({ maxItems: 1000 }), { maxItems: 2000 }))[0]).toContain(
      'estimated rule cost exceeds budget by factor of 1.200400x',
    );
  });

  it('sees names that CEL spells otherwise, and the metadata of objects', () => {
    const schema = (rule: string): JsonSchema => ({
      type: 'object',
      properties: {
        'a-b': { type: 'string', maxLength: 10 },
        in: { type: 'array', items: of('string'), maxItems: 3 },
      },
      'x-kubernetes-validations': [{ rule }],
    });
    expect(problems(schema("self.a__dash__b.contains('x') && self.__in__.all(x, x != '')"))).toEqual([]);
    expect(problems(schema("self.metadata.name.contains('x')"))).toEqual([]);
  });
});
