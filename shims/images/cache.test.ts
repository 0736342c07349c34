import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../api/clock.js';
import { type Descriptor, MEDIA } from '../../api/oci.js';
import { type CacheOptions, ImageCache } from './cache.js';
import { parseChallenges } from './client.js';

const sha = (b: Buffer | string) => `sha256:${createHash('sha256').update(b).digest('hex')}`;
const wasm = (n: number, fill = 1) =>
  Buffer.concat([Buffer.from('\0asm\x01\0\0\0', 'latin1'), Buffer.alloc(n, fill)]);

/** A registry with scripted faults. */
class FakeRegistry {
  blobs = new Map<string, Buffer>();
  manifests = new Map<string, { type: string; body: Buffer }>();
  requests: { method: string; url: string; range?: string; authorization?: string }[] = [];
  /** Sees every request first; true when it answered. */
  before: (req: http.IncomingMessage, res: http.ServerResponse) => boolean = () => false;
  server = http.createServer((req, res) => this.serve(req, res));

  get host(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  serve(req: http.IncomingMessage, res: http.ServerResponse): void {
    const { method = '', url = '', headers } = req;
    this.requests.push({ method, url, range: headers.range, authorization: headers.authorization });
    if (this.before(req, res)) return;
    const [, , kind, key = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url) ?? [];
    if (kind === 'manifests' && this.manifests.has(key)) {
      const m = this.manifests.get(key)!;
      res.writeHead(200, { 'content-type': m.type, 'content-length': m.body.length }).end(m.body);
    } else if (kind === 'blobs' && this.blobs.has(key)) {
      const blob = this.blobs.get(key)!;
      const from = Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0);
      const range = from > 0 ? { 'content-range': `bytes ${from}-${blob.length - 1}/${blob.length}` } : {};
      res
        .writeHead(from > 0 ? 206 : 200, { 'content-length': blob.length - from, ...range })
        .end(blob.subarray(from));
    } else {
      res.writeHead(404, { 'content-type': 'application/json' }).end('{"errors":[{"code":"UNKNOWN"}]}');
    }
  }

  blob(content: Buffer, mediaType: string, extra: object = {}): Descriptor {
    this.blobs.set(sha(content), content);
    return { mediaType, digest: sha(content), size: content.length, ...extra };
  }

  manifest(tag: string, doc: object, type: string = MEDIA.ociManifest): Descriptor {
    const body = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: type, ...doc }));
    for (const key of [tag, sha(body)]) this.manifests.set(key, { type, body });
    return { mediaType: type, digest: sha(body), size: body.length };
  }

  artifact(tag: string, module: Buffer, layerType: string = MEDIA.wasmLayer): Descriptor {
    return this.manifest(tag, {
      config: this.blob(Buffer.from('{}'), MEDIA.wasmConfig),
      layers: [this.blob(module, layerType)],
    });
  }

  async container(
    tag: string,
    files: { name: string; content?: Buffer; linkname?: string; type?: 'symlink' | 'link' | 'directory' }[],
    config: object,
    gzip = true,
  ): Promise<Descriptor> {
    const tar = pack();
    for (const { content, ...header } of files) tar.entry(header, content ?? '');
    tar.finalize();
    const parts: Buffer[] = [];
    for await (const p of tar) parts.push(p as Buffer);
    const bytes = Buffer.concat(parts);
    const type = `application/vnd.oci.image.layer.v1.tar${gzip ? '+gzip' : ''}`;
    return this.manifest(tag, {
      config: this.blob(Buffer.from(JSON.stringify({ config })), MEDIA.ociConfig),
      layers: [this.blob(gzip ? gzipSync(bytes) : bytes, type)],
    });
  }

  count(part: string): number {
    return this.requests.filter((r) => r.url.includes(part)).length;
  }
}

let registry: FakeRegistry;
let dir: string;
let now: number;
/** Waits take no time; the wall clock stands where the test put it. */
const clock: Clock = {
  ...systemClock,
  now: () => now,
  after: (_, fn) => systemClock.after(0, fn),
};

