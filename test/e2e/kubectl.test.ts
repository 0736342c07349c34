import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nodes as nodeKind, pods as podKind } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { notFound } from '../../api/meta/errors.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { PodLogOptions } from '../../api/wire/streams.js';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

const configMap = (name: string, data?: object) => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name },
  ...(data ? { data } : {}),
});
const pod = (name: string, labels: Record<string, string> = {}, containers = ['main']) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels },
  spec: { containers: containers.map((c) => ({ name: c, image: `registry.example/${c}:1` })) },
});
const deployment = (name: string, replicas: number) => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name },
  spec: {
    replicas,
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: { containers: [{ name: 'web', image: 'nginx:1' }] },
    },
  },
});

/** Until `check` is true; the test's own time limit ends it otherwise. */
async function until(check: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await check())) await new Promise((r) => setTimeout(r, 25));
}

for (const minor of ['1.32', '1.36'] as const) {
  describe.skipIf(missing(`kubectl-${minor}`))(`kubectl ${minor}`, () => {
    let server: ApiServer;
    let k: Kubectl;
    const asked: PodLogOptions[] = [];

    beforeAll(async () => {
      server = await startApiServer({
        streams: {
          async logs(node, options) {
            if (node !== 'pi1') throw notFound('nodes', node);
            asked.push(options);
            return (async function* () {
              yield Buffer.from('first line\n');
              yield Buffer.from('second line\n');
            })();
          },
        },
      });
      k = kubectlOf(minor, server.kubeconfig, server.dir);
      await server.registry.client().create(
        nodeKind as unknown as Kind,
        {
          apiVersion: 'v1',
          kind: 'Node',
          metadata: { name: 'pi1', labels: { 'kubernetes.io/arch': 'arm64' } },
        } as AnyObject,
      );
    });
    afterAll(() => server?.stop());

    /** A namespace of the test's own. */
    const namespace = async (name: string): Promise<string> => {
      expect(await k.ok(['create', 'namespace', name])).toBe(`namespace/${name} created\n`);
      return name;
    };
    /** What a kubelet would report. */
    const report = (ns: string, name: string, status: object) =>
      server.registry
        .client()
        .patch(podKind as unknown as Kind, { namespace: ns, name }, { status }, 'status');

    it('knows the server: version, api-versions, api-resources', async () => {
      expect(await k.ok(['version'])).toMatch(/Server Version: v1\.36\.\d+\+coxswain/);
      expect((await k.ok(['api-versions'])).trim().split('\n')).toEqual(
        expect.arrayContaining(['apps/v1', 'coordination.k8s.io/v1', 'node.k8s.io/v1', 'v1']),
      );
      const resources = await k.ok(['api-resources', '--no-headers']);
      for (const line of [
        /^pods\s+po\s+v1\s+true\s+Pod$/m,
        /^nodes\s+no\s+v1\s+false\s+Node$/m,
        /^deployments\s+deploy\s+apps\/v1\s+true\s+Deployment$/m,
        /^runtimeclasses\s+node\.k8s\.io\/v1\s+false\s+RuntimeClass$/m,
      ]) {
        expect(resources).toMatch(line);
      }
      expect(await k.ok(['get', '--raw', '/readyz?verbose'])).toBe('[+]ping ok\nreadyz check passed\n');
    });

    it('explains kinds', async () => {
      const text = await k.ok(['explain', 'pod.spec.containers']);
      expect(text).toMatch(/KIND: {7}Pod\nVERSION: {4}v1\n\nFIELD: containers <\[\]Container>/);
      expect(text).toMatch(/^ {2}image\t<string>$/m);
      expect(text).toMatch(/^ {2}name\t<string> -required-$/m);
      expect(await k.ok(['explain', 'deployment', '--recursive'])).toMatch(/^ {8}maxSurge\t<IntOrString>$/m);
      expect(await k.ok(['explain', 'pod.spec.nodeName', '--output', 'plaintext-openapiv2'])).toMatch(
        /nodeName <string>/,
      );
      expect((await k.run(['explain', 'pod.nope'])).stderr).toBe('error: field "nope" does not exist\n');
    });

    it('gets objects in every format', async () => {
      const ns = await namespace('formats');
      await k.ok(['create', '-n', ns, '-f', '-'], pod('a', { app: 'x' }));
      await k.ok(['create', '-n', ns, '-f', '-'], pod('b', { app: 'y' }, ['one', 'two']));
      await report(ns, 'a', {
        phase: 'Running',
        podIP: '10.0.0.7',
        containerStatuses: [
          { name: 'main', ready: true, restartCount: 2, image: 'i', imageID: '', state: { running: {} } },
        ],
      });

      expect(await k.ok(['get', 'pods', '-n', ns])).toMatch(
        /^NAME {3}READY {3}STATUS {4}RESTARTS {3}AGE\na {6}1\/1 {5}Running {3}2 {10}\d+s\nb {6}0\/2 {5}Pending {3}0 {10}\d+s\n$/,
      );
      expect(await k.ok(['get', 'pods', '-n', ns, '-o', 'wide'])).toMatch(
        /NODE {5}NOMINATED NODE {3}READINESS GATES\n.*10\.0\.0\.7 {3}<none>/,
      );
      expect(await k.ok(['get', 'po', '-A', '--no-headers'])).toMatch(/^formats +a +1\/1/m);
      expect(await k.ok(['get', 'pods', '-n', ns, '-o', 'name'])).toBe('pod/a\npod/b\n');
      expect(await k.ok(['get', 'pods', '-n', ns, '-l', 'app=y', '-o', 'name'])).toBe('pod/b\n');
      expect(await k.ok(['get', 'pods', '-n', ns, '-l', 'app in (x,z),app!=y', '-o', 'name'])).toBe(
        'pod/a\n',
      );
      expect(
        await k.ok(['get', 'pods', '-n', ns, '--field-selector', 'status.phase!=Running', '-o', 'name']),
      ).toBe('pod/b\n');
      expect(await k.ok(['get', 'pod', 'b', '-n', ns, '-o', 'jsonpath={.spec.containers[*].name}'])).toBe(
        'one two',
      );
      expect(await k.ok(['get', 'pod', 'a', '-n', ns, '-o', 'yaml'])).toMatch(
        /^apiVersion: v1\nkind: Pod\nmetadata:\n {2}creationTimestamp: "/,
      );
      const json = JSON.parse(await k.ok(['get', 'pods', '-n', ns, '-o', 'json']));
      expect(json.items.map((i: AnyObject) => [i.apiVersion, i.kind, i.metadata?.name])).toEqual([
        ['v1', 'Pod', 'a'],
        ['v1', 'Pod', 'b'],
      ]);
      expect(await k.ok(['get', 'pods', '-n', ns, '-L', 'app', '--show-labels'])).toMatch(
        /APP {3}LABELS\na .* x {5}app=x\n/,
      );
      expect(await k.ok(['get', 'pods', '-n', ns, '--chunk-size=1', '-o', 'name'])).toBe('pod/a\npod/b\n');
      expect((await k.run(['get', 'pods', '-n', 'formats', '-l', 'app=none'])).stderr).toBe(
        'No resources found in formats namespace.\n',
      );
      expect(await k.ok(['get', 'all', '-n', ns])).toMatch(/^pod\/a /m);
    });

    it('watches', async () => {
      const ns = await namespace('watching');
      const child = k.start(['get', 'configmaps', '-n', ns, '-w', '--output-watch-events']);
      let seen = '';
      child.stdout.setEncoding('utf8').on('data', (d) => (seen += d));
      await k.ok(['create', 'configmap', 'one', '-n', ns, '--from-literal=a=1']);
      await until(() => /ADDED +one +1/.test(seen));
      await k.ok(['patch', 'configmap', 'one', '-n', ns, '-p', '{"data":{"b":"2"}}']);
      await until(() => /MODIFIED +one +2/.test(seen));
      await k.ok(['delete', 'configmap', 'one', '-n', ns]);
      await until(() => /DELETED +one +2/.test(seen));
      child.kill();
      expect(seen.match(/EVENT/g)).toHaveLength(1);
    });

    it('describes', async () => {
      const ns = await namespace('describing');
      await k.ok(['create', '-n', ns, '-f', '-'], pod('p', { app: 'x' }));
      await k.ok(['create', '-n', ns, '-f', '-'], deployment('web', 2));
      expect(await k.ok(['describe', 'pod', 'p', '-n', ns])).toMatch(
        /^Name: {13}p\n[\s\S]*^Labels: {11}app=x\n[\s\S]*Image: +registry\.example\/main:1\n[\s\S]*^Events: /m,
      );
      expect(await k.ok(['describe', 'deployment', 'web', '-n', ns])).toMatch(
        /^Replicas: +2 desired \| 0 updated \| 0 total/m,
      );
      expect(await k.ok(['describe', 'node', 'pi1'])).toMatch(
        /^Name: +pi1\n[\s\S]*kubernetes\.io\/arch=arm64/,
      );
      expect((await k.run(['describe', 'pod', 'nope', '-n', ns])).stderr).toBe(
        'Error from server (NotFound): pods "nope" not found\n',
      );
    });

    it('applies: create, unchanged, update, a field taken away', async () => {
      const ns = await namespace('applying');
      const apply = (o: object, ...flags: string[]) => k.ok(['apply', '-n', ns, ...flags, '-f', '-'], o);
      expect(await apply(configMap('c', { a: '1', b: '2' }))).toBe('configmap/c created\n');
      expect(await apply(configMap('c', { a: '1', b: '2' }))).toBe('configmap/c unchanged\n');
      expect(await apply(configMap('c', { a: '9' }), '--dry-run=server')).toBe(
        'configmap/c configured (server dry run)\n',
      );
      expect(await apply(configMap('c', { a: '1' }))).toBe('configmap/c configured\n');
      expect(await k.ok(['get', 'cm', 'c', '-n', ns, '-o', 'jsonpath={.data}'])).toBe('{"a":"1"}');

      expect(await apply(deployment('web', 1))).toBe('deployment.apps/web created\n');
      const two = deployment('web', 1);
      two.spec.template.spec.containers.push({ name: 'side', image: 'side:1' });
      expect(await apply(two)).toBe('deployment.apps/web configured\n');
      // A container goes by its name: that needs the merge keys of the OpenAPI documents.
      expect(await apply(deployment('web', 3))).toBe('deployment.apps/web configured\n');
      expect(
        await k.ok([
          'get',
          'deploy',
          'web',
          '-n',
          ns,
          '-o',
          'jsonpath={.spec.replicas} {.spec.template.spec.containers[*].name}',
        ]),
      ).toBe('3 web');

      const diff = await k.run(['diff', '-n', ns, '-f', '-'], configMap('c', { a: '5' }));
      expect(diff.code).toBe(1);
      expect(diff.stdout).toMatch(/^- {2}a: "1"\n\+ {2}a: "5"$/m);
      expect((await k.run(['diff', '-n', ns, '-f', '-'], configMap('c', { a: '1' }))).code).toBe(0);
    });

    it('creates by generators, scales, labels, annotates, patches', async () => {
      const ns = await namespace('changing');
      const ok = (...args: string[]) => k.ok(['-n', ns, ...args]);
      expect(await ok('create', 'configmap', 'c', '--from-literal=k=v')).toBe('configmap/c created\n');
      expect(await ok('create', 'secret', 'generic', 's', '--from-literal=k=v')).toBe('secret/s created\n');
      expect(await ok('get', 'secret', 's', '-o', 'jsonpath={.data.k}')).toBe('dg==');
      expect(await ok('create', 'serviceaccount', 'robot')).toBe('serviceaccount/robot created\n');
      expect(await ok('create', 'deployment', 'web', '--image=nginx', '--replicas=2', '--port=80')).toBe(
        'deployment.apps/web created\n',
      );
      expect(
        await ok(
          'get',
          'deploy',
          'web',
          '-o',
          'jsonpath={.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}',
        ),
      ).toBe('2 80');
      expect(await ok('run', 'p', '--image=busybox', '--', 'sleep', '1')).toBe('pod/p created\n');

      expect(await ok('scale', 'deployment', 'web', '--replicas=5')).toBe('deployment.apps/web scaled\n');
      expect(await ok('get', 'deploy', 'web', '-o', 'jsonpath={.spec.replicas}')).toBe('5');
      expect(
        (await k.run(['scale', 'deploy', 'web', '--current-replicas=9', '--replicas=1', '-n', ns])).stderr,
      ).toBe('error: Expected replicas to be 9, was 5\n');
      expect(await ok('label', 'pod', 'p', 'tier=web')).toBe('pod/p labeled\n');
      expect(await ok('label', 'pod', 'p', 'tier-')).toBe('pod/p unlabeled\n');
      expect(await ok('annotate', 'pod', 'p', 'note=hello')).toBe('pod/p annotated\n');
      expect(await ok('patch', 'pod', 'p', '-p', '{"metadata":{"labels":{"a":"1"}}}')).toBe(
        'pod/p patched\n',
      );
      expect(await ok('patch', 'pod', 'p', '--type=merge', '-p', '{"metadata":{"labels":{"a":"2"}}}')).toBe(
        'pod/p patched\n',
      );
      expect(
        await ok(
          'patch',
          'pod',
          'p',
          '--type=json',
          '-p',
          '[{"op":"add","path":"/metadata/labels/b","value":"3"}]',
        ),
      ).toBe('pod/p patched\n');
      expect(await ok('get', 'pod', 'p', '-o', 'jsonpath={.metadata.labels}')).toBe(
        '{"a":"2","b":"3","run":"p"}',
      );
      expect(await ok('set', 'image', 'deploy/web', 'nginx=nginx:2')).toBe(
        'deployment.apps/web image updated\n',
      );
      expect(await ok('cordon', 'pi1').catch(String)).toMatch(/node\/pi1 cordoned/);
      expect(await k.ok(['get', 'nodes'])).toMatch(/SchedulingDisabled/);
      await k.ok(['uncordon', 'pi1']);
    });

    it('edits and replaces', async () => {
      const ns = await namespace('editing');
      await k.ok(['create', '-n', ns, '-f', '-'], configMap('c', { a: 'old' }));
      const editor = join(server.dir, `editor-${minor}.sh`);
      writeFileSync(editor, '#!/bin/sh\nsed -i "s/a: old/a: new/" "$1"\n', { mode: 0o755 });
      expect(await k.ok(['edit', 'configmap', 'c', '-n', ns], undefined, { EDITOR: editor })).toBe(
        'configmap/c edited\n',
      );
      expect(await k.ok(['get', 'cm', 'c', '-n', ns, '-o', 'jsonpath={.data.a}'])).toBe('new');
      expect(await k.ok(['replace', '-n', ns, '-f', '-'], configMap('c', { z: '1' }))).toBe(
        'configmap/c replaced\n',
      );
      expect(await k.ok(['get', 'cm', 'c', '-n', ns, '-o', 'jsonpath={.data}'])).toBe('{"z":"1"}');
    });

    it('waits for conditions, fields and deletion', async () => {
      const ns = await namespace('waiting');
      await k.ok(['create', '-n', ns, '-f', '-'], pod('p'));
      const ready = k.ok(['wait', '--for=condition=Ready', 'pod/p', '-n', ns, '--timeout=60s']);
      const field = k.ok([
        'wait',
        '--for=jsonpath={.status.phase}=Running',
        'pod/p',
        '-n',
        ns,
        '--timeout=60s',
      ]);
      await report(ns, 'p', { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] });
      expect(await ready).toBe('pod/p condition met\n');
      expect(await field).toBe('pod/p condition met\n');
      const gone = k.ok(['wait', '--for=delete', 'pod/p', '-n', ns, '--timeout=60s']);
      await k.ok(['delete', 'pod', 'p', '-n', ns, '--grace-period=0', '--force']);
      await gone;
      const late = await k.run(['wait', '--for=condition=Ready', 'node/pi1', '--timeout=1s']);
      expect([late.code, late.stderr]).toEqual([
        1,
        'error: timed out waiting for the condition on nodes/pi1\n',
      ]);
    });

    it('deletes: by name, by label, with grace', async () => {
      const ns = await namespace('deleting');
      await k.ok(['create', '-n', ns, '-f', '-'], configMap('c'));
      expect(await k.ok(['delete', 'configmap', 'c', '-n', ns])).toMatch(/^configmap "c" deleted/);
      expect(await k.ok(['delete', 'configmap', 'c', '-n', ns, '--ignore-not-found'])).toBe('');
      for (const name of ['x', 'y']) await k.ok(['create', '-n', ns, '-f', '-'], pod(name, { app: 'z' }));
      await server.registry.client().bind(
        {
          namespace: ns,
          name: 'x',
          uid: await k.ok(['get', 'pod', 'x', '-n', ns, '-o', 'jsonpath={.metadata.uid}']),
        },
        'pi1',
      );
      await k.ok(['delete', 'pods', '-l', 'app=z', '-n', ns, '--wait=false', '--grace-period=7']);
      // Bound to a node, it stays until the node says that it has ended; the other one was nowhere.
      expect(
        await k.ok([
          'get',
          'pods',
          '-n',
          ns,
          '-o',
          'jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionGracePeriodSeconds}{end}',
        ]),
      ).toBe('x 7');
      expect(await k.ok(['get', 'pods', '-n', ns])).toMatch(/Terminating/);
    });

    it('reads logs', async () => {
      const ns = await namespace('logging');
      await k.ok(['create', '-n', ns, '-f', '-'], pod('two', {}, ['a', 'b']));
      expect(await k.ok(['logs', 'two', '-n', ns, '-c', 'a'])).toBe(''); // on no node yet
      const uid = await k.ok(['get', 'pod', 'two', '-n', ns, '-o', 'jsonpath={.metadata.uid}']);
      await server.registry.client().bind({ namespace: ns, name: 'two', uid }, 'pi1');
      expect(
        await k.ok([
          'logs',
          'two',
          '-n',
          ns,
          '-c',
          'b',
          '--tail=5',
          '--since=10s',
          '--timestamps',
          '--previous',
          '--limit-bytes=100',
        ]),
      ).toBe('first line\nsecond line\n');
      expect(asked.at(-1)).toEqual({
        namespace: ns,
        pod: 'two',
        uid,
        container: 'b',
        follow: false,
        previous: true,
        timestamps: true,
        tailLines: 5,
        sinceSeconds: 10,
        limitBytes: 100,
      });
      expect(await k.ok(['logs', '-f', 'two', '-n', ns, '-c', 'a'])).toBe('first line\nsecond line\n');
      const wrong = await k.run(['logs', 'two', '-n', ns, '-c', 'c']);
      expect(wrong.stderr).toMatch(/container c is not valid for pod two/);
    });

    describe('says what is wrong', () => {
      const wrong: [string, (ns: string) => [string[], unknown?], string | RegExp][] = [
        [
          'an unknown field',
          (ns) => [['create', '-n', ns, '-f', '-'], { ...configMap('c'), dta: {} }],
          'Error from server (BadRequest): error when creating "STDIN": ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dta"\n',
        ],
        [
          'a wrong type',
          (ns) => [['create', '-n', ns, '-f', '-'], { ...deployment('d', 1), spec: { replicas: 'two' } }],
          /^Error from server \(BadRequest\): error when creating "STDIN": Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field .*spec\.replicas of type int32\n$/,
        ],
        [
          'a name taken',
          (ns) => [['create', '-n', ns, '-f', '-'], configMap('taken')],
          'Error from server (AlreadyExists): error when creating "STDIN": configmaps "taken" already exists\n',
        ],
        [
          'a stale resourceVersion',
          (ns) => [
            ['replace', '-n', ns, '-f', '-'],
            { ...configMap('taken'), metadata: { name: 'taken', resourceVersion: '1' } },
          ],
          'Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on configmaps "taken": the object has been modified; please apply your changes to the latest version and try again\n',
        ],
        [
          'an object of 10 MB',
          (ns) => [['create', '-n', ns, '-f', '-'], configMap('big', { a: 'x'.repeat(10 << 20) })],
          /^Error from server \(RequestEntityTooLarge\): error when creating "STDIN": Request entity too large: limit is 3145728\n$/,
        ],
        [
          'an object of 2 MB',
          (ns) => [['create', '-n', ns, '-f', '-'], configMap('big', { a: 'x'.repeat(2 << 20) })],
          /^The ConfigMap "big" is invalid: \S*: Too long: /,
        ],
        [
          'a namespace that is not there',
          () => [['create', '-n', 'nowhere', '-f', '-'], configMap('c')],
          'Error from server (NotFound): error when creating "STDIN": namespaces "nowhere" not found\n',
        ],
        [
          'a kind that is not there',
          (ns) => [
            ['create', '-n', ns, '-f', '-'],
            { apiVersion: 'example.com/v1', kind: 'Cheese', metadata: { name: 'x' } },
          ],
          'error: resource mapping not found for name: "x" namespace: "" from "STDIN": no matches for kind "Cheese" in version "example.com/v1"\nensure CRDs are installed first\n',
        ],
        [
          'a resource that is not there',
          (ns) => [['get', 'cheese', '-n', ns]],
          `error: the server doesn't have a resource type "cheese"\n`,
        ],
        [
          'an object that is not there',
          (ns) => [['get', 'pod', 'nope', '-n', ns]],
          'Error from server (NotFound): pods "nope" not found\n',
        ],
        [
          'a pod without containers',
          (ns) => [['create', '-n', ns, '-f', '-'], { ...pod('p'), spec: { containers: [] } }],
          'The Pod "p" is invalid: spec.containers: Required value\n',
        ],
        [
          'a name that cannot be',
          (ns) => [['create', '-n', ns, '-f', '-'], configMap('Not_A_Name')],
          /^The ConfigMap "Not_A_Name" is invalid: metadata\.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain must consist of/,
        ],
        [
          'a selector that cannot be read',
          (ns) => [['get', 'pods', '-n', ns, '-l', 'a in']],
          /^Error from server \(BadRequest\): Unable to find "\/v1, Resource=pods" that match label selector "a in", field selector "": unable to parse requirement: /,
        ],
        [
          'a field selector that is not supported',
          (ns) => [['get', 'pods', '-n', ns, '--field-selector', 'spec.x=1']],
          /field label not supported: spec\.x\n$/,
        ],
        [
          'a patch of what may not change',
          (ns) => [['patch', 'configmap', 'taken', '-n', ns, '-p', '{"metadata":{"uid":"other"}}']],
          /^Error from server \(Conflict\): Operation cannot be fulfilled on configmaps "taken": Precondition failed: UID in precondition: other, UID in object meta: /,
        ],
      ];
      let ns: string;
      beforeAll(async () => {
        ns = await namespace('wrong');
        await k.ok(['create', '-n', ns, '-f', '-'], configMap('taken'));
      });
      it.each(wrong)('%s', async (_what, make, message) => {
        const [args, input] = make(ns);
        const r = await k.run(args, input);
        expect(r.code).toBe(1);
        expect(r.stdout).toBe('');
        if (typeof message === 'string') expect(r.stderr).toBe(message);
        else expect(r.stderr).toMatch(message);
      });

      it('unknown fields are a warning when asked for, or nothing', async () => {
        const odd = (name: string) => ({ ...configMap(name), dta: 1 });
        const warned = await k.run(['create', '-n', ns, '--validate=warn', '-f', '-'], odd('w'));
        expect([warned.stdout, warned.stderr]).toEqual([
          'configmap/w created\n',
          'Warning: unknown field "dta"\n',
        ]);
        const ignored = await k.run(['create', '-n', ns, '--validate=ignore', '-f', '-'], odd('i'));
        expect([ignored.stdout, ignored.stderr]).toEqual(['configmap/i created\n', '']);
      });
    });

    it('is refused with a wrong token, and with a certificate that gives no power', async () => {
      const stranger = await k.run([
        'get',
        'pods',
        `--kubeconfig=${await kubeconfigOf(server, { token: 'nonsense' })}`,
      ]);
      expect(stranger.stderr).toBe('error: You must be logged in to the server (Unauthorized)\n');
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const cert = await server.pki.issueClientCert({ cn: 'alice', o: ['dev'], publicKey });
      const alice = await kubeconfigOf(server, {
        'client-certificate-data': Buffer.from(cert).toString('base64'),
        'client-key-data': Buffer.from(privateKey.export({ type: 'pkcs8', format: 'pem' })).toString(
          'base64',
        ),
      });
      expect((await k.run(['get', 'pods', `--kubeconfig=${alice}`])).stderr).toBe(
        'Error from server (Forbidden): pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default"\n',
      );
      expect((await k.run(['delete', 'node', 'pi1', `--kubeconfig=${alice}`])).stderr).toBe(
        'Error from server (Forbidden): nodes "pi1" is forbidden: User "alice" cannot delete resource "nodes" in API group "" at the cluster scope\n',
      );
    });
  });
}

/** A kubeconfig that trusts the server and comes as `user`. */
async function kubeconfigOf(server: ApiServer, user: object): Promise<string> {
  const path = join(server.dir, `${Object.keys(user)[0]}.kubeconfig`);
  const cluster = {
    server: server.url,
    'certificate-authority-data': Buffer.from(server.pki.caPem).toString('base64'),
  };
  writeFileSync(
    path,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'c',
      clusters: [{ name: 'c', cluster }],
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
      users: [{ name: 'u', user }],
    }),
  );
  return path;
}
