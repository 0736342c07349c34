import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

describe.skipIf(missing('kubectl-1.36'))('admission as kubectl users meet it', () => {
  let server: ApiServer;
  let k: Kubectl;

  beforeAll(async () => {
    server = await startApiServer();
    k = kubectlOf('1.36', server.kubeconfig, server.dir);
    await k.ok(['create', 'namespace', 'team']);
  });
  afterAll(() => server?.stop());
  const said = async (args: string[], input?: unknown) => {
    const r = await k.run(['-n', 'team', ...args], input);
    return `${r.stderr}${r.stdout}`.trim();
  };

  it('gives defaults and refuses by a LimitRange', async () => {
    const limits = [
      { type: 'Container', default: { memory: '128Mi' }, max: { cpu: '1' } },
      { type: 'Pod', max: { memory: '1Gi' } },
    ];
    await k.ok(['apply', '-n', 'team', '-f', '-'], {
      apiVersion: 'v1',
      kind: 'LimitRange',
      metadata: { name: 'l' },
      spec: { limits },
    });
    expect(await said(['describe', 'limits', 'l'])).toMatch(/Container\s+memory\s+-\s+-\s+128Mi\s+128Mi\s+-/);
    expect(await said(['run', 'p', '--image=i'])).toBe('pod/p created');
    expect(await said(['get', 'pod', 'p', '-o', 'jsonpath={.metadata.annotations}'])).toBe(
      '{"kubernetes.io/limit-ranger":"LimitRanger plugin set: cpu, memory request for container p; cpu, memory limit for container p"}',
    );
    const big = { containers: [{ name: 'q', image: 'i', resources: { limits: { memory: '2Gi' } } }] };
    expect(
      await said(['run', 'q', '--image=i', `--overrides=${JSON.stringify({ apiVersion: 'v1', spec: big })}`]),
    ).toBe(
      'Error from server (Forbidden): pods "q" is forbidden: maximum memory usage per Pod is 1Gi, but limit is 2Gi',
    );
  });

  it('counts against a ResourceQuota, dry runs and failures aside', async () => {
    await k.ok(['-n', 'team', 'create', 'quota', 'q', '--hard=pods=2,requests.cpu=3,count/configmaps=1']);
    expect(await said(['run', 'r', '--image=i', '--dry-run=server'])).toBe('pod/r created (server dry run)');
    expect(await said(['run', 'p', '--image=i'])).toContain('AlreadyExists');
    const made = await Promise.all(['a', 'b', 'c', 'd'].map((n) => said(['run', n, '--image=i'])));
    expect(made.filter((m) => m.endsWith('created'))).toHaveLength(1);
    expect(made.filter((m) => !m.endsWith('created')).map((m) => m.replace(/pods "."/, 'pods'))).toEqual(
      Array(3).fill(
        'Error from server (Forbidden): pods is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2',
      ),
    );
    expect(await said(['create', 'configmap', 'a'])).toBe('configmap/a created');
    expect(await said(['create', 'configmap', 'b'])).toContain(
      'exceeded quota: q, requested: count/configmaps=1',
    );
    await k.ok(['-n', 'team', 'delete', 'configmap', 'a']);
    expect(await said(['create', 'configmap', 'b'])).toBe('configmap/b created');
  });

  it('enforces the Pod Security Standards, and warns', async () => {
    expect(await said(['label', 'ns', 'team', 'pod-security.kubernetes.io/enforce=restricted'])).toMatch(
      /^Warning: existing pods in namespace "team" violate the new PodSecurity enforce level "restricted:latest"\nWarning: \w \(and 1 other pod\): allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile\nnamespace\/team labeled$/,
    );
    const detail =
      'allowPrivilegeEscalation != false (container "x" must set securityContext.allowPrivilegeEscalation=false), ' +
      'unrestricted capabilities (container "x" must set securityContext.capabilities.drop=["ALL"]), ' +
      'runAsNonRoot != true (pod or container "x" must set securityContext.runAsNonRoot=true), ' +
      'seccompProfile (pod or container "x" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")';
    expect(await said(['run', 'x', '--image=i'])).toBe(
      `Error from server (Forbidden): pods "x" is forbidden: violates PodSecurity "restricted:latest": ${detail}`,
    );
    expect(await said(['create', 'deployment', 'd', '--image=x'])).toBe(
      `Warning: would violate PodSecurity "restricted:latest": ${detail}\ndeployment.apps/d created`,
    );
  });

  it('knows priorities', async () => {
    await k.ok(['create', 'priorityclass', 'high', '--value=1000', '--global-default']);
    expect(await said(['create', 'priorityclass', 'more', '--value=2', '--global-default'])).toBe(
      'error: failed to create priorityclass: priorityclasses.scheduling.k8s.io "more" is forbidden: PriorityClass high is already marked as default. Only one default can exist',
    );
    await k.ok(['run', 'p', '--image=i']);
    expect(await k.ok(['get', 'pod', 'p', '-o', 'jsonpath={.spec.priority} {.spec.priorityClassName}'])).toBe(
      '1000 high',
    );
  });
});
