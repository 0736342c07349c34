/** Both ends of the link's streams, joined without a network. */
import { pipeline } from 'node:stream/promises';
import { beforeEach, expect, it } from 'vitest';
import { AgentStreams } from '../../agent/link/streams.js';
import type { ChannelRequest, Channels, PodConnections } from '../../agent/ports.js';
import { systemClock } from '../../api/clock.js';
import { SUB } from '../../api/wire/stream-end.js';
import { LIMITS } from '../../api/wire/topics.js';
import { NodeStreamTable } from '../../hub/link/streams.js';

const target = { namespace: 'default', pod: 'web', uid: 'u', container: 'app' };
const host = {
  logs: async function* () {},
  stats: async () => {
    throw new Error('nobody asks');
  },
};

let hub: NodeStreamTable;
let agent: AgentStreams;
let messages: { type: number; body: unknown }[];

function join(connections?: PodConnections): (type: number, body: unknown) => void {
  hub = new NodeStreamTable('pi1', systemClock);
  messages = [];
  const copy = (body: unknown) => (Buffer.isBuffer(body) ? Buffer.from(body) : structuredClone(body));
  const down = (type: number, body: unknown) => {
    const frame = { type, body: copy(body) };
    setImmediate(() => agent.receive(frame));
  };
  agent = new AgentStreams(host, connections, systemClock, async (type, body) => {
    messages.push({ type, body });
    const frame = { type, body: copy(body) };
    await new Promise((resolve) => setImmediate(resolve));
    hub.receive(frame, down);
  });
  return down;
}

const serve = (connect: (r: ChannelRequest, c: Channels) => Promise<number>): PodConnections => ({ connect });
let stop: AbortController;
beforeEach(() => {
  stop = new AbortController();
});

it('carry input there and output back, then the exit code', async () => {
  const send = join(
    serve(async (_request, c) => {
      c.accepted();
      await pipeline(c.stdin, c.stdout);
      c.stderr.write('done\n');
      return 7;
    }),
  );
  const s = await hub.open('exec', { ...target, command: ['cat'], stdin: true }, send, stop.signal);
  const bytes = Buffer.alloc(5 * LIMITS.window, 'abcdefg');
  const written = s.end.write(SUB.stdin, bytes).then(() => s.end.close(SUB.stdin));
  const read = async (sub: number) => {
    const all: Buffer[] = [];
    for await (const c of s.end.chunks(sub)) all.push(c);
    return Buffer.concat(all);
  };
  const [out, err, code] = await Promise.all([read(SUB.stdout), read(SUB.stderr), s.done, written]);
  expect([out.equals(bytes), String(err), code]).toEqual([true, 'done\n', 7]);
  expect([hub.size, agent.size]).toEqual([0, 0]);
});

it('are refused with the remedy by an agent that does not know them', async () => {
  const send = join();
  const options = { ...target, command: ['true'] };
  await expect(hub.open('exec', options, send, stop.signal)).rejects.toMatchObject({
    reason: 'BadRequest',
    message: 'this agent has no "exec" streams; upgrade it',
  });
  expect(hub.size).toBe(0);
});

it('end on both sides when whoever asked has gone, and when the link breaks', async () => {
  const gone: string[] = [];
  const connections = serve(async (_request, c) => {
    c.accepted();
    await new Promise((resolve) => c.signal.addEventListener('abort', resolve, { once: true }));
    gone.push('ended');
    return 0;
  });
  const options = { ...target, command: ['wait'] };
  const first = join(connections);
  await hub.open('exec', options, first, stop.signal);
  stop.abort();
  await expect.poll(() => gone.length).toBe(1);
  const second = join(connections);
  const s = await hub.open('exec', options, second, new AbortController().signal);
  hub.closeAll();
  agent.closeAll();
  await expect(s.done).rejects.toThrow('the link to node pi1 was lost');
  await expect.poll(() => gone.length).toBe(2);
});
