/**
 * Kubernetes' CEL libraries (apiserver/pkg/cel/library and the extensions that it takes from cel-go) as tables of
 * signature and function. Each charges for what it does beyond looking at its arguments once: the language does that.
 */
import type { Environment, Optional } from '@marcbachmann/cel-js';
import { Cidr, Ip } from './addresses.js';
import { equal } from './equality.js';
import { formatText } from './format.js';
import { pattern } from './pattern.js';
import { CelQuantity, CelUrl, FORMATS, Format, Semver } from './values.js';
import { charge } from './work.js';

type Function = (...args: never[]) => unknown;
type Table = Readonly<Record<string, Function>>;

const MAX_PATTERN = 4096;
/** Of a text that is made from others. */
const MAX_TEXT = 4 * 1024 * 1024;

function compiled(re: string, text: string): ReturnType<typeof pattern> {
  if (re.length > MAX_PATTERN) throw new Error('the regular expression is too long');
  let p: ReturnType<typeof pattern>;
  try {
    p = pattern(re);
  } catch (e) {
    throw new Error(`error parsing regexp: ${(e as Error).message.replace(/^error parsing regexp: /, '')}`);
  }
  charge(((p.programSize() + 1) * (text.length + 1)) / 8);
  return p;
}

const matches = (text: string, re: string): boolean => compiled(re, text).matcher(text).find();

function findAll(text: string, re: string, limit: number): string[] {
  const matcher = compiled(re, text).matcher(text);
  const found: string[] = [];
  while ((limit < 0 || found.length < limit) && matcher.find()) {
    charge(1);
    found.push(matcher.group() ?? '');
  }
  return found;
}

// ---- strings (cel-go ext.Strings, version 2): indexes count code points

const ASCII = /^[\x00-\x7f]*$/;
const points = (s: string): string | string[] => (ASCII.test(s) ? s : [...s]);
const sizeOf = (s: string): number => points(s).length;
const cut = (s: string, from: number, to?: number): string => {
  const p = points(s);
  return typeof p === 'string' ? p.slice(from, to) : p.slice(from, to).join('');
};
const range = (at: bigint, min: number, max: number, what = 'index out of range'): number => {
  if (at < BigInt(min) || at > BigInt(max)) throw new Error(`${what}: ${at}`);
  return Number(at);
};
const indexOf = (s: string, search: string, from: bigint): bigint => {
  const start = range(from, 0, sizeOf(s));
  const rest = cut(s, start);
  const at = rest.indexOf(search);
  return at < 0 ? -1n : BigInt(start + sizeOf(rest.slice(0, at)));
};
const lastIndexOf = (s: string, search: string, before?: bigint): bigint => {
  const n = sizeOf(s);
  if (before === undefined && search === '') return BigInt(n);
  const limit = before === undefined ? s : cut(s, 0, range(before, 0, n) + sizeOf(search));
  const at = limit.lastIndexOf(search);
  return at < 0 ? -1n : BigInt(sizeOf(limit.slice(0, at)));
};
const substring = (s: string, from: bigint, to?: bigint): string => {
  const n = sizeOf(s);
  const end = to === undefined ? n : range(to, 0, n);
  const start = range(from, 0, n);
  if (start > end) throw new Error(`invalid substring range. start: ${start}, end: ${end}`);
  return cut(s, start, end);
};
/** Charged and bounded before it is made. */
const making = (length: number): void => {
  if (length > MAX_TEXT) throw new Error('the text would be too long');
  charge(length / 10);
};
const split = (s: string, separator: string, limit: bigint): string[] => {
  if (limit === 0n) return [];
  const parts = separator === '' ? [...s] : s.split(separator);
  charge(parts.length);
  const n = Number(limit);
  return n < 0 || parts.length <= n ? parts : [...parts.slice(0, n - 1), parts.slice(n - 1).join(separator)];
};
const replace = (s: string, from: string, to: string, limit: bigint): string => {
  const max = limit < 0n ? Number.POSITIVE_INFINITY : Number(limit);
  let times = from === '' ? sizeOf(s) + 1 : 0;
  if (from !== '') for (let at = s.indexOf(from); at >= 0; at = s.indexOf(from, at + from.length)) times++;
  times = Math.min(times, max);
  making(s.length + times * to.length);
  if (from === '')
    return [...s].map((c, i) => (i < times ? to : '') + c).join('') + (times > sizeOf(s) ? to : '');
  let out = '';
  let at = 0;
  for (let i = 0; i < times; i++) {
    const next = s.indexOf(from, at);
    out += s.slice(at, next) + to;
    at = next + from.length;
  }
  return out + s.slice(at);
};
const join = (list: readonly string[], separator: string): string => {
  let length = separator.length * list.length;
  for (const s of list) {
    if (typeof s !== 'string') throw new Error('no such overload');
    length += s.length;
  }
  making(length);
  return list.join(separator);
};
const ESCAPES: Readonly<Record<string, string>> = {
  '\x07': '\\a',
  '\b': '\\b',
  '\f': '\\f',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '\v': '\\v',
  '\\': '\\\\',
  '"': '\\"',
};
const quote = (s: string): string => `"${s.replace(/[\x07\b\f\n\r\t\v\\"]/g, (c) => ESCAPES[c]!)}"`;
const lower = (s: string): string => s.replace(/[A-Z]+/g, (c) => c.toLowerCase());
const upper = (s: string): string => s.replace(/[a-z]+/g, (c) => c.toUpperCase());

