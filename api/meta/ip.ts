/** IP addresses and networks as text: Kubernetes' rules for them (apimachinery util/validation/ip.go). */
import { isIPv4, isIPv6 } from 'node:net';
import type { FieldError } from '../kinds/kind.js';
import { invalid } from './field-errors.js';

export type IpFamily = 'IPv4' | 'IPv6';

export interface Ip {
  readonly family: IpFamily;
  readonly value: bigint;
}

/** An address range: the addresses whose first `bits` bits are those of `first`. */
export interface Network {
  readonly family: IpFamily;
  readonly first: bigint;
  readonly bits: number;
}

const WIDTH: Readonly<Record<IpFamily, number>> = { IPv4: 32, IPv6: 128 };
const MAPPED = 0xffffn << 32n;

const v4 = (text: string): bigint => text.split('.').reduce((sum, octet) => (sum << 8n) | BigInt(octet), 0n);

function v6(text: string): bigint {
  // The last 32 bits may be written as IPv4.
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  let rest = text;
  if (dotted) {
    const low = v4(dotted[2]!);
    rest = `${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  }
  const [head = '', tail] = rest.split('::', 2);
  const groups = (part: string) => (part === '' ? [] : part.split(':'));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const all = [...before, ...Array<string>(8 - before.length - after.length).fill('0'), ...after];
  return all.reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
}

/** Undefined for what is no address; zones (`fe80::1%eth0`) and leading zeros in IPv4 are none. */
export function parseIp(text: string): Ip | undefined {
  if (isIPv4(text)) return { family: 'IPv4', value: v4(text) };
  if (!isIPv6(text) || text.includes('%')) return undefined;
  return { family: 'IPv6', value: v6(text) };
}

/** The canonical text (RFC 5952). */
export function formatIp({ family, value }: Ip): string {
  if (family === 'IPv4') return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join('.');
  const groups = Array.from({ length: 8 }, (_, i) =>
    ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16),
  );
  let best = { at: -1, length: 1 };
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && groups[i + n] === '0') n++;
    if (n > best.length) best = { at: i, length: n };
  }
  if (best.at < 0) return groups.join(':');
  return `${groups.slice(0, best.at).join(':')}::${groups.slice(best.at + best.length).join(':')}`;
}

export const familyOf = (text: string): IpFamily => (text.includes(':') ? 'IPv6' : 'IPv4');

const hostBits = (n: Pick<Network, 'family' | 'bits'>): bigint => BigInt(WIDTH[n.family] - n.bits);

/** Undefined for what is no network; bits beyond the prefix are cut off. */
export function parseNetwork(text: string): Network | undefined {
  const m = /^([^/]+)\/(\d|[1-9]\d{1,2})$/.exec(text);
  const ip = m ? parseIp(m[1]!) : undefined;
  const bits = Number(m?.[2]);
  if (!ip || bits > WIDTH[ip.family]) return undefined;
  const shift = hostBits({ family: ip.family, bits });
  return { family: ip.family, first: (ip.value >> shift) << shift, bits };
}

export const formatNetwork = (n: Network): string =>
  `${formatIp({ family: n.family, value: n.first })}/${n.bits}`;

/** How many addresses are in it, the first and the last included. */
export const networkSize = (n: Network): bigint => 1n << hostBits(n);

export const contains = (n: Network, ip: Ip): boolean =>
  ip.family === n.family && ip.value >> hostBits(n) === n.first >> hostBits(n);

const LEADING_ZERO = /^(?:\d{1,9}\.){3}\d{1,9}$/;

/** What is wrong with an address in a field that has always been lenient about its form; `old` values may stay. */
export function ipErrors(text: string, field: string, old: readonly string[] = []): FieldError[] {
  if (old.includes(text)) return [];
  const ip = parseIp(text);
  if (ip)
    return ip.family === 'IPv6' && ip.value >> 32n === MAPPED >> 32n
      ? [invalid(field, text, 'must not be an IPv4-mapped IPv6 address')]
      : [];
  if (LEADING_ZERO.test(text) && text.split('.').every((octet) => Number(octet) <= 255))
    return [invalid(field, text, 'must not have leading 0s')];
  return [invalid(field, text, 'must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)')];
}

/** As {@link ipErrors}, and it must be written as {@link formatIp} writes it: for newer fields. */
export function canonicalIpErrors(text: string, field: string): FieldError[] {
  const errors = ipErrors(text, field);
  if (errors.length) return errors;
  const canonical = formatIp(parseIp(text)!);
  return text === canonical
    ? []
    : [invalid(field, text, `must be in canonical form (${JSON.stringify(canonical)})`)];
}

/** What is wrong with a network; `old` values may stay. */
export function networkErrors(text: string, field: string, old: readonly string[] = []): FieldError[] {
  if (old.includes(text)) return [];
  const network = parseNetwork(text);
  if (!network) {
    const [address = '', bits = ''] = text.split('/', 2);
    const zeros =
      /^\d{1,4}$/.test(bits) &&
      (/^0\d/.test(bits) || (!parseIp(address) && LEADING_ZERO.test(address))) &&
      address.split('.').every((octet) => Number(octet) <= 255);
    return [
      invalid(
        field,
        text,
        zeros
          ? 'must not have leading 0s in IP or prefix length'
          : 'must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
      ),
    ];
  }
  const ip = parseIp(text.slice(0, text.indexOf('/')))!;
  if (ip.family === 'IPv6' && ip.value >> 32n === MAPPED >> 32n)
    return [invalid(field, text, 'must not have an IPv4-mapped IPv6 address')];
  return ip.value === network.first
    ? []
    : [invalid(field, text, 'must not have bits set beyond the prefix length')];
}

const within = (ip: Ip, networks: readonly string[]): boolean =>
  networks.some((n) => contains(parseNetwork(n)!, ip));

/** Addresses that make no sense as somebody's: what traffic is to go to (core ValidateEndpointIP). */
export function endpointIpErrors(text: string, field: string): FieldError[] {
  const ip = parseIp(text);
  if (!ip) return [invalid(field, text, 'must be a valid IP address')];
  const errors: FieldError[] = [];
  if (ip.value === 0n) errors.push(invalid(field, text, `may not be unspecified (${text})`));
  if (within(ip, ['127.0.0.0/8', '::1/128']))
    errors.push(invalid(field, text, 'may not be in the loopback range (127.0.0.0/8, ::1/128)'));
  if (within(ip, ['169.254.0.0/16', 'fe80::/10']))
    errors.push(invalid(field, text, 'may not be in the link-local range (169.254.0.0/16, fe80::/10)'));
  if (within(ip, ['224.0.0.0/24', 'ff02::/16']))
    errors.push(
      invalid(field, text, 'may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)'),
    );
  return errors;
}

/** A hint about a valid address that is not in its usual form. */
export function ipWarnings(text: string, field: string): string[] {
  const ip = parseIp(text);
  const canonical = ip && formatIp(ip);
  return ip?.family === 'IPv6' && canonical !== text
    ? [`${field}: IPv6 address "${text}" should be in RFC 5952 canonical format ("${canonical}")`]
    : [];
}
