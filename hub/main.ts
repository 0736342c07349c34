/** The only file that knows every room of the hub: it makes them, hands each what it needs, and starts them in order. */
import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '../api/clock.js';
import { flowSchemas, priorityLevelConfigurations, tokenReviews } from '../api/kinds/index.js';
import type { Kind } from '../api/kinds/kind.js';
import type { Log } from '../api/log.js';
import { version } from '../api/version.js';
import { Aggregator } from './aggregator/aggregator.js';
import { forward } from './aggregator/proxy.js';
import { Upstream } from './aggregator/remote.js';
import { RbacAuthorizer } from './auth/authorizer.js';
import { bootstrapNamespaceRbac, bootstrapRbac } from './auth/bootstrap.js';
import { publishClusterInfo } from './auth/clusterinfo.js';
import { publishTrust } from './auth/extension-auth.js';
import { accessGuard } from './auth/guard.js';
import { paramsGuard } from './auth/params-guard.js';
import { PodTokenSource } from './auth/podtokens.js';
import { reviewAnswers } from './auth/reviews.js';
import { loadTokenKey, Tokens } from './auth/tokens.js';
import { Controllers } from './controllers/controllers.js';
import { Api } from './http/api.js';
import { HttpServer } from './http/server.js';
import { ImageRegistry } from './images/registry.js';
import { TRANSPILED_PATH, Transpiler } from './images/transpile.js';
import { Informers } from './informer.js';
import type { Bus } from './link/bus.js';
import { EmbeddedBroker } from './link/embedded.js';
import { ExternalBus } from './link/external.js';
import { HubLink } from './link/link.js';
import { Revocations } from './link/revocation.js';
import { metricsSources } from './metrics/sources.js';
import { NodeUsage } from './metrics/usage.js';
import { prepareIssuer } from './pki/issuer.js';
import { createPki, FRONT_PROXY_CN } from './pki/pki.js';
import { CustomDefinitions } from './registry/custom/definitions.js';
import { Registry, stampResourceVersion } from './registry/registry.js';
import { Scheduler } from './scheduler/scheduler.js';
import { MemoryStore } from './store/memory.js';
import { NedbStore } from './store/nedb.js';

export interface HubOptions {
  dataDir: string;
  /** Address to listen on and to be reached at; absent: listen on every interface, be reached at the first outward one. */
  host?: string;
  /** 0 picks a free one; so for the broker's. */
  apiPort: number;
  mqttPort: number;
  /** What 0 picked last time: taken again when free, since agents and kubeconfigs know no others. */
  lastPorts?: { api: number; mqtt: number };
  /** `mqtts://host[:port]` of an external broker; absent: the embedded one. */
  broker?: string;
  store: 'nedb' | 'memory';
  /** Where Services get their addresses from; absent: 10.96.0.0/16. */
  serviceNetwork?: string;
  /** Admission plugins that are left out, by Kubernetes' names. */
  disabledAdmission?: readonly string[];
  clock: Clock;
  log: Log;
}

interface Part {
  start?(): Promise<void>;
  stop(): Promise<void>;
}

/** The machine's first address that others may reach, IPv4 before IPv6. */
function outwardAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((a) => a ?? []);
  const usable = all.filter((a) => !a.internal && !a.address.startsWith('fe80:'));
  return (usable.find((a) => a.family === 'IPv4') ?? usable[0])?.address ?? '127.0.0.1';
}

const hostPort = (host: string, port: number): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;

/** How often the hub looks whether its own certificate nears its end; it is renewed a year before. */
const RENEW_CHECK_MS = 86_400_000;

function every(clock: Clock, ms: number, work: () => Promise<void>): Part {
  let cancel = () => {};
  const next = () => {
    cancel = clock.after(ms, () => void work().finally(next));
  };
  next();
  return { stop: async () => cancel() };
}

/** Requests share the hub as FlowSchemas and PriorityLevelConfigurations say, from their first change on. */
function steer(api: Api, informers: Informers): void {
  const schemas = informers.of(flowSchemas);
  const levels = informers.of(priorityLevelConfigurations);
  let due = false;
  const changed = () => {
    if (due) return;
    due = true;
    // Once for all that come at once.
    setImmediate(() => {
      due = false;
      api.shareBy(schemas.values(), levels.values());
    });
  };
  schemas.onChange(changed);
  levels.onChange(changed);
}

