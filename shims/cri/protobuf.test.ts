import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadSync } from '@grpc/proto-loader';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Schema } from './protobuf.js';
import { protoOptions } from './testing/fake-cri.js';

const text = `syntax = "proto3";
package p;
service S { rpc Go(All) returns (stream Inner); }
enum Colour { RED = 0; GREEN = 1; BLUE = 7; }
message Inner { string name = 1; int64 number = 2; }
message All {
  string text_value = 1;
  bytes raw = 2;
  bool flag = 3;
  int32 small = 4;
  int64 big = 5;
  uint32 positive = 6;
  uint64 huge = 7;
  Colour colour = 8;
  Inner inner = 9;
  repeated string texts = 10;
  repeated int64 numbers = 11;
  repeated Inner inners = 12;
  map<string, string> pairs = 200;
}
`;
const int = (min: number, max: number) => fc.integer({ min, max });
const safe = Number.MAX_SAFE_INTEGER;
const inner = fc.record({ name: fc.string({ unit: 'binary' }), number: int(-safe, safe) });
const all = fc.record(
  {
    textValue: fc.string({ unit: 'binary' }),
    raw: fc.uint8Array({ maxLength: 300 }).map((a) => Buffer.from(a)),
    flag: fc.boolean(),
    small: int(-(2 ** 31), 2 ** 31 - 1),
    big: int(-safe, safe),
    positive: int(0, 2 ** 32 - 1),
    huge: int(0, safe),
    colour: fc.constantFrom('RED', 'GREEN', 'BLUE'),
    inner,
    texts: fc.array(fc.string()),
    numbers: fc.array(int(-safe, safe)),
    inners: fc.array(inner, { maxLength: 4 }),
    pairs: fc.dictionary(
      fc.string({ minLength: 1 }).filter((k) => k !== '__proto__'),
      fc.string(),
    ),
  },
  { requiredKeys: [] },
);

describe('protobuf', () => {
  const schema = new Schema(text);
  const plain = (m: object) => JSON.parse(JSON.stringify(m));

  it('gives back what it was given', () => {
    fc.assert(
      fc.property(all, (m) => {
        const back = schema.decode('All', schema.encode('All', m));
        for (const [k, v] of Object.entries(m)) expect(plain({ v: back[k] })).toEqual(plain({ v }));
      }),
    );
  });

  it('is understood by protobufjs and understands it, for every message of the CRI', async () => {
    const { writeFileSync, mkdtempSync, rmSync } = await import('node:fs');
    const dir = mkdtempSync('/tmp/proto-');
    try {
      writeFileSync(`${dir}/all.proto`, text);
      const go = (loadSync(`${dir}/all.proto`, protoOptions)['p.S'] as Record<string, unknown>)['Go'] as {
        requestSerialize(m: object): Buffer;
        requestDeserialize(b: Buffer): object;
      };
      fc.assert(
        fc.property(all, (m) => {
          const ours = schema.encode('All', m);
          const theirs = go.requestSerialize(m);
          const read = (b: Buffer) => plain(schema.decode('All', b));
          expect(read(theirs)).toEqual(read(ours));
          expect(plain(go.requestDeserialize(ours))).toEqual(plain(go.requestDeserialize(theirs)));
        }),
      );
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('fills what is absent with the defaults of proto3', () => {
    expect(plain(schema.decode('All', Buffer.alloc(0)))).toEqual({
      ...{ textValue: '', raw: plain(Buffer.alloc(0)), flag: false, small: 0, big: 0, positive: 0, huge: 0 },
      ...{ colour: 'RED', texts: [], numbers: [], inners: [], pairs: {} },
    });
  });

  it('skips fields it does not know, and shows unknown enum values as their number', () => {
    const wide = new Schema(
      text
        .replace('BLUE = 7;', 'BLUE = 7; MORE = 9;')
        .replace('int64 number = 2;', 'int64 number = 2; string extra = 99;'),
    );
    const bytes = wide.encode('All', { colour: 'MORE', inner: { name: 'n', extra: 'x', number: 5 } });
    expect(schema.decode('All', bytes)).toMatchObject({ colour: '9', inner: { name: 'n', number: 5 } });
  });

  it('refuses what it has no field for, and values that do not fit', () => {
    expect(() => schema.encode('All', { nonsense: 1 })).toThrow('All has no field nonsense');
    expect(() => schema.encode('All', { small: 'x' })).toThrow('small');
    expect(() => schema.encode('All', { colour: 'PINK' })).toThrow('colour');
    expect(() => schema.encode('All', { textValue: 3 })).toThrow('textValue');
  });

  it('ends with an error on any bytes, never with anything else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          schema.decode('All', bytes);
        } catch (e) {
          expect(e).toBeInstanceOf(Error);
          expect(e).not.toBeInstanceOf(RangeError);
        }
      }),
    );
  });

  it('a message cut anywhere is an error or a shorter message, never a wait', () => {
    const whole = schema.encode('All', { textValue: 'abc', inner: { name: 'n' }, pairs: { a: 'b' } });
    for (let n = 0; n < whole.length; n++) {
      try {
        schema.decode('All', whole.subarray(0, n));
      } catch (e) {
        expect((e as Error).message).toMatch(/torn/);
      }
    }
  });

  it('reads the two files that ship, whole', () => {
    for (const name of ['cri', 'containerd']) {
      const path = fileURLToPath(new URL(`./${name}.proto`, import.meta.url));
      const s = new Schema(readFileSync(path, 'utf8'));
      for (const message of s.messageNames) s.decode(message, s.encode(message, {}));
      // The same file must be valid to others: proto-loader throws if not.
      loadSync(path, protoOptions);
    }
    expect(() => new Schema('message A { oneof x { string y = 1; } }')).toThrow('.proto');
  });
});
