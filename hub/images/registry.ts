import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { constants, type Http2ServerResponse } from 'node:http2';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { TLSSocket } from 'node:tls';
import { type Clock, systemClock } from '../../api/clock.js';
import { writeFileAtomic } from '../../api/files.js';
import { type Log, silentLog } from '../../api/log.js';
import {
  type Descriptor,
  type ImageIndex,
  type ImageManifest,
  isDigest,
  isRepository,
  isTag,
  MANIFEST_MAX_BYTES,
  MEDIA,
} from '../../api/oci.js';
import { userOfConnection } from '../http/auth.js';
import {
  IMAGE_LIMITS,
  type ImageLimits,
  ImageStorage,
  partsOf,
  RegistryError,
  type Upload,
} from './storage.js';

export interface ImageRegistryOptions {
  log?: Log;
  clock?: Clock;
  limits?: Partial<ImageLimits>;
}

/** In the data directory, beside `admin.kubeconfig`: the password for pushing, mode 0600. */
export const PUSH_TOKEN_FILE = 'push.token';

type Handler = (c: Call) => Promise<void>;

interface Call {
  req: IncomingMessage;
  res: ServerResponse;
  query: URLSearchParams;
  repository: string;
  /** The last part of the path: digest, tag or upload id. */
  last: string;
}

const METHODS = ['GET', 'HEAD', 'PUT', 'POST', 'PATCH', 'DELETE'] as const;
type Method = (typeof METHODS)[number];

/**
 * The hub's own OCI registry (distribution spec 1.1): mount {@link ImageRegistry.handle} at `/v2/` of an HTTPS server
 * that asks for client certificates. Works with HTTP/1.1 and with Node's HTTP/2 compatibility objects.
 *
 * Anyone who reaches it may pull, as agents and their container runtimes do: keep secrets out of images. Pushing and
 * deleting need a client certificate of the group `system:masters`, or the token of `DIR/push.token` as the password of
 * HTTP Basic (any user name) or as a Bearer token.
 */
export class ImageRegistry {
  readonly #log: Log;
  readonly #storage: ImageStorage;
  readonly #tokenFile: string;
  #token: Uint8Array = new Uint8Array();
  readonly #routes: { pattern: RegExp; methods: Partial<Record<Method, Handler>> }[];