beforeEach(async () => {
  now = Date.now();
  registry = new FakeRegistry();
  await new Promise<void>((r) => registry.server.listen(0, '127.0.0.1', r));
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'cox-cache-'));
});
afterEach(async () => {
  registry.server.closeAllConnections();
  await new Promise((r) => registry.server.close(r));
  fs.rmSync(dir, { recursive: true, force: true });
});

async function cache(options: CacheOptions = {}): Promise<ImageCache> {
  const c = new ImageCache(dir, { clock, ...options });
  await c.start();
  return c;
}
const blobFiles = () => fs.readdirSync(path.join(dir, 'blobs/sha256')).sort();

describe('pulling artifacts', () => {
  it.each([
    MEDIA.wasmLayer,
    'application/vnd.wasm.content.layer.v1+wasm',
    'application/vnd.module.wasm.content.layer.v1+wasm',
  ])('takes a layer of type %s', async (type) => {
    const module = wasm(5000);
    const m = registry.artifact('1', module, type);
    const c = await cache();
    const image = await c.pull(`${registry.host}/apps/hello:1`);
    expect(image).toMatchObject({
      ref: `${registry.host}/apps/hello:1`,
      repoDigests: [`${registry.host}/apps/hello@${m.digest}`],
      moduleDigest: sha(module),
      layers: [{ mediaType: type, digest: sha(module), size: module.length }],
    });
    expect(image.sizeBytes).toBeGreaterThan(module.length);
    expect(fs.readFileSync(image.modulePath).equals(module)).toBe(true);
    for (const name of [image.ref, image.repoDigests[0]!]) expect(await c.get(name)).toEqual(image);
    expect(await c.list()).toEqual([image]);
  });

  it('comes back from disk after a restart, and pulls no bytes twice', async () => {
    registry.artifact('1', wasm(100));
    const image = await (await cache()).pull(`${registry.host}/a:1`);
    const again = await cache();
    expect(await again.get(image.ref)).toEqual(image);
    registry.requests = [];
    expect(await again.pull(image.ref)).toEqual(image);
    expect(registry.requests.map((r) => r.url)).toEqual(['/v2/a/manifests/1']);
  });

  it('takes what the tag points to now, and drops what nothing names any more', async () => {
    const c = await cache();
    registry.artifact('1', wasm(100, 1));
    const old = await c.pull(`${registry.host}/a:1`);
    registry.artifact('1', wasm(100, 2));
    const fresh = await c.pull(`${registry.host}/a:1`);
    expect(fresh.moduleDigest).not.toBe(old.moduleDigest);
    expect(blobFiles()).toEqual([fresh.moduleDigest.slice(7)]);
    await c.remove(fresh.repoDigests[0]!);
    await c.remove(fresh.ref);
    expect([await c.list(), blobFiles(), fs.readdirSync(path.join(dir, 'images'))]).toEqual([[], [], []]);
  });

  it('chooses the manifest for WebAssembly from an index', async () => {
    const module = wasm(10);
    const m = registry.artifact('x', module);
    const other = registry.artifact('y', wasm(20));
    const attestation = { ...other, platform: { os: 'unknown', architecture: 'unknown' } };
    const linux = { ...other, platform: { os: 'linux', architecture: 'amd64' } };
    const index = registry.manifest(
      '1',
      { manifests: [attestation, linux, { ...m, platform: { os: 'wasi', architecture: 'wasm' } }] },
      MEDIA.ociIndex,
    );
    const c = await cache();
    const image = await c.pull(`${registry.host}/a:1`);
    expect(image.moduleDigest).toBe(sha(module));
    expect(image.repoDigests).toEqual([index.digest, m.digest].map((d) => `${registry.host}/a@${d}`));
    registry.manifest(
      '2',
      { manifests: [{ ...m, platform: { os: 'plan9', architecture: 'mips' } }, attestation] },
      MEDIA.ociIndex,
    );
    expect((await c.pull(`${registry.host}/a:2`)).moduleDigest).toBe(sha(module));
    const two = [
      { ...m, platform: { os: 'plan9', architecture: 'mips' } },
      { ...m, platform: { os: 'aix', architecture: 'ppc' } },
    ];
    registry.manifest('3', { manifests: two }, MEDIA.ociIndex);
    await expect(c.pull(`${registry.host}/a:3`)).rejects.toThrow(
      /no match for platform.*plan9\/mips, aix\/ppc/,
    );
  });

  it('goes on where a download broke off, in the same life and in the next', async () => {
    const module = Buffer.concat([wasm(0), randomBytes(300_000)]);
    registry.artifact('1', module);
    let cut = 3;
    registry.before = (req, res) => {
      if (!req.url!.includes('/blobs/') || cut-- <= 0) return false;
      const from = Number(/^bytes=(\d+)-$/.exec(req.headers.range ?? '')?.[1] ?? 0);
      const headers = {
        'content-length': module.length - from,
        'content-range': `bytes ${from}-${module.length - 1}/${module.length}`,
      };
      res.writeHead(from ? 206 : 200, headers);
      res.write(module.subarray(from, from + 50_000), () => setTimeout(() => res.destroy(), 20));
      return true;
    };
    const image = await (await cache()).pull(`${registry.host}/a:1`);
    expect(fs.readFileSync(image.modulePath).equals(module)).toBe(true);
    const ranges = registry.requests.filter((r) => r.url.includes('/blobs/')).map((r) => r.range);
    expect(ranges).toHaveLength(4);
    expect(ranges[1]).toMatch(/^bytes=[1-9]\d+-$/);

    // What an earlier life left.
    fs.rmSync(image.modulePath);
    fs.writeFileSync(path.join(dir, 'partial', sha(module).slice(7)), module.subarray(0, 200_000));
    registry.requests = [];
    const second = await (await cache()).pull(`${registry.host}/a:1`);
    expect(fs.readFileSync(second.modulePath).equals(module)).toBe(true);
    expect(registry.requests.at(-1)!.range).toBe('bytes=200000-');
  });

  it('notices a start that does not fit, and a registry without ranges', async () => {
    const module = Buffer.concat([wasm(0), randomBytes(100_000)]);
    registry.artifact('1', module);
    const c = await cache();
    const partial = path.join(dir, 'partial', sha(module).slice(7));
    fs.writeFileSync(partial, randomBytes(50_000));
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toThrow(/changed on the way/);
    expect(fs.existsSync(partial)).toBe(false);
    fs.writeFileSync(partial, randomBytes(50_000));
    registry.before = (req) => {
      delete req.headers.range;
      return false;
    };
    expect((await c.pull(`${registry.host}/a:1`)).moduleDigest).toBe(sha(module));
  });

  it('pulls one blob once for many who want it', async () => {
    registry.artifact('1', wasm(100_000));
    const c = await cache();
    const images = await Promise.all(Array.from({ length: 10 }, () => c.pull(`${registry.host}/a:1`)));
    expect(new Set(images.map((i) => i.modulePath)).size).toBe(1);
    expect(registry.count('/blobs/')).toBe(1);
  });

  it('stops when told to', async () => {
    registry.artifact('1', wasm(100_000));
    const abort = new AbortController();
    registry.before = (req) => {
      if (!req.url!.includes('/blobs/')) return false;
      abort.abort(new Error('enough'));
      return true;
    };
    await expect((await cache()).pull(`${registry.host}/a:1`, { signal: abort.signal })).rejects.toThrow(
      'enough',
    );
  });
});

