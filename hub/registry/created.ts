/**
 * Fields that the creator of an object comes to own, found once for all objects of one shape: pods of a template differ in
 * names and values, not in which fields they have.
 */
import type { Schema } from '../../api/kinds/schema.js';
import type { FieldSet } from './fieldset.js';
import { below, elementOf, listNode, mapNode } from './typed.js';

/** Shapes remembered, and how long the text of one may be. */
const MAX_SHAPES = 128;
const MAX_TEXT = 4096;

/** By the set's maker, schema and shape. */
const known = new WeakMap<object, WeakMap<Schema, Map<string, FieldSet>>>();

/** What `make` finds for objects of the schema; it depends on nothing but the object's shape. */
export function byShape(value: object, schema: Schema, maker: object, make: () => FieldSet): FieldSet {
  const text = shapeText(value, schema);
  if (text.length > MAX_TEXT) return make();
  let ofMaker = known.get(maker);
  if (!ofMaker) {
    ofMaker = new WeakMap();
    known.set(maker, ofMaker);
  }
  let shapes = ofMaker.get(schema);
  if (!shapes) {
    shapes = new Map();
    ofMaker.set(schema, shapes);
  }
  let set = shapes.get(text);
  if (!set) {
    set = make();
    if (shapes.size >= MAX_SHAPES) shapes.clear();
    shapes.set(text, set);
  }
  return set;
}

/**
 * All that a comparison of `value` with something empty can see: names of fields, elements of keyed lists and sets, and
 * of each leaf whether it is there and empty. Names and elements have their length before them, so that no two shapes
 * have one text.
 */
export function shapeText(value: unknown, schema: Schema | undefined): string {
  if (typeof value !== 'object' || value === null) return value === undefined ? 'u' : 's';
  if (Array.isArray(value)) {
    if (value.length === 0) return 'a';
    const list = listNode(schema);
    if (!list) return 'A';
    let text = '[';
    for (const item of value) {
      const e = elementOf(list, item);
      if ('wrong' in e) return 'A';
      text += `${e.element.length}:${e.element}${shapeText(item, list.items)}`;
    }
    return `${text}]`;
  }
  const map = mapNode(schema);
  let text = '';
  for (const key of Object.keys(value)) {
    if (!map) return 'O';
    text += `${key.length}:${key}${shapeText((value as Record<string, unknown>)[key], below(map, key))}`;
  }
  return text === '' ? 'o' : `{${text}}`;
}
