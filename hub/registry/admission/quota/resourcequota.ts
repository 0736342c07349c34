import type { ResourceQuota } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../../../api/clock.js';
import { pods, resourceQuotas } from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { deepEqual } from '../../../../api/meta/json.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Frozen, QuotaUsage } from '../../../client.js';
import { forbidden, type Plugin, type Request, same, type Target, type World } from '../plugin.js';
import { Ledger } from './ledger.js';
import { evaluatorOf, usageText } from './usage.js';

const KIND = resourceQuotas as unknown as Kind;

/**
 * Refuses what a quota has no room for. What is used is kept in memory, exactly: each object is charged before it is
 * stored, at once and in one step with the check, so that two creates never share the last unit; a write that fails is
 * taken back, and every write that comes through sets the object's charge anew.
 */
export class ResourceQuotas implements Plugin, QuotaUsage {
  readonly name = 'ResourceQuota';
  /** Of namespaces with quotas; made when first needed. */
  readonly #ledgers = new Map<string, Ledger>();
  /** Charged, but not known to be stored yet. */
  readonly #underWay = new Map<string, { kind: Kind; object: AnyObject }>();
  readonly #listeners: ((namespace: string, quotas: readonly string[]) => void)[] = [];

  constructor(
    private readonly world: World,
    private readonly clock: Clock,
  ) {}

  handles({ kind, operation, subresource }: Target): boolean {
    const e = evaluatorOf(kind);
    if (!e) return false;
    if (subresource) return same(kind, pods) && subresource === 'resize' && operation === 'UPDATE';
    return operation === 'CREATE' || (operation === 'UPDATE' && e.changes);
  }

  validate(request: Request): void {
    const { kind, namespace = '', object } = request;
    if (!namespace || this.world.list(KIND, namespace).length === 0) return;
    const ledger = this.#ledger(namespace);
    const uid = object!.metadata?.uid ?? '';
    const charges = ledger.chargesOf(kind, object!, this.clock.now());
    if (!charges) return;
    if (request.operation === 'CREATE' || request.subresource) this.#checkSaid(request, ledger, charges);
    const more = ledger.more(uid, charges);
    for (const [i, account] of ledger.accounts.entries()) {
      const exceeded = Object.keys(more[i]!).filter(
        (n) => (account.used[n]?.nanos ?? 0n) + more[i]![n]!.nanos > account.hard[n]!.nanos,
      );
      if (exceeded.length)
        throw forbidden(
          request,
          `exceeded quota: ${account.name}, requested: ${usageText(more[i]!, exceeded)}, used: ${usageText(account.used, exceeded)}, limited: ${usageText(account.hard, exceeded)}`,
        );
    }
    if (request.dryRun) return;
    this.#underWay.set(uid, { kind, object: object! });
    if (ledger.set(uid, ledger.larger(uid, charges))) this.#tell(namespace, ledger);
    request.onFailure(() => this.#settle(kind, request, uid));
  }

  /** Who limits a sum wants to know every part of it. */
  #checkSaid(request: Request, ledger: Ledger, charges: readonly unknown[]): void {
    const { missing } = evaluatorOf(request.kind)!;
    if (!missing) return;
    for (const [i, { name }] of ledger.accounts.entries()) {
      const why = charges[i] && missing(request.object!, ledger.tracked(i, request.kind));
      if (why) throw forbidden(request, `failed quota: ${name}: ${why}`);
    }
  }

  /** A write did not happen: what is stored is what counts. */
  #settle(kind: Kind, { namespace = '', object }: Request, uid: string): void {
    this.#underWay.delete(uid);
    const ledger = this.#ledgers.get(namespace);
    if (!ledger) return;
    const { name = '' } = object?.metadata ?? {};
    const there = name ? this.world.get(kind, { namespace, name }) : undefined;
    const charges =
      there?.metadata?.uid === uid ? ledger.chargesOf(kind, there!, this.clock.now()) : undefined;
    if (ledger.set(uid, charges)) this.#tell(namespace, ledger);
  }

  committed(kind: Kind, now: Frozen<AnyObject> | undefined, before: Frozen<AnyObject> | undefined): void {
    const { namespace, uid = '' } = (now ?? before)?.metadata ?? {};
    if (!namespace) return;
    if (same(kind, resourceQuotas) && !deepEqual(now?.['spec'] ?? null, before?.['spec'] ?? null)) {
      this.#ledgers.delete(namespace);
      this.#underWay.delete(uid);
      // Watchers may have heard of the quota before this did.
      const names = (this.world.list(KIND, namespace) as readonly Frozen<ResourceQuota>[]).map(
        (q) => q.metadata!.name!,
      );
      for (const listener of this.#listeners) listener(namespace, names);
      return;
    }
    this.#underWay.delete(uid);
    const ledger = this.#ledgers.get(namespace);
    if (!ledger) return;
    if (ledger.set(uid, now && ledger.chargesOf(kind, now, this.clock.now()))) this.#tell(namespace, ledger);
  }

  #ledger(namespace: string): Ledger {
    const now = this.clock.now();
    const known = this.#ledgers.get(namespace);
    if (known && known.expires >= now) return known;
    const made = new Ledger(this.world.list(KIND, namespace) as readonly Frozen<ResourceQuota>[]);
    if (made.accounts.length === 0) {
      this.#ledgers.delete(namespace);
      return made;
    }
    const seen = new Set<string>();
    for (const kind of this.world.kinds()) {
      // Versions of a kind show the same objects.
      const name = `${kind.group}/${kind.plural}`;
      if (seen.has(name) || !made.concerns(kind)) continue;
      seen.add(name);
      for (const o of this.world.scan(kind, namespace))
        made.set(o.metadata!.uid!, made.chargesOf(kind, o, now));
    }
    for (const [uid, { kind, object }] of this.#underWay) {
      if (object.metadata?.namespace !== namespace) continue;
      const charges = made.chargesOf(kind, object, now);
      if (charges) made.set(uid, made.larger(uid, charges));
    }
    this.#ledgers.set(namespace, made);
    return made;
  }

  statusOf(namespace: string): ReturnType<QuotaUsage['statusOf']> {
    return this.#ledger(namespace).status();
  }

  changesIn(namespace: string): number | undefined {
    const { expires } = this.#ledger(namespace);
    // One more, since a time that is just now is not past yet.
    return Number.isFinite(expires) ? Math.max(0, expires - this.clock.now()) + 1 : undefined;
  }

  onUsage(listener: (namespace: string, quotas: readonly string[]) => void): void {
    this.#listeners.push(listener);
  }

  #tell(namespace: string, ledger: Ledger): void {
    for (const listener of this.#listeners)
      listener(
        namespace,
        ledger.accounts.map((a) => a.name),
      );
  }
}
