/**
 * The last good desired set on disk, encrypted with a key derived from the node's own (Secrets are in it), so that
 * the device comes back after a power cut with no hub. Written after a change only, at once.
 */
import { createCipheriv, createDecipheriv, hkdfSync, type KeyObject, randomBytes } from 'node:crypto';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../api/clock.js';
import { writeFileAtomic } from '../../api/files.js';
import type { Log } from '../../api/log.js';
import type { KubeObject } from '../../api/meta/object.js';
import { packJson, unpackJson } from '../../api/wire/codec.js';
import type { Items } from '../../api/wire/set.js';

/** The format is never changed, so that an older agent can be put back: a newer one is another file beside it. */
const MAGIC = Buffer.from('COXD1');
/** A plug pulled so soon after a change costs that change; a burst of changes costs one write in so long. */
const BETWEEN_MS = 100;
const RETRY_MS = 60_000;

export interface Held {
  generation: number;
  items: Items;
}

export class DesiredFile {
  readonly path: string;
  readonly #key: Buffer;
  #pending: Held | undefined;
  #written = Number.NEGATIVE_INFINITY;
  #cancel: (() => void) | undefined;

  constructor(
    dir: string,
    key: KeyObject,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {
    this.path = join(dir, 'desired.bin');
    const secret = key.export({ type: 'pkcs8', format: 'der' });
    this.#key = Buffer.from(hkdfSync('sha256', secret, '', 'coxswain desired set at rest', 32));
  }

  /**
   * What was held, or undefined when nothing was. A torn or foreign file is moved to `desired.bin.torn`, and `torn`
   * says why: the hub sends all of it again.
   */
  load(): { held?: Held; torn?: string } {
    if (!existsSync(this.path)) return {};
    try {
      const bytes = readFileSync(this.path);
      const at = MAGIC.length;
      if (bytes.length < at + 28 || !bytes.subarray(0, at).equals(MAGIC))
        throw new Error('not a desired set of a format that this agent knows');
      const decipher = createDecipheriv('aes-256-gcm', this.#key, bytes.subarray(at, at + 12));
      decipher.setAuthTag(bytes.subarray(-16));
      const plain = Buffer.concat([decipher.update(bytes.subarray(at + 12, -16)), decipher.final()]);
      const { g, i } = unpackJson(plain) as { g: number; i: [string, string, KubeObject][] };
      return { held: { generation: g, items: new Map(i.map(([k, hash, object]) => [k, { hash, object }])) } };
    } catch (e) {
      const torn = (e as Error).message;
      this.log.error({ file: this.path, err: torn }, 'desired set on disk is torn; set aside');
      try {
        renameSync(this.path, `${this.path}.torn`);
      } catch (e2) {
        this.log.error({ file: this.path, err: (e2 as Error).message }, 'cannot set it aside');
      }
      return { torn };
    }
  }

  /** Will be written: at the next turn, or `BETWEEN_MS` after the last write; of several in a row only the last. */
  save(held: Held): void {
    this.#pending = held;
    const wait = Math.max(0, this.#written + BETWEEN_MS - this.clock.monotonic());
    this.#cancel?.();
    this.#cancel = this.clock.after(wait, () => this.flush());
  }

  /** Nothing more is written; what is there, others remove. */
  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    this.#pending = undefined;
  }

  /** Writes what waits, now. A failure is logged, and tried again after a minute. */
  flush(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    const held = this.#pending;
    if (!held) return;
    const nonce = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce);
    const plain = packJson({
      g: held.generation,
      i: [...held.items].map(([k, { hash, object }]) => [k, hash, object]),
    });
    const bytes = Buffer.concat([MAGIC, nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    try {
      writeFileAtomic(this.path, bytes, 0o600);
      this.#pending = undefined;
      this.#written = this.clock.monotonic();
    } catch (e) {
      this.log.error(
        { file: this.path, err: (e as Error).message },
        'desired set cannot be written; after a power cut this device starts from an older one',
      );
      this.#cancel = this.clock.after(RETRY_MS, () => this.flush());
    }
  }
}
