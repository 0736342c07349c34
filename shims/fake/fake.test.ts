import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep, systemClock } from '../../api/clock.js';
import { type ShimHarness, shimConformance, type WorkloadIntents } from '../conformance.js';
import { type FakeScript, FakeShim, type FakeStep, SCRIPT_ANNOTATION } from './fake.js';

const write = (text: string | undefined, stderr: boolean): FakeStep[] =>
  text === undefined ? [] : [{ log: text.replace(/\n$/, ''), stderr, partial: !text.endsWith('\n') }];

/** How each intent reads as a script. */
const SCRIPTS: { [K in keyof WorkloadIntents]: (p: WorkloadIntents[K]) => FakeScript } = {
  exit: ({ code }) => ({ exitCode: code }),
  'print-lines': ({ count }) => ({ steps: [{ lines: count }, { exit: 0 }] }),
  'print-long-line': ({ length }) => ({ steps: [{ log: 'x'.repeat(length) }, { exit: 0 }] }),
  print: ({ stdout, stderr }) => ({
    steps: [...write(stdout, false), ...write(stderr, true), { exit: 0 }],
  }),
  inspect: ({ args }) => ({ steps: [{ inspect: args }, { exit: 0 }] }),
  'sleep-forever': ({ ignoreTerm }) => ({
    log: ['ready'],
    onTerm: ignoreTerm ? 'ignore' : { log: 'term', exitCode: 7 },
  }),
  'busy-loop': () => ({ log: ['ready'], onTerm: 'ignore' }),
  'delayed-exit': ({ delayMs, code }) => ({
    steps: [{ log: 'begin' }, { waitMs: delayMs }, { log: 'end' }, { exit: code }],
  }),
  'write-file': ({ path, text }) => ({ steps: [{ write: path, text }, { exit: 0 }] }),
  'read-file': ({ path }) => ({ steps: [{ read: path }, { exit: 0 }] }),
  'grow-memory': () => ({ steps: [{ memoryBytes: 2 ** 40 }, { exit: 1 }] }),
  'echo-input': () => ({ log: ['ready'] }),
  serve: ({ port, text }) => ({ log: ['ready'], listen: { [port]: text } }),
  crash: () => ({ steps: [{ exit: 139 }] }),
};

shimConformance('fake', async (): Promise<ShimHarness> => {
  const dir = await mkdtemp(join(tmpdir(), 'fake-shim-'));
  const make = async () => {
    const s = new FakeShim({
      clock: systemClock,
      dir,
      images: {
        'example.test/garbage:1': {
          fails: { reason: 'ErrImagePull', message: 'example.test/garbage:1: not an image' },
        },
      },
    });
    await s.start();
    return s;
  };
  let shim = await make();
  return {
    get shim() {
      return shim;
    },
    capabilities: { sigterm: true, workingDir: true, signals: true, oom: 'OOMKilled' },
    workload: (intent, params, container) => ({
      image: 'example.test/workload:1',
      annotations: { [SCRIPT_ANNOTATION + container]: JSON.stringify(SCRIPTS[intent](params)) },
    }),
    missingImage: 'example.test/missing:1',
    commands: {
      exit: (code) => ['exit', String(code)],
      print: (text) => ['echo', text],
      complain: (text) => ['complain', text],
      cat: ['cat'],
      missing: ['missing'],
      size: ['sizes'],
      endOfTerminal: '',
      wait: ['wait'],
    },
    serve: { port: 80, text: 'hello' },
    garbageImage: 'example.test/garbage:1',
    async restart(downMs) {
      await shim.stop();
      await sleep(systemClock, downMs);
      shim = await make();
    },
    async dispose() {
      await shim.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
});
