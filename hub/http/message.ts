import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Duplex, Readable } from 'node:stream';
import { ApiError } from '../../api/meta/errors.js';
import type { User } from './auth.js';
import type { Schema } from './classify.js';

/** One HTTP request, free of sockets, so that tests call the API as a function. */
export interface Request {
  readonly method: string;
  /** Path and query as they came, e.g. `/api/v1/pods?limit=5`. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly user: User;
  /** Reads the whole body; rejects with ApiError RequestEntityTooLarge beyond the server's limit. */
  body(): Promise<Buffer>;
  /** The body as it comes, for whoever passes it on; absent where there is no connection behind the request. */
  readonly incoming?: Readable;
  /** What the connection is to become, in lower case; absent where it stays HTTP. */
  readonly upgrade?: string;
  /** Aborted when the client goes away. */
  signal(): AbortSignal;
  /** The FlowSchema that it belongs to, as soon as that is known. */
  schema?: Schema | undefined;
}

/** Bytes to send one after the other; the sender waits for the client before it takes the next chunk. */
export type Chunks = Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;

export interface Reply {
  status: number;
  headers: Record<string, string | readonly string[]>;
  /** Absent: no content. */
  body?: string | Uint8Array | Chunks;
  /** The body ends only when the client or the server wants it to: it does not count as a request in flight. */
  longRunning?: boolean;
  /** Takes the connection over and answers by itself; only for a request with `upgrade`. */
  takeOver?: (req: IncomingMessage, socket: Duplex, head: Buffer) => Promise<void>;
}

export const JSON_TYPE = 'application/json';

/** A reply of one JSON text. */
export const jsonReply = (status: number, text: string): Reply => ({
  status,
  headers: { 'content-type': JSON_TYPE },
  body: text,
});

export const textReply = (status: number, text: string): Reply => ({
  status,
  headers: { 'content-type': 'text/plain; charset=utf-8', 'x-content-type-options': 'nosniff' },
  body: text,
});

/** The elements of a header that is a list with commas, empty ones left out (RFC 9110 5.6.1). */
export const headerList = (header: string | string[] | undefined): string[] =>
  (Array.isArray(header) ? header.join() : (header ?? ''))
    .split(',')
    .map((p) => p.trim())
    .filter((p) => p !== '');

/** The `Status` that tells an error, as every Kubernetes client understands it. */
export function errorReply(e: ApiError): Reply {
  const reply = jsonReply(e.code, `${JSON.stringify(e.toStatus())}\n`);
  const after = e.details?.retryAfterSeconds;
  if (after) reply.headers['retry-after'] = String(after);
  return reply;
}

/** Whatever was thrown as an ApiError; what nobody meant to throw becomes `InternalError`. */
export const asApiError = (e: unknown): ApiError =>
  e instanceof ApiError
    ? e
    : new ApiError(
        'InternalError',
        `Internal error occurred: ${e instanceof Error ? e.message : String(e)}`,
        {
          causes: [{ message: e instanceof Error ? e.message : String(e) }],
        },
      );

/** Kubernetes' answer where no resource is. */
export const noSuchResource = (): ApiError =>
  new ApiError('NotFound', 'the server could not find the requested resource', {});

export const methodNotAllowed = (): ApiError =>
  new ApiError('MethodNotAllowed', 'the server does not allow this method on the requested resource', {});

/** Chunks that can be had at once, as those of a list. */
export const isChunks = (body: Reply['body']): body is Iterable<string | Uint8Array> =>
  typeof body === 'object' && !(body instanceof Uint8Array) && Symbol.iterator in body;

/** The same chunks; calls `done` when the last one was taken or the taker lost interest, at least once. */
export function untilRead(chunks: Iterable<string | Uint8Array>, done: () => void): Chunks {
  const iterator = chunks[Symbol.iterator]();
  const next = () => {
    try {
      const r = iterator.next();
      if (r.done) done();
      return r;
    } catch (e) {
      done();
      throw e;
    }
  };
  const stop = () => {
    done();
    return iterator.return?.() ?? { done: true as const, value: undefined };
  };
  return { [Symbol.iterator]: () => ({ next, return: stop }) };
}
