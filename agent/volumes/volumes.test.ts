import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { ConfigMap, Pod, Secret, Volume, VolumeMount } from 'kubernetes-types/core/v1.js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { Config, PodFacts } from '../pods/env.js';
import { checkHostPath } from './hostpath.js';
import { type Mounter, systemMounter } from './mounts.js';
import { openSubPath } from './subpath.js';
import { Volumes } from './volumes.js';

const noMounts: Mounter = {
  usable: false,
  tmpfs: async () => {},
  bind: async () => {},
  unmount: async () => {},
  below: () => [],
};
const facts: PodFacts = {
  nodeName: 'n1',
  hostIP: '192.0.2.1',
  podIPs: ['10.0.0.5'],
  allocatable: { cpuMilli: 4000, memoryBytes: 2 ** 30, ephemeralStorageBytes: 2 ** 30 },
};

let root: string;
let maps: Record<string, ConfigMap>;
let secrets: Record<string, Secret>;
let tokens: Record<string, string>;
const config: Config = {
  configMap: (_, n) => maps[n],
  secret: (_, n) => secrets[n],
  token: (_uid, { audience = '', expirationSeconds = 3600 }) => tokens[`${expirationSeconds} ${audience}`],
  pullSecrets: () => [],
  services: () => [],
};

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'volumes-'));
  mkdirSync(join(root, 'memory'));
  maps = { settings: { data: { a: 'one', b: 'two' }, binaryData: { bin: 'AAEC' } } };
  tokens = {};
  secrets = { key: { data: { password: Buffer.from('geheim').toString('base64') } } };
});
afterEach(() => {
  for (const m of systemMounter.below(root)) throw new Error(`left mounted: ${m}`);
  rmSync(root, { recursive: true, force: true });
});

const make = (mounter: Mounter = noMounts) =>
  new Volumes({
    dir: join(root, 'pods'),
    clock: new VirtualClock(),
    log: silentLog,
    mounter,
    memoryDir: join(root, 'memory'),
  });

const podWith = (volumes: Volume[], mounts: VolumeMount[] = [], spec: object = {}): Pod => ({
  metadata: { name: 'p', namespace: 'default', uid: 'u1', labels: { app: 'x' } },
  spec: {
    containers: [{ name: 'c', image: 'i', volumeMounts: mounts, resources: { limits: { memory: '64Mi' } } }],
    volumes,
    ...spec,
  },
});

async function mounted(volumes: Volumes, pod: Pod, env: { name: string; value: string }[] = []) {
  await volumes.setUp(pod, config, facts);
  return volumes.mounts(pod, pod.spec!.containers[0]!, env);
}

