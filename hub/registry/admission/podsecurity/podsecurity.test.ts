import fc from 'fast-check';
import type { PodSpec } from 'kubernetes-types/core/v1.js';
import { beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../../../api/clock.js';
import { deployments, namespaces, pods } from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { silentLog } from '../../../../api/log.js';
import { MemoryStore } from '../../../store/memory.js';
import type { RequestContext } from '../../api.js';
import { Registry, stampResourceVersion } from '../../registry.js';
import { detailText, type Level, policyOf, reasonText, textOf, violations } from './levels.js';

const K = (k: unknown) => k as Kind;
const judge = (
  level: Level,
  spec: object,
  annotations?: Record<string, string>,
  version: number | 'latest' = 'latest',
) => detailText(violations({ level, version }, spec as PodSpec, annotations ? { annotations } : {}));
/** What the restricted level asks of every container and pod. */
const TIGHT = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ['ALL'] },
  runAsNonRoot: true,
  seccompProfile: { type: 'RuntimeDefault' },
};
const one = (c: object = {}, spec: object = {}) => ({ containers: [{ name: 'a', ...c }], ...spec });
const two = (a: object, b: object, spec: object = {}) => ({
  containers: [{ name: 'b', ...b }],
  initContainers: [{ name: 'a', ...a }],
  ...spec,
});
const sc = (securityContext: object) => ({ securityContext });

