/** What makes a schema structural: the rules of apiextensions.k8s.io/v1 for the schema of a custom kind. */
import { pattern } from '../cel/pattern.js';
import type { FieldError } from '../kinds/kind.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepCopy, isPlainObject } from '../meta/json.js';
import { type JsonSchema, prune, validateValue } from './schema.js';

const TYPES = ['array', 'boolean', 'integer', 'number', 'object', 'string'];
/** Deeper than any real schema, and shallow enough for every recursive walk. */
const MAX_DEPTH = 64;
const MAX_PATTERN = 4096;
const MAX_ERRORS = 100;

/** Where a schema stands: rules differ between the root, fields, items, and what stands under anyOf and the like. */
type Place = 'root' | 'field' | 'item' | 'values';

/** JSONSchemaProps fields that no custom kind may have. */
const NEVER: Readonly<Record<string, string>> = {
  $ref: '$ref is not supported',
  $schema: '$schema is not supported',
  id: 'id is not supported',
  additionalItems: 'additionalItems is not supported',
  patternProperties: 'patternProperties is not supported',
  definitions: 'definitions is not supported',
  dependencies: 'dependencies is not supported',
};
/** What may not be said under anyOf, oneOf, allOf and not. */
const STRUCTURE = [
  'type',
  'default',
  'nullable',
  'title',
  'description',
  'additionalProperties',
  'x-kubernetes-preserve-unknown-fields',
  'x-kubernetes-embedded-resource',
  'x-kubernetes-int-or-string',
] as const;

/** What is wrong with the schema of a version. `field` is where it stands in the CustomResourceDefinition. */
export function validateSchema(schema: JsonSchema, field: string): FieldError[] {
  const out: FieldError[] = [];
  try {
    walk(schema, field, 'root', 0, out);
    // Only what has the right form can be asked whether its defaults fit.
    if (out.length === 0) checkDefaults(schema, field, out);
  } catch (e) {
    if (!(e instanceof RangeError)) throw e;
    out.push(forbidden(field, `is nested deeper than ${MAX_DEPTH} levels`));
  }
  return out.slice(0, MAX_ERRORS);
}

const MISSING_TYPE: Readonly<Record<Place, string>> = {
  root: 'must not be empty at the root',
  field: 'must not be empty for specified object fields',
  item: 'must not be empty for specified array items',
  values: '',
};

function walk(given: unknown, at: string, place: Place, depth: number, out: FieldError[]): void {
  if (depth > MAX_DEPTH) throw new RangeError();
  if (out.length >= MAX_ERRORS) return;
  if (!isPlainObject(given)) {
    out.push(invalid(at, given, 'must be a schema object'));
    return;
  }
  const s: JsonSchema = given;
  for (const [name, why] of Object.entries(NEVER))
    if (s[name as keyof JsonSchema] !== undefined) out.push(forbidden(`${at}.${name}`, why));
  if (s.uniqueItems)
    out.push(
      forbidden(
        `${at}.uniqueItems`,
        'uniqueItems cannot be set to true since the runtime complexity becomes quadratic',
      ),
    );
  if (s.pattern !== undefined) checkPattern(s.pattern, `${at}.pattern`, out);
  if (place === 'values') {
    for (const name of STRUCTURE)
      if (s[name] !== undefined && s[name] !== '')
        if (!(name === 'type' && INT_OR_STRING.has(s.type!) && Object.keys(s).length === 1))
          out.push(forbidden(`${at}.${name}`, 'must be empty to be structural'));
  } else checkStructure(s, at, place, out);
  checkLists(s, at, place, out);

  const { additionalProperties: rest } = s;
  if (rest === false)
    out.push(forbidden(`${at}.additionalProperties`, 'additionalProperties cannot be set to false'));
  if (isPlainObject(rest) && s.properties && Object.keys(s.properties).length)
    out.push(
      forbidden(`${at}.additionalProperties`, 'additionalProperties and properties are mutual exclusive'),
    );
  const inside = place === 'values' ? 'values' : 'field';
  for (const [name, p] of Object.entries(s.properties ?? {}))
    walk(p, `${at}.properties[${name}]`, inside, depth + 1, out);
  if (isPlainObject(rest)) walk(rest, `${at}.additionalProperties`, inside, depth + 1, out);
  if (s.items) walk(s.items, `${at}.items`, place === 'values' ? 'values' : 'item', depth + 1, out);
  for (const name of ['allOf', 'anyOf', 'oneOf'] as const)
    s[name]?.forEach((x, i) => {
      walk(x, `${at}.${name}[${i}]`, 'values', depth + 1, out);
      if (place !== 'values') mirrored(x, s, `${at}.${name}[${i}]`, at, depth, out);
    });
  if (s.not) {
    walk(s.not, `${at}.not`, 'values', depth + 1, out);
    if (place !== 'values') mirrored(s.not, s, `${at}.not`, at, depth, out);
  }
}