  /** `dataDir`: the hub's; images go below `dataDir/images`. */
  constructor(dataDir: string, options: ImageRegistryOptions = {}) {
    this.#log = options.log ?? silentLog;
    this.#tokenFile = path.join(dataDir, PUSH_TOKEN_FILE);
    const limits = { ...IMAGE_LIMITS, ...options.limits };
    this.#storage = new ImageStorage(
      path.join(dataDir, 'images'),
      limits,
      options.clock ?? systemClock,
      this.#log,
    );
    // Longest first: a repository's name may end in `/blobs` or the like.
    this.#routes = [
      {
        pattern: /^\/v2\/(.+)\/blobs\/uploads\/?()$/,
        methods: { POST: (c) => this.#startUpload(c) },
      },
      {
        pattern: /^\/v2\/(.+)\/blobs\/uploads\/([^/]+)$/,
        methods: {
          GET: (c) => this.#uploadStatus(c),
          PATCH: (c) => this.#patchUpload(c),
          PUT: (c) => this.#finishUpload(c),
          DELETE: (c) => this.#cancelUpload(c),
        },
      },
      {
        pattern: /^\/v2\/(.+)\/blobs\/([^/]+)$/,
        methods: {
          GET: (c) => this.#getBlob(c),
          HEAD: (c) => this.#getBlob(c),
          DELETE: (c) => this.#deleteBlob(c),
        },
      },
      {
        pattern: /^\/v2\/(.+)\/manifests\/([^/]+)$/,
        methods: {
          GET: (c) => this.#getManifest(c),
          HEAD: (c) => this.#getManifest(c),
          PUT: (c) => this.#putManifest(c),
          DELETE: (c) => this.#deleteManifest(c),
        },
      },
      { pattern: /^\/v2\/(.+)\/tags\/(list)$/, methods: { GET: (c) => this.#listTags(c) } },
      { pattern: /^\/v2\/(.+)\/referrers\/([^/]+)$/, methods: { GET: (c) => this.#listReferrers(c) } },
    ];
  }

  /** Makes the directories and the push token, and drops what an earlier run left unfinished. */
  async start(): Promise<void> {
    await this.#storage.start();
    this.#token = readToken(this.#tokenFile);
  }

  async stop(): Promise<void> {
    await this.#storage.stop();
  }

  /** Deletes blobs that no manifest refers to (older than an hour). */
  collectGarbage(): Promise<{ blobs: number; bytes: number }> {
    return this.#storage.collectGarbage();
  }

  /** Where the blob with this digest lies on disk; undefined when it is not here. */
  async blob(digest: string): Promise<string | undefined> {
    if (!isDigest(digest) || (await this.#storage.promiseBlob(digest)) === undefined) return undefined;
    return this.#storage.blobPath(digest);
  }

  /** Answers one request below `/v2/`. Never rejects. */
  readonly handle = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    try {
      res.setHeader('docker-distribution-api-version', 'registry/2.0');
      await this.#route(req, res);
    } catch (e) {
      this.#fail(req, res, e);
    }
  };

  async #route(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const method = req.method as Method;
    const url = new URL(req.url ?? '/', 'https://hub');
    const { pathname } = url;
    if (pathname === '/v2/' || pathname === '/v2') {
      if (method !== 'GET' && method !== 'HEAD') throw unsupported(method);
      // Clients of the containers/image family (skopeo, podman) send credentials only where the ping asked for them.
      // RFC 9110 allows the header on any answer, and without credentials it means nothing.
      res.setHeader('www-authenticate', CHALLENGE);
      send(res, 200, {});
      return;
    }
    for (const { pattern, methods } of this.#routes) {
      const m = pattern.exec(pathname);
      if (!m) continue;
      const handler = methods[method];
      if (!handler) throw unsupported(method);
      const repository = m[1]!;
      if (!isRepository(repository)) throw new RegistryError(400, 'NAME_INVALID', `invalid repository name`);
      if (method !== 'GET' && method !== 'HEAD') this.#mustBeAdmin(req);
      await handler({ req, res, query: url.searchParams, repository, last: decode(m[2]!) });
      return;
    }
    throw new RegistryError(404, 'NAME_UNKNOWN', 'no such path in this registry');
  }

  #mustBeAdmin(req: IncomingMessage): void {
    const user = userOfConnection(req.socket as TLSSocket);
    if (user?.groups.includes('system:masters')) return;
    const [scheme = '', credentials = ''] = (req.headers.authorization ?? '').split(/ +/, 2);
    const given =
      scheme.toLowerCase() === 'basic'
        ? Buffer.from(credentials, 'base64')
            .toString()
            .replace(/^[^:]*:/, '')
        : scheme.toLowerCase() === 'bearer'
          ? credentials
          : '';
    const digest = (b: string | Uint8Array) => createHash('sha256').update(b).digest();
    if (this.#token.length > 0 && timingSafeEqual(digest(given), digest(this.#token))) return;
    throw new RegistryError(
      401,
      'UNAUTHORIZED',
      `pushing needs the administrator's client certificate, or the token in ${PUSH_TOKEN_FILE} of the hub's data directory as password`,
      { 'www-authenticate': CHALLENGE },
    );
  }

  async #startUpload(c: Call): Promise<void> {
    const { query, repository } = c;
    const mount = query.get('mount');
    if (mount !== null) {
      if (!isDigest(mount)) throw badDigest(mount);
      if ((await this.#storage.promiseBlob(mount)) !== undefined) {
        this.#created(c, 'blobs', mount);
        return;
      }
    }
    const digest = query.get('digest');
    if (digest !== null && !isDigest(digest)) throw badDigest(digest);
    const upload = await this.#storage.beginUpload(repository);
    if (digest === null) {
      this.#progress(c, upload, 202);
      return;
    }
    await this.#whole(c, upload, digest);
  }

  /** Takes the body as the rest of the upload and finishes it. */
  async #whole(c: Call, upload: Upload, digest: string): Promise<void> {
    try {
      await this.#storage.append(upload, chunks(c.req), contentLength(c.req));
    } catch (e) {
      // Nobody knows of an upload that was to be done in one request.
      if (c.req.method === 'POST') await this.#storage.drop(upload);
      throw e;
    }
    await this.#storage.finish(upload, digest);
    this.#created(c, 'blobs', digest);
  }

  async #uploadStatus(c: Call): Promise<void> {
    this.#progress(c, this.#storage.upload(c.repository, c.last), 204);
  }

  async #patchUpload(c: Call): Promise<void> {
    const upload = this.#storage.upload(c.repository, c.last);
    this.#mustContinue(c, upload);
    await this.#storage.append(upload, chunks(c.req), contentLength(c.req));
    this.#progress(c, upload, 202);
  }

