import { execFileSync } from 'node:child_process';
import { measure } from './latency.js';
import type { Options } from './options.js';
import type { Row } from './row.js';
import { cpuSeconds, memoryMb, System, sleep, writtenBytes } from './system.js';

/** What the kernel has counted on the one established connection to the broker, seen from the agent's end. */
function socketCounters(mqttPort: number): { sent: number; received: number; segments: number } {
  const text = execFileSync('ss', ['-tinH', 'state', 'established', `( dport = :${mqttPort} )`], {
    encoding: 'utf8',
  });
  const n = (field: string) => Number(new RegExp(`\\b${field}:(\\d+)`).exec(text)?.[1] ?? 0);
  if (!/segs_out/.test(text)) throw new Error(`ss shows no connection to port ${mqttPort}:\n${text}`);
  return { sent: n('bytes_sent'), received: n('bytes_received'), segments: n('segs_out') + n('segs_in') };
}

/** IPv4 and TCP with timestamps. */
const HEADER_BYTES = 52;

/** Pods that come and go before memory is looked at again, and the time in ms to settle down afterwards. */
const PODS = 50;
const QUIET_MS = 75_000;

/** Memory, wire, disk and CPU of one hub and one agent with nothing to do; memory also after some work. */
export async function run(o: Options): Promise<Row[]> {
  const system = await new System().start();
  try {
    const agent = await system.addAgent('pi1');
    const processes = { hub: system.hub.pid, agent: agent.pid };
    await sleep(o.settleSeconds * 1000);
    const before = socketCounters(system.mqttPort);
    const disk = { hub: writtenBytes(processes.hub), agent: writtenBytes(processes.agent) };
    const cpu = { hub: cpuSeconds(processes.hub), agent: cpuSeconds(processes.agent) };
    const started = performance.now();
    await sleep(o.idleMinutes * 60_000);
    const hours = (performance.now() - started) / 3_600_000;
    const after = socketCounters(system.mqttPort);
    const window = `over ${(hours * 60).toFixed(1)} min, extrapolated`;

    const rows: Row[] = [];
    for (const who of ['hub', 'agent'] as const) {
      const pid = processes[who];
      rows.push(
        {
          name: `${who}: idle RSS`,
          value: memoryMb(pid, 'VmRSS'),
          unit: 'MB',
          budget: who === 'hub' ? '<= 90' : '<= 60',
        },
        {
          name: `${who}: idle PSS`,
          value: memoryMb(pid, 'Pss'),
          unit: 'MB',
          note: 'shared pages counted in part',
        },
        { name: `${who}: peak RSS since start`, value: memoryMb(pid, 'VmHWM'), unit: 'MB' },
        {
          name: `${who}: disk writes, idle`,
          value: ((writtenBytes(pid) - disk[who]) / 2 ** 20 / hours) * 24,
          unit: 'MB/day',
          budget: '<= 1',
          note: window,
        },
        {
          name: `${who}: CPU, idle`,
          value: ((cpuSeconds(pid) - cpu[who]) / (hours * 3600)) * 100,
          unit: '% of a core',
          note: window,
        },
      );
    }
    const bytes = after.sent - before.sent + after.received - before.received;
    const segments = after.segments - before.segments;
    rows.push(
      {
        name: 'wire: one idle node, both directions, TLS included',
        value: bytes / 1024 / hours,
        unit: 'KB/h',
        budget: '<= 15',
        note: `counted by the kernel at the socket, ${window}`,
      },
      {
        name: 'wire: the same with TCP/IP headers',
        value: (bytes + segments * HEADER_BYTES) / 1024 / hours,
        unit: 'KB/h',
        note: `${segments} segments of ${HEADER_BYTES} bytes of headers`,
      },
    );

    await system.push('examples/mixed-runtimes/build/greeter.wasm', 'greeter:1');
    await measure(system, 'wasm', { image: 'coxswain.internal/greeter:1' }, PODS);
    const tell = (name: string, note: string) => {
      for (const who of ['hub', 'agent'] as const)
        rows.push({
          name: `${who}: RSS ${name}`,
          value: memoryMb(processes[who], 'VmRSS'),
          unit: 'MB',
          note,
        });
    };
    tell(`after ${PODS} Wasm pods`, 'created and deleted one after the other');
    await sleep(QUIET_MS);
    tell(`${QUIET_MS / 1000} s later`, 'garbage is collected when it is quiet');
    return rows;
  } finally {
    await system.stop();
  }
}
