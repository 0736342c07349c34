/** CEL rules of custom kinds (x-kubernetes-validations): checked with their definition, run with every write. */
import {
  COST_BUDGET,
  durationOf,
  Language,
  loadCel,
  type ObjectTypes,
  optionalOf,
  type Program,
  reasonOf,
} from '../cel/cel.js';
import { asAssociative } from '../cel/equality.js';
import { spend, TooMuchWork, type Work } from '../cel/work.js';
import type { FieldError } from '../kinds/kind.js';
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual, isPlainObject, setOwn } from '../meta/json.js';
import { type Costs, timesBelow } from './costs.js';
import { celName, type JsonSchema, listIdentity, member } from './schema.js';

export { loadCel };

type Rule = NonNullable<JsonSchema['x-kubernetes-validations']>[number];

/** At work, values are what they are; the types that a schema gives are for the check of its definition. */
const language = new Language({ self: 'dyn', oldSelf: 'dyn' });

// ---- definitions

/** A part of a schema that has rules: its place, whether it is an object of its own, and how often it may be there. */
export interface RuledPart {
  at: string;
  schema: JsonSchema;
  root: boolean;
  /** Null: as often as it fits into a request. */
  times: number | null;
}

export function* rulesOf(
  schema: JsonSchema,
  at = '',
  root = true,
  times: number | null = 1,
): Generator<RuledPart> {
  if (schema['x-kubernetes-validations']?.length) yield { at, schema, root, times };
  const more = timesBelow(schema);
  const below = times === null || more === null ? null : times * more;
  for (const [k, p] of Object.entries(schema.properties ?? {}))
    yield* rulesOf(p, `${at}.properties[${k}]`, false, below);
  if (isPlainObject(schema.additionalProperties))
    yield* rulesOf(schema.additionalProperties as JsonSchema, `${at}.additionalProperties`, false, below);
  if (schema.items) yield* rulesOf(schema.items, `${at}.items`, false, below);
}

/** Deeper or wider schemas have parts that anything may be asked of. */
const MAX_TYPES = 500;
const SCALARS: Readonly<Record<string, string>> = { integer: 'int', number: 'double', boolean: 'bool' };
const TEXTS: Readonly<Record<string, string>> = {
  byte: 'bytes',
  duration: 'google.protobuf.Duration',
  date: 'google.protobuf.Timestamp',
  'date-time': 'google.protobuf.Timestamp',
};

/** The types that a schema gives: those of its objects by name, and its own. */
function declare(schema: JsonSchema, root: boolean): { types: ObjectTypes; self: string } {
  const types: Record<string, Record<string, string>> = {};
  let count = 0;
  const typeOf = (s: JsonSchema, isObject: boolean): string => {
    if (s.nullable || s['x-kubernetes-int-or-string']) return 'dyn';
    switch (s.type) {
      case 'array':
        return `list<${s.items ? typeOf(s.items, false) : 'dyn'}>`;
      case 'string':
        return TEXTS[s.format ?? ''] ?? 'string';
      case 'object':
        break;
      default:
        return SCALARS[s.type ?? ''] ?? 'dyn';
    }
    const embedded = isObject || s['x-kubernetes-embedded-resource'] === true;
    const { properties, additionalProperties: rest } = s;
    if (!properties && isPlainObject(rest)) return `map<string, ${typeOf(rest as JsonSchema, false)}>`;
    if ((!properties && !embedded) || rest === true || count >= MAX_TYPES) return 'dyn';
    const name = `object${count++}`;
    const fields: Record<string, string> = {};
    types[name] = fields;
    for (const [k, p] of Object.entries(properties ?? {})) fields[celName(k)] = typeOf(p, false);
    if (embedded) {
      fields['apiVersion'] = 'string';
      fields['kind'] = 'string';
      types['objectMeta'] = { name: 'string', generateName: 'string' };
      fields['metadata'] = 'objectMeta';
    }
    return name;
  };
  const self = typeOf(schema, root);
  return { types, self };
}

