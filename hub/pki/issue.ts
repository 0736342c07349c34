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

/**
 * What is to be made; all of it JSON, keys and certificates as PEM. Without `ca` a self-signed CA of `privateKey`; with
 * `request` what that PKCS #10 request asks for.
 */
export type Job = { validity: Validity } & (
  | { subject: Subject; privateKey: string }
  | {
      subject: Subject;
      ca: { cert: string; key: string };
      publicKey: string;
      /** Names or addresses of a server; absent: a client's certificate. */
      hosts?: readonly string[];
    }
  | {
      ca: { cert: string; key: string };
      request: string;
      /** In the words of certificates.k8s.io. */
      usages: readonly string[];
    }
  | {
      ca: { cert: string; key: string };
      /** A CRL with these serial numbers (hexadecimal), valid and revoked from `notBefore` on. */
      serials: readonly string[];
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

/** Usages of certificates.k8s.io → key usage flags, and → extended ones (pkg/controller/certificates/authority). */
const KEY_USAGES: Readonly<Record<string, x509.KeyUsageFlags>> = {
  signing: x509.KeyUsageFlags.digitalSignature,
  'digital signature': x509.KeyUsageFlags.digitalSignature,
  'content commitment': x509.KeyUsageFlags.nonRepudiation,
  'key encipherment': x509.KeyUsageFlags.keyEncipherment,
  'key agreement': x509.KeyUsageFlags.keyAgreement,
  'data encipherment': x509.KeyUsageFlags.dataEncipherment,
};
const EXTENDED_USAGES: Readonly<Record<string, string>> = {
  'server auth': x509.ExtendedKeyUsage.serverAuth,
  'client auth': x509.ExtendedKeyUsage.clientAuth,
};
const SUBJECT_ALT_NAME = '2.5.29.17';

/** Signs a request: its subject, names and key, nothing else of what it wants. Rejects when its signature is wrong. */
async function signRequest(
  ca: { cert: string; key: string },
  pem: string,
  usages: readonly string[],
  validity: Validity,
): Promise<string> {
  const request = new x509.Pkcs10CertificateRequest(pem);
  if (!(await request.verify())) throw new Error('unable to verify certificate request signature');
  const issuer = new x509.X509Certificate(ca.cert);
  const flags = usages.reduce((all, u) => all | (KEY_USAGES[u] ?? 0), 0);
  const extended = usages.flatMap((u) => EXTENDED_USAGES[u] ?? []);
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: request.subjectName,
    issuer: issuer.subjectName,
    notBefore: new Date(validity.notBefore),
    notAfter: new Date(validity.notAfter),
    signingAlgorithm: EC,
    publicKey: request.publicKey,
    signingKey: await privateCryptoKey(createPrivateKey(ca.key)),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      ...(flags ? [new x509.KeyUsagesExtension(flags, true)] : []),
      ...(extended.length ? [new x509.ExtendedKeyUsageExtension(extended)] : []),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
      ...request.extensions.filter((e) => e.type === SUBJECT_ALT_NAME),
    ],
  });
  return `${cert.toString('pem')}\n`;
}

async function revocationList(job: Extract<Job, { serials: unknown }>): Promise<string> {
  const ca = new x509.X509Certificate(job.ca.cert);
  const crl = await x509.X509CrlGenerator.create({
    issuer: ca.subjectName,
    thisUpdate: new Date(job.validity.notBefore),
    nextUpdate: new Date(job.validity.notAfter),
    entries: job.serials.map((serialNumber) => ({
      serialNumber,
      revocationDate: new Date(job.validity.notBefore),
    })),
    signingAlgorithm: EC,
    signingKey: await privateCryptoKey(createPrivateKey(job.ca.key)),
    extensions: [await x509.AuthorityKeyIdentifierExtension.create(ca)],
  });
  // The name that RFC 7468 gives it, and OpenSSL insists on.
  const lines =
    Buffer.from(crl.rawData)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN X509 CRL-----\n${lines.join('\n')}\n-----END X509 CRL-----\n`;
}

/** The certificate, or the CRL, as PEM. */
export function issue(job: Job): Promise<string> {
  if ('serials' in job) return revocationList(job);
  if ('request' in job) return signRequest(job.ca, job.request, job.usages, job.validity);
  if ('privateKey' in job) return selfSignedCa(job.subject, createPrivateKey(job.privateKey), job.validity);
  const issuer = { certPem: job.ca.cert, key: createPrivateKey(job.ca.key) };
  return issueLeaf(issuer, job.subject, createPublicKey(job.publicKey), job.validity, job.hosts);
}
