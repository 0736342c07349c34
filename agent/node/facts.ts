/**
 * What does not change while the machine runs: what it is and how big. `systeminformation` knows it, but costs 10 MB
 * for as long as it is loaded; so it runs once, in a process of its own that ends at once.
 */
import { execFile } from 'node:child_process';
import { readFileSync, statfsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { arch, availableParallelism, networkInterfaces, release, totalmem, type } from 'node:os';
import { promisify } from 'node:util';
import type { Log } from '../../api/log.js';

export interface MachineFacts {
  architecture: string;
  operatingSystem: string;
  osImage: string;
  kernelVersion: string;
  machineID: string;
  systemUUID: string;
  bootID: string;
  /** E.g. `Raspberry Pi 4 Model B Rev 1.4`; empty when the machine has no name. */
  model: string;
  cpus: number;
  memoryBytes: number;
}

/** Node's names → Go's, which Kubernetes uses. */
const GOARCH: Record<string, string> = {
  x64: 'amd64',
  arm64: 'arm64',
  arm: 'arm',
  ia32: '386',
  riscv64: 'riscv64',
};

const ASK = `
const si = require(process.argv[1]);
Promise.all([si.osInfo(), si.system()]).then(([os, system]) => process.stdout.write(JSON.stringify({ os, system })));
`;
const ASK_TIMEOUT_MS = 20_000;

interface Answer {
  os: { distro?: string; release?: string; codename?: string; kernel?: string; serial?: string };
  system: { uuid?: string; model?: string };
}

const file = (path: string): string => {
  try {
    // Device tree strings end with a NUL.
    return readFileSync(path, 'utf8').replace(/\0/g, '').trim();
  } catch {
    return '';
  }
};

export async function machineFacts(log: Log): Promise<MachineFacts> {
  let si: Answer | undefined;
  try {
    const path = createRequire(import.meta.url).resolve('systeminformation');
    const { stdout } = await promisify(execFile)(process.execPath, ['-e', ASK, path], {
      timeout: ASK_TIMEOUT_MS,
      env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C' },
    });
    si = JSON.parse(stdout) as Answer;
  } catch (e) {
    log.warn(
      { err: (e as Error).message },
      'systeminformation gave no answer; the node tells what /proc says',
    );
  }
  const osImage = [si?.os.distro, si?.os.release, si?.os.codename && `(${si.os.codename})`]
    .filter(Boolean)
    .join(' ');
  return {
    architecture: GOARCH[arch()] ?? arch(),
    operatingSystem: type().toLowerCase(),
    osImage: osImage || /^PRETTY_NAME="?([^"\n]*)/m.exec(file('/etc/os-release'))?.[1] || type(),
    kernelVersion: si?.os.kernel || release(),
    machineID: file('/etc/machine-id') || si?.os.serial || '',
    systemUUID: si?.system.uuid || file('/etc/machine-id'),
    bootID: file('/proc/sys/kernel/random/boot_id'),
    model: file('/proc/device-tree/model'),
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
  };
}

/** Interfaces that containers brought along. */
const VIRTUAL = /^(lo|cni|docker|veth|flannel|cali|br-|virbr|tun|tap|wg)/;

/** The address of the interface of the default route, else the first one that is no container's. Empty when there is none. */
export function mainAddress(): string {
  const route = file('/proc/net/route')
    .split('\n')
    .map((l) => l.split('\t'))
    .find((f) => f[1] === '00000000');
  const all = Object.entries(networkInterfaces()).filter(([name]) => !VIRTUAL.test(name));
  const ordered = [...all.filter(([name]) => name === route?.[0]), ...all];
  for (const family of ['IPv4', 'IPv6'])
    for (const [, addresses] of ordered) {
      const a = addresses?.find((x) => x.family === family && !x.internal && !x.address.startsWith('fe80:'));
      if (a) return a.address;
    }
  return '';
}

export const diskBytes = (path: string): number => {
  try {
    const s = statfsSync(path);
    return s.blocks * s.bsize;
  } catch {
    return 0;
  }
};
