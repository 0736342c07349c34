import { tmpdir } from 'node:os';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { NodeReport } from '../../api/wire/desired.js';
import { FakeShim } from '../../shims/fake/fake.js';
import { type MachineFacts, machineFacts } from './facts.js';
import { labelValue, NodeReporter, type NodeReporterOptions, parseReserve } from './node.js';
import { broken, parseThresholds, type Readings } from './pressure.js';
import { systemReadings } from './readings.js';

const GiB = 2 ** 30;
const FACTS: MachineFacts = {
  architecture: 'arm64',
  operatingSystem: 'linux',
  osImage: 'Debian GNU/Linux 12 (bookworm)',
  kernelVersion: '6.6.31+rpt-rpi-v8',
  machineID: 'm',
  systemUUID: 's',
  bootID: 'b',
  model: 'Raspberry Pi 4 Model B Rev 1.4',
  cpus: 4,
  memoryBytes: 4 * GiB,
};

async function nodeWith(options: Partial<NodeReporterOptions> = {}) {
  const clock = new VirtualClock();
  const reports: NodeReport[] = [];
  const readings: Readings = { memory: { available: 2 * GiB, total: 4 * GiB } };
  const shim = new FakeShim({ clock });
  await shim.start();
  const agent = new NodeReporter({
    nodeName: 'pi1',
    shims: new Map([['fake', shim]]),
    defaultHandler: 'fake',
    reporter: { node: (r) => reports.push(r), pod() {}, event() {} },
    clock,
    log: silentLog,
    dataDir: tmpdir(),
    version: 'v1.36.0+coxswain',
    readings: () => readings,
    facts: async () => FACTS,
    address: () => '192.0.2.7',
    ...options,
  });
  await agent.start();
  return { agent, clock, reports, readings, shim };
}

const condition = (r: NodeReport | undefined, type: string) => r?.conditions.find((c) => c.type === type);

describe('node report', () => {
  it('tells what the machine is, and what is left for pods', async () => {
    const { reports } = await nodeWith({
      systemReserved: 'cpu=250m,memory=256Mi',
      labels: { site: 'roof' },
    });
    expect(reports).toHaveLength(1);
    const r = reports[0]!;
    expect(r.labels).toEqual({
      'kubernetes.io/arch': 'arm64',
      'kubernetes.io/os': 'linux',
      'kubernetes.io/hostname': 'pi1',
      'node.kubernetes.io/instance-type': 'Raspberry-Pi-4-Model-B-Rev-1.4',
      'coxswain.dev/runtime.fake': 'true',
      site: 'roof',
    });
    expect(r.capacity).toMatchObject({ cpu: '4', memory: '4194304Ki', pods: '110' });
    expect(r.allocatable).toMatchObject({ cpu: '3750m', memory: `${(4096 - 256 - 100) * 1024}Ki` });
    expect(r.addresses).toEqual([
      { type: 'InternalIP', address: '192.0.2.7' },
      { type: 'Hostname', address: 'pi1' },
    ]);
    expect(r.nodeInfo).toMatchObject({
      containerRuntimeVersion: 'fake://1.0.0',
      kubeletVersion: 'v1.36.0+coxswain',
    });
    expect(r.conditions.map((c) => `${c.type}=${c.status}`)).toEqual([
      'MemoryPressure=False',
      'DiskPressure=False',
      'PIDPressure=False',
      'Ready=True',
    ]);
  });

  it('says nothing when nothing changes', async () => {
    const { clock, reports, readings } = await nodeWith();
    for (let i = 0; i < 100; i++) {
      readings.memory!.available = 2 * GiB + i;
      await clock.advance(10_000);
    }
    expect(reports).toHaveLength(1);
  });

  it('shows pressure at once and its end after the transition period', async () => {
    const signals: string[][] = [];
    const { clock, reports, readings } = await nodeWith({
      pressureTransitionSeconds: 60,
      onPressure: (all) => signals.push(all.map((s) => s.signal)),
    });
    readings.memory!.available = 50 * 2 ** 20;
    await clock.advance(10_000);
    expect(condition(reports.at(-1), 'MemoryPressure')).toMatchObject({
      status: 'True',
      reason: 'KubeletHasInsufficientMemory',
    });
    expect(signals).toEqual([['memory.available']]);
    readings.memory!.available = 2 * GiB;
    await clock.advance(50_000);
    expect(reports).toHaveLength(2);
    await clock.advance(20_000);
    expect(condition(reports.at(-1), 'MemoryPressure')!.status).toBe('False');
    expect(reports).toHaveLength(3);
  });

  it('is not ready without a runtime that works, and says which and why', async () => {
    const { reports } = await nodeWith({ shims: new Map() });
    expect(condition(reports[0], 'Ready')).toMatchObject({ status: 'False', reason: 'KubeletNotReady' });
  });

  it('reads this machine', async () => {
    const r = systemReadings(tmpdir());
    expect(r.memory!.available).toBeGreaterThan(0);
    expect(r.memory!.available).toBeLessThanOrEqual(r.memory!.total);
    expect(r.nodefs!.total).toBeGreaterThan(0);
    expect(r.pid!.available).toBeGreaterThan(0);
    const facts = await machineFacts(silentLog);
    expect(facts).toMatchObject({ operatingSystem: 'linux', osImage: expect.stringMatching(/\d/) });
    expect(facts.kernelVersion).not.toBe('');
  });
});

describe('eviction thresholds', () => {
  it('refuses what it does not know, by name', () => {
    for (const bad of [
      'memory.free<1Gi',
      'memory.available>1Gi',
      'memory.available<lots',
      'nodefs.available<101%',
    ])
      expect(() => parseThresholds(bad), bad).toThrow(bad);
    expect(() => parseThresholds('pid.available<1,pid.available<2')).toThrow('duplicate');
  });

  it('and so does the reserve', () => {
    expect(parseReserve('cpu=50m,memory=128Mi')).toEqual({ cpu: '50m', memory: '128Mi' });
    for (const bad of ['gpu=1', 'cpu', 'memory=lots', 'cpu=-1']) expect(() => parseReserve(bad)).toThrow(bad);
  });

  it('a percentage is of the whole; what cannot be read breaks nothing', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 100 }),
        fc.integer({ min: 0, max: 1000 }),
        (percent, available) => {
          const t = parseThresholds(`nodefs.available<${percent}%,imagefs.available<50%`);
          const hit = broken(t, { nodefs: { available, total: 1000 } }).length > 0;
          return hit === available < percent * 10;
        },
      ),
    );
    expect(
      broken(parseThresholds('nodefs.inodesFree<5%'), { nodefsInodes: { available: 0, total: 0 } }),
    ).toEqual([]);
  });
});

it('makes a label value of any text', () => {
  fc.assert(
    fc.property(fc.string(), (s) => /^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$/.test(labelValue(s))),
  );
});
