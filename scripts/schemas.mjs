// Makes api/generated/ from @kubernetes/client-node: OpenAPI v2 definitions of every type that the code names in quotes
// (and so of every kind that has a declaration) and of what they refer to. `definitions.json` has descriptions (OpenAPI,
// `kubectl explain`), `fields.json` is the same without (decoding and patching: it stays in memory). Run by
// scripts/build.mjs and, when stale, before the unit tests.
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const packageDir = dirname(dirname(createRequire(import.meta.url).resolve('@kubernetes/client-node')));
const models = join(packageDir, 'dist', 'gen', 'models');
const generated = join(root, 'api', 'generated');

const META = 'io.k8s.apimachinery.pkg.apis.meta.v1';
const CORE = 'io.k8s.api.core.v1';
const QUANTITY = 'io.k8s.apimachinery.pkg.api.resource.Quantity';

/** Facts of Kubernetes' Go types, made by scripts/kubernetes-types.mjs. */
const FACTS = join(here, 'kubernetes-types.json');
const { groups, types } = JSON.parse(readFileSync(FACTS, 'utf8'));

/** Kinds that go over the wire without being named in the code. */
const ALSO = [`${META}.Status`, `${META}.WatchEvent`, `${CORE}.PodTemplate`];

/** Those have no metadata to be known by. */
const KINDS_WITHOUT_METADATA = new Set([`${META}.DeleteOptions`, `${META}.WatchEvent`]);

/** Every definition that the code names in quotes, and so every kind that has a declaration. */
function rootsOf(dir, found = new Set(ALSO)) {
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, e.name);
    if (e.isDirectory()) rootsOf(path, found);
    else if (e.name.endsWith('.ts') && !e.name.endsWith('.test.ts'))
      for (const [, name] of readFileSync(path, 'utf8').matchAll(/'(io\.k8s\.[\w.-]+)'/g))
        if (types[name]) found.add(name);
  }
  return found;
}
const roots = () => [...rootsOf(join(root, 'hub'), rootsOf(join(root, 'api')))].sort();

/** `V1Pod`, `CoreV1Event` … → [group's first part (when several groups have the name), version, name] */
const MODEL = /^([A-Z][a-z]+)?(V\d+(?:(?:alpha|beta)\d+)?)(.+)$/;
const nameOfModel = new Map();
for (const file of readdirSync(models)) {
  const [, prefix, version, name] = MODEL.exec(file.replace(/\.js$/, '')) ?? [];
  if (!file.endsWith('.js') || !version) continue;
  const packages = Object.keys(groups).filter((pkg) => {
    const [group, v] = pkg.split('.').slice(-2);
    return (
      v === version.toLowerCase() && (!prefix || group === prefix.toLowerCase()) && types[`${pkg}.${name}`]
    );
  });
  const pkg = packages.includes(META) ? META : packages[0];
  if (pkg) nameOfModel.set(file.replace(/\.js$/, ''), `${pkg}.${name}`);
}
const modelOfName = new Map([...nameOfModel].map(([model, name]) => [name, model]));

/** Free-form objects: `any` otherwise means RawExtension. */
const JSON_SCHEMA = 'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1';
const SPECIAL = {
  'JSONSchemaProps.items': `${JSON_SCHEMA}.JSONSchemaProps`,
  'JSONSchemaProps.additionalProperties': `${JSON_SCHEMA}.JSONSchemaPropsOrBool`,
  'JSONSchemaProps.default': `${JSON_SCHEMA}.JSON`,
  'JSONSchemaProps.example': `${JSON_SCHEMA}.JSON`,
  'ManagedFieldsEntry.fieldsV1': `${META}.FieldsV1`,
  'WatchEvent.object': 'io.k8s.apimachinery.pkg.runtime.RawExtension',
};

const CONSTANTS = {
  [QUANTITY]: {
    description:
      'A fixed-point number with a decimal (n, u, m, k, M, G, T, P, E), binary (Ki, Mi, Gi, Ti, Pi, Ei) or exponent suffix, such as 100m, 1.5, 128Mi or 1e3.',
    type: 'string',
  },
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString': {
    description: 'A 32-bit integer or a string.',
    type: 'string',
    format: 'int-or-string',
  },
  [`${META}.Time`]: {
    description: 'A time as RFC 3339 with seconds.',
    type: 'string',
    format: 'date-time',
  },
  [`${META}.MicroTime`]: {
    description: 'A time as RFC 3339 with microseconds.',
    type: 'string',
    format: 'date-time',
  },
  [`${META}.FieldsV1`]: {
    description: 'A set of fields in a trie, as server-side apply keeps it.',
    type: 'object',
  },
  'io.k8s.apimachinery.pkg.runtime.RawExtension': { description: 'Any object.', type: 'object' },
  'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON': { description: 'Any JSON value.' },
  'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool': {
    description: 'A schema, or true or false.',
  },
};

