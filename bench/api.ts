import { fork } from 'node:child_process';
import type { Options } from './options.js';
import type { Row } from './row.js';
import { System } from './system.js';

/** Kubernetes 1.20's apiserver with etcd on two cores, 32 TLS clients; the budget is twice that. */
const BUDGETS: Record<string, string> = {
  create: '>= 2310',
  get: '>= 6814',
  'list of 1,000 pods': '>= 98',
  'watch deliveries to 32 watchers': '>= 25200',
};

/** Requests per second that a hub on NeDB answers and how long each takes, asked by a process of its own over TLS. */
export async function run(o: Options): Promise<Row[]> {
  const rows: Row[] = [];
  for (const protocol of ['http/1.1', 'h2']) {
    const system = await new System().start();
    try {
      const load = fork(new URL('./api-load.js', import.meta.url), [
        system.hubDir,
        protocol,
        String(o.apiSeconds),
        String(system.hub.pid),
      ]);
      const measured = await new Promise<Row[]>((resolve, reject) => {
        load.on('message', (m) => resolve(m as Row[]));
        load.on('exit', (code) => reject(new Error(`the load process ended with ${code}`)));
      });
      for (const row of measured)
        rows.push({
          ...row,
          name: `API: ${row.name}, ${protocol}`,
          ...(row.unit === '1/s' && BUDGETS[row.name] ? { budget: BUDGETS[row.name] } : {}),
          note: row.note ?? `32 clients over TLS in another process, ${o.apiSeconds} s`,
        });
    } finally {
      await system.stop();
    }
  }
  return rows;
}
