import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Transpiler } from '../../hub/images/transpile.js';
import type { Mount, Shim } from '../../shims/shim.js';
import { buildComponent, buildModule, compileWat } from '../modules/build.js';
import { missing } from './support/needs.js';
import { TestPod, until, wasmShim } from './support/wasm.js';

const SECRET = 'this-is-the-secret-of-the-host';
const box = 'example.test/box:1';
const component = 'example.test/box-component:1';

let files: string;
let images: Record<string, string>;
let transpiler: Transpiler;
beforeAll(async () => {
  files = mkdtempSync(join(tmpdir(), 'wasm-modules-'));
  const put = (name: string, bytes: Uint8Array | string): string => {
    writeFileSync(join(files, name), bytes);
    return join(files, name);
  };
  const whole = readFileSync(await buildModule('box'));
  images = {
    [box]: await buildModule('box'),
    [component]: await buildComponent('box'),
    'example.test/trap:1': await buildModule('trap'),
    'example.test/missing-import:1': await buildModule('missing-import'),
    'example.test/no-start:1': await buildModule('no-start'),
    'example.test/reactor:1': await buildModule('reactor'),
    'example.test/text:1': put('text', 'hello, I am no module'),
    'example.test/empty:1': put('empty', ''),
    'example.test/truncated:1': put('truncated', whole.subarray(0, whole.length / 2)),
    'example.test/invalid:1': put(
      'invalid',
      // A function body that leaves nothing where an i32 is promised: only the compiler sees it.
      Buffer.from(
        (
          await compileWat(
            'v',
            '(module (memory (export "memory") 1) (func (export "_start") (drop (i32.const 1))))',
          )
        ).map((b) => (b === 0x41 ? 0x01 : b)),
      ),
    ),
    'example.test/recursion:1': put(
      'recursion',
      await compileWat(
        'r',
        '(module (memory (export "memory") 1) (func $f (export "_start") call $f i32.const 0 drop))',
      ),
    ),
  };
  transpiler = new Transpiler(files);
  await transpiler.start();
}, 120_000);
afterAll(async () => {
  await transpiler.stop();
  await rm(files, { recursive: true, force: true });
});

const modes = [
  { mode: 'jailed', jailed: true },
  { mode: 'without the jail', jailed: false },
] as const;

