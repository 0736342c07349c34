import { beforeAll, describe, expect, it } from 'vitest';
import { Costs } from './costs.js';
import { checkRules, loadCel, problemsOfRules } from './rules.js';
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
    expect(texts({}, object({ rule }))[0]).toContain('no such key: min evaluating rule');
  });

  it('compare with what was there', () => {
    const s = object({ rule: 'self.name == oldSelf.name', message: 'name is immutable' });
    expect(texts({ name: 'a' }, s)).toEqual([]);
    expect(texts({ name: 'b' }, s, { name: 'a' })).toEqual([
      'spec: Invalid value: "object": name is immutable',
    ]);
    expect(texts({ name: 'a', min: 2 }, s, { name: 'a' })).toEqual([]);
  });

  it('know of lists whose order means nothing', () => {
    const item: JsonSchema = {
      type: 'object',
      properties: { 'a-b': { type: 'string' }, n: { type: 'integer' } },
    };
    const lists: Record<string, JsonSchema> = {
      set: { type: 'array', items: { type: 'string' }, 'x-kubernetes-list-type': 'set' },
      map: {
        type: 'array',
        items: item,
        'x-kubernetes-list-type': 'map',
        'x-kubernetes-list-map-keys': ['a-b'],
      },
    };
    const holds = (rule: string, v: object, old?: object) =>
      texts(v, object({ rule }, lists), old).length === 0;
    const one = { 'a-b': 'x', n: 1 };
    const two = { 'a-b': 'y', n: 2 };
    expect(holds('self.list == oldSelf.list', { list: ['a', 'b'] }, { list: ['b', 'a'] })).toBe(false);
    expect(holds('self.set == oldSelf.set', { set: ['a', 'b'] }, { set: ['b', 'a'] })).toBe(true);
    expect(holds('self == oldSelf', { set: ['a', 'b'] }, { set: ['b', 'a'] })).toBe(true);
    expect(holds('self.set != oldSelf.set', { set: ['a', 'c'] }, { set: ['b', 'a'] })).toBe(true);
    expect(holds('self.map == oldSelf.map', { map: [one, two] }, { map: [two, one] })).toBe(true);
    expect(holds('self.map == oldSelf.map', { map: [one, two] }, { map: [two, { ...one, n: 3 }] })).toBe(
      false,
    );
    expect(holds('self.set + ["b", "c"] == ["c", "a", "b"]', { set: ['a', 'b'] })).toBe(true);
    expect(
      holds(
        '(self.map + oldSelf.map)[0].n == 5 && size(self.map + oldSelf.map) == 2',
        { map: [one, two] },
        {
          map: [{ ...one, n: 5 }],
        },
      ),
    ).toBe(true);
    expect(holds('self.list + ["b"] == ["a", "b", "b"]', { list: ['a', 'b'] })).toBe(true);
    expect(holds('[self.set] == [["b", "a"]] && self.set in [["c"], ["b", "a"]]', { set: ['a', 'b'] })).toBe(
      true,
    );
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
    const tooDear = (rule: string, text = 'cost') =>
      expect(texts({ list, name: 'x' }, object({ rule })).join()).toContain(text);
    tooDear('self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))');
    tooDear(`self.list${'.map(x, x + x)'.repeat(40)}.size() > 0`);
    tooDear(`self.list.map(a, self.list)${'.map(a, self.list + self.list)'.repeat(20)}.size() > 0`);
    tooDear('self.list.exists(a, self.list.exists(b, self.list == [a]))');
    // Errors that are forgiven are not free.
    tooDear('self.list.all(a, self.list.all(b, self.list.all(c, 1 / 0 == 1)))');
    tooDear(`self.name${'.replace("x", "xxxxxxxxxxxxxxxx")'.repeat(12)}.size() > 0`, 'too long');
    const trap = object({ rule: 'self.name.matches("^(a+)+$")' });
    expect(texts({ name: `${'a'.repeat(3000)}!` }, trap)).toHaveLength(1);
  });

  it('see an optional oldSelf', () => {
    const s = object({
      rule: '!oldSelf.hasValue() || self.name == oldSelf.value().name',
      optionalOldSelf: true,
    });
    expect(texts({ name: 'a' }, s)).toEqual([]);
    expect(texts({ name: 'b' }, s, { name: 'a' })).toHaveLength(1);
  });

  it('see formats as what they stand for', () => {
    const s = object(
      {
        rule: 'self.every > duration("1m") && self.at < timestamp("2030-01-01T00:00:00Z") && self.raw == b"hi"',
      },
      {
        every: { type: 'string', format: 'duration' },
        at: { type: 'string', format: 'date-time' },
        raw: { type: 'string', format: 'byte' },
      },
    );
    const v = { every: '2m', at: '2026-01-01T00:00:00Z', raw: 'aGk=' };
    expect(texts(v, s)).toEqual([]);
    expect(texts({ ...v, every: '30s' }, s)).toHaveLength(1);
  });
});

