import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ensureCniConfig } from './cni.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'cni-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('writes a bridge network where there is none, once', async () => {
  const into = join(dir, 'net.d');
  const path = await ensureCniConfig(into, '10.88.0.0/16');
  const config = JSON.parse(readFileSync(path!, 'utf8'));
  expect(config.plugins.map((p: { type: string }) => p.type)).toEqual(['bridge', 'portmap', 'firewall']);
  expect(config.plugins[0].ipam.ranges).toEqual([[{ subnet: '10.88.0.0/16' }]]);
  expect(readdirSync(into)).toEqual(['87-coxswain.conflist']);
  expect(await ensureCniConfig(into, '10.89.0.0/16')).toBeUndefined();
});

for (const file of ['10-flannel.conflist', 'a.conf', 'b.json'])
  it(`leaves ${file} of others alone`, async () => {
    writeFileSync(join(dir, file), 'theirs');
    expect(await ensureCniConfig(dir, '10.88.0.0/16')).toBeUndefined();
    expect(readdirSync(dir)).toEqual([file]);
  });

for (const subnet of [
  '',
  '10.88.0.0',
  '10.88.0.1/16',
  '10.300.0.0/16',
  '10.0.0.0/30',
  '10.0.0.0/7',
  'fd00::/64',
])
  it(`refuses the subnet ${JSON.stringify(subnet)}`, async () => {
    await expect(ensureCniConfig(dir, subnet)).rejects.toThrow('pod subnet');
    expect(readdirSync(dir)).toEqual([]);
  });

it('says what the disk said', async () => {
  writeFileSync(join(dir, 'file'), '');
  await expect(ensureCniConfig(join(dir, 'file'), '10.88.0.0/16')).rejects.toThrow(/EEXIST|ENOTDIR/);
});
