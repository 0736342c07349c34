/** Admission from outside, through real kubectl: an HTTPS webhook that mutates and denies, and policies in CEL. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

interface Asked {
  path: string;
  name?: string;
  operation: string;
  dryRun: boolean;
  subResource?: string;
  object: { metadata: { labels?: Record<string, string> }; data?: Record<string, string> } | null;
}

const patch = (...operations: object[]) => ({
  allowed: true,
  patchType: 'JSONPatch',
  patch: Buffer.from(JSON.stringify(operations)).toString('base64'),
});

/** By path, as a webhook's author would write them. */
const ANSWERS: Record<string, (asked: Asked) => object | undefined> = {
  '/label': ({ object }) =>
    object?.metadata.labels?.['stamped']
      ? { allowed: true }
      : patch({ op: 'add', path: '/metadata/labels', value: { ...object?.metadata.labels, stamped: 'yes' } }),
  '/count': ({ object }) =>
    patch({ op: 'add', path: '/data', value: { ...object?.data, seen: `${object?.data?.['seen'] ?? ''}x` } }),
  '/deny': ({ object, name }) =>
    object?.data?.['evil']
      ? { allowed: false, status: { code: 403, message: `${name} is evil` } }
      : { allowed: true, warnings: ['looked at it'] },
  '/mute': () => undefined,
};

