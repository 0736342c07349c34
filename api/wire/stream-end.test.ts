import { finished } from 'node:stream/promises';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type Credit, TYPE, unpackData } from './messages.js';
import { StreamBroken, StreamEnd, SUB } from './stream-end.js';
import { LIMITS } from './topics.js';

/** Two ends, and the bytes that are on their way from the first to the second. */
function pair(watch: (inFlight: number) => void) {
  let inFlight = 0;
  const deliver = (to: () => StreamEnd, counted: boolean) => async (type: number, body: unknown) => {
    // As the network: later, and in order.
    const copy = Buffer.isBuffer(body) ? Buffer.from(body) : body;
    if (type === TYPE.data && counted) {
      inFlight += (body as Buffer).length - 9;
      watch(inFlight);
    }
    await new Promise((resolve) => setImmediate(resolve));
    if (type === TYPE.data) to().receive(unpackData(copy as Buffer)!);
    else {
      const { w } = copy as Credit;
      if (!counted) inFlight -= w;
      to().grant(w);
    }
  };
  const options = { credit: LIMITS.window, reads: [SUB.stdin, SUB.stdout, SUB.stderr] };
  const a: StreamEnd = new StreamEnd(
    1,
    deliver(() => b, true),
    options,
  );
  const b: StreamEnd = new StreamEnd(
    1,
    deliver(() => a, false),
    options,
  );
  return { a, b };
}

const writes = fc.array(
  fc.record({
    sub: fc.constantFrom(SUB.stdout, SUB.stderr),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 40_000 }),
  }),
  { maxLength: 12 },
);

it('never has more in flight than the window, and loses or reorders nothing of a sub-channel', async () => {
  await fc.assert(
    fc.asyncProperty(writes, fc.array(fc.nat(3), { maxLength: 40 }), async (list, pauses) => {
      let most = 0;
      const { a, b } = pair((n) => {
        most = Math.max(most, n);
      });
      const read = async (sub: number) => {
        const all: Buffer[] = [];
        for await (const chunk of b.chunks(sub)) {
          all.push(chunk);
          for (let n = pauses[all.length % (pauses.length || 1)] ?? 0; n > 0; n--)
            await new Promise((resolve) => setImmediate(resolve));
        }
        return Buffer.concat(all);
      };
      const got = Promise.all([read(SUB.stdout), read(SUB.stderr)]);
      const written = Promise.all(list.map(({ sub, bytes }) => a.write(sub, bytes)));
      await written;
      await Promise.all([a.close(SUB.stdout), a.close(SUB.stderr)]);
      const of = (sub: number) => Buffer.concat(list.filter((w) => w.sub === sub).map((w) => w.bytes));
      const [out, err] = await got;
      expect(out.equals(of(SUB.stdout))).toBe(true);
      expect(err.equals(of(SUB.stderr))).toBe(true);
      expect(most).toBeLessThanOrEqual(LIMITS.window);
      expect(b.received).toBe(a.sent);
    }),
    { numRuns: 30 },
  );
});

it('stops at the window when nobody reads, and goes on when somebody does', async () => {
  let sent = 0;
  const { a, b } = pair((n) => {
    sent = n;
  });
  const bytes = Buffer.alloc(3 * LIMITS.window, 'x');
  let done = false;
  const written = a.write(SUB.stdout, bytes).then(() => {
    done = true;
  });
  for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
  expect([sent, done]).toEqual([LIMITS.window, false]);
  let read = 0;
  for await (const chunk of b.chunks(SUB.stdout)) {
    read += chunk.length;
    if (read === bytes.length) break;
  }
  await written;
});

it('what nobody reads any more does not hold up the rest', async () => {
  const { a, b } = pair(() => {});
  for await (const _ of (void a.write(SUB.stderr, Buffer.alloc(10)), b.chunks(SUB.stderr))) break;
  const flood = a.write(SUB.stderr, Buffer.alloc(4 * LIMITS.window));
  const also = a.write(7, Buffer.alloc(4 * LIMITS.window));
  await Promise.all([flood, also]);
});

it('tells readers what came, then the error; writers at once', async () => {
  const { a, b } = pair(() => {});
  await a.write(SUB.stdout, Buffer.from('last words'));
  const w = b.writable(SUB.stdin);
  const broken = finished(w).catch((e: Error) => e.message);
  b.finish(new Error('the link was lost'));
  const heard: string[] = [];
  const read = async () => {
    for await (const c of b.readable(SUB.stdout)) heard.push(String(c));
  };
  await expect(read()).rejects.toThrow('the link was lost');
  expect(heard).toEqual(['last words']);
  w.write('too late');
  expect(await broken).toBe('the link was lost');
});

it('finds frames that are missing or too many, and takes none twice', () => {
  const end = new StreamEnd(1, () => {}, { credit: 0, reads: [SUB.stdout] });
  const frame = (index: number, size = 1) => ({
    stream: 1,
    index,
    sub: SUB.stdout,
    bytes: Buffer.alloc(size),
  });
  end.receive(frame(0));
  end.receive(frame(0));
  expect(end.received).toBe(1);
  expect(() => end.receive(frame(2))).toThrow(StreamBroken);
  expect(() => end.receive(frame(1, LIMITS.window))).toThrow('more was sent than had been granted');
});
