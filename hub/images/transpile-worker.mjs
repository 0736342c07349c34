// One component on standard input → its runnable form on standard output (shims/wasm/host/transpiled.ts says which).
// A process of its own: jco takes 160 to 230 MiB for a moment, and hostile input must not reach the hub.
// Exit code 2: the component is at fault, and standard error says why; 3: the transpiler is not installed.
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);

const fail = (code, message) => {
  process.stderr.write(message);
  process.exit(code);
};

let transpileBytes;
let minifySync;
try {
  ({ transpileBytes } = await import('@bytecodealliance/jco-transpile'));
  ({ minifySync } = await import('oxc-minify'));
} catch (e) {
  fail(3, e.message);
}

let result;
try {
  result = await transpileBytes(Buffer.concat(chunks), {
    name: 'component',
    instantiation: 'sync',
    emitTypescriptDeclarations: false,
    nodejsCompat: false,
    wasiShim: false,
  });
} catch (e) {
  fail(2, e.payload ?? e.message ?? String(e));
}

const source = Buffer.from(result.files['component.js'])
  .toString('utf8')
  .replace(/^export function instantiate\(/m, 'exports.instantiate = function instantiate(')
  .replace(/^export const _util = \{\s*\}\s*$/m, '');
if (/^export /m.test(source) || !source.includes('exports.instantiate'))
  fail(2, 'jco wrote code of an unknown shape: a newer version than this program knows');
const { code, errors } = minifySync('component.js', `"use strict";\n${source}`, {
  module: false,
  compress: true,
  mangle: true,
});
if (errors.length > 0) fail(2, `minifying failed: ${errors[0].message}`);

const files = [['component.js', Buffer.from(code)]];
for (const [name, bytes] of Object.entries(result.files))
  if (name.endsWith('.wasm')) files.push([name, Buffer.from(bytes)]);
const header = {
  imports: result.imports,
  files: files.map(([name, bytes]) => ({ name, length: bytes.length })),
};
const out = Buffer.concat([
  Buffer.from(`coxswain-transpiled/1\n${JSON.stringify(header)}\n`),
  ...files.map(([, bytes]) => bytes),
]);
process.stdout.write(out, () => process.exit(0));
