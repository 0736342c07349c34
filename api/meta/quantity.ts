/**
 * Kubernetes' resource quantities (apimachinery api/resource): fixed point, down to a billionth, with decimal,
 * binary or exponent suffixes. Values above 2^63-1 are capped as there.
 */

export type QuantityFormat = 'DecimalSI' | 'BinarySI' | 'DecimalExponent';

export interface Quantity {
  /** The value times 10^9. */
  readonly nanos: bigint;
  readonly format: QuantityFormat;
}

export class QuantityError extends TypeError {}

const NANO = 1_000_000_000n;
const MAX = (2n ** 63n - 1n) * NANO;
const DECIMAL = ['n', 'u', 'm', '', 'k', 'M', 'G', 'T', 'P', 'E'];
const BINARY = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];
const SHAPE = /^([+-]?)(\d*)(?:\.(\d*))?((?:[eE][+-]?\d+)|[A-Za-z]*)$/;

const WRONG_FORM =
  "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/** Rounds away from zero, as Kubernetes does when precision is lost. */
const divideUp = (n: bigint, by: bigint): bigint => {
  const q = n / by;
  if (n % by === 0n) return q;
  return n > 0n ? q + 1n : q - 1n;
};

interface Known {
  readonly quantity: Quantity;
  canonical?: string;
}
/** What texts stand for, of those met lately: a cluster says `100m` and `128Mi` in every pod. */
const known = new Map<string, Known>();
const MAX_KNOWN = 512;

function lookUp(text: string | number): Known {
  const s = typeof text === 'number' ? String(text) : text;
  let found = known.get(s);
  if (!found) {
    found = { quantity: Object.freeze(parse(s)) };
    if (known.size >= MAX_KNOWN) known.clear();
    known.set(s, found);
  }
  return found;
}

/** Throws {@link QuantityError} with Kubernetes' wording. */
export const parseQuantity = (text: string | number): Quantity => lookUp(text).quantity;

function parse(s: string): Quantity {
  const m = s.length <= 128 ? SHAPE.exec(s) : null;
  if (!m) throw new QuantityError(WRONG_FORM);
  const [, sign, whole = '', fraction = '', suffix = ''] = m;
  if (whole === '' && fraction === '') throw new QuantityError(WRONG_FORM);
  let power = 9 - fraction.length;
  let factor = 1n;
  let format: QuantityFormat = 'DecimalSI';
  if (/^[eE][+-]?\d+$/.test(suffix)) {
    const exponent = Number(suffix.slice(1));
    format = 'DecimalExponent';
    power += Math.max(-200, Math.min(200, exponent));
  } else if (DECIMAL.includes(suffix)) power += 3 * (DECIMAL.indexOf(suffix) - 3);
  else if (BINARY.includes(suffix)) {
    format = 'BinarySI';
    factor = 1024n ** BigInt(BINARY.indexOf(suffix));
  } else throw new QuantityError("unable to parse quantity's suffix");
  const digits = BigInt(whole + fraction) * factor;
  const magnitude = power >= 0 ? digits * 10n ** BigInt(power) : divideUp(digits, 10n ** BigInt(-power));
  const capped = magnitude > MAX ? MAX : magnitude;
  return { nanos: sign === '-' ? -capped : capped, format };
}

/** The canonical text: no fraction, the largest suffix that needs none. */
export function formatQuantity(q: Quantity): string {
  const { nanos } = q;
  if (nanos === 0n) return '0';
  const size = nanos < 0n ? -nanos : nanos;
  if (q.format === 'BinarySI' && size % NANO === 0n && size >= 1024n * NANO) {
    let value = nanos / NANO;
    let step = 0;
    while (value % 1024n === 0n && step < BINARY.length - 1) {
      value /= 1024n;
      step++;
    }
    return `${value}${BINARY[step]}`;
  }
  let value = nanos;
  let step = 0;
  while (value % 1000n === 0n && step < DECIMAL.length - 1) {
    value /= 1000n;
    step++;
  }
  if (q.format !== 'DecimalExponent') return `${value}${DECIMAL[step]}`;
  return step === 3 ? `${value}` : `${value}e${3 * (step - 3)}`;
}

/** The canonical form of a quantity's text. Throws {@link QuantityError}. */
export function canonicalQuantity(text: string | number): string {
  const found = lookUp(text);
  found.canonical ??= formatQuantity(found.quantity);
  return found.canonical;
}

/** Negative, zero or positive, as `a` is less than, equal to or greater than `b`. */
export function compareQuantity(a: string | number, b: string | number): number {
  const x = parseQuantity(a).nanos;
  const y = parseQuantity(b).nanos;
  return x < y ? -1 : x > y ? 1 : 0;
}

/** The sum, in the format of the first that is not zero. */
export function addQuantities(...texts: (string | number)[]): string {
  let nanos = 0n;
  let format: QuantityFormat | undefined;
  for (const text of texts) {
    const q = parseQuantity(text);
    nanos += q.nanos;
    if (q.nanos !== 0n) format ??= q.format;
  }
  return formatQuantity({ nanos, format: format ?? 'DecimalSI' });
}

/** Whether it parses. */
export const isQuantity = (text: unknown): text is string => {
  try {
    return typeof text === 'string' && parseQuantity(text) !== undefined;
  } catch {
    return false;
  }
};

/** In whole units, rounded away from zero as `Quantity.Value()` does: bytes of `128Mi`, cores of `1500m` (2). */
export const quantity = (text: string | number): number => Number(divideUp(parseQuantity(text).nanos, NANO));

/** In thousandths, rounded away from zero as `Quantity.MilliValue()` does: millicores of a CPU quantity. */
export const milliQuantity = (text: string | number): number =>
  Number(divideUp(parseQuantity(text).nanos, 1_000_000n));
