import { generateKeyPairSync, sign } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  Decoder,
  encode,
  packJson,
  type Signer,
  signingContext,
  unpackJson,
  type Verifier,
  WireError,
} from './codec.js';
import { packData, unpackData } from './messages.js';
import {
  applyDelta,
  canonical,
  digestOf,
  EMPTY_DIGEST,
  type Items,
  mergeDiff,
  mergePatch,
  planDelta,
} from './set.js';
import { HUB_SUBSCRIPTIONS, joinTopic, LIMITS, nodeTopic, parseTopic } from './topics.js';

const ed = generateKeyPairSync('ed25519');
const sealKey = () => ({ key: Buffer.alloc(32, 7), counter: 0 });
const context = signingContext('pi1', 'd', 'session');
const signer = (): Signer => ({ context, counter: 0, sign: (d) => sign(null, d, ed.privateKey) });
const verifier = (): Verifier => ({ context, counter: 0, key: ed.publicKey });

/** JSON objects without null, as the API has them. */
const json = fc
  .jsonValue({ maxDepth: 4 })
  .map((v) => JSON.parse(JSON.stringify(v, (_k, x) => (x === null ? 0 : x))));
const record = fc.dictionary(
  fc.string({ maxLength: 4 }).filter((k) => k !== '__proto__'),
  json,
  { maxKeys: 6 },
);

describe('codec', () => {
  it('brings any body back, signed, sealed or neither', () => {
    fc.assert(
      fc.property(json, fc.constantFrom('plain', 'signed', 'sealed'), (body, how) => {
        const ways = {
          plain: [{}, {}],
          signed: [{ signer: signer() }, { verifier: verifier() }],
          sealed: [{ sealer: sealKey() }, { opener: sealKey() }],
        } as const;
        const [out, back] = ways[how];
        const frames = encode(7, body, out);
        const d = new Decoder(back);
        expect(frames).toHaveLength(1);
        const { type, body: got } = d.push(frames[0]!)!;
        expect({ type, got }).toEqual({ type: 7, got: body });
      }),
      { numRuns: 60 },
    );
  });

  it('carries raw bytes and large messages in fragments, and refuses what is out of place', () => {
    const body = Buffer.from(Array.from({ length: 400_000 }, (_, i) => (i * 7919 * (i >> 3)) & 255));
    const big = body;
    const frames = encode(7, big, { signer: signer() });
    expect(frames.length).toBeGreaterThan(0);
    const d = new Decoder({ verifier: verifier() });
    let out: unknown;
    for (const f of frames) out = d.push(f)?.body;
    expect(Buffer.compare(out as Buffer, big)).toBe(0);

    const noisy = encode(7, seeded(300_000), {});
    expect(noisy.length).toBeGreaterThan(2);
    for (const f of noisy) expect(f.length).toBeLessThanOrEqual(LIMITS.frame);
    const e = new Decoder();
    e.push(noisy[0]!);
    expect(() => e.push(noisy[2]!)).toThrow(/out of place/);
    expect(() => e.push(noisy[1]!)).toThrow(/out of place/);
  });

  it('refuses a changed, replayed, reordered or foreign frame, signed or sealed', () => {
    for (const how of ['signed', 'sealed'] as const) {
      const out = how === 'signed' ? { signer: signer() } : { sealer: sealKey() };
      const back = () => (how === 'signed' ? { verifier: verifier() } : { opener: sealKey() });
      const [a] = encode(1, { x: 1 }, out);
      const [b] = encode(1, { x: 2 }, out);
      const d = new Decoder(back());
      for (let i = 0; i < a!.length; i++) {
        const bad = Buffer.from(a!);
        bad[i]! ^= 1;
        expect(() => d.push(bad), `${how}, byte ${i}`).toThrow(WireError);
      }
      for (let n = 0; n < a!.length; n++) expect(() => d.push(a!.subarray(0, n))).toThrow(WireError);
      expect(d.push(b!)?.body).toEqual({ x: 2 });
      expect(() => d.push(b!)).toThrow(/replayed/);
      expect(() => d.push(a!)).toThrow(/replayed/);
      const plain = encode(1, { x: 3 })[0]!;
      expect(() => new Decoder(back()).push(plain)).toThrow(WireError);
    }
    const [a] = encode(1, { x: 1 }, { signer: signer() });
    for (const foreign of [signingContext('pi2', 'd', 'session'), signingContext('pi1', 'd', 'another')])
      expect(() => new Decoder({ verifier: { ...verifier(), context: foreign } }).push(a!)).toThrow(
        /signature/,
      );
  });

  it('mixes no fragments of sealed messages', () => {
    const out = { sealer: sealKey() };
    const one = encode(7, seeded(300_000), out);
    const d = new Decoder({ opener: sealKey() });
    d.push(one[0]!);
    expect(() => d.push(one[2]!)).toThrow(/out of place/);
    const swapped = Buffer.from(one[1]!);
    swapped.writeUInt16BE(2, 7);
    expect(() => d.push(swapped)).toThrow(WireError);
  });

  it('never crashes on hostile bytes and never inflates past its limit', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          new Decoder().push(bytes);
        } catch (e) {
          expect(e).toBeInstanceOf(WireError);
        }
      }),
    );
    const bomb = encode(1, 'a'.repeat(5_000_000));
    expect(() => new Decoder({ maxInflated: 100_000 }).push(bomb[0]!)).toThrow(WireError);
  });

  it('packs JSON for disk and data frames', () => {
    expect(unpackJson(packJson({ a: [1] }))).toEqual({ a: [1] });
    expect(unpackData(packData(7, 3, 1, Buffer.from('x')))).toEqual({
      stream: 7,
      index: 3,
      sub: 1,
      bytes: Buffer.from('x'),
    });
    expect(unpackData(Buffer.alloc(3))).toBeUndefined();
  });
});

