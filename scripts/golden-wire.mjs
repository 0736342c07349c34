// Records every message of version 2 of the wire, as the frozen second implementation of it (test/support/frozen-wire.ts)
// says it, in test/support/golden-wire.json. That file is not to change any more: with it there, this only compares.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';

const root = join(import.meta.dirname, '..');
const file = join(root, 'test/support/golden-wire.json');
const dir = mkdtempSync(join(tmpdir(), 'golden-'));

async function load(path) {
  const bundle = await rolldown({ input: join(root, path), platform: 'node' });
  const to = join(dir, path.replaceAll('/', '-').replace(/ts$/, 'mjs'));
  await bundle.write({ file: to, format: 'esm' });
  return import(pathToFileURL(to).href);
}

try {
  const { record } = await load('test/support/frozen-wire.ts');
  const old = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
  const words = old?.dictionary ?? (await load('api/wire/dictionary.ts')).DICTIONARY.toString();
  const now = record(words);
  // What deflate makes of the same bytes may differ between versions of zlib, and signatures with it; nothing else may.
  const bare = (r) =>
    JSON.stringify({ ...r, desiredFile: '', frames: r.frames.map((f) => ({ ...f, frame: '' })) });
  if (!old) writeFileSync(file, `${JSON.stringify(now, null, 1)}\n`);
  else if (bare(old) !== bare(now)) {
    console.error('test/support/frozen-wire.ts no longer says what was recorded; version 2 is frozen');
    process.exitCode = 1;
  } else console.log(`${now.frames.length} messages, as recorded`);
} finally {
  rmSync(dir, { recursive: true });
}
