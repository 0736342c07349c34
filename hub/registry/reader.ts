/** Reads of what is stored: objects, lists at a revision or in pages, watches, and what admission looks up. */
import type { Clock } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ApiError, badRequest, notFound } from '../../api/meta/errors.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import {
  type FieldTerm,
  matchesAll,
  parseFieldSelector,
  parseSelector,
  type Selector,
} from '../../api/meta/selector.js';
import type { Frozen, Watcher } from '../client.js';
import { Compacted, type Entry, type Store } from '../store/store.js';
import type { World } from './admission/plugin.js';
import type { ListQuery, ListResult, WatchQuery } from './api.js';
import { Continuations, type Page } from './continue.js';
import { parseRevision } from './meta.js';
import { Unconverted } from './unconverted.js';
import { shown, storedKind } from './views.js';
import { KindWatcher } from './watch.js';

/** So many objects are converted at once; the webhook is asked for fewer when they are large. */
const CONVERTED_AT_ONCE = 5000;

/** What a selector text says, parsed. */
interface Filter {
  labels: Selector;
  fields: FieldTerm[];
}

export interface ReaderOptions {
  store: Store;
  clock: Clock;
  /** All kinds that are served now. */
  kinds(): readonly Kind[];
}

/** Gives out what is stored as its kinds show it, frozen and shared. */
export class Reader {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #kinds: () => readonly Kind[];
  /** Copies with a resourceVersion for values of a store that does not stamp. */
  readonly #stamped = new WeakMap<object, AnyObject>();
  readonly #continuations: Continuations;
  /** Watches of kinds that may go. */
  readonly #customWatchers = new Map<KindWatcher, Kind>();
  /** What plugins listed, until one of the kind changes. */
  readonly #lists = new Map<Kind, Map<string, readonly AnyObject[]>>();
  /** What admission reads. Of a kind whose versions a webhook converts: what is stored, as it is. */
  readonly world: World = {
    get: (kind, key) => {
      const entry = this.find(kind, key);
      return entry && this.give(entry, asStored(kind));
    },
    list: (kind, namespace = ''): readonly AnyObject[] => {
      let lists = this.#lists.get(kind);
      if (!lists) {
        lists = new Map();
        this.#lists.set(kind, lists);
      }
      let list = lists.get(namespace);
      if (!list) {
        list = this.world.scan(kind, namespace) as readonly AnyObject[];
        lists.set(namespace, list);
      }
      return list;
    },
    scan: (kind, namespace) =>
      this.#store.list(this.prefix(kind, namespace)).entries.map((e) => this.give(e, asStored(kind))),
    kinds: () => this.#kinds(),
  };

  constructor({ store, clock, kinds }: ReaderOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#kinds = kinds;
    this.#continuations = new Continuations(clock, store);
  }

  /** Throws Timeout when the store has not come to `revision` yet. */
  notFromTheFuture(revision: number): void {
    const now = this.#store.revision;
    if (revision > now)
      throw new ApiError('Timeout', `Timeout: Too large resource version: ${revision}, current: ${now}`, {
        causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
        retryAfterSeconds: 1,
      });
  }

