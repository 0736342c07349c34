// Makes api/generated/ from @kubernetes/client-node: OpenAPI v2 definitions of every kind that is served and of what
// they refer to. `definitions.json` has descriptions (OpenAPI, `kubectl explain`), `fields.json` is the same without
// (decoding and patching: it stays in memory). Run by scripts/build.mjs and, when stale, before the unit tests.
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const packageDir = dirname(dirname(createRequire(import.meta.url).resolve('@kubernetes/client-node')));
const models = join(packageDir, 'dist', 'gen', 'models');

const META = 'io.k8s.apimachinery.pkg.apis.meta.v1';
const CORE = 'io.k8s.api.core.v1';
const QUANTITY = 'io.k8s.apimachinery.pkg.api.resource.Quantity';

/** Model class → [package, group, version, kind] for what has a kind; the walk below finds everything else from here. */
const ROOTS = [
  ...[
    'Namespace',
    'Node',
    'Pod',
    'ConfigMap',
    'Secret',
    'ServiceAccount',
    'PodTemplate',
    'Binding',
    'Event',
  ].map((kind) => [kind === 'Event' ? 'CoreV1Event' : `V1${kind}`, CORE, '', 'v1', kind]),
  ['V1Lease', 'io.k8s.api.coordination.v1', 'coordination.k8s.io', 'v1', 'Lease'],
  ['V1RuntimeClass', 'io.k8s.api.node.v1', 'node.k8s.io', 'v1', 'RuntimeClass'],
  ['V1Deployment', 'io.k8s.api.apps.v1', 'apps', 'v1', 'Deployment'],
  ['V1ReplicaSet', 'io.k8s.api.apps.v1', 'apps', 'v1', 'ReplicaSet'],
  ...['Role', 'ClusterRole', 'RoleBinding', 'ClusterRoleBinding'].map((kind) => [
    `V1${kind}`,
    'io.k8s.api.rbac.v1',
    'rbac.authorization.k8s.io',
    'v1',
    kind,
  ]),
  [
    'V1CertificateSigningRequest',
    'io.k8s.api.certificates.v1',
    'certificates.k8s.io',
    'v1',
    'CertificateSigningRequest',
  ],
  ...[
    'SubjectAccessReview',
    'SelfSubjectAccessReview',
    'LocalSubjectAccessReview',
    'SelfSubjectRulesReview',
  ].map((kind) => [`V1${kind}`, 'io.k8s.api.authorization.v1', 'authorization.k8s.io', 'v1', kind]),
  ...['TokenReview', 'SelfSubjectReview', 'TokenRequest'].map((kind) => [
    kind === 'TokenRequest' ? 'AuthenticationV1TokenRequest' : `V1${kind}`,
    'io.k8s.api.authentication.v1',
    'authentication.k8s.io',
    'v1',
    kind,
  ]),
  ['V1Scale', 'io.k8s.api.autoscaling.v1', 'autoscaling', 'v1', 'Scale'],
  ['V1Eviction', 'io.k8s.api.policy.v1', 'policy', 'v1', 'Eviction'],
  [
    'V1CustomResourceDefinition',
    'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1',
    'apiextensions.k8s.io',
    'v1',
    'CustomResourceDefinition',
  ],
  ['V1Status', META, '', 'v1', 'Status'],
  ['V1DeleteOptions', META, '', 'v1', 'DeleteOptions'],
  ['V1WatchEvent', META, '', 'v1', 'WatchEvent'],
];
const WITHOUT_LIST = new Set([
  'Binding',
  'Scale',
  'Eviction',
  'Status',
  'DeleteOptions',
  'WatchEvent',
  'PodTemplate',
  'SubjectAccessReview',
  'SelfSubjectAccessReview',
  'LocalSubjectAccessReview',
  'SelfSubjectRulesReview',
  'TokenReview',
  'SelfSubjectReview',
  'TokenRequest',
]);

/** What belongs to meta/v1 wherever it is found first. */
const META_MODELS = new Set(
  `ObjectMeta ListMeta OwnerReference ManagedFieldsEntry LabelSelector LabelSelectorRequirement Status StatusDetails
   StatusCause DeleteOptions Preconditions Condition WatchEvent FieldSelectorRequirement`
    .split(/\s+/)
    .map((n) => `V1${n}`),
);

/** Facts of Kubernetes' Go types that the package flattens to string: resource quantities. */
const QUANTITIES = new Set(
  `ResourceRequirements.limits ResourceRequirements.requests VolumeResourceRequirements.limits
   VolumeResourceRequirements.requests NodeStatus.capacity NodeStatus.allocatable Overhead.podFixed PodSpec.overhead
   EmptyDirVolumeSource.sizeLimit ResourceFieldSelector.divisor ContainerStatus.allocatedResources
   PodStatus.allocatedResources NodeAllocatableResourceClaimStatus.resources`.split(/\s+/),
);

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

