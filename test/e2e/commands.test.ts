import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';
import { remove, scratch, TestHub } from './support/system.js';

/** What is typed, and what it prints: all of stdout for a string, with stderr after it for a pattern. */
type Line = [command: string, prints: string | RegExp, input?: object];

const POD = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'one', labels: { app: 'one' } },
  spec: { containers: [{ name: 'main', image: 'registry.example/main:1' }] },
};
const part = (name: string, labels: object, data: object) => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name, labels },
  data,
});

/** Commands in the order in which somebody types them, each group in a namespace of its own. What fails starts with `!`. */
const SESSIONS: Record<string, Line[]> = {
  'makes objects from flags': [
    ['create deployment web --image=nginx:1 --replicas=2 --port=80', 'deployment.apps/web created\n'],
    ['create service clusterip web --tcp=80:8080', 'service/web created\n'],
    ['create service nodeport np --tcp=80', 'service/np created\n'],
    ['create service externalname out --external-name=example.com', 'service/out created\n'],
    ['create job once --image=busybox -- true', 'job.batch/once created\n'],
    ['create cronjob often --image=busybox --schedule=@hourly -- true', 'cronjob.batch/often created\n'],
    ['create job now --from=cronjob/often', 'job.batch/now created\n'],
    ['create configmap c --from-literal=a=1', 'configmap/c created\n'],
    ['create secret generic s --from-literal=a=1', 'secret/s created\n'],
    [
      'create secret docker-registry d --docker-username=u --docker-password=p --docker-server=r.example',
      'secret/d created\n',
    ],
    ['get secret d -o jsonpath={.type}', 'kubernetes.io/dockerconfigjson'],
    ['create serviceaccount bot', 'serviceaccount/bot created\n'],
    ['create role r --verb=get --resource=pods', 'role.rbac.authorization.k8s.io/r created\n'],
    [
      'create rolebinding r --role=r --serviceaccount=default:bot',
      'rolebinding.rbac.authorization.k8s.io/r created\n',
    ],
    ['create quota q --hard=pods=10', 'resourcequota/q created\n'],
    [
      'create poddisruptionbudget b --selector=app=web --min-available=1',
      'poddisruptionbudget.policy/b created\n',
    ],
    ['create ingress i --rule=example.com/*=web:80', 'ingress.networking.k8s.io/i created\n'],
    ['create token bot', /^ey[\w-]+\.ey[\w-]+\.[\w-]+\n?$/],
    ['run p --image=nginx:1 --labels=a=b --env=X=1', 'pod/p created\n'],
    ['expose deployment web --name=exposed --port=80', 'service/exposed exposed\n'],
    ['!create configmap c', /configmaps "c" already exists/],
    [
      '!create deployment Web --image=nginx',
      /Invalid value: "Web": a lowercase RFC 1123 subdomain must consist/,
    ],
    ['create configmap dry --dry-run=server -o name', 'configmap/dry\n'],
    ['!get configmap dry', /configmaps "dry" not found/],
    ['get cronjob often -o jsonpath={.spec.schedule}{.spec.suspend}', '@hourlyfalse'],
  ],
  'changes single fields': [
    ['create deployment web --image=nginx:1', 'deployment.apps/web created\n'],
    ['set image deployment/web nginx=nginx:2', 'deployment.apps/web image updated\n'],
    ['set env deployment/web A=1', 'deployment.apps/web env updated\n'],
    ['set env deployment/web --list', /^# Deployment web, container nginx\nA=1$/m],
    ['set resources deployment/web --limits=cpu=200m', 'deployment.apps/web resource requirements updated\n'],
    ['set serviceaccount deployment/web bot', 'deployment.apps/web serviceaccount updated\n'],
    ['label deployment/web tier=front', 'deployment.apps/web labeled\n'],
    ['!label deployment/web tier=back', /'tier' already has a value \(front\), and --overwrite is false/],
    ['label deployment/web tier=back --overwrite', 'deployment.apps/web labeled\n'],
    ['label deployment/web tier-', 'deployment.apps/web unlabeled\n'],
    ['annotate deployment/web note=x', 'deployment.apps/web annotated\n'],
    ['patch deployment/web --type=merge -p {"spec":{"replicas":3}}', 'deployment.apps/web patched\n'],
    [
      'patch deployment/web --type=json -p [{"op":"replace","path":"/spec/replicas","value":4}]',
      'deployment.apps/web patched\n',
    ],
    ['patch deployment/web -p {"spec":{"replicas":4}}', 'deployment.apps/web patched (no change)\n'],
    ['patch deployment/web --subresource=scale --type=merge -p {"spec":{"replicas":2}}', /patched\n$/],
    ['!scale deployment/web --current-replicas=9 --replicas=1', /Expected replicas to be 9, was 2/],
    ['scale deployment/web --current-replicas=2 --replicas=1', 'deployment.apps/web scaled\n'],
    [
      '!patch deployment/web -p {"spec":{"replicas":-1}}',
      /spec.replicas: Invalid value: -1: must be greater than or equal to 0/,
    ],
    ['!patch deployment/web -p {"spec":{"selector":{"matchLabels":{"a":"b"}}}}', /field is immutable/],
    ['get deployment web -o jsonpath={.spec.replicas}', '1'],
  ],
  'rolls out and back': [
    ['create deployment web --image=nginx:1 --replicas=0', 'deployment.apps/web created\n'],
    ['rollout status deployment/web --timeout=60s', /successfully rolled out\n$/],
    ['set image deployment/web nginx=nginx:2', 'deployment.apps/web image updated\n'],
    ['rollout status deployment/web --timeout=60s', /successfully rolled out\n$/],
    ['rollout history deployment/web', /^REVISION {2}CHANGE-CAUSE\n1 +<none>\n2 +<none>$/m],
    ['rollout history deployment/web --revision=1', /Image:\s+nginx:1$/m],
    ['rollout undo deployment/web', 'deployment.apps/web rolled back\n'],
    ['rollout status deployment/web --timeout=60s', /successfully rolled out\n$/],
    ['get deployment web -o jsonpath={..image}', 'nginx:1'],
    ['!rollout undo deployment/web --to-revision=99', /unable to find specified revision 99 in history/],
    ['rollout pause deployment/web', 'deployment.apps/web paused\n'],
    ['!rollout restart deployment/web', /can't restart paused deployment/],
    ['rollout resume deployment/web', 'deployment.apps/web resumed\n'],
    ['rollout restart deployment/web', 'deployment.apps/web restarted\n'],
  ],
  'applies, compares, prunes': [
    ['apply -f -', 'configmap/a created\n', part('a', { set: 'x' }, { k: '1' })],
    ['apply -f -', 'configmap/a unchanged\n', part('a', { set: 'x' }, { k: '1' })],
    ['!diff -f -', /^-\s+k: "1"\n\+\s+k: "2"$/m, part('a', { set: 'x' }, { k: '2' })],
    ['apply -f -', 'configmap/a configured\n', part('a', { set: 'x' }, { k: '2' })],
    ['apply view-last-applied configmap/a', /^ {2}k: "2"$/m],
    [
      'apply --prune -l set=x --prune-allowlist=core/v1/ConfigMap -f -',
      'configmap/b created\nconfigmap/a pruned\n',
      part('b', { set: 'x' }, {}),
    ],
    ['apply --server-side -f -', 'configmap/s serverside-applied\n', part('s', {}, { k: '1' })],
    [
      '!apply --server-side --field-manager=other -f -',
      /Apply failed with 1 conflict: conflict with "kubectl": \.data\.k/,
      part('s', {}, { k: '2' }),
    ],
    [
      'apply --server-side --field-manager=other --force-conflicts -f -',
      'configmap/s serverside-applied\n',
      part('s', {}, { k: '2' }),
    ],
    ['replace -f -', 'configmap/s replaced\n', part('s', {}, { k: '3' })],
    ['replace --force -f -', /configmap\/s replaced\n$/, part('s', {}, { k: '4' })],
    ['!apply -f -', /unknown field "spec.containrs"/, { ...POD, spec: { ...POD.spec, containrs: [] } }],
    [
      '!create --raw /api/v1/namespaces -f -',
      /must be of type Namespace|cannot be handled as a Namespace/,
      POD,
    ],
  ],
  'shows objects in every form': [
    ['create -f -', 'pod/one created\n', POD],
    ['get pods', /^NAME +READY +STATUS +RESTARTS +AGE\none +0\/1 +Pending +0 +\S+\n$/],
    ['get pods -o wide', /^NAME +READY +STATUS .* NOMINATED NODE +READINESS GATES\n/],
    ['get pods -o name', 'pod/one\n'],
    [
      'get pods --no-headers -o custom-columns=N:.metadata.name,I:.spec.containers[*].image',
      'one   registry.example/main:1\n',
    ],
    ['get pods -o go-template={{len\u00a0.items}}', '1'],
    ['get pods --sort-by=.metadata.name -o name', 'pod/one\n'],
    ['get pods --show-labels', /app=one\n$/],
    ['get pods -L app', /APP\none .* one\n$/],
    ['get pods --field-selector=status.phase=Running', /No resources found/],
    ['!get pods --field-selector=spec.no=1', /field label not supported: spec.no/],
    ['get all --chunk-size=1 -o name', 'pod/one\n'],
    ['!get nothing', /the server doesn't have a resource type "nothing"/],
    ['get pod nobody --ignore-not-found', ''],
    ['get --raw /api/v1/nodes?limit=1', /^\{"kind":"NodeList","apiVersion":"v1"/],
    ['describe pod one', /^Events:/m],
    ['explain pod.spec.containers.image', /^FIELD: image <string>$/m],
    ['explain deployment --recursive', /^\s+terminationGracePeriodSeconds\t<integer>$/m],
    ['!explain pod.no', /field "no" does not exist/],
    ['wait pod/one --for=jsonpath={.status.phase}=Pending --timeout=60s', 'pod/one condition met\n'],
    ['!wait pod/one --for=condition=Ready --timeout=1s', /timed out waiting for the condition on pods\/one/],
    ['debug one --image=busybox --attach=false -c shell --profile=general', /^$/],
    ['get pod one -o jsonpath={.spec.ephemeralContainers[*].name}', 'shell'],
    ['delete pod one --now', /^pod "one" deleted/],
    ['delete pods --all', /No resources found/],
  ],
};

for (const minor of ['1.32', '1.36'] as const) {
  describe.skipIf(missing(`kubectl-${minor}`))(`kubectl ${minor}, as it is typed`, () => {
    const home = scratch('commands');
    let hub: TestHub;
    let k: Kubectl;

    beforeAll(async () => {
      hub = await new TestHub().start();
      k = kubectlOf(minor, hub.kubeconfig, home);
    });
    afterAll(async () => {
      await hub?.stop();
      remove(home, hub?.dataDir);
    });

    it.each(Object.entries(SESSIONS))('%s', async (name, lines) => {
      const namespace = name.replace(/\W+/g, '-');
      await k.ok(['create', 'namespace', namespace]);
      for (const [line, prints, input] of lines) {
        const fails = line.startsWith('!');
        const args = line
          .slice(fails ? 1 : 0)
          .split(' ')
          .map((a) => a.replaceAll('\u00a0', ' '));
        const after = args.indexOf('--');
        args.splice(after < 0 ? args.length : after, 0, '--namespace', namespace);
        const { code, stdout, stderr } = await k.run(args, input);
        expect(code === 0, `${line}\n${stdout}\n${stderr}`).toBe(!fails);
        if (typeof prints === 'string') expect(stdout, line).toBe(prints);
        else expect(`${stdout}${stderr}`, line).toMatch(prints);
      }
    });

    it('applies, shows and deletes a kustomization', async () => {
      const dir = join(home, 'site');
      mkdirSync(dir);
      writeFileSync(join(dir, 'pod.yaml'), JSON.stringify(POD));
      writeFileSync(
        join(dir, 'kustomization.yaml'),
        JSON.stringify({
          resources: ['pod.yaml'],
          namePrefix: 'my-',
          configMapGenerator: [{ name: 'settings', literals: ['a=1'] }],
        }),
      );
      expect(await k.ok(['apply', '-k', dir])).toMatch(
        /^configmap\/my-settings-\w+ created\npod\/my-one created\n$/,
      );
      expect(await k.ok(['get', '-k', dir, '-o', 'name'])).toMatch(
        /configmap\/my-settings-\w+\npod\/my-one\n/,
      );
      expect((await k.run(['diff', '-k', dir])).code).toBe(0);
      expect(await k.ok(['delete', '-k', dir])).toMatch(/pod "my-one" deleted/);
    });
  });
}
