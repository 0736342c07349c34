import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

const schema = {
  type: 'object',
  properties: {
    spec: {
      type: 'object',
      description: 'What the lamp shall do.',
      required: ['color'],
      properties: {
        color: { type: 'string', enum: ['red', 'green', 'blue'], description: 'The color to shine in.' },
        replicas: { type: 'integer', minimum: 0, maximum: 10, default: 1 },
        label: { type: 'string', pattern: '^[a-z]+$' },
        port: { 'x-kubernetes-int-or-string': true },
        free: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
      },
    },
    status: {
      type: 'object',
      properties: { replicas: { type: 'integer' }, selector: { type: 'string' }, phase: { type: 'string' } },
    },
  },
};

const crd = (plural: string, kind: string) => ({
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: `${plural}.lights.example.com` },
  spec: {
    group: 'lights.example.com',
    scope: 'Namespaced',
    names: { plural, kind, shortNames: [`${plural.slice(0, 2)}x`], categories: ['lighting'] },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: { openAPIV3Schema: schema },
        subresources: {
          status: {},
          scale: {
            specReplicasPath: '.spec.replicas',
            statusReplicasPath: '.status.replicas',
            labelSelectorPath: '.status.selector',
          },
        },
        additionalPrinterColumns: [
          { name: 'Color', type: 'string', jsonPath: '.spec.color' },
          { name: 'Replicas', type: 'integer', jsonPath: '.spec.replicas', priority: 1 },
          { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
        ],
      },
      {
        name: 'v1beta1',
        served: true,
        storage: false,
        schema: { openAPIV3Schema: schema },
        subresources: { status: {} },
      },
    ],
  },
});

const lamp = (name: string, spec: object) => ({
  apiVersion: 'lights.example.com/v1',
  kind: 'Lamp',
  metadata: { name },
  spec,
});

