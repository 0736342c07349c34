import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatToken, parseToken } from '../api/wire/join.js';
import { UsageError } from './flags.js';
import { parseDuration, token } from './token.js';

describe('join tokens', () => {
  const hex = fc.stringMatching(/^[0-9a-f]{64}$/);
  it('come back from their text, and nothing cut off or mistyped does', () => {
    fc.assert(
      fc.property(hex, fc.integer({ min: 1, max: 200 }), (hash, cut) => {
        const t = {
          addresses: ['10.0.0.1:8883', '[fd00::1]:8883'],
          caHash: `sha256:${hash}`,
          id: 'abc123',
          secret: 'abcdef0123456789',
        };
        const text = formatToken(t);
        expect(parseToken(` ${text}\n`)).toEqual(t);
        const short = text.slice(0, -Math.min(cut, text.length));
        let parsed: unknown;
        try {
          parsed = parseToken(short);
        } catch (e) {
          expect((e as Error).message).toMatch(/not a join token.*cox token create/);
        }
        // A cut inside the last address may leave a valid one; nothing else may pass.
        if (parsed) expect(parsed).toMatchObject({ caHash: t.caHash, id: t.id, secret: t.secret });
      }),
    );
  });
});

describe('cox token', () => {
  it('reads durations', () => {
    expect(parseDuration('ttl', '24h')).toBe(86_400_000);
    expect(parseDuration('ttl', '1h30m')).toBe(5_400_000);
    for (const bad of ['', '24', 'h', '-1h', '1 h', '0s', '1y', '99999999d'])
      expect(() => parseDuration('ttl', bad), bad).toThrow(UsageError);
  });
  it('says what is missing', async () => {
    await expect(token(['create', '--data-dir', '/nonexistent'])).rejects.toThrow(/start the hub first/);
    await expect(token(['make'])).rejects.toThrow(/cox token create/);
    await expect(token(['create', '--uses', '0'])).rejects.toThrow(/--uses/);
  });
});
