import type * as crypto from 'node:crypto';
import { constants } from 'node:fs';

/** The programs are bundled to CommonJS. */
declare const require: (name: 'node:crypto') => typeof crypto;

const never = new Int32Array(new SharedArrayBuffer(4));

/** Sleeps in a way that SIGKILL and nothing else interrupts; `ms` may be infinite. */
export function pause(ms: number): void {
  Atomics.wait(never, 0, 0, ms);
}

/** open(2) flags for a file opened again. */
export function modeOf(read: boolean, write: boolean, append: boolean): number {
  return (
    (write ? (read ? constants.O_RDWR : constants.O_WRONLY) : constants.O_RDONLY) |
    (append ? constants.O_APPEND : 0)
  );
}

/** Fills with random bytes. OpenSSL takes a megabyte: it is loaded for those guests that ask for randomness. */
export function fillRandom(bytes: Uint8Array): void {
  require('node:crypto').randomFillSync(bytes);
}
