/** One measured figure. */
export interface Row {
  /** What was measured, in words that stand alone, e.g. `hub: idle RSS`. */
  name: string;
  value: number;
  /** e.g. `MB`, `ms`, `KB/h`, `1/s`. */
  unit: string;
  /** What docs/performance.md promises, as text, e.g. `<= 90`. */
  budget?: string;
  /** How it was measured, when the name does not say it: sample size, duration, what is extrapolated. */
  note?: string;
}

/** The value below which a share `q` (0 … 1) of the samples lies (nearest rank). */
export function quantile(samples: readonly number[], q: number): number {
  if (samples.length === 0) return Number.NaN;
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))]!;
}

/** `p50` and `p99` of samples in milliseconds. */
export const latencyRows = (
  name: string,
  samples: readonly number[],
  budget?: { p50?: string; p99?: string },
): Row[] => [
  {
    name: `${name}, p50`,
    value: quantile(samples, 0.5),
    unit: 'ms',
    budget: budget?.p50,
    note: `n=${samples.length}`,
  },
  {
    name: `${name}, p99`,
    value: quantile(samples, 0.99),
    unit: 'ms',
    budget: budget?.p99,
    note: `n=${samples.length}`,
  },
];
