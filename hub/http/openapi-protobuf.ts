/**
 * An OpenAPI v2 document in the protobuf form (gnostic's openapiv2.Document), the only one that kubectl asks
 * `/openapi/v2` for: it does so when a manifest's kind is in no v3 document. Writes what this server's documents hold.
 */
type Json = Record<string, unknown>;

const list = (v: unknown): readonly unknown[] => (Array.isArray(v) ? v : []);
const entries = (v: unknown): [string, Json][] => Object.entries((v ?? {}) as Record<string, Json>);

function varint(n: number): number[] {
  const out: number[] = [];
  let rest = n;
  while (rest > 127) {
    out.push((rest & 127) | 128);
    rest = Math.floor(rest / 128);
  }
  out.push(rest);
  return out;
}

/** A length-delimited field. */
function bytes(field: number, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(body.length)]), body]);
}
const text = (field: number, v: unknown): Buffer =>
  typeof v === 'string' && v !== '' ? bytes(field, Buffer.from(v)) : Buffer.alloc(0);
const texts = (field: number, v: unknown): Buffer => Buffer.concat(list(v).map((s) => text(field, s)));
const flag = (field: number, v: unknown): Buffer =>
  v === true ? Buffer.from([...varint(field * 8), 1]) : Buffer.alloc(0);
const named = (field: number, name: string, value: Buffer): Buffer =>
  bytes(field, Buffer.concat([text(1, name), bytes(2, value)]));
/** `x-…` fields: their values travel as YAML, and JSON is YAML. */
const extensions = (field: number, o: Json): Buffer =>
  Buffer.concat(
    Object.entries(o)
      .filter(([k]) => k.startsWith('x-'))
      .map(([k, v]) => named(field, k, text(2, JSON.stringify(v)))),
  );

function schema(s: Json): Buffer {
  const parts = [
    text(1, s['$ref']),
    text(2, s['format']),
    text(4, s['description']),
    texts(19, s['required']),
    s['additionalProperties'] ? bytes(21, bytes(1, schema(s['additionalProperties'] as Json))) : undefined,
    s['type'] ? bytes(22, text(1, s['type'])) : undefined,
    s['items'] ? bytes(23, bytes(1, schema(s['items'] as Json))) : undefined,
    s['properties']
      ? bytes(25, Buffer.concat(entries(s['properties']).map(([k, v]) => named(1, k, schema(v)))))
      : undefined,
    extensions(31, s),
  ];
  return Buffer.concat(parts.filter((p) => p !== undefined));
}

/** Where a parameter's fields are: the messages for query and path differ in their numbers. */
const QUERY = { message: 3, required: 1, in: 2, description: 3, name: 4, type: 6, unique: 20 };
const PATH = { message: 4, required: 1, in: 2, description: 3, name: 4, type: 5, unique: 19 };

function parameter(p: Json): Buffer {
  if (p['in'] === 'body') {
    const body = [text(1, p['description']), text(2, p['name']), text(3, 'body'), flag(4, p['required'])];
    return bytes(1, bytes(1, Buffer.concat([...body, bytes(5, schema(p['schema'] as Json))])));
  }
  const at = p['in'] === 'path' ? PATH : QUERY;
  const fields = Buffer.concat([
    flag(at.required, p['required']),
    text(at.in, p['in']),
    text(at.description, p['description']),
    text(at.name, p['name']),
    text(at.type, p['type']),
    flag(at.unique, p['uniqueItems']),
  ]);
  return bytes(1, bytes(2, bytes(at.message, fields)));
}

function operation(o: Json): Buffer {
  const responses = entries(o['responses']).map(([code, r]) => {
    const body = r['schema'] ? bytes(2, bytes(1, schema(r['schema'] as Json))) : Buffer.alloc(0);
    return named(1, code, bytes(1, Buffer.concat([text(1, r['description']), body])));
  });
  return Buffer.concat([
    texts(1, o['tags']),
    text(3, o['description']),
    text(5, o['operationId']),
    texts(6, o['produces']),
    texts(7, o['consumes']),
    ...list(o['parameters']).map((p) => bytes(8, parameter(p as Json))),
    bytes(9, Buffer.concat(responses)),
    texts(10, o['schemes']),
    extensions(13, o),
  ]);
}

const METHODS: Readonly<Record<string, number>> = { get: 2, put: 3, post: 4, delete: 5, patch: 8 };

export function encodeOpenApiV2(document: object): Buffer {
  const d = document as Json;
  const info = d['info'] as Json;
  const paths = entries(d['paths']).map(([path, item]) => {
    const operations = Object.entries(METHODS).map(([m, field]) =>
      item[m] ? bytes(field, operation(item[m] as Json)) : Buffer.alloc(0),
    );
    const shared = list(item['parameters']).map((p) => bytes(9, parameter(p as Json)));
    return named(2, path, Buffer.concat([...operations, ...shared]));
  });
  return Buffer.concat([
    text(1, d['swagger']),
    bytes(2, Buffer.concat([text(1, info['title']), text(2, info['version'])])),
    bytes(8, Buffer.concat(paths)),
    bytes(9, Buffer.concat(entries(d['definitions']).map(([name, s]) => named(1, name, schema(s))))),
  ]);
}
