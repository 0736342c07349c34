/**
 * The three ways to patch: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch
 * (apimachinery util/strategicpatch). Each changes `target`, a mutable JSON object, in place or gives back another.
 * All throw ApiError on a patch that is wrong. Only own members count, whatever they are called.
 */
import { fieldSchema, resolve, type Schema } from '../../api/kinds/schema.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import { deepCopy, deepEqual, isPlainObject, jsonSizeBound, setOwn } from '../../api/meta/json.js';

type Json = Record<string, unknown>;

/** As in Kubernetes: more operations than this are no patch but an attack. */
const MAX_OPERATIONS = 10_000;
/** What all `copy` operations of one patch may add together, in (upper bounds of) bytes. */
const MAX_COPIED = 16 << 20;

const own = (o: unknown, key: string): unknown =>
  typeof o === 'object' && o !== null && Object.hasOwn(o, key) ? (o as Json)[key] : undefined;

const REJECTED = 'the server rejected our request due to an error in our request';
const failed = (why: string): ApiError => new ApiError('Invalid', `${REJECTED}: ${why}`);

/** A `test` of a JSON patch does not hold. */
export class TestFailed extends ApiError {
  constructor(path: unknown) {
    super('Invalid', `${REJECTED}: testing value ${String(path)} failed: test failed`);
  }
}

function parsePointer(pointer: unknown, op: string): string[] {
  if (typeof pointer !== 'string' || (pointer !== '' && !pointer.startsWith('/')))
    throw badRequest(`JSON patch operation "${op}" needs a JSON pointer, got ${JSON.stringify(pointer)}`);
  return pointer
    .split('/')
    .slice(1)
    .map((t) => t.replace(/~1/g, '/').replace(/~0/g, '~'));
}

function arrayIndex(token: string, length: number, what: string): number {
  const i = /^(?:0|[1-9]\d{0,8})$/.test(token) ? Number(token) : -1;
  if (i < 0 || i >= length) throw failed(`${what}: index ${JSON.stringify(token)} is out of bounds`);
  return i;
}

/** The container that holds the last token of a pointer. */
function container(root: unknown, path: string[], what: string): Json | unknown[] {
  let at = root;
  for (const token of path.slice(0, -1)) {
    at = Array.isArray(at) ? at[arrayIndex(token, at.length, what)] : own(at, token);
    if (typeof at !== 'object' || at === null) throw failed(`${what}: missing path`);
  }
  if (typeof at !== 'object' || at === null) throw failed(`${what}: missing path`);
  return at as Json | unknown[];
}

function read(root: unknown, path: string[], what: string): unknown {
  if (path.length === 0) return root;
  const parent = container(root, path, what);
  const last = path[path.length - 1]!;
  if (Array.isArray(parent)) return parent[arrayIndex(last, parent.length, what)];
  if (!Object.hasOwn(parent, last)) throw failed(`${what}: missing value`);
  return parent[last];
}

/** RFC 6902; all or nothing is the caller's business, since it throws the copy away on error. */
export function jsonPatch(target: Json, patch: unknown): Json {
  if (!Array.isArray(patch)) throw badRequest('a JSON patch is a list of operations');
  if (patch.length > MAX_OPERATIONS)
    throw new ApiError(
      'RequestEntityTooLarge',
      `The allowed maximum operations in a JSON patch is ${MAX_OPERATIONS}, got ${patch.length}`,
    );
  let root: unknown = target;
  let copied = 0;
  const add = (path: string[], value: unknown, what: string): void => {
    if (path.length === 0) {
      root = value;
      return;
    }
    const parent = container(root, path, what);
    const last = path[path.length - 1]!;
    if (Array.isArray(parent))
      parent.splice(last === '-' ? parent.length : arrayIndex(last, parent.length + 1, what), 0, value);
    else setOwn(parent, last, value);
  };
  const remove = (path: string[], what: string): unknown => {
    if (path.length === 0) throw failed(`${what}: the whole document cannot be removed`);
    const value = read(root, path, what);
    const parent = container(root, path, what);
    const last = path[path.length - 1]!;
    if (Array.isArray(parent)) parent.splice(Number(last), 1);
    else delete parent[last];
    return value;
  };
  for (const operation of patch) {
    if (!isPlainObject(operation)) throw badRequest('an operation of a JSON patch is an object');
    const op = String(operation['op']);
    const path = parsePointer(operation['path'], op);
    const what = `${op} operation on ${JSON.stringify(operation['path'])}`;
    const value = () => {
      if (!Object.hasOwn(operation, 'value')) throw badRequest(`${what} needs a value`);
      return deepCopy(operation['value']);
    };
    const from = () => parsePointer(operation['from'], op);
    if (op === 'add') add(path, value(), what);
    else if (op === 'remove') remove(path, what);
    else if (op === 'replace') {
      read(root, path, what);
      if (path.length > 0) remove(path, what);
      add(path, value(), what);
    } else if (op === 'move') {
      const source = from();
      if (path.length > source.length && source.every((t, i) => t === path[i]))
        throw failed(`${what}: a value cannot be moved into itself`);
      const moved = read(root, source, what);
      if (source.length > 0) remove(source, what);
      add(path, moved, what);
    } else if (op === 'copy') {
      const source = read(root, from(), what);
      copied += jsonSizeBound(source, MAX_COPIED);
      if (copied > MAX_COPIED)
        throw new ApiError('RequestEntityTooLarge', 'the copy operations of this JSON patch make too much');
      add(path, deepCopy(source), what);
    } else if (op === 'test') {
      const want = Object.hasOwn(operation, 'value') ? operation['value'] : null;
      // What is not there is null.
      const parent = path.length > 0 ? container(root, path, what) : undefined;
      const absent = isPlainObject(parent) && !Object.hasOwn(parent, path[path.length - 1]!);
      if (!deepEqual(absent ? null : read(root, path, what), want)) throw new TestFailed(operation['path']);
    } else throw badRequest(`unknown JSON patch operation ${JSON.stringify(operation['op'])}`);
  }
  if (!isPlainObject(root)) throw failed('the patched document is no object');
  return root;
}

