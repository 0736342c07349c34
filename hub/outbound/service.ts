/** From a reference to a Service to an address that the hub can dial (apiserver pkg/util/proxy ResolveEndpoint). */
import type { Kind } from '../../api/kinds/kind.js';
import type { AnyObject } from '../../api/meta/object.js';
import { matchesAll, requirementsOf } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import type { World } from '../registry/admission/plugin.js';
import type { Endpoint } from './transport.js';

/** What is to be asked: a URL, or a Service of the cluster (apiextensions and admissionregistration WebhookClientConfig). */
export interface ClientConfig {
  readonly url?: string;
  readonly service?: {
    readonly namespace: string;
    readonly name: string;
    readonly path?: string;
    readonly port?: number;
  };
  /** PEM in base64; absent or blank: the machine's own roots. */
  readonly caBundle?: unknown;
}

/** What it takes to find a Service's address. */
export interface Directory {
  readonly world: World;
  readonly kinds: () => readonly Kind[];
  /** In [0, 1). */
  readonly random: () => number;
}

interface ServicePort {
  name?: string;
  port: number;
  targetPort?: number | string;
}
interface ServiceSpec {
  type?: string;
  externalName?: string;
  selector?: Record<string, string>;
  ports?: ServicePort[];
}
interface Slice {
  endpoints?: { addresses?: string[]; conditions?: { ready?: boolean } }[];
  ports?: { name?: string; port?: number }[];
}
interface Endpoints {
  subsets?: { addresses?: { ip: string }[]; ports?: { name?: string; port: number }[] }[];
}
interface PodParts {
  spec?: { containers?: { ports?: { name?: string; containerPort: number }[] }[] };
  status?: { podIP?: string; conditions?: { type: string; status: string }[] };
}

export interface Address {
  host: string;
  port: number;
}

const isReady = (p: PodParts): boolean =>
  p.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false;

/** Where a webhook is, `seconds` being the time that a call may take. Throws in client-go's words when nothing is there. */
export function endpointOf(
  { url, service, caBundle }: ClientConfig,
  { world, kinds, random }: Directory,
  seconds: number,
): Endpoint {
  const pem = caBundle ? Buffer.from(String(caBundle), 'base64').toString('utf8') : '';
  const ca = pem.trim() ? pem : undefined;
  if (url !== undefined) {
    const u = new URL(url);
    const host = u.hostname.replace(/^\[|\]$/g, '');
    return { url, host, port: Number(u.port || 443), path: u.pathname, serverName: host, ca };
  }
  const { namespace, name, path = '/', port = 443 } = service!;
  const serverName = `${name}.${namespace}.svc`;
  const shown = `https://${serverName}:${port}${path}`;
  try {
    const at = resolveService(world, kinds(), { namespace, name, port }, random());
    return { url: shown, ...at, path, serverName, ca };
  } catch (e) {
    throw new Error(`Post ${JSON.stringify(`${shown}?timeout=${seconds}s`)}: ${(e as Error).message}`);
  }
}

/**
 * Where the Service's port leads: through EndpointSlices, Endpoints or, where nobody writes those, the pods themselves.
 * Throws Kubernetes' words. `pick` is in [0, 1).
 */
export function resolveService(
  world: World,
  kinds: readonly Kind[],
  { namespace, name, port }: { namespace: string; name: string; port: number },
  pick: number,
): Address {
  const kind = (group: string, plural: string) => kinds.find((k) => k.group === group && k.plural === plural);
  const services = kind('', 'services');
  const service = services && world.get(services, { namespace, name });
  if (!service) throw new Error(`service ${JSON.stringify(name)} not found`);
  const spec = (service['spec'] ?? {}) as ServiceSpec;
  if (spec.type === 'ExternalName') return { host: spec.externalName ?? '', port };
  const wanted = spec.ports?.find((p) => p.port === port);
  if (!wanted) throw new Error(`no service port ${port} found for service ${JSON.stringify(name)}`);
  const found = [
    ...fromSlices(world, kind('discovery.k8s.io', 'endpointslices'), namespace, name, wanted),
    ...fromEndpoints(world, kind('', 'endpoints'), namespace, name, wanted),
  ];
  if (found.length === 0) found.push(...fromPods(world, kind('', 'pods'), namespace, spec, wanted));
  if (found.length === 0) throw new Error(`no endpoints available for service ${JSON.stringify(name)}`);
  return found[Math.floor(pick * found.length)]!;
}

function fromSlices(
  world: World,
  kind: Kind | undefined,
  namespace: string,
  name: string,
  wanted: ServicePort,
): Address[] {
  if (!kind) return [];
  return world.scan(kind, namespace).flatMap((o) => {
    if (o.metadata?.labels?.['kubernetes.io/service-name'] !== name) return [];
    const { endpoints = [], ports = [] } = o as unknown as Slice;
    const port = ports.find((p) => (p.name ?? '') === (wanted.name ?? ''))?.port;
    if (port === undefined) return [];
    return endpoints
      .filter((e) => e.conditions?.ready !== false)
      .flatMap((e) => (e.addresses ?? []).slice(0, 1).map((host) => ({ host, port })));
  });
}

function fromEndpoints(
  world: World,
  kind: Kind | undefined,
  namespace: string,
  name: string,
  wanted: ServicePort,
): Address[] {
  const o = kind && (world.get(kind, { namespace, name }) as unknown as Endpoints | undefined);
  return (o?.subsets ?? []).flatMap((s) => {
    const port = s.ports?.find((p) => (p.name ?? '') === (wanted.name ?? ''))?.port;
    return port === undefined ? [] : (s.addresses ?? []).map(({ ip }) => ({ host: ip, port }));
  });
}

function fromPods(
  world: World,
  kind: Kind | undefined,
  namespace: string,
  spec: ServiceSpec,
  wanted: ServicePort,
): Address[] {
  if (!kind || !spec.selector || Object.keys(spec.selector).length === 0) return [];
  const selector = requirementsOf({ matchLabels: spec.selector });
  return world.scan(kind, namespace).flatMap((o: Frozen<AnyObject>) => {
    if (!matchesAll(selector, o.metadata?.labels)) return [];
    const pod = o as unknown as PodParts;
    const host = pod.status?.podIP;
    if (!host || !isReady(pod)) return [];
    const { targetPort = wanted.port } = wanted;
    const port =
      typeof targetPort === 'number'
        ? targetPort
        : pod.spec?.containers?.flatMap((c) => c.ports ?? []).find((p) => p.name === targetPort)
            ?.containerPort;
    return port === undefined ? [] : [{ host, port }];
  });
}
