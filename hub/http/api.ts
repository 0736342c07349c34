import { createHash } from 'node:crypto';
import type { FlowSchema, PriorityLevelConfiguration } from 'kubernetes-types/flowcontrol/v1.js';
import type { Clock } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import type { Log } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { parseFieldSelector } from '../../api/meta/selector.js';
import type { Remote } from '../aggregator/remote.js';
import { type Attributes, type Authorizer, demand, type User } from '../auth/attributes.js';
import { actingUser } from '../auth/impersonate.js';
import type { Frozen } from '../client.js';
import type { RegistryVerbs } from '../registry/api.js';
import type { NodeStreams, PodConnections } from '../streams.js';
import type { Aggregation } from './aggregation.js';
import { aggregatedDiscovery, discoveryDocuments, indexDocument } from './discovery.js';
import { Encoder, formOf } from './encode.js';
import { Fairness, type FairnessLimits } from './fairness.js';
import {
  asApiError,
  errorReply,
  isChunks,
  jsonReply,
  methodNotAllowed,
  noSuchResource,
  type Reply,
  type Request,
  textReply,
  untilRead,
} from './message.js';
import { Metrics } from './metrics.js';
import { negotiate } from './negotiate.js';
import { OpenApi } from './openapi.js';
import { timeoutOf } from './params.js';
import { attributesOf } from './requestinfo.js';
import { type Backend, callOf, warn } from './resources.js';
import { Router, segmentsOf } from './route.js';

/** One part of the hub whose state decides whether the hub is well. */
export interface HealthCheck {
  name: string;
  /** What is wrong now, for the log; undefined when all is well. */
  failing(): string | undefined;
}

export interface ApiOptions {
  registry: RegistryVerbs;
  authorizer: Authorizer;
  /** More documents by path, as JSON text: those of OpenID discovery. */
  documents?: Readonly<Record<string, string>>;
  clock: Clock;
  log: Log;
  /** Reaches into nodes for logs; without it `pods/log` answers ServiceUnavailable. */
  streams?: NodeStreams;
  /** Group versions that other servers serve, and the way to them. */
  aggregation?: Aggregation;
  /** Reaches into pods for exec, attach and port-forward; without it these answer ServiceUnavailable. */
  connections?: PodConnections;
  /** What `kubectl version` shows, e.g. `v1.36.0+coxswain0.1.0`. */
  version: string;
  /** Looked at by `/livez`, `/readyz` and `/healthz`. */
  health?: readonly HealthCheck[];
  /** How many requests are answered at the same time and may wait; more get 429. */
  limits?: Partial<FairnessLimits>;
}

const NO_REMOTES: readonly Remote[] = [];
/** What goes on as long as the client likes. */
const LONG_PARTS: ReadonlySet<string> = new Set(['attach', 'exec', 'log', 'portforward', 'proxy']);
const MAX_URL = 32 << 10;
const NO_QUERY = new URLSearchParams();
const VERB_OF_PATH: Readonly<Record<string, string>> = {
  GET: 'get',
  HEAD: 'get',
  POST: 'post',
  PUT: 'put',
  PATCH: 'patch',
  DELETE: 'delete',
};

interface Served {
  kinds: readonly Kind[];
  remotes: readonly Remote[];
  router: Router;
  openapi: OpenApi;
  /** Discovery, by path, as JSON text. */
  documents: Map<string, string>;
  /** Discovery in one document, made when it is first asked for; clients keep it as long as its tag is right. */
  aggregated(path: '/api' | '/apis', version: string): { text: string; etag: string };
}

/** The API as a function from request to reply: authorization, routing, verbs. Knows nothing of sockets. */
export class Api {
  readonly #backend: Backend;
  readonly #metrics = new Metrics();
  readonly #fairness: Fairness;
  #served: Served | undefined;

  constructor(private readonly options: ApiOptions) {
    const { registry, clock, streams, connections } = options;
    this.#backend = { registry, clock, streams, connections, encoder: new Encoder(() => clock.now()) };
    this.#fairness = new Fairness(clock, options.limits);
  }

