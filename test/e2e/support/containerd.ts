/**
 * A containerd of the test's own (private root, state, socket, network), a registry on loopback, and images built from
 * Debian's busybox. Everything that they leave on the machine is taken away by `stop()`.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemClock } from '../../../api/clock.js';
import { silentLog } from '../../../api/log.js';
import { cniConfig } from '../../../shims/cri/cni.js';
import { CriShim, type CriShimOptions } from '../../../shims/cri/cri.js';
import { eventually } from './system.js';

const run = promisify(execFile);
/** Runs a command to its end and gives its stdout; rejects with its stderr. */
export async function exec(command: string, args: string[]): Promise<string> {
  const { stdout } = await run(command, args, { maxBuffer: 64 * 2 ** 20 });
  return stdout;
}

export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const s = createServer();
    s.once('error', reject);
    s.listen(0, '127.0.0.1', () => {
      const { port } = s.address() as { port: number };
      s.close(() => resolve(port));
    });
  });

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise((done) => child.once('exit', done));
}

async function stopProcess(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await ended(child);
  clearTimeout(late);
}

export interface ContainerdOptions {
  /** Writes a pod network; false leaves the machine without one. */
  network?: boolean;
  /** Lines for the CRI plugin's section of the configuration. */
  cri?: string;
  disabledPlugins?: string[];
}

const PREFIX = '/tmp/cox-cd-';

/** One private containerd. */
export class Containerd {
  #child: ChildProcess | undefined;

  private constructor(
    readonly dir: string,
    readonly id: string,
  ) {}

  static async start(options: ContainerdOptions = {}): Promise<Containerd> {
    await sweep();
    const c = new Containerd(mkdtempSync(PREFIX), randomBytes(3).toString('hex'));
    writeFileSync(join(c.dir, 'owner.json'), JSON.stringify({ pid: process.pid, id: c.id }));
    mkdirSync(c.cniDir);
    if (options.network !== false)
      writeFileSync(
        join(c.cniDir, '10-test.conflist'),
        JSON.stringify(
          cniConfig(c.subnet, { bridge: c.bridge, network: `cox-${c.id}`, dataDir: join(c.dir, 'leases') }),
        ),
      );
    const cniBin = ['/usr/lib/cni', '/opt/cni/bin'].find((d) => {
      try {
        return readdirSync(d).includes('bridge');
      } catch {
        return false;
      }
    });
    writeFileSync(
      join(c.dir, 'config.toml'),
      `version = 2
root = "${c.dir}/root"
state = "${c.dir}/state"
disabled_plugins = ${JSON.stringify(options.disabledPlugins ?? [])}
[grpc]
  address = "${c.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  # A container or VM that runs the tests may have been denied CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  ${options.cri ?? ''}
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "${await snapshotter(c.dir)}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "${cniBin}"
  conf_dir = "${c.cniDir}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${c.dir}/opt"
`,
    );
    await c.up();
    return c;
  }

  get socket(): string {
    return join(this.dir, 'c.sock');
  }
  get endpoint(): string {
    return `unix://${this.socket}`;
  }
  get cniDir(): string {
    return join(this.dir, 'cni');
  }
  get bridge(): string {
    return `coxt${this.id}`;
  }
  /** A /24 that hardly anything else on a test machine has. */
  get subnet(): string {
    const byte = (at: number) => Number.parseInt(this.id.slice(at, at + 2), 16);
    return `10.${200 + (byte(0) % 50)}.${byte(2)}.0/24`;
  }
  get cgroupParent(): string {
    return `/cox-test-${this.id}`;
  }

  /** What a test run that was killed has left: its daemon is ended, and its pods with a new one. */
  static async clear(dir: string, id: string): Promise<void> {
    for (const pid of processes((args) => args.includes(join(dir, 'config.toml')))) {
      kill(pid);
      await eventually('the old daemon to end', () => cmdline(pid).join('') === '');
    }
    await new Containerd(dir, id).stop();
  }

