/**
 * Resolves at the first SIGINT, SIGTERM or SIGHUP. A second one ends the process at once, for whoever cannot wait for
 * a clean stop.
 */
export function untilStopped(): Promise<NodeJS.Signals> {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  return new Promise((resolve) => {
    let stopping = false;
    // Without a pending handle Node would leave as soon as nothing else holds it, e.g. while a link is down.
    const hold = setInterval(() => {}, 0x7fffffff);
    for (const signal of signals)
      process.on(signal, () => {
        if (stopping) process.exit(130);
        stopping = true;
        clearInterval(hold);
        resolve(signal);
      });
  });
}