  async #finishUpload(c: Call): Promise<void> {
    const upload = this.#storage.upload(c.repository, c.last);
    const digest = c.query.get('digest') ?? '';
    if (!isDigest(digest)) throw badDigest(digest);
    this.#mustContinue(c, upload);
    await this.#whole(c, upload, digest);
  }

  async #cancelUpload(c: Call): Promise<void> {
    const upload = this.#storage.upload(c.repository, c.last);
    if (upload.busy)
      throw new RegistryError(409, 'BLOB_UPLOAD_INVALID', 'a request is writing to this upload');
    await this.#storage.drop(upload);
    c.res.writeHead(204).end();
  }

  /** A chunk that says where it belongs must belong at the end. */
  #mustContinue(c: Call, upload: Upload): void {
    const range = c.req.headers['content-range'];
    if (range === undefined) return;
    const m = /^(?:bytes )?(\d+)-(\d+)(?:\/.*)?$/.exec(range);
    if (!m || Number(m[1]) !== upload.size) {
      throw new RegistryError(416, 'BLOB_UPLOAD_INVALID', `the upload has ${upload.size} bytes so far`, {
        location: this.#location(upload),
        range: `0-${Math.max(0, upload.size - 1)}`,
      });
    }
  }

  #location(u: Upload): string {
    return `/v2/${u.repository}/blobs/uploads/${u.id}`;
  }

  #progress(c: Call, u: Upload, status: number): void {
    c.res
      .writeHead(status, {
        location: this.#location(u),
        range: `0-${Math.max(0, u.size - 1)}`,
        'docker-upload-uuid': u.id,
        ...(status === 204 ? {} : { 'content-length': '0' }),
      })
      .end();
  }

  #created(c: Call, what: 'blobs' | 'manifests', digest: string, headers: Record<string, string> = {}): void {
    c.res
      .writeHead(201, {
        location: `/v2/${c.repository}/${what}/${digest}`,
        'docker-content-digest': digest,
        'content-length': '0',
        ...headers,
      })
      .end();
  }

  async #getBlob(c: Call): Promise<void> {
    const { req, res, last: digest } = c;
    if (!isDigest(digest)) throw badDigest(digest);
    const head = req.method === 'HEAD';
    const size = head ? await this.#storage.promiseBlob(digest) : await this.#storage.blobSize(digest);
    if (size === undefined) throw new RegistryError(404, 'BLOB_UNKNOWN', `there is no blob ${digest} here`);
    const headers = {
      'content-type': 'application/octet-stream',
      'docker-content-digest': digest,
      'accept-ranges': 'bytes',
      etag: `"${digest}"`,
      // The name is the content's hash: it never changes.
      'cache-control': 'max-age=31536000, immutable',
    };
    const range = head ? undefined : parseRange(req.headers.range, size);
    if (range === 'unsatisfiable') {
      throw new RegistryError(416, 'SIZE_INVALID', `the blob has ${size} bytes`, {
        'content-range': `bytes */${size}`,
      });
    }
    const { start, end } = range ?? { start: 0, end: size - 1 };
    res.writeHead(range ? 206 : 200, {
      ...headers,
      'content-length': String(end - start + 1),
      ...(range ? { 'content-range': `bytes ${start}-${end}/${size}` } : {}),
    });
    if (head || size === 0) {
      res.end();
      return;
    }
    // A client that stops reading must not hold the file for ever.
    res.setTimeout(DRAIN_TIMEOUT, () => abandon(res));
    await pipeline(createReadStream(this.#storage.blobPath(digest), { start, end }), res);
  }

  async #deleteBlob(c: Call): Promise<void> {
    if (!isDigest(c.last)) throw badDigest(c.last);
    if (!(await this.#storage.deleteBlob(c.last))) {
      throw new RegistryError(404, 'BLOB_UNKNOWN', `there is no blob ${c.last} here`);
    }
    send(c.res, 202);
  }

  async #getManifest(c: Call): Promise<void> {
    const { req, res, repository, last } = c;
    if (!isDigest(last) && !isTag(last)) throw last.includes(':') ? badDigest(last) : manifestUnknown(c);
    const m = await this.#storage.manifest(repository, last);
    if (!m) throw manifestUnknown(c);
    res.writeHead(200, {
      'content-type': m.mediaType,
      'content-length': String(m.body.length),
      'docker-content-digest': m.digest,
      etag: `"${m.digest}"`,
    });
    res.end(req.method === 'HEAD' ? undefined : m.body);
  }

  async #putManifest(c: Call): Promise<void> {
    const { req, repository, last } = c;
    const byDigest = isDigest(last);
    if (!byDigest && !isTag(last)) {
      throw last.includes(':')
        ? badDigest(last)
        : new RegistryError(400, 'MANIFEST_INVALID', `"${last}" is neither a tag nor a digest`);
    }
    const body = await readBody(req, MANIFEST_MAX_BYTES);
    const digest = `sha256:${createHash('sha256').update(body).digest('hex')}`;
    if (byDigest && digest !== last) {
      throw new RegistryError(400, 'DIGEST_INVALID', `the manifest's digest is ${digest}, not ${last}`);
    }
    const contentType = (req.headers['content-type'] ?? '').split(';')[0]!.trim();
    const { mediaType, doc } = checkManifest(body, contentType);
    await this.#storage.putManifest(
      repository,
      { digest, mediaType, body },
      partsOf(doc),
      byDigest ? undefined : last,
    );
    this.#created(c, 'manifests', digest, doc.subject ? { 'oci-subject': doc.subject.digest } : {});
  }

  async #deleteManifest(c: Call): Promise<void> {
    const { repository, last } = c;
    if ((!isDigest(last) && !isTag(last)) || !(await this.#storage.deleteManifest(repository, last))) {
      throw manifestUnknown(c);
    }
    send(c.res, 202);
  }

  async #listTags(c: Call): Promise<void> {
    const { query, repository, res } = c;
    let tags = await this.#storage.tags(repository);
    if (!tags) throw new RegistryError(404, 'NAME_UNKNOWN', `there is no repository ${repository} here`);
    const last = query.get('last');
    if (last !== null) tags = tags.filter((t) => t > last);
    const n = query.get('n');
    if (n !== null) {
      const count = Number(n);
      if (!Number.isInteger(count) || count < 0) {
        throw new RegistryError(400, 'PAGINATION_NUMBER_INVALID', `n must be a whole number, not "${n}"`);
      }
      if (tags.length > count) {
        tags = tags.slice(0, count);
        const at = tags.at(-1);
        if (at !== undefined) {
          const next = `/v2/${repository}/tags/list?n=${count}&last=${encodeURIComponent(at)}`;
          res.setHeader('link', `<${next}>; rel="next"`);
        }
      }
    }
    send(res, 200, { name: repository, tags });
  }

  async #listReferrers(c: Call): Promise<void> {
    if (!isDigest(c.last)) throw badDigest(c.last);
    let manifests = await this.#storage.referrers(c.repository, c.last);
    const type = c.query.get('artifactType');
    if (type !== null) {
      manifests = manifests.filter((m) => m.artifactType === type);
      c.res.setHeader('oci-filters-applied', 'artifactType');
    }
    const index: ImageIndex = { schemaVersion: 2, mediaType: MEDIA.ociIndex, manifests };
    send(c.res, 200, index, MEDIA.ociIndex);
  }

  #fail(req: IncomingMessage, res: ServerResponse, e: unknown): void {
    if (res.headersSent) {
      // Half an answer must not look like a whole one.
      this.#log.debug({ err: e, url: req.url }, 'answer of the image registry broken off');
      abandon(res);
      return;
    }
    const known = e instanceof RegistryError;
    if (!known) {
      const { code } = e as NodeJS.ErrnoException;
      const gone = code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE' || req.destroyed;
      this.#log[gone ? 'debug' : 'error'](
        { err: e, method: req.method, url: req.url },
        'image registry: request failed',
      );
    }
    const error = known ? e : new RegistryError(500, 'UNKNOWN', `internal error: ${(e as Error).message}`);
    for (const [name, value] of Object.entries(error.headers)) res.setHeader(name, value);
    // The rest of a body that was refused is not read.
    if (!req.complete) {
      if (req.httpVersionMajor === 1) res.setHeader('connection', 'close');
      else res.once('finish', () => (res as unknown as Http2ServerResponse).stream.close());
    }
    send(res, error.status, { errors: [{ code: error.code, message: error.message, detail: null }] });
  }
}

