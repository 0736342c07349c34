// `npm run sim -- --seeds N --start S`: compiles the simulator and runs it. docs/simulator.md tells more.
import { spawnSync } from 'node:child_process';
import { cpSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const run = (...args) => {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
};
run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.sim.json');
run('scripts/schemas.mjs');
cpSync(join(root, 'api/generated'), join(root, 'dist-sim/api/generated'), { recursive: true });
run('dist-sim/test/sim/main.js', ...process.argv.slice(2));
