/** Lifecycle hooks: exec, httpGet, sleep. */
import type { LifecycleHandler } from 'kubernetes-types/core/v1.js';
import { sleep } from '../../api/clock.js';
import type { PodContext } from './context.js';
import { httpHook, urlOf } from './handlers.js';

const DEFAULT_TIMEOUT_MS = 600_000;

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
      const url = urlOf(hook.httpGet, w.container(container), w.status?.podIP ?? '127.0.0.1');
      return await httpHook(url, hook.httpGet, timeoutMs);
    }
    return 'the hook has no handler that is known here (exec, httpGet, sleep)';
  } catch (e) {
    return (e as Error).message;
  }
}
