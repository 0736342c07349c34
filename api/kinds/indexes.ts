/** Sets of whole numbers as Jobs write them: `0-2,5,7`. Ordered, without overlaps. */
export type Indexes = readonly (readonly [first: number, last: number])[];

/** Numbers of `limit` and above are left out; what cannot be read is skipped. */
export function parseIndexes(text: string | undefined, limit: number): Indexes {
  const found: [number, number][] = [];
  for (const part of text ? text.split(',') : []) {
    const [first = Number.NaN, last = first] = part.split('-').map((n) => Number.parseInt(n, 10));
    if (Number.isNaN(first) || Number.isNaN(last) || first >= limit) continue;
    found.push([first, Math.min(last, limit - 1)]);
  }
  return joinIndexes(found);
}

/** The union. */
export function joinIndexes(...sets: Indexes[]): Indexes {
  const all = sets.flat().sort((a, b) => a[0] - b[0]);
  const joined: [number, number][] = [];
  for (const [first, last] of all) {
    const before = joined.at(-1);
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else joined.push([first, last]);
  }
  return joined;
}

export const indexesOf = (numbers: Iterable<number>): Indexes =>
  joinIndexes([...numbers].map((n) => [n, n] as const));

export const countIndexes = (set: Indexes): number =>
  set.reduce((n, [first, last]) => n + last - first + 1, 0);

export const hasIndex = (set: Indexes, n: number): boolean =>
  set.some(([first, last]) => first <= n && n <= last);

/** How many are in both. */
export const commonIndexes = (a: Indexes, b: Indexes): number =>
  a.reduce(
    (n, [f, l]) =>
      n + b.reduce((m, [first, last]) => m + Math.max(0, Math.min(l, last) - Math.max(f, first) + 1), 0),
    0,
  );

/** The first `count` numbers below `limit` that are not in the set. */
export function missingIndexes(set: Indexes, count: number, limit: number): number[] {
  const found: number[] = [];
  let n = 0;
  for (const [first, last] of [...set, [limit, limit] as const]) {
    for (; n < first && n < limit && found.length < count; n++) found.push(n);
    n = Math.max(n, last + 1);
  }
  return found;
}

export const formatIndexes = (set: Indexes): string =>
  set
    .map(([first, last]) =>
      first === last ? `${first}` : `${first}${last === first + 1 ? ',' : '-'}${last}`,
    )
    .join(',');

/** What is wrong with a text of indexes below `limit`, in Kubernetes' words. */
export function indexesProblem(text: string, limit: number): string | undefined {
  let previous = -1;
  for (const part of text ? text.split(',') : []) {
    const bounds = part.split('-');
    if (bounds.length > 2)
      return `the fragment ${JSON.stringify(part)} violates the requirement that an index interval can have at most two parts separated by '-'`;
    for (const b of bounds) {
      if (!/^[+-]?\d+$/.test(b)) return `cannot convert string to integer for index: ${JSON.stringify(b)}`;
      if (Number(b) >= limit) return `too large index: ${JSON.stringify(b)}`;
      if (Number(b) <= previous) return `non-increasing order, previous: ${previous}, current: ${Number(b)}`;
      previous = Number(b);
    }
  }
  return undefined;
}
