/** Cron schedules as CronJobs have them (github.com/robfig/cron, ParseStandard): five fields or a descriptor. */

/** When something is to happen: a calendar, or a fixed rhythm. */
export interface Schedule {
  /** The first time after `after`, both in Unix ms; undefined: never within five years. */
  next(after: number): number | undefined;
}

interface Bounds {
  min: number;
  max: number;
  names?: readonly string[];
}

const MONTHS = 'jan feb mar apr may jun jul aug sep oct nov dec'.split(' ');
const DAYS = 'sun mon tue wed thu fri sat'.split(' ');
const FIELDS: readonly Bounds[] = [
  { min: 0, max: 59 },
  { min: 0, max: 23 },
  { min: 1, max: 31 },
  { min: 1, max: 12, names: MONTHS },
  { min: 0, max: 6, names: DAYS },
];

const DESCRIPTORS: Readonly<Record<string, string>> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@hourly': '0 * * * *',
};

/** The numbers that a field allows; `any`: it said `*` or `?`, which matters for days. */
interface Field {
  allowed: ReadonlySet<number>;
  any: boolean;
}

function number(text: string, { names, min }: Bounds): number {
  const named = names?.indexOf(text.toLowerCase()) ?? -1;
  if (named >= 0) return named + min;
  if (!/^\+?\d+$/.test(text))
    throw new Error(
      `failed to parse int from ${text}: strconv.Atoi: parsing ${JSON.stringify(text)}: invalid syntax`,
    );
  return Number(text);
}

function parseField(text: string, bounds: Bounds): Field {
  const allowed = new Set<number>();
  let any = false;
  for (const part of text.split(',')) {
    if (part === '') continue;
    const [range = '', step, ...more] = part.split('/');
    const ends = range.split('-');
    const star = ends[0] === '*' || ends[0] === '?';
    if (ends.length > 2) throw new Error(`too many hyphens: ${part}`);
    if (more.length) throw new Error(`too many slashes: ${part}`);
    const first = star ? bounds.min : number(ends[0]!, bounds);
    let last = star ? bounds.max : ends.length > 1 ? number(ends[1]!, bounds) : first;
    const by = step === undefined ? 1 : number(step, { min: 0, max: 0 });
    // `N/step` means from N on.
    if (step !== undefined && !star && ends.length === 1) last = bounds.max;
    if (star && by === 1) any = true;
    if (first < bounds.min)
      throw new Error(`beginning of range (${first}) below minimum (${bounds.min}): ${part}`);
    if (last > bounds.max) throw new Error(`end of range (${last}) above maximum (${bounds.max}): ${part}`);
    if (first > last) throw new Error(`beginning of range (${first}) beyond end of range (${last}): ${part}`);
    if (by === 0) throw new Error(`step of range should be a positive number: ${part}`);
    for (let n = first; n <= last; n += by) allowed.add(n);
  }
  return { allowed, any };
}

const UNITS: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };

/** Go's duration, as far as it makes sense for a rhythm: `1h30m`. Whole seconds, at least one. */
function every(text: string): Schedule {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s)/g)];
  if (parts.length === 0 || parts.map((p) => p[0]).join('') !== text)
    throw new Error(
      `failed to parse duration @every ${text}: time: invalid duration ${JSON.stringify(text)}`,
    );
  const ms = parts.reduce((sum, [, n, unit]) => sum + Number(n) * UNITS[unit!]!, 0);
  const period = Math.max(1000, ms - (ms % 1000));
  return { next: (after) => after + period - (after % 1000) };
}

interface Wall {
  year: number;
  month: number;
  day: number;
  hour: number;
  minute: number;
}

/** The time on a wall clock in a time zone. Throws RangeError for a zone that does not exist. */
function wallIn(timeZone: string): (ms: number) => Wall {
  if (timeZone === 'UTC' || timeZone === 'Etc/UTC')
    return (ms) => {
      const d = new Date(ms);
      return {
        year: d.getUTCFullYear(),
        month: d.getUTCMonth() + 1,
        day: d.getUTCDate(),
        hour: d.getUTCHours(),
        minute: d.getUTCMinutes(),
      };
    };
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
  });
  return (ms) => {
    const out: Record<string, number> = {};
    for (const { type, value } of format.formatToParts(ms)) out[type] = Number(value);
    return out as unknown as Wall;
  };
}

/** Whether the time zone is one that this machine knows. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const HORIZON = 5 * 366 * 24 * HOUR;

/** Throws Error with robfig's words for what is wrong, RangeError for an unknown time zone. */
export function parseCron(text: string, timeZone = 'UTC'): Schedule {
  if (text === '') throw new Error('empty spec string');
  if (text.startsWith('@every ')) return every(text.slice('@every '.length));
  const known = Object.hasOwn(DESCRIPTORS, text) ? DESCRIPTORS[text] : undefined;
  if (text.startsWith('@') && !known) throw new Error(`unrecognized descriptor: ${text}`);
  const words = (known ?? text).trim().split(/\s+/);
  if (words.length !== FIELDS.length)
    throw new Error(`expected exactly 5 fields, found ${words.length}: [${words.join(' ')}]`);
  const [minutes, hours, days, months, weekdays] = words.map((w, i) => parseField(w, FIELDS[i]!)) as [
    Field,
    Field,
    Field,
    Field,
    Field,
  ];
  const wall = wallIn(timeZone);
  const isDay = ({ year, month, day }: Wall): boolean => {
    const inMonth = days.allowed.has(day);
    const inWeek = weekdays.allowed.has(new Date(Date.UTC(year, month - 1, day)).getUTCDay());
    // Either of two restrictions will do; one alone decides.
    return days.any || weekdays.any ? inMonth && inWeek : inMonth || inWeek;
  };
  return {
    next(after) {
      let t = Math.floor(after / MINUTE) * MINUTE + MINUTE;
      while (t <= after + HORIZON) {
        const w = wall(t);
        // To the next day, or hour, that can be; an hour at a time, so that no change of the clock is jumped over.
        if (!months.allowed.has(w.month) || !isDay(w))
          t += w.hour < 22 ? (22 - w.hour) * HOUR - w.minute * MINUTE : HOUR - w.minute * MINUTE;
        else if (!hours.allowed.has(w.hour)) t += HOUR - w.minute * MINUTE;
        else if (!minutes.allowed.has(w.minute)) t += MINUTE;
        else return t;
      }
      return undefined;
    },
  };
}
