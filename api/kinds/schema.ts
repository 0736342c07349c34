import { readFileSync } from 'node:fs';
import { rfc3339 } from '../clock.js';
import { badRequest } from '../meta/errors.js';
import { isPlainObject, setOwn } from '../meta/json.js';
import { canonicalQuantity } from '../meta/quantity.js';

/** One node of an OpenAPI v2 schema, as `scripts/schemas.mjs` writes them: a `$ref` or a type. */
export interface Schema {
  $ref?: string;
  type?: 'string' | 'integer' | 'number' | 'boolean' | 'object' | 'array';
  format?: string;
  description?: string;
  /** What stands for a key of a keyed list that an item leaves out. */
  default?: unknown;
  items?: Schema;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema;
  required?: string[];
  'x-kubernetes-group-version-kind'?: { group: string; kind: string; version: string }[];
  'x-kubernetes-list-type'?: 'atomic' | 'map' | 'set';
  'x-kubernetes-list-map-keys'?: string[];
  'x-kubernetes-map-type'?: 'atomic';
  'x-kubernetes-preserve-unknown-fields'?: boolean;
  'x-kubernetes-patch-merge-key'?: string;
  'x-kubernetes-patch-strategy'?: string;
}

export type Definitions = Readonly<Record<string, Schema>>;

const read = (file: string): Definitions =>
  JSON.parse(readFileSync(new URL(`../generated/${file}`, import.meta.url), 'utf8')) as Definitions;

let fields: Definitions | undefined;

/** All definitions without descriptions, parsed once and kept. */
export function fieldDefinitions(): Definitions {
  fields ??= read('fields.json');
  return fields;
}

/** All definitions with descriptions, read anew at each call: large and rarely wanted, so the caller decides what stays. */
export const describedDefinitions = (): Definitions => read('definitions.json');

const REF = '#/definitions/';

interface Resolved {
  schema: Schema;
  name?: string;
}
/** By `$ref`: asked for every field of every object that is read or written. */
const targets = new Map<string, Resolved>();

/** Follows a `$ref`; gives back the node and its definition's name. */
export function resolve(schema: Schema): Resolved {
  const { $ref: ref } = schema;
  if (ref === undefined) return { schema };
  const known = targets.get(ref);
  if (known) return known;
  if (!ref.startsWith(REF)) return { schema };
  const name = ref.slice(REF.length);
  const target = fieldDefinitions()[name];
  if (!target) throw new Error(`schema ${name} is not defined: run "npm run build"`);
  const found = Object.freeze({ schema: target, name });
  targets.set(ref, found);
  return found;
}

/** The schema of a field, or undefined where there is none or the schema is open there. */
export function fieldSchema(parent: Schema | undefined, field: string): Schema | undefined {
  if (!parent) return undefined;
  const { schema } = resolve(parent);
  if (schema.properties && Object.hasOwn(schema.properties, field)) return schema.properties[field];
  return schema.additionalProperties;
}

/** The schema of a kind's objects: a generated definition, or what a CustomResourceDefinition says. */
export const schemaOf = (kind: { schema: string; custom?: { schema: Schema } }): Schema =>
  kind.custom?.schema ?? schemaNamed(kind.schema);

const names = new Map<string, Schema>();

/** The same object for the same name, so that more can be known of it. */
export function schemaNamed(name: string): Schema {
  let schema = names.get(name);
  if (!schema) {
    schema = Object.freeze({ $ref: REF + name });
    names.set(name, schema);
  }
  return schema;
}

/** Deepest nesting inside a free-form object. */
const MAX_FREE_DEPTH = 64;
const RFC3339 = /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/;

/** Standard base64 with padding; line ends in it are dropped, as Go's decoder does. */
function base64(v: string): string {
  const text = /[\r\n]/.test(v) ? v.replace(/[\r\n]/g, '') : v;
  const good = text.search(/[^A-Za-z0-9+/]/);
  const rest = good < 0 ? '' : text.slice(good);
  if (text.length % 4 === 0 && (rest === '' || rest === '=' || rest === '==')) return text;
  throw new DecodeError(`illegal base64 data at input byte ${good < 0 ? text.length & ~3 : good}`);
}

/** What decoding found to say: an unknown field is an error, a warning or nothing, as `fieldValidation` wants. */
interface Decoding {
  unknown: string[];
}

/** Where the decoder is: a struct's field or a list's element below another place; `struct` the innermost Go struct. */
interface Place {
  readonly struct: string;
  /** Absent: the object itself. */
  readonly within: Place | undefined;
  readonly key: string | number;
}

