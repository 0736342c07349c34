import type { Kind } from '../../api/kinds/kind.js';
import type { Definitions, Schema } from '../../api/kinds/schema.js';
import { PATCH_TYPES } from '../registry/api.js';
import { rootOf, subresourcesOf } from './discovery.js';

const META = 'io.k8s.apimachinery.pkg.apis.meta.v1';
const REF = '#/definitions/';
const V3_REF = '#/components/schemas/';

/** The names of `roots` and of all that they refer to. */
function closure(roots: readonly string[], definitions: Definitions): string[] {
  const found = new Set<string>();
  const pending = [...roots];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const schema = definitions[name];
    if (!schema || found.has(name)) continue;
    found.add(name);
    for (const [, ref] of JSON.stringify(schema).matchAll(/"\$ref":"#\/definitions\/([^"]+)"/g))
      pending.push(ref!);
  }
  return [...found].sort();
}

const usedBy = (kinds: readonly Kind[], definitions: Definitions): string[] =>
  closure(
    [
      ...kinds.flatMap((k) =>
        k.verbs && !k.verbs.includes('list') ? [k.schema] : [k.schema, `${k.schema}List`],
      ),
      ...kinds.flatMap((k) => subresourcesOf(k).flatMap((s) => schemaOfPart(k, s.name) ?? [])),
      `${META}.Status`,
      `${META}.DeleteOptions`,
      `${META}.WatchEvent`,
    ],
    definitions,
  );

/** The definitions of kinds that CustomResourceDefinitions made, and of their lists. */
export function customDefinitions(kinds: readonly Kind[], described: Definitions): Definitions {
  const out: Record<string, Schema> = {};
  // Said of every kind in the same words.
  const common = described['io.k8s.api.core.v1.ConfigMap']?.properties ?? {};
  for (const k of kinds) {
    if (!k.custom) continue;
    const { schema } = k.custom;
    const { apiVersion, kind } = { ...schema.properties, ...pick(common, 'apiVersion', 'kind') };
    out[k.schema] = schema.properties?.['apiVersion']
      ? { ...schema, properties: { ...schema.properties, ...pick(common, 'apiVersion', 'kind') } }
      : schema;
    out[`${k.schema}List`] = {
      description: `${k.kind}List is a list of ${k.kind}`,
      type: 'object',
      required: ['items'],
      properties: {
        ...(apiVersion ? { apiVersion } : {}),
        ...(kind ? { kind } : {}),
        items: {
          description: `List of ${k.plural}.`,
          type: 'array',
          items: { $ref: REF + k.schema },
        },
        metadata: { description: 'Standard metadata of lists.', $ref: `${REF}${META}.ListMeta` },
      },
      'x-kubernetes-group-version-kind': [{ group: k.group, kind: `${k.kind}List`, version: k.version }],
    };
  }
  return out;
}

const pick = (from: Readonly<Record<string, Schema>>, ...keys: string[]): Record<string, Schema> =>
  Object.fromEntries(keys.flatMap((k) => (from[k] ? [[k, from[k]]] : [])));

const ABOUT_OPEN = new Set(['type', 'x-kubernetes-group-version-kind', 'x-kubernetes-selectable-fields']);

/** What OpenAPI v2 cannot say of a custom kind, left out as Kubernetes does: clients of v2 would take it wrongly. */
function toV2(schema: Schema): Schema {
  const { oneOf, anyOf, allOf, not, nullable, ...said } = schema as Schema & Record<string, unknown>;
  const { type, items, properties, additionalProperties, ...rest } = said;
  const open = nullable || (rest as Record<string, unknown>)['x-kubernetes-preserve-unknown-fields'];
  // Of an object that may hold anything kubectl may know nothing but what it is.
  if (open && rest['x-kubernetes-group-version-kind'])
    return Object.fromEntries(Object.entries(schema).filter(([k]) => ABOUT_OPEN.has(k)));
  if (open) return rest;
  return {
    ...rest,
    ...(type ? { type } : {}),
    ...(items ? { items: toV2(items) } : {}),
    ...(additionalProperties ? { additionalProperties: toV2(additionalProperties) } : {}),
    ...(properties
      ? { properties: Object.fromEntries(Object.entries(properties).map(([k, v]) => [k, toV2(v)])) }
      : {}),
  };
}