const STRINGS: Table = {
  'string.charAt(int): string': (s: string, i: bigint) => {
    const at = range(i, 0, sizeOf(s));
    return cut(s, at, at + 1);
  },
  'string.indexOf(string): int': (s: string, t: string) => indexOf(s, t, 0n),
  'string.indexOf(string, int): int': indexOf,
  'string.lastIndexOf(string): int': (s: string, t: string) => lastIndexOf(s, t),
  'string.lastIndexOf(string, int): int': lastIndexOf,
  'string.lowerAscii(): string': lower,
  'string.upperAscii(): string': upper,
  'string.trim(): string': (s: string) => s.trim(),
  'string.substring(int): string': (s: string, from: bigint) => substring(s, from),
  'string.substring(int, int): string': substring,
  'string.split(string): list<string>': (s: string, sep: string) => split(s, sep, -1n),
  'string.split(string, int): list<string>': split,
  'string.replace(string, string): string': (s: string, a: string, b: string) => replace(s, a, b, -1n),
  'string.replace(string, string, int): string': replace,
  'list.join(): string': (l: string[]) => join(l, ''),
  'list.join(string): string': join,
  'string.format(list): string': (s: string, args: unknown[]) => formatText(s, args, making),
  'StringsNamespace.quote(string): string': (_: unknown, s: string) => quote(s),
  'string.matches(string): bool': matches,
  'matches(string, string): bool': matches,
  'string.find(string): string': (s: string, re: string) => findAll(s, re, 1)[0] ?? '',
  'string.findAll(string): list<string>': (s: string, re: string) => findAll(s, re, -1),
  'string.findAll(string, int): list<string>': (s: string, re: string, n: bigint) =>
    findAll(s, re, Number(n)),
};

// ---- lists and sets

/** Numbers, texts, times: whatever `<` has an order for. */
type Ordered = number;
const pick = (
  list: readonly Ordered[],
  name: string,
  better: (a: Ordered, b: Ordered) => boolean,
): unknown => {
  if (list.length === 0) throw new Error(`${name} called on empty list`);
  return list.reduce((best, x) => (better(x, best) ? x : best));
};
const add =
  <T>(zero: T, plus: (a: T, b: T) => T) =>
  (list: readonly T[]) =>
    list.reduce(plus, zero);
const inRange = (n: bigint): bigint => {
  if (n >= 2n ** 63n || n < -(2n ** 63n)) throw new Error('integer overflow');
  return n;
};

const has = (list: readonly unknown[], x: unknown): boolean => list.some((y) => equal(x, y));
const within = (a: readonly unknown[], b: readonly unknown[]): boolean => b.every((x) => has(a, x));

