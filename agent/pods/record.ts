/** The little that must outlive the agent about a pod and that no runtime keeps: one small file, written rarely. */
import { join } from 'node:path';
import type { ResourceRequirements } from 'kubernetes-types/core/v1.js';
import { readJson, writeDurably } from '../files.js';

export interface PodEnd {
  phase: 'Succeeded' | 'Failed';
  reason?: string;
  message?: string;
  /** The node never took it on. */
  rejected?: true;
}

export interface PodRecord {
  namespace: string;
  name: string;
  /** Wall time in milliseconds at which the pod was taken on. */
  startTime: number;
  /** The restart count of each container, in case the runtime loses its own. */
  attempts: Record<string, number>;
  /** What containers (by name, and of which id) were given since they were started. */
  resized?: Record<string, { id: string; resources: ResourceRequirements }>;
  /** It has ended for good and must never run again. */
  end?: PodEnd;
}

const isCount = (x: unknown): x is number => typeof x === 'number' && Number.isFinite(x) && x >= 0;

export const recordPath = (podDir: string): string => join(podDir, 'pod.json');

/** Undefined when there is none or it cannot be made sense of (then it is set aside). */
export async function readRecord(
  podDir: string,
  setAside: (path: string, why: string) => void,
): Promise<PodRecord | undefined> {
  const r = (await readJson(recordPath(podDir), setAside)) as Partial<PodRecord> | undefined;
  if (!r || typeof r !== 'object' || !isCount(r.startTime)) return undefined;
  const attempts = Object.fromEntries(Object.entries(r.attempts ?? {}).filter(([, n]) => isCount(n)));
  const ended = r.end?.phase === 'Succeeded' || r.end?.phase === 'Failed';
  return {
    namespace: String(r.namespace),
    name: String(r.name),
    startTime: r.startTime,
    attempts,
    ...(r.resized && typeof r.resized === 'object' ? { resized: r.resized } : {}),
    ...(ended ? { end: r.end! } : {}),
  };
}

export const writeRecord = (podDir: string, r: PodRecord): Promise<void> =>
  writeDurably(recordPath(podDir), JSON.stringify(r));
