import type { AnyObject, KubeObject } from '../meta/object.js';
import type { Schema } from './schema.js';

/** One wrong field: Kubernetes' `field.Error` (apimachinery util/validation/field). */
export interface FieldError {
  type:
    | 'Required'
    | 'Invalid'
    | 'NotSupported'
    | 'Duplicate'
    | 'Forbidden'
    | 'TooLong'
    | 'TooMany'
    | 'NotFound'
    | 'TypeInvalid';
  /** e.g. `spec.containers[0].image` */
  field: string;
  /** the whole text after `field: `, in Kubernetes' wording, e.g. `Required value` or `Invalid value: "x": must be …` */
  message: string;
}

/** A column of the `Table` that kubectl prints (meta/v1 TableColumnDefinition). */
export interface Column<T> {
  name: string;
  type: 'string' | 'integer' | 'number' | 'boolean' | 'date';
  format?: string;
  description?: string;
  /** 0 shows always; 1 shows with `-o wide`. */
  priority?: number;
  value(o: T, now: number): unknown;
}

/** What is different about a kind that a CustomResourceDefinition made. */
export interface CustomParts {
  /** Stands in for a generated definition; with descriptions. */
  readonly schema: Schema;
  /** Checks metadata and removes what the schema does not know, in place; returns the paths of what it removed. */
  decode(body: Record<string, unknown>, what: string): string[];
  /**
   * A stored object, in whatever version, as this version shows it. Frozen, like what it is given. Throws when a webhook
   * has to be asked first (hub/registry/unconverted.ts).
   */
  view(stored: AnyObject): AnyObject;
  /** What to store of `o`, an object of this version, in place of `stored`; may share parts with it. */
  keep(o: AnyObject, stored?: AnyObject): AnyObject | Promise<AnyObject>;
  /** A stored object is in the version in which it would be stored now. */
  isCurrent(stored: AnyObject): boolean;
  /** Present where a webhook knows how versions differ. */
  readonly conversion?: Conversion;
}

/** The way between versions of a kind that differ in form. */
export interface Conversion {
  /**
   * Stands for the objects in whatever form they are stored, for those who care about metadata alone and may not depend
   * on a webhook. Its objects say that they are in the storage version.
   */
  readonly asStored: Kind;
  /** Their schemas by apiVersion. */
  readonly schemas: ReadonlyMap<string, Schema>;
  /** Brings objects into another version. Rejects with ApiError. */
  convert(objects: readonly AnyObject[], apiVersion: string): Promise<AnyObject[]>;
}

