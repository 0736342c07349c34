import { type Clock, rfc3339 } from '../../../api/clock.js';
import { loadCel, rulesOf } from '../../../api/custom/rules.js';
import type { JsonSchema } from '../../../api/custom/schema.js';
import { CRD_CLEANUP, type CustomResourceDefinition, crdCondition } from '../../../api/kinds/crd.js';
import { allKinds, customResourceDefinitions } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import type { Log } from '../../../api/log.js';
import { isApiError } from '../../../api/meta/errors.js';
import { deepEqual } from '../../../api/meta/json.js';
import type { AnyObject } from '../../../api/meta/object.js';
import type { Client, Frozen } from '../../client.js';
import { Informer } from '../../informer.js';
import type { Directory } from '../../outbound/service.js';
import { type Again, WorkQueue } from '../../queue.js';
import { WebhookConverter } from './conversion.js';
import { CustomKind, type Family, StoredKind, schemaOfVersion } from './kind.js';

type Definition = Frozen<CustomResourceDefinition>;
type Names = Definition['spec']['names'];
type Condition = NonNullable<NonNullable<CustomResourceDefinition['status']>['conditions']>[number];

/** How soon a definition looks again for objects that have finalizers of their own. */
const LOOK_AGAIN_MS = 1000;

/** What was made of a definition. */
interface Known {
  readonly uid: string | undefined;
  readonly spec: Definition['spec'];
  readonly family: Family;
  readonly versions: ReadonlyMap<string, CustomKind>;
}

export interface CustomDefinitionsOptions {
  client: Client;
  /** Where the kinds go that definitions make, and how Services are found that convert them. */
  table: { setCustomKinds(kinds: readonly Kind[]): void; readonly directory: Directory };
  clock: Clock;
  log: Log;
}

/**
 * Makes kinds of CustomResourceDefinitions: accepts their names, serves their versions, keeps their status, and takes
 * their objects away before they go.
 */
export class CustomDefinitions {
  readonly #all: Informer<CustomResourceDefinition>;
  readonly #queue: WorkQueue;
  /** By definition, then version: every version, served or not. */
  readonly #kinds = new Map<string, Known>();
  #started = false;

  constructor(private readonly o: CustomDefinitionsOptions) {
    const { client, clock, log } = o;
    this.#all = new Informer(client, customResourceDefinitions, clock, log);
    this.#queue = new WorkQueue('customresourcedefinition', (name) => this.#reconcile(name), clock, log);
    this.#all.onChange((name, _now, before) => {
      this.#take(name);
      if (this.#started) this.#serve();
      this.#queue.add(name);
      // Names that somebody waits for may be free now.
      for (const [other, crd] of this.#entries())
        if (other !== name && crd.spec.group === (this.#all.get(name) ?? before)?.spec.group)
          if (!crdCondition(crd, 'NamesAccepted')) this.#queue.add(other);
    });
  }

  /** Resolves when every kind that was there before is served. */
  async start(): Promise<void> {
    // A definition that is written later loads this itself.
    if (await this.#hasRules()) await loadCel();
    await this.#all.start();
    this.#started = true;
    this.#serve();
    this.#queue.start();
  }

  async #hasRules(): Promise<boolean> {
    const { items } = await this.o.client.list(customResourceDefinitions);
    return items.some((d) =>
      d.spec.versions.some((v) => {
        const schema = v.schema?.openAPIV3Schema as JsonSchema | undefined;
        return schema !== undefined && !rulesOf(schema).next().done;
      }),
    );
  }

  async stop(): Promise<void> {
    await this.#queue.stop();
    await this.#all.stop();
  }

  *#entries(): Generator<[string, Definition]> {
    for (const name of this.#all.keys()) yield [name, this.#all.get(name)!];
  }

  /** Makes or renews the kinds of one definition. */
  #take(name: string): void {
    const crd = this.#all.get(name);
    if (!crd) {
      this.#kinds.delete(name);
      return;
    }
    let known = this.#kinds.get(name);
    if (known?.uid !== crd.metadata?.uid) known = undefined;
    const family = this.#family(crd, known);
    const versions = new Map<string, CustomKind>();
    for (const v of crd.spec.versions) {
      const kind = known?.versions.get(v.name);
      if (kind) kind.update(crd, v, family);
      versions.set(v.name, kind ?? new CustomKind(crd, v, family));
    }
    this.#kinds.set(name, { uid: crd.metadata?.uid, spec: crd.spec, family, versions });
  }

  /** The same one as before while nothing in it is different. */
  #family({ metadata, spec, status }: Definition, known: Known | undefined): Family {
    const { versions, conversion } = spec;
    if (known && deepEqual(known.spec.versions, versions) && deepEqual(known.spec.conversion, conversion))
      return known.family;
    const apiVersion = (v: { name: string }) => `${spec.group}/${v.name}`;
    const stored = versions.find((v) => v.storage) ?? versions[0]!;
    const storage = apiVersion(stored);
    const family: Family = {
      schemas: new Map(versions.map((v) => [apiVersion(v), schemaOfVersion(v)])),
      storage,
    };
    if (conversion?.strategy !== 'Webhook' || !conversion.webhook) return family;
    const { clock, table } = this.o;
    const before = known?.family;
    return {
      ...family,
      converter: new WebhookConverter(conversion, { directory: table.directory, clock }),
      asStored:
        before?.storage === storage && before.asStored
          ? before.asStored
          : new StoredKind({ metadata, spec, status } as Definition, stored),
    };
  }

