/**
 * Reading PKCS #10 certificate requests (RFC 2986): what a hub must know of one before somebody signs it. Reads DER by
 * hand, since a library for it would cost a hub that never sees a request some 18 MB.
 */
import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { isIPv4 } from 'node:net';

export interface CertificateRequest {
  commonName: string;
  organizations: string[];
  dnsNames: string[];
  emailAddresses: string[];
  ipAddresses: string[];
  uris: string[];
  publicKey: KeyObject;
  /** Who asks holds the private key of the public one. */
  signatureValid: boolean;
}

/** No certificate request; the message says why. */
export class Pkcs10Error extends Error {
  override name = 'Pkcs10Error';
}

/** Longer than any request with some names and a key. */
const MAX_DER = 64 << 10;

const PEM = /-----BEGIN ([^\n-]+)-----\r?\n((?:[A-Za-z0-9+/=]+\r?\n?)+)-----END \1-----/;

/** Parses the first block of a PEM text. Throws Pkcs10Error. */
export function parseCertificateRequest(pem: string): CertificateRequest {
  const [, type, base64] = PEM.exec(pem) ?? [];
  if (type !== 'CERTIFICATE REQUEST') throw new Pkcs10Error('PEM block type must be CERTIFICATE REQUEST');
  const der = Buffer.from(base64 ?? '', 'base64');
  if (der.length > MAX_DER) throw new Pkcs10Error(`the request is longer than ${MAX_DER} bytes`);
  try {
    return parse(der);
  } catch (e) {
    if (e instanceof Pkcs10Error) throw e;
    throw new Pkcs10Error(`x509: malformed certificate request: ${(e as Error).message}`);
  }
}

/** One DER value. */
interface Value {
  tag: number;
  /** Contents, without tag and length. */
  body: Buffer;
  /** All of it. */
  whole: Buffer;
}

const TAG = { boolean: 1, bitString: 3, octetString: 4, oid: 6, sequence: 0x30, set: 0x31, attributes: 0xa0 };

/** The values that follow each other in `bytes`. Throws on anything that is not DER. */
function values(bytes: Buffer): Value[] {
  const out: Value[] = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = bytes[at]!;
    let length = bytes[at + 1];
    if ((tag & 0x1f) === 0x1f || length === undefined) throw new Pkcs10Error('x509: malformed tag or length');
    let start = at + 2;
    if (length >= 0x80) {
      const size = length & 0x7f;
      if (size === 0 || size > 3 || start + size > bytes.length)
        throw new Pkcs10Error('x509: malformed length');
      length = bytes.readUIntBE(start, size);
      start += size;
    }
    const end = start + length;
    if (end > bytes.length) throw new Pkcs10Error('x509: data truncated');
    out.push({ tag, body: bytes.subarray(start, end), whole: bytes.subarray(at, end) });
    at = end;
  }
  return out;
}

function expect(v: Value | undefined, tag: number, what: string): Value {
  if (v?.tag !== tag) throw new Pkcs10Error(`x509: malformed ${what}`);
  return v;
}

const sequence = (v: Value | undefined, what: string): Value[] => values(expect(v, TAG.sequence, what).body);

function oid(v: Value | undefined): string {
  const { body } = expect(v, TAG.oid, 'object identifier');
  const arcs: number[] = [];
  let arc = 0;
  for (const b of body) {
    arc = arc * 128 + (b & 0x7f);
    if (b < 0x80) {
      arcs.push(arc);
      arc = 0;
    }
  }
  const first = arcs.shift() ?? 0;
  const root = Math.min(2, Math.floor(first / 40));
  return [root, first - 40 * root, ...arcs].join('.');
}

const OID = {
  commonName: '2.5.4.3',
  organization: '2.5.4.10',
  extensionRequest: '1.2.840.113549.1.9.14',
  subjectAltName: '2.5.29.17',
};

/** Signature algorithm → digest for `crypto.verify`; null where the key says it. */
const SIGNATURES: Readonly<Record<string, string | null>> = {
  '1.2.840.10045.4.3.2': 'sha256',
  '1.2.840.10045.4.3.3': 'sha384',
  '1.2.840.10045.4.3.4': 'sha512',
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
  '1.3.101.112': null,
};

const BMP_STRING = 0x1e;

/** Text of any of the string types that names have. */
function text(v: Value | undefined): string {
  if (!v) throw new Pkcs10Error('x509: malformed name');
  return v.tag === BMP_STRING ? Buffer.from(v.body).swap16().toString('utf16le') : v.body.toString('utf8');
}

function parse(der: Buffer): CertificateRequest {
  const [outer, ...rest] = values(der);
  if (rest.length) throw new Pkcs10Error('x509: trailing data');
  const [info, algorithm, signature] = sequence(outer, 'certificate request');
  const [, subject, spki, ...attributes] = sequence(info, 'certificate request info');
  const publicKey = createPublicKey({
    key: Buffer.from(expect(spki, TAG.sequence, 'public key').whole),
    format: 'der',
    type: 'spki',
  });
  const names = sequence(subject, 'subject')
    .flatMap((rdn) => values(expect(rdn, TAG.set, 'subject').body))
    .map((pair) => sequence(pair, 'subject'))
    .map(([type, value]) => ({ type: oid(type), value: text(value) }));
  const of = (type: string) => names.filter((n) => n.type === type).map((n) => n.value);
  const digest = SIGNATURES[oid(sequence(algorithm, 'signature algorithm')[0])];
  const bits = expect(signature, TAG.bitString, 'signature').body;
  return {
    // The last one counts, as in Go.
    commonName: of(OID.commonName).at(-1) ?? '',
    organizations: of(OID.organization),
    ...subjectAltNames(attributes),
    publicKey,
    signatureValid:
      digest !== undefined && bits[0] === 0 && verify(digest, info!.whole, publicKey, bits.subarray(1)),
  };
}

type AltNames = Pick<CertificateRequest, 'dnsNames' | 'emailAddresses' | 'ipAddresses' | 'uris'>;

/** General names by their context tags (RFC 5280 4.2.1.6). */
const ALT_NAMES: Readonly<Record<number, keyof AltNames>> = {
  129: 'emailAddresses',
  130: 'dnsNames',
  134: 'uris',
  135: 'ipAddresses',
};

function subjectAltNames(attributes: Value[]): AltNames {
  const out: AltNames = { dnsNames: [], emailAddresses: [], ipAddresses: [], uris: [] };
  for (const attribute of attributes.filter((a) => a.tag === TAG.attributes).flatMap((a) => values(a.body))) {
    const [type, set] = sequence(attribute, 'attribute');
    if (oid(type) !== OID.extensionRequest) continue;
    const extensions = values(expect(set, TAG.set, 'extension request').body).flatMap((s) =>
      sequence(s, 'extensions'),
    );
    for (const extension of extensions) {
      const parts = sequence(extension, 'extension');
      if (oid(parts[0]) !== OID.subjectAltName) continue;
      const value = expect(parts.at(-1), TAG.octetString, 'extension').body;
      for (const name of sequence(values(value)[0], 'subject alternative name')) {
        const list = ALT_NAMES[name.tag];
        if (list) out[list].push(list === 'ipAddresses' ? address(name.body) : name.body.toString('latin1'));
      }
    }
  }
  return out;
}

function address(bytes: Buffer): string {
  if (bytes.length === 4) {
    const v4 = [...bytes].join('.');
    if (isIPv4(v4)) return v4;
  }
  if (bytes.length !== 16) throw new Pkcs10Error('x509: malformed IP address');
  return Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16)).join(':');
}
