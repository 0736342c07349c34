import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { writeFileAtomic } from '../api/files.js';

/** One command-line flag. `value` names its argument in the help; absent: a switch. */
export interface Flag {
  value?: string;
  multiple?: boolean;
  default?: string;
  help: string;
}

/** Wrong usage: printed as it is, with exit code 2. */
export class UsageError extends Error {}

/** What a command was started with, by flag name; what it is started with again when its flags are left out. */
export type Settings = Record<string, string | string[] | true>;

export interface Flags {
  text(name: string): string | undefined;
  /** A flag that has a default, or must be given. */
  required(name: string): string;
  list(name: string): string[];
  on(name: string): boolean;
  /** A whole number within [min, max]. */
  number(name: string, min: number, max: number): number;
  positionals: string[];
  /** Fills in for flags that were not given; a flag that the table no longer has is passed over. */
  remember(settings: Settings): void;
  /** All flags that were given or remembered. */
  settings(): Settings;
}

/** Parses `argv` against a table of flags; throws UsageError that names the flag and what it wants. */
export function parseFlags(argv: string[], table: Record<string, Flag>, positionals = 0): Flags {
  const options = Object.fromEntries(
    Object.entries(table).map(([name, f]) => [
      name,
      { type: f.value ? ('string' as const) : ('boolean' as const), multiple: f.multiple ?? false },
    ]),
  );
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: argv, options, allowPositionals: true, strict: true });
  } catch (e) {
    throw new UsageError((e as Error).message.split('. To specify')[0]);
  }
  if (parsed.positionals.length > positionals)
    throw new UsageError(`unexpected argument "${parsed.positionals[positionals]}"`);
  const { values } = parsed;
  const text = (name: string) => (values[name] as string | undefined) ?? table[name]?.default;
  return {
    text,
    required(name) {
      const v = text(name);
      if (v === undefined) throw new UsageError(`--${name} is required: ${table[name]?.help ?? ''}`);
      return v;
    },
    list: (name) => (values[name] as string[] | undefined) ?? [],
    on: (name) => values[name] === true,
    number(name, min, max) {
      const v = text(name) ?? '';
      const n = Number(v);
      if (v === '' || !Number.isInteger(n) || n < min || n > max)
        throw new UsageError(`--${name} must be a whole number from ${min} to ${max}, not "${v}"`);
      return n;
    },
    positionals: parsed.positionals,
    remember(settings) {
      for (const [name, value] of Object.entries(settings)) if (name in table) values[name] ??= value;
    },
    settings: () => ({ ...values }) as Settings,
  };
}

/** The flags as aligned help lines. */
export function describeFlags(table: Record<string, Flag>): string {
  const rows = Object.entries(table).map(([name, f]) => [
    `--${name}${f.value ? ` ${f.value}` : ''}`,
    `${f.help}${f.default !== undefined ? ` (default ${f.default})` : ''}${f.multiple ? ' (may be repeated)' : ''}`,
  ]);
  const width = Math.max(...rows.map((r) => r[0]!.length));
  return rows.map(([left, right]) => `  ${left!.padEnd(width)}  ${right}`).join('\n');
}

/** Reads what an earlier start left in `file`; nothing before the first. Throws an Error that names a damaged file. */
export function readSettings(file: string): Settings {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return {};
  }
  try {
    return JSON.parse(text) as Settings;
  } catch (e) {
    throw new Error(`${file} is damaged (${(e as Error).message}): delete it and give the flags once more`);
  }
}

/** Keeps the settings for the next start; writes only when they changed. `forget` names flags that count once only. */
export function saveSettings(file: string, settings: Settings, forget: readonly string[]): void {
  const kept = Object.fromEntries(Object.entries(settings).filter(([name]) => !forget.includes(name)));
  const text = `${JSON.stringify(kept, null, 2)}\n`;
  if (existsSync(file) && readFileSync(file, 'utf8') === text) return;
  writeFileAtomic(file, text, 0o600);
}

/** `/var/lib/coxswain` for root, `~/.coxswain` for anyone else. */
export const defaultDataDir = (): string =>
  process.getuid?.() === 0 ? '/var/lib/coxswain' : join(homedir(), '.coxswain');
