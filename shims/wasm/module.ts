import { type FileHandle, open } from 'node:fs/promises';
import { P1_FUNCTIONS } from './host/spec.js';

/** What kind of binary it is; `problem` says why it can never run as a container, in words for the pod's status. */
export interface ModuleFacts {
  kind: 'module' | 'component';
  problem?: string;
}

const EXPORT_KINDS = ['func', 'table', 'memory', 'global', 'tag'];
/** Import and export sections beyond this are not looked at; the host finds out then. */
const MAX_SECTION = 4 << 20;

/**
 * Looks at the header, the imports and the exports of a file, without compiling it (WebAssembly core specification,
 * chapter 5.5). Rejects only when the file cannot be read.
 */
export async function inspectModule(path: string): Promise<ModuleFacts> {
  const file = await open(path);
  try {
    return await inspect(file);
  } catch (e) {
    if (e instanceof Malformed)
      return { kind: 'module', problem: `is a broken WebAssembly module: ${e.message}` };
    throw e;
  } finally {
    await file.close();
  }
}

class Malformed extends Error {}

async function readAt(file: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  const { bytesRead } = await file.read(bytes, 0, length, position);
  return bytes.subarray(0, bytesRead);
}

async function inspect(file: FileHandle): Promise<ModuleFacts> {
  const head = await readAt(file, 0, 8);
  const isWasm =
    head.length === 8 && head[0] === 0 && head[1] === 0x61 && head[2] === 0x73 && head[3] === 0x6d;
  if (!isWasm)
    return { kind: 'module', problem: 'is not WebAssembly: it does not begin with the magic bytes \\0asm' };
  const version = head[4]! | (head[5]! << 8);
  const layer = head[6]! | (head[7]! << 8);
  if (layer === 1) {
    if (version === 13) return { kind: 'component' };
    return { kind: 'component', problem: `is a component of binary version ${version}; 13 is supported` };
  }
  if (layer !== 0 || version !== 1)
    return { kind: 'module', problem: `is WebAssembly of binary version ${version}; 1 is supported` };

  const { size } = await file.stat();
  let imports: Item[] = [];
  let exports: Item[] = [];
  for (let at = 8; at < size; ) {
    const header = new Reader(await readAt(file, at, 6));
    const id = header.byte();
    const length = header.u32();
    const start = at + header.at;
    if (start + length > size)
      throw new Malformed(`section ${id} at byte ${at} is longer than the file (truncated?)`);
    if ((id === 2 || id === 7) && length <= MAX_SECTION) {
      const reader = new Reader(await readAt(file, start, length));
      if (id === 2) imports = readImports(reader);
      else exports = readExports(reader);
    }
    at = start + length;
  }
  const problem = problemOf(imports, exports);
  return { kind: 'module', ...(problem ? { problem } : {}) };
}

interface Item {
  module: string;
  name: string;
  kind: string;
}

function problemOf(imports: Item[], exports: Item[]): string | undefined {
  const known = new Set(P1_FUNCTIONS.map((f) => `wasi_snapshot_preview1.${f}`));
  const unknown = imports.filter((i) => i.kind !== 'func' || !known.has(`${i.module}.${i.name}`));
  if (unknown.length > 0) {
    const names = unknown.slice(0, 5).map((i) => `${i.module}.${i.name} (${i.kind})`);
    const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : '';
    return `needs an unknown import ${names.join(', ')}${more}: a module gets wasi_snapshot_preview1 and nothing else; build it for the target wasm32-wasip1 (wasm32-wasi)`;
  }
  const has = (name: string, kind: string) => exports.some((e) => e.name === name && e.kind === kind);
  if (!has('_start', 'func'))
    return has('_initialize', 'func')
      ? 'is a reactor (it exports _initialize and no _start): only commands can run as containers; build it as a program, not as a library'
      : 'exports no function _start: only WASI commands can run as containers; build it as a program, not as a library';
  if (!has('memory', 'memory')) return 'exports no memory named "memory", which WASI needs';
  return undefined;
}

function readImports(r: Reader): Item[] {
  return Array.from({ length: r.count() }, () => {
    const module = r.name();
    const name = r.name();
    const kind = r.byte();
    if (kind === 0) r.u32();
    else if (kind === 1) {
      r.valueType();
      r.limits();
    } else if (kind === 2) r.limits();
    else if (kind === 3) {
      r.valueType();
      r.byte();
    } else if (kind === 4) {
      r.byte();
      r.u32();
    } else throw new Malformed(`import of unknown kind ${kind}`);
    return { module, name, kind: EXPORT_KINDS[kind]! };
  });
}

function readExports(r: Reader): Item[] {
  return Array.from({ length: r.count() }, () => {
    const name = r.name();
    const kind = r.byte();
    r.u32();
    return { module: '', name, kind: EXPORT_KINDS[kind] ?? `kind ${kind}` };
  });
}

class Reader {
  at = 0;
  constructor(private readonly bytes: Uint8Array) {}

  byte(): number {
    const b = this.bytes[this.at++];
    if (b === undefined) throw new Malformed('unexpected end');
    return b;
  }
  /** LEB128, up to 64 bits of which only the safe ones count. */
  u32(): number {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const b = this.byte();
      value += (b & 127) * shift;
      if (b < 128) return value;
      if (shift > 2 ** 63) throw new Malformed('number too long');
    }
  }
  /** A vector's length; each element takes at least a byte. */
  count(): number {
    const n = this.u32();
    if (n > this.bytes.length) throw new Malformed('vector longer than its section');
    return n;
  }
  name(): string {
    const length = this.u32();
    const part = this.bytes.subarray(this.at, this.at + length);
    if (part.length < length) throw new Malformed('name longer than its section');
    this.at += length;
    return new TextDecoder().decode(part);
  }
  limits(): void {
    const flags = this.byte();
    this.u32();
    if (flags & 1) this.u32();
  }
  valueType(): void {
    const b = this.byte();
    if (b === 0x63 || b === 0x64) this.u32();
  }
}