/** The OpenAPI v2 document of a set of kinds, from their declarations and the generated definitions. */
export function openApiV2(kinds: readonly Kind[], definitions: Definitions, version: string): object {
  const custom = new Set(kinds.filter((k) => k.custom).map((k) => k.schema));
  return {
    swagger: '2.0',
    info: { title: 'Kubernetes', version },
    paths: Object.fromEntries(
      pathsOf(kinds).map((p) => [
        p.path,
        {
          ...Object.fromEntries(p.operations.map((o) => [o.method, operationV2(o)])),
          ...withParameters(
            p.parameters.map((q) => ({
              name: q.name,
              in: 'path',
              required: true,
              type: 'string',
              description: q.description,
              uniqueItems: true,
            })),
          ),
        },
      ]),
    ),
    definitions: Object.fromEntries(
      usedBy(kinds, definitions).map((name) => [
        name,
        custom.has(name) ? toV2(definitions[name]!) : definitions[name],
      ]),
    ),
  };
}

/** The same as OpenAPI v3. */
export function openApiV3(kinds: readonly Kind[], definitions: Definitions, version: string): object {
  return {
    openapi: '3.0.0',
    info: { title: 'Kubernetes', version },
    paths: Object.fromEntries(
      pathsOf(kinds).map((p) => [
        p.path,
        {
          ...Object.fromEntries(p.operations.map((o) => [o.method, operationV3(o)])),
          ...withParameters(
            p.parameters.map((q) => ({
              name: q.name,
              in: 'path',
              required: true,
              description: q.description,
              schema: { type: 'string', uniqueItems: true },
            })),
          ),
        },
      ]),
    ),
    components: {
      schemas: Object.fromEntries(usedBy(kinds, definitions).map((name) => [name, toV3(definitions[name]!)])),
    },
  };
}

/** A v2 schema as OpenAPI 3.0 has it. */
function toV3(schema: Schema): object {
  const { $ref, items, additionalProperties, properties, ...rest } = schema;
  if ($ref !== undefined) {
    const target = { $ref: V3_REF + $ref.slice(REF.length) };
    // Beside a `$ref` nothing else counts, so what is said of the field goes around it.
    return Object.keys(rest).length > 0 ? { ...rest, allOf: [target] } : target;
  }
  if (rest.format === 'int-or-string') {
    const { type: _, ...untyped } = rest;
    return { ...untyped, oneOf: [{ type: 'integer' }, { type: 'string' }] };
  }
  return {
    ...rest,
    ...(items ? { items: toV3(items) } : {}),
    ...(additionalProperties ? { additionalProperties: toV3(additionalProperties) } : {}),
    ...(properties
      ? { properties: Object.fromEntries(Object.entries(properties).map(([k, v]) => [k, toV3(v)])) }
      : {}),
  };
}

interface Parameter {
  name: string;
  description: string;
  type?: 'string' | 'boolean' | 'integer';
}

interface Operation {
  method: 'get' | 'put' | 'post' | 'patch' | 'delete';
  id: string;
  description: string;
  action: string;
  gvk: { group: string; version: string; kind: string };
  tag: string;
  query: readonly Parameter[];
  /** Definition of the body; '' for a patch. */
  body?: string;
  bodyTypes: readonly string[];
  /** Definition of the answer; absent: text. */
  answer?: string;
  code: number;
}

