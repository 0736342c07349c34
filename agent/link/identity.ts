/**
 * Who this device is to its hub. `DIR/node.key` is made here and never leaves; `DIR/identity.json` holds what the hub
 * answered to joining. Both 0600, written atomically.
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  X509Certificate,
} from 'node:crypto';
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../../api/files.js';
import { ed25519PublicKey } from '../../api/wire/codec.js';
import { NODE_CN_PREFIX } from '../../api/wire/topics.js';

/** Identity files that cannot be used; the message names the file and the remedy. */
export class IdentityError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'IdentityError';
  }
}

export interface Identity {
  node: string;
  key: KeyObject;
  publicKey: KeyObject;
  /** PEM. */
  cert: string;
  ca: string;
  /** The hub's Ed25519 key. */
  signingKey: KeyObject;
  /** `host:port`, best first. */
  addresses: string[];
  /** Where devices without a valid certificate are served. */
  joinAddresses: string[];
}

export interface IdentityFile {
  cert: string;
  ca: string;
  /** Raw Ed25519, base64. */
  signingKey: string;
  addresses: string[];
  /** Absent: as `addresses`. */
  joinAddresses?: string[];
}

const keyPath = (dir: string) => join(dir, 'node.key');
const identityPath = (dir: string) => join(dir, 'identity.json');

/** The device's key, made at the first call. Throws IdentityError on a file that is there and cannot be read. */
export function loadOrMakeKey(dir: string): KeyObject {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const path = keyPath(dir);
  if (existsSync(path)) {
    try {
      const key = createPrivateKey(readFileSync(path, 'utf8'));
      if (key.asymmetricKeyDetails?.namedCurve === 'prime256v1') return key;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'EACCES')
        throw new IdentityError(`${path} may not be read by this user. Run as its owner.`, { cause });
    }
    throw new IdentityError(
      `${path} is torn or corrupt. Restore it, or move it and ${identityPath(dir)} away and join again: ` +
        'cox agent --join TOKEN',
    );
  }
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writeFileAtomic(path, privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 0o600);
  return privateKey;
}

/** What an earlier joining left, or undefined before the first. Throws IdentityError. */
export function loadIdentity(dir: string): Identity | undefined {
  const path = identityPath(dir);
  if (!existsSync(path)) return undefined;
  const key = loadOrMakeKey(dir);
  try {
    return identityOf(JSON.parse(readFileSync(path, 'utf8')) as IdentityFile, key);
  } catch (cause) {
    throw new IdentityError(
      `${path} is torn or corrupt (${(cause as Error).message}). Restore it, or move it away and join again: ` +
        'cox agent --join TOKEN',
      { cause },
    );
  }
}

/** Checks that all of it belongs together. Throws an Error that says what does not. */
export function identityOf(file: IdentityFile, key: KeyObject): Identity {
  const cert = new X509Certificate(file.cert);
  const ca = new X509Certificate(file.ca);
  if (!cert.checkPrivateKey(key)) throw new Error('the certificate belongs to another key');
  if (!cert.verify(ca.publicKey)) throw new Error('the certificate is of another CA');
  const cn = cert.subject
    .split('\n')
    .find((l) => l.startsWith('CN='))
    ?.slice(3);
  if (!cn?.startsWith(NODE_CN_PREFIX)) throw new Error('the certificate names no node');
  const signingKey = Buffer.from(file.signingKey, 'base64');
  if (signingKey.length !== 32) throw new Error("the hub's signing key is missing");
  if (!Array.isArray(file.addresses) || file.addresses.length === 0) throw new Error('no addresses');
  return {
    node: cn.slice(NODE_CN_PREFIX.length),
    key,
    publicKey: createPublicKey(key),
    cert: file.cert,
    ca: file.ca,
    signingKey: ed25519PublicKey(signingKey),
    addresses: file.addresses.map(String),
    joinAddresses: (file.joinAddresses ?? file.addresses).map(String),
  };
}

export function saveIdentity(dir: string, file: IdentityFile): void {
  rmSync(revokedPath(dir), { force: true });
  writeFileAtomic(identityPath(dir), `${JSON.stringify(file, null, 2)}\n`, 0o600);
}

/**
 * Puts a newer certificate for the same node and key in place, on disk and in `identity`. Throws an Error when it is
 * for another, or cannot be written.
 */
export function renewCertificate(dir: string, identity: Identity, cert: string): void {
  const file = JSON.parse(readFileSync(identityPath(dir), 'utf8')) as IdentityFile;
  const next = { ...file, cert };
  if (identityOf(next, identity.key).node !== identity.node) throw new Error('it names another node');
  saveIdentity(dir, next);
  identity.cert = cert;
}

const revokedPath = (dir: string) => join(dir, 'revoked.json');

/**
 * Destroys what makes this device the node that it was: first the key, with which everything else here is encrypted.
 * Overwriting does not reach what flash memory has put elsewhere; docs/threat-model.md says what that means.
 */
export function eraseIdentity(dir: string, message: string, at: number): void {
  writeFileAtomic(
    revokedPath(dir),
    `${JSON.stringify({ at: new Date(at).toISOString(), message })}\n`,
    0o600,
  );
  for (const path of [keyPath(dir), identityPath(dir)])
    for (const p of [path, `${path}.torn`]) {
      if (!existsSync(p)) continue;
      const file = openSync(p, 'r+');
      writeSync(file, randomBytes(fstatSync(file).size));
      fsyncSync(file);
      closeSync(file);
      rmSync(p);
    }
  for (const name of ['desired.bin', 'desired.bin.torn', 'registry'])
    rmSync(join(dir, name), { force: true });
}

/** What the hub said when it revoked this device; undefined when it did not. */
export function revokedMessage(dir: string): string | undefined {
  if (!existsSync(revokedPath(dir))) return undefined;
  try {
    return String((JSON.parse(readFileSync(revokedPath(dir), 'utf8')) as { message: unknown }).message);
  } catch {
    return 'its key was revoked';
  }
}

/** Moves a broken identity out of the way, for a new joining. */
export function setIdentityAside(dir: string): void {
  for (const path of [identityPath(dir), keyPath(dir)])
    if (existsSync(path)) renameSync(path, `${path}.torn`);
}
