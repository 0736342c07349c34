import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildModule } from '../modules/build.js';
import { missing } from './support/needs.js';
import { hostPrograms, TestPod, wasmShim } from './support/wasm.js';

/**
 * The jail by itself: the host program is replaced by JavaScript that does what an attacker would who broke out of V8
 * and of the WASI host. It prints one JSON object to the container's log.
 */
const HOSTILE = String.raw`
const fs = require('node:fs');
const { spawnSync } = require('node:child_process');
const net = require('node:net');
const spec = JSON.parse(fs.readFileSync(3, 'utf8'));
const say = (o) => fs.appendFileSync(spec.log.path, '2026-01-01T00:00:00.000000000Z stdout F ' + JSON.stringify(o) + '\n');
const attempt = (f) => { try { const r = f(); return r === undefined ? 'done' : r; } catch (e) { return e.code || String(e); } };
const dial = (options) => new Promise((resolve) => {
  const s = net.connect(options);
  s.on('connect', () => resolve('connected'));
  s.on('error', (e) => resolve(e.code));
});
const tree = (dir, depth) => fs.readdirSync(dir, { withFileTypes: true }).flatMap((e) => {
  const path = dir + (dir === '/' ? '' : '/') + e.name;
  return e.isDirectory() && depth > 0 && path !== '/proc' ? [path, ...tree(path, depth - 1)] : [path];
});
const tricks = {
  async look() {
    const status = fs.readFileSync('/proc/self/status', 'utf8');
    return {
      root: fs.readdirSync('/').sort(),
      pids: fs.readdirSync('/proc').filter((n) => /^\d+$/.test(n)),
      proc: fs.readdirSync('/proc').filter((n) => !/^\d+$/.test(n)).sort(),
      uid: process.getuid(), gid: process.getgid(), groups: process.getgroups(),
      env: process.env,
      caps: /CapPrm:\s*(\w+)/.exec(status)[1] + /CapBnd:\s*(\w+)/.exec(status)[1] + /CapAmb:\s*(\w+)/.exec(status)[1],
      noNewPrivs: /NoNewPrivs:\s*(\d)/.exec(status)[1],
      seccomp: /Seccomp:\s*(\d)/.exec(status)[1],
      hostname: require('node:os').hostname(),
      descriptors: fs.readdirSync('/proc/self/fd').map((n) => attempt(() => fs.readlinkSync('/proc/self/fd/' + n))),
      mounts: fs.readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\n').map((l) => l.split(' ')[4]).sort(),
    };
  },
  async files() {
    const all = tree('/', 4);
    const writes = {};
    for (const path of ['/made', '/bin/made', '/log/made', '/host.cjs', '/module', '/proc/self/oom_score_adj', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/dev/made', '/v/made'])
      writes[path] = attempt(() => fs.writeFileSync(path, '-500'));
    const reads = {};
    for (const path of ['/etc/passwd', '/proc/1/root/etc/passwd', '/proc/self/root/../etc/passwd', '/dev/mem', '/dev/kmem', '/sys/kernel', '/proc/kcore', '/proc/sys/kernel/random/boot_id', '/log/../../etc/passwd'])
      reads[path] = attempt(() => fs.readFileSync(path, 'utf8').length);
    return { writes, reads, setuid: attempt(() => process.setuid(0)), all: all.length,
      rename: attempt(() => fs.renameSync(spec.log.path, '/log/other')), symlink: attempt(() => fs.symlinkSync('/etc/shadow', '/log/x')),
      unlink: attempt(() => fs.unlinkSync(spec.log.path)) };
  },
  async processes() {
    const kill = {};
    for (const pid of [Number(spec.env.find((e) => e[0] === 'VICTIM')[1])])
      kill[pid] = attempt(() => process.kill(pid, 0) && 'reached');
    const node = (code) => {
      const r = spawnSync('/bin/node', ['-e', code], { encoding: 'utf8' });
      return r.error ? r.error.code : (r.signal || r.status);
    };
    return { kill, child: node('process.exit(7)'), shell: attempt(() => spawnSync('/bin/sh').error.code) };
  },
  async network() {
    return {
      tcp: await dial({ host: '127.0.0.1', port: Number(spec.env.find((e) => e[0] === 'PORT')[1]) }),
      abstract: await dial({ path: '\0' + spec.env.find((e) => e[0] === 'ABSTRACT')[1] }),
      listen: await new Promise((resolve) => net.createServer().on('error', (e) => resolve(e.code)).listen(0, () => resolve('listening'))),
    };
  },
  async memory() {
    say('begin');
    const kept = [];
    for (;;) kept.push(Buffer.alloc(1 << 20, 1));
  },
  async forks() {
    const { spawn } = require('node:child_process');
    let failed = 0, made = 0;
    for (let i = 0; i < 40; i++)
      await new Promise((resolve) => {
        const c = spawn('/bin/node', ['-e', 'setTimeout(() => {}, 100000)']);
        c.on('error', () => { failed++; resolve(); });
        c.on('spawn', () => { made++; resolve(); });
        c.on('exit', () => { failed++; });
      });
    await new Promise((r) => setTimeout(r, 500));
    return { failed, made };
  },
};
tricks[spec.args[1]]().then((r) => { say(r); process.exit(0); }, (e) => { say({ error: String(e) }); process.exit(1); });
`;

interface Seen {
  uid: number;
  gid: number;
  root: string[];
  proc: string[];
  env: Record<string, string>;
  descriptors: string[];
  mounts: string[];
  writes: Record<string, string>;
  reads: Record<string, string>;
  setuid: string;
  rename: string;
  symlink: string;
  unlink: string;
  kill: Record<string, string>;
  shell: string;
  failed: number;
}