/** RFC 7386. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isPlainObject(patch)) return deepCopy(patch);
  const out: Json = isPlainObject(target) ? target : {};
  for (const key of Object.keys(patch)) {
    const value = patch[key];
    if (value === null) delete out[key];
    else if (value !== undefined) setOwn(out, key, mergePatch(own(out, key), value));
  }
  return out;
}

const DIRECTIVE = '$patch';
const RETAIN = '$retainKeys';
const DELETE_FROM = '$deleteFromPrimitiveList/';
const ORDER = '$setElementOrder/';

interface ListRule {
  merge: boolean;
  mergeKey: string | undefined;
  items: Schema | undefined;
}

function listRule(schema: Schema | undefined): ListRule {
  const resolved = schema && resolve(schema).schema;
  const strategies = (schema?.['x-kubernetes-patch-strategy'] ?? '').split(',');
  return {
    merge: strategies.includes('merge'),
    mergeKey: schema?.['x-kubernetes-patch-merge-key'],
    items: resolved?.items,
  };
}

/**
 * Kubernetes' strategic merge patch. `schema` says which lists merge by which key. Throws BadRequest on directives that
 * make no sense.
 */
export function strategicMergePatch(target: Json, patch: unknown, schema: Schema): Json {
  if (!isPlainObject(patch)) throw badRequest('a strategic merge patch is an object');
  return mergeMap(target, patch, schema);
}

function mergeMap(target: Json, patch: Json, schema: Schema | undefined): Json {
  const directive = own(patch, DIRECTIVE);
  if (directive === 'replace') return withoutDirectives(patch, schema) as Json;
  if (directive === 'delete') return {};
  if (directive !== undefined && directive !== 'merge')
    throw badRequest(`unknown patch directive: ${JSON.stringify(directive)}`);
  if (Object.hasOwn(patch, RETAIN)) retainKeys(target, patch);
  for (const key of Object.keys(patch)) {
    if (!key.startsWith(DELETE_FROM)) continue;
    const values = patch[key];
    const field = key.slice(DELETE_FROM.length);
    if (!Array.isArray(values)) throw badRequest(`${key} must be a list`);
    const there = own(target, field);
    const gone = new Set(values);
    if (Array.isArray(there)) {
      const left = there.filter((x) => !gone.has(x));
      setOwn(target, field, left);
    }
  }
  for (const key of Object.keys(patch)) {
    if (key.startsWith('$')) {
      if (key !== DIRECTIVE && key !== RETAIN && !key.startsWith(DELETE_FROM) && !key.startsWith(ORDER))
        throw badRequest(`unknown patch directive: ${JSON.stringify(key)}`);
      continue;
    }
    const value = patch[key];
    if (value === null) {
      delete target[key];
      continue;
    }
    if (value === undefined) continue;
    const sub = fieldSchema(schema, key);
    const there = own(target, key);
    if (isPlainObject(value)) {
      setOwn(target, key, mergeMap(isPlainObject(there) ? there : {}, value, sub));
    } else if (Array.isArray(value)) {
      const before = Array.isArray(there) ? there : [];
      // What is new goes before what only the server has, unless the patch says otherwise.
      const order = own(patch, ORDER + key) ?? value.filter((p) => !isDirective(p));
      const merged = mergeList(before, value, listRule(sub), key);
      setOwn(target, key, ordered(merged, before, order, value, sub, key));
    } else setOwn(target, key, value);
  }
  for (const key of Object.keys(patch)) {
    const field = key.slice(ORDER.length);
    if (!key.startsWith(ORDER) || Object.hasOwn(patch, field)) continue;
    const there = own(target, field);
    if (Array.isArray(there))
      setOwn(target, field, ordered(there, there, patch[key], [], fieldSchema(schema, field), field));
  }
  return target;
}

