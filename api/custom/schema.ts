/**
 * Structural schemas of CustomResourceDefinitions at work: pruning, defaulting, validation (OpenAPI v3 as far as
 * apiextensions.k8s.io/v1 allows it). Schemas and objects are both written by strangers: work is counted and bounded.
 */
import { isIP, isIPv4, isIPv6 } from 'node:net';
import { pattern } from '../cel/pattern.js';
import { spend, TooMuchWork, type Work } from '../cel/work.js';
import type { FieldError } from '../kinds/kind.js';
import { duplicate, invalid, notSupported, required, tooLong, tooMany } from '../meta/field-errors.js';
import { deepCopy, deepEqual, isPlainObject, setOwn } from '../meta/json.js';

/** apiextensions/v1 JSONSchemaProps, as it comes in a CustomResourceDefinition. */
export interface JsonSchema {
  readonly type?: string;
  readonly format?: string;
  readonly title?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly nullable?: boolean;
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: boolean;
  readonly exclusiveMaximum?: boolean;
  readonly multipleOf?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly uniqueItems?: boolean;
  readonly minProperties?: number;
  readonly maxProperties?: number;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly allOf?: readonly JsonSchema[];
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly not?: JsonSchema;
  readonly 'x-kubernetes-preserve-unknown-fields'?: boolean;
  readonly 'x-kubernetes-embedded-resource'?: boolean;
  readonly 'x-kubernetes-int-or-string'?: boolean;
  readonly 'x-kubernetes-list-type'?: 'atomic' | 'set' | 'map';
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
  readonly 'x-kubernetes-map-type'?: 'atomic' | 'granular';
  readonly 'x-kubernetes-validations'?: readonly {
    readonly rule: string;
    readonly message?: string;
    readonly messageExpression?: string;
    readonly reason?: string;
    readonly fieldPath?: string;
    readonly optionalOldSelf?: boolean;
  }[];
}

type Plain = Record<string, unknown>;

const RESERVED: ReadonlySet<string> = new Set(
  'true false null in as break const continue else for function if import let loop package namespace return var void while'.split(
    ' ',
  ),
);
/** A field's name as CEL spells it. */
export const celName = (name: string): string =>
  RESERVED.has(name)
    ? `__${name}__`
    : name
        .replaceAll('__', '__underscores__')
        .replaceAll('.', '__dot__')
        .replaceAll('-', '__dash__')
        .replaceAll('/', '__slash__');

/** What every object at the root, and every embedded one, has without saying so. */
const OBJECT_FIELDS: ReadonlySet<string> = new Set(['apiVersion', 'kind', 'metadata']);
/** Unknown fields that are told by name. */
const MAX_TOLD = 100;

const own = <T>(o: Readonly<Record<string, T>> | undefined, key: string): T | undefined =>
  o && Object.hasOwn(o, key) ? o[key] : undefined;

/** The schema of a member; `true` where anything may be. */
export function member(s: JsonSchema, key: string): JsonSchema | true | undefined {
  const known = own(s.properties, key);
  if (known) return known;
  const { additionalProperties: rest } = s;
  return rest === false ? undefined : rest;
}

/** Removes, in place, what the schema does not know; returns the paths of what it removed. */
export function prune(root: Plain, schema: JsonSchema): string[] {
  const gone: string[] = [];
  const walk = (v: unknown, s: JsonSchema, path: string, isObject: boolean): void => {
    if (Array.isArray(v)) {
      if (s.items) for (let i = 0; i < v.length; i++) walk(v[i], s.items, `${path}[${i}]`, false);
      return;
    }
    if (!isPlainObject(v)) return;
    const object = isObject || s['x-kubernetes-embedded-resource'] === true;
    for (const key of Object.keys(v)) {
      if (object && OBJECT_FIELDS.has(key)) continue;
      const at = path ? `${path}.${key}` : key;
      const m = member(s, key);
      if (m === true) continue;
      if (m) walk(v[key], m, at, false);
      else if (!s['x-kubernetes-preserve-unknown-fields']) {
        if (gone.length < MAX_TOLD) gone.push(at.slice(0, 512));
        delete v[key];
      }
    }
  };
  walk(root, schema, '', true);
  return gone;
}

