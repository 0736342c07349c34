import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { readLog, readTail } from './logs.js';

let dir: string;
let file: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'logs-'));
  file = join(dir, '0.log');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const time = (s: number) => `2026-11-21T09:00:${String(s).padStart(2, '0')}.123456789Z`;
const line = (text: string, s = 0, stream = 'stdout', tag = 'F') => `${time(s)} ${stream} ${tag} ${text}\n`;
const never = new AbortController().signal;

async function read(options: Parameters<typeof readLog>[1] = {}, running = () => false, signal = never) {
  const out: Uint8Array[] = [];
  for await (const b of readLog({ path: file, running }, options, systemClock, signal)) out.push(b);
  return Buffer.concat(out).toString('utf8');
}

describe('reading', () => {
  it('shows both streams without their prefix, or with their times', async () => {
    writeFileSync(file, line('a') + line('b', 1, 'stderr') + line('') + line('x y'));
    expect(await read()).toBe('a\nb\n\nx y\n');
    expect(await read({ timestamps: true })).toBe(
      `${time(0)} a\n${time(1)} b\n${time(0)} \n${time(0)} x y\n`,
    );
  });

  it('joins partial lines, with one time each', async () => {
    writeFileSync(file, line('aa', 0, 'stdout', 'P') + line('bb', 1, 'stdout', 'P') + line('cc', 2));
    expect(await read()).toBe('aabbcc\n');
    expect(await read({ timestamps: true })).toBe(`${time(0)} aabbcc\n`);
  });

  it('begins at a time, given either way', async () => {
    writeFileSync(file, line('old', 1) + line('new', 5));
    expect(await read({ sinceTime: time(3) })).toBe('new\n');
    expect(await read({ sinceSeconds: 1 })).toBe(Date.now() < Date.parse(time(4)) ? 'old\nnew\n' : '');
  });

  it('is empty where there is nothing, and passes over a torn line', async () => {
    expect(await read()).toBe('');
    writeFileSync(file, line('a') + '\0\0\0\0garbage\n' + line('b') + '2026-11-21T09:00');
    expect(await read()).toBe('a\nb\n');
  });

  it('stops at the limit of bytes', async () => {
    writeFileSync(file, line('abcdef') + line('ghi'));
    expect(await read({ limitBytes: 4 })).toBe('abcd');
    expect(await read({ limitBytes: 9 })).toBe('abcdef\ngh');
  });

  it('ends where the log ended when it was asked for; only followers see what is written meanwhile', async () => {
    const before = 5000;
    for (const follow of [false, true]) {
      writeFileSync(file, Array.from({ length: before }, (_, i) => line(`${i}`)).join(''));
      const lines = readLog(
        { path: file, running: () => false },
        { tailLines: before - 1, follow },
        systemClock,
        never,
      );
      let text = '';
      for await (const block of lines) {
        if (text === '') appendFileSync(file, line('late'));
        text += Buffer.from(block).toString('utf8');
      }
      expect(text.startsWith('1\n2\n')).toBe(true);
      expect(text.trimEnd().split('\n')).toHaveLength(before - (follow ? 0 : 1));
    }
  });

  it('the last n lines are the last n lines, across rotated files and blocks', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 3000 }), { maxLength: 80 }),
        fc.nat(90),
        fc.nat(80),
        async (lengths, n, cut) => {
          const lines = lengths.map((k, i) => `${i}:${'z'.repeat(k)}`);
          const text = (list: string[]) => list.map((l) => line(l)).join('');
          writeFileSync(`${file}.20261121T090000`, text(lines.slice(0, cut)));
          writeFileSync(file, text(lines.slice(cut)));
          const wanted = n === 0 ? [] : lines.slice(-n);
          expect(await read({ tailLines: n })).toBe(wanted.map((l) => `${l}\n`).join(''));
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('following', () => {
  it('goes on across a rotation and ends with the container, losing nothing', async () => {
    writeFileSync(file, '');
    let running = true;
    const reading = read({ follow: true }, () => running);
    const wanted: string[] = [];
    for (let i = 0; i < 60; i++) {
      appendFileSync(file, line(`${i}`));
      wanted.push(`${i}\n`);
      if (i % 20 === 10) {
        renameSync(file, `${file}.2026112${i / 10}T09000${i / 10}`);
        // What the runtime writes before it opens the new file still goes into the old one.
        appendFileSync(`${file}.2026112${i / 10}T09000${i / 10}`, line(`late ${i}`));
        wanted.push(`late ${i}\n`);
        writeFileSync(file, '');
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
      if (i % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    }
    running = false;
    expect(await reading).toBe(wanted.join(''));
  });

  it('begins where the tail says, waits for a file that is not there yet, and stops when told', async () => {
    const stop = new AbortController();
    const got: string[] = [];
    const reading = (async () => {
      for await (const b of readLog(
        { path: file, running: () => true },
        { follow: true, tailLines: 0 },
        systemClock,
        stop.signal,
      ))
        got.push(Buffer.from(b).toString());
    })();
    await new Promise((resolve) => setTimeout(resolve, 20));
    writeFileSync(file, line('hello'));
    for (let i = 0; i < 200 && got.length === 0; i++) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(got.join('')).toBe('hello\n');
    stop.abort();
    await reading;
  });
});

it('last words from the log: the last lines, at most so many bytes', () => {
  writeFileSync(file, Array.from({ length: 200 }, (_, i) => line(`line ${i}`)).join(''));
  expect(readTail(file, 2, 2048)).toBe('line 198\nline 199\n');
  expect(readTail(file, 80, 12)).toBe('98\nline 199\n');
  expect(readTail(join(dir, 'none'), 2, 10)).toBe('');
});
