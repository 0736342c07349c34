import type { ResourceQuota } from 'kubernetes-types/core/v1.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import { formatQuantity, parseQuantity, type Quantity } from '../../../../api/meta/quantity.js';
import type { Frozen } from '../../../client.js';
import { type Evaluator, evaluatorOf, scopesOf, type Usage } from './usage.js';

type Stored = Frozen<AnyObject>;

/** What one object takes of each quota of its namespace, by the quotas' order; undefined where it is not counted. */
export type Charges = readonly (Usage | undefined)[];

interface Account {
  readonly name: string;
  readonly hard: Usage;
  readonly scopes: ReturnType<typeof scopesOf>;
  readonly used: Record<string, Quantity>;
}

const plus = (a: Quantity | undefined, b: Quantity, sign: 1n | -1n): Quantity => ({
  nanos: (a?.nanos ?? 0n) + sign * b.nanos,
  format: a && a.nanos !== 0n ? a.format : b.format,
});

/** The quotas of one namespace and what is charged to them: always the sum of what its objects take, each once. */
export class Ledger {
  readonly accounts: readonly Account[];
  readonly #charges = new Map<string, Charges>();
  /** Soonest time at which something stops being charged by itself. */
  expires = Number.POSITIVE_INFINITY;

  constructor(quotas: readonly Frozen<ResourceQuota>[]) {
    this.accounts = quotas.map((q) => ({
      name: q.metadata!.name!,
      hard: Object.fromEntries(
        Object.entries(q.spec?.hard ?? {}).map(([n, text]) => [n, parseQuantity(text)]),
      ),
      scopes: scopesOf(q),
      used: {},
    }));
  }

  /** Whether any quota is about objects of the kind. */
  concerns(kind: Kind): boolean {
    const e = evaluatorOf(kind);
    return !!e && this.accounts.some((a) => Object.keys(a.hard).some((n) => e.tracks(n)));
  }

  /** What an object takes; undefined when no quota is about it. */
  chargesOf(kind: Kind, o: Stored, now: number): Charges | undefined {
    const e = evaluatorOf(kind);
    if (!e) return undefined;
    const expires = e.expires?.(o);
    if (expires !== undefined && expires >= now) this.expires = Math.min(this.expires, expires);
    let usage: Usage | undefined;
    let any = false;
    const charges = this.accounts.map((account) => {
      const tracked = trackedBy(account, e);
      if (tracked.length === 0 || !account.scopes.every((s) => e.inScope?.(o, s))) return undefined;
      usage ??= e.usage(o, now);
      any = true;
      return Object.fromEntries(tracked.flatMap((n) => (usage![n] ? [[n, usage![n]]] : [])));
    });
    return any ? charges : undefined;
  }

  /** Resources of a quota that are about objects of the kind. */
  tracked(index: number, kind: Kind): string[] {
    const e = evaluatorOf(kind);
    return e ? trackedBy(this.accounts[index]!, e) : [];
  }

  of(uid: string): Charges | undefined {
    return this.#charges.get(uid);
  }

  /** Charges an object this, and nothing else any more. Whether that changes anything. */
  set(uid: string, charges: Charges | undefined): boolean {
    const before = this.#charges.get(uid);
    if (!before && !charges) return false;
    let changed = false;
    for (const [i, { used }] of this.accounts.entries()) {
      const names = new Set([...Object.keys(before?.[i] ?? {}), ...Object.keys(charges?.[i] ?? {})]);
      for (const n of names) {
        const old = before?.[i]?.[n];
        const next = charges?.[i]?.[n];
        if (old?.nanos === next?.nanos) continue;
        changed = true;
        if (next) used[n] = plus(used[n], next, 1n);
        if (old) used[n] = plus(used[n], old, -1n);
      }
    }
    if (charges) this.#charges.set(uid, charges);
    else this.#charges.delete(uid);
    return changed;
  }

  /** What would be taken in addition, by quota; only what is more than nothing. */
  more(uid: string, charges: Charges): Usage[] {
    const before = this.#charges.get(uid);
    return this.accounts.map((_, i) =>
      Object.fromEntries(
        Object.entries(charges[i] ?? {}).flatMap(([n, q]) => {
          const nanos = q.nanos - (before?.[i]?.[n]?.nanos ?? 0n);
          return nanos > 0n ? [[n, { nanos, format: q.format }]] : [];
        }),
      ),
    );
  }

  /** The larger of what an object takes and what it is to take: while a change of it is on its way. */
  larger(uid: string, charges: Charges): Charges {
    const before = this.#charges.get(uid);
    return charges.map((usage, i) => {
      const old = before?.[i];
      if (!old || !usage) return usage ?? old;
      const out: Record<string, Quantity> = { ...old, ...usage };
      for (const n in old) if (usage[n] && old[n]!.nanos > usage[n].nanos) out[n] = old[n]!;
      return out;
    });
  }

  /** `status` of each quota, by name. */
  status(): Map<string, { hard: Record<string, string>; used: Record<string, string> }> {
    const texts = (usage: Usage, names: string[]) =>
      Object.fromEntries(names.map((n) => [n, usage[n] ? formatQuantity(usage[n]) : '0']));
    return new Map(
      this.accounts.map(({ name, hard, used }) => {
        const names = Object.keys(hard);
        return [name, { hard: texts(hard, names), used: texts(used, names) }];
      }),
    );
  }
}

const trackedBy = (account: Account, e: Evaluator): string[] =>
  Object.keys(account.hard).filter((n) => e.tracks(n));