/**
 * `v` without nulls where none may be and with defaults filled in, outside in. Nothing is changed in place: what is as it
 * should be is shared with `v`, which may be frozen.
 */
export function withDefaults(v: unknown, s: JsonSchema): unknown {
  if (Array.isArray(v)) {
    const { items } = s;
    if (!items) return v;
    const out = v.map((x) => withDefaults(x, items));
    return out.some((x, i) => x !== v[i]) ? out : v;
  }
  if (!isPlainObject(v)) return v;
  let out = v;
  const change = (): Plain => {
    if (out === v) out = { ...v };
    return out;
  };
  for (const key of Object.keys(v)) {
    const m = v[key] === null ? member(s, key) : undefined;
    if (m && m !== true && !m.nullable) delete change()[key];
  }
  for (const [key, m] of Object.entries(s.properties ?? {}))
    if (m.default !== undefined && !Object.hasOwn(out, key)) setOwn(change(), key, deepCopy(m.default));
  for (const key of Object.keys(out)) {
    const m = member(s, key);
    if (!m || m === true) continue;
    const x = withDefaults(out[key], m);
    if (x !== out[key]) setOwn(change(), key, x);
  }
  return out;
}

// ---- formats (those of go-openapi/strfmt that Kubernetes knows; others are not looked at, as there)

const RFC3339 =
  /^\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/;
const HOST_LABEL = /^[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$/;
const uuid = (version: string) => {
  const form = new RegExp(
    `^[0-9a-f]{8}-?[0-9a-f]{4}-?${version}[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$`,
    'i',
  );
  return (v: string) => form.test(v);
};
const url = (v: string) => v.length <= 65_536 && URL.canParse(v);
const FORMATS: Readonly<Record<string, (v: string) => boolean>> = {
  'date-time': (v) => v.length <= 64 && RFC3339.test(v) && !Number.isNaN(Date.parse(v.replace(/:60/, ':59'))),
  datetime: (v) => FORMATS['date-time']!(v),
  date: (v) => /^\d{4}-\d\d-\d\d$/.test(v) && !Number.isNaN(Date.parse(v)),
  duration: (v) =>
    v.length <= 128 &&
    (/^[-+]?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$/.test(v) || /^\d+ ?[a-z]+$/i.test(v) || v === '0'),
  email: (v) => v.length <= 320 && /^[^\s@<>]+@[^\s@<>]+$/.test(v),
  hostname: (v) =>
    v.length <= 255 &&
    v
      .replace(/\.$/, '')
      .split('.')
      .every((l) => HOST_LABEL.test(l)),
  ipv4: isIPv4,
  ipv6: isIPv6,
  ip: (v) => isIP(v) !== 0,
  cidr: (v) => {
    const [address = '', bits = '', ...rest] = v.split('/');
    const kind = isIP(address);
    return (
      rest.length === 0 && kind !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (kind === 4 ? 32 : 128)
    );
  },
  mac: (v) => /^([0-9a-f]{2}([:-])([0-9a-f]{2}\2){4}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4})$/i.test(v),
  uri: url,
  uuid: uuid('[0-9a-f]'),
  uuid3: uuid('3'),
  uuid4: uuid('4'),
  uuid5: uuid('5'),
  byte: (v) => v.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(v),
  hexcolor: (v) => /^#?([0-9a-f]{3}|[0-9a-f]{6})$/i.test(v),
};

// ---- validation

/** Enough for the largest objects that Kubernetes stores; a schema that needs more is a trap. */
const MAX_WORK = 20_000_000;
const MAX_ERRORS = 100;

const typeOf = (v: unknown): string =>
  v === null
    ? 'null'
    : Array.isArray(v)
      ? 'array'
      : typeof v === 'number'
        ? Number.isInteger(v)
          ? 'integer'
          : 'number'
        : typeof v;

const UNCHECKED: FieldError = {
  type: 'Invalid',
  field: '<nil>',
  message:
    'Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation',
};

/**
 * What is wrong with a value, in Kubernetes' words. Where a part is as it was in `old`, nothing is: objects stay writable
 * when their schema becomes stricter (ratcheting, as Kubernetes does). `rules` run on what fits the schema otherwise.
 */
