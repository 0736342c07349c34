/** A duration as kubectl prints it (apimachinery util/duration HumanDuration). */
export function humanDuration(ms: number): string {
  const seconds = Math.trunc(ms / 1000);
  if (seconds < -1) return '<invalid>';
  if (seconds < 0) return '0s';
  if (seconds < 120) return `${seconds}s`;
  const minutes = Math.trunc(seconds / 60);
  const two = (a: number, unit: string, b: number, small: string) =>
    b === 0 ? `${a}${unit}` : `${a}${unit}${b}${small}`;
  if (minutes < 10) return two(minutes, 'm', seconds % 60, 's');
  if (minutes < 180) return `${minutes}m`;
  const hours = Math.trunc(minutes / 60);
  if (hours < 8) return two(hours, 'h', minutes % 60, 'm');
  if (hours < 48) return `${hours}h`;
  const days = Math.trunc(hours / 24);
  if (hours < 192) return two(days, 'd', hours % 24, 'h');
  if (days < 2 * 365) return `${days}d`;
  const years = Math.trunc(days / 365);
  if (days < 8 * 365) return two(years, 'y', days % 365, 'd');
  return `${years}y`;
}

/** How long ago an RFC 3339 time was, as kubectl prints it; `<unknown>` for none. */
export const since = (time: string | undefined | null, now: number): string =>
  time ? humanDuration(now - Date.parse(time)) : '<unknown>';

const UNITS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Milliseconds of a duration as Go's time.ParseDuration reads it (`1h15m`, `-1.5s`, `0`); undefined for anything else. */
export function goDuration(text: string): number | undefined {
  const [, sign, rest = ''] = /^([+-]?)(.*)$/s.exec(text) ?? [];
  if (rest === '0') return 0;
  if (!/^(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(rest)) return undefined;
  let ms = 0;
  for (const [, n, unit] of rest.matchAll(/([\d.]+)([a-zµμ]+)/g)) ms += Number(n) * UNITS[unit!]!;
  return sign === '-' ? -ms : ms;
}

/** Milliseconds as Go's time.Duration prints itself: `15.204s`, `1m0.5s`, `250ms`. */
export function formatGoDuration(ms: number): string {
  if (ms === 0) return '0s';
  if (ms < 0) return `-${formatGoDuration(-ms)}`;
  if (ms < 1000) return `${ms}ms`;
  const seconds = (n: number) => `${Number((n / 1000).toFixed(6))}s`;
  const [hours, minutes] = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60];
  if (hours > 0) return `${hours}h${minutes}m${seconds(ms % 60_000)}`;
  return minutes > 0 ? `${minutes}m${seconds(ms % 60_000)}` : seconds(ms);
}