const DRY_RUN: Parameter = {
  name: 'dryRun',
  description: 'All: everything is checked and answered, nothing is written.',
};
const FIELD_MANAGER: Parameter = {
  name: 'fieldManager',
  description: 'The name under which the changed fields are recorded.',
};
const FIELD_VALIDATION: Parameter = {
  name: 'fieldValidation',
  description: 'What happens to unknown and duplicate fields: Ignore, Warn (the default) or Strict.',
};
const WRITE: readonly Parameter[] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const FORCE: Parameter = {
  name: 'force',
  description: 'Takes over fields that others manage (apply patches only).',
  type: 'boolean',
};
const PRETTY: Parameter = { name: 'pretty', description: 'Indents the answer.' };
const SELECTORS: readonly Parameter[] = [
  {
    name: 'labelSelector',
    description: 'Restricts the list of returned objects to those whose labels match.',
  },
  {
    name: 'fieldSelector',
    description: 'Restricts the list of returned objects to those whose fields match.',
  },
];
const LIST: readonly Parameter[] = [
  {
    name: 'allowWatchBookmarks',
    description: 'Asks for events of type BOOKMARK in a watch.',
    type: 'boolean',
  },
  { name: 'continue', description: 'Goes on with a list in chunks, from the token of the chunk before.' },
  ...SELECTORS,
  { name: 'limit', description: 'The most objects to answer at once.', type: 'integer' },
  {
    name: 'resourceVersion',
    description: 'The revision that the answer must be as new as, or that a watch starts after.',
  },
  {
    name: 'resourceVersionMatch',
    description: 'How resourceVersion applies to lists: Exact or NotOlderThan.',
  },
  {
    name: 'sendInitialEvents',
    description: 'Starts a watch with what exists, ended by a bookmark.',
    type: 'boolean',
  },
  { name: 'timeoutSeconds', description: 'Ends a watch after this long.', type: 'integer' },
  {
    name: 'watch',
    description: 'Watch for changes to the described resources instead of listing them.',
    type: 'boolean',
  },
];
const DELETE: readonly Parameter[] = [
  DRY_RUN,
  {
    name: 'gracePeriodSeconds',
    description: 'How long the object may take to end; 0 is at once.',
    type: 'integer',
  },
  { name: 'propagationPolicy', description: 'What happens to dependents: Orphan, Background or Foreground.' },
];
const LOG: readonly Parameter[] = [
  { name: 'container', description: 'The container; may be left out when the pod has one only.' },
  { name: 'follow', description: 'Goes on as the log grows.', type: 'boolean' },
  { name: 'limitBytes', description: 'Ends the answer after this many bytes.', type: 'integer' },
  { name: 'previous', description: 'The log of the instance before the last restart.', type: 'boolean' },
  { name: 'sinceSeconds', description: 'Only what is younger than this.', type: 'integer' },
  { name: 'sinceTime', description: 'Only what was written after this time (RFC 3339).' },
  { name: 'tailLines', description: 'Only this many last lines.', type: 'integer' },
  { name: 'timestamps', description: 'Begins every line with its time.', type: 'boolean' },
];
const PROCESS: readonly Parameter[] = [
  { name: 'container', description: 'The container; may be left out when the pod has one only.' },
  { name: 'stderr', description: 'Passes on what is written to standard error.', type: 'boolean' },
  { name: 'stdin', description: 'Passes on input.', type: 'boolean' },
  { name: 'stdout', description: 'Passes on what is written to standard output.', type: 'boolean' },
  { name: 'tty', description: 'With a terminal.', type: 'boolean' },
];
/** Parts of a pod that upgrade their connection. */
const CONNECT: Readonly<Record<string, readonly Parameter[]>> = {
  attach: PROCESS,
  exec: [{ name: 'command', description: 'The command and its arguments, one each; no shell.' }, ...PROCESS],
  portforward: [{ name: 'ports', description: 'Ports to forward, over a WebSocket.', type: 'integer' }],
  proxy: [{ name: 'path', description: 'The path to ask for; it may follow `proxy/` as well.' }],
};
const CONNECT_METHODS = ['get', 'post'] as const;
const PROXY_METHODS = [...CONNECT_METHODS, 'delete', 'put', 'patch'] as const;
const NAME: Parameter = { name: 'name', description: 'name of the object' };
const NAMESPACE: Parameter = {
  name: 'namespace',
  description: 'object name and auth scope, such as for teams and projects',
};
const OBJECT_TYPES = ['application/json', 'application/yaml'];

/** The definition that a subresource answers with; undefined: text. */
function schemaOfPart(k: Kind, part: string): string | undefined {
  const OTHER: Readonly<Record<string, string>> = {
    scale: 'io.k8s.api.autoscaling.v1.Scale',
    binding: 'io.k8s.api.core.v1.Binding',
    eviction: 'io.k8s.api.policy.v1.Eviction',
    token: 'io.k8s.api.authentication.v1.TokenRequest',
  };
  return part === 'log' ? undefined : (OTHER[part] ?? k.schema);
}

