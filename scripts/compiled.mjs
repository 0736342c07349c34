// Compiles a program that is not part of the product (a benchmark, a simulation) beside a copy of what the product reads
// at run time, and runs it.
import { spawnSync } from 'node:child_process';
import { cpSync, statSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');

/** Runs a script of this repository with Node and ends this process when it fails. */
export function run(...args) {
  const { status } = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, COX_REPO: root },
  });
  if (status !== 0) process.exit(status ?? 1);
}

/** Builds the product, then `tsconfig.NAME.json` into `dist-NAME`, and runs `main` there with this process' arguments. */
export function runCompiled(name, main) {
  const out = `dist-${name}`;
  run('scripts/build.mjs');
  run('node_modules/typescript/bin/tsc', '-p', `tsconfig.${name}.json`);
  cpSync(join(root, 'dist'), join(root, out), {
    recursive: true,
    filter: (path) => statSync(path).isDirectory() || !path.endsWith('.js'),
  });
  run(join(out, main), ...process.argv.slice(2));
}
