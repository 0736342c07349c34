/** `npm run bench`: measures, and prints a table on stderr and one JSON line per figure on stdout. */
import { cpus, release, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import type { Options } from './options.js';
import type { Row } from './row.js';

type Part = { about: string; run: (o: Options) => Promise<Iterable<Row> | AsyncIterable<Row>> };

const PARTS: Record<string, Part> = {
  idle: {
    about: 'memory, bytes on the wire and on disk of a hub and a node with nothing to do',
    run: async (o) => (await import('./idle.js')).run(o),
  },
  'apply-wasm': {
    about: 'apply -> Running for Wasm pods',
    run: async (o) => (await import('./latency.js')).wasm(o),
  },
  wasm: {
    about: 'the wasm shim alone: start to first line, memory of a pod among 50',
    run: async () => (await import('./wasm.js')).run(),
  },
  'apply-containers': {
    about: 'apply -> Running for containers (root, containerd, skopeo, umoci)',
    run: async (o) => (await import('./latency.js')).containers(o),
  },
  api: {
    about: 'create, get, list and watch per second',
    run: async (o) => (await import('./api.js')).run(o),
  },
  density: {
    about: '1,000 pods on 10 simulated nodes',
    run: async () => (await import('./density.js')).run(),
  },
  fleet: {
    about:
      'up to 1,000 simulated agents over real sockets, up to 10,000 pods: memory, CPU, bytes, reconnect storms',
    run: async (o) => (await import('./fleet.js')).run(o.fleetPoints),
  },
  store: {
    about: 'the store alone: durable writes per second, opening, size on disk',
    run: async () => (await import('./store.js')).run(),
  },
  wire: {
    about: 'bytes of joining, a pod, reconnecting and silence, through a counting proxy',
    run: async () => (await import('./wire.js')).run(),
  },
};

const { values } = parseArgs({
  options: {
    parts: { type: 'string', default: Object.keys(PARTS).join(',') },
    pods: { type: 'string', default: '60' },
    'idle-minutes': { type: 'string', default: '5' },
    'settle-seconds': { type: 'string', default: '30' },
    'api-seconds': { type: 'string', default: '10' },
    'fleet-points': { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

if (values.help) {
  console.log(`npm run bench -- [--parts ${Object.keys(PARTS).join(',')}]
  [--pods 60] [--idle-minutes 5] [--settle-seconds 30] [--api-seconds 10]
  [--fleet-points 10x1000,1000x10000]\n`);
  for (const [name, { about }] of Object.entries(PARTS)) console.log(`  ${name.padEnd(18)}${about}`);
  process.exit(0);
}

function bounded(flag: 'pods' | 'idle-minutes' | 'settle-seconds' | 'api-seconds', max: number): number {
  const n = Number(values[flag]);
  if (!(n > 0 && n <= max)) {
    console.error(`--${flag} must be a number above 0 and at most ${max}`);
    process.exit(2);
  }
  return n;
}
const options: Options = {
  pods: bounded('pods', 10_000),
  idleMinutes: bounded('idle-minutes', 24 * 60),
  settleSeconds: bounded('settle-seconds', 3600),
  apiSeconds: bounded('api-seconds', 600),
  fleetPoints: values['fleet-points'],
};

const show = (n: number) =>
  Number.isFinite(n) ? n.toLocaleString('en', { maximumFractionDigits: n < 100 ? 1 : 0 }) : '-';

console.error(
  `${cpus().length} x ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GB, Linux ${release()}, Node ${process.version}\n`,
);
let failed = false;
for (const name of values.parts.split(',')) {
  const part = PARTS[name];
  if (!part) {
    console.error(`no part "${name}"; there are: ${Object.keys(PARTS).join(', ')}`);
    process.exit(2);
  }
  console.error(`${name}: ${part.about}`);
  try {
    for await (const row of await part.run(options)) {
      console.error(
        `  ${row.name.padEnd(58)}${show(row.value).padStart(10)} ${row.unit.padEnd(12)}${(row.budget ?? '').padEnd(20)}${row.note ?? ''}`,
      );
      console.log(JSON.stringify({ part: name, ...row }));
    }
  } catch (e) {
    failed = true;
    console.error(`  FAILED: ${e instanceof Error ? e.message : e}`);
  }
}
process.exitCode = failed ? 1 : 0;
