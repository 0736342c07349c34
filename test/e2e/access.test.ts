/** Programs in pods and people at their desks reach the API: mounted tokens, and certificates that kubectl asked for. */
import { execFileSync } from 'node:child_process';
import { realpathSync, writeFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forgetMemory } from '../../agent/volumes/volumes.js';
import { DEVICE_PARTS, Device, kill, processesOf } from './support/device.js';
import { missing } from './support/needs.js';

const NODE_MODULES = realpathSync(resolve(import.meta.dirname, '../../node_modules'));
const HERE = Object.values(networkInterfaces())
  .flatMap((a) => a ?? [])
  .find((a) => !a.internal && a.family === 'IPv4')?.address;

/** What a controller in a cluster does first: finds the API and its own credentials by itself. */
const PROGRAM = `
// Its 2.x needs Node 22.
import * as k8s from 'kubernetes-client';
const kc = new k8s.KubeConfig();
kc.loadFromCluster();
const core = kc.makeApiClient(k8s.CoreV1Api);
const namespace = kc.getContextObject(kc.getCurrentContext()).namespace;
const { items } = await core.listNamespacedPod({ namespace });
console.log('pods:', items.map((p) => p.metadata.name).sort().join(' '));
const refused = await core.listNamespacedSecret({ namespace }).then(() => 'nothing', (e) => e.code);
console.log('secrets:', refused);
`;

