import type { Status } from 'kubernetes-types/meta/v1.js';

/** Kubernetes' `StatusReason` values (apimachinery, meta/v1 types.go) with the HTTP code each one carries. */
const CODES = {
  BadRequest: 400,
  Unauthorized: 401,
  Forbidden: 403,
  NotFound: 404,
  MethodNotAllowed: 405,
  NotAcceptable: 406,
  AlreadyExists: 409,
  Conflict: 409,
  Expired: 410,
  Gone: 410,
  RequestEntityTooLarge: 413,
  UnsupportedMediaType: 415,
  Invalid: 422,
  TooManyRequests: 429,
  InternalError: 500,
  ServiceUnavailable: 503,
  Timeout: 504,
} as const;

export type StatusReason = keyof typeof CODES;

export interface StatusCause {
  reason?: string;
  message?: string;
  field?: string;
}

export interface StatusDetails {
  name?: string;
  group?: string;
  kind?: string;
  uid?: string;
  causes?: StatusCause[];
  retryAfterSeconds?: number;
}

/** An error that the API answers as a Kubernetes `Status`; the only error type that leaves the registry on purpose. */
export class ApiError extends Error {
  readonly code: number;
  constructor(
    readonly reason: StatusReason,
    message: string,
    readonly details?: StatusDetails,
    /** Goes into the Status' metadata: where a list whose snapshot is gone may go on. */
    readonly continueToken?: string,
  ) {
    super(message);
    this.name = 'ApiError';
    this.code = CODES[reason];
  }

  toStatus(): Status {
    return {
      kind: 'Status',
      apiVersion: 'v1',
      metadata: this.continueToken ? { continue: this.continueToken } : {},
      status: 'Failure',
      message: this.message,
      reason: this.reason,
      ...(this.details ? { details: this.details } : {}),
      code: this.code,
    };
  }
}

/** A Status that someone else chose (a webhook), with a code and reason that need not be among ours. */
export class ForeignStatus extends ApiError {
  override readonly code: number;
  constructor(private readonly status: Status & { code: number; message: string }) {
    super('BadRequest', status.message);
    this.code = status.code;
  }

  override toStatus(): Status {
    return this.status;
  }
}

/** Narrows an unknown thrown value: `isApiError(e, 'NotFound')`. */
export function isApiError(e: unknown, reason?: StatusReason): e is ApiError {
  return e instanceof ApiError && (reason === undefined || e.reason === reason);
}

/** `pods`, or `deployments.apps`: how Kubernetes names a resource in its messages. */
export function qualifiedResource(resource: string, group = ''): string {
  return group ? `${resource}.${group}` : resource;
}

/** What went wrong inside, or with something that is not the client. */
export const internalError = (why: string): ApiError =>
  new ApiError('InternalError', `Internal error occurred: ${why}`, { causes: [{ message: why }] });

export const notFound = (resource: string, name: string, group = ''): ApiError =>
  new ApiError('NotFound', `${qualifiedResource(resource, group)} "${name}" not found`, {
    name,
    ...(group ? { group } : {}),
    kind: resource,
  });

export const alreadyExists = (resource: string, name: string, group = ''): ApiError =>
  new ApiError('AlreadyExists', `${qualifiedResource(resource, group)} "${name}" already exists`, {
    name,
    ...(group ? { group } : {}),
    kind: resource,
  });

export const conflict = (resource: string, name: string, why: string, group = ''): ApiError =>
  new ApiError(
    'Conflict',
    `Operation cannot be fulfilled on ${qualifiedResource(resource, group)} "${name}": ${why}`,
    { name, ...(group ? { group } : {}), kind: resource },
  );

export const badRequest = (message: string): ApiError => new ApiError('BadRequest', message);