describe('the Pod Security Standards', () => {
  const baseline: [what: string, spec: object, text: string, annotations?: Record<string, string>][] = [
    ['nothing', one(), ''],
    [
      'host namespaces',
      one({}, { hostNetwork: true, hostPID: true, hostIPC: true }),
      'host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)',
    ],
    [
      'privileged',
      two(sc({ privileged: true }), sc({ privileged: true })),
      'privileged (containers "a", "b" must not set securityContext.privileged=true)',
    ],
    [
      'capabilities',
      one(sc({ capabilities: { add: ['NET_RAW', 'CHOWN', 'BPF'] } })),
      'non-default capabilities (container "a" must not include "BPF", "NET_RAW" in securityContext.capabilities.add)',
    ],
    [
      'hostPath',
      one(
        {},
        {
          volumes: [
            { name: 'v', hostPath: { path: '/' } },
            { name: 'w', hostPath: { path: '/' } },
          ],
        },
      ),
      'hostPath volumes (volumes "v", "w")',
    ],
    [
      'host ports',
      two({ ports: [{ hostPort: 80 }] }, { ports: [{ hostPort: 443 }] }),
      'hostPort (containers "a", "b" use hostPorts 443, 80)',
    ],
    [
      'one host port',
      one({ ports: [{ hostPort: 80 }, { containerPort: 1 }] }),
      'hostPort (container "a" uses hostPort 80)',
    ],
    [
      'probe hosts',
      one({ livenessProbe: { httpGet: { host: '8.8.8.8' } } }),
      'probe or lifecycle host (container "a" uses probe or lifecycle host "8.8.8.8")',
    ],
    [
      'AppArmor',
      one({}, sc({ appArmorProfile: { type: 'Unconfined' } })),
      'forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")',
    ],
    [
      'AppArmor by annotation',
      one(),
      'forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"")',
      { 'container.apparmor.security.beta.kubernetes.io/a': 'unconfined' },
    ],
    [
      'SELinux',
      one(sc({ seLinuxOptions: { type: 'spc_t', user: 'u', role: 'r' } })),
      'seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set; role may not be set)',
    ],
    [
      'proc',
      one(sc({ procMount: 'Unmasked' })),
      'procMount (container "a" must not set securityContext.procMount to "Unmasked")',
    ],
    ['proc in a user namespace', one(sc({ procMount: 'Unmasked' }), { hostUsers: false }), ''],
    [
      'seccomp',
      one(sc({ seccompProfile: { type: 'Unconfined' } }), sc({ seccompProfile: { type: 'Unconfined' } })),
      'seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")',
    ],
    [
      'sysctls',
      one({}, sc({ sysctls: [{ name: 'kernel.msgmax' }, { name: 'net.ipv4.tcp_rmem' }] })),
      'forbidden sysctls (kernel.msgmax)',
    ],
    [
      'Windows',
      one(sc({ windowsOptions: { hostProcess: true } }), sc({ windowsOptions: { hostProcess: true } })),
      'hostProcess (pod and container "a" must not set securityContext.windowsOptions.hostProcess=true)',
    ],
  ];
  it.each(baseline)('baseline: %s', (_, spec, text, annotations) => {
    expect(judge('baseline', spec, annotations)).toBe(text);
    expect(judge('privileged', spec, annotations)).toBe('');
  });

  const restricted: [what: string, spec: object, text: string][] = [
    ['all that it asks', one(sc(TIGHT)), ''],
    [
      'nothing of it',
      one(),
      'allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false), ' +
        'unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]), ' +
        'runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true), ' +
        'seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
    ],
    [
      'through the pod',
      one(
        sc({ allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } }),
        sc({ runAsNonRoot: true, seccompProfile: { type: 'Localhost' } }),
      ),
      '',
    ],
    [
      'a capability',
      one(sc({ ...TIGHT, capabilities: { drop: ['ALL'], add: ['NET_BIND_SERVICE', 'CHOWN'] } })),
      'unrestricted capabilities (container "a" must not include "CHOWN" in securityContext.capabilities.add)',
    ],
    [
      'root',
      one(sc({ ...TIGHT, runAsUser: 0 }), sc({ runAsUser: 0 })),
      'runAsUser=0 (pod and container "a" must not set runAsUser=0)',
    ],
    [
      'root said aloud',
      one(sc({ ...TIGHT, runAsNonRoot: false })),
      'runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)',
    ],
    [
      'volumes',
      one(sc(TIGHT), {
        volumes: [
          { name: 'v', hostPath: { path: '/' } },
          { name: 'w', nfs: {} },
          { name: 'x', emptyDir: {} },
        ],
      }),
      'restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")',
    ],
    [
      'proc, in a user namespace as well',
      one(sc({ ...TIGHT, procMount: 'Unmasked' }), { hostUsers: false }),
      'procMount (container "a" must not set securityContext.procMount to "Unmasked")',
    ],
    ['Windows, which has none of Linux', one(sc({ runAsNonRoot: true }), { os: { name: 'windows' } }), ''],
  ];
  it.each(restricted)('restricted: %s', (_, spec, text) => {
    expect(judge('restricted', spec)).toBe(text);
  });

  it('asks what a version asked', () => {
    expect(judge('restricted', one(), undefined, 7)).toBe(
      'runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)',
    );
    const shm = one({}, sc({ sysctls: [{ name: 'net.ipv4.ip_local_reserved_ports' }] }));
    expect(judge('baseline', shm, undefined, 26)).toBe(
      'forbidden sysctls (net.ipv4.ip_local_reserved_ports)',
    );
    expect(judge('baseline', shm, undefined, 27)).toBe('');
    const seccomp = { 'seccomp.security.alpha.kubernetes.io/pod': 'unconfined' };
    expect(judge('baseline', one(), seccomp, 18)).toBe(
      'seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")',
    );
    expect(judge('baseline', one(), seccomp, 19)).toBe('');
  });

  it('is never stricter at a lower level', () => {
    const some = fc.record(
      {
        hostNetwork: fc.boolean(),
        hostUsers: fc.boolean(),
        privileged: fc.boolean(),
        procMount: fc.constantFrom('Default', 'Unmasked'),
        add: fc.subarray(['CHOWN', 'NET_RAW', 'NET_BIND_SERVICE']),
        seccomp: fc.constantFrom('Unconfined', 'Localhost', 'RuntimeDefault'),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(some, fc.nat(40), (r, version) => {
        const c = {
          ...TIGHT,
          ...(r.privileged === undefined ? {} : { privileged: r.privileged }),
          ...(r.procMount ? { procMount: r.procMount } : {}),
          ...(r.add ? { capabilities: { drop: ['ALL'], add: r.add } } : {}),
          ...(r.seccomp ? { seccompProfile: { type: r.seccomp } } : {}),
        };
        const spec = one(sc(c), { hostNetwork: r.hostNetwork, hostUsers: r.hostUsers });
        if (judge('baseline', spec, undefined, version) !== '')
          expect(judge('restricted', spec, undefined, version)).not.toBe('');
      }),
    );
  });
});

describe('labels of a namespace', () => {
  const L = (labels: Record<string, string>) =>
    policyOf(
      Object.fromEntries(Object.entries(labels).map(([k, v]) => [`pod-security.kubernetes.io/${k}`, v])),
    );
  it.each([
    [{}, 'privileged:latest privileged:latest privileged:latest'],
    [{ enforce: 'baseline' }, 'baseline:latest privileged:latest baseline:latest'],
    [
      { enforce: 'restricted', 'enforce-version': 'v1.24' },
      'restricted:v1.24 privileged:latest restricted:v1.24',
    ],
    [{ enforce: 'restricted', warn: 'privileged' }, 'restricted:latest privileged:latest privileged:latest'],
    [{ enforce: 'baseline', 'warn-version': 'v1.8' }, 'baseline:latest privileged:latest baseline:v1.8'],
    [{ enforce: 'foo', audit: 'foo', warn: 'foo' }, 'restricted:latest privileged:latest privileged:latest'],
  ])('%j', (labels, text) => {
    const { policy } = L(labels as Record<string, string>);
    expect([policy.enforce, policy.audit, policy.warn].map(textOf).join(' ')).toBe(text);
  });
  it('say what is wrong with them', () => {
    expect(
      L({ enforce: 'strict', 'warn-version': '1.24' }).errors.map((e) => `${e.field}: ${e.message}`),
    ).toEqual([
      'metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted',
      'metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "1.24": must be "latest" or "v1.x"',
    ]);
  });
});

