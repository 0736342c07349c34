import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { createSecureServer, connect as h2connect } from 'node:http2';
import { request } from 'node:https';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../api/clock.js';
import { MEDIA } from '../../api/oci.js';
import { createPki, type Pki } from '../pki/pki.js';
import { ImageRegistry } from './registry.js';

const sha = (b: Buffer | string) => `sha256:${createHash('sha256').update(b).digest('hex')}`;

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
  json: { errors?: { code: string; message: string }[] } & Record<string, unknown>;
}
type Call = (
  method: string,
  path: string,
  options?: { headers?: Record<string, string>; body?: Buffer | string; as?: 'admin' | 'node' | 'nobody' },
) => Promise<Answer>;

let pki: Pki;
let clients: Record<string, { cert: string; key: string } | object>;
let pkiDir: string;
beforeAll(async () => {
  pkiDir = fs.mkdtempSync(path.join(os.tmpdir(), 'cox-pki-'));
  pki = await createPki(pkiDir);
  const { generateKeyPairSync } = await import('node:crypto');
  const client = async (cn: string, o: string[]) => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const spki = publicKey.export({ type: 'spki', format: 'der' });
    const { issueLeaf } = await import('../pki/issue.js');
    const issuer = {
      certPem: pki.caPem,
      key: (await import('node:crypto')).createPrivateKey(fs.readFileSync(path.join(pkiDir, 'pki/ca.key'))),
    };
    const now = Date.now();
    const cert = await issueLeaf(issuer, { cn, o }, publicKey, { notBefore: now - 1e6, notAfter: now + 1e7 });
    expect(spki.length).toBeGreaterThan(0);
    return { cert, key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string };
  };
  clients = {
    admin: await client('admin', ['system:masters']),
    node: await client('system:node:pi', ['system:nodes']),
    nobody: {},
  };
});
afterAll(() => fs.rmSync(pkiDir, { recursive: true, force: true }));

let dir: string;
let registry: ImageRegistry;
let server: ReturnType<typeof createSecureServer>;
let port: number;
let now: number;
const clock: Clock = { ...systemClock, now: () => now };

async function start(limits: object = {}): Promise<void> {
  registry = new ImageRegistry(dir, { clock, limits });
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
  port = (server.address() as AddressInfo).port;
}
async function stop(): Promise<void> {
  await registry.stop();
  (server as unknown as { closeAllConnections?(): void }).closeAllConnections?.();
  await new Promise<void>((r) => {
    server.close(() => r());
  });
}
beforeEach(async () => {
  now = Date.now();
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'cox-images-'));
});
afterEach(async () => {
  await stop();
  fs.rmSync(dir, { recursive: true, force: true });
});

const answer = (status: number, headers: Answer['headers'], parts: Buffer[]): Answer => {
  const body = Buffer.concat(parts);
  const isJson = String(headers['content-type']).includes('json') && body.length > 0;
  return { status, headers, body, json: isJson ? JSON.parse(body.toString()) : {} };
};

const http1: Call = (method, url, { headers = {}, body, as = 'admin' } = {}) =>
  new Promise((resolve, reject) => {
    const req = request(
      { host: '127.0.0.1', port, path: url, method, headers, ca: pki.caPem, agent: false, ...clients[as] },
      (res) => {
        const parts: Buffer[] = [];
        res.on('data', (d: Buffer) => parts.push(d));
        res.on('end', () => resolve(answer(res.statusCode!, res.headers, parts)));
        res.on('error', reject);
      },
    );
    req.on('error', reject);
    req.end(body);
  });

const http2: Call = (method, url, { headers = {}, body, as = 'admin' } = {}) =>
  new Promise((resolve, reject) => {
    const session = h2connect(`https://127.0.0.1:${port}`, { ca: pki.caPem, ...clients[as] });
    session.on('error', reject);
    const stream = session.request({ ':method': method, ':path': url, ...headers });
    let head: Answer['headers'] = {};
    const parts: Buffer[] = [];
    stream.on('response', (h) => {
      head = h as never;
    });
    stream.on('data', (d: Buffer) => parts.push(d));
    stream.on('error', () => {});
    stream.on('close', () => {
      session.close();
      resolve(answer(Number(head[':status']), head, parts));
    });
    stream.end(body);
  });