export function validateValue(
  v: unknown,
  s: JsonSchema,
  path = '',
  old?: unknown,
  rules?: (v: unknown, s: JsonSchema, path: string, old: unknown, out: FieldError[], work: Work) => void,
): FieldError[] {
  const errors: FieldError[] = [];
  try {
    const work = { left: MAX_WORK };
    check(v, s, path, old, errors, work);
    if (rules) {
      if (errors.length) errors.push(UNCHECKED);
      else rules(v, s, path, old, errors, work);
    }
  } catch (e) {
    if (!(e instanceof TooMuchWork)) throw e;
    return [
      ...errors.slice(0, MAX_ERRORS),
      invalid(path || 'spec', typeOf(v), 'is too large to be validated against its schema'),
    ];
  }
  return errors.slice(0, MAX_ERRORS);
}

const shown = (path: string): string => path || '<nil>';

function check(v: unknown, s: JsonSchema, path: string, old: unknown, out: FieldError[], work: Work): void {
  spend(work);
  if (old !== undefined && deepEqual(v, old)) return;
  const field = shown(path);
  const say = (value: unknown, text: string) => out.push(invalid(field, value, `${path} in body ${text}`));

  if (v === null && s.nullable) return;
  const type = typeOf(v);
  const wanted = s['x-kubernetes-int-or-string'] ? 'integer,string' : s.type;
  if (wanted) {
    const fits = wanted.split(',').some((w) => w === type || (w === 'number' && type === 'integer'));
    if (!fits) {
      say(type, `must be of type ${wanted}: "${type}"`);
      return;
    }
  }
  if (s.enum) spend(work, s.enum.length);
  if (s.enum && !s.enum.some((e) => deepEqual(e, v)))
    out.push(
      notSupported(
        field,
        v,
        s.enum.map((e) => (typeof e === 'string' ? e : JSON.stringify(e))),
      ),
    );

  if (typeof v === 'string') checkString(v, s, field, say, out, work);
  else if (typeof v === 'number') checkNumber(v, s, say);
  else if (Array.isArray(v)) checkList(v, s, path, old, out, work, say);
  else if (isPlainObject(v)) checkObject(v, s, path, old, out, work, say);
  if (s.allOf || s.anyOf || s.oneOf || s.not) checkJunctors(v, s, path, out, work);
}

type Say = (value: unknown, text: string) => void;

function checkString(v: string, s: JsonSchema, field: string, say: Say, out: FieldError[], work: Work): void {
  const length = s.minLength === undefined && s.maxLength === undefined ? 0 : [...v].length;
  if (s.maxLength !== undefined && length > s.maxLength) out.push(tooLong(field, s.maxLength));
  if (s.minLength !== undefined && length < s.minLength)
    say(v, `should be at least ${s.minLength} chars long`);
  if (s.pattern) {
    const re = pattern(s.pattern);
    spend(work, (re.programSize() + 1) * (v.length + 1));
    if (!re.matcher(v).find()) say(v, `should match '${s.pattern}'`);
  }
  const format = own(FORMATS, s.format ?? '');
  if (format && !format(v)) say(v, `must be of type ${s.format}: ${JSON.stringify(v.slice(0, 1024))}`);
}

function checkNumber(v: number, s: JsonSchema, say: Say): void {
  const { minimum: min, maximum: max, multipleOf: of } = s;
  if (max !== undefined && (s.exclusiveMaximum ? v >= max : v > max))
    say(v, s.exclusiveMaximum ? `should be less than ${max}` : `should be less than or equal to ${max}`);
  if (min !== undefined && (s.exclusiveMinimum ? v <= min : v < min))
    say(
      v,
      s.exclusiveMinimum ? `should be greater than ${min}` : `should be greater than or equal to ${min}`,
    );
  if (of !== undefined) {
    const times = v / of;
    if (Math.abs(times - Math.round(times)) > 1e-9) say(v, `should be a multiple of ${of}`);
  }
}

/** What makes an item of a list the same as another one; undefined for lists that do not care. */
export function listIdentity(s: JsonSchema): (item: unknown) => string | undefined {
  const listType = s['x-kubernetes-list-type'];
  const keys = s['x-kubernetes-list-map-keys'] ?? [];
  return (x) => {
    if (listType === 'set') return canonical(x);
    if (listType !== 'map' || !isPlainObject(x)) return undefined;
    return canonical(Object.fromEntries(keys.map((k) => [k, own(x, k) ?? null])));
  };
}