  get #checks(): readonly HealthCheck[] {
    return [{ name: 'ping', failing: () => undefined }, ...(this.options.health ?? [])];
  }

  /** What depends on which kinds there are; made anew when they change. */
  get #now(): Served {
    const { registry, version } = this.options;
    const { kinds } = registry;
    const remotes = this.options.aggregation?.table.remotes ?? NO_REMOTES;
    if (this.#served?.kinds !== kinds || this.#served.remotes !== remotes) {
      const documents = discoveryDocuments(kinds, remotes);
      documents.set('/version', versionDocument(version));
      for (const [path, text] of Object.entries(this.options.documents ?? {})) documents.set(path, text);
      documents.set(
        '/',
        indexDocument(
          kinds,
          this.#checks.map((c) => c.name),
          remotes,
        ),
      );
      const made = new Map<string, { text: string; etag: string }>();
      this.#served = {
        kinds,
        remotes,
        router: new Router(kinds),
        openapi: new OpenApi(kinds, version, remotes, this.options.aggregation),
        documents,
        aggregated(path, v) {
          let document = made.get(path + v);
          if (!document) {
            const text = aggregatedDiscovery(kinds, path, v, remotes);
            document = { text, etag: `"${createHash('sha256').update(text).digest('hex').toUpperCase()}"` };
            made.set(path + v, document);
          }
          return document;
        },
      };
    }
    return this.#served;
  }

  /** Never rejects: whatever goes wrong is the reply. */
  async handle(req: Request): Promise<Reply> {
    let acting = req;
    let reply: Reply;
    try {
      const user = actingUser(this.options.authorizer, req.user, req.headers);
      if (user !== req.user) acting = requestAs(req, user);
      reply = await this.#answer(acting);
    } catch (e) {
      const error = asApiError(e);
      if (error.reason === 'InternalError') {
        this.options.log.error({ err: e, method: req.method, url: req.url.slice(0, 512) }, 'request failed');
      }
      reply = errorReply(error);
    }
    if (acting.schema?.headers) Object.assign(reply.headers, acting.schema.headers);
    return reply;
  }

  /** Shares seats by these objects from now on. */
  shareBy(schemas: Iterable<Frozen<FlowSchema>>, levels: Iterable<Frozen<PriorityLevelConfiguration>>): void {
    this.#fairness.configure(schemas, levels);
  }

  #answer(req: Request): Promise<Reply> | Reply {
    if (req.url.length > MAX_URL) return textReply(414, `414 URI Too Long: the limit is ${MAX_URL}\n`);
    const mark = req.url.indexOf('?');
    const path = mark < 0 ? req.url : req.url.slice(0, mark);
    const query = mark < 0 ? NO_QUERY : new URLSearchParams(req.url.slice(mark + 1));
    const segments = segmentsOf(path);

    if (segments[0] === 'api' && segments.length > 2)
      return this.#resource(req, segments[1]!, segments.slice(2), query);
    const remote = this.#now.remotes.length > 0 ? this.#remoteOf(segments) : undefined;
    if (remote) return this.#forward(req, remote, path, segments.slice(3), query);
    if (segments[0] === 'apis' && segments.length > 3) {
      return this.#resource(req, `${segments[1]}/${segments[2]}`, segments.slice(3), query);
    }
    const what = { verb: VERB_OF_PATH[req.method] ?? req.method.toLowerCase(), path };
    req.schema = this.#fairness.schemaOf(req.user, what);
    this.#demand(req, what);
    const documents = () => this.#document(req, `/${segments.join('/')}`, segments, query);
    // Whoever asks whether the hub is well learns it however busy it is.
    return HEALTH.has(segments[0] ?? '') ? documents() : this.#limited(req, query, what, documents);
  }

  #demand(req: Request, what: Attributes): void {
    demand(this.options.authorizer, req.user, what);
  }

  async #resource(req: Request, gv: string, path: string[], asked: URLSearchParams): Promise<Reply> {
    // `/api/v1/watch/…` is the old way to say `?watch=true`.
    const watch = path[0] === 'watch' && path.length > 1;
    const segments = watch ? path.slice(1) : path;
    const query = watch ? new URLSearchParams(asked) : asked;
    if (watch) query.set('watch', 'true');
    const target = this.#now.router.resolve(gv, segments);
    if (watch && (req.method !== 'GET' || target.subresource !== undefined)) throw methodNotAllowed();
    const call = callOf(req.method, target, query);
    const { kind, namespace, name, subresource } = target;
    const looks = call.verb === 'list' || call.verb === 'watch';
    const fieldSelector = looks ? (query.get('fieldSelector') ?? undefined) : undefined;
    const attributes = {
      verb: call.verb,
      resource: kind.plural,
      subresource,
      group: kind.group,
      namespace: namespace ?? (kind.plural === 'namespaces' && kind.group === '' ? name : undefined),
      name: name ?? (fieldSelector && nameIn(fieldSelector)),
      fieldSelector,
    };
    const schema = this.#fairness.schemaOf(req.user, attributes);
    req.schema = schema;
    this.#demand(req, attributes);
    call.demand = (verb) => this.#demand(req, { ...attributes, verb });
    const run = async () => {
      try {
        const reply = await call.run(this.#backend, call, req);
        this.#metrics.count(kind, call.verb, subresource, reply.status);
        return kind.deprecation ? warn(reply, [kind.deprecation]) : reply;
      } catch (e) {
        this.#metrics.count(kind, call.verb, subresource, asApiError(e).code);
        throw e;
      }
    };
    if (!call.longRunning) return this.#limited(req, query, attributes, run);
    // A watch is work only while it begins.
    const watches = call.verb === 'watch';
    return this.#longRunning(req, () => (watches ? this.#limited(req, query, attributes, run) : run()));
  }

  /** Who serves what a path asks for, when it is not us. */
  #remoteOf([root, group, version]: readonly string[]): Remote | undefined {
    if (root !== 'apis' || version === undefined) return undefined;
    return this.#now.remotes.find((r) => r.group === group && r.version === version);
  }

  /** To the server that serves it, when the user may. `rest` is what follows the group version. */
  async #forward(
    req: Request,
    remote: Remote,
    path: string,
    rest: readonly string[],
    query: URLSearchParams,
  ): Promise<Reply> {
    const what: Attributes = rest.length
      ? attributesOf(req.method, remote.group, rest, query)
      : { verb: VERB_OF_PATH[req.method] ?? req.method.toLowerCase(), path };
    req.schema = this.#fairness.schemaOf(req.user, what);
    this.#demand(req, what);
    const run = () => this.options.aggregation!.forward(remote, req);
    const long = req.upgrade !== undefined || what.verb === 'watch' || LONG_PARTS.has(rest.at(-1) ?? '');
    return long ? this.#longRunning(req, run) : this.#limited(req, query, what, run);
  }

  /** Counted until the client has gone. */
  async #longRunning(req: Request, run: () => Promise<Reply>): Promise<Reply> {
    const release = this.#fairness.enterLongRunning(req.user.name, req.schema!.level.exempt);
    if (!release) return tooMany();
    try {
      const reply = await run();
      // Fires at the end of every exchange.
      const signal = req.signal();
      if (signal.aborted) release();
      else signal.addEventListener('abort', release, { once: true });
      return reply;
    } catch (e) {
      release();
      throw e;
    }
  }

  /** Runs when it is the user's turn; answers 504 when it takes too long, 429 when too many wait. */
  async #limited(
    req: Request,
    query: URLSearchParams,
    what: Attributes,
    run: () => Promise<Reply> | Reply,
  ): Promise<Reply> {
    const timeout = timeoutOf(query);
    const entered = this.#fairness.enter(req.schema!, req.user, what, () => req.signal());
    const release = entered instanceof Promise ? await entered : entered;
    if (!release) return tooMany();
    const running = (async () => run())();
    // A list that is still being sent is work; so is what goes on after its time was up.
    running.then((reply) => {
      if (isChunks(reply.body)) reply.body = untilRead(reply.body, release);
      else release();
    }, release);
    return inTime(running, this.options.clock, timeout);
  }

  /** Everything that is not a resource. */
  #document(req: Request, path: string, segments: string[], query: URLSearchParams): Promise<Reply> | Reply {
    const get = req.method === 'GET' || req.method === 'HEAD';
    if (HEALTH.has(segments[0] ?? '') && segments.length <= 2) {
      if (!get) throw methodNotAllowed();
      return this.#health(segments[0]!, segments[1], query);
    }
    if (segments[0] === 'openapi') {
      if (!get) throw methodNotAllowed();
      const remote = segments[1] === 'v3' ? this.#remoteOf(segments.slice(2)) : undefined;
      if (remote) return this.options.aggregation!.forward(remote, req);
      return this.#now.openapi.reply(path, req.headers, query.get('hash'), this.options.clock.now());
    }
    if (path === '/metrics') {
      if (!get) throw methodNotAllowed();
      const { registry, version, clock } = this.options;
      return this.#metrics.reply(registry.kinds, version, clock.now(), this.#fairness.levels);
    }
    const document = this.#now.documents.get(path);
    if (document === undefined) {
      if (segments[0] === 'api' || segments[0] === 'apis') throw noSuchResource();
      return textReply(404, '404 page not found\n');
    }
    if (!get) throw methodNotAllowed();
    const wanted = negotiate(req.headers.accept);
    if (wanted.discovery && (path === '/api' || path === '/apis')) {
      const { text, etag } = this.#now.aggregated(path, wanted.discovery);
      const headers = { etag, vary: 'Accept', 'cache-control': 'public' };
      if (req.headers['if-none-match']?.includes(etag)) return { status: 304, headers };
      const reply = jsonReply(200, text);
      Object.assign(reply.headers, headers, {
        'content-type': `application/json;g=apidiscovery.k8s.io;v=${wanted.discovery};as=APIGroupDiscoveryList`,
      });
      return reply;
    }
    const form = formOf({ format: wanted.format }, query, req.headers['user-agent']);
    return this.#backend.encoder.text(document, form, 200);
  }

  /** `ok`, or with `?verbose` every check by name, in kube-apiserver's words. */
  #health(endpoint: string, only: string | undefined, query: URLSearchParams): Reply {
    if (only !== undefined) {
      const check = this.#checks.find((c) => c.name === only);
      if (!check) return textReply(404, '404 page not found\n');
      const why = check.failing();
      return why === undefined ? textReply(200, 'ok') : textReply(500, `internal server error: ${why}\n`);
    }
    const excluded = new Set(query.getAll('exclude'));
    const lines: string[] = [];
    let failed = false;
    for (const c of this.#checks) {
      if (excluded.delete(c.name)) {
        lines.push(`[+]${c.name} excluded: ok`);
        continue;
      }
      const why = c.failing();
      if (why === undefined) lines.push(`[+]${c.name} ok`);
      else {
        failed = true;
        this.options.log.warn({ check: c.name, why }, 'health check fails');
        lines.push(`[-]${c.name} failed: reason withheld`);
      }
    }
    if (excluded.size > 0) {
      const names = [...excluded].sort().map((n) => JSON.stringify(n.slice(0, 64)));
      lines.push(
        `warn: some health checks cannot be excluded: no matches for ${names.slice(0, 16).join(', ')}`,
      );
    }
    if (failed) return textReply(500, `${lines.join('\n')}\n${endpoint} check failed\n`);
    return textReply(200, query.has('verbose') ? `${lines.join('\n')}\n${endpoint} check passed\n` : 'ok');
  }
}