  list(kind: Kind, query: ListQuery): ListResult {
    const filter = this.filter(kind, query);
    const prefix = this.prefix(kind, query.namespace);
    const page = this.#page(prefix, query);
    const { entries, revision, start } = page;
    const limit = positive(query.limit, 'limit');
    const all = filter.labels.length === 0 && filter.fields.length === 0;
    const items: AnyObject[] = [];
    let i = start;
    for (; i < entries.length && (limit === 0 || items.length < limit); i++) {
      const o = this.#giveNth(entries, i, kind, limit);
      if (all || this.#matches(kind, filter, o)) items.push(o);
    }
    const resourceVersion = String(revision);
    if (i >= entries.length) return { items, resourceVersion };
    return {
      items,
      resourceVersion,
      continue: this.#continuations.token(prefix, page, i),
      // Unknown with a selector, as in Kubernetes.
      ...(all ? { remainingItemCount: entries.length - i } : {}),
    };
  }

  /** What a list is made from, at the revision that it asks for. */
  #page(prefix: string, query: ListQuery): Page {
    const { resourceVersion: rv, resourceVersionMatch: match } = query;
    if (query.continue) {
      if (rv && rv !== '0')
        throw badRequest('specifying resource version is not allowed when using continue');
      return this.#continuations.resume(query.continue, prefix);
    }
    if (match && !rv)
      throw badRequest('resourceVersionMatch is forbidden unless resourceVersion is provided');
    if (match && match !== 'Exact' && match !== 'NotOlderThan')
      throw badRequest(`unknown ResourceVersionMatch value: ${match}`);
    const revision = rv ? parseRevision(rv) : 0;
    this.notFromTheFuture(revision);
    // A page of a list at a revision means that one, for clients older than resourceVersionMatch.
    const exact = match === 'Exact' || (!match && query.limit && revision > 0);
    const first = { start: 0, at: this.#clock.now() };
    if (!exact || revision === this.#store.revision) return { ...this.#store.list(prefix), ...first };
    try {
      return { entries: this.#store.listAt(prefix, revision), revision, ...first };
    } catch (e) {
      if (!(e instanceof Compacted)) throw e;
      throw new ApiError('Expired', 'The resourceVersion for the provided list is too old.');
    }
  }

  watch(kind: Kind, query: WatchQuery): Watcher<Frozen<AnyObject>> {
    const filter = this.filter(kind, query);
    const prefix = this.prefix(kind, query.namespace) + this.#onlyName(kind, query.namespace, filter);
    const { resourceVersion: rv } = query;
    const fromNow = query.sendInitialEvents ?? (rv === undefined || rv === '' || rv === '0');
    let initial: (() => AnyObject[]) | undefined;
    let from: number;
    if (rv) this.notFromTheFuture(parseRevision(rv));
    if (fromNow) {
      const { entries, revision } = this.#store.list(prefix);
      const give = () => {
        const out: AnyObject[] = [];
        for (let i = 0; i < entries.length; i++) {
          const o = this.#giveNth(entries, i, kind, 0);
          if (this.#matches(kind, filter, o)) out.push(o);
        }
        return out;
      };
      // What is at hand is shared; what must be waited for is made when it is asked for.
      const now = kind.custom?.conversion ? undefined : give();
      initial = now ? () => now : give;
      from = revision;
    } else from = rv ? parseRevision(rv) : this.#store.revision;
    const watcher = new KindWatcher({
      source: this.#store.watch(prefix, from),
      initial,
      initialRevision: from,
      // The end is told by a bookmark, so only to those who want bookmarks.
      endOfInitial: query.sendInitialEvents === true && query.allowWatchBookmarks === true,
      bookmarks: query.allowWatchBookmarks === true,
      endsIn: query.endsIn,
      kind,
      clock: this.#clock,
      matches: (o) => this.#matches(kind, filter, o),
      give: (e) => this.give(e, kind),
      ended: () => this.#customWatchers.delete(watcher),
    });
    if (kind.custom) this.#customWatchers.set(watcher, kind);
    return watcher;
  }

  /** A watch of one object looks at what begins with its key alone. */
  #onlyName(kind: Kind, namespace: string | undefined, { fields }: Filter): string {
    if (kind.namespaced && !namespace) return '';
    return fields.find((t) => t.field === 'metadata.name' && t.equal)?.value ?? '';
  }

  /** Ends the watches of kinds that are served no more. */
  endWatchesBut(served: ReadonlySet<Kind>): void {
    const known = new Set([...served].flatMap((k) => [k, asStored(k)]));
    for (const [watcher, kind] of this.#customWatchers) if (!known.has(kind)) watcher.close();
  }

  /** What plugins listed of the kind is out of date. */
  changed(kind: Kind, namespace: string): void {
    const lists = this.#lists.get(kind);
    lists?.delete('');
    lists?.delete(namespace);
  }

  /** Where the store has the objects of a kind (of one namespace). */
  prefix(kind: Kind, namespace?: string): string {
    const { group, plural } = storedKind(kind);
    const base = `/${group || 'core'}/${plural}/`;
    return kind.namespaced && namespace ? `${base}${namespace}/` : base;
  }

  /** Where the store has the object. Throws BadRequest or NotFound on what can be no key. */
  key(kind: Kind, { namespace, name }: ObjectKey): string {
    if (kind.namespaced && !namespace)
      throw badRequest(`an empty namespace may not be set when a resource name is provided`);
    // A slash would reach into another's keys; no valid name has one.
    if (!name || name.includes('/') || namespace?.includes('/'))
      throw notFound(kind.plural, name, kind.group);
    return this.prefix(kind, namespace) + name;
  }

  /** The entry of an object, if there is one. */
  find(kind: Kind, key: ObjectKey): Entry | undefined {
    return this.#store.get(this.key(kind, key));
  }

  /** Throws NotFound. */
  need(kind: Kind, key: ObjectKey): Entry {
    const entry = this.find(kind, key);
    if (!entry) throw notFound(kind.plural, key.name, kind.group);
    return entry;
  }

  /** The object of an entry as its kind shows it, with its resourceVersion in it. */
  give(entry: Entry, kind: Kind): AnyObject {
    const o = this.#stampedValue(entry);
    return kind.custom ? kind.custom.view(o) : shown(kind, o);
  }

  /** One of many: a webhook is asked about those after it as well, as far as a page of `limit` (0: all) goes. */
  #giveNth(entries: readonly Entry[], i: number, kind: Kind, limit: number): AnyObject {
    try {
      return this.give(entries[i]!, kind);
    } catch (e) {
      if (!(e instanceof Unconverted)) throw e;
      const ahead = entries.slice(i, i + Math.min(limit || CONVERTED_AT_ONCE, CONVERTED_AT_ONCE));
      const unknown = ahead.flatMap((entry) => {
        try {
          this.give(entry, kind);
          return [];
        } catch (other) {
          return other instanceof Unconverted ? other.objects : [];
        }
      });
      throw new Unconverted(e.convert, unknown);
    }
  }

  #stampedValue(entry: Entry): AnyObject {
    const value = entry.value as AnyObject;
    const resourceVersion = String(entry.revision);
    if (value.metadata?.resourceVersion === resourceVersion) return value;
    let stamped = this.#stamped.get(value);
    if (!stamped) {
      const metadata = Object.freeze({ ...value.metadata, resourceVersion });
      stamped = Object.freeze({ ...value, metadata });
      this.#stamped.set(value, stamped);
    }
    return stamped;
  }

  /** Parses the selectors; throws BadRequest for what the kind does not know. */
  filter(kind: Kind, query: { labelSelector?: string; fieldSelector?: string }): Filter {
    const fields = query.fieldSelector ? parseFieldSelector(query.fieldSelector) : [];
    for (const { field } of fields) {
      const known =
        field === 'metadata.name' ||
        (field === 'metadata.namespace' && kind.namespaced) ||
        Object.hasOwn(kind.selectable, field);
      if (!known) throw badRequest(`field label not supported: ${field}`);
    }
    return { labels: query.labelSelector ? parseSelector(query.labelSelector) : [], fields };
  }

  #matches(kind: Kind, filter: Filter, o: AnyObject): boolean {
    if (!matchesAll(filter.labels, o.metadata?.labels)) return false;
    return filter.fields.every(({ field, value, equal }) => {
      const actual =
        field === 'metadata.name'
          ? o.metadata?.name
          : field === 'metadata.namespace'
            ? o.metadata?.namespace
            : kind.selectable[field]!(o);
      return (actual === value) === equal;
    });
  }
}

const asStored = (kind: Kind): Kind => kind.custom?.conversion?.asStored ?? kind;

/** `0` for absent. */
function positive(n: number | undefined, what: string): number {
  if (n === undefined) return 0;
  if (!Number.isInteger(n) || n < 0) throw badRequest(`${what}: Invalid value: must be a whole number >= 0`);
  return n;
}
