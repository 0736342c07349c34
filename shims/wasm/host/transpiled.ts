/**
 * The runnable form of a component in one file: the line {@link MAGIC}, one line of JSON (a {@link Header}), then the
 * files themselves one after the other. `component.js` is CommonJS and exports `instantiate` (jco, mode `sync`).
 */
export const MAGIC = 'coxswain-transpiled/1';
/** Part of the cache's keys: changes whenever the form or the transpiler's options do. */
export const FORM = 'v1';

interface Header {
  /** Interfaces that the component imports, without versions. */
  imports: string[];
  files: { name: string; length: number }[];
}

export function unpackTranspiled(bytes: Buffer): {
  imports: string[];
  code: string;
  files: Map<string, Uint8Array>;
} {
  const first = bytes.indexOf(10);
  const second = bytes.indexOf(10, first + 1);
  if (first < 0 || second < 0 || bytes.toString('latin1', 0, first) !== MAGIC)
    throw new Error(`not a transpiled component of this version (${MAGIC})`);
  const header = JSON.parse(bytes.toString('utf8', first + 1, second)) as Header;
  const files = new Map<string, Uint8Array>();
  let at = second + 1;
  for (const { name, length } of header.files) {
    if (at + length > bytes.length) throw new Error('truncated transpiled component');
    files.set(name, bytes.subarray(at, at + length));
    at += length;
  }
  const code = files.get('component.js');
  if (!code) throw new Error('transpiled component without component.js');
  return { imports: header.imports, code: Buffer.from(code).toString('utf8'), files };
}
