/** Makes certificates in a short-lived process, so that the hub never holds the library that does it. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Job } from './issue.js';

/** Kept for the next job for so long, in ms: a first start makes three certificates, a fleet joins in bursts. */
const IDLE_MS = 3_000;

const program = fileURLToPath(new URL('./issue-process.js', import.meta.url));
/** Not compiled (tests run the source): there is no program to start, and memory does not matter. */
const fromSource = import.meta.url.endsWith('.ts');

interface Waiting {
  resolve(cert: string): void;
  reject(e: Error): void;
}

let child: ChildProcess | undefined;
let idle: NodeJS.Timeout | undefined;
let serial = 0;
const waiting = new Map<number, Waiting>();

function start(): ChildProcess {
  const c = fork(program, { execArgv: [], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  c.on('message', (m: { id: number; cert?: string; error?: string }) => {
    const w = waiting.get(m.id);
    waiting.delete(m.id);
    if (m.cert) w?.resolve(m.cert);
    else w?.reject(new Error(m.error ?? 'no certificate'));
    if (waiting.size === 0) rest(c);
  });
  const ended = (why: string) => {
    if (child === c) child = undefined;
    for (const w of waiting.values()) w.reject(new Error(`cannot make a certificate: ${why}`));
    waiting.clear();
  };
  c.on('error', (e) => ended(e.message));
  c.on('exit', (code, signal) => {
    if (child === c) ended(`the process that makes it ended with ${signal ?? code}`);
  });
  return c;
}

/** Neither keeps this process alive nor stays long. */
function rest(c: ChildProcess): void {
  c.unref();
  c.channel?.unref();
  idle = setTimeout(() => {
    if (child === c) child = undefined;
    c.disconnect();
  }, IDLE_MS);
  idle.unref();
}

/** Starts the process ahead of a job that is about to come. */
export function prepareIssuer(): void {
  if (fromSource || waiting.size > 0) return;
  clearTimeout(idle);
  child ??= start();
  rest(child);
}

/** The certificate, PEM. */
export async function issueCertificate(job: Job): Promise<string> {
  if (fromSource) return (await import('./issue.js')).issue(job);
  clearTimeout(idle);
  child ??= start();
  const c = child;
  c.ref();
  c.channel?.ref();
  const id = ++serial;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    c.send({ id, job }, (e) => {
      if (!e) return;
      waiting.delete(id);
      reject(e);
    });
  });
}
