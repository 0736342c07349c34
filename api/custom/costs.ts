/**
 * What the rules of a custom kind may cost for the largest object that its schema allows (apiextensions validation of
 * x-kubernetes-validations, apiserver pkg/cel/common SchemaDeclType).
 */
import { estimateCost, type Sizes, UNKNOWN } from '../cel/cost.js';
import type { Node } from '../cel/macros.js';
import type { FieldError } from '../kinds/kind.js';
import { forbidden } from '../meta/field-errors.js';
import { isPlainObject } from '../meta/json.js';
import { celName, type JsonSchema } from './schema.js';

const MAX_REQUEST = 3 * 1024 * 1024;
/** Of one expression, and of all of a version. */
const RULE_LIMIT = 10_000_000;
const SCHEMA_LIMIT = 100_000_000;

/** Sizes that data of a schema may have, and how long its JSON is at least. */
interface Measured {
  sizes: Sizes;
  min: number;
}

/** Texts by format: how many characters at most, how long at least. */
const TEXTS: Readonly<Record<string, { max: number; min: number }>> = {
  duration: { max: 32, min: 3 },
  date: { max: 12, min: 12 },
  'date-time': { max: 32, min: 21 },
};
const LONGEST = MAX_REQUEST - 2;
const TEXT: Sizes = { max: 0 };

function measureText(s: JsonSchema): Measured {
  const known = TEXTS[s.format ?? ''];
  if (known) return { sizes: { max: known.max }, min: known.min };
  const { maxLength } = s;
  if (maxLength !== undefined)
    return { sizes: { max: Math.max(0, maxLength) * (s.format === 'byte' ? 1 : 4) }, min: 2 };
  const texts = (s.enum ?? []).filter((v): v is string => typeof v === 'string');
  const longest = Math.max(0, ...texts.map((t) => Buffer.byteLength(t)));
  return { sizes: { max: s.enum?.length && s.format !== 'byte' ? longest : LONGEST }, min: 2 };
}

/** Undefined for what rules do not see. */
export function measure(s: JsonSchema, isObject: boolean): Measured | undefined {
  if (s['x-kubernetes-int-or-string'])
    return { sizes: { max: s.maxLength === undefined ? LONGEST : Math.max(0, s.maxLength) * 4 }, min: 1 };
  switch (s.type) {
    case 'array': {
      const items = s.items && measure(s.items, s.items['x-kubernetes-embedded-resource'] === true);
      if (!items) return undefined;
      const max = s.maxItems ?? Math.floor(LONGEST / (items.min + 1));
      return { sizes: { max: Math.max(0, max), items: items.sizes }, min: 2 };
    }
    case 'object': {
      if (isPlainObject(s.additionalProperties)) {
        const rest = s.additionalProperties as JsonSchema;
        const values = measure(rest, rest['x-kubernetes-embedded-resource'] === true);
        if (!values) return undefined;
        const max = s.maxProperties ?? Math.floor(LONGEST / (values.min + 6));
        return { sizes: { max: Math.max(0, max), items: values.sizes, keys: TEXT }, min: 2 };
      }
      const fields = new Map<string, Sizes>();
      let min = 2;
      for (const [name, p] of Object.entries(s.properties ?? {})) {
        const m = measure(p, p['x-kubernetes-embedded-resource'] === true);
        if (!m) continue;
        fields.set(celName(name), m.sizes);
        if (s.required?.includes(name) && p.default === undefined) min += name.length + m.min + 4;
      }
      if (isObject) {
        const text = { max: LONGEST };
        for (const name of ['apiVersion', 'kind']) fields.set(name, text);
        fields.set('metadata', {
          max: 0,
          fields: new Map([
            ['name', text],
            ['generateName', text],
          ]),
        });
      }
      return { sizes: { max: 0, fields }, min };
    }
    case 'string':
      return measureText(s);
    case 'boolean':
      return { sizes: { max: 0 }, min: 4 };
    case 'number':
    case 'integer':
      return { sizes: { max: 0 }, min: 1 };
    default:
      return undefined;
  }
}

/** The largest cost of an expression about data of this schema. */
export function costOf(root: Node, s: JsonSchema, isRoot: boolean): number {
  const sizes = measure(s, isRoot)?.sizes ?? { max: UNKNOWN };
  return estimateCost(root, { self: sizes, oldSelf: sizes });
}

function tooExpensive(what: string, cost: number, limit: number): string {
  const by = cost / limit;
  const factor = by > 100 ? 'more than 100x' : by < 1.5 ? `${by.toFixed(6)}x` : `${by.toFixed(1)}x`;
  return `${what} exceeds budget by factor of ${factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)`;
}

/** Costs of the rules of one version, and which are too high. */
export class Costs {
  #total = 0;
  readonly #highest: { field: string; cost: number }[] = [];

  /**
   * Counts an expression of a part of the schema that may be there `times` times in an object (null: as often as it
   * fits into a request); says what is wrong with it.
   */
  add(
    field: string,
    what: string,
    root: Node,
    s: JsonSchema,
    isRoot: boolean,
    times: number | null,
  ): FieldError[] {
    const often = times ?? Math.floor(MAX_REQUEST / ((measure(s, isRoot)?.min ?? 0) + 1));
    const cost = Math.min(costOf(root, s, isRoot) * often, UNKNOWN);
    this.#total += cost;
    if (cost >= SCHEMA_LIMIT / 100) this.#highest.push({ field, cost });
    return cost > RULE_LIMIT ? [forbidden(field, tooExpensive(what, cost, RULE_LIMIT))] : [];
  }

  /** What is wrong with all of them together. */
  problems(field: string): FieldError[] {
    if (this.#total <= SCHEMA_LIMIT) return [];
    const highest = [...this.#highest].sort((a, b) => b.cost - a.cost).slice(0, 4);
    return [
      ...highest.map((h) =>
        forbidden(
          h.field,
          'contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema',
        ),
      ),
      forbidden(
        field,
        tooExpensive(
          'x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema',
          this.#total,
          SCHEMA_LIMIT,
        ),
      ),
    ];
  }
}

/** How often each part of data of this schema may be there below one of it; null: as often as it fits. */
export function timesBelow(s: JsonSchema): number | null {
  if (s.type === 'array') return s.maxItems === undefined ? null : Math.max(0, s.maxItems);
  if (s.type === 'object' && s.additionalProperties)
    return s.maxProperties === undefined ? null : Math.max(0, s.maxProperties);
  return 1;
}