const INT_OR_STRING: ReadonlySet<string> = new Set(['integer', 'string']);

function checkPattern(text: string, at: string, out: FieldError[]): void {
  if (text.length > MAX_PATTERN) {
    out.push(invalid(at, text.slice(0, 64), `must be no more than ${MAX_PATTERN} characters`));
    return;
  }
  try {
    pattern(text);
  } catch (e) {
    out.push(invalid(at, text, `must be a valid regular expression, but isn't: ${(e as Error).message}`));
  }
}

function checkStructure(s: JsonSchema, at: string, place: Place, out: FieldError[]): void {
  const open = s['x-kubernetes-preserve-unknown-fields'];
  if (s['x-kubernetes-int-or-string']) {
    if (s.type) out.push(forbidden(`${at}.type`, 'must be empty if x-kubernetes-int-or-string is true'));
  } else if (!s.type) {
    if (place === 'root' || !open) out.push(required(`${at}.type`, MISSING_TYPE[place]));
  } else if (!TYPES.includes(s.type)) out.push(notSupported(`${at}.type`, s.type, TYPES));
  else if (place === 'root' && s.type !== 'object')
    out.push(invalid(`${at}.type`, s.type, 'must be object at the root'));
  if (open === false)
    out.push(invalid(`${at}.x-kubernetes-preserve-unknown-fields`, false, 'must be true or undefined'));
  if (s.type === 'array' && !s.items) out.push(required(`${at}.items`, 'must be specified'));
  if (s['x-kubernetes-embedded-resource']) {
    if (place === 'root')
      out.push(forbidden(`${at}.x-kubernetes-embedded-resource`, 'must not be used at the root'));
    if (s.type !== 'object')
      out.push(
        invalid(`${at}.type`, s.type ?? '', 'must be object if x-kubernetes-embedded-resource is true'),
      );
    if (!open && !s.properties)
      out.push(
        required(
          `${at}.properties`,
          'must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields',
        ),
      );
  }
  if (place === 'root' || s['x-kubernetes-embedded-resource']) {
    const meta = s.properties?.['metadata'];
    const more =
      meta && Object.keys(meta).filter((k) => k !== 'type' && k !== 'properties' && k !== 'description');
    const names = Object.keys(meta?.properties ?? {}).filter((k) => k !== 'name' && k !== 'generateName');
    if (more?.length || names.length)
      out.push(
        forbidden(
          `${at}.properties[metadata]`,
          'must not specify anything other than name and generateName, but metadata is implicitly specified',
        ),
      );
  }
  if (place === 'root' && s.nullable)
    out.push(forbidden(`${at}.nullable`, 'nullable cannot be true at the root'));
}

