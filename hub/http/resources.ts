import type { Pod } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { ApiError, badRequest, isApiError, qualifiedResource } from '../../api/meta/errors.js';
import type { ObjectKey } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import type { RegistryVerbs, RequestContext, Subresource } from '../registry/api.js';
import { PATCH_TYPES } from '../registry/api.js';
import { settled } from '../registry/unconverted.js';
import type { NodeStreams, PodConnections } from '../streams.js';
import { decodeBody, summaryOf } from './body.js';
import { checkForm, type Encoder, type Form, formOf } from './encode.js';
import {
  asApiError,
  type Chunks,
  errorReply,
  methodNotAllowed,
  noSuchResource,
  type Reply,
  type Request,
} from './message.js';
import { contentType, negotiate, unsupportedMediaType } from './negotiate.js';
import {
  applyOptions,
  contextOf,
  integer,
  isWatch,
  listQuery,
  OPTIONS_KIND,
  watchQuery,
  withName,
} from './params.js';
import { podLog } from './podlog.js';
import type { Target } from './route.js';
import { type Connectable, optionsObject } from './streams/options.js';
import { watchDuration, watchLines } from './watch.js';

/** What the verbs work with. */
export interface Backend {
  registry: RegistryVerbs;
  encoder: Encoder;
  clock: Clock;
  streams?: NodeStreams;
  connections?: PodConnections;
}

/** One request for a resource, understood but not yet carried out. */
export interface Call {
  target: Target;
  verb: string;
  query: URLSearchParams;
  run(backend: Backend, call: Call, req: Request): Promise<Reply>;
  /** Watches and logs last as long as the client likes. */
  longRunning: boolean;
  /** Throws Forbidden unless the user may do this to the target as well. */
  demand?: (verb: string) => void;
}

type Run = Call['run'];
interface Operation {
  verb: string;
  run: Run;
  longRunning?: boolean;
}

const keyOfTarget = (t: Target): ObjectKey => ({ namespace: t.namespace, name: t.name! });

const context = (call: Call, req: Request): RequestContext =>
  contextOf(req.user, call.query, OPTIONS_KIND[call.verb] ?? 'ListOptions', req.headers['user-agent']);

/** How the answer must look; asked before the work is done, so that nothing is written for a client that cannot read the answer. */
function form(call: Call, req: Request, answer: 'object' | 'list'): Form {
  const f = formOf(negotiate(req.headers.accept), call.query, req.headers['user-agent']);
  if (f.wanted.discovery) f.wanted = { format: f.wanted.format };
  checkForm(f, answer);
  const { kind } = call.target;
  // A question that is answered and never stored has no columns.
  if (f.wanted.as === 'Table' && kind.verbs && !kind.verbs.includes('get'))
    throw new ApiError(
      'NotAcceptable',
      `the resource ${qualifiedResource(kind.plural, kind.group)} does not support being converted to a Table`,
    );
  return f;
}

/** Kubernetes' `Warning` headers: code 299, unknown agent, quoted text (RFC 7234 5.5). */
export function warn(reply: Reply, warnings: readonly string[]): Reply {
  if (warnings.length > 0) {
    const texts = warnings.slice(0, 64).map((w) => {
      const plain = w.replace(/[^\x20-\x7e]/g, '?').slice(0, 1024);
      return `299 - "${plain.replace(/["\\]/g, '\\$&')}"`;
    });
    reply.headers['warning'] = [...texts, ...(reply.headers['warning'] ?? [])];
  }
  return reply;
}

const subresourceOf = (call: Call): Subresource | undefined =>
  call.target.subresource as Subresource | undefined;

const get: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  const { kind } = call.target;
  const ctx = { ...context(call, req), resourceVersion: call.query.get('resourceVersion') ?? undefined };
  const o = await settled(() => b.registry.get(ctx, kind, keyOfTarget(call.target), subresourceOf(call)));
  return b.encoder.object(kind, o, f);
};

const list: Run = async (b, call, req) => {
  const f = form(call, req, 'list');
  const { kind, namespace } = call.target;
  const query = listQuery(call.query, namespace);
  return b.encoder.list(kind, await settled(() => b.registry.list(context(call, req), kind, query)), f);
};

