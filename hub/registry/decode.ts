/** What the body of a request is read as: an object of one kind, or a refusal in Kubernetes' words. */
import { apiVersionOf, type CustomParts, type Kind } from '../../api/kinds/kind.js';
import { decode, schemaNamed, schemaOf } from '../../api/kinds/schema.js';
import { type ApiError, badRequest } from '../../api/meta/errors.js';
import { isPlainObject } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import type { RequestContext, Subresource } from './api.js';
import { metaOf } from './meta.js';
import { SCALE_SCHEMA } from './scale.js';
import { problemsOf } from './typed.js';

type Plain = Record<string, unknown>;

/** `v1` of `apps/v1`. */
const versionOf = (apiVersion: string): string => apiVersion.replace(/^.*\//, '');

const JSON_TYPE = (v: unknown): string =>
  v === null ? 'null' : Array.isArray(v) ? 'array' : typeof v === 'boolean' ? 'bool' : typeof v;

/**
 * Reads `body` in place as an object of `kind`; its unknown fields are cut off and named. A body that says neither kind
 * nor apiVersion is taken for one. Throws BadRequest.
 */
export function decodeBody(
  body: unknown,
  kind: string,
  apiVersion: string,
  schema: string | CustomParts,
): { object: AnyObject; unknown: string[] } {
  if (!isPlainObject(body))
    throw badRequest(
      `couldn't get version/kind; json parse error: json: cannot unmarshal ${JSON_TYPE(body)} into Go value of type struct { APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }`,
    );
  const given = { kind: body['kind'] ?? kind, apiVersion: body['apiVersion'] ?? apiVersion };
  const what = `${kind} in version ${JSON.stringify(versionOf(apiVersion))} cannot be handled as a ${kind}`;
  if (given.kind !== kind) {
    const [k, v] = [String(given.kind).slice(0, 128), versionOf(String(given.apiVersion).slice(0, 128))];
    const group = apiVersion.includes('/') ? apiVersion.split(/[./]/, 1)[0] : 'core';
    throw badRequest(
      `${k} in version ${JSON.stringify(v)} cannot be handled as a ${kind}: converting (${v}.${k}) to (${group}.${kind}): unknown conversion`,
    );
  }
  if (given.apiVersion !== apiVersion && kind !== 'DeleteOptions')
    throw badRequest(
      `the API version in the data (${String(given.apiVersion).slice(0, 128)}) does not match the expected API version (${apiVersion})`,
    );
  const unknown = typeof schema === 'string' ? decode(body, schema, what) : schema.decode(body, what);
  body['kind'] = kind;
  body['apiVersion'] = apiVersion;
  return { object: body as AnyObject, unknown };
}

/** Fields that are there twice, as an error has them: those of YAML are one message of several lines, as go-yaml's. */
export const strictTexts = (duplicates: readonly string[]): string[] =>
  duplicates[0]?.startsWith('line ')
    ? [`yaml: unmarshal errors:\n  ${duplicates.join('\n  ')}`]
    : [...duplicates];

/** Decodes and answers unknown fields as `fieldValidation` wants it. */
export function decodeAs(
  ctx: RequestContext,
  body: unknown,
  kind: string,
  apiVersion: string,
  schema: string | CustomParts,
  strictError = (texts: string[]): ApiError =>
    badRequest(
      `${kind} in version ${JSON.stringify(versionOf(apiVersion))} cannot be handled as a ${kind}: strict decoding error: ${texts.join(', ')}`,
    ),
): AnyObject {
  const { object, unknown } = decodeBody(body, kind, apiVersion, schema);
  const { texts: duplicates = [], order } = ctx.duplicates ?? {};
  const unknownTexts = unknown.map((f) => `unknown field ${JSON.stringify(f)}`);
  if (duplicates.length + unknownTexts.length > 0 && ctx.fieldValidation !== 'Ignore') {
    const inOrder = (texts: string[]) => (typeof schema === 'string' ? byPlace(texts, order) : texts);
    if (ctx.fieldValidation === 'Strict')
      throw strictError(inOrder([...strictTexts(duplicates), ...unknownTexts]));
    for (const t of inOrder([...duplicates, ...unknownTexts]))
      if (!ctx.warnings.includes(t)) ctx.warnings.push(t);
  }
  return object;
}

/** Kubernetes reads an object of a kind that it knows once and tells what it meets; of a custom one it looks for duplicates first. */
function byPlace(texts: string[], order: ReadonlyMap<string, number> | undefined): string[] {
  if (!order?.size) return texts;
  const place = (text: string) => order.get(text.slice(text.indexOf('"'))) ?? 0;
  return texts.sort((a, b) => place(a) - place(b));
}

/** `body` as an object of the kind: fields checked, its apiVersion and kind in place, metadata there. */
export function decodeObject(
  ctx: RequestContext,
  kind: Kind,
  body: unknown,
  subresource?: Subresource,
  strictError?: (texts: string[]) => ApiError,
): AnyObject {
  const o =
    subresource === 'scale'
      ? decodeAs(ctx, body, 'Scale', 'autoscaling/v1', SCALE_SCHEMA, strictError)
      : decodeAs(ctx, body, kind.kind, apiVersionOf(kind), kind.custom ?? kind.schema, strictError);
  const meta = metaOf(o);
  delete meta.selfLink;
  return o;
}

/** What a client applies: strict about fields, since nobody could own what is not kept. */
export function decodeApplied(
  ctx: RequestContext,
  kind: Kind,
  key: ObjectKey,
  body: unknown,
  subresource: Subresource | undefined,
): AnyObject {
  if (!isPlainObject(body)) throw badRequest('error decoding patch: an apply patch is an object');
  const scale = subresource === 'scale';
  const gvk = scale
    ? 'autoscaling/v1, Kind=Scale'
    : `${kind.group ? `${kind.group}/` : '/'}${kind.version}, Kind=${kind.kind}`;
  const version = scale ? 'autoscaling/v1' : apiVersionOf(kind);
  if (body['kind'] !== (scale ? 'Scale' : kind.kind) || body['apiVersion'] !== version) {
    const [v, g = ''] = String(body['apiVersion'] ?? '')
      .split('/', 2)
      .reverse();
    throw badRequest(`invalid object type: ${`${g}/${v}, Kind=${String(body['kind'] ?? '')}`.slice(0, 256)}`);
  }
  const meta = body['metadata'];
  if (isPlainObject(meta)) {
    if (meta['managedFields'] !== undefined && meta['managedFields'] !== null)
      throw badRequest('metadata.managedFields must be nil');
    if (meta['name'] !== undefined && meta['name'] !== key.name)
      throw badRequest(
        `the name of the object (${String(meta['name'])}) does not match the name on the URL (${key.name})`,
      );
  }
  const wrong = problemsOf(body, scale ? schemaNamed(SCALE_SCHEMA) : schemaOf(kind));
  if (wrong.length) {
    const name = `${key.namespace ?? ''}/${key.name}`;
    const text = wrong.length === 1 ? wrong[0] : `errors:\n  ${wrong.slice(0, 100).join('\n  ')}`;
    throw badRequest(`failed to create typed patch object (${name}; ${gvk}): ${text}`);
  }
  const config = decodeObject(ctx, kind, body, subresource);
  if (!scale) return config;
  const replicas = (config['spec'] as { replicas?: number } | undefined)?.replicas;
  const { resourceVersion, uid } = config.metadata ?? {};
  const parent: AnyObject = {
    metadata: { ...(resourceVersion ? { resourceVersion } : {}), ...(uid ? { uid } : {}) },
  };
  if (replicas !== undefined) {
    const path = kind.scale!.specReplicas.split('.').slice(1);
    const leaf = path.pop()!;
    let at = parent as Plain;
    for (const name of path) {
      at[name] = {};
      at = at[name] as Plain;
    }
    at[leaf] = replicas;
  }
  return parent;
}
