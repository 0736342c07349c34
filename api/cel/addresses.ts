import { isIPv4, isIPv6 } from 'node:net';

/** An IP address of Kubernetes' CEL library: no zone, no IPv4 in IPv6. */
export class Ip {
  readonly #value: bigint;
  readonly #family: 4 | 6;

  constructor(family: 4 | 6, value: bigint) {
    this.#family = family;
    this.#value = value;
  }

  /** Throws with Kubernetes' wording. */
  static parse(text: string): Ip {
    if (text.includes('%'))
      throw new Error(`IP address ${JSON.stringify(text)} with zone value is not allowed`);
    if (isIPv4(text))
      return new Ip(
        4,
        text.split('.').reduce((n, part) => n * 256n + BigInt(part), 0n),
      );
    if (!isIPv6(text))
      throw new Error(
        `IP Address ${JSON.stringify(text.slice(0, 128))} parse error during conversion from string: ParseAddr(${JSON.stringify(text.slice(0, 128))}): unable to parse IP`,
      );
    const value = ipv6(text);
    if (value >> 32n === 0xffffn)
      throw new Error(`IPv4-mapped IPv6 address ${JSON.stringify(text)} is not allowed`);
    return new Ip(6, value);
  }

  get family(): 4 | 6 {
    return this.#family;
  }

  get value(): bigint {
    return this.#value;
  }

  get bits(): number {
    return this.#family === 4 ? 32 : 128;
  }

  /** Whether the first `length` bits are those of `prefix`. */
  startsWith(prefix: bigint, length: number): boolean {
    return this.#value >> BigInt(this.bits - length) === prefix;
  }

  equals(other: Ip): boolean {
    return this.#family === other.#family && this.#value === other.#value;
  }

  get isUnspecified(): boolean {
    return this.#value === 0n;
  }

  get isLoopback(): boolean {
    return this.#family === 4 ? this.startsWith(127n, 8) : this.#value === 1n;
  }

  get isLinkLocalMulticast(): boolean {
    return this.#family === 4 ? this.startsWith(0xe00000n, 24) : this.startsWith(0xff02n, 16);
  }

  get isLinkLocalUnicast(): boolean {
    return this.#family === 4 ? this.startsWith(0xa9fen, 16) : this.startsWith(0xfe80n >> 6n, 10);
  }

  get #isMulticast(): boolean {
    return this.#family === 4 ? this.startsWith(0xen, 4) : this.startsWith(0xffn, 8);
  }

  /** As Go's netip has it: private addresses count. */
  get isGlobalUnicast(): boolean {
    const broadcast = this.#family === 4 && this.#value === 0xffffffffn;
    return (
      !broadcast && !this.isUnspecified && !this.isLoopback && !this.#isMulticast && !this.isLinkLocalUnicast
    );
  }

  /** RFC 5952. */
  toString(): string {
    if (this.#family === 4)
      return [24n, 16n, 8n, 0n].map((shift) => String((this.#value >> shift) & 255n)).join('.');
    const groups = Array.from({ length: 8 }, (_, i) =>
      ((this.#value >> BigInt(16 * (7 - i))) & 0xffffn).toString(16),
    );
    let best = { at: -1, length: 1 };
    for (let i = 0; i < 8; i++) {
      let length = 0;
      while (groups[i + length] === '0') length++;
      if (length > best.length) best = { at: i, length };
    }
    if (best.at < 0) return groups.join(':');
    return `${groups.slice(0, best.at).join(':')}::${groups.slice(best.at + best.length).join(':')}`;
  }
}

function ipv6(text: string): bigint {
  const [, dotted] = /:(\d+\.\d+\.\d+\.\d+)$/.exec(text) ?? [];
  const hex = dotted
    ? text.slice(0, -dotted.length) +
      [dotted.split('.').slice(0, 2), dotted.split('.').slice(2)]
        .map(([a, b]) => (Number(a) * 256 + Number(b)).toString(16))
        .join(':')
    : text;
  const [head = '', tail] = hex.split('::');
  const before = head ? head.split(':') : [];
  const after = tail ? tail.split(':') : [];
  const zeros = tail === undefined ? [] : Array<string>(8 - before.length - after.length).fill('0');
  return [...before, ...zeros, ...after].reduce((n, g) => (n << 16n) | BigInt(`0x${g}`), 0n);
}

/** A block of addresses of Kubernetes' CEL library. */
export class Cidr {
  readonly #ip: Ip;
  readonly #length: number;

  constructor(ip: Ip, length: number) {
    this.#ip = ip;
    this.#length = length;
  }

  /** Throws with Kubernetes' wording. */
  static parse(text: string): Cidr {
    const [address = '', bits = '', ...rest] = text.split('/');
    const wrong = () =>
      new Error(
        `network address parse error during conversion from string: netip.ParsePrefix(${JSON.stringify(text.slice(0, 128))}): invalid prefix`,
      );
    if (rest.length || !/^(0|[1-9]\d{0,2})$/.test(bits)) throw wrong();
    const ip = Ip.parse(address);
    if (Number(bits) > ip.bits) throw wrong();
    return new Cidr(ip, Number(bits));
  }

  get ip(): Ip {
    return this.#ip;
  }

  get length(): number {
    return this.#length;
  }

  get #prefix(): bigint {
    return this.#ip.value >> BigInt(this.#ip.bits - this.#length);
  }

  contains(ip: Ip): boolean {
    return ip.family === this.#ip.family && ip.startsWith(this.#prefix, this.#length);
  }

  containsCidr(other: Cidr): boolean {
    return this.contains(other.#ip) && this.#length <= other.#length;
  }

  get masked(): Cidr {
    const value = this.#prefix << BigInt(this.#ip.bits - this.#length);
    return new Cidr(new Ip(this.#ip.family, value), this.#length);
  }

  equals(other: Cidr): boolean {
    return this.#length === other.#length && this.#ip.equals(other.#ip);
  }

  toString(): string {
    return `${this.#ip}/${this.#length}`;
  }
}
