/**
 * A gRPC client over HTTP/2 on a unix socket: unary calls and streams, deadlines, cancelling, a new connection at the
 * next call when one broke. Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from 'node:http2';
import { connect as netConnect } from 'node:net';
import type { Clock } from '../../api/clock.js';
import type { Schema } from './protobuf.js';

/** https://grpc.io/docs/guides/status-codes/ */
export const GRPC = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
} as const;

export class GrpcError extends Error {
  constructor(
    readonly code: number,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
    this.name = 'GrpcError';
  }
}

export interface CallOptions {
  /** Milliseconds until the call is given up; absent: never. */
  timeoutMs?: number;
  signal?: AbortSignal;
  /** Request headers, e.g. `containerd-namespace`. */
  metadata?: Record<string, string>;
}

/** ExecSync may answer twice 16 MiB; nothing legitimate is longer. */
const MAX_MESSAGE = 48 * 2 ** 20;
const WINDOW = 2 ** 20;
/** Before each message: one byte for compression, four for the length. */
const HEAD = 5;

export class GrpcClient {
  #session: ClientHttp2Session | undefined;
  #closed = false;

  constructor(
    readonly socketPath: string,
    readonly schema: Schema,
    readonly clock: Clock,
  ) {}

  /** One request, one answer. Rejects with GrpcError. */
  async unary<T extends object>(path: string, request: object, options: CallOptions = {}): Promise<T> {
    let answer: T | undefined;
    await this.stream<T>(
      path,
      [request],
      (m) => {
        answer = m;
      },
      options,
    );
    if (!answer) throw new GrpcError(GRPC.INTERNAL, `${path}: no answer`);
    return answer;
  }

  /**
   * Sends the requests, hands each answer to `onMessage`, and resolves when the server ended the stream with OK.
   * Rejects with GrpcError otherwise. What `onMessage` throws ends the call.
   */
  async stream<T extends object>(
    path: string,
    requests: object[],
    onMessage: (message: T) => void,
    options: CallOptions = {},
  ): Promise<void> {
    const { request: requestType, response: responseType } = this.schema.method(path);
    const frames = requests.map((r) => frame(this.schema.encode(requestType, r)));
    if (options.signal?.aborted) throw new GrpcError(GRPC.CANCELLED, `${path}: cancelled`);
    const session = this.#connected();
    await new Promise<void>((resolve, reject) => {
      let stream: ClientHttp2Stream;
      let status: number | undefined;
      let statusMessage = '';
      let httpStatus = 0;
      let chunks: Buffer[] = [];
      let have = 0;
      let need = HEAD;
      let settled = false;
      const cleanUp: (() => void)[] = [];
      const settle = (error?: GrpcError) => {
        if (settled) return;
        settled = true;
        for (const f of cleanUp) f();
        if (error) {
          stream?.close(constants.NGHTTP2_CANCEL);
          reject(error);
        } else resolve();
      };
      const headers = {
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
        'user-agent': 'coxswain',
        ...(options.timeoutMs === undefined ? {} : { 'grpc-timeout': grpcTimeout(options.timeoutMs) }),
        ...options.metadata,
      };
      try {
        stream = session.request(headers, { endStream: false });
      } catch (e) {
        settle(this.#unavailable(e));
        return;
      }
      const readStatus = (h: Record<string, unknown>) => {
        if (h['grpc-status'] === undefined) return;
        status = Number(h['grpc-status']);
        statusMessage = percentDecode(String(h['grpc-message'] ?? ''));
      };
      stream.on('response', (h) => {
        httpStatus = Number(h[':status']);
        readStatus(h);
      });
      stream.on('trailers', readStatus);
      stream.on('data', (chunk: Buffer) => {
        if (settled) return;
        chunks.push(chunk);
        have += chunk.length;
        try {
          while (have >= need && !settled) {
            const data = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
            chunks = [data];
            if (need === HEAD) {
              const length = data.readUInt32BE(1);
              if (data[0] !== 0) throw new Error('compressed message');
              if (length > MAX_MESSAGE) throw new Error(`message of ${length} bytes`);
              need = HEAD + length;
              if (have < need) return;
            }
            const message = this.schema.decode<T>(responseType, data.subarray(HEAD, need));
            chunks = [data.subarray(need)];
            have -= need;
            need = HEAD;
            onMessage(message);
          }
        } catch (e) {
          settle(new GrpcError(GRPC.INTERNAL, `${path}: ${(e as Error).message}`, { cause: e }));
        }
      });
      stream.on('error', (e) => settle(this.#unavailable(e)));
      stream.on('close', () => {
        if (status === GRPC.OK) settle();
        else if (status !== undefined) settle(new GrpcError(status, statusMessage));
        else if (httpStatus && httpStatus !== 200)
          settle(
            new GrpcError(
              GRPC.UNIMPLEMENTED,
              `${this.socketPath} answers HTTP ${httpStatus}: it speaks no gRPC`,
            ),
          );
        else settle(this.#unavailable(new Error('the connection was lost')));
      });
      if (options.timeoutMs !== undefined)
        cleanUp.push(
          this.clock.after(options.timeoutMs, () =>
            settle(
              new GrpcError(GRPC.DEADLINE_EXCEEDED, `${path}: no answer within ${options.timeoutMs} ms`),
            ),
          ),
        );
      if (options.signal) {
        const abort = () => settle(new GrpcError(GRPC.CANCELLED, `${path}: cancelled`));
        options.signal.addEventListener('abort', abort, { once: true });
        cleanUp.push(() => options.signal?.removeEventListener('abort', abort));
      }
      for (const f of frames) stream.write(f);
      stream.end();
    });
  }

  /** Ends the connection; calls under way fail with UNAVAILABLE, later ones as well. */
  close(): void {
    this.#closed = true;
    this.#session?.destroy();
    this.#session = undefined;
  }

  #unavailable(cause: unknown): GrpcError {
    const text = cause instanceof Error ? cause.message : String(cause);
    return new GrpcError(GRPC.UNAVAILABLE, text, { cause });
  }

  #connected(): ClientHttp2Session {
    if (this.#closed) throw new GrpcError(GRPC.UNAVAILABLE, 'the client was closed');
    const open = this.#session;
    if (open && !open.closed && !open.destroyed) return open;
    const session = connect('http://localhost', {
      createConnection: () => netConnect({ path: this.socketPath }),
      // Long streams of large answers must not wait for window updates of 64 KiB each.
      settings: { initialWindowSize: WINDOW, enablePush: false },
    });
    const drop = () => {
      if (this.#session === session) this.#session = undefined;
    };
    // Every stream of the session learns of the error by itself.
    session.on('error', drop);
    session.on('connect', () => {
      // Emitted a tick after the connection stands: it may have been closed meanwhile, and then this throws.
      if (!session.destroyed) session.setLocalWindowSize(WINDOW);
    });
    session.on('goaway', drop);
    session.on('close', drop);
    this.#session = session;
    return session;
  }
}

function frame(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** At most eight digits and a unit. */
const grpcTimeout = (ms: number): string =>
  ms < 1e8 ? `${Math.max(1, Math.ceil(ms))}m` : `${Math.ceil(ms / 1000)}S`;

/** `grpc-message` is percent-encoded UTF-8; what is not stays as it is. */
function percentDecode(text: string): string {
  const bytes = Buffer.from(
    text.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  );
  return bytes.toString('utf8');
}
