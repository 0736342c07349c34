import { jsonPath } from '../../../api/custom/jsonpath.js';
import { checkRules, rulesOf } from '../../../api/custom/rules.js';
import { type JsonSchema, prune, validateValue, withDefaults } from '../../../api/custom/schema.js';
import { ageColumn, column, nameColumn } from '../../../api/kinds/columns.js';
import type { CustomResourceDefinition } from '../../../api/kinds/crd.js';
import type { Column, Conversion, CustomParts, FieldError, Kind } from '../../../api/kinds/kind.js';
import { decode, type Schema, schemaNamed } from '../../../api/kinds/schema.js';
import { since } from '../../../api/meta/duration.js';
import { ApiError, badRequest } from '../../../api/meta/errors.js';
import { deepCopy, deepFreeze, isPlainObject } from '../../../api/meta/json.js';
import type { AnyObject } from '../../../api/meta/object.js';
import { finalizerWarnings } from '../../../api/meta/object-meta.js';
import type { Frozen } from '../../client.js';
import { Unconverted } from '../unconverted.js';
import type { WebhookConverter } from './conversion.js';

type Definition = Frozen<CustomResourceDefinition>;
type Version = Definition['spec']['versions'][number];

const OBJECT_META = 'io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta';
const OBJECT_FIELDS = (): Record<string, Schema> => ({
  apiVersion: {
    type: 'string',
    description:
      'The version of the schema of this object, e.g. apps/v1. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources',
  },
  kind: {
    type: 'string',
    description:
      'What this object is, in CamelCase. Cannot be updated. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds',
  },
  metadata: {
    description:
      "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    ...schemaNamed(OBJECT_META),
  },
});

/** A structural schema in the form in which built-in kinds have theirs. */
function publish(s: JsonSchema, root = false): Schema {
  const { properties, additionalProperties, items, ...rest } = s;
  const fields = properties
    ? Object.fromEntries(Object.entries(properties).map(([k, p]) => [k, publish(p)]))
    : undefined;
  const object = root || s['x-kubernetes-embedded-resource'];
  return {
    ...(rest as Schema),
    ...(items ? { items: publish(items) } : {}),
    ...(isPlainObject(additionalProperties)
      ? { additionalProperties: publish(additionalProperties as JsonSchema) }
      : additionalProperties === true
        ? { additionalProperties: {} }
        : {}),
    ...(fields || object ? { properties: { ...fields, ...(object ? OBJECT_FIELDS() : {}) } } : {}),
  };
}

/** A cell of a column that has a JSON path (apiextensions tableconvertor). */
function cellOf(type: string, found: unknown[], now: number): unknown {
  const [v] = found;
  if (v === undefined || v === null) return null;
  switch (type) {
    case 'integer':
      return typeof v === 'number' ? Math.trunc(v) : null;
    case 'number':
      return typeof v === 'number' ? v : null;
    case 'boolean':
      return typeof v === 'boolean' ? v : null;
    case 'date':
      return typeof v === 'string' && !Number.isNaN(Date.parse(v)) ? since(v, now) : '<invalid>';
    default:
      return typeof v === 'object' ? JSON.stringify(v) : String(v);
  }
}

function columnsOf(v: Version): Column<AnyObject>[] {
  const declared = v.additionalPrinterColumns ?? [];
  const age = { ...ageColumn, type: 'date' } as Column<AnyObject>;
  if (declared.length === 0) return [nameColumn as Column<AnyObject>, age];
  return [
    nameColumn as Column<AnyObject>,
    ...declared.map((c) => {
      const path = jsonPath(c.jsonPath);
      const about = c.description || `Custom resource definition column (in JSONPath format): ${c.jsonPath}`;
      return {
        ...column<AnyObject>(
          c.name,
          c.type as Column<AnyObject>['type'],
          about,
          (o, now) => cellOf(c.type, path(o), now),
          c.priority,
        ),
        ...(c.format ? { format: c.format } : {}),
      };
    }),
  ];
}

function selectableOf(v: Version): Record<string, (o: AnyObject) => string> {
  return Object.fromEntries(
    (v.selectableFields ?? []).map(({ jsonPath: text }) => {
      const path = jsonPath(text);
      return [text.replace(/^\./, ''), (o: AnyObject) => String(path(o)[0] ?? '')];
    }),
  );
}

