// Builds examples/NAME/assembly/*.ts (AssemblyScript) into examples/NAME/build/*.wasm. No names: all of them.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import asc from 'assemblyscript/asc';

const root = join(import.meta.dirname, '..', 'examples');
const names = process.argv.slice(2).length
  ? process.argv.slice(2)
  : readdirSync(root, { withFileTypes: true })
      .filter((d) => d.isDirectory())
      .map((d) => d.name);

for (const name of names) {
  const sources = join(root, name, 'assembly');
  if (name === 'assembly' || !existsSync(sources)) continue;
  const build = join(root, name, 'build');
  mkdirSync(build, { recursive: true });
  for (const file of readdirSync(sources).filter((f) => f.endsWith('.ts'))) {
    const out = `${basename(file, '.ts')}.wasm`;
    const { error, stderr } = await asc.main([
      // A WASI command: `_start` runs the top level of the file; failed checks trap.
      ...[
        `${name}/assembly/${file}`,
        'assembly/wasi.ts',
        '--exportStart',
        '_start',
        '--use',
        'abort=assembly/wasi/trap',
      ],
      ...['--baseDir', root, '--outFile', `${name}/build/${out}`, '-O', '--runtime', 'incremental'],
    ]);
    if (error) {
      console.error(`examples/${name}/assembly/${file}: ${error.message}\n${stderr.toString()}`);
      process.exit(1);
    }
    console.log(`examples/${name}/build/${out}`);
  }
}
