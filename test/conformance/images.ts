import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { exec, type Registry } from '../e2e/support/containerd.js';
import type { Binaries } from './binaries.js';

interface Image {
  /** `name:tag`, as Kubernetes' test/utils/image/manifest.go has it. */
  name: string;
  /** Another of these, whose layers it has. */
  from?: string;
  /** Path in the image → file of this machine, and its mode. */
  copy?: Record<string, { file: string; mode: number }>;
  /** Programs of this machine, with the libraries that they load, at the same paths. */
  installed?: string[];
  /** Path in the image → text. */
  files?: Record<string, string>;
  /** Path in the image → what it points to. */
  links?: Record<string, string>;
  dirs?: string[];
  /** Arguments of `umoci config`. */
  config?: string[];
}

/**
 * The images that conformance tests name. What runs in them is Kubernetes' own, built from its source, on Debian's busybox
 * instead of Alpine, with its bash as `sh` and its curl. Two are stand-ins: `nginx` is busybox' web server at nginx' place, and `pause` is agnhost's `pause`.
 */
function images({ programs, source }: Binaries): Image[] {
  const text = (path: string) => ({ file: join(source, 'test/images', path), mode: 0o644 });
  const program = (file: string, mode = 0o755) => ({ file, mode });
  const entry = (...args: string[]) => args.flatMap((a) => ['--config.entrypoint', a]);
  const cmd = (...args: string[]) => args.flatMap((a) => ['--config.cmd', a]);
  const users = [
    'root:x:0:0:root:/root:/bin/sh',
    'nobody:x:65534:65534:nobody:/:/bin/false',
    'user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh',
  ];
  const groups = ['root:x:0:', 'nobody:x:65534:', 'user-defined-in-image:x:1000:'];
  groups.push('group-defined-in-image:x:50000:user-defined-in-image');
  const web = {
    files: { 'usr/share/nginx/html/index.html': '<html><body><h1>Welcome to nginx!</h1></body></html>\n' },
    config: cmd('httpd', '-f', '-p', '80', '-h', '/usr/share/nginx/html'),
  };
  const agnhost: Image = {
    name: 'agnhost:2.63.0',
    from: 'busybox:1.37.0-1',
    copy: {
      agnhost: program(programs.agnhost),
      'localhost.crt': text('agnhost/porter/localhost.crt'),
      'localhost.key': text('agnhost/porter/localhost.key'),
    },
    files: { 'etc/passwd': `${users.join('\n')}\n`, 'etc/group': `${groups.join('\n')}\n` },
    installed: ['/usr/bin/curl'],
    links: { 'agnhost-2': 'agnhost' },
    dirs: ['uploads', 'home/user-defined-in-image'],
    config: [...entry('/agnhost'), ...cmd('pause')],
  };
  const page = (name: string): Image => ({
    name: `${name}:1.8`,
    from: agnhost.name,
    copy: { [`${name}.jpg`]: text(`${name}/html/${name}.jpg`), 'data.json': text(`${name}/html/data.json`) },
    config: [...entry('/agnhost'), ...cmd('test-webserver')],
  });
  const base = 'busybox:1.37.0-1';
  return [
    // Older busybox' shell keeps variables with odd names from the programs that it starts; the tests have such.
    {
      name: base,
      installed: ['/bin/bash'],
      links: { 'bin/sh': 'bash' },
      config: [...cmd('sh'), '--config.env', 'PATH=/bin:/usr/local/bin:/usr/bin'],
    },
    agnhost,
    {
      ...agnhost,
      name: 'agnhost:2.55',
      from: agnhost.name,
      copy: {},
      installed: [],
      files: {},
      links: {},
      dirs: [],
    },
    { name: 'pause:3.10.2', from: agnhost.name, config: [...entry('/agnhost'), ...cmd('pause')] },
    { name: 'nonroot:1.5', from: base, config: ['--config.user', '1234'] },
    {
      name: 'nonewprivs:1.4',
      from: base,
      copy: { 'usr/local/bin/nnp': program(programs.nnp, 0o4755) },
      config: cmd('nnp'),
    },
    page('kitten'),
    page('nautilus'),
    { name: 'nginx:1.15-4', from: base, ...web },
    { name: 'nginx:1.27-0', from: base, ...web },
    {
      name: 'sample-apiserver:1.29.2',
      from: base,
      copy: { 'sample-apiserver': program(programs['sample-apiserver']) },
      config: entry('/sample-apiserver'),
    },
    {
      name: 'etcd:3.6.8-0',
      from: base,
      copy: { 'usr/local/bin/etcd': program(programs.etcd) },
    },
  ];
}

