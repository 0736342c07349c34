import { createHash } from 'node:crypto';
import * as http from 'node:http';
import * as https from 'node:https';
import { rootCertificates } from 'node:tls';
import { type Clock, sleep, systemClock } from '../../api/clock.js';
import {
  type Descriptor,
  HUB_REGISTRY,
  type ImageIndex,
  type ImageManifest,
  MANIFEST_MAX_BYTES,
  MEDIA,
} from '../../api/oci.js';
import { type ImageAuth, ShimError } from '../shim.js';
import { type HubAccess, HubAgent } from './hub-agent.js';
import { formatReference, type Reference } from './reference.js';

/** How a registry is reached when not by HTTPS under its own name: mirrors, plain HTTP, private CAs. */
export interface RegistryConfig {
  /** e.g. `http://10.0.0.5:5000`; takes the place of the registry. */
  endpoint?: string;
  /** PEM, beside the well-known CAs. */
  ca?: string;
}

export interface ClientOptions {
  /** For images of the hub's own registry; asked at every request, undefined until the node has joined. */
  hub?: () => HubAccess | undefined;
  registries?: Readonly<Record<string, RegistryConfig>>;
  clock?: Clock;
}

export interface CallOptions {
  auth?: ImageAuth;
  signal?: AbortSignal;
}

export interface FetchedManifest {
  digest: string;
  mediaType: string;
  body: Buffer;
  doc: Partial<ImageManifest> & Partial<ImageIndex>;
}

interface Endpoint {
  origin: URL;
  agent: http.Agent;
  auth?: ImageAuth;
}

interface Outgoing {
  method: string;
  headers?: Record<string, string>;
  body?: Uint8Array;
  /** For the token's scope. */
  actions: 'pull' | 'pull,push';
}

const ACCEPT = [MEDIA.ociManifest, MEDIA.dockerManifest, MEDIA.ociIndex, MEDIA.dockerIndex].join(', ');
/** Milliseconds without a byte after which a connection counts as dead. */
const IDLE = 30_000;
const REDIRECTS = 5;
const TOKEN_MAX_BYTES = 256 << 10;
const TRIES = 3;
const RETRY_AFTER_MAX = 30_000;

/** The network, or the registry itself, failed: worth another try. */
export class RegistryDown extends ShimError {
  constructor(message: string, cause?: unknown) {
    super('RegistryUnavailable', message, { cause });
  }
}

/** Client of the OCI distribution spec 1.1, with the token authentication that registries of the field use. */
export class RegistryClient {
  readonly #options: ClientOptions;
  readonly #clock: Clock;
  readonly #agents = new Map<string, http.Agent>();
  readonly #tokens = new Map<string, { value: string; until: number }>();
  /** Hosts that asked for HTTP Basic. */
  readonly #wantBasic = new Set<string>();

