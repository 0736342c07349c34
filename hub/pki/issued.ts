/**
 * Which certificates nodes were given: `DIR/pki/issued`, one line each, appended and fsynced before the certificate
 * leaves the hub. The last device that joined under a name is the one that has it; serial numbers are for the CRL.
 */
import { X509Certificate } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { keyId } from '../../api/wire/codec.js';
import { NODE_CN_PREFIX } from '../../api/wire/topics.js';

const LINE = /^([0-9A-F]+) ([\w-]{16}) (\S+) (\S+)$/;

/** The one CN of a certificate; undefined when it has none or several. */
export function commonName(cert: X509Certificate): string | undefined {
  const cns = cert.subject.split('\n').filter((l) => l.startsWith('CN='));
  return cns.length === 1 ? cns[0]!.slice(3) : undefined;
}

export class IssuedCertificates {
  readonly #holders = new Map<string, string>();
  readonly #serials = new Map<string, string[]>();
  readonly #names = new Map<string, string>();
  #torn = false;

  constructor(private readonly path: string) {
    if (!existsSync(path)) return;
    const text = readFileSync(path, 'utf8');
    // A line that a power cut tore names no certificate that went out.
    this.#torn = text !== '' && !text.endsWith('\n');
    for (const line of text.split('\n')) this.#take(line);
  }

  #take(line: string): void {
    const [, serial, key, node] = LINE.exec(line) ?? [];
    if (!serial || !key || !node) return;
    this.#holders.set(node, key);
    this.#names.set(key, node);
    const known = this.#serials.get(key);
    if (known) known.push(serial);
    else this.#serials.set(key, [serial]);
  }

  /** Notes a node's certificate (PEM): from here on its key is the one that has the name. Throws when the disk fails. */
  record(pem: string): void {
    const cert = new X509Certificate(pem);
    const node = commonName(cert)?.slice(NODE_CN_PREFIX.length);
    const line = `${cert.serialNumber} ${keyId(cert.publicKey)} ${node} ${new Date(cert.validTo).toISOString()}`;
    const file = openSync(this.path, 'a', 0o600);
    try {
      writeSync(file, `${this.#torn ? '\n' : ''}${line}\n`);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    this.#torn = false;
    this.#take(line);
  }

  /** `keyId` of the key that has the name; undefined when nothing is known of it. */
  holder(node: string): string | undefined {
    return this.#holders.get(node);
  }

  /** Serial numbers of keys whose name another key has now. */
  withdrawn(): string[] {
    return [...this.#serials].flatMap(([key, serials]) =>
      this.#holders.get(this.#names.get(key) ?? '') === key ? [] : serials,
    );
  }

  /** Serial numbers, hexadecimal, of all certificates for a key. */
  serials(key: string): readonly string[] {
    return this.#serials.get(key) ?? [];
  }
}