describe('configMap, secret, downwardAPI, projected', () => {
  it('show each key as a file, with its mode, items and defaultMode', async () => {
    const pod = podWith(
      [
        { name: 'cm', configMap: { name: 'settings' } },
        {
          name: 's',
          secret: {
            secretName: 'key',
            defaultMode: 0o400,
            items: [{ key: 'password', path: 'db/pw', mode: 0o440 }],
          },
        },
      ],
      [
        { name: 'cm', mountPath: '/cm' },
        { name: 's', mountPath: '/s' },
      ],
    );
    const { mounts } = await mounted(make(), pod);
    expect(mounts.map((m) => [m.containerPath, m.readOnly])).toEqual([
      ['/cm', true],
      ['/s', true],
    ]);
    const [cm, s] = mounts.map((m) => m.hostPath) as [string, string];
    expect(readFileSync(join(cm, 'a'), 'utf8')).toBe('one');
    expect(readFileSync(join(cm, 'bin'))).toEqual(Buffer.from([0, 1, 2]));
    expect(statSync(join(cm, 'a')).mode & 0o777).toBe(0o644);
    expect(readFileSync(join(s, 'db/pw'), 'utf8')).toBe('geheim');
    expect(statSync(join(s, 'db/pw')).mode & 0o777).toBe(0o440);
    expect(s.startsWith(join(root, 'memory'))).toBe(true);
  });

  it('change all at once through ..data, and keep what did not change', async () => {
    const volumes = make();
    const pod = podWith(
      [{ name: 'cm', configMap: { name: 'settings' } }],
      [{ name: 'cm', mountPath: '/cm' }],
    );
    const { mounts } = await mounted(volumes, pod);
    const dir = mounts[0]!.hostPath;
    const first = readlinkSync(join(dir, '..data'));
    expect(await volumes.refresh(pod, config, facts)).toEqual([]);
    expect(readlinkSync(join(dir, '..data'))).toBe(first);
    maps['settings'] = { data: { a: 'eins', c: 'drei' } };
    expect(await volumes.refresh(pod, config, facts)).toEqual(['cm']);
    expect(readdirSync(dir).sort()).toEqual(['..data', readlinkSync(join(dir, '..data')), 'a', 'c'].sort());
    expect(readFileSync(join(dir, 'a'), 'utf8')).toBe('eins');
    expect(lstatSync(join(dir, 'a')).isSymbolicLink()).toBe(true);
    expect(existsSync(join(dir, first))).toBe(false);
  });

  it('any sequence of contents ends as the last one says', async () => {
    const key = fc.constantFrom('a', 'b', 'c', 'd.conf');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.dictionary(key, fc.string()), { minLength: 1, maxLength: 6 }),
        async (contents) => {
          const volumes = make();
          const pod = podWith([{ name: 'cm', configMap: { name: 'x' } }], [{ name: 'cm', mountPath: '/cm' }]);
          let dir = '';
          for (const data of contents) {
            maps['x'] = { data };
            dir = (await mounted(volumes, pod)).mounts[0]!.hostPath;
          }
          const last = contents.at(-1)!;
          const shown = Object.fromEntries(
            readdirSync(dir)
              .filter((n) => !n.startsWith('..'))
              .map((n) => [n, readFileSync(join(dir, n), 'utf8')]),
          );
          expect(shown).toEqual({ ...last });
          await volumes.tearDown('u1');
        },
      ),
      { numRuns: 30 },
    );
  });

  it('hold the tokens that were sent, in memory, each at its path, and take newer ones', async () => {
    tokens = { '3607 ': 'first', '600 vault': 'other' };
    const volumes = make();
    const source = (serviceAccountToken: { path: string; expirationSeconds: number; audience?: string }) => ({
      serviceAccountToken,
    });
    const sources = [
      source({ path: 'token', expirationSeconds: 3607 }),
      source({ path: 'vault/token', expirationSeconds: 600, audience: 'vault' }),
    ];
    const pod = (securityContext: object) =>
      podWith([{ name: 'v', projected: { sources, defaultMode: 0o644 } }], [{ name: 'v', mountPath: '/t' }], {
        securityContext,
      });
    const plain = pod({});
    await volumes.setUp(plain, config, facts);
    const [mount] = (await volumes.mounts(plain, plain.spec!.containers[0]!, [])).mounts;
    expect(mount!.hostPath.startsWith(join(root, 'memory'))).toBe(true);
    const file = (name: string) => join(mount!.hostPath, name);
    expect(readFileSync(file('token'), 'utf8')).toBe('first');
    expect(readFileSync(file('vault/token'), 'utf8')).toBe('other');
    expect(statSync(file('token')).mode & 0o777).toBe(0o644);
    tokens['3607 '] = 'second';
    expect(await volumes.refresh(plain, config, facts)).toEqual(['v']);
    expect(readFileSync(file('token'), 'utf8')).toBe('second');
    // The hub may be out of reach, or the account gone: what is there stays.
    tokens = {};
    await expect(volumes.refresh(plain, config, facts)).rejects.toThrow('failed to fetch token');
    expect(readFileSync(file('token'), 'utf8')).toBe('second');
    tokens = { '3607 ': 'third', '600 vault': 'other' };
    await volumes.setUp(pod({ fsGroup: 0 }), config, facts);
    expect(statSync(file('token')).mode & 0o777).toBe(0o640);
  });

  it('name what is missing, unless it is optional', async () => {
    const v = (source: object) => make().setUp(podWith([{ name: 'v', ...source }]), config, facts);
    await expect(v({ configMap: { name: 'none' } })).rejects.toThrow(
      'MountVolume.SetUp failed for volume "v" : configmap "none" not found',
    );
    await expect(v({ secret: { secretName: 'none' } })).rejects.toThrow('secret "none" not found');
    await expect(v({ configMap: { name: 'settings', items: [{ key: 'z', path: 'z' }] } })).rejects.toThrow(
      'references non-existent config key: z',
    );
    await v({ configMap: { name: 'none', optional: true } });
    await expect(v({ projected: { sources: [{ serviceAccountToken: { path: 'token' } }] } })).rejects.toThrow(
      'MountVolume.SetUp failed for volume "v" : failed to fetch token: the hub has sent none yet for service account "default"',
    );
    await expect(v({ nfs: { server: 's', path: '/' } })).rejects.toThrow(
      'volume type "nfs" is not supported',
    );
  });

  it('refuse paths that lead out', async () => {
    for (const path of ['../x', '/x', 'a/../../x', '..x', 'a//b', ''])
      await expect(
        make().setUp(
          podWith([{ name: 'v', configMap: { name: 'settings', items: [{ key: 'a', path }] } }]),
          config,
          facts,
        ),
      ).rejects.toThrow('invalid path');
  });

  it('tell the pod about itself', async () => {
    const pod = podWith(
      [
        {
          name: 'd',
          projected: {
            sources: [
              {
                downwardAPI: {
                  items: [
                    { path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } },
                    {
                      path: 'mem',
                      resourceFieldRef: { containerName: 'c', resource: 'limits.memory', divisor: '1Mi' },
                    },
                  ],
                },
              },
              { configMap: { name: 'settings', items: [{ key: 'a', path: 'a' }] } },
            ],
          },
        },
      ],
      [{ name: 'd', mountPath: '/d' }],
    );
    const { mounts } = await mounted(make(), pod);
    const read = (f: string) => readFileSync(join(mounts[0]!.hostPath, f), 'utf8');
    expect([read('labels'), read('mem'), read('a')]).toEqual(['app="x"', '64', 'one']);
  });
});

