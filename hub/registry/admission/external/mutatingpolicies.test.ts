import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { ConfigMap, Pod } from 'kubernetes-types/core/v1.js';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  configMaps,
  deployments,
  mutatingAdmissionPolicies,
  mutatingAdmissionPolicyBindings,
  pods,
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
} from '../../../../api/kinds/index.js';
import { isApiError } from '../../../../api/meta/errors.js';
import { refusal, type TestRegistry, testRegistry } from '../../../testing/registry.js';

let t: TestRegistry;
beforeEach(async () => {
  t = await testRegistry();
});

const rules = (apiGroups: string[], resources: string[]) => ({
  resourceRules: [{ operations: ['CREATE', 'UPDATE'], apiGroups, apiVersions: ['v1'], resources }],
});
const DEPLOYMENTS = rules(['apps'], ['deployments']);
const CONFIGMAPS = rules([''], ['configmaps']);
const apply = (expression: string) => ({
  patchType: 'ApplyConfiguration',
  applyConfiguration: { expression },
});
const json = (expression: string) => ({ patchType: 'JSONPatch', jsonPatch: { expression } });

const policy = (spec: object, name = 'p') =>
  t.create(mutatingAdmissionPolicies, undefined, {
    metadata: { name },
    spec: { matchConstraints: DEPLOYMENTS, reinvocationPolicy: 'Never', ...spec },
  });
const bind = (spec: object = {}, name = 'b') =>
  t.create(mutatingAdmissionPolicyBindings, undefined, {
    metadata: { name },
    spec: { policyName: 'p', ...spec },
  });
const CONTAINERS = [{ name: 'a', image: 'a' }];
const deploy = (name: string, spec: object = {}, over = {}) =>
  t.create<Deployment>(
    deployments,
    'default',
    {
      metadata: { name },
      spec: {
        replicas: 1,
        selector: { matchLabels: { app: 'a' } },
        template: { metadata: { labels: { app: 'a' } }, spec: { containers: CONTAINERS } },
        ...spec,
      },
    },
    over,
  );
const make = (name: string, data: object = {}) =>
  t.create<ConfigMap>(configMaps, 'default', { metadata: { name }, data });
/** Binds a policy of these mutations for config maps, and gives what becomes of one. */
async function mutated(mutations: object[], data: object = {}, spec: object = {}) {
  await policy({ matchConstraints: CONFIGMAPS, mutations, ...spec });
  await bind();
  return make('m', data);
}

