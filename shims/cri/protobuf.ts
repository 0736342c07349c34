/**
 * Protocol Buffers for the CRI: reads a small .proto and turns plain objects into bytes and back. It exists for memory:
 * grpc-js with proto-loader takes 16 MB of an agent's 60, this and node:http2 take 4 (docs/decisions/0040-cri-without-grpc-js.md).
 *
 * Covers proto3 scalars `string bytes bool int32 int64 uint32 uint64`, enums (as their names), messages, `repeated` and
 * `map<string, string>`. Field names become camelCase. Decoding fills absent fields with proto3's defaults (an absent
 * message stays undefined) and skips unknown ones. 64-bit numbers become JavaScript numbers: what lies above 2^53
 * (nanoseconds since 1970) loses its last digits.
 * Encoding: https://protobuf.dev/programming-guides/encoding/
 */

export type Message = { [field: string]: unknown };

interface Field {
  name: string;
  number: number;
  type: string;
  repeated: boolean;
  map: boolean;
}
interface MessageType {
  name: string;
  fields: Field[];
  byNumber: Map<number, Field>;
}
export interface Method {
  request: string;
  response: string;
}

const VARINTS = new Set(['bool', 'int32', 'int64', 'uint32', 'uint64']);
const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;
/** Messages nest; a forged one must not exhaust the stack. */
const MAX_DEPTH = 32;

const camel = (snake: string) => snake.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase());

/** The declarations of one .proto file. */
export class Schema {
  readonly #messages = new Map<string, MessageType>();
  readonly #enums = new Map<string, { byName: Map<string, number>; byNumber: Map<number, string> }>();
  readonly #methods = new Map<string, Method>();

