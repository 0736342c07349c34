import { execFileSync } from 'node:child_process';
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CertificateSigningRequest } from 'kubernetes-types/certificates/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { createPki, type Pki } from '../pki/pki.js';
import { ADMIN, type TestApi, testApi } from '../testing/api.js';
import { Controllers } from './controllers.js';
import { removeAt } from './csr.js';

const BASE = '/apis/certificates.k8s.io/v1/certificatesigningrequests';
const ANN = { name: 'ann', groups: ['dev', 'system:authenticated'], uid: '7', extra: { from: ['ldap'] } };
const BOOT = { name: 'system:bootstrap:abcdef', groups: ['system:bootstrappers', 'system:authenticated'] };
const ROLE = '/apis/rbac.authorization.k8s.io/v1/clusterroles';
const BINDING = '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings';
const CLIENT = ['digital signature', 'key encipherment', 'client auth'];

let dir: string;
let pki: Pki;
let api: TestApi;
let controllers: Controllers;
const clock = new VirtualClock({ seed: 1 });

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'csr-'));
  pki = await createPki(dir, { localHosts: () => [], clock });
  api = await testApi({ clock });
  controllers = new Controllers({
    client: api.registry.client(),
    informers: api.informers,
    kinds: api.registry,
    clock,
    log: silentLog,
    caPem: pki.caPem,
    certificates: { authorizer: api.authorizer, sign: pki.signRequest },
  });
  await controllers.start();
});
afterAll(async () => {
  await controllers.stop();
  await api.store.close();
  rmSync(dir, { recursive: true });
});

let files = 0;
function request(subject: string, san?: string): { pem: string; key: string } {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const key = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
  const file = join(dir, `key-${files++}`);
  writeFileSync(file, key);
  const more = san ? ['-addext', `subjectAltName=${san}`] : [];
  const pem = execFileSync('openssl', ['req', '-new', '-key', file, '-subj', subject, ...more], {
    encoding: 'utf8',
  });
  return { pem, key };
}

const csr = (name: string, pem: string, spec: object = {}) => ({
  apiVersion: 'certificates.k8s.io/v1',
  kind: 'CertificateSigningRequest',
  metadata: { name },
  spec: {
    request: Buffer.from(pem).toString('base64'),
    signerName: 'kubernetes.io/kube-apiserver-client',
    usages: CLIENT,
    ...spec,
  },
});
const post = (body: object, user = ADMIN, at = BASE) => api.call(at, { method: 'POST', body, user });
const get = async (name: string): Promise<CertificateSigningRequest> =>
  (await api.call(`${BASE}/${name}`)).json();
const approve = async (name: string, user = ADMIN, type = 'Approved') => {
  const o = await get(name);
  o.status = { conditions: [...(o.status?.conditions ?? []), { type, status: 'True', reason: 'Test' }] };
  return api.call(`${BASE}/${name}/approval`, { method: 'PUT', body: o, user });
};
/** Real time for the one that signs, virtual time for the loops. */
async function until<T>(what: () => Promise<T | undefined | false>): Promise<T> {
  for (let i = 0; i < 400; i++) {
    const v = await what();
    if (v) return v;
    await clock.advance(20);
    await new Promise((r) => setTimeout(r, 5));
  }
  throw new Error('it never came');
}
const issued = (name: string) =>
  until(async () => {
    const { certificate } = (await get(name)).status ?? {};
    return certificate ? new X509Certificate(Buffer.from(certificate, 'base64')) : undefined;
  });

