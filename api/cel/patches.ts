/** What CEL makes for MutatingAdmissionPolicy: `Object{…}`, `JSONPatch{…}` (apiserver pkg/cel/mutation), and JSON of it. */
import type { Environment } from '@marcbachmann/cel-js';
import { setOwn } from '../meta/json.js';
import { register } from './functions.js';
import { CelMessage, type Messages } from './literals.js';

const OBJECT = 'Object';
const JSON_PATCH = 'JSONPatch';
const PATCH_FIELDS = { op: 'string', path: 'string', from: 'string', value: 'dyn' };

/** `Object` and `Object.<path of fields>` have any field; nothing knows of which kind the object is. */
export const patchMessages: Messages = (name) =>
  name === JSON_PATCH
    ? { fields: PATCH_FIELDS }
    : name === OBJECT || name.startsWith(`${OBJECT}.`)
      ? { fields: undefined }
      : undefined;

/** The types of what a mutation makes, in the language's words. */
export const APPLY_TYPE = OBJECT;
export const JSON_PATCH_TYPE = `list<${JSON_PATCH}>`;

/** What the language names without a call. */
class JsonPatchNamespace {}

export function registerPatches(environment: Environment, owned: Set<string>): void {
  environment.registerType('JsonPatchNamespace', { ctor: JsonPatchNamespace, fields: {} });
  environment.registerConstant('jsonpatch', 'JsonPatchNamespace', new JsonPatchNamespace());
  register(
    environment,
    {
      'JsonPatchNamespace.escapeKey(string): string': (_: unknown, key: string) =>
        key.replaceAll('~', '~0').replaceAll('/', '~1'),
    } as never,
    owned,
  );
}

const MAX_DEPTH = 100;

/** A value of the language as JSON. Throws for what has no form in JSON. */
export function celToJson(v: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH) throw new Error('the value nests too deeply');
  if (v === null || typeof v === 'string' || typeof v === 'boolean') return v;
  if (typeof v === 'bigint') return Number(v);
  if (typeof v === 'number') {
    if (!Number.isFinite(v)) throw new Error(`${v} has no form in JSON`);
    return v;
  }
  if (typeof v !== 'object') throw new Error(`a ${typeof v} has no form in JSON`);
  if (Array.isArray(v)) return v.map((x) => celToJson(x, depth + 1));
  if (v instanceof Uint8Array) return Buffer.from(v).toString('base64');
  if (v instanceof Date) return v.toISOString().replace(/\.?0*Z$/, 'Z');
  const entries =
    v instanceof Map ? [...v] : Object.getPrototypeOf(v) === Object.prototype ? Object.entries(v) : undefined;
  if (!entries) {
    if (v.constructor.name === 'UnsignedInt') return Number((v as { value: bigint }).value);
    if (v.constructor.name === 'Duration') return String(v);
    throw new Error(`a ${v.constructor.name} has no form in JSON`);
  }
  const out: Record<string, unknown> = {};
  for (const [key, x] of entries as [unknown, unknown][]) {
    if (typeof key !== 'string') throw new Error(`map key "${String(key)}" is no string`);
    setOwn(out, key, celToJson(x, depth + 1));
  }
  return out;
}

/** What is wrong with the names of types below `v`: each names the path of fields to where it is. */
function typeNameProblems(v: unknown, path: string): string[] {
  if (v instanceof CelMessage) {
    const wrong =
      v.type === path
        ? []
        : [
            `unexpected type name ${JSON.stringify(v.type)}, expected ${JSON.stringify(path)}, which matches field name path from root Object type`,
          ];
    return [...wrong, ...[...v].flatMap(([field, x]) => typeNameProblems(x, `${path}.${field}`))];
  }
  if (Array.isArray(v)) return v.flatMap((x) => typeNameProblems(x, path));
  if (v instanceof Map) return [...v.values()].flatMap((x) => typeNameProblems(x, path));
  if (typeof v === 'object' && v !== null && Object.getPrototypeOf(v) === Object.prototype)
    return Object.values(v).flatMap((x) => typeNameProblems(x, path));
  return [];
}

function checkTypeNames(v: CelMessage): void {
  const wrong = typeNameProblems(v, v.type);
  if (wrong.length) throw new Error(`type mismatch: ${wrong.join('\n')}`);
}

/** The configuration that an ApplyConfiguration's expression came to. Throws what is wrong with it. */
export function applyConfigurationOf(v: unknown): Record<string, unknown> {
  if (!(v instanceof CelMessage) || v.type !== OBJECT)
    throw new Error('unsupported return type from ApplyConfiguration expression');
  checkTypeNames(v);
  return celToJson(v) as Record<string, unknown>;
}

/** The operations that a JSONPatch's expression came to. Throws what is wrong with them. */
export function jsonPatchOf(v: unknown): object[] {
  if (!Array.isArray(v)) throw new Error('type mismatch: JSONPatchType.expression should evaluate to array');
  return v.map((p) => {
    if (!(p instanceof CelMessage) || p.type !== JSON_PATCH)
      throw new Error('type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch');
    const { op = '', path = '', from } = Object.fromEntries(p) as Record<string, string>;
    const value = p.get('value');
    if (value instanceof CelMessage) checkTypeNames(value);
    try {
      return { op, path, ...(from ? { from } : {}), ...(p.has('value') ? { value: celToJson(value) } : {}) };
    } catch (e) {
      throw new Error(
        `JSONPath valueExpression evaluated to a type that could not marshal to JSON: ${(e as Error).message}`,
      );
    }
  });
}
