/** The checks of single fields that the parts of a PodSpec share, each from a value and its field path to errors. */
import { invalid, notSupported, required } from '../meta/field-errors.js';
import type { Validator } from '../meta/names.js';
import type { FieldError } from './kind.js';

export type Errors = FieldError[];

/** Required, and right for `check`. */
export const named = (v: string | undefined, at: string, check: Validator): Errors =>
  v ? check(v).map((e) => invalid(at, v, e)) : [required(at)];

/** Right for `check` when it is there. */
export const optional = (v: string | undefined, at: string, check: Validator): Errors =>
  v ? check(v).map((e) => invalid(at, v, e)) : [];

/** Required, and one of `values`. */
export const oneOf = (v: string | undefined, at: string, values: readonly string[]): Errors => {
  if (!v) return [required(at)];
  return values.includes(v) ? [] : [notSupported(at, v, values)];
};

/** Absent, or not below `min`. */
export const atLeast = (v: number | undefined, at: string, min: number): Errors =>
  v === undefined || v >= min
    ? []
    : [invalid(at, v, min === 1 ? 'must be greater than 0' : `must be greater than or equal to ${min}`)];

/** Absent, or within both. */
export const between = (v: number | undefined, at: string, min: number, max: number): Errors =>
  v === undefined || (v >= min && v <= max)
    ? []
    : [invalid(at, v, `must be between ${min} and ${max}, inclusive`)];

/** `check` of each element, with the field path that ends in its index. */
export function each<T>(
  list: readonly T[] | undefined,
  at: string,
  check: (x: T, at: string) => Errors,
): Errors {
  const errors: Errors = [];
  if (list) for (let i = 0; i < list.length; i++) errors.push(...check(list[i]!, `${at}[${i}]`));
  return errors;
}

export const MAX_INT32 = 2 ** 31 - 1;

/** Stays below where it starts. */
export function relativePath(path: string, at: string): Errors {
  const errors: Errors = [];
  if (path.startsWith('/')) errors.push(invalid(at, path, 'must be a relative path'));
  if (path.split('/').includes('..')) errors.push(invalid(at, path, "must not contain '..'"));
  return errors;
}
