import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { pauseImage, pauseProgram } from './pause.js';

const ARCHES = ['x64', 'arm64', 'arm'] as const;

describe('the sandbox image', () => {
  let child: ChildProcess | undefined;
  let dir: string | undefined;
  afterEach(() => {
    child?.kill('SIGKILL');
    if (dir) rmSync(dir, { recursive: true, force: true });
  });

  for (const arch of ARCHES)
    it(`is a small static executable for ${arch}`, () => {
      const p = pauseProgram(arch);
      const wide = arch !== 'arm';
      expect(p.subarray(0, 4).toString('latin1')).toBe('\x7fELF');
      expect(p[4]).toBe(wide ? 2 : 1);
      expect(p.readUInt16LE(16)).toBe(2);
      expect(p.readUInt16LE(18)).toBe({ x64: 62, arm64: 183, arm: 40 }[arch]);
      const base = 0x400000;
      expect(p.readUInt32LE(24) - base).toBe(wide ? 120 : 84);
      // Its one segment: read and run, never write, and all of the file.
      expect(p.readUInt32LE(wide ? 64 + 4 : 52 + 24)).toBe(5);
      expect(p.readUInt32LE(wide ? 64 + 32 : 52 + 16)).toBe(p.length);
      expect(p.length).toBeLessThan(300);
    });

  it.skipIf(!(ARCHES as readonly string[]).includes(process.arch) || process.platform !== 'linux')(
    "sleeps on this machine's processor, with SIGCHLD ignored",
    async () => {
      dir = mkdtempSync(join(tmpdir(), 'pause-'));
      const file = join(dir, 'pause');
      writeFileSync(file, pauseProgram(process.arch as (typeof ARCHES)[number]), { mode: 0o755 });
      child = spawn(file, { stdio: 'ignore' });
      const status = () => readFileSync(`/proc/${child!.pid}/status`, 'utf8');
      const ignored = () => BigInt(`0x${/^SigIgn:\s*(\w+)$/m.exec(status())![1]}`);
      const until = Date.now() + 20_000;
      while (!(status().includes('State:\tS') && ignored() & (1n << 16n)) && Date.now() < until)
        await new Promise((r) => setTimeout(r, 10));
      expect(status()).toContain('State:\tS');
      expect(ignored() & (1n << 16n)).not.toBe(0n);
      expect(child.exitCode).toBeNull();
    },
  );

  it('is an OCI image whose digests are right', () => {
    for (const arch of ARCHES) {
      const { manifest, blobs } = pauseImage(arch)!;
      for (const b of blobs)
        expect(b.digest).toBe(`sha256:${createHash('sha256').update(b.data).digest('hex')}`);
      const blob = (digest: string) => blobs.find((b) => b.digest === digest)!;
      const m = JSON.parse(blob(manifest.digest).data.toString());
      const config = JSON.parse(blob(m.config.digest).data.toString());
      expect(config).toMatchObject({
        os: 'linux',
        architecture: { x64: 'amd64', arm64: 'arm64', arm: 'arm' }[arch],
        config: { Entrypoint: ['/pause'] },
        rootfs: { diff_ids: [m.layers[0].digest] },
      });
      expect(blob(manifest.digest).refs.sort()).toEqual([m.config.digest, m.layers[0].digest].sort());
      const tar = blob(m.layers[0].digest).data;
      expect(tar.length % 512).toBe(0);
      expect(tar.subarray(512, 516).toString('latin1')).toBe('\x7fELF');
    }
    expect(pauseImage('mips')).toBeUndefined();
  });
});
