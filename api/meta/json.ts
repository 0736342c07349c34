/** Copying, comparing and freezing of plain JSON values. */

/** Sets an own property whatever its name is: `__proto__` assigned the usual way would change the prototype instead. */
export function setOwn(o: object, key: string, value: unknown): void {
  if (key === '__proto__')
    Object.defineProperty(o, key, { value, enumerable: true, writable: true, configurable: true });
  else (o as Record<string, unknown>)[key] = value;
}

/** The own member of that name: `constructor` and its like are in every object, and clients may say any name. */
export const own = <T>(o: Readonly<Record<string, T>> | undefined, key: string): T | undefined =>
  o && Object.hasOwn(o, key) ? o[key] : undefined;

/** True for `{}`-like JSON objects; false for arrays and null. */
export const isPlainObject = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

/** A mutable copy of a JSON value. Members that are `undefined` are left out, as JSON does. */
export function deepCopy<T>(v: T): T {
  if (typeof v !== 'object' || v === null) return v;
  if (Array.isArray(v)) return v.map(deepCopy) as T;
  const out = {};
  for (const key of Object.keys(v)) {
    const value = (v as Record<string, unknown>)[key];
    if (value !== undefined) setOwn(out, key, deepCopy(value));
  }
  return out as T;
}

/** Equality of JSON values: order of members does not matter, a member that is `undefined` counts as absent. */
export function deepEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((x, i) => deepEqual(x, b[i]));
  }
  const x = a as Record<string, unknown>;
  const y = b as Record<string, unknown>;
  let members = 0;
  for (const key of Object.keys(x)) {
    if (x[key] === undefined) continue;
    members++;
    if (!Object.hasOwn(y, key) || !deepEqual(x[key], y[key])) return false;
  }
  for (const key of Object.keys(y)) if (y[key] !== undefined) members--;
  return members === 0;
}

/** Freezes a JSON value and all in it; stops at what is frozen already. */
export function deepFreeze<T>(v: T): T {
  if (typeof v !== 'object' || v === null || Object.isFrozen(v)) return v;
  Object.freeze(v);
  if (Array.isArray(v)) for (const x of v) deepFreeze(x);
  else
    for (const key in v) {
      const x = (v as Record<string, unknown>)[key];
      if (typeof x === 'object') deepFreeze(x);
    }
  return v;
}

/** Whether neither a JSON value nor anything in it can change; false for what is no object. */
export function isDeepFrozen(v: unknown): v is object {
  if (typeof v !== 'object' || v === null || !Object.isFrozen(v)) return false;
  return Object.values(v).every((x) => typeof x !== 'object' || x === null || isDeepFrozen(x));
}

/** An upper bound of the UTF-8 bytes that `JSON.stringify(v)` takes, cheaper than making it. Stops once above `limit`. */
export function jsonSizeBound(v: unknown, limit = Number.POSITIVE_INFINITY): number {
  if (typeof v === 'string') return 6 * v.length + 2;
  if (typeof v !== 'object' || v === null) return 24;
  let size = 2;
  if (Array.isArray(v))
    for (let i = 0; i < v.length && size <= limit; i++) size += 1 + jsonSizeBound(v[i], limit - size);
  else
    for (const key in v) {
      size += 6 * key.length + 4 + jsonSizeBound((v as Record<string, unknown>)[key], limit - size);
      if (size > limit) break;
    }
  return size;
}

/** Whether something in `v` is nested deeper than `left` levels. */
export const tooDeep = (v: unknown, left: number): boolean =>
  typeof v === 'object' && v !== null && (left === 0 || Object.values(v).some((x) => tooDeep(x, left - 1)));
