import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const exec = promisify(execFile);

/** The release whose tests are run; the staging modules have its minor and patch number as v0.MINOR.PATCH. */
export const KUBERNETES = '1.36.0';

/** What is built of Kubernetes: file name below the cache, and its package. */
const PROGRAMS = {
  agnhost: 'k8s.io/kubernetes/test/images/agnhost',
  nnp: 'k8s.io/kubernetes/test/images/nonewprivs',
  'sample-apiserver': 'k8s.io/sample-apiserver',
  etcd: 'go.etcd.io/etcd/server/v3',
} as const;

export interface Binaries {
  /** The tests, one program: `e2e.test --help`. */
  e2e: string;
  /** Kubernetes' source tree, for the data files of its test images. */
  source: string;
  programs: Record<keyof typeof PROGRAMS, string>;
}

/**
 * Builds Kubernetes' tests and the programs of its test images below `cache`, with this machine's Go, from the Go
 * module proxy (checked against Go's checksum database). What is there already is not built again. The first time takes
 * 10 to 30 minutes on two cores and 3 GB of disk for Go's caches.
 */
export async function binaries(cache: string, say: (text: string) => void): Promise<Binaries> {
  const dir = join(cache, `kubernetes-${KUBERNETES}`);
  mkdirSync(dir, { recursive: true });
  const env = { ...process.env, CGO_ENABLED: '0', GOFLAGS: '-mod=mod' };
  const go = async (...args: string[]) => {
    const { stdout } = await exec('go', args, { cwd: dir, env, maxBuffer: 64 << 20 });
    return stdout;
  };
  const staging = KUBERNETES.replace(/^1\./, 'v0.');
  if (!existsSync(join(dir, 'go.sum'))) {
    say(`fetching Kubernetes ${KUBERNETES}`);
    writeFileSync(join(dir, 'go.mod'), 'module conformance\n');
    const download = JSON.parse(await go('mod', 'download', '-json', `k8s.io/kubernetes@v${KUBERNETES}`));
    // Kubernetes replaces its staging modules by folders of its repository, which a published module does not carry.
    const own = readFileSync(download.GoMod, 'utf8');
    const modules = [...own.matchAll(/^\s*(k8s\.io\/[\w-]+) => \.\/staging/gm)].map((m) => m[1]!);
    const version = /^go .*/m.exec(own)![0];
    const requires = [`k8s.io/kubernetes v${KUBERNETES}`, `k8s.io/sample-apiserver ${staging}`];
    writeFileSync(
      join(dir, 'go.mod'),
      [
        'module conformance',
        version,
        ...requires.map((r) => `require ${r}`),
        ...modules.map((m) => `replace ${m} => ${m} ${staging}`),
        '',
      ].join('\n'),
    );
    const wanted = ['k8s.io/kubernetes/test/e2e', ...Object.values(PROGRAMS)];
    writeFileSync(
      join(dir, 'wanted.go'),
      `package conformance\n\nimport (\n${wanted.map((w) => `\t_ "${w}"\n`).join('')})\n`,
    );
    await go('mod', 'tidy', '-e');
  }
  const made = async (name: string, path: string, ...command: string[]): Promise<string> => {
    const target = join(dir, name);
    if (existsSync(target)) return target;
    say(`building ${name}`);
    await go(...command, '-ldflags', '-s -w', '-o', `${target}.new`, path);
    renameSync(`${target}.new`, target);
    return target;
  };
  const programs = {} as Binaries['programs'];
  for (const [name, path] of Object.entries(PROGRAMS))
    programs[name as keyof typeof PROGRAMS] = await made(name, path, 'build');
  const source = (await go('list', '-m', '-f', '{{.Dir}}', 'k8s.io/kubernetes')).trim();
  return { e2e: await made('e2e.test', 'k8s.io/kubernetes/test/e2e', 'test', '-c'), source, programs };
}
