import type { Clock } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import type { WatchEvent, Watcher } from '../client.js';
import type { Encoder, Form, Served } from './encode.js';
import { asApiError } from './message.js';

/** Without `timeoutSeconds` a watch ends after this long, up to twice as long, so that clients spread (kube-apiserver's min-request-timeout). */
const DEFAULT_TIMEOUT_S = 1800;

/** How long a watch lasts, in ms: `timeoutSeconds`, when the client said it. */
export const watchDuration = (timeoutSeconds: number | undefined, clock: Clock): number =>
  1000 * (timeoutSeconds && timeoutSeconds > 0 ? timeoutSeconds : DEFAULT_TIMEOUT_S * (1 + clock.random()));

/**
 * The lines of one watch. Ends after `duration` ms, when the client goes away (`signal`), or after an ERROR event when the
 * watcher fell behind.
 */
export async function* watchLines(
  watcher: Watcher<Served>,
  kind: Kind,
  encoder: Encoder,
  form: Form,
  duration: number,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<string | Buffer> {
  const close = () => watcher.close();
  const cancel = clock.after(duration, close);
  signal.addEventListener('abort', close);
  if (signal.aborted) close();
  let first = true;
  try {
    for await (const e of watcher as AsyncIterable<WatchEvent<Served>>) {
      yield encoder.event(kind, e.type, e.object as Served, form, first);
      first = false;
    }
  } catch (e) {
    yield `{"type":"ERROR","object":${JSON.stringify(asApiError(e).toStatus())}}\n`;
  } finally {
    cancel();
    signal.removeEventListener('abort', close);
    close();
  }
}
