import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../api/clock.js';
import { silentLog } from '../api/log.js';
import { Transpiler } from '../hub/images/transpile.js';
import type { WasmImage, WasmImages } from '../shims/images/image.js';
import { WasmShim } from '../shims/wasm/shim.js';
import { latencyRows, type Row } from './row.js';

const STARTS = 30;
const PODS = 50;

/** One image that is a file: the shim alone is measured, not the registry. */
const fileImage = (modulePath: string): WasmImages => {
  const image: WasmImage = {
    ref: 'bench/module:1',
    repoDigests: [],
    sizeBytes: statSync(modulePath).size,
    modulePath,
    moduleDigest: `sha256:${createHash('sha256').update(readFileSync(modulePath)).digest('hex')}`,
    layers: [],
  };
  return {
    start: async () => {},
    get: async () => image,
    pull: async () => image,
    list: async () => [image],
    remove: async () => {},
  };
};

const pss = (pid: number): number =>
  Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0) / 1024;

/** The wasm shim alone: how long until a pod's first line, and what a pod weighs among many. Needs root for the jail. */
export async function run(): Promise<Row[]> {
  const repo = process.env['COX_REPO'] ?? '.';
  const core = join(repo, 'examples/mixed-runtimes/build/greeter.wasm');
  const dir = mkdtempSync(join(tmpdir(), 'bench-wasm-'));
  try {
    const { componentNew, preview1AdapterCommandPath } = await import('@bytecodealliance/jco');
    const adapter = readFileSync(preview1AdapterCommandPath());
    const component = join(dir, 'component.wasm');
    writeFileSync(component, await componentNew(readFileSync(core), [['wasi_snapshot_preview1', adapter]]));
    return [
      ...(await measure('core module', core, dir, repo, '<= 8')),
      ...(await measure('component', component, dir, repo, '<= 12')),
    ];
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function measure(
  kind: string,
  module: string,
  dir: string,
  repo: string,
  budget: string,
): Promise<Row[]> {
  const transpiler = new Transpiler(dir);
  await transpiler.start();
  const dataDir = mkdtempSync(join(dir, 'data-'));
  const shim = new WasmShim({
    dataDir,
    images: fileImage(module),
    transpiled: { get: (i) => transpiler.get(i.moduleDigest, async () => readFileSync(i.modulePath)) },
    log: silentLog,
    clock: systemClock,
    allowUnjailed: true,
    programs: join(repo, 'dist/shims/wasm/host'),
  });
  await shim.start();
  const note = (await shim.health()).conditions[0]?.status === 'True' ? 'jailed' : 'without the jail';
  let serial = 0;
  const start = async (): Promise<{
    sandbox: string;
    id: string;
    startedMs: number;
    firstLineMs: number;
  }> => {
    const name = `pod-${serial++}`;
    const begin = performance.now();
    const logs = join(dataDir, 'logs', name);
    const sandbox = await shim.runSandbox({
      ...{ namespace: 'bench', name, uid: name + kind, attempt: 0, hostname: name, hostNetwork: false },
      ...{ portMappings: [], logDirectory: logs, labels: {}, annotations: {} },
    });
    const id = await shim.createContainer(sandbox, {
      ...{
        name: 'main',
        attempt: 0,
        image: 'bench/module:1',
        imageRef: 'bench/module:1',
        env: [],
        mounts: [],
      },
      ...{ resources: {}, logPath: 'main/0.log', labels: {}, annotations: {} },
    });
    await shim.startContainer(id);
    const startedMs = performance.now() - begin;
    const log = join(logs, 'main/0.log');
    while (!existsSync(log) || statSync(log).size === 0) await new Promise((r) => setTimeout(r, 1));
    return { sandbox, id, startedMs, firstLineMs: performance.now() - begin };
  };
  try {
    const starts: number[] = [];
    const lines: number[] = [];
    for (let i = 0; i <= STARTS; i++) {
      const s = await start();
      // The first one reads node from the disk and transpiles.
      if (i > 0) {
        starts.push(s.startedMs);
        lines.push(s.firstLineMs);
      }
      await shim.removeSandbox(s.sandbox);
    }
    const ids: string[] = [];
    for (let i = 0; i < PODS; i++) ids.push((await start()).id);
    await new Promise((r) => setTimeout(r, 2000));
    const pids = ids.flatMap((id) => {
      const [, supervisor, , guest] = readFileSync(join(dataDir, 'containers', id, 'pid'), 'utf8').split(' ');
      return [Number(supervisor), Number(guest)];
    });
    const sizes = pids.map(pss);
    const total = (part: number) => sizes.filter((_, i) => i % 2 === part).reduce((a, b) => a + b, 0) / PODS;
    return [
      ...latencyRows(`wasm shim: pod of a ${kind} -> running`, starts).map((r) => ({
        ...r,
        note: `${r.note}, ${note}`,
      })),
      ...latencyRows(`wasm shim: pod of a ${kind} -> first line`, lines).map((r) => ({
        ...r,
        note: `${r.note}, ${note}`,
      })),
      {
        name: `wasm shim: PSS of a pod, ${kind}, supervisor included`,
        value: total(0) + total(1),
        unit: 'MiB',
        budget,
        note: `${PODS} pods at once; ${total(0).toFixed(2)} MiB of it the supervisor`,
      },
    ];
  } finally {
    for (const s of (await shim.list()).sandboxes) await shim.removeSandbox(s.id);
    await shim.stop();
    await transpiler.stop();
  }
}
