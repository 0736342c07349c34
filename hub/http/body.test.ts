import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isApiError } from '../../api/meta/errors.js';
import type { Duplicates } from '../registry/api.js';
import { decodeBody, MAX_DEPTH } from './body.js';

const decode = (text: string, type?: string) => decodeBody(Buffer.from(text), type);

describe('decodeBody', () => {
  it('reads JSON, with and without a content type', async () => {
    expect(await decode('{"a":[1,"[[["]}')).toEqual({ a: [1, '[[['] });
    expect(await decode('{"a":1}', 'application/json; charset=utf-8')).toEqual({ a: 1 });
  });

  it('reads YAML', async () => {
    expect(await decode('a: 1\nb:\n- x\n- y: "no"\n', 'application/yaml')).toEqual({
      a: 1,
      b: ['x', { y: 'no' }],
    });
  });

  it('gives places that share a YAML anchor objects of their own', async () => {
    const o = (await decode('a: &x {n: 1}\nb: *x\n', 'application/yaml')) as Record<string, object>;
    expect(o['a']).toEqual(o['b']);
    expect(o['a']).not.toBe(o['b']);
  });

  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${[...'bcdefghij']
    .map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefghi'[i]}`).join(',')}]`)
    .join('\n')}`;
  it.each([
    ['JSON that breaks off', '{"a":', 'application/json', /^unexpected end of JSON input$/],
    ['no JSON', 'a: 1', '', /^invalid character 'a' looking for beginning of value$/],
    ['JSON without a comma', '{"a":1 "b"}', '', /^invalid character '"' after object key:value pair$/],
    ['JSON without a key', '{1:1}', '', /^invalid character '1' looking for beginning of object key string$/],
    ['JSON with more after it', '{} x', '', /^invalid character 'x' after top-level value$/],
    ['broken YAML', 'a: [1', 'application/yaml', /not valid YAML/],
    ['an alias bomb', bomb, 'application/yaml', /alias/i],
    ['JSON too deep', '['.repeat(100_000) + ']'.repeat(100_000), '', /deeper than/],
    ['YAML too deep', '['.repeat(100_000) + ']'.repeat(100_000), 'application/yaml', /deep|YAML/],
    ['YAML keys of keys', `${'? '.repeat(1000)}x`, 'application/yaml', /deeper than/],
    ['a prototype', '{"metadata":{"__proto__":{"x":1}}}', '', /__proto__/],
    ['a prototype in escapes', '{"metadata":{"\\u005f_proto__":{"x":1}}}', '', /__proto__/],
    ['a prototype in YAML', 'a:\n  __proto__: {x: 1}', 'application/yaml', /__proto__/],
  ])('refuses %s', async (_what, text, type, message) => {
    await expect(decode(text, type)).rejects.toThrow(message);
    await expect(decode(text, type)).rejects.toMatchObject({ reason: 'BadRequest' });
  });

  it.each([
    ['{"a":1,"b":{"c":[{"d":1},{"d":1,"d":2}]},"a":[]}', ['b.c[1].d', 'a']],
    ['{"a":{"b":1},"c":{"b":1,"\\u0062":2}}', ['c.b']],
    ['{"a":"a","b":["a","a",{"a":"}"}],"c":"{\\"a\\":1,"}', []],
  ])('tells what is twice in %s', async (text, paths) => {
    const expected = paths.map((p) => `duplicate field "${p}"`);
    for (const type of ['application/json', 'application/yaml']) {
      const duplicates: Duplicates = { texts: [], order: new Map() };
      expect(await decodeBody(Buffer.from(text), type, duplicates)).toEqual(JSON.parse(text));
      expect(duplicates.texts).toEqual(expected);
    }
  });

  it('tells of everything that is twice, however deep and however it is written', async () => {
    type Json = string | number | null | Json[] | { members: [string, Json][] };
    const { json } = fc.letrec<{ json: Json }>((tie) => ({
      json: fc.oneof(
        { depthSize: 'small', withCrossShrink: true },
        fc.constantFrom<Json>(null, 1, 'a', ':', '"', '{"a":', '\\'),
        fc.array(tie('json'), { maxLength: 3 }),
        fc.record({
          members: fc.array(fc.tuple(fc.constantFrom('a', 'b', 'a"', ':', '1', ''), tie('json')), {
            maxLength: 4,
          }),
        }),
      ),
    }));
    /** The text, and how many members have a name that stood before them. */
    const write = (v: Json): [string, number] => {
      if (typeof v !== 'object' || v === null) return [JSON.stringify(v), 0];
      const parts = Array.isArray(v)
        ? v.map(write)
        : v.members.map(([k, x]): [string, number] => {
            const [text, n] = write(x);
            return [`${JSON.stringify(k)} : ${text}`, n];
          });
      const own = Array.isArray(v) ? 0 : v.members.length - new Set(v.members.map(([k]) => k)).size;
      const text = parts.map(([t]) => t).join(', ');
      return [Array.isArray(v) ? `[${text}]` : `{${text}}`, parts.reduce((sum, [, n]) => sum + n, own)];
    };
    await fc.assert(
      fc.asyncProperty(json, async (v) => {
        const [text, twice] = write(v);
        const duplicates: Duplicates = { texts: [], order: new Map() };
        expect(await decodeBody(Buffer.from(text), '', duplicates)).toEqual(JSON.parse(text));
        expect(duplicates.texts).toHaveLength(Math.min(twice, 32));
      }),
    );
  });

  it('tells what is twice in YAML', async () => {
    const duplicates: Duplicates = { texts: [], order: new Map() };
    const text = 'name: 1\nb: {c: 1, cd : 1, cd: 2}\nname: 2\n"x y": 1\n"x y": 2\na:b: 1\na:b :\n  - 2\n';
    expect(await decodeBody(Buffer.from(text), 'application/yaml', duplicates)).toEqual({
      name: 2,
      b: { c: 1, cd: 2 },
      'x y': 2,
      'a:b': [2],
    });
    expect(duplicates.texts).toEqual([
      'line 2: key "cd" already set in map',
      'line 3: key "name" already set in map',
      'line 5: key "x y" already set in map',
      'line 7: key "a:b" already set in map',
    ]);
  });

  it('reads YAML in flow style', async () => {
    expect(await decode('{a: 1, b: [x]}', 'application/yaml')).toEqual({ a: 1, b: ['x'] });
  });

  it('finds nothing twice in what JSON.stringify makes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue({ maxDepth: 6, noUnicodeString: false }), async (v) => {
        const text = JSON.stringify({ v });
        fc.pre(!text.includes('__proto__'));
        const duplicates: Duplicates = { texts: [], order: new Map() };
        await decodeBody(Buffer.from(text), undefined, duplicates);
        expect(duplicates.texts).toEqual([]);
        await decodeBody(Buffer.from(`${text.slice(0, -1)},"v":1}`), undefined, duplicates);
        expect(duplicates.texts).toEqual(['duplicate field "v"']);
      }),
    );
  });

  it('refuses other types, naming those it takes', async () => {
    await expect(decode('{}', 'text/plain')).rejects.toMatchObject({
      code: 415,
      message:
        'the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf',
    });
  });

  it('takes back every JSON value that is not too deep', async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue({ maxDepth: MAX_DEPTH / 8, noUnicodeString: false }), async (v) => {
        const text = JSON.stringify(v);
        fc.pre(!text.includes('__proto__'));
        expect(await decode(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  it('answers BadRequest to any bytes in any format', async () => {
    const type = fc.constantFrom(
      'application/json',
      'application/yaml',
      'application/vnd.kubernetes.protobuf',
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), type, fc.boolean(), async (bytes, t, magic) => {
        const body = Buffer.from(bytes);
        const sent = magic ? Buffer.concat([Buffer.from('k8s\0'), body]) : body;
        await decodeBody(sent, t).catch((e) => {
          if (!isApiError(e, 'BadRequest')) throw e;
        });
      }),
      { numRuns: 500 },
    );
  });
});
