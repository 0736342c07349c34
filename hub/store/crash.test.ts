import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NedbStore } from './nedb.js';

const ROUNDS = Number(process.env['COX_CRASH_ROUNDS'] ?? 25);
const root = path.resolve(import.meta.dirname, '../..');
let work: string;

beforeAll(() => {
  // Inside the checkout, so that the compiled code finds node_modules.
  fs.mkdirSync(path.join(root, '.tmp'), { recursive: true });
  work = fs.mkdtempSync(path.join(root, '.tmp/crash-'));
  const { status, stdout } = spawnSync(
    process.execPath,
    [
      path.join(root, 'node_modules/typescript/bin/tsc'),
      ...['-p', path.join(root, 'tsconfig.build.json'), '--outDir', path.join(work, 'js')],
    ],
    { encoding: 'utf8' },
  );
  expect(status, stdout).toBe(0);
}, 60_000);
afterAll(() => fs.rmSync(work, { recursive: true, force: true }));

interface Line {
  opened?: number;
  try?: string;
  ack?: string;
  id: string | null;
  revision?: number;
  at?: number;
}

describe('a hub killed while it writes', () => {
  it(
    `keeps every acknowledged write and the order of revisions, ${ROUNDS} times over`,
    async () => {
      const dir = path.join(work, 'data');
      /** What each key may hold: what was acknowledged last, or the write that was under way. Null: nothing. */
      const acknowledged = new Map<string, { id: string | null; revision: number }>();
      let highest = 0;
      let acks = 0;
      let compactions = 0;
      let inode = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const child = spawn(
          process.execPath,
          [
            path.join(import.meta.dirname, 'crash-writer.mjs'),
            path.join(work, 'js/hub/store/nedb.js'),
            dir,
            `${round}`,
          ],
          { stdio: ['ignore', 'pipe', 'pipe'] },
        );
        let out = '';
        let err = '';
        child.stderr.setEncoding('utf8').on('data', (d: string) => {
          err += d;
        });
        child.stdout.setEncoding('utf8').on('data', (d: string) => {
          out += d;
        });
        await Promise.race([once(child.stdout, 'data'), once(child, 'close')]);
        const closed = once(child, 'close');
        await new Promise((r) => setTimeout(r, Math.random() ** 2 * 250));
        child.kill('SIGKILL');
        await closed;
        expect(child.signalCode, err).toBe('SIGKILL');

        const lines = out
          .slice(0, out.lastIndexOf('\n') + 1)
          .split('\n')
          .filter(Boolean)
          .map((l) => JSON.parse(l) as Line);
        expect(lines[0]!.opened).toBeGreaterThanOrEqual(highest);
        const underWay = new Map<string, string | null>();
        let last = lines[0]!.opened!;
        for (const l of lines.slice(1)) {
          if (l.try) {
            underWay.set(l.try, l.id);
            continue;
          }
          acks++;
          expect(l.at).toBeGreaterThanOrEqual(last);
          last = l.at!;
          if (l.revision) {
            const before = acknowledged.get(l.ack!)?.revision ?? 0;
            expect(l.revision).toBeGreaterThan(before);
            expect(l.revision).toBeGreaterThan(lines[0]!.opened!);
            highest = Math.max(highest, l.revision);
          }
          highest = Math.max(highest, l.at!);
          acknowledged.set(l.ack!, { id: l.id, revision: l.revision ?? l.at! });
          underWay.delete(l.ack!);
        }

        const store = new NedbStore(dir);
        await store.open();
        expect(store.revision).toBeGreaterThanOrEqual(highest);
        highest = store.revision;
        const revisions = store.list('/').entries.map((e) => e.revision);
        expect(new Set(revisions).size).toBe(revisions.length);
        for (let w = 0; w < 24; w++) {
          const key = `/core/pods/default/w${w}`;
          const entry = store.get(key);
          const id = entry ? (entry.value as { id: string }).id : null;
          const sure = acknowledged.get(key) ?? { id: null, revision: 0 };
          const allowed = underWay.has(key) ? [sure.id, underWay.get(key)!] : [sure.id];
          expect(allowed, `round ${round}, ${key}`).toContain(id);
          if (entry) {
            if (id === sure.id) expect(entry.revision).toBe(sure.revision);
            else expect(entry.revision).toBeGreaterThan(sure.revision);
          }
          acknowledged.set(key, { id, revision: entry?.revision ?? sure.revision });
        }
        await store.close();
        const now = fs.statSync(path.join(dir, 'store.db')).ino;
        if (now !== inode) compactions++;
        inode = now;
      }
      // Or else nothing was tested.
      expect(acks).toBeGreaterThan(ROUNDS * 20);
      expect(compactions).toBeGreaterThan(ROUNDS / 10);
    },
    120_000 + ROUNDS * 2000,
  );
});