  constructor(options: ClientOptions = {}) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Closes idle connections. */
  close(): void {
    for (const a of this.#agents.values()) a.destroy();
    this.#agents.clear();
  }

  /** Fetches and verifies what the reference (or `digest`, in its repository) names. */
  async manifest(ref: Reference, options: CallOptions = {}, digest = ref.digest): Promise<FetchedManifest> {
    const name = formatReference(ref);
    const what = digest ?? ref.tag!;
    const path = `/v2/${ref.repository}/manifests/${what}`;
    const res = await this.#get(ref, path, { accept: ACCEPT }, options);
    if (res.statusCode !== 200) throw await resolveError(res, name);
    const body = await readBounded(res, MANIFEST_MAX_BYTES, `the manifest of ${name}`);
    const found = sha256(body);
    if (digest !== undefined && found !== digest) {
      throw pullError(name, `the registry answered with another manifest: its digest is ${found}`);
    }
    let doc: FetchedManifest['doc'];
    try {
      doc = JSON.parse(body.toString());
    } catch (e) {
      throw pullError(name, `its manifest is not JSON: ${(e as Error).message}`);
    }
    const mediaType = doc?.mediaType ?? (res.headers['content-type'] ?? '').split(';')[0]!.trim();
    return { digest: found, mediaType, body, doc: doc ?? {} };
  }

  /**
   * A blob's bytes from `from` on, as a stream and where it really starts: 0 when the registry knows no ranges. Not
   * verified: that is the reader's.
   */
  async blob(
    ref: Reference,
    d: Descriptor,
    from: number,
    options: CallOptions = {},
  ): Promise<{ from: number; body: http.IncomingMessage }> {
    const headers: Record<string, string> = from > 0 ? { range: `bytes=${from}-` } : {};
    const res = await this.#get(ref, `/v2/${ref.repository}/blobs/${d.digest}`, headers, options);
    const partial = /^bytes (\d+)-/.exec(res.headers['content-range'] ?? '');
    if (res.statusCode === 206 && partial && Number(partial[1]) === from) return { from, body: res };
    if (res.statusCode === 200) return { from: 0, body: res };
    throw await resolveError(res, `${formatReference(ref)} (${d.digest})`);
  }

  /** Uploads unless it is there already. */
  async pushBlob(ref: Reference, content: Uint8Array, options: CallOptions = {}): Promise<string> {
    const digest = sha256(content);
    const base = `/v2/${ref.repository}/blobs`;
    const call = (path: string, out: Omit<Outgoing, 'actions'>) =>
      this.#request(ref, path, { ...out, actions: 'pull,push' }, options);
    const head = await drained(await call(`${base}/${digest}`, { method: 'HEAD' }));
    if (head.statusCode === 200) return digest;
    const begun = await call(`${base}/uploads/`, { method: 'POST', headers: { 'content-length': '0' } });
    const { location } = begun.headers;
    if (begun.statusCode !== 202 || !location) throw await pushError(begun, ref);
    await drained(begun);
    const to = new URL(location, this.#endpoint(ref).origin);
    to.searchParams.set('digest', digest);
    const done = await call(to.href, {
      method: 'PUT',
      headers: { 'content-type': 'application/octet-stream' },
      body: content,
    });
    if (done.statusCode !== 201) throw await pushError(done, ref);
    await drained(done);
    return digest;
  }

  /** Stores the manifest under the reference's tag; returns its digest. */
  async pushManifest(ref: Reference, manifest: ImageManifest, options: CallOptions = {}): Promise<string> {
    const body = Buffer.from(JSON.stringify(manifest));
    const res = await this.#request(
      ref,
      `/v2/${ref.repository}/manifests/${ref.tag ?? sha256(body)}`,
      {
        method: 'PUT',
        headers: { 'content-type': manifest.mediaType ?? MEDIA.ociManifest },
        body,
        actions: 'pull,push',
      },
      options,
    );
    if (res.statusCode !== 201) throw await pushError(res, ref);
    await drained(res);
    return sha256(body);
  }

  /** A GET that is tried again when the registry is busy or out of reach. */
  async #get(
    ref: Reference,
    path: string,
    headers: Record<string, string>,
    options: CallOptions,
  ): Promise<http.IncomingMessage> {
    for (let attempt = 1; ; attempt++) {
      let delay = 200 * 2 ** attempt * (0.5 + this.#clock.random());
      try {
        const res = await this.#request(ref, path, { method: 'GET', headers, actions: 'pull' }, options);
        const busy = res.statusCode === 429 || res.statusCode! >= 500;
        if (!busy || attempt >= TRIES) return res;
        const wait = Number(res.headers['retry-after']) * 1000;
        if (wait > 0) delay = Math.min(wait, RETRY_AFTER_MAX);
        await drained(res);
      } catch (e) {
        if (!(e instanceof RegistryDown) || attempt >= TRIES) throw e;
      }
      await sleep(this.#clock, delay);
      options.signal?.throwIfAborted();
    }
  }

  async #request(
    ref: Reference,
    path: string,
    out: Outgoing,
    options: CallOptions,
  ): Promise<http.IncomingMessage> {
    const endpoint = this.#endpoint(ref);
    const auth = options.auth;
    const url = new URL(path, endpoint.origin);
    const known = this.#knownAuthorization(endpoint, ref, out, auth);
    const first: Record<string, string> = known ? { authorization: known } : {};
    const res = await this.#follow(endpoint, url, out, first, options);
    if (res.statusCode !== 401) return res;
    const authorization = await this.#authorization(endpoint, ref, out, res, options);
    if (!authorization) return res;
    await drained(res);
    return this.#follow(endpoint, url, out, { authorization }, options);
  }

  async #follow(
    endpoint: Endpoint,
    start: URL,
    out: Outgoing,
    credentials: Record<string, string>,
    options: CallOptions,
  ): Promise<http.IncomingMessage> {
    let url = start;
    for (let hop = 0; ; hop++) {
      // Credentials go to the registry alone, never to where it sends us for the bytes.
      const own = url.origin === endpoint.origin.origin;
      const headers = { ...out.headers, ...(own ? credentials : {}) };
      const res = await send(url, own ? endpoint.agent : undefined, out, headers, options.signal);
      const { location } = res.headers;
      if (![301, 302, 303, 307, 308].includes(res.statusCode!) || !location || out.method !== 'GET')
        return res;
      await drained(res);
      if (hop >= REDIRECTS) throw new RegistryDown(`${start.host} redirects more than ${REDIRECTS} times`);
      const next = new URL(location, url);
      if (next.protocol !== 'https:' && next.protocol !== endpoint.origin.protocol) {
        throw new ShimError(
          'ErrImagePull',
          `${start.host} redirects to ${next.protocol}//${next.host}: refused`,
        );
      }
      url = next;
    }
  }

