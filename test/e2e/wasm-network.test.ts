/** The network of components: sockets and HTTP where the pod was granted them, refused cleanly where not. */

import { createSocket } from 'node:dgram';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Transpiler } from '../../hub/images/transpile.js';
import type { Shim } from '../../shims/shim.js';
import { buildComponent } from '../modules/build.js';
import { missing } from './support/needs.js';
import { TestPod, until, wasmShim } from './support/wasm.js';

const net = 'example.test/net:1';
const port = (s: { address(): string | AddressInfo | null }): string =>
  `${(s.address() as AddressInfo).port}`;

let files: string;
let transpiler: Transpiler;
let images: Record<string, string>;
let echo: Server;
let web: HttpServer;
beforeAll(async () => {
  files = mkdtempSync(join(tmpdir(), 'wasm-network-'));
  images = { [net]: await buildComponent('net') };
  transpiler = new Transpiler(files);
  await transpiler.start();
  echo = createServer({ allowHalfOpen: true }, (s) => {
    let heard = '';
    s.on('error', () => {});
    s.on('data', (d) => {
      heard += d;
    }).on('end', () => s.end(`you said ${heard}`));
  });
  web = createHttpServer((req, res) => {
    if (req.url === '/broken') return void res.socket?.destroy();
    if (req.url === '/large') return void res.end(Buffer.alloc(5_000_000, 'x'));
    let body = '';
    req.on('data', (d) => {
      body += d;
    });
    req.on('end', () => {
      res.statusCode = req.url === '/missing' ? 404 : 200;
      res.end(`${req.method} ${req.url} ${req.headers['x-test']} ${body.length} ${body.slice(0, 10)}`);
    });
  });
  for (const s of [echo, web]) await new Promise<void>((resolve) => s.listen(0, '127.0.0.1', resolve));
}, 120_000);
afterAll(async () => {
  web?.closeAllConnections();
  for (const s of [echo, web]) s?.close();
  await transpiler?.stop();
  rmSync(files, { recursive: true, force: true });
});

