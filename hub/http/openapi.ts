import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import type { Kind } from '../../api/kinds/kind.js';
import { describedDefinitions, fieldDefinitions } from '../../api/kinds/schema.js';
import { ApiError } from '../../api/meta/errors.js';
import type { Remote } from '../aggregator/remote.js';
import type { Aggregation } from './aggregation.js';
import { rootOf } from './discovery.js';
import { JSON_TYPE, jsonReply, noSuchResource, type Reply } from './message.js';

const zip = promisify(gzip);
const unzip = promisify(gunzip);

/** The protobuf form of v2; client-go asks for the second spelling. */
const PROTO_TYPE = 'application/com.github.proto-openapi.spec.v2.v1.0+protobuf';
const PROTO_TYPES: readonly string[] = [
  PROTO_TYPE,
  'application/com.github.proto-openapi.spec.v2@v1.0+protobuf',
];

const YEAR_MS = 365 * 24 * 3600 * 1000;

const urlOf = (root: string, hash: string): string => `/openapi/v3/${root}?hash=${hash}`;

/** A finished document: compressed, since it is big, rarely asked for, and nearly always by clients that take gzip. */
interface Document {
  type: string;
  etag: string;
  gzipped: Buffer;
}

/**
 * `/openapi/v2`, `/openapi/v3` and a v3 document per group version. Nothing is made before somebody asks, and only the
 * compressed bytes stay.
 */
export class OpenApi {
  readonly #documents = new Map<string, Promise<Document>>();
  /** Of the v3 documents, by path. */
  #hashes: ReadonlyMap<string, string> | undefined;

  constructor(
    private readonly kinds: readonly Kind[],
    private readonly version: string,
    private readonly remotes: readonly Remote[] = [],
    private readonly aggregation?: Pick<Aggregation, 'openApiV2'>,
  ) {}

  /** `hash`: of the version that the client wants, which then never changes; `now`: in ms. */
  async reply(path: string, headers: IncomingHttpHeaders, hash: string | null, now: number): Promise<Reply> {
    this.#hashes ??= this.#makeHashes();
    if (path === '/openapi/v3') {
      const paths = Object.fromEntries(
        [...this.#hashes].map(([root, h]) => [root, { serverRelativeURL: urlOf(root, h) }]),
      );
      for (const { group, version, openapi } of this.remotes) {
        delete paths[`apis/${group}/${version}`];
        if (openapi) paths[`apis/${group}/${version}`] = { serverRelativeURL: openapi };
      }
      return jsonReply(200, JSON.stringify({ paths }));
    }
    const id = path === '/openapi/v2' ? v2Form(headers.accept) : path.slice('/openapi/v3/'.length);
    const known = id === 'v2' || id === 'v2-protobuf' || this.kinds.some((k) => rootOf(k) === id);
    if (!known || !path.startsWith('/openapi/v')) throw noSuchResource();
    if (id !== 'v2-protobuf') checkAccept(headers.accept);
    const current = this.#hashes.get(id);
    if (hash && current && hash !== current)
      return { status: 301, headers: { location: urlOf(id, current), 'content-length': '0' } };

    let made = this.#documents.get(id);
    if (!made) {
      made = this.#make(id);
      this.#documents.set(id, made);
      made.catch(() => this.#documents.delete(id));
    }
    const { type, etag, gzipped } = await made;
    const head = {
      'content-type': type,
      etag,
      vary: 'Accept-Encoding, Accept',
      ...(hash && current
        ? { 'cache-control': 'public, immutable', expires: new Date(now + YEAR_MS).toUTCString() }
        : { 'cache-control': 'no-cache, private' }),
    };
    if (headers['if-none-match']?.includes(etag)) return { status: 304, headers: head };
    if (headers['accept-encoding']?.includes('gzip'))
      return { status: 200, headers: { ...head, 'content-encoding': 'gzip' }, body: gzipped };
    return { status: 200, headers: head, body: await unzip(gzipped) };
  }

  /** Which v3 documents there are, each with a hash that changes when it would (definitions, kinds, version). */
  #makeHashes(): ReadonlyMap<string, string> {
    const build = createHash('sha256')
      .update(JSON.stringify(fieldDefinitions()))
      .update(this.version)
      .digest();
    const hashes = new Map<string, string>();
    for (const root of new Set(this.kinds.map(rootOf))) {
      const hash = createHash('sha256').update(build).update(root);
      for (const k of this.kinds)
        if (rootOf(k) === root) {
          hash.update(`${k.plural} ${k.schema} `);
          if (k.custom) hash.update(JSON.stringify(k.custom.schema));
        }
      hashes.set(root, hash.digest('hex').toUpperCase());
    }
    return hashes;
  }

  async #make(id: string): Promise<Document> {
    const { customDefinitions, openApiV2, openApiV3 } = await import('./openapi-documents.js');
    const described = describedDefinitions();
    const definitions = { ...described, ...customDefinitions(this.kinds, described) };
    const v2 = async () => this.#withRemotes(openApiV2(this.kinds, definitions, this.version));
    let bytes: string | Buffer;
    if (id === 'v2-protobuf') {
      const { encodeOpenApiV2 } = await import('./openapi-protobuf.js');
      bytes = encodeOpenApiV2(await v2());
    } else if (id === 'v2') bytes = JSON.stringify(await v2());
    else {
      const kinds = this.kinds.filter((k) => rootOf(k) === id);
      bytes = JSON.stringify(openApiV3(kinds, definitions, this.version));
    }
    const etag = `"${createHash('sha256').update(bytes).digest('hex').toUpperCase()}"`;
    return {
      type: id === 'v2-protobuf' ? PROTO_TYPE : JSON_TYPE,
      etag,
      gzipped: await zip(bytes, { level: 6 }),
    };
  }

  /** With the paths and definitions of what other servers serve; ours win where both have one. */
  async #withRemotes(own: object): Promise<object> {
    const all = await Promise.all(
      this.remotes.filter((r) => r.available).map((r) => this.aggregation?.openApiV2(r)),
    );
    let merged = own as { paths: object; definitions: object };
    for (const [i, theirs] of all.entries()) {
      const { group, version } = this.remotes.filter((r) => r.available)[i]!;
      const { paths = {}, definitions = {} } = (theirs ?? {}) as { paths?: object; definitions?: object };
      const root = `/apis/${group}/${version}/`;
      merged = {
        ...merged,
        paths: {
          ...Object.fromEntries(Object.entries(paths).filter(([p]) => p.startsWith(root))),
          ...merged.paths,
        },
        definitions: { ...definitions, ...merged.definitions },
      };
    }
    return merged;
  }
}

/** Which of its two forms a client wants `/openapi/v2` in. */
function v2Form(accept = ''): 'v2' | 'v2-protobuf' {
  const first = accept
    .split(',')
    .map((a) => a.split(';')[0]!.trim().toLowerCase())
    .find((t) => t === JSON_TYPE || t === '*/*' || PROTO_TYPES.includes(t));
  return first && PROTO_TYPES.includes(first) ? 'v2-protobuf' : 'v2';
}

function checkAccept(accept: string | undefined): void {
  if (!accept || accept.split(',').some((a) => /^\s*(application\/(json|\*)|\*\/\*)/i.test(a))) return;
  throw new ApiError('NotAcceptable', 'only the following media types are accepted: application/json');
}
