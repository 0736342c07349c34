import { InputStream, IoError, never, OutputStream, type Pollable, throws, when } from './io.js';
import type { Channel, Network } from './net.js';

/** wasi:http 0.2, requests going out, on a {@link Network}; without one each is refused with `HTTP-request-denied`. */

type ErrorCode = { tag: string; val?: unknown };
type Tagged = { tag: string; val?: string };

/** Of a connection's failure: POSIX's, Node's and OpenSSL's codes → `error-code`. */
function errorCode({ code, message }: { code: string; message: string }): ErrorCode {
  const known: Record<string, ErrorCode> = {
    ECONNREFUSED: { tag: 'connection-refused' },
    ECONNRESET: { tag: 'connection-terminated' },
    EPIPE: { tag: 'connection-terminated' },
    ECONNABORTED: { tag: 'connection-terminated' },
    ETIMEDOUT: { tag: 'connection-timeout' },
    EHOSTUNREACH: { tag: 'destination-unavailable' },
    ENETUNREACH: { tag: 'destination-IP-unroutable' },
    ENOTFOUND: { tag: 'DNS-error', val: { rcode: 'NXDOMAIN', infoCode: undefined } },
    EAI_AGAIN: { tag: 'DNS-timeout' },
    EMFILE: { tag: 'connection-limit-reached' },
    EPROTO: { tag: 'TLS-protocol-error' },
    'connection-timeout': { tag: 'connection-timeout' },
    'connection-read-timeout': { tag: 'connection-read-timeout' },
    'HTTP-response-timeout': { tag: 'HTTP-response-timeout' },
    ERR_UNESCAPED_CHARACTERS: { tag: 'HTTP-request-URI-invalid' },
    ERR_INVALID_HTTP_TOKEN: { tag: 'HTTP-request-method-invalid' },
  };
  const found = known[code];
  if (found) return found;
  if (code.startsWith('HPE_')) return { tag: 'HTTP-protocol-error' };
  if (/CERT|ISSUER|SELF_SIGNED|ALTNAME/.test(code)) return { tag: 'TLS-certificate-error' };
  if (/SSL|TLS/.test(code)) return { tag: 'TLS-protocol-error' };
  return { tag: 'internal-error', val: `${code}: ${message}` };
}

/** What a guest may not set: these are the host's (the list of wasmtime, for the same guests to work the same). */
const FORBIDDEN = new Set(
  'connection host http2-settings keep-alive proxy-authenticate proxy-authorization proxy-connection transfer-encoding upgrade'.split(
    ' ',
  ),
);
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
/** RFC 9110, 5.5: visible characters, spaces, tabs and bytes beyond ASCII. */
const isValue = (v: Uint8Array): boolean => v.every((b) => b === 9 || (b >= 32 && b !== 127));