/** Every path of the given kinds with its operations, from the declarations alone. */
function pathsOf(
  kinds: readonly Kind[],
): { path: string; parameters: Parameter[]; operations: Operation[] }[] {
  const out: { path: string; parameters: Parameter[]; operations: Operation[] }[] = [];
  for (const k of kinds) {
    const base = `/${rootOf(k)}`;
    const gvk = { group: k.group, version: k.version, kind: k.kind };
    const version = k.version[0]!.toUpperCase() + k.version.slice(1);
    const group = k.group === '' ? 'Core' : k.group.split('.')[0]!.replace(/^./, (c) => c.toUpperCase());
    const tag = `${group.toLowerCase()}_${k.version}`;
    const scope = k.namespaced ? 'Namespaced' : '';
    const collection = k.namespaced ? `${base}/namespaces/{namespace}/${k.plural}` : `${base}/${k.plural}`;
    const outer = k.namespaced ? [NAMESPACE] : [];
    const make = (
      o: Omit<Operation, 'id' | 'gvk' | 'tag' | 'bodyTypes' | 'code'> & {
        verb: string;
        what?: string;
        gvk?: Operation['gvk'];
        code?: number;
        bodyTypes?: readonly string[];
      },
    ): Operation => ({
      bodyTypes: OBJECT_TYPES,
      code: 200,
      tag,
      ...o,
      id: `${o.verb}${group}${version}${o.what ?? `${scope}${k.kind}`}`,
      gvk: o.gvk ?? gvk,
    });
    const listOf = (id: string | undefined) =>
      make({
        method: 'get',
        verb: 'list',
        what: id,
        action: 'list',
        description: `list or watch objects of kind ${k.kind}`,
        query: [PRETTY, ...LIST],
        answer: `${k.schema}List`,
      });

    const create = make({
      method: 'post',
      verb: 'create',
      action: 'post',
      description: `create a ${k.kind}`,
      query: [PRETTY, ...WRITE],
      body: k.schema,
      answer: k.schema,
      code: 201,
    });
    const read = (schema: string, what: string | undefined, of: Operation['gvk']): Operation =>
      make({
        method: 'get',
        verb: 'read',
        what,
        gvk: of,
        action: 'get',
        description: `read the specified ${k.kind}`,
        query: [PRETTY],
        answer: schema,
      });
    const everywhere = {
      path: `${base}/${k.plural}`,
      parameters: [],
      operations: [listOf(`${k.kind}ForAllNamespaces`)],
    };
    if (k.verbs) {
      const lists = k.verbs.includes('list');
      const operations = [
        ...(lists ? [listOf(undefined)] : []),
        ...(k.verbs.includes('create') ? [create] : []),
      ];
      out.push({ path: collection, parameters: outer, operations });
      if (lists && k.namespaced) out.push(everywhere);
      if (k.verbs.includes('get'))
        out.push({
          path: `${collection}/{name}`,
          parameters: [NAME, ...outer],
          operations: [read(k.schema, undefined, gvk)],
        });
      continue;
    }
    out.push({
      path: collection,
      parameters: outer,
      operations: [
        listOf(undefined),
        create,
        make({
          method: 'delete',
          verb: 'delete',
          what: `Collection${scope}${k.kind}`,
          action: 'deletecollection',
          description: `delete collection of ${k.kind}`,
          query: [PRETTY, ...DELETE, ...SELECTORS],
          body: `${META}.DeleteOptions`,
          answer: `${META}.Status`,
        }),
      ],
    });
    if (k.namespaced) out.push(everywhere);
    const readWrite = (schema: string, what: string | undefined, of: Operation['gvk']): Operation[] => [
      read(schema, what, of),
      make({
        method: 'put',
        verb: 'replace',
        what,
        gvk: of,
        action: 'put',
        description: `replace the specified ${k.kind}`,
        query: [PRETTY, ...WRITE],
        body: schema,
        answer: schema,
      }),
      make({
        method: 'patch',
        verb: 'patch',
        what,
        gvk: of,
        action: 'patch',
        description: `partially update the specified ${k.kind}`,
        query: [PRETTY, ...WRITE, FORCE],
        body: '',
        bodyTypes: Object.values(PATCH_TYPES).filter((t) => !k.custom || t !== PATCH_TYPES.strategic),
        answer: schema,
      }),
    ];
    out.push({
      path: `${collection}/{name}`,
      parameters: [NAME, ...outer],
      operations: [
        ...readWrite(k.schema, undefined, gvk),
        make({
          method: 'delete',
          verb: 'delete',
          action: 'delete',
          description: `delete a ${k.kind}`,
          query: [PRETTY, ...DELETE],
          body: `${META}.DeleteOptions`,
          answer: `${META}.Status`,
        }),
      ],
    });
    for (const s of subresourcesOf(k)) {
      const schema = schemaOfPart(k, s.name);
      const of = { group: s.group ?? k.group, version: s.version ?? k.version, kind: s.kind ?? k.kind };
      const what = `${scope}${k.kind}${s.name[0]!.toUpperCase()}${s.name.slice(1)}`;
      const connects = CONNECT[s.name];
      const connect = (method: (typeof PROXY_METHODS)[number]) =>
        make({
          method,
          verb: 'connect',
          what: `${method[0]!.toUpperCase()}${method.slice(1)}${what}`,
          gvk: of,
          action: 'connect',
          description: `connect ${method.toUpperCase()} requests to ${s.name} of ${k.kind}`,
          query: connects!,
        });
      const operations = connects
        ? (s.name === 'proxy' ? PROXY_METHODS : CONNECT_METHODS).map(connect)
        : s.verbs.includes('create')
          ? [
              make({
                method: 'post',
                verb: 'create',
                what,
                gvk: of,
                action: 'post',
                description: `create ${s.name} of a ${k.kind}`,
                query: [PRETTY, ...WRITE],
                body: schema!,
                answer: schema!,
                code: 201,
              }),
            ]
          : schema === undefined
            ? [
                make({
                  method: 'get',
                  verb: 'read',
                  what,
                  gvk: of,
                  action: 'get',
                  description: `read ${s.name} of the specified ${k.kind}`,
                  query: LOG,
                }),
              ]
            : readWrite(schema, what, of);
      out.push({ path: `${collection}/{name}/${s.name}`, parameters: [NAME, ...outer], operations });
    }
  }
  return out;
}

