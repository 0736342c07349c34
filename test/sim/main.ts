/** `npm run sim -- --seeds N --start S [--steps K] [--devices D] [--trace]`: runs seeds S … S+N-1; exits 1 at the first that fails. */
import { parseArgs } from 'node:util';
import { makeKeys, simulate } from './world/world.js';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100' },
    start: { type: 'string', default: '1' },
    steps: { type: 'string', default: '40' },
    devices: { type: 'string', default: '0' },
    trace: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
});
const numbers = [values.seeds, values.start, values.steps, values.devices].map((v) => {
  const n = Number(v);
  if (!Number.isSafeInteger(n) || n < 0) throw new Error(`not a number: ${v}`);
  return n;
});
const [seeds, start, steps, devices] = numbers as [number, number, number, number];
const size = devices > 0 ? { devices } : {};

const keys = await makeKeys(devices || undefined);
const begun = performance.now();
let failed = 0;
let virtualMs = 0;
let done = 0;
for (let seed = start; seed < start + seeds; seed++) {
  const r = await simulate({ seed, steps, ...size, ...(values.trace ? { onTrace: console.log } : {}) }, keys);
  virtualMs += r.virtualMs;
  done++;
  if (r.problems.length === 0) {
    if (seeds === 1)
      console.log(`seed ${seed} passed, ${r.messages} messages, ${r.writes} writes, trace ${r.hash}`);
    continue;
  }
  failed++;
  if (!values.trace && !values.keep) for (const line of r.tail.slice(-60)) console.log(`  ${line}`);
  console.log(`seed ${seed} FAILED, trace ${r.hash}`);
  for (const p of r.problems) console.log(`  ${p}`);
  console.log(
    `replay: npm run sim -- --start ${seed} --seeds 1 --steps ${steps}${devices > 0 ? ` --devices ${devices}` : ''} --trace`,
  );
  if (!values.keep) break;
}
const seconds = (performance.now() - begun) / 1000;
console.log(
  `${done} seeds, ${failed} failed, ${(virtualMs / 3_600_000).toFixed(1)} simulated hours in ${seconds.toFixed(1)} s, ` +
    `${Math.round(process.memoryUsage().rss / 2 ** 20)} MiB`,
);
process.exit(failed > 0 ? 1 : 0);
