/** V8's memory in commands that run for months on small machines; figures in docs/decisions/0002. */
import { PerformanceObserver } from 'node:perf_hooks';
import { getHeapSpaceStatistics, getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * For what mostly waits: the young generation stays at the 1 MB it starts with, instead of growing to 16, and there is
 * no optimizing compiler. Works only before the heap has grown, so before a command's modules are loaded.
 */
export function useLittleMemory(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
  setFlagsFromString('--no-opt');
}

/** Of each half of the young generation, which V8 would let grow to 16 MB. */
const YOUNG_BYTES = 4 << 20;
/** By how much the heap may grow before it is collected whole, where V8 would wait for two to four times as much. */
const GROWTH_PERCENT = 60;

const youngBytes = () =>
  (getHeapSpaceStatistics().find((s) => s.space_name === 'new_space')?.space_size ?? 0) / 2;

/**
 * For what serves many requests: garbage is collected before the heap is mostly garbage. The size of the young
 * generation can be set only from the command line, but whether it grows can be said at any time: after each
 * collection this looks whether it may once more. Returns what ends that.
 */
export function useModestMemory(): () => void {
  setFlagsFromString(`--heap-growing-percent=${GROWTH_PERCENT}`);
  const observer = new PerformanceObserver(() =>
    setFlagsFromString(`--semi-space-growth-factor=${youngBytes() < YOUNG_BYTES ? 2 : 1}`),
  );
  observer.observe({ entryTypes: ['gc'] });
  return () => observer.disconnect();
}

/** Larger heaps are left alone: collecting them whole would hold up the event loop for too long. */
const MAX_BYTES = 128 << 20;
/** Growth since the last time that makes it worth the while: so many bytes and a tenth. */
const MIN_GROWTH = 1 << 20;
/** Share of the time that the event loop may have been busy. */
const QUIET = 0.1;

/**
 * V8 collects only when more is allocated, so that what a burst of work leaves behind stays for as long as nothing
 * happens afterwards. This looks every so often, in ms, and collects once it is quiet. Keeps no process alive.
 */
export function collectWhenQuiet(everyMs = 10_000): () => void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  let last = 0;
  let before = performance.eventLoopUtilization();
  const timer = setInterval(() => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    const used = getHeapStatistics().used_heap_size;
    if (utilization > QUIET || used > MAX_BYTES || used < last * 1.1 + MIN_GROWTH) return;
    collect();
    last = getHeapStatistics().used_heap_size;
  }, everyMs);
  timer.unref();
  return () => clearInterval(timer);
}