/** Who asks for something to be made. */
export interface Requester {
  readonly user: string;
  readonly groups: readonly string[];
  readonly uid?: string;
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

/**
 * Makes a kind another form of the objects of another one, which is stored: `events.k8s.io/v1` of core's Events, an older
 * version of a newer. Reads, writes, watches and applies work through both. Who owns which field is told in the stored
 * form. Neither function sets `apiVersion` and `kind`.
 */
export interface View<T extends KubeObject, S extends KubeObject> {
  readonly of: Kind<S>;
  /** A stored object, which is frozen, in this form; may share its parts. */
  show(stored: S): T;
  /**
   * What to store. `o` is an object, or what of one somebody applies; `stored` what is there: parts that this form
   * cannot say are to be kept. May share the parts of both.
   */
  keep(o: T, stored?: S): S;
}

/** Neither is changed; their parts may be shared. */
// biome-ignore lint/suspicious/noExplicitAny: as a member of T it would keep kinds from being told as Kind<never>
export type SpecDoor = (current: any, wanted: any) => object;

/** One declaration per kind: every verb, format and tool works from it. */
export interface Kind<T extends KubeObject = AnyObject> {
  /** '' for the core group. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  /** The resource name in URLs, e.g. `pods`. */
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  readonly namespaced: boolean;
  /** What can be done with it where that is not everything: a question that is answered and never stored has `create`. */
  readonly verbs?: readonly string[];
  /** Definition name in the generated OpenAPI, e.g. `io.k8s.api.core.v1.Pod`. */
  readonly schema: string;
  readonly columns: readonly Column<T>[];
  /** Has a `status` subresource: main writes keep status, status writes keep the rest. */
  readonly status: boolean;
  /** Subresources besides `status` through which part of the status is written, e.g. `approval`. */
  readonly statusDoors?: readonly string[];
  /** Subresources through which part of the spec is written, e.g. `ephemeralcontainers`: what it becomes by what was sent. */
  readonly specDoors?: Readonly<Record<string, SpecDoor>>;
  /** JSON paths for the `scale` subresource. */
  readonly scale?: { specReplicas: string; statusReplicas: string; labelSelector?: string };
  /** Field selector label → value; `metadata.name` and `metadata.namespace` are always there. */
  readonly selectable: Readonly<Record<string, (o: T) => string>>;
  readonly custom?: CustomParts;
  // biome-ignore lint/suspicious/noExplicitAny: as a member of T it would keep kinds from being told as Kind<never>
  readonly view?: View<any, any>;
  /** A PUT on a name that is not there makes the object. */
  readonly createOnUpdate?: boolean;
  /** A PUT over what is there must name the resourceVersion that it has read; absent: one without it writes regardless. */
  readonly updateNeedsVersion?: boolean;
  /** Counts changes of the spec in `metadata.generation`, or of what the function gives. */
  readonly generation?: boolean | ((o: T) => unknown);
  /** What is wrong with a name; absent: a DNS-1123 subdomain is asked for. */
  readonly validName?: (name: string) => string[];
  /** Something other than `metadata.finalizers` that keeps a deleted object from going (a Namespace's `spec.finalizers`). */
  readonly holdsDeletion?: (o: T) => boolean;
  /** A delete that does not say what becomes of dependents leaves them behind. */
  readonly orphansByDefault?: boolean;
  /** Grace period in seconds when a delete names none; absent: deletion is immediate. */
  readonly defaultGracePeriod?: (o: T) => number;
  /** The version in which objects are stored; absent: this one. */
  readonly storageVersion?: string;
  /** Told with every answer: this version is on its way out. */
  readonly deprecation?: string;
  /** Fills in defaults, in place, on every write and before validation. */
  setDefaults?(o: T): void;
  /** In place, after defaults: clears or sets what a creator may not choose (status, generation…). */
  prepareForCreate?(o: T, by: Requester): void;
  /** In place: carries over what an updater may not change silently. `old` is frozen; `door`: through a subresource. */
  prepareForUpdate?(o: T, old: T, door?: string): void;
  /**
   * In place, on top-level members of a shallow copy: what a write of the status through `door` (`status`, or one of
   * `statusDoors`) leaves as it was in `old`. `now` is RFC 3339.
   */
  prepareForStatus?(o: T, old: T, door: string, now: string): void;
  /**
   * What of the metadata a write of the status leaves as it was; absent: it may change labels, annotations, finalizers
   * and owners, as in Kubernetes, where each kind decides that for itself. No custom kind's status may.
   */
  readonly keptByStatus?: 'metadata' | 'labels' | 'ownerReferences';
  /** In place, on top-level members of a shallow copy: what the first delete changes besides metadata. */
  prepareForDelete?(o: T): void;
  /** Loads what the rules need; called before every write. */
  load?(): Promise<void>;
  /** What a writer should know about an object that is right as it stands. */
  warnings?(o: T): string[];
  /** `old` is there on updates. */
  validate?(o: T, old?: T): FieldError[];
  /** `door` is one of `specDoors`; absent: a write of the whole. */
  validateUpdate?(o: T, old: T, door?: string): FieldError[];
  /** What is wrong with a status that is written through `door`. */
  validateStatus?(o: T, old: T, door: string): FieldError[];
}

/** `apps/v1`, or `v1` for the core group. */
export const apiVersionOf = (k: Pick<Kind, 'group' | 'version'>): string =>
  k.group ? `${k.group}/${k.version}` : k.version;