class Fields {
  #entries: [string, Uint8Array][] = [];
  #frozen = false;
  static fromList(entries: [string, Uint8Array][]): Fields {
    const fields = new Fields();
    for (const [name, value] of entries) fields.append(name, value);
    return fields;
  }
  /** Of a response: the guest only reads them, whatever they are. */
  static received(pairs: readonly [string, string][]): Fields {
    const fields = new Fields();
    fields.#entries = pairs.map(([n, v]) => [n.toLowerCase(), Buffer.from(v, 'latin1')]);
    fields.#frozen = true;
    return fields;
  }
  /** For Node. */
  pairs(): [string, string][] {
    return this.#entries.map(([n, v]) => [n, Buffer.from(v).toString('latin1')]);
  }
  /** The same fields, to be read only. */
  frozen(): Fields {
    const copy = this.clone();
    copy.#frozen = true;
    return copy;
  }
  #check(name: string, values: readonly Uint8Array[] = []): string {
    if (this.#frozen) throws({ tag: 'immutable' });
    if (!TOKEN.test(name) || !values.every(isValue)) throws({ tag: 'invalid-syntax' });
    const lower = name.toLowerCase();
    return FORBIDDEN.has(lower) ? throws({ tag: 'forbidden' }) : lower;
  }
  get(name: string): Uint8Array[] {
    const lower = name.toLowerCase();
    return this.#entries.filter(([n]) => n.toLowerCase() === lower).map(([, v]) => v);
  }
  has(name: string): boolean {
    return this.get(name).length > 0;
  }
  set(name: string, values: Uint8Array[]): void {
    this.#check(name, values);
    this.delete(name);
    for (const v of values) this.#entries.push([name, v]);
  }
  delete(name: string): void {
    const lower = this.#check(name);
    this.#entries = this.#entries.filter(([n]) => n.toLowerCase() !== lower);
  }
  append(name: string, value: Uint8Array): void {
    this.#check(name, [value]);
    this.#entries.push([name, value]);
  }
  entries(): [string, Uint8Array][] {
    return [...this.#entries];
  }
  clone(): Fields {
    const copy = new Fields();
    copy.#entries = [...this.#entries];
    return copy;
  }
}

/** Where a body goes that will never be sent. */
const NOWHERE = { write: () => {} };

class OutgoingBody {
  #taken = false;
  #finished = false;
  constructor(private readonly channel: Channel | undefined) {
    channel?.keptBy(this, () => {
      // A body given up is no body: the request must not look whole.
      if (!this.#finished) channel.send({ do: 'close' });
    });
  }
  write(): OutputStream {
    if (this.#taken) throws(undefined);
    this.#taken = true;
    const { channel } = this;
    return channel ? channel.keptBy(new OutputStream(channel)) : new OutputStream(NOWHERE);
  }
  static finish(body: OutgoingBody, trailers: Fields | undefined): void {
    body.#finished = true;
    body.channel?.end(trailers?.pairs());
    (body as Partial<Disposable>)[Symbol.dispose]?.();
  }
}

/** Plain properties of a resource: `name()` and `setName(value)`. */
function keeps(target: object, names: readonly string[]): Map<string, unknown> {
  const values = new Map<string, unknown>();
  const capital = (n: string): string => `${n[0]!.toUpperCase()}${n.slice(1)}`;
  for (const name of names)
    Object.assign(target, {
      [name]: () => values.get(name),
      [`set${capital(name)}`]: (value: unknown) => {
        values.set(name, value);
      },
    });
  return values;
}

const requestClass = (network: Network | undefined) =>
  class OutgoingRequest {
    readonly values: Map<string, unknown>;
    readonly channel = network?.open();
    hasBody = false;
    constructor(private readonly fields: Fields) {
      this.values = keeps(this, ['method', 'pathWithQuery', 'scheme', 'authority']);
      this.values.set('method', { tag: 'get' });
      if (!this.channel) return;
      this.channel.httpCode = errorCode;
      this.channel.hold();
      this.channel.keptBy(this);
    }
    body(): OutgoingBody {
      if (this.hasBody) throws(undefined);
      this.hasBody = true;
      return new OutgoingBody(this.channel);
    }
    headers(): Fields {
      return this.fields.frozen();
    }
    /** Sends it. */
    go(options: RequestOptions | undefined): FutureIncomingResponse {
      const channel = this.channel ?? throws({ tag: 'HTTP-request-denied' });
      const method = this.values.get('method') as Tagged;
      const scheme = ((this.values.get('scheme') as Tagged | undefined) ?? { tag: 'HTTPS' }) as Tagged;
      if (scheme.tag === 'other') throws({ tag: 'HTTP-protocol-error' });
      const authority = this.values.get('authority') as string | undefined;
      const uri = `${scheme.tag.toLowerCase()}://${authority ?? ''}`;
      if (!authority || !URL.canParse(uri)) throws({ tag: 'HTTP-request-URI-invalid' });
      const { hostname, port } = new URL(uri);
      const secure = scheme.tag === 'HTTPS';
      const milliseconds = (name: string): number | undefined => {
        const ns = options?.values.get(name) as bigint | undefined;
        return ns === undefined ? undefined : Math.max(1, Math.ceil(Number(ns) / 1e6));
      };
      channel.release({
        do: 'request',
        request: {
          method: method.tag === 'other' ? (method.val ?? '') : method.tag.toUpperCase(),
          scheme: secure ? 'https' : 'http',
          host: hostname.replace(/^\[(.*)\]$/, '$1'),
          port: port === '' ? (secure ? 443 : 80) : Number(port),
          path: (this.values.get('pathWithQuery') as string | undefined) || '/',
          headers: this.fields.pairs(),
          hasBody: this.hasBody,
          connectTimeout: milliseconds('connectTimeout'),
          firstByteTimeout: milliseconds('firstByteTimeout'),
          betweenBytesTimeout: milliseconds('betweenBytesTimeout'),
        },
      });
      const future = new FutureIncomingResponse(network!, channel);
      (this as Partial<Disposable>)[Symbol.dispose]?.();
      return future;
    }
  };

class RequestOptions {
  readonly values = keeps(this, ['connectTimeout', 'firstByteTimeout', 'betweenBytesTimeout']);
}

class FutureIncomingResponse {
  #given = false;
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
  }
  subscribe(): Pollable {
    return when(() => this.channel.head !== undefined || this.channel.error !== undefined);
  }
  /** `option<result<result<incoming-response, error-code>>>`: nothing yet, given before, or what came. */
  get(): unknown {
    this.network.pump();
    const { head, error } = this.channel;
    if (!head && !error) return undefined;
    if (this.#given) return { tag: 'err', val: undefined };
    this.#given = true;
    return {
      tag: 'ok',
      val: head
        ? { tag: 'ok', val: new IncomingResponse(this.network, this.channel) }
        : { tag: 'err', val: errorCode(error!) },
    };
  }
}

class IncomingResponse {
  #consumed = false;
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
  }
  status(): number {
    return this.channel.head!.status;
  }
  headers(): Fields {
    return Fields.received(this.channel.head!.headers);
  }
  consume(): IncomingBody {
    if (this.#consumed) throws(undefined);
    this.#consumed = true;
    return new IncomingBody(this.network, this.channel);
  }
}

class IncomingBody {
  #taken = false;
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
  }
  stream(): InputStream {
    if (this.#taken) throws(undefined);
    this.#taken = true;
    return this.channel.keptBy(new InputStream(this.channel));
  }
  static finish(body: IncomingBody): FutureTrailers {
    const trailers = new FutureTrailers(body.network, body.channel);
    (body as Partial<Disposable>)[Symbol.dispose]?.();
    return trailers;
  }
}

class FutureTrailers {
  #given = false;
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
    // Trailers come after the body, which nobody reads any more.
    channel.discard();
  }
  subscribe(): Pollable {
    return when(() => this.channel.ended || this.channel.error !== undefined);
  }
  get(): unknown {
    this.network.pump();
    const { ended, error, trailers } = this.channel;
    if (!ended && !error) return undefined;
    if (this.#given) return { tag: 'err', val: undefined };
    this.#given = true;
    return {
      tag: 'ok',
      val: error
        ? { tag: 'err', val: errorCode(error) }
        : { tag: 'ok', val: trailers.length > 0 ? Fields.received(trailers) : undefined },
    };
  }
}

/** The imports of wasi:http. */
export function httpImports(network: Network | undefined): Record<string, Record<string, unknown>> {
  const OutgoingRequest = requestClass(network);
  return {
    'wasi:http/types': {
      ...{ Fields, FutureIncomingResponse, FutureTrailers, IncomingBody, IncomingResponse },
      ...{ OutgoingBody, OutgoingRequest, RequestOptions },
      ...never('IncomingRequest', 'OutgoingResponse', 'ResponseOutparam'),
      httpErrorCode: (e: unknown) => (e instanceof IoError ? e.http : undefined),
    },
    'wasi:http/outgoing-handler': {
      handle: (request: InstanceType<typeof OutgoingRequest>, options: RequestOptions | undefined) =>
        request.go(options),
    },
  };
}
