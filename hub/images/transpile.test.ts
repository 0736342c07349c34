import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TRANSPILED_PATH, Transpiler } from './transpile.js';

/** The smallest component there is: its header. */
const EMPTY = Buffer.from([0, 0x61, 0x73, 0x6d, 13, 0, 1, 0]);
const digestOf = (b: Uint8Array) => `sha256:${createHash('sha256').update(b).digest('hex')}`;

describe('transpiling at the hub', () => {
  let dir: string;
  let transpiler: Transpiler;
  let server: Server;
  let url: string;
  let allowed = true;

  const serve = async (limits = {}) => {
    transpiler = new Transpiler(dir, { mayPut: () => allowed, limits });
    await transpiler.start();
    server = createServer((req, res) => void transpiler.handle(req, res));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}${TRANSPILED_PATH}`;
  };
  beforeEach(() => {
    dir = mkdtempSync(path.join(tmpdir(), 'transpile-'));
    allowed = true;
  });
  afterEach(async () => {
    await new Promise((resolve) => server.close(resolve));
    await transpiler.stop();
    await rm(dir, { recursive: true, force: true });
  });
  const put = (digest: string, body: Uint8Array) =>
    fetch(url + digest, { method: 'PUT', body: body as never });
  const message = async (r: Response) => ((await r.json()) as { message: string }).message;

  it('asks for what it does not know, prepares it once, and has it from then on', async () => {
    await serve();
    const digest = digestOf(EMPTY);
    expect((await fetch(url + digest)).status).toBe(404);
    const first = await put(digest, EMPTY);
    expect(first.status).toBe(200);
    const form = await first.text();
    expect(form).toMatch(/^coxswain-transpiled\/1\n\{"imports":\[\]/);
    const again = await fetch(url + digest);
    expect(again.status).toBe(200);
    expect(await again.text()).toBe(form);
    expect(readdirSync(path.join(dir, 'transpiled'))).toHaveLength(1);
  });

  it('takes components of the own registry without being handed them', async () => {
    await serve();
    const blobs = path.join(dir, 'images/blobs/sha256');
    mkdirSync(blobs, { recursive: true });
    writeFileSync(path.join(blobs, digestOf(EMPTY).slice(7)), EMPTY);
    expect((await fetch(url + digestOf(EMPTY))).status).toBe(200);
  });

  it('refuses strangers, false digests, large and broken components, each with a reason', async () => {
    await serve({ componentBytes: 1000 });
    allowed = false;
    expect((await put(digestOf(EMPTY), EMPTY)).status).toBe(403);
    allowed = true;
    const other = await put(digestOf(Buffer.from('x')), EMPTY);
    expect(other.status).toBe(400);
    expect(await message(other)).toContain(digestOf(EMPTY));
    const large = Buffer.alloc(2000);
    const tooLarge = await put(digestOf(large), large).catch(() => undefined);
    // The connection may go before the whole body is sent.
    if (tooLarge) expect(tooLarge.status).toBe(413);
    const broken = Buffer.concat([EMPTY, Buffer.from([200, 1, 2, 3])]);
    const refused = await put(digestOf(broken), broken);
    expect(refused.status).toBe(422);
    expect(await message(refused)).toMatch(/cannot be prepared: \S/);
    expect((await fetch(`${url}sha256:..%2f..%2fetc`)).status).toBe(400);
    expect(readdirSync(path.join(dir, 'transpiled'))).toEqual([]);
  });

  it('gives up in time, and leaves nothing behind', async () => {
    await serve({ timeMs: 1 });
    const late = await put(digestOf(EMPTY), EMPTY);
    expect(late.status).toBe(504);
    expect(await message(late)).toContain('took longer');
    expect(existsSync(path.join(dir, 'transpiled', digestOf(EMPTY).slice(7)))).toBe(false);
  });
});
