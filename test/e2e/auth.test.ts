import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

for (const minor of ['1.32', '1.36'] as const) {
  describe.skipIf(missing(`kubectl-${minor}`))(`kubectl ${minor}: who may do what`, () => {
    let server: ApiServer;
    let k: Kubectl;

    beforeAll(async () => {
      server = await startApiServer();
      k = kubectlOf(minor, server.kubeconfig, server.dir);
    });
    afterAll(() => server?.stop());

    it('makes and shows roles and bindings', async () => {
      expect(await k.ok(['create', 'role', 'reader', '--verb=get,list', '--resource=pods,pods/log'])).toBe(
        'role.rbac.authorization.k8s.io/reader created\n',
      );
      await k.ok(['create', 'rolebinding', 'reader', '--role=reader', '--user=ann', '--group=ops']);
      await k.ok(['create', 'clusterrole', 'urls', '--verb=get', '--non-resource-url=/metrics']);
      await k.ok([
        'create',
        'clusterrolebinding',
        'urls',
        '--clusterrole=urls',
        '--serviceaccount=default:bot',
      ]);
      const table = await k.ok(['get', 'rolebindings', '-o', 'wide']);
      expect(table).toMatch(/^NAME +ROLE +AGE +USERS +GROUPS +SERVICEACCOUNTS$/m);
      expect(table).toMatch(/^reader +Role\/reader +\S+ +ann +ops/m);
      expect(await k.ok(['get', 'role', 'reader'])).toMatch(/^NAME +CREATED AT\nreader +\d{4}-\d\d-\d\dT/);
      expect(await k.ok(['describe', 'role', 'reader'])).toMatch(/pods\/log +\[\] +\[\] +\[get list\]/);
    });

    it('auth can-i answers for oneself and for others', async () => {
      expect(await k.ok(['auth', 'can-i', '*', '*'])).toBe('yes\n');
      expect(await k.ok(['auth', 'can-i', 'list', 'pods', '--as=ann'])).toBe('yes\n');
      expect(await k.ok(['auth', 'can-i', 'get', 'pods', '--subresource=log', '--as=ann'])).toBe('yes\n');
      const no = await k.run(['auth', 'can-i', 'delete', 'pods', '--as=ann']);
      expect(no).toMatchObject({ code: 1, stdout: 'no\n' });
      const bot = '--as=system:serviceaccount:default:bot';
      expect(await k.ok(['auth', 'can-i', 'get', '/metrics', bot])).toBe('yes\n');
      expect((await k.run(['auth', 'can-i', 'get', '/metrics', '--as=ann'])).stdout).toBe('no\n');
      const list = await k.ok(['auth', 'can-i', '--list', '--as=ann']);
      expect(list).toMatch(/^pods\/log +\[\] +\[\] +\[get list\]$/m);
      expect(list).toMatch(/^selfsubjectreviews.authentication.k8s.io +\[\] +\[\] +\[create\]$/m);
    });

    it('auth whoami tells who one is, or acts as', async () => {
      expect(await k.ok(['auth', 'whoami'])).toMatch(/^Username +admin$/m);
      const as = await k.ok(['auth', 'whoami', '--as=ann', '--as-group=a', '--as-group=b', '--as-uid=7']);
      expect(as).toMatch(/^Username +ann$/m);
      expect(as).toMatch(/^Groups +\[a b system:authenticated\]$/m);
      expect(as).toMatch(/^UID +7$/m);
    });

    it('what is not allowed is refused in Kubernetes words', async () => {
      const refused = await k.run(['get', 'secrets', '--as=ann']);
      expect(refused.code).toBe(1);
      expect(refused.stderr).toBe(
        'Error from server (Forbidden): secrets is forbidden: User "ann" cannot list resource "secrets" in API group "" in the namespace "default"\n',
      );
      await k.ok(['create', 'rolebinding', 'boss', '--clusterrole=admin', '--user=boss']);
      const grant = await k.run([
        'create',
        'rolebinding',
        'mine',
        '--clusterrole=cluster-admin',
        '--user=boss',
        '--as=boss',
      ]);
      expect(grant.code).toBe(1);
      expect(grant.stderr).toContain(
        'user "boss" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:',
      );
      expect((await k.run(['get', 'nodes', '--as=ann', '--as-group=system:masters'])).code).toBe(0);
    });

    it('a token made by kubectl stands for its service account', async () => {
      await k.ok(['create', 'serviceaccount', 'robot']);
      await k.ok(['create', 'rolebinding', 'robot', '--clusterrole=view', '--serviceaccount=default:robot']);
      const token = (await k.ok(['create', 'token', 'robot', '--duration=20m'])).trim();
      const config = JSON.parse(await k.ok(['config', 'view', '--raw', '-o', 'json']));
      config.users = [{ name: 'admin', user: { token } }];
      const path = join(server.dir, `robot-${minor}.kubeconfig`);
      await writeFile(path, JSON.stringify(config));
      const robot = kubectlOf(minor, path, server.dir);
      expect(await robot.ok(['auth', 'whoami'])).toMatch(/^Username +system:serviceaccount:default:robot$/m);
      expect((await robot.run(['get', 'pods'])).code).toBe(0);
      expect((await robot.run(['get', 'secrets'])).stderr).toContain('cannot list resource "secrets"');
      await k.ok(['delete', 'serviceaccount', 'robot']);
      expect((await robot.run(['get', 'pods'])).stderr).toMatch(/Unauthorized|must be logged in/);
    });

    it('auth reconcile adds what lacks', async () => {
      const role = {
        apiVersion: 'rbac.authorization.k8s.io/v1',
        kind: 'ClusterRole',
        metadata: { name: 'urls' },
        rules: [{ nonResourceURLs: ['/metrics', '/other'], verbs: ['get'] }],
      };
      await k.ok(['auth', 'reconcile', '-f', '-'], role);
      const bot = '--as=system:serviceaccount:default:bot';
      expect(await k.ok(['auth', 'can-i', 'get', '/other', bot])).toBe('yes\n');
    });
  });
}
