import type { FieldError } from '../kinds/kind.js';
import { ApiError } from './errors.js';

/** A value as Go's `%q`/JSON would show it in `Invalid value: …`. */
const show = (value: unknown): string => {
  if (value === undefined || value === null) return 'null';
  const text = JSON.stringify(value) ?? 'null';
  return text.length > 1024 ? `${text.slice(0, 1024)}…` : text;
};

export const required = (field: string, detail = ''): FieldError => ({
  type: 'Required',
  field,
  message: detail ? `Required value: ${detail}` : 'Required value',
});

export const invalid = (field: string, value: unknown, detail: string): FieldError => ({
  type: 'Invalid',
  field,
  message: `Invalid value: ${show(value)}: ${detail}`,
});

export const notSupported = (field: string, value: unknown, supported: readonly string[]): FieldError => ({
  type: 'NotSupported',
  field,
  message: `Unsupported value: ${show(value)}: supported values: ${[...supported].sort().map(show).join(', ')}`,
});

export const duplicate = (field: string, value: unknown): FieldError => ({
  type: 'Duplicate',
  field,
  message: `Duplicate value: ${show(value)}`,
});

export const forbidden = (field: string, detail: string): FieldError => ({
  type: 'Forbidden',
  field,
  message: `Forbidden: ${detail}`,
});

export const tooLong = (field: string, max: number): FieldError => ({
  type: 'TooLong',
  field,
  message: `Too long: may not be more than ${max} bytes`,
});

export const tooMany = (field: string, actual: number, max: number): FieldError => ({
  type: 'TooMany',
  field,
  message: `Too many: ${actual}: must have at most ${max} items`,
});

export const notFoundField = (field: string, value: unknown): FieldError => ({
  type: 'NotFound',
  field,
  message: `Not found: ${show(value)}`,
});

/**
 * Kubernetes' `errors.NewInvalid`: 422 with one cause per field,
 * `Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0`.
 */
export function invalidObject(
  kind: { kind: string; group: string },
  name: string,
  errors: readonly FieldError[],
): ApiError {
  const texts = [...new Set(errors.map((e) => `${e.field}: ${e.message}`))];
  const what = kind.group ? `${kind.kind}.${kind.group}` : kind.kind;
  return new ApiError(
    'Invalid',
    `${what} ${JSON.stringify(name)} is invalid: ${texts.length === 1 ? texts[0] : `[${texts.join(', ')}]`}`,
    {
      name,
      ...(kind.group ? { group: kind.group } : {}),
      kind: kind.kind,
      causes: errors.map((e) => ({ reason: `FieldValue${e.type}`, message: e.message, field: e.field })),
    },
  );
}
