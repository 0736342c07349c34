import { ageColumn, column, nameColumn } from '../../api/kinds/columns.js';
import type { Column, Kind } from '../../api/kinds/kind.js';
import { apiVersionOf } from '../../api/kinds/kind.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import type { ListResult } from '../registry/api.js';
import { JSON_TYPE, type Reply } from './message.js';
import type { Wanted } from './negotiate.js';

export type Served = Frozen<AnyObject>;

/**
 * What frozen objects look like as text, kept for a while: the same object goes to many watchers and into many lists.
 * Holds at most about twice `budget` in length, in two generations of which the elder is forgotten when the younger is
 * full.
 */
export class FormCache<V extends { length: number }> {
  #young = new WeakMap<object, V>();
  #elder = new WeakMap<object, V>();
  #size = 0;

  constructor(
    private readonly budget: number,
    private readonly make: (o: object) => V,
  ) {}

  get(o: object): V {
    const known = this.#young.get(o);
    if (known !== undefined) return known;
    const made = this.#elder.get(o) ?? this.make(o);
    if (this.#size + made.length > this.budget) {
      this.#elder = this.#young;
      this.#young = new WeakMap();
      this.#size = 0;
    }
    this.#young.set(o, made);
    this.#size += made.length;
    return made;
  }
}

/** The form in which one request wants its objects: format, and object, metadata or table. */
export interface Form {
  wanted: Wanted;
  pretty: boolean;
  /** For tables: what comes along with each row. */
  includeObject: 'None' | 'Metadata' | 'Object';
}

const INCLUDE_OBJECT = ['None', 'Metadata', 'Object'] as const;

/** Reads the query parameters that shape an answer. */
export function formOf(wanted: Wanted, query: URLSearchParams, userAgent: string | undefined): Form {
  const pretty = query.get('pretty');
  const include = query.get('includeObject');
  const includeObject = include ? INCLUDE_OBJECT.find((v) => v === include) : 'Metadata';
  if (!includeObject) throw badRequest(`unrecognized includeObject value: "${include}"`);
  return {
    wanted,
    // People who call by hand get readable answers, as from kube-apiserver.
    pretty:
      pretty === null
        ? /^(curl|Wget|Mozilla\/5\.0)/.test(userAgent ?? '')
        : pretty !== 'false' && pretty !== '0',
    includeObject,
  };
}

/** Turns objects, lists and watch events into the bytes of a reply. */
export class Encoder {
  readonly #json = new FormCache(8 << 20, (o) => JSON.stringify(o));
  /** What is told of an object besides its row in a table, by version of that form. */
  readonly #partial: Readonly<Record<string, FormCache<string>>>;
  /** Lines of a watch that asks for whole objects, by type: every watcher of an object gets the same bytes. */
  readonly #lines: Readonly<Record<string, FormCache<Buffer>>>;

  /** `now`: wall clock in milliseconds, for ages in tables. */
  constructor(private readonly now: () => number) {
    const lines = (type: string) =>
      new FormCache(2 << 20, (o) => bytesOf(`{"type":"${type}","object":${JSON.stringify(o)}}\n`));
    const partials = (version: string) => new FormCache(2 << 20, (o) => partial(o as Served, version));
    this.#partial = { v1: partials('v1'), v1beta1: partials('v1beta1') };
    this.#lines = { ADDED: lines('ADDED'), MODIFIED: lines('MODIFIED') };
  }

  async object(kind: Kind, o: Served, form: Form, status = 200): Promise<Reply> {
    return this.text(this.#objectText(kind, o, form, true), form, status);
  }

  list(kind: Kind, result: ListResult, form: Form): Promise<Reply> | Reply {
    const chunks = this.#listChunks(kind, result, form);
    if (form.pretty || form.wanted.format === 'yaml') return this.text([...chunks].join(''), form, 200);
    return { status: 200, headers: { 'content-type': typeOf(form) }, body: chunks };
  }

  /** JSON text in the format that was asked for. */
  async text(json: string, form: Form, status: number): Promise<Reply> {
    let body = json;
    if (form.wanted.format === 'yaml')
      body = (await import('yaml')).stringify(JSON.parse(json), { aliasDuplicateObjects: false });
    else if (form.pretty) body = `${JSON.stringify(JSON.parse(json), null, 2)}\n`;
    return { status, headers: { 'content-type': typeOf(form) }, body };
  }

  /** One line of a watch. `first`: a table says its columns only once. */
  event(kind: Kind, type: string, o: Served, form: Form, first: boolean): string | Buffer {
    if (form.wanted.as === undefined) {
      const shared = this.#lines[type];
      if (shared) return shared.get(o);
    }
    const text = this.#objectText(kind, o, form, first, type === 'BOOKMARK');
    return `{"type":"${type}","object":${text}}\n`;
  }

  #objectText(kind: Kind, o: Served, form: Form, withColumns: boolean, bookmark = false): string {
    switch (form.wanted.as) {
      case undefined:
        return this.#json.get(o);
      case 'Table': {
        const columns = columnsFor(kind, o);
        const resourceVersion = o.metadata?.resourceVersion;
        const metadata = JSON.stringify(resourceVersion ? { resourceVersion } : {});
        const definitions = withColumns ? definitionsOf(columns) : 'null';
        return `${tableHead(form)}"metadata":${metadata},"columnDefinitions":${definitions},"rows":[${bookmark ? this.#bookmarkRow(o, form) : this.#row(columns, o, form, this.now())}]}`;
      }
      case 'PartialObjectMetadata':
        return this.#partialOf(o, form);
      case 'PartialObjectMetadataList':
        throw wrongShape('PartialObjectMetadataList', 'is not a list');
    }
  }