  #serve(): void {
    const served: Kind[] = [];
    for (const [name, crd] of this.#entries()) {
      if (!crdCondition(crd, 'Established')) continue;
      const { versions } = this.#kinds.get(name)!;
      for (const v of crd.spec.versions) if (v.served) served.push(versions.get(v.name)!);
    }
    served.sort(
      (a, b) =>
        compare(a.group, b.group) || compareVersions(a.version, b.version) || compare(a.plural, b.plural),
    );
    this.o.table.setCustomKinds(served);
  }

  async #reconcile(name: string): Promise<Again> {
    const crd = this.#all.get(name);
    if (!crd) return undefined;
    if (crd.metadata?.deletionTimestamp) return this.#finalize(name, crd);
    const { acceptedNames, conditions } = this.#accept(name, crd);
    await this.#writeStatus(crd, conditions, acceptedNames);
    return undefined;
  }

  async #writeStatus(crd: Definition, conditions: Condition[], acceptedNames?: object): Promise<void> {
    const status = { ...(acceptedNames ? { acceptedNames } : {}), conditions };
    const { status: now } = crd;
    if (deepEqual({ ...now, ...status }, now)) return;
    const { name, resourceVersion } = crd.metadata!;
    await this.#ifCurrent(
      this.o.client.patch(
        customResourceDefinitions,
        { name: name! },
        { metadata: { resourceVersion }, status },
        'status',
      ),
    );
  }

  /** Someone else was quicker, or it is gone: the event of that brings us back. */
  async #ifCurrent(work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (e) {
      if (!isApiError(e, 'Conflict') && !isApiError(e, 'NotFound')) throw e;
    }
  }

  /** Which of its names a definition may have, and the conditions that say so. */
  #accept(name: string, crd: Definition): { acceptedNames: Names; conditions: Condition[] } {
    const resources = new Set<string>();
    const kinds = new Set<string>();
    const take = (n: Partial<Names>) => {
      for (const r of [n.plural, n.singular, ...(n.shortNames ?? [])]) if (r) resources.add(r);
      for (const k of [n.kind, n.listKind]) if (k) kinds.add(k);
    };
    for (const k of allKinds)
      if (k.group === crd.spec.group) take({ ...k, listKind: `${k.kind}List` } as Partial<Names>);
    for (const [other, d] of this.#entries())
      if (other !== name && d.spec.group === crd.spec.group) take(d.status?.acceptedNames ?? {});

    const wanted = crd.spec.names;
    const accepted = { ...crd.status?.acceptedNames } as { -readonly [K in keyof Names]: Names[K] };
    let conflict: { reason: string; message: string } | undefined;
    const settle = (key: 'plural' | 'singular' | 'kind' | 'listKind', taken: Set<string>, reason: string) => {
      const text = wanted[key];
      if (text && taken.has(text))
        conflict = { reason, message: `${JSON.stringify(text)} is already in use` };
      else if (text !== undefined) accepted[key] = text;
    };
    settle('plural', resources, 'PluralConflict');
    settle('singular', resources, 'SingularConflict');
    const short = wanted.shortNames?.find((s) => resources.has(s));
    if (short)
      conflict = { reason: 'ShortNamesConflict', message: `${JSON.stringify(short)} is already in use` };
    else if (wanted.shortNames) accepted.shortNames = wanted.shortNames;
    else delete accepted.shortNames;
    settle('kind', kinds, 'KindConflict');
    settle('listKind', kinds, 'ListKindConflict');
    if (wanted.categories) accepted.categories = wanted.categories;
    else delete accepted.categories;

    const established = crdCondition(crd, 'Established') || !conflict;
    return {
      acceptedNames: accepted as Names,
      conditions: this.#conditions(
        crd,
        conflict
          ? { type: 'NamesAccepted', status: 'False', ...conflict }
          : { type: 'NamesAccepted', status: 'True', reason: 'NoConflicts', message: 'no conflicts found' },
        established
          ? {
              type: 'Established',
              status: 'True',
              reason: 'InitialNamesAccepted',
              message: 'the initial names have been accepted',
            }
          : {
              type: 'Established',
              status: 'False',
              reason: 'NotAccepted',
              message: 'not all names are accepted',
            },
      ),
    };
  }

  /** The conditions that are there with these in their places; a transition keeps its time while the status stays. */
  #conditions(crd: Definition, ...changes: Condition[]): Condition[] {
    const out = [...((crd.status?.conditions ?? []) as Condition[])];
    for (const c of changes) {
      const i = out.findIndex((x) => x.type === c.type);
      const before = out[i];
      const lastTransitionTime =
        before?.status === c.status ? before.lastTransitionTime : rfc3339(this.o.clock.now());
      const next = { lastTransitionTime, ...c } as Condition;
      if (i < 0) out.push(next);
      else out[i] = next;
    }
    return out;
  }

  /** Deletes the objects of a definition that is being deleted, then lets it go. */
  async #finalize(name: string, crd: Definition): Promise<Again> {
    if (!crd.metadata?.finalizers?.includes(CRD_CLEANUP)) return undefined;
    await this.#writeStatus(
      crd,
      this.#conditions(crd, {
        type: 'Terminating',
        status: 'True',
        reason: 'InstanceDeletionInProgress',
        message: 'CustomResource deletion is in progress',
      }),
    );
    const { client } = this.o;
    const known = this.#kinds.get(name);
    const kind: Kind | undefined = known?.family.asStored ?? known?.versions.values().next().value;
    // A name that was never accepted belongs to others, and so do the objects.
    if (kind && crdCondition(crd, 'Established')) {
      const { items } = await client.list<AnyObject>(kind);
      for (const o of items) {
        const { namespace, name: object, deletionTimestamp } = o.metadata!;
        if (deletionTimestamp) continue;
        const key = { ...(namespace ? { namespace } : {}), name: object! };
        await this.#ifCurrent(client.delete(kind, key, { propagationPolicy: 'Background' }));
      }
      const left = await client.list(kind);
      if (left.items.length) return LOOK_AGAIN_MS;
    }
    const finalizers = crd.metadata.finalizers.filter((f) => f !== CRD_CLEANUP);
    await this.#ifCurrent(
      client.patch(customResourceDefinitions, { name }, { metadata: { uid: crd.metadata.uid, finalizers } }),
    );
    return undefined;
  }
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

const VERSION = /^v([1-9]\d{0,8})(?:(alpha|beta)([1-9]\d{0,8}))?$/;
const STABILITY: Readonly<Record<string, number>> = { alpha: 0, beta: 1, '': 2 };

/** Kubernetes' priority of versions: v2, v1, v1beta1, v1alpha1, then others by name (apimachinery version/helpers.go). */
export function compareVersions(a: string, b: string): number {
  const x = VERSION.exec(a);
  const y = VERSION.exec(b);
  if (!x || !y) return x ? -1 : y ? 1 : compare(a, b);
  return (
    STABILITY[y[2] ?? '']! - STABILITY[x[2] ?? '']! ||
    Number(y[1]) - Number(x[1]) ||
    Number(y[3] ?? 0) - Number(x[3] ?? 0)
  );
}