/** Builds the images into one OCI layout below `cache`, once; gives the layout. */
async function layout(cache: string, binaries: Binaries, say: (text: string) => void): Promise<string> {
  const done = join(cache, 'images-2');
  if (existsSync(done)) return done;
  const work = `${done}.new`;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const dir = join(work, 'layout');
  await exec('umoci', ['init', '--layout', dir]);
  for (const image of images(binaries)) {
    say(`building image ${image.name}`);
    const tag = `${dir}:${tagOf(image.name)}`;
    const bundle = join(work, 'bundle');
    if (image.from) await exec('umoci', ['tag', '--image', `${dir}:${tagOf(image.from)}`, tagOf(image.name)]);
    else await exec('umoci', ['new', '--image', tag]);
    await exec('umoci', ['unpack', '--image', tag, bundle]);
    const root = join(bundle, 'rootfs');
    if (!image.from) busybox(root);
    for (const d of image.dirs ?? []) mkdirSync(join(root, d), { recursive: true });
    for (const [path, { file, mode }] of Object.entries(image.copy ?? {})) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      copyFileSync(file, join(root, path));
      execFileSync('chmod', [mode.toString(8), join(root, path)]);
    }
    for (const path of (image.installed ?? []).flatMap(withLibraries)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      copyFileSync(path, join(root, path));
    }
    for (const [path, content] of Object.entries(image.files ?? {})) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), content);
    }
    for (const [path, target] of Object.entries(image.links ?? {})) symlinkSync(target, join(root, path));
    await exec('umoci', ['repack', '--image', tag, bundle]);
    rmSync(bundle, { recursive: true, force: true });
    const cleared = ['--clear', 'config.entrypoint', '--clear', 'config.cmd'];
    await exec('umoci', ['config', '--image', tag, ...cleared, ...(image.config ?? [])]);
  }
  renameSync(work, done);
  return done;
}

/** A program and the files of its dynamic linking. */
const withLibraries = (program: string): string[] => [
  program,
  ...execFileSync('ldd', [program], { encoding: 'utf8' })
    .split('\n')
    .flatMap((line) => /(?:=> )?(\/\S+) \(/.exec(line)?.[1] ?? []),
];

const tagOf = (name: string) => name.replace(':', '_');

/** Debian's static busybox with a link for each of its commands, and what programs expect of a file system. */
function busybox(root: string): void {
  for (const d of ['bin', 'etc', 'root', 'usr/bin', 'usr/local/bin', 'var', 'proc', 'sys', 'dev', 'tmp'])
    mkdirSync(join(root, d), { recursive: true });
  execFileSync('chmod', ['1777', join(root, 'tmp')]);
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'));
  const applets = execFileSync('/bin/busybox', ['--list'], { encoding: 'utf8' }).split('\n');
  for (const a of applets)
    if (a && a !== 'busybox' && a !== 'sh') symlinkSync('busybox', join(root, 'bin', a));
  writeFileSync(
    join(root, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n',
  );
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\nnobody:x:65534:\n');
}

/** Puts all test images into the registry, under the names that the tests look for. */
export async function pushImages(
  registry: Registry,
  cache: string,
  binaries: Binaries,
  say: (text: string) => void,
): Promise<void> {
  const built = join(await layout(cache, binaries, say), 'layout');
  for (const { name } of images(binaries)) await registry.push(`${built}:${tagOf(name)}`, name);
}
