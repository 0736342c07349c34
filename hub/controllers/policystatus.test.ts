import type { ValidatingAdmissionPolicy } from 'kubernetes-types/admissionregistration/v1.js';
import { describe, expect, it } from 'vitest';
import { allKinds } from '../../api/kinds/index.js';
import { typeWarnings } from './policystatus.js';

const policy = (expression: string, resources = ['deployments']): ValidatingAdmissionPolicy =>
  ({
    metadata: { name: 'p' },
    spec: {
      matchConstraints: {
        resourceRules: [{ apiGroups: ['apps'], apiVersions: ['v1'], operations: ['CREATE'], resources }],
      },
      variables: [{ name: 'containers', expression: 'object.spec.template.spec.containers' }],
      validations: [{ expression }],
    },
  }) as unknown as ValidatingAdmissionPolicy;

describe('type warnings of policies', () => {
  it('say what does not fit the kinds that are named', async () => {
    expect(
      await typeWarnings(policy('object.spec.replica > 1', ['deployments', 'replicasets']), allKinds),
    ).toEqual([
      {
        fieldRef: 'spec.validations[0].expression',
        warning:
          "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replica'\n | object.spec.replica > 1\n | ...........^\n" +
          "apps/v1, Kind=ReplicaSet: ERROR: <input>:1:12: undefined field 'replica'\n | object.spec.replica > 1\n | ...........^\n",
      },
    ]);
    const [named] = await typeWarnings(policy('variables.containers.all(c, c.imag != "")'), allKinds);
    expect(named?.warning).toContain("undefined field 'imag'");
  });

  it('are none for what fits, and for kinds that nobody can name', async () => {
    expect(
      await typeWarnings(
        policy(
          'object.spec.replicas > 1 && variables.containers.all(c, c.image.startsWith("a")) && has(object.metadata.labels)',
        ),
        allKinds,
      ),
    ).toEqual([]);
    expect(await typeWarnings(policy('object.nope', ['*']), allKinds)).toEqual([]);
  });
});