const REASONS: Readonly<Record<string, FieldError['type']>> = {
  FieldValueInvalid: 'Invalid',
  FieldValueForbidden: 'Forbidden',
  FieldValueRequired: 'Required',
  FieldValueDuplicate: 'Duplicate',
};

/** `.spec.replicas`, `['a-b']` or `.list` of a schema, as in the fields of error messages; undefined when it is none of it. */
function pathOf(text: string, s: JsonSchema): string | undefined {
  if (text.length > 1024) return undefined;
  let at: JsonSchema | true | undefined = s;
  let out = '';
  let rest = text;
  while (rest) {
    const m: RegExpExecArray | null = /^(?:\.([A-Za-z_][\w-]*)|\['((?:[^'\\]|\\.)+)'\])/.exec(rest);
    const name = m?.[1] ?? m?.[2]?.replace(/\\(.)/g, '$1');
    if (!m || name === undefined) return undefined;
    if (typeof at === 'object') at = member(at, name);
    if (!at) return undefined;
    out += m[1] && typeof at === 'object' ? `.${name}` : `[${JSON.stringify(name)}]`;
    rest = rest.slice(m[0].length);
  }
  return out;
}

const newlines = /[\r\n]/;

/** What is wrong with the rules of one part of a schema (apiextensions validation of x-kubernetes-validations). */
export function problemsOfRules({ at, schema: s, root, times }: RuledPart, costs: Costs): FieldError[] {
  const errors: FieldError[] = [];
  const { types, self } = declare(s, root);
  const languages = new Map<string, Language>();
  const languageFor = (optionalOld: boolean): Language => {
    const oldSelf = optionalOld ? `optional<${self}>` : self;
    let l = languages.get(oldSelf);
    if (!l) {
      l = new Language({ self, oldSelf }, types);
      languages.set(oldSelf, l);
    }
    return l;
  };
  for (const [i, r] of (s['x-kubernetes-validations'] ?? []).entries()) {
    const field = `${at}.x-kubernetes-validations[${i}]`;
    const check = (text: string, name: 'rule' | 'messageExpression', type: string, must: string) => {
      const typed = languageFor(r.optionalOldSelf === true).compile(text);
      // It has to run without types as well: nothing is accepted that could not be enforced.
      const untyped = 'wrong' in typed ? typed : language.compile(text);
      const c = 'wrong' in untyped ? untyped : typed;
      if ('wrong' in c) errors.push(invalid(`${field}.${name}`, text, `compilation failed: ${c.wrong}`));
      else if (c.type !== type && c.type !== 'dyn') errors.push(invalid(`${field}.${name}`, text, must));
      else if (name === 'rule')
        errors.push(...costs.add(`${field}.rule`, 'estimated rule cost', c.root, s, root, times));
      else
        errors.push(...costs.add(`${field}.${name}`, 'estimated messageExpression cost', c.root, s, root, 1));
    };
    if (!r.rule?.trim()) {
      errors.push(required(`${field}.rule`, 'rule is not specified'));
      continue;
    }
    check(r.rule, 'rule', 'bool', 'cel expression must evaluate to a bool');
    if (r.message !== undefined && !r.message.trim())
      errors.push(invalid(`${field}.message`, r.message, 'message must be non-empty if specified'));
    else if (newlines.test(r.message ?? ''))
      errors.push(invalid(`${field}.message`, r.message, 'message must not contain line breaks'));
    else if (newlines.test(r.rule.trim()) && !r.message)
      errors.push(required(`${field}.message`, 'message must be specified if rule contains line breaks'));
    if (r.messageExpression !== undefined) {
      if (!r.messageExpression.trim())
        errors.push(required(`${field}.messageExpression`, 'must be non-empty if specified'));
      else
        check(
          r.messageExpression,
          'messageExpression',
          'string',
          'messageExpression must evaluate to a string',
        );
    }
    if (r.reason && !Object.hasOwn(REASONS, r.reason))
      errors.push(notSupported(`${field}.reason`, r.reason, Object.keys(REASONS)));
    if (r.fieldPath && pathOf(r.fieldPath, s) === undefined)
      errors.push(
        invalid(`${field}.fieldPath`, r.fieldPath, 'fieldPath must be a valid path to a field of the schema'),
      );
  }
  return errors;
}