describe.skipIf(missing('root'))(
  'the jail around a host program that turned hostile',
  { timeout: 60_000 },
  () => {
    let made: Awaited<ReturnType<typeof wasmShim>>;
    let programs: string;
    let pod: TestPod;
    const box = 'example.test/box:1';

    beforeAll(async () => {
      programs = mkdtempSync(join(tmpdir(), 'hostile-'));
      copyFileSync(join(hostPrograms(), 'jail.pl'), join(programs, 'jail.pl'));
      writeFileSync(join(programs, 'p1.cjs'), HOSTILE);
      made = await wasmShim({ [box]: await buildModule('box') }, { programs });
      pod = await TestPod.make(made.shim, { hostname: 'cell' });
    });
    afterAll(async () => {
      await pod?.remove();
      await made?.shim.stop();
      await made?.remove();
      rmSync(programs, { recursive: true, force: true });
    });
    const trick = async (name: string, env: Record<string, string> = {}, more = {}) => {
      const { out } = await pod.run(box, [name], {
        env: Object.entries(env).map(([n, value]) => ({ name: n, value })),
        ...more,
      });
      return JSON.parse(out.split('\n').at(-1) ?? '') as Seen;
    };

    it('holds nothing but node, the program, the module and the log', async () => {
      const seen = await trick('look');
      expect(seen).toMatchObject({
        pids: ['1'],
        groups: [seen.gid],
        caps: '0'.repeat(48),
        noNewPrivs: '1',
        seccomp: '2',
        hostname: 'cell',
      });
      expect(seen.uid).toBeGreaterThan(100_000);
      expect(seen.root.filter((n) => !/^lib(64)?$|^usr$/.test(n))).toEqual(
        expect.arrayContaining(['bin', 'host.cjs', 'log', 'module', 'proc']),
      );
      expect(seen.root.some((n) => ['etc', 'home', 'root', 'sys', 'tmp', 'var'].includes(n))).toBe(false);
      expect(seen.proc.sort()).toEqual(['self', 'thread-self']);
      expect(Object.keys(seen.env).sort()).toEqual(['MALLOC_ARENA_MAX', 'PATH']);
      const outside = seen.descriptors.filter(
        (d) => d.startsWith('/') && !d.startsWith('/proc/') && d !== '/dev/null',
      );
      // What it was handed; files, from which no path leads on.
      expect(new Set(outside.map((d) => d.split('/').at(-1)))).toEqual(new Set(['message', 'spec.json']));
      expect(
        seen.mounts.every((m) => /^\/($|bin\/node$|usr\/|lib|host\.cjs$|module$|log$|proc$)/.test(m)),
      ).toBe(true);
    });

    it('lets nothing be written, and nothing of the machine be read', async () => {
      const seen = await trick('files');
      for (const [path, result] of Object.entries(seen.writes))
        expect(`${path} ${result}`).toMatch(/ (EROFS|EACCES|ENOENT|EPERM)$/);
      for (const [path, result] of Object.entries(seen.reads))
        expect(`${path} ${result}`).toMatch(/ (EACCES|ENOENT|EPERM|ENOTDIR)$/);
      expect([seen.setuid, seen.rename, seen.symlink, seen.unlink]).toEqual(
        expect.not.arrayContaining(['done']),
      );
    });

    it('reaches no process outside, and finds no shell', async () => {
      const seen = await trick('processes', { VICTIM: `${process.pid}` });
      expect(seen.kill[process.pid]).toBe('ESRCH');
      expect(seen.shell).toBe('ENOENT');
    });

    it('reaches no network: neither the loopback of the machine nor its abstract sockets', async () => {
      const server = createServer((s) => s.end());
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const name = `cox-test-${process.pid}`;
      const abstract = createServer((s) => s.end());
      await new Promise<void>((resolve) => abstract.listen(`\0${name}`, resolve));
      try {
        const { port } = server.address() as { port: number };
        const seen = await trick('network', { PORT: `${port}`, ABSTRACT: name });
        for (const result of Object.values(seen)) expect(`${result}`).toMatch(/^E/);
      } finally {
        server.close();
        abstract.close();
      }
    });

    const hasMemory = /\scgroup2?\s[^\n]*memory/.test(readFileSync('/proc/mounts', 'utf8'));
    it.skipIf(!hasMemory)('is killed for memory beyond the limit, and told so', async () => {
      const { status } = await pod.run(box, ['memory'], { resources: { memoryLimitBytes: 32 << 20 } });
      expect(status).toMatchObject({ exitCode: 137, reason: 'OOMKilled' });
    });

    it('cannot fork without end', async () => {
      const seen = await trick('forks');
      expect(seen.failed).toBeGreaterThan(0);
    });
  },
);

describe.skipIf(missing('root'))('control groups', () => {
  it('go with the containers, and their parent with the last of them', async () => {
    const made = await wasmShim({ 'example.test/box:1': await buildModule('box') });
    const parent = createHash('sha256').update(made.dataDir).digest('hex').slice(0, 8);
    const found = () =>
      ['', ...readdirSync('/sys/fs/cgroup')]
        .map((controller) => join('/sys/fs/cgroup', controller, 'coxswain', parent))
        .filter((path) => existsSync(path));
    const pod = await TestPod.make(made.shim);
    const id = await pod.start('example.test/box:1', ['echo', 'up', ';', 'sleep', '1000000']);
    const groups = found();
    await made.shim.stop();
    expect(found(), 'a running container keeps its own').toEqual(groups);
    for (const g of groups) expect(existsSync(join(g, id))).toBe(true);
    const again = await made.again();
    await again.removeSandbox(pod.sandboxId);
    expect(found()).toEqual(groups);
    await again.stop();
    expect(found()).toEqual([]);
    rmSync(pod.logs, { recursive: true, force: true });
    await made.remove();
  });
});