const LISTS: Table = {
  'list.isSorted(): bool': (l: readonly Ordered[]) => l.every((x, i) => i === 0 || !(x < l[i - 1]!)),
  'list<int>.sum(): int': add(0n, (a: bigint, b: bigint) => inRange(a + b)),
  'list<double>.sum(): double': add(0, (a: number, b: number) => a + b),
  'list<google.protobuf.Duration>.sum(): google.protobuf.Duration': (
    l: readonly { addDuration(o: unknown): unknown }[],
  ) => l.slice(1).reduce<unknown>((a, b) => b.addDuration(a), l[0]),
  'list<A>.min(): A': (l: readonly Ordered[]) => pick(l, 'min', (a, b) => a < b),
  'list<A>.max(): A': (l: readonly Ordered[]) => pick(l, 'max', (a, b) => a > b),
  'list.indexOf(dyn): int': (l: readonly unknown[], x: unknown) => BigInt(l.findIndex((y) => equal(x, y))),
  'list.lastIndexOf(dyn): int': (l: readonly unknown[], x: unknown) =>
    BigInt(l.reduce<number>((at, y, i) => (equal(x, y) ? i : at), -1)),
  'SetsNamespace.contains(list, list): bool': (_: unknown, a: unknown[], b: unknown[]) => within(a, b),
  'SetsNamespace.equivalent(list, list): bool': (_: unknown, a: unknown[], b: unknown[]) =>
    within(a, b) && within(b, a),
  'SetsNamespace.intersects(list, list): bool': (_: unknown, a: unknown[], b: unknown[]) =>
    a.some((x) => has(b, x)),
};

// ---- quantities, versions, addresses, URLs

const parses = (make: () => unknown): boolean => {
  try {
    make();
    return true;
  } catch {
    return false;
  }
};

const QUANTITIES: Table = {
  'quantity(string): kubernetes.Quantity': (s: string) => new CelQuantity(s),
  'isQuantity(string): bool': (s: string) => parses(() => new CelQuantity(s)),
  'kubernetes.Quantity.sign(): int': (q: CelQuantity) => q.sign,
  'kubernetes.Quantity.isInteger(): bool': (q: CelQuantity) => q.isInteger,
  'kubernetes.Quantity.asInteger(): int': (q: CelQuantity) => q.integer,
  'kubernetes.Quantity.asApproximateFloat(): double': (q: CelQuantity) => q.float,
  'kubernetes.Quantity.add(kubernetes.Quantity): kubernetes.Quantity': (q: CelQuantity, o: CelQuantity) =>
    q.plus(o, 1),
  'kubernetes.Quantity.add(int): kubernetes.Quantity': (q: CelQuantity, o: bigint) => q.plus(o, 1),
  'kubernetes.Quantity.sub(kubernetes.Quantity): kubernetes.Quantity': (q: CelQuantity, o: CelQuantity) =>
    q.plus(o, -1),
  'kubernetes.Quantity.sub(int): kubernetes.Quantity': (q: CelQuantity, o: bigint) => q.plus(o, -1),
  'kubernetes.Quantity.isLessThan(kubernetes.Quantity): bool': (q: CelQuantity, o: CelQuantity) =>
    q.compare(o) < 0,
  'kubernetes.Quantity.isGreaterThan(kubernetes.Quantity): bool': (q: CelQuantity, o: CelQuantity) =>
    q.compare(o) > 0,
  'kubernetes.Quantity.compareTo(kubernetes.Quantity): int': (q: CelQuantity, o: CelQuantity) =>
    BigInt(q.compare(o)),
};

const VERSIONS: Table = {
  'semver(string): kubernetes.Semver': (s: string) => new Semver(s),
  'semver(string, bool): kubernetes.Semver': (s: string, normalize: boolean) => new Semver(s, normalize),
  'isSemver(string): bool': (s: string) => parses(() => new Semver(s)),
  'isSemver(string, bool): bool': (s: string, normalize: boolean) => parses(() => new Semver(s, normalize)),
  'kubernetes.Semver.major(): int': (v: Semver) => v.major,
  'kubernetes.Semver.minor(): int': (v: Semver) => v.minor,
  'kubernetes.Semver.patch(): int': (v: Semver) => v.patch,
  'kubernetes.Semver.isLessThan(kubernetes.Semver): bool': (v: Semver, o: Semver) => v.compare(o) < 0,
  'kubernetes.Semver.isGreaterThan(kubernetes.Semver): bool': (v: Semver, o: Semver) => v.compare(o) > 0,
  'kubernetes.Semver.compareTo(kubernetes.Semver): int': (v: Semver, o: Semver) => BigInt(v.compare(o)),
};