describe('pulls that wait for another of the same blob', () => {
  it('give up when told to, and take their turn when the other fails', async () => {
    const module = wasm(1000);
    registry.artifact('1', module);
    let held: http.ServerResponse | undefined;
    registry.before = (req, res) => {
      if (!req.url!.includes('/blobs/') || held) return false;
      held = res;
      return true;
    };
    const c = await cache();
    const first = new AbortController();
    const second = new AbortController();
    const one = c.pull(`${registry.host}/a:1`, { signal: first.signal });
    await expect.poll(() => held, { timeout: 10_000 }).toBeDefined();
    const two = c.pull(`${registry.host}/a:1`, { signal: second.signal });
    const three = c.pull(`${registry.host}/a:1`);
    second.abort(new Error('two is tired'));
    await expect(two).rejects.toThrow('two is tired');
    first.abort(new Error('one is tired'));
    await expect(one).rejects.toThrow('one is tired');
    expect((await three).moduleDigest).toBe(sha(module));
  });
});

describe('pulling container images', () => {
  const config = {
    Entrypoint: ['/app.wasm', 'run'],
    Cmd: ['--fast'],
    Env: ['A=1'],
    WorkingDir: '/work',
    User: '1000',
  };

  it.each([true, false])('finds the module that the entrypoint names (gzip: %s)', async (gzip) => {
    const module = wasm(200_000);
    const files = [
      { name: 'etc/', type: 'directory' as const },
      { name: 'etc/app.wasm', content: wasm(1) },
      { name: './app.wasm', content: module },
    ];
    await registry.container('1', files, config, gzip);
    const c = await cache();
    const image = await c.pull(`${registry.host}/a:1`);
    expect(image).toMatchObject({
      moduleDigest: sha(module),
      entrypoint: ['/app.wasm', 'run'],
      cmd: ['--fast'],
      env: ['A=1'],
      workingDir: '/work',
      user: '1000',
    });
    expect(fs.readFileSync(image.modulePath).equals(module)).toBe(true);
    expect(fs.readdirSync(path.join(dir, 'partial'))).toEqual([]);
    const before = registry.requests.length;
    expect(await c.pull(image.ref)).toEqual(image);
    // The manifest and the config: the layer is not needed again.
    expect(registry.requests.length - before).toBe(2);
  });

  it('resolves a relative entrypoint against the working directory', async () => {
    const module = wasm(3);
    await registry.container('1', [{ name: 'work/bin/app.wasm', content: module }], {
      Cmd: ['bin/app.wasm'],
      WorkingDir: '/work',
    });
    expect((await (await cache()).pull(`${registry.host}/a:1`)).moduleDigest).toBe(sha(module));
  });

  it('writes nothing outside, whatever the archive calls its files', async () => {
    const outside = path.join(dir, 'outside.wasm');
    const files = [
      { name: '../../../outside.wasm', content: wasm(1) },
      { name: '../app.wasm', content: wasm(2) },
      { name: outside, content: wasm(3) },
      { name: 'x/../app.wasm', content: wasm(4) },
    ];
    await registry.container('1', files, config);
    await expect((await cache()).pull(`${registry.host}/a:1`)).rejects.toThrow(/does not hold \/app.wasm/);
    expect(fs.existsSync(outside)).toBe(false);
    expect([...blobFiles(), ...fs.readdirSync(path.join(dir, 'partial'))]).toEqual([]);
  });

  it.each([
    [
      'a symbolic link',
      [{ name: 'app.wasm', type: 'symlink' as const, linkname: '/etc/passwd' }],
      config,
      /is a symlink and not a file/,
    ],
    [
      'a hard link',
      [{ name: 'app.wasm', type: 'link' as const, linkname: 'etc/passwd' }],
      config,
      /is a link and not a file/,
    ],
    ['something else', [{ name: 'app.wasm', content: Buffer.from('#!/bin/sh') }], config, /not WebAssembly/],
    ['no entrypoint', [{ name: 'app.wasm', content: wasm(1) }], {}, /names no entrypoint/],
  ])('refuses %s as the module', async (_, files, cfg, why) => {
    await registry.container('1', files, cfg);
    await expect((await cache()).pull(`${registry.host}/a:1`)).rejects.toMatchObject({
      reason: 'ErrImagePull',
      message: expect.stringMatching(why),
    });
    expect(blobFiles()).toEqual([]);
  });

  it('bounds what a compressed bomb unpacks to', async () => {
    await registry.container('1', [{ name: 'app.wasm', content: wasm(5_000_000) }], config);
    const c = await cache({ moduleBytes: 1_000_000 });
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toThrow(/more than the 1000000 allowed/);
  });

  it('reads an archive that ends in the middle of its last block, as umoci writes it', async () => {
    const module = wasm(700);
    const tar = pack();
    tar.entry({ name: 'app.wasm' }, module);
    const parts: Buffer[] = [];
    tar.finalize();
    for await (const p of tar) parts.push(p as Buffer);
    const layer = Buffer.concat(parts).subarray(0, 512 + module.length);
    registry.manifest('1', {
      config: registry.blob(Buffer.from(JSON.stringify({ config })), MEDIA.ociConfig),
      layers: [registry.blob(layer, 'application/vnd.oci.image.layer.v1.tar')],
    });
    expect((await (await cache()).pull(`${registry.host}/a:1`)).moduleDigest).toBe(sha(module));
    const torn = registry.blob(layer.subarray(0, 700), 'application/vnd.oci.image.layer.v1.tar');
    registry.manifest('2', {
      config: registry.blob(Buffer.from(JSON.stringify({ config })), MEDIA.ociConfig),
      layers: [torn],
    });
    await expect((await cache()).pull(`${registry.host}/a:2`)).rejects.toThrow(/cannot be unpacked/);
  });

  it('says what is wrong with a torn archive', async () => {
    const d = registry.blob(Buffer.from('no gzip'), 'application/vnd.oci.image.layer.v1.tar+gzip');
    registry.manifest('1', {
      config: registry.blob(Buffer.from(JSON.stringify({ config })), MEDIA.ociConfig),
      layers: [d],
    });
    await expect((await cache()).pull(`${registry.host}/a:1`)).rejects.toThrow(/cannot be unpacked/);
  });
});

