/**
 * Bytes on the wire: version, flags, type, and a JSON body that is deflated with a shared dictionary where it pays.
 * Downlink frames carry a counter and the hub's Ed25519 signature, and can be sealed to the node's key. docs/wire.md
 * has the layout.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPublicKey,
  diffieHellman,
  ECDH,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  verify,
} from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { DICTIONARY } from './dictionary.js';
import { LIMITS } from './topics.js';

export const WIRE_VERSION = 1;

const DEFLATED = 1;
const SEALED = 2;
const FRAGMENT = 4;
/** Bits 4-5: how the body is encoded. 2 and 3 are free for others (CBOR, protobuf). */
const ENCODING_MASK = 0x30;
const JSON_BODY = 0x00;
const RAW_BODY = 0x10;
const KNOWN_FLAGS = DEFLATED | SEALED | FRAGMENT | ENCODING_MASK;

const SIGNATURE = 64;
const MIN_DEFLATE = 64;

/** A message that breaks the protocol; it is dropped and counted, never answered. */
export class WireError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'WireError';
  }
}

export interface Frame {
  type: number;
  /** JSON value, or the bytes of a raw message. */
  body: unknown;
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

/** `session` is the agent's random number of this connection, empty for messages that belong to none. */
export const signingContext = (node: string, channel: string, session: string): Uint8Array =>
  Buffer.from(`coxswain/1\0${node}\0${channel}\0${session}\0`);

// --- bodies -----------------------------------------------------------------------------------------------------

function packBody(body: unknown): { flags: number; bytes: Buffer } {
  const raw = body instanceof Uint8Array;
  const plain = raw
    ? Buffer.from(body.buffer, body.byteOffset, body.byteLength)
    : Buffer.from(body === undefined ? '' : JSON.stringify(body));
  const encoding = raw ? RAW_BODY : JSON_BODY;
  if (plain.length >= MIN_DEFLATE) {
    const small = deflateRawSync(plain, { dictionary: DICTIONARY, level: 6 });
    if (small.length < plain.length) return { flags: encoding | DEFLATED, bytes: small };
  }
  return { flags: encoding, bytes: plain };
}

function unpackBody(flags: number, bytes: Buffer, maxInflated: number): unknown {
  let plain = bytes;
  if (flags & DEFLATED) {
    try {
      plain = inflateRawSync(bytes, { dictionary: DICTIONARY, maxOutputLength: maxInflated });
    } catch (e) {
      throw new WireError(`cannot inflate: ${(e as Error).message}`);
    }
  }
  const encoding = flags & ENCODING_MASK;
  if (encoding === RAW_BODY) return plain;
  if (encoding !== JSON_BODY) throw new WireError(`unknown encoding ${encoding >> 4}`);
  if (plain.length === 0) return undefined;
  try {
    return JSON.parse(plain.toString('utf8'));
  } catch {
    throw new WireError('body is not JSON');
  }
}

/** JSON bytes as they are kept on disk: deflated with the same dictionary. */
export const packJson = (value: unknown): Buffer =>
  deflateRawSync(Buffer.from(JSON.stringify(value)), { dictionary: DICTIONARY });

export function unpackJson(bytes: Uint8Array): unknown {
  return unpackBody(DEFLATED | JSON_BODY, Buffer.from(bytes), 4 * LIMITS.inflated);
}

// --- sealing ----------------------------------------------------------------------------------------------------

/** Uncompressed and compressed forms of P-256 points; JWK and SPKI are the long way round. */
const SPKI_P256 = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');

const pointOf = (key: KeyObject): Buffer => key.export({ type: 'spki', format: 'der' }).subarray(-65);

const compress = (point: Buffer): Buffer =>
  Buffer.concat([Buffer.from([2 + (point[64]! & 1)]), point.subarray(1, 33)]);

function publicFromCompressed(point: Buffer): KeyObject {
  const raw = ECDH.convertKey(point, 'prime256v1', undefined, undefined, 'uncompressed') as Buffer;
  return createPublicKey({ key: Buffer.concat([SPKI_P256, raw]), format: 'der', type: 'spki' });
}

const sealKey = (secret: Buffer, ephemeral: Buffer, context: Uint8Array): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, ephemeral, Buffer.concat([Buffer.from('cox-seal'), context]), 32));

/** The key is used once, so a constant nonce is sound. */
const NONCE = Buffer.alloc(12);

