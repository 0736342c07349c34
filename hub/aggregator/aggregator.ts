/**
 * The aggregation layer (kube-aggregator): an APIService for every group version that this API serves itself, and a look
 * at the servers that others have registered, over and over, for whether they answer.
 */
import type { Clock } from '../../api/clock.js';
import { rfc3339 } from '../../api/clock.js';
import {
  type APIService,
  type APIServiceCondition,
  AUTOMANAGED,
  availableCondition,
} from '../../api/kinds/apiservice.js';
import { apiServices, endpointSlices, services } from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual, isPlainObject } from '../../api/meta/json.js';
import type { Client, Frozen, KindTable } from '../client.js';
import type { Informer, Informers } from '../informer.js';
import { type Again, WorkQueue } from '../queue.js';
import { priorityOf } from './priorities.js';
import type { APIResource, Remote, RemoteTable, Upstream } from './remote.js';

/** How often a server that answers is asked again, and one that does not at the latest. */
const LOOK_AGAIN_MS = 30_000;
const FIRST_RETRY_MS = 100;
const DISCOVERY_MS = 5_000;
const MAX_DISCOVERY = 3 << 20;
const MAX_OPENAPI = 8 << 20;
const MAX_RESOURCES = 4096;

const RACES = ['Conflict', 'NotFound', 'AlreadyExists'] as const;

type Service = Frozen<APIService>;
type Found = Pick<Remote, 'resources' | 'openapi'>;
type Condition = Pick<APIServiceCondition, 'status' | 'reason' | 'message'>;

const LOCAL: Condition = {
  status: 'True',
  reason: 'Local',
  message: 'Local APIServices are always available',
};

export interface AggregatorOptions {
  client: Client;
  informers: Informers;
  kinds: KindTable;
  upstream: Upstream;
  clock: Clock;
  log: Log;
}

export class Aggregator implements RemoteTable {
  remotes: readonly Remote[] = [];
  readonly #all: Informer<APIService>;
  readonly #queue: WorkQueue;
  /** What this API serves itself, by the name of its APIService. */
  #own = new Map<string, APIService>();
  /** Registered or looked at since the start: those that are managed `onstart` are then everybody's. */
  readonly #settled = new Set<string>();
  readonly #found = new Map<string, Found>();
  readonly #failures = new Map<string, number>();