  *#listChunks(kind: Kind, result: ListResult, form: Form): Generator<string> {
    const metadata = JSON.stringify({
      resourceVersion: result.resourceVersion || undefined,
      ...(result.continue ? { continue: result.continue } : {}),
      ...(result.remainingItemCount ? { remainingItemCount: result.remainingItemCount } : {}),
    });
    const { as, version } = form.wanted;
    let head: string;
    let item: (o: Served) => string;
    if (as === 'Table') {
      const columns = columnsFor(kind, undefined);
      const now = this.now();
      head = `${tableHead(form)}"metadata":${metadata},"columnDefinitions":${definitionsOf(columns)},"rows":[`;
      item = (o) => this.#row(columns, o, form, now);
    } else if (as === 'PartialObjectMetadataList') {
      head = `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/${version}","metadata":${metadata},"items":[`;
      // The list says for all what they are, as in Kubernetes; some clients compare.
      const { length } = partialHead(version!);
      item = (o) => `{${this.#partialOf(o, form).slice(length)}`;
    } else {
      head = `{"kind":"${kind.kind}List","apiVersion":"${apiVersionOf(kind)}","metadata":${metadata},"items":[`;
      item = (o) => this.#json.get(o);
    }
    let chunk = head;
    let separator = '';
    for (const o of result.items) {
      chunk += separator + item(o);
      separator = ',';
      if (chunk.length > LIST_CHUNK) {
        yield chunk;
        chunk = '';
      }
    }
    yield `${chunk}]}\n`;
  }

  #row(columns: readonly Column<AnyObject>[], o: Served, form: Form, now: number): string {
    const cells = JSON.stringify(columns.map((c) => c.value(o as AnyObject, now) ?? null));
    return `{"cells":${cells}${this.#rowObject(o, form)}}`;
  }

  /** A bookmark has no cells, but its object carries the revision (and the end of initial events). */
  #bookmarkRow(o: Served, form: Form): string {
    return `{"cells":[]${this.#rowObject(o, form)}}`;
  }

  #rowObject(o: Served, form: Form): string {
    if (form.includeObject === 'None') return '';
    return `,"object":${form.includeObject === 'Object' ? this.#json.get(o) : this.#partialOf(o, form)}`;
  }

  #partialOf(o: Served, { wanted: { version = 'v1' } }: Form): string {
    // Bookmarks are made for one watcher each.
    return Object.isFrozen(o) ? this.#partial[version]!.get(o) : partial(o, version);
  }
}

/** As UTF-8 in memory of its own: what `Buffer.from` cuts from Node's pool keeps 8 KB alive for as long as it lives. */
function bytesOf(text: string): Buffer {
  const bytes = Buffer.allocUnsafeSlow(Buffer.byteLength(text));
  bytes.write(text);
  return bytes;
}

/** Lists leave in pieces of about this many characters, each made when the client has taken the one before. */
const LIST_CHUNK = 256 << 10;

/** Checks a form against what a request answers with, before any work. */
export function checkForm(form: Form, answer: 'object' | 'list'): void {
  if (answer === 'list' && form.wanted.as === 'PartialObjectMetadata')
    throw wrongShape('PartialObjectMetadata', 'is a list');
  if (answer === 'object' && form.wanted.as === 'PartialObjectMetadataList')
    throw wrongShape('PartialObjectMetadataList', 'is not a list');
}

const wrongShape = (as: string, why: string): ApiError =>
  new ApiError('NotAcceptable', `you requested ${as}, but the requested object ${why}`);

const typeOf = (form: Form): string => (form.wanted.format === 'yaml' ? 'application/yaml' : JSON_TYPE);

const tableHead = (form: Form): string =>
  `{"kind":"Table","apiVersion":"meta.k8s.io/${form.wanted.version}",`;

const partialHead = (version: string): string =>
  `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/${version}",`;
const partial = (o: Served, version: string): string =>
  `${partialHead(version)}"metadata":${JSON.stringify(o.metadata ?? {})}}`;

/** For objects whose kind declares no columns (subresources, too). */
const PLAIN_COLUMNS: readonly Column<AnyObject>[] = [
  { name: 'Name', type: 'string', format: 'name', value: (o) => o.metadata?.name ?? '' },
  { name: 'Created At', type: 'date', value: (o) => o.metadata?.creationTimestamp ?? null },
];

type ScaleCounts = { spec?: { replicas?: number }; status?: { replicas?: number } };
const SCALE_COLUMNS: readonly Column<AnyObject>[] = [
  { ...nameColumn, format: '' },
  column('Desired', 'integer', 'How many there are to be.', (o: ScaleCounts) => o.spec?.replicas ?? 0),
  column('Available', 'integer', 'How many there are.', (o: ScaleCounts) => o.status?.replicas ?? 0),
  ageColumn,
];

const columnsFor = (kind: Kind, o: Served | undefined): readonly Column<AnyObject>[] => {
  if (o?.kind === 'Scale' && kind.scale) return SCALE_COLUMNS;
  return kind.columns.length > 0 && (o?.kind === undefined || o.kind === kind.kind)
    ? kind.columns
    : PLAIN_COLUMNS;
};

const definitions = new WeakMap<readonly Column<AnyObject>[], string>();
function definitionsOf(columns: readonly Column<AnyObject>[]): string {
  let text = definitions.get(columns);
  if (text === undefined) {
    text = JSON.stringify(
      columns.map((c) => ({
        name: c.name,
        type: c.type,
        format: c.format ?? '',
        description: c.description ?? '',
        priority: c.priority ?? 0,
      })),
    );
    definitions.set(columns, text);
  }
  return text;
}
