import type { Clock } from '../../api/clock.js';

export interface FairnessLimits {
  /** Requests at work at the same time, those of exempt users not counted. */
  seats: number;
  /** Of these, what one user may hold: slow bodies of one take nothing from the others. */
  seatsPerUser: number;
  /** Requests of exempt users at work at the same time. */
  exemptSeats: number;
  /** Requests of one user that may wait. */
  queue: number;
  /** Requests of all users that may wait. */
  waiting: number;
  /** Milliseconds that a request may wait. */
  patience: number;
  /** Watches and followed logs at the same time; one user may have half of them, an exempt one all. */
  longRunning: number;
}

export const FAIRNESS: FairnessLimits = {
  seats: 128,
  seatsPerUser: 64,
  exemptSeats: 1024,
  queue: 64,
  waiting: 1024,
  patience: 15_000,
  longRunning: 4000,
};

interface Waiting {
  admit(): void;
}

/** What one user has under way. There is none for who has nothing. */
interface Flow {
  seats: number;
  longRunning: number;
  queue: Waiting[];
}

/** Gives a seat back; more than once does no harm. */
export type Release = () => void;

/**
 * Who may work now and who waits: what Kubernetes' API Priority and Fairness is for, with a flow per user. As long as
 * seats are free nobody waits; then users take turns, each with its own bounded queue, so that one who asks for much waits
 * for itself. Exempt users (`system:masters`, in Kubernetes as well) never wait.
 */
export class Fairness {
  readonly #limits: FairnessLimits;
  readonly #flows = new Map<string, Flow>();
  /** Users with someone waiting, in the order of their turns. */
  readonly #turns = new Set<string>();
  #seats = 0;
  #exempt = 0;
  #waiting = 0;
  #longRunning = 0;

  constructor(
    private readonly clock: Clock,
    limits: Partial<FairnessLimits> = {},
  ) {
    this.#limits = { ...FAIRNESS, ...limits };
  }

  /**
   * A seat for one request: at once, later, or undefined when there are too many already. `gone` tells of a client that
   * does not wait any longer; it is asked for only when there is something to wait for.
   */
  enter(
    user: string,
    exempt: boolean,
    gone: () => AbortSignal,
  ): Release | undefined | Promise<Release | undefined> {
    const l = this.#limits;
    if (exempt) {
      if (this.#exempt >= l.exemptSeats) return undefined;
      this.#exempt++;
      return once(() => this.#exempt--);
    }
    const flow = this.#flow(user);
    if (this.#seats < l.seats && flow.seats < l.seatsPerUser && flow.queue.length === 0)
      return this.#take(user, flow);
    if (flow.queue.length >= l.queue || this.#waiting >= l.waiting) {
      this.#forget(user, flow);
      return undefined;
    }
    return this.#wait(user, flow, gone());
  }

  /** A place for a request that lasts as long as its client likes; undefined when there are too many already. */
  enterLongRunning(user: string, exempt: boolean): Release | undefined {
    const { longRunning } = this.#limits;
    const flow = this.#flow(user);
    if (this.#longRunning >= longRunning || (!exempt && flow.longRunning >= Math.ceil(longRunning / 2))) {
      this.#forget(user, flow);
      return undefined;
    }
    this.#longRunning++;
    flow.longRunning++;
    return once(() => {
      this.#longRunning--;
      flow.longRunning--;
      this.#forget(user, flow);
    });
  }

  #flow(user: string): Flow {
    let flow = this.#flows.get(user);
    if (!flow) {
      flow = { seats: 0, longRunning: 0, queue: [] };
      this.#flows.set(user, flow);
    }
    return flow;
  }

  #forget(user: string, flow: Flow): void {
    if (flow.seats === 0 && flow.longRunning === 0 && flow.queue.length === 0) this.#flows.delete(user);
  }

  #take(user: string, flow: Flow): Release {
    this.#seats++;
    flow.seats++;
    return once(() => {
      this.#seats--;
      flow.seats--;
      this.#next();
      this.#forget(user, flow);
    });
  }

  #wait(user: string, flow: Flow, signal: AbortSignal): Promise<Release | undefined> {
    return new Promise((resolve) => {
      const leave = () => {
        cancel();
        signal.removeEventListener('abort', giveUp);
        flow.queue.splice(flow.queue.indexOf(waiting), 1);
        this.#waiting--;
        if (flow.queue.length === 0) this.#turns.delete(user);
      };
      const waiting: Waiting = {
        admit: () => {
          leave();
          resolve(this.#take(user, flow));
        },
      };
      const giveUp = () => {
        leave();
        this.#forget(user, flow);
        resolve(undefined);
      };
      const cancel = this.clock.after(this.#limits.patience, giveUp);
      signal.addEventListener('abort', giveUp, { once: true });
      flow.queue.push(waiting);
      this.#waiting++;
      this.#turns.add(user);
      if (signal.aborted) giveUp();
    });
  }

  /** Lets in who is next, as long as there are seats: each user that may have one more, one after the other. */
  #next(): void {
    for (const user of this.#turns) {
      if (this.#seats >= this.#limits.seats) return;
      const flow = this.#flows.get(user)!;
      if (flow.seats >= this.#limits.seatsPerUser) continue;
      // To the end of the line, if there is more.
      this.#turns.delete(user);
      if (flow.queue.length > 1) this.#turns.add(user);
      flow.queue[0]!.admit();
    }
  }
}

function once(release: () => void): Release {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    release();
  };
}
