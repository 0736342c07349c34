import type { FlowSchema, PriorityLevelConfiguration } from 'kubernetes-types/flowcontrol/v1.js';
import type { Clock } from '../../api/clock.js';
import {
  CATCH_ALL,
  mandatoryLevels,
  mandatorySchemas,
  suggestedLevels,
  suggestedSchemas,
} from '../../api/kinds/flowcontrol-defaults.js';
import type { Attributes, User } from '../auth/attributes.js';
import type { Frozen } from '../client.js';
import { Classifier, inOrder, type Schema } from './classify.js';
import { type Flow, forget, type Level, newLevel, reject, shortest, type Waiting } from './level.js';

export interface FairnessLimits {
  /** Requests at work at the same time, those of exempt users not counted. */
  seats: number;
  /** Of these, what one flow may hold: slow bodies of one take nothing from the others. */
  seatsPerFlow: number;
  /** Requests of exempt users at work at the same time. */
  exemptSeats: number;
  /** Requests of all flows that may wait. */
  waiting: number;
  /** Milliseconds that a request may wait. */
  patience: number;
  /** Watches and followed logs at the same time; one user may have half of them, an exempt one all. */
  longRunning: number;
}

export const FAIRNESS: FairnessLimits = {
  seats: 128,
  seatsPerFlow: 64,
  exemptSeats: 1024,
  waiting: 1024,
  patience: 15_000,
  longRunning: 4000,
};

/** Gives a seat back; more than once does no harm. */
export type Release = () => void;

/**
 * Who may work now and who waits: Kubernetes' API Priority and Fairness. Priority levels share the seats; in each level
 * every flow has a queue of its own, and flows take turns, so that one who asks for much waits for itself. A level's
 * seats that it neither uses nor keeps for itself are lent to others at once; it is served first when it wants them back.
 */
export class Fairness {
  readonly #limits: FairnessLimits;
  readonly #levels = new Map<string, Level>();
  /** Running watches and logs by user. */
  readonly #longRunningOf = new Map<string, number>();
  #classifier!: Classifier;
  /** Seats that are taken, or kept for a level that does not lend them. */
  #committed = 0;
  /** Seats of all levels. */
  #total = 0;
  #exempt = 0;
  #waiting = 0;
  #longRunning = 0;

  /** Starts with the objects that every cluster has. */
  constructor(
    private readonly clock: Clock,
    limits: Partial<FairnessLimits> = {},
  ) {
    this.#limits = { ...FAIRNESS, ...limits };
    this.configure([...mandatorySchemas, ...suggestedSchemas], [...mandatoryLevels, ...suggestedLevels]);
  }

  get levels(): Iterable<Level> {
    return this.#levels.values();
  }