const ask: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  const { kind } = call.target;
  const ctx = context(call, req);
  try {
    const o = await b.registry.ask(ctx, kind, keyOfTarget(call.target));
    return warn(await b.encoder.object(kind, o, f), ctx.warnings);
  } catch (e) {
    // Why it is not found, for one.
    return warn(errorReply(asApiError(e)), ctx.warnings);
  }
};

const askAll: Run = async (b, call, req) => {
  const f = form(call, req, 'list');
  const { kind, namespace } = call.target;
  const ctx = context(call, req);
  const result = await b.registry.askAll(ctx, kind, listQuery(call.query, namespace));
  return warn(await b.encoder.list(kind, result, f), ctx.warnings);
};

const watch: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  // Lines must stay lines.
  f.pretty = false;
  if (f.wanted.format !== 'json') throw badRequest('a watch is served as JSON only');
  const { kind, namespace, name } = call.target;
  const query = watchQuery(call.query, namespace, b.registry.resourceVersion);
  if (name) query.fieldSelector = withName(query.fieldSelector, name);
  query.endsIn = watchDuration(integer(call.query, 'timeoutSeconds'), b.clock);
  const watcher = b.registry.watch(context(call, req), kind, query);
  return {
    status: 200,
    headers: { 'content-type': 'application/json', 'cache-control': 'no-cache, private' },
    body: watchLines(watcher, kind, b.encoder, f, query.endsIn, b.clock, req.signal()),
    longRunning: true,
  };
};

const create: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  const ctx = context(call, req);
  const { kind, namespace } = call.target;
  const body = await readBody(req, ctx, kind.kind);
  return warn(
    await b.encoder.object(kind, await b.registry.create(ctx, kind, namespace, body), f, 201),
    ctx.warnings,
  );
};

const update: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  let made = false;
  const checkCreate = () => {
    made = true;
    call.demand?.('create');
  };
  const ctx = { ...context(call, req), checkCreate };
  const { kind } = call.target;
  const body = await readBody(req, ctx, subresourceOf(call) === 'scale' ? 'Scale' : kind.kind);
  const o = await b.registry.update(ctx, kind, keyOfTarget(call.target), body, subresourceOf(call));
  return warn(await b.encoder.object(kind, o, f, made ? 201 : 200), ctx.warnings);
};

const PATCHES: readonly string[] = Object.values(PATCH_TYPES);

const patch: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  const ctx = { ...context(call, req), checkCreate: () => call.demand?.('create') };
  const type = contentType(req.headers['content-type']);
  if (!PATCHES.includes(type)) throw unsupportedMediaType(PATCHES);
  const { kind } = call.target;
  const key = keyOfTarget(call.target);
  const isApply = type === PATCH_TYPES.apply;
  const options = applyOptions(call.query, isApply);
  const body = await readBody(req, ctx, undefined, isApply ? 'application/yaml' : type);
  if (isApply) {
    const { object, created } = await b.registry.apply(ctx, kind, key, body, options, subresourceOf(call));
    return warn(await b.encoder.object(kind, object, f, created ? 201 : 200), ctx.warnings);
  }
  const o = await b.registry.patch(ctx, kind, key, type, body, subresourceOf(call));
  return warn(await b.encoder.object(kind, o, f), ctx.warnings);
};

const remove: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  const ctx = context(call, req);
  const { kind } = call.target;
  const options = await deleteOptions(b, call, req);
  const { object, removed } = await b.registry.delete(ctx, kind, keyOfTarget(call.target), options);
  if (!removed) return warn(await b.encoder.object(kind, object, f), ctx.warnings);
  const { name, uid } = object.metadata ?? {};
  const details = { name, ...(kind.group ? { group: kind.group } : {}), kind: kind.plural, uid };
  const status = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', details };
  return warn(await b.encoder.text(`${JSON.stringify(status)}\n`, f, 200), ctx.warnings);
};

const removeAll: Run = async (b, call, req) => {
  const f = form(call, req, 'list');
  const ctx = context(call, req);
  const { kind, namespace } = call.target;
  const options = await deleteOptions(b, call, req);
  const result = await b.registry.deleteCollection(ctx, kind, listQuery(call.query, namespace), options);
  return warn(await b.encoder.list(kind, result, f), ctx.warnings);
};