describe('PodSecurity admission', () => {
  let registry: Registry;
  beforeEach(async () => {
    const store = new MemoryStore({ stamp: stampResourceVersion });
    await store.open();
    registry = new Registry({ store, clock: systemClock, log: silentLog });
    await registry.bootstrap();
  });
  const ctx = (): RequestContext => ({ user: 'u', groups: [], warnings: [] });
  const namespace = (labels: Record<string, string>) =>
    registry.create(ctx(), K(namespaces), undefined, {
      metadata: {
        name: 'x',
        labels: Object.fromEntries(
          Object.entries(labels).map(([k, v]) => [`pod-security.kubernetes.io/${k}`, v]),
        ),
      },
    });
  const pod = (name: string, c: object = {}, spec: object = {}) =>
    structuredClone({ metadata: { name }, spec: { ...one({ image: 'i', ...c }), ...spec } });

  it('refuses what is enforced, with the message of Kubernetes', async () => {
    await namespace({ enforce: 'baseline', 'enforce-version': 'v1.30' });
    await expect(
      registry.create(ctx(), K(pods), 'x', pod('p', {}, { hostNetwork: true })),
    ).rejects.toMatchObject({
      code: 403,
      message:
        'pods "p" is forbidden: violates PodSecurity "baseline:v1.30": host namespaces (hostNetwork=true)',
    });
    await registry.create(ctx(), K(pods), 'x', pod('fine'));
  });

  it('warns of pods, and of workloads where pods would be refused', async () => {
    await namespace({ enforce: 'baseline', warn: 'restricted' });
    const c = ctx();
    await registry.create(c, K(pods), 'x', pod('p', sc({ ...TIGHT, runAsUser: 0 })));
    expect(c.warnings).toEqual([
      'would violate PodSecurity "restricted:latest": runAsUser=0 (container "a" must not set runAsUser=0)',
    ]);
    const t = pod('', sc({ ...TIGHT, runAsUser: 0 })).spec;
    const e = ctx();
    await registry.create(e, K(deployments), 'x', {
      metadata: { name: 'd' },
      spec: {
        selector: { matchLabels: { a: 'b' } },
        template: { metadata: { labels: { a: 'b' } }, spec: t },
      },
    });
    expect(e.warnings).toEqual(c.warnings);
  });

  it('lets labels of a running pod change, and no image into what is forbidden', async () => {
    await namespace({});
    await registry.create(ctx(), K(pods), 'x', pod('p', sc({ privileged: true })));
    await registry.patch(ctx(), K(namespaces), { name: 'x' }, 'application/merge-patch+json', {
      metadata: { labels: { 'pod-security.kubernetes.io/enforce': 'baseline' } },
    });
    const patch = (body: object) =>
      registry.patch(
        ctx(),
        K(pods),
        { namespace: 'x', name: 'p' },
        'application/strategic-merge-patch+json',
        body,
      );
    await patch({ metadata: { labels: { a: 'b' } } });
    await expect(patch({ spec: { containers: [{ name: 'a', image: 'j' }] } })).rejects.toMatchObject({
      code: 403,
    });
  });

  it('tells of the pods that a stricter namespace has', async () => {
    await namespace({});
    for (const name of ['z', 'y', 'w'])
      await registry.create(ctx(), K(pods), 'x', pod(name, sc({ privileged: true })));
    await registry.create(ctx(), K(pods), 'x', pod('q', {}, { hostPID: true }));
    await registry.create(ctx(), K(pods), 'x', pod('fine'));
    const c = ctx();
    await registry.patch(c, K(namespaces), { name: 'x' }, 'application/merge-patch+json', {
      metadata: { labels: { 'pod-security.kubernetes.io/enforce': 'baseline' } },
    });
    expect(c.warnings).toEqual([
      'existing pods in namespace "x" violate the new PodSecurity enforce level "baseline:latest"',
      'q: host namespaces',
      'w (and 2 other pods): privileged',
    ]);
  });

  it('refuses labels that it does not understand', async () => {
    await expect(namespace({ enforce: 'strict' })).rejects.toMatchObject({
      code: 422,
      message:
        'Namespace "x" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted',
    });
  });

  it('names reasons alone in the short form', () => {
    expect(
      reasonText(
        violations(
          { level: 'baseline', version: 'latest' },
          one({}, { hostPID: true }) as unknown as PodSpec,
          {},
        ),
      ),
    ).toBe('host namespaces');
  });
});