const steps = (at: Place): (string | number)[] => (at.within ? [...steps(at.within), at.key] : []);

/** As Go's JSON decoder names it. */
const fieldOf = (at: Place): string =>
  steps(at)
    .filter((s) => typeof s === 'string')
    .join('.');

/** With indexes. */
const pathOf = (at: Place): string =>
  steps(at)
    .map((s, i) => (typeof s === 'number' ? `[${s}]` : i > 0 ? `.${s}` : s))
    .join('');

const goType = (schema: Schema): string => {
  if (schema.$ref) {
    const parts = schema.$ref.split('.');
    const name = parts.slice(-2).join('.');
    return name.endsWith('intstr.IntOrString') ? 'intstr.IntOrString' : name;
  }
  if (schema.type === 'array') return `[]${goType(schema.items ?? {})}`;
  if (schema.type === 'object') return `map[string]${goType(schema.additionalProperties ?? {})}`;
  if (schema.type === 'integer') return schema.format ?? 'int64';
  if (schema.type === 'boolean') return 'bool';
  if (schema.type === 'number') return 'float64';
  if (schema.format === 'byte') return '[]uint8';
  return 'string';
};

const jsonType = (v: unknown): string => {
  if (Array.isArray(v)) return 'array';
  if (typeof v === 'boolean') return 'bool';
  return typeof v;
};

const wrongType = (v: unknown, schema: Schema, at: Place, literal = ''): Error =>
  new DecodeError(
    `json: cannot unmarshal ${jsonType(v)}${literal} into Go struct field ${at.struct}.${fieldOf(at)} of type ${goType(schema)}`,
  );

/** Why a body does not fit its kind, in the words of Kubernetes' decoder. */
class DecodeError extends Error {}

function time(v: unknown, fraction: boolean): string {
  if (typeof v !== 'string') throw new DecodeError(`json: cannot unmarshal ${jsonType(v)} into a time`);
  const ms = v.length <= 64 && RFC3339.test(v) ? Date.parse(v) : Number.NaN;
  if (Number.isNaN(ms)) {
    const layout = fraction ? '2006-01-02T15:04:05.000000Z07:00' : '2006-01-02T15:04:05Z07:00';
    const shown = JSON.stringify(v.slice(0, 64));
    throw new DecodeError(`parsing time ${shown} as "${layout}": cannot parse ${shown} as "2006"`);
  }
  if (!fraction) return rfc3339(ms);
  const micros = (/\.(\d+)/.exec(v)?.[1] ?? '').slice(0, 6).padEnd(6, '0');
  return rfc3339(Math.floor(ms / 1000) * 1000).replace('Z', `.${micros}Z`);
}

function free(v: unknown, depth: number): void {
  if (typeof v !== 'object' || v === null) return;
  if (depth > MAX_FREE_DEPTH) throw new DecodeError('json: exceeded max depth');
  for (const x of Object.values(v)) free(x, depth + 1);
}

const APIEXTENSIONS = 'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1';

/** Definitions that are not structs: each checks its value and gives back the canonical form. */
const SCALARS: Readonly<Record<string, (v: unknown, schema: Schema, at: Place, d: Decoding) => unknown>> = {
  'io.k8s.apimachinery.pkg.api.resource.Quantity': (v) => {
    const text = typeof v === 'string' || typeof v === 'number' ? v : '';
    try {
      return canonicalQuantity(text);
    } catch (e) {
      throw new DecodeError((e as Error).message);
    }
  },
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString': (v, schema, at) => {
    if (typeof v === 'string' || (Number.isInteger(v) && Math.abs(v as number) <= 0x7fffffff)) return v;
    throw wrongType(v, { type: 'integer', format: 'int32', ...(schema.$ref ? {} : schema) }, at);
  },
  'io.k8s.apimachinery.pkg.apis.meta.v1.Time': (v) => time(v, false),
  'io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime': (v) => time(v, true),
  'io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1': (v) => {
    free(v, 0);
    return v;
  },
  'io.k8s.apimachinery.pkg.runtime.RawExtension': (v) => {
    free(v, 0);
    return v;
  },
  [`${APIEXTENSIONS}.JSON`]: (v) => {
    free(v, 0);
    return v;
  },
  [`${APIEXTENSIONS}.JSONSchemaPropsOrBool`]: (v, _schema, at, d) =>
    typeof v === 'boolean' ? v : decodeValue(v, schemaNamed(`${APIEXTENSIONS}.JSONSchemaProps`), at, d),
};

