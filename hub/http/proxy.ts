/**
 * pods/NAME/proxy and services/NAME/proxy: HTTP passed on to a pod through the link to its node, so that it works behind
 * any NAT (registry/core/pod and service, ResourceLocation; apimachinery util/proxy).
 */
import { type ClientRequest, request } from 'node:http';
import { Duplex } from 'node:stream';
import { connect as tlsConnect } from 'node:tls';
import type { Endpoints, Pod, Service } from 'kubernetes-types/core/v1.js';
import { endpoints, pods } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import type { AnyObject } from '../../api/meta/object.js';
import { SUB } from '../../api/wire/stream-end.js';
import type { Frozen } from '../client.js';
import { headersOf, relay, replyOf } from '../outbound/relay.js';
import type { PodConnections } from '../streams.js';
import { errorReply, noSuchResource, type Reply, type Request } from './message.js';
import { targetOf } from './streams/options.js';

/** What a request names: `name`, `name:port` or `scheme:name:port` (apimachinery util/net SplitSchemeNamePort). */
export interface Backend {
  scheme: 'http' | 'https';
  name: string;
  /** '' is none. */
  port: string;
}

/** Throws BadRequest. `what` is `pod` or `service`. */
export function backendOf(id: string, what: string): Backend {
  const parts = id.split(':');
  const [scheme, name, port] =
    parts.length === 3 ? (parts as [string, string, string]) : ['', parts[0]!, parts[1] ?? ''];
  if (parts.length > 3 || name === '' || !['', 'http', 'https'].includes(scheme))
    throw badRequest(`invalid ${what} request ${JSON.stringify(id)}`);
  return { scheme: scheme === 'https' ? 'https' : 'http', name, port };
}

/** `/api/…/proxy` and what follows, as the client wrote it. */
export interface ProxyPath {
  prefix: string;
  /** '' or with a slash at its head. */
  path: string;
  /** '' or with its question mark. */
  query: string;
}

const PROXY = /^(\/+api\/+v1\/+namespaces\/+[^/]+\/+(?:pods|services)\/+[^/]+\/+proxy)(\/.*)?$/;

/** Throws NotFound for a path that is spelled in another way. */
export function proxyPath(url: string): ProxyPath {
  const mark = url.indexOf('?');
  const [, prefix, path = ''] = PROXY.exec(mark < 0 ? url : url.slice(0, mark)) ?? [];
  if (prefix === undefined) throw noSuchResource();
  return { prefix, path, query: mark < 0 ? '' : url.slice(mark) };
}

/** PodProxyOptions or ServiceProxyOptions, as admission sees them. */
export const proxyOptions = (kind: Kind, url: string): AnyObject =>
  ({ apiVersion: 'v1', kind: `${kind.kind}ProxyOptions`, path: proxyPath(url).path }) as AnyObject;

/** Reads one object; rejects with NotFound. */
type Get = (kind: Kind, name: string) => Promise<Frozen<AnyObject>>;

interface Location {
  pod: Frozen<Pod>;
  port: number;
}

/** Rejects with ApiError. */
async function podLocation({ name, port, scheme }: Backend, get: Get): Promise<Location> {
  const pod = (await get(pods as unknown as Kind, name)) as unknown as Frozen<Pod>;
  const first = pod.spec?.containers.flatMap((c) => c.ports ?? [])[0]?.containerPort;
  const wanted = port === '' ? (first ?? (scheme === 'https' ? 443 : 80)) : Number(port);
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > 65_535)
    throw badRequest(`invalid port ${JSON.stringify(port)} of pod ${JSON.stringify(name)}`);
  if (!pod.status?.podIP) throw badRequest('address not allowed');
  return { pod, port: wanted };
}

