import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { GRPC, GrpcClient, type GrpcError } from './grpc.js';
import { Schema } from './protobuf.js';
import { FakeCri, GrpcFailure } from './testing/fake-cri.js';

const schema = new Schema(readFileSync(new URL('./cri.proto', import.meta.url), 'utf8'));
const VERSION = '/runtime.v1.RuntimeService/Version';

describe('gRPC over a unix socket', () => {
  let server: FakeCri;
  let client: GrpcClient;
  beforeEach(async () => {
    server = new FakeCri();
    await server.start();
    client = new GrpcClient(server.socket, schema, systemClock);
  });
  afterEach(() => {
    client.close();
    server.dispose();
  });
  const failure = (p: Promise<unknown>): Promise<GrpcError> =>
    p.then(
      () => Promise.reject(new Error('it succeeded')),
      (e) => e,
    );

  it('asks and is answered, many at once', async () => {
    server.unary['Version'] = (r) => ({ runtimeName: r.version });
    const names = Array.from({ length: 50 }, (_, i) => `n${i}`);
    const got = await Promise.all(
      names.map((version) => client.unary<{ runtimeName: string }>(VERSION, { version })),
    );
    expect(got.map((g) => g.runtimeName)).toEqual(names);
  });

  it('gives code and text of an error, whatever letters it has', async () => {
    const text = 'no "ünï" 100% \n in π';
    server.unary['Version'] = () => {
      throw new GrpcFailure(5, text);
    };
    expect(await failure(client.unary(VERSION, {}))).toMatchObject({ code: GRPC.NOT_FOUND, message: text });
    expect(await failure(client.unary('/runtime.v1.RuntimeService/Status', {}))).toMatchObject({
      code: GRPC.UNIMPLEMENTED,
    });
  });

  it('carries messages far beyond one frame and one window', async () => {
    const big = 'x'.repeat(9 * 2 ** 20);
    server.unary['Version'] = (r) => ({ runtimeName: r.version });
    const got = await client.unary<{ runtimeName: string }>(VERSION, { version: big });
    expect(got.runtimeName.length).toBe(big.length);
  });

  it('gives a call up at its deadline, or when told to', async () => {
    server.unary['Version'] = () => new Promise(() => {});
    expect(await failure(client.unary(VERSION, {}, { timeoutMs: 50 }))).toMatchObject({
      code: GRPC.DEADLINE_EXCEEDED,
    });
    const off = new AbortController();
    const call = failure(client.unary(VERSION, {}, { signal: off.signal }));
    off.abort();
    expect(await call).toMatchObject({ code: GRPC.CANCELLED });
    expect(await failure(client.unary(VERSION, {}, { signal: off.signal }))).toMatchObject({
      code: GRPC.CANCELLED,
    });
  });

  it('hands on a stream message by message, and ends with it', async () => {
    server.streams['GetContainerEvents'] = async (_r, write) => {
      for (let i = 0; i < 1000; i++) write({ containerId: String(i) });
    };
    const got: string[] = [];
    await client.stream<{ containerId: string }>('/runtime.v1.RuntimeService/GetContainerEvents', [{}], (m) =>
      got.push(m.containerId),
    );
    expect(got).toEqual(Array.from({ length: 1000 }, (_, i) => String(i)));
  });

  it('a lost connection fails what was under way; the next call makes a new one', async () => {
    server.unary['Version'] = () => new Promise(() => {});
    const hanging = failure(client.unary(VERSION, {}));
    while (server.count('Version') === 0) await new Promise((r) => setTimeout(r, 5));
    server.stop();
    expect(await hanging).toMatchObject({ code: GRPC.UNAVAILABLE });
    expect(await failure(client.unary(VERSION, {}))).toMatchObject({
      code: GRPC.UNAVAILABLE,
      message: expect.stringMatching(/ENOENT|ECONNREFUSED/),
    });
    server.unary['Version'] = () => ({ runtimeName: 'back' });
    await server.start();
    expect(await client.unary(VERSION, {})).toMatchObject({ runtimeName: 'back' });
  });

  it('may be closed at any moment of its connecting', async () => {
    // Node tells of a connection a tick after it stands; whoever closes within that tick must not be punished.
    for (let ticks = 0; ticks < 40; ticks++) {
      const early = new GrpcClient(server.socket, schema, systemClock);
      const asked = failure(early.unary(VERSION, {}, { timeoutMs: 5000 }));
      const step = ticks % 2 ? setImmediate : process.nextTick;
      for (let i = 0; i < ticks >> 1; i++) await new Promise((next) => step(() => next(undefined)));
      early.close();
      await asked.catch(() => {});
    }
  });

  it('a closed client says so', async () => {
    client.close();
    expect(await failure(client.unary(VERSION, {}))).toMatchObject({ code: GRPC.UNAVAILABLE });
  });

  it('what is no gRPC server is an error, not a wait', async () => {
    const socket = `${server.dir}/other`;
    const other: Server = createServer((s) => {
      s.on('error', () => {});
      s.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    });
    await new Promise<void>((r) => other.listen(socket, r));
    const stranger = new GrpcClient(socket, schema, systemClock);
    expect(await failure(stranger.unary(VERSION, {}))).toMatchObject({ code: GRPC.UNAVAILABLE });
    stranger.close();
    other.close();
  });
});
