/**
 * Bytes on the wire: version, flags, type, and a JSON body that is deflated with a shared dictionary where it pays.
 * Frames of a session are numbered and sealed with its keys (session.ts); what the hub says before there is one is
 * numbered and signed by it. docs/wire.md has the layout.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPublicKey,
  type KeyObject,
  verify,
} from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { LIMITS } from './topics.js';
import { GREETING, type WireFormat } from './versions.js';

const DEFLATED = 1;
const SEALED = 2;
const FRAGMENT = 4;
/** Bits 4-5: how the body is encoded. 2 and 3 are free for others (CBOR, protobuf). */
const ENCODING_MASK = 0x30;
const JSON_BODY = 0x00;
const RAW_BODY = 0x10;
const KNOWN_FLAGS = DEFLATED | SEALED | FRAGMENT | ENCODING_MASK;

const SIGNATURE = 64;
const TAG = 16;
const CIPHER = 'chacha20-poly1305';
const MAX_COUNTER = 0xffffffff;
const MIN_DEFLATE = 64;

/** A message that breaks the protocol; it is dropped and counted, never answered. */
export class WireError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'WireError';
  }
}

/** What cannot be unpacked, after work for up to `size` bytes. */
export class BombError extends WireError {
  constructor(
    message: string,
    readonly size: number,
  ) {
    super(message);
  }
}

export interface Frame {
  type: number;
  /** JSON value, or the bytes of a raw message. */
  body: unknown;
}

export interface Received extends Frame {
  /** Bytes of the body, unpacked. */
  size: number;
}

/** Signs, checks and numbers the frames of one session and channel. */
export interface Signer {
  /** What the signature covers besides the frame: node, channel and session, so that nothing can be replayed elsewhere. */
  context: Uint8Array;
  counter: number;
  sign(data: Uint8Array): Uint8Array;
}

export interface Verifier {
  context: Uint8Array;
  /** Of the last frame accepted. */
  counter: number;
  key: KeyObject;
}

/** Seals or opens the frames of one session, channel and direction: the number is the nonce and never comes twice. */
export interface SealKey {
  /** 32 bytes. */
  key: Uint8Array;
  /** Of the last frame sealed, or accepted. */
  counter: number;
}

/** `session` is the agent's random number of this connection, empty for messages that belong to none. */
export const signingContext = (node: string, channel: string, session: string): Uint8Array =>
  Buffer.from(`coxswain/2\0${node}\0${channel}\0${session}\0`);

// --- bodies -----------------------------------------------------------------------------------------------------

function packBody(body: unknown, { dictionary }: WireFormat): { flags: number; bytes: Buffer } {
  const raw = body instanceof Uint8Array;
  const plain = raw
    ? Buffer.from(body.buffer, body.byteOffset, body.byteLength)
    : Buffer.from(body === undefined ? '' : JSON.stringify(body));
  const encoding = raw ? RAW_BODY : JSON_BODY;
  if (plain.length >= MIN_DEFLATE) {
    const small = deflateRawSync(plain, { dictionary, level: 6 });
    if (small.length < plain.length) return { flags: encoding | DEFLATED, bytes: small };
  }
  return { flags: encoding, bytes: plain };
}

function unpackBody(
  flags: number,
  bytes: Buffer,
  maxInflated: number,
  { dictionary }: WireFormat,
): { body: unknown; size: number } {
  let plain = bytes;
  if (flags & DEFLATED) {
    try {
      plain = inflateRawSync(bytes, { dictionary, maxOutputLength: maxInflated });
    } catch (e) {
      throw new BombError(`cannot inflate: ${(e as Error).message}`, maxInflated);
    }
  }
  const encoding = flags & ENCODING_MASK;
  const size = plain.length;
  if (encoding === RAW_BODY) return { body: plain, size };
  if (encoding !== JSON_BODY) throw new WireError(`unknown encoding ${encoding >> 4}`);
  if (size === 0) return { body: undefined, size };
  try {
    return { body: JSON.parse(plain.toString('utf8')), size };
  } catch {
    throw new WireError('body is not JSON');
  }
}

