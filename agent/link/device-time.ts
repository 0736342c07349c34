/**
 * What the hub's clock showed when something happened here. A device may boot in 1970 and learn the time later, or
 * never; its monotonic clock is right for as long as the process lives, and the hub tells the time with every welcome.
 */
import { type Clock, rfc3339 } from '../../api/clock.js';

/** Clocks that differ by less are taken for equal: the device's own times stand. */
const TOLERANCE_MS = 60_000;
/** The wall clock was set when it moved so far against the monotonic one. */
const JUMP_MS = 5_000;
const MAX_SPANS = 16;
/** Of the seconds that times in a status are cut to. */
const ROUNDING_MS = 1000;

/** A time in which nobody set the wall clock. */
interface Span {
  from: number;
  to: number;
  /** Wall clock minus monotonic clock. */
  offset: number;
}

export class DeviceTime {
  readonly #spans: Span[] = [];
  /** The hub's clock minus the monotonic one. */
  #hub: number | undefined;

  constructor(private readonly clock: Pick<Clock, 'now' | 'monotonic'>) {}

  /** To be called whenever something happens, so that it is known by which clock. Returns the monotonic time. */
  observe(): number {
    const [now, monotonic] = [this.clock.now(), this.clock.monotonic()];
    const offset = now - monotonic;
    const last = this.#spans.at(-1);
    if (last && Math.abs(offset - last.offset) < JUMP_MS) {
      last.to = Math.max(now, last.to);
      last.offset = offset;
    } else {
      this.#spans.push({ from: now, to: now, offset });
      if (this.#spans.length > MAX_SPANS) this.#spans.shift();
    }
    return monotonic;
  }

  /** The hub has told the time, in Unix ms. */
  told(hubNow: number): void {
    this.#hub = hubNow - this.observe();
  }

  /** The hub's clock, in Unix ms; undefined while it has told nothing. */
  hubNow(): number | undefined {
    return this.#hub === undefined ? undefined : this.clock.monotonic() + this.#hub;
  }

  /** Unix ms by the hub's clock of a monotonic time of this process; by the device's while the hub has told nothing. */
  at(monotonic: number): number {
    const offset = this.clock.now() - this.clock.monotonic();
    const hub = this.#hub ?? offset;
    return Math.round(
      monotonic + (Math.abs(hub - offset) < TOLERANCE_MS && this.#spans.length < 2 ? offset : hub),
    );
  }

  /** Unix ms by the hub's clock of a time by the device's; the same when both are right, or when nothing is known of it. */
  correct(t: number): number {
    const hubNow = this.hubNow();
    if (this.#hub === undefined || hubNow === undefined || !this.#spans.length) return t;
    const span =
      this.#spans.findLast((s) => t >= s.from - ROUNDING_MS && t <= s.to + ROUNDING_MS) ??
      (t < this.#spans[0]!.from ? this.#spans[0]! : this.#spans.at(-1)!);
    const real = t - span.offset + this.#hub;
    if (Math.abs(real - t) < TOLERANCE_MS) return t;
    // What would be in the future was told by another clock than was thought, before this process began.
    return real <= hubNow + ROUNDING_MS ? real : Math.min(t, hubNow);
  }

  /** A report with every time in it (RFC 3339, in fields named …Time and …At) corrected. Not changed itself. */
  correctAll<T>(value: T): T {
    if (Array.isArray(value)) return value.map((v) => this.correctAll(v)) as T;
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map(([k, v]) => {
        if (typeof v !== 'string' || !/(Time|At)$/.test(k)) return [k, this.correctAll(v)];
        const t = Date.parse(v);
        const real = this.correct(t);
        return [k, Number.isNaN(t) || real === t ? v : rfc3339(real)];
      }),
    ) as T;
  }
}