async function deleteOptions(b: Backend, call: Call, req: Request) {
  const body = await req.body();
  const decoded = body.length > 0 ? await decodeBody(body, req.headers['content-type']) : undefined;
  return b.registry.deleteOptions(decoded, Object.fromEntries(call.query));
}

/**
 * The body of a verb that must have one. Notes in the context what is in it twice, when the client wants to hear of it.
 * `must` is the kind of object that it has to be, if any: what cannot be read is told as Kubernetes tells it.
 */
async function readBody(
  req: Request,
  ctx: RequestContext,
  must: string | undefined,
  type = req.headers['content-type'],
): Promise<unknown> {
  const body = await req.body();
  try {
    return await decodeBody(body, type, ctx.fieldValidation === 'Ignore' ? undefined : ctx.duplicates);
  } catch (e) {
    if (must === undefined || !isApiError(e, 'BadRequest')) throw e;
    throw badRequest(
      `the object provided is unrecognized (must be of type ${must}): couldn't get version/kind; json parse error: ${e.message} (${summaryOf(body)})`,
    );
  }
}

const created = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', code: 201 };

/** A POST to a part of a pod that answers with nothing but success. */
const podAction =
  (act: 'bind' | 'evict'): Run =>
  async (b, call, req) => {
    const f = form(call, req, 'object');
    const ctx = context(call, req);
    const body = await readBody(req, ctx, act === 'bind' ? 'Binding' : 'Eviction');
    await b.registry[act](ctx, keyOfTarget(call.target), body);
    return warn(await b.encoder.text(`${JSON.stringify(created)}\n`, f, 201), ctx.warnings);
  };

const token: Run = async (b, call, req) => {
  const f = form(call, req, 'object');
  const ctx = context(call, req);
  const body = await readBody(req, ctx, 'TokenRequest');
  const answer = await b.registry.requestToken(ctx, keyOfTarget(call.target), body);
  return warn(await b.encoder.text(`${JSON.stringify(answer)}\n`, f, 201), ctx.warnings);
};

const log: Run = async (b, call, req) => {
  const pod = b.registry.get(
    context(call, req),
    call.target.kind,
    keyOfTarget(call.target),
  ) as unknown as Frozen<Pod>;
  const reply = await podLog(pod, call.query, b.streams, () => req.signal());
  if (req.upgrade !== 'websocket' || typeof reply.body !== 'object') return reply;
  const { logSocket } = await import('./streams/logsocket.js');
  return logSocket(req, reply.body as Chunks);
};

const connect =
  (what: Connectable): Run =>
  async (b, call, req) => {
    // Who may only look may not do this by WebSocket either.
    const ctx = { ...context(call, req), checkCreate: () => call.demand?.('create') };
    const { kind } = call.target;
    const key = keyOfTarget(call.target);
    await b.registry.connect(ctx, kind, key, what, optionsObject(what, call.query));
    const pod = (await b.registry.get(ctx, kind, key)) as unknown as Frozen<Pod>;
    const connections = connectionsOf(b);
    const { connectPod } = await import('./streams/connect.js');
    return warn(await connectPod(what, pod, call.query, req, connections, b.clock), ctx.warnings);
  };

function connectionsOf({ connections }: Backend): PodConnections {
  if (connections) return connections;
  throw new ApiError('ServiceUnavailable', 'this hub has no link to nodes, so it cannot reach into pods');
}

const proxied: Run = async (b, call, req) => {
  const ctx = context(call, req);
  const { kind, namespace } = call.target;
  const key = keyOfTarget(call.target);
  const { proxy, proxyOptions } = await import('./proxy.js');
  await b.registry.connect(ctx, kind, key, 'proxy', proxyOptions(kind, req.url));
  const reply = await proxy(req, {
    kind,
    id: key.name,
    get: async (k, name) => b.registry.get(ctx, k, { namespace, name }),
    connections: connectionsOf(b),
    random: () => b.clock.random(),
  });
  return warn(reply, ctx.warnings);
};