const ADDRESSES: Table = {
  'ip(string): net.IP': (s: string) => Ip.parse(s),
  'isIP(string): bool': (s: string) => parses(() => Ip.parse(s)),
  'IpNamespace.isCanonical(string): bool': (_: unknown, s: string) => Ip.parse(s).toString() === s,
  'net.IP.family(): int': (a: Ip) => BigInt(a.family),
  'net.IP.isUnspecified(): bool': (a: Ip) => a.isUnspecified,
  'net.IP.isLoopback(): bool': (a: Ip) => a.isLoopback,
  'net.IP.isLinkLocalMulticast(): bool': (a: Ip) => a.isLinkLocalMulticast,
  'net.IP.isLinkLocalUnicast(): bool': (a: Ip) => a.isLinkLocalUnicast,
  'net.IP.isGlobalUnicast(): bool': (a: Ip) => a.isGlobalUnicast,
  'cidr(string): net.CIDR': (s: string) => Cidr.parse(s),
  'isCIDR(string): bool': (s: string) => parses(() => Cidr.parse(s)),
  'net.CIDR.containsIP(net.IP): bool': (c: Cidr, a: Ip) => c.contains(a),
  'net.CIDR.containsIP(string): bool': (c: Cidr, a: string) => c.contains(Ip.parse(a)),
  'net.CIDR.containsCIDR(net.CIDR): bool': (c: Cidr, o: Cidr) => c.containsCidr(o),
  'net.CIDR.containsCIDR(string): bool': (c: Cidr, o: string) => c.containsCidr(Cidr.parse(o)),
  'net.CIDR.ip(): net.IP': (c: Cidr) => c.ip,
  'net.CIDR.masked(): net.CIDR': (c: Cidr) => c.masked,
  'net.CIDR.prefixLength(): int': (c: Cidr) => BigInt(c.length),
};

const URLS: Table = {
  'url(string): kubernetes.URL': (s: string) => new CelUrl(s),
  'isURL(string): bool': (s: string) => parses(() => new CelUrl(s)),
  'kubernetes.URL.getScheme(): string': (u: CelUrl) => u.scheme,
  'kubernetes.URL.getHost(): string': (u: CelUrl) => u.host,
  'kubernetes.URL.getHostname(): string': (u: CelUrl) => u.hostname,
  'kubernetes.URL.getPort(): string': (u: CelUrl) => u.port,
  'kubernetes.URL.getEscapedPath(): string': (u: CelUrl) => u.escapedPath,
  'kubernetes.URL.getQuery(): map<string, list<string>>': (u: CelUrl) => u.query,
};

/** Needs the library's own way to say "nothing". */
const optionals = (optional: typeof Optional): Table => ({
  'FormatNamespace.named(string): optional<kubernetes.NamedFormat>': (_: unknown, name: string) =>
    optional.of(FORMATS.get(name)),
  'kubernetes.NamedFormat.validate(string): optional<list<string>>': (f: Format, text: string) => {
    const wrong = f.validate(text);
    return wrong.length ? optional.of(wrong) : optional.none();
  },
  'optional<A>.value(): A': (o: Optional<unknown>) => o.value(),
  'OptionalNamespace.ofNonZeroValue(A): optional<A>': (_: unknown, x: unknown) => {
    const zero =
      x === null ||
      x === '' ||
      x === false ||
      x === 0n ||
      x === 0 ||
      (x instanceof Map
        ? x.size === 0
        : typeof x === 'object' && !(x instanceof Date) && Object.keys(x).length === 0);
    return zero ? optional.none() : optional.of(x);
  },
});

/** More overloads of the language's own conversions. */
const CONVERSIONS: Table = {
  'string(google.protobuf.Timestamp): string': (t: Date) => t.toISOString().replace(/\.?0*Z$/, 'Z'),
  'string(google.protobuf.Duration): string': (d: { toString(): string }) => d.toString(),
  'string(net.IP): string': (a: Ip) => a.toString(),
  'string(net.CIDR): string': (c: Cidr) => c.toString(),
  'int(google.protobuf.Timestamp): int': (t: Date) => BigInt(Math.floor(t.getTime() / 1000)),
  'int(uint): int': (u: { value: bigint }) => inRange(u.value),
  'timestamp(google.protobuf.Timestamp): google.protobuf.Timestamp': (t: Date) => t,
  'duration(google.protobuf.Duration): google.protobuf.Duration': (d: object) => d,
};