function retainKeys(target: Json, patch: Json): void {
  const keys = patch[RETAIN];
  if (!Array.isArray(keys)) throw badRequest(`${RETAIN} must be a list`);
  for (const key of Object.keys(patch)) {
    if (!key.startsWith('$') && patch[key] !== null && !keys.includes(key))
      throw badRequest(`${JSON.stringify(key)} is set but not in ${RETAIN}`);
  }
  for (const key of Object.keys(target)) if (!keys.includes(key)) delete target[key];
}

/** A patch value that meets nothing to be merged with: its directives have been obeyed, so they go. */
function withoutDirectives(value: unknown, schema: Schema | undefined): unknown {
  if (Array.isArray(value)) return mergeList([], value, listRule(schema), '');
  if (!isPlainObject(value)) return value;
  const rest: Json = {};
  for (const key of Object.keys(value)) if (key !== DIRECTIVE) setOwn(rest, key, value[key]);
  return mergeMap({}, rest, schema);
}

const isDirective = (p: unknown): boolean => isPlainObject(p) && own(p, DIRECTIVE) !== undefined;

function mergeList(before: unknown[], patch: unknown[], rule: ListRule, field: string): unknown[] {
  const fresh = () => patch.filter((p) => !isDirective(p)).map((p) => withoutDirectives(p, rule.items));
  // What meets nothing is taken as it is: even keys that repeat.
  const replace = !rule.merge || patch.some((p) => isPlainObject(p) && own(p, DIRECTIVE) === 'replace');
  if (replace || (rule.mergeKey && before.length === 0)) return fresh();
  if (!rule.mergeKey) {
    // A list of scalars merges as a set.
    const there = new Set(before);
    return [...before, ...[...new Set(fresh())].filter((v) => !there.has(v))];
  }
  const { mergeKey } = rule;
  const keyOf = (p: Json): unknown => {
    const key = own(p, mergeKey);
    if (key === undefined || key === null)
      throw badRequest(
        `map: ${JSON.stringify(p).slice(0, 256)} does not contain declared merge key: ${mergeKey}`,
      );
    return key;
  };
  // Positions by key: several elements may share one (a port that is open for TCP and UDP); the first one is merged.
  const result: unknown[] = [...before];
  const places = new Map<unknown, number[]>();
  const removed = new Set<number>();
  const note = (key: unknown, at: number) => {
    const there = places.get(key);
    if (there) there.push(at);
    else places.set(key, [at]);
  };
  for (const [i, x] of result.entries()) note(own(x, mergeKey), i);
  for (const p of patch) {
    if (!isPlainObject(p))
      throw badRequest(`an element of ${JSON.stringify(field)} must be an object to be merged`);
    const directive = own(p, DIRECTIVE);
    const key = keyOf(p);
    if (directive === 'delete') {
      for (const i of places.get(key) ?? []) removed.add(i);
      places.delete(key);
      continue;
    }
    const at = places.get(key)?.[0];
    const there = at === undefined ? undefined : result[at];
    const merged = mergeMap(isPlainObject(there) ? there : {}, p, rule.items);
    if (at === undefined) note(key, result.push(merged) - 1);
    else result[at] = merged;
  }
  return removed.size ? result.filter((_, i) => !removed.has(i)) : result;
}

/**
 * Puts `merged` into the order that the patch asks for. Elements that only the server has keep their places relative to
 * those that they preceded on the server (strategicpatch's normalizeElementOrder).
 */
function ordered(
  merged: unknown[],
  before: unknown[],
  order: unknown,
  patch: unknown[],
  schema: Schema | undefined,
  field: string,
): unknown[] {
  if (!Array.isArray(order)) throw badRequest(`${ORDER}${field} must be a list`);
  const { merge, mergeKey } = listRule(schema);
  if (!merge) return merged;
  const id = (x: unknown): unknown => (mergeKey ? own(x, mergeKey) : x);
  const places = new Map<unknown, number>();
  order.forEach((x, i) => {
    if (!places.has(id(x))) places.set(id(x), i);
  });
  // The patch must name its elements in the order it asks for; keys may repeat in both.
  let at = 0;
  for (const p of patch) {
    if (isDirective(p)) continue;
    while (at < order.length && id(order[at]) !== id(p)) at++;
    if (at++ === order.length)
      throw badRequest(`The order in patch list of ${JSON.stringify(field)} does not match ${ORDER}${field}`);
  }
  const server = new Map<unknown, number>();
  before.forEach((x, i) => {
    if (!server.has(id(x))) server.set(id(x), i);
  });
  const asked = merged
    .filter((x) => places.has(id(x)))
    .sort((a, b) => (places.get(id(a)) ?? 0) - (places.get(id(b)) ?? 0));
  const others = merged.filter((x) => !places.has(id(x)));
  const result: unknown[] = [];
  let i = 0;
  let j = 0;
  while (i < others.length && j < asked.length) {
    const l = server.get(id(others[i]));
    const r = server.get(id(asked[j]));
    result.push(l !== undefined && r !== undefined && l < r ? others[i++] : asked[j++]);
  }
  return [...result, ...others.slice(i), ...asked.slice(j)];
}