// ---- values

/** Go's durations, in nanoseconds. */
function nanosOf(text: string): bigint | undefined {
  if (!/^[-+]?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$/.test(text)) return undefined;
  const units: Record<string, number> = { ns: 1, us: 1e3, µs: 1e3, ms: 1e6, s: 1e9, m: 60e9, h: 3600e9 };
  let nanos = 0;
  for (const [, n, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g))
    nanos += Number(n) * units[unit!]!;
  return BigInt(Math.round(text.startsWith('-') ? -nanos : nanos));
}

function textOf(v: string, format: string | undefined): unknown {
  if (format === 'date-time' || format === 'date') return new Date(v);
  if (format === 'byte') return Uint8Array.from(Buffer.from(v, 'base64'));
  const nanos = format === 'duration' ? nanosOf(v) : undefined;
  return nanos === undefined ? v : durationOf(nanos);
}

/** A JSON value as CEL sees it: integers are int, times are timestamps. */
function toCel(v: unknown, s: JsonSchema | undefined, root: boolean, work: Work): unknown {
  spend(work);
  if (typeof v === 'number') return Number.isInteger(v) && s?.type !== 'number' ? BigInt(v) : v;
  if (typeof v === 'string') return s?.format ? textOf(v, s.format) : v;
  if (Array.isArray(v)) {
    const list = v.map((x) => toCel(x, s?.items, false, work));
    const type = s?.['x-kubernetes-list-type'];
    if (type !== 'set' && type !== 'map') return list;
    return asAssociative(
      list,
      type === 'map' ? (s!['x-kubernetes-list-map-keys'] ?? []).map(celName) : undefined,
    );
  }
  if (!isPlainObject(v)) return v;
  const out: Record<string, unknown> = {};
  for (const [key, x] of Object.entries(v)) {
    const m = s ? member(s, key) : undefined;
    if (root && key === 'metadata' && isPlainObject(x)) {
      const { name, generateName } = x;
      out[key] = { ...(name ? { name } : {}), ...(generateName ? { generateName } : {}) };
    } else setOwn(out, s?.properties ? celName(key) : key, toCel(x, m === true ? undefined : m, false, work));
  }
  return out;
}

/** Ends all rules of an object. */
class OutOfBudget extends Error {
  path = '';
  type = 'object';
}

/** Runs all rules of a schema on a value that fits it otherwise; `work` is for finding and converting what they ask about. */
export function checkRules(
  v: unknown,
  s: JsonSchema,
  path: string,
  old: unknown,
  out: FieldError[],
  work: Work,
): void {
  try {
    walk(v, s, path, old, out, { work, cost: { left: COST_BUDGET } }, true);
  } catch (e) {
    if (!(e instanceof OutOfBudget)) throw e;
    out.push({
      type: 'Invalid',
      field: e.path || '<nil>',
      message: `Invalid value: ${JSON.stringify(e.type)}: ${e.message}`,
    });
  }
}

interface Budgets {
  readonly work: Work;
  readonly cost: Work;
}