describe('refusals', () => {
  const layer = (mediaType: string) => ({ mediaType, digest: sha('x'), size: 1 });
  const config = layer(MEDIA.ociConfig);
  it.each([
    [
      'two layers',
      {
        config,
        layers: [
          layer('application/vnd.oci.image.layer.v1.tar'),
          layer('application/vnd.oci.image.layer.v1.tar'),
        ],
      },
      /2 layers/,
    ],
    ['zstd', { config, layers: [layer('application/vnd.oci.image.layer.v1.tar+zstd')] }, /zstd/],
    [
      'two modules',
      { config, layers: [layer(MEDIA.wasmLayer), layer(MEDIA.wasmLayer)] },
      /2 WebAssembly layers/,
    ],
    [
      'a Helm chart',
      { config, layers: [layer('application/vnd.cncf.helm.chart.content.v1.tar+gzip')] },
      /not a WebAssembly image/,
    ],
    ['no layers', { config, layers: [] }, /not a WebAssembly image/],
    ['nonsense', { config: 5, layers: 'x' }, /not a valid OCI image manifest/],
    [
      'a layer too large',
      { config, layers: [{ ...layer(MEDIA.wasmLayer), size: 2 ** 40 }] },
      /more than the/,
    ],
  ])('of an image with %s', async (_, doc, why) => {
    registry.manifest('1', doc);
    await expect((await cache()).pull(`${registry.host}/a:1`)).rejects.toMatchObject({
      reason: 'ErrImagePull',
      message: expect.stringMatching(why),
    });
  });

  it('of a module that is none, an image that is not there, and a name that is none', async () => {
    const c = await cache();
    registry.artifact('1', Buffer.from('hello'));
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toThrow(/not WebAssembly/);
    expect(await c.get(`${registry.host}/a:1`)).toBeUndefined();
    await expect(c.pull(`${registry.host}/a:none`)).rejects.toMatchObject({
      reason: 'ErrImagePull',
      message: `failed to resolve reference "${registry.host}/a:none": ${registry.host}/a:none: not found`,
    });
    await expect(c.pull('not a name')).rejects.toMatchObject({ reason: 'InvalidImageName' });
  });

  it('of content other than the digest says: manifest, blob, and more bytes than stated', async () => {
    const c = await cache();
    const m = registry.artifact('1', wasm(100));
    const digest = sha('something else');
    registry.manifests.set(digest, registry.manifests.get('1')!);
    await expect(c.pull(`${registry.host}/a@${digest}`)).rejects.toThrow(/another manifest/);
    expect(m.digest).not.toBe(digest);
    registry.blobs.set(sha(wasm(100)), wasm(100, 9));
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toThrow(/changed on the way/);
    registry.blobs.set(sha(wasm(100)), wasm(200));
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toThrow(/longer than the/);
    expect([...blobFiles(), ...fs.readdirSync(path.join(dir, 'partial'))]).toEqual([]);
  });

  it('say RegistryUnavailable when the registry is down, after trying again', async () => {
    registry.artifact('1', wasm(1));
    let failures = 2;
    registry.before = (_, res) => {
      if (failures-- <= 0) return false;
      res.writeHead(503).end();
      return true;
    };
    const c = await cache();
    expect((await c.pull(`${registry.host}/a:1`)).moduleDigest).toBe(sha(wasm(1)));
    failures = 1000;
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toMatchObject({ reason: 'RegistryUnavailable' });
    await expect(c.pull('127.0.0.1:1/a:1')).rejects.toMatchObject({
      reason: 'RegistryUnavailable',
      message: expect.stringContaining('ECONNREFUSED'),
    });
    await expect(c.pull('coxswain.internal/a:1')).rejects.toMatchObject({
      reason: 'RegistryUnavailable',
      message: expect.stringContaining('has not joined a hub'),
    });
  });
});