function checkList(
  v: readonly unknown[],
  s: JsonSchema,
  path: string,
  old: unknown,
  out: FieldError[],
  work: Work,
  say: Say,
): void {
  if (s.maxItems !== undefined && v.length > s.maxItems) out.push(tooMany(shown(path), v.length, s.maxItems));
  if (s.minItems !== undefined && v.length < s.minItems)
    say(v.length, `should have at least ${s.minItems} items`);
  const listType = s['x-kubernetes-list-type'];
  const idOf = listIdentity(s);
  const before = new Map<string, unknown>();
  if (listType === 'map' && Array.isArray(old)) for (const x of old) before.set(idOf(x) ?? '', x);
  const seen = new Set<string>();
  v.forEach((x, i) => {
    const id = idOf(x);
    if (id !== undefined) {
      if (seen.has(id))
        out.push(duplicate(`${path}[${i}]`, listType === 'set' ? x : (JSON.parse(id) as unknown)));
      seen.add(id);
    }
    if (s.items) check(x, s.items, `${path}[${i}]`, id === undefined ? undefined : before.get(id), out, work);
  });
}

/** One text for equal values, whatever the order of members. */
function canonical(v: unknown): string {
  return JSON.stringify(v, (_, x: unknown) =>
    isPlainObject(x) ? Object.fromEntries(Object.entries(x).sort(([a], [b]) => (a < b ? -1 : 1))) : x,
  );
}

function checkObject(
  v: Plain,
  s: JsonSchema,
  path: string,
  old: unknown,
  out: FieldError[],
  work: Work,
  say: Say,
): void {
  const names = Object.keys(v);
  if (s.maxProperties !== undefined && names.length > s.maxProperties)
    out.push(tooMany(shown(path), names.length, s.maxProperties));
  if (s.minProperties !== undefined && names.length < s.minProperties)
    say(names.length, `should have at least ${s.minProperties} properties`);
  const below = (key: string) => (path ? `${path}.${key}` : key);
  for (const key of s.required ?? []) if (!Object.hasOwn(v, key)) out.push(required(below(key)));
  if (s['x-kubernetes-embedded-resource']) {
    for (const key of ['apiVersion', 'kind'])
      if (!own(v, key)) out.push(required(below(key), 'must not be empty'));
  }
  const before = isPlainObject(old) ? old : undefined;
  for (const key of names) {
    const m = member(s, key);
    if (m && m !== true) check(v[key], m, below(key), before && own(before, key), out, work);
  }
}

function checkJunctors(v: unknown, s: JsonSchema, path: string, out: FieldError[], work: Work): void {
  const field = shown(path);
  const say = (text: string) => out.push(invalid(field, '', `"${path}" ${text}`));
  const problems = (alternative: JsonSchema): FieldError[] => {
    const found: FieldError[] = [];
    check(v, alternative, path, undefined, found, work);
    return found;
  };
  const closest = (results: FieldError[][]) =>
    results.reduce((best, r) => (r.length < best.length ? r : best), results[0] ?? []);
  if (s.anyOf?.length) {
    const results = s.anyOf.map(problems);
    if (!results.some((r) => r.length === 0)) {
      say('must validate at least one schema (anyOf)');
      out.push(...closest(results));
    }
  }
  if (s.oneOf?.length) {
    const results = s.oneOf.map(problems);
    const valid = results.filter((r) => r.length === 0).length;
    if (valid !== 1) {
      const found = valid === 0 ? 'Found none valid' : `Found ${valid} valid alternatives`;
      say(`must validate one and only one schema (oneOf). ${found}`);
      if (valid === 0) out.push(...closest(results));
    }
  }
  if (s.allOf?.length) {
    const results = s.allOf.map(problems);
    const valid = results.filter((r) => r.length === 0).length;
    if (valid < results.length) {
      say(`must validate all the schemas (allOf)${valid === 0 ? '. None validated' : ''}`);
      for (const r of results) out.push(...r);
    }
  }
  if (s.not && problems(s.not).length === 0) say('must not validate the schema (not)');
}