/**
 * Merge keys and strategies, facts of Kubernetes' Go struct tags: field → [patchMergeKey, patchStrategy, list type,
 * list map keys]. A list that is not here is atomic.
 */
const LISTS = {
  'PodSpec.volumes': ['name', 'merge,retainKeys', 'map'],
  'PodSpec.initContainers': ['name', 'merge', 'map'],
  'PodSpec.containers': ['name', 'merge', 'map'],
  'PodSpec.ephemeralContainers': ['name', 'merge', 'map'],
  'PodSpec.imagePullSecrets': ['name', 'merge', 'map'],
  'PodSpec.hostAliases': ['ip', 'merge', 'map'],
  'PodSpec.topologySpreadConstraints': ['topologyKey', 'merge', 'map', ['topologyKey', 'whenUnsatisfiable']],
  'PodSpec.schedulingGates': ['name', 'merge', 'map'],
  'PodSpec.resourceClaims': ['name', 'merge,retainKeys', 'map'],
  'Container.ports': ['containerPort', 'merge', 'map', ['containerPort', 'protocol']],
  'Container.env': ['name', 'merge', 'map'],
  'Container.volumeMounts': ['mountPath', 'merge', 'map'],
  'Container.volumeDevices': ['devicePath', 'merge', 'map'],
  'EphemeralContainer.ports': ['containerPort', 'merge', 'map', ['containerPort', 'protocol']],
  'EphemeralContainer.env': ['name', 'merge', 'map'],
  'EphemeralContainer.volumeMounts': ['mountPath', 'merge', 'map'],
  'EphemeralContainer.volumeDevices': ['devicePath', 'merge', 'map'],
  'ResourceRequirements.claims': [undefined, undefined, 'map', ['name']],
  'PodStatus.conditions': ['type', 'merge', 'map'],
  'PodStatus.podIPs': ['ip', 'merge', 'map'],
  'PodStatus.hostIPs': ['ip', 'merge', 'atomic'],
  'PodStatus.resourceClaimStatuses': ['name', 'merge,retainKeys', 'map'],
  'ContainerStatus.volumeMounts': ['mountPath', 'merge', 'map'],
  'ContainerStatus.allocatedResourcesStatus': ['name', 'merge', 'map'],
  'NodeSpec.podCIDRs': [undefined, 'merge', 'set'],
  'NodeStatus.conditions': ['type', 'merge', 'map'],
  'NodeStatus.addresses': ['type', 'merge', 'map'],
  'NamespaceStatus.conditions': ['type', 'merge', 'map'],
  'ServiceAccount.secrets': ['name', 'merge', 'map'],
  'ObjectMeta.ownerReferences': ['uid', 'merge', 'map'],
  'ObjectMeta.finalizers': [undefined, 'merge', 'set'],
  'DeploymentStatus.conditions': ['type', 'merge', 'map'],
  'ReplicaSetStatus.conditions': ['type', 'merge', 'map'],
  'CertificateSigningRequestStatus.conditions': ['type', undefined, 'map', ['type']],
  'CustomResourceDefinitionStatus.conditions': [undefined, undefined, 'map', ['type']],
};
/** Objects with a patch strategy of their own. */
const STRATEGIES = { 'DeploymentSpec.strategy': 'retainKeys' };
/** Structs that are replaced as a whole by server-side apply. */
const ATOMIC = new Set(
  `ConfigMapKeySelector SecretKeySelector ObjectFieldSelector ResourceFieldSelector FileKeySelector LocalObjectReference
   ObjectReference NodeSelector NodeSelectorTerm TypedLocalObjectReference SecretReference LabelSelector
   OwnerReference ScopeSelector ScopedResourceSelectorRequirement CrossVersionObjectReference TopologySelectorTerm RoleRef
  Subject EndpointAddress EndpointPort ServiceBackendPort`.split(/\s+/),
);
/** Maps that are. */
const ATOMIC_MAPS = new Set(['PodSpec.nodeSelector', 'Scheduling.nodeSelector']);
/** Keys of keyed lists that may be left out. */
const DEFAULTS = { 'ContainerPort.protocol': 'TCP' };

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

