import { spawnSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, verify, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { keyId } from '../../api/wire/codec.js';
import { createPki, nodeSubject, PkiError } from './pki.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pki-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const local = (...hosts: string[]) => ({ localHosts: () => hosts });

describe('createPki', () => {
  it('makes files that only the owner reads, and loads the same ones again', async () => {
    const a = await createPki(dir, local('pi', '10.0.0.7', 'fd00::1'));
    for (const f of readdirSync(a.dir)) expect(statSync(join(a.dir, f)).mode & 0o777, f).toBe(0o600);
    expect(statSync(a.dir).mode & 0o777).toBe(0o700);
    const b = await createPki(dir, local('pi', '10.0.0.7', 'fd00::1'));
    expect(b.caPem).toBe(a.caPem);
    expect(b.server).toEqual(a.server);
    expect(b.signingPublicKey).toEqual(a.signingPublicKey);
    expect(readdirSync(dir)).toEqual(['pki']);
  });

  it('renews the server certificate when addresses change or it nears its end, never the CA', async () => {
    const a = await createPki(dir, local('pi'));
    const b = await createPki(dir, { ...local('pi'), hosts: ['hub.example.org'] });
    expect(b.server.cert).not.toBe(a.server.cert);
    expect(new X509Certificate(b.server.cert).checkHost('hub.example.org')).toBe('hub.example.org');
    const later = { ...systemClock, now: () => Date.now() + 4.5 * 365 * 86_400_000 };
    const c = await createPki(dir, { ...local('pi'), hosts: ['hub.example.org'], clock: later });
    expect(c.server.cert).not.toBe(b.server.cert);
    expect(c.caPem).toBe(a.caPem);
  });

  it('makes a torn server certificate anew, since nothing is lost by it', async () => {
    const a = await createPki(dir, local('pi'));
    truncateSync(join(a.dir, 'server.crt'), 100);
    const b = await createPki(dir, local('pi'));
    expect(new X509Certificate(b.server.cert).verify(new X509Certificate(a.caPem).publicKey)).toBe(true);
  });

  for (const file of ['ca.crt', 'ca.key', 'signing.key'])
    for (const [how, damage] of [
      ['torn', (p: string) => truncateSync(p, 60)],
      ['empty', (p: string) => writeFileSync(p, '')],
      ['missing', (p: string) => rmSync(p)],
    ] as const)
      it(`refuses a ${how} ${file}, names it and the remedy, and changes nothing`, async () => {
        const a = await createPki(dir, local('pi'));
        damage(join(a.dir, file));
        const before = readdirSync(a.dir).map((f) => [f, readFileSync(join(a.dir, f), 'utf8')]);
        await expect(createPki(dir, local('pi'))).rejects.toThrow(PkiError);
        await expect(createPki(dir, local('pi'))).rejects.toThrow(new RegExp(`${file}.*(backup)`));
        expect(readdirSync(a.dir).map((f) => [f, readFileSync(join(a.dir, f), 'utf8')])).toEqual(before);
      });

  it("refuses another CA's key", async () => {
    const a = await createPki(dir, local('pi'));
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    writeFileSync(join(a.dir, 'ca.key'), privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
    await expect(createPki(dir, local('pi'))).rejects.toThrow(/ca\.key does not belong to/);
  });

  it('tightens a directory that was opened up', async () => {
    const a = await createPki(dir, local('pi'));
    chmodSync(a.dir, 0o755);
    await createPki(dir, local('pi'));
    expect(statSync(a.dir).mode & 0o777).toBe(0o700);
  });

  it('issues client certificates that TLS accepts, with CN and O as Kubernetes reads them', async () => {
    const pki = await createPki(dir, local('pi'));
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const cert = await pki.issueClientCert({ ...nodeSubject('pi1'), publicKey });
    const server = createServer({
      ...pki.server,
      ca: pki.caPem,
      requestCert: true,
      rejectUnauthorized: true,
    }).listen(0);
    await once(server, 'listening');
    const accepted = once(server, 'secureConnection') as Promise<[TLSSocket]>;
    const { port } = server.address() as { port: number };
    const key = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
    const client = connect({ port, host: '127.0.0.1', ca: pki.caPem, cert, key });
    await once(client, 'secureConnect');
    const [socket] = await accepted;
    expect(socket.authorized).toBe(true);
    expect(socket.getPeerCertificate().subject).toMatchObject({ CN: 'system:node:pi1', O: 'system:nodes' });
    client.destroy();
    server.close();
  });

  it('refuses to certify a key of another kind', async () => {
    const pki = await createPki(dir, local('pi'));
    const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    await expect(pki.issueClientCert({ cn: 'x', publicKey })).rejects.toThrow(/P-256/);
  });

  it('signs with Ed25519 and writes a kubeconfig of mode 0600', async () => {
    const pki = await createPki(dir, local('pi'));
    const key = createPublicKey({
      key: Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), pki.signingPublicKey]),
      format: 'der',
      type: 'spki',
    });
    expect(verify(null, Buffer.from('m'), key, pki.sign(Buffer.from('m')))).toBe(true);
    const path = join(dir, 'admin.kubeconfig');
    await pki.writeAdminKubeconfig(path, 'https://127.0.0.1:6443');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const text = readFileSync(path, 'utf8');
    const pem = Buffer.from(/client-certificate-data: (.*)/.exec(text)![1]!, 'base64').toString();
    expect(new X509Certificate(pem).subject).toBe('O=system:masters\nCN=admin');
  });

  it('remembers who was given a name last, through a torn file, and writes a CRL that OpenSSL reads', async () => {
    const pki = await createPki(dir, local('pi'));
    const device = async (node: string) => {
      const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const cert = await pki.issueClientCert({ ...nodeSubject(node), publicKey });
      pki.issued.record(cert);
      return { cert, id: keyId(publicKey), serial: new X509Certificate(cert).serialNumber };
    };
    const [a, old, b] = [await device('a'), await device('b'), await device('b')];
    appendFileSync(join(dir, 'pki', 'issued'), '4F00 torn');
    const again = await createPki(dir, local('pi'));
    expect(again.issued.holder('a')).toBe(a.id);
    expect(again.issued.holder('b')).toBe(b.id);
    expect(again.issued.withdrawn()).toEqual([old.serial]);
    again.issued.record(a.cert);
    const third = await createPki(dir, local('pi'));
    expect(third.issued.serials(a.id)).toEqual([a.serial, a.serial]);

    await third.writeCrl([a.id]);
    for (const name of ['a', 'old', 'b']) writeFileSync(join(dir, `${name}.crt`), { a, old, b }[name]!.cert);
    const verdict = (name: string) => {
      const args = ['verify', '-crl_check', '-CAfile', 'pki/ca.crt', '-CRLfile', 'pki/ca.crl', `${name}.crt`];
      const r = spawnSync('openssl', args, { cwd: dir, encoding: 'utf8' });
      return `${r.stdout}${r.stderr}`;
    };
    expect(verdict('b')).toContain('b.crt: OK');
    expect(verdict('a')).toContain('certificate revoked');
    expect(verdict('old')).toContain('certificate revoked');
  });

  it('renews the server certificate in the last year before its end, and not before', async () => {
    let now = Date.now();
    const clock = { ...systemClock, now: () => now };
    const pki = await createPki(dir, { ...local('pi'), clock });
    const { cert } = pki.server;
    expect(await pki.renewServer()).toBe(false);
    now += 4.1 * 365 * 86_400_000;
    expect(await pki.renewServer()).toBe(true);
    expect(pki.server.cert).not.toBe(cert);
    expect(Date.parse(new X509Certificate(pki.server.cert).validTo)).toBeGreaterThan(
      now + 4 * 365 * 86_400_000,
    );
    expect(await pki.renewServer()).toBe(false);
  });
});