  constructor(private readonly o: AggregatorOptions) {
    const { informers, clock, log } = o;
    this.#all = informers.of(apiServices);
    this.#queue = new WorkQueue('apiservice', (name) => this.#reconcile(name), clock, log, {
      concurrency: 4,
      maxDelayMs: LOOK_AGAIN_MS,
    });
    this.#all.onChange((name, now, before) => {
      if (!now) this.#found.delete(name);
      if (!deepEqual(now?.spec, before?.spec) || !now || !before) this.#queue.add(name);
      this.#publish();
    });
    const ofService = (namespace: string | undefined, name: string | undefined) => {
      for (const [key, { spec }] of this.#entries())
        if (spec.service?.namespace === namespace && spec.service?.name === name) this.#queue.add(key);
    };
    informers.of(services).onChange((_, now, before) => {
      const { namespace, name } = (now ?? before)!.metadata!;
      ofService(namespace, name);
    });
    informers.of(endpointSlices).onChange((_, now, before) => {
      const { namespace, labels } = (now ?? before)!.metadata!;
      ofService(namespace, labels?.['kubernetes.io/service-name']);
    });
  }

  async start(): Promise<void> {
    await this.o.informers.start();
    this.#own = this.#ownServices();
    for (const name of new Set([...this.#own.keys(), ...this.#all.keys()])) this.#queue.add(name);
    this.o.kinds.onKinds(() => {
      const before = this.#own;
      this.#own = this.#ownServices();
      for (const name of before.keys()) if (!this.#own.has(name)) this.#queue.add(name);
      for (const name of this.#own.keys()) if (!before.has(name)) this.#queue.add(name);
    });
    this.#queue.start();
  }

  async stop(): Promise<void> {
    await this.#queue.stop();
    this.o.upstream.stop();
  }

  *#entries(): Generator<[string, Service]> {
    for (const name of this.#all.keys()) yield [name, this.#all.get(name)!];
  }

  #ownServices(): Map<string, APIService> {
    const out = new Map<string, APIService>();
    for (const { group, version, custom } of this.o.kinds.kinds) {
      const name = `${version}.${group}`;
      // The group that registers others needs nobody to register it.
      if (group === apiServices.group || out.has(name)) continue;
      const { group: groupPriorityMinimum, version: versionPriority } = priorityOf(
        group,
        version,
        custom !== undefined,
      );
      out.set(name, {
        metadata: { name, labels: { [AUTOMANAGED]: custom ? 'true' : 'onstart' } },
        spec: { ...(group ? { group } : {}), version, groupPriorityMinimum, versionPriority },
      });
    }
    return out;
  }

  async #reconcile(name: string): Promise<Again> {
    if (await this.#register(name)) return undefined;
    const now = this.#all.get(name);
    if (!now) {
      this.#failures.delete(name);
      return undefined;
    }
    if (!now.spec.service) {
      await this.#note(now, LOCAL);
      return undefined;
    }
    const condition = await this.#check(name, now);
    await this.#note(now, condition);
    if (condition.status === 'True') {
      this.#failures.delete(name);
      return LOOK_AGAIN_MS;
    }
    const failures = this.#failures.get(name) ?? 0;
    this.#failures.set(name, failures + 1);
    return Math.min(FIRST_RETRY_MS * 2 ** Math.min(failures, 16), LOOK_AGAIN_MS);
  }

  /** Keeps the APIService of what this API serves itself; true when it wrote, so that an event is to come. */
  async #register(name: string): Promise<boolean> {
    const { client } = this.o;
    const wanted = this.#own.get(name);
    const now = this.#all.get(name);
    const settled = this.#settled.has(name);
    this.#settled.add(name);
    const managed = now?.metadata?.labels?.[AUTOMANAGED];
    const once = (wanted?.metadata?.labels?.[AUTOMANAGED] ?? managed) === 'onstart';
    if (once && settled) return false;
    if (!now) {
      if (wanted) await this.#ifCurrent(client.create(apiServices, wanted));
      return wanted !== undefined;
    }
    if (managed !== 'true' && managed !== 'onstart') return false;
    // Someone's server took the place of this API's own: what it was once is not said again.
    if (managed === 'onstart' && now.spec.service) return false;
    if (!wanted) {
      await this.#ifCurrent(client.delete(apiServices, { name }, { uid: now.metadata!.uid! }));
      return true;
    }
    if (deepEqual(now.spec, wanted.spec)) return false;
    await this.#ifCurrent(client.update(apiServices, { ...(now as APIService), spec: wanted.spec }));
    return true;
  }

  /** False when someone else was quicker. */
  async #ifCurrent(work: Promise<unknown>): Promise<boolean> {
    try {
      await work;
      return true;
    } catch (e) {
      if (!RACES.some((r) => isApiError(e, r))) throw e;
      return false;
    }
  }

  /** Whether the server behind the Service answers, in kube-aggregator's words; what it serves is kept. */
  async #check(name: string, { spec }: Service): Promise<Condition> {
    const { informers, upstream } = this.o;
    const { namespace, name: service, port = 443 } = spec.service!;
    const not = (reason: string, message: string): Condition => ({ status: 'False', reason, message });
    const there = informers.of(services).get(`${namespace}/${service}`);
    if (!there)
      return not('ServiceNotFound', `service/${service} in ${JSON.stringify(namespace)} is not present`);
    if (there.spec?.type === 'ClusterIP') {
      const wanted = there.spec.ports?.find((p) => p.port === port);
      if (!wanted)
        return not(
          'ServicePortError',
          `service/${service} in ${JSON.stringify(namespace)} is not listening on port ${port}`,
        );
      const slices = [...informers.of(endpointSlices).keys()]
        .map((key) => informers.of(endpointSlices).get(key)!)
        .filter(
          ({ metadata }) =>
            metadata?.namespace === namespace && metadata?.labels?.['kubernetes.io/service-name'] === service,
        );
      if (slices.length === 0)
        return not(
          'EndpointsNotFound',
          `cannot find endpointslices for service/${service} in ${JSON.stringify(namespace)}`,
        );
      const portName = wanted.name ?? '';
      const usable = slices.some(
        (s) =>
          s.endpoints.some((e) => e.conditions?.ready !== false) &&
          s.ports?.some((p) => (p.name ?? '') === portName && p.port !== undefined),
      );
      if (!usable)
        return not(
          'MissingEndpoints',
          `endpointslices for service/${service} in ${JSON.stringify(namespace)} have no addresses with port name ${JSON.stringify(portName)}`,
        );
    }
    const remote = remoteOf(spec);
    try {
      const root = `/apis/${spec.group}/${spec.version}`;
      const found = await upstream.get(remote, root, DISCOVERY_MS, MAX_DISCOVERY);
      const before = this.#found.get(name);
      const now: Found = { resources: resourcesIn(found), openapi: await this.#openapi(remote, root) };
      this.#found.set(name, deepEqual(before, now) ? before! : now);
      this.#publish();
      return { status: 'True', reason: 'Passed', message: 'all checks passed' };
    } catch (e) {
      return not('FailedDiscoveryCheck', (e as Error).message);
    }
  }

  /** The OpenAPI v2 document of a remote; undefined when it cannot be had. */
  async openApiV2(remote: Remote): Promise<object | undefined> {
    try {
      const document = await this.o.upstream.get(remote, '/openapi/v2', DISCOVERY_MS, MAX_OPENAPI);
      return isPlainObject(document) ? document : undefined;
    } catch (err) {
      this.o.log.debug({ err, group: remote.group }, 'no OpenAPI v2');
      return undefined;
    }
  }

  /** A server need not have OpenAPI v3. */
  async #openapi(remote: Parameters<Upstream['get']>[0], root: string): Promise<string | undefined> {
    try {
      const index = await this.o.upstream.get(remote, '/openapi/v3', DISCOVERY_MS, MAX_DISCOVERY);
      const paths = isPlainObject(index) && isPlainObject(index['paths']) ? index['paths'] : {};
      const entry = paths[root.slice(1)];
      const url = isPlainObject(entry) ? entry['serverRelativeURL'] : undefined;
      return typeof url === 'string' && url.startsWith(`/openapi/v3${root}`) ? url.slice(0, 512) : undefined;
    } catch (err) {
      this.o.log.debug({ err, root }, 'no OpenAPI v3');
      return undefined;
    }
  }

  /** Writes the condition where it is another. Others' conditions stay. */
  async #note(now: Service, condition: Condition): Promise<void> {
    const before = availableCondition(now);
    const { status, reason, message } = before ?? {};
    if (deepEqual({ status, reason, message }, condition)) return;
    const lastTransitionTime =
      before?.status === condition.status ? before.lastTransitionTime! : rfc3339(this.o.clock.now());
    const next = { type: 'Available', lastTransitionTime, ...condition };
    const conditions = [...(now.status?.conditions ?? [])];
    const i = conditions.findIndex((c) => c.type === 'Available');
    conditions.splice(i < 0 ? conditions.length : i, i < 0 ? 0 : 1, next);
    const { name, resourceVersion } = now.metadata!;
    const written = await this.#ifCurrent(
      this.o.client.patch(
        apiServices,
        { name: name! },
        { metadata: { resourceVersion }, status: { conditions } },
        'status',
      ),
    );
    if (!written) this.#queue.addAfter(name!, FIRST_RETRY_MS);
  }

  /** Renews {@link remotes} when something in it is different. */
  #publish(): void {
    const remotes: Remote[] = [];
    for (const [name, o] of this.#entries()) {
      const { service, group } = o.spec;
      // The core group is this API's own.
      if (!service || !group) continue;
      const found = this.#found.get(name) ?? { resources: [], openapi: undefined };
      remotes.push({ ...remoteOf(o.spec), available: availableCondition(o)?.status === 'True', ...found });
    }
    if (!deepEqual(remotes, this.remotes)) this.remotes = remotes;
  }
}