describe.skipIf(missing('kubectl-1.36'))('admission from outside, by kubectl', () => {
  let api: ApiServer;
  let kubectl: Kubectl;
  let server: Server;
  let url: string;
  let ca: string;
  let asked: Asked[] = [];

  beforeAll(async () => {
    api = await startApiServer();
    kubectl = kubectlOf('1.36', api.kubeconfig, api.dir);
    ca = Buffer.from(api.pki.caPem).toString('base64');
    server = createServer({ cert: api.pki.server.cert, key: api.pki.server.key }, async (req, res) => {
      let body = '';
      for await (const part of req) body += String(part);
      const { apiVersion, request } = JSON.parse(body);
      const path = req.url!.replace(/\?.*/, '');
      asked.push({ ...request, path });
      const answer = ANSWERS[path]!({ ...request, path });
      if (answer)
        res.end(
          JSON.stringify({ kind: 'AdmissionReview', apiVersion, response: { uid: request.uid, ...answer } }),
        );
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(async () => {
    server?.closeAllConnections();
    server?.close();
    await api?.stop();
  });

  const configuration = (sort: 'Mutating' | 'Validating', name: string, ...webhooks: object[]) => ({
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind: `${sort}WebhookConfiguration`,
    metadata: { name },
    webhooks,
  });
  const hook = (path: string, more: object = {}) => ({
    name: `${path}.hooks.example.com`,
    clientConfig: { url: `${url}/${path}`, caBundle: ca },
    rules: [
      { operations: ['CREATE', 'UPDATE'], apiGroups: [''], apiVersions: ['v1'], resources: ['configmaps'] },
    ],
    sideEffects: 'None',
    admissionReviewVersions: ['v1'],
    ...more,
  });
  /** Applies configurations for as long as `work` runs. */
  const having = async (configurations: object[], work: () => Promise<void>): Promise<void> => {
    for (const c of configurations) await kubectl.ok(['apply', '-f', '-'], c);
    asked = [];
    try {
      await work();
    } finally {
      await kubectl.ok([
        'delete',
        'mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings',
        '--all',
      ]);
    }
  };
  const map = (name: string, data: Record<string, string> = {}) => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name },
    data,
  });

  it('mutates, again where that is asked for, and shows it in a dry run', () =>
    having(
      [
        configuration('Mutating', 'a', hook('count', { reinvocationPolicy: 'IfNeeded' })),
        configuration('Mutating', 'b', hook('label')),
      ],
      async () => {
        const dry = await kubectl.ok(
          ['create', '-f', '-', '--dry-run=server', '-o', 'jsonpath={.data.seen} {.metadata.labels}'],
          map('m'),
        );
        expect(dry).toBe('xx {"stamped":"yes"}');
        expect(asked.map((a) => [a.path, a.dryRun])).toEqual([
          ['/count', true],
          ['/label', true],
          ['/count', true],
        ]);
        expect((await kubectl.run(['get', 'configmap', 'm'])).stderr).toContain('NotFound');
        await kubectl.ok(['apply', '-f', '-'], map('m', { k: 'v' }));
        expect(await kubectl.ok(['get', 'cm', 'm', '-o', 'jsonpath={.data}{.metadata.labels.stamped}'])).toBe(
          '{"k":"v","seen":"xx"}yes',
        );
      },
    ));

  it('denies and warns in the webhook’s words', () =>
    having([configuration('Validating', 'a', hook('deny'))], async () => {
      const good = await kubectl.run(['create', '-f', '-'], map('good'));
      expect([good.code, good.stderr.trim()]).toEqual([0, 'Warning: looked at it']);
      const bad = await kubectl.run(['create', '-f', '-'], map('bad', { evil: 'yes' }));
      expect([bad.code, bad.stderr.trim()]).toEqual([
        1,
        'Error from server: error when creating "STDIN": admission webhook "deny.hooks.example.com" denied the request: bad is evil',
      ]);
      const patched = await kubectl.run(['patch', 'cm', 'good', '-p', '{"data":{"evil":"now"}}']);
      expect(patched.stderr).toContain('denied the request: good is evil');
    }));

  it('fails closed or open, and says why', () =>
    having(
      [
        configuration('Validating', 'open', hook('mute', { failurePolicy: 'Ignore', timeoutSeconds: 1 })),
        configuration(
          'Validating',
          'select',
          hook('mute', { timeoutSeconds: 1, objectSelector: { matchLabels: { mute: 'closed' } } }),
          hook('deny', {
            clientConfig: { url: `${url}/deny` },
            objectSelector: { matchLabels: { trust: 'nobody' } },
          }),
          hook('count', {
            name: 'service.hooks.example.com',
            clientConfig: { service: { namespace: 'default', name: 'nowhere' }, caBundle: ca },
            objectSelector: { matchLabels: { service: 'none' } },
          }),
        ),
      ],
      async () => {
        await kubectl.ok(['create', 'configmap', 'open']);
        const closed = async (labels: Record<string, string>) =>
          (
            await kubectl.run(['create', '-f', '-'], {
              ...map('closed'),
              metadata: { name: 'closed', labels },
            })
          ).stderr.trim();
        expect(await closed({ mute: 'closed' })).toBe(
          `Error from server (InternalError): error when creating "STDIN": Internal error occurred: failed calling webhook "mute.hooks.example.com": failed to call webhook: Post "${url}/mute?timeout=1s": context deadline exceeded`,
        );
        expect(await closed({ trust: 'nobody' })).toContain(
          'tls: failed to verify certificate: x509: certificate signed by unknown authority',
        );
        expect(await closed({ service: 'none' })).toContain(
          'Post "https://nowhere.default.svc:443/?timeout=10s": service "nowhere" not found',
        );
      },
    ));

  it('asks a policy', () =>
    having(
      [
        {
          apiVersion: 'admissionregistration.k8s.io/v1',
          kind: 'ValidatingAdmissionPolicy',
          metadata: { name: 'replicas.example.com' },
          spec: {
            paramKind: { apiVersion: 'v1', kind: 'ConfigMap' },
            matchConstraints: {
              resourceRules: [
                {
                  operations: ['CREATE', 'UPDATE'],
                  apiGroups: ['apps'],
                  apiVersions: ['v1'],
                  resources: ['deployments', 'deployments/scale'],
                },
              ],
            },
            variables: [{ name: 'max', expression: 'int(params.data.max)' }],
            validations: [
              {
                expression: 'object.spec.replicas <= variables.max',
                messageExpression: '"at most " + string(variables.max) + " replicas"',
              },
            ],
          },
        },
        {
          apiVersion: 'admissionregistration.k8s.io/v1',
          kind: 'ValidatingAdmissionPolicyBinding',
          metadata: { name: 'few.example.com' },
          spec: {
            policyName: 'replicas.example.com',
            validationActions: ['Deny'],
            paramRef: { name: 'limits', namespace: 'default', parameterNotFoundAction: 'Deny' },
          },
        },
      ],
      async () => {
        const denied = `ValidatingAdmissionPolicy 'replicas.example.com' with binding 'few.example.com' denied request:`;
        const early = await kubectl.run(['create', 'deployment', 'web', '--image=web']);
        expect(early.stderr).toContain(`${denied} failed to configure binding: no params found`);
        await kubectl.ok(['create', 'configmap', 'limits', '--from-literal=max=3']);
        await kubectl.ok(['create', 'deployment', 'web', '--image=web', '--replicas=2']);
        const many = await kubectl.run(['create', 'deployment', 'many', '--image=web', '--replicas=9']);
        expect(many.stderr.trim()).toBe(
          `error: failed to create deployment: deployments.apps "many" is forbidden: ${denied} at most 3 replicas`,
        );
        const scaled = await kubectl.run(['scale', 'deployment', 'web', '--replicas=5']);
        expect(scaled.stderr).toContain(`${denied} at most 3 replicas`);
        expect(await kubectl.ok(['get', 'validatingadmissionpolicies'])).toMatch(
          /NAME +VALIDATIONS +PARAMKIND +AGE\nreplicas.example.com +1 +v1\/ConfigMap/,
        );
        expect(await kubectl.ok(['get', 'validatingadmissionpolicybindings'])).toMatch(
          /NAME +POLICYNAME +PARAMREF +AGE\nfew.example.com +replicas.example.com +default\/limits/,
        );
      },
    ));

  it('refuses what cannot work', async () => {
    const r = await kubectl.run(
      ['create', '-f', '-'],
      configuration(
        'Validating',
        'x',
        hook('deny', { matchConditions: [{ name: 'a', expression: 'object.x ==' }] }),
      ),
    );
    expect(r.stderr).toContain(
      'webhooks[0].matchConditions[0].expression: Invalid value: "object.x ==": compilation failed: ERROR: <input>:1:',
    );
  });
});
