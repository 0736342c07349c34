/** Work of one key, one after the other. */
export class InOrder {
  readonly #tails = new Map<string, Promise<void>>();

  /** Settles as `work` does, which runs after whatever the key had before, failed or not. */
  run(key: string, work: () => Promise<void>): Promise<void> {
    const next = (this.#tails.get(key) ?? Promise.resolve()).then(work, work);
    this.#tails.set(key, next);
    const clean = () => {
      if (this.#tails.get(key) === next) this.#tails.delete(key);
    };
    next.then(clean, clean);
    return next;
  }
}