/** Milliseconds that a client may leave a blob unread. */
const DRAIN_TIMEOUT = 60_000;

/** Ends an answer so that it cannot be taken for a whole one. */
function abandon(res: ServerResponse): void {
  if ('stream' in res)
    (res as unknown as Http2ServerResponse).stream?.close(constants.NGHTTP2_INTERNAL_ERROR);
  else res.destroy();
}

const CHALLENGE = 'Basic realm="coxswain"';

const unsupported = (method: string) =>
  new RegistryError(405, 'UNSUPPORTED', `${method} is not possible here`);
const badDigest = (digest: string) =>
  new RegistryError(400, 'DIGEST_INVALID', `"${digest}" is not a SHA-256 digest (sha256:<64 hex digits>)`);
const manifestUnknown = (c: Call) =>
  new RegistryError(404, 'MANIFEST_UNKNOWN', `there is no image ${c.repository}, ${c.last} here`);

function send(res: ServerResponse, status: number, body?: object, type = 'application/json'): void {
  const text = body === undefined ? '' : JSON.stringify(body);
  res.writeHead(status, {
    ...(body === undefined ? {} : { 'content-type': type }),
    'content-length': String(Buffer.byteLength(text)),
  });
  res.end(text);
}

function contentLength(req: IncomingMessage): number {
  const n = Number(req.headers['content-length'] ?? 0);
  return Number.isSafeInteger(n) && n > 0 ? n : 0;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new RegistryError(400, 'NAME_INVALID', 'the path is not validly escaped');
  }
}