describe('MutatingAdmissionPolicy', () => {
  it('lays configurations over objects as server-side apply does, with defaults', async () => {
    await policy({
      mutations: [
        apply('Object{spec: Object.spec{replicas: object.spec.replicas + 2}}'),
        apply(`Object{
          metadata: Object.metadata{annotations: {"replicas": string(object.spec.replicas)}},
          spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
            containers: [Object.spec.template.spec.containers{name: "a", env: [
              Object.spec.template.spec.containers.env{name: "x", value: "y"}]}],
            initContainers: [Object.spec.template.spec.initContainers{name: "mesh", image: "mesh:1",
              ?restartPolicy: optional.of("Always"), ?workingDir: object.?nope}]}}}}`),
      ],
    });
    await bind();
    const made = await deploy('d', {}, { fieldManager: 'me' });
    expect(made.metadata!.annotations).toEqual({ replicas: '3' });
    const { template, replicas } = made.spec!;
    expect(replicas).toBe(3);
    expect(template.spec!.containers[0]).toMatchObject({
      name: 'a',
      image: 'a',
      env: [{ name: 'x', value: 'y' }],
    });
    expect(template.spec!.initContainers![0]).toMatchObject({
      name: 'mesh',
      restartPolicy: 'Always',
      imagePullPolicy: 'IfNotPresent',
      terminationMessagePath: '/dev/termination-log',
    });
    // What admission adds belongs to nobody.
    expect(JSON.stringify(made.metadata!.managedFields)).not.toContain('mesh');
  });

  it('runs JSON patches; those whose test fails change nothing', async () => {
    const made = await mutated(
      [
        json(`[
          JSONPatch{op: "test", path: "/data/nope", value: "x"},
          JSONPatch{op: "add", path: "/data/never", value: "x"}]`),
        json(`[
          JSONPatch{op: "test", path: "/data/a", value: "1"},
          JSONPatch{op: "copy", from: "/data/a", path: "/data/b"},
          JSONPatch{op: "add", path: "/metadata/annotations", value: {}},
          JSONPatch{op: "add", path: "/metadata/annotations/" + jsonpatch.escapeKey("a/b"), value: string(size(object.data))},
          JSONPatch{op: "add", path: "/metadata/labels", value: {"x": "y"}}]`),
        json(
          'object.data.map(k, JSONPatch{op: "replace", path: "/data/" + jsonpatch.escapeKey(k), value: k + "!"})',
        ),
      ],
      { a: '1' },
    );
    expect(made.data).toEqual({ a: 'a!', b: 'b!' });
    expect(made.metadata!.annotations).toEqual({ 'a/b': '1' });
    expect(made.metadata!.labels).toEqual({ x: 'y' });
  });

  it('uses params, variables and conditions, one evaluation for each param', async () => {
    await make('one', { n: '1' });
    await make('two', { n: '2', skip: 'yes' });
    await make('three', { n: '3' });
    await policy({
      paramKind: { apiVersion: 'v1', kind: 'ConfigMap' },
      variables: [{ name: 'n', expression: 'int(params.data.n) + object.spec.replicas' }],
      matchConditions: [{ name: 'wanted', expression: '!has(params.data.skip)' }],
      mutations: [apply('Object{spec: Object.spec{replicas: variables.n}}')],
    });
    await bind({ paramRef: { selector: {}, parameterNotFoundAction: 'Deny' } });
    expect((await deploy('d')).spec!.replicas).toBe(5);
  });

  it('leaves alone what its rules, selectors and bindings do not say', async () => {
    await policy({ mutations: [apply('Object{spec: Object.spec{replicas: 7}}')] });
    expect((await deploy('unbound')).spec!.replicas).toBe(1);
    await bind({ matchResources: { objectSelector: { matchLabels: { mutate: 'yes' } } } });
    expect((await deploy('unlabelled')).spec!.replicas).toBe(1);
    const labelled = { metadata: { labels: { mutate: 'yes' } } };
    await t.patch(deployments, 'default', 'unlabelled', labelled);
    expect((await t.get<Deployment>(deployments, 'default', 'unlabelled')).spec!.replicas).toBe(7);
    await t.delete(deployments, 'default', 'unlabelled');
  });

  it('runs before validating policies and before validation, also in dry runs', async () => {
    await policy({ mutations: [apply('Object{spec: Object.spec{replicas: -1}}')] });
    await bind();
    expect(await refusal(deploy('d'))).toContain('spec.replicas: Invalid value: -1');
    await t.patch(mutatingAdmissionPolicies, undefined, 'p', {
      spec: { mutations: [apply('Object{spec: Object.spec{replicas: 9}}')] },
    });
    expect((await deploy('d', {}, { dryRun: true })).spec!.replicas).toBe(9);
    await t.create(validatingAdmissionPolicies, undefined, {
      metadata: { name: 'v' },
      spec: { matchConstraints: DEPLOYMENTS, validations: [{ expression: 'object.spec.replicas < 9' }] },
    });
    await t.create(validatingAdmissionPolicyBindings, undefined, {
      metadata: { name: 'v' },
      spec: { policyName: 'v', validationActions: ['Deny'] },
    });
    expect(await refusal(deploy('d'))).toContain('failed expression: object.spec.replicas < 9');
  });

  it('is asked again about what later ones changed, if it wants to be', async () => {
    const counted = (name: string, reinvocationPolicy: string) =>
      policy(
        {
          matchConstraints: CONFIGMAPS,
          reinvocationPolicy,
          mutations: [
            apply(
              `Object{data: {"${name}": string(has(object.data.${name}) ? int(object.data.${name}) + 1 : 1)}}`,
            ),
          ],
        },
        name,
      );
    await counted('a', 'IfNeeded');
    await counted('b', 'Never');
    await bind({ policyName: 'a' }, 'a');
    await bind({ policyName: 'b' }, 'b');
    expect((await make('m', { x: 'y' })).data).toEqual({ x: 'y', a: '2', b: '1' });
  });

  it('cannot choose what writers may not choose', async () => {
    await policy({
      mutations: [
        json('[JSONPatch{op: "add", path: "/metadata/uid", value: "mine"}]'),
        json('[JSONPatch{op: "add", path: "/status", value: {"replicas": 5}}]'),
      ],
    });
    await bind();
    const made = await deploy('d');
    expect(made.metadata!.uid).not.toBe('mine');
    expect(made.status?.replicas).toBeUndefined();
    const changed = await t.patch(deployments, 'default', 'd', { spec: { paused: true } });
    expect([changed.metadata!.uid, (changed as Deployment).status?.replicas]).toEqual([
      made.metadata!.uid,
      undefined,
    ]);
  });

  it('changes subresources that its rules name', async () => {
    await policy({
      matchConstraints: rules([''], ['pods/status']),
      mutations: [apply('Object{status: Object.status{message: "seen"}}')],
    });
    await bind();
    await t.create(pods, 'default', { metadata: { name: 'p' }, spec: { containers: CONTAINERS } });
    expect((await t.get<Pod>(pods, 'default', 'p')).status?.message).toBeUndefined();
    const changed = await t.patch(pods, 'default', 'p', { status: { reason: 'r' } }, true);
    expect(changed['status']).toMatchObject({ reason: 'r', message: 'seen' });
  });

  it.each<[object, string]>([
    [
      apply('Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {"a": "b"}}}}'),
      'error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector',
    ],
    [
      apply('Object{spec: Object.specx{replicas: 1}}'),
      'type mismatch: unexpected type name "Object.specx", expected "Object.spec", which matches field name path from root Object type',
    ],
    [
      apply('Object{spec: Object.spec{replicasx: 1}}'),
      'error applying patch: failed to convert patch object to typed object: .spec.replicasx: field not declared in schema',
    ],
    [apply('Object{spec: Object.spec{replicas: object.spec.nope}}'), 'resulted in error: no such key: nope'],
    [apply('Object{spec: Object.spec{replicas: "x"}}'), 'json: cannot unmarshal string'],
    [json('[JSONPatch{op: "remove", path: "/spec/nope"}]'), 'JSON Patch: remove operation'],
    [json('[JSONPatch{op: "explode", path: "/spec"}]'), 'JSON Patch: unknown JSON patch operation "explode"'],
    [
      json('[JSONPatch{op: "add", path: "/metadata/labels", value: Object{a: Object.b{}}}]'),
      'type mismatch: unexpected type name "Object.b", expected "Object.a"',
    ],
  ])('fails closed or open at work: %j', async (mutation, text) => {
    await policy({ mutations: [mutation] });
    await bind();
    const e: unknown = await deploy('d').catch((e: unknown) => e);
    const status = isApiError(e) ? e.toStatus() : undefined;
    expect(status?.message).toContain(`policy 'p' with binding 'b' denied request: `);
    expect(status?.message).toContain(text);
    expect(status).toMatchObject({
      code: 403,
      reason: 'Invalid',
      details: { name: 'd', group: 'apps', kind: 'deployments', causes: [{ message: status?.message }] },
    });
    await t.patch(mutatingAdmissionPolicies, undefined, 'p', { spec: { failurePolicy: 'Ignore' } });
    await deploy('d');
  });

  it('says Forbidden of parameters that are not there', async () => {
    await policy({
      paramKind: { apiVersion: 'v1', kind: 'ConfigMap' },
      mutations: [apply('Object{}')],
    });
    await bind({ paramRef: { name: 'nope', namespace: 'default', parameterNotFoundAction: 'Deny' } });
    expect(await refusal(deploy('d'))).toBe(
      "403 policy 'p' with binding 'b' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
    );
  });

  it('refuses fields that a patch adds and nobody knows', async () => {
    await policy({ mutations: [json('[JSONPatch{op: "add", path: "/spec/nope", value: 1}]')] });
    await bind();
    expect(await refusal(deploy('d'))).toBe(
      '500 Internal error occurred: strict decoding error: unknown field "spec.nope"',
    );
  });

  it.each<[object, string]>([
    [{ mutations: [] }, 'spec.mutations: Required value: mutations must contain at least one item'],
    [{ mutations: [apply('Object{}')], reinvocationPolicy: '' }, 'spec.reinvocationPolicy: Required value'],
    [
      { mutations: [apply('Object{}')], reinvocationPolicy: 'Always' },
      'spec.reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never"',
    ],
    [
      { mutations: [{ patchType: 'Merge' }] },
      'spec.mutations[0].patchType: Unsupported value: "Merge": supported values: "ApplyConfiguration", "JSONPatch"',
    ],
    [
      { mutations: [{ patchType: 'JSONPatch' }] },
      'spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch',
    ],
    [
      { mutations: [{ ...json('[JSONPatch{}]'), applyConfiguration: { expression: 'Object{}' } }] },
      'spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch',
    ],
    [{ mutations: [apply(' ')] }, 'spec.mutations[0].applyConfiguration.expression: Required value'],
    [{ mutations: [apply('"I\'m a teapot!"')] }, 'must evaluate to Object but got string'],
    [{ mutations: [apply('Object.spec{}')] }, 'must evaluate to Object but got Object.spec'],
    [{ mutations: [json('JSONPatch{}')] }, 'must evaluate to list(JSONPatch) but got JSONPatch'],
    [
      { mutations: [json('[JSONPatch{op: 1}]')] },
      "expected type of field 'op' is 'string' but provided type is 'int'",
    ],
    [{ mutations: [apply('Object{a: Invalid{}}')] }, "undeclared reference to 'Invalid'"],
    [
      { mutations: [apply('Object{}')], variables: [{ name: 'o', expression: 'Object{}' }] },
      "undeclared reference to 'Object'",
    ],
    [
      {
        mutations: [apply('Object{}')],
        matchConstraints: { resourceRules: [{ ...DEPLOYMENTS.resourceRules[0], operations: ['DELETE'] }] },
      },
      'spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"',
    ],
  ])('refuses %j', async (spec, text) => expect(await refusal(policy(spec))).toContain(text));
});
