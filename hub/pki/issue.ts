/**
 * Making certificates. The only file that loads `@peculiar/x509` (18 MB of resident memory that no garbage collector
 * gives back), so issuer.ts runs it in a process of its own for as long as certificates are being made.
 */
import 'reflect-metadata';
import { createPrivateKey, createPublicKey, type KeyObject, randomBytes, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';

const EC = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);

export interface Subject {
  cn: string;
  /** Organizations, which Kubernetes reads as groups. */
  o?: readonly string[];
}

/** What is to be made; all of it JSON, keys and certificates as PEM. Without `ca` a self-signed CA of `privateKey`. */
export type Job = { subject: Subject; validity: Validity } & (
  | { privateKey: string }
  | {
      ca: { cert: string; key: string };
      publicKey: string;
      /** Names or addresses of a server; absent: a client's certificate. */
      hosts?: readonly string[];
    }
);

export interface Validity {
  /** Unix milliseconds. */
  notBefore: number;
  notAfter: number;
}

const privateCryptoKey = (key: KeyObject) =>
  webcrypto.subtle.importKey('pkcs8', key.export({ type: 'pkcs8', format: 'der' }), EC, false, ['sign']);

const publicCryptoKey = (key: KeyObject) =>
  webcrypto.subtle.importKey('spki', key.export({ type: 'spki', format: 'der' }), EC, true, ['verify']);

const nameOf = ({ cn, o = [] }: Subject): x509.JsonName => [...o.map((v) => ({ O: [v] })), { CN: [cn] }];

/** A positive 127-bit random number, as CA/Browser rules and Go's parser want it. */
const serial = (): string => {
  const b = randomBytes(16);
  b[0] = (b[0]! & 0x7f) | 0x40;
  return b.toString('hex');
};

async function selfSignedCa(subject: Subject, key: KeyObject, validity: Validity): Promise<string> {
  const publicKey = await publicCryptoKey(createPublicKey(key));
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: nameOf(subject),
    notBefore: new Date(validity.notBefore),
    notAfter: new Date(validity.notAfter),
    signingAlgorithm: EC,
    keys: { privateKey: await privateCryptoKey(key), publicKey },
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign | x509.KeyUsageFlags.digitalSignature,
        true,
      ),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
    ],
  });
  return `${cert.toString('pem')}\n`;
}

export async function issueLeaf(
  issuer: { certPem: string; key: KeyObject },
  subject: Subject,
  publicKey: KeyObject,
  validity: Validity,
  hosts?: readonly string[],
): Promise<string> {
  const ca = new x509.X509Certificate(issuer.certPem);
  const spki = await publicCryptoKey(publicKey);
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: nameOf(subject),
    issuer: ca.subjectName,
    notBefore: new Date(validity.notBefore),
    notAfter: new Date(validity.notAfter),
    signingAlgorithm: EC,
    publicKey: spki,
    signingKey: await privateCryptoKey(issuer.key),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([
        hosts ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth,
      ]),
      await x509.AuthorityKeyIdentifierExtension.create(ca),
      ...(hosts
        ? [
            new x509.SubjectAlternativeNameExtension(
              hosts.map((value) => ({ type: isIP(value) ? ('ip' as const) : ('dns' as const), value })),
            ),
          ]
        : []),
    ],
  });
  return `${cert.toString('pem')}\n`;
}

/** The certificate as PEM. */
export function issue(job: Job): Promise<string> {
  if ('privateKey' in job) return selfSignedCa(job.subject, createPrivateKey(job.privateKey), job.validity);
  const issuer = { certPem: job.ca.cert, key: createPrivateKey(job.ca.key) };
  return issueLeaf(issuer, job.subject, createPublicKey(job.publicKey), job.validity, job.hosts);
}