export class Hub {
  readonly #running: Part[] = [];
  #apiPort = 0;
  #mqttPort: number | undefined;

  constructor(private readonly options: HubOptions) {}

  /** What it listens on; the broker's port only when it is embedded. */
  addresses(): { apiPort: number; mqttPort?: number } {
    return { apiPort: this.#apiPort, ...(this.#mqttPort === undefined ? {} : { mqttPort: this.#mqttPort }) };
  }

  /** Rejects, with everything stopped again, when any part cannot start. */
  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (e) {
      await this.stop();
      throw e;
    }
  }

  async #run<T extends Part>(part: T): Promise<T> {
    await part.start?.();
    this.#running.push(part);
    return part;
  }

  async #start(): Promise<void> {
    const { dataDir, host, clock, log } = this.options;
    const at = host ?? outwardAddress();

    // The store first: its lock is what keeps a second hub from touching anything else in the data directory.
    const stamp = stampResourceVersion;
    const store =
      this.options.store === 'memory'
        ? new MemoryStore({ stamp })
        : new NedbStore(join(dataDir, 'store'), { log: log.child({ room: 'store' }), stamp });
    await store.open();
    this.#running.push({ stop: () => store.close() });

    const pki = await createPki(dataDir, { hosts: [at], clock, log: log.child({ room: 'pki' }) });
    const { disabledAdmission, serviceNetwork } = this.options;
    const registry = new Registry({
      store,
      clock,
      log: log.child({ room: 'registry' }),
      disabledAdmission,
      serviceNetwork,
    });
    await registry.bootstrap();
    const client = registry.client();
    // Before anything serves or watches kinds.
    await this.#run(
      new CustomDefinitions({ client, table: registry, clock, log: log.child({ room: 'registry' }) }),
    );
    const informers = new Informers(client, clock, log);
    this.#running.push({ stop: () => informers.stop() });

    await bootstrapRbac(client);
    await bootstrapNamespaceRbac(client);
    const authorizer = new RbacAuthorizer(informers);
    registry.guards.push(accessGuard(authorizer), paramsGuard(authorizer, registry.directory));
    registry.authorizer = authorizer;
    for (const [kind, answer] of reviewAnswers(authorizer, clock)) registry.answers.set(kind, answer);
    const tokens = new Tokens({ key: loadTokenKey(join(pki.dir, 'sa.key')), registry, clock });
    registry.tokens = tokens;
    registry.answers.set(tokenReviews as unknown as Kind, tokens.review);
    await authorizer.start();

    // Known before any door opens.
    const revocations = await this.#run(
      new Revocations({ client, informers, issued: pki.issued, clock, log: log.child({ room: 'link' }) }),
    );
    tokens.lockedOut = (node) => revocations.lockedOut(node);
    const bus = await this.#bus(pki, log.child({ room: 'broker' }));
    const link = new HubLink({
      client,
      bus,
      pki,
      clock,
      log: log.child({ room: 'link' }),
      informers,
      revocations,
      addresses: () => (bus instanceof EmbeddedBroker ? [hostPort(at, bus.port)] : []),
      registry: () => hostPort(at, this.#apiPort),
      tokens: new PodTokenSource(tokens),
    });
    const usage = new NodeUsage({ link, clock, log: log.child({ room: 'metrics' }) });
    this.#running.push({ stop: async () => usage.stop() });
    for (const [kind, source] of metricsSources(client, usage, clock)) registry.sources.set(kind, source);
    const images = await this.#run(new ImageRegistry(dataDir, { log: log.child({ room: 'images' }), clock }));
    const transpiler = await this.#run(new Transpiler(dataDir, { log: log.child({ room: 'images' }) }));
    const upstream = new Upstream({ directory: registry.directory, client: () => pki.frontProxy, clock });
    const aggregator = new Aggregator({
      client,
      informers,
      kinds: registry,
      upstream,
      clock,
      log: log.child({ room: 'aggregator' }),
    });
    const api = new Api({
      registry,
      authorizer,
      documents: tokens.documents(),
      clock,
      log: log.child({ room: 'http' }),
      streams: link,
      aggregation: {
        table: aggregator,
        forward: (remote, req) => forward(upstream, remote, req),
        openApiV2: (remote) => aggregator.openApiV2(remote),
      },
      connections: link,
      version: version(),
      health: [{ name: 'store', failing: () => store.failing }],
    });
    steer(api, informers);
    const http = await this.#run(
      new HttpServer({
        api,
        clock,
        log: log.child({ room: 'http' }),
        host,
        port: await this.#port(this.options.apiPort, this.options.lastPorts?.api),
        tls: { ...pki.server, ca: [pki.caPem, pki.clientCaPem] },
        refusal: (cert) => revocations.refusalOf(cert),
        authenticate: (token) => tokens.authenticate(token),
        mounts: [
          { prefix: '/v2/', handler: (req, res) => images.handle(req, res) },
          { prefix: TRANSPILED_PATH, handler: (req, res) => transpiler.handle(req, res) },
        ],
      }),
    );
    this.#apiPort = http.port;
    revocations.onChange(() => {
      http.recheck();
      pki
        .writeCrl(revocations.keys())
        .catch((err: unknown) => log.error({ err }, 'the list of revoked certificates cannot be written'));
    });
    const renew = async () => {
      try {
        if (!(await pki.renewServer())) return;
        http.renew(pki.server);
        bus.renewed?.();
        log.info({}, "the hub's server certificate was renewed");
      } catch (err) {
        log.error({ err }, "the hub's server certificate cannot be renewed");
      }
    };
    this.#running.push(every(clock, RENEW_CHECK_MS, renew));
    const scheduler = new Scheduler({ client, informers, clock, log: log.child({ room: 'scheduler' }) });
    const controllers = new Controllers({
      client,
      informers,
      clock,
      log: log.child({ room: 'controllers' }),
      kinds: registry,
      quota: registry.quota,
      caPem: pki.caPem,
      api: { host: at, port: http.port, clusterIP: registry.apiClusterIP },
      certificates: { authorizer, sign: pki.signRequest, prepare: prepareIssuer },
      flowControl: true,
      tokenForSecret: (account, secret) => tokens.forSecret(account, secret),
    });
    await this.#run(link);
    if (bus instanceof EmbeddedBroker) this.#mqttPort = bus.port;
    await this.#run(scheduler);
    await this.#run(controllers);
    await this.#run(aggregator);
    await publishTrust(client, {
      clientCa: pki.caPem + pki.clientCaPem,
      frontProxyCa: pki.frontProxyCaPem,
      frontProxyNames: [FRONT_PROXY_CN],
    });
    await publishClusterInfo(client, `https://${hostPort(at, http.port)}`, pki.caPem);
    await pki.writeAdminKubeconfig(
      join(dataDir, 'admin.kubeconfig'),
      `https://${hostPort(host ?? '127.0.0.1', http.port)}`,
    );
  }

  async #port(wanted: number, last: number | undefined): Promise<number> {
    if (wanted !== 0 || !last) return wanted;
    const probe = createServer();
    return new Promise((resolve) => {
      probe.once('error', () => resolve(0));
      probe.listen(last, this.options.host, () => probe.close(() => resolve(last)));
    });
  }

  async #bus(pki: Awaited<ReturnType<typeof createPki>>, log: Log): Promise<Bus> {
    const { broker, mqttPort, host, clock } = this.options;
    return broker
      ? new ExternalBus({ url: broker, pki, log, clock })
      : new EmbeddedBroker({
          pki,
          log,
          port: await this.#port(mqttPort, this.options.lastPorts?.mqtt),
          host,
          clock,
        });
  }

  /** Stops in reverse order, waiting for writes under way; what cannot stop cleanly is logged, not waited for. */
  async stop(): Promise<void> {
    for (const part of this.#running.splice(0).reverse())
      await part
        .stop()
        .catch((err: unknown) => this.options.log.warn({ err }, 'a part did not stop cleanly'));
  }
}
