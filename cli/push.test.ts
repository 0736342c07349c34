import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { push, wasmKind } from './push.js';

const header = (...bytes: number[]) => Buffer.from([0, 0x61, 0x73, 0x6d, ...bytes]);
let dir: string;
let good: string;
beforeAll(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'cox-push-'));
  good = path.join(dir, 'good.wasm');
  fs.writeFileSync(good, header(1, 0, 0, 0));
});
afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

describe('cox push', () => {
  it('tells modules from components', () => {
    expect(wasmKind(header(1, 0, 0, 0), 'f')).toBe('module');
    expect(wasmKind(header(13, 0, 1, 0), 'f')).toBe('component');
    expect(() => wasmKind(header(12, 0, 1, 0), 'f')).toThrow(/version 12; version 13/);
    expect(() => wasmKind(header(2, 0, 0, 0), 'f')).toThrow(/version 2, layer 0/);
    expect(() => wasmKind(Buffer.from('(module)'), 'f.wat')).toThrow(/f\.wat.*text format.*wat2wasm/);
    expect(() => wasmKind(Buffer.alloc(0), 'f')).toThrow(/not a WebAssembly binary/);
    expect(() => wasmKind(Buffer.from('#!/bin/sh\n'), 'f')).toThrow(/does not begin with/);
  });

  it.each([
    [[], /a file and a NAME:TAG/],
    [['x.wasm'], /a file and a NAME:TAG/],
    [['good', 'Upper:1'], /not a valid NAME:TAG/],
    [['good', 'ghcr.io/me/app:1'], /not into ghcr.io/],
    [['good', `app@sha256:${'a'.repeat(64)}`], /a tag is needed/],
    [['good', 'app:1', '--server', 'pi1'], /wants a URL/],
    [['good', 'app:1', '--server', 'http://pi1'], /https:/],
    [['good', 'app:1', '--server', 'https://pi1'], /--ca is required/],
    [['good', 'app:1', '--nonsense'], /nonsense/],
  ])('refuses the arguments %j', async (args, why) => {
    await expect(push(args.map((a) => (a === 'good' ? good : a)))).rejects.toThrow(why);
  });

  it('says what is missing: the file, the hub’s data, the hub', async () => {
    await expect(push([path.join(dir, 'none.wasm'), 'a:1'])).rejects.toThrow(/no such file/);
    await expect(push([good, 'a:1', '--data-dir', dir])).rejects.toThrow(/start the hub first/);
    const file = path.join(dir, 'f');
    fs.writeFileSync(file, 'secret');
    const remote = ['--server', 'https://127.0.0.1:1', '--ca', file, '--token-file', file];
    await expect(push([good, 'a:1', ...remote])).rejects.toThrow(/no hub answers at https:\/\/127.0.0.1:1/);
    await expect(push([good, 'a:1', ...remote.slice(0, 4), '--token-file', `${file}x`])).rejects.toThrow(
      /--token-file/,
    );
  });
});
