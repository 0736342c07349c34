import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from 'vitest';
import { type ShimHarness, shimConformance, type WorkloadIntents } from '../../shims/conformance.js';
import type { WasmShimOptions } from '../../shims/wasm/shim.js';
import { buildModule } from '../modules/build.js';
import { missing } from './support/needs.js';
import { wasmShim } from './support/wasm.js';

/** How each intent reads on box's command line. */
const COMMANDS: { [K in keyof WorkloadIntents]: (p: WorkloadIntents[K]) => string[] } = {
  exit: ({ code }) => ['exit', `${code}`],
  'print-lines': ({ count }) => ['lines', `${count}`],
  'print-long-line': ({ length }) => ['flood', '1', `${length}`],
  print: ({ stdout, stderr }) => ['printf', stdout ?? '', ';', 'eprintf', stderr ?? ''],
  inspect: ({ args }) => ['inspect', ...args],
  'sleep-forever': () => ['echo', 'ready', ';', 'sleep', '1000000000'],
  'busy-loop': () => ['echo', 'ready', ';', 'spin'],
  'delayed-exit': ({ delayMs, code }) => [
    'echo',
    'begin',
    ';',
    'sleep',
    `${delayMs}`,
    ';',
    'echo',
    'end',
    ';',
    'exit',
    `${code}`,
  ],
  'write-file': ({ path, text }) => ['put', path, text],
  'read-file': ({ path }) => ['cat', path],
  'grow-memory': () => ['grow', '100000'],
  'echo-input': () => ['echo', 'ready', ';', 'copy'],
  // A core module has no sockets; test/e2e/wasm-network.test.ts has a component that listens.
  serve: () => [],
  crash: () => ['trap'],
};

const harness = (options: Partial<WasmShimOptions>) => async (): Promise<ShimHarness> => {
  const garbage = mkdtempSync(join(tmpdir(), 'garbage-'));
  writeFileSync(join(garbage, 'garbage.wasm'), 'this is no module');
  const made = await wasmShim(
    {
      'example.test/box:1': await buildModule('box'),
      'example.test/garbage:1': join(garbage, 'garbage.wasm'),
    },
    options,
  );
  let { shim } = made;
  return {
    get shim() {
      return shim;
    },
    capabilities: { sigterm: false, workingDir: false, signals: false, oom: 'failure' },
    workload: (intent, params) => ({ image: 'example.test/box:1', args: COMMANDS[intent](params) }),
    missingImage: 'example.test/missing:1',
    garbageImage: 'example.test/garbage:1',
    async restart(downMs) {
      await shim.stop();
      await new Promise((resolve) => setTimeout(resolve, downMs));
      shim = await made.again();
    },
    async dispose() {
      for (const s of (await shim.list()).sandboxes) await shim.removeSandbox(s.id);
      await shim.stop();
      await made.remove();
      rmSync(garbage, { recursive: true, force: true });
    },
  };
};

describe.skipIf(missing('root'))('jailed', () => {
  shimConformance('wasm', harness({}));
});
shimConformance('wasm without a jail', harness({ jail: 'off', allowUnjailed: true }));
