import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { Language, loadCel } from './cel.js';
import { paint } from './literals.js';
import { celToJson, patchMessages } from './patches.js';

const language = new Language({ object: 'dyn' }, {}, undefined, undefined, patchMessages);
const run = (expression: string): unknown => {
  const c = language.compile(expression);
  if ('wrong' in c) throw new Error(c.wrong);
  return c.run({ object: { x: 1n, l: ['a', 'b'] } });
};
const json = (expression: string): unknown => celToJson(run(expression));

beforeAll(loadCel);

describe('messages and optional entries', () => {
  it.each<[string, unknown]>([
    ['Object{}', {}],
    ['Object{spec: Object.spec{replicas: 3}}', { spec: { replicas: 3 } }],
    [
      'Object{a: [Object.a{name: "n", args: ["-g"]}], b: {"k": Object.b{}}}',
      { a: [{ name: 'n', args: ['-g'] }], b: { k: {} } },
    ],
    ['Object{intList: [1, 2, 3]}.intList.sum()', 6],
    ['Object{a: Object.a{b: 3}} == Object{a: Object.a{b: 1 + 2}} && Object{a: 1} != Object{a: 2}', true],
    ['Object{?a: optional.none(), ?b: object.?x}', { b: 1 }],
    ['Object{?a: optional.ofNonZeroValue(Object.a{?b: Object{}.?b})}', {}],
    ['has(Object{a: 1}.a) && !has(Object{}.a) && !Object{}.?a.hasValue()', true],
    ['[?object.?x, ?object.?y, 2, [?optional.of(3)]]', [1, 2, [3]]],
    ['{?"a": object.?x, "b": 2, ?"c": object.?y}', { a: 1, b: 2 }],
    ['{?"a": optional.of(1)} == {"a": 1} && {1: 2, ?3: optional.of(4)}[3] == 4', true],
    ['Object{namespace: "x", in: 2, if: 3}', { namespace: 'x', in: 2, if: 3 }],
    [
      'object.l.map(x, JSONPatch{op: "add", path: "/" + x})',
      [
        { op: 'add', path: '/a' },
        { op: 'add', path: '/b' },
      ],
    ],
    [
      '{"a": "\\"T{?", "b": r\'{?\', /* " */ "c": """a"{?"b"""}'.replace('/* " */', '// "{\n'),
      { a: '"T{?', b: '{?', c: 'a"{?"b' },
    ],
    ['Object // {\n {a: 1,}', { a: 1 }],
    ['.Object{a: object.l[?0].value(), b: object.l[1] == "b" ? {} : {"c": 1}}', { a: 'a', b: {} }],
    ['cel.bind(o, Object{a: 1}, [o][0].a)', 1],
    [
      'Object{a: duration("90s"), b: timestamp("2020-01-01T00:00:00Z"), c: b"abc", d: 1.5, e: 2u, f: null}',
      { a: '90s', b: '2020-01-01T00:00:00Z', c: 'YWJj', d: 1.5, e: 2, f: null },
    ],
  ])('%s', (expression, value) => expect(json(expression)).toEqual(value));

  it.each<[string, string]>([
    [
      'Invalid{}',
      "ERROR: <input>:1:8: undeclared reference to 'Invalid' (in container '')\n | Invalid{}\n | .......^",
    ],
    ['[JSONPatch{op: 1}]', "expected type of field 'op' is 'string' but provided type is 'int'"],
    ['JSONPatch{nope: 1}', "undefined field 'nope'"],
    ['{?"a": 1}', "expected type 'optional_type(int)' but found 'int'"],
    ['[1, ?2]', "ERROR: <input>:1:6: expected type 'optional_type(int)' but found 'int'"],
    ['object.x{a: 1}', "undeclared reference to 'object.x'"],
    ['object[0].x{a: 1}', 'ERROR: <input>:1:12: '],
    ['a Object{}', 'ERROR: <input>:1:'],
    ['Object{a 1}', 'ERROR: <input>:1:10: '],
    ['size(?object)', 'ERROR: <input>:1:6: '],
    ['Object{a: ', 'ERROR: <input>:1:11: '],
  ])('%s is refused', (expression, text) => expect(() => run(expression)).toThrow(text));

  it('do not paint what is none of them', () => {
    for (const text of ['{"a": 1}', 'a ? {"b": 1} : {}', 'x[?y]', '"T{?}"', 'f(x){', '[a] {?', 'a in {}'])
      expect(paint(text)).toMatchObject({ literals: new Map() });
  });

  it('keep their places, whatever the text is', () => {
    const bit = fc.constantFrom(
      ...[
        'Object',
        '.',
        'a',
        '{',
        '}',
        '[',
        ']',
        '(',
        ')',
        ',',
        ':',
        '?',
        '"',
        "'",
        '"""',
        'r"',
        '\\',
        '//',
        '\n',
        ' ',
        '1',
        'in',
        'b',
        'x: 1',
        '?k: v',
      ],
    );
    fc.assert(
      fc.property(fc.array(bit, { maxLength: 30 }), (bits) => {
        const text = bits.join('');
        const painted = paint(text);
        expect(painted.text).toHaveLength(text.length);
        for (const [at, { end }] of painted.literals) {
          expect('[{').toContain(text[at]);
          expect(']}').toContain(text[end - 1]);
        }
        const c = language.compile(text);
        if (!('wrong' in c)) expect(typeof c.type).toBe('string');
      }),
      { numRuns: 1000 },
    );
  });

  it('say the JSON that they are made of', () => {
    const field = fc.constantFrom('a', 'b', 'if', 'spec', 'in');
    const { value } = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.integer(),
        fc.string(),
        fc.boolean(),
        fc.array(tie('value'), { maxLength: 3 }),
        fc.dictionary(field, tie('value'), { maxKeys: 3, noNullPrototype: true }),
      ),
    }));
    /** Each object is a message whose fields are optional or not, by turns. */
    const text = (v: unknown, type: string, turn = 0): string => {
      if (Array.isArray(v)) return `[${v.map((x) => `?optional.of(${text(x, type)})`).join(', ')}]`;
      if (typeof v !== 'object' || v === null) return JSON.stringify(v);
      const fields = Object.entries(v).map(([k, x], i) => {
        const inner = text(x, `${type}.${k}`, i);
        return (i + turn) % 2 ? `${k}: ${inner}` : `?${k}: optional.of(${inner})`;
      });
      return `${type}{${fields.join(', ')}}`;
    };
    fc.assert(
      fc.property(fc.dictionary(field, value, { noNullPrototype: true }), (v) => {
        expect(json(text(v, 'Object'))).toEqual(v);
      }),
      { numRuns: 200 },
    );
  });
});
