import { createHash } from 'node:crypto';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { priorityOf } from '../aggregator/priorities.js';
import type { APIResource, Remote } from '../aggregator/remote.js';

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
const PROXIES = ['create', 'delete', 'get', 'patch', 'update'] as const;

/** The parts of a kind with a path of their own: `status` and `scale` by declaration, the pods' by what they are. */
export function subresourcesOf(k: Kind): Subresource[] {
  const out: Subresource[] = [];
  if (k.group === '' && k.plural === 'pods') {
    const connects = ['create', 'get'];
    out.push(
      { name: 'attach', verbs: connects, kind: 'PodAttachOptions' },
      { name: 'binding', verbs: ['create'], kind: 'Binding' },
      { name: 'eviction', verbs: ['create'], group: 'policy', version: 'v1', kind: 'Eviction' },
      { name: 'exec', verbs: connects, kind: 'PodExecOptions' },
      { name: 'log', verbs: ['get'] },
      { name: 'portforward', verbs: connects, kind: 'PodPortForwardOptions' },
      { name: 'proxy', verbs: PROXIES, kind: 'PodProxyOptions' },
    );
  }
  if (k.group === '' && k.plural === 'services')
    out.push({ name: 'proxy', verbs: PROXIES, kind: 'ServiceProxyOptions' });
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

/** A version of a group: our kinds, or those of the server that took it over. */
interface Version {
  name: string;
  kinds: Kind[];
  remote?: Remote;
}
interface Group {
  name: string;
  versions: Version[];
}

/** Groups in Kubernetes' order of preference, each with its kinds per version. */
function groupsOf(kinds: readonly Kind[], remotes: readonly Remote[]): Group[] {
  const all = new Map<string, Map<string, Kind[]>>();
  for (const k of kinds) {
    const versions = all.get(k.group) ?? new Map<string, Kind[]>();
    all.set(k.group, versions.set(k.version, [...(versions.get(k.version) ?? []), k]));
  }
  const groups: Group[] = [...all].map(([name, versions]) => ({
    name,
    versions: [...versions].map(([v, list]) => ({ name: v, kinds: list })),
  }));
  for (const remote of remotes) place(groups, remote);
  return groups;
}

const custom = (v: Version): boolean => v.kinds.some((k) => k.custom !== undefined);
const groupPriority = ({ name, versions }: Group): number =>
  Math.max(...versions.map((v) => v.remote?.groupPriority ?? priorityOf(name, v.name, custom(v)).group));
const versionPriority = (group: string, v: Version): number =>
  v.remote?.versionPriority ?? priorityOf(group, v.name, custom(v)).version;

/** Puts what a remote serves where its priorities want it. */
function place(groups: Group[], remote: Remote): void {
  const version: Version = { name: remote.version, kinds: [], remote };
  const group = groups.find((g) => g.name === remote.group);
  if (!group) {
    const at = groups.findIndex((g) => g.name !== '' && groupPriority(g) < remote.groupPriority);
    const made = { name: remote.group, versions: [version] };
    groups.splice(at < 0 ? groups.length : at, 0, made);
    return;
  }
  group.versions = group.versions.filter((v) => v.name !== remote.version);
  const at = group.versions.findIndex((v) => versionPriority(group.name, v) < remote.versionPriority);
  group.versions.splice(at < 0 ? group.versions.length : at, 0, version);
}

/** Every discovery document that is ours to write, by path, as JSON text: small, and made anew with every change. */
export function discoveryDocuments(
  kinds: readonly Kind[],
  remotes: readonly Remote[] = [],
): Map<string, string> {
  const docs = new Map<string, string>();
  const put = (path: string, doc: object) => docs.set(path, JSON.stringify(doc));
  const groups = groupsOf(kinds, remotes);
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
      // Its own server answers for it.
      if (v.remote) continue;
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
export function aggregatedDiscovery(
  kinds: readonly Kind[],
  path: '/api' | '/apis',
  version: string,
  remotes: readonly Remote[] = [],
): string {
  const items = groupsOf(kinds, remotes)
    .filter((g) => (g.name === '') === (path === '/api'))
    .map((g) => ({
      metadata: g.name ? { name: g.name } : {},
      versions: g.versions.map((v) => ({
        version: v.name,
        resources: v.remote ? remoteResources(v.remote) : v.kinds.map(aggregatedResource),
        freshness: v.remote && !v.remote.available ? 'Stale' : 'Current',
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

/** What a server lists as resources and subresources side by side, with subresources in their resources. */
function remoteResources({ group, version, resources }: Remote): object[] {
  const kindOf = (r: APIResource) => ({
    group: r.group ?? group,
    version: r.version ?? version,
    kind: r.kind,
  });
  return resources
    .filter((r) => !r.name.includes('/'))
    .map((r) => {
      const parts = resources.filter((p) => p.name.startsWith(`${r.name}/`));
      return {
        resource: r.name,
        responseKind: kindOf(r),
        scope: r.namespaced ? 'Namespaced' : 'Cluster',
        singularResource: r.singularName ?? '',
        verbs: r.verbs ?? [],
        ...(r.shortNames?.length ? { shortNames: r.shortNames } : {}),
        ...(r.categories?.length ? { categories: r.categories } : {}),
        ...(parts.length
          ? {
              subresources: parts.map((p) => ({
                subresource: p.name.slice(r.name.length + 1),
                responseKind: kindOf(p),
                verbs: p.verbs ?? [],
              })),
            }
          : {}),
      };
    });
}

/** `/`: every path that the server has, as Kubernetes lists them for those who come by hand. */
export const indexDocument = (
  kinds: readonly Kind[],
  checks: readonly string[],
  remotes: readonly Remote[] = [],
): string =>
  JSON.stringify(
    {
      paths: [
        '/api',
        '/apis',
        ...new Set(
          [...kinds, ...remotes].flatMap((k) =>
            k.group ? [`/apis/${k.group}`, `/apis/${apiVersionOf(k)}`] : ['/api/v1'],
          ),
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