  /** Starts the daemon and waits until it serves. */
  async up(): Promise<void> {
    const log = openSync(join(this.dir, 'log'), 'a');
    this.#child = spawn('containerd', ['-c', join(this.dir, 'config.toml')], { stdio: ['ignore', log, log] });
    await eventually('containerd to serve', () => this.ctr('version'), {
      context: () => this.log(),
      everyMs: 50,
    });
  }

  /** Ends the daemon; containers go on. */
  async down(): Promise<void> {
    if (this.#child) await stopProcess(this.#child);
    this.#child = undefined;
  }

  /**
   * What a cut of power leaves: every process is gone at once and so is all that was in memory (mounts, network
   * namespaces, the state directory); the root directory stays.
   */
  async powerCut(): Promise<void> {
    const shims = this.#shimPids();
    const all = [...shims.flatMap(childrenOf), ...shims];
    if (this.#child?.pid) all.push(this.#child.pid);
    for (const pid of all) kill(pid);
    if (this.#child) await ended(this.#child);
    this.#child = undefined;
    await eventually('its processes to end', () => all.every((pid) => cmdline(pid).join('') === ''));
    for (const m of mountsBelow(this.dir).reverse()) await exec('umount', ['-l', m]);
    rmSync(join(this.dir, 'state'), { recursive: true, force: true });
    await exec('ip', ['link', 'delete', this.bridge]).catch(() => {});
  }

  log = (): string => readFileSync(join(this.dir, 'log'), 'utf8').slice(-4000);

  ctr = (...args: string[]): Promise<string> => exec('ctr', ['-a', this.socket, '-n', 'k8s.io', ...args]);

  /** A shim on it, not started. */
  shim(options: Partial<CriShimOptions> = {}): CriShim {
    return new CriShim({
      endpoint: this.endpoint,
      log: silentLog,
      clock: systemClock,
      owner: `test-${this.id}`,
      cgroupParent: this.cgroupParent,
      ...options,
    });
  }

  /** Ends every sandbox, whoever made it, then the daemon, and removes what is left. */
  async stop(): Promise<void> {
    if (!this.#child) await this.up().catch(() => {});
    await this.#removeSandboxes().catch((e: unknown) =>
      console.warn(`sandboxes of the test's containerd were left: ${(e as Error).message}`),
    );
    await this.down();
    for (const pid of this.#shimPids()) {
      for (const child of childrenOf(pid)) kill(child);
      kill(pid);
    }
    for (const m of mountsBelow(this.dir).reverse()) await exec('umount', ['-l', m]).catch(() => {});
    await exec('ip', ['link', 'delete', this.bridge]).catch(() => {});
    for (const root of cgroupRoots()) removeCgroup(join(root, this.cgroupParent));
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  async #removeSandboxes(): Promise<void> {
    const shim = this.shim();
    await shim.start();
    try {
      const ids = (await this.ctr('containers', 'list', '-q')).split('\n').filter(Boolean);
      for (const id of ids) {
        // Those that went with their sandbox are gone by now.
        const info = await this.ctr('containers', 'info', id).catch(() => '{}');
        const { Labels } = JSON.parse(info) as { Labels?: Record<string, string> };
        if (Labels?.['io.cri-containerd.kind'] !== 'sandbox') continue;
        await shim.stopSandbox(id);
        await shim.removeSandbox(id);
      }
    } finally {
      await shim.stop();
    }
  }

  /** The per-pod shim processes of this containerd; they outlive it by design. */
  #shimPids = () =>
    processes((args) => /containerd-shim/.test(args[0] ?? '') && args.some((a) => a.startsWith(this.socket)));
}

/** Takes away what runs left whose process is no more. */
async function sweep(): Promise<void> {
  for (const name of readdirSync('/tmp').filter(
    (n) => `/tmp/${n}`.startsWith(PREFIX) && existsSync(`/tmp/${n}/owner.json`),
  )) {
    try {
      const dir = `/tmp/${name}`;
      const { pid, id } = JSON.parse(readFileSync(join(dir, 'owner.json'), 'utf8')) as {
        pid: number;
        id: string;
      };
      if (!existsSync(`/proc/${pid}`)) await Containerd.clear(dir, id);
    } catch (e) {
      console.warn(`/tmp/${name} of an earlier test run cannot be cleared: ${(e as Error).message}`);
    }
  }
}

const processes = (is: (args: string[]) => boolean): number[] =>
  readdirSync('/proc')
    .filter((d) => /^\d+$/.test(d))
    .map(Number)
    .filter((pid) => is(cmdline(pid)));
const cmdline = (pid: number): string[] => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
};
/** Mount points of this machine below a directory, in the order of their mounting. */
export const mountsBelow = (dir: string): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((l) => l.split(' ')[4] ?? '')
    .filter((p) => p.startsWith(`${dir}/`));
const childrenOf = (pid: number): number[] => {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
};
const kill = (pid: number) => {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
};

export function cgroupRoots(): string[] {
  return readdirSync('/sys/fs/cgroup').includes('cgroup.controllers')
    ? ['/sys/fs/cgroup']
    : readdirSync('/sys/fs/cgroup').map((d) => join('/sys/fs/cgroup', d));
}

function removeCgroup(path: string): void {
  let inner: string[];
  try {
    inner = readdirSync(path, { withFileTypes: true })
      .filter((e) => e.isDirectory())
      .map((e) => join(path, e.name));
  } catch {
    return;
  }
  for (const d of inner) removeCgroup(d);
  try {
    rmdirSync(path);
  } catch {
    // Something still runs in it; the test that left it has failed already.
  }
}

/** Overlay where the file system allows it (not on top of another overlay), else plain copies. */
async function snapshotter(dir: string): Promise<string> {
  const at = (n: string) => {
    const p = join(dir, 'probe', n);
    mkdirSync(p, { recursive: true });
    return p;
  };
  const [lower, upper, work, merged] = ['l', 'u', 'w', 'm'].map(at) as [string, string, string, string];
  try {
    const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
    await exec('mount', ['-t', 'overlay', 'overlay', '-o', options, merged]);
    await exec('umount', [merged]);
    return 'overlayfs';
  } catch {
    return 'native';
  } finally {
    rmSync(join(dir, 'probe'), { recursive: true, force: true });
  }
}

/** bcrypt of `secret`, for the registry's htpasswd file. */
const SECRET = '$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a';

/** Debian's docker-registry on loopback. With `auth` it wants user `user` with password `secret`. */
export class Registry {
  readonly dir = mkdtempSync('/tmp/cox-reg-');
  #child: ChildProcess | undefined;
  private constructor(
    readonly port: number,
    readonly auth: boolean,
  ) {}
  get host(): string {
    return `127.0.0.1:${this.port}`;
  }

  static async start(options: { auth?: boolean } = {}): Promise<Registry> {
    const r = new Registry(await freePort(), options.auth ?? false);
    writeFileSync(join(r.dir, 'htpasswd'), `user:${SECRET}\n`);
    writeFileSync(
      join(r.dir, 'config.yml'),
      `version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ${r.dir}/data}, delete: {enabled: true}}
http: {addr: "${r.host}"}
${r.auth ? `auth: {htpasswd: {realm: test, path: ${r.dir}/htpasswd}}` : ''}
`,
    );
    const log = openSync(join(r.dir, 'log'), 'a');
    // Not to outlive a test run that is killed.
    const command = ['--pdeathsig', 'KILL', 'docker-registry', 'serve', join(r.dir, 'config.yml')];
    r.#child = spawn('setpriv', command, { stdio: ['ignore', log, log] });
    await eventually(
      'the registry to serve',
      async () => [200, 401].includes((await fetch(`http://${r.host}/v2/`)).status),
      { everyMs: 50, context: () => readFileSync(join(r.dir, 'log'), 'utf8') },
    );
    return r;
  }

  /** Copies an image of an OCI layout (`dir:tag`) to `name:tag` here; gives the full name. */
  async push(layout: string, name: string): Promise<string> {
    await exec('skopeo', [
      'copy',
      '-q',
      '--dest-tls-verify=false',
      ...(this.auth ? ['--dest-creds', 'user:secret'] : []),
      `oci:${layout}`,
      `docker://${this.host}/${name}`,
    ]);
    return `${this.host}/${name}`;
  }

  /** As {@link push}, behind an index that offers the image for `architecture` only. */
  async pushIndex(layout: string, name: string, architecture: string): Promise<string> {
    await this.push(layout, name);
    const [repository, tag] = name.split(':') as [string, string];
    const url = `http://${this.host}/v2/${repository}/manifests`;
    const accept = 'application/vnd.oci.image.manifest.v1+json';
    const got = await fetch(`${url}/${tag}`, { headers: { accept } });
    const size = (await got.arrayBuffer()).byteLength;
    const digest = got.headers.get('docker-content-digest');
    const mediaType = 'application/vnd.oci.image.index.v1+json';
    const manifests = [{ mediaType: accept, digest, size, platform: { os: 'linux', architecture } }];
    const put = await fetch(`${url}/${tag}`, {
      method: 'PUT',
      headers: { 'content-type': mediaType },
      body: JSON.stringify({ schemaVersion: 2, mediaType, manifests }),
    });
    if (!put.ok) throw new Error(`the registry refuses the index: ${put.status} ${await put.text()}`);
    return `${this.host}/${name}`;
  }

  async stop(): Promise<void> {
    if (this.#child) await stopProcess(this.#child);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** The commands that test pods use. */
const APPLETS = [
  ...[
    'sh',
    'sleep',
    'echo',
    'cat',
    'env',
    'printf',
    'pwd',
    'wget',
    'nc',
    'httpd',
    'ls',
    'head',
    'tail',
    'tr',
  ],
  ...[
    'yes',
    'dd',
    'id',
    'hostname',
    'nslookup',
    'ip',
    'ps',
    'kill',
    'true',
    'false',
    'touch',
    'mount',
    'seq',
    'wc',
    'grep',
  ],
];

/**
 * Builds an image with busybox and the given files (path → text; executable when it begins with `#!`) and no entrypoint,
 * as an OCI layout. Gives `dir:tag` for {@link Registry.push}; `dir` is below `parent`.
 */
export async function busyboxImage(
  parent: string,
  files: Record<string, string> = {},
  config: string[] = [],
): Promise<string> {
  const dir = mkdtempSync(join(parent, 'image-'));
  const layout = join(dir, 'layout');
  const image = `${layout}:test`;
  await exec('umoci', ['init', '--layout', layout]);
  await exec('umoci', ['new', '--image', image]);
  await exec('umoci', ['unpack', '--image', image, join(dir, 'bundle')]);
  const root = join(dir, 'bundle', 'rootfs');
  for (const d of ['bin', 'tmp', 'etc', 'proc', 'sys', 'dev']) mkdirSync(join(root, d), { recursive: true });
  chmodSync(join(root, 'tmp'), 0o1777);
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'));
  for (const a of APPLETS) symlinkSync('busybox', join(root, 'bin', a));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, path, '..'), { recursive: true });
    writeFileSync(join(root, path), text, { mode: text.startsWith('#!') ? 0o755 : 0o644 });
  }
  await exec('umoci', ['repack', '--image', image, join(dir, 'bundle')]);
  await exec('umoci', ['config', '--image', image, '--config.env', 'PATH=/bin', ...config]);
  return image;
}