describe('hostPath', () => {
  it('checks every type and says what is wrong', async () => {
    const at = (n: string) => join(root, n);
    mkdirSync(at('dir'));
    writeFileSync(at('file'), 'x');
    symlinkSync('nowhere', at('dangling'));
    const server = createServer().listen(at('sock'));
    await new Promise((resolve) => server.once('listening', resolve));
    const cases: [string, string, string | undefined][] = [
      ['dir', 'Directory', undefined],
      ['file', 'Directory', 'is not a directory'],
      ['none', 'Directory', 'is not a directory'],
      ['made', 'DirectoryOrCreate', undefined],
      ['file', 'DirectoryOrCreate', 'is not a directory'],
      ['file', 'File', undefined],
      ['dir', 'File', 'is not a file'],
      ['madefile', 'FileOrCreate', undefined],
      ['no/such/dir', 'FileOrCreate', 'no such file'],
      ['sock', 'Socket', undefined],
      ['file', 'Socket', 'is not a socket file'],
      ['file', 'CharDevice', 'is not a character device'],
      ['file', 'BlockDevice', 'is not a block device'],
      ['file', 'Banana', 'Banana is an invalid volume type'],
      ['file', '', undefined],
      ['empty/type', '', undefined],
      ['dangling', 'DirectoryOrCreate', 'link to nothing'],
    ];
    for (const [name, type, wrong] of cases) {
      const check = () => checkHostPath(at(name), type);
      if (wrong) expect(check, `${name} ${type}`).toThrow(wrong);
      else check();
    }
    checkHostPath('/dev/null', 'CharDevice');
    expect(() => checkHostPath(`${root}/../etc`, '')).toThrow("must not contain '..'");
    expect(statSync(at('made')).isDirectory() && statSync(at('madefile')).isFile()).toBe(true);
    server.close();
  });

  it('hands devices on as devices', async () => {
    const pod = podWith(
      [{ name: 'd', hostPath: { path: '/dev/null', type: 'CharDevice' } }],
      [{ name: 'd', mountPath: '/dev/sensor', readOnly: true }],
    );
    expect(await mounted(make(), pod)).toEqual({
      mounts: [{ hostPath: '/dev/null', containerPath: '/dev/sensor', readOnly: true }],
      devices: [{ hostPath: '/dev/null', containerPath: '/dev/sensor', permissions: 'r' }],
    });
  });
});

