import type { Container, Pod, Secret, Service } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { qosClassOf } from '../../api/kinds/qos.js';
import { pullPolicy } from './apply.js';
import { credentialsFor, imagePath } from './auth.js';
import { type Config, containerEnv, expand, type PodFacts } from './env.js';
import { containerResources, oomScoreAdj, podResources } from './resources.js';
import { checkRunAsNonRoot, securitySettings } from './security.js';

const facts: PodFacts = {
  nodeName: 'n1',
  hostIP: '192.0.2.1',
  podIPs: ['10.0.0.5', 'fd00::5'],
  allocatable: { cpuMilli: 4000, memoryBytes: 8 * 2 ** 30, ephemeralStorageBytes: 2 ** 30 },
};
const services: Service[] = [];
const base64 = (s: string) => Buffer.from(s).toString('base64');
const config: Config = {
  configMap: (ns, n) => (ns === 'ns' && n === 'cm' ? { data: { a: '1', 'bad=key': 'x' } } : undefined),
  secret: (ns, n) => (ns === 'ns' && n === 's' ? { data: { token: base64('t0p') } } : undefined),
  token: () => undefined,
  pullSecrets: () => [],
  services: (ns) => (ns === 'ns' ? services : []),
};
const podOf = (c: Partial<Container>, spec: object = {}): [Pod, Container] => {
  const full = { name: 'c', image: 'i', ...c } as Container;
  return [
    {
      metadata: { name: 'p', namespace: 'ns', uid: 'u', labels: { app: 'x' }, annotations: { note: 'n' } },
      spec: { containers: [full], nodeName: 'n1', ...spec },
    },
    full,
  ];
};
const env = (c: Partial<Container>) =>
  Object.fromEntries(containerEnv(...podOf(c), config, facts).map((e) => [e.name, e.value]));

