import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ContainerSpec, SandboxSpec } from '../shim.js';
import {
  CONTAINER_ANNOTATION,
  containerConfig,
  linuxResources,
  OWNER_LABEL,
  SANDBOX_ANNOTATION,
  sandboxConfig,
} from './spec.js';

const sandbox: SandboxSpec = {
  ...{ namespace: 'ns', name: 'p', uid: 'u', attempt: 2, hostname: 'h', hostNetwork: false },
  portMappings: [
    { protocol: 'UDP', containerPort: 53, hostPort: 5353, hostIP: '127.0.0.1' },
    { protocol: 'TCP', containerPort: 80, hostPort: 0, hostIP: '' },
  ],
  ...{ logDirectory: '/l', labels: { a: 'b' }, annotations: { c: 'd' } },
};
const container: ContainerSpec = {
  ...{ name: 'c', attempt: 3, imageRef: 'sha256:1', image: 'app:1', env: [], mounts: [], resources: {} },
  ...{ logPath: 'c/3.log', labels: {}, annotations: {} },
};
const options = { owner: 'me', cgroup2: false };

describe('resources', () => {
  it("are Kubernetes' numbers", () => {
    expect(linuxResources({}, false)).toEqual({ cpuShares: 2, memoryLimitInBytes: 0, oomScoreAdj: 0 });
    expect(
      linuxResources(
        { cpuRequestMilli: 250, cpuLimitMilli: 500, memoryLimitBytes: 1e6, oomScoreAdj: 9 },
        false,
      ),
    ).toEqual({
      cpuShares: 256,
      cpuPeriod: 100_000,
      cpuQuota: 50_000,
      memoryLimitInBytes: 1e6,
      oomScoreAdj: 9,
    });
    // A limit alone is the request as well; the kernel takes no quota below a millisecond.
    expect(linuxResources({ cpuLimitMilli: 1 }, false)).toMatchObject({ cpuShares: 2, cpuQuota: 1000 });
    expect(linuxResources({ pidsLimit: 10 }, true)).toMatchObject({ unified: { 'pids.max': '10' } });
    expect(linuxResources({ pidsLimit: 10 }, false)).not.toHaveProperty('unified');
  });

  it('stay within what kernels take', () => {
    fc.assert(
      fc.property(fc.nat(10_000_000), fc.nat(10_000_000), (cpuRequestMilli, cpuLimitMilli) => {
        const r = linuxResources({ cpuRequestMilli, cpuLimitMilli }, true);
        expect(r.cpuShares).toBeGreaterThanOrEqual(2);
        expect(r.cpuShares).toBeLessThanOrEqual(262_144);
        expect(r.cpuQuota ?? 1000).toBeGreaterThanOrEqual(1000);
      }),
    );
  });
});

describe('sandbox', () => {
  it('maps host ports only, keeps what later containers need, and is marked as ours', () => {
    const c = sandboxConfig(sandbox, options);
    expect(c.portMappings).toEqual([
      { protocol: 'UDP', containerPort: 53, hostPort: 5353, hostIp: '127.0.0.1' },
    ]);
    expect(c.labels).toEqual({ a: 'b', [OWNER_LABEL]: 'me' });
    const { labels: _l, annotations: _a, ...kept } = sandbox;
    expect(JSON.parse(c.annotations[SANDBOX_ANNOTATION]!)).toEqual(kept);
    expect(c.annotations).toMatchObject({ c: 'd' });
    // What an adopting agent makes of it names the same namespaces.
    expect(sandboxConfig(kept, options).linux).toEqual(c.linux);
  });

  it.each([
    [{}, { network: 'POD', pid: 'CONTAINER', ipc: 'POD' }],
    [{ hostNetwork: true }, { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' }],
    [
      { hostPID: true, hostIPC: true },
      { network: 'POD', pid: 'NODE', ipc: 'NODE' },
    ],
    [{ sharePID: true }, { network: 'POD', pid: 'POD', ipc: 'POD' }],
  ])('namespaces of %j, the same for sandbox and container', (o, expected) => {
    const s = { ...sandbox, ...o };
    expect(sandboxConfig(s, options).linux.securityContext.namespaceOptions).toEqual(expected);
    expect(containerConfig(container, s, options).linux.securityContext.namespaceOptions).toEqual(expected);
  });

  it("leaves the machine's name alone with hostNetwork", () => {
    const c = sandboxConfig({ ...sandbox, hostNetwork: true }, options);
    expect([c.hostname, c.portMappings]).toEqual(['', []]);
  });
});

describe('container', () => {
  const security = (s: ContainerSpec['security'], imageUser = {}) =>
    containerConfig({ ...container, ...(s ? { security: s } : {}) }, sandbox, { ...options, imageUser }).linux
      .securityContext;

  it('is shut in unless it is privileged', () => {
    expect(security(undefined).maskedPaths).toContain('/proc/kcore');
    expect(security(undefined).readonlyPaths).toContain('/proc/sys');
    expect(security({ privileged: true, allowPrivilegeEscalation: false })).toMatchObject({
      privileged: true,
      noNewPrivs: false,
      seccomp: { profileType: 'Unconfined' },
    });
    expect(security({ privileged: true })).not.toHaveProperty('maskedPaths');
    expect(security({ allowPrivilegeEscalation: false }).noNewPrivs).toBe(true);
    expect(security({ seccompProfile: { type: 'Localhost', localhostProfile: '/p.json' } }).seccomp).toEqual({
      profileType: 'Localhost',
      localhostRef: '/p.json',
    });
  });

  it('names capabilities as runtimes want them', () => {
    expect(
      security({ addCapabilities: ['CAP_NET_ADMIN', 'sys_time'], dropCapabilities: ['ALL'] }).capabilities,
    ).toEqual({ addCapabilities: ['NET_ADMIN', 'SYS_TIME'], dropCapabilities: ['ALL'] });
  });

  it('gives a group alone the user of the image', () => {
    expect(security({ runAsGroup: 7 }, { uid: 5 })).toMatchObject({
      runAsUser: { value: 5 },
      runAsGroup: { value: 7 },
    });
    expect(security({ runAsGroup: 7 }, { username: 'web' })).toMatchObject({ runAsUsername: 'web' });
    expect(security({ runAsUser: 0 }, { username: 'web' })).toMatchObject({ runAsUser: { value: 0 } });
  });

  it('remembers the image as the pod names it', () => {
    const c = containerConfig(container, sandbox, options);
    expect(JSON.parse(c.annotations[CONTAINER_ANNOTATION]!)).toEqual({
      image: 'app:1',
      imageRef: 'sha256:1',
    });
    expect(c.image.image).toBe('sha256:1');
  });
});
