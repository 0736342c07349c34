import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import type { Request } from '../message.js';
import { logSocket } from './logsocket.js';

let server: Server;
afterEach(() => new Promise((closed) => server.close(closed)));

/** A client's connection to a server that has this log for everybody. */
async function open(log: () => AsyncGenerator<Uint8Array>, ...protocols: string[]): Promise<WebSocket> {
  server = createServer();
  server.on('upgrade', (req, socket, head) => {
    const reply = logSocket({ headers: req.headers } as Request, log());
    if (reply.takeOver) void reply.takeOver(req, socket, head).catch(() => socket.destroy());
    else socket.end(`HTTP/1.1 ${reply.status} No\r\nConnection: close\r\n\r\n${String(reply.body)}`);
  });
  await new Promise<void>((up) => server.listen(0, '127.0.0.1', up));
  return new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/`, protocols);
}

/** What came until the end, and whether each message was bytes. */
function read(ws: WebSocket): Promise<{ messages: string[]; binary: boolean[]; code: number }> {
  const messages: string[] = [];
  const binary: boolean[] = [];
  ws.on('message', (data, isBinary) => {
    messages.push(String(data));
    binary.push(isBinary);
  });
  return new Promise((done, failed) => {
    ws.on('error', failed);
    ws.on('close', (code) => done({ messages, binary, code }));
  });
}

async function* twoLines() {
  yield Buffer.from('one\n');
  yield Buffer.from('zwö\n');
}

it.each([[], ['binary.k8s.io'], ['other', 'binary.k8s.io']])('sends bytes (%s)', async (...protocols) => {
  const got = await read(await open(twoLines, ...protocols));
  expect(got.messages.join('')).toBe('one\nzwö\n');
  expect(got.messages[0]).toBe('');
  expect(got.binary).toEqual([true, true, true]);
  expect(got.code).toBe(1000);
});

it('sends base64 to who asks for it', async () => {
  const got = await read(await open(twoLines, 'base64.binary.k8s.io'));
  expect(Buffer.from(got.messages[2]!, 'base64').toString()).toBe('zwö\n');
  expect(got.binary).toEqual([false, false, false]);
});

it('refuses what it does not speak', async () => {
  await expect(read(await open(twoLines, 'v5.channel.k8s.io'))).rejects.toThrow('403');
});

it('stops reading the log when the client goes', async () => {
  let over: () => void;
  const stopped = new Promise<void>((resolve) => {
    over = resolve;
  });
  const ws = await open(async function* () {
    try {
      for (;;) {
        yield Buffer.alloc(1024);
        await new Promise((r) => setImmediate(r));
      }
    } finally {
      over();
    }
  });
  ws.once('message', () => ws.terminate());
  ws.on('error', () => {});
  await stopped;
});
