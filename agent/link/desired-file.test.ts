import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../api/log.js';
import { turn, VirtualClock } from '../../api/testing/virtual-clock.js';
import { DesiredFile } from './desired-file.js';

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const dir = mkdtempSync(join(tmpdir(), 'desired-'));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe('the desired set on disk', () => {
  it('is written at the next turn, and at most every so often while changes come', async () => {
    const clock = new VirtualClock();
    const file = new DesiredFile(dir, privateKey, clock, silentLog);
    const onDisk = () => new DesiredFile(dir, privateKey, clock, silentLog).load().held?.generation;
    file.save({ generation: 1, items: new Map() });
    await clock.advance(0, turn);
    expect(onDisk()).toBe(1);
    let writes = 0;
    let inode = statSync(file.path).ino;
    for (let g = 2; g <= 101; g++) {
      file.save({ generation: g, items: new Map() });
      await clock.advance(10, turn);
      const now = statSync(file.path).ino;
      if (now !== inode) writes++;
      inode = now;
      expect(g - onDisk()!).toBeLessThanOrEqual(10);
    }
    expect(writes).toBeLessThanOrEqual(11);
    await clock.advance(2_000, turn);
    expect(onDisk()).toBe(101);
  });
});
