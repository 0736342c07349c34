import type { Change, Driver, Loaded, StoredRecord } from './driver.js';
import { DriverStore, type StoreOptions } from './driver-store.js';

/** Keeps records in a Map; for tests and simulations. Opened again after `close`, it still has them. */
export class MemoryDriver implements Driver {
  readonly #records = new Map<string, StoredRecord>();
  #revision = 0;

  async open(): Promise<Loaded> {
    return { records: [...this.#records.values()], revision: this.#revision };
  }

  async commit(batch: readonly Change[]): Promise<void> {
    for (const c of batch) {
      if (c.type === 'put') this.#records.set(c.key, c);
      else this.#records.delete(c.key);
      this.#revision = c.revision;
    }
  }

  async close(): Promise<void> {}
}

/** A store without a disk. */
export class MemoryStore extends DriverStore {
  constructor(options?: StoreOptions) {
    super(new MemoryDriver(), options);
  }
}
