/** What goes wrong around a hub, told by the real program: each answer names the thing and the remedy. */

import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { missing } from './support/needs.js';
import { CoxProcess, remove, scratch, TestHub } from './support/system.js';

const dirs: string[] = [];
const fresh = () => {
  const d = scratch('trouble');
  dirs.push(d);
  return d;
};
afterEach(() => remove(...dirs.splice(0)));

/** Runs a hub that is expected to give up; answers what it said. */
async function failingHub(...args: string[]): Promise<string> {
  const p = new CoxProcess(['hub', '--api-port', '0', '--mqtt-port', '0', '--host', '127.0.0.1', ...args], {
    COX_LOG: 'info',
  });
  const timer = setTimeout(() => p.child.kill('SIGKILL'), 60_000);
  const { code, signal } = await p.exited;
  clearTimeout(timer);
  expect(signal, p.tail()).toBeNull();
  expect(code, p.tail()).toBe(1);
  return p.log;
}

/** The files below a directory with their sizes, to tell where the data is. */
function filesBelow(dir: string): { path: string; size: number }[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .map((f) => join(dir, f))
    .filter((f) => statSync(f).isFile())
    .map((path) => ({ path, size: statSync(path).size }));
}

describe('a hub in trouble', () => {
  it('names a port that is in use', async () => {
    const server = createServer();
    await new Promise<void>((r) => server.listen(0, '127.0.0.1', r));
    const { port } = server.address() as { port: number };
    for (const flag of ['--api-port', '--mqtt-port']) {
      const said = await failingHub('--data-dir', fresh(), flag, String(port));
      expect(said).toContain(String(port));
      expect(said).toMatch(/in use|another program has it/);
      expect(said).toContain(flag);
    }
    await new Promise((r) => server.close(r));
  });

  it('refuses a data directory that another hub holds, by pid', async () => {
    const hub = await new TestHub(fresh()).start();
    const said = await failingHub('--data-dir', hub.dataDir);
    expect(said).toContain(String(hub.process.pid));
    expect(said).toContain(hub.dataDir);
    expect(await hub.stop()).toBe(0);
    // A hub that was killed leaves no lock behind.
    await hub.start();
    await hub.stop('SIGKILL');
    await hub.start();
    expect(await hub.stop()).toBe(0);
  });

  it('does not take a file for a data directory', async () => {
    const file = join(fresh(), 'a-file');
    writeFileSync(file, '');
    expect(await failingHub('--data-dir', file)).toContain(file);
  });

  it('names a data directory that it may not write', async () => {
    const dir = join(fresh(), 'read-only');
    mkdirSync(dir);
    const root = process.getuid?.() === 0;
    if (root) execFileSync('mount', ['-t', 'tmpfs', '-o', 'ro,size=64k', 'tmpfs', dir]);
    else chmodSync(dir, 0o500);
    try {
      const said = await failingHub('--data-dir', dir);
      expect(said).toContain(dir);
      expect(said).toMatch(/read-only|permission denied/i);
    } finally {
      if (root) execFileSync('umount', [dir]);
    }
  });

  it.skipIf(missing('root', 'kubectl-1.36'))(
    'on a full disk refuses writes with the remedy, serves reads, and goes on when there is room',
    async () => {
      const dir = join(fresh(), 'small');
      mkdirSync(dir);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', dir]);
      try {
        const hub = await new TestHub(dir).start();
        const k = hub.kubectl();
        await k('create', 'configmap', 'before', '--from-literal=a=b');
        const ballast = join(dir, 'ballast');
        for (let size = 1 << 20; size >= 1; size >>= 1)
          try {
            for (;;) appendFileSync(ballast, Buffer.alloc(size));
          } catch {
            // Full in steps of this size.
          }
        const refused = await k.try('create', 'configmap', 'during', `--from-literal=a=${'x'.repeat(8000)}`);
        expect(refused.stderr).toMatch(/disk is full: free some space/);
        expect((await k.json('get', 'configmap', 'before')).data).toEqual({ a: 'b' });
        expect((await k.try('get', '--raw', '/readyz')).stderr).toMatch(/\[-\]store failed/);
        rmSync(ballast);
        await k('create', 'configmap', 'after', '--from-literal=a=b');
        expect(await k('get', '--raw', '/readyz')).toBe('ok');
        expect(await hub.stop()).toBe(0);
        await hub.start();
        expect((await k.try('get', 'configmap', 'during')).stderr).toContain('not found');
        expect((await k.json('get', 'configmap', 'after')).data).toEqual({ a: 'b' });
        await hub.stop();
      } finally {
        execFileSync('umount', ['-l', dir]);
      }
    },
  );

  it.skipIf(missing('kubectl-1.36'))('sets a corrupt store aside and does not start empty', async () => {
    const hub = await new TestHub(fresh()).start();
    const k = hub.kubectl();
    for (let i = 0; i < 20; i++) await k('create', 'configmap', `c${i}`, '--from-literal=a=b');
    await hub.stop();
    const data = filesBelow(hub.dataDir).find(
      (f) => f.path.includes('store') && readFileSync(f.path, 'latin1').includes('configmaps'),
    );
    expect(data, JSON.stringify(filesBelow(hub.dataDir))).toBeDefined();
    const bytes = readFileSync(data!.path);
    bytes.fill(0, Math.floor(bytes.length / 2), Math.floor(bytes.length / 2) + 200);
    writeFileSync(data!.path, bytes);
    const said = await failingHub('--data-dir', hub.dataDir);
    expect(said).toContain(data!.path);
    // Its bytes are still there, under whatever name.
    expect(
      filesBelow(hub.dataDir).some((f) => readFileSync(f.path).equals(bytes)),
      said,
    ).toBe(true);
  });

  it.skipIf(missing('kubectl-1.36'))(
    'takes a torn tail for what it is: a write that was never acknowledged',
    async () => {
      const hub = await new TestHub(fresh()).start();
      await hub.kubectl()('create', 'configmap', 'kept', '--from-literal=a=b');
      await hub.stop('SIGKILL');
      const data = filesBelow(hub.dataDir).find(
        (f) => f.path.includes('store') && readFileSync(f.path, 'latin1').includes('configmaps'),
      )!;
      appendFileSync(data.path, '{"_id":"/core/configmaps/default/torn","va');
      await hub.start();
      expect((await hub.kubectl().json('get', 'configmap', 'kept')).data).toEqual({ a: 'b' });
      expect(await hub.stop()).toBe(0);
    },
  );

  it('answers wrong usage with the flag and what it wants', async () => {
    const cases: [string[], RegExp][] = [
      [['hub', '--api-port', 'many'], /--api-port must be a whole number from 0 to 65535, not "many"/],
      [['hub', '--no-such-flag'], /--no-such-flag/],
      [['hub', '--store', 'etcd'], /--store etcd is not available/],
      [['hub', '--broker', 'http://x'], /only mqtts:\/\//],
      [['launch'], /unknown command "launch"/],
      [['agent', '--data-dir', fresh()], /--join/],
      [['agent', '--data-dir', fresh(), '--join', 'rubbish'], /token/],
      [['token', 'create', '--data-dir', fresh()], /start the hub/],
      [['push', '/no/such/file.wasm', 'a:1', '--data-dir', fresh()], /\/no\/such\/file\.wasm/],
    ];
    for (const [args, wanted] of cases) {
      const p = new CoxProcess(args, { COX_LOG: 'info' });
      const { code } = await p.exited;
      expect(code, p.tail()).not.toBe(0);
      expect(p.log, args.join(' ')).toMatch(wanted);
    }
  });
});