describe('environment', () => {
  it('tells of the Services of the namespace, unless the pod wants none of it', () => {
    services.push({
      metadata: { name: 'my-db', namespace: 'ns' },
      spec: {
        clusterIP: '10.96.0.7',
        ports: [
          { name: 'sql', port: 5432 },
          { name: 'stats-x', port: 53, protocol: 'UDP' },
        ],
      },
    });
    expect(env({ env: [{ name: 'DB', value: '$(MY_DB_SERVICE_HOST)' }] })).toEqual({
      MY_DB_SERVICE_HOST: '10.96.0.7',
      MY_DB_SERVICE_PORT: '5432',
      MY_DB_SERVICE_PORT_SQL: '5432',
      MY_DB_SERVICE_PORT_STATS_X: '53',
      MY_DB_PORT: 'tcp://10.96.0.7:5432',
      MY_DB_PORT_5432_TCP: 'tcp://10.96.0.7:5432',
      MY_DB_PORT_5432_TCP_PROTO: 'tcp',
      MY_DB_PORT_5432_TCP_PORT: '5432',
      MY_DB_PORT_5432_TCP_ADDR: '10.96.0.7',
      MY_DB_PORT_53_UDP: 'udp://10.96.0.7:53',
      MY_DB_PORT_53_UDP_PROTO: 'udp',
      MY_DB_PORT_53_UDP_PORT: '53',
      MY_DB_PORT_53_UDP_ADDR: '10.96.0.7',
      DB: '10.96.0.7',
    });
    expect(containerEnv(...podOf({}, { enableServiceLinks: false }), config, facts)).toEqual([]);
    services.length = 0;
  });

  it('takes names of any printable characters from a ConfigMap', () => {
    const envFrom = [{ prefix: '1-$#@! ', configMapRef: { name: 'cm' } }];
    expect(env({ envFrom })).toEqual({ '1-$#@! a': '1' });
  });

  it('says where the API is, once that is known', () => {
    const where = (api: string, c: Partial<Container> = {}) =>
      Object.fromEntries(containerEnv(...podOf(c), config, { ...facts, api }).map((e) => [e.name, e.value]));
    expect(env({})).toEqual({});
    expect(where('192.0.2.9:6443')).toEqual({
      KUBERNETES_SERVICE_HOST: '192.0.2.9',
      KUBERNETES_SERVICE_PORT: '6443',
      KUBERNETES_SERVICE_PORT_HTTPS: '6443',
      KUBERNETES_PORT: 'tcp://192.0.2.9:6443',
      KUBERNETES_PORT_6443_TCP: 'tcp://192.0.2.9:6443',
      KUBERNETES_PORT_6443_TCP_PROTO: 'tcp',
      KUBERNETES_PORT_6443_TCP_PORT: '6443',
      KUBERNETES_PORT_6443_TCP_ADDR: '192.0.2.9',
    });
    const own = where('[fd00::1]:6443', {
      env: [
        { name: 'KUBERNETES_SERVICE_PORT', value: '1' },
        { name: 'AT', value: '$(KUBERNETES_SERVICE_HOST)' },
      ],
    });
    expect(own).toMatchObject({
      KUBERNETES_SERVICE_HOST: 'fd00::1',
      KUBERNETES_SERVICE_PORT: '1',
      AT: 'fd00::1',
    });
  });

  it('comes from maps, secrets, fields and resources, later over earlier', () => {
    expect(
      env({
        envFrom: [{ configMapRef: { name: 'cm' }, prefix: 'CM_' }, { secretRef: { name: 's' } }],
        env: [
          { name: 'token', value: 'mine' },
          { name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
          { name: 'LABEL', valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } },
          { name: 'IPS', valueFrom: { fieldRef: { fieldPath: 'status.podIPs' } } },
          { name: 'KEY', valueFrom: { configMapKeyRef: { name: 'cm', key: 'a' } } },
          { name: 'SECRET', valueFrom: { secretKeyRef: { name: 's', key: 'token' } } },
          { name: 'MEM', valueFrom: { resourceFieldRef: { resource: 'limits.memory', divisor: '1Mi' } } },
          { name: 'CPU', valueFrom: { resourceFieldRef: { resource: 'limits.cpu' } } },
          { name: 'REQ', valueFrom: { resourceFieldRef: { resource: 'requests.cpu', divisor: '1m' } } },
          { name: 'URL', value: 'http://$(POD):$(PORT)/$$(POD)' },
          { name: 'GONE', valueFrom: { configMapKeyRef: { name: 'none', key: 'a', optional: true } } },
        ],
        resources: { limits: { cpu: '1500m' }, requests: { cpu: '250m' } },
      }),
    ).toEqual({
      CM_a: '1',
      token: 'mine',
      POD: 'p',
      LABEL: 'x',
      IPS: '10.0.0.5,fd00::5',
      KEY: '1',
      SECRET: 't0p',
      MEM: '8192',
      CPU: '2',
      REQ: '250',
      URL: 'http://p:$(PORT)/$(POD)',
    });
  });

  it('says what is missing, as the kubelet does', () => {
    const from = (valueFrom: object) => () => env({ env: [{ name: 'X', valueFrom }] });
    expect(from({ configMapKeyRef: { name: 'none', key: 'a' } })).toThrow(/^configmap "none" not found$/);
    expect(from({ secretKeyRef: { name: 'none', key: 'a' } })).toThrow(/^secret "none" not found$/);
    expect(from({ secretKeyRef: { name: 's', key: 'z' } })).toThrow("couldn't find key z in Secret ns/s");
    expect(from({ fieldRef: { fieldPath: 'spec.banana' } })).toThrow('unsupported fieldPath: spec.banana');
    expect(from({ resourceFieldRef: { resource: 'limits.cpu', containerName: 'z' } })).toThrow(
      'container z not found',
    );
    expect(() => env({ envFrom: [{ configMapRef: { name: 'none' } }] })).toThrow(
      'configmap "none" not found',
    );
  });

  it('expands $(NAME) only where NAME is known', () => {
    const known = (n: string) => ({ A: '1', B: '$(A)' })[n];
    expect(expand('$(A) $(B) $(C) $$(A) $A $( $$', known)).toBe('1 $(A) $(C) $(A) $A $( $');
  });
});