function checkLists(s: JsonSchema, at: string, place: Place, out: FieldError[]): void {
  const listType = s['x-kubernetes-list-type'];
  const keys = s['x-kubernetes-list-map-keys'];
  if (listType !== undefined) {
    if (place === 'values')
      out.push(forbidden(`${at}.x-kubernetes-list-type`, 'must be undefined to be structural'));
    else if (s.type !== 'array')
      out.push(invalid(`${at}.type`, s.type ?? '', 'must be array if x-kubernetes-list-type is specified'));
    if (!['atomic', 'set', 'map'].includes(listType))
      out.push(notSupported(`${at}.x-kubernetes-list-type`, listType, ['atomic', 'set', 'map']));
  }
  if (listType === 'map') {
    const items = s.items;
    if (!keys?.length)
      out.push(
        required(`${at}.x-kubernetes-list-map-keys`, 'must not be empty if x-kubernetes-list-type is map'),
      );
    if (items && items.type !== 'object')
      out.push(
        invalid(
          `${at}.items.type`,
          items.type ?? '',
          "must be object if parent array's x-kubernetes-list-type is map",
        ),
      );
    const seen = new Set<string>();
    keys?.forEach((key, i) => {
      const p = items?.properties && Object.hasOwn(items.properties, key) ? items.properties[key] : undefined;
      if (seen.has(key))
        out.push({
          type: 'Duplicate',
          field: `${at}.x-kubernetes-list-map-keys[${i}]`,
          message: `Duplicate value: ${JSON.stringify(key)}`,
        });
      seen.add(key);
      if (!p)
        out.push(
          invalid(`${at}.x-kubernetes-list-map-keys[${i}]`, key, "must be a property of the items' schema"),
        );
      else if (p.type === 'array' || p.type === 'object')
        out.push(
          invalid(
            `${at}.items.properties[${key}].type`,
            p.type,
            "must be a scalar type if parent array's x-kubernetes-list-type is map",
          ),
        );
      else if (p.default === undefined && !items?.required?.includes(key))
        out.push(
          required(
            `${at}.items.properties[${key}].default`,
            'this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property',
          ),
        );
    });
  } else if (keys?.length)
    out.push(
      forbidden(`${at}.x-kubernetes-list-map-keys`, 'must not be set if x-kubernetes-list-type is not map'),
    );
  if (listType === 'set' && s.items) {
    const atomic =
      s.items.type === 'array'
        ? s.items['x-kubernetes-list-type'] === 'atomic'
        : s.items.type !== 'object' || s.items['x-kubernetes-map-type'] === 'atomic';
    if (!atomic)
      out.push(
        forbidden(
          `${at}.items`,
          'forbidden because parent array is a set of maps or lists that are not atomic',
        ),
      );
    if (s.items.nullable)
      out.push(forbidden(`${at}.items.nullable`, 'cannot be nullable when x-kubernetes-list-type is set'));
  }
  const mapType = s['x-kubernetes-map-type'];
  if (mapType !== undefined) {
    if (s.type !== 'object')
      out.push(invalid(`${at}.type`, s.type ?? '', 'must be object if x-kubernetes-map-type is specified'));
    if (!['atomic', 'granular'].includes(mapType))
      out.push(notSupported(`${at}.x-kubernetes-map-type`, mapType, ['atomic', 'granular']));
  }
}

/** Fields that stand under anyOf and the like must be in the structure too. */
function mirrored(
  values: JsonSchema,
  structure: JsonSchema | undefined,
  at: string,
  main: string,
  depth: number,
  out: FieldError[],
): void {
  if (depth > MAX_DEPTH) throw new RangeError();
  if (structure?.['x-kubernetes-preserve-unknown-fields'] && !structure.properties) return;
  for (const [name, v] of Object.entries(values.properties ?? {})) {
    const there =
      structure?.properties && Object.hasOwn(structure.properties, name)
        ? structure.properties[name]
        : isPlainObject(structure?.additionalProperties)
          ? (structure.additionalProperties as JsonSchema)
          : undefined;
    const own = `${main}.properties[${name}]`;
    if (!there) {
      if (structure?.additionalProperties !== true)
        out.push(required(own, `because it is defined in ${at}.properties[${name}]`));
    } else mirrored(v, there, `${at}.properties[${name}]`, own, depth + 1, out);
  }
  if (values.items) {
    if (!structure?.items) out.push(required(`${main}.items`, `because it is defined in ${at}.items`));
    else mirrored(values.items, structure.items, `${at}.items`, `${main}.items`, depth + 1, out);
  }
}

function checkDefaults(s: JsonSchema, at: string, out: FieldError[]): void {
  if (s.default !== undefined) {
    const field = `${at}.default`;
    const value = deepCopy(s.default);
    if (isPlainObject(value) && s.type === 'object') {
      const unknown = prune(value, s).filter(() => !s['x-kubernetes-embedded-resource']);
      if (unknown.length)
        out.push(invalid(field, s.default, `must not have unknown fields: ${unknown.join(', ')}`));
    }
    out.push(...validateValue(value, s, field));
  }
  for (const [name, p] of Object.entries(s.properties ?? {}))
    checkDefaults(p, `${at}.properties[${name}]`, out);
  if (isPlainObject(s.additionalProperties))
    checkDefaults(s.additionalProperties as JsonSchema, `${at}.additionalProperties`, out);
  if (s.items) checkDefaults(s.items, `${at}.items`, out);
}
