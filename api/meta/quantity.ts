/**
 * Kubernetes' resource quantities (apimachinery, api/resource/quantity.go): a decimal number with an optional binary
 * suffix (Ki … Ei), decimal suffix (n … E) or exponent (e3).
 */
const SHAPE = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?$/;

const DECIMAL: Readonly<Record<string, number>> = {
  n: -9,
  u: -6,
  m: -3,
  k: 3,
  M: 6,
  G: 9,
  T: 12,
  P: 15,
  E: 18,
};
const BINARY: Readonly<Record<string, number>> = {
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

export const isQuantity = (text: unknown): text is string => typeof text === 'string' && SHAPE.test(text);

function scaled(text: string | number, exponent: number): number {
  const m = SHAPE.exec(String(text).trim());
  if (!m) throw new TypeError(`"${text}" is not a quantity, e.g. 500m, 1.5, 128Mi or 2e3`);
  const [, digits, e, suffix = ''] = m;
  // Shifting the decimal exponent in the text avoids 1.1 * 1000 = 1100.0000000000002.
  const value = Number(`${digits}e${exponent + (DECIMAL[suffix] ?? Number(e ?? 0))}`) * (BINARY[suffix] ?? 1);
  const whole = value < 0 ? Math.floor(value) : Math.ceil(value);
  return whole === 0 ? 0 : whole;
}

/** In whole units, rounded away from zero as `Quantity.Value()` does; throws TypeError on what is no quantity. */
export const quantity = (text: string | number): number => scaled(text, 0);

/** In thousandths (millicores), rounded away from zero as `Quantity.MilliValue()` does; throws TypeError. */
export const milliQuantity = (text: string | number): number => scaled(text, 3);