function remoteOf(spec: Service['spec']): Omit<Remote, 'available' | 'resources' | 'openapi'> {
  const { namespace, name, port = 443 } = spec.service!;
  const pem = spec.caBundle ? Buffer.from(spec.caBundle, 'base64').toString('utf8') : '';
  return {
    group: spec.group ?? '',
    version: spec.version,
    service: { namespace, name, port },
    ca: pem.trim() ? pem : undefined,
    insecure: spec.insecureSkipTLSVerify ?? false,
    groupPriority: spec.groupPriorityMinimum,
    versionPriority: spec.versionPriority,
  };
}

const text = (v: unknown): string => (typeof v === 'string' ? v.slice(0, 253) : '');
const texts = (v: unknown): string[] =>
  Array.isArray(v) ? v.filter((x): x is string => typeof x === 'string').slice(0, 64) : [];

/** What of a server's APIResourceList makes sense. */
function resourcesIn(list: unknown): APIResource[] {
  const found = isPlainObject(list) && Array.isArray(list['resources']) ? list['resources'] : [];
  return found
    .filter(isPlainObject)
    .slice(0, MAX_RESOURCES)
    .map((r) => ({
      name: text(r['name']),
      singularName: text(r['singularName']),
      namespaced: r['namespaced'] === true,
      ...(r['group'] ? { group: text(r['group']) } : {}),
      ...(r['version'] ? { version: text(r['version']) } : {}),
      kind: text(r['kind']),
      verbs: texts(r['verbs']),
      ...(r['shortNames'] ? { shortNames: texts(r['shortNames']) } : {}),
      ...(r['categories'] ? { categories: texts(r['categories']) } : {}),
    }))
    .filter((r) => r.name && r.kind);
}
