import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { createSecureServer, type Http2SecureServer } from 'node:http2';
import { type AddressInfo, createServer } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { HUB_REGISTRY, MEDIA } from '../../api/oci.js';
import { readAccess } from '../../cli/client.js';
import { push } from '../../cli/push.js';
import { ImageRegistry } from '../../hub/images/registry.js';
import { createPki, type Pki } from '../../hub/pki/pki.js';
import { ImageCache } from '../../shims/images/cache.js';
import { missing } from './support/needs.js';
import { eventually, scratch } from './support/system.js';

const run = promisify(execFile);
/** What the program says on its standard output; a failure carries its standard error. */
const out = async (command: string, args: string[]): Promise<string> =>
  (await run(command, args, { timeout: 120_000, maxBuffer: 64 << 20 })).stdout;

const module_ = (n: number) => Buffer.concat([Buffer.from('\0asm\x01\0\0\0', 'latin1'), randomBytes(n)]);

async function freePort(): Promise<number> {
  const s = createServer().listen(0, '127.0.0.1');
  await new Promise((r) => s.once('listening', r));
  const { port } = s.address() as AddressInfo;
  await new Promise((r) => s.close(r));
  return port;
}

describe.skipIf(missing('skopeo', 'umoci', 'docker-registry'))(
  'images with real clients and registries',
  () => {
    let dir: string;
    let pki: Pki;
    let registry: ImageRegistry;
    let server: Http2SecureServer;
    let host: string;
    /** Certificate directories as skopeo takes them: with the administrator's certificate, and with the CA alone. */
    let adminCerts: string;
    let caCerts: string;
    let docker: ChildProcess;
    let dockerHost: string;
    let dockerLog = '';

    beforeAll(async () => {
      dir = scratch('images');
      pki = await createPki(dir);
      registry = new ImageRegistry(dir);
      await registry.start();
      server = createSecureServer({
        cert: pki.server.cert,
        key: pki.server.key,
        ca: pki.caPem,
        requestCert: true,
        rejectUnauthorized: false,
        allowHTTP1: true,
      });
      server.on('request', (req, res) => void registry.handle(req as never, res as never));
      await new Promise<void>((r) => server.listen(0, '127.0.0.1', r));
      host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
      await pki.writeAdminKubeconfig(path.join(dir, 'admin.kubeconfig'), `https://${host}`);

      adminCerts = path.join(dir, 'certs-admin');
      caCerts = path.join(dir, 'certs-ca');
      const { cert, key } = readAccess(dir);
      for (const d of [adminCerts, caCerts]) {
        fs.mkdirSync(d);
        fs.writeFileSync(path.join(d, 'ca.crt'), pki.caPem);
      }
      fs.writeFileSync(path.join(adminCerts, 'client.cert'), cert);
      fs.writeFileSync(path.join(adminCerts, 'client.key'), key);

      const port = await freePort();
      dockerHost = `127.0.0.1:${port}`;
      const config = path.join(dir, 'docker-registry.yml');
      fs.writeFileSync(
        config,
        `version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: ${dir}/docker-registry\nhttp:\n  addr: ${dockerHost}\n`,
      );
      docker = spawn('docker-registry', ['serve', config], { stdio: ['ignore', 'pipe', 'pipe'] });
      for (const s of [docker.stdout, docker.stderr]) s?.on('data', (d: Buffer) => (dockerLog += d));
      await eventually('docker-registry', async () => (await fetch(`http://${dockerHost}/v2/`)).ok, {
        context: () => dockerLog,
      });
    });

    afterAll(async () => {
      docker?.kill();
      await registry?.stop();
      await new Promise<void>((r) => {
        (server as unknown as { closeAllConnections?(): void }).closeAllConnections?.();
        server.close(() => r());
      });
      fs.rmSync(dir, { recursive: true, force: true });
    });

    /** An OCI layout with one image: a layer holding the file, gzip'ed by umoci. */
    async function layout(name: string, file: Buffer, at = '/app.wasm'): Promise<string> {
      const where = path.join(dir, name);
      const source = path.join(dir, `${name}.bin`);
      fs.writeFileSync(source, file);
      await out('umoci', ['init', '--layout', where]);
      await out('umoci', ['new', '--image', `${where}:1`]);
      await out('umoci', ['insert', '--rootless', '--image', `${where}:1`, source, at]);
      await out('umoci', [
        'config',
        '--image',
        `${where}:1`,
        '--config.entrypoint',
        at,
        '--config.env',
        'A=b',
      ]);
      return `oci:${where}:1`;
    }
    const digestOf = async (image: string, certs?: string): Promise<string> =>
      (
        await out('skopeo', [
          'inspect',
          '--format',
          '{{.Digest}}',
          ...(certs ? ['--cert-dir', certs] : []),
          image,
        ])
      ).trim();

    it('skopeo pushes with the administrator’s certificate and anyone pulls the same bytes', async () => {
      // Large enough that skopeo sends it in several chunks of its own.
      const source = await layout('big', module_(12_000_000));
      const target = `docker://${host}/apps/big:1`;
      await out('skopeo', ['copy', '--dest-cert-dir', adminCerts, source, target]);
      const digest = await digestOf(target, caCerts);
      expect(digest).toBe(await digestOf(source));
      const back = path.join(dir, 'back');
      await out('skopeo', ['copy', '--src-cert-dir', caCerts, target, `oci:${back}:1`]);
      expect(await digestOf(`oci:${back}:1`)).toBe(digest);
      await out('skopeo', ['copy', '--src-cert-dir', caCerts, target, `dir:${dir}/back-dir`]);
      await out('skopeo', [
        'copy',
        '--dest-cert-dir',
        adminCerts,
        `dir:${dir}/back-dir`,
        `docker://${host}/other/name:2`,
      ]);
      const tags = JSON.parse(
        await out('skopeo', ['list-tags', '--cert-dir', caCerts, `docker://${host}/other/name`]),
      );
      expect(tags.Tags).toEqual(['2']);
    });

    it('skopeo pushes with the token, and not without', async () => {
      const source = await layout('small', module_(100));
      const token = fs.readFileSync(path.join(dir, 'push.token'), 'utf8').trim();
      const target = `docker://${host}/apps/small:1`;
      const copy = (creds: string[]) =>
        out('skopeo', ['copy', '--dest-cert-dir', caCerts, ...creds, source, target]);
      await expect(copy([])).rejects.toThrow(/unauthorized/i);
      await expect(copy(['--dest-creds', 'push:wrong'])).rejects.toThrow(/unauthorized/i);
      await copy(['--dest-creds', `push:${token}`]);
      expect(await digestOf(target, caCerts)).toBe(await digestOf(source));
    });

    it('skopeo copies a whole index and deletes an image', async () => {
      const one = await layout('one', module_(50));
      const target = `docker://${host}/multi:one`;
      await out('skopeo', ['copy', '--dest-cert-dir', adminCerts, one, target]);
      const raw = await out('skopeo', ['inspect', '--raw', '--cert-dir', caCerts, target]);
      const index = JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA.ociIndex,
        manifests: [
          {
            mediaType: MEDIA.ociManifest,
            digest: await digestOf(target, caCerts),
            size: Buffer.byteLength(raw),
            platform: { os: 'wasi', architecture: 'wasm' },
          },
        ],
      });
      const { ca, cert, key } = readAccess(dir);
      const { request } = await import('node:https');
      const status = await new Promise((resolve, reject) => {
        const req = request(
          `https://${host}/v2/multi/manifests/all`,
          { method: 'PUT', ca, cert, key, headers: { 'content-type': MEDIA.ociIndex } },
          (res) => resolve(res.resume().statusCode),
        );
        req.on('error', reject);
        req.end(index);
      });
      expect(status).toBe(201);
      const args = ['--src-cert-dir', caCerts, '--dest-cert-dir', adminCerts];
      await out('skopeo', [
        'copy',
        '--all',
        ...args,
        `docker://${host}/multi:all`,
        `docker://${host}/copied:all`,
      ]);
      expect(
        await out('skopeo', ['inspect', '--raw', '--cert-dir', caCerts, `docker://${host}/copied:all`]),
      ).toBe(index);
      await out('skopeo', ['delete', '--cert-dir', adminCerts, `docker://${host}/copied:all`]);
      await expect(digestOf(`docker://${host}/copied:all`, caCerts)).rejects.toThrow(/manifest unknown/i);
      await expect(out('skopeo', ['delete', '--cert-dir', caCerts, target])).rejects.toThrow();
    });

    it('cox push puts a module there, which an agent and skopeo pull', async () => {
      const said = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
      const file = path.join(dir, 'hello.wasm');
      const content = module_(100_000);
      fs.writeFileSync(file, content);
      try {
        expect(await push([file, 'apps/hello:1', '--data-dir', dir])).toBe(0);
        expect(said.mock.calls.join()).toContain(`image: ${HUB_REGISTRY}/apps/hello:1`);
        // With the token, as from another machine.
        const remote = ['--server', `https://${host}`, '--ca', path.join(dir, 'pki/ca.crt')];
        expect(await push([file, 'again:1', ...remote, '--token-file', path.join(dir, 'push.token')])).toBe(
          0,
        );
      } finally {
        said.mockRestore();
      }
      const manifest = JSON.parse(
        await out('skopeo', ['inspect', '--raw', '--cert-dir', caCerts, `docker://${host}/apps/hello:1`]),
      );
      expect(manifest.config.mediaType).toBe(MEDIA.wasmConfig);
      expect(manifest.layers).toMatchObject([{ mediaType: MEDIA.wasmLayer, size: content.length }]);
      const cache = new ImageCache(path.join(dir, 'cache'), { hub: () => ({ host, ca: pki.caPem }) });
      await cache.start();
      for (const name of ['apps/hello:1', 'again:1']) {
        const image = await cache.pull(`${HUB_REGISTRY}/${name}`);
        expect(fs.readFileSync(image.modulePath).equals(content)).toBe(true);
      }
      await expect(cache.pull(`${HUB_REGISTRY}/none:1`)).rejects.toMatchObject({ reason: 'ErrImagePull' });
      cache.stop();
    });

    it('an agent trusts the hub by its CA, with a clock of 1970 too, and nobody else', async () => {
      const year = 365 * 86_400_000;
      const other = await createPki(path.join(dir, 'other'));
      const attempt = async (now: number, ca = pki.caPem, at = host) => {
        const clock = {
          ...systemClock,
          now: () => now,
          after: (_: number, fn: () => void) => systemClock.after(0, fn),
        };
        const cache = new ImageCache(fs.mkdtempSync(path.join(dir, 'trust-')), {
          hub: () => ({ host: at, ca }),
          clock,
        });
        await cache.start();
        try {
          return (await cache.pull(`${HUB_REGISTRY}/again:1`)).ref;
        } finally {
          cache.stop();
        }
      };
      for (const now of [0, Date.now()]) expect(await attempt(now)).toBe(`${HUB_REGISTRY}/again:1`);
      await expect(attempt(Date.now() + 5 * year)).rejects.toThrow(
        /expired on .*restarting the hub renews it/,
      );
      await expect(attempt(Date.now(), other.caPem)).rejects.toMatchObject({
        reason: 'RegistryUnavailable',
        message: expect.stringContaining("not of this hub's CA"),
      });
      await expect(attempt(Date.now(), 'nonsense')).rejects.toThrow(/not PEM/);
      // A client's certificate of the same CA is no server's.
      const { cert, key } = readAccess(dir);
      const impostor = createSecureServer({ cert, key }).listen(0, '127.0.0.1');
      await new Promise((r) => impostor.once('listening', r));
      const { port } = impostor.address() as AddressInfo;
      await expect(attempt(Date.now(), pki.caPem, `127.0.0.1:${port}`)).rejects.toThrow(/not for servers/);
      impostor.close();
    });

    it('agents pull artifacts and container images from a docker-registry', async () => {
      const content = module_(300_000);
      const image = await layout('container', content, '/bin/app.wasm');
      await out('skopeo', ['copy', '--dest-tls-verify=false', image, `docker://${dockerHost}/lib/app:1`]);
      // As Docker's own format, too.
      const v2s2 = ['--format', 'v2s2', '--dest-tls-verify=false'];
      await out('skopeo', ['copy', ...v2s2, image, `docker://${dockerHost}/lib/app:docker`]);
      const args = ['--src-cert-dir', caCerts, '--dest-tls-verify=false'];
      await out('skopeo', [
        'copy',
        ...args,
        `docker://${host}/apps/hello:1`,
        `docker://${dockerHost}/lib/artifact:1`,
      ]);
      const cache = new ImageCache(path.join(dir, 'cache3'));
      await cache.start();
      for (const tag of ['1', 'docker']) {
        const pulled = await cache.pull(`${dockerHost}/lib/app:${tag}`);
        expect(pulled).toMatchObject({ entrypoint: ['/bin/app.wasm'], env: expect.arrayContaining(['A=b']) });
        expect(fs.readFileSync(pulled.modulePath).equals(content)).toBe(true);
      }
      const artifact = await cache.pull(`${dockerHost}/lib/artifact:1`);
      expect(artifact.layers[0]!.mediaType).toBe(MEDIA.wasmLayer);
      expect(artifact.entrypoint).toBeUndefined();
      cache.stop();
    });
  },
);
