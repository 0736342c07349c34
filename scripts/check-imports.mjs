// Holds the line of docs/architecture.md: api <- {hub, shims <- agent} <- cli. `import type` counts too.
// Exits 1 and names each import that crosses a wall, and each cycle between files.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';

const root = process.argv[2] ?? '.';
const MAY_IMPORT = {
  api: ['api'],
  hub: ['api', 'hub'],
  shims: ['api', 'shims'],
  agent: ['api', 'shims', 'agent'],
  cli: ['api', 'hub', 'shims', 'agent', 'cli'],
  bench: ['api', 'hub', 'shims', 'agent', 'cli', 'bench', 'test'],
  test: ['api', 'hub', 'shims', 'agent', 'cli', 'test'],
};
/** Rooms of the hub that may not know the store: they go through the Client. */
const NO_STORE = ['hub/scheduler', 'hub/controllers', 'hub/link', 'hub/http'];

const files = [];
const walk = (dir) => {
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    if (e.name === 'node_modules' || e.name === 'dist') continue;
    const path = join(dir, e.name);
    if (e.isDirectory()) walk(path);
    else if (/\.ts$/.test(e.name) && !e.name.endsWith('.d.ts')) files.push(path);
  }
};
for (const room of Object.keys(MAY_IMPORT)) {
  try {
    walk(join(root, room));
  } catch (e) {
    if (e.code !== 'ENOENT') throw e;
  }
}

const problems = [];
const graph = new Map();
const SPECIFIER =
  /(?:^|[\s;}])(?:import|export)\s[^'";]*?from\s*['"]([^'"]+)['"]|import\s*\(\s*['"]([^'"]+)['"]\s*\)|^\s*import\s*['"]([^'"]+)['"]/gm;
for (const file of files) {
  const path = relative(root, file);
  const room = path.split('/')[0];
  const targets = [];
  const text = readFileSync(file, 'utf8').replace(/\/\*[\s\S]*?\*\//g, (c) => c.replace(/[^\n]/g, ' '));
  for (const m of text.matchAll(SPECIFIER)) {
    const spec = m[1] ?? m[2] ?? m[3];
    if (!spec.startsWith('.')) continue;
    const target = normalize(join(dirname(path), spec)).replace(/\.js$/, '.ts');
    const targetRoom = target.split('/')[0];
    if (!(targetRoom in MAY_IMPORT)) continue;
    targets.push(target);
    if (!MAY_IMPORT[room].includes(targetRoom))
      problems.push(`${path}: ${room}/ may not import ${targetRoom}/ (${spec})`);
    const isTest = path.endsWith('.test.ts');
    if (!isTest && target.startsWith('hub/store/') && NO_STORE.some((r) => path.startsWith(`${r}/`)))
      problems.push(`${path}: only the registry may touch hub/store (${spec})`);
  }
  graph.set(path, targets);
}

const state = new Map();
const stack = [];
const visit = (file) => {
  state.set(file, 'open');
  stack.push(file);
  for (const next of graph.get(file) ?? []) {
    if (!graph.has(next)) continue;
    if (state.get(next) === 'open')
      problems.push(`cycle: ${[...stack.slice(stack.indexOf(next)), next].join(' -> ')}`);
    else if (!state.has(next)) visit(next);
  }
  stack.pop();
  state.set(file, 'done');
};
for (const file of graph.keys()) if (!state.has(file)) visit(file);

if (problems.length) {
  for (const p of [...new Set(problems)]) console.error(p);
  process.exit(1);
}
console.log(`imports: ${files.length} files, every one within its walls`);
