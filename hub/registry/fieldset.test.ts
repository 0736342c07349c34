import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FieldSet, field, keyElement, pathText, setElement } from './fieldset.js';

const elements = [
  field('a'),
  field('b'),
  keyElement({ name: 'x' }),
  keyElement({ name: 'y', port: 80 }),
  setElement('s'),
];
const paths = fc.array(fc.array(fc.constantFrom(...elements), { minLength: 1, maxLength: 3 }), {
  maxLength: 8,
});
const setOf = (list: string[][]) => list.reduce((s, p) => s.insert(p), new FieldSet());
const texts = (s: FieldSet) => new Set(s.paths().map((p) => p.join('/')));

describe('field sets', () => {
  it('have Kubernetes’ JSON form', () => {
    const set = setOf([
      [field('spec'), field('replicas')],
      [field('metadata'), field('labels')],
      [field('metadata'), field('labels'), field('app')],
      [field('spec'), field('containers'), keyElement({ name: 'web' })],
      [field('metadata'), field('finalizers'), setElement('a/b')],
    ]);
    const json = {
      'f:metadata': { 'f:finalizers': { 'v:"a/b"': {} }, 'f:labels': { '.': {}, 'f:app': {} } },
      'f:spec': { 'f:containers': { 'k:{"name":"web"}': {} }, 'f:replicas': {} },
    };
    expect(set.toFieldsV1()).toEqual(json);
    expect(FieldSet.fromFieldsV1(json).equals(set)).toBe(true);
  });

  it('read keys in any order, and leave out what nobody knows', () => {
    const read = FieldSet.fromFieldsV1({ 'k:{"b":1,"a":"x"}': {}, 'z:later': {} });
    expect(read.paths()).toEqual([[keyElement({ a: 'x', b: 1 })]]);
  });

  it.each([
    [null],
    [[]],
    [{ 'k:no': {} }],
    [{ 'v:': {} }],
    [{ 'f:a': 1 }],
    [{ nothing: {} }],
    [{ 'k:1': {} }],
  ])('refuse %j', (json) => {
    expect(() => FieldSet.fromFieldsV1(json)).toThrow();
  });

  it('name paths as messages do', () => {
    const path = [field('spec'), keyElement({ name: 'web', port: 80 }), setElement('x'), 'i:3'];
    expect(pathText(path)).toBe('.spec[name="web",port=80][="x"][3]');
  });

  it('are sets', () => {
    fc.assert(
      fc.property(paths, paths, (x, y) => {
        const [a, b] = [setOf(x), setOf(y)];
        const [ta, tb] = [texts(a), texts(b)];
        expect(texts(a.union(b))).toEqual(new Set([...ta, ...tb]));
        expect(texts(a.intersection(b))).toEqual(new Set([...ta].filter((p) => tb.has(p))));
        expect(texts(a.difference(b))).toEqual(new Set([...ta].filter((p) => !tb.has(p))));
        for (const p of x) expect(a.has(p)).toBe(true);
        for (const p of y) expect(a.has(p)).toBe(ta.has(p.join('/')));
        expect(a.empty).toBe(x.length === 0);
        expect(FieldSet.fromFieldsV1(a.toFieldsV1()).equals(a)).toBe(true);
        expect(a.equals(b)).toBe(ta.size === tb.size && [...ta].every((p) => tb.has(p)));
        expect(texts(a.without(field('a')).union(a.only(field('a'))))).toEqual(ta);
      }),
    );
  });
});