/** Types of k8s.io/metrics, of which no package has models. */
function metrics(definitions) {
  const pkg = 'io.k8s.metrics.pkg.apis.metrics.v1beta1';
  const said = (description, rest) => ({ description, ...rest });
  const usage = said(
    'Quantity used of each resource: cpu in cores on average over the window, memory in bytes.',
    {
      type: 'object',
      additionalProperties: ref(QUANTITY),
    },
  );
  const define = (kind, description, properties, required) => {
    definitions[`${pkg}.${kind}`] = { description, type: 'object', required, properties };
    return definitions[`${pkg}.${kind}`];
  };
  const gvk = (kind) => [{ group: 'metrics.k8s.io', kind, version: 'v1beta1' }];
  const typed = {
    apiVersion: said('Version of the schema of this representation.', { type: 'string' }),
    kind: said('Name of the resource that this object represents.', { type: 'string' }),
  };
  define(
    'ContainerMetrics',
    'What one container uses.',
    { name: said('Name of the container in the pod.', { type: 'string' }), usage },
    ['name', 'usage'],
  );
  for (const [kind, description, own] of [
    ['NodeMetrics', 'What a node uses, on average over a window of time.', { usage }],
    [
      'PodMetrics',
      'What the containers of a pod use, on average over a window of time.',
      {
        containers: said('All running containers of the pod, measured over the same window.', {
          type: 'array',
          items: ref(`${pkg}.ContainerMetrics`),
          'x-kubernetes-list-type': 'atomic',
        }),
      },
    ],
  ]) {
    const all = {
      ...typed,
      metadata: said("The object's metadata.", ref(`${META}.ObjectMeta`)),
      timestamp: said('End of the window.', ref(`${META}.Time`)),
      window: said('Length of the window, as Go writes durations.', { type: 'string' }),
      ...own,
    };
    define(kind, description, all, ['timestamp', 'window', ...Object.keys(own)])[
      'x-kubernetes-group-version-kind'
    ] = gvk(kind);
    const list = {
      ...typed,
      metadata: said("The list's metadata.", ref(`${META}.ListMeta`)),
      items: said(`List of ${kind}.`, { type: 'array', items: ref(`${pkg}.${kind}`) }),
    };
    define(`${kind}List`, `${kind}List is a list of ${kind}.`, list, ['items'])[
      'x-kubernetes-group-version-kind'
    ] = gvk(`${kind}List`);
  }
  return [`${META}.ObjectMeta`, `${META}.ListMeta`];
}

const ref = (name) => ({ $ref: `#/definitions/${name}` });