for (const minor of ['1.32', '1.36'] as const) {
  describe.skipIf(missing(`kubectl-${minor}`))(`custom kinds, kubectl ${minor}`, () => {
    let server: ApiServer;
    let k: Kubectl;

    beforeAll(async () => {
      server = await startApiServer();
      k = kubectlOf(minor, server.kubeconfig, server.dir);
      expect(await k.ok(['apply', '-f', '-'], crd('lamps', 'Lamp'))).toBe(
        'customresourcedefinition.apiextensions.k8s.io/lamps.lights.example.com created\n',
      );
      expect(await k.ok(['wait', '--for=condition=Established', 'crd/lamps.lights.example.com'])).toContain(
        'condition met',
      );
    });
    afterAll(() => server?.stop());

    it('is discovered and explained', async () => {
      expect(await k.ok(['get', 'crd'])).toContain('lamps.lights.example.com');
      expect(await k.ok(['api-resources', '--api-group=lights.example.com'])).toMatch(
        /lamps\s+lax\s+lights.example.com\/v1\s+true\s+Lamp/,
      );
      expect(await k.ok(['api-versions'])).toContain('lights.example.com/v1beta1');
      const text = await k.ok(['explain', 'lamp.spec']);
      expect(text).toContain('What the lamp shall do.');
      expect(text).toMatch(/color\s+<string> -required-/);
      expect(await k.ok(['explain', 'lamp', '--recursive'])).toContain('replicas');
    });

    it('creates, shows, changes, scales and deletes', async () => {
      await k.ok(['apply', '-f', '-'], lamp('hall', { color: 'red', port: 'http', free: { any: [1] } }));
      expect(await k.ok(['get', 'lax'])).toMatch(/NAME\s+COLOR\s+AGE\nhall\s+red\s+\d+s\n/);
      expect(await k.ok(['get', 'lighting', '-o', 'wide'])).toMatch(/hall\s+red\s+1\s+\d+s/);
      const o = JSON.parse(await k.ok(['get', 'lamp', 'hall', '-o', 'json']));
      expect(o.spec).toEqual({ color: 'red', replicas: 1, port: 'http', free: { any: [1] } });
      expect(o.metadata.generation).toBe(1);
      await k.ok(['apply', '-f', '-'], lamp('hall', { color: 'blue' }));
      await k.ok(['patch', 'lamp', 'hall', '--type=merge', '-p', '{"spec":{"label":"warm"}}']);
      await k.ok(['patch', 'lamp', 'hall', '--type=json', '-p', '[{"op":"remove","path":"/spec/label"}]']);
      await k.ok(['scale', 'lamp', 'hall', '--replicas=4']);
      await k.ok(['label', 'lamp', 'hall', 'room=hall']);
      await k.ok([
        'patch',
        'lamp',
        'hall',
        '--type=merge',
        '--subresource=status',
        '-p',
        '{"status":{"phase":"On"},"spec":{"color":"green"}}',
      ]);
      const now = JSON.parse(await k.ok(['get', 'lamps.v1beta1.lights.example.com', 'hall', '-o', 'json']));
      expect(now).toMatchObject({
        apiVersion: 'lights.example.com/v1beta1',
        metadata: { generation: 5, labels: { room: 'hall' } },
        spec: { color: 'blue', replicas: 4 },
        status: { phase: 'On' },
      });
      expect(await k.ok(['delete', 'lamp', 'hall'])).toBe(
        'lamp.lights.example.com "hall" deleted' + (minor === '1.36' ? ' from default namespace\n' : '\n'),
      );
    });

    it('applies on the server', async () => {
      await k.ok(['apply', '--server-side', '-f', '-'], lamp('porch', { color: 'green' }));
      const conflict = await k.run(
        ['apply', '--server-side', '--field-manager=other', '-f', '-'],
        lamp('porch', { color: 'red' }),
      );
      expect(conflict.stderr).toContain('conflict with "kubectl": .spec.color');
      await k.ok(['delete', 'lamp', 'porch']);
    });

    it('refuses what the schema does not allow, in the words of Kubernetes', async () => {
      const wrong = async (spec: object) => (await k.run(['create', '-f', '-'], lamp('bad', spec))).stderr;
      expect(await wrong({ color: 'red', replicas: 'x' })).toContain(
        'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"',
      );
      expect(await wrong({ color: 'mauve' })).toContain(
        'spec.color: Unsupported value: "mauve": supported values: "blue", "green", "red"',
      );
      expect(await wrong({ replicas: 1 })).toContain('spec.color: Required value');
      expect(await wrong({ color: 'red', replicas: 11 })).toContain(
        'spec.replicas in body should be less than or equal to 10',
      );
      expect(await wrong({ color: 'red', label: 'A' })).toContain(
        "spec.label in body should match '^[a-z]+$'",
      );
      expect(await wrong({ color: 'red', nope: 1 })).toContain('unknown field "spec.nope"');
      const strategic = await k.run([
        'patch',
        'crd',
        'lamps.lights.example.com',
        '--type=strategic',
        '-p',
        '{"metadata":{"labels":{"a":"b"}}}',
      ]);
      expect(strategic.code).toBe(0);
    });

    it('enforces CEL rules, and refuses those that cannot work', async () => {
      const ruled = (...rules: object[]) => {
        const bulb = crd('bulbs', 'Bulb');
        const spec = { ...schema.properties.spec, 'x-kubernetes-validations': rules };
        for (const v of bulb.spec.versions)
          v.schema = { openAPIV3Schema: { ...schema, properties: { ...schema.properties, spec } } };
        return bulb;
      };
      const misspelt = await k.run(['create', '-f', '-'], ruled({ rule: 'self.replica < 3' }));
      expect(misspelt.stderr).toContain(
        "compilation failed: ERROR: <input>:1:5: undefined field 'replica'\n | self.replica < 3\n | ....^",
      );
      const rules = [
        { rule: 'self.color != "red" || self.replicas < 3', message: 'red is for few' },
        { rule: 'quantity("1").isInteger()' },
      ];
      await k.ok(['create', '-f', '-'], ruled(...rules));
      await k.ok(['wait', '--for=condition=Established', 'crd/bulbs.lights.example.com']);
      const bulb = (replicas: number) => ({
        ...lamp(`b${replicas}`, { color: 'red', replicas }),
        kind: 'Bulb',
      });
      await k.ok(['create', '-f', '-'], bulb(2));
      expect((await k.run(['create', '-f', '-'], bulb(3))).stderr).toContain(
        'The Bulb "b3" is invalid: spec: Invalid value: "object": red is for few',
      );
      await k.ok(['delete', 'crd', 'bulbs.lights.example.com']);
    });

    it('takes the objects along when the definition goes', async () => {
      await k.ok(['apply', '-f', '-'], crd('spots', 'Spot'));
      await k.ok(['wait', '--for=condition=Established', 'crd/spots.lights.example.com']);
      await k.ok(['create', '-f', '-'], { ...lamp('one', { color: 'red' }), kind: 'Spot' });
      await k.ok(['delete', 'crd', 'spots.lights.example.com']);
      // kubectl may still have the kind in its cache of discovery.
      expect((await k.run(['get', 'spots'])).stderr).toMatch(
        /doesn't have a resource type "spots"|could not find the requested resource/,
      );
      await k.ok(['apply', '-f', '-'], crd('spots', 'Spot'));
      await k.ok(['wait', '--for=condition=Established', 'crd/spots.lights.example.com']);
      expect((await k.run(['get', 'spots'])).stderr).toContain('No resources found');
      await k.ok(['delete', 'crd', 'spots.lights.example.com']);
    });
  });
}
