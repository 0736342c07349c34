/**
 * Reads Kubernetes' protobuf form of an object (apimachinery serializer/protobuf), in which Go clients send the kinds
 * that they know. Answers are never given in it: every client takes JSON as well. Types come from the generated
 * definitions, field numbers from PROTOBUF_FIELDS.
 */
import { rfc3339, rfc3339Micro } from '../../api/clock.js';
import { fieldDefinitions, type Schema } from '../../api/kinds/schema.js';
import { badRequest } from '../../api/meta/errors.js';
import { PROTOBUF_FIELDS } from './protobuf-fields.js';

const MAGIC = Buffer.from('k8s\0');
const MAX_DEPTH = 64;
const META = 'io.k8s.apimachinery.pkg.apis.meta.v1';
const EXTENSIONS = 'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1';

type Read = (r: Reader, wire: number, depth: number) => unknown;
interface Field {
  /** '' when the message's fields belong to the object around it. */
  name: string;
  form: 'one' | 'list' | 'map' | 'inline';
  read: Read;
  /** A zero value was set, not just left. */
  pointer: boolean;
  message?: Message;
}
type Message = Map<number, Field>;

interface Codec {
  /** `apps/v1 Deployment` → message */
  roots: Map<string, Message>;
  deleteOptions: Message;
}

let codec: Codec | undefined;

/** The object in a body, with its apiVersion and kind. Throws BadRequest. */
export function decodeProtobuf(body: Buffer): Record<string, unknown> {
  codec ??= compileCodec();
  const { roots, deleteOptions } = codec;
  if (!body.subarray(0, 4).equals(MAGIC)) throw malformed('it does not begin with "k8s\\0"');
  const envelope = new Reader(body, 4, body.length);
  let apiVersion = '';
  let kind = '';
  let raw: Buffer | undefined;
  while (!envelope.done()) {
    const [number, wire] = envelope.tag();
    if (number === 1) {
      const meta = envelope.message(wire);
      while (!meta.done()) {
        const [n, w] = meta.tag();
        if (n === 1) apiVersion = meta.bytes(w).toString('utf8');
        else if (n === 2) kind = meta.bytes(w).toString('utf8');
        else meta.skip(w);
      }
    } else if (number === 2) raw = envelope.bytes(wire);
    else if (number === 3) {
      if (envelope.bytes(wire).length > 0) throw malformed('its content is encoded');
    } else envelope.skip(wire);
  }
  if (!raw) throw malformed('it holds no object');
  const message = kind === 'DeleteOptions' ? deleteOptions : roots.get(`${apiVersion} ${kind}`);
  if (!message) throw badRequest(`no kind "${kind}" is registered for version "${apiVersion}"`);
  return { kind, apiVersion, ...readMessage(new Reader(raw, 0, raw.length), message, {}, 0) };
}

const malformed = (why: string) => badRequest(`the body is not valid Kubernetes protobuf: ${why}`);

function readMessage(
  r: Reader,
  message: Message,
  into: Record<string, unknown>,
  depth: number,
): Record<string, unknown> {
  if (depth > MAX_DEPTH) throw malformed(`it is nested deeper than ${MAX_DEPTH} levels`);
  while (!r.done()) {
    const [number, wire] = r.tag();
    const f = message.get(number);
    if (!f) r.skip(wire);
    else if (f.form === 'inline') readMessage(r.message(wire), f.message!, into, depth + 1);
    else if (f.form === 'list') {
      let list = into[f.name] as unknown[] | undefined;
      if (!list) {
        list = [];
        into[f.name] = list;
      }
      list.push(f.read(r, wire, depth + 1));
    } else if (f.form === 'map') {
      let map = into[f.name] as Record<string, unknown> | undefined;
      if (!map) {
        map = {};
        into[f.name] = map;
      }
      readEntry(r.message(wire), f, map, depth + 1);
    } else {
      const value = f.read(r, wire, depth + 1);
      if (value !== undefined && (f.pointer || !isZero(value))) into[f.name] = value;
    }
  }
  return into;
}

function readEntry(r: Reader, f: Field, map: Record<string, unknown>, depth: number): void {
  let key = '';
  let value: unknown;
  while (!r.done()) {
    const [number, wire] = r.tag();
    if (number === 1) key = r.bytes(wire).toString('utf8');
    else if (number === 2) value = f.read(r, wire, depth);
    else r.skip(wire);
  }
  if (key === '__proto__') throw badRequest('the key "__proto__" is not allowed');
  map[key] = value ?? '';
}

