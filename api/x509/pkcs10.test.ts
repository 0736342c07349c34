import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Pkcs10Error, parseCertificateRequest } from './pkcs10.js';

/** A request as people make it. */
function openssl(key: string[], ...more: string[]): string {
  const dir = mkdtempSync(join(tmpdir(), 'csr-'));
  try {
    return execFileSync(
      'openssl',
      ['req', '-new', '-nodes', '-newkey', ...key, '-keyout', join(dir, 'key'), ...more],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
    );
  } finally {
    rmSync(dir, { recursive: true });
  }
}
const EC = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];

describe('parseCertificateRequest', () => {
  for (const [what, key] of [
    ['P-256', EC],
    ['P-384', ['ec', '-pkeyopt', 'ec_paramgen_curve:P-384']],
    ['RSA', ['rsa:2048']],
    ['Ed25519', ['ed25519']],
  ] as const)
    it(`reads a request for a ${what} key`, () => {
      const r = parseCertificateRequest(openssl([...key], '-subj', '/O=dev/O=ops/CN=ann'));
      expect(r).toMatchObject({ commonName: 'ann', organizations: ['dev', 'ops'], signatureValid: true });
    });

  it('reads alternative names', () => {
    const names = 'subjectAltName=DNS:a.example,DNS:b,IP:10.0.0.7,IP:fd00::1,email:x@y.z,URI:spiffe://a/b';
    const r = parseCertificateRequest(openssl(EC, '-subj', '/CN=n', '-addext', names));
    expect(r).toMatchObject({
      dnsNames: ['a.example', 'b'],
      ipAddresses: ['10.0.0.7', 'fd00:0:0:0:0:0:0:1'],
      emailAddresses: ['x@y.z'],
      uris: ['spiffe://a/b'],
    });
  });

  it('reads text beyond ASCII', () => {
    expect(parseCertificateRequest(openssl(EC, '-utf8', '-subj', '/CN=Zoë')).commonName).toBe('Zoë');
  });

  it('says what is no request', () => {
    expect(() => parseCertificateRequest('')).toThrow('PEM block type must be CERTIFICATE REQUEST');
    const other = openssl(EC, '-subj', '/CN=x').replaceAll('CERTIFICATE REQUEST', 'CERTIFICATE');
    expect(() => parseCertificateRequest(other)).toThrow('PEM block type must be CERTIFICATE REQUEST');
  });

  it('refuses or notices every damage, and throws nothing but its own error', () => {
    const pem = openssl(EC, '-subj', '/O=dev/CN=ann');
    const der = Buffer.from(pem.replace(/-----.*-----/g, ''), 'base64');
    const wrap = (b: Buffer) =>
      `-----BEGIN CERTIFICATE REQUEST-----\n${b.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
    expect(parseCertificateRequest(wrap(der)).signatureValid).toBe(true);
    const judge = (b: Buffer) => {
      try {
        return parseCertificateRequest(wrap(b)).signatureValid;
      } catch (e) {
        expect(e).toBeInstanceOf(Pkcs10Error);
        return false;
      }
    };
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bad = Buffer.from(der);
        bad[at]! ^= flip;
        // A BOOLEAN or an unused parameter aside, any change to what is signed or to the signature shows.
        const r = judge(bad);
        if (r) expect(parseCertificateRequest(wrap(bad))).toMatchObject({ commonName: 'ann' });
      }),
    );
    fc.assert(
      fc.property(fc.nat(der.length - 1), (length) => {
        expect(judge(der.subarray(0, length))).toBe(false);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (b) => {
        expect(judge(Buffer.from(b))).toBe(false);
      }),
    );
  });
});
