import type { X509Certificate } from 'node:crypto';
import { type IncomingMessage, ServerResponse } from 'node:http';
import {
  createSecureServer,
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type Http2Session,
} from 'node:http2';
import type { AddressInfo, Socket } from 'node:net';
import type { Readable } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import { constants, createGzip, gzip } from 'node:zlib';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { distinctImpersonation } from '../auth/impersonate.js';
import type { Api } from './api.js';
import { ANONYMOUS, type User, unauthorized, userOfConnection } from './auth.js';
import type { Schema } from './classify.js';
import { asApiError, type Chunks, errorReply, type Reply, type Request } from './message.js';

type NodeRequest = IncomingMessage | Http2ServerRequest;
type NodeResponse = ServerResponse | Http2ServerResponse;

/** A handler of its own below a prefix; it answers before authentication and sees to its own. */
export interface Mount {
  /** With both slashes, e.g. `/v2/`; the path without the last one belongs to it as well. */
  prefix: string;
  handler(req: IncomingMessage, res: ServerResponse): unknown;
}

export interface HttpServerOptions {
  api: Api;
  clock: Clock;
  log: Log;
  /** Address to listen on. Absent: every address of the machine. */
  host?: string;
  /** 0 picks a free one. */
  port: number;
  /** PEM: the server's certificate and key, and the CAs that client certificates must come from. */
  tls: { cert: string; key: string; ca: string | string[] };
  /** The user that a bearer token stands for; undefined when it is good for nobody. */
  authenticate?: (token: string) => User | undefined;
  mounts?: readonly Mount[];
  /** Makes of a client's certificate the question whether it is refused now, and why. */
  refusal?: (cert: X509Certificate) => () => string | undefined;
  limits?: Partial<Limits>;
}

export interface Limits {
  /** Bytes of one request body. */
  body: number;
  /** Bytes of all request bodies being read at one time; more get 429. */
  bodies: number;
  /** Milliseconds that a client may take to send a body. */
  bodyTimeout: number;
  /** Milliseconds that a client may leave an answer unread before it is dropped. */
  drainTimeout: number;
  connections: number;
  /** Connections from one address. */
  connectionsPerAddress: number;
}

/** Kubernetes' own limit of 3 MiB per request, and what a machine with 1 GB can bear. */
const LIMITS: Limits = {
  body: 3 << 20,
  bodies: 64 << 20,
  bodyTimeout: 60_000,
  drainTimeout: 30_000,
  connections: 4096,
  connectionsPerAddress: 1024,
};
/** Bytes of one request's headers, its URL among them; more get 431 (HTTP/1.1) or end the stream (HTTP/2). */
const MAX_HEADERS = 64 << 10;
const CLIENT_ERRORS: Readonly<Record<string, string>> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
};
/** Answers smaller than this are not worth compressing (kube-apiserver has the same). */
const GZIP_FROM = 128 << 10;
const GZIP_LEVEL = constants.Z_BEST_SPEED;
const HEADERS_TIMEOUT = 20_000;
const KEEP_ALIVE = 90_000;
const IDLE_SESSION = 600_000;
/** How long `stop` waits for answers under way. */
const STOP_GRACE = 2_000;

const zip = promisify(gzip);

/** The HTTPS server: HTTP/1.1 and HTTP/2 by ALPN, client certificates asked for but not required. */
export class HttpServer {
  #server: Http2SecureServer | undefined;
  #bodies = 0;
  readonly #limits: Limits;
  readonly #sockets = new Set<Socket>();
  /** How many connections each address has. */
  readonly #connections = new Map<string, number>();
  /** HTTP/1.1 connections with a request under way. */
  readonly #busy = new Set<Socket>();
  readonly #sessions = new Set<Http2Session>();
  readonly #users = new WeakMap<object, { user: User | undefined; refused(): boolean }>();
  /** Of every exchange that asked for a signal: long-lived ones end by it when the server stops. */
  readonly #open = new Set<AbortController>();

  constructor(private readonly options: HttpServerOptions) {
    this.#limits = { ...LIMITS, ...options.limits };
  }

