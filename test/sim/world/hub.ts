/** The hub as main.ts puts it together, without its HTTP server: registry, store on a simulated disk, loops, link. */
import type { Log } from '../../../api/log.js';
import type { VirtualClock } from '../../../api/testing/virtual-clock.js';
import { RbacAuthorizer } from '../../../hub/auth/authorizer.js';
import { bootstrapRbac } from '../../../hub/auth/bootstrap.js';
import { accessGuard } from '../../../hub/auth/guard.js';
import { PodTokenSource } from '../../../hub/auth/podtokens.js';
import type { Client } from '../../../hub/client.js';
import { Controllers } from '../../../hub/controllers/controllers.js';
import { Informers } from '../../../hub/informer.js';
import { HubLink } from '../../../hub/link/link.js';
import type { Pki } from '../../../hub/pki/pki.js';
import { CustomDefinitions } from '../../../hub/registry/custom/definitions.js';
import { Registry, stampResourceVersion } from '../../../hub/registry/registry.js';
import { Scheduler } from '../../../hub/scheduler/scheduler.js';
import { NedbStore } from '../../../hub/store/nedb.js';
import type { SimDisk } from './disk.js';
import { type Ledger, LedgerStore } from './ledger.js';
import type { SimNetwork } from './network.js';
import { SimProcess, type WallClock } from './process.js';

export interface SimHubOptions {
  clock: VirtualClock;
  disk: SimDisk;
  network: SimNetwork;
  ledger: Ledger;
  pki: Pki;
  /** The broker is a part of the hub: it dies and comes back with it. */
  embedded: boolean;
  /** Small, so that a run has some compactions. */
  compactBytes: number;
  log(process: string): Log;
  problem(what: string): void;
  trace(line: string): void;
}

export class SimHub {
  readonly wall: WallClock = { offsetMs: 0 };
  process: SimProcess | undefined;
  client: Client | undefined;
  link: HubLink | undefined;
  store: LedgerStore | undefined;
  #parts: { stop(): Promise<void> }[] = [];
  #serial = 0;

  constructor(readonly o: SimHubOptions) {}

  get up(): boolean {
    return this.client !== undefined && this.process?.alive === true;
  }

  start(): void {
    const process = new SimProcess(`hub#${++this.#serial}`, this.o.clock, this.wall);
    this.process = process;
    this.o.trace(`start ${process.name}`);
    process.run(
      () =>
        void this.#start(process).catch((e: Error) => {
          if (process.alive) this.o.problem(`the hub does not start: ${e.stack}`);
        }),
    );
  }

  async #start(process: SimProcess): Promise<void> {
    const { network, ledger, pki, embedded, compactBytes } = this.o;
    const log = this.o.log(process.name);
    const stamp = stampResourceVersion;
    // flock(2) is the kernel's business and of no interest here: there is one hub.
    const lock = () => () => {};
    const inner = new NedbStore('/sim/hub/store', { log, stamp, lock, clock: process, compactBytes });
    const store = new LedgerStore(inner, ledger);
    await store.open();
    this.store = store;
    const registry = new Registry({ store, clock: process, log });
    await registry.bootstrap();
    const client = registry.client();
    const custom = new CustomDefinitions({ client, table: registry, clock: process, log });
    await custom.start();
    const informers = new Informers(client, process, log);
    await bootstrapRbac(client);
    const authorizer = new RbacAuthorizer(informers);
    registry.guards.push(accessGuard(authorizer));
    await authorizer.start();
    if (embedded) network.start();
    const bus = network.bus(process);
    this.link = new HubLink({
      client,
      bus,
      pki,
      clock: process,
      log,
      informers,
      addresses: () => ['hub:8883'],
      // Nobody checks them here, and real signatures would differ from run to run.
      tokens: new PodTokenSource({ kid: 'sim', signature: () => 's'.repeat(86) }),
    });
    const scheduler = new Scheduler({ client, informers, clock: process, log });
    const controllers = new Controllers({
      client,
      informers,
      clock: process,
      log,
      kinds: registry,
      quota: registry.quota,
      // Stored in every namespace. The real one differs in length from run to run, which would move compactions.
      caPem: 'PEM',
    });
    await this.link.start();
    await scheduler.start();
    await controllers.start();
    this.#parts = [controllers, scheduler, this.link, informers, custom, { stop: () => store.close() }];
    this.client = client;
    this.o.trace(`ready ${process.name}`);
  }

  /** SIGTERM. */
  async stop(): Promise<void> {
    const { process } = this;
    if (!process?.alive) return;
    await process.answer(
      process.run(async () => {
        for (const p of this.#parts.splice(0)) await p.stop();
      }) ?? Promise.resolve(),
    );
    this.#down();
  }

  /** SIGKILL: what it had written is written. */
  kill(): void {
    this.#down();
  }

  powerCut(): void {
    if (this.process?.alive) this.o.network.hush('hub');
    this.#down();
    this.o.disk.powerCut();
  }

  #down(): void {
    this.client = undefined;
    this.link = undefined;
    this.store = undefined;
    this.#parts = [];
    if (!this.process?.alive) return;
    this.process.kill();
    if (this.o.embedded) this.o.network.stop();
  }
}