describe('authentication', () => {
  const auth = { username: 'u', password: 'p:q' };
  const basic = `Basic ${Buffer.from('u:p:q').toString('base64')}`;

  it('answers a Basic challenge, and says so when it cannot', async () => {
    registry.artifact('1', wasm(1));
    registry.before = (req, res) => {
      if (req.headers.authorization === basic) return false;
      res.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return true;
    };
    const c = await cache();
    expect((await c.pull(`${registry.host}/a:1`, { auth })).moduleDigest).toBe(sha(wasm(1)));
    await expect(c.pull(`${registry.host}/a:1`)).rejects.toMatchObject({
      reason: 'ErrImagePull',
      message: expect.stringContaining('may require authorization'),
    });
  });

  it('fetches a token with the credentials, once for many requests, and for one repository', async () => {
    registry.artifact('1', wasm(1));
    registry.before = (req, res) => {
      const url = new URL(req.url!, 'http://x');
      if (url.pathname === '/token') {
        expect(req.headers.authorization).toBe(basic);
        expect([url.searchParams.get('service'), url.searchParams.get('scope')]).toEqual([
          'reg',
          'repository:a:pull',
        ]);
        res.end(JSON.stringify({ token: 'T', expires_in: 300 }));
        return true;
      }
      if (req.headers.authorization === 'Bearer T') return false;
      const challenge = `Bearer realm="http://${registry.host}/token",service="reg",scope="repository:a:pull"`;
      res.writeHead(401, { 'www-authenticate': challenge }).end();
      return true;
    };
    const c = await cache();
    await c.pull(`${registry.host}/a:1`, { auth });
    await c.pull(`${registry.host}/a:1`, { auth });
    expect(registry.count('/token')).toBe(1);
  });

  it('follows redirects without taking credentials along', async () => {
    const other = new FakeRegistry();
    await new Promise<void>((r) => other.server.listen(0, '127.0.0.1', r));
    const module = wasm(1000);
    registry.artifact('1', module);
    other.blobs.set(sha(module), module);
    registry.before = (req, res) => {
      if (req.headers.authorization !== basic) {
        res.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        return true;
      }
      if (!req.url!.includes('/blobs/')) return false;
      res.writeHead(307, { location: `http://${other.host}${req.url}` }).end();
      return true;
    };
    expect((await (await cache()).pull(`${registry.host}/a:1`, { auth })).moduleDigest).toBe(sha(module));
    expect(other.requests.map((r) => r.authorization)).toEqual([undefined]);
    other.server.closeAllConnections();
    await new Promise((r) => other.server.close(r));
  });

  it('uses an endpoint configured for a registry', async () => {
    registry.artifact('latest', wasm(1));
    const c = await cache({ registries: { 'docker.io': { endpoint: `http://${registry.host}` } } });
    const image = await c.pull('hello');
    expect(image.ref).toBe('docker.io/library/hello:latest');
    expect(registry.requests[0]!.url).toBe('/v2/library/hello/manifests/latest');
  });

  it.each([
    ['Basic realm="a"', [{ scheme: 'basic', params: { realm: 'a' } }]],
    [
      'Bearer realm="https://x/t?a=b",service="s, t",scope="repository:a:pull,push", Basic realm=b',
      [
        {
          scheme: 'bearer',
          params: { realm: 'https://x/t?a=b', service: 's, t', scope: 'repository:a:pull,push' },
        },
        { scheme: 'basic', params: { realm: 'b' } },
      ],
    ],
    ['Bearer realm="a\\"b"', [{ scheme: 'bearer', params: { realm: 'a"b' } }]],
    ['', []],
    ['"', []],
  ])('parses the challenge %s', (header, challenges) => {
    expect(parseChallenges(header)).toEqual(challenges);
  });
});