/** ECDH with a fresh P-256 key, HKDF-SHA256, AES-256-GCM: 33 bytes of point, ciphertext, 16 bytes of tag. */
export function seal(plain: Uint8Array, to: KeyObject, context: Uint8Array): Buffer {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const point = compress(pointOf(publicKey));
  const secret = diffieHellman({ privateKey, publicKey: to });
  const cipher = createCipheriv('aes-256-gcm', sealKey(secret, point, context), NONCE);
  return Buffer.concat([point, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

/** Throws WireError when it was not sealed to this key in this context, or was changed on the way. */
export function unseal(sealed: Buffer, privateKey: KeyObject, context: Uint8Array): Buffer {
  try {
    const point = sealed.subarray(0, 33);
    const secret = diffieHellman({ privateKey, publicKey: publicFromCompressed(point) });
    const decipher = createDecipheriv('aes-256-gcm', sealKey(secret, point, context), NONCE);
    decipher.setAuthTag(sealed.subarray(-16));
    return Buffer.concat([decipher.update(sealed.subarray(33, -16)), decipher.final()]);
  } catch {
    throw new WireError('cannot unseal');
  }
}

// --- frames -----------------------------------------------------------------------------------------------------

export interface EncodeOptions {
  /** Downlink: number and sign every frame. */
  signer?: Signer;
  /** Seal the body to this public key (needs a signer for its context). */
  sealTo?: KeyObject;
}

/** One message as one or more MQTT payloads, in the order in which they must be sent. */
export function encode(type: number, body: unknown, options: EncodeOptions = {}): Buffer[] {
  const packed = packBody(body);
  let { flags, bytes } = packed;
  if (options.sealTo) {
    bytes = seal(bytes, options.sealTo, options.signer?.context ?? Buffer.alloc(0));
    flags |= SEALED;
  }
  if (bytes.length > LIMITS.message)
    throw new WireError(`message of ${bytes.length} bytes is larger than ${LIMITS.message}`);
  const room = LIMITS.frame - 16 - SIGNATURE;
  const total = Math.max(1, Math.ceil(bytes.length / room));
  const frames: Buffer[] = [];
  for (let i = 0; i < total; i++) {
    const head: number[] = [WIRE_VERSION, total > 1 ? flags | FRAGMENT : flags, type];
    if (options.signer) {
      const c = ++options.signer.counter;
      head.push((c >>> 24) & 255, (c >>> 16) & 255, (c >>> 8) & 255, c & 255);
    }
    if (total > 1) head.push(i >> 8, i & 255, total >> 8, total & 255);
    const frame = Buffer.concat([Buffer.from(head), bytes.subarray(i * room, (i + 1) * room)]);
    frames.push(
      options.signer
        ? Buffer.concat([frame, options.signer.sign(Buffer.concat([options.signer.context, frame]))])
        : frame,
    );
  }
  return frames;
}

export interface DecoderOptions {
  /** Downlink: check signature and counter of every frame before anything else is looked at. */
  verifier?: () => Verifier;
  unsealWith?: KeyObject;
  maxMessage?: number;
  maxInflated?: number;
}

/** Puts messages together again. One per sender and channel; holds at most one unfinished message. */
export class Decoder {
  #parts: Buffer[] = [];
  #partial: { type: number; total: number; bytes: number } | undefined;

  constructor(private readonly options: DecoderOptions = {}) {}

  /** A whole message, or undefined while fragments are missing. Throws WireError. */
  push(payload: Uint8Array): Frame | undefined {
    let frame = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
    if (frame.length > LIMITS.frame) throw new WireError('frame too large');
    const verifier = this.options.verifier?.();
    const headLength = verifier ? 7 : 3;
    if (frame.length < headLength + (verifier ? SIGNATURE : 0)) throw new WireError('frame too short');
    if (frame[0] !== WIRE_VERSION)
      throw new WireError(`wire version ${frame[0]}; this side speaks ${WIRE_VERSION}`);
    if (verifier) {
      const signed = frame.subarray(0, -SIGNATURE);
      const signature = frame.subarray(-SIGNATURE);
      if (!verify(null, Buffer.concat([verifier.context, signed]), verifier.key, signature))
        throw new WireError('bad signature');
      const counter = frame.readUInt32BE(3);
      if (counter <= verifier.counter) throw new WireError('replayed or late frame');
      verifier.counter = counter;
      frame = signed;
    }
    const flags = frame[1]!;
    const type = frame[2]!;
    if (flags & ~KNOWN_FLAGS) throw new WireError(`unknown flags ${flags}`);
    let bytes = frame.subarray(headLength);
    if (flags & FRAGMENT) {
      const whole = this.#assemble(type, bytes);
      if (!whole) return undefined;
      bytes = whole;
    }
    if (flags & SEALED) {
      if (!this.options.unsealWith) throw new WireError('sealed, and no key to open it');
      bytes = unseal(bytes, this.options.unsealWith, verifier?.context ?? Buffer.alloc(0));
    }
    return { type, body: unpackBody(flags, bytes, this.options.maxInflated ?? LIMITS.inflated) };
  }

  #assemble(type: number, part: Buffer): Buffer | undefined {
    if (part.length < 4) throw new WireError('fragment too short');
    const index = part.readUInt16BE(0);
    const total = part.readUInt16BE(2);
    const bytes = part.subarray(4);
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

/** The name of a public key, 16 characters: base64url of the first 12 bytes of the SHA-256 of its SPKI. */
export const keyId = (key: KeyObject): string =>
  createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest()
    .subarray(0, 12)
    .toString('base64url');
