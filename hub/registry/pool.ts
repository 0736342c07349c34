/**
 * Numbers `0 … size-1`, each for one taker. Whoever does not care gets a random one of the upper part, so that those who
 * ask for a certain number hardly ever meet them in the lower part (Kubernetes' static and dynamic bands).
 */
export class Pool {
  readonly #taken = new Set<number>();

  /** `reserved` numbers at the lower end are handed out last; `random` gives 0 <= x < 1. */
  constructor(
    readonly size: number,
    private readonly reserved: number,
    private readonly random: () => number,
  ) {}

  get taken(): number {
    return this.#taken.size;
  }

  has(n: number): boolean {
    return this.#taken.has(n);
  }

  /** False when somebody has it. */
  take(n: number): boolean {
    if (this.#taken.has(n)) return false;
    this.#taken.add(n);
    return true;
  }

  /** Takes any; undefined when all are taken. */
  takeAny(): number | undefined {
    return this.#scan(this.reserved, this.size) ?? this.#scan(0, this.reserved);
  }

  free(n: number): void {
    this.#taken.delete(n);
  }

  #scan(from: number, to: number): number | undefined {
    const count = to - from;
    const start = Math.floor(this.random() * count);
    for (let i = 0; i < count; i++) {
      const n = from + ((start + i) % count);
      if (this.take(n)) return n;
    }
    return undefined;
  }
}

/** How much of a range of `size` is kept for those who ask for a certain number. */
export const reservedOf = (size: number, share: number, most: number): number =>
  size <= 16 ? 0 : Math.min(Math.max(16, Math.floor(size / share)), most);