describe('CertificateSigningRequests', () => {
  it('say who asks, whatever they claim, and keep their spec', async () => {
    const body = csr('who', request('/CN=ann').pem, { username: 'root', groups: ['system:masters'] });
    const made = await post(body, { ...ADMIN, uid: 'u1', extra: { a: ['b'] } } as typeof ADMIN);
    expect(made.json().spec).toMatchObject({ username: 'admin', uid: 'u1', extra: { a: ['b'] } });
    expect(made.json().spec.groups).toEqual(ADMIN.groups);
    const o = { ...made.json(), spec: { ...made.json().spec, signerName: 'example.com/other' } };
    const after = await api.call(`${BASE}/who`, { method: 'PUT', body: o });
    expect(after.json().spec.signerName).toBe('kubernetes.io/kube-apiserver-client');
  });

  it('are refused in Kubernetes words', async () => {
    const { pem } = request('/CN=x');
    const wrong = await post(
      csr('wrong', 'no pem', { signerName: 'short', usages: ['fly', 'any', 'any'], expirationSeconds: 599 }),
    );
    expect(wrong.status).toBe(422);
    expect(wrong.json().details.causes.map((c: { field: string; message: string }) => c.field)).toEqual([
      'spec.request',
      'spec.usages[0]',
      'spec.usages[2]',
      'spec.signerName',
      'spec.expirationSeconds',
    ]);
    expect(wrong.json().message).toContain(
      'spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)',
    );
    const masters = await post(csr('m', request('/O=system:masters/CN=x').pem));
    expect(masters.status).toBe(403);
    expect(masters.json().message).toBe(
      'certificatesigningrequests.certificates.k8s.io "m" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed',
    );
    const legacy = await post(csr('l', pem, { signerName: 'kubernetes.io/legacy-unknown' }));
    expect(legacy.json().message).toContain('the legacy signerName is not allowed via this API version');
    expect((await post(csr('e', pem, { usages: [] }))).json().message).toContain(
      'spec.usages: Required value',
    );
    expect((await post({ ...csr('e', pem), spec: undefined } as object)).status).toBe(422);
  });

  it('are signed once approved, with the names, usages and life that were asked for', async () => {
    const { pem, key } = request('/O=dev/O=ops/CN=ann');
    await post(csr('ann', pem, { expirationSeconds: 3600 }));
    expect((await get('ann')).status).toEqual({});
    expect((await approve('ann')).status).toBe(200);
    const cert = await issued('ann');
    expect(cert.subject).toBe('O=dev\nO=ops\nCN=ann');
    expect(cert.checkPrivateKey(createPrivateKey(key))).toBe(true);
    expect(cert.verify(new X509Certificate(pki.clientCaPem).publicKey)).toBe(true);
    // Brokers trust the nodes' CA: no name in a request makes anybody a device, or the hub.
    expect(cert.verify(new X509Certificate(pki.caPem).publicKey)).toBe(false);
    expect(cert.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
    expect(Date.parse(cert.validTo) - clock.now()).toBeLessThanOrEqual(3_600_000);
    const { status } = await get('ann');
    expect(status?.conditions).toHaveLength(1);
    expect(status?.conditions?.[0]).toMatchObject({ lastUpdateTime: expect.any(String), reason: 'Test' });
  });

  it('are never signed when denied, and a decision stays', async () => {
    await post(csr('no', request('/CN=no').pem));
    await approve('no', ADMIN, 'Denied');
    const both = await approve('no');
    expect(both.status).toBe(422);
    expect(both.json().message).toContain('Approved and Denied conditions are mutually exclusive');
    const taken = await api.call(`${BASE}/no/approval`, {
      method: 'PUT',
      body: { ...(await get('no')), status: {} },
    });
    expect(taken.json().message).toContain('updates may not remove a condition of type "Denied"');
    await clock.advance(1000);
    expect((await get('no')).status?.certificate).toBeUndefined();
  });

  it('fail with what is wrong with them', async () => {
    const serving = {
      signerName: 'kubernetes.io/kubelet-serving',
      usages: ['digital signature', 'server auth'],
    };
    const kubelet = { ...serving, signerName: 'kubernetes.io/kube-apiserver-client-kubelet' };
    const cases: [string, string, string | undefined, object, string][] = [
      [
        'f1',
        '/CN=x',
        undefined,
        { usages: ['server auth'] },
        'invalid usage for client certificate: server auth',
      ],
      [
        'f2',
        '/CN=x',
        undefined,
        { usages: ['digital signature'] },
        'missing required usage for client certificate: client auth',
      ],
      ['f3', '/O=system:nodes/CN=system:node:a', undefined, serving, 'DNS or IP subjectAltName is required'],
      ['f4', '/O=x/CN=system:node:a', 'DNS:a', serving, 'subject organization is not system:nodes'],
      [
        'f5',
        '/O=system:nodes/CN=a',
        'DNS:a',
        serving,
        'subject common name does not begin with system:node:',
      ],
      ['f6', '/O=system:nodes/CN=system:node:a', 'DNS:a', kubelet, 'DNS subjectAltNames are not allowed'],
      [
        'f7',
        '/O=system:nodes/CN=system:node:a',
        undefined,
        kubelet,
        'usages did not match [client auth digital signature key encipherment]',
      ],
    ];
    for (const [name, subject, san, spec] of cases) {
      await post(csr(name, request(subject, san).pem, spec));
      await approve(name);
    }
    for (const [name, , , , message] of cases) {
      const failed = await until(async () =>
        (await get(name)).status?.conditions?.find((c) => c.type === 'Failed'),
      );
      expect(failed, name).toMatchObject({ reason: 'SignerValidationFailure', message });
    }
  });

  it('for a serving certificate carry its names', async () => {
    const { pem } = request('/O=system:nodes/CN=system:node:pi1', 'DNS:pi1,IP:10.0.0.7');
    await post(
      csr('serving', pem, {
        signerName: 'kubernetes.io/kubelet-serving',
        usages: ['digital signature', 'server auth'],
      }),
    );
    await approve('serving');
    expect((await issued('serving')).subjectAltName).toBe('DNS:pi1, IP Address:10.0.0.7');
  });

  it('of other signers are left to these', async () => {
    await post(csr('foreign', request('/CN=x').pem, { signerName: 'example.com/mine' }));
    await approve('foreign');
    await clock.advance(1000);
    expect((await get('foreign')).status?.certificate).toBeUndefined();
    const pem = Buffer.from('nonsense').toString('base64');
    const set = (certificate: string) =>
      api.call(`${BASE}/foreign/status`, {
        method: 'PATCH',
        headers: { 'content-type': 'application/merge-patch+json' },
        body: { status: { certificate } },
      });
    expect((await set(pem)).json().message).toContain('must contain at least one CERTIFICATE PEM block');
    expect((await set(Buffer.from(pki.caPem).toString('base64'))).status).toBe(200);
    expect((await set(Buffer.from(pki.clientCaPem).toString('base64'))).status).toBe(422);
  });

  it('need the verbs approve and sign on their signer', async () => {
    const rule = (verbs: string[], resources: string[], names?: string[]) => ({
      apiGroups: ['certificates.k8s.io'],
      resources,
      verbs,
      ...(names ? { resourceNames: names } : {}),
    });
    const all = [
      'certificatesigningrequests',
      'certificatesigningrequests/approval',
      'certificatesigningrequests/status',
    ];
    const role = (name: string, rules: object[]) => post({ metadata: { name }, rules }, ADMIN, ROLE);
    const bind = (name: string, user: string) =>
      post(
        {
          metadata: { name: `${name}-${user.replaceAll(':', '-')}` },
          roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name },
          subjects: [{ kind: 'User', name: user }],
        },
        ADMIN,
        BINDING,
      );
    await role('writer', [rule(['get', 'create', 'update', 'patch'], all)]);
    await bind('writer', 'ann');
    await bind('writer', BOOT.name);
    await until(async () => (await post(csr('rights', request('/CN=x').pem), ANN)).status === 201);
    expect((await get('rights')).spec).toMatchObject({
      username: 'ann',
      uid: '7',
      extra: { from: ['ldap'] },
    });
    const refused = await approve('rights', ANN);
    expect(refused.status).toBe(403);
    expect(refused.json().message).toBe(
      'certificatesigningrequests.certificates.k8s.io "rights" is forbidden: user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"',
    );
    // A condition of approval has no way in through status either.
    const o = await get('rights');
    o.status = { conditions: [{ type: 'Approved', status: 'True' }] };
    const around = await api.call(`${BASE}/rights/status`, { method: 'PUT', body: o, user: ADMIN });
    expect(around.json().message).toContain('updates may not add a condition of type "Approved"');
    await role('approver', [rule(['approve'], ['signers'], ['kubernetes.io/*'])]);
    await bind('approver', 'ann');
    await until(async () => (await approve('rights', ANN)).status === 200);
    await issued('rights');

    // Nodes' certificates: approved by themselves for whom a right says so.
    const node = {
      signerName: 'kubernetes.io/kube-apiserver-client-kubelet',
      usages: ['digital signature', 'client auth'],
    };
    const { pem } = request('/O=system:nodes/CN=system:node:pi9');
    await until(async () => (await post(csr('pending', pem, node), BOOT)).status === 201);
    await clock.advance(1000);
    expect((await get('pending')).status).toEqual({});
    await bind('system:certificates.k8s.io:certificatesigningrequests:nodeclient', BOOT.name);
    await until(async () => (await post(csr('auto', pem, node), BOOT)).status === 201);
    expect((await issued('auto')).subject).toBe('O=system:nodes\nCN=system:node:pi9');
    expect((await get('auto')).status?.conditions?.[0]).toMatchObject({
      type: 'Approved',
      reason: 'AutoApproved',
      message: 'Auto approving kubelet client certificate after SubjectAccessReview.',
    });
  });

  it('go an hour after the decision, or after a day without one', async () => {
    const there = async (name: string) => (await api.call(`${BASE}/${name}`)).status === 200;
    await post(csr('waits', request('/CN=x').pem));
    await clock.advance(3_700_000);
    expect(await there('no')).toBe(false);
    expect(await there('ann')).toBe(false);
    expect(await there('f1')).toBe(false);
    expect(await there('waits')).toBe(true);
    await clock.advance(24 * 3_600_000);
    expect(await there('waits')).toBe(false);
  });

  it('that are approved and not signed yet stay', () => {
    const conditions = [{ type: 'Approved', status: 'True', lastUpdateTime: '2020-01-01T00:00:00Z' }];
    expect(removeAt({ spec: { request: '', signerName: 'a.b/c' }, status: { conditions } })).toBeUndefined();
  });
});
