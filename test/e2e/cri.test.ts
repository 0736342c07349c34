import { randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ImageRegistry } from '../../hub/images/registry.js';
import { createPki } from '../../hub/pki/pki.js';
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
import { missing } from './support/needs.js';
import { eventually } from './support/system.js';

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
  'echo-input': () => `echo ready; while read -r line; do echo "$line"; done`,
  serve: ({ port, text }) =>
    `mkdir -p /tmp/www; printf '%s' ${quote(text)} > /tmp/www/index.html; busybox httpd -f -p 127.0.0.1:${port} -h /tmp/www`,
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
      await busyboxImage(imageDir, {}, ['--config.entrypoint', '/no/such/program']),
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
      commands: {
        exit: (code) => ['sh', '-c', `exit ${code}`],
        print: (text) => ['echo', text],
        complain: (text) => ['sh', '-c', `echo ${text} >&2`],
        cat: ['cat'],
        missing: ['no-such-program'],
        size: ['sh', '-c', 'while read -r line; do [ "$line" = end ] && exit; stty size; done'],
        endOfTerminal: 'end\n',
        wait: ['sh', '-c', 'echo waiting; sleep 1000'],
      },
      serve: { port: 8080, text: 'hello' },
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

  describe('on containerd', () => {
    let containerd: Containerd;
    let registry: Registry;
    let image: string;
    let layout: string;
    let shim: CriShim;
    let logs: string;
    const made: string[] = [];

    beforeAll(async () => {
      containerd = await Containerd.start();
      registry = await Registry.start();
      layout = await busyboxImage(imageDir, { '/www/index.html': 'hello from a pod\n' });
      image = await registry.push(layout, 'busybox:1');
      logs = join(containerd.dir, 'logs');
      shim = containerd.shim();
      await shim.start();
      await shim.pullImage(image);
    });
    afterAll(async () => {
      await shim?.stop();
      await containerd?.stop();
      await registry?.stop();
    });

    const sandboxSpec = (o: Partial<SandboxSpec> = {}): SandboxSpec => {
      const uid = randomUUID();
      return {
        namespace: 'default',
        name: `pod-${uid.slice(0, 8)}`,
        uid,
        attempt: 0,
        hostname: `pod-${uid.slice(0, 8)}`,
        hostNetwork: false,
        portMappings: [],
        logDirectory: join(logs, uid),
        labels: {},
        annotations: {},
        ...o,
      };
    };
    const sandbox = async (o: Partial<SandboxSpec> = {}): Promise<SandboxSpec & { id: string }> => {
      const spec = sandboxSpec(o);
      const id = await shim.runSandbox(spec);
      made.push(id);
      return { ...spec, id };
    };
    /** Runs a script in a container of the sandbox. */
    const run = async (
      pod: { id: string },
      script: string,
      o: Partial<ContainerSpec> = {},
      on: Shim = shim,
    ): Promise<string> => {
      const name = o.name ?? 'main';
      const id = await on.createContainer(pod.id, {
        name,
        attempt: 0,
        image,
        imageRef: (await on.imageStatus(image))!.ref,
        command: ['/bin/sh', '-c', script],
        env: [],
        mounts: [],
        resources: {},
        logPath: `${name}/0.log`,
        labels: {},
        annotations: {},
        ...o,
      });
      await on.startContainer(id);
      return id;
    };
    const find = async (id: string) => (await shim.list()).containers.find((c) => c.id === id);
    const ended = (id: string) =>
      eventually(`container ${id} to end`, async () => {
        const c = await find(id);
        return c?.state === 'exited' ? c : undefined;
      });
    const ipOf = async (id: string) => (await shim.list()).sandboxes.find((s) => s.id === id)?.ips[0];
    const logOf = (pod: { logDirectory: string }, name = 'main') => {
      const file = join(pod.logDirectory, name, '0.log');
      if (!existsSync(file)) return '';
      return readFileSync(file, 'utf8').replace(/^\S+ \S+ \S /gm, '');
    };
    /** What a script writes. */
    const output = async (
      pod: SandboxSpec & { id: string },
      script: string,
      o: Partial<ContainerSpec> = {},
    ) => {
      const c = await ended(await run(pod, script, o));
      return { text: logOf(pod, o.name), code: c.exitCode };
    };
    const failure = async (p: Promise<unknown>): Promise<ShimError> =>
      (await p.then(
        () => {
          throw new Error('it succeeded');
        },
        (e: unknown) => e,
      )) as ShimError;

    describe('network', () => {
      it('two pods reach each other over the bridge, each by its own address', async () => {
        const server = await sandbox();
        await run(server, 'httpd -f -p 8080 -h /www');
        const ip = await ipOf(server.id);
        expect(ip).toMatch(
          new RegExp(`^${containerd.subnet.replace('.0/24', '').replaceAll('.', '\\.')}\\.\\d+$`),
        );
        const client = await sandbox();
        expect(await ipOf(client.id)).not.toBe(ip);
        const got = await output(
          client,
          `for i in 1 2 3 4 5; do wget -q -O - http://${ip}:8080/ && break; sleep 1; done; hostname; cat /etc/hostname`,
        );
        expect(got.text).toContain('hello from a pod');
        expect(got.text).toContain(client.hostname);
      });

      it('a host port leads to the pod, and is free again afterwards', async () => {
        const hostPort = await freePort();
        const pod = await sandbox({
          portMappings: [{ protocol: 'TCP', containerPort: 8080, hostPort, hostIP: '' }],
        });
        await run(pod, 'httpd -f -p 8080 -h /www');
        const get = async () => (await fetch(`http://127.0.0.1:${hostPort}/`)).text();
        expect(await eventually('an answer at the host port', get)).toBe('hello from a pod\n');
        await shim.stopSandbox(pod.id);
        await expect(get()).rejects.toThrow();
      });

      it("hostNetwork shares the machine's interfaces and has no pod IP", async () => {
        const pod = await sandbox({ hostNetwork: true });
        expect((await output(pod, 'ls /sys/class/net; hostname')).text).toContain(containerd.bridge);
        expect((await shim.list()).sandboxes.find((s) => s.id === pod.id)?.ips).toEqual([]);
        const own = await sandbox();
        expect((await output(own, 'ls /sys/class/net')).text).not.toContain(containerd.bridge);
      });

      it('DNS settings become resolv.conf', async () => {
        const pod = await sandbox({
          dns: {
            servers: ['10.1.2.3', '10.1.2.4'],
            searches: ['a.example', 'b.example'],
            options: ['ndots:2'],
          },
        });
        const { text } = await output(pod, 'cat /etc/resolv.conf');
        expect(text).toBe(
          'search a.example b.example\nnameserver 10.1.2.3\nnameserver 10.1.2.4\noptions ndots:2\n',
        );
      });

      it('gives addresses and rules back', async () => {
        const pod = await sandbox();
        const ip = (await ipOf(pod.id))!;
        const leases = () => readdirSync(join(containerd.dir, 'leases', `cox-${containerd.id}`));
        expect(leases()).toContain(ip);
        await shim.stopSandbox(pod.id);
        await shim.removeSandbox(pod.id);
        expect(leases()).not.toContain(ip);
        expect(await exec('iptables-save', ['-t', 'nat'])).not.toContain(pod.id);
      });
    });

    describe('namespaces and security', () => {
      it("shares the PID namespace where asked, and the sandbox's own process reaps orphans", async () => {
        const pod = await sandbox({ sharePID: true });
        const { text } = await output(
          pod,
          // An orphan that ends: without a reaper it stays as a zombie.
          `sh -c 'sh -c "sleep 0.2; exit 0" & exit 0'; sleep 1; ps -o pid,stat,comm`,
        );
        expect(text).toMatch(/^\s*1 \S+\s+pause$/m);
        expect(text).not.toMatch(/^\s*\d+ Z/m);
        const alone = await sandbox();
        expect((await output(alone, 'ps -o pid,comm; true')).text).toMatch(/^\s*1 sh$/m);
      });

      it('runs as user and group, without rights to write or gain more', async () => {
        const pod = await sandbox();
        const { text } = await output(
          pod,
          'id; touch /x 2>&1; touch /proc/sys/kernel/hostname 2>&1; ls /sys/firmware | head -1; grep -E "NoNewPrivs|CapBnd" /proc/self/status || cat /proc/self/status',
          {
            security: {
              runAsUser: 1234,
              runAsGroup: 2345,
              supplementalGroups: [3456],
              readOnlyRootFilesystem: true,
              allowPrivilegeEscalation: false,
              dropCapabilities: ['ALL'],
              addCapabilities: ['CAP_NET_BIND_SERVICE'],
            },
          },
        );
        expect(text).toMatch(/uid=1234.*gid=2345.*groups=.*3456/);
        expect(text).toMatch(/\/x: Read-only file system/);
        expect(text).toMatch(/\/proc\/sys\/kernel\/hostname: (?:Read-only|Permission denied)/);
      });

      it('a group alone goes with the image user', async () => {
        const pod = await sandbox();
        const { text } = await output(pod, 'id', { security: { runAsGroup: 77 } });
        expect(text).toContain('uid=0');
        expect(text).toContain('gid=77');
      });

      it('a privileged container runs in a sandbox that was announced as such', async () => {
        const pod = await sandbox({ privileged: true });
        const { text, code } = await output(
          pod,
          'ls /dev | wc -l; touch /proc/sys/kernel/hostname; echo $?',
          {
            security: { privileged: true },
          },
        );
        expect(code).toBe(0);
        expect(text).toMatch(/^0$/m);
      });

      it('passes a device with its permissions', async () => {
        const pod = await sandbox();
        const { text } = await output(pod, 'head -c 4 /dev/mine | wc -c', {
          devices: [{ hostPath: '/dev/zero', containerPath: '/dev/mine', permissions: 'r' }],
        });
        expect(text.trim()).toBe('4');
      });
    });

    it('CPU and memory limits are the numbers in the cgroup', async () => {
      const pod = await sandbox();
      const id = await run(pod, 'sleep 1000', {
        resources: { cpuRequestMilli: 250, cpuLimitMilli: 500, memoryLimitBytes: 64 * 2 ** 20 },
      });
      const value = (controller: string, file: string, unified: string) => {
        const v2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
        const path = v2
          ? `/sys/fs/cgroup${containerd.cgroupParent}/${id}/${unified}`
          : `/sys/fs/cgroup/${controller}${containerd.cgroupParent}/${id}/${file}`;
        return readFileSync(path, 'utf8').trim();
      };
      if (existsSync('/sys/fs/cgroup/cgroup.controllers'))
        expect(value('', '', 'cpu.max')).toBe('50000 100000');
      else {
        expect(value('cpu', 'cpu.cfs_quota_us', '')).toBe('50000');
        expect(value('cpu', 'cpu.cfs_period_us', '')).toBe('100000');
        expect(value('cpu', 'cpu.shares', '')).toBe('256');
      }
      expect(value('memory', 'memory.limit_in_bytes', 'memory.max')).toBe(String(64 * 2 ** 20));
    });

    describe('execSync', () => {
      it('gives exit code, stdout and stderr', async () => {
        const pod = await sandbox();
        const id = await run(pod, 'sleep 1000');
        const r = await shim.execSync(id, ['/bin/sh', '-c', 'echo out; echo err >&2; exit 4'], 10_000);
        expect([r.exitCode, Buffer.from(r.stdout).toString(), Buffer.from(r.stderr).toString()]).toEqual([
          4,
          'out\n',
          'err\n',
        ]);
        expect((await failure(shim.execSync(id, ['/no/such'], 10_000))).message).toContain('/no/such');
        expect((await failure(shim.execSync(id, ['/bin/sleep', '60'], 1_000))).message).toMatch(/timed out/);
        expect((await find(id))?.state).toBe('running');
      });
    });

    describe('images', () => {
      it('a registry that wants credentials gets them, and refuses without', async () => {
        const closed = await Registry.start({ auth: true });
        try {
          const name = await closed.push(layout, 'private/app:2');
          const refused = await failure(shim.pullImage(name));
          expect(refused.reason).toBe('ErrImagePull');
          expect(refused.message).toContain(name);
          expect(refused.message).toContain('credentials');
          expect(
            (await failure(shim.pullImage(name, { username: 'user', password: 'wrong' }))).message,
          ).toContain('credentials');
          const pulled = await shim.pullImage(name, { username: 'user', password: 'secret' });
          expect(pulled.repoDigests[0]).toMatch(new RegExp(`^${closed.host}/private/app@sha256:`));
        } finally {
          await closed.stop();
        }
      });

      it('says what is wrong: no tag, no host, nobody there, another architecture', async () => {
        const noTag = await failure(shim.pullImage(`${registry.host}/busybox:none`));
        expect([noTag.reason, noTag.message]).toEqual([
          'ErrImagePull',
          expect.stringContaining('no such image or tag'),
        ]);
        const noHost = await failure(shim.pullImage('registry.invalid/app:1'));
        expect([noHost.reason, noHost.message]).toEqual([
          'RegistryUnavailable',
          expect.stringContaining('registry.invalid/app:1'),
        ]);
        const nobody = await failure(shim.pullImage(`127.0.0.1:${await freePort()}/app:1`));
        expect([nobody.reason, nobody.message]).toEqual([
          'RegistryUnavailable',
          expect.stringContaining('cannot be reached'),
        ]);
        const other = await busyboxImage(imageDir, {}, ['--architecture', 's390x']);
        // An index with no manifest for this machine: what multi-architecture images are.
        const wrong = await failure(shim.pullImage(await registry.pushIndex(other, 'other:1', 's390x')));
        expect([wrong.reason, wrong.message]).toEqual([
          'ErrImagePull',
          expect.stringContaining(`no variant for this machine (linux/${process.arch})`),
        ]);
      });

      it("pulls from the hub's registry, keeps its name, and finds it again without the hub", async () => {
        const dir = mkdtempSync('/tmp/cox-hub-');
        const pki = await createPki(dir);
        const other = await createPki(join(dir, 'other'));
        const images = new ImageRegistry(dir);
        await images.start();
        const server = createServer(
          { cert: pki.server.cert, key: pki.server.key },
          (q, r) => void images.handle(q, r),
        );
        await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
        const host = `127.0.0.1:${(server.address() as { port: number }).port}`;
        const token = readFileSync(join(dir, 'push.token'), 'utf8').trim();
        await exec('skopeo', [
          ...['copy', '-q', '--dest-tls-verify=false', '--dest-creds', `any:${token}`],
          ...[`oci:${layout}`, `docker://${host}/team/app:3`],
        ]);
        const name = 'coxswain.internal/team/app:3';

        expect(await failure(shim.pullImage(name))).toMatchObject({ reason: 'RegistryUnavailable' });
        const joined = containerd.shim({ hub: () => ({ host, ca: pki.caPem }) });
        const later = containerd.shim();
        const stranger = containerd.shim({ hub: () => ({ host, ca: other.caPem }), owner: 'stranger' });
        await Promise.all([joined.start(), later.start(), stranger.start()]);
        try {
          const distrust = await failure(stranger.pullImage(name));
          expect([distrust.reason, distrust.message]).toEqual([
            'RegistryUnavailable',
            expect.stringContaining(name),
          ]);
          const absent = await failure(joined.pullImage('coxswain.internal/team/none:1'));
          expect([absent.reason, absent.message]).toEqual([
            'ErrImagePull',
            expect.stringContaining('coxswain.internal/team/none:1'),
          ]);
          expect(absent.message).not.toContain('127.');
          const [pulled] = await Promise.all([joined.pullImage(name), joined.pullImage(name)]);
          expect(pulled.repoTags).toContain(name);
          expect(pulled.repoDigests).toContainEqual(
            expect.stringMatching(/^coxswain\.internal\/team\/app@sha256:[0-9a-f]{64}$/),
          );
          await new Promise((done) => server.close(done));
          expect(await later.imageStatus(name)).toEqual(pulled);
          const pod = await sandbox();
          const id = await run(pod, 'exit 0', { image: name, imageRef: pulled.ref });
          expect(await ended(id)).toMatchObject({ exitCode: 0, image: name });
        } finally {
          await Promise.all([joined.stop(), later.stop(), stranger.stop()]);
          server.close();
          await images.stop();
          rmSync(dir, { recursive: true, force: true });
        }
      });
    });

    it("lists nothing of others' on the same runtime", async () => {
      const other = containerd.shim({ owner: 'another' });
      await other.start();
      try {
        const pod = await sandbox();
        const id = await run(pod, 'sleep 1000');
        expect(await other.list()).toEqual({ sandboxes: [], containers: [] });
        expect((await other.stats()).filter((s) => s.containerId === id)).toEqual([]);
        const foreign = sandboxSpec();
        const theirs = await other.runSandbox(foreign);
        expect((await shim.list()).sandboxes.map((s) => s.id)).not.toContain(theirs);
        await other.stopSandbox(theirs);
        await other.removeSandbox(theirs);
      } finally {
        await other.stop();
      }
    });

    it('makes the same sandbox and container once, also when asked again', async () => {
      const spec = sandboxSpec();
      const first = await shim.runSandbox(spec);
      expect(await shim.runSandbox(spec)).toBe(first);
      const c = await run({ id: first }, 'sleep 1000');
      // The same name and attempt again: what an agent does that was ended before it could take note.
      const again = await run({ id: first }, 'sleep 1000');
      expect(again).not.toBe(c);
      expect((await shim.list()).containers.filter((x) => x.sandboxId === first).map((x) => x.id)).toEqual([
        again,
      ]);
    });

    it('a sandbox whose own process is killed is told of, and shown as not ready', async () => {
      const pod = await sandbox();
      expect((await shim.list()).sandboxes.find((s) => s.id === pod.id)?.state).toBe('ready');
      let told = false;
      const off = shim.onEvent((e) => {
        if (e.sandboxId === pod.id) told = true;
      });
      await containerd.ctr('tasks', 'kill', '-s', 'SIGKILL', pod.id);
      await eventually('an event of the sandbox', () => told);
      off();
      expect((await shim.list()).sandboxes.find((s) => s.id === pod.id)).toMatchObject({
        state: 'notReady',
        ips: [],
      });
    });

    it('containerd stops and starts again: containers go on, ends of the time between are known, events come again', async () => {
      const pod = await sandbox();
      const stays = await run(pod, 'sleep 1000', { name: 'stays' });
      const ends = await run(pod, 'sleep 2; exit 9', { name: 'ends' });
      const before = await find(stays);
      await containerd.down();
      expect(await shim.health()).toMatchObject({
        ready: false,
        message: expect.stringContaining(containerd.endpoint),
      });
      expect(await failure(shim.list())).toMatchObject({ reason: 'RuntimeUnavailable' });
      await new Promise((r) => setTimeout(r, 3_000));
      let gap = false;
      const off = shim.onEvent((e) => {
        if (!e.containerId && !e.sandboxId) gap = true;
      });
      await containerd.up();
      await eventually('the shim to say that it missed something', () => gap);
      off();
      expect(await shim.health()).toMatchObject({ ready: true });
      expect(await find(stays)).toEqual(before);
      const end = await ended(ends);
      // containerd 2.1 forgets the code of what ends while it is down itself, and says so.
      const forgot = /:\/\/v?2\./.test((await shim.health()).runtimeVersion) && end.reason === 'Unknown';
      if (!forgot) expect(end).toMatchObject({ exitCode: 9, reason: 'Error' });
      let told = false;
      shim.onEvent((e) => {
        if (e.containerId === stays) told = true;
      });
      await shim.stopContainer(stays, 0);
      await eventually('an event after the restart', () => told);
    });
  });

  it('a runtime without network: says so, runs hostNetwork pods, and writes a network when asked to', async () => {
    const containerd = await Containerd.start({ network: false });
    const registry = await Registry.start();
    const shim = containerd.shim();
    const network = `cox-${containerd.id}`;
    try {
      await shim.start();
      expect(await shim.health()).toMatchObject({
        ready: true,
        podNetwork: false,
        conditions: [expect.objectContaining({ type: 'PodNetwork', status: 'False' })],
      });
      const spec: SandboxSpec = {
        ...{
          namespace: 'd',
          name: 'p',
          uid: '1',
          attempt: 0,
          hostname: 'p',
          hostNetwork: false,
          portMappings: [],
        },
        ...{ logDirectory: join(containerd.dir, 'logs'), labels: {}, annotations: {} },
      };
      const refused = await shim.runSandbox(spec).catch((e: unknown) => e as ShimError);
      expect(refused).toMatchObject({
        reason: 'CreatePodSandboxError',
        message: expect.stringContaining('CNI configuration'),
      });
      await shim.runSandbox({ ...spec, uid: '2', hostNetwork: true });
      const path = await ensureCniConfig(containerd.cniDir, containerd.subnet, {
        bridge: containerd.bridge,
        network,
        dataDir: join(containerd.dir, 'leases'),
      });
      expect(path).toBe(join(containerd.cniDir, '87-coxswain.conflist'));
      const text = readFileSync(path!, 'utf8');
      expect(await ensureCniConfig(containerd.cniDir, '10.1.0.0/16')).toBeUndefined();
      expect(readFileSync(path!, 'utf8')).toBe(text);
      await eventually('containerd to take the network', async () => (await shim.health()).podNetwork);
      const id = await shim.runSandbox({ ...spec, uid: '3' });
      const made = (await shim.list()).sandboxes.find((s) => s.id === id);
      expect(made?.ips).toHaveLength(1);
    } finally {
      await shim.stop();
      await containerd.stop();
      await registry.stop();
    }
  });

  it('a containerd whose CRI is disabled: not ready, with the remedy', async () => {
    const containerd = await Containerd.start({ disabledPlugins: ['io.containerd.grpc.v1.cri'] });
    const shim = containerd.shim();
    try {
      await shim.start();
      const health = await shim.health();
      expect(health.ready).toBe(false);
      expect(health.message).toContain('disabled_plugins');
    } finally {
      await shim.stop();
      await containerd.stop();
    }
  });
});
