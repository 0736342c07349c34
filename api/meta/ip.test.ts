import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  canonicalIpErrors,
  contains,
  endpointIpErrors,
  formatIp,
  formatNetwork,
  ipErrors,
  networkErrors,
  networkSize,
  parseIp,
  parseNetwork,
} from './ip.js';

const texts = (errors: { message: string }[]) =>
  errors.map((e) => e.message.replace(/^Invalid value: "[^"]*": /, ''));
const NOT_AN_IP = 'must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)';

describe('addresses', () => {
  it('have one text for each value', () => {
    fc.assert(
      fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
        const ip = parseIp(text)!;
        expect(parseIp(formatIp(ip))).toEqual(ip);
        expect(ipErrors(formatIp(ip), 'f').filter((e) => !e.message.includes('mapped'))).toEqual([]);
      }),
    );
  });

  it.each([
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['::', '::'],
    ['1::', '1::'],
    ['1:0:2:0:0:0:3:0', '1:0:2::3:0'],
    ['::ffff:1.2.3.4', '::ffff:102:304'],
    ['010.1.1.1', undefined],
    ['fe80::1%eth0', undefined],
    ['1.2.3', undefined],
    ['', undefined],
  ])('%s is %s', (text, canonical) => {
    const ip = parseIp(text);
    expect(ip && formatIp(ip)).toBe(canonical);
  });

  it.each([
    ['1.2.3.4', []],
    ['01.2.3.4', ['must not have leading 0s']],
    ['1.2.3.4.5', [NOT_AN_IP]],
    ['256.1.1.1', [NOT_AN_IP]],
    ['::ffff:1.2.3.4', ['must not be an IPv4-mapped IPv6 address']],
  ])('%s in a lenient field', (text, wrong) => {
    expect(texts(ipErrors(text, 'f'))).toEqual(wrong);
    expect(ipErrors(text, 'f', [text])).toEqual([]);
  });

  it('must be in canonical form in newer fields', () => {
    expect(canonicalIpErrors('FE80:0::1', 'f')).toMatchObject([
      { message: 'Invalid value: "FE80:0::1": must be in canonical form ("fe80::1")' },
    ]);
  });

  it.each([
    ['0.0.0.0', ['may not be unspecified (0.0.0.0)']],
    ['127.0.0.1', ['may not be in the loopback range (127.0.0.0/8, ::1/128)']],
    ['169.254.1.1', ['may not be in the link-local range (169.254.0.0/16, fe80::/10)']],
    ['224.0.0.1', ['may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)']],
    ['10.0.0.1', []],
  ])('%s as an endpoint', (text, wrong) => expect(texts(endpointIpErrors(text, 'f'))).toEqual(wrong));
});

describe('networks', () => {
  it('hold what begins with their prefix', () => {
    fc.assert(
      fc.property(fc.ipV4(), fc.integer({ min: 0, max: 32 }), (text, bits) => {
        const network = parseNetwork(`${text}/${bits}`)!;
        expect(contains(network, parseIp(text)!)).toBe(true);
        const after = { family: 'IPv4' as const, value: network.first + networkSize(network) };
        if (after.value < 2n ** 32n) expect(contains(network, after)).toBe(false);
        expect(parseNetwork(formatNetwork(network))).toEqual(network);
      }),
    );
  });

  it.each([
    ['10.0.0.0/8', []],
    ['10.0.0.1/8', ['must not have bits set beyond the prefix length']],
    ['010.0.0.0/8', ['must not have leading 0s in IP or prefix length']],
    ['10.0.0.0/33', ['must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)']],
    ['::ffff:1.2.3.0/120', ['must not have an IPv4-mapped IPv6 address']],
    ['10.0.0.0', ['must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)']],
  ])('%s', (text, wrong) => expect(texts(networkErrors(text, 'f'))).toEqual(wrong));
});
