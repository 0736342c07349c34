/** What the flags of `npm run bench` set. */
export interface Options {
  /** Pods per latency measurement. */
  pods: number;
  idleMinutes: number;
  /** Before measuring idleness, in seconds. */
  settleSeconds: number;
  /** Per phase of the API measurement, in seconds. */
  apiSeconds: number;
  /** `NODESxPODS,…`; absent: the whole curve. */
  fleetPoints?: string | undefined;
}