/** One range in bytes; undefined when there is none or it is of a form that may be ignored (RFC 9110 §14.2). */
function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const m = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!m || (m[1] === '' && m[2] === '')) return undefined;
  const start = m[1] === '' ? Math.max(0, size - Number(m[2])) : Number(m[1]);
  const end = m[1] === '' || m[2] === '' ? size - 1 : Math.min(Number(m[2]), size - 1);
  if (start >= size || (m[1] === '' && Number(m[2]) === 0)) return 'unsatisfiable';
  return start > end ? undefined : { start, end };
}

/** A body whose reader may stop without tearing down the connection that its answer must go through. */
const chunks = (req: IncomingMessage) => req.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;

async function readBody(req: IncomingMessage, limit: number): Promise<Buffer> {
  const tooLarge = () =>
    new RegistryError(413, 'MANIFEST_INVALID', `a manifest may have at most ${limit} bytes`);
  if (contentLength(req) > limit) throw tooLarge();
  const parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of chunks(req)) {
    size += chunk.length;
    if (size > limit) throw tooLarge();
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

const MANIFESTS: string[] = [MEDIA.ociManifest, MEDIA.dockerManifest];
const INDEXES: string[] = [MEDIA.ociIndex, MEDIA.dockerIndex];

function checkManifest(
  body: Buffer,
  contentType: string,
): { mediaType: string; doc: Partial<ImageManifest> & Partial<ImageIndex> } {
  const invalid = (why: string) => new RegistryError(400, 'MANIFEST_INVALID', why);
  let doc: Partial<ImageManifest> & Partial<ImageIndex>;
  try {
    doc = JSON.parse(body.toString());
  } catch (e) {
    throw invalid(`the manifest is not JSON: ${(e as Error).message}`);
  }
  if (typeof doc !== 'object' || doc === null || (doc.schemaVersion as number) !== 2) {
    throw invalid('schemaVersion must be 2');
  }
  const mediaType = doc.mediaType ?? contentType;
  if (contentType && mediaType !== contentType) {
    throw invalid(`its mediaType is ${mediaType}, its Content-Type ${contentType}`);
  }
  const isDescriptor = (d: unknown): d is Descriptor => {
    const { digest, size, mediaType: type } = (d ?? {}) as Descriptor;
    return isDigest(String(digest)) && Number.isSafeInteger(size) && size >= 0 && typeof type === 'string';
  };
  const descriptors = (value: unknown): boolean => Array.isArray(value) && value.every(isDescriptor);
  if (doc.subject !== undefined && !isDescriptor(doc.subject)) throw invalid('subject is not a descriptor');
  if (MANIFESTS.includes(mediaType)) {
    if (!isDescriptor(doc.config) || !descriptors(doc.layers)) {
      throw invalid('config and layers must be descriptors with mediaType, digest and size');
    }
    return { mediaType, doc: { ...doc, manifests: undefined } };
  }
  if (INDEXES.includes(mediaType)) {
    if (!descriptors(doc.manifests))
      throw invalid('manifests must be descriptors with mediaType, digest and size');
    return { mediaType, doc: { ...doc, config: undefined, layers: undefined } };
  }
  throw invalid(`unsupported media type "${mediaType}": an OCI or Docker v2 manifest or index is needed`);
}

function readToken(file: string): Buffer {
  try {
    const token = readFileSync(file, 'utf8').trim();
    if (token.length >= 16) return Buffer.from(token);
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
  }
  const token = randomBytes(24).toString('base64url');
  writeFileAtomic(file, `${token}\n`, 0o600);
  return Buffer.from(token);
}