  /** Throws on what lies outside the subset. */
  constructor(text: string) {
    const clean = text.replace(/\/\/.*$/gm, '').replace(/\b(?:syntax|package)\b[^;]*;/g, '');
    let end = 0;
    for (const block of clean.matchAll(/\s*\b(message|enum|service)\s+(\w+)\s*\{([^{}]*)\}/g)) {
      if (block.index !== end) throw new Error(`.proto: cannot read ${clean.slice(end, block.index)}`);
      end = block.index + block[0].length;
      const [, kind, name, body] = block as unknown as [string, string, string, string];
      const items = body.split(';').map((s) => s.trim());
      if (items.pop() !== '') throw new Error(`.proto: ${kind} ${name} does not end with ;`);
      if (kind === 'message') this.#messages.set(name, message(name, items));
      else if (kind === 'enum') {
        const pairs = items.map((i) => match(i, /^(\w+)\s*=\s*(\d+)$/));
        this.#enums.set(name, {
          byName: new Map(pairs.map(([, n, v]) => [n!, Number(v)])),
          byNumber: new Map(pairs.map(([, n, v]) => [Number(v), n!])),
        });
      } else
        for (const i of items) {
          const [, rpc, request, response] = match(
            i,
            /^rpc\s+(\w+)\s*\(\s*(?:stream\s+)?(\w+)\s*\)\s*returns\s*\(\s*(?:stream\s+)?(\w+)\s*\)$/,
          );
          this.#methods.set(`${name}/${rpc}`, { request: request!, response: response! });
        }
    }
    if (clean.slice(end).trim()) throw new Error(`.proto: cannot read ${clean.slice(end)}`);
  }

  get messageNames(): string[] {
    return [...this.#messages.keys()];
  }

  /** Request and response types of `/package.Service/Method`. */
  method(path: string): Method {
    const found = this.#methods.get(path.replace(/^\/(?:\w+\.)*/, ''));
    if (!found) throw new Error(`no method ${path} in the .proto`);
    return found;
  }

  #type(name: string): MessageType {
    const type = this.#messages.get(name);
    if (!type) throw new Error(`no message ${name} in the .proto`);
    return type;
  }

  /** Throws a TypeError that names a field which the message does not have, or whose value does not fit. */
  encode(typeName: string, value: object): Buffer {
    const type = this.#type(typeName);
    const out: Buffer[] = [];
    for (const [name, v] of Object.entries(value)) {
      if (v === undefined) continue;
      const field = type.fields.find((f) => f.name === name);
      if (!field) throw new TypeError(`${typeName} has no field ${name}`);
      const number = field.number;
      if (field.map) {
        for (const [k, s] of Object.entries(v as Record<string, string>))
          out.push(
            chunk(
              number,
              Buffer.concat([chunk(1, Buffer.from(k, 'utf8')), chunk(2, Buffer.from(s, 'utf8'))]),
            ),
          );
      } else if (field.repeated) {
        const items = v as unknown[];
        if (items.length === 0) continue;
        if (this.#isVarint(field.type))
          out.push(chunk(number, Buffer.concat(items.map((i) => varint(this.#number(field, i))))));
        else for (const i of items) out.push(chunk(number, this.#bytes(field, i)));
      } else if (this.#isVarint(field.type)) {
        const n = this.#number(field, v);
        if (n !== 0) out.push(varint(number * 8 + WIRE.varint), varint(n));
      } else {
        const bytes = this.#bytes(field, v);
        // A message that is there and empty differs from one that is not there; a string does not.
        if (bytes.length > 0 || this.#messages.has(field.type)) out.push(chunk(number, bytes));
      }
    }
    return Buffer.concat(out);
  }

  /** Throws an Error on bytes that are no such message. */
  decode<T extends object = Message>(typeName: string, bytes: Uint8Array, depth = 0): T {
    if (depth > MAX_DEPTH) throw new Error(`${typeName}: nested too deeply`);
    const type = this.#type(typeName);
    const result: Message = {};
    for (const f of type.fields) result[f.name] = this.#default(f);
    const r = new Reader(bytes, typeName);
    while (!r.done) {
      const key = r.varint();
      const wire = key % 8;
      const field = type.byNumber.get(Math.floor(key / 8));
      if (!field) {
        r.skip(wire);
        continue;
      }
      if (wire === WIRE.varint && this.#isVarint(field.type)) {
        const v = this.#scalar(field.type, r.varint());
        if (field.repeated) (result[field.name] as unknown[]).push(v);
        else result[field.name] = v;
      } else if (wire === WIRE.bytes) {
        const data = r.bytes();
        if (field.map) {
          const [k, v] = entry(data, typeName);
          (result[field.name] as Record<string, string>)[k] = v;
        } else if (this.#isVarint(field.type)) {
          if (!field.repeated) throw new Error(`${typeName}.${field.name}: wrong wire type`);
          const packed = new Reader(data, typeName);
          while (!packed.done)
            (result[field.name] as unknown[]).push(this.#scalar(field.type, packed.varint()));
        } else {
          const v =
            field.type === 'string'
              ? data.toString('utf8')
              : field.type === 'bytes'
                ? data
                : this.decode(field.type, data, depth + 1);
          if (field.repeated) (result[field.name] as unknown[]).push(v);
          else result[field.name] = v;
        }
      } else throw new Error(`${typeName}.${field.name}: wrong wire type`);
    }
    return result as T;
  }

  #isVarint = (type: string) => VARINTS.has(type) || this.#enums.has(type);

  #default(f: Field): unknown {
    if (f.map) return Object.create(null);
    if (f.repeated) return [];
    if (f.type === 'string') return '';
    if (f.type === 'bytes') return Buffer.alloc(0);
    if (this.#isVarint(f.type)) return this.#scalar(f.type, 0);
    return undefined;
  }

  #number(f: Field, v: unknown): number {
    if (typeof v === 'boolean') return v ? 1 : 0;
    if (typeof v === 'string') {
      const n = this.#enums.get(f.type)?.byName.get(v);
      if (n !== undefined) return n;
    }
    if (typeof v === 'number' && Number.isInteger(v)) return v;
    throw new TypeError(`${f.name}: ${JSON.stringify(v)} is no ${f.type}`);
  }

  #scalar(type: string, n: number): unknown {
    if (type === 'bool') return n !== 0;
    if (type === 'int32') return n | 0;
    if (type === 'uint32') return n >>> 0;
    if (type === 'uint64') return n < 0 ? n + 2 ** 64 : n;
    if (type === 'int64') return n;
    return this.#enums.get(type)?.byNumber.get(n) ?? String(n);
  }

  #bytes(f: Field, v: unknown): Buffer {
    if (f.type === 'string') {
      if (typeof v !== 'string') throw new TypeError(`${f.name}: ${JSON.stringify(v)} is no string`);
      return Buffer.from(v, 'utf8');
    }
    if (f.type === 'bytes') return Buffer.from(v as Uint8Array);
    return this.encode(f.type, v as object);
  }
}

function match(text: string, pattern: RegExp): RegExpExecArray {
  const m = pattern.exec(text);
  if (!m) throw new Error(`.proto: cannot read "${text}"`);
  return m;
}

function message(name: string, items: string[]): MessageType {
  const fields = items.map((i): Field => {
    const map = /^map<\s*string\s*,\s*string\s*>\s*(\w+)\s*=\s*(\d+)$/.exec(i);
    if (map)
      return { name: camel(map[1]!), number: Number(map[2]), type: 'string', repeated: false, map: true };
    const [, repeated, type, field, number] = match(i, /^(repeated\s+)?(\w+)\s+(\w+)\s*=\s*(\d+)$/);
    return {
      name: camel(field!),
      number: Number(number),
      type: type!,
      repeated: repeated !== undefined,
      map: false,
    };
  });
  return { name, fields, byNumber: new Map(fields.map((f) => [f.number, f])) };
}

/** Length-delimited field. */
const chunk = (field: number, bytes: Buffer): Buffer =>
  Buffer.concat([varint(field * 8 + WIRE.bytes), varint(bytes.length), bytes]);

function varint(n: number): Buffer {
  if (n >= 0 && n < 0x80) return Buffer.of(n);
  const out: number[] = [];
  // Negative numbers are 64-bit two's complement: ten bytes.
  let v = BigInt.asUintN(64, BigInt(n));
  while (v > 0x7fn) {
    out.push(Number(v & 0x7fn) | 0x80);
    v >>= 7n;
  }
  out.push(Number(v));
  return Buffer.from(out);
}

class Reader {
  #at = 0;
  readonly #buf: Buffer;
  constructor(
    bytes: Uint8Array,
    readonly what: string,
  ) {
    this.#buf = Buffer.isBuffer(bytes)
      ? bytes
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  get done(): boolean {
    return this.#at >= this.#buf.length;
  }
  #torn = () => new Error(`${this.what}: torn message`);

  /** As a signed 64-bit number. */
  varint(): number {
    let low = 0;
    let scale = 1;
    for (let i = 0; i < 7; i++) {
      const b = this.#buf[this.#at++];
      if (b === undefined) throw this.#torn();
      low += (b & 0x7f) * scale;
      if (b < 0x80) return low;
      scale *= 128;
    }
    let v = BigInt(low);
    for (let shift = 49n; shift < 70n; shift += 7n) {
      const b = this.#buf[this.#at++];
      if (b === undefined) throw this.#torn();
      v |= BigInt(b & 0x7f) << shift;
      if (b < 0x80) return Number(BigInt.asIntN(64, v));
    }
    throw new Error(`${this.what}: overlong number`);
  }
  bytes(): Buffer {
    const length = this.varint();
    const end = this.#at + length;
    if (length < 0 || end > this.#buf.length) throw this.#torn();
    const out = this.#buf.subarray(this.#at, end);
    this.#at = end;
    return out;
  }
  skip(wire: number): void {
    if (wire === WIRE.varint) this.varint();
    else if (wire === WIRE.bytes) this.bytes();
    else if (wire === WIRE.fixed64 || wire === WIRE.fixed32) {
      this.#at += wire === WIRE.fixed64 ? 8 : 4;
      if (this.#at > this.#buf.length) throw this.#torn();
    } else throw new Error(`${this.what}: unknown wire type ${wire}`);
  }
}

function entry(data: Buffer, what: string): [string, string] {
  const r = new Reader(data, what);
  let key = '';
  let value = '';
  while (!r.done) {
    const tag = r.varint();
    if (tag === 10) key = r.bytes().toString('utf8');
    else if (tag === 18) value = r.bytes().toString('utf8');
    else r.skip(tag % 8);
  }
  return [key, value];
}