/** What the language names without a call: `sets.contains(a, b)`. */
class SetsNamespace {}
class StringsNamespace {}
class FormatNamespace {}
class IpNamespace {}
/** Of a receiver that may be anything, the answer is what all overloads have in common: with these, that is anything. */
class Anything {}
const ANYTHING: Table = Object.fromEntries(
  ['value', 'min', 'max'].map((name) => [`Anything.${name}(): dyn`, (x: unknown) => x]),
);

const TYPES: Readonly<Record<string, new (...args: never[]) => object>> = {
  'kubernetes.Quantity': CelQuantity,
  'kubernetes.URL': CelUrl,
  'kubernetes.Semver': Semver,
  'kubernetes.NamedFormat': Format,
  'net.IP': Ip as unknown as new () => object,
  'net.CIDR': Cidr as unknown as new () => object,
  SetsNamespace,
  StringsNamespace,
  FormatNamespace,
  IpNamespace,
  Anything,
};

/** Under which the language finds these functions: some stand in for its own, which it does not let go of. */
export const OWN = 'k8s_';

/** `rcall:split:1`: how it is called, its name, how many arguments it has. */
export const keyOf = (receiver: boolean, name: string, args: number): string =>
  `${receiver ? 'rcall' : 'call'}:${name}:${args}`;

const SIGNATURE = /^(?:([\w.<>]+)\.)?(\w+)\(([^)]*)\): (.*)$/;

/** Puts a table's functions into `environment` under names with {@link OWN}; adds their keys to `owned`. */
export function register(environment: Environment, table: Table, owned: Set<string>): void {
  for (const [signature, handler] of Object.entries(table)) {
    const [, receiver, name = '', args = '', returns] = SIGNATURE.exec(signature)!;
    owned.add(keyOf(receiver !== undefined, name, args ? args.split(',').length : 0));
    environment.registerFunction(
      `${receiver ? `${receiver}.` : ''}${OWN}${name}(${args}): ${returns}`,
      handler as (...args: unknown[]) => unknown,
      { async: false },
    );
  }
}

/** Puts Kubernetes' libraries into `environment`. Returns the keys of the functions that it has under {@link OWN}. */
export function registerLibraries(environment: Environment, optional: typeof Optional): Set<string> {
  const owned = new Set<string>();
  // No fields: getters are reached through functions alone.
  for (const [name, ctor] of Object.entries(TYPES)) environment.registerType(name, { ctor, fields: {} });
  environment.registerConstant('sets', 'SetsNamespace', new SetsNamespace());
  environment.registerConstant('strings', 'StringsNamespace', new StringsNamespace());
  environment.registerConstant('format', 'FormatNamespace', new FormatNamespace());
  environment.registerConstant('ip', 'IpNamespace', new IpNamespace());
  for (const table of [STRINGS, LISTS, QUANTITIES, VERSIONS, ADDRESSES, URLS, optionals(optional), ANYTHING])
    register(environment, table, owned);
  const formats = [...FORMATS].map(([name, format]) => [
    `FormatNamespace.${name}(): kubernetes.NamedFormat`,
    () => format,
  ]);
  register(environment, Object.fromEntries(formats) as Table, owned);
  for (const [signature, handler] of Object.entries(CONVERSIONS))
    environment.registerFunction(signature, handler as (...args: unknown[]) => unknown, { async: false });
  const same = (type: string, equals: (a: never, b: never) => boolean) =>
    environment.registerOperator(`${type} == ${type}`, equals as (a: unknown, b: unknown) => boolean);
  same('kubernetes.Quantity', (a: CelQuantity, b: CelQuantity) => a.compare(b) === 0);
  same('kubernetes.Semver', (a: Semver, b: Semver) => a.compare(b) === 0);
  same('kubernetes.URL', (a: CelUrl, b: CelUrl) => a.toString() === b.toString());
  same('net.IP', (a: Ip, b: Ip) => a.equals(b));
  same('net.CIDR', (a: Cidr, b: Cidr) => a.equals(b));
  return owned;
}
