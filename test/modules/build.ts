import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * Test modules from source, at test time: `NAME.as.ts` is AssemblyScript, `NAME.wat` is text. Built once per content and
 * kept in the git-ignored `.tmp/modules`.
 */
const here = dirname(fileURLToPath(import.meta.url));
const cache = join(here, '../../.tmp/modules');

/** Names with a source in this folder. */
export type ModuleName = 'box' | 'hello' | 'trap' | 'missing-import' | 'no-start' | 'reactor';
/** Those that import preview 2 directly, and so are components only. */
export type ComponentName = 'net';

/** What is used of asc. Its own types redeclare Node's globals, so that importing them breaks every other file. */
interface AssemblyScriptCompiler {
  main(
    args: string[],
    io: {
      readFile(name: string): string | null;
      writeFile(name: string, contents: string | Uint8Array): void;
      listFiles(): string[];
    },
  ): Promise<{ error: Error | null; stderr: { toString(): string } }>;
}

const AS_LIBRARY = ['wasi.as.ts'];

/**
 * Compiles AssemblyScript to a WASI preview 1 command. `files` maps names (`x.ts`) to text; `entry` is one of them.
 * `wasi.as` can always be imported.
 */
export async function compileAssemblyScript(
  entry: string,
  files: Record<string, string>,
): Promise<Uint8Array> {
  const asc: AssemblyScriptCompiler = await import(['assemblyscript', 'asc'].join('/'));
  const library = Object.fromEntries(AS_LIBRARY.map((f) => [f, readFileSync(join(here, f), 'utf8')]));
  const all: Record<string, string> = { ...library, ...files };
  let binary: Uint8Array | undefined;
  const flags = ['--outFile', 'out.wasm', '--exportStart', '_start', '--use', 'abort=wasi.as/abortTrap'];
  const { error, stderr } = await asc.main(
    [entry, 'wasi.as.ts', ...flags, '-O', '--runtime', 'incremental'],
    {
      readFile: (name) => all[name] ?? null,
      writeFile: (name, contents) => {
        if (name.endsWith('.wasm')) binary = contents as Uint8Array;
      },
      listFiles: () => [],
    },
  );
  if (error || !binary)
    throw new Error(`asc ${entry}: ${error?.message}\n${stderr.toString()}`, { cause: error });
  return binary;
}

/** Compiles WebAssembly text. */
export async function compileWat(name: string, text: string): Promise<Uint8Array> {
  const wabt = await (await import('wabt')).default();
  const module = wabt.parseWat(name, text);
  try {
    return module.toBinary({ write_debug_names: true }).buffer;
  } finally {
    module.destroy();
  }
}

/** Turns a core command module into a preview 2 command component, with jco's preview 1 adapter. */
export async function componentOf(core: Uint8Array): Promise<Uint8Array> {
  const { componentNew, preview1AdapterCommandPath } = await import('@bytecodealliance/jco');
  const adapter = readFileSync(preview1AdapterCommandPath());
  return await componentNew(core, [['wasi_snapshot_preview1', adapter]]);
}

const WASI = '0.2.12';
/** What components may import directly, beside what the adapter gives them. */
const WORLD = `package test:modules;
world guest {
  include wasi:sockets/imports@${WASI};
  import wasi:io/streams@${WASI};
  import wasi:http/types@${WASI};
  import wasi:http/outgoing-handler@${WASI};
}
`;

/** Like {@link componentOf} for a module that imports preview 2's interfaces itself, lowered by hand. */
async function componentWithImports(core: Uint8Array): Promise<Uint8Array> {
  const { componentEmbed, preview1AdapterCommandPath } = await import('@bytecodealliance/jco');
  // jco carries the WIT packages, a file for each; in one text each needs braces.
  const packages = new URL(`wit/builtin/${WASI}/`, preview1AdapterCommandPath());
  const witSource = readdirSync(packages).map((name) =>
    readFileSync(new URL(`${name}/package.wit`, packages), 'utf8').replace(
      /^package ([^;]+);([\s\S]*)$/m,
      'package $1 {$2}\n',
    ),
  );
  return await componentOf(
    await componentEmbed({ binary: core, witSource: `${WORLD}\n${witSource.join('\n')}`, world: 'guest' }),
  );
}

async function cached(key: string, build: () => Promise<Uint8Array>): Promise<string> {
  const path = join(cache, `${key}.wasm`);
  try {
    if (statSync(path).size > 0) return path;
  } catch {
    // Not built yet.
  }
  mkdirSync(cache, { recursive: true });
  const bytes = await build();
  const part = `${path}.${process.pid}`;
  writeFileSync(part, bytes);
  renameSync(part, path);
  return path;
}

/** Path of the built core module. */
export async function buildModule(name: ModuleName | ComponentName): Promise<string> {
  let file = `${name}.wat`;
  try {
    statSync(join(here, file));
  } catch {
    file = `${name}.as.ts`;
  }
  const text = readFileSync(join(here, file), 'utf8');
  const hash = createHash('sha256').update(text);
  for (const f of ['build.ts', ...AS_LIBRARY]) hash.update(readFileSync(join(here, f)));
  return await cached(`${name}-${hash.digest('hex').slice(0, 16)}`, () =>
    file.endsWith('.wat') ? compileWat(file, text) : compileAssemblyScript(file, { [file]: text }),
  );
}

/** Path of the same module as a preview 2 command component. */
export async function buildComponent(name: ModuleName | ComponentName): Promise<string> {
  const core = await buildModule(name);
  const bytes = readFileSync(core);
  const key = createHash('sha256').update(bytes).update(`component ${WORLD}`).digest('hex').slice(0, 16);
  const make = name === 'net' ? componentWithImports : componentOf;
  return await cached(`${name}-component-${key}`, () => make(bytes));
}