/** Doc comments and required-ness of one model, from its .d.ts. */
function declarations(model) {
  const text = readFileSync(join(models, `${model}.d.ts`), 'utf8');
  const plain = (doc) =>
    doc
      .split('\n')
      .map((l) => l.replace(/^\s*\* ?/, ''))
      .join('\n')
      .trim()
      .replace(/\\(["'`\\])/g, '$1')
      .replace(/\*\\\//g, '*/');
  const own = /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s*export declare class/.exec(text);
  const fields = new Map();
  const FIELD = /(?:\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s*)?^ {4}'([^']+)'(\??):/gm;
  for (const m of text.matchAll(FIELD))
    fields.set(m[2], { description: m[1] ? plain(m[1]) : undefined, required: m[3] === '' });
  return { description: own ? plain(own[1]) : undefined, fields };
}

export async function makeDefinitions() {
  const definitions = { ...CONSTANTS };
  const seen = new Set();
  const pending = [];

  const SCALARS = {
    string: (format) => (format ? { type: 'string', format } : { type: 'string' }),
    number: (format) => ({ type: format === 'double' ? 'number' : 'integer', format: format || 'int32' }),
    boolean: () => ({ type: 'boolean' }),
    any: () => ref('io.k8s.apimachinery.pkg.runtime.RawExtension'),
    Date: () => ref(`${META}.Time`),
    V1MicroTime: () => ref(`${META}.MicroTime`),
    IntOrString: () => ref('io.k8s.apimachinery.pkg.util.intstr.IntOrString'),
  };

  const typeOf = (type, format) => {
    const array = /^Array<(.*)>$/.exec(type);
    if (array) return { type: 'array', items: typeOf(array[1], format) };
    const map = /^\{ \[key: string\]: (.*); \}$/.exec(type);
    if (map) return { type: 'object', additionalProperties: typeOf(map[1], format) };
    const scalar = SCALARS[type];
    if (scalar) return scalar(format);
    const name = nameOfModel.get(type);
    if (!name) throw new Error(`scripts/kubernetes-types.json has no type for the model ${type}`);
    pending.push(name);
    return ref(name);
  };

  const propertyOf = ({ baseName, type, format }, path, fact = {}) => {
    let property = SPECIAL[path] ? ref(SPECIAL[path]) : typeOf(type, format);
    if (fact.quantity) {
      const { type: form } = property;
      if (form === 'object') property = { type: form, additionalProperties: ref(QUANTITY) };
      else property = form === 'array' ? { type: form, items: ref(QUANTITY) } : ref(QUANTITY);
    }
    if (property.type === 'array') {
      const { type: listType = 'atomic', keys } = fact.list ?? {};
      property['x-kubernetes-list-type'] = listType;
      if (listType === 'map') property['x-kubernetes-list-map-keys'] = keys ?? [fact.mergeKey];
      // Bytes are a list in Go and text in JSON.
    } else if (fact.list && property.format !== 'byte') throw new Error(`${path} (${baseName}) is no list`);
    if (fact.mergeKey) property['x-kubernetes-patch-merge-key'] = fact.mergeKey;
    if (fact.strategy) property['x-kubernetes-patch-strategy'] = fact.strategy;
    if (fact.atomic) property['x-kubernetes-map-type'] = 'atomic';
    // As in Kubernetes' own document: a struct that is no pointer is always there.
    const value = fact.embedded ? {} : fact.default;
    if (value !== undefined) property.default = value;
    return property;
  };

  /** The definition of one type; what it refers to is pending then. */
  const define = async (name) => {
    const model = modelOfName.get(name);
    if (!model) throw new Error(`@kubernetes/client-node has no model of ${name}`);
    const { description, fields } = declarations(model);
    const definition = { description, type: 'object', properties: {} };
    definitions[name] = definition;
    const facts = types[name];
    const module = await import(pathToFileURL(join(models, `${model}.js`)).href);
    for (const attribute of module[model].getAttributeTypeMap()) {
      const { name: member, baseName } = attribute;
      const path = `${name.slice(name.lastIndexOf('.') + 1)}.${baseName}`;
      seen.add(path);
      const doc = fields.get(member);
      if (!doc) throw new Error(`${model}.${baseName} is not in its declaration file`);
      const property = propertyOf(attribute, path, facts.fields?.[baseName]);
      definition.properties[baseName] = doc.description
        ? { description: doc.description, ...property }
        : property;
      if (doc.required) {
        definition.required ??= [];
        definition.required.push(baseName);
      }
    }
    if (facts.atomic) definition['x-kubernetes-map-type'] = 'atomic';
  };

  pending.push(...metrics(definitions));
  for (const name of roots()) {
    await define(name);
    const { apiVersion, kind } = definitions[name].properties;
    // ObjectReference and the like have both, but are no kinds; Status and the like have no list.
    const isKind = apiVersion && kind && definitions[name].properties.metadata;
    if (!isKind && !KINDS_WITHOUT_METADATA.has(name)) continue;
    for (const n of [name, `${name}List`]) {
      if (!modelOfName.has(n)) continue;
      if (!definitions[n]) await define(n);
      const dot = n.lastIndexOf('.');
      const pkg = n.slice(0, dot);
      const group = pkg === META ? '' : groups[pkg];
      definitions[n]['x-kubernetes-group-version-kind'] = [
        { group, kind: n.slice(dot + 1), version: pkg.slice(pkg.lastIndexOf('.') + 1) },
      ];
    }
  }
  for (let name = pending.shift(); name; name = pending.shift()) if (!definitions[name]) await define(name);

  // A fact about a field that no model has is a typing error here or a change there: say so, do not drop it silently.
  for (const path of Object.keys(SPECIAL))
    if (!seen.has(path)) throw new Error(`scripts/schemas.mjs: no model has ${path}`);
  return Object.fromEntries(Object.entries(definitions).sort(([a], [b]) => (a < b ? -1 : 1)));
}

const bareOf = (v) => {
  if (Array.isArray(v)) return v.map(bareOf);
  if (typeof v !== 'object' || v === null) return v;
  return Object.fromEntries(
    Object.entries(v)
      .filter(([k, x]) => !(k === 'description' && typeof x === 'string'))
      .map(([k, x]) => [k, bareOf(x)]),
  );
};

/** Writes the files; returns where. */
export async function generate(outputs = [generated]) {
  const definitions = await makeDefinitions();
  for (const dir of outputs) {
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'definitions.json'), JSON.stringify(definitions));
    writeFileSync(join(dir, 'fields.json'), JSON.stringify(bareOf(definitions)));
  }
  return outputs;
}

const stamp = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

/** vitest's globalSetup: generates when absent, older than what it is made from, or without a definition that is wanted. */
export async function setup() {
  const fields = join(generated, 'fields.json');
  const made = stamp(fields);
  const stale = [fileURLToPath(import.meta.url), FACTS, join(packageDir, 'package.json')].some(
    (source) => made < stamp(source),
  );
  const definitions = stale ? {} : JSON.parse(readFileSync(fields, 'utf8'));
  if (stale || roots().some((name) => !definitions[name])) await generate();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = join(root, 'dist', 'api');
  await generate(existsSync(built) ? [generated, join(built, 'generated')] : [generated]);
}