describe('definitions of rules', () => {
  beforeAll(loadCel);
  const item: JsonSchema = {
    type: 'object',
    properties: {
      name: { type: 'string' },
      port: { 'x-kubernetes-int-or-string': true },
      weight: { type: 'integer' },
    },
  };
  const schema = (rule: object): JsonSchema => ({
    type: 'object',
    'x-kubernetes-validations': [rule as { rule: string }],
    properties: {
      spec: {
        type: 'object',
        properties: {
          type: { type: 'string' },
          replicas: { type: 'integer' },
          ratio: { type: 'number' },
          on: { type: 'boolean' },
          timeout: { type: 'string', format: 'duration' },
          items: { type: 'array', items: item },
          names: { type: 'array', items: { type: 'string' } },
          labels: { type: 'object', additionalProperties: { type: 'string' } },
          byName: { type: 'object', additionalProperties: item },
          any: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
          maybe: { type: 'string', nullable: true },
          ref: item,
        },
      },
    },
  });
  /** What they cost is told elsewhere. */
  const costs = new Costs();
  costs.add = () => [];
  const wrong = (rule: object) =>
    problemsOfRules({ at: 'at', schema: schema(rule), root: true, times: 1 }, costs).map(
      (e) => `${e.field}: ${e.message}`,
    );

  it.each([
    'self.spec.items.all(p1, self.spec.items.exists_one(p2, p1.name == p2.name))',
    'self.spec.items.all(a, self.spec.items.exists(b, a == b))',
    'size(self.spec.type) == 0 || self.spec.type == "x" ? has(self.spec.replicas) : true',
    '[has(self.spec.type), has(self.spec.on)].filter(x, x == true).size() <= 1',
    '[has(self.spec.type), has(self.spec.on)].exists_one(x, x)',
    'type(self.spec.ref.port) == int ? self.spec.ref.port > 0 : self.spec.ref.port == "http"',
    'self.spec.replicas in [1, 3, 5] && self.spec.ratio >= 0.5 && self.spec.ratio > double(self.spec.replicas)',
    'self.spec.timeout > duration("1s") && self.spec.timeout.getSeconds() < 60',
    'self.spec.names.map(n, n.size()).sum() < 100 && self.spec.names.isSorted()',
    'self.spec.labels.all(k, k.startsWith("a") && self.spec.labels[k] != "")',
    '"x" in self.spec.labels && self.spec.byName["x"].weight == 1',
    'self.spec.any.whatever.it == 1',
    'self.spec.maybe == null || self.spec.maybe == "x"',
    'self.spec == oldSelf.spec && self.spec.ref != oldSelf.spec.ref',
    'self.metadata.name.startsWith("a") && self.kind == "X"',
    'self.spec.names.all(n, n in oldSelf.spec.names)',
    'self.?spec.?ref.?name.orValue("x") == "x" && self.spec.?replicas.hasValue()',
    'self.spec.items.map(i, i.name).all(n, self.spec.items.filter(i, i.name == n).size() == 1)',
    'self.spec.items.all(i, i, i.weight >= 0)',
    'isQuantity(self.spec.type) && quantity(self.spec.type).isGreaterThan(quantity("1Gi"))',
    'self.spec.items.exists(i, has(i.name) && i.name.matches("^[a-z]+$"))',
    '!format.dns1123Label().validate(self.spec.type).hasValue()',
    "cidr('10.0.0.0/8').containsIP(ip(self.spec.type)) || url(self.spec.type).getScheme() in ['http', 'https']",
    'self.spec.names == ["a"] || self.spec.names.size() > 1 && self.spec.names[0] == "b"',
    'has(self.spec.ref) && (has(self.spec.ref.name) ? self.spec.ref.name : "") != ""',
    'sets.contains(self.spec.names, ["a"]) || self.spec.names.join(",").split(",").size() == 2',
  ])('%s', (rule) => expect(wrong({ rule })).toEqual([]));

  it.each<[object, string]>([
    [{ rule: 'self.a +' }, 'rule: Invalid value: "self.a +": compilation failed: ERROR: <input>:1:'],
    [{ rule: 'self.spec.replica > 1' }, "undefined field 'replica'\n | self.spec.replica > 1\n | .........^"],
    [{ rule: 'self.spec.items.all(i, i.nam == "")' }, "undefined field 'nam'"],
    [{ rule: 'has(self.spec.nope)' }, "undefined field 'nope'"],
    [{ rule: 'slf.spec.on' }, "undeclared reference to 'slf' (in container '')"],
    [{ rule: 'nope(self.spec)' }, "undeclared reference to 'nope' (in container '')"],
    [{ rule: 'self.spec.type.hex() == ""' }, "undeclared reference to 'hex' (in container '')"],
    [
      { rule: 'self.spec.replicas == "x"' },
      "found no matching overload for '_==_' applied to '(int, string)'",
    ],
    [
      { rule: 'self.spec.replicas.startsWith("x")' },
      "found no matching overload for 'startsWith' applied to '(string)'",
    ],
    [{ rule: 'self.spec.replicas' }, 'must evaluate to a bool'],
    [{ rule: '' }, 'rule: Required value: rule is not specified'],
    [{ rule: 'true', messageExpression: '1' }, 'messageExpression must evaluate to a string'],
    [{ rule: 'true', message: 'a\nb' }, 'message must not contain line breaks'],
    [{ rule: 'true &&\ntrue' }, 'message must be specified if rule contains line breaks'],
    [{ rule: 'true', reason: 'Nope' }, 'Unsupported value: "Nope"'],
    [{ rule: 'true', fieldPath: '.spec.nope' }, 'fieldPath must be a valid path'],
    [{ rule: 'self == oldSelf', optionalOldSelf: true }, 'found no matching overload'],
  ])('refuses %j', (rule, text) => expect(wrong(rule).join()).toContain(text));
});
