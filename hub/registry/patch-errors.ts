/** How Kubernetes tells that a patch made an object that cannot be (apiserver endpoints/handlers/patch.go). */
import { type ApiError, isApiError } from '../../api/meta/errors.js';
import { invalid, invalidObject } from '../../api/meta/field-errors.js';
import { isPlainObject } from '../../api/meta/json.js';
import { PATCH_TYPES } from './api.js';

/** A value as Go's `%+v` prints it. */
function goText(v: unknown): string {
  if (Array.isArray(v)) return `[${v.map(goText).join(' ')}]`;
  if (isPlainObject(v))
    return `map[${Object.keys(v)
      .sort()
      .map((k) => `${k}:${goText(v[k])}`)
      .join(' ')}]`;
  return v === null ? '<nil>' : String(v);
}

const GO_TYPES: Readonly<Record<string, string>> = {
  string: 'string',
  number: 'int64',
  bool: 'bool',
  array: '[]interface {}',
  object: 'map[string]interface {}',
};
const WRONG_TYPE = /json: cannot unmarshal (\w+) into Go struct field \S+ of type (.+)$/;

/** Strategic patches work on the object's fields and not on its text: what fails there has other words. */
function converterText(jsonText: string): string {
  const [, from = '', to] = WRONG_TYPE.exec(jsonText) ?? [];
  if (!to) return jsonText;
  const is = GO_TYPES[from] ?? from;
  if (to.startsWith('map[')) return `cannot restore map from ${is}`;
  if (to.startsWith('[]')) return `cannot restore slice from ${is}`;
  if (/^[a-z]\w*$/.test(to)) return `cannot convert ${is} to ${to}`;
  return `cannot restore struct from: ${is}`;
}

const refused = (type: string, patch: unknown, patched: unknown, why: string): ApiError => {
  const shown = type === PATCH_TYPES.strategic ? goText(patch) : JSON.stringify(patched);
  return invalidObject({ kind: '', group: '' }, '', [invalid('patch', shown, why)]);
};

/** For unknown and duplicate fields. */
export const strictPatchError = (
  type: string,
  patch: unknown,
  patched: unknown,
  texts: readonly string[],
): ApiError => refused(type, patch, patched, `strict decoding error: ${texts.join(', ')}`);

/** For whatever was thrown while what a patch made was read. */
export function patchError(type: string, patch: unknown, patched: unknown, e: unknown): unknown {
  if (!isApiError(e, 'BadRequest')) return e;
  const at = e.message.indexOf('json: cannot unmarshal');
  if (at < 0) return e;
  const text = e.message.slice(at);
  return refused(type, patch, patched, type === PATCH_TYPES.strategic ? converterText(text) : text);
}
