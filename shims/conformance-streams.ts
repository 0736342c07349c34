/** The part of the suite about commands, attaching and ports: what a shim offers of it must work the same everywhere. */
import { randomBytes } from 'node:crypto';
import { PassThrough, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, it } from 'vitest';
import type { ContainerSpec, ProcessStreams, Shim } from './shim.js';

/** What a harness says about streams. */
export interface StreamHarness {
  /** A started shim. The suite stops it through `restart` and `dispose` only. */
  readonly shim: Shim;
  /** What can be run inside `sleep-forever`. Absent: the runtime runs no commands. */
  readonly commands?: {
    exit(code: number): string[];
    /** One line to stdout; to stderr. */
    print(text: string): string[];
    complain(text: string): string[];
    /** Copies its input to its output. */
    cat: string[];
    missing: string[];
    /** Shows the size of its terminal, at each line that it reads, until {@link endOfTerminal}. */
    size: string[];
    endOfTerminal: string;
    /** Writes `waiting` and waits for ever. */
    wait: string[];
  };
  /** A port for the intent `serve`. Absent: workloads of this harness cannot listen. */
  readonly serve?: { port: number; text: string };
}

/** What the suite's pods offer: workloads by their intents. */
interface Pod {
  readonly sandboxId: string;
  run(
    container: string,
    intent: 'sleep-forever',
    params: { ignoreTerm: boolean },
    options?: Partial<ContainerSpec>,
  ): Promise<string>;
  run(
    container: string,
    intent: 'echo-input',
    params: Record<string, never>,
    options?: Partial<ContainerSpec>,
  ): Promise<string>;
  run(container: string, intent: 'serve', params: { port: number; text: string }): Promise<string>;
  waitForLine(container: string, line: string): Promise<unknown>;
}

/** Slower than what writes to it, as a link is. */
class Collected extends Writable {
  readonly #chunks: Buffer[] = [];
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#chunks.push(chunk);
    setTimeout(done, 1);
  }
  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
  get text(): string {
    return this.bytes.toString();
  }
}

function streams(o: Partial<ProcessStreams> = {}) {
  const out = new Collected();
  const err = new Collected();
  const abort = new AbortController();
  const resize: ((s: { width: number; height: number }) => void)[] = [];
  const given: ProcessStreams = {
    stdout: out,
    stderr: err,
    tty: false,
    onResize: (l) => void resize.push(l),
    signal: abort.signal,
    ...o,
  };
  return { out, err, abort, resize, given };
}

