/**
 * Counts what the link costs, and says when a day's allowance is used up. Bytes are those of the sockets, TLS included
 * and TCP/IP headers not, and of pulled images. A day is one of UTC by the hub's clock.
 */
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { NodeCondition } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { writeFileAtomic } from '../../api/files.js';
import type { Log } from '../../api/log.js';
import { DATA_LIMIT } from '../../api/wire/desired.js';
import type { DeviceTime } from './device-time.js';

const DAY_MS = 86_400_000;
const CHECK_MS = 10_000;
/** Kept back for saying so, and for the end of a TLS connection. */
const RESERVE = 8 * 1024;
/** Written when it grew by this share of the limit: a power cut forgets no more. */
const SAVE_SHARE = 64;

interface Usage {
  /** Days since 1970. */
  day: number;
  bytes: number;
}

export class DataMeter {
  readonly #file: string;
  readonly #live = new Set<Socket>();
  /** Of sockets that are closed, and of images. */
  #done = 0;
  /** `#total` when the day began, or when this process did. */
  #base = 0;
  /** Used today before this process counted. */
  #before = 0;
  #day: number;
  #saved: Usage = { day: 0, bytes: 0 };
  #limit: number | undefined;
  /** When the day began for this process, by the monotonic clock. */
  #from: number;
  #exhausted = false;
  #cancel: (() => void) | undefined;

  /** `changed` is called when the day's allowance is used up, and when a new day has begun or the limit was changed. */
  constructor(
    dataDir: string,
    private readonly clock: Clock,
    private readonly time: DeviceTime,
    private readonly log: Log,
    private readonly changed: () => void,
  ) {
    this.#file = join(dataDir, 'usage.json');
    this.#from = clock.monotonic();
    this.#day = this.#today();
    try {
      const { day, bytes } = JSON.parse(readFileSync(this.#file, 'utf8')) as Usage;
      if (Number.isSafeInteger(day) && bytes >= 0) this.#saved = { day, bytes };
    } catch {
      // None yet, or torn: this device has a new day.
    }
    // A clock that is behind what was noted is wrong, and the noted day goes on.
    if (this.#saved.day >= this.#day) {
      this.#day = this.#saved.day;
      this.#before = this.#saved.bytes;
    }
  }

  /** Counts a connection from its first byte to its last. */
  track(socket: Socket): void {
    this.#live.add(socket);
    socket.once('close', () => {
      this.#live.delete(socket);
      this.#done += socket.bytesRead + socket.bytesWritten;
    });
  }

  /** Counts what travelled another way. */
  add(bytes: number): void {
    this.#done += bytes;
    this.check();
  }

  /** Bytes today. */
  get used(): number {
    return this.#before + this.#total() - this.#base;
  }

  /** Nothing more is to travel today. */
  get exhausted(): boolean {
    return this.#exhausted;
  }

  /** Bytes per day; undefined: no limit, and nothing is written to disk. */
  set limit(bytes: number | undefined) {
    if (bytes === this.#limit) return;
    this.#limit = bytes;
    this.#cancel?.();
    this.#cancel = undefined;
    if (bytes !== undefined) this.#tick();
    else if (this.#exhausted) {
      this.#exhausted = false;
      this.changed();
    }
  }

  get limit(): number | undefined {
    return this.#limit;
  }

  /** By the hub's clock, as far as it is known. */
  now(): number {
    return this.time.hubNow() ?? this.clock.now();
  }

  /** Milliseconds until the next day begins. */
  untilTomorrow(): number {
    // With a clock that is behind, a day is 24 hours of this process.
    if (this.#today() < this.#day) return Math.max(0, this.#from + DAY_MS - this.clock.monotonic());
    return (this.#day + 1) * DAY_MS - this.now();
  }

  /** For the Node; undefined without a limit. */
  condition(): Omit<NodeCondition, 'lastTransitionTime'> | undefined {
    if (this.#limit === undefined) return undefined;
    return this.#exhausted
      ? {
          type: DATA_LIMIT,
          status: 'True',
          reason: 'DailyLimitReached',
          message: `${this.#limit} bytes a day are used up; the node is back when the next day (UTC) begins, its pods run on`,
        }
      : {
          type: DATA_LIMIT,
          status: 'False',
          reason: 'WithinDailyLimit',
          message: `at most ${this.#limit} bytes a day`,
        };
  }

  /** Looks whether a day has ended or its allowance is used up. Cheap. */
  check(): void {
    if (this.#limit === undefined) return;
    const today = this.#today();
    // The hub knows better what day it is than a clock that was once ahead.
    if (this.time.hubNow() !== undefined && today < this.#day) this.#day = today;
    if (today > this.#day || this.untilTomorrow() <= 0) {
      this.#day = Math.max(today, this.#day + 1);
      this.#from = this.clock.monotonic();
      this.#before = 0;
      this.#base = this.#total();
    }
    const exhausted = this.used >= this.#limit - RESERVE;
    const { day, bytes } = this.#saved;
    if (day !== this.#day || this.used - bytes >= this.#limit / SAVE_SHARE || exhausted !== this.#exhausted)
      this.save();
    if (exhausted === this.#exhausted) return;
    this.#exhausted = exhausted;
    this.log[exhausted ? 'warn' : 'info'](
      { used: this.used, limit: this.#limit },
      exhausted ? "this day's bytes are used up" : 'bytes may travel again',
    );
    this.changed();
  }

  /** Writes what was used, when there is a limit. */
  save(): void {
    if (this.#limit === undefined) return;
    this.#saved = { day: this.#day, bytes: this.used };
    try {
      writeFileAtomic(this.#file, JSON.stringify(this.#saved), 0o600);
    } catch (e) {
      this.log.warn({ err: (e as Error).message }, 'cannot write how many bytes were used today');
    }
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    this.save();
  }

  #tick(): void {
    this.check();
    this.#cancel = this.clock.after(CHECK_MS, () => this.#tick());
  }

  #today = (): number => Math.floor(this.now() / DAY_MS);

  #total(): number {
    let bytes = this.#done;
    for (const s of this.#live) bytes += s.bytesRead + s.bytesWritten;
    return bytes;
  }
}