describe('resources', () => {
  it('make the QoS class and who dies first', () => {
    const of = (resources: object, spec = {}) => {
      const [p, c] = podOf({ resources }, spec);
      return [qosClassOf(p), oomScoreAdj(p, c, 2 ** 30)];
    };
    expect(of({})).toEqual(['BestEffort', 1000]);
    expect(of({ limits: { cpu: '1', memory: '1Gi' } })).toEqual(['Guaranteed', -997]);
    expect(of({ limits: { cpu: '1', memory: '1Gi' }, requests: { cpu: '500m' } })).toEqual(['Burstable', 3]);
    expect(of({ requests: { memory: '256Mi' } })).toEqual(['Burstable', 750]);
    expect(of({ requests: { cpu: '1m' } })).toEqual(['Burstable', 999]);
    expect(of({}, { priorityClassName: 'system-node-critical' })).toEqual(['BestEffort', -997]);
  });

  it('request what they limit, and sum up for the pod', () => {
    const [p, c] = podOf({ resources: { limits: { cpu: '500m', memory: '64Mi' } } });
    expect(containerResources(p, c, 2 ** 30)).toEqual({
      cpuRequestMilli: 500,
      cpuLimitMilli: 500,
      memoryRequestBytes: 64 * 2 ** 20,
      memoryLimitBytes: 64 * 2 ** 20,
      oomScoreAdj: -997,
    });
    p.spec!.containers.push({ name: 'd', image: 'i', resources: { requests: { cpu: '250m' } } });
    expect(podResources(p, 2 ** 30)).toEqual({ cpuRequestMilli: 750, memoryRequestBytes: 64 * 2 ** 20 });
  });
});

describe('security', () => {
  it("puts the container's word over the pod's", () => {
    const [p, c] = podOf(
      { securityContext: { runAsUser: 5, capabilities: { drop: ['ALL'] } } },
      { securityContext: { runAsUser: 1, runAsGroup: 2, fsGroup: 3, supplementalGroups: [4] } },
    );
    expect(securitySettings(p, c)).toEqual({
      runAsUser: 5,
      runAsGroup: 2,
      supplementalGroups: [4, 3],
      dropCapabilities: ['ALL'],
    });
  });

  it('refuses root where the pod must not be root', () => {
    const image = { ref: 'r', repoDigests: [], sizeBytes: 1 };
    const check = (securityContext: object, more: object = {}) => {
      const [p, c] = podOf({ securityContext: { runAsNonRoot: true, ...securityContext } });
      checkRunAsNonRoot(p, c, { ...image, ...more });
    };
    expect(() => check({})).toThrow(
      'container has runAsNonRoot and image will run as root (pod: "p_ns(u)", container: c)',
    );
    expect(() => check({}, { username: 'app' })).toThrow('non-numeric user (app)');
    expect(() => check({ runAsUser: 0 })).toThrow('runAsUser breaks non-root policy');
    check({ runAsUser: 7 });
    check({}, { uid: 7 });
  });
});

describe('images', () => {
  it('are pulled by the policy that the tag implies', () => {
    const policy = (image: string, imagePullPolicy?: string) =>
      pullPolicy({ name: 'c', image, imagePullPolicy } as Container);
    expect(
      ['a', 'a:latest', 'a:1', 'host:5000/a', 'host:5000/a:1', `a@sha256:${'0'.repeat(64)}`].map((i) =>
        policy(i),
      ),
    ).toEqual(['Always', 'Always', 'IfNotPresent', 'Always', 'IfNotPresent', 'IfNotPresent']);
    expect(policy('a:1', 'Never')).toBe('Never');
  });

  it('find the credentials that fit, the closest first', () => {
    const secret = (auths: object): Secret => ({
      type: 'kubernetes.io/dockerconfigjson',
      data: { '.dockerconfigjson': base64(JSON.stringify({ auths })) },
    });
    const all = [
      secret({
        'r.test:5000': { auth: base64('wide:pw:1') },
        'r.test:5000/team': { username: 'near', password: 'x' },
      }),
      secret({ 'https://index.docker.io/v1/': { auth: base64('hub:h') } }),
      { data: { '.dockerconfigjson': base64('{torn') } },
    ];
    expect(credentialsFor('r.test:5000/team/app:1', all)).toEqual([
      { username: 'near', password: 'x' },
      { username: 'wide', password: 'pw:1' },
    ]);
    expect(credentialsFor('r.test:5000/teams/app', all)).toEqual([{ username: 'wide', password: 'pw:1' }]);
    expect(credentialsFor('busybox', all)).toEqual([{ username: 'hub', password: 'h' }]);
    expect(credentialsFor('quay.io/a/b', all)).toEqual([]);
    expect(imagePath('a/b:1')).toBe('docker.io/a/b');
  });
});
