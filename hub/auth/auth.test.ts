import fc from 'fast-check';
import type { PolicyRule } from 'kubernetes-types/rbac/v1.js';
import { beforeAll, describe, expect, it } from 'vitest';
import { pods } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ADMIN, type TestApi, testApi } from '../testing/api.js';
import type { Attributes, User } from './attributes.js';
import { aggregate, bootstrapNamespaceRbac } from './bootstrap.js';
import { distinctImpersonation } from './impersonate.js';
import { compact, notCovered, ruleAllows, ruleText } from './rules.js';

const RBAC = '/apis/rbac.authorization.k8s.io/v1';
const user = (name: string, ...groups: string[]): User => ({
  name,
  groups: [...groups, 'system:authenticated'],
});
const alice = user('alice', 'dev');

/** A small world, so that rules and requests often meet. */
const some = (values: string[], min = 1) =>
  fc.uniqueArray(fc.constantFrom(...values), { minLength: min, maxLength: 2 });
const resourceRule: fc.Arbitrary<PolicyRule> = fc.record(
  {
    verbs: some(['get', 'list', '*']),
    apiGroups: some(['', 'apps', '*']),
    resources: some(['pods', 'pods/log', '*/log', 'secrets', '*']),
    resourceNames: some(['a', 'b'], 0),
  },
  { requiredKeys: ['verbs', 'apiGroups', 'resources'] },
);
const urlRule: fc.Arbitrary<PolicyRule> = fc.record({
  verbs: some(['get', 'post', '*']),
  nonResourceURLs: some(['/api', '/api/*', '/healthz', '*']),
});
const rule = fc.oneof({ weight: 4, arbitrary: resourceRule }, urlRule);

const EVERY: Attributes[] = [];
for (const verb of ['get', 'list', 'delete'])
  for (const group of ['', 'apps', 'batch'])
    for (const [resource, subresource] of [
      ['pods'],
      ['pods', 'log'],
      ['secrets'],
      ['secrets', 'log'],
      ['nodes'],
    ])
      for (const name of [undefined, 'a', 'b', 'c'])
        EVERY.push({ verb, group, resource: resource!, subresource, name });
for (const verb of ['get', 'post', 'put'])
  for (const path of ['/api', '/api/v1', '/apis', '/healthz', '/']) EVERY.push({ verb, path });

/** What a rule says, written down once more: by listing all that its `*` stand for. */
function naive(r: PolicyRule, what: Attributes): boolean {
  const has = (list: string[] | undefined, v: string) => (list ?? []).some((x) => x === '*' || x === v);
  if (!has(r.verbs, what.verb)) return false;
  if ('path' in what)
    return (r.nonResourceURLs ?? []).some((u) =>
      new RegExp(`^${u.replace(/[.]/g, '\\.').replace(/\*$/, '.*')}$`).test(what.path),
    );
  if (!has(r.apiGroups, what.group)) return false;
  const named = [what.subresource ? `${what.resource}/${what.subresource}` : what.resource, '*'];
  if (what.subresource) named.push(`*/${what.subresource}`);
  if (!named.some((n) => r.resources?.includes(n))) return false;
  return !r.resourceNames?.length || (what.name !== undefined && r.resourceNames.includes(what.name));
}

