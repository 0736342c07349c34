import { beforeAll, describe, expect, it } from 'vitest';
import { UNKNOWN } from '../cel/cost.js';
import { Costs, costOf } from './costs.js';
import { loadCel, problemsOfRules, rulesOf } from './rules.js';
import type { JsonSchema } from './schema.js';

/** The cost of the rule of a schema, as it is told to those who exceed it. */
function cost(schema: JsonSchema, rule: string, root = false): number {
  let found = Number.NaN;
  const costs = new Costs();
  costs.add = (_f, _w, root, s, isRoot) => {
    found = costOf(root, s, isRoot);
    return [];
  };
  const wrong = problemsOfRules(
    { at: 'at', schema: { ...schema, 'x-kubernetes-validations': [{ rule }] }, root, times: 1 },
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

  const max = (key: string, n: number, s: JsonSchema): JsonSchema => ({ ...s, [key]: n });
  const short = (n: number) => max('maxLength', n, of('string'));
  const items = (n: number, s: JsonSchema) => max('maxItems', n, { type: 'array', items: s });
  const everything: JsonSchema = {
    type: 'object',
    properties: {
      n: of('integer'),
      d: of('number'),
      b: of('boolean'),
      s: of('string'),
      t: short(20),
      l: items(10, of('string')),
      lt: items(10, short(5)),
      li: items(7, of('integer')),
      m: max('maxProperties', 6, { type: 'object', additionalProperties: short(8) }),
      o: { type: 'object', properties: { x: short(9), y: of('integer') }, required: ['x'] },
      lo: items(4, {
        type: 'object',
        properties: { name: short(3), v: items(2, of('integer')) },
        required: ['name'],
      }),
      e: { type: 'string', enum: ['a', 'bcd'] },
      ios: of('int-or-string'),
      ts: of('date-time'),
      du: of('duration'),
    },
  };

  // What apiextensions-apiserver 1.36 says of them.
  it.each<[string, number]>([
    ['has(self.s)', 1],
    ['has(self.o.x)', 2],
    ['self.n > 1 && self.n < 5', 6],
    ['self.n == 1 || self.b', 4],
    ["string(self.n) == 'x'", 4],
    ["'a' + string(self.n) == 'x'", UNKNOWN],
    ["self.t + self.t == 'x'", 21],
    ['self.t.startsWith(self.s)', 314577],
    ["self.l.all(x, x != '')", 43],
    ["self.lt.all(x, x.matches('^[a-z]+$'))", 103],
    ["self.lt.exists(x, x == 'a')", 63],
    ["self.lt.exists_one(x, x == 'a')", 44],
    ["self.lt.map(x, x + 'a').size() > 2", 175],
    ["self.lt.filter(x, x != 'a').size() > 2", 165],
    ["self.lt.map(x, x != 'b', x + 'a').all(y, y != 'z')", 234],
    ['self.li.sum() == 3', 10],
    ['self.li.map(x, x * 2).sum() > 3', 119],
    ['self.lt.isSorted()', 32],
    ["self.lt.join(',') == 'a'", 24],
    ["self.t.split(',').size() == 2", 20],
    ["self.t.split(',', 3).all(x, x != '')", 31],
    ["self.t.replace('a', 'bb') == self.t", 28],
    ['self.t.lowerAscii() == self.t', 20],
    ["self.t.substring(1, 2) == 'a'", 11],
    ["self.t.find('a+') == 'b'", 12],
    ["self.t.findAll('a+').size() == 1", 13],
    ["'a' in self.l", 12],
    ["self.t in ['a', 'b']", 14],
    ["'k' in self.m", 3],
    ["self.m.all(k, k.startsWith('a') && self.m[k] != '')", 57],
    ["self.m.exists(k, self.m[k] == 'z')", 57],
    ['self.lo.all(a, self.lo.exists(b, a.name == b.name))', 187],
    ['self.lo.all(a, a.v.all(i, i > 0))', 67],
    ['self.lo.map(a, a.name).all(n, self.lo.filter(i, i.name == n).size() == 1)', 398],
    ['self.o == oldSelf.o', 4],
    ['self.l == oldSelf.l', 5],
    ['self.lo == oldSelf.lo', 5],
    ["self.e == 'a'", 3],
    ["self.e.contains('b')", 3],
    ["type(self.ios) == int ? self.ios > 0 : self.ios == 'x'", 7],
    ["self.ts > timestamp('2020-01-01T00:00:00Z')", 4],
    ["self.du < duration('1h')", 4],
    ['self.du.getSeconds() < 5', 4],
    ["self.?o.?x.orValue('q') == 'z'", 5],
    ['self.?o.hasValue()', 3],
    ["self.?l.orValue([]).all(x, x != 'a')", UNKNOWN],
    ['self.o.?x.hasValue()', 4],
    ["self.m[?'a'].orValue('b') == 'c'", 5],
    ["quantity(self.t).isGreaterThan(quantity('1Gi'))", 12],
    ['isQuantity(self.t)', 10],
    ["url(self.t).getHost() == 'a'", 12],
    ['isURL(self.t)', 3],
    ['ip(self.t).family() == 4', 12],
    ['isIP(self.t)', 10],
    ["cidr('10.0.0.0/8').containsIP(self.t)", 15],
    ["cidr('10.0.0.0/8').containsIP(ip(self.t))", 15],
    ["sets.contains(self.l, ['a'])", 23],
    ['sets.equivalent(self.li, [1, 2])', 41],
    ['sets.intersects(self.li, [1, 2])', 27],
    ['!format.dns1123Label().validate(self.t).hasValue()', 261],
    ["format.named('uuid').value().validate(self.t).hasValue()", 261],
    ['self.li.min() == 1', 10],
    ["self.lt.max() == 'x'", 33],
    ["self.lt.indexOf('a') == 1", 33],
    ["self.t.indexOf('a') == 1", 11],
    ["self.t.charAt(0) == 'a'", 4],
    ['size(self.t) > 3', 4],
    ['self.b ? self.n > 1 : self.d > 2.0', 5],
    ['-self.n < 3', 4],
    ['!self.b', 3],
    ['self.d * 2.0 + 1.0 > 3.0', 5],
    ['double(self.n) > 1.5', 4],
    ['int(self.t) == 3', 4],
    ['self.n % 2 == 0', 4],
    ['[1, 2, 3].exists(x, x == self.n)', 32],
    ["{'a': 1, 'b': 2}[self.t] == 1", 34],
    ['dyn(self.n) == 1', 3],
    ["self.lo.all(i, a, a.name != '')", 23],
    ['self.m.all(k, v, k != v)', 33],
    ["self.lo.exists(i, a, a.name == 'x' && i > 1)", 39],
    ["self.m.transformMap(k, v, v + 'x').size() > 1", 83],
    ["self.lt.transformList(i, v, v + 'x').all(q, q != 'a')", 214],
    ["self.metadata.name.startsWith('a')", 4],
    ["self.t.matches('^a') && self.t.size() > 2", 15],
    ["'%s-%d'.format([self.t, self.n]) == 'x'", 16],
    ["semver('1.2.3').isLessThan(semver(self.t))", 12],
    ["self.t.upperAscii().trim() == 'A'", 19],
    ['self.ts.getFullYear() > 3', 4],
    ['self.l[0] == self.lt[0]', 8],
    ["self.lo[0].name + self.lo[1].name == 'x'", 12],
    ["self.m['a'] + self.m['b'] == 'x'", 14],
    ['self.lt + self.lt == self.lt', 8],
    ["(self.lt + self.l).all(x, x != '')", 86],
    ['self.n in self.li', 11],
    ['optional.of(self.n).value() == 1', 5],
    ['self.o.x == self.t', 9],
    ['self.s == self.s', 314577],
    ['self.lt.all(a, self.lt.all(b, a.contains(b)))', 963],
    ['bytes(self.t).size() > 1', 12],
    ["string(self.b) == 'x'", 4],
    ["self.?o.optMap(o, o.x).orValue('a') == 'b'", 21],
    ['self.lt.map(x, x.size()).sum() < 5', 164],
    ['self.lo.map(x, x.v).all(v, v.all(w, w > 1))', 90],
    ["strings.quote(self.t) == 'x'", 11],
  ])('%s: %d', (rule, expected) => {
    const found = cost(everything, rule, true);
    if (expected === UNKNOWN) expect(found).toBeGreaterThan(1e18);
    else expect(found).toBe(expected);
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