  /** Works by these objects from now on. The mandatory ones are there even when they are not among them. */
  configure(
    schemas: Iterable<Frozen<FlowSchema>>,
    levels: Iterable<Frozen<PriorityLevelConfiguration>>,
  ): void {
    const objects = withMandatory(levels, mandatoryLevels);
    let shares = 0;
    for (const o of objects.values()) shares += sharesOf(o);
    this.#total = 0;
    for (const [name, level] of this.#levels) {
      if (objects.has(name)) continue;
      if (level.seats === 0 && level.waiting === 0) this.#levels.delete(name);
      else {
        // What is left in one that is gone is worked off, with a seat beyond those of the others.
        Object.assign(level, { nominal: 1, lower: 1, upper: Number.POSITIVE_INFINITY });
        this.#total += 1;
      }
    }
    for (const [name, o] of objects) {
      const level = this.#levels.get(name) ?? newLevel(name);
      this.#levels.set(name, level);
      const nominal = shares ? Math.ceil((this.#limits.seats * sharesOf(o)) / shares) : 0;
      const { limited } = o.spec!;
      const q = limited?.limitResponse?.queuing;
      level.exempt = !limited;
      level.nominal = nominal;
      level.lower = nominal - Math.round((nominal * (limited?.lendablePercent ?? 0)) / 100);
      const borrowing = limited?.borrowingLimitPercent;
      level.upper =
        borrowing === undefined
          ? Number.POSITIVE_INFINITY
          : nominal + Math.round((nominal * borrowing) / 100);
      level.queuing = q && { queues: q.queues!, length: q.queueLengthLimit! };
      if (limited) this.#total += nominal;
    }
    this.#committed = 0;
    for (const l of this.#levels.values()) if (!l.exempt) this.#committed += Math.max(l.seats, l.lower);
    this.#classifier = new Classifier(this.#compile(schemas, objects));
    if (this.#waiting > 0) this.#next();
  }

  #compile(
    schemas: Iterable<Frozen<FlowSchema>>,
    levels: ReadonlyMap<string, Frozen<PriorityLevelConfiguration>>,
  ): Schema[] {
    const objects = [...withMandatory(schemas, mandatorySchemas).values()].sort(inOrder);
    // Whatever has the number of the last one as well, the last one is last.
    const last = objects.findIndex((o) => o.metadata!.name === CATCH_ALL);
    objects.push(...objects.splice(last, 1));
    return objects.flatMap((o) => {
      const { priorityLevelConfiguration, distinguisherMethod, rules } = o.spec!;
      const level = levels.get(priorityLevelConfiguration.name);
      if (!level) return [];
      const uids = [o.metadata!.uid, level.metadata!.uid] as const;
      const headers =
        uids[0] && uids[1]
          ? { 'x-kubernetes-pf-flowschema-uid': uids[0], 'x-kubernetes-pf-prioritylevel-uid': uids[1] }
          : undefined;
      return [
        {
          name: o.metadata!.name!,
          level: this.#levels.get(priorityLevelConfiguration.name)!,
          distinguisher: distinguisherMethod?.type,
          headers,
          rules: rules ?? [],
        },
      ];
    });
  }

  schemaOf(user: User, what: Attributes): Schema {
    return this.#classifier.schemaOf(user, what);
  }

  /**
   * A seat for one request: at once, later, or undefined when there are too many already. `gone` tells of a client that
   * does not wait any longer; it is asked for only when there is something to wait for.
   */
  enter(
    schema: Schema,
    user: User,
    what: Attributes,
    gone: () => AbortSignal,
  ): Release | undefined | Promise<Release | undefined> {
    const { level } = schema;
    if (level.exempt) {
      if (this.#exempt >= this.#limits.exemptSeats) return reject(level);
      this.#exempt++;
      level.seats++;
      return once(() => {
        this.#exempt--;
        level.seats--;
      });
    }
    const key = Classifier.flowOf(schema, user, what);
    const flow = level.flows.get(key) ?? { key, seats: 0, waiting: 0, queue: undefined };
    if (this.#room(level) && flow.seats < this.#limits.seatsPerFlow && !flow.queue)
      return this.#take(level, flow);
    const { queuing } = level;
    if (!queuing || this.#waiting >= this.#limits.waiting) return reject(level);
    const queue = flow.queue ?? (level.queues.size < queuing.queues ? [] : shortest(level.queues));
    if (queue.length >= queuing.length) return reject(level);
    return this.#wait(level, flow, queue, gone());
  }

  /** A place for a request that lasts as long as its client likes; undefined when there are too many already. */
  enterLongRunning(user: string, exempt: boolean): Release | undefined {
    const { longRunning } = this.#limits;
    const held = this.#longRunningOf.get(user) ?? 0;
    if (this.#longRunning >= longRunning || (!exempt && held >= Math.ceil(longRunning / 2))) return undefined;
    this.#longRunning++;
    this.#longRunningOf.set(user, held + 1);
    return once(() => {
      this.#longRunning--;
      const left = this.#longRunningOf.get(user)! - 1;
      if (left > 0) this.#longRunningOf.set(user, left);
      else this.#longRunningOf.delete(user);
    });
  }

  /** Whether a level may have one more: of its own, or of what nobody has or keeps. */
  #room(level: Level): boolean {
    return level.seats < level.lower || (level.seats < level.upper && this.#committed < this.#total);
  }

  #take(level: Level, flow: Flow): Release {
    if (level.seats >= level.lower) this.#committed++;
    level.seats++;
    flow.seats++;
    level.flows.set(flow.key, flow);
    return once(() => {
      level.seats--;
      if (level.seats >= level.lower) this.#committed--;
      flow.seats--;
      if (this.#waiting > 0) this.#next();
      forget(level, flow);
    });
  }

  #wait(level: Level, flow: Flow, queue: Waiting[], signal: AbortSignal): Promise<Release | undefined> {
    return new Promise((resolve) => {
      const leave = () => {
        cancel();
        signal.removeEventListener('abort', giveUp);
        queue.splice(queue.indexOf(waiting), 1);
        if (queue.length === 0) level.queues.delete(queue);
        if (--flow.waiting === 0) flow.queue = undefined;
        level.waiting--;
        this.#waiting--;
      };
      const waiting: Waiting = {
        flow,
        admit: () => {
          leave();
          resolve(this.#take(level, flow));
        },
      };
      const giveUp = () => {
        leave();
        forget(level, flow);
        resolve(reject(level));
      };
      const cancel = this.clock.after(this.#limits.patience, giveUp);
      signal.addEventListener('abort', giveUp, { once: true });
      level.flows.set(flow.key, flow);
      queue.push(waiting);
      level.queues.add(queue);
      flow.queue = queue;
      flow.waiting++;
      level.waiting++;
      this.#waiting++;
      if (signal.aborted) giveUp();
    });
  }

  /** Lets in who is next, as long as there are seats: the level that has least of its own, its flows in turn. */
  #next(): void {
    for (;;) {
      let best: Level | undefined;
      let next: Waiting[] | undefined;
      for (const level of this.#levels.values()) {
        if (level.waiting === 0 || !this.#room(level)) continue;
        if (best && level.seats * best.nominal >= best.seats * level.nominal) continue;
        const queue = this.#turn(level);
        if (queue) [best, next] = [level, queue];
      }
      if (!best || !next) return;
      // To the end of the line.
      best.queues.delete(next);
      best.queues.add(next);
      next[0]!.admit();
    }
  }

  /** The first queue whose first request may have a seat. */
  #turn(level: Level): Waiting[] | undefined {
    for (const queue of level.queues) if (queue[0]!.flow.seats < this.#limits.seatsPerFlow) return queue;
    return undefined;
  }
}

const sharesOf = ({ spec }: Frozen<PriorityLevelConfiguration>): number =>
  (spec!.limited ?? spec!.exempt)?.nominalConcurrencyShares ?? 0;

function withMandatory<T extends { readonly metadata?: { readonly name?: string } }>(
  objects: Iterable<T>,
  mandatory: readonly T[],
): Map<string, T> {
  const all = new Map(mandatory.map((o) => [o.metadata!.name!, o]));
  for (const o of objects) all.set(o.metadata!.name!, o);
  return all;
}

function once(release: () => void): Release {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    release();
  };
}