describe('rules', () => {
  it('allow what a naive reading of them allows', () => {
    fc.assert(
      fc.property(rule, (r) => {
        for (const what of EVERY) expect(ruleAllows(r, what)).toBe(naive(r, what));
      }),
      { numRuns: 300 },
    );
  });

  it('that are covered allow nothing more than those that cover them', () => {
    fc.assert(
      fc.property(fc.array(rule, { maxLength: 4 }), fc.array(rule, { maxLength: 3 }), (held, wanted) => {
        if (notCovered(held, wanted).length > 0) return;
        for (const what of EVERY)
          if (wanted.some((r) => ruleAllows(r, what)))
            expect(held.some((r) => ruleAllows(r, what))).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });

  it('cover themselves, whole or broken down and put together again', () => {
    fc.assert(
      fc.property(fc.array(rule, { maxLength: 4 }), (rules) => {
        expect(notCovered(rules, rules)).toEqual([]);
        const missing = notCovered([], rules);
        expect(notCovered(missing, rules)).toEqual([]);
        expect(notCovered(compact(missing), missing)).toEqual([]);
      }),
    );
  });

  it('show as in Kubernetes', () => {
    expect(
      ruleText({ verbs: ['get', 'list'], apiGroups: [''], resources: ['pods'], resourceNames: ['a'] }),
    ).toBe('{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["get" "list"]}');
  });
});

it('aggregates the rules of the roles that are selected, each once', () => {
  const r = { verbs: ['get'], apiGroups: [''], resources: ['pods'] };
  const part = (name: string, on: boolean) => ({
    metadata: { name, labels: { x: on ? 'y' : 'n' } },
    rules: [r],
  });
  const all = {
    metadata: { name: 'all' },
    aggregationRule: { clusterRoleSelectors: [{ matchLabels: { x: 'y' } }] },
  };
  expect(aggregate(all, [part('b', true), part('a', true), part('c', false)])).toEqual([r]);
});

describe('the API', () => {
  let t: TestApi;
  const send = (method: string, url: string, body: unknown, who?: User, type?: string) =>
    t.call(url, { method, body, user: who, ...(type ? { headers: { 'content-type': type } } : {}) });
  const make = async (url: string, body: object, who?: User) => {
    const reply = await send('POST', url, body, who);
    expect(reply.status, reply.text).toBe(201);
    await seen();
  };
  /** Until the authorizer knows what was written. */
  const seen = async () => {
    for (let i = 0; i < 20; i++) await pause();
  };
  const pause = () => new Promise((r) => setImmediate(r));
  const refusal = async (method: string, url: string, body: unknown, who: User, type?: string) => {
    const reply = await send(method, url, body, who, type);
    return { status: reply.status, message: reply.json().message as string };
  };

  beforeAll(async () => {
    t = await testApi();
    for (const name of ['default', 'other', 'kube-node-lease'])
      await make('/api/v1/namespaces', { metadata: { name } });
    await make(`${RBAC}/namespaces/default/rolebindings`, {
      metadata: { name: 'dev' },
      roleRef: { kind: 'ClusterRole', name: 'admin' },
      subjects: [{ kind: 'Group', name: 'dev' }],
    });
  });

  it('has the default roles, aggregated ones filled', async () => {
    const admin = (await t.call(`${RBAC}/clusterroles/admin`)).json();
    expect(admin.metadata.labels).toEqual({ 'kubernetes.io/bootstrapping': 'rbac-defaults' });
    const text = admin.rules.map(ruleText);
    expect(text).toContain(
      '{APIGroups:["rbac.authorization.k8s.io"], Resources:["rolebindings" "roles"], Verbs:["create" "delete" "deletecollection" "get" "list" "patch" "update" "watch"]}',
    );
    const view = (await t.call(`${RBAC}/clusterroles/view`)).json();
    expect(view.rules.some((r: PolicyRule) => r.resources?.includes('secrets'))).toBe(false);
  });

  it('knows the controllers by their accounts', async () => {
    const job: User = user('system:serviceaccount:kube-system:job-controller', 'system:serviceaccounts');
    const may = (verb: string, resource: string) =>
      t.authorizer.authorize(job, { verb, group: '', resource, namespace: 'default' }).allowed;
    expect([may('create', 'pods'), may('get', 'secrets')]).toEqual([true, false]);
  });

  it("fills a cluster's own namespaces, and leaves what an administrator made of it", async () => {
    for (const name of ['kube-system', 'kube-public'])
      await make('/api/v1/namespaces', { metadata: { name } });
    const client = t.registry.client();
    await bootstrapNamespaceRbac(client);
    const url = (name: string) => `${RBAC}/namespaces/kube-system/roles/${name}`;
    const patch = async (name: string, body: object) =>
      expect((await send('PATCH', url(name), body, ADMIN, 'application/merge-patch+json')).status).toBe(200);
    const off = { annotations: { 'rbac.authorization.kubernetes.io/autoupdate': 'false' } };
    await patch('system:controller:token-cleaner', { rules: [] });
    await patch('system:controller:bootstrap-signer', { metadata: off, rules: [] });
    await bootstrapNamespaceRbac(client);
    const rules = async (name: string) => ((await t.call(url(name))).json().rules ?? []).map(ruleText);
    expect(await rules('system:controller:bootstrap-signer')).toEqual([]);
    expect((await rules('system:controller:token-cleaner')).length).toBeGreaterThan(0);
  });

  it('a binding counts in its namespace only', async () => {
    expect((await t.call('/api/v1/namespaces/default/pods', { user: alice })).status).toBe(200);
    expect((await t.call('/api/v1/namespaces/other/pods', { user: alice })).status).toBe(403);
    expect((await t.call('/api/v1/pods', { user: alice })).status).toBe(403);
    expect((await t.call('/api/v1/namespaces/default', { user: alice })).status).toBe(200);
    const bob = user('bob');
    expect((await t.call('/api/v1/namespaces/default/pods', { user: bob })).status).toBe(403);
  });

  it('a name in the field selector counts as the name asked for', async () => {
    const carol = user('carol');
    await make(`${RBAC}/namespaces/default/roles`, {
      metadata: { name: 'one' },
      rules: [{ apiGroups: [''], resources: ['configmaps'], resourceNames: ['one'], verbs: ['list', 'get'] }],
    });
    await make(`${RBAC}/namespaces/default/rolebindings`, {
      metadata: { name: 'one' },
      roleRef: { kind: 'Role', name: 'one' },
      subjects: [{ kind: 'User', name: 'carol' }],
    });
    const url = '/api/v1/namespaces/default/configmaps';
    expect((await t.call(url, { user: carol })).status).toBe(403);
    expect((await t.call(`${url}?fieldSelector=metadata.name%3Done`, { user: carol })).status).toBe(200);
    expect((await t.call(`${url}?fieldSelector=metadata.name%3Dtwo`, { user: carol })).status).toBe(403);
  });

  it('names a role that is missing', async () => {
    await make(`${RBAC}/clusterrolebindings`, {
      metadata: { name: 'lost' },
      roleRef: { kind: 'ClusterRole', name: 'lost' },
      subjects: [{ kind: 'User', name: 'dave' }],
    });
    expect(await refusal('GET', '/api/v1/pods', undefined, user('dave'))).toEqual({
      status: 403,
      message:
        'pods is forbidden: User "dave" cannot list resource "pods" in API group "" at the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io "lost" not found',
    });
  });

  it('nobody grants more than they have', async () => {
    const url = `${RBAC}/namespaces/default/roles`;
    const role = (name: string, verbs: string[], resources: string[]) => ({
      metadata: { name },
      rules: [{ apiGroups: [''], resources, verbs }],
    });
    expect((await send('POST', url, role('fine', ['get', 'list'], ['pods']), alice)).status).toBe(201);
    expect(await refusal('POST', url, role('much', ['get', 'list'], ['nodes', 'pods']), alice)).toEqual({
      status: 403,
      message:
        'roles.rbac.authorization.k8s.io "much" is forbidden: user "alice" (groups=["dev" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}',
    });
    const merge = 'application/merge-patch+json';
    const more = { rules: [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }] };
    expect((await send('PATCH', `${url}/fine`, more, alice, merge)).status).toBe(403);
    const label = { metadata: { labels: { a: 'b' } } };
    expect((await send('PATCH', `${url}/fine`, label, alice, merge)).status).toBe(200);

    const bindings = `${RBAC}/namespaces/default/rolebindings`;
    const bind = (name: string, role: string) => ({
      metadata: { name },
      roleRef: { kind: 'ClusterRole', name: role },
      subjects: [{ kind: 'User', name: 'eve' }],
    });
    expect((await send('POST', bindings, bind('eve', 'view'), alice)).status).toBe(201);
    const refused = await refusal('POST', bindings, bind('root', 'cluster-admin'), alice);
    expect(refused.status).toBe(403);
    expect(refused.message).toContain(
      '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}\n{NonResourceURLs:["*"], Verbs:["*"]}',
    );
    // Who may bind a role need not hold it.
    await make(`${RBAC}/clusterroles`, {
      metadata: { name: 'binder' },
      rules: [
        {
          apiGroups: ['rbac.authorization.k8s.io'],
          resources: ['clusterroles'],
          resourceNames: ['cluster-admin'],
          verbs: ['bind'],
        },
      ],
    });
    await make(`${RBAC}/clusterrolebindings`, {
      metadata: { name: 'binder' },
      roleRef: { kind: 'ClusterRole', name: 'binder' },
      subjects: [{ kind: 'User', name: 'alice' }],
    });
    expect((await send('POST', bindings, bind('root', 'cluster-admin'), alice)).status).toBe(201);
  });

  it("a binding's role stays", async () => {
    const reply = await send(
      'PATCH',
      `${RBAC}/namespaces/default/rolebindings/dev`,
      { roleRef: { name: 'edit' } },
      undefined,
      'application/merge-patch+json',
    );
    expect(reply.status).toBe(422);
    expect(reply.json().message).toContain('cannot change roleRef');
  });

  it('a node sees what concerns it and nothing else', async () => {
    const client = t.registry.client();
    for (const name of ['pi1', 'pi2']) await make('/api/v1/nodes', { metadata: { name } });
    for (const name of ['mine', 'theirs'])
      await make('/api/v1/namespaces/default/secrets', { metadata: { name } });
    for (const [name, node, secret] of [
      ['p1', 'pi1', 'mine'],
      ['p2', 'pi2', 'theirs'],
    ])
      await client.create(
        pods as unknown as Kind,
        {
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: { name, namespace: 'default' },
          spec: {
            nodeName: node,
            containers: [{ name: 'c', image: 'i', envFrom: [{ secretRef: { name: secret } }] }],
          },
        } as never,
      );
    await seen();
    const pi1: User = { name: 'system:node:pi1', groups: ['system:nodes', 'system:authenticated'] };
    const status = async (url: string, method = 'GET', body?: unknown, type?: string) =>
      (await send(method, url, body, pi1, type)).status;
    const ns = '/api/v1/namespaces/default';
    expect(await status('/api/v1/nodes/pi1')).toBe(200);
    expect(await status('/api/v1/nodes/pi2')).toBe(403);
    expect(await status(`${ns}/secrets/mine`)).toBe(200);
    expect(await status(`${ns}/pods/p1`)).toBe(200);
    expect(await status(`${ns}/pods/p2`)).toBe(403);
    expect(await status('/api/v1/pods?fieldSelector=spec.nodeName%3Dpi1')).toBe(200);
    expect(await status('/api/v1/pods')).toBe(403);
    expect(await refusal('GET', `${ns}/secrets/theirs`, undefined, pi1)).toEqual({
      status: 403,
      message:
        'secrets "theirs" is forbidden: User "system:node:pi1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node \'pi1\' and this object',
    });
    const claim = {
      spec: {
        accessModes: ['ReadWriteOnce'],
        resources: { requests: { storage: '1' } },
        storageClassName: '',
      },
    };
    await make(`${ns}/persistentvolumeclaims`, { metadata: { name: 'data' }, ...claim });
    expect(await refusal('GET', `${ns}/persistentvolumeclaims/data`, undefined, pi1)).toMatchObject({
      status: 403,
      message: expect.stringContaining("no relationship found between node 'pi1' and this object"),
    });
    expect(await status(`${ns}/serviceaccounts/default`)).not.toBe(403);
    expect(await status(`${ns}/serviceaccounts/other`)).toBe(403);
    const csiNodes = '/apis/storage.k8s.io/v1/csinodes';
    expect(await status(csiNodes, 'POST', { metadata: { name: 'pi1' }, spec: { drivers: [] } })).toBe(201);
    expect(
      await refusal('POST', csiNodes, { metadata: { name: 'pi2' }, spec: { drivers: [] } }, pi1),
    ).toEqual({
      status: 403,
      message:
        'csinodes.storage.k8s.io "pi2" is forbidden: can only access CSINode with the same name as the requesting node',
    });
    const merge = 'application/merge-patch+json';
    const phase = { status: { phase: 'Running' } };
    expect(await status(`${ns}/pods/p1/status`, 'PATCH', phase, merge)).toBe(200);
    expect(await refusal('PATCH', `${ns}/pods/p2/status`, phase, pi1, merge)).toEqual({
      status: 403,
      message:
        'pods "p2" is forbidden: node "pi1" can only update pod status for pods with spec.nodeName set to itself',
    });
    expect((await refusal('DELETE', `${ns}/pods/p2`, undefined, pi1)).message).toBe(
      'pods "p2" is forbidden: node "pi1" can only delete pods with spec.nodeName set to itself',
    );
    expect(
      await refusal('PATCH', '/api/v1/nodes/pi2', { metadata: { labels: { a: 'b' } } }, pi1, merge),
    ).toEqual({
      status: 403,
      message: 'nodes "pi2" is forbidden: node "pi1" is not allowed to modify node "pi2"',
    });
    const role = { 'node-role.kubernetes.io/x': '', 'node-restriction.kubernetes.io/y': '', a: 'b' };
    expect(await refusal('PATCH', '/api/v1/nodes/pi1', { metadata: { labels: role } }, pi1, merge)).toEqual({
      status: 403,
      message:
        'nodes "pi1" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/y, node-role.kubernetes.io/x',
    });
  });

  it('takes each header for one value, commas and all', () => {
    const headers = { accept: 'a', 'impersonate-group': 'one, a,b' };
    const raw = ['Accept', 'a', 'Impersonate-Group', 'one', 'impersonate-group', 'a,b'];
    expect(distinctImpersonation(headers, raw)).toEqual({ accept: 'a', 'impersonate-group': ['one', 'a,b'] });
    expect(distinctImpersonation({ accept: 'a' }, ['Accept', 'a'])).toEqual({ accept: 'a' });
  });

  it('only who may impersonate acts as another', async () => {
    const as = (who: User, headers: Record<string, string>, url = '/api/v1/namespaces/default/pods') =>
      t.call(url, { user: who, headers });
    const refused = await as(alice, { 'impersonate-user': 'root', 'impersonate-group': 'system:masters' });
    expect(refused.status).toBe(403);
    expect(refused.json().message).toBe(
      'users "root" is forbidden: User "alice" cannot impersonate resource "users" in API group "" at the cluster scope',
    );
    // An admin of a namespace may act as its service accounts, but not as any group.
    const bot = { 'impersonate-user': 'system:serviceaccount:default:bot' };
    expect((await as(alice, bot)).json().message).toContain(
      'User "system:serviceaccount:default:bot" cannot list',
    );
    expect((await as(alice, { ...bot, 'impersonate-group': 'system:masters' })).json().message).toContain(
      'groups "system:masters" is forbidden',
    );
    expect((await as(alice, { 'impersonate-user': 'system:serviceaccount:other:bot' })).status).toBe(403);
    expect((await as(alice, { 'impersonate-group': 'dev' })).status).toBe(400);
  });

  it('answers reviews in the name of anyone, and stores none', async () => {
    const authorization = '/apis/authorization.k8s.io/v1';
    const resourceAttributes = { verb: 'list', resource: 'pods', namespace: 'default' };
    const ask = async (url: string, spec: object, metadata = {}) =>
      (await send('POST', `${authorization}/${url}`, { metadata, spec })).json();
    const dev = { user: 'x', groups: ['dev'] };
    expect((await ask('subjectaccessreviews', { ...dev, resourceAttributes })).status).toEqual({
      allowed: true,
      reason: 'RBAC: allowed by RoleBinding "dev/default" of ClusterRole "admin" to Group "dev"',
    });
    expect((await ask('subjectaccessreviews', { user: 'x', resourceAttributes })).status).toEqual({
      allowed: false,
    });
    const local = 'namespaces/default/localsubjectaccessreviews';
    expect((await ask(local, { ...dev, resourceAttributes })).status.allowed).toBe(true);
    const elsewhere = { ...resourceAttributes, namespace: 'other' };
    expect((await ask(local, { ...dev, resourceAttributes: elsewhere })).message).toContain(
      'must match metadata.namespace',
    );
    expect((await ask('selfsubjectaccessreviews', {})).message).toContain(
      'exactly one of nonResourceAttributes or resourceAttributes must be specified',
    );
    expect((await t.call(`${authorization}/subjectaccessreviews`)).status).toBe(405);
    expect((await t.call(`${authorization}/subjectaccessreviews/x`)).status).toBe(404);
    const mine = await send(
      'POST',
      `${authorization}/selfsubjectaccessreviews`,
      { spec: { resourceAttributes } },
      alice,
    );
    expect(mine.status).toBe(201);
    expect(mine.json().status.allowed).toBe(true);
    const other = await send(
      'POST',
      `${authorization}/subjectaccessreviews`,
      { spec: { ...dev, resourceAttributes } },
      alice,
    );
    expect(other.status).toBe(403);
  });
});
