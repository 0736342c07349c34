/**
 * Many simulated agents in one process: the product's link over real TLS connections, each with an identity of its own,
 * in front of pods that are reported as running and never are. `bench/fleet.ts` forks it and talks to it over IPC.
 */
import { mkdirSync } from 'node:fs';
import { join as path } from 'node:path';
import type { Identity } from '../agent/link/identity.js';
import { JoinError, join } from '../agent/link/join.js';
import { AgentLink } from '../agent/link/link.js';
import { systemClock } from '../api/clock.js';
import { silentLog } from '../api/log.js';
import { formatToken, parseToken } from '../api/wire/join.js';
import { InstantHost, Meter, nodeReport, pause } from './fake-agent.js';

/** `cut` ends every connection at once. */
export type Order = { order: 'join'; count: number } | { order: 'cut' } | { order: 'stats' };

/** What the agents say together. */
export interface Stats {
  /** How many are linked and have nothing left to tell. */
  idle: number;
  connected: number;
  /** Since the start, both directions, TLS included. */
  bytes: number;
}

const JOIN_AT_ONCE = 16;

const [dir, token, brokerPort] = process.argv.slice(2) as [string, string, string];
const meter = new Meter(Number(brokerPort));
const port = await meter.start();
const through = formatToken({ ...parseToken(token), addresses: [`127.0.0.1:${port}`] });
const links: AgentLink[] = [];

/** The hub lets so many join in a minute; the others are told to come again. */
async function patientJoin(dataDir: string, nodeName: string): Promise<Identity> {
  for (;;) {
    try {
      const identity = await join({ dataDir, token: through, nodeName, log: silentLog });
      // The hub names its own address, too; only the proxy counts and cuts.
      return { ...identity, addresses: [`127.0.0.1:${port}`] };
    } catch (e) {
      if (!(e instanceof JoinError && e.reason === 'busy')) throw e;
      await pause(1000);
    }
  }
}

async function add(): Promise<void> {
  const name = `node-${String(links.length).padStart(4, '0')}`;
  const dataDir = path(dir, name);
  // Takes its place before anything is awaited: the next one is counted from here.
  const at = links.push(undefined as unknown as AgentLink) - 1;
  mkdirSync(dataDir, { recursive: true });
  const identity = await patientJoin(dataDir, name);
  const host = new InstantHost();
  const link = new AgentLink({ dataDir, identity, host, clock: systemClock, log: silentLog });
  host.attach(link);
  links[at] = link;
  link.start();
  link.node({
    ...nodeReport,
    labels: {
      ...nodeReport.labels,
      'kubernetes.io/hostname': name,
      'coxswain.dev/runtime.oci': 'true',
      'coxswain.dev/runtime.wasm': 'true',
    },
  });
}

const stats = (): Stats => ({
  idle: links.filter((l) => l?.idle).length,
  connected: links.filter((l) => l?.connected).length,
  bytes: meter.total,
});

process.on('message', async (o: Order) => {
  try {
    if (o.order === 'join') {
      let left = o.count;
      await Promise.all(
        Array.from({ length: JOIN_AT_ONCE }, async () => {
          while (left-- > 0) await add();
        }),
      );
    } else if (o.order === 'cut') {
      const again = meter.accepted + links.length;
      meter.cut();
      // Each has noticed once it is back; the first ones are back before the last has.
      while (meter.accepted < again) await pause(5);
    }
    process.send!(stats());
  } catch (e) {
    process.send!({ error: (e as Error).message });
  }
});
process.on('disconnect', () => process.exit(0));
