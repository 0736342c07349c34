import type { Pod, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { beforeAll, describe, expect, it } from 'vitest';
import { type TestApi, testApi } from '../../testing/api.js';

const PODS = '/api/v1/namespaces/default/pods';
const ACCOUNTS = '/api/v1/namespaces/default/serviceaccounts';
const PATH = '/var/run/secrets/kubernetes.io/serviceaccount';

let api: TestApi;
let serial = 0;
beforeAll(async () => {
  api = await testApi();
  await api.registry.bootstrap();
});
const account = async (o: object = {}) => {
  const name = `a${++serial}`;
  const made = await api.call(ACCOUNTS, { method: 'POST', body: { metadata: { name }, ...o } });
  expect(made.status).toBe(201);
  return made.json<ServiceAccount>().metadata!.name!;
};
const post = (spec: object, metadata: object = {}) =>
  api.call(PODS, {
    method: 'POST',
    body: {
      metadata: { name: `p${++serial}`, ...metadata },
      spec: { containers: [{ name: 'c', image: 'i' }], ...spec },
    },
  });
const made = async (spec: object): Promise<NonNullable<Pod['spec']>> => {
  const r = await post(spec);
  expect(r.status, r.text).toBe(201);
  return r.json<Pod>().spec!;
};
const mountsOf = (spec: NonNullable<Pod['spec']>) =>
  [...(spec.initContainers ?? []), ...spec.containers].map((c) =>
    (c.volumeMounts ?? []).map((m) => `${m.name.replace(/-.....$/, '')}:${m.mountPath}`),
  );

describe('ServiceAccount admission', () => {
  it('mounts the token, the CA and the namespace into every container, as Kubernetes does', async () => {
    const spec = await made({ initContainers: [{ name: 'i', image: 'i' }] });
    expect(spec.serviceAccountName).toBe('default');
    expect(spec.serviceAccount).toBe('default');
    expect(spec.volumes).toEqual([
      {
        name: expect.stringMatching(/^kube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}$/),
        projected: {
          defaultMode: 420,
          sources: [
            { serviceAccountToken: { expirationSeconds: 3607, path: 'token' } },
            { configMap: { name: 'kube-root-ca.crt', items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
            {
              downwardAPI: {
                items: [
                  { path: 'namespace', fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.namespace' } },
                ],
              },
            },
          ],
        },
      },
    ]);
    const [{ name }] = spec.volumes as [{ name: string }];
    for (const c of [...spec.initContainers!, ...spec.containers])
      expect(c.volumeMounts).toEqual([{ name, readOnly: true, mountPath: PATH }]);
  });

  it('leaves alone what has something at that path already', async () => {
    const own = { name: 'own', mountPath: PATH };
    const spec = await made({
      containers: [
        { name: 'a', image: 'i', volumeMounts: [own] },
        { name: 'b', image: 'i' },
      ],
      volumes: [{ name: 'own', emptyDir: {} }],
    });
    expect(mountsOf(spec)).toEqual([[`own:${PATH}`], [`kube-api-access:${PATH}`]]);
    const none = await made({
      containers: [{ name: 'a', image: 'i', volumeMounts: [own] }],
      volumes: [{ name: 'own', emptyDir: {} }],
    });
    expect(none.volumes).toHaveLength(1);
  });

  it('asks the pod, then the account, whether to mount', async () => {
    const off = await account({ automountServiceAccountToken: false });
    const on = await account({ automountServiceAccountToken: true });
    const mounted = async (spec: object) => ((await made(spec)).volumes ?? []).length === 1;
    expect(await mounted({ serviceAccountName: off })).toBe(false);
    expect(await mounted({ serviceAccountName: off, automountServiceAccountToken: true })).toBe(true);
    expect(await mounted({ serviceAccountName: on })).toBe(true);
    expect(await mounted({ serviceAccountName: on, automountServiceAccountToken: false })).toBe(false);
  });

  it('refuses an account that is not there', async () => {
    const r = await post({ serviceAccountName: 'nobody' }, { name: 'x' });
    expect(r.status).toBe(403);
    expect(r.json().message).toBe(
      'pods "x" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found',
    );
  });

  it("gives a pod its account's imagePullSecrets, unless it has its own", async () => {
    const a = await account({ imagePullSecrets: [{ name: 'r1' }, { name: 'r2' }] });
    expect((await made({ serviceAccountName: a })).imagePullSecrets).toEqual([
      { name: 'r1' },
      { name: 'r2' },
    ]);
    const own = [{ name: 'mine' }];
    expect((await made({ serviceAccountName: a, imagePullSecrets: own })).imagePullSecrets).toEqual(own);
  });

  it('holds pods to the secrets of an account that enforces it', async () => {
    const a = await account({
      metadata: { name: 'strict', annotations: { 'kubernetes.io/enforce-mountable-secrets': 'true' } },
      secrets: [{ name: 'ok' }],
      imagePullSecrets: [{ name: 'pull' }],
    });
    const tail = 'is not allowed because service account strict does not reference that';
    const env = (name: string) => ({ name: 'E', valueFrom: { secretKeyRef: { name, key: 'k' } } });
    const c = (o: object) => ({ containers: [{ name: 'c', image: 'i', ...o }] });
    const cases: [object, string | undefined][] = [
      [{ volumes: [{ name: 'v', secret: { secretName: 'ok' } }] }, undefined],
      [
        { volumes: [{ name: 'v', secret: { secretName: 'no' } }] },
        `volume with secret.secretName="no" ${tail} secret`,
      ],
      [c({ env: [env('ok')] }), undefined],
      [
        c({ env: [env('no')] }),
        `container c with envVar E referencing secret.secretName="no" ${tail} secret`,
      ],
      [
        { initContainers: [{ name: 'i', image: 'i', env: [env('no')] }] },
        `init container i with envVar E referencing secret.secretName="no" ${tail} secret`,
      ],
      [
        c({ envFrom: [{ secretRef: { name: 'no' } }] }),
        `container c with envFrom referencing secret.secretName="no" ${tail} secret`,
      ],
      [{ imagePullSecrets: [{ name: 'pull' }] }, undefined],
      [{ imagePullSecrets: [{ name: 'no' }] }, `imagePullSecrets[0].name="no" ${tail} imagePullSecret`],
    ];
    for (const [spec, why] of cases) {
      const r = await post({ serviceAccountName: a, ...spec });
      expect(r.status, JSON.stringify(spec)).toBe(why ? 403 : 201);
      if (why) expect(r.json().message).toContain(` is forbidden: ${why}`);
    }
  });

  it('leaves mirror pods as they are, and lets them have neither accounts nor secrets', async () => {
    const annotations = { 'kubernetes.io/config.mirror': 'abc' };
    const mirror = (spec: object) => post({ nodeName: 'pi1', ...spec }, { annotations });
    const r = await mirror({});
    expect(r.status).toBe(201);
    expect(r.json().spec.volumes).toBeUndefined();
    expect(r.json().spec.serviceAccountName).toBeUndefined();
    const refused = async (spec: object) => (await mirror(spec)).json().message;
    expect(await refused({ serviceAccountName: 'default' })).toContain(
      'a mirror pod may not reference service accounts',
    );
    expect(await refused({ volumes: [{ name: 'v', secret: { secretName: 's' } }] })).toContain(
      'a mirror pod may not reference secrets',
    );
    expect(
      await refused({
        volumes: [{ name: 'v', projected: { sources: [{ serviceAccountToken: { path: 't' } }] } }],
      }),
    ).toContain('a mirror pod may not use ServiceAccountToken volume projections');
  });
});
