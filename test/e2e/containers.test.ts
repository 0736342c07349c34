/** Containers as kubectl users know them, from registry to power cut: real hub, agent, containerd, registry, kubectl. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { busyboxImage, exec, freePort, Registry } from './support/containerd.js';
import { BOX, DEVICE_PARTS, Device, kill, processesOf } from './support/device.js';
import { missing } from './support/needs.js';
import { nodeReady } from './support/system.js';

const BROKERS = [
  { broker: 'embedded', skip: missing(...DEVICE_PARTS) },
  { broker: 'mosquitto', skip: missing(...DEVICE_PARTS, 'mosquitto') },
] as const;

describe.each(BROKERS)('containers over the $broker broker', ({ broker, skip }) => {
  if (skip) return void it.skip('parts are missing', () => {});
  let d: Device;

  /** A pod of one busybox container that runs this shell script. */
  const shell = (name: string, script: string, spec: object = {}, container: object = {}) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 1,
      ...spec,
      containers: [{ name: 'main', image: d.busybox, command: ['sh', '-c', script], ...container }],
    },
  });
  const apply = (...pods: object[]) => d.k.apply({ apiVersion: 'v1', kind: 'List', items: pods });
  const mainOf = async (name: string) => (await d.pod(name)).status.containerStatuses[0];

  beforeAll(async () => {
    d = await Device.start(broker);
  });
  afterAll(async () => {
    await d?.stop();
  });

  // --- what both brokers must carry

  it('runs init containers one after another, then two containers; each has its log', async () => {
    const share = { volumeMounts: [{ name: 'share', mountPath: '/share' }] };
    const of = (name: string, script: string) => ({
      name,
      image: d.busybox,
      command: ['sh', '-c', script],
      ...share,
    });
    const pod = shell('twins', '', { volumes: [{ name: 'share', emptyDir: {} }] });
    Object.assign(pod.spec, {
      initContainers: [
        of('first', 'echo 1 >/share/order; echo first'),
        of('second', 'echo 2 >>/share/order; echo second'),
      ],
      containers: [
        of('left', 'tr "\\n" " " </share/order; echo left; sleep 1000'),
        of('right', 'echo right; sleep 1000'),
      ],
    });
    await apply(pod);
    await d.says('twins', /^1 2 left$/m, '-c', 'left');
    await d.says('twins', /^right$/m, '-c', 'right');
    expect(await d.k('logs', 'twins', '-c', 'first')).toBe('first\n');
    expect(await d.k('logs', 'twins', '-c', 'second')).toBe('second\n');
    // In no order: kubectl keeps its requests in a map.
    const all = await d.k('logs', 'twins', '--all-containers');
    expect(all.trim().split('\n').sort()).toEqual(['1 2 left', 'first', 'right', 'second']);
    await d.k('wait', '--for=condition=Ready', 'pod/twins', '--timeout=60s');
    expect(await d.k('get', 'pod', 'twins')).toMatch(/twins\s+2\/2\s+Running\s+0/);
    const { status } = await d.pod('twins');
    expect(status.initContainerStatuses.map((c: any) => c.state.terminated.reason)).toEqual([
      'Completed',
      'Completed',
    ]);
    expect((await d.k.try('logs', 'twins', '-c', 'none')).stderr).toContain('container none is not valid');
    await d.delete('twins');
    expect((await d.k.try('get', 'pod', 'twins')).stderr).toContain('pods "twins" not found');
  });

  it('takes containers for a pod without a runtime class, and Wasm beside them', async () => {
    const wasm = {
      ...shell('wasm', ''),
      spec: {
        runtimeClassName: 'wasm',
        terminationGracePeriodSeconds: 1,
        containers: [{ name: 'main', image: BOX, args: ['count', '0', '200'] }],
      },
    };
    const named = shell('named', 'sleep 1000', { runtimeClassName: 'oci' });
    await apply(shell('plain', 'sleep 1000'), named, wasm);
    for (const name of ['plain', 'named', 'wasm']) await d.phase(name, 'Running');
    expect((await mainOf('plain')).containerID).toMatch(/^containerd:\/\//);
    expect((await mainOf('named')).containerID).toMatch(/^containerd:\/\//);
    expect((await mainOf('wasm')).containerID).not.toMatch(/^containerd:/);
    const node = await d.k.json('get', 'node', 'pi1');
    expect(node.metadata.labels).toMatchObject({
      'coxswain.dev/runtime.oci': 'true',
      'coxswain.dev/runtime.wasm': 'true',
    });
    expect(node.status.nodeInfo.containerRuntimeVersion).toMatch(/^containerd:\/\/\d/);
    await d.delete('plain', 'named', 'wasm');
  });

  it('backs off from a crash loop and keeps the log of the crash', async () => {
    await apply(shell('crash', 'echo "it hurts"; exit 3', { restartPolicy: 'Always' }));
    const s = await d.container('crash', (c) => c.state.waiting?.reason === 'CrashLoopBackOff');
    expect(s.lastState.terminated).toMatchObject({ exitCode: 3, reason: 'Error' });
    expect(s.restartCount).toBeGreaterThan(0);
    expect(s.state.waiting.message).toMatch(
      /^back-off \d+s restarting failed container=main pod=crash_default\(/,
    );
    expect(await d.k('logs', 'crash', '--previous')).toBe('it hurts\n');
    expect(await d.k('get', 'pod', 'crash')).toMatch(/crash\s+0\/1\s+CrashLoopBackOff\s+[12]/);
    await d.described('crash', 'Back-off restarting failed container main in pod crash_default(');
    await d.delete('crash');
  });

  it('loses nothing while the agent is dead: containers go on, their ends and lines are told later', async () => {
    await apply(
      shell('steady', 'i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done', {
        restartPolicy: 'Always',
      }),
      shell(
        'short',
        'echo begin; while [ ! -e /flag/go ]; do sleep 0.05; done; echo end; exit 5',
        {
          volumes: [{ name: 'flag', hostPath: { path: join(d.dir, 'flag'), type: 'DirectoryOrCreate' } }],
        },
        { volumeMounts: [{ name: 'flag', mountPath: '/flag' }] },
      ),
    );
    await d.phase('steady', 'Running');
    await d.phase('short', 'Running');
    const before = await mainOf('steady');
    await d.agent.stop('SIGKILL');
    await exec('touch', [join(d.dir, 'flag', 'go')]);
    const id = (await mainOf('short')).containerID.replace('containerd://', '');
    await d.until('the short one to end with nobody watching', async () =>
      /STOPPED/.test(
        (await d.containerd.ctr('tasks', 'list')).split('\n').find((l) => l.includes(id)) ?? 'STOPPED',
      ),
    );
    await d.agent.start();
    await d.phase('short', 'Failed');
    expect((await mainOf('short')).state.terminated).toMatchObject({ exitCode: 5, reason: 'Error' });
    expect(await d.k('logs', 'short')).toBe('begin\nend\n');
    expect(await mainOf('steady')).toEqual(before);
    const lines = (await d.k('logs', 'steady')).trim().split('\n').map(Number);
    expect(lines).toEqual(lines.map((_, i) => i + 1));
    await d.delete('short');
  });

  it('touches nothing when the agent is upgraded: stopped, and started again', async () => {
    const before = await d.pod('steady');
    expect(await d.agent.stop()).toBe(0);
    const node = await d.until('the node not ready', async () => {
      const n = await d.k.json('get', 'node', 'pi1');
      return n.status.conditions.some((c: any) => c.type === 'Ready' && c.status === 'Unknown') && n;
    });
    expect(node.status.conditions.find((c: any) => c.type === 'Ready')).toMatchObject({
      reason: 'NodeStatusUnknown',
      message: 'Kubelet stopped posting node status.',
    });
    expect(await d.k('get', 'node', 'pi1')).toMatch(/pi1\s+NotReady/);
    const unreachable = { key: 'node.kubernetes.io/unreachable', effect: 'NoSchedule' };
    await d.until('the taints to follow', async () =>
      ((await d.k.json('get', 'node', 'pi1')).spec.taints ?? []).some(
        (t: any) => t.key === unreachable.key && t.effect === unreachable.effect,
      ),
    );
    // Not ready, but neither evicted nor deleted.
    const meanwhile = await d.pod('steady');
    expect(meanwhile.metadata.deletionTimestamp).toBeUndefined();
    expect(meanwhile.metadata.uid).toBe(before.metadata.uid);
    await d.agent.start();
    await nodeReady(d.k, 'pi1', d.context);
    await d.until('the pod ready again', async () =>
      (await d.pod('steady')).status.conditions.some((c: any) => c.type === 'Ready' && c.status === 'True'),
    );
    await d.until('the taints gone', async () => !(await d.k.json('get', 'node', 'pi1')).spec.taints?.length);
    expect(await mainOf('steady')).toEqual(before.status.containerStatuses[0]);
  });

  it('goes on without the hub, and tells it afterwards what happened', async () => {
    await apply(
      shell(
        'waiter',
        'while [ ! -e /flag/late ]; do sleep 0.05; done; echo done; exit 4',
        {
          volumes: [{ name: 'flag', hostPath: { path: join(d.dir, 'flag'), type: 'DirectoryOrCreate' } }],
        },
        { volumeMounts: [{ name: 'flag', mountPath: '/flag' }] },
      ),
    );
    await d.phase('waiter', 'Running');
    const before = await d.pod('steady');
    await d.hub.stop();
    await exec('touch', [join(d.dir, 'flag', 'late')]);
    await d.hub.start();
    await nodeReady(d.k, 'pi1', d.context);
    await d.phase('waiter', 'Failed');
    expect((await mainOf('waiter')).state.terminated).toMatchObject({ exitCode: 4 });
    expect(await d.k('logs', 'waiter')).toBe('done\n');
    const after = await d.pod('steady');
    expect(after.metadata.uid).toBe(before.metadata.uid);
    expect(after.status.containerStatuses).toEqual(before.status.containerStatuses);
    await d.delete('waiter', 'steady');
  });

  if (broker !== 'embedded') return;

  // --- images

  it('pulls what skopeo pushed into the hub', async () => {
    const image = await d.pushToHub(
      await busyboxImage(d.dir, { '/etc/made': 'for the hub\n' }),
      'apps/own:1',
    );
    await apply(shell('own', 'cat /etc/made', {}, { image }));
    await d.phase('own', 'Succeeded');
    expect(await d.k('logs', 'own')).toBe('for the hub\n');
    expect((await mainOf('own')).imageID).toContain('coxswain.internal/apps/own@sha256:');
    expect(await d.described('own', 'Pulled')).toContain(`Successfully pulled image "${image}" in `);
    await d.delete('own');
  });

  it('follows the pull policy', async () => {
    const image = await d.registry.push(await busyboxImage(d.dir, { '/etc/v': 'one\n' }), 'tagged:1');
    const pod = (name: string, imagePullPolicy?: string) =>
      shell(name, 'cat /etc/v', {}, { image, ...(imagePullPolicy ? { imagePullPolicy } : {}) });
    await apply(pod('never', 'Never'));
    const s = await d.container('never', (c) => c.state.waiting?.reason === 'ErrImageNeverPull');
    expect(s.state.waiting.message).toBe(
      `Container image "${image}" is not present with pull policy of Never`,
    );
    await apply(pod('one'));
    await d.phase('one', 'Succeeded');
    await d.registry.push(await busyboxImage(d.dir, { '/etc/v': 'two\n' }), 'tagged:1');
    await apply(pod('present'), pod('always', 'Always'));
    await d.phase('present', 'Succeeded');
    expect(await d.k('logs', 'present')).toBe('one\n');
    await d.described('present', `Container image "${image}" already present on machine`);
    await d.phase('always', 'Succeeded');
    expect(await d.k('logs', 'always')).toBe('two\n');
    await d.delete('never', 'one', 'present', 'always');
  });

  it('says what is wrong with an image, once and readably, and takes it when it comes', async () => {
    const image = `${d.registry.host}/late:1`;
    await apply(
      shell('late', 'echo here', {}, { image }),
      shell('upper', 'echo', {}, { image: `${d.registry.host}/Upper:1` }),
      shell('nowhere', 'echo', {}, { image: '127.0.0.1:1/none:1' }),
    );
    const s = await d.container('late', (c) => c.state.waiting?.reason === 'ImagePullBackOff');
    expect(s.state.waiting.message).toMatch(/^Back-off pulling image ".*\/late:1": ErrImagePull: /);
    expect(s.state.waiting.message).toContain('there is no such image or tag');
    const text = await d.described('late', `Back-off pulling image "${image}"`);
    expect(text).toContain('Error: ErrImagePull');
    expect(text).toContain('Error: ImagePullBackOff');
    for (const line of text.split('\n')) expect(line.split('Failed to pull image').length).toBeLessThan(3);
    expect((await d.k.try('logs', 'late')).stderr).toContain('trying and failing to pull image');
    const upper = await d.container('upper', (c) => c.state.waiting?.reason === 'InvalidImageName');
    expect(upper.state.waiting.message).toContain('repository name must be lowercase');
    const nowhere = await d.container('nowhere', (c) =>
      /^(?!Container)/.test(c.state.waiting?.reason ?? 'Container'),
    );
    expect(nowhere.state.waiting.message).toContain('the registry cannot be reached');
    await d.registry.push(d.layout, 'late:1');
    await d.phase('late', 'Succeeded');
    await d.delete('late', 'upper', 'nowhere');
  });

  it('pulls with imagePullSecrets, and says what it lacks without', async () => {
    const closed = await Registry.start({ auth: true });
    try {
      const image = await closed.push(d.layout, 'closed:1');
      const login = ['--docker-username=user', '--docker-password=secret', `--docker-server=${closed.host}`];
      await d.k('create', 'secret', 'docker-registry', 'login', ...login);
      await apply(shell('refused', 'echo', {}, { image }));
      const s = await d.container('refused', (c) =>
        /ErrImagePull|BackOff/.test(c.state.waiting?.reason ?? ''),
      );
      expect(s.state.waiting.message).toContain('imagePullSecrets');
      await apply(shell('admitted', 'echo in', { imagePullSecrets: [{ name: 'login' }] }, { image }));
      await d.phase('admitted', 'Succeeded');
      await d.delete('refused', 'admitted');
    } finally {
      await closed.stop();
    }
  });

  // --- what the spec says arrives

  it('gives the environment that the spec describes', async () => {
    await d.k('create', 'configmap', 'settings', '--from-literal=MODE=calm', '--from-literal=RATE=5');
    await d.k('create', 'secret', 'generic', 'keys', '--from-literal=KEY=hush');
    const field = (fieldPath: string) => ({ valueFrom: { fieldRef: { fieldPath } } });
    const resource = (resource: string, divisor: string) => ({
      valueFrom: { resourceFieldRef: { resource, divisor } },
    });
    await apply(
      shell(
        'environment',
        '',
        {},
        {
          command: ['sh', '-c', 'env; echo "args: $0 $1"', '$(GREETING)'],
          args: ['$(MISSING) $$(GREETING)'],
          resources: { limits: { cpu: '250m', memory: '48Mi' } },
          envFrom: [{ configMapRef: { name: 'settings' } }, { prefix: 'S_', secretRef: { name: 'keys' } }],
          env: [
            { name: 'WHO', value: 'you' },
            { name: 'GREETING', value: 'hello $(WHO)' },
            { name: 'ONE', valueFrom: { configMapKeyRef: { name: 'settings', key: 'MODE' } } },
            { name: 'NONE', valueFrom: { secretKeyRef: { name: 'absent', key: 'x', optional: true } } },
            { name: 'NODE', ...field('spec.nodeName') },
            { name: 'IP', ...field('status.podIP') },
            { name: 'UID_', ...field('metadata.uid') },
            { name: 'CPU', ...resource('limits.cpu', '1m') },
            { name: 'MEMORY', ...resource('limits.memory', '1Mi') },
          ],
        },
      ),
    );
    const pod = await d.phase('environment', 'Succeeded');
    const log = await d.k('logs', 'environment');
    const env = Object.fromEntries(
      log.split('\n').map((l) => [l.split('=')[0], l.slice(l.indexOf('=') + 1)]),
    );
    expect(env).toMatchObject({
      MODE: 'calm',
      RATE: '5',
      S_KEY: 'hush',
      GREETING: 'hello you',
      ONE: 'calm',
      NODE: 'pi1',
      IP: pod.status.podIP,
      UID_: pod.metadata.uid,
      CPU: '250',
      MEMORY: '48',
      HOSTNAME: 'environment',
    });
    expect(env).not.toHaveProperty('NONE');
    expect(log).toContain('args: hello you $(MISSING) $(GREETING)');
    await d.delete('environment');
  });

  it('waits for what a container refers to, and names it', async () => {
    await apply(shell('lacking', 'env', {}, { envFrom: [{ configMapRef: { name: 'tomorrow' } }] }));
    const s = await d.container('lacking', (c) => c.state.waiting?.reason === 'CreateContainerConfigError');
    expect(s.state.waiting.message).toBe('configmap "tomorrow" not found');
    await d.described('lacking', 'Error: configmap "tomorrow" not found');
    await d.k('create', 'configmap', 'tomorrow', '--from-literal=DAY=today');
    await d.phase('lacking', 'Succeeded');
    expect(await d.k('logs', 'lacking')).toContain('DAY=today');
    await d.delete('lacking');
  });

  it('follows the restart policy and reports how a container ended', async () => {
    const once = 'if [ -e /d/x ]; then exit 0; fi; touch /d/x; exit 9';
    const volume = [
      { volumes: [{ name: 'd', emptyDir: {} }], restartPolicy: 'OnFailure' },
      { volumeMounts: [{ name: 'd', mountPath: '/d' }] },
    ] as const;
    await apply(
      shell('fails', 'exit 42'),
      shell('retried', once, ...volume),
      shell(
        'hungry',
        'x=$(yes | head -c 100000000); echo $?',
        {},
        { resources: { limits: { memory: '24Mi' } } },
      ),
      shell('no-program', '', { restartPolicy: 'Always' }, { command: ['/bin/none'] }),
      shell('last-words', 'echo too late >/dev/termination-log; exit 1'),
    );
    await d.phase('fails', 'Failed');
    expect((await mainOf('fails')).state.terminated).toMatchObject({ exitCode: 42, reason: 'Error' });
    expect(await d.k('get', 'pod', 'fails')).toMatch(/fails\s+0\/1\s+Error\s+0/);
    await d.phase('hungry', 'Failed');
    expect((await mainOf('hungry')).state.terminated).toMatchObject({ exitCode: 137, reason: 'OOMKilled' });
    expect(await d.k('get', 'pod', 'hungry')).toMatch(/OOMKilled/);
    await d.phase('last-words', 'Failed');
    expect((await mainOf('last-words')).state.terminated.message).toBe('too late\n');
    await d.phase('retried', 'Succeeded');
    expect(await mainOf('retried')).toMatchObject({
      restartCount: 1,
      lastState: { terminated: { exitCode: 9 } },
      state: { terminated: { exitCode: 0, reason: 'Completed' } },
    });
    const s = await d.container('no-program', (c) => c.state.waiting?.reason === 'CrashLoopBackOff');
    expect(s.lastState.terminated).toMatchObject({ exitCode: 128, reason: 'StartError' });
    expect(s.lastState.terminated.message).toContain('/bin/none');
    const text = await d.described('no-program', 'no such file or directory');
    // One line that is counted, not one per attempt.
    expect(text.split('\n').filter((l) => l.includes('Error: failed to start container'))).toHaveLength(1);
    await d.delete('fails', 'retried', 'hungry', 'no-program', 'last-words');
  });

  it('limits what a container may use', async () => {
    const script =
      'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max; ' +
      'if [ -e /sys/fs/cgroup/cpu ]; then cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us; ' +
      'else cat /sys/fs/cgroup/cpu.max; fi';
    await apply(shell('limited', script, {}, { resources: { limits: { cpu: '300m', memory: '40Mi' } } }));
    await d.phase('limited', 'Succeeded');
    expect((await d.k('logs', 'limited')).trim().split(/\s+/)).toEqual([
      String(40 * 2 ** 20),
      '30000',
      '100000',
    ]);
    expect((await d.pod('limited')).status.qosClass).toBe('Guaranteed');
    await d.delete('limited');
  });

  it('runs as the user that the spec names, and refuses root where it must not be', async () => {
    await apply(
      shell('somebody', 'id -u; id -g; id -G', {
        securityContext: {
          runAsUser: 1234,
          runAsGroup: 2345,
          supplementalGroups: [3456],
          runAsNonRoot: true,
        },
      }),
      shell('nonroot', 'id', { securityContext: { runAsNonRoot: true } }),
      shell('zero', 'id', { securityContext: { runAsNonRoot: true, runAsUser: 0 } }),
    );
    await d.phase('somebody', 'Succeeded');
    expect(await d.k('logs', 'somebody')).toBe('1234\n2345\n2345 3456\n');
    const refused = (name: string, text: string) =>
      d.described(name, `Error: ${text} (pod: "${name}_default(`);
    await refused('nonroot', 'container has runAsNonRoot and image will run as root');
    await refused('zero', "container's runAsUser breaks non-root policy");
    expect(await d.k('get', 'pod', 'nonroot')).toContain('CreateContainerConfigError');
    await d.delete('somebody', 'nonroot', 'zero');
  });

  it('is reached at its address, at a port of the host, and on the host’s network', async () => {
    const [hostPort, own] = [await freePort(), await freePort()];
    const script = (port: number) => `hostname >/tmp/index.html; httpd -f -p ${port} -h /tmp`;
    await apply(
      shell('mapped', script(8080), {}, { ports: [{ containerPort: 8080, hostPort }] }),
      shell('on-host', script(own), { hostNetwork: true }, { ports: [{ containerPort: own }] }),
    );
    const mapped = await d.phase('mapped', 'Running');
    const onHost = await d.phase('on-host', 'Running');
    const page = (url: string) => d.until(`a page at ${url}`, async () => (await fetch(url)).text());
    expect(await page(`http://${mapped.status.podIP}:8080/`)).toBe('mapped\n');
    expect(await page(`http://${mapped.status.hostIP}:${hostPort}/`)).toBe('mapped\n');
    expect(onHost.status.podIP).toBe(onHost.status.hostIP);
    await page(`http://127.0.0.1:${own}/`);
    // The port is taken: the next one must wait for another node, and says so.
    await apply(shell('second', script(8080), {}, { ports: [{ containerPort: 8080, hostPort }] }));
    await d.described('second', /didn't have free ports for the requested pod ports/);
    await d.delete('second', 'mapped', 'on-host');
    await d.until('the port given back', () =>
      fetch(`http://127.0.0.1:${hostPort}/`).then(
        () => false,
        () => true,
      ),
    );
  });

  // --- ends and logs

  it('ends with grace, and by force when that does not help', async () => {
    await apply(
      shell('polite', 'trap "echo bye; exit 0" TERM; echo ready; while true; do sleep 0.05; done', {
        terminationGracePeriodSeconds: 60,
      }),
      shell('deaf', 'trap "" TERM; echo ready; while true; do sleep 0.05; done'),
    );
    await d.says('polite', /ready/);
    await d.says('deaf', /ready/);
    const followed = d.k.follow('logs', '-f', 'polite');
    await d.until('the follower to have begun', () => followed.stdout().includes('ready'));
    const before = await d.containers();
    await d.delete('polite');
    expect(await followed.done).toBe(0);
    expect(followed.stdout()).toBe('ready\nbye\n');
    await d.delete('deaf');
    expect((await d.containers()).length).toBe(before.length - 4);
  });

  it('shows logs: tail, timestamps, since, follow', async () => {
    await apply(shell('writer', 'seq 1 2000; while [ ! -e /go ]; do sleep 0.05; done'));
    await d.says('writer', /^2000$/m);
    expect(await d.k('logs', 'writer', '--tail=2')).toBe('1999\n2000\n');
    const all = (await d.k('logs', 'writer')).trim().split('\n').map(Number);
    expect(all).toEqual(Array.from({ length: 2000 }, (_, i) => i + 1));
    const [stamp, line] = (await d.k('logs', 'writer', '--tail=1', '--timestamps')).trim().split(' ');
    expect(line).toBe('2000');
    expect(Number.isNaN(Date.parse(stamp!))).toBe(false);
    const later = new Date(Date.parse(stamp!) + 1000).toISOString();
    expect(await d.k('logs', 'writer', `--since-time=${later}`)).toBe('');
    expect(await d.k('logs', 'writer', '--since=1h', '--tail=1')).toBe('2000\n');
    expect(await d.k('logs', 'writer', '--limit-bytes=4')).toBe('1\n2\n');
    const none = await d.k.try('logs', 'writer', '--previous');
    expect(none.stderr).toContain('previous terminated container "main" in pod "writer" not found');
    await d.delete('writer');
  });

  // --- the device

  it('comes back from a cut of power with no hub in reach', async () => {
    const loop =
      'echo run $(cat /d/runs 2>/dev/null | wc -l); echo x >>/d/runs; while true; do sleep 0.1; done';
    const wasm = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'res-wasm' },
      spec: {
        runtimeClassName: 'wasm',
        terminationGracePeriodSeconds: 1,
        containers: [{ name: 'main', image: BOX, args: ['echo', 'up', ';', 'sleep', '100000000'] }],
      },
    };
    await d.k('create', 'secret', 'generic', 'sealed', '--from-literal=word=open');
    await apply(
      shell(
        'resident',
        loop,
        {
          restartPolicy: 'Always',
          volumes: [
            { name: 'd', emptyDir: {} },
            { name: 's', secret: { secretName: 'sealed' } },
          ],
        },
        {
          // What a device needs must not depend on the registry when it comes up.
          imagePullPolicy: 'Always',
          volumeMounts: [
            { name: 'd', mountPath: '/d' },
            { name: 's', mountPath: '/s' },
          ],
        },
      ),
      shell('finished', 'echo over'),
      wasm,
    );
    await d.says('resident', /^run 0$/m);
    await d.phase('res-wasm', 'Running');
    await d.phase('finished', 'Succeeded');
    const before = await d.pod('resident');
    await d.hub.stop();
    await d.agent.stop('SIGKILL');
    await d.containerd.powerCut();
    await d.until('the device is dark', () => {
      const left = processesOf(d.agent.dataDir);
      kill(left);
      return left.length === 0;
    });
    await d.containerd.up();
    await d.agent.start();
    const running = async () =>
      (await d.containerd.ctr('tasks', 'list')).split('\n').filter((l) => /RUNNING/.test(l));
    // The sandbox and the container.
    await d.until('its containers run again', async () => (await running()).length === 2);
    await d.until('its Wasm runs again', () => processesOf(d.agent.dataDir).length > 1);
    await d.hub.start();
    await nodeReady(d.k, 'pi1', d.context);
    await d.says('resident', /^run 1$/m);
    const after = await d.until('the pod ready', async () => {
      const p = await d.pod('resident');
      return p.status.conditions.some((c: any) => c.type === 'Ready' && c.status === 'True') && p;
    });
    expect(after.metadata.uid).toBe(before.metadata.uid);
    expect(after.status.containerStatuses[0].restartCount).toBe(1);
    expect(await d.k('logs', 'resident', '--previous')).toBe('run 0\n');
    await d.container('res-wasm', (c) => c.state.running && c.restartCount === 1);
    // What had ended stays ended, with its log.
    expect((await d.pod('finished')).status.phase).toBe('Succeeded');
    expect((await mainOf('finished')).restartCount).toBe(0);
    expect(await d.k('logs', 'finished')).toBe('over\n');
    await d.delete('resident', 'res-wasm', 'finished');
  });

  it('leaves nothing of deleted pods on the device', async () => {
    expect((await d.k.json('get', 'pods')).items).toEqual([]);
    expect(await d.containers()).toEqual([]);
    expect(processesOf(d.agent.dataDir)).toEqual([d.agent.process.pid]);
    const pods = join(d.agent.dataDir, 'pods');
    expect(existsSync(pods) ? (await exec('find', [pods, '-mindepth', '1'])).trim() : '').toBe('');
  });
});
