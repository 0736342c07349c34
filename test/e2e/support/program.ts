import { spawn } from 'node:child_process';

/** A program that a test drives: what it printed so far, and how it ended. */
export interface Program {
  /** Both streams, in the order they came. */
  output(): string;
  /** Settles when it has ended, whatever its exit code. */
  readonly ended: Promise<{ code: number | null; stdout: string; stderr: string }>;
  stop(signal?: NodeJS.Signals): void;
}

/** Starts a foreign client against the cluster of a kubeconfig, with a home of its own. */
export function startProgram(path: string, args: string[], kubeconfig: string, home: string): Program {
  const child = spawn(path, args, {
    env: { PATH: process.env['PATH'], HOME: home, KUBECONFIG: kubeconfig },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [output, stdout, stderr] = ['', '', ''];
  child.stdout.setEncoding('utf8').on('data', (d) => {
    stdout += d;
    output += d;
  });
  child.stderr.setEncoding('utf8').on('data', (d) => {
    stderr += d;
    output += d;
  });
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
  return { output: () => output, ended, stop: (signal = 'SIGTERM') => void child.kill(signal) };
}