const shared = (o: Operation) => ({
  description: o.description,
  operationId: o.id,
  tags: [o.tag],
  'x-kubernetes-action': o.action,
  'x-kubernetes-group-version-kind': o.gvk,
});

function operationV2(o: Operation): object {
  const body =
    o.body === undefined
      ? []
      : [
          {
            name: 'body',
            in: 'body',
            required: o.action !== 'delete' && o.action !== 'deletecollection',
            schema: o.body ? { $ref: REF + o.body } : { type: 'object' },
          },
        ];
  const answer = o.answer ? { schema: { $ref: REF + o.answer } } : { schema: { type: 'string' } };
  return {
    ...shared(o),
    consumes: o.body === undefined ? ['*/*'] : o.bodyTypes,
    produces: o.answer ? OBJECT_TYPES : ['text/plain'],
    schemes: ['https'],
    ...withParameters([
      ...o.query.map((q) => ({
        name: q.name,
        in: 'query',
        description: q.description,
        type: q.type ?? 'string',
        uniqueItems: true,
      })),
      ...body,
    ]),
    responses: {
      [o.code]: { description: o.code === 201 ? 'Created' : 'OK', ...answer },
      401: { description: 'Unauthorized' },
    },
  };
}

/** A list that is empty is not written: Go's types would not write it either, and some clients compare. */
const withParameters = (parameters: readonly object[]): object => (parameters.length ? { parameters } : {});

function operationV3(o: Operation): object {
  const schema = o.body ? { $ref: V3_REF + o.body } : { type: 'object' };
  const answer = o.answer ? { $ref: V3_REF + o.answer } : { type: 'string' };
  return {
    ...shared(o),
    ...withParameters(
      o.query.map((q) => ({
        name: q.name,
        in: 'query',
        description: q.description,
        schema: { type: q.type ?? 'string', uniqueItems: true },
      })),
    ),
    ...(o.body === undefined
      ? {}
      : {
          requestBody: {
            content: Object.fromEntries(o.bodyTypes.map((t) => [t, { schema }])),
            required: o.action !== 'delete' && o.action !== 'deletecollection',
          },
        }),
    responses: {
      [o.code]: {
        description: o.code === 201 ? 'Created' : 'OK',
        content: Object.fromEntries(
          (o.answer ? OBJECT_TYPES : ['text/plain']).map((t) => [t, { schema: answer }]),
        ),
      },
      401: { description: 'Unauthorized' },
    },
  };
}
