import { randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type ShimHarness,
  shimConformance,
  type Workload,
  type WorkloadIntents,
} from '../../shims/conformance.js';
import { ensureCniConfig } from '../../shims/cri/cni.js';
import type { CriShim } from '../../shims/cri/cri.js';
import type { ContainerSpec, SandboxSpec, Shim, ShimError } from '../../shims/shim.js';
import { busyboxImage, Containerd, exec, freePort, Registry } from './support/containerd.js';
import { eventually } from './support/system.js';
import { missing } from './support/needs.js';

const lacking = missing(
  'root',
  'containerd',
  'runc',
  'cni',
  'iptables',
  'iproute2',
  'busybox',
  'docker-registry',
  'skopeo',
  'umoci',
);

/** One script per intent of the conformance suite. */
const SCRIPTS: { [K in keyof WorkloadIntents]: (p: WorkloadIntents[K]) => string } = {
  exit: ({ code }) => `exit ${code}`,
  'print-lines': ({ count }) => `i=0; while [ $i -lt ${count} ]; do echo "line $i"; i=$((i+1)); done`,
  'print-long-line': ({ length }) => `head -c ${length} /dev/zero | tr '\\0' x; echo`,
  print: ({ stdout, stderr }) => `printf '%s' ${quote(stdout ?? '')}; printf '%s' ${quote(stderr ?? '')} >&2`,
  inspect: () =>
    `for a in "$@"; do echo "arg:$a"; done; env | while read -r e; do echo "env:$e"; done; echo "cwd:$(pwd)"`,
  'sleep-forever': ({ ignoreTerm }) =>
    ignoreTerm
      ? `trap '' TERM; echo ready; while :; do sleep 1000; done`
      : `trap 'echo term; exit 7' TERM; echo ready; sleep 100000 & wait`,
  'busy-loop': () => `trap '' TERM; echo ready; while :; do :; done`,
  'delayed-exit': ({ delayMs, code }) => `echo begin; sleep ${delayMs / 1000}; echo end; exit ${code}`,
  'write-file': ({ path, text }) => `printf '%s' ${quote(text)} > ${quote(path)} || exit 1`,
  'read-file': ({ path }) => `cat ${quote(path)} || exit 1`,
  'grow-memory': () => `x=x; while :; do x="$x$x$x$x"; done`,
  crash: () => `sh -c 'kill -SEGV $$'; exit $?`,
};
const quote = (s: string) => `'${s.replaceAll("'", `'\\''`)}'`;

const imageDir = lacking ? '' : mkdtempSync('/tmp/cox-img-');
afterAll(() => {
  if (imageDir) rmSync(imageDir, { recursive: true, force: true });
});

describe.skipIf(lacking)('CRI', () => {
  shimConformance('cri', async (): Promise<ShimHarness> => {
    const containerd = await Containerd.start();
    const registry = await Registry.start();
    const image = await registry.push(await busyboxImage(imageDir), 'conformance:1');
    const garbageImage = await registry.push(
      await busyboxImage(imageDir, { '/bin/garbage': '#!/no/such/interpreter\n' }, [
        '--config.entrypoint',
        '/bin/garbage',
      ]),
      'garbage:1',
    );
    let shim = containerd.shim();
    await shim.start();
    return {
      get shim(): Shim {
        return shim;
      },
      capabilities: { sigterm: true, workingDir: true, signals: true, oom: 'OOMKilled' },
      workload: <K extends keyof WorkloadIntents>(intent: K, params: WorkloadIntents[K]): Workload => ({
        image,
        command: ['/bin/sh', '-c', SCRIPTS[intent](params)],
        args: ['sh', ...(intent === 'inspect' ? (params as WorkloadIntents['inspect']).args : [])],
      }),
      missingImage: `${registry.host}/no-such/image:1`,
      garbageImage,
      async restart(downMs) {
        await shim.stop();
        await new Promise((r) => setTimeout(r, downMs));
        shim = containerd.shim();
        await shim.start();
      },
      async dispose() {
        await shim.stop();
        await containerd.stop();
        await registry.stop();
      },
    };
  });
});
