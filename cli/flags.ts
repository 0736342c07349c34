import { homedir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

/** One command-line flag. `value` names its argument in the help; absent: a switch. */
export interface Flag {
  value?: string;
  multiple?: boolean;
  default?: string;
  help: string;
}

/** Wrong usage: printed as it is, with exit code 2. */
export class UsageError extends Error {}

export interface Flags {
  text(name: string): string | undefined;
  /** A flag that has a default, or must be given. */
  required(name: string): string;
  list(name: string): string[];
  on(name: string): boolean;
  /** A whole number within [min, max]. */
  number(name: string, min: number, max: number): number;
  positionals: string[];
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
  const text = (name: string) => (parsed.values[name] as string | undefined) ?? table[name]?.default;
  return {
    text,
    required(name) {
      const v = text(name);
      if (v === undefined) throw new UsageError(`--${name} is required: ${table[name]?.help ?? ''}`);
      return v;
    },
    list: (name) => (parsed.values[name] as string[] | undefined) ?? [],
    on: (name) => parsed.values[name] === true,
    number(name, min, max) {
      const v = text(name) ?? '';
      const n = Number(v);
      if (v === '' || !Number.isInteger(n) || n < min || n > max)
        throw new UsageError(`--${name} must be a whole number from ${min} to ${max}, not "${v}"`);
      return n;
    },
    positionals: parsed.positionals,
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

/** `/var/lib/coxswain` for root, `~/.coxswain` for anyone else. */
export const defaultDataDir = (): string =>
  process.getuid?.() === 0 ? '/var/lib/coxswain' : join(homedir(), '.coxswain');