/** What Go leaves out of JSON for a field that is no pointer. */
const isZero = (v: unknown): boolean =>
  v === '' || v === 0 || v === false || (typeof v === 'object' && v !== null && Object.keys(v).length === 0);

/** Bytes of one message. Everything is bounds-checked: the bytes come from anyone. */
class Reader {
  constructor(
    private readonly buffer: Buffer,
    private pos: number,
    private readonly end: number,
  ) {}

  done(): boolean {
    return this.pos >= this.end;
  }

  tag(): [number: number, wire: number] {
    const t = this.varint();
    return [Math.floor(t / 8), t & 7];
  }

  /** A 64-bit two's complement integer; exact up to 2^53. */
  varint(): number {
    let low = 0;
    let high = 0;
    for (let i = 0; i < 10; i++) {
      if (this.pos >= this.end) throw malformed('it ends within a number');
      const b = this.buffer[this.pos++]!;
      const bits = b & 0x7f;
      if (i < 4) low += bits * 2 ** (7 * i);
      else if (i === 4) {
        low += (bits & 0x0f) * 2 ** 28;
        high = bits >> 4;
      } else if (i < 9) high += bits * 2 ** (7 * i - 32);
      else high += (bits & 1) * 2 ** 31;
      if (b < 0x80) return (high >= 2 ** 31 ? high - 2 ** 32 : high) * 2 ** 32 + low;
    }
    throw malformed('a number is longer than ten bytes');
  }

  bytes(wire: number): Buffer {
    if (wire !== 2) throw malformed(`wire type ${wire} where bytes must be`);
    const length = this.varint();
    if (length < 0 || length > this.end - this.pos) throw malformed('a field is longer than what holds it');
    const out = this.buffer.subarray(this.pos, this.pos + length);
    this.pos += length;
    return out;
  }

  message(wire: number): Reader {
    const b = this.bytes(wire);
    return new Reader(b, 0, b.length);
  }

  fixed(bytes: 4 | 8): number {
    if (this.end - this.pos < bytes) throw malformed('it ends within a number');
    const value = bytes === 8 ? this.buffer.readDoubleLE(this.pos) : this.buffer.readFloatLE(this.pos);
    this.pos += bytes;
    return value;
  }

  skip(wire: number): void {
    if (wire === 0) this.varint();
    else if (wire === 1) this.fixed(8);
    else if (wire === 2) this.bytes(wire);
    else if (wire === 5) this.fixed(4);
    else throw malformed(`unknown wire type ${wire}`);
  }
}

const readText: Read = (r, wire) => r.bytes(wire).toString('utf8');
const readBase64: Read = (r, wire) => r.bytes(wire).toString('base64');
const readNumber: Read = (r, wire) => {
  if (wire === 0) return r.varint();
  if (wire === 1) return r.fixed(8);
  if (wire === 5) return r.fixed(4);
  throw malformed(`wire type ${wire} where a number must be`);
};
/** A list inside a map: a message whose one field is the list (authorization/v1 ExtraValue). */
const readTexts: Read = (r, wire) => {
  const m = r.message(wire);
  const out: string[] = [];
  while (!m.done()) {
    const [n, w] = m.tag();
    if (n === 1) out.push(m.bytes(w).toString('utf8'));
    else m.skip(w);
  }
  return out;
};
const readBoolean: Read = (r, wire) => readNumber(r, wire, 0) !== 0;

/** A small message as its fields by number, for the types that JSON has as one value. */
function parts(r: Reader, wire: number): Map<number, number | Buffer> {
  const m = r.message(wire);
  const out = new Map<number, number | Buffer>();
  while (!m.done()) {
    const [n, w] = m.tag();
    out.set(n, w === 2 ? m.bytes(w) : (readNumber(m, w, 0) as number));
  }
  return out;
}
const partText = (v: number | Buffer | undefined): string => (Buffer.isBuffer(v) ? v.toString('utf8') : '');
const partNumber = (v: number | Buffer | undefined): number => (typeof v === 'number' ? v : 0);

const readTime =
  (micro: boolean): Read =>
  (r, wire) => {
    const p = parts(r, wire);
    if (p.size === 0) return undefined;
    const ms = partNumber(p.get(1)) * 1000 + partNumber(p.get(2)) / 1e6;
    if (Math.abs(ms) > 8.64e15) throw malformed('a time is out of range');
    return micro ? rfc3339Micro(ms) : rfc3339(ms);
  };
const readJson: Read = (r, wire) => {
  const text = partText(parts(r, wire).get(1));
  if (text === '') return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw malformed('an embedded object is not JSON');
  }
};