const COLLECTION: Readonly<Record<string, Operation>> = {
  GET: { verb: 'list', run: list },
  POST: { verb: 'create', run: create },
  DELETE: { verb: 'deletecollection', run: removeAll },
};
const ITEM: Readonly<Record<string, Operation>> = {
  GET: { verb: 'get', run: get },
  PUT: { verb: 'update', run: update },
  PATCH: { verb: 'patch', run: patch },
  DELETE: { verb: 'delete', run: remove },
};
const PART: Readonly<Record<string, Operation>> = {
  GET: ITEM['GET']!,
  PUT: ITEM['PUT']!,
  PATCH: ITEM['PATCH']!,
};
/** What there is of a kind that is not stored, as far as its declaration names the verb. */
const ASKED: Readonly<Record<'collection' | 'item', Readonly<Record<string, Operation>>>> = {
  collection: { GET: { verb: 'list', run: askAll }, POST: COLLECTION['POST']! },
  item: { GET: { verb: 'get', run: ask } },
};
const WATCH: Operation = { verb: 'watch', run: watch, longRunning: true };
const connects = (what: Connectable): Readonly<Record<string, Operation>> => {
  const run = connect(what);
  return {
    GET: { verb: 'get', run, longRunning: true },
    POST: { verb: 'create', run, longRunning: true },
  };
};
const POD_PARTS: Readonly<Record<string, Readonly<Record<string, Operation>>>> = {
  log: { GET: { verb: 'get', run: log, longRunning: true } },
  binding: { POST: { verb: 'create', run: podAction('bind') } },
  eviction: { POST: { verb: 'create', run: podAction('evict') } },
  exec: connects('exec'),
  attach: connects('attach'),
  portforward: connects('portforward'),
};

const PROXIED: Readonly<Record<string, Operation>> = Object.fromEntries(
  Object.entries({
    GET: 'get',
    HEAD: 'get',
    POST: 'create',
    PUT: 'update',
    PATCH: 'patch',
    DELETE: 'delete',
    OPTIONS: 'options',
  }).map(([method, verb]) => [method, { verb, run: proxied, longRunning: true }]),
);

/** The methods that a target has. Throws NotFound for a subresource that the kind does not have. */
function operationsOf({ kind, name, subresource }: Target): Readonly<Record<string, Operation>> {
  if (kind.verbs) {
    const all = Object.entries(ASKED[name === undefined ? 'collection' : 'item']);
    const its = all.filter(([, o]) => kind.verbs!.includes(o.verb));
    if (subresource !== undefined || its.length === 0) throw noSuchResource();
    return Object.fromEntries(its);
  }
  if (subresource === undefined) return name === undefined ? COLLECTION : ITEM;
  if (subresource === 'status' && kind.status) return PART;
  if (subresource === 'scale' && kind.scale) return PART;
  if (kind.statusDoors?.includes(subresource)) return PART;
  if (kind.specDoors && Object.hasOwn(kind.specDoors, subresource)) return PART;
  if (kind.group === '') {
    if (kind.plural === 'namespaces' && subresource === 'finalize') return { PUT: ITEM['PUT']! };
    if (kind.plural === 'serviceaccounts' && subresource === 'token')
      return { POST: { verb: 'create', run: token } };
    if (kind.plural === 'pods' && Object.hasOwn(POD_PARTS, subresource)) return POD_PARTS[subresource]!;
    if ((kind.plural === 'pods' || kind.plural === 'services') && subresource === 'proxy') return PROXIED;
  }
  throw noSuchResource();
}

/** Which operation a method on a target is. Throws NotFound or MethodNotAllowed. */
export function callOf(method: string, target: Target, query: URLSearchParams): Call {
  const operations = operationsOf(target);
  let operation = Object.hasOwn(operations, method) ? operations[method] : undefined;
  if (!operation) throw methodNotAllowed();
  if (method === 'GET' && target.subresource === undefined && isWatch(query)) {
    if (target.kind.verbs) throw methodNotAllowed();
    operation = WATCH;
  }
  // Without a namespace, one of many can be looked for but not made.
  const everywhere = target.kind.namespaced && target.namespace === undefined && target.name === undefined;
  if (everywhere && method === 'POST') throw methodNotAllowed();
  return {
    target,
    query,
    verb: operation.verb,
    run: operation.run,
    longRunning: operation.longRunning ?? false,
  };
}