/** The same request in the name of another user. */
const requestAs = (req: Request, user: User): Request => ({
  method: req.method,
  url: req.url,
  headers: req.headers,
  user,
  ...(req.incoming ? { incoming: req.incoming } : {}),
  ...(req.upgrade ? { upgrade: req.upgrade } : {}),
  body: () => req.body(),
  signal: () => req.signal(),
});

/** The one name that a field selector asks for: who may see that object may list and watch it. */
const nameIn = (fieldSelector: string): string | undefined =>
  parseFieldSelector(fieldSelector).find((t) => t.field === 'metadata.name' && t.equal)?.value;

const HEALTH: ReadonlySet<string> = new Set(['healthz', 'livez', 'readyz']);

/** As kube-apiserver does, in plain text. */
function tooMany(): Reply {
  const reply = textReply(429, 'Too many requests, please try again later.\n');
  reply.headers['retry-after'] = '1';
  return reply;
}

/** Rejects with 504 when the time is over; what is running runs on. */
function inTime(running: Promise<Reply>, clock: Clock, ms: number): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(ms, () =>
      reject(new ApiError('Timeout', 'Timeout: request did not complete within the allotted timeout', {})),
    );
    running.finally(cancel).then(resolve, reject);
  });
}

/** apimachinery version.Info. */
function versionDocument(gitVersion: string): string {
  const [, major = '', minor = ''] = /^v(\d+)\.(\d+)/.exec(gitVersion) ?? [];
  return JSON.stringify({
    major,
    minor,
    gitVersion,
    gitCommit: '',
    gitTreeState: 'clean',
    buildDate: '1970-01-01T00:00:00Z',
    goVersion: '',
    compiler: 'v8',
    platform: `${process.platform}/${process.arch === 'x64' ? 'amd64' : process.arch}`,
  });
}
