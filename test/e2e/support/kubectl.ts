import { spawn } from 'node:child_process';
import { kubectlPath } from './needs.js';

export interface Ran {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** A kubectl of one minor version, bound to a kubeconfig, with caches of its own. */
export function kubectlOf(minor: '1.32' | '1.36', kubeconfig: string, home: string) {
  const start = (args: string[], env: NodeJS.ProcessEnv = {}) =>
    spawn(kubectlPath(minor), args, {
      env: {
        PATH: process.env['PATH'],
        HOME: home,
        KUBECONFIG: kubeconfig,
        KUBECACHEDIR: `${home}/cache-${minor}`,
        ...env,
      },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
  /** Runs to the end, whatever the exit code; a string or an object goes to stdin. */
  const run = (args: string[], input?: unknown, env?: NodeJS.ProcessEnv): Promise<Ran> =>
    new Promise((resolve, reject) => {
      const child = start(args, env);
      let stdout = '';
      let stderr = '';
      child.stdout.setEncoding('utf8').on('data', (d) => (stdout += d));
      child.stderr.setEncoding('utf8').on('data', (d) => (stderr += d));
      child.on('error', reject);
      child.on('close', (code) => resolve({ code, stdout, stderr }));
      child.stdin.on('error', () => {}); // it may end without reading
      child.stdin.end(input === undefined ? '' : typeof input === 'string' ? input : JSON.stringify(input));
    });
  /** As `run`, and throws unless it succeeds; returns stdout. */
  const ok = async (args: string[], input?: unknown, env?: NodeJS.ProcessEnv): Promise<string> => {
    const r = await run(args, input, env);
    if (r.code !== 0)
      throw new Error(`kubectl ${args.join(' ')} ended with ${r.code}\n${r.stdout}\n${r.stderr}`);
    return r.stdout;
  };
  return { start, run, ok };
}

export type Kubectl = ReturnType<typeof kubectlOf>;
