/** How a hub grows with its fleet: nodes × pods → memory, CPU, bytes, and what happens when all come back at once. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Order, Stats } from './fleet-agents.js';
import type { Row } from './row.js';
import { cpuSeconds, memoryMb, System, sleep, until } from './system.js';

/** Nodes and pods of each point of the curve. */
const POINTS = [
  [10, 100],
  [10, 1000],
  [100, 1000],
  [1000, 1000],
  [1000, 10_000],
] as const;

/** The hub's memory and time with nothing to do are looked at for this long: one keep-alive of every node, at least. */
const IDLE_MS = 90_000;
/** Before that: garbage is collected when it is quiet. */
const SETTLE_MS = 20_000;
const PODS_PER_DEPLOYMENT = 500;

class Fleet {
  readonly #child: ChildProcess;

  constructor(system: System, token: string) {
    this.#child = fork(
      join(import.meta.dirname, 'fleet-agents.js'),
      [join(system.dir, 'fleet'), token, String(system.mqttPort)],
      // A thousand agents in one process: what they weigh is not the question.
      { stdio: 'inherit', execArgv: ['--max-old-space-size=4096'] },
    );
  }

  async tell(order: Order): Promise<Stats> {
    this.#child.send(order);
    const [answer] = (await once(this.#child, 'message')) as [Stats | { error: string }];
    if ('error' in answer) throw new Error(answer.error);
    return answer;
  }

  /** Seconds until every agent is linked and has nothing left to tell. */
  async quiet(nodes: number, what: string): Promise<number> {
    const begin = performance.now();
    await until(
      what,
      async () => (await this.tell({ order: 'stats' })).idle === nodes || undefined,
      900,
      100,
    );
    return (performance.now() - begin) / 1000;
  }

  async stop(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
  }
}

/** From now on the peak is that of what comes (proc(5), clear_refs). */
const resetPeak = (pid: number) => writeFileSync(`/proc/${pid}/clear_refs`, '5');

const deployment = (name: string, replicas: number) => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name },
  spec: {
    replicas,
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: { containers: [{ name: 'app', image: 'registry.example.org/team/web:1.4.2' }] },
    },
  },
});

async function* point(nodes: number, pods: number): AsyncGenerator<Row> {
  const label = `${nodes} nodes, ${pods.toLocaleString('en')} pods: `;
  const row = (name: string, value: number, unit: string, extra: Partial<Row> = {}): Row => ({
    name: label + name,
    value,
    unit,
    ...extra,
  });
  const system = await new System().start();
  let fleet: Fleet | undefined;
  try {
    fleet = new Fleet(system, await system.token(nodes));
    const began = performance.now();
    await fleet.tell({ order: 'join', count: nodes });
    await fleet.quiet(nodes, 'all nodes joined');
    yield row('all joined', (performance.now() - began) / 1000, 's');

    const names = Array.from({ length: Math.ceil(pods / PODS_PER_DEPLOYMENT) }, (_, i) => `web-${i}`);
    const begin = performance.now();
    for (const [i, name] of names.entries()) {
      const replicas = Math.min(PODS_PER_DEPLOYMENT, pods - i * PODS_PER_DEPLOYMENT);
      await system.api.call(
        'POST',
        '/apis/apps/v1/namespaces/default/deployments',
        deployment(name, replicas),
      );
    }
    interface Deployments {
      items: { status?: { readyReplicas?: number } }[];
    }
    const ready = async () =>
      (
        await system.api.call<Deployments>('GET', '/apis/apps/v1/namespaces/default/deployments')
      ).items.reduce((n, d) => n + (d.status?.readyReplicas ?? 0), 0);
    await until('all pods Ready', async () => (await ready()) === pods || undefined, 900, 100);
    yield row('all pods Ready', (performance.now() - begin) / 1000, 's');
    yield row('hub: peak RSS until then', memoryMb(system.hub.pid, 'VmHWM'), 'MB');

    await sleep(SETTLE_MS);
    const cpu = cpuSeconds(system.hub.pid);
    const { bytes } = await fleet.tell({ order: 'stats' });
    await sleep(IDLE_MS);
    yield row('hub: RSS', memoryMb(system.hub.pid, 'VmRSS'), 'MB', {
      budget: pods === 10_000 ? '<= 450' : pods === 1000 && nodes === 10 ? '<= 150' : undefined,
    });
    yield row('hub: CPU, idle', ((cpuSeconds(system.hub.pid) - cpu) / IDLE_MS) * 100_000, '% of a core');
    const perNode = ((await fleet.tell({ order: 'stats' })).bytes - bytes) / nodes / 1024;
    yield row('wire, per idle node', (perNode / IDLE_MS) * 3_600_000, 'KB/h', {
      budget: '<= 15',
      note: `over ${IDLE_MS / 1000} s, extrapolated`,
    });

    for (const storm of ['every connection cut at once', 'hub killed and started again'] as const) {
      const before = (await fleet.tell({ order: 'stats' })).bytes;
      const from = performance.now();
      if (storm === 'every connection cut at once') {
        resetPeak(system.hub.pid);
        await fleet.tell({ order: 'cut' });
      } else await system.restartHub();
      await fleet.quiet(nodes, 'all nodes linked again');
      yield row(`${storm}: all linked again`, (performance.now() - from) / 1000, 's');
      await until(
        'every node Ready',
        async () => (await readyNodes(system)) === nodes || undefined,
        300,
        200,
      );
      yield row(`${storm}: every node Ready`, (performance.now() - from) / 1000, 's');
      yield row(`${storm}: hub, peak RSS`, memoryMb(system.hub.pid, 'VmHWM'), 'MB');
      yield row(
        `${storm}: wire, per node`,
        ((await fleet.tell({ order: 'stats' })).bytes - before) / nodes,
        'B',
      );
      if ((await ready()) !== pods) throw new Error(`${label}${storm}: pods are not Ready any more`);
    }
  } finally {
    await fleet?.stop();
    await system.stop();
  }
}

interface Nodes {
  items: { status?: { conditions?: { type: string; status: string }[] } }[];
}

async function readyNodes(system: System): Promise<number> {
  const { items } = await system.api.call<Nodes>('GET', '/api/v1/nodes');
  return items.filter((n) => n.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True'))
    .length;
}

/** `points` as `10x100,1000x10000`; absent: all. */
export async function* run(points?: string): AsyncGenerator<Row> {
  const wanted = points?.split(',').map((p) => p.split('x').map(Number) as [number, number]) ?? POINTS;
  for (const [nodes, pods] of wanted) yield* point(nodes, pods);
}