async function push(
  call: Call,
  repo: string,
  tag: string,
  extra: object = {},
  content = 'layer',
): Promise<string> {
  const config = Buffer.from('{}');
  const layer = Buffer.from(content);
  for (const blob of [config, layer]) {
    const r = await call('POST', `/v2/${repo}/blobs/uploads/?digest=${sha(blob)}`, { body: blob });
    expect(r.status, r.body.toString()).toBe(201);
  }
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: MEDIA.ociManifest,
    config: { mediaType: MEDIA.wasmConfig, digest: sha(config), size: config.length },
    layers: [{ mediaType: MEDIA.wasmLayer, digest: sha(layer), size: layer.length }],
    ...extra,
  });
  const r = await call('PUT', `/v2/${repo}/manifests/${tag}`, {
    body: manifest,
    headers: { 'content-type': MEDIA.ociManifest },
  });
  expect(r.status, r.body.toString()).toBe(201);
  return r.headers['docker-content-digest'] as string;
}

describe.each([
  ['HTTP/1.1', http1],
  ['HTTP/2', http2],
] as const)('image registry over %s', (_, call) => {
  it('takes a blob in one request and gives it back, whole, in ranges and by HEAD', async () => {
    await start();
    const blob = randomBytes(100_000);
    const digest = sha(blob);
    expect((await call('HEAD', `/v2/a/b/blobs/${digest}`)).status).toBe(404);
    const put = await call('POST', `/v2/a/b/blobs/uploads/?digest=${digest}`, { body: blob });
    expect([put.status, put.headers['location']]).toEqual([201, `/v2/a/b/blobs/${digest}`]);
    const get = await call('GET', `/v2/a/b/blobs/${digest}`, { as: 'nobody' });
    expect(get.body.equals(blob)).toBe(true);
    expect(get.headers['docker-content-digest']).toBe(digest);
    const head = await call('HEAD', `/v2/a/b/blobs/${digest}`, { as: 'nobody' });
    expect([head.status, head.headers['content-length'], head.body.length]).toEqual([200, '100000', 0]);
    for (const [range, from, to] of [
      ['bytes=0-9', 0, 10],
      ['bytes=99990-', 99_990, 100_000],
      ['bytes=-5', 99_995, 100_000],
      ['bytes=5-999999', 5, 100_000],
    ] as const) {
      const part = await call('GET', `/v2/a/b/blobs/${digest}`, { headers: { range } });
      expect([part.status, part.headers['content-range']]).toEqual([206, `bytes ${from}-${to - 1}/100000`]);
      expect(part.body.equals(blob.subarray(from, to))).toBe(true);
    }
    const beyond = await call('GET', `/v2/a/b/blobs/${digest}`, { headers: { range: 'bytes=100000-' } });
    expect([beyond.status, beyond.headers['content-range']]).toEqual([416, 'bytes */100000']);
  });

  it('takes a blob in chunks, tells how far it is, and refuses a chunk that does not fit', async () => {
    await start();
    const blob = randomBytes(30_000);
    const begun = await call('POST', '/v2/a/blobs/uploads/');
    expect(begun.status).toBe(202);
    const at = begun.headers['location'] as string;
    for (const from of [0, 10_000]) {
      const r = await call('PATCH', at, {
        body: blob.subarray(from, from + 10_000),
        headers: { 'content-range': `${from}-${from + 9999}` },
      });
      expect([r.status, r.headers['range']]).toEqual([202, `0-${from + 9999}`]);
    }
    const wrong = await call('PATCH', at, { body: 'x', headers: { 'content-range': '5-5' } });
    expect([wrong.status, wrong.headers['range']]).toEqual([416, '0-19999']);
    const status = await call('GET', at);
    expect([status.status, status.headers['range']]).toEqual([204, '0-19999']);
    const done = await call('PUT', `${at}?digest=${sha(blob)}`, { body: blob.subarray(20_000) });
    expect(done.status).toBe(201);
    expect((await call('GET', `/v2/a/blobs/${sha(blob)}`)).body.equals(blob)).toBe(true);
    expect((await call('GET', at)).json.errors![0]!.code).toBe('BLOB_UPLOAD_UNKNOWN');
  });

  it('refuses content that is not what its digest says, and keeps none of it', async () => {
    await start();
    const r = await call('POST', `/v2/a/blobs/uploads/?digest=${sha('this')}`, { body: 'that' });
    expect([r.status, r.json.errors![0]!.code]).toEqual([400, 'DIGEST_INVALID']);
    expect((await call('HEAD', `/v2/a/blobs/${sha('that')}`)).status).toBe(404);
    expect(fs.readdirSync(path.join(dir, 'images/uploads'))).toEqual([]);
    const bad = await call('POST', '/v2/a/blobs/uploads/?digest=sha256:12', { body: 'x' });
    expect(bad.json.errors![0]!.code).toBe('DIGEST_INVALID');
  });

  it('takes manifests by tag and digest and lists tags in pages', async () => {
    await start();
    const digest = await push(call, 'apps/hello', '1');
    for (const t of ['3', '2', 'latest']) expect(await push(call, 'apps/hello', t)).toBe(digest);
    for (const ref of ['1', digest]) {
      const r = await call('GET', `/v2/apps/hello/manifests/${ref}`, { as: 'nobody' });
      expect([r.status, r.headers['content-type'], sha(r.body)]).toEqual([200, MEDIA.ociManifest, digest]);
      const head = await call('HEAD', `/v2/apps/hello/manifests/${ref}`);
      expect([head.status, head.headers['content-length']]).toEqual([200, `${r.body.length}`]);
    }
    expect((await call('GET', '/v2/apps/hello/tags/list')).json).toEqual({
      name: 'apps/hello',
      tags: ['1', '2', '3', 'latest'],
    });
    const page = await call('GET', '/v2/apps/hello/tags/list?n=2');
    expect(page.json['tags']).toEqual(['1', '2']);
    const next = /<(.*)>/.exec(page.headers['link'] as string)![1]!;
    expect((await call('GET', next)).json['tags']).toEqual(['3', 'latest']);
    expect((await call('GET', '/v2/apps/hello/tags/list?n=0')).json['tags']).toEqual([]);
    expect((await call('GET', '/v2/apps/hello/tags/list?n=x')).status).toBe(400);
    expect((await call('GET', '/v2/apps/none/tags/list')).json.errors![0]!.code).toBe('NAME_UNKNOWN');
  });

  it('deletes tags, manifests with their tags, and blobs that nothing needs', async () => {
    await start();
    const digest = await push(call, 'a', '1');
    await push(call, 'a', '2');
    expect((await call('DELETE', '/v2/a/manifests/2')).status).toBe(202);
    expect((await call('GET', '/v2/a/manifests/2')).json.errors![0]!.code).toBe('MANIFEST_UNKNOWN');
    const used = await call('DELETE', `/v2/a/blobs/${sha('layer')}`);
    expect(used.json.errors![0]!.code).toBe('UNSUPPORTED');
    expect((await call('DELETE', `/v2/a/manifests/${digest}`)).status).toBe(202);
    expect((await call('GET', '/v2/a/manifests/1')).status).toBe(404);
    expect((await call('DELETE', `/v2/a/manifests/${digest}`)).status).toBe(404);
    expect((await call('DELETE', `/v2/a/blobs/${sha('layer')}`)).status).toBe(202);
    expect((await call('DELETE', `/v2/a/blobs/${sha('layer')}`)).json.errors![0]!.code).toBe('BLOB_UNKNOWN');
  });

  it('mounts a blob of another repository, or starts an upload when there is none', async () => {
    await start();
    await push(call, 'a', '1');
    const r = await call('POST', `/v2/b/blobs/uploads/?mount=${sha('layer')}&from=a`);
    expect([r.status, r.headers['location']]).toEqual([201, `/v2/b/blobs/${sha('layer')}`]);
    expect((await call('POST', `/v2/b/blobs/uploads/?mount=${sha('none')}&from=a`)).status).toBe(202);
  });

  it('lists referrers', async () => {
    await start();
    const digest = await push(call, 'a', '1');
    const subject = { mediaType: MEDIA.ociManifest, digest, size: 1 };
    const sbom = await push(call, 'a', 'sbom', { subject, artifactType: 'application/sbom' });
    const sig = await push(call, 'a', 'sig', { subject, artifactType: 'application/sig' });
    const all = await call('GET', `/v2/a/referrers/${digest}`);
    expect(all.headers['content-type']).toBe(MEDIA.ociIndex);
    expect((all.json['manifests'] as { digest: string }[]).map((m) => m.digest).sort()).toEqual(
      [sbom, sig].sort(),
    );
    const some = await call('GET', `/v2/a/referrers/${digest}?artifactType=application/sig`);
    expect((some.json['manifests'] as { digest: string }[]).map((m) => m.digest)).toEqual([sig]);
    expect((await call('GET', `/v2/a/referrers/${sig}`)).json['manifests']).toEqual([]);
  });

  it.each([
    ['no JSON', '{', 'MANIFEST_INVALID'],
    ['schema 1', '{"schemaVersion":1}', 'MANIFEST_INVALID'],
    ['no config', '{"schemaVersion":2,"layers":[]}', 'MANIFEST_INVALID'],
    ['another type', '{"schemaVersion":2,"mediaType":"x/y"}', 'MANIFEST_INVALID'],
    [
      'a layer that is not here',
      JSON.stringify({
        schemaVersion: 2,
        config: { mediaType: 'a/b', digest: sha('none'), size: 4 },
        layers: [],
      }),
      'MANIFEST_BLOB_UNKNOWN',
    ],
  ])('refuses a manifest with %s', async (_, body, code) => {
    await start();
    const r = await call('PUT', '/v2/a/manifests/1', {
      body,
      headers: { 'content-type': MEDIA.ociManifest },
    });
    expect([r.status, r.json.errors![0]!.code]).toEqual([400, code]);
    expect((await call('GET', '/v2/a/manifests/1')).status).toBe(404);
  });

  it('lets anyone pull, and only the administrator or the token push', async () => {
    await start();
    await push(call, 'a', '1');
    const token = fs.readFileSync(path.join(dir, 'push.token'), 'utf8').trim();
    expect(fs.statSync(path.join(dir, 'push.token')).mode & 0o777).toBe(0o600);
    const basic = (pass: string) => ({
      authorization: `Basic ${Buffer.from(`u:${pass}`).toString('base64')}`,
    });
    for (const as of ['nobody', 'node'] as const) {
      expect((await call('GET', '/v2/', { as })).status).toBe(200);
      expect((await call('GET', '/v2/a/manifests/1', { as })).status).toBe(200);
      for (const [method, url] of [
        ['POST', '/v2/a/blobs/uploads/'],
        ['PUT', '/v2/a/manifests/2'],
        ['DELETE', '/v2/a/manifests/1'],
        ['DELETE', `/v2/a/blobs/${sha('layer')}`],
      ] as const) {
        for (const headers of [
          {},
          basic('wrong'),
          { authorization: 'Bearer x' },
          { authorization: 'Basic' },
        ]) {
          const r = await call(method, url, { as, headers: headers as Record<string, string> });
          expect([r.status, r.json.errors![0]!.code]).toEqual([401, 'UNAUTHORIZED']);
          expect(r.headers['www-authenticate']).toContain('Basic');
        }
      }
    }
    for (const headers of [basic(token), { authorization: `Bearer ${token}` }]) {
      expect((await call('POST', '/v2/a/blobs/uploads/', { as: 'nobody', headers })).status).toBe(202);
    }
    expect((await call('GET', '/v2/a/manifests/1')).status).toBe(200);
  });

  it('answers what it cannot do with the spec’s errors, and paths lead nowhere else', async () => {
    await start();
    const outside = path.join(dir, 'images', 'secret');
    fs.writeFileSync(outside, 'secret');
    for (const [method, url, status, code] of [
      ['GET', '/v2/UPPER/manifests/1', 400, 'NAME_INVALID'],
      ['GET', '/v2/a/../b/manifests/..', 404, 'NAME_UNKNOWN'],
      ['GET', '/v2/a/manifests/%2e%2e%2f%2e%2e', 404, 'MANIFEST_UNKNOWN'],
      ['GET', '/v2/a/blobs/..%2f..%2fsecret', 400, 'DIGEST_INVALID'],
      ['GET', '/v2/a/blobs/sha256:..%2f..%2fsecret', 400, 'DIGEST_INVALID'],
      ['GET', '/v2/a/manifests/%', 400, 'NAME_INVALID'],
      ['PATCH', '/v2/a/blobs/uploads/..%2f..', 404, 'BLOB_UPLOAD_UNKNOWN'],
      ['PUT', '/v2/a/manifests/sha256:12', 400, 'DIGEST_INVALID'],
      ['GET', '/v2/none', 404, 'NAME_UNKNOWN'],
      ['PUT', '/v2/a/tags/list', 405, 'UNSUPPORTED'],
      ['GET', `/v2/${'a'.repeat(300)}/manifests/1`, 400, 'NAME_INVALID'],
    ] as const) {
      const r = await call(method, url);
      expect([url, r.status, r.json.errors?.[0]?.code]).toEqual([url, status, code]);
    }
  });

  it('bounds blobs, uploads and manifests', async () => {
    await start({ blobBytes: 1000, uploads: 2 });
    const big = await call('POST', `/v2/a/blobs/uploads/?digest=${sha('x')}`, { body: randomBytes(1001) });
    expect([big.status, big.json.errors![0]!.code]).toEqual([413, 'SIZE_INVALID']);
    const begun = await call('POST', '/v2/a/blobs/uploads/');
    const at = begun.headers['location'] as string;
    expect((await call('PATCH', at, { body: randomBytes(900) })).status).toBe(202);
    // Not announced: chunked over HTTP/1.1, without a length over HTTP/2.
    expect((await call('PATCH', at, { body: randomBytes(900) })).status).toBe(413);
    await call('POST', '/v2/a/blobs/uploads/');
    expect((await call('POST', '/v2/a/blobs/uploads/')).json.errors![0]!.code).toBe('TOOMANYREQUESTS');
    expect((await call('DELETE', at)).status).toBe(204);
    expect((await call('POST', '/v2/a/blobs/uploads/')).status).toBe(202);
    const r = await call('PUT', '/v2/a/manifests/1', { body: Buffer.alloc((4 << 20) + 1, 0x20) });
    expect([r.status, r.json.errors![0]!.code]).toEqual([413, 'MANIFEST_INVALID']);
  });
});