  /** Listens. Rejects when the address cannot be had, with the remedy in the message. */
  async start(): Promise<void> {
    const { tls, host, port, log } = this.options;
    const server = createSecureServer({
      ...tls,
      requestCert: true,
      rejectUnauthorized: false,
      allowHTTP1: true,
      minVersion: 'TLSv1.2',
      handshakeTimeout: 15_000,
      keepAlive: true,
      keepAliveInitialDelay: 60_000,
      noDelay: true,
      settings: { maxConcurrentStreams: 250, maxHeaderListSize: MAX_HEADERS, enablePush: false },
      // A resumed session would skip the look at the client's certificate.
      sessionTimeout: 1,
    } as Parameters<typeof createSecureServer>[0]);
    // HTTP/1.1's own settings have no place among http2's options. Bodies have a time limit of their own.
    Object.assign(server, {
      headersTimeout: HEADERS_TIMEOUT,
      requestTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE,
      maxConnections: this.#limits.connections,
      maxHeaderSize: MAX_HEADERS,
    });
    server.on('connection', (socket: Socket) => this.#count(socket));
    server.on('secureConnection', (socket: TLSSocket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    server.on('session', (session) => {
      this.#sessions.add(session);
      session.once('close', () => this.#sessions.delete(session));
      session.setTimeout(IDLE_SESSION, () => session.close());
      session.on('error', (err) => log.debug({ err }, 'HTTP/2 session failed'));
    });
    server.on('sessionError', (err) => log.debug({ err }, 'HTTP/2 session failed'));
    // HTTP/1.1 only. What Node does by itself cuts its own answer short.
    server.on('clientError', (err: NodeJS.ErrnoException, socket: Socket) => {
      const status = CLIENT_ERRORS[err.code ?? ''] ?? '400 Bad Request';
      // Not into the middle of another answer.
      if (!socket.writable || this.#busy.has(socket)) socket.destroy();
      else
        socket.end(
          `HTTP/1.1 ${status}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n${status}`,
          () => socket.destroy(),
        );
    });
    server.on('tlsClientError', (err) => log.debug({ err }, 'TLS handshake failed'));
    server.on('request', (req: NodeRequest, res: NodeResponse) => void this.#serve(req, res));
    server.on('upgrade', (req: IncomingMessage, socket: TLSSocket, head: Buffer) =>
      this.#upgrade(req, socket, head),
    );
    await new Promise<void>((resolve, reject) => {
      server.once('error', (e) => reject(listenError(e, host, port)));
      server.listen(port, host, resolve);
    });
    server.removeAllListeners('error');
    server.on('error', (err) => log.error({ err }, 'HTTP server failed'));
    this.#server = server;
  }

  /** The port that it listens on. */
  get port(): number {
    const address = this.#server?.address() as AddressInfo | null | undefined;
    if (!address) throw new Error('the HTTP server does not listen');
    return address.port;
  }

  /** Ends watches, lets answers under way finish for a moment, then closes every connection. */
  async stop(): Promise<void> {
    const server = this.#server;
    if (!server) return;
    this.#server = undefined;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    for (const c of this.#open) c.abort();
    for (const s of this.#sessions) s.close();
    // HTTP/1.1 connections between requests would keep it open until their clients hang up.
    for (const s of this.#sockets) {
      if ((s as TLSSocket).alpnProtocol !== 'h2' && !this.#busy.has(s)) s.destroy();
    }
    const cancel = this.options.clock.after(STOP_GRACE, () => {
      for (const s of this.#sockets) s.destroy();
    });
    await closed;
    cancel();
  }

  /** Cuts the connections of those that `refusal` no longer lets in, watches included. */
  recheck(): void {
    for (const socket of this.#sockets) if (this.#refusalOf(socket as TLSSocket)()) socket.destroy();
  }

  /** New connections get this certificate. */
  renew(tls: { cert: string; key: string }): void {
    this.#server?.setSecureContext({ ...this.options.tls, ...tls, minVersion: 'TLSv1.2' });
  }

  #refusalOf(socket: TLSSocket): () => boolean {
    const cert = socket.getPeerX509Certificate?.();
    const refusal = cert && this.options.refusal?.(cert);
    return () => refusal?.() !== undefined;
  }

  /** HTTP/1.1 only. What nobody takes over is answered as any other request, and then the connection ends. */
  #upgrade(req: IncomingMessage, socket: TLSSocket, head: Buffer): void {
    const res = new ServerResponse(req);
    res.shouldKeepAlive = false;
    res.assignSocket(socket);
    res.once('finish', () => {
      res.detachSocket(socket);
      socket.destroySoon();
    });
    socket.once('close', () => this.#busy.delete(socket));
    socket.setTimeout(0);
    // Errors of a connection show in its end.
    socket.on('error', () => {});
    void this.#serve(req, res, head);
  }

  /** `head` is what has come after a request that wants another protocol. */
  async #serve(req: NodeRequest, res: NodeResponse, head?: Buffer): Promise<void> {
    if (!('stream' in req)) this.#busy.add(req.socket);
    res.once('close', () => {
      if (!('stream' in req)) {
        this.#busy.delete(req.socket);
        if (!this.#server) req.socket.destroySoon();
      }
      // Answered before the body had come: what is left of it may not take forever.
      if (!req.complete) {
        this.options.clock.after(this.#limits.bodyTimeout, () => {
          if (!req.complete) req.destroy();
        });
      }
    });
    try {
      const url = req.url ?? '/';
      const connection = this.#connectionOf(req);
      if (connection.refused()) {
        await this.#send(req, res, errorReply(unauthorized()));
        return;
      }
      for (const m of this.options.mounts ?? []) {
        if (url.startsWith(m.prefix) || url === m.prefix.slice(0, -1)) {
          await m.handler(req as IncomingMessage, res as ServerResponse);
          return;
        }
      }
      const user = this.#userOf(req, connection.user);
      const exchange = new Exchange(
        req,
        res,
        user ?? ANONYMOUS,
        this.#limits,
        this.#open,
        this.options.clock,
        this,
        head && req.headers.upgrade?.toLowerCase(),
      );
      const reply = user === undefined ? errorReply(unauthorized()) : await this.options.api.handle(exchange);
      if (reply.takeOver && head) await this.#handOver(reply.takeOver, req as IncomingMessage, res, head);
      else await this.#send(req, res, reply);
    } catch (e) {
      this.#fail(req, res, e);
    }
  }

  /** The connection is no longer HTTP's; it ends when whoever took it over is done with it. */
  async #handOver(
    takeOver: NonNullable<Reply['takeOver']>,
    req: IncomingMessage,
    res: NodeResponse,
    head: Buffer,
  ): Promise<void> {
    const { socket } = req;
    (res as ServerResponse).detachSocket(socket);
    if (socket.destroyed) return;
    try {
      await takeOver(req, socket, head);
    } catch (err) {
      this.options.log.debug({ err, url: req.url?.slice(0, 512) }, 'upgraded connection ended');
      socket.destroySoon();
    }
  }

  /** Hangs up on an address that has too many connections already. */
  #count(socket: Socket): void {
    const address = socket.remoteAddress ?? '';
    const n = (this.#connections.get(address) ?? 0) + 1;
    if (n > this.#limits.connectionsPerAddress) {
      socket.destroy();
      return;
    }
    this.#connections.set(address, n);
    socket.once('close', () => {
      const left = this.#connections.get(address)! - 1;
      if (left > 0) this.#connections.set(address, left);
      else this.#connections.delete(address);
    });
  }

  /** Counts bytes of bodies being read; false when there are too many already. */
  reserve(bytes: number): boolean {
    if (bytes > 0 && this.#bodies + bytes > this.#limits.bodies) return false;
    this.#bodies += bytes;
    return true;
  }

  #connectionOf(req: NodeRequest): { user: User | undefined; refused(): boolean } {
    // The socket of an HTTP/2 request is a new proxy each time; its session stays.
    const connection: object = 'stream' in req ? req.stream.session! : req.socket;
    let known = this.#users.get(connection);
    if (!known) {
      const socket = req.socket as TLSSocket;
      known = { user: userOfConnection(socket), refused: this.#refusalOf(socket) };
      this.#users.set(connection, known);
    }
    return known;
  }

  #userOf(req: NodeRequest, user: User | undefined): User | undefined {
    const { authorization } = req.headers;
    // A certificate speaks louder than a token, as in Kubernetes.
    if (user !== ANONYMOUS || authorization === undefined) return user;
    const [, token] = /^bearer +(\S+) *$/i.exec(authorization) ?? [];
    return token ? this.options.authenticate?.(token) : undefined;
  }

  #fail(req: NodeRequest, res: NodeResponse, e: unknown): void {
    if (res.headersSent || res.writableEnded) {
      // Half an answer must not look like a whole one.
      this.options.log.debug({ err: e, url: req.url }, 'answer broken off');
      if ('stream' in res) res.stream?.close();
      else res.destroy();
      return;
    }
    this.options.log.error({ err: e, method: req.method, url: req.url?.slice(0, 512) }, 'request failed');
    const { status, headers, body } = errorReply(asApiError(e));
    (res as ServerResponse).writeHead(status, headers as Record<string, string>).end(body as string);
  }

  async #send(req: NodeRequest, response: NodeResponse, reply: Reply): Promise<void> {
    // The two kinds of response agree in everything used here; TypeScript cannot see it.
    const res = response as ServerResponse;
    if (res.destroyed || response.writableEnded) {
      await discard(reply.body);
      return;
    }
    const headers = reply.headers as Record<string, string | string[]>;
    let { body } = reply;
    const head = req.method === 'HEAD';
    if (body === undefined || head) {
      if (body === undefined && reply.status !== 304) headers['content-length'] = '0';
      res.writeHead(reply.status, headers).end();
      await discard(body);
      return;
    }
    const gzipped = !reply.longRunning && !headers['content-encoding'] && acceptsGzip(req);
    if (typeof body === 'string' || body instanceof Uint8Array) {
      if (gzipped && body.length >= GZIP_FROM) {
        body = await zip(body, { level: GZIP_LEVEL });
        headers['content-encoding'] = 'gzip';
      }
      headers['content-length'] = String(typeof body === 'string' ? Buffer.byteLength(body) : body.length);
      if ('stream' in response) {
        // Past Node's compatibility layer, which would ask for trailers that never come (184 → 153 µs of CPU for a get).
        response.stream.respond({ ':status': reply.status, ...headers });
        response.stream.end(body);
      } else res.writeHead(reply.status, headers).end(body);
      return;
    }
    await this.#stream(res, reply, body, gzipped);
  }

  /** Sends chunks one by one, each when the client has taken the one before; a client that stops reading is dropped. */
  async #stream(res: ServerResponse, reply: Reply, body: Chunks, gzipped: boolean): Promise<void> {
    const headers = reply.headers as Record<string, string | string[]>;
    const chunks = body as AsyncIterable<string | Uint8Array>;
    const iterator = chunks[Symbol.asyncIterator]?.() ?? (body as Iterable<string>)[Symbol.iterator]();
    try {
      let next = reply.longRunning ? undefined : await iterator.next();
      let sink: NodeJS.WritableStream = res;
      // Only a first chunk that is full tells that the whole is worth compressing.
      if (gzipped && next && !next.done && next.value.length >= GZIP_FROM) {
        headers['content-encoding'] = 'gzip';
        const deflate = createGzip({ level: GZIP_LEVEL });
        deflate.on('error', () => res.destroy());
        deflate.pipe(res);
        sink = deflate;
      }
      res.writeHead(reply.status, headers);
      if (!next) {
        flushHead(res);
        next = await iterator.next();
      }
      const cork = new Corker(res);
      for (; !next.done; next = await iterator.next()) {
        if (res.destroyed) return;
        if (sink === res) cork.hold();
        if (!sink.write(next.value) && !(await this.#drained(sink, res))) return;
      }
      sink.end();
    } finally {
      await iterator.return?.(undefined);
    }
  }

  /** False when the client did not take what was sent in time, or has gone. */
  #drained(sink: NodeJS.WritableStream, res: ServerResponse): Promise<boolean> {
    return new Promise((resolve) => {
      const done = (ok: boolean) => {
        cancel();
        sink.removeListener('drain', onDrain);
        res.removeListener('close', onClose);
        resolve(ok);
      };
      const onDrain = () => done(true);
      const onClose = () => done(false);
      const cancel = this.options.clock.after(this.#limits.drainTimeout, () => {
        this.options.log.info({}, 'a client that does not read its answer is dropped');
        if ('stream' in res) (res as unknown as Http2ServerResponse).stream.close();
        else res.destroy();
        done(false);
      });
      sink.once('drain', onDrain);
      res.once('close', onClose);
      if (res.destroyed) done(false);
    });
  }
}

/** Gathers what is written in one turn of the event loop into one write of the socket. */
class Corker {
  #held = false;
  readonly #target: { cork(): void; uncork(): void };

  constructor(res: ServerResponse) {
    this.#target = 'stream' in res ? (res as unknown as Http2ServerResponse).stream : res;
  }

  hold(): void {
    if (this.#held) return;
    this.#held = true;
    this.#target.cork();
    setImmediate(() => {
      this.#held = false;
      this.#target.uncork();
    });
  }
}

/** One request as the API sees it. */
class Exchange implements Request {
  readonly method: string;
  readonly url: string;
  readonly headers: NodeRequest['headers'];
  schema: Schema | undefined;
  #abort: AbortController | undefined;

  constructor(
    private readonly req: NodeRequest,
    private readonly res: NodeResponse,
    readonly user: User,
    private readonly limits: Limits,
    private readonly open: Set<AbortController>,
    private readonly clock: Clock,
    private readonly memory: { reserve(bytes: number): boolean },
    readonly upgrade?: string,
  ) {
    this.method = req.method ?? 'GET';
    this.url = req.url ?? '/';
    this.headers = distinctImpersonation(req.headers, req.rawHeaders);
  }

  get incoming(): Readable {
    return this.req;
  }

  signal(): AbortSignal {
    if (!this.#abort) {
      const abort = new AbortController();
      this.#abort = abort;
      this.open.add(abort);
      const gone = () => {
        this.open.delete(abort);
        abort.abort();
      };
      // A response that another protocol takes the place of never ends.
      const end = this.upgrade ? this.req.socket : this.res;
      if (end.destroyed || (this.req.destroyed && !this.upgrade)) gone();
      else end.once('close', gone);
    }
    return this.#abort.signal;
  }

  body(): Promise<Buffer> {
    const { req, limits } = this;
    const stated = Number(req.headers['content-length'] ?? 0);
    if (stated > limits.body) return Promise.reject(tooLarge(limits.body));
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let size = 0;
      let settled = false;
      const settle = (e?: Error) => {
        if (settled) return;
        settled = true;
        cancel();
        req.removeAllListeners('data');
        this.memory.reserve(-size);
        if (e) {
          // What still comes is read and thrown away, so that the client gets to read the answer.
          req.resume();
          reject(e);
        } else resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size));
      };
      const cancel = this.clock.after(limits.bodyTimeout, () =>
        settle(new ApiError('Timeout', 'the body of the request did not arrive in time')),
      );
      req.on('data', (chunk: Buffer) => {
        if (size + chunk.length > limits.body) return settle(tooLarge(limits.body));
        if (!this.memory.reserve(chunk.length)) {
          return settle(
            new ApiError('TooManyRequests', 'too many requests, please try again later', {
              retryAfterSeconds: 1,
            }),
          );
        }
        size += chunk.length;
        chunks.push(chunk);
      });
      req.once('end', () => settle());
      req.once('error', (e: Error) => settle(e));
      req.once('close', () => {
        if (!req.complete)
          settle(new ApiError('BadRequest', 'the client went away before its request was complete'));
      });
    });
  }
}

const tooLarge = (limit: number): ApiError =>
  new ApiError('RequestEntityTooLarge', `Request entity too large: limit is ${limit}`, {});

const acceptsGzip = (req: NodeRequest): boolean => {
  const header = req.headers['accept-encoding'];
  return header !== undefined && String(header).includes('gzip');
};

/** Sends the head of an answer whose body may take long to begin. */
function flushHead(res: ServerResponse): void {
  if (!('stream' in res)) res.flushHeaders();
}

/** Lets go of a body that nobody will read. */
async function discard(body: Reply['body']): Promise<void> {
  if (body === undefined || typeof body === 'string' || body instanceof Uint8Array) return;
  const iterable = body as AsyncIterable<string> & Iterable<string>;
  const iterator = iterable[Symbol.asyncIterator]?.() ?? iterable[Symbol.iterator]();
  await iterator.return?.(undefined);
}

function listenError(e: NodeJS.ErrnoException, host: string | undefined, port: number): Error {
  const where = host ? `${host}:${port}` : `port ${port}`;
  const why: Readonly<Record<string, string>> = {
    EADDRINUSE: `the API cannot listen on ${where}: another program has it. Stop that one (ss -ltnp shows which it is) or choose another with --api-port`,
    EACCES: `the API cannot listen on ${where}: this user may not. Choose a port above 1023 with --api-port`,
    EADDRNOTAVAIL: `the API cannot listen on ${where}: this machine does not have that address. Choose another with --host`,
  };
  return new Error(why[e.code ?? ''] ?? `the API cannot listen on ${where}: ${e.message}`, { cause: e });
}