describe('subPath', () => {
  const open = (path: string) => {
    const { fd, isDirectory } = openSubPath(join(root, 'vol'), path);
    try {
      return { path: readlinkSync(`/proc/self/fd/${fd}`).slice(root.length), isDirectory };
    } finally {
      closeSync(fd);
    }
  };
  beforeEach(() => {
    mkdirSync(join(root, 'vol/sub'), { recursive: true });
    mkdirSync(join(root, 'outside'));
    writeFileSync(join(root, 'outside/secret'), 'host');
    writeFileSync(join(root, 'vol/sub/f'), 'x');
  });

  it('opens, makes and follows links inside, and never leads out', () => {
    expect(open('sub/f')).toEqual({ path: '/vol/sub/f', isDirectory: false });
    expect(open('new/deep')).toEqual({ path: '/vol/new/deep', isDirectory: true });
    symlinkSync('sub', join(root, 'vol/inside'));
    symlinkSync('../sub/f', join(root, 'vol/new/up'));
    expect(open('inside/f').path).toBe('/vol/sub/f');
    expect(open('new/up').path).toBe('/vol/sub/f');
    symlinkSync('../outside', join(root, 'vol/esc'));
    symlinkSync('/etc', join(root, 'vol/abs'));
    symlinkSync('loop', join(root, 'vol/loop'));
    symlinkSync('new/../../outside', join(root, 'vol/long'));
    for (const bad of ['esc', 'esc/secret', 'abs/passwd', 'long/secret'])
      expect(() => open(bad), bad).toThrow('leads out of the volume');
    expect(() => open('loop')).toThrow('too many links');
    expect(() => open('sub/f/x')).toThrow('not a directory');
    expect(() => open('../outside')).toThrow('without ".."');
  });

  it('expands subPathExpr and says which variable is missing', async () => {
    const pod = podWith(
      [{ name: 'v', emptyDir: {} }],
      [{ name: 'v', mountPath: '/v', subPathExpr: 'logs/$(POD)' }],
    );
    const { mounts } = await mounted(make(), pod, [{ name: 'POD', value: 'p1' }]);
    expect(mounts[0]!.hostPath).toMatch(/\/logs\/p1$/);
    await expect(mounted(make(), pod)).rejects.toThrow('missing value for "POD"');
  });

  it.skipIf(!systemMounter.usable)('a swap after the look changes nothing for the container', async () => {
    const volumes = make(systemMounter);
    const pod = podWith([{ name: 'v', emptyDir: {} }], [{ name: 'v', mountPath: '/v', subPath: 'mine' }]);
    const { mounts } = await mounted(volumes, pod);
    const vol = join(root, 'pods/u1/volumes/emptyDir/v');
    writeFileSync(join(vol, 'mine/f'), 'mine');
    renameSync(join(vol, 'mine'), join(vol, 'was'));
    symlinkSync(join(root, 'outside'), join(vol, 'mine'));
    expect(readdirSync(mounts[0]!.hostPath)).toEqual(['f']);
    await volumes.tearDown('u1');
    expect(existsSync(join(root, 'outside/secret'))).toBe(true);
    expect(existsSync(vol)).toBe(false);
  });
});

