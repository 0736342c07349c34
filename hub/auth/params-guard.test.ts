import { beforeEach, describe, expect, it } from 'vitest';
import {
  mutatingAdmissionPolicies,
  mutatingAdmissionPolicyBindings,
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
} from '../../api/kinds/index.js';
import { refusal, type TestRegistry, testRegistry } from '../testing/registry.js';
import type { Attributes } from './attributes.js';
import { paramsGuard } from './params-guard.js';

let t: TestRegistry;
let asked: Attributes[];
let allowed: boolean;
beforeEach(async () => {
  t = await testRegistry();
  asked = [];
  allowed = false;
  const authorize = (_: unknown, what: Attributes) => {
    asked.push(what);
    return { allowed, reason: '' };
  };
  t.registry.guards.push(paramsGuard({ authorize }, t.registry.directory));
});

const rules = [{ operations: ['CREATE'], apiGroups: [''], apiVersions: ['v1'], resources: ['pods'] }];
const PARAMS = { apiVersion: 'v1', kind: 'ConfigMap' };
const POLICIES = {
  validating: {
    policies: validatingAdmissionPolicies,
    bindings: validatingAdmissionPolicyBindings,
    spec: { matchConstraints: { resourceRules: rules }, validations: [{ expression: 'true' }] },
    binding: { validationActions: ['Deny'] },
  },
  mutating: {
    policies: mutatingAdmissionPolicies,
    bindings: mutatingAdmissionPolicyBindings,
    spec: {
      matchConstraints: { resourceRules: rules },
      mutations: [{ patchType: 'ApplyConfiguration', applyConfiguration: { expression: 'Object{}' } }],
      reinvocationPolicy: 'Never',
    },
    binding: {},
  },
};
const alice = { user: 'alice', groups: ['g'] };

describe.each(Object.entries(POLICIES))(
  'parameters of %s policies',
  (_, { policies, bindings, spec, binding }) => {
    const policy = (more: object, over: object = alice) =>
      t.create(policies, undefined, { metadata: { name: 'p' }, spec: { ...spec, ...more } }, over);
    const bind = (paramRef: object | undefined, over: object = alice) =>
      t.create(
        bindings,
        undefined,
        { metadata: { name: 'b' }, spec: { policyName: 'p', ...binding, ...(paramRef ? { paramRef } : {}) } },
        over,
      );
    const REF = { name: 'c', namespace: 'n', parameterNotFoundAction: 'Deny' };

    it('are named only by those who can read them', async () => {
      expect(await refusal(policy({ paramKind: PARAMS }))).toContain(
        'spec.paramKind: Forbidden: user &{alice  [g] map[]} must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)',
      );
      expect(asked).toEqual([{ verb: 'get', group: '', resource: 'configmaps', namespace: '*', name: '*' }]);
      await policy({});
      await t.delete(policies, undefined, 'p');
      allowed = true;
      await policy({ paramKind: PARAMS });
    });

    it('of bindings are asked about by name or as a list', async () => {
      expect(await refusal(bind(REF))).toContain(
        'spec.paramRef: Forbidden: unable to get policy p to determine minimum required permissions and user &{alice  [g] map[]} does not have "get" permission for all groups, versions and resources',
      );
      await policy({ paramKind: PARAMS }, { groups: ['system:masters'] });
      expect(await refusal(bind({ selector: {}, parameterNotFoundAction: 'Deny' }))).toContain(
        'user &{alice  [g] map[]} does not have "list" permission on the object referenced by paramRef',
      );
      expect(asked.at(-1)).toEqual({ verb: 'list', group: '', resource: 'configmaps' });
      await bind(undefined);
      await t.delete(bindings, undefined, 'b');
      allowed = true;
      await bind(REF);
      expect(asked.at(-1)).toEqual({
        verb: 'get',
        group: '',
        resource: 'configmaps',
        namespace: 'n',
        name: 'c',
      });
    });

    it('that stay as they are are not asked about', async () => {
      await policy({ paramKind: PARAMS }, { groups: ['system:masters'] });
      await bind(REF, { groups: ['system:masters'] });
      const labels = { metadata: { labels: { a: 'b' } } };
      await t.patch(policies, undefined, 'p', labels);
      await t.patch(bindings, undefined, 'b', labels);
      expect(asked).toEqual([]);
    });
  },
);
