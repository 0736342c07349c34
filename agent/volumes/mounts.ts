/** Mounting through util-linux's `mount` and `umount`; what is mounted is read from the kernel, never remembered. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The few calls that volumes need; tests replace them. Every one rejects with an Error that has mount's own words. */
export interface Mounter {
  /** Whether mounting can work here at all. */
  readonly usable: boolean;
  tmpfs(path: string, sizeBytes: number | undefined): Promise<void>;
  /** `source` is used as it is: a /proc/<pid>/fd/<n> link is not resolved to a path, which could have been swapped. */
  bind(source: string, path: string): Promise<void>;
  unmount(path: string): Promise<void>;
  /** Mount points at or below the path, deepest first. */
  below(path: string): string[];
}

/** mountinfo writes space, tab, newline and backslash as octal escapes. */
const unescapeOctal = (s: string) =>
  s.replace(/\\([0-7]{3})/g, (_, o: string) => String.fromCharCode(Number.parseInt(o, 8)));

export const systemMounter: Mounter = {
  usable: process.getuid?.() === 0,
  async tmpfs(path, sizeBytes) {
    const options = ['mode=0777', ...(sizeBytes ? [`size=${sizeBytes}`] : [])].join(',');
    await command('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path]);
  },
  async bind(source, path) {
    await command('mount', ['--no-canonicalize', '--bind', source, path]);
  },
  async unmount(path) {
    await command('umount', ['--no-canonicalize', path]).catch(() =>
      // Still held by someone: let it go as soon as they are done.
      command('umount', ['--no-canonicalize', '--lazy', path]),
    );
  },
  below(path) {
    return readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => unescapeOctal(line.split(' ')[4] ?? ''))
      .filter((p) => p === path || p.startsWith(`${path}/`))
      .sort((a, b) => b.length - a.length);
  },
};

async function command(name: string, args: string[]): Promise<void> {
  try {
    await run(name, args, { timeout: 30_000 });
  } catch (e) {
    const { stderr } = e as { stderr?: string };
    throw new Error(`${name} ${args.join(' ')}: ${stderr?.trim() || (e as Error).message}`, { cause: e });
  }
}
