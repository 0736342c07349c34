import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../../api/clock.js';
import { silentLog } from '../../../api/log.js';
import { type TestApi, testApi } from '../../testing/api.js';
import { CustomDefinitions, compareVersions } from './definitions.js';

const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const LAMPS = '/apis/example.com/v1/namespaces/default/lamps';

const version = (name: string, more: object = {}) => ({
  name,
  served: true,
  storage: false,
  schema: {
    openAPIV3Schema: {
      type: 'object',
      properties: { spec: { type: 'object', properties: { watts: { type: 'integer' } } } },
    },
  },
  ...more,
});
const definition = (plural: string, kind: string, more: object = {}) => ({
  metadata: { name: `${plural}.example.com` },
  spec: {
    group: 'example.com',
    scope: 'Namespaced',
    names: { plural, kind },
    versions: [version('v1', { storage: true })],
    ...more,
  },
});

describe('CustomResourceDefinitions', () => {
  let api: TestApi;
  let definitions: CustomDefinitions;
  const start = async () => {
    const { registry } = api;
    definitions = new CustomDefinitions({
      client: registry.client(),
      table: registry,
      clock: systemClock,
      log: silentLog,
    });
    await definitions.start();
  };
  const post = (url: string, body: object) => api.call(url, { method: 'POST', body });
  const until = async (check: () => Promise<boolean>) => {
    while (!(await check())) await new Promise((r) => setTimeout(r, 5));
  };
  const conditions = async (name: string): Promise<Record<string, string>> => {
    const crd = (await api.call(`${CRDS}/${name}.example.com`)).json();
    return Object.fromEntries(
      (crd.status?.conditions ?? []).map((c: { type: string; status: string; reason: string }) => [
        c.type,
        `${c.status} ${c.reason}`,
      ]),
    );
  };
  const make = async (plural: string, kind: string, more: object = {}) => {
    const reply = await post(CRDS, definition(plural, kind, more));
    expect(reply.status, reply.text).toBe(201);
    await until(async () => 'Established' in (await conditions(plural)));
  };

  beforeEach(async () => {
    api = await testApi();
    await api.registry.bootstrap();
    await start();
  });
  afterEach(async () => {
    await definitions.stop();
    await api.store.close();
  });

  it('are served once they are established, and after a restart at once', async () => {
    expect((await api.call(LAMPS)).status).toBe(404);
    await make('lamps', 'Lamp');
    expect((await post(LAMPS, { metadata: { name: 'a' }, spec: { watts: 5 } })).status).toBe(201);
    await definitions.stop();
    api.registry.setCustomKinds([]);
    expect((await api.call(LAMPS)).status).toBe(404);
    await start();
    expect((await api.call(LAMPS)).json().items).toHaveLength(1);
  });

  it('refuse what is wrong with them', async () => {
    const refused = async (crd: object) => (await post(CRDS, crd)).json().message as string;
    expect(await refused({ ...definition('lamps', 'Lamp'), metadata: { name: 'x' } })).toContain(
      'metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group',
    );
    expect(await refused(definition('lamps', 'Lamp', { versions: [version('v1')] }))).toContain(
      'must have exactly one version marked as storage version',
    );
    expect(await refused(definition('lamps', 'Lamp', { scope: 'Galaxy' }))).toContain(
      'spec.scope: Unsupported value: "Galaxy": supported values: "Cluster", "Namespaced"',
    );
    const schema = { openAPIV3Schema: { type: 'object', properties: { spec: {} } } };
    expect(
      await refused(definition('lamps', 'Lamp', { versions: [version('v1', { storage: true, schema })] })),
    ).toContain(
      'spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields',
    );
  });

  it('may not take names of others', async () => {
    await make('lamps', 'Lamp');
    await make('torches', 'Lamp');
    expect(await conditions('torches')).toEqual({
      NamesAccepted: 'False ListKindConflict',
      Established: 'False NotAccepted',
    });
    expect((await api.call('/apis/example.com/v1/torches')).status).toBe(404);
    await api.call(`${CRDS}/lamps.example.com`, { method: 'DELETE' });
    await until(async () => (await conditions('torches'))['Established'] === 'True InitialNamesAccepted');
    expect((await api.call('/apis/example.com/v1/torches')).status).toBe(200);
  });

  it('show the same objects in every version, and keep the ones that were stored', async () => {
    const versions = [version('v1', { storage: true }), version('v2'), version('v3', { served: false })];
    await make('lamps', 'Lamp', { versions });
    await post(LAMPS, { metadata: { name: 'a' }, spec: { watts: 5 } });
    const v2 = (await api.call('/apis/example.com/v2/namespaces/default/lamps/a')).json();
    expect(v2).toMatchObject({ apiVersion: 'example.com/v2', spec: { watts: 5 } });
    expect((await api.call('/apis/example.com/v3/lamps')).status).toBe(404);
    expect((await api.call('/apis/example.com')).json().preferredVersion.version).toBe('v2');

    const put = async (change: (crd: { spec: { versions: object[] } }) => void) => {
      const crd = (await api.call(`${CRDS}/lamps.example.com`)).json();
      change(crd);
      return api.call(`${CRDS}/lamps.example.com`, { method: 'PUT', body: crd });
    };
    const moved = await put((crd) => {
      crd.spec.versions = [version('v1'), version('v2', { storage: true })];
    });
    expect(moved.json().status.storedVersions).toEqual(['v1', 'v2']);
    const dropped = await put((crd) => {
      crd.spec.versions = [version('v2', { storage: true })];
    });
    expect(dropped.json().message).toContain(
      'status.storedVersions[0]: Invalid value: "v1": missing from spec.versions',
    );
  });

  it('wait for objects with finalizers, and take no new ones meanwhile', async () => {
    await make('lamps', 'Lamp');
    await post(LAMPS, { metadata: { name: 'a', finalizers: ['example.com/hold'] } });
    await api.call(`${CRDS}/lamps.example.com`, { method: 'DELETE' });
    await until(async () => 'Terminating' in (await conditions('lamps')));
    const refused = await post(LAMPS, { metadata: { name: 'b' } });
    expect(refused.status).toBe(405);
    expect(refused.json().message).toContain(
      'create not allowed while custom resource definition is terminating',
    );
    await api.call(`${LAMPS}/a`, {
      method: 'PATCH',
      headers: { 'content-type': 'application/merge-patch+json' },
      body: { metadata: { finalizers: null } },
    });
    await until(async () => (await api.call(`${CRDS}/lamps.example.com`)).status === 404);
    expect((await api.call(LAMPS)).status).toBe(404);
  });

  it('change under those who watch their objects', async () => {
    await make('lamps', 'Lamp');
    const kind = api.registry.kindFor('example.com', 'v1', 'lamps')!;
    const crd = (await api.call(`${CRDS}/lamps.example.com`)).json();
    crd.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.color = {
      type: 'string',
      default: 'white',
    };
    await api.call(`${CRDS}/lamps.example.com`, { method: 'PUT', body: crd });
    await until(
      async () =>
        (await post(LAMPS, { metadata: { generateName: 'l-' }, spec: {} })).json().spec.color === 'white',
    );
    expect(api.registry.kindFor('example.com', 'v1', 'lamps')).toBe(kind);
    const v3 = (await api.call('/openapi/v3/apis/example.com/v1')).json();
    expect(v3.components.schemas['com.example.v1.Lamp'].properties.spec.properties.color.default).toBe(
      'white',
    );
  });

  it('sort versions as Kubernetes does', () => {
    const versions = ['v1alpha1', 'foo1', 'v2', 'v10', 'v11beta2', 'v1', 'v3beta1', 'v12alpha1', 'foo10'];
    expect(versions.sort(compareVersions)).toEqual([
      'v10',
      'v2',
      'v1',
      'v11beta2',
      'v3beta1',
      'v12alpha1',
      'v1alpha1',
      'foo1',
      'foo10',
    ]);
  });
});
