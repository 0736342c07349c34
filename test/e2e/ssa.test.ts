import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

interface Entry {
  manager: string;
  operation: string;
  apiVersion: string;
  subresource?: string;
  time?: string;
  fieldsType: string;
  fieldsV1: Record<string, any>;
}

const deployment = (name: string, replicas: number | undefined, image = 'nginx:1', labels = {}) => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name, ...(Object.keys(labels).length ? { labels } : {}) },
  spec: {
    ...(replicas === undefined ? {} : { replicas }),
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: { containers: [{ name: 'web', image, ports: [{ containerPort: 80 }] }] },
    },
  },
});
const configMap = (name: string, data: Record<string, string>) => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name },
  data,
});

for (const minor of ['1.32', '1.36'] as const) {
  describe.skipIf(missing(`kubectl-${minor}`))(`server-side apply with kubectl ${minor}`, () => {
    let server: ApiServer;
    let k: Kubectl;
    let files = 0;

    beforeAll(async () => {
      server = await startApiServer();
      k = kubectlOf(minor, server.kubeconfig, server.dir);
    });
    afterAll(() => server?.stop());

    const file = (o: unknown): string => {
      const path = join(server.dir, `m${++files}.json`);
      writeFileSync(path, JSON.stringify(o));
      return path;
    };
    const apply = (o: unknown, ...more: string[]) =>
      k.run(['apply', '--server-side', '-f', file(o), ...more]);
    const get = async (what: string) =>
      JSON.parse(await k.ok(['get', what, '-o', 'json', '--show-managed-fields']));
    const managers = async (what: string): Promise<Entry[]> => (await get(what)).metadata.managedFields ?? [];

    it('creates, changes, and leaves alone what is the same', async () => {
      const first = await apply(configMap('a', { x: '1', y: '2' }));
      expect(first).toMatchObject({ code: 0, stdout: 'configmap/a serverside-applied\n', stderr: '' });
      expect(await managers('cm/a')).toEqual([
        {
          manager: 'kubectl',
          operation: 'Apply',
          apiVersion: 'v1',
          time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/),
          fieldsType: 'FieldsV1',
          fieldsV1: { 'f:data': { 'f:x': {}, 'f:y': {} } },
        },
      ]);
      const before = await get('cm/a');
      expect((await apply(configMap('a', { x: '1', y: '2' }))).code).toBe(0);
      expect(await get('cm/a')).toEqual(before);
      expect((await apply(configMap('a', { x: '3' }))).code).toBe(0);
      expect((await get('cm/a')).data).toEqual({ x: '3' });
    });

    it('tells what conflicts, and forces', async () => {
      await k.ok(['apply', '-f', file(deployment('web', 3))]);
      await k.ok(['scale', 'deployment/web', '--replicas=5']);
      const refused = await apply(deployment('web', 4), '--field-manager=me');
      expect(refused.code).not.toBe(0);
      expect(refused.stderr).toContain(
        'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas',
      );
      expect(refused.stderr).toContain('--force-conflicts');
      expect((await get('deployment/web')).spec.replicas).toBe(5);
      const forced = await apply(deployment('web', 4), '--field-manager=me', '--force-conflicts');
      expect(forced.stdout).toBe('deployment.apps/web serverside-applied\n');
      expect((await get('deployment/web')).spec.replicas).toBe(4);
      const owners = await managers('deployment/web');
      const replicas = owners.filter((o) => o.fieldsV1['f:spec']?.['f:replicas']);
      expect(replicas.map((o) => [o.manager, o.operation])).toEqual([['me', 'Apply']]);
    });

    it('tells conflicts with several managers', async () => {
      await k.ok(['create', '-f', file(deployment('many', 1))]);
      await k.ok(['set', 'image', 'deployment/many', 'web=nginx:2', '--field-manager=painter']);
      const refused = await apply(deployment('many', 2, 'nginx:3'), '--field-manager=me');
      expect(refused.stderr).toContain(
        [
          'Apply failed with 2 conflicts: conflicts with "kubectl-create" using apps/v1:',
          '- .spec.replicas',
          'conflicts with "painter" using apps/v1:',
          '- .spec.template.spec.containers[name="web"].image',
        ].join('\n'),
      );
    });

    it('shares what is equal, gives up what is applied no more', async () => {
      expect((await apply(deployment('shared', 2), '--field-manager=one')).code).toBe(0);
      expect((await apply(deployment('shared', 2), '--field-manager=two')).code).toBe(0);
      expect((await apply(deployment('shared', undefined), '--field-manager=one')).code).toBe(0);
      // Still owned by the other.
      expect((await get('deployment/shared')).spec.replicas).toBe(2);
      expect((await apply(deployment('shared', undefined), '--field-manager=two')).code).toBe(0);
      // Nobody's now: the default.
      expect((await get('deployment/shared')).spec.replicas).toBe(1);
    });

    it('merges lists by key', async () => {
      const pod = (containers: object[]) => ({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'lists' },
        spec: { containers },
      });
      const port = (containerPort: number, protocol?: string) => ({
        containerPort,
        ...(protocol ? { protocol } : {}),
      });
      const one = { name: 'a', image: 'i:1', ports: [port(80), port(80, 'UDP')] };
      expect((await apply(pod([one]), '--field-manager=one')).code).toBe(0);
      const again = await apply(pod([{ name: 'a', image: 'i:2' }]), '--field-manager=two');
      expect(again.stderr).toContain('conflict with "one": .spec.containers[name="a"].image');
      const [entry] = await managers('pod/lists');
      const container = entry!.fieldsV1['f:spec']['f:containers']['k:{"name":"a"}'];
      expect(container['f:ports']).toEqual({
        'k:{"containerPort":80,"protocol":"TCP"}': { '.': {}, 'f:containerPort': {} },
        'k:{"containerPort":80,"protocol":"UDP"}': { '.': {}, 'f:containerPort': {}, 'f:protocol': {} },
      });
      const twice = await apply(pod([one, one]), '--field-manager=one', '--validate=false');
      expect(twice.stderr).toContain('.spec.containers: duplicate entries for key [name="a"]');
    });

    it('tracks every way to write', async () => {
      await k.ok(['create', 'deployment', 'ways', '--image=nginx:1']);
      await k.ok(['label', 'deployment/ways', 'tier=web']);
      await k.ok(['annotate', 'deployment/ways', 'note=x', '--field-manager=notes']);
      await k.ok(['scale', 'deployment/ways', '--replicas=2']);
      const found = (await managers('deployment/ways')).map((m) => [m.manager, m.operation, m.subresource]);
      expect(found).toEqual(
        expect.arrayContaining([
          ['kubectl-create', 'Update', undefined],
          ['kubectl-label', 'Update', undefined],
          ['notes', 'Update', undefined],
          ['kubectl', 'Update', 'scale'],
        ]),
      );
      expect(await k.ok(['get', 'deployment/ways', '-o', 'yaml'])).not.toContain('managedFields');
      expect(await k.ok(['get', 'deployment/ways', '-o', 'yaml', '--show-managed-fields'])).toContain(
        'f:replicas',
      );
    });

    it('shows what would change, and changes nothing', async () => {
      expect((await apply(configMap('plan', { x: '1' }))).code).toBe(0);
      const before = await get('cm/plan');
      const diff = await k.run(['diff', '--server-side', '-f', file(configMap('plan', { x: '2' }))]);
      expect(diff.code).toBe(1);
      expect(diff.stdout).toMatch(/^-\s+x: "1"$/m);
      expect(diff.stdout).toMatch(/^\+\s+x: "2"$/m);
      const dry = await apply(configMap('plan', { x: '3' }), '--dry-run=server');
      expect(dry.stdout).toBe('configmap/plan serverside-applied (server dry run)\n');
      expect((await apply(configMap('never', { x: '3' }), '--dry-run=server')).code).toBe(0);
      expect((await k.run(['get', 'cm/never'])).stderr).toContain('NotFound');
      expect(await get('cm/plan')).toEqual(before);
    });

    it('takes over from client-side apply, and gives back', async () => {
      await k.ok(['apply', '-f', file(deployment('old', 3))]);
      const applied = await apply(deployment('old', 2));
      expect(applied).toMatchObject({ code: 0, stdout: 'deployment.apps/old serverside-applied\n' });
      const o = await get('deployment/old');
      expect(o.spec.replicas).toBe(2);
      const last = JSON.parse(o.metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']);
      expect(last.spec.replicas).toBe(2);
      expect((o.metadata.managedFields as Entry[]).map((m) => m.manager)).not.toContain(
        'kubectl-client-side-apply',
      );
      // What is left out goes, since kubectl owns what it put there on the client's side.
      expect((await apply({ ...deployment('old', 2), metadata: { name: 'old' } })).code).toBe(0);
      expect(await k.ok(['apply', '-f', file(deployment('old', 5))])).toContain(
        'deployment.apps/old configured',
      );
      expect((await get('deployment/old')).spec.replicas).toBe(5);
    });

    it('forgets owners when told to', async () => {
      expect((await apply(configMap('reset', { x: '1' }))).code).toBe(0);
      await k.ok(['patch', 'cm/reset', '--type=merge', '-p', '{"metadata":{"managedFields":[{}]}}']);
      expect(await managers('cm/reset')).toEqual([]);
      expect((await apply(configMap('reset', { x: '1' }), '--field-manager=new')).code).toBe(0);
      expect((await managers('cm/reset')).map((m) => m.manager).sort()).toEqual([
        'before-first-apply',
        'new',
      ]);
    });

    it('refuses what it cannot keep', async () => {
      const wrong = { ...configMap('bad', {}), datum: {} };
      const r = await apply(wrong, '--validate=false');
      expect(r.stderr).toContain('.datum: field not declared in schema');
      const managed = { ...configMap('bad', {}), metadata: { name: 'bad', managedFields: [] } };
      expect((await apply(managed, '--validate=false')).stderr).toContain(
        'metadata.managedFields must be nil',
      );
    });

    it('makes only what the user may create', async () => {
      await k.ok(['create', 'role', 'patcher', '--verb=get,patch', '--resource=configmaps']);
      await k.ok(['create', 'rolebinding', 'patcher', '--role=patcher', '--user=pat']);
      await k.ok(['apply', '--server-side', '-f', file(configMap('theirs', { x: '1' }))]);
      const changed = await apply(configMap('theirs', { y: '1' }), '--as=pat', '--field-manager=pat');
      expect(changed).toMatchObject({ code: 0, stdout: 'configmap/theirs serverside-applied\n' });
      const refused = await apply(configMap('new', { y: '1' }), '--as=pat', '--field-manager=pat');
      expect(refused.stderr).toContain('User "pat" cannot create resource "configmaps" in API group ""');
    });

    it('applies custom objects by their schema', async () => {
      const list = {
        type: 'array',
        items: {
          type: 'object',
          properties: { id: { type: 'string' }, v: { type: 'integer' } },
          required: ['id'],
        },
      };
      const spec = {
        type: 'object',
        properties: {
          keyed: { ...list, 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['id'] },
          plain: list,
          free: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
        },
      };
      const version = {
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: 'object', properties: { spec } } },
      };
      const names = { plural: 'things', kind: 'Thing' };
      const crd = {
        apiVersion: 'apiextensions.k8s.io/v1',
        kind: 'CustomResourceDefinition',
        metadata: { name: 'things.ssa.example.com' },
        spec: {
          group: 'ssa.example.com',
          scope: 'Namespaced',
          names,
          versions: [{ name: 'v1', ...version }],
        },
      };
      await k.ok(['apply', '--server-side', '-f', file(crd)]);
      await k.ok(['wait', '--for=condition=Established', 'crd/things.ssa.example.com']);
      const thing = (o: object) => ({
        apiVersion: 'ssa.example.com/v1',
        kind: 'Thing',
        metadata: { name: 't' },
        spec: o,
      });
      const one = thing({ keyed: [{ id: 'a', v: 1 }], plain: [{ id: 'x' }], free: { deep: { a: 1 } } });
      expect(await apply(one, '--field-manager=one')).toMatchObject({ code: 0 });
      expect(
        await apply(thing({ keyed: [{ id: 'b' }], free: { deep: { b: 1 } } }), '--field-manager=two'),
      ).toMatchObject({ code: 0 });
      expect((await get('thing/t')).spec).toEqual({
        keyed: [{ id: 'a', v: 1 }, { id: 'b' }],
        plain: [{ id: 'x' }],
        free: { deep: { a: 1, b: 1 } },
      });
      const refused = await apply(thing({ keyed: [{ id: 'a', v: 2 }], plain: [] }), '--field-manager=two');
      expect(refused.stderr).toContain(
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.plain\n- .spec.keyed[id="a"].v',
      );
      expect(await apply(thing({ free: { deep: { a: 1 } } }), '--field-manager=one')).toMatchObject({
        code: 0,
      });
      expect((await get('thing/t')).spec).toEqual({ keyed: [{ id: 'b' }], free: { deep: { a: 1, b: 1 } } });
      expect((await apply(thing({ no: 1 }), '--field-manager=one', '--validate=false')).stderr).toContain(
        '.spec.no: field not declared in schema',
      );
    });

    it('applies a status', async () => {
      expect((await apply(deployment('st', 1), '--field-manager=me')).code).toBe(0);
      const status = {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: { name: 'st' },
        status: { replicas: 1, conditions: [{ type: 'Available', status: 'True' }] },
      };
      const r = await apply(status, '--subresource=status', '--field-manager=loop', '--validate=false');
      expect(r).toMatchObject({ code: 0 });
      const o = await get('deployment/st');
      expect(o.status).toMatchObject({ replicas: 1, conditions: [{ type: 'Available', status: 'True' }] });
      expect(o.spec.replicas).toBe(1);
      const loop = (o.metadata.managedFields as Entry[]).find((m) => m.manager === 'loop');
      expect(loop).toMatchObject({
        subresource: 'status',
        fieldsV1: {
          'f:status': {
            'f:replicas': {},
            'f:conditions': { 'k:{"type":"Available"}': { '.': {}, 'f:type': {}, 'f:status': {} } },
          },
        },
      });
    });
  });
}