/** What the versions of one definition know of each other. Another object whenever something in it changes. */
export interface Family {
  /** The schema of each version, by apiVersion. */
  readonly schemas: ReadonlyMap<string, JsonSchema>;
  /** The apiVersion in which objects are stored. */
  readonly storage: string;
  /** Where versions differ in form. */
  readonly converter?: WebhookConverter;
  readonly asStored?: Kind;
}

/** The schema of a version that says nothing. */
const OPEN: JsonSchema = { type: 'object', 'x-kubernetes-preserve-unknown-fields': true };
export const schemaOfVersion = (v: Version): JsonSchema =>
  (v.schema?.openAPIV3Schema as JsonSchema | undefined) ?? OPEN;

/**
 * One version of the kind that a CustomResourceDefinition makes. It stays the same object as long as the definition is
 * there, so that whoever holds it works by the newest schema.
 */
export class CustomKind implements Kind {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
  readonly schema: string;
  readonly generation = true;
  readonly updateNeedsVersion = true;
  singular = '';
  shortNames: readonly string[] = [];
  categories: readonly string[] = [];
  columns: readonly Column<AnyObject>[] = [];
  status = false;
  scale: Kind['scale'];
  storageVersion: string | undefined;
  deprecation: string | undefined;
  selectable: Kind['selectable'] = {};
  custom!: CustomParts;
  #family: Family | undefined;
  #schema: JsonSchema = {};
  #terminating = false;
  #rules: typeof checkRules | undefined;

  constructor(crd: Definition, version: Version, family: Family) {
    const { group, names, scope } = crd.spec;
    this.group = group;
    this.version = version.name;
    this.kind = names.kind;
    this.plural = names.plural;
    this.namespaced = scope === 'Namespaced';
    this.schema = `${group.split('.').reverse().join('.')}.${version.name}.${names.kind}`;
    this.update(crd, version, family);
  }

