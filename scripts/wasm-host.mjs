// Bundles the programs that run inside the wasm jail, each into one CommonJS file: what loads fastest and mounts as one.
import { copyFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const out = process.argv[2] ?? join(root, 'dist/shims/wasm/host');
for (const [name, entry] of Object.entries({ p1: 'p1-main.ts', p2: 'p2-main.ts' })) {
  const bundle = await rolldown({
    input: join(root, 'shims/wasm/host', entry),
    platform: 'node',
    logLevel: 'warn',
  });
  await bundle.write({ file: join(out, `${name}.cjs`), format: 'cjs', minify: 'dce-only' });
  await bundle.close();
}
copyFileSync(join(root, 'shims/wasm/jail.pl'), join(out, 'jail.pl'));
