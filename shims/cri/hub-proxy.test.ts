import { createServer, request } from 'node:http';
import { describe, expect, it } from 'vitest';
import { HubProxy } from './hub-proxy.js';

const ask = (
  address: string,
  path: string,
  o: { method?: string; auth?: string } = {},
): Promise<{ status: number; headers: Record<string, unknown>; body: string }> =>
  new Promise((resolve, reject) => {
    const req = request(
      `http://${address}${path}`,
      { method: o.method ?? 'GET', agent: false, ...(o.auth ? { auth: o.auth } : {}) },
      (res) => {
        let body = '';
        res.on('data', (c) => {
          body += c;
        });
        res.on('end', () => resolve({ status: res.statusCode!, headers: res.headers, body }));
      },
    );
    req.on('error', reject);
    req.end();
  });

describe("the door to the hub's registry", () => {
  const identity = () => `test-${process.pid}-${Math.random()}`;

  it('has one address per agent, on loopback', () => {
    const a = new HubProxy(() => undefined, 'a');
    expect(new HubProxy(() => undefined, 'a').address).toBe(a.address);
    expect(new HubProxy(() => undefined, 'b').address).not.toBe(a.address);
    for (let i = 0; i < 500; i++)
      expect(new HubProxy(() => undefined, `n${i}`).address).toMatch(
        /^127\.([1-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-4])\.\d+\.([1-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-4]):5443$/,
      );
  });

  it('is open only while something is pulled, only for who pulls, only for pulling', async () => {
    const proxy = new HubProxy(() => undefined, identity());
    await expect(ask(proxy.address, '/v2/')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    let auth = '';
    await proxy.during(async ({ username, password }) => {
      auth = `${username}:${password}`;
      const none = await ask(proxy.address, '/v2/');
      expect(none.status).toBe(401);
      expect(none.headers['www-authenticate']).toMatch(/^Basic /);
      expect((await ask(proxy.address, '/v2/', { auth: 'agent:guess' })).status).toBe(401);
      expect((await ask(proxy.address, '/v2/', { auth, method: 'PUT' })).status).toBe(405);
      for (const path of ['/api/v1/secrets', '/v2/../api/v1/secrets', '/v2/a/%2e%2e/%2e%2e/api', '/v2//api'])
        expect((await ask(proxy.address, path, { auth })).status).toBe(405);
      expect((await ask(proxy.address, `/v2/a/b_c/blobs/sha256:${'0'.repeat(64)}`, { auth })).status).toBe(
        503,
      );
      const unjoined = await ask(proxy.address, '/v2/', { auth });
      expect(unjoined.status).toBe(503);
      expect(unjoined.body).toContain('not joined');
    });
    await expect(ask(proxy.address, '/v2/')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await proxy.during(async () => {
      expect((await ask(proxy.address, '/v2/', { auth })).status).toBe(401);
    });
  });

  it('says when the hub cannot be reached', async () => {
    const proxy = new HubProxy(() => ({ host: '127.0.0.1:1', ca: '' }), identity());
    await proxy.during(async ({ username, password }) => {
      const r = await ask(proxy.address, '/v2/x/manifests/1', { auth: `${username}:${password}` });
      expect(r.status).toBe(502);
      expect(r.body).toContain('127.0.0.1:1');
    });
  });

  it('names the address when another has it, and works once it is free', async () => {
    const id = identity();
    const proxy = new HubProxy(() => undefined, id);
    const [host, port] = proxy.address.split(':') as [string, string];
    const squatter = createServer();
    await new Promise<void>((done) => squatter.listen(Number(port), host, done));
    await expect(proxy.during(async () => 1)).rejects.toThrow(proxy.address);
    await new Promise((done) => squatter.close(done));
    expect(await proxy.during(async () => 1)).toBe(1);
  });
});