/** One of the pods behind the Service's port: ready ones only. Rejects with ApiError. */
async function serviceLocation(
  id: string,
  { name, port }: Backend,
  service: Kind,
  get: Get,
  random: () => number,
): Promise<Location> {
  let portName = port;
  if (/^\d+$/.test(port)) {
    const { spec } = (await get(service, name)) as unknown as Frozen<Service>;
    const found = spec?.ports?.find((p) => p.port === Number(port));
    if (!found)
      throw unavailable(`no service port ${Number(port)} found for service ${JSON.stringify(name)}`);
    portName = found.name ?? '';
  }
  const { subsets } = (await get(endpoints as unknown as Kind, name)) as unknown as Frozen<Endpoints>;
  if (!subsets?.length) throw unavailable(`no endpoints available for service ${JSON.stringify(name)}`);
  const all = subsets.flatMap((s) => {
    const to = s.ports?.find((p) => (p.name ?? '') === portName);
    return to ? (s.addresses ?? []).map((a) => ({ ...a, port: to.port })) : [];
  });
  const start = Math.floor(random() * all.length);
  for (let i = 0; i < all.length; i++) {
    const { ip, port: to, targetRef } = all[(start + i) % all.length]!;
    // What is no pod is not for strangers to reach through the hub.
    if (targetRef?.kind !== 'Pod' || !targetRef.name) continue;
    const pod = (await get(pods as unknown as Kind, targetRef.name).catch(() => undefined)) as
      | Frozen<Pod>
      | undefined;
    if (pod?.status?.podIPs?.some((a) => a.ip === ip)) return { pod, port: to };
  }
  throw unavailable(`no endpoints available for service ${JSON.stringify(id)}`);
}

const unavailable = (why: string): ApiError => new ApiError('ServiceUnavailable', why);

export interface ProxyOptions {
  kind: Kind;
  /** The name in the path, with scheme and port where it has them. */
  id: string;
  get: Get;
  connections: PodConnections;
  random: () => number;
}

/** Passes a request on. Rejects with ApiError before there is a connection; what fails later is told in the reply. */
export async function proxy(req: Request, o: ProxyOptions): Promise<Reply> {
  const { kind, id } = o;
  const { prefix, path, query } = proxyPath(req.url);
  const service = kind.plural === 'services';
  const backend = backendOf(id, service ? 'service' : 'pod');
  const { pod, port } = service
    ? await serviceLocation(id, backend, kind, o.get, o.random)
    : await podLocation(backend, o.get);
  // Relative links of a page lead nowhere without the slash (https://issue.k8s.io/4958).
  if (path === '' && !req.upgrade && (req.method === 'GET' || req.method === 'HEAD'))
    return { status: 301, headers: { location: `${prefix}/${query}` } };
  const node = pod.spec?.nodeName ?? '';
  o.connections.mayConnect(node);
  let why: Error | undefined;
  let out: ClientRequest;
  const failed = (e: Error): Reply =>
    errorReply(unavailable(`error trying to reach service: ${(why ?? e).message}`));
  try {
    const options = { ...targetOf(pod), port };
    const stream = await o.connections.connect(node, 'forward', options, req.signal());
    stream.done.catch((e: Error) => {
      why = e;
    });
    const raw = Duplex.from({
      readable: stream.end.readable(SUB.stdout),
      writable: stream.end.writable(SUB.stdin, { closes: true }),
    });
    raw.once('close', stream.cancel);
    // Told by the request that it belongs to.
    raw.on('error', () => {});
    // As in Kubernetes, nobody knows which certificate a pod should have.
    const socket = backend.scheme === 'https' ? tlsConnect({ socket: raw, rejectUnauthorized: false }) : raw;
    out = request({
      // Without an agent, thus never reused: it belongs to this user and this pod.
      createConnection: () => socket,
      method: req.method,
      path: `${path === '' ? '/' : path}${query}`,
      headers: {
        connection: 'close',
        ...headersOf(req),
        host: req.headers.host ?? req.headers[':authority']?.toString() ?? pod.status!.podIP!,
        'x-forwarded-uri': `${prefix}${path}`,
      },
    });
    const end = () => raw.destroy();
    out.once('close', end);
    // From then on it is its taker's.
    out.once('upgrade', () => out.off('close', end));
  } catch (e) {
    return failed(e as Error);
  }
  return relay(req, out, {
    failed,
    answered: (res) => {
      const reply = replyOf(res);
      const { location } = res.headers;
      if (location)
        reply.headers['location'] = moved(location, prefix, [req.headers.host, pod.status!.podIP]);
      return reply;
    },
  });
}

/** A redirect to another path of the pod leads through the proxy again (util/proxy Transport.rewriteURL). */
export function moved(location: string, prefix: string, own: readonly (string | undefined)[]): string {
  const absolute = /^https?:\/\/([^/?#]+)(.*)$/is.exec(location);
  const host = absolute?.[1];
  if (host && !own.some((h) => h && (host === h || host.replace(/:\d+$/, '') === h))) return location;
  const path = absolute ? absolute[2] || '/' : location;
  if (!path.startsWith('/') || path.startsWith('//')) return location;
  return path.startsWith(`${prefix}/`) ? path : prefix + path;
}
