/** Every kind of volume, in containers and in Wasm alike, as kubectl users see them; and what is left of them: nothing. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exec, mountsBelow } from './support/containerd.js';
import { BOX, DEVICE_PARTS, Device } from './support/device.js';
import { missing } from './support/needs.js';

const RUNTIMES = ['oci', 'wasm'] as const;
type Runtime = (typeof RUNTIMES)[number];
type Command = string[];

describe.skipIf(missing(...DEVICE_PARTS))('volumes', () => {
  let d: Device;

  /** The same commands for both runtimes: a shell script of busybox, or the Wasm tool box. */
  const run = (runtime: Runtime, commands: Command[]) => {
    if (runtime === 'wasm') return { image: BOX, args: commands.flatMap((c, i) => (i ? [';', ...c] : c)) };
    const shell: Record<string, (a: string[]) => string> = {
      write: ([path, text]) => `echo '${text}' | cat >${path} || fail=1`,
      sleep: ([ms]) => `sleep ${Number(ms) / 1000}`,
      head: ([path, n]) => `echo read $(head -c ${n} ${path} | wc -c) bytes`,
      wait: ([path]) => `while [ ! -e ${path} ]; do sleep 0.02; done`,
    };
    const line = ([command = '', ...a]: Command) =>
      shell[command]?.(a) ?? `${[command, ...a].join(' ')} || fail=1`;
    return { image: d.busybox, command: ['sh', '-c', `${commands.map(line).join('\n')}\nexit \${fail:-0}`] };
  };
  const pod = (
    runtime: Runtime,
    name: string,
    volumes: object[],
    volumeMounts: object[],
    commands: Command[],
    { spec = {}, container = {}, metadata = {} } = {},
  ) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: `${name}-${runtime}`, ...metadata },
    spec: {
      runtimeClassName: runtime,
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 1,
      volumes,
      containers: [{ name: 'main', ...run(runtime, commands), volumeMounts, ...container }],
      ...spec,
    },
  });
  const apply = (...pods: object[]) => d.k.apply({ apiVersion: 'v1', kind: 'List', items: pods });
  const both = (make: (runtime: Runtime) => object) => apply(...RUNTIMES.map(make));
  const remove = (name: string) => d.delete(...RUNTIMES.map((r) => `${name}-${r}`));
  const podDir = async (name: string) => join(d.agent.dataDir, 'pods', (await d.pod(name)).metadata.uid);
  const SLEEP: Command = ['sleep', '100000000'];

  beforeAll(async () => {
    d = await Device.start('embedded');
  });
  afterAll(async () => {
    await d?.stop();
  });

  it('emptyDir: shared by the containers of a pod, gone with it', async () => {
    const volume = { name: 'share', emptyDir: {} };
    const mount = { name: 'share', mountPath: '/share' };
    await both((r) =>
      pod(r, 'empty', [volume], [mount], [['cat', '/share/note'], SLEEP], {
        spec: {
          initContainers: [
            { name: 'first', ...run(r, [['write', '/share/note', 'left-here']]), volumeMounts: [mount] },
          ],
        },
      }),
    );
    for (const r of RUNTIMES) await d.says(`empty-${r}`, /^left-here$/m);
    const dirs = await Promise.all(RUNTIMES.map((r) => podDir(`empty-${r}`)));
    for (const dir of dirs)
      expect(readFileSync(join(dir, 'volumes/emptyDir/share/note'), 'utf8')).toBe('left-here\n');
    await remove('empty');
    for (const dir of dirs) await d.until('its directory to go', () => !existsSync(dir));
  });

  it('emptyDir in memory: a tmpfs that is full at its limit', async () => {
    const big = 'x'.repeat(100_000);
    await both((r) =>
      pod(
        r,
        'memory',
        [{ name: 'm', emptyDir: { medium: 'Memory', sizeLimit: '64Ki' } }],
        [{ name: 'm', mountPath: '/m' }],
        [
          ['write', '/m/small', 'fits'],
          ['write', '/m/big', big],
          ['cat', '/m/small'],
        ],
      ),
    );
    for (const r of RUNTIMES) {
      await d.phase(`memory-${r}`, 'Failed');
      const log = await d.k('logs', `memory-${r}`);
      expect(log).toContain('fits');
      // errno 51 of WASI preview 1 is ENOSPC.
      expect(log).toMatch(/No space left on device|errno 51/);
    }
    await remove('memory');
    // While it runs it is a mount of the device.
    await both((r) =>
      pod(
        r,
        'mounted',
        [{ name: 'm', emptyDir: { medium: 'Memory' } }],
        [{ name: 'm', mountPath: '/m' }],
        [SLEEP],
      ),
    );
    for (const r of RUNTIMES) {
      await d.phase(`mounted-${r}`, 'Running');
      expect(mountsBelow(await podDir(`mounted-${r}`)).some((m) => m.endsWith('/volumes/emptyDir/m'))).toBe(
        true,
      );
    }
    await remove('mounted');
    expect(mountsBelow(d.agent.dataDir)).toEqual([]);
  });

  it('emptyDir over its limit costs the pod its life', async () => {
    const chunks = Array.from({ length: 4 }, (_, i) => ['write', `/d/${i}`, 'y'.repeat(10_000)]);
    await both((r) =>
      pod(
        r,
        'greedy',
        [{ name: 'd', emptyDir: { sizeLimit: '20Ki' } }],
        [{ name: 'd', mountPath: '/d' }],
        [...chunks, SLEEP],
      ),
    );
    for (const r of RUNTIMES) {
      const p = await d.phase(`greedy-${r}`, 'Failed');
      expect(p.status).toMatchObject({
        reason: 'Evicted',
        message: 'Usage of EmptyDir volume "d" exceeds the limit "20Ki". ',
      });
      await d.described(`greedy-${r}`, 'Evicted');
    }
    await remove('greedy');
  });

  describe('hostPath', () => {
    let dir: string;
    let server: Server;
    const at = (name: string) => join(dir, name);
    const mounted = (path: string, type?: string): [object[], object[]] => [
      [{ name: 'h', hostPath: { path, ...(type === undefined ? {} : { type }) } }],
      [{ name: 'h', mountPath: '/h' }],
    ];

    beforeAll(async () => {
      dir = join(d.dir, 'host');
      mkdirSync(at('dir'), { recursive: true });
      writeFileSync(at('dir/kept'), 'of the host\n');
      writeFileSync(at('file'), 'a file\n');
      execFileSync('mknod', [at('block'), 'b', '7', '0']);
      server = createServer();
      await new Promise<void>((done) => server.listen(at('socket'), done));
    });
    afterAll(() => server?.close());

    const RIGHT: [type: string | undefined, path: string, read: Command, shows: RegExp][] = [
      [undefined, 'dir', ['cat', '/h/kept'], /of the host/],
      ['', 'file', ['cat', '/h'], /a file/],
      ['Directory', 'dir', ['cat', '/h/kept'], /of the host/],
      ['DirectoryOrCreate', 'made/here', ['write', '/h/mine', 'x'], /^$/],
      ['File', 'file', ['cat', '/h'], /a file/],
      ['FileOrCreate', 'made-file', ['write', '/h', 'y'], /^$/],
      ['CharDevice', '/dev/zero', ['head', '/h', '16'], /read 16 bytes/],
    ];
    it.each(RUNTIMES)('of every type reaches what is there or made: %s', async (r) => {
      const name = (i: number) => `right-${i}-${r}`;
      await apply(
        ...RIGHT.map(([type, path, read], i) =>
          pod(r, `right-${i}`, ...mounted(path.startsWith('/') ? path : at(path), type), [read]),
        ),
      );
      for (const [i, [, , , shows]] of RIGHT.entries()) {
        await d.phase(name(i), 'Succeeded');
        expect(await d.k('logs', name(i))).toMatch(shows);
      }
      await d.delete(...RIGHT.map((_, i) => name(i)));
      expect(readFileSync(at('made/here/mine'), 'utf8')).toBe('x\n');
      expect(readFileSync(at('made-file'), 'utf8')).toBe('y\n');
      expect(readFileSync(at('dir/kept'), 'utf8')).toBe('of the host\n');
      expect(readFileSync(at('file'), 'utf8')).toBe('a file\n');
    });

    it('Socket and BlockDevice are taken for what they are', async () => {
      const seen = (name: string, path: string, type: string, test: string) =>
        pod('oci', name, ...mounted(at(path), type), [['[', test, '/h', ']']]);
      await apply(seen('sock', 'socket', 'Socket', '-S'), seen('block', 'block', 'BlockDevice', '-b'));
      for (const name of ['sock-oci', 'block-oci']) await d.phase(name, 'Succeeded');
      await d.delete('sock-oci', 'block-oci');
    });

    const WRONG: [type: string, path: string, called: string][] = [
      ['Directory', 'file', 'a directory'],
      ['Directory', 'nothing', 'a directory'],
      ['DirectoryOrCreate', 'file', 'a directory'],
      ['File', 'dir', 'a file'],
      ['File', 'nothing', 'a file'],
      ['FileOrCreate', 'dir', 'a file'],
      ['Socket', 'file', 'a socket file'],
      ['CharDevice', 'block', 'a character device'],
      ['BlockDevice', 'file', 'a block device'],
    ];
    const wrongPod = ([type, path]: (typeof WRONG)[number], i: number) =>
      pod(RUNTIMES[i % 2]!, `wrong-${i}`, ...mounted(at(path), type), [['ls', '/h']]);
    const told = ([, path, called]: (typeof WRONG)[number], i: number) =>
      d.described(
        `wrong-${i}-${RUNTIMES[i % 2]}`,
        `MountVolume.SetUp failed for volume "h" : hostPath type check failed: ${at(path)} is not ${called}`,
      );

    it('of a path that is not there leaves the pod waiting until it is', async () => {
      // Alone and first: the longer a pod has waited, the more rarely its device looks.
      const lacks = ['Directory', 'absent', 'a directory'] satisfies (typeof WRONG)[number];
      await apply(wrongPod(lacks, 1));
      await told(lacks, 1);
      mkdirSync(at('absent'));
      await d.phase('wrong-1-wasm', 'Succeeded');
      await d.delete('wrong-1-wasm');
    });

    it('of the wrong type leaves the pod waiting, and says what is there and should be', async () => {
      await apply(...WRONG.map(wrongPod));
      for (const [i, wrong] of WRONG.entries()) await told(wrong, i);
      expect(await d.k('get', 'pods')).toMatch(/wrong-0-oci\s+0\/1\s+ContainerCreating/);
      expect(existsSync(at('nothing'))).toBe(false);
      await d.delete(...WRONG.map((_, i) => `wrong-${i}-${RUNTIMES[i % 2]}`));
    });

    it('with an unknown type is refused at once', async () => {
      await expect(apply(pod('oci', 'odd', ...mounted(at('dir'), 'Folder'), []))).rejects.toThrow(
        /hostPath\.type: Unsupported value: "Folder"/,
      );
    });

    it('read-only is read-only, and subPath stays inside', async () => {
      writeFileSync(at('outside'), 'secret\n');
      execFileSync('ln', ['-s', at('outside'), at('dir/link')]);
      await both((r) =>
        pod(
          r,
          'parts',
          [{ name: 'h', hostPath: { path: at('dir'), type: 'Directory' } }],
          [
            { name: 'h', mountPath: '/ro', readOnly: true },
            { name: 'h', mountPath: '/deep', subPath: `sub/${r}` },
            { name: 'h', mountPath: '/named', subPathExpr: 'by-$(NAME)' },
            { name: 'h', mountPath: '/one', subPath: 'kept' },
          ],
          [
            ['cat', '/ro/kept'],
            ['write', '/ro/no', 'x'],
            ['write', '/deep/f', 'deep'],
            ['write', '/named/f', 'named'],
            ['cat', '/one'],
          ],
          { container: { env: [{ name: 'NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] } },
        ),
      );
      await both((r) =>
        pod(
          r,
          'escape',
          [{ name: 'h', hostPath: { path: at('dir'), type: 'Directory' } }],
          [{ name: 'h', mountPath: '/x', subPath: 'link' }],
          [['cat', '/x']],
        ),
      );
      for (const r of RUNTIMES) {
        await d.phase(`parts-${r}`, 'Failed');
        const log = await d.k('logs', `parts-${r}`);
        expect(log.match(/of the host/g)).toHaveLength(2);
        // errno 69 of WASI preview 1 is EROFS; 76 is ENOTCAPABLE.
        expect(log).toMatch(/Read-only file system|errno (69|76)/);
        expect(readFileSync(at(`dir/sub/${r}/f`), 'utf8')).toBe('deep\n');
        expect(readFileSync(at(`dir/by-parts-${r}/f`), 'utf8')).toBe('named\n');
        expect(existsSync(at('dir/no'))).toBe(false);
        await d.described(`escape-${r}`, /Error: .*subPath|Error: .*outside|Error: .*link/);
        expect((await d.pod(`escape-${r}`)).status.phase).toBe('Pending');
      }
      await remove('parts');
      await remove('escape');
      expect(mountsBelow(d.agent.dataDir)).toEqual([]);
      expect(readFileSync(at('dir/kept'), 'utf8')).toBe('of the host\n');
    });
  });

  it('configMap and secret: keys, items, modes, optional ones', async () => {
    await d.k('create', 'configmap', 'conf', '--from-literal=a=alpha', '--from-literal=b=beta');
    await d.k('create', 'secret', 'generic', 'sec', '--from-literal=key=hush');
    await both((r) =>
      pod(
        r,
        'files',
        [
          { name: 'all', configMap: { name: 'conf' } },
          {
            name: 'some',
            configMap: { name: 'conf', defaultMode: 0o400, items: [{ key: 'a', path: 'x/y' }] },
          },
          { name: 'sec', secret: { secretName: 'sec', items: [{ key: 'key', path: 'k', mode: 0o440 }] } },
          { name: 'none', secret: { secretName: 'absent', optional: true } },
        ],
        ['all', 'some', 'sec', 'none'].map((name) => ({ name, mountPath: `/${name}` })),
        [
          ['cat', '/all/b'],
          ['cat', '/some/x/y'],
          ['cat', '/sec/k'],
          ['ls', '/all'],
          ['ls', '/none'],
          ['write', '/all/b', 'mine'],
          SLEEP,
        ],
      ),
    );
    for (const r of RUNTIMES) {
      const [, listed] = await d.says(`files-${r}`, /^betaalphahush(?:.* )?(a\s+b)$/m);
      expect(listed).toBeTruthy();
      await d.says(`files-${r}`, /Read-only file system|errno (69|76)/);
      const mode = (path: string) => statSync(path).mode & 0o777;
      const volumes = join(await podDir(`files-${r}`), 'volumes');
      expect(mode(join(volumes, 'configMap/all/a'))).toBe(0o644);
      expect(mode(join(volumes, 'configMap/some/x/y'))).toBe(0o400);
      // A secret is kept in memory: it is not below the data directory at all.
      expect(readdirSync(volumes)).not.toContain('secret');
    }
    const plain = spawnSync('grep', ['-rl', 'hush', d.agent.dataDir, '--exclude-dir=logs']);
    expect(plain.stdout.toString()).toBe('');
  });

  it('configMap: an update reaches the running pod, all files at once', async () => {
    await both((r) =>
      pod(
        r,
        'live',
        [{ name: 'all', configMap: { name: 'conf' } }],
        [{ name: 'all', mountPath: '/all' }],
        [['wait', '/all/c'], ['cat', '/all/a'], ['cat', '/all/c'], ['echo', '.'], SLEEP],
      ),
    );
    for (const r of RUNTIMES) await d.phase(`live-${r}`, 'Running');
    await d.k('patch', 'configmap', 'conf', '--type=merge', '-p', '{"data":{"a":"new","b":null,"c":"er"}}');
    for (const r of RUNTIMES) {
      await d.says(`live-${r}`, /newer/);
      expect((await d.pod(`live-${r}`)).status.containerStatuses[0].restartCount).toBe(0);
    }
    await remove('live');
    await remove('files');
  });

  it('a volume of what is missing waits for it by name', async () => {
    await both((r) =>
      pod(
        r,
        'lacks',
        [{ name: 'c', configMap: { name: `later-${r}` } }],
        [{ name: 'c', mountPath: '/c' }],
        [['cat', '/c/k']],
      ),
    );
    for (const r of RUNTIMES) {
      await d.described(
        `lacks-${r}`,
        `MountVolume.SetUp failed for volume "c" : configmap "later-${r}" not found`,
      );
      await d.k('create', 'configmap', `later-${r}`, '--from-literal=k=came');
      await d.phase(`lacks-${r}`, 'Succeeded');
      expect(await d.k('logs', `lacks-${r}`)).toContain('came');
    }
    await remove('lacks');
  });

  it('downwardAPI and projected: what the pod is, beside what it is given', async () => {
    const fields = [
      { path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } },
      {
        path: 'memory',
        resourceFieldRef: { containerName: 'main', resource: 'limits.memory', divisor: '1Mi' },
      },
    ];
    await both((r) =>
      pod(
        r,
        'about',
        [
          { name: 'down', downwardAPI: { items: fields } },
          {
            name: 'all',
            projected: {
              defaultMode: 0o444,
              sources: [
                { configMap: { name: 'conf', items: [{ key: 'c', path: 'conf/c' }] } },
                { secret: { name: 'sec' } },
                { downwardAPI: { items: [{ path: 'name', fieldRef: { fieldPath: 'metadata.name' } }] } },
              ],
            },
          },
        ],
        [
          { name: 'down', mountPath: '/down' },
          { name: 'all', mountPath: '/all' },
        ],
        [
          ...['/down/labels', '/down/memory', '/all/conf/c', '/all/key', '/all/name'].map((p) => ['cat', p]),
          ['echo', '.'],
          ['wait', '/all/go'],
        ],
        { metadata: { labels: { tier: 'edge' } }, container: { resources: { limits: { memory: '64Mi' } } } },
      ),
    );
    for (const r of RUNTIMES) {
      await d.says(`about-${r}`, new RegExp(`^tier="edge"64erhushabout-${r}`));
      await d.k('label', 'pod', `about-${r}`, 'tier=core', '--overwrite');
      const file = join(await podDir(`about-${r}`), 'volumes/downwardAPI/down/labels');
      await d.until('the new label in the file', () => readFileSync(file, 'utf8').includes('tier="core"'));
    }
    await remove('about');
  });

  it('a claim is what its volume is, and outlives its pods', async () => {
    const path = join(d.dir, 'disk');
    const accessModes = ['ReadWriteOnce'];
    const storage = '1Mi';
    const claimed = (runtime: Runtime, name: string, commands: Command[]) =>
      pod(
        runtime,
        name,
        [{ name: 'v', persistentVolumeClaim: { claimName: 'data' } }],
        [{ name: 'v', mountPath: '/v' }],
        commands,
      );
    await apply(claimed('oci', 'writes', [['write', '/v/note', 'kept']]));
    await d.described('writes-oci', 'persistentvolumeclaim "data" not found');
    await apply(
      {
        apiVersion: 'v1',
        kind: 'PersistentVolumeClaim',
        metadata: { name: 'data' },
        spec: { accessModes, storageClassName: '', resources: { requests: { storage } } },
      },
      {
        apiVersion: 'v1',
        kind: 'PersistentVolume',
        metadata: { name: 'disk' },
        spec: { accessModes, capacity: { storage }, hostPath: { path, type: 'DirectoryOrCreate' } },
      },
    );
    await d.phase('writes-oci', 'Succeeded');
    expect(readFileSync(join(path, 'note'), 'utf8')).toBe('kept\n');
    await d.delete('writes-oci');
    // Another runtime, the same disk.
    await apply(claimed('wasm', 'reads', [['cat', '/v/note'], SLEEP]));
    await d.says('reads-wasm', /^kept$/m);
    // In use, it stays.
    await d.k('delete', 'pvc', 'data', '--wait=false');
    expect((await d.k.json('get', 'pvc', 'data')).status.phase).toBe('Bound');
    await d.delete('reads-wasm');
    await d.until('the claim to go', async () => (await d.k('get', 'pvc')) === '');
    await d.until('the volume to be free', async () => /\sReleased\s/.test(await d.k('get', 'pv', 'disk')));
    await d.k('delete', 'pv', 'disk');
    expect(readFileSync(join(path, 'note'), 'utf8')).toBe('kept\n');
  });

  it('a kind of volume that no device has is named', async () => {
    await apply(
      pod(
        'oci',
        'nfs',
        [{ name: 'n', nfs: { server: 'x', path: '/' } }],
        [{ name: 'n', mountPath: '/n' }],
        [],
      ),
    );
    await d.described(
      'nfs-oci',
      'volume type "nfs" is not supported on this node; supported are emptyDir, hostPath',
    );
    await d.delete('nfs-oci');
  });

  it('leaves no mounts, no directories and no secrets behind', async () => {
    expect((await d.k.json('get', 'pods')).items).toEqual([]);
    expect(mountsBelow(d.agent.dataDir)).toEqual([]);
    // A device keeps the record of a pod until it hears that the API has let go of it.
    const left = () => exec('find', [join(d.agent.dataDir, 'pods'), '-mindepth', '1']);
    await d.until('nothing to be left', async () => {
      const files = await left();
      if (files.trim()) throw new Error(files);
      return true;
    });
  });
});
