import { createHash, randomBytes } from 'node:crypto';
import { Duplex } from 'node:stream';
import { constants, deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { HeaderReader, type Headers, HeaderWriter } from './headers.js';
import { SpdySession, type SpdyStream } from './session.js';

/** Two ends of a connection that delivers in pieces of its own choice. */
function wire(cut: (bytes: Buffer) => Buffer[]): [Duplex, Duplex] {
  const make = (): Duplex & { peer?: Duplex } =>
    new Duplex({
      read() {},
      write(this: Duplex & { peer?: Duplex }, chunk: Buffer, _e, done) {
        for (const piece of cut(chunk)) this.peer!.push(piece);
        setImmediate(done);
      },
      final(this: Duplex & { peer?: Duplex }, done) {
        this.peer!.push(null);
        done();
      },
    });
  const [a, b] = [make(), make()];
  a.peer = b;
  b.peer = a;
  return [a, b];
}

/** Reads to the end, and leaves the other half as it is. */
const buffer = (s: Duplex): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const all: Buffer[] = [];
    s.on('data', (c: Buffer) => all.push(c));
    s.once('end', () => resolve(Buffer.concat(all)));
    s.once('close', () => reject(new Error('closed')));
  });

it('reads header blocks that were compressed with the dictionary, and writes its own', () => {
  // What zlib makes of `count 2, streamType: stdin, port: 80` is read back, here from its own words.
  const plain = Buffer.from(
    '\0\0\0\x02\0\0\0\x0astreamType\0\0\0\x05stdin\0\0\0\x04port\0\0\0\x0280',
    'latin1',
  );
  const zlib = deflateSync(plain, { finishFlush: constants.Z_SYNC_FLUSH });
  expect(new HeaderReader().read(zlib)).toEqual({ streamtype: 'stdin', port: '80' });
  const writer = new HeaderWriter();
  const reader = new HeaderReader();
  const all: Headers[] = [{ a: '1' }, {}, { streamtype: 'error', port: '8080', requestid: '7' }];
  for (const headers of all) expect(reader.read(writer.write(headers))).toEqual(headers);
});

it('carries streams both ways in any pieces, and their ends one by one', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 70_000 }), { maxLength: 6 }),
      fc.integer({ min: 1, max: 5000 }),
      async (chunks, size) => {
        const cut = (b: Buffer) =>
          Array.from({ length: Math.ceil(b.length / size) }, (_, i) => b.subarray(i * size, (i + 1) * size));
        const [left, right] = wire(cut);
        const answered: Promise<void>[] = [];
        const server = new SpdySession(right, {
          server: true,
          onStream: (s) => {
            // Says what it got only when the other side has ended its half.
            answered.push(
              buffer(s).then((all) => void s.end(createHash('sha256').update(all).digest('hex'))),
            );
          },
        });
        const client = new SpdySession(left, { server: false });
        const streams: SpdyStream[] = [1, 2, 3].map((n) => client.open({ n: String(n) }));
        const answers = streams.map(async (s) => String(await buffer(s)));
        for (const s of streams) {
          for (const c of chunks) s.write(c);
          s.end();
        }
        const hash = createHash('sha256').update(Buffer.concat(chunks)).digest('hex');
        expect(await Promise.all(answers)).toEqual([hash, hash, hash]);
        client.close();
        await Promise.all([client.closed, server.closed]);
      },
    ),
    { numRuns: 20 },
  );
});

it('a stream without reader holds up the sender, and lets go when it is read', async () => {
  const [left, right] = wire((b) => [b]);
  let received: SpdyStream | undefined;
  const server = new SpdySession(right, {
    server: true,
    onStream: (s) => {
      received = s;
    },
  });
  const client = new SpdySession(left, { server: false });
  const s = client.open({});
  const bytes = randomBytes(3_000_000);
  s.end(bytes);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(received!.readableLength).toBeLessThan(400_000);
  expect((await buffer(received!)).equals(bytes)).toBe(true);
  client.close();
  await server.closed;
});

it('a broken frame ends the connection, a stream that is refused is reset', async () => {
  const [left, right] = wire((b) => [b]);
  const server = new SpdySession(right, {
    server: true,
    onStream: () => {
      throw new Error('no');
    },
  });
  const client = new SpdySession(left, { server: false });
  const s = client.open({});
  await new Promise((resolve) => s.resume().once('close', resolve));
  left.write(Buffer.from('800300010affffff', 'hex'));
  await server.closed;
  expect(client.open({}).destroyed).toBe(true);
});

it('what came before the other side left can still be read', async () => {
  const [left, right] = wire((b) => [b]);
  let received: SpdyStream | undefined;
  const server = new SpdySession(right, {
    server: true,
    onStream: (s) => {
      received = s;
    },
  });
  const client = new SpdySession(left, { server: false });
  client.open({}).end(Buffer.alloc(500_000, 'x'));
  await new Promise((resolve) => setTimeout(resolve, 20));
  // GOAWAY, and the end of the connection.
  left.write(Buffer.from('80030007000000080000000100000000', 'hex'));
  left.end();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect((await buffer(received!)).length).toBe(500_000);
  client.close();
  await server.closed;
});
