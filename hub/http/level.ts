export interface Waiting {
  readonly flow: Flow;
  admit(): void;
}

/** What one flow has under way. There is none for what has nothing. */
export interface Flow {
  readonly key: string;
  seats: number;
  waiting: number;
  /** Where it waits; it shares it only when its level has no queue left to give. */
  queue: Waiting[] | undefined;
}

/** A PriorityLevelConfiguration at work. */
export interface Level {
  readonly name: string;
  exempt: boolean;
  /** Seats that it has a right to. */
  nominal: number;
  /** Of these, what it never lends. */
  lower: number;
  /** What it may have with what others lend it. */
  upper: number;
  /** Queues, and requests in each; absent: nobody waits. */
  queuing: { queues: number; length: number } | undefined;
  seats: number;
  waiting: number;
  rejected: number;
  readonly flows: Map<string, Flow>;
  /** Those with someone in them, in the order of their turns. */
  readonly queues: Set<Waiting[]>;
}

export const newLevel = (name: string): Level => ({
  name,
  exempt: false,
  nominal: 0,
  lower: 0,
  upper: 0,
  queuing: undefined,
  seats: 0,
  waiting: 0,
  rejected: 0,
  flows: new Map(),
  queues: new Set(),
});

/** Counts it. */
export function reject(level: Level): undefined {
  level.rejected++;
}

export function shortest(queues: Iterable<Waiting[]>): Waiting[] {
  let best: Waiting[] | undefined;
  for (const q of queues) if (!best || q.length < best.length) best = q;
  return best!;
}

/** A flow with nothing under way is no more. */
export function forget(level: Level, flow: Flow): void {
  if (flow.seats === 0 && flow.waiting === 0) level.flows.delete(flow.key);
}