describe('image storage', () => {
  it('tells the hub where a blob lies', async () => {
    await start();
    await push(http1, 'a', '1');
    expect(fs.readFileSync((await registry.blob(sha('layer')))!, 'utf8')).toBe('layer');
    expect(await registry.blob(sha('none'))).toBeUndefined();
    expect(await registry.blob('sha256:../../push.token')).toBeUndefined();
  });

  it('drops uploads that stopped', async () => {
    await start({ uploadIdle: 20 });
    const at = (await http1('POST', '/v2/a/blobs/uploads/')).headers['location'] as string;
    await expect
      .poll(() => fs.readdirSync(path.join(dir, 'images/uploads')), { timeout: 10_000 })
      .toEqual([]);
    expect((await http1('GET', at)).status).toBe(404);
  });

  it('leaves room on the disk', async () => {
    await start({ reserveBytes: Number.MAX_SAFE_INTEGER });
    const r = await http1('POST', '/v2/a/blobs/uploads/');
    expect([r.status, r.json.errors![0]!.message]).toEqual([507, expect.stringContaining('too little room')]);
  });

  it('drops images that lost their tag when the disk is short, and no others', async () => {
    const limits = { grace: 1000, reserveBytes: 0 };
    await start(limits);
    const old = await push(http1, 'a', '1', {}, 'first');
    const child = await push(http1, 'a', 'child', {}, 'child');
    await push(http1, 'a', '1', {}, 'second');
    const index = JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA.ociIndex,
      manifests: [
        {
          mediaType: MEDIA.ociManifest,
          digest: child,
          size: fs.statSync(path.join(dir, 'images/blobs/sha256', child.slice(7))).size,
        },
      ],
    });
    const put = await http1('PUT', '/v2/a/manifests/index', {
      body: index,
      headers: { 'content-type': MEDIA.ociIndex },
    });
    expect(put.status).toBe(201);
    await http1('DELETE', '/v2/a/manifests/child');
    await stop();
    now += 10_000;
    // A restart alone keeps what may be asked for by digest.
    await start(limits);
    expect((await http1('HEAD', `/v2/a/manifests/${old}`)).status).toBe(200);
    await stop();
    await start({ ...limits, reserveBytes: Number.MAX_SAFE_INTEGER });
    expect((await http1('POST', '/v2/a/blobs/uploads/')).status).toBe(507);
    const status = async (url: string) => (await http1('HEAD', url)).status;
    expect([await status(`/v2/a/manifests/${old}`), await status(`/v2/a/blobs/${sha('first')}`)]).toEqual([
      404, 404,
    ]);
    expect([await status('/v2/a/manifests/1'), await status(`/v2/a/blobs/${sha('second')}`)]).toEqual([
      200, 200,
    ]);
    expect([await status(`/v2/a/manifests/${child}`), await status(`/v2/a/blobs/${sha('child')}`)]).toEqual([
      200, 200,
    ]);
  });

  it('collects what nothing refers to, after the grace period, and survives a restart', async () => {
    await start();
    await push(http1, 'a', '1', {}, 'kept');
    const gone = await push(http1, 'b', '1', {}, 'gone');
    await http1('DELETE', `/v2/b/manifests/${gone}`);
    expect(await registry.collectGarbage()).toEqual({ blobs: 0, bytes: 0 });
    now += 2 * 3_600_000;
    // Blobs are promised to whoever pushed them in this run; the manifest is not.
    expect(await registry.collectGarbage()).toMatchObject({ blobs: 1 });
    fs.writeFileSync(path.join(dir, 'images/uploads/left-over'), 'x');
    await stop();
    await start();
    expect(fs.readdirSync(path.join(dir, 'images/uploads'))).toEqual([]);
    expect((await http1('HEAD', `/v2/b/blobs/${sha('gone')}`)).status).toBe(404);
    const m = await http1('GET', '/v2/a/manifests/1');
    expect(m.status).toBe(200);
    expect((await http1('GET', `/v2/a/blobs/${sha('kept')}`)).body.toString()).toBe('kept');
    expect(fs.readdirSync(path.join(dir, 'images/blobs/sha256'))).toHaveLength(3);
  });

  it('deletes nothing while a manifest is damaged, and is repaired by another push', async () => {
    await start();
    const digest = await push(http1, 'a', '1');
    const file = path.join(dir, 'images/blobs/sha256', digest.slice(7));
    fs.writeFileSync(file, 'spoiled');
    now += 2 * 3_600_000;
    await stop();
    await start();
    expect((await http1('GET', '/v2/a/manifests/1')).status).toBe(404);
    expect((await http1('GET', `/v2/a/blobs/${sha('layer')}`)).status).toBe(200);
    await push(http1, 'a', '1');
    expect((await http1('GET', '/v2/a/manifests/1')).status).toBe(200);
  });
});
