/** Values that Kubernetes' CEL libraries add to the language. What they hold is out of the language's reach. */
import {
  dns1035Label,
  dns1123Label,
  dns1123Subdomain,
  qualifiedName,
  type Validator,
  validLabelValue,
} from '../meta/names.js';
import { addQuantities, formatQuantity, parseQuantity } from '../meta/quantity.js';

const NANO = 1_000_000_000n;
const MAX_INT = 2n ** 63n - 1n;

export class CelQuantity {
  readonly #nanos: bigint;
  readonly #text: string;

  /** Throws when it does not parse. */
  constructor(text: string) {
    const q = parseQuantity(text);
    this.#nanos = q.nanos;
    this.#text = formatQuantity(q);
  }

  get sign(): bigint {
    return this.#nanos > 0n ? 1n : this.#nanos < 0n ? -1n : 0n;
  }

  get isInteger(): boolean {
    const whole = this.#nanos / NANO;
    return this.#nanos % NANO === 0n && whole <= MAX_INT && whole >= -MAX_INT - 1n;
  }

  get integer(): bigint {
    if (!this.isInteger) throw new Error('cannot convert value to integer');
    return this.#nanos / NANO;
  }

  get float(): number {
    return Number(this.#nanos) / Number(NANO);
  }

  plus(other: CelQuantity | bigint, sign: 1 | -1): CelQuantity {
    const text = typeof other === 'bigint' ? `${other}` : other.#text;
    const negated = text.startsWith('-') ? text.slice(1) : `-${text}`;
    return new CelQuantity(addQuantities(this.#text, sign > 0 || text === '0' ? text : negated));
  }

  compare(other: CelQuantity): number {
    return this.#nanos < other.#nanos ? -1 : this.#nanos > other.#nanos ? 1 : 0;
  }

  toString(): string {
    return this.#text;
  }
}

export class CelUrl {
  readonly #url: URL;
  readonly #text: string;

  /** Throws unless the text is an absolute URL or an absolute path, as Go's ParseRequestURI has it. */
  constructor(text: string) {
    const wrong = () =>
      new Error(
        `URL parse error during conversion from string: parse ${JSON.stringify(text.slice(0, 128))}: invalid URI for request`,
      );
    this.#text = text;
    if (text.length > 65_536 || /[\x00-\x20\x7f]/.test(text)) throw wrong();
    const absolute = /^[A-Za-z][-+.A-Za-z0-9]*:/.test(text);
    if (!absolute && !text.startsWith('/')) throw wrong();
    try {
      this.#url = absolute ? new URL(text) : new URL(text, 'relative://host');
    } catch {
      throw wrong();
    }
  }

  get #authority(): string {
    const [, authority = ''] = /^[A-Za-z][-+.A-Za-z0-9]*:\/\/(?:[^/?#@]*@)?([^/?#]*)/.exec(this.#text) ?? [];
    return authority;
  }

  get scheme(): string {
    return (/^([A-Za-z][-+.A-Za-z0-9]*):/.exec(this.#text)?.[1] ?? '').toLowerCase();
  }

  get host(): string {
    return this.#authority;
  }

  get hostname(): string {
    const [, bracketed] = /^\[([^\]]*)\]/.exec(this.#authority) ?? [];
    return bracketed ?? this.#authority.replace(/:\d*$/, '');
  }

  get port(): string {
    return /:(\d+)$/.exec(this.#authority)?.[1] ?? '';
  }

  get escapedPath(): string {
    const path = this.#text.replace(/^[A-Za-z][-+.A-Za-z0-9]*:(\/\/[^/?#]*)?/, '').replace(/[?#].*$/s, '');
    return path;
  }

  get query(): Record<string, string[]> {
    const out: Record<string, string[]> = Object.create(null) as Record<string, string[]>;
    for (const [key, value] of this.#url.searchParams) {
      out[key] ??= [];
      out[key].push(value);
    }
    return out;
  }

  toString(): string {
    return this.#text;
  }
}

const NUMBER = '(?:0|[1-9]\\d*)';
const PART = '(?:0|[1-9]\\d*|\\d*[A-Za-z-][0-9A-Za-z-]*)';
const SEMVER = new RegExp(
  `^(${NUMBER})\\.(${NUMBER})\\.(${NUMBER})(?:-(${PART}(?:\\.${PART})*))?(?:\\+[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?$`,
);
const cmp = <T>(a: T, b: T): number => (a < b ? -1 : a > b ? 1 : 0);

export class Semver {
  readonly #numbers: readonly bigint[];
  readonly #pre: readonly string[];
  readonly #text: string;

  /** Throws when it is none; `normalize` forgives a leading v, missing parts and leading zeros. */
  constructor(text: string, normalize = false) {
    const given = normalize ? Semver.#normal(text) : text;
    const m = given.length <= 256 ? SEMVER.exec(given) : null;
    if (!m) throw new Error(`invalid semantic version ${JSON.stringify(text.slice(0, 128))}`);
    this.#numbers = m.slice(1, 4).map(BigInt);
    this.#pre = m[4]?.split('.') ?? [];
    this.#text = given;
  }

  static #normal(text: string): string {
    const [, core = '', rest = ''] = /^v?([^-+]*)(.*)$/s.exec(text.trim()) ?? [];
    const parts = core.split('.').map((p) => p.replace(/^0+(?=\d)/, ''));
    // As there: what is cut short cannot have a pre-release or build part.
    if (parts.length < 3 && rest) return text;
    while (parts.length < 3) parts.push('0');
    return parts.join('.') + rest;
  }

  get major(): bigint {
    return this.#numbers[0]!;
  }
  get minor(): bigint {
    return this.#numbers[1]!;
  }
  get patch(): bigint {
    return this.#numbers[2]!;
  }

  compare(other: Semver): number {
    for (let i = 0; i < 3; i++) {
      const c = cmp(this.#numbers[i]!, other.#numbers[i]!);
      if (c) return c;
    }
    if (!this.#pre.length || !other.#pre.length) return cmp(other.#pre.length, this.#pre.length);
    for (let i = 0; i < Math.min(this.#pre.length, other.#pre.length); i++) {
      const a = this.#pre[i]!;
      const b = other.#pre[i]!;
      const [x, y] = [/^\d+$/.test(a), /^\d+$/.test(b)];
      const c = x && y ? cmp(BigInt(a), BigInt(b)) : x !== y ? (x ? -1 : 1) : cmp(a, b);
      if (c) return c;
    }
    return cmp(this.#pre.length, other.#pre.length);
  }

  toString(): string {
    return this.#text;
  }
}

/** A named format: `format.dns1123Label()`. */
export class Format {
  readonly #check: Validator;

  constructor(check: Validator) {
    this.#check = check;
  }

  validate(text: string): string[] {
    return this.#check(text);
  }
}

/** For names that something is added to: may end with a dash. */
const asPrefix =
  (check: Validator): Validator =>
  (v) =>
    check(v.length > 1 && v.endsWith('-') ? `${v.slice(0, -2)}a` : v);
const matching =
  (test: (v: string) => boolean, text: string): Validator =>
  (v) =>
    v.length <= 65_536 && test(v) ? [] : [text];
const isTime = (v: string) => !Number.isNaN(Date.parse(v));

export const FORMATS: ReadonlyMap<string, Format> = new Map(
  Object.entries<Validator>({
    dns1123Label,
    dns1123Subdomain,
    dns1035Label,
    qualifiedName,
    dns1123LabelPrefix: asPrefix(dns1123Label),
    dns1123SubdomainPrefix: asPrefix(dns1123Subdomain),
    dns1035LabelPrefix: asPrefix(dns1035Label),
    labelValue: validLabelValue,
    uri: (v) => {
      try {
        new CelUrl(v);
        return [];
      } catch (e) {
        return [(e as Error).message.replace(/^.*string: /, '')];
      }
    },
    uuid: matching(
      (v) => /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i.test(v),
      'does not match the UUID format',
    ),
    byte: matching((v) => v.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(v), 'invalid base64'),
    date: matching((v) => /^\d{4}-\d\d-\d\d$/.test(v) && isTime(v), 'invalid date'),
    datetime: matching(
      (v) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i.test(v) && isTime(v),
      'invalid datetime',
    ),
  }).map(([name, check]) => [name, new Format(check)]),
);