describe.skipIf(missing(...DEVICE_PARTS, 'kubectl-1.32', 'openssl'))('access to the API', () => {
  let d: Device;
  beforeAll(async () => {
    // Containers have a network of their own: the hub must be where they can reach it.
    if (!HERE) throw new Error('this machine has no address but 127.0.0.1, which no container can reach');
    d = await Device.start('embedded', [], ['--host', HERE]);
    await d.k.apply({
      apiVersion: 'v1',
      kind: 'List',
      items: [
        { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'lister' } },
        { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'program' }, data: { 'main.mjs': PROGRAM } },
        {
          apiVersion: 'rbac.authorization.k8s.io/v1',
          kind: 'Role',
          metadata: { name: 'lister' },
          rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['list'] }],
        },
        {
          apiVersion: 'rbac.authorization.k8s.io/v1',
          kind: 'RoleBinding',
          metadata: { name: 'lister' },
          roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'lister' },
          subjects: [{ kind: 'ServiceAccount', name: 'lister' }],
        },
      ],
    });
  });
  afterAll(() => d?.stop());

  /** A container with this machine's Node.js and packages, and the program. */
  const inCluster = (name: string, spec: object = {}) => {
    const host = (at: string, path: string) => ({ name: at, hostPath: { path: realpathSync(path) } });
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name },
      spec: {
        serviceAccountName: 'lister',
        restartPolicy: 'Never',
        ...spec,
        containers: [
          {
            name: 'main',
            image: d.busybox,
            command: ['/node', '/app/src/main.mjs'],
            volumeMounts: [
              { name: 'node', mountPath: '/node' },
              { name: 'lib', mountPath: '/lib' },
              { name: 'lib64', mountPath: '/lib64' },
              { name: 'packages', mountPath: '/app/node_modules' },
              { name: 'program', mountPath: '/app/src' },
            ],
          },
        ],
        volumes: [
          host('node', process.execPath),
          host('lib', '/lib'),
          host('lib64', '/lib64'),
          host('packages', NODE_MODULES),
          { name: 'program', configMap: { name: 'program' } },
        ],
      },
    };
  };

  for (const [where, spec] of [
    ['a network of its own', {}],
    ["the host's network", { hostNetwork: true }],
  ] as const)
    it(`a client library in a container with ${where} finds the API and does what RBAC allows`, async () => {
      const name = 'hostNetwork' in spec ? 'outside' : 'inside';
      await d.k.apply(inCluster(name, spec));
      await d.phase(name, 'Succeeded');
      const log = await d.k('logs', name);
      expect(log).toMatch(new RegExp(`^pods: .*\\b${name}\\b`, 'm'));
      expect(log).toMatch(/^secrets: 403$/m);
    });

  it('a token that is asked for by hand lies where it should, and opens nothing for another audience', async () => {
    await d.k.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'vault' },
      spec: {
        automountServiceAccountToken: false,
        terminationGracePeriodSeconds: 1,
        restartPolicy: 'Never',
        containers: [
          {
            name: 'main',
            image: d.busybox,
            command: ['sh', '-c', 'ls /var/run/secrets 2>&1; cat /t/vault; echo; sleep 1000'],
            volumeMounts: [{ name: 't', mountPath: '/t' }],
          },
        ],
        volumes: [
          {
            name: 't',
            projected: {
              sources: [
                { serviceAccountToken: { path: 'vault', audience: 'vault', expirationSeconds: 600 } },
              ],
            },
          },
        ],
      },
    });
    const [, token] = await d.says('vault', /^(ey\S+)$/m);
    expect(await d.k('logs', 'vault')).toContain('No such file');
    const review = (audiences?: string[]) => ({
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      spec: { token, ...(audiences ? { audiences } : {}) },
    });
    const asked = async (audiences?: string[]) => {
      const file = join(d.dir, 'review.json');
      writeFileSync(file, JSON.stringify(review(audiences)));
      return JSON.parse(await d.k('create', '-f', file, '-o', 'json')).status;
    };
    expect(await asked(['vault'])).toMatchObject({
      authenticated: true,
      user: {
        username: 'system:serviceaccount:default:default',
        extra: { 'authentication.kubernetes.io/pod-name': ['vault'] },
      },
    });
    expect((await asked()).authenticated).toBeUndefined();
    await d.delete('vault');
    expect((await asked(['vault'])).authenticated).toBeUndefined();
  });

  it('a token outlives a power cut with no hub in reach', async () => {
    const script = 'cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; sleep 1000';
    await d.k.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'keeps' },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [{ name: 'main', image: d.busybox, command: ['sh', '-c', script] }],
      },
    });
    const [, before] = await d.says('keeps', /^(ey\S+)$/m);
    await d.hub.stop();
    await d.agent.stop('SIGKILL');
    await d.containerd.powerCut();
    await d.until('the device is dark', () => {
      const left = processesOf(d.agent.dataDir);
      kill(left);
      return left.length === 0;
    });
    // What was in memory is gone after a reboot.
    forgetMemory(join(d.agent.dataDir, 'pods'));
    await d.containerd.up();
    await d.agent.start();
    await d.until('it runs again', async () =>
      (await d.containerd.ctr('tasks', 'list')).split('\n').some((l) => /RUNNING/.test(l)),
    );
    await d.hub.start();
    await d.until('the pod is reported again', async () => {
      const [s] = (await d.pod('keeps')).status.containerStatuses;
      return s.restartCount === 1 && s.state.running;
    });
    const [, after] = await d.says('keeps', /^(ey\S+)$/m);
    expect(after).toBe(before);
    await d.delete('keeps');
  });

  for (const minor of ['1.32', '1.36'] as const)
    it(`kubectl ${minor}: a person asks for a certificate, an administrator approves, it works`, async () => {
      const k = d.hub.kubectl(minor);
      const name = `ann-${minor}`.replace('.', '-');
      const file = (ending: string) => join(d.dir, `${name}.${ending}`);
      execFileSync(
        'openssl',
        [
          ...['req', '-new', '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
          ...['-keyout', file('key'), '-out', file('csr'), '-subj', `/O=listers/CN=${name}`],
        ],
        { stdio: 'ignore' },
      );
      const request = execFileSync('base64', ['-w0', file('csr')], { encoding: 'utf8' });
      const csr = (as: string) => ({
        apiVersion: 'certificates.k8s.io/v1',
        kind: 'CertificateSigningRequest',
        metadata: { name: as },
        spec: {
          request,
          signerName: 'kubernetes.io/kube-apiserver-client',
          usages: ['client auth'],
          expirationSeconds: 86400,
        },
      });
      await k.apply(csr(name));
      expect(await k('get', 'csr', name)).toMatch(
        /^NAME +AGE +SIGNERNAME +REQUESTOR +REQUESTEDDURATION +CONDITION\n\S+ +\S+ +kubernetes.io\/kube-apiserver-client +admin +24h +Pending/,
      );
      expect(await k('certificate', 'approve', name)).toContain(' approved');
      const encoded = await d.until('the certificate', () =>
        k('get', 'csr', name, '-o', 'jsonpath={.status.certificate}'),
      );
      expect(await k('describe', 'csr', name)).toMatch(/Status: +Approved,Issued/);
      expect(await k('get', 'csr', '--field-selector', 'spec.signerName=a.b/c')).toBe('');
      writeFileSync(file('crt'), Buffer.from(encoded, 'base64'));
      const person = (...args: string[]) =>
        k.try(...args, '--kubeconfig', file('kubeconfig'), '--cache-dir', join(d.dir, 'cache'));
      const cluster = ['config', '--kubeconfig', file('kubeconfig')];
      await k(
        ...cluster,
        'set-cluster',
        'c',
        '--server',
        `https://${HERE}:${d.hub.apiPort}`,
        '--certificate-authority',
        join(d.hub.dataDir, 'pki/ca.crt'),
        '--embed-certs',
      );
      await k(
        ...cluster,
        'set-credentials',
        'u',
        '--client-certificate',
        file('crt'),
        '--client-key',
        file('key'),
        '--embed-certs',
      );
      await k(...cluster, 'set-context', 'x', '--cluster', 'c', '--user', 'u');
      await k(...cluster, 'use-context', 'x');
      expect((await person('auth', 'whoami')).stdout).toMatch(
        new RegExp(`Username +${name}[\\s\\S]*listers`),
      );
      expect((await person('get', 'pods')).stderr).toContain(`User "${name}" cannot list resource "pods"`);
      const group = ['create', 'rolebinding', `${name}-list`, '--role=lister', '--group=listers'];
      await k(...group);
      await d.until('the right', async () => (await person('get', 'pods')).code === 0);
      await k('delete', 'rolebinding', `${name}-list`);

      await k.apply(csr(`${name}-no`));
      expect(await k('certificate', 'deny', `${name}-no`)).toContain(' denied');
      expect(await k('get', 'csr', `${name}-no`)).toMatch(/ Denied\n$/);
      expect((await k.try('certificate', 'approve', `${name}-no`)).stderr).toContain('already Denied');
    });
});