describe('emptyDir', () => {
  it.skipIf(process.getuid?.() !== 0)(
    'is writable by all, or by the fsGroup, and measured against its limit',
    async () => {
      const pod = podWith([{ name: 'e', emptyDir: { sizeLimit: '1Ki' } }], [{ name: 'e', mountPath: '/e' }], {
        securityContext: { fsGroup: 4711 },
      });
      const volumes = make();
      const { mounts } = await mounted(volumes, pod);
      const s = statSync(mounts[0]!.hostPath);
      expect([s.mode & 0o7777, s.gid]).toEqual([0o2777, 4711]);
      expect(mounts[0]!.readOnly).toBe(false);
      writeFileSync(join(mounts[0]!.hostPath, 'big'), Buffer.alloc(9000));
      const [u] = await volumes.usage(pod);
      expect(u).toMatchObject({ name: 'e', limit: '1Ki', limitBytes: 1024 });
      expect(u!.usedBytes).toBeGreaterThanOrEqual(9000);
      // Set up again after a restart of the agent: what is in it stays.
      await make().setUp(pod, config, facts);
      expect(existsSync(join(mounts[0]!.hostPath, 'big'))).toBe(true);
    },
  );

  it.skipIf(!systemMounter.usable)('in memory is a tmpfs of its size, once', async () => {
    const volumes = make(systemMounter);
    const pod = podWith(
      [{ name: 'm', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } }],
      [{ name: 'm', mountPath: '/m' }],
    );
    const { mounts } = await mounted(volumes, pod);
    await mounted(volumes, pod);
    const dir = mounts[0]!.hostPath;
    expect(systemMounter.below(dir)).toEqual([dir]);
    expect(() => writeFileSync(join(dir, 'big'), Buffer.alloc(2 ** 21))).toThrow('ENOSPC');
    await volumes.tearDown('u1');
    expect(systemMounter.below(root)).toEqual([]);
  });
});

describe('taking down', () => {
  it('never follows a link out, and never deletes through a mount that stayed', async () => {
    const volumes = make();
    const pod = podWith([{ name: 'e', emptyDir: {} }], [{ name: 'e', mountPath: '/e' }]);
    const { mounts } = await mounted(volumes, pod);
    mkdirSync(join(root, 'host'));
    writeFileSync(join(root, 'host/data'), 'keep');
    symlinkSync(join(root, 'host'), join(mounts[0]!.hostPath, 'link'));
    chmodSync(mounts[0]!.hostPath, 0o500);
    const stuck = make({ ...noMounts, below: (p) => [join(p, 'emptyDir/e')] });
    await expect(stuck.tearDown('u1')).rejects.toThrow('still mounted');
    expect(existsSync(mounts[0]!.hostPath)).toBe(true);
    await volumes.tearDown('u1');
    await volumes.tearDown('u1');
    expect(existsSync(mounts[0]!.hostPath)).toBe(false);
    expect(readFileSync(join(root, 'host/data'), 'utf8')).toBe('keep');
  });

  it('refuses a uid that is a path', async () => {
    for (const uid of ['..', '.', 'a/b', '']) await expect(make().tearDown(uid)).rejects.toThrow('cannot be');
  });

  it.skipIf(!systemMounter.usable)(
    'unmounts what a host directory was bound to, and leaves it whole',
    async () => {
      const host = join(root, 'host');
      mkdirSync(join(host, 'in'), { recursive: true });
      writeFileSync(join(host, 'in/data'), 'keep');
      const volumes = make(systemMounter);
      const pod = podWith(
        [{ name: 'h', hostPath: { path: host } }],
        [{ name: 'h', mountPath: '/h', subPath: 'in' }],
      );
      const { mounts } = await mounted(volumes, pod);
      expect(readdirSync(mounts[0]!.hostPath)).toEqual(['data']);
      await volumes.tearDown('u1');
      expect(readFileSync(join(host, 'in/data'), 'utf8')).toBe('keep');
    },
  );
});

it('keeps what is in memory from other users of the machine, and out of their directories', async () => {
  const secret = podWith([{ name: 's', secret: { secretName: 'key' } }]);
  const v = make();
  await v.setUp(secret, config, facts);
  const base = join(root, 'memory', readdirSync(join(root, 'memory'))[0]!);
  for (const dir of [base, join(base, 'u1')]) expect(statSync(dir).mode & 0o777).toBe(0o700);
  await v.tearDown('u1');
  expect(existsSync(base)).toBe(false);
  symlinkSync(mkdtempSync(join(root, 'elsewhere-')), base);
  await expect(v.setUp(secret, config, facts)).rejects.toThrow("is not this agent's");
});
