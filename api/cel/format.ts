/** The `format` function of cel-go's strings extension: `"%s has %d".format([name, n])`. */

const VERB = /%(?:%|(?:\.(\d{1,3}))?([a-zA-Z]))/g;

function show(v: unknown, nested = false): string {
  if (v === null) return 'null';
  switch (typeof v) {
    case 'string':
      return nested ? JSON.stringify(v) : v;
    case 'number':
      return Number.isNaN(v) ? 'NaN' : Number.isFinite(v) ? String(v) : v > 0 ? 'Infinity' : '-Infinity';
    case 'object':
      if (Array.isArray(v)) return `[${v.map((x) => show(x, true)).join(', ')}]`;
      if (v instanceof Date) return v.toISOString().replace(/\.?0*Z$/, 'Z');
      if (v instanceof Uint8Array) return Buffer.from(v).toString('utf8');
      if (Object.getPrototypeOf(v) === Object.prototype || Object.getPrototypeOf(v) === null)
        return `{${Object.entries(v)
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .map(([k, x]) => `${JSON.stringify(k)}: ${show(x, true)}`)
          .join(', ')}}`;
      return String(v);
    default:
      return String(v);
  }
}

const whole = (verb: string, v: unknown): bigint => {
  if (typeof v === 'bigint') return v;
  if (typeof v === 'object' && v !== null && typeof (v as { value?: unknown }).value === 'bigint')
    return (v as { value: bigint }).value;
  throw new Error(`could not convert argument to an integer for %${verb}`);
};
const real = (verb: string, v: unknown): number => {
  if (typeof v === 'number') return v;
  throw new Error(`could not convert argument to a double for %${verb}`);
};
const exponent = (text: string): string => text.replace(/e([+-])(\d)$/, 'e$10$2');
const hex = (v: unknown): string => {
  if (typeof v === 'string') return Buffer.from(v).toString('hex');
  if (v instanceof Uint8Array) return Buffer.from(v).toString('hex');
  return whole('x', v).toString(16);
};

const VERBS: Readonly<Record<string, (v: unknown, precision: number) => string>> = {
  s: (v) => show(v),
  d: (v) => whole('d', v).toString(),
  f: (v, precision) => real('f', v).toFixed(Math.min(precision, 100)),
  e: (v, precision) => exponent(real('e', v).toExponential(Math.min(precision, 100))),
  b: (v) => (typeof v === 'boolean' ? (v ? '1' : '0') : whole('b', v).toString(2)),
  o: (v) => whole('o', v).toString(8),
  x: hex,
  X: (v) => hex(v).toUpperCase(),
};

/** `making` is told the length of each part before the next one is made. Throws when verbs and arguments do not fit. */
export function formatText(text: string, args: readonly unknown[], making: (length: number) => void): string {
  let used = 0;
  let length = 0;
  return text.replace(VERB, (all, precision: string | undefined, verb: string | undefined) => {
    if (!verb) return all === '%%' ? '%' : all;
    const show = Object.hasOwn(VERBS, verb) ? VERBS[verb] : undefined;
    if (!show) throw new Error(`unrecognized formatting clause "${verb}"`);
    if (used >= args.length) throw new Error(`index ${used} out of range`);
    const out = show(args[used++], precision === undefined ? 6 : Number(precision));
    length += out.length;
    making(length);
    return out;
  });
}