for (const { mode, jailed } of modes)
  describe.skipIf(jailed && missing('root'))(`wasm ${mode}`, { timeout: 60_000 }, () => {
    let made: Awaited<ReturnType<typeof wasmShim>>;
    let shim: Shim;
    let pod: TestPod;
    let volume: string;
    const mount = (hostPath = volume, more: Partial<Mount> = {}): Mount => ({
      hostPath,
      containerPath: '/data',
      readOnly: false,
      ...more,
    });

    beforeAll(async () => {
      made = await wasmShim(images, {
        transpiled: { get: (i) => transpiler.get(i.moduleDigest, () => readFile(i.modulePath)) },
        ...(jailed ? {} : { jail: 'off', allowUnjailed: true }),
      });
      shim = made.shim;
    });
    afterAll(async () => {
      await shim.stop();
      await made.remove();
    });
    beforeEach(async () => {
      pod = await TestPod.make(shim);
      volume = mkdtempSync(join(tmpdir(), 'wasm-volume-'));
      mkdirSync(join(volume, 'inside'));
      writeFileSync(join(volume, 'outside'), SECRET);
    });
    afterEach(async () => {
      await pod.remove();
      rmSync(volume, { recursive: true, force: true });
    });

    it('says whether pods are contained, as a condition and a label', async () => {
      const health = await shim.health();
      expect(health.conditions).toMatchObject([
        {
          type: 'WasmSandboxed',
          status: jailed ? 'True' : 'False',
          reason: jailed ? 'Jailed' : 'CannotJail',
        },
      ]);
      expect(health.labels).toEqual({ 'coxswain.dev/wasm-sandboxed': `${jailed}` });
    });

    describe('what cannot run says why', () => {
      const refused: Record<string, RegExp> = {
        text: /"example.test\/text:1" is not WebAssembly.*magic/,
        empty: /is not WebAssembly/,
        truncated: /broken WebAssembly module.*truncated/,
        'missing-import': /unknown import env\.foo \(func\).*wasm32-wasi/,
        'no-start': /exports no function _start/,
        reactor: /is a reactor/,
      };
      for (const [name, text] of Object.entries(refused))
        it(`${name}: at creation`, async () => {
          await expect(pod.create(`example.test/${name}:1`, [])).rejects.toMatchObject({
            reason: 'CreateContainerError',
            message: expect.stringMatching(text) as string,
          });
        });

      it('an invalid function body: at the start', async () => {
        const { status } = await pod.run('example.test/invalid:1', []);
        expect(status).toMatchObject({ exitCode: 126, reason: 'ContainerCannotRun' });
        expect(status.message).toMatch(
          /example.test\/invalid:1 .*not a valid WebAssembly module.*Compiling function/,
        );
      });
    });

    for (const [kind, image] of Object.entries({ module: box, component }))
      describe(`a ${kind}`, () => {
        const run = (args: string[], mounts: Mount[] = [], more = {}) =>
          pod.run(image, args, { mounts, ...more });

        it('has files: written, listed, renamed, linked, removed', async () => {
          const d = '/data/inside';
          const { status, out, err } = await run(
            `mkdir ${d}/d ; write ${d}/d/a one ; append ${d}/d/a two ; cat ${d}/d/a ; mv ${d}/d/a ${d}/d/b ; ln ${d}/d/b ${d}/d/c ; symlink b ${d}/d/s ; readlink ${d}/d/s ; cat ${d}/d/s ; stat ${d}/d/b ; rm ${d}/d/c ; ls ${d}/d ; rm ${d}/d/b ; rm ${d}/d/s ; rmdir ${d}/d ; ls ${d}`.split(
              ' ',
            ),
            [mount()],
          );
          expect(err).toBe('');
          expect(status.exitCode).toBe(0);
          expect(out.split('\n')).toEqual(['one', 'two', 'b', 'one', 'two', 'type 4 size 8', 'b s', '']);
        });

        it('has a working directory: a volume, or a directory in one, made where it is missing', async () => {
          const inVolume = await run('cat outside ; mkdir d'.split(' '), [mount()], { workingDir: '/data' });
          expect(inVolume).toMatchObject({ out: SECRET, err: '' });
          const below = await run('write x deep ; cat x'.split(' '), [mount()], {
            workingDir: '/data/inside/a/b',
          });
          expect(below).toMatchObject({ out: 'deep', err: '' });
          expect(readFileSync(join(volume, 'inside/a/b/x'), 'utf8')).toBe('deep\n');
        });

        it('has no working directory that leads out of its volume, or that is missing from a read-only one', async () => {
          symlinkSync('..', join(volume, 'inside/up'));
          const inside = mount(join(volume, 'inside'));
          const out = await run(['cat', 'outside'], [inside], { workingDir: '/data/up' });
          expect(out.status).toMatchObject({ exitCode: 126, reason: 'ContainerCannotRun' });
          expect(out.status.message).toMatch(/working directory cannot be opened: up in its volume/);
          const readOnly = await run(['cat', 'x'], [mount(volume, { readOnly: true })], {
            workingDir: '/data/none',
          });
          expect(readOnly.status.message).toMatch(/none in its volume: ENOENT/);
        });

        it('has a clock, randomness and sleep', async () => {
          const { status, out } = await run('now ; sleep 20 ; random ; random'.split(' '));
          const [now = '', a, b] = out.split('\n');
          expect(Math.abs(Number(BigInt(now) / 1_000_000n) - Date.now())).toBeLessThan(60_000);
          expect(a).not.toBe(b);
          expect(status.exitCode).toBe(0);
        });

        it('ends by a trap with a code and a reason to read', async () => {
          const { status } = await run(['trap']);
          expect(status).toMatchObject({ exitCode: 134, reason: 'Error' });
          expect(status.message).toMatch(/^wasm trap: .*unreachable.* executed at func/);
        });

        it('meets its memory limit with a clean failure', async () => {
          const { status, out } = await run(['grow', '2000'], [], {
            resources: { memoryLimitBytes: 48 << 20 },
          });
          expect(status).toMatchObject({ exitCode: 1, reason: 'Error', message: '' });
          expect(Number(/grew (\d+) MiB/.exec(out)?.[1])).toBeGreaterThan(30);
        });

        for (const busy of ['spin', 'sleep 100000000', 'flood -1 100'])
          it(`is killed at once from ${busy}`, async () => {
            const id = await pod.start(image, ['echo', 'ready', ';', ...busy.split(' ')]);
            await pod.line(id, 'ready');
            await shim.stopContainer(id, 3600);
            expect(await pod.status(id)).toMatchObject({ state: 'exited', exitCode: 137 });
          });

        it('writes nothing to a read-only volume', async () => {
          const args =
            'write /data/outside x ; write /data/new x ; mkdir /data/d ; rm /data/outside ; mv /data/outside /data/o ; symlink a /data/s ; ln /data/outside /data/l ; rmdir /data/inside ; cat /data/outside'.split(
              ' ',
            );
          const { out, err } = await run(args, [mount(volume, { readOnly: true })]);
          expect(err.split('\n')).toHaveLength(8);
          expect(out).toBe(SECRET);
          expect(readFileSync(join(volume, 'outside'), 'utf8')).toBe(SECRET);
          expect(existsSync(join(volume, 'new')) || existsSync(join(volume, 'd'))).toBe(false);
        });

        it('gets single files into directories of their own, and into one that is mounted', async () => {
          writeFileSync(join(volume, 'inside/app.conf'), 'hidden');
          const { out, err, status } = await run(
            'ls /etc/app ; cat /etc/app/a ; cat /data/app.conf ; ls /data ; write /etc/app/b new ; write /etc/app/a new'.split(
              ' ',
            ),
            [
              mount(join(volume, 'inside')),
              mount(join(volume, 'outside'), { containerPath: '/etc/app/a', readOnly: true }),
              mount(join(volume, 'outside'), { containerPath: '/data/app.conf', readOnly: true }),
            ],
          );
          expect(out.split('\n')).toEqual(['a', SECRET + SECRET + 'app.conf']);
          expect(err.split('\n')).toHaveLength(2);
          expect(status.exitCode).toBe(1);
        });

        it('reads a device that was mounted for it', async () => {
          const { out, err } = await run(
            ['head', '/dev/zero', '16'],
            [{ hostPath: '/dev/zero', containerPath: '/dev/zero', readOnly: true }],
          );
          expect(err).toBe('');
          expect(out).toBe('read 16 bytes');
        });

        // The volume given to the guest is `inside`; `outside` beside it holds the secret.
        describe('does not get out of a volume', () => {
          const inside = () => [mount(join(volume, 'inside'))];
          const escapes: Record<string, string> = {
            'by dots': 'cat /data/../outside ; cat /data/inside/../../outside ; cat /data/./../outside',
            'by an absolute path':
              'cat /data//etc/passwd ; cat /etc/passwd ; cat /proc/self/environ ; cat /dev/mem',
            'by a link made to the outside':
              'symlink ../outside /data/s ; cat /data/s ; cat-nofollow /data/s ; stat /data/s',
            'by a link with an absolute target': 'symlink /etc/passwd /data/s ; cat /data/s',
            'by a chain of links to dot':
              'mkdir /data/l ; symlink . /data/l/m ; symlink l/m/m/m/../../../../outside /data/esc ; cat /data/esc ; symlink l/m/m/m/../../../.. /data/esc2 ; cat /data/esc2/outside ; write /data/esc2/made x',
            'by a link in the middle':
              'symlink .. /data/up ; cat /data/up/outside ; write /data/up/made x ; mkdir /data/up/dir ; ls /data/up',
            'by renaming below an open descriptor':
              'mkdir /data/d ; open fd /data/d ; mv /data/d /data/e ; symlink ../../../../.. /data/d ; cat @fd/etc/passwd ; cat @fd/../../outside ; cat /data/d/etc/passwd ; write @fd/../../made x',
            'by a hard link to the outside': 'ln /data/../outside /data/x ; cat /data/x',
            'by renaming to the outside':
              'write /data/x 1 ; mv /data/x /data/../made ; mv /data/../outside /data/y ; cat /data/y',
            'by what is in /proc':
              'symlink ../../../../proc/self/cwd /data/p ; ls /data/p ; cat /data/../../proc/self/environ',
          };
          for (const [name, args] of Object.entries(escapes))
            it(name, async () => {
              const { out, err } = await run(args.split(' '), inside());
              expect(err).not.toBe('');
              expect(out).not.toContain(SECRET);
              expect(out).not.toContain('root:');
              expect(out).not.toContain('PATH=');
              expect(existsSync(join(volume, 'made'))).toBe(false);
              expect(existsSync(join(volume, 'dir'))).toBe(false);
              expect(readFileSync(join(volume, 'outside'), 'utf8')).toBe(SECRET);
            });

          it('by links that the host made', async () => {
            symlinkSync('..', join(volume, 'inside/up'));
            symlinkSync('../outside', join(volume, 'inside/direct'));
            symlinkSync(join(volume, 'outside'), join(volume, 'inside/absolute'));
            symlinkSync('/proc/self/root', join(volume, 'inside/root'));
            const { out } = await run(
              'cat /data/up/outside ; cat /data/direct ; cat /data/absolute ; cat /data/root/etc/passwd ; cat-nofollow /data/direct'.split(
                ' ',
              ),
              inside(),
            );
            expect(out).toBe('');
          });
        });
      });

    it('a race on a volume that two pods share gives nothing away', { timeout: 120_000 }, async () => {
      const inside = join(volume, 'inside');
      mkdirSync(join(inside, 'real'));
      writeFileSync(join(inside, 'real/outside'), 'harmless');
      symlinkSync('..', join(inside, 'link'));
      for (const f of [inside, join(inside, 'real')]) chmodSync(f, 0o777);
      const other = await TestPod.make(shim);
      try {
        const swapper = await other.start(box, ['swap', '/data/real', '/data/link', '1000000'], {
          mounts: [mount(inside)],
        });
        const { out } = await pod.run(box, ['tryread', '/data/real/outside', '20000', SECRET], {
          mounts: [mount(inside)],
        });
        expect(out).toMatch(/good \d+ bad 0/);
        expect(Number(/good (\d+)/.exec(out)?.[1])).toBeGreaterThan(0);
        expect((await other.status(swapper)).exitCode).toBe(0);
      } finally {
        await other.remove();
      }
    });

    it('keeps its exit code', async () => {
      for (const code of [0, 1, 42, 126, 255])
        expect((await pod.run(box, ['exit', `${code}`])).status.exitCode).toBe(code);
    });

    it('ends an endless recursion as a trap', async () => {
      const { status } = await pod.run('example.test/recursion:1', []);
      expect(status.exitCode).toBe(134);
      expect(status.message).toMatch(/call stack exhausted/);
    });

    it('has no environment but its own', async () => {
      const { out } = await pod.run(box, ['env'], { env: [{ name: 'A', value: 'b=c' }] });
      expect(out.split('\n').sort()).toEqual(['A=b=c', 'HOSTNAME=pod']);
    });

    it('a flood of output stays bounded, and the last lines are kept', async () => {
      const { status } = await pod.run(box, ['flood', '300000', '100', ';', 'echo', 'the end']);
      const file = join(pod.logs, status.name, '0.log');
      expect(readFileSync(file).length).toBeLessThanOrEqual(16 << 20);
      expect(pod.log(status, 'stdout').endsWith('\nthe end')).toBe(true);
    });

    it('a supervisor that is killed takes its guest along, and it is told', async () => {
      const id = await pod.start(box, ['echo', 'ready', ';', 'sleep', '1000000']);
      await pod.line(id, 'ready');
      const [, supervisor, , guest] = readFileSync(join(made.dataDir, 'containers', id, 'pid'), 'utf8').split(
        ' ',
      );
      process.kill(Number(supervisor), 'SIGKILL');
      const { status } = await pod.ended(id);
      expect(status).toMatchObject({ exitCode: 137, reason: 'Error' });
      await until(() => !existsSync(`/proc/${guest}`));
    });
  });