describe('the cache', () => {
  it('notices a damaged module and pulls it anew', async () => {
    const module = wasm(1000);
    registry.artifact('1', module);
    const image = await (await cache()).pull(`${registry.host}/a:1`);
    fs.writeFileSync(image.modulePath, wasm(1000, 7));
    const c = await cache();
    expect(await c.get(image.ref)).toBeUndefined();
    await c.pull(image.ref);
    expect(fs.readFileSync(image.modulePath).equals(module)).toBe(true);
    // Damaged under a running agent.
    fs.writeFileSync(image.modulePath, wasm(1001, 7));
    expect(await c.get(image.ref)).toBeUndefined();
    fs.rmSync(image.modulePath, { force: true });
    expect(await c.get(image.ref)).toBeUndefined();
  });

  it('drops damaged records and debris at the start', async () => {
    registry.artifact('1', wasm(1));
    const image = await (await cache()).pull(`${registry.host}/a:1`);
    fs.writeFileSync(path.join(dir, 'images/bad.json'), '{"ref":');
    fs.writeFileSync(path.join(dir, 'images/.1.2.tmp'), 'x');
    fs.writeFileSync(path.join(dir, 'blobs/sha256', 'f'.repeat(64)), 'x');
    fs.writeFileSync(path.join(dir, 'partial/junk'), 'x');
    const c = await cache();
    expect((await c.list()).map((i) => i.ref)).toEqual([image.ref]);
    expect(blobFiles()).toEqual([image.moduleDigest.slice(7)]);
    expect(fs.readdirSync(path.join(dir, 'images'))).toHaveLength(1);
    expect(fs.readdirSync(path.join(dir, 'partial'))).toEqual([]);
  });

  it('drops what was not used for longest, but nothing in use', async () => {
    const inUse = new Set<string>();
    const c = await cache({ budgetBytes: 3500, inUse: () => inUse });
    const refs: string[] = [];
    for (let i = 1; i <= 3; i++) {
      now += 1000;
      registry.artifact(`${i}`, wasm(992, i));
      const image = await c.pull(`${registry.host}/a:${i}`);
      refs.push(image.ref);
      if (i === 1) inUse.add(image.moduleDigest);
    }
    now += 1000;
    await c.get(refs[1]!);
    now += 1000;
    registry.artifact('4', wasm(992, 4));
    const fourth = await c.pull(`${registry.host}/a:4`);
    expect((await c.list()).map((i) => i.ref).sort()).toEqual([refs[0], refs[1], fourth.ref].sort());
    expect(blobFiles()).toHaveLength(3);
  });

  it('writes nothing when an image is used or pulled again', async () => {
    registry.artifact('1', wasm(1000));
    const c = await cache();
    const image = await c.pull(`${registry.host}/a:1`);
    const stamp = () =>
      ['images', 'blobs/sha256', 'partial'].map((d) => {
        const full = path.join(dir, d);
        return [
          fs.statSync(full).mtimeMs,
          ...fs.readdirSync(full).map((f) => fs.statSync(path.join(full, f)).ctimeMs),
        ];
      });
    const before = stamp();
    now += 60_000;
    await c.get(image.ref);
    await c.pull(image.ref);
    expect(stamp()).toEqual(before);
    now += 7 * 3_600_000;
    await c.get(image.ref);
    expect(stamp()).not.toEqual(before);
  });
});
