/**
 * What annotations of a Node say about its link, for links that cost money: how often it pings, how long reports
 * gather, whether it is metered, when images may be pulled, and how many bytes a day may have. docs/metered.md.
 */
import { invalid, notSupported } from '../meta/field-errors.js';
import { isQuantity, quantity } from '../meta/quantity.js';
import type { FieldError } from './kind.js';

export const LINK_PREFIX = 'link.coxswain.dev/';

/** Minutes after midnight, UTC. `from` after `to` spans midnight. */
export interface PullWindow {
  from: number;
  to: number;
  /** As it was written, e.g. `01:00-05:30`. */
  text: string;
}

export interface LinkSettings {
  /** Seconds between MQTT pings; absent: as the agent was started. */
  keepalive?: number;
  /** Seconds that reports wait for others to travel with. Default 0: at once. */
  reportInterval?: number;
  /** Seconds that an answer about usage is good for; 0: asked anew each time. Default {@link METRICS_INTERVAL}. */
  metricsInterval?: number;
  /** No metrics, logs are not followed, nobody connects to pods. */
  metered?: boolean;
  /** Logs are followed although the node is metered. */
  logFollow?: boolean;
  /** exec, attach and port-forward work although the node is metered. */
  connect?: boolean;
  pullWindow?: PullWindow;
  /** Bytes per day (UTC), in and out together. */
  dailyLimit?: number;
}

export const MIN_KEEPALIVE = 10;
export const MAX_KEEPALIVE = 1200;
const MAX_REPORT_INTERVAL = 3600;
export const METRICS_INTERVAL = 15;
const MAX_METRICS_INTERVAL = 3600;
/** Less than this is gone with a few reconnects. */
const MIN_DAILY_LIMIT = 64 * 1024;

type Parsed<T> = { value: T } | { error: string };

const seconds =
  (min: number, max: number) =>
  (text: string): Parsed<number> => {
    const n = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
    return n >= min && n <= max
      ? { value: n }
      : { error: `must be a number of seconds between ${min} and ${max}` };
  };

const word =
  (yes: string, no: string) =>
  (text: string): Parsed<boolean> =>
    text === yes || text === no ? { value: text === yes } : { error: `must be "${yes}" or "${no}"` };

function pullWindow(text: string): Parsed<PullWindow> {
  const m = /^(\d\d):(\d\d)-(\d\d):(\d\d)$/.exec(text);
  const [from, to] = m ? [Number(m[1]) * 60 + Number(m[2]), Number(m[3]) * 60 + Number(m[4])] : [0, 0];
  const sane = m && [m[1], m[3]].every((h) => Number(h) < 24) && [m[2], m[4]].every((x) => Number(x) < 60);
  return sane && from !== to
    ? { value: { from, to, text } }
    : { error: 'must be two different times of day in UTC, e.g. "01:00-05:30"' };
}

function dailyLimit(text: string): Parsed<number> {
  const bytes = isQuantity(text) ? quantity(text) : Number.NaN;
  return bytes >= MIN_DAILY_LIMIT
    ? { value: Math.floor(bytes) }
    : { error: 'must be a quantity of bytes of at least 64Ki, e.g. "5Mi"' };
}

/** Annotation (without prefix) → setting. */
const SETTINGS: {
  readonly [name: string]: {
    [K in keyof LinkSettings]-?: [K, (text: string) => Parsed<NonNullable<LinkSettings[K]>>];
  }[keyof LinkSettings];
} = {
  keepalive: ['keepalive', seconds(MIN_KEEPALIVE, MAX_KEEPALIVE)],
  'report-interval': ['reportInterval', seconds(0, MAX_REPORT_INTERVAL)],
  'metrics-interval': ['metricsInterval', seconds(0, MAX_METRICS_INTERVAL)],
  metered: ['metered', word('true', 'false')],
  'log-follow': ['logFollow', word('allowed', 'denied')],
  connect: ['connect', word('allowed', 'denied')],
  'pull-window': ['pullWindow', pullWindow],
  'daily-limit': ['dailyLimit', dailyLimit],
};

/** The settings among annotations; undefined when there are none. */
export function linkAnnotations(
  annotations: Readonly<Record<string, string>> | undefined,
): Record<string, string> | undefined {
  const own = Object.entries(annotations ?? {}).filter(([k]) => k.startsWith(LINK_PREFIX));
  return own.length > 0 ? Object.fromEntries(own) : undefined;
}

/** What annotations set. Those that cannot be understood are left out: the hub has refused them already. */
export function linkSettings(annotations: Readonly<Record<string, string>> | undefined): LinkSettings {
  const out: LinkSettings = {};
  for (const [key, text] of Object.entries(linkAnnotations(annotations) ?? {})) {
    const [name, parse] = SETTINGS[key.slice(LINK_PREFIX.length)] ?? [];
    const parsed = parse?.(text);
    if (name && parsed && 'value' in parsed) Object.assign(out, { [name]: parsed.value });
  }
  return out;
}

/** What is wrong with the settings among annotations. */
export function linkSettingErrors(annotations: Readonly<Record<string, string>> | undefined): FieldError[] {
  return Object.entries(linkAnnotations(annotations) ?? {}).flatMap(([key, text]) => {
    const [, parse] = SETTINGS[key.slice(LINK_PREFIX.length)] ?? [];
    if (!parse)
      return [
        notSupported(
          'metadata.annotations',
          key,
          Object.keys(SETTINGS).map((name) => LINK_PREFIX + name),
        ),
      ];
    const parsed = parse(text);
    return 'error' in parsed ? [invalid(`metadata.annotations[${key}]`, text, parsed.error)] : [];
  });
}

/** Whether a moment (Unix milliseconds) is within the window. */
export function withinWindow(window: PullWindow, at: number): boolean {
  const minute = Math.floor(at / 60_000) % 1440;
  return window.from < window.to
    ? minute >= window.from && minute < window.to
    : minute >= window.from || minute < window.to;
}
