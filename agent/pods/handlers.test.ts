import { createServer, type Server } from 'node:http';
import { createServer as createHttp2 } from 'node:http2';
import type { AddressInfo } from 'node:net';
import type { Container } from 'kubernetes-types/core/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import { grpc, httpHook, httpProbe, portOf, tcp, urlOf } from './handlers.js';

const closing: { close(): void }[] = [];
afterEach(() => {
  for (const s of closing.splice(0)) s.close();
});

async function listen(server: Pick<Server, 'listen' | 'address' | 'close' | 'once'>): Promise<number> {
  closing.push(server);
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', () => resolve(undefined)));
  return (server.address() as AddressInfo).port;
}

const c = { name: 'c', ports: [{ name: 'web', containerPort: 80 }] } as Container;
const TIMEOUT = 10_000;

describe('HTTP', () => {
  it('a probe follows redirects that stay with the host, and takes the others as well', async () => {
    const seen: string[] = [];
    const port = await listen(
      createServer((req, res) => {
        seen.push(`${req.url} ${req.headers['x-a'] ?? ''}`);
        if (req.url === '/near') res.writeHead(302, { location: '/bad' }).end();
        else if (req.url === '/far') res.writeHead(302, { location: 'http://192.0.2.1/' }).end();
        else if (req.url === '/round') res.writeHead(302, { location: '/round' }).end();
        else res.writeHead(req.url === '/bad' ? 500 : 200).end();
      }),
    );
    const get = (path: string) => ({ port, path, httpHeaders: [{ name: 'X-A', value: 'b' }] });
    const probe = (path: string) => httpProbe(urlOf(get(path), c, '127.0.0.1'), get(path), TIMEOUT);
    expect(await probe('/good?x=1')).toBeUndefined();
    expect(await probe('/near')).toBe('HTTP probe failed with statuscode: 500');
    expect(await probe('/far')).toBeUndefined();
    expect(await probe('/round')).toBe(`Get "http://127.0.0.1:${port}/round": stopped after 10 redirects`);
    expect(seen.slice(0, 3)).toEqual(['/good?x=1 b', '/near b', '/bad b']);
    expect(await httpHook(urlOf(get('bad'), c, '127.0.0.1'), get('bad'), TIMEOUT)).toBeUndefined();
  });

  it('says what cannot be reached', async () => {
    const get = { port: 1, path: '/x' };
    expect(await httpProbe(urlOf(get, c, '127.0.0.1'), get, TIMEOUT)).toContain(
      'Get "http://127.0.0.1:1/x": ',
    );
    expect(await tcp('127.0.0.1', 1, TIMEOUT)).toContain('dial tcp 127.0.0.1:1: ');
    expect(urlOf({ port: 'web', scheme: 'HTTPS', path: 'x' }, c, 'fd00::1').href).toBe(
      'https://[fd00::1]:80/x',
    );
    expect(() => portOf(c, 'other')).toThrow("couldn't find port: other in container c");
  });
});

describe('gRPC', () => {
  /** Answers a health check by the service's name. */
  async function health(): Promise<number> {
    const server = createHttp2();
    server.on('stream', (stream, headers) => {
      expect(headers[':path']).toBe('/grpc.health.v1.Health/Check');
      const chunks: Buffer[] = [];
      stream.on('data', (x: Buffer) => chunks.push(x));
      stream.on('end', () => {
        const body = Buffer.concat(chunks).subarray(5);
        const name = body.length > 0 ? body.subarray(2).toString() : '';
        if (name === 'slow') return;
        if (name === 'unknown') {
          stream.respond(
            { ':status': 200, 'grpc-status': '5', 'grpc-message': 'unknown service' },
            { endStream: true },
          );
          return;
        }
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
        stream.end(Buffer.from([0, 0, 0, 0, 2, 8, name === 'ill' ? 2 : 1]));
      });
    });
    return listen(server as unknown as Server);
  }

  it('asks the health service as grpc_health_probe does', async () => {
    const port = await health();
    const ask = (service: string, ms = TIMEOUT) => grpc('127.0.0.1', port, service, ms);
    expect(await ask('')).toBeUndefined();
    expect(await ask('x'.repeat(5))).toBeUndefined();
    expect(await ask('ill')).toBe('service unhealthy (responded with "NOT_SERVING")');
    expect(await ask('unknown')).toBe('error: health rpc probe failed: unknown service');
    expect(await ask('slow', 300)).toBe('timeout: health rpc did not complete within 0.3s');
    expect(await grpc('127.0.0.1', 1, '', TIMEOUT)).toContain(
      'error: failed to connect service at "127.0.0.1:1"',
    );
  });
});