  /** Takes over what a definition says now. */
  update(crd: Definition, version: Version, family: Family): void {
    const accepted = crd.status?.acceptedNames ?? crd.spec.names;
    this.singular = accepted.singular ?? this.kind.toLowerCase();
    this.shortNames = accepted.shortNames ?? [];
    this.categories = accepted.categories ?? [];
    this.columns = columnsOf(version);
    this.selectable = selectableOf(version);
    this.storageVersion = crd.spec.versions.find((v) => v.storage)?.name;
    this.deprecation = version.deprecated
      ? (version.deprecationWarning ?? `${this.group}/${this.version} ${this.kind} is deprecated`)
      : undefined;
    const { status, scale } = version.subresources ?? {};
    this.status = status !== undefined;
    this.scale = scale && {
      specReplicas: scale.specReplicasPath,
      statusReplicas: scale.statusReplicasPath,
      ...(scale.labelSelectorPath ? { labelSelector: scale.labelSelectorPath } : {}),
    };
    this.#terminating = crd.metadata?.deletionTimestamp !== undefined;
    if (this.custom && family === this.#family) return;
    this.#family = family;
    this.#schema = schemaOfVersion(version);
    this.custom = this.#parts(this.#schema, family);
    this.#rules = rulesOf(this.#schema).next().done ? undefined : checkRules;
  }

  #parts(schema: JsonSchema, family: Family): CustomParts {
    const { storage, schemas, converter } = family;
    const apiVersion = `${this.group}/${this.version}`;
    const gvk = { group: this.group, kind: this.kind, version: this.version };
    const views = new WeakMap<AnyObject, AnyObject>();
    /** Conversions under way: whoever else needs one waits for the same answer. */
    const asked = new WeakMap<AnyObject, Promise<void>>();
    let published: Schema | undefined;

    const full = (stored: AnyObject): AnyObject =>
      withDefaults(stored, schemas.get(stored.apiVersion ?? '') ?? schema) as AnyObject;
    /** Only what the schema of that version knows, as nobody could write more. */
    const pruned = (o: AnyObject, version: string): AnyObject => {
      const to = schemas.get(version);
      if (!to || schemas.get(o.apiVersion ?? '') === to) return { ...o, apiVersion: version };
      const copy = { ...deepCopy(o), apiVersion: version };
      prune(copy, to);
      return copy;
    };
    const convert = async (objects: readonly AnyObject[], version: string): Promise<AnyObject[]> => {
      const converted = await converter!.convert(objects, version);
      for (const [i, o] of converted.entries()) if (o !== objects[i]) prune(o, schemas.get(version) ?? OPEN);
      return converted;
    };
    const ask = async (objects: readonly AnyObject[]): Promise<void> => {
      const missing = objects.filter((o) => !views.has(o) && !asked.has(o));
      const run = convert(missing.map(full), apiVersion).then((converted) =>
        missing.forEach((o, i) => {
          views.set(o, deepFreeze(converted[i]!));
        }),
      );
      for (const o of missing) asked.set(o, run);
      try {
        await Promise.all(objects.map((o) => asked.get(o)));
      } finally {
        for (const o of missing) asked.delete(o);
      }
    };
    const { asStored } = family;
    const conversion: Conversion | undefined = converter &&
      asStored && {
        asStored,
        schemas: new Map([...schemas].map(([v, s]) => [v, publish(s, true)])),
        convert,
      };

    return {
      get schema() {
        published ??= { ...publish(schema, true), 'x-kubernetes-group-version-kind': [gvk] };
        return published;
      },
      decode(body, what) {
        const { metadata } = body;
        let unknown: string[] = [];
        if (metadata === null) delete body['metadata'];
        else if (metadata !== undefined) {
          if (!isPlainObject(metadata))
            throw badRequest(
              `${what}: json: cannot unmarshal ${typeof metadata} into Go struct field .metadata of type v1.ObjectMeta`,
            );
          unknown = decode(metadata, OBJECT_META, what).map((f) => `metadata.${f}`);
        }
        return [...unknown, ...prune(body, schema)];
      },
      view(stored) {
        let view = views.get(stored);
        if (!view) {
          if (converter && stored.apiVersion !== apiVersion) throw new Unconverted(ask, [stored]);
          view = full(stored);
          if (view.apiVersion !== apiVersion) view = pruned(view, apiVersion);
          if (view !== stored) deepFreeze(view);
          views.set(stored, view);
        }
        return view;
      },
      keep(o) {
        if (o.apiVersion === storage) return o;
        return converter ? convert([o], storage).then(([converted]) => converted!) : pruned(o, storage);
      },
      isCurrent: (stored) => stored.apiVersion === storage,
      ...(conversion ? { conversion } : {}),
    };
  }

  setDefaults(o: AnyObject): void {
    const full = withDefaults(o, this.#schema) as AnyObject;
    if (full === o) return;
    for (const key of Object.keys(o)) if (!Object.hasOwn(full, key)) delete o[key];
    Object.assign(o, full);
  }

  prepareForCreate(o: AnyObject): void {
    if (this.#terminating)
      throw new ApiError(
        'MethodNotAllowed',
        'create not allowed while custom resource definition is terminating',
      );
    if (this.status) delete o['status'];
  }

  warnings(o: AnyObject): string[] {
    return finalizerWarnings(o.metadata?.finalizers);
  }

  validate(o: AnyObject, old?: AnyObject): FieldError[] {
    return validateValue(o, this.#schema, '', old, this.#rules);
  }
}

/**
 * The objects of a definition in whatever form they are stored: nothing is converted, known or checked, and what is
 * written stays in the version that it was in.
 */
export class StoredKind extends CustomKind {
  constructor(crd: Definition, storage: Version) {
    const apiVersion = `${crd.spec.group}/${storage.name}`;
    super(crd, { ...storage, schema: {}, subresources: {} }, { schemas: new Map(), storage: apiVersion });
    const views = new WeakMap<AnyObject, AnyObject>();
    this.custom = {
      ...this.custom,
      view(stored) {
        if (stored.apiVersion === apiVersion) return stored;
        const view = views.get(stored) ?? Object.freeze({ ...stored, apiVersion });
        views.set(stored, view);
        return view;
      },
      keep: (o, stored) => (stored ? { ...o, apiVersion: stored.apiVersion! } : o),
      isCurrent: () => true,
    };
  }
}