/** Types that are messages on the wire and one value in JSON. */
const SPECIAL: Readonly<Record<string, Read>> = {
  'io.k8s.apimachinery.pkg.api.resource.Quantity': (r, wire) => partText(parts(r, wire).get(1)),
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString': (r, wire) => {
    const p = parts(r, wire);
    return partNumber(p.get(1)) === 1 ? partText(p.get(3)) : partNumber(p.get(2));
  },
  [`${META}.Time`]: readTime(false),
  [`${META}.MicroTime`]: readTime(true),
  [`${META}.FieldsV1`]: readJson,
  'io.k8s.apimachinery.pkg.runtime.RawExtension': readJson,
  [`${EXTENSIONS}.JSON`]: readJson,
};

/** A schema or something else in its stead: `numbers` are those of the schema and, where there may be one, of a boolean. */
const readEither =
  (schema: Read, numbers: { schema: number; allows?: number }): Read =>
  (r, wire, depth) => {
    const m = r.message(wire);
    let found: unknown;
    let allows = false;
    while (!m.done()) {
      const [n, w] = m.tag();
      if (n === numbers.schema) found = schema(m, w, depth + 1);
      else if (n === numbers.allows) allows = m.varint() !== 0;
      else m.skip(w);
    }
    return found ?? (numbers.allows ? allows : undefined);
  };

/** Compiles every message once. */
function compileCodec(): Codec {
  const definitions = fieldDefinitions();
  const rows = new Map<string, string[]>();
  for (const line of PROTOBUF_FIELDS.replace(/\n {2}/g, ' ')
    .trim()
    .split('\n')) {
    const colon = line.indexOf(': ');
    rows.set(line.slice(0, colon), line.slice(colon + 2).split(', '));
  }
  const messages = new Map<string, Message>();

  /** `row` names the message, `properties` are the JSON object's that its fields are read into. */
  const compile = (row: string, properties: Record<string, Schema>, into: string): Message => {
    const id = row === into ? row : `${into}+${row}`;
    const known = messages.get(id);
    if (known) return known;
    const message: Message = new Map();
    messages.set(id, message);
    for (const cell of rows.get(row) ?? []) {
      const [label = '', number] = cell.split(' ');
      const pointer = label.endsWith('?');
      const name = pointer ? label.slice(0, -1) : label;
      if (name.startsWith('+')) {
        const inner = compile(name.slice(1), properties, into);
        message.set(Number(number), { name: '', form: 'inline', read: readText, pointer, message: inner });
        continue;
      }
      const p = properties[name];
      // A field that the schemas do not know is skipped, as any unknown one.
      if (!p) continue;
      const form = p.items ? 'list' : p.additionalProperties ? 'map' : 'one';
      message.set(Number(number), {
        name,
        form,
        read: readerOf(p.items ?? p.additionalProperties ?? p, `${row}.${name}`),
        pointer,
      });
    }
    return message;
  };

  const schemaReader = (): Read => readerOf({ $ref: `#/definitions/${EXTENSIONS}.JSONSchemaProps` }, '');

  const readerOf = (p: Schema, field: string): Read => {
    // In JSON it is the schema itself, as lists of schemas are not served.
    if (field === `${EXTENSIONS}.JSONSchemaProps.items`) return readEither(schemaReader(), { schema: 1 });
    if (p.$ref) {
      const name = p.$ref.slice('#/definitions/'.length);
      if (name === `${EXTENSIONS}.JSONSchemaPropsOrBool`)
        return readEither(schemaReader(), { schema: 2, allows: 1 });
      const special = SPECIAL[name];
      if (special) return special;
      const message = compile(name, definitions[name]?.properties ?? {}, name);
      return (r, wire, depth) => readMessage(r.message(wire), message, {}, depth);
    }
    if (p.type === 'array') return readTexts;
    if (p.type === 'integer' || p.type === 'number') return readNumber;
    if (p.type === 'boolean') return readBoolean;
    return p.format === 'byte' ? readBase64 : readText;
  };

  const roots = new Map<string, Message>();
  for (const [name, d] of Object.entries(definitions)) {
    for (const g of d['x-kubernetes-group-version-kind'] ?? []) {
      const apiVersion = g.group ? `${g.group}/${g.version}` : g.version;
      roots.set(`${apiVersion} ${g.kind}`, compile(name, d.properties ?? {}, name));
    }
  }
  const deleteOptions = definitions[`${META}.DeleteOptions`]!;
  return {
    roots,
    deleteOptions: compile(`${META}.DeleteOptions`, deleteOptions.properties ?? {}, `${META}.DeleteOptions`),
  };
}
