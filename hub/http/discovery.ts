import { createHash } from 'node:crypto';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';

/** A subresource as discovery lists it. */
interface Subresource {
  name: string;
  verbs: readonly string[];
  /** The kind it answers with, where that is not the parent's. */
  group?: string;
  version?: string;
  kind?: string;
}

const VERBS = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'] as const;
const PART = ['get', 'patch', 'update'] as const;

/** The parts of a kind with a path of their own: `status` and `scale` by declaration, the pods' by what they are. */
export function subresourcesOf(k: Kind): Subresource[] {
  const out: Subresource[] = [];
  if (k.group === '' && k.plural === 'pods') {
    out.push(
      { name: 'binding', verbs: ['create'], kind: 'Binding' },
      { name: 'eviction', verbs: ['create'], group: 'policy', version: 'v1', kind: 'Eviction' },
      { name: 'log', verbs: ['get'] },
    );
  }
  if (k.group === '' && k.plural === 'serviceaccounts')
    out.push({
      name: 'token',
      verbs: ['create'],
      group: 'authentication.k8s.io',
      version: 'v1',
      kind: 'TokenRequest',
    });
  if (k.group === '' && k.plural === 'namespaces') out.push({ name: 'finalize', verbs: ['update'] });
  if (k.scale) out.push({ name: 'scale', verbs: PART, group: 'autoscaling', version: 'v1', kind: 'Scale' });
  for (const name of [...(k.statusDoors ?? []), ...Object.keys(k.specDoors ?? {})])
    out.push({ name, verbs: PART });
  if (k.status) out.push({ name: 'status', verbs: PART });
  return out;
}

/** `api/v1` or `apis/apps/v1`: the path of a kind's group version, without the first slash. */
export const rootOf = (k: Kind): string => `${k.group ? 'apis' : 'api'}/${apiVersionOf(k)}`;

/** Groups in Kubernetes' order of preference, each with its kinds per version. */
function groupsOf(kinds: readonly Kind[]): { name: string; versions: { name: string; kinds: Kind[] }[] }[] {
  const groups = new Map<string, Map<string, Kind[]>>();
  for (const k of kinds) {
    const versions = groups.get(k.group) ?? new Map<string, Kind[]>();
    groups.set(k.group, versions.set(k.version, [...(versions.get(k.version) ?? []), k]));
  }
  return [...groups].map(([name, versions]) => ({
    name,
    versions: [...versions].map(([v, list]) => ({ name: v, kinds: list })),
  }));
}

/** Every discovery document, by path, as JSON text. They never change while the server runs and are small. */
export function discoveryDocuments(kinds: readonly Kind[]): Map<string, string> {
  const docs = new Map<string, string>();
  const put = (path: string, doc: object) => docs.set(path, JSON.stringify(doc));
  const groups = groupsOf(kinds);
  const apiGroups = groups
    .filter((g) => g.name !== '')
    .map((g) => {
      const versions = g.versions.map((v) => ({ groupVersion: `${g.name}/${v.name}`, version: v.name }));
      return { name: g.name, versions, preferredVersion: versions[0] };
    });

  put('/api', { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] });
  put('/apis', { kind: 'APIGroupList', apiVersion: 'v1', groups: apiGroups });
  for (const g of apiGroups) put(`/apis/${g.name}`, { kind: 'APIGroup', apiVersion: 'v1', ...g });
  for (const g of groups) {
    for (const v of g.versions) {
      put(g.name ? `/apis/${g.name}/${v.name}` : `/api/${v.name}`, {
        kind: 'APIResourceList',
        apiVersion: 'v1',
        groupVersion: g.name ? `${g.name}/${v.name}` : v.name,
        resources: v.kinds.flatMap(apiResources),
      });
    }
  }
  return docs;
}

/** What storage migration goes by (apiserver pkg/endpoints/discovery, StorageVersionHash). */
const storageVersionHash = (k: Kind): string =>
  createHash('sha256')
    .update(`${k.group}/${k.storageVersion ?? k.version}/${k.kind}`)
    .digest()
    .subarray(0, 8)
    .toString('base64');

function apiResources(k: Kind): object[] {
  return [
    {
      name: k.plural,
      singularName: k.singular,
      namespaced: k.namespaced,
      kind: k.kind,
      verbs: k.verbs ?? VERBS,
      ...(k.shortNames.length ? { shortNames: k.shortNames } : {}),
      ...(k.categories.length ? { categories: k.categories } : {}),
      ...(k.verbs ? {} : { storageVersionHash: storageVersionHash(k) }),
    },
    ...subresourcesOf(k).map((s) => ({
      name: `${k.plural}/${s.name}`,
      singularName: '',
      namespaced: k.namespaced,
      ...(s.version ? { group: s.group, version: s.version } : {}),
      kind: s.kind ?? k.kind,
      verbs: s.verbs,
    })),
  ];
}

/** Aggregated discovery (apidiscovery.k8s.io): one document for `/api` or `/apis`. */
export function aggregatedDiscovery(kinds: readonly Kind[], path: '/api' | '/apis', version: string): string {
  const items = groupsOf(kinds)
    .filter((g) => (g.name === '') === (path === '/api'))
    .map((g) => ({
      metadata: g.name ? { name: g.name } : {},
      versions: g.versions.map((v) => ({
        version: v.name,
        resources: v.kinds.map(aggregatedResource),
        freshness: 'Current',
      })),
    }));
  return JSON.stringify({
    kind: 'APIGroupDiscoveryList',
    apiVersion: `apidiscovery.k8s.io/${version}`,
    metadata: {},
    items,
  });
}

function aggregatedResource(k: Kind): object {
  const scope = k.namespaced ? 'Namespaced' : 'Cluster';
  const subresources = subresourcesOf(k).map((s) => ({
    subresource: s.name,
    responseKind: { group: s.group ?? k.group, version: s.version ?? k.version, kind: s.kind ?? k.kind },
    verbs: s.verbs,
  }));
  return {
    resource: k.plural,
    responseKind: { group: k.group, version: k.version, kind: k.kind },
    scope,
    singularResource: k.singular,
    verbs: k.verbs ?? VERBS,
    ...(k.shortNames.length ? { shortNames: k.shortNames } : {}),
    ...(k.categories.length ? { categories: k.categories } : {}),
    ...(subresources.length ? { subresources } : {}),
  };
}

/** `/`: every path that the server has, as Kubernetes lists them for those who come by hand. */
export const indexDocument = (kinds: readonly Kind[], checks: readonly string[]): string =>
  JSON.stringify(
    {
      paths: [
        '/api',
        '/apis',
        ...new Set(
          kinds.flatMap((k) => (k.group ? [`/apis/${k.group}`, `/apis/${apiVersionOf(k)}`] : ['/api/v1'])),
        ),
        ...['/healthz', '/livez', '/readyz'].flatMap((p) => [p, ...checks.map((c) => `${p}/${c}`)]),
        '/metrics',
        '/openapi/v2',
        '/openapi/v3',
        '/version',
      ].sort(),
    },
    null,
    2,
  );
