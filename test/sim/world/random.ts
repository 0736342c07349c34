/** Makes `node:crypto` draw from the seed while a world exists: uids, session numbers and nonces are part of the replay. */
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';

type Crypto = { -readonly [K in keyof typeof crypto]: (typeof crypto)[K] };

/** Until the returned function is called. */
export function seedCrypto(random: () => number): () => void {
  const real = { randomBytes: crypto.randomBytes, randomUUID: crypto.randomUUID };
  const bytes = (n: number): Buffer =>
    Buffer.from(Array.from({ length: n }, () => Math.floor(random() * 256)));
  const c = crypto as Crypto;
  c.randomBytes = ((n: number) => bytes(n)) as typeof crypto.randomBytes;
  c.randomUUID = () => {
    const b = bytes(16);
    b[6] = (b[6]! & 0x0f) | 0x40;
    b[8] = (b[8]! & 0x3f) | 0x80;
    const h = b.toString('hex');
    return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
  };
  syncBuiltinESMExports();
  return () => {
    Object.assign(c, real);
    syncBuiltinESMExports();
  };
}