  #endpoint(ref: Reference): Endpoint {
    const { registry } = ref;
    if (registry === HUB_REGISTRY) {
      const hub = this.#options.hub?.();
      if (!hub) {
        throw new RegistryDown(
          `${formatReference(ref)} is in the hub's registry, and this node has not joined a hub yet`,
        );
      }
      const agent = this.#agent(JSON.stringify(hub), (common) => new HubAgent(hub, this.#clock, common));
      return { origin: new URL(`https://${hub.host}`), agent };
    }
    const config = this.#options.registries?.[registry] ?? {};
    // As containerd does: plain HTTP on loopback alone.
    const scheme = isLoopback(registry) ? 'http' : 'https';
    const host = registry === 'docker.io' ? 'registry-1.docker.io' : registry;
    const origin = new URL(config.endpoint ?? `${scheme}://${host}`);
    const { ca } = config;
    const agent = this.#agent(JSON.stringify([origin.origin, ca]), (common) =>
      origin.protocol === 'https:'
        ? new https.Agent({ ...common, ...(ca ? { ca: [...rootCertificates, ca] } : {}) })
        : new http.Agent(common),
    );
    return { origin, agent };
  }

  #agent(key: string, make: (common: http.AgentOptions) => http.Agent): http.Agent {
    let agent = this.#agents.get(key);
    if (!agent) {
      agent = make({ keepAlive: true, maxSockets: 6, timeout: IDLE });
      // Renewed certificates leave old agents behind.
      if (this.#agents.size >= 32) this.close();
      this.#agents.set(key, agent);
    }
    return agent;
  }

  #tokenKey(endpoint: Endpoint, ref: Reference, out: Outgoing, auth?: ImageAuth): string {
    return JSON.stringify([
      endpoint.origin.host,
      ref.repository,
      out.actions,
      auth?.username,
      auth?.password,
    ]);
  }

  /** What was accepted before, so that a body is not sent only to be refused. */
  #knownAuthorization(
    endpoint: Endpoint,
    ref: Reference,
    out: Outgoing,
    auth?: ImageAuth,
  ): string | undefined {
    if (auth && this.#wantBasic.has(endpoint.origin.host)) return basicOf(auth);
    const t = this.#tokens.get(this.#tokenKey(endpoint, ref, out, auth));
    return t && t.until > this.#clock.monotonic() ? `Bearer ${t.value}` : undefined;
  }

  /** What to send after a 401; undefined when there is nothing to answer its challenge with. */
  async #authorization(
    endpoint: Endpoint,
    ref: Reference,
    out: Outgoing,
    res: http.IncomingMessage,
    options: CallOptions,
  ): Promise<string | undefined> {
    const { auth } = options;
    const basic = auth && basicOf(auth);
    const challenges = parseChallenges(res.headers['www-authenticate'] ?? '');
    const bearer = challenges.find((c) => c.scheme === 'bearer' && c.params['realm']);
    if (!bearer) {
      if (!basic || !challenges.some((c) => c.scheme === 'basic')) return undefined;
      this.#wantBasic.add(endpoint.origin.host);
      return basic;
    }
    const realm = new URL(bearer.params['realm']!, endpoint.origin);
    if (realm.protocol !== 'https:' && realm.protocol !== endpoint.origin.protocol) {
      throw new ShimError(
        'ErrImagePull',
        `${ref.registry} asks for a token at ${realm.origin}, which is not HTTPS`,
      );
    }
    const { service, scope } = bearer.params;
    if (service) realm.searchParams.set('service', service);
    realm.searchParams.set('scope', scope ?? `repository:${ref.repository}:${out.actions}`);
    const own = realm.origin === endpoint.origin.origin;
    const answer = await send(
      realm,
      own ? endpoint.agent : undefined,
      { method: 'GET', actions: 'pull' },
      basic ? { authorization: basic } : {},
      options.signal,
    );
    if (answer.statusCode !== 200) {
      await drained(answer);
      throw denied(formatReference(ref), `${realm.host} gives no token (HTTP ${answer.statusCode})`);
    }
    const text = (await readBounded(answer, TOKEN_MAX_BYTES, 'the token')).toString();
    let token: { token?: string; access_token?: string; expires_in?: number };
    try {
      token = JSON.parse(text);
    } catch (cause) {
      throw new RegistryDown(`${realm.host} answered with something that is no token`, cause);
    }
    const value = token.token ?? token.access_token;
    if (!value) throw denied(formatReference(ref), `${realm.host} gives no token`);
    if (this.#tokens.size >= 64) this.#tokens.clear();
    // 60 s when nothing is said (distribution's token spec), less a little for the way.
    const life = Math.max(0, (token.expires_in ?? 60) - 10) * 1000;
    this.#tokens.set(this.#tokenKey(endpoint, ref, out, auth), {
      value,
      until: this.#clock.monotonic() + life,
    });
    return `Bearer ${value}`;
  }
}

