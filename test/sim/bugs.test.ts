/** Bugs planted by hand, as patches: the simulator must find each within so many seeds, or it proves nothing. */
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '../..');
const SOURCES = ['api', 'hub', 'agent', 'shims', 'test', 'package.json', 'tsconfig.json'];
const CONFIGS = ['tsconfig.build.json', 'tsconfig.sim.json'];
const SEEDS = 60;

/** Patch → what the simulator says of it. */
const BUGS: Record<string, RegExp> = {
  'store-acknowledges-early': /was acknowledged|acknowledged was|cannot be read/,
  'forgetful-hub-is-told-nothing': /never converged: node pi\d is (False|not there)/,
  'device-forgets-at-power-cut': /did not come back on pi\d after a power cut/,
};

describe('a planted bug', () => {
  for (const [name, says] of Object.entries(BUGS))
    it(`${name} is found`, () => {
      const dir = mkdtempSync(join(tmpdir(), 'sim-bug-'));
      try {
        for (const s of [...SOURCES, ...CONFIGS]) cpSync(join(root, s), join(dir, s), { recursive: true });
        symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
        // A patch that no longer applies fails here: make it anew from the line that it takes away.
        execFileSync('git', ['apply', join(root, 'test/sim/bugs', `${name}.patch`)], { cwd: dir });
        execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.sim.json'], {
          cwd: dir,
        });
        cpSync(join(root, 'api/generated'), join(dir, 'dist-sim/api/generated'), { recursive: true });
        const { status, stdout } = spawnSync(
          process.execPath,
          ['dist-sim/test/sim/main.js', '--seeds', String(SEEDS)],
          { cwd: dir, encoding: 'utf8', timeout: 200_000, maxBuffer: 64 << 20 },
        );
        expect(stdout).toMatch(says);
        expect(stdout).toMatch(/replay: npm run sim -- --start \d+ --seeds 1/);
        expect(status).toBe(1);
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }, 240_000);
});