/** JSON bytes as they are kept on disk: deflated with the dictionary of the greeting, so that no version misreads it. */
export const packJson = (value: unknown): Buffer =>
  deflateRawSync(Buffer.from(JSON.stringify(value)), { dictionary: GREETING.dictionary });

export function unpackJson(bytes: Uint8Array): unknown {
  return unpackBody(DEFLATED | JSON_BODY, Buffer.from(bytes), 4 * LIMITS.inflated, GREETING).body;
}

// --- sealing ----------------------------------------------------------------------------------------------------

function nonceOf(counter: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(counter, 8);
  return nonce;
}

/** ChaCha20-Poly1305 (RFC 8439): a Pi 4 has no AES instructions, and this takes the same time whatever the key. */
function seal(key: Uint8Array, counter: number, head: Buffer, plain: Buffer): Buffer {
  const cipher = createCipheriv(CIPHER, key, nonceOf(counter), { authTagLength: TAG });
  cipher.setAAD(head, { plaintextLength: plain.length });
  return Buffer.concat([head, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function unseal(key: Uint8Array, counter: number, head: Buffer, sealed: Buffer): Buffer {
  try {
    const decipher = createDecipheriv(CIPHER, key, nonceOf(counter), { authTagLength: TAG });
    decipher.setAAD(head, { plaintextLength: sealed.length - TAG });
    decipher.setAuthTag(sealed.subarray(-TAG));
    return Buffer.concat([decipher.update(sealed.subarray(0, -TAG)), decipher.final()]);
  } catch {
    throw new WireError('cannot unseal');
  }
}

// --- frames -----------------------------------------------------------------------------------------------------

/** At most one of `signer` and `sealer`. */
export interface EncodeOptions {
  /** Default: the greeting's. */
  format?: WireFormat;
  /** Number and sign every frame. */
  signer?: Signer;
  /** Number and seal every frame. */
  sealer?: SealKey;
}

/** One message as one or more MQTT payloads, in the order in which they must be sent. */
export function encode(
  type: number,
  body: unknown,
  { format = GREETING, signer, sealer }: EncodeOptions = {},
): Buffer[] {
  const { flags, bytes } = packBody(body, format);
  if (bytes.length > LIMITS.message)
    throw new WireError(`message of ${bytes.length} bytes is larger than ${LIMITS.message}`);
  const room = LIMITS.frame - 16 - SIGNATURE;
  const total = Math.max(1, Math.ceil(bytes.length / room));
  const numbered = signer ?? sealer;
  const frames: Buffer[] = [];
  for (let i = 0; i < total; i++) {
    const head: number[] = [format.version, flags | (total > 1 ? FRAGMENT : 0) | (sealer ? SEALED : 0), type];
    if (numbered) {
      if (numbered.counter >= MAX_COUNTER) throw new WireError('the session is used up');
      const c = ++numbered.counter;
      head.push((c >>> 24) & 255, (c >>> 16) & 255, (c >>> 8) & 255, c & 255);
    }
    if (total > 1) head.push(i >> 8, i & 255, total >> 8, total & 255);
    const part = bytes.subarray(i * room, (i + 1) * room);
    if (sealer) frames.push(seal(sealer.key, sealer.counter, Buffer.from(head), part));
    else {
      const frame = Buffer.concat([Buffer.from(head), part]);
      frames.push(
        signer ? Buffer.concat([frame, signer.sign(Buffer.concat([signer.context, frame]))]) : frame,
      );
    }
  }
  return frames;
}

/** At most one of `verifier` and `opener`: then frames without that protection are refused. */
export interface DecoderOptions {
  /** Default: the greeting's. Frames of another version are refused. */
  format?: WireFormat;
  /** Check signature and number of every frame before anything else is looked at. */
  verifier?: Verifier;
  /** Open every frame, and check its number. */
  opener?: SealKey;
  maxMessage?: number;
  maxInflated?: number;
}

/** Puts messages together again. One per sender, session and channel; holds at most one unfinished message. */
export class Decoder {
  #parts: Buffer[] = [];
  #partial: { type: number; total: number; bytes: number } | undefined;

  constructor(private readonly options: DecoderOptions = {}) {}

  /** A whole message, or undefined while fragments are missing. Throws WireError. */
  push(payload: Uint8Array): Received | undefined {
    const frame = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
    if (frame.length > LIMITS.frame) throw new WireError('frame too large');
    const { verifier, opener, format = GREETING } = this.options;
    const numbered = verifier ?? opener;
    const headLength = (numbered ? 7 : 3) + ((frame[1] ?? 0) & FRAGMENT ? 4 : 0);
    const proof = verifier ? SIGNATURE : opener ? TAG : 0;
    if (frame.length < headLength + proof) throw new WireError('frame too short');
    if (frame[0] !== format.version)
      throw new WireError(`a frame of wire version ${frame[0]} where ${format.version} is spoken`);
    const flags = frame[1]!;
    const type = frame[2]!;
    const head = frame.subarray(0, headLength);
    let bytes = frame.subarray(headLength, frame.length - (verifier ? SIGNATURE : 0));
    if (verifier) {
      const signed = frame.subarray(0, -SIGNATURE);
      const signature = frame.subarray(-SIGNATURE);
      if (!verify(null, Buffer.concat([verifier.context, signed]), verifier.key, signature))
        throw new WireError('bad signature');
    }
    if (((flags & SEALED) !== 0) !== (opener !== undefined))
      throw new WireError(opener ? 'not sealed' : 'sealed, and no key to open it');
    if (numbered) {
      const counter = frame.readUInt32BE(3);
      // Looked at before the costly part: whoever replays gets little work done here.
      if (counter <= numbered.counter) throw new WireError('replayed or late frame');
      if (opener) bytes = unseal(opener.key, counter, head, bytes);
      numbered.counter = counter;
    }
    if (flags & ~KNOWN_FLAGS) throw new WireError(`unknown flags ${flags}`);
    if (flags & FRAGMENT) {
      const whole = this.#assemble(type, head.subarray(-4), bytes);
      if (!whole) return undefined;
      bytes = whole;
    }
    return { type, ...unpackBody(flags, bytes, this.options.maxInflated ?? LIMITS.inflated, format) };
  }

  #assemble(type: number, place: Buffer, bytes: Buffer): Buffer | undefined {
    const index = place.readUInt16BE(0);
    const total = place.readUInt16BE(2);
    if (index === 0) {
      this.#parts = [];
      this.#partial = { type, total, bytes: 0 };
    }
    const p = this.#partial;
    const fits = p && p.type === type && p.total === total && this.#parts.length === index && index < total;
    if (!fits || p.bytes + bytes.length > (this.options.maxMessage ?? LIMITS.message)) {
      this.#parts = [];
      this.#partial = undefined;
      throw new WireError(fits ? 'message too large' : 'fragment out of place');
    }
    // A copy: the payload may be a view of a socket's buffer.
    this.#parts.push(Buffer.from(bytes));
    p.bytes += bytes.length;
    if (this.#parts.length < total) return undefined;
    const whole = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#partial = undefined;
    return whole;
  }
}

/** A raw Ed25519 public key (32 bytes) as a KeyObject. */
export const ed25519PublicKey = (raw: Uint8Array): KeyObject =>
  createPublicKey({
    key: Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), raw]),
    format: 'der',
    type: 'spki',
  });

/** Exporting a key costs as much as a signature, and a hub with a thousand nodes asks at every hello. */
const NAMES = new WeakMap<KeyObject, { spki: string; id: string }>();

function names(key: KeyObject): { spki: string; id: string } {
  let known = NAMES.get(key);
  if (!known) {
    const der = key.export({ type: 'spki', format: 'der' });
    const id = createHash('sha256').update(der).digest().subarray(0, 12).toString('base64url');
    known = { spki: der.toString('base64'), id };
    NAMES.set(key, known);
  }
  return known;
}

/** A public key's SPKI in base64. */
export const spkiOf = (key: KeyObject): string => names(key).spki;

/** The name of a public key, 16 characters: base64url of the first 12 bytes of the SHA-256 of its SPKI. */
export const keyId = (key: KeyObject): string => names(key).id;
