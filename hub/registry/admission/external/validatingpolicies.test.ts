import { beforeEach, describe, expect, it } from 'vitest';
import {
  configMaps,
  namespaces,
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
} from '../../../../api/kinds/index.js';
import { refusal, type TestRegistry, testRegistry } from '../../../testing/registry.js';

let t: TestRegistry;
beforeEach(async () => {
  t = await testRegistry();
});

const RULES = [
  { operations: ['CREATE', 'UPDATE'], apiGroups: [''], apiVersions: ['v1'], resources: ['configmaps'] },
];
const policy = (spec: object, name = 'p') =>
  t.create(validatingAdmissionPolicies, undefined, {
    metadata: { name },
    spec: { matchConstraints: { resourceRules: RULES }, ...spec },
  });
const bind = (spec: object = {}, name = 'b') =>
  t.create(validatingAdmissionPolicyBindings, undefined, {
    metadata: { name },
    spec: { policyName: 'p', validationActions: ['Deny'], ...spec },
  });
const make = (name: string, more: object = {}, over = {}) =>
  t.create(configMaps, 'default', { metadata: { name }, data: { n: 'v' }, ...more }, over);
const short = { validations: [{ expression: 'object.metadata.name.size() < 5' }] };

describe('ValidatingAdmissionPolicy', () => {
  it('denies in Kubernetes’ words', async () => {
    await policy(short);
    await make('long-name');
    await bind();
    await make('ok');
    expect(await refusal(make('longer-name'))).toBe(
      `422 configmaps "longer-name" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: object.metadata.name.size() < 5`,
    );
  });

  it('gives messages and reasons, from variables and params', async () => {
    await policy({
      paramKind: { apiVersion: 'v1', kind: 'ConfigMap' },
      variables: [
        { name: 'max', expression: 'int(params.data.max)' },
        { name: 'size', expression: 'object.metadata.name.size() + 0 * variables.max' },
      ],
      matchConditions: [{ name: 'others', expression: 'request.name != params.metadata.name' }],
      validations: [
        {
          expression: 'variables.size <= variables.max',
          messageExpression: '"at most " + string(variables.max) + " in " + request.namespace',
          reason: 'Forbidden',
        },
      ],
    });
    await bind({ paramRef: { name: 'limits', namespace: 'default', parameterNotFoundAction: 'Deny' } });
    expect(await refusal(make('a'))).toContain(
      "binding 'b' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
    );
    await t.delete(validatingAdmissionPolicyBindings, undefined, 'b');
    await make('limits', { data: { max: '6' } });
    await bind({ paramRef: { selector: {}, namespace: 'default', parameterNotFoundAction: 'Allow' } });
    expect(await refusal(make('seven77'))).toMatch(/^403 .*denied request: at most 6 in default$/);
    await make('sixsix');
  });

  it('warns and audits instead', async () => {
    await policy({ validations: [{ expression: 'false', message: 'never' }] });
    await bind({ validationActions: ['Warn', 'Audit'] });
    const warnings: string[] = [];
    await make('a', {}, { warnings });
    expect(warnings).toEqual(["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': never"]);
  });

  it('fails closed or open on errors', async () => {
    await policy({ validations: [{ expression: 'object.nope.x == 1' }] });
    await bind();
    expect(await refusal(make('a'))).toContain(
      `denied request: expression 'object.nope.x == 1' resulted in error: no such key: nope`,
    );
    await t.patch(validatingAdmissionPolicies, undefined, 'p', { spec: { failurePolicy: 'Ignore' } });
    await make('a');
  });

  it('sees old objects, users, namespaces and the authorizer', async () => {
    t.registry.authorizer = {
      authorize: (user, what) => ({
        allowed: user.name === 'admin' && 'verb' in what && what.verb === 'own',
        reason: '',
      }),
    };
    await policy({
      validations: [
        {
          expression: 'request.operation == "CREATE" || object.data.n == oldObject.data.n',
          message: 'immutable',
        },
        { expression: 'namespaceObject.metadata.name == request.namespace', message: 'namespace' },
        { expression: 'authorizer.requestResource.check("own").allowed()', message: 'not the owner' },
      ],
    });
    await bind();
    expect(await refusal(make('a'))).toContain('not the owner');
    await make('a', {}, { user: 'admin' });
    expect(await refusal(t.patch(configMaps, 'default', 'a', { data: { n: 'w' } }))).toContain('immutable');
  });

  it('is about what its rules, selectors and bindings say', async () => {
    await t.create(namespaces, undefined, { metadata: { name: 'prod', labels: { env: 'prod' } } });
    await policy({
      matchConstraints: {
        resourceRules: RULES,
        excludeResourceRules: [{ ...RULES[0], resourceNames: ['exempt'] }],
        objectSelector: { matchLabels: { judged: 'yes' } },
      },
      validations: [{ expression: 'false' }],
    });
    await bind({ matchResources: { namespaceSelector: { matchLabels: { env: 'prod' } } } });
    const judged = { metadata: { name: 'a', labels: { judged: 'yes' } } };
    await t.create(configMaps, 'default', judged);
    await t.create(configMaps, 'prod', { metadata: { name: 'unlabelled' } });
    await t.create(configMaps, 'prod', { metadata: { name: 'exempt', labels: { judged: 'yes' } } });
    expect(await refusal(t.create(configMaps, 'prod', judged))).toContain("binding 'b' denied request");
  });

  it('cannot hold the hub', async () => {
    await policy({
      validations: [{ expression: 'object.data.all(a, object.data.all(b, object.data.all(c, a + b != c)))' }],
    });
    await bind();
    const data = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`k${i}`, 'v']));
    expect(await refusal(make('a', { data }))).toContain('actual cost limit exceeded');
  });

  it.each<[object, string]>([
    [
      { validations: [{ expression: 'object.' }] },
      'spec.validations[0].expression: Invalid value: "object.": compilation failed: ERROR: <input>:1:',
    ],
    [
      { validations: [{ expression: 'object.x', reason: 'Nope' }] },
      'spec.validations[0].reason: Unsupported value: "Nope"',
    ],
    [{ validations: [{ expression: '1 + 1' }] }, 'must evaluate to bool but got int'],
    [{ validations: [{ expression: 'params.x' }] }, "undeclared reference to 'params'"],
    [
      { validations: [{ expression: 'variables.later' }], variables: [{ name: 'now', expression: 'true' }] },
      "undefined field 'later'",
    ],
    [{ validations: [{ expression: 'request.nope' }] }, "undefined field 'nope'"],
    [
      { validations: [{ expression: 'true', messageExpression: 'authorizer' }] },
      "undeclared reference to 'authorizer'",
    ],
    [{}, 'validations or auditAnnotations must contain at least one item'],
    [{ ...short, matchConstraints: {} }, 'spec.matchConstraints.resourceRules: Required value'],
    [{ ...short, variables: [{ name: 'a-b', expression: '1' }] }, 'must be a valid CEL identifier'],
    [
      { auditAnnotations: [{ key: 'a', valueExpression: '1' }] },
      'must evaluate to one of [string null_type] but got int',
    ],
  ])('refuses %j', async (spec, text) => expect(await refusal(policy(spec))).toContain(text));

  it.each<[object, string]>([
    [{ validationActions: ['Deny', 'Warn'] }, 'must not contain both Deny and Warn'],
    [{ validationActions: [] }, 'at least one validation action is required'],
    [{ paramRef: { parameterNotFoundAction: 'Deny' } }, 'one of name or selector must be specified'],
    [{ paramRef: { name: 'a', selector: {} } }, 'name and selector are mutually exclusive'],
  ])('refuses bindings with %j', async (spec, text) => expect(await refusal(bind(spec))).toContain(text));
});
