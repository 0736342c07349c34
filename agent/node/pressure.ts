/** Eviction thresholds in the kubelet's syntax, and the node conditions that follow from readings. Pure. */
import { quantity } from '../../api/meta/quantity.js';

/** What is read, each in absolute numbers; undefined where the machine does not tell. */
export interface Readings {
  memory?: { available: number; total: number };
  /** The file system of the agent's data and logs. */
  nodefs?: { available: number; total: number };
  nodefsInodes?: { available: number; total: number };
  /** The file system of the images, when it is another one. */
  imagefs?: { available: number; total: number };
  imagefsInodes?: { available: number; total: number };
  pid?: { available: number; total: number };
  /** Percent of the last minute in which all tasks waited for memory (/proc/pressure/memory, `full avg60`). */
  memoryStall?: { available: number; total: number };
}

type ConditionType = 'MemoryPressure' | 'DiskPressure' | 'PIDPressure';

/** Signal → where it is read and which condition it makes. `memory.stalled` is Coxswain's own; the rest are the kubelet's. */
const SIGNALS: Record<string, { reading: keyof Readings; condition: ConditionType; operator: '<' | '>' }> = {
  'memory.available': { reading: 'memory', condition: 'MemoryPressure', operator: '<' },
  'memory.stalled': { reading: 'memoryStall', condition: 'MemoryPressure', operator: '>' },
  'nodefs.available': { reading: 'nodefs', condition: 'DiskPressure', operator: '<' },
  'nodefs.inodesFree': { reading: 'nodefsInodes', condition: 'DiskPressure', operator: '<' },
  'imagefs.available': { reading: 'imagefs', condition: 'DiskPressure', operator: '<' },
  'imagefs.inodesFree': { reading: 'imagefsInodes', condition: 'DiskPressure', operator: '<' },
  'pid.available': { reading: 'pid', condition: 'PIDPressure', operator: '<' },
};

/** Reason and message of each condition, off and on, as the kubelet words them. */
const WORDS: Record<ConditionType, { off: [string, string]; on: [string, string] }> = {
  MemoryPressure: {
    off: ['KubeletHasSufficientMemory', 'kubelet has sufficient memory available'],
    on: ['KubeletHasInsufficientMemory', 'kubelet has insufficient memory available'],
  },
  DiskPressure: {
    off: ['KubeletHasNoDiskPressure', 'kubelet has no disk pressure'],
    on: ['KubeletHasDiskPressure', 'kubelet has disk pressure'],
  },
  PIDPressure: {
    off: ['KubeletHasSufficientPID', 'kubelet has sufficient PID available'],
    on: ['KubeletHasInsufficientPID', 'kubelet has insufficient PID available'],
  },
};

export interface Threshold {
  signal: string;
  /** Absolute, or a percentage of the whole. */
  value: { bytes: number } | { percent: number };
}

/** The kubelet's defaults, and a reserve of process ids. */
export const DEFAULT_EVICTION_HARD =
  'memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%,pid.available<5%';

/** Parses `memory.available<100Mi,nodefs.available<10%,…`; throws an Error that names the part and what is allowed. */
export function parseThresholds(text: string): Threshold[] {
  const out: Threshold[] = [];
  for (const part of text.split(',').map((p) => p.trim())) {
    if (part === '') continue;
    const m = /^([\w.]+)([<>])(.+)$/.exec(part);
    const signal = m && SIGNALS[m[1]!];
    if (!m || !signal || signal.operator !== m[2])
      throw new Error(
        `invalid eviction threshold "${part}": want one of ${Object.entries(SIGNALS)
          .map(([name, s]) => name + s.operator)
          .join(', ')} and a quantity or percentage, e.g. memory.available<100Mi`,
      );
    if (out.some((t) => t.signal === m[1])) throw new Error(`duplicate eviction threshold for "${m[1]}"`);
    out.push({ signal: m[1]!, value: amount(part, m[3]!) });
  }
  return out;
}

function amount(part: string, text: string): Threshold['value'] {
  const percent = /^(\d+(?:\.\d+)?)%$/.exec(text);
  if (percent) {
    const n = Number(percent[1]);
    if (n > 100) throw new Error(`invalid eviction threshold "${part}": at most 100%`);
    return { percent: n };
  }
  try {
    const bytes = quantity(text);
    if (bytes < 0) throw new Error('negative');
    return { bytes };
  } catch {
    throw new Error(`invalid eviction threshold "${part}": "${text}" is neither a quantity nor a percentage`);
  }
}

/** The thresholds that these readings break, in absolute numbers; a reading that is missing breaks none. */
export function broken(
  thresholds: readonly Threshold[],
  r: Readings,
): { signal: string; limit: number; available: number }[] {
  return thresholds.flatMap((t) => {
    const s = SIGNALS[t.signal]!;
    const reading = r[s.reading];
    // File systems without inodes of a fixed number (btrfs) say 0 of 0.
    if (!reading || reading.total === 0) return [];
    const limit = 'bytes' in t.value ? t.value.bytes : (t.value.percent / 100) * reading.total;
    const { available } = reading;
    const isBroken = s.operator === '<' ? available < limit : available > limit;
    return isBroken ? [{ signal: t.signal, limit, available }] : [];
  });
}

/** How much memory `memory.available` keeps free: it is not allocatable. */
export function hardMemoryBytes(thresholds: readonly Threshold[], totalBytes: number): number {
  const t = thresholds.find((x) => x.signal === 'memory.available');
  if (!t) return 0;
  return 'bytes' in t.value ? t.value.bytes : Math.floor((t.value.percent / 100) * totalBytes);
}

export interface PressureCondition {
  type: ConditionType;
  status: 'True' | 'False';
  reason: string;
  message: string;
}

/** When each condition was last seen broken (monotonic milliseconds). */
export type PressureState = Partial<Record<ConditionType, number>>;

/** The conditions now: on as soon as a threshold is broken, off when none has been for `transitionMs`. Returns the new state beside them. */
export function pressure(
  thresholds: readonly Threshold[],
  r: Readings,
  state: PressureState,
  now: number,
  transitionMs: number,
): { state: PressureState; conditions: PressureCondition[] } {
  const next: PressureState = { ...state };
  for (const t of broken(thresholds, r)) next[SIGNALS[t.signal]!.condition] = now;
  const conditions = (Object.keys(WORDS) as ConditionType[]).map((type): PressureCondition => {
    const last = next[type];
    const on = last !== undefined && (last === now || now - last < transitionMs);
    const [reason, message] = on ? WORDS[type].on : WORDS[type].off;
    return { type, status: on ? 'True' : 'False', reason, message };
  });
  return { state: next, conditions };
}
