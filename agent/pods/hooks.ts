/** Lifecycle hooks: exec, httpGet, sleep. */
import { request } from 'node:http';
import type { LifecycleHandler } from 'kubernetes-types/core/v1.js';
import { sleep } from '../../api/clock.js';
import type { PodContext } from './context.js';

const DEFAULT_TIMEOUT_MS = 600_000;
const BODY_MAX = 10_240;

/** Runs a hook; resolves with what went wrong, or undefined. Never takes (much) longer than `timeoutMs`. */
export async function runHook(
  w: PodContext,
  containerId: string,
  container: string,
  hook: LifecycleHandler,
  timeoutMs = DEFAULT_TIMEOUT_MS,
): Promise<string | undefined> {
  try {
    if (hook.exec) {
      if (!w.shim?.execSync) return `the ${w.shim?.handler} runtime cannot run commands in a container`;
      const r = await w.shim.execSync(containerId, hook.exec.command ?? [], timeoutMs);
      if (r.exitCode === 0) return undefined;
      const said = Buffer.concat([r.stdout, r.stderr]).toString('utf8').trim().slice(0, 1024);
      return `command '${(hook.exec.command ?? []).join(' ')}' exited with ${r.exitCode}: ${said}`;
    }
    const nap = (hook as { sleep?: { seconds: number } }).sleep;
    if (nap) {
      await sleep(w.host.clock, Math.min(nap.seconds * 1000, timeoutMs));
      return undefined;
    }
    if (hook.httpGet) {
      const { host, path = '/', port, scheme = 'HTTP', httpHeaders = [] } = hook.httpGet;
      if (scheme !== 'HTTP') return `scheme ${scheme} is not supported in hooks`;
      const code = await httpGet(
        host ?? w.status?.podIP ?? '127.0.0.1',
        portNumber(w, container, port),
        path,
        Object.fromEntries(httpHeaders.map((h) => [h.name, h.value])),
        timeoutMs,
      );
      return code >= 200 && code < 400 ? undefined : `HTTP status ${code}`;
    }
    return 'the hook has no handler that is known here (exec, httpGet, sleep)';
  } catch (e) {
    return (e as Error).message;
  }
}

/** A port by number or by the name that the container gives it. */
export function portNumber(w: PodContext, container: string, port: number | string | undefined): number {
  const n = Number(port);
  if (Number.isInteger(n) && n > 0) return n;
  const named = w.container(container).ports?.find((p) => p.name === port)?.containerPort;
  if (named === undefined) throw new Error(`couldn't find port: ${port} in container ${container}`);
  return named;
}

/** The status code of a GET; the body is thrown away. */
export function httpGet(
  host: string,
  port: number,
  path: string,
  headers: Record<string, string>,
  timeoutMs: number,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const req = request(
      {
        host,
        port,
        path: path.startsWith('/') ? path : `/${path}`,
        headers,
        timeout: timeoutMs,
        agent: false,
      },
      (res) => {
        let size = 0;
        res.on('data', (b: Buffer) => {
          size += b.length;
          if (size > BODY_MAX) res.destroy();
        });
        res.on('error', () => {});
        res.on('close', () => resolve(res.statusCode ?? 0));
      },
    );
    req.on('timeout', () => req.destroy(new Error(`no answer from ${host}:${port} within ${timeoutMs} ms`)));
    req.on('error', reject);
    req.end();
  });
}
