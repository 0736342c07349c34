import { readFileSync } from 'node:fs';
import { preview1 } from './p1.js';
import { openPreopens } from './paths.js';
import { EXIT } from './spec.js';
import { runGuest } from './start.js';

/** Runs one core module: the program inside the jail. */
runGuest(({ spec, log, exit, end }) => {
  const compile = (): WebAssembly.Module => {
    try {
      return new WebAssembly.Module(readFileSync(spec.module));
    } catch (e) {
      return end(EXIT.cannotRun, `${spec.name} is not a valid WebAssembly module: ${(e as Error).message}`);
    }
  };
  const preopens = openPreopens(spec.preopens);
  const { imports, bind } = preview1({ args: spec.args, env: spec.env, preopens, log, exit });
  const instantiate = (): WebAssembly.Instance => {
    try {
      return new WebAssembly.Instance(compile(), { wasi_snapshot_preview1: imports });
    } catch (e) {
      if (e instanceof WebAssembly.RuntimeError) throw e;
      return end(EXIT.cannotRun, `${spec.name} cannot be instantiated: ${(e as Error).message}`);
    }
  };
  const { memory, _start } = instantiate().exports as {
    memory: WebAssembly.Memory;
    _start: () => void;
  };
  bind(memory);
  _start();
});
