/** An environment variable: the process stops when its standard input ends, that is, with its parent. */
export const UNTIL_STDIN_ENDS = 'COX_UNTIL_STDIN_ENDS';

/**
 * Resolves at the first SIGINT, SIGTERM or SIGHUP. A second one ends the process at once, for whoever cannot wait for
 * a clean stop.
 */
export function untilStopped(): Promise<void> {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  return new Promise((resolve) => {
    let stopping = false;
    // Without a pending handle Node would leave as soon as nothing else holds it, e.g. while a link is down.
    const hold = setInterval(() => {}, 0x7fffffff);
    const stop = () => {
      if (stopping) process.exit(130);
      stopping = true;
      clearInterval(hold);
      resolve();
    };
    for (const signal of signals) process.on(signal, stop);
    if (process.env[UNTIL_STDIN_ENDS]) process.stdin.resume().once('close', () => stopping || stop());
  });
}