export function streamConformance(s: {
  harness: () => StreamHarness;
  withPod: (body: (pod: Pod) => Promise<void>) => () => Promise<void>;
  eventually: <T>(what: string, probe: () => Promise<T | undefined | false>) => Promise<T>;
}): void {
  const withContainer = (body: (id: string, pod: Pod) => Promise<void>, options?: Partial<ContainerSpec>) =>
    s.withPod(async (pod) => {
      const id = await pod.run('main', 'sleep-forever', { ignoreTerm: false }, options);
      await pod.waitForLine('main', 'ready');
      await body(id, pod);
    });
  const commands = () => s.harness().commands!;

  describe('commands in a container', () => {
    it('are offered where the harness has some, and nowhere else', () => {
      expect(s.harness().shim.exec !== undefined).toBe(s.harness().commands !== undefined);
    });

    it('end with their exit code, and both outputs are told apart', async (t) => {
      t.skip(!s.harness().commands, 'this runtime runs no commands');
      await withContainer(async (id) => {
        const a = streams();
        expect(await s.harness().shim.exec!(id, commands().exit(7), a.given)).toBe(7);
        const b = streams();
        expect(await s.harness().shim.exec!(id, commands().print('out'), b.given)).toBe(0);
        expect([b.out.text, b.err.text]).toEqual(['out\n', '']);
        const c = streams();
        expect(await s.harness().shim.exec!(id, commands().complain('err'), c.given)).toBe(0);
        expect([c.out.text, c.err.text]).toEqual(['', 'err\n']);
      })();
    });

    it('get all of their input and its end, and lose nothing of their output', async (t) => {
      t.skip(!s.harness().commands, 'this runtime runs no commands');
      await withContainer(async (id) => {
        const bytes = randomBytes(3_000_000);
        const stdin = new PassThrough();
        const { given, out } = streams({ stdin });
        stdin.end(bytes);
        expect(await s.harness().shim.exec!(id, commands().cat, given)).toBe(0);
        expect(out.bytes.equals(bytes)).toBe(true);
      })();
    });

    it('that do not exist are refused with their name', async (t) => {
      t.skip(!s.harness().commands, 'this runtime runs no commands');
      await withContainer(async (id) => {
        await expect(s.harness().shim.exec!(id, commands().missing, streams().given)).rejects.toThrow(
          commands().missing[0]!,
        );
      })();
    });

    it('have a terminal where one is asked for, and hear of its size', async (t) => {
      t.skip(!s.harness().commands, 'this runtime runs no commands');
      await withContainer(async (id) => {
        const stdin = new PassThrough();
        const { given, out, resize } = streams({ stdin, tty: true });
        delete (given as { stderr?: Writable }).stderr;
        const done = s.harness().shim.exec!(id, commands().size, given);
        await s.eventually('the shim listens for sizes', async () => resize.length > 0);
        for (const l of resize) l({ width: 97, height: 41 });
        await s.eventually('the size shows', async () => {
          stdin.write('\n');
          return out.text.includes('97') && out.text.includes('41');
        });
        stdin.end(commands().endOfTerminal);
        await done;
      })();
    });

    it('end when whoever asked has gone', async (t) => {
      t.skip(!s.harness().commands, 'this runtime runs no commands');
      await withContainer(async (id) => {
        const { given, abort, out } = streams();
        const done = s.harness().shim.exec!(id, commands().wait, given).catch(() => -1);
        await s.eventually('it runs', async () => out.text.includes('waiting'));
        abort.abort();
        await done;
      })();
    });
  });

  describe('input of a container', () => {
    it('reaches it, and what it writes reaches whoever is attached', async (t) => {
      const { shim } = s.harness();
      t.skip(!shim.attach && !shim.input, 'this runtime cannot attach');
      await s.withPod(async (pod) => {
        const id = await pod.run('main', 'echo-input', {}, { stdin: true });
        await pod.waitForLine('main', 'ready');
        const stdin = new PassThrough();
        if (shim.attach) {
          const { given, out, abort } = streams({ stdin });
          const done = shim.attach(id, given);
          stdin.write('ahoy\n');
          await s.eventually('the echo', async () => out.text.includes('ahoy'));
          abort.abort();
          await done.catch(() => {});
        } else {
          const input = shim.input!(id);
          await new Promise((resolve) => input.write('ahoy\n', resolve));
          input.destroy();
        }
        await pod.waitForLine('main', 'ahoy');
      })();
    });
  });

  describe('ports of a pod', () => {
    it('can be connected to, several times; one where nobody listens says so', async (t) => {
      const { shim, serve } = s.harness();
      t.skip(!shim.portForward || !serve, 'this harness has nothing that listens');
      await s.withPod(async (pod) => {
        const { port, text } = serve!;
        await pod.run('main', 'serve', { port, text });
        const ask = async (at: number) => {
          const socket = await shim.portForward!(pod.sandboxId, at, new AbortController().signal);
          const answer = new Collected();
          socket.write('GET / HTTP/1.0\r\n\r\n');
          await pipeline(socket, answer);
          return answer.text;
        };
        await s.eventually('somebody listens', () => ask(port).catch(() => false as const));
        for (const answer of await Promise.all([ask(port), ask(port), ask(port)]))
          expect(answer).toContain(text);
        await expect(ask(port + 1)).rejects.toThrow(/refused/);
      })();
    });
  });
}