const bare = (model) => model.replace(/^(?:CoreV1|EventsV1|AuthenticationV1|RbacV1|V1)/, '');
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
  const names = new Map();
  const loaded = new Map();
  const seen = new Set();
  const load = async (model) => {
    let map = loaded.get(model);
    if (!map) {
      const module = await import(pathToFileURL(join(models, `${model}.js`)).href);
      map = module[model].getAttributeTypeMap();
      loaded.set(model, map);
    }
    return map;
  };

  const SCALARS = {
    string: (format) => (format ? { type: 'string', format } : { type: 'string' }),
    number: (format) => ({ type: format === 'double' ? 'number' : 'integer', format: format || 'int32' }),
    boolean: () => ({ type: 'boolean' }),
    any: () => ref('io.k8s.apimachinery.pkg.runtime.RawExtension'),
    Date: () => ref(`${META}.Time`),
    V1MicroTime: () => ref(`${META}.MicroTime`),
    IntOrString: () => ref('io.k8s.apimachinery.pkg.util.intstr.IntOrString'),
  };

  const typeOf = (type, format, pkg, pending) => {
    const array = /^Array<(.*)>$/.exec(type);
    if (array) return { type: 'array', items: typeOf(array[1], format, pkg, pending) };
    const map = /^\{ \[key: string\]: (.*); \}$/.exec(type);
    if (map) return { type: 'object', additionalProperties: typeOf(map[1], format, pkg, pending) };
    const scalar = SCALARS[type];
    if (scalar) return scalar(format);
    if (!names.has(type)) pending.push([type, META_MODELS.has(type) ? META : pkg]);
    const target = META_MODELS.has(type) ? META : pkg;
    if (!names.has(type)) names.set(type, `${target}.${bare(type)}`);
    return ref(names.get(type));
  };

  const define = async (model, pkg) => {
    const pending = [[model, pkg]];
    if (!names.has(model)) names.set(model, `${pkg}.${bare(model)}`);
    while (pending.length) {
      const [current, currentPkg] = pending.shift();
      const name = names.get(current);
      if (definitions[name]) continue;
      const docs = declarations(current);
      const definition = { description: docs.description, type: 'object', properties: {} };
      definitions[name] = definition;
      for (const { name: member, baseName, type, format } of await load(current)) {
        const path = `${bare(current)}.${baseName}`;
        seen.add(path);
        let property = SPECIAL[path] ? ref(SPECIAL[path]) : typeOf(type, format, currentPkg, pending);
        if (QUANTITIES.has(path))
          property =
            property.type === 'object'
              ? { type: 'object', additionalProperties: ref(QUANTITY) }
              : ref(QUANTITY);
        const doc = docs.fields.get(member);
        if (!doc) throw new Error(`${current}.${baseName} is not in its declaration file`);
        if (doc.description) property = { description: doc.description, ...property };
        if (doc.required) {
          definition.required ??= [];
          definition.required.push(baseName);
        }
        const list = LISTS[path];
        if (list && property.type !== 'array') throw new Error(`${path} is no list`);
        if (property.type === 'array') {
          const [mergeKey, strategy, listType = 'atomic', mapKeys] = list ?? [];
          property['x-kubernetes-list-type'] = listType;
          if (listType === 'map') property['x-kubernetes-list-map-keys'] = mapKeys ?? [mergeKey];
          if (mergeKey) property['x-kubernetes-patch-merge-key'] = mergeKey;
          if (strategy) property['x-kubernetes-patch-strategy'] = strategy;
        }
        if (ATOMIC_MAPS.has(path)) property['x-kubernetes-map-type'] = 'atomic';
        if (DEFAULTS[path]) property.default = DEFAULTS[path];
        if (STRATEGIES[path]) property['x-kubernetes-patch-strategy'] = STRATEGIES[path];
        definition.properties[baseName] = property;
      }
      if (ATOMIC.has(bare(current))) definition['x-kubernetes-map-type'] = 'atomic';
    }
  };

  for (const [model, pkg, group, version, kind] of ROOTS) {
    await define(model, pkg);
    const gvk = (k) => [{ group, kind: k, version }];
    definitions[names.get(model)]['x-kubernetes-group-version-kind'] = gvk(kind);
    if (WITHOUT_LIST.has(kind)) continue;
    const list = `${model}List`;
    await define(list, pkg);
    definitions[names.get(list)]['x-kubernetes-group-version-kind'] = gvk(`${kind}List`);
  }

  // A fact about a field that no model has is a typing error here or a change there: say so, do not drop it silently.
  for (const path of [
    ...Object.keys(LISTS),
    ...Object.keys(STRATEGIES),
    ...Object.keys(SPECIAL),
    ...Object.keys(DEFAULTS),
    ...ATOMIC_MAPS,
    ...QUANTITIES,
  ])
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
export async function generate(outputs = [join(root, 'api', 'generated')]) {
  const definitions = await makeDefinitions();
  for (const dir of outputs) {
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'definitions.json'), JSON.stringify(definitions));
    writeFileSync(join(dir, 'fields.json'), JSON.stringify(bareOf(definitions)));
  }
  return outputs;
}

const stamp = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

/** vitest's globalSetup: generates when absent or older than this script or the package. */
export async function setup() {
  const made = stamp(join(root, 'api', 'generated', 'fields.json'));
  if (made < stamp(fileURLToPath(import.meta.url)) || made < stamp(join(packageDir, 'package.json')))
    await generate();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = join(root, 'dist', 'api');
  const dirs = [join(root, 'api', 'generated')];
  if (existsSync(built)) dirs.push(join(built, 'generated'));
  await generate(dirs);
}
