import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { Cidr, Ip } from './addresses.js';
import { Language, loadCel, reasonOf } from './cel.js';
import { Semver } from './values.js';

const language = new Language({ self: 'dyn' });
const run = (expression: string, self: unknown = {}): unknown => {
  const c = language.compile(expression);
  if ('wrong' in c) throw new Error(c.wrong);
  return c.run({ self });
};

describe('Kubernetes’ CEL libraries', () => {
  beforeAll(loadCel);

  it.each<[string, unknown?]>([
    [
      'quantity("1Gi").isGreaterThan(quantity("500Mi")) && quantity("1").add(quantity("500m")).sub(1) == quantity("0.5")',
    ],
    [
      'isQuantity("1.5Ki") && !isQuantity("1Q") && quantity("50k").asInteger() == 50000 && quantity("-1").sign() == -1',
    ],
    [
      'quantity("0.5").asApproximateFloat() == 0.5 && !quantity("0.5").isInteger() && quantity("1").compareTo(quantity("2")) == -1',
    ],
    ['url("https://a.b:80/x/y?q=1&q=2").getHost() == "a.b:80" && url("https://a.b:80/x").getPort() == "80"'],
    [
      'url("https://[::1]:80/").getHostname() == "::1" && url("/p/q").getEscapedPath() == "/p/q" && !isURL("../x")',
    ],
    ['url("https://a/?q=1&q=2").getQuery()["q"] == ["1", "2"]'],
    [
      'ip("::1").isLoopback() && ip("10.0.0.1").family() == 4 && ip("fe80::1").isLinkLocalUnicast() && !isIP("1.2.3")',
    ],
    ['ip.isCanonical("2001:db8::1") && !ip.isCanonical("2001:DB8::1") && string(ip("::ffff")) == "::ffff"'],
    ['cidr("10.0.0.0/8").containsIP("10.1.2.3") && cidr("10.0.0.0/8").containsCIDR(cidr("10.1.0.0/16"))'],
    [
      'string(cidr("10.1.2.3/8").masked()) == "10.0.0.0/8" && cidr("::/0").prefixLength() == 0 && !isCIDR("1.2.3.4/33")',
    ],
    [
      '[1, 2, 3].sum() == 6 && [1.5].sum() == 1.5 && [2, 1].min() == 1 && ["a", "b"].max() == "b" && [1, 1, 2].isSorted()',
    ],
    ['["a", "b", "a"].indexOf("a") == 0 && ["a", "b", "a"].lastIndexOf("a") == 2 && [1].indexOf(2) == -1'],
    [
      '"abc 123 def 45".findAll("[0-9]+") == ["123", "45"] && "a1b2".find("[0-9]") == "1" && "x".find("y") == ""',
    ],
    [
      '"a-b-c".split("-", 2) == ["a", "b-c"] && ["a", "b"].join("-") == "a-b" && "aXbX".replace("X", "y", 1) == "aybX"',
    ],
    ['"héllo".charAt(1) == "é" && "😀b".indexOf("b") == 1 && "😀b".substring(1) == "b" && "😀".size() == 1'],
    ['"ÀB".lowerAscii() == "Àb" && " x ".trim() == "x" && strings.quote("a\\"b") == "\\"a\\\\\\"b\\""'],
    ['"%s is %d or %.2f, %x, %e%%".format(["x", 3, 1.5, 255, 12.0]) == "x is 3 or 1.50, ff, 1.200000e+01%"'],
    ['sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1, 1]) && !sets.intersects([1], [2])'],
    [
      'semver("1.2.3-rc.1").isLessThan(semver("1.2.3")) && semver("v1.2", true).patch() == 0 && !isSemver("1.2")',
    ],
    ['format.dns1123Label().validate("a_b").hasValue() && !format.named("uuid").hasValue() == false'],
    ['self.?a.?b.orValue("none") == "none" && optional.of(1).optMap(x, x + 1).value() == 2'],
    [
      '[1, 2, 3].all(i, v, v > i) && {"a": 1}.exists(k, v, k == "a" && v == 1) && [1, 1].existsOne(i, v, i == v)',
    ],
    ['{"a": 1}.transformMap(k, v, v + 1) == {"a": 2} && [1, 2].transformList(i, v, v > 1, i * v) == [2]'],
    ['{"a": "b"}.transformMapEntry(k, v, {v: k}) == {"b": "a"}'],
    ['has(self.l[0].x) && !has(self.l[0].y)', { l: [{ x: 1n }] }],
    ['self.x.matches("^a+$") && matches(self.x, "a")', { x: 'aaa' }],
    [
      'string(timestamp("2020-01-01T00:00:00Z")) == "2020-01-01T00:00:00Z" && int(timestamp("1970-01-01T00:01:00Z")) == 60',
    ],
    ['duration("1h") > duration("5m") && cel.bind(x, 5, x + 1) == 6 && type(self.n) == int', { n: 1n }],
  ])('%s', (expression, self) => expect(run(expression, self)).toBe(true));

  it.each([
    'self.constructor',
    'quantity("1").sign',
    'b"{}".json()',
    '"a".hex()',
    'self.nope',
    '"x".charAt(5)',
    '"%d".format(["x"])',
    '[].max()',
    'ip("1.2.3.4%eth0")',
    'quantity("x")',
    '"a".matches("(")',
    '{"a": 1}.transformMapEntry(k, v, {"x": v}).size() == 1 && [1, 2].transformMap(i, v, v).all(k, k > 5) ? self.nope : self.nope',
  ])('refuses %s', (expression) => expect(() => run(expression)).toThrow());

  it('say where an expression is wrong', () => {
    expect(language.compile('1 +\n foo(2)')).toEqual({
      wrong: "ERROR: <input>:2:2: undeclared reference to 'foo' (in container '')\n |  foo(2)\n | .^",
    });
    expect(() => run('self.a.b', {})).toThrow();
    try {
      run('self.a.b', {});
    } catch (e) {
      expect(reasonOf(e)).toBe('no such key: a');
    }
  });

  it('never answer anything but a value or an error, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 60 }), (text) => {
        const c = language.compile(text);
        if ('wrong' in c) return;
        try {
          c.run({ self: { a: [1n] } });
        } catch (e) {
          expect(e).toBeInstanceOf(Error);
        }
      }),
    );
  });
});

describe('addresses and versions', () => {
  it('read what they write', () => {
    fc.assert(
      fc.property(fc.ipV6(), (text) => {
        let ip: Ip;
        try {
          ip = Ip.parse(text);
        } catch {
          return; // IPv4 in IPv6
        }
        expect(Ip.parse(ip.toString()).equals(ip)).toBe(true);
      }),
    );
    fc.assert(
      fc.property(fc.ipV4(), fc.integer({ min: 0, max: 32 }), (text, bits) => {
        const block = Cidr.parse(`${text}/${bits}`);
        expect(block.contains(Ip.parse(text))).toBe(true);
        expect(block.masked.containsCidr(block)).toBe(true);
      }),
    );
  });

  it('are in the order of semver.org', () => {
    const order =
      '1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.2.0 2.0.0';
    const versions = order.split(' ').map((t) => new Semver(t));
    versions.slice(1).forEach((v, i) => {
      expect(versions[i]!.compare(v)).toBe(-1);
    });
  });
});