function seeded(n: number): Buffer {
  const out = Buffer.alloc(n);
  let a = 1;
  for (let i = 0; i < n; i++) {
    a = (Math.imul(a, 1664525) + 1013904223) >>> 0;
    out[i] = a >>> 24;
  }
  return out;
}

describe('topics', () => {
  it('parse back to what they were made from, and nothing else parses', () => {
    expect(parseTopic(nodeTopic('pi-1.lan', 's/u'))).toEqual({ node: 'pi-1.lan', channel: 's/u' });
    const id = `j-${'0f'.repeat(16)}`;
    expect(parseTopic(joinTopic(id, 'd'))).toEqual({ join: id, channel: 'd' });
    for (const t of [
      '',
      'cox/v1',
      'cox/v1/n/pi1/d',
      'cox/v2/n/system:node:a/d',
      'cox/v1/n/system:node:a/s',
      'cox/v1/j/x/u',
      `cox/v1/j/${id}/s/d`,
    ])
      expect(parseTopic(t), t).toBeUndefined();
    expect(HUB_SUBSCRIPTIONS).toHaveLength(3);
  });
});

const items = fc
  .dictionary(fc.constantFrom('p/a/x', 'p/a/y', 'c/a/x', 's/a/x', 'a/a/x', 'r//w'), record)
  .map(
    (o): Items => new Map(Object.entries(o).map(([k, object]) => [k, { hash: canonical(object), object }])),
  );

describe('desired sets', () => {
  it('merge patches lead from any object to any other', () => {
    fc.assert(
      fc.property(record, record, (a, b) => {
        const p = mergeDiff(a, b);
        if (p) expect(canonical(mergePatch(a, p))).toBe(canonical(b));
        else expect(canonical(b)).toContain('{');
      }),
    );
  });

  it('deltas, however small their steps, lead from what is held to what is wanted', () => {
    fc.assert(
      fc.property(items, items, fc.integer({ min: 1, max: 400 }), (from, to, max) => {
        let held: Items = from;
        for (let steps = 0; ; steps++) {
          const plan = planDelta(held, to, steps, max);
          if (!plan) break;
          const next = applyDelta(held, JSON.parse(JSON.stringify(plan.delta)));
          expect(next).toBeDefined();
          expect(digestOf(next!)).toBe(digestOf(plan.result));
          held = next!;
          expect(steps).toBeLessThan(20);
        }
        expect(digestOf(held)).toBe(digestOf(to));
        for (const [k, v] of to) expect(canonical(held.get(k)!.object)).toBe(canonical(v.object));
      }),
    );
  });

  it('a delta for another base is not applied', () => {
    const to: Items = new Map([['p/a/x', { hash: 'h', object: {} }]]);
    const { delta } = planDelta(new Map(), to, 1, 1000)!;
    expect(delta.b).toBe(EMPTY_DIGEST);
    expect(applyDelta(to, delta)).toBeUndefined();
    expect(applyDelta(new Map(), { ...delta, d: 'other' })).toBeUndefined();
  });
});
