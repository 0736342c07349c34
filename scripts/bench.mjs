// `npm run bench [-- flags]`: builds the program and the benchmarks, then measures. `npm run bench -- --help` says what.
import { spawnSync } from 'node:child_process';
import { cpSync, statSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
const run = (...args) => {
  const { status } = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, COX_REPO: root },
  });
  if (status !== 0) process.exit(status ?? 1);
};

run('scripts/build.mjs');
run('scripts/examples.mjs', 'mixed-runtimes');
run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.bench.json');
// What the program reads beside its code at run time: the build has put it into dist/.
cpSync(join(root, 'dist'), join(root, 'dist-bench'), {
  recursive: true,
  filter: (path) => statSync(path).isDirectory() || !path.endsWith('.js'),
});
run('dist-bench/bench/main.js', ...process.argv.slice(2));