export const sha256 = (bytes: Uint8Array): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export const pullError = (image: string, why: string): ShimError =>
  new ShimError('ErrImagePull', `failed to pull image "${image}": ${why}`);

const basicOf = (a: ImageAuth): string =>
  `Basic ${Buffer.from(`${a.username}:${a.password}`).toString('base64')}`;

const denied = (image: string, why: string): ShimError =>
  new ShimError(
    'ErrImagePull',
    `failed to resolve reference "${image}": pull access denied, repository does not exist or may require authorization: ${why}`,
  );

function isLoopback(registry: string): boolean {
  const host = registry.replace(/:\d+$/, '');
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

function send(
  url: URL,
  agent: http.Agent | undefined,
  out: Outgoing,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<http.IncomingMessage> {
  const { request } = url.protocol === 'https:' ? https : http;
  return new Promise((resolve, reject) => {
    const req = request(
      url,
      {
        method: out.method,
        agent,
        timeout: IDLE,
        signal,
        headers: {
          'user-agent': 'coxswain',
          ...(out.body ? { 'content-length': String(out.body.length) } : {}),
          ...headers,
        },
      },
      resolve,
    );
    req.on('timeout', () => req.destroy(new Error(`no answer within ${IDLE / 1000} s`)));
    req.on('error', (e: NodeJS.ErrnoException) =>
      reject(
        signal?.aborted
          ? signal.reason
          : new RegistryDown(
              `failed to do request: ${out.method} "${url.origin}${url.pathname}": ${e.message}`,
              e,
            ),
      ),
    );
    req.end(out.body);
  });
}

async function drained(res: http.IncomingMessage): Promise<http.IncomingMessage> {
  // A long body costs more to read than another connection.
  if (Number(res.headers['content-length'] ?? 0) > 64 << 10) res.destroy();
  else res.resume();
  res.on('error', () => {});
  return res;
}

async function readBounded(res: http.IncomingMessage, limit: number, what: string): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const part of res as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > limit) throw new ShimError('ErrImagePull', `${what} is larger than ${limit} bytes`);
      parts.push(part);
    }
  } catch (e) {
    if (e instanceof ShimError) throw e;
    throw new RegistryDown(`the connection broke while reading ${what}: ${(e as Error).message}`, e);
  }
  return Buffer.concat(parts);
}

/** The error texts of the distribution spec's body, when there is one. */
async function errorText(res: http.IncomingMessage): Promise<string> {
  try {
    const doc = JSON.parse((await readBounded(res, 64 << 10, 'the error')).toString());
    const errors = doc.errors as { code?: string; message?: string }[];
    return errors.map((e) => `${e.code ?? 'UNKNOWN'}: ${e.message ?? ''}`).join('; ');
  } catch {
    return '';
  }
}

/** In containerd's words where it has some. */
async function resolveError(res: http.IncomingMessage, image: string): Promise<ShimError> {
  const status = res.statusCode!;
  const text = await errorText(res);
  if (status === 404) {
    return new ShimError('ErrImagePull', `failed to resolve reference "${image}": ${image}: not found`);
  }
  if (status === 401 || status === 403) return denied(image, text || `HTTP ${status}`);
  const message = `failed to resolve reference "${image}": unexpected status from the registry: ${status} ${text}`;
  return status === 429 || status >= 500
    ? new RegistryDown(message.trim())
    : new ShimError('ErrImagePull', message.trim());
}

async function pushError(res: http.IncomingMessage, ref: Reference): Promise<Error> {
  const text = await errorText(res);
  return new Error(
    `cannot push ${formatReference(ref)}: the registry answers ${res.statusCode}${text ? `: ${text}` : ''}`,
  );
}

/** Parses WWW-Authenticate (RFC 9110 §11.6.1): several challenges, quoted strings with commas in them. */
export function parseChallenges(header: string): { scheme: string; params: Record<string, string> }[] {
  const found: { scheme: string; params: Record<string, string> }[] = [];
  const token = /\s*,?\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?/y;
  for (let m = token.exec(header); m; m = token.exec(header)) {
    const [, name, quoted, plain] = m;
    const value = quoted?.replace(/\\(.)/g, '$1') ?? plain;
    if (value === undefined) found.push({ scheme: name!.toLowerCase(), params: {} });
    else if (found.length > 0) found.at(-1)!.params[name!.toLowerCase()] = value;
    if (found.length > 16) break;
  }
  return found;
}