const INTEGER_LIMIT: Readonly<Record<string, number>> = { int32: 2 ** 31, int64: 2 ** 63 };

/** What Go's decoder leaves where JSON says null inside a list or a map. */
function zero(schema: Schema): unknown {
  const { schema: s, name } = resolve(schema);
  if (name && Object.hasOwn(SCALARS, name)) return name.endsWith('Quantity') ? '0' : '';
  return { string: '', integer: 0, number: 0, boolean: false, object: {}, array: [] }[s.type ?? 'object'];
}

function decodeValue(v: unknown, schema: Schema, at: Place, d: Decoding): unknown {
  const { schema: s, name } = resolve(schema);
  if (name) {
    const scalar = Object.hasOwn(SCALARS, name) ? SCALARS[name] : undefined;
    if (scalar) return scalar(v, schema, at, d);
    if (!isPlainObject(v)) throw wrongType(v, schema, at);
    const struct = name.slice(name.lastIndexOf('.') + 1);
    decodeStruct(v, s, { struct, within: at.within, key: at.key }, d);
    return v;
  }
  switch (s.type) {
    case 'string':
      if (typeof v !== 'string') throw wrongType(v, schema, at);
      return s.format === 'byte' ? base64(v) : v;
    case 'integer': {
      if (typeof v !== 'number') throw wrongType(v, schema, at);
      const limit = INTEGER_LIMIT[s.format ?? 'int64'] ?? 2 ** 63;
      if (!Number.isInteger(v) || v >= limit || v < -limit) throw wrongType(v, schema, at, ` ${v}`);
      return v;
    }
    case 'number':
      if (typeof v !== 'number') throw wrongType(v, schema, at);
      return v;
    case 'boolean':
      if (typeof v !== 'boolean') throw wrongType(v, schema, at);
      return v;
    case 'array': {
      if (!Array.isArray(v)) throw wrongType(v, schema, at);
      const items = s.items ?? {};
      for (let i = 0; i < v.length; i++)
        v[i] =
          v[i] === null
            ? zero(items)
            : decodeValue(v[i], items, { struct: at.struct, within: at, key: i }, d);
      return v;
    }
    case 'object': {
      if (!isPlainObject(v)) throw wrongType(v, schema, at);
      const values = s.additionalProperties;
      if (!values) {
        free(v, 0);
        return v;
      }
      for (const key of Object.keys(v)) {
        const x = v[key];
        setOwn(v, key, x === null ? zero(values) : decodeValue(x, values, at, d));
      }
      return v;
    }
    default:
      return v;
  }
}

function decodeStruct(o: Record<string, unknown>, s: Schema, at: Place, d: Decoding): void {
  for (const key of Object.keys(o)) {
    const property = s.properties && Object.hasOwn(s.properties, key) ? s.properties[key] : undefined;
    const value = o[key];
    if (!property) {
      if (d.unknown.length < 100)
        d.unknown.push(pathOf({ struct: at.struct, within: at, key }).slice(0, 512));
      delete o[key];
    } else if (value === null) delete o[key];
    else if (typeof value === 'object' || typeof value !== property.type || property.format !== undefined) {
      const decoded = decodeValue(value, property, { struct: at.struct, within: at, key }, d);
      if (decoded !== value) o[key] = decoded;
    }
  }
}

/**
 * Makes `body` an object of a kind, in place: drops unknown fields and nulls, brings quantities and times into their
 * canonical form. Returns the paths of the unknown fields. Throws BadRequest on a wrong type, worded as Kubernetes does.
 */
export function decode(body: Record<string, unknown>, schema: string, what: string): string[] {
  const d: Decoding = { unknown: [] };
  try {
    const { schema: s } = resolve(schemaNamed(schema));
    decodeStruct(
      body,
      s,
      { struct: schema.slice(schema.lastIndexOf('.') + 1), within: undefined, key: '' },
      d,
    );
  } catch (e) {
    if (e instanceof DecodeError) throw badRequest(`${what}: ${e.message}`);
    throw e;
  }
  return d.unknown;
}

/** Unknown-field paths and the wrong-type error of an object, which stays as it is. */
export function checkFields(object: unknown, schema: string): { unknown: string[]; error?: string } {
  if (!isPlainObject(object)) return { unknown: [], error: `json: cannot unmarshal ${jsonType(object)}` };
  try {
    return { unknown: decode(structuredClone(object), schema, '') };
  } catch (e) {
    return { unknown: [], error: (e as Error).message.replace(/^: /, '') };
  }
}
