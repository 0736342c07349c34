/** Stands between registry and store and keeps account of what was acknowledged, across crashes. */
import type { Entry, Store, StoreWatch } from '../../../hub/store/store.js';

interface Known {
  revision: number;
  /** Undefined: deleted. */
  value: unknown;
}

export interface Write {
  key: string;
  /** Undefined: a delete. */
  value: object | undefined;
  before: unknown;
}

/** What the store has promised. Outlives the hub's processes. */
export class Ledger {
  readonly known = new Map<string, Known>();
  /** Under way when the hub died, perhaps: they may have come to be or not. */
  readonly pending = new Map<string, Set<Write>>();
  revision = 0;
  writes = 0;

  constructor(
    private readonly problem: (what: string) => void,
    /** Before it is tried, and once it is acknowledged. */
    private readonly told: (w: Write, acknowledged: boolean) => void,
  ) {}

  begin(w: Write): void {
    const set = this.pending.get(w.key) ?? new Set();
    this.pending.set(w.key, set.add(w));
    this.told(w, false);
  }

  end(w: Write): void {
    const set = this.pending.get(w.key);
    set?.delete(w);
    if (set?.size === 0) this.pending.delete(w.key);
  }

  done(w: Write, revision: number): void {
    this.end(w);
    this.writes++;
    const old = this.known.get(w.key);
    if (old && old.revision >= revision)
      this.problem(`revision of ${w.key} went from ${old.revision} to ${revision}`);
    this.known.set(w.key, { revision, value: w.value });
    this.revision = Math.max(this.revision, revision);
    this.told(w, true);
  }

  /** The store was opened anew: everything acknowledged must be there. */
  audit(store: Store): void {
    if (store.revision < this.revision)
      this.problem(`the store came back at revision ${store.revision}, acknowledged was ${this.revision}`);
    const { entries } = store.list('/');
    const there = new Map(entries.map((e) => [e.key, e]));
    for (const [key, k] of this.known) {
      const e = there.get(key);
      const open = this.pending.has(key);
      if (k.value === undefined) {
        if (e && !open) this.problem(`${key} was deleted, acknowledged at ${k.revision}, and is back`);
      } else if (!e) {
        if (!open) this.problem(`${key} at ${k.revision} was acknowledged and is lost`);
      } else if (e.revision < k.revision || (e.revision > k.revision && !open))
        this.problem(`${key} was acknowledged at ${k.revision} and came back at ${e.revision}`);
      else if (e.revision === k.revision && JSON.stringify(e.value) !== JSON.stringify(k.value))
        this.problem(`${key} at ${k.revision} came back with other content`);
    }
    for (const e of entries)
      if (!this.known.has(e.key) && !this.pending.has(e.key))
        this.problem(`${e.key} is there and nobody wrote it`);
    this.known.clear();
    this.pending.clear();
    for (const e of entries) this.known.set(e.key, { revision: e.revision, value: e.value });
    this.revision = store.revision;
  }
}

export class LedgerStore implements Store {
  constructor(
    private readonly inner: Store,
    private readonly ledger: Ledger,
  ) {}

  async open(): Promise<void> {
    await this.inner.open();
    this.ledger.audit(this.inner);
  }

  close = () => this.inner.close();
  get revision(): number {
    return this.inner.revision;
  }
  get = (key: string) => this.inner.get(key);
  list = (prefix: string) => this.inner.list(prefix);
  listAt = (prefix: string, revision: number) => this.inner.listAt(prefix, revision);
  watch = (prefix: string, from: number): StoreWatch => this.inner.watch(prefix, from);

  create = (key: string, value: object) => this.#write(key, value, () => this.inner.create(key, value));
  update = (key: string, value: object, expected: number) =>
    this.#write(key, value, () => this.inner.update(key, value, expected));
  delete = (key: string, expected: number) =>
    this.#write(key, undefined, () => this.inner.delete(key, expected));

  async #write(key: string, value: object | undefined, work: () => Promise<Entry>): Promise<Entry> {
    const w: Write = { key, value, before: this.inner.get(key)?.value };
    this.ledger.begin(w);
    try {
      const e = await work();
      // A delete answers with what it deleted; its own revision is somewhere after that.
      this.ledger.done(w, value ? e.revision : e.revision + 0.5);
      return e;
    } catch (e) {
      this.ledger.end(w);
      throw e;
    }
  }
}