for (const { mode, jailed } of [
  { mode: 'jailed', jailed: true },
  { mode: 'without the jail', jailed: false },
])
  describe.skipIf(jailed && missing('root'))(`network of a component, ${mode}`, { timeout: 60_000 }, () => {
    let made: Awaited<ReturnType<typeof wasmShim>>;
    let shim: Shim;
    let pod: TestPod | undefined;
    beforeAll(async () => {
      made = await wasmShim(images, {
        transpiled: { get: (i) => transpiler.get(i.moduleDigest, () => readFile(i.modulePath)) },
        ...(jailed ? {} : { jail: 'off', allowUnjailed: true }),
      });
      shim = made.shim;
    });
    afterAll(async () => {
      await shim.stop();
      await made.remove();
    });
    afterEach(async () => {
      await pod?.remove();
    });
    const run = async (allowNetwork: boolean, ...args: string[]) => {
      pod = await TestPod.make(shim, { allowNetwork, hostNetwork: allowNetwork });
      const { status, out, err } = await pod.run(net, args);
      expect(err).toBe('');
      expect(status).toMatchObject({ exitCode: 0, message: '' });
      return out;
    };

    describe('granted', () => {
      it('a TCP connection, both ways', async () => {
        const out = await run(true, 'tcp', '127.0.0.1', port(echo), 'hello');
        expect(out).toBe('got you said hello');
      });

      it('a connection that nobody accepts is refused, and the guest goes on', async () => {
        const free = createServer();
        await new Promise<void>((resolve) => free.listen(0, '127.0.0.1', resolve));
        const closed = port(free);
        await new Promise((resolve) => free.close(resolve));
        const out = await run(
          true,
          'tcp',
          '127.0.0.1',
          closed,
          'x',
          ';',
          'tcp',
          '127.0.0.1',
          port(echo),
          'y',
        );
        // connection-refused
        expect(out.split('\n')).toEqual(['tcp: error finish-connect 14', 'got you said y']);
      });

      it('what was written before the end arrives whole, with a reader slower than the guest', async () => {
        let got = 0;
        const slow = createServer((s) => {
          s.on('error', () => {});
          s.on('data', (d) => {
            got += d.length;
            s.pause();
            setTimeout(() => s.resume(), 1);
          });
        });
        await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve));
        try {
          expect(await run(true, 'pour', '127.0.0.1', port(slow), '8000000')).toBe('poured 8000000');
          await until(() => got === 8_000_000);
        } finally {
          await new Promise((resolve) => slow.close(resolve));
        }
      });

      it('reads all that a server sends', async () => {
        const source = createServer((s) => s.on('error', () => {}).end(Buffer.alloc(8_000_000)));
        await new Promise<void>((resolve) => source.listen(0, '127.0.0.1', resolve));
        try {
          expect(await run(true, 'drink', '127.0.0.1', port(source))).toBe('drank 8000000');
        } finally {
          await new Promise((resolve) => source.close(resolve));
        }
      });

      it('listens and accepts', async () => {
        pod = await TestPod.make(shim, { allowNetwork: true });
        const id = await pod.start(net, ['serve', '0']);
        const status = await pod.status(id);
        const at = await until(() => /^listening (\d+)$/m.exec(pod!.log(status, 'stdout'))?.[1]);
        // As kubectl port-forward reaches it.
        const s = await shim.portForward!(pod.sandboxId, Number(at), new AbortController().signal);
        const answer = await new Promise<string>((resolve, reject) => {
          let heard = '';
          s.on('error', reject).on('data', (d) => {
            heard += d;
          });
          s.on('end', () => resolve(heard));
          s.end('ping');
        });
        expect(answer).toBe('echo ping');
        expect((await pod.ended(id)).out.split('\n')[1]).toBe('served ping');
      });

      it('an address in use is told', async () => {
        // address-in-use
        expect(await run(true, 'serve', port(echo))).toBe('serve: error finish-bind 12');
      });

      it('datagrams, both ways', async () => {
        const server = createSocket('udp4', (m, from) => server.send(`re: ${m}`, from.port, from.address));
        await new Promise<void>((resolve) => server.bind(0, '127.0.0.1', resolve));
        try {
          const out = await run(true, 'udp', `${server.address().port}`, 'hello');
          expect(out).toBe(`got re: hello from port ${server.address().port}`);
        } finally {
          server.close();
        }
      });

      it('resolves names: addresses, those of /etc/hosts, and none', async () => {
        const out = await run(
          true,
          ...['resolve', '127.0.0.1', ';', 'resolve', '::ffff:1.2.3.4', ';', 'resolve', 'localhost'],
        );
        const [first, second, ...rest] = out.split('\n');
        expect([first, second]).toEqual(['127.0.0.1', '0:0:0:0:0:ffff:102:304']);
        expect(rest.length).toBeGreaterThan(0);
        for (const line of rest) expect(['127.0.0.1', '0:0:0:0:0:0:0:1']).toContain(line);
      });

      it.runIf(jailed)("resolves the pod's own host aliases", async () => {
        const hosts = join(files, 'hosts');
        writeFileSync(hosts, '127.0.0.7 db\n');
        pod = await TestPod.make(shim, { allowNetwork: true });
        const mounts = [{ hostPath: hosts, containerPath: '/etc/hosts', readOnly: false }];
        expect((await pod.run(net, ['resolve', 'db'], { mounts })).out).toBe('127.0.0.7');
      });

      it('HTTP requests with and without a body', async () => {
        const at = `127.0.0.1:${port(web)}`;
        const body = 'b'.repeat(300_000);
        const out = await run(
          true,
          'http',
          at,
          '/a?b=c',
          ';',
          'http',
          at,
          '/missing',
          ';',
          'http',
          at,
          '/post',
          body.slice(0, 50_000),
        );
        expect(out.split('\n')).toEqual([
          '200 28 GET /a?b=c from the guest 0 ',
          '404 30 GET /missing from the guest 0 ',
          '200 42 POST /post from the guest 50000 bbbbbbbbbb',
        ]);
      });

      it('HTTP: a large answer, a broken one, one from nobody', async () => {
        const at = `127.0.0.1:${port(web)}`;
        const out = await run(
          true,
          'http',
          at,
          '/large',
          ';',
          'http',
          at,
          '/broken',
          ';',
          'http',
          '127.0.0.1:1',
          '/',
          ';',
          'https',
          at,
          '/',
        );
        const [large, broken, nobody, tls] = out.split('\n');
        expect(large).toMatch(/^200 5000000 x/);
        // connection-terminated, connection-refused, TLS-protocol-error
        expect([broken, nobody, tls]).toEqual([
          'http: error response 7',
          'http: error response 6',
          'https: error response 12',
        ]);
      });
    });

    it('without the grant everything is refused, and nothing crashes', async () => {
      const at = `127.0.0.1:${port(web)}`;
      const out = await run(
        false,
        ...[
          'tcp',
          '127.0.0.1',
          port(echo),
          'x',
          ';',
          'serve',
          '0',
          ';',
          'udp',
          '1',
          'x',
          ';',
          'resolve',
          'localhost',
          ';',
        ],
        ...['http', at, '/', ';', 'http', at, '/', 'with a body', ';', 'https', at, '/'],
      );
      // access-denied; HTTP-request-denied
      expect(out.split('\n')).toEqual([
        'tcp: error create 1',
        'serve: error create 1',
        'udp: error create 1',
        'resolve: error resolve-addresses 1',
        'http: error handle 15',
        'http: error handle 15',
        'https: error handle 15',
      ]);
    });

    it('without the grant there is no way in', async () => {
      pod = await TestPod.make(shim, { allowNetwork: false });
      await expect(
        shim.portForward!(pod.sandboxId, Number(port(web)), new AbortController().signal),
      ).rejects.toThrow('this WebAssembly pod has no network');
    });

    it('a guest that waits for the network is stopped at once', async () => {
      pod = await TestPod.make(shim, { allowNetwork: true });
      const id = await pod.start(net, ['serve', '0']);
      const status = await pod.status(id);
      await until(() => pod!.log(status, 'stdout').startsWith('listening'));
      await shim.stopContainer(id, 30);
      expect((await pod.status(id)).exitCode).toBe(137);
    });
  });
