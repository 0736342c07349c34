import { writeSync } from 'node:fs';
import type { Log } from '../api/log.js';

const LEVELS = { debug: 20, info: 30, warn: 40, error: 50 } as const;
type Level = keyof typeof LEVELS;

/** Errors do not survive JSON.stringify; what a reader needs of one does. */
function plain(_key: string, value: unknown): unknown {
  if (value instanceof Error) {
    const { message, stack, cause } = value;
    return cause === undefined ? { message, stack } : { message, stack, cause };
  }
  return typeof value === 'bigint' ? String(value) : value;
}

function human(level: Level, at: Date, fields: Record<string, unknown>, message: string): string {
  const rest = Object.entries(fields)
    .map(([k, v]) => {
      if (v instanceof Error) return `${k}=${JSON.stringify(v.message)}`;
      const text = typeof v === 'string' ? v : JSON.stringify(v, plain);
      return `${k}=${typeof v === 'string' && /[\s"=]/.test(v) ? JSON.stringify(v) : text}`;
    })
    .join(' ');
  return `${at.toISOString().slice(11, 23)} ${level.toUpperCase().padEnd(5)} ${message}${rest ? `  ${rest}` : ''}\n`;
}

/**
 * Logs to stderr: JSON lines (level numbers as bunyan and pino have them), or one readable line each on a terminal.
 * `COX_LOG` sets the lowest level shown (debug, info, warn, error). Our own 50 lines because pino costs 9 MB of the
 * agent's 60 MB; lines are written synchronously, so that the last one before a crash is there.
 */
export function createLogger(options: { level?: string; json?: boolean; name?: string } = {}): Log {
  const wanted = options.level ?? process.env['COX_LOG'] ?? 'info';
  const least = wanted in LEVELS ? LEVELS[wanted as Level] : LEVELS.info;
  const json = options.json ?? !process.stderr.isTTY;
  const write = (line: string) => {
    try {
      writeSync(2, line);
    } catch {
      // A closed or full stderr must not take the program down.
    }
  };
  const make = (bound: Record<string, unknown>): Log => {
    const at =
      (level: Level) =>
      (fields: object, message: string): void => {
        if (LEVELS[level] < least) return;
        const now = new Date();
        const all = { ...bound, ...fields };
        write(
          json
            ? `${JSON.stringify({ level: LEVELS[level], time: now.toISOString(), ...all, msg: message }, plain)}\n`
            : human(level, now, all, message),
        );
      };
    return {
      debug: at('debug'),
      info: at('info'),
      warn: at('warn'),
      error: at('error'),
      child: (fields) => make({ ...bound, ...fields }),
    };
  };
  return make(options.name ? { name: options.name } : {});
}
