import { closeSync, readFileSync, writeSync } from 'node:fs';
import { CriLog } from './log.js';
import { preview1 } from './p1.js';
import { openPreopens } from './paths.js';
import { EXIT, type HostSpec, MAX_MESSAGE, MESSAGE_FD, SPEC_FD } from './spec.js';
import { describeTrap } from './trap.js';

/** Runs one core module to its end: the program inside the jail. */
const spec = readSpec();
const log = new CriLog(spec.log.path, spec.log.maxBytes);

const exit = (code: number): never => {
  log.flush('F');
  // Statuses have eight bits: a code beyond them must not turn into success.
  process.exit(code > 255 ? code & 255 || 255 : code);
};
const end = (code: number, message: string): never => {
  writeSync(MESSAGE_FD, Buffer.from(message).subarray(0, MAX_MESSAGE));
  return exit(code);
};

function readSpec(): HostSpec {
  const text = readFileSync(SPEC_FD, 'utf8');
  closeSync(SPEC_FD);
  return JSON.parse(text) as HostSpec;
}

function compile(): WebAssembly.Module {
  try {
    return new WebAssembly.Module(readFileSync(spec.module));
  } catch (e) {
    return end(EXIT.cannotRun, `${spec.name} is not a valid WebAssembly module: ${(e as Error).message}`);
  }
}

function instantiate(imports: Record<string, (...a: never[]) => unknown>): WebAssembly.Instance {
  try {
    return new WebAssembly.Instance(compile(), { wasi_snapshot_preview1: imports });
  } catch (e) {
    if (e instanceof WebAssembly.LinkError)
      end(EXIT.cannotRun, `${spec.name} cannot be linked: ${e.message}`);
    throw e;
  }
}

function run(): void {
  const preopens = openPreopens(spec.preopens);
  const { imports, bind } = preview1({ args: spec.args, env: spec.env, preopens, log, exit });
  const { memory, _start } = instantiate(imports).exports as {
    memory: WebAssembly.Memory;
    _start: () => void;
  };
  bind(memory);
  _start();
}

try {
  run();
} catch (e) {
  end(...describeTrap(e));
}
exit(0);