function walk(
  v: unknown,
  s: JsonSchema,
  path: string,
  old: unknown,
  out: FieldError[],
  budgets: Budgets,
  root: boolean,
): void {
  spend(budgets.work);
  const rules = s['x-kubernetes-validations'];
  if (rules && v !== null) {
    const isObject = root || s['x-kubernetes-embedded-resource'] === true;
    const same = old !== undefined && deepEqual(v, old);
    let self: unknown;
    let before: unknown;
    for (const r of rules) {
      const c = language.compile(r.rule);
      // Definitions from before the language knew it all may have such.
      if ('wrong' in c) continue;
      const usesOld = c.names.has('oldSelf');
      if (usesOld ? old === undefined && !r.optionalOldSelf : same) continue;
      self ??= toCel(v, s, isObject, budgets.work);
      if (old !== undefined) before ??= toCel(old, s, isObject, budgets.work);
      const values: Record<string, unknown> = { self };
      if (r.optionalOldSelf) values['oldSelf'] = optionalOf(before);
      else if (old !== undefined) values['oldSelf'] = before;
      let problem: string | undefined;
      try {
        problem = run(c, values, r, budgets.cost);
      } catch (e) {
        if (e instanceof OutOfBudget) Object.assign(e, { path, type: s.type ?? '' });
        throw e;
      }
      if (problem !== undefined) out.push(failed(problem, r, s, path));
    }
  }
  if (Array.isArray(v) && s.items) {
    const idOf = listIdentity(s);
    const before = new Map<string, unknown>();
    if (s['x-kubernetes-list-type'] === 'map' && Array.isArray(old))
      for (const x of old) before.set(idOf(x) ?? '', x);
    v.forEach((x, i) => {
      const id = before.size ? idOf(x) : undefined;
      const was = id === undefined ? undefined : before.get(id);
      walk(x, s.items!, `${path}[${i}]`, was, out, budgets, false);
    });
  } else if (isPlainObject(v)) {
    const before = isPlainObject(old) ? old : undefined;
    for (const [key, x] of Object.entries(v)) {
      const m = member(s, key);
      if (!m || m === true) continue;
      const was = before && Object.hasOwn(before, key) ? before[key] : undefined;
      // What a map has is told by its key, as in Kubernetes.
      const named = s.properties && Object.hasOwn(s.properties, key);
      const at = named ? (path ? `${path}.${key}` : key) : `${path}[${key}]`;
      walk(x, m, at, was, out, budgets, false);
    }
  }
}

function run(c: Program, values: Record<string, unknown>, r: Rule, cost: Work): string | undefined {
  const text = r.rule.trim();
  try {
    if (c.run(values, cost) === true) return undefined;
    return messageOf(values, r, cost) ?? r.message ?? `failed rule: ${text}`;
  } catch (e) {
    if (e instanceof TooMuchWork)
      throw new OutOfBudget(
        cost.left <= 0
          ? 'validation failed due to running out of cost budget, no further validation rules will be run'
          : `no further validation rules will be run due to call cost exceeds limit for rule: ${text}`,
      );
    return `${reasonOf(e)} evaluating rule: ${r.message ?? text}`;
  }
}

/** As in Kubernetes, a message that cannot be made is not told. */
function messageOf(values: Record<string, unknown>, r: Rule, cost: Work): string | undefined {
  if (!r.messageExpression) return undefined;
  try {
    const m = language.compile(r.messageExpression);
    const text = 'wrong' in m ? undefined : m.run(values, cost);
    if (typeof text === 'string' && text.trim() && text.length <= 5120 && !newlines.test(text)) return text;
  } catch (e) {
    if (e instanceof TooMuchWork && cost.left <= 0) throw e;
  }
  return undefined;
}

function failed(message: string, r: Rule, s: JsonSchema, path: string): FieldError {
  const below = r.fieldPath ? (pathOf(r.fieldPath, s) ?? '') : '';
  const field = `${path}${below}`.replace(/^\./, '') || '<nil>';
  const type = REASONS[r.reason ?? ''] ?? 'Invalid';
  const texts: Record<string, string> = {
    Forbidden: `Forbidden: ${message}`,
    Required: `Required value: ${message}`,
    Duplicate: `Duplicate value: ${JSON.stringify(s.type ?? '')}`,
  };
  return {
    type,
    field,
    message: texts[type] ?? `Invalid value: ${JSON.stringify(s.type ?? '')}: ${message}`,
  };
}
