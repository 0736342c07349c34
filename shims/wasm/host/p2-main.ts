import { readFileSync } from 'node:fs';
import { isMainThread, workerData } from 'node:worker_threads';
import { serveNetwork } from './net-worker.js';
import { preview2 } from './p2.js';
import { openPreopens } from './paths.js';
import { EXIT } from './spec.js';
import { type Host, runGuest } from './start.js';
import { unpackTranspiled } from './transpiled.js';

interface Run {
  run(): unknown;
}
type Instantiate = (
  getCoreModule: (name: string) => WebAssembly.Module,
  imports: Record<string, Record<string, unknown>>,
) => Record<string, unknown>;

/** Runs one transpiled command component: the program inside the jail. Its network has a thread of its own. */
const main = ({ spec, log, exit, end }: Host): void => {
  const { code, files, imports } = unpackTranspiled(readFileSync(spec.module));
  const { imports: host, drain } = preview2({
    args: spec.args,
    env: spec.env,
    preopens: openPreopens(spec.preopens),
    network: spec.network === true,
    log,
    exit,
    ...(spec.cwd === undefined ? {} : { cwd: spec.cwd }),
  });
  const unknown = imports.filter((i) => !(i in host));
  if (unknown.length > 0)
    end(
      EXIT.cannotRun,
      `${spec.name} needs an unknown import ${unknown.join(', ')}: a component gets WASI 0.2`,
    );
  const exported: { instantiate?: Instantiate } = {};
  new Function('exports', code)(exported);
  const instantiate = exported.instantiate ?? end(EXIT.host, `${spec.name}: broken transpiled form`);
  const module = (name: string): WebAssembly.Module =>
    new WebAssembly.Module(
      files.get(name) ?? end(EXIT.host, `${spec.name}: ${name} is missing in its transpiled form`),
    );
  const instance = instantiate(module, host);
  const command = (instance['run'] ??
    Object.entries(instance).find(([name]) => name.startsWith('wasi:cli/run'))?.[1] ??
    end(EXIT.cannotRun, `${spec.name} is no command: the component does not export wasi:cli/run`)) as Run;
  try {
    command.run();
    drain();
  } catch (e) {
    drain();
    // `run: func() -> result`: the error side has nothing to say.
    if (e instanceof Error && 'payload' in e) exit(1);
    throw e;
  }
};

if (isMainThread) runGuest(main);
else serveNetwork(workerData);
