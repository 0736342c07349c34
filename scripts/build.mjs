// Compiles TypeScript into dist/ and copies what the program reads beside its code at run time.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

const run = (command, args) => {
  const { status } = spawnSync(command, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
};

run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']);

// What is not compiled but read or run as it is: protobuf definitions, programs for child processes.
const DATA = /\.proto$|-worker\.mjs$/;
const copyData = (dir) => {
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    const from = join(dir, e.name);
    if (e.isDirectory()) copyData(from);
    else if (DATA.test(e.name)) {
      const to = join('dist', from);
      mkdirSync(dirname(to), { recursive: true });
      cpSync(from, to);
    }
  }
};
for (const room of ['api', 'hub', 'agent', 'shims', 'cli']) if (existsSync(room)) copyData(room);

// The Kubernetes schemas come from a published package, at build time.
if (existsSync('scripts/schemas.mjs')) run(process.execPath, ['scripts/schemas.mjs']);

// What runs inside the wasm jail.
if (existsSync('scripts/wasm-host.mjs')) run(process.execPath, ['scripts/wasm-host.mjs']);
