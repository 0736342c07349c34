import type { FlowSchema, PriorityLevelConfiguration } from 'kubernetes-types/flowcontrol/v1.js';
import { describe, expect, it } from 'vitest';
import { flowSchemas, priorityLevelConfigurations } from './flowcontrol.js';
import {
  mandatoryLevels,
  mandatorySchemas,
  suggestedLevels,
  suggestedSchemas,
} from './flowcontrol-defaults.js';

const errorsOf = <T extends FlowSchema | PriorityLevelConfiguration>(
  kind: { setDefaults?(o: T): void; validate?(o: T): { field: string; message: string }[] },
  o: T,
): string[] => {
  kind.setDefaults!(o);
  return kind.validate!(o).map((e) => `${e.field}: ${e.message}`);
};
const schema = (spec: object, name = 'x') =>
  errorsOf(flowSchemas, { metadata: { name }, spec: { priorityLevelConfiguration: { name: 'l' }, ...spec } });
const level = (spec: PriorityLevelConfiguration['spec'], name = 'x') =>
  errorsOf(priorityLevelConfigurations, { metadata: { name }, spec });
const rule = (r: object) => schema({ rules: [r] });
const someone = { kind: 'User', user: { name: 'u' } };
const limited = (more: object, response: object = { type: 'Reject' }) =>
  level({ type: 'Limited', limited: { limitResponse: response as { type: string }, ...more } });

describe('FlowSchema', () => {
  it('of every cluster is in order', () => {
    for (const o of [...mandatorySchemas, ...suggestedSchemas])
      expect(errorsOf(flowSchemas, structuredClone(o))).toEqual([]);
  });

  it('has a precedence of its own and a level', () => {
    expect(schema({ matchingPrecedence: -1 })).toEqual([
      'spec.matchingPrecedence: Invalid value: -1: must be a positive value',
    ]);
    expect(schema({ matchingPrecedence: 10001 })[0]).toContain('must not be greater than 10000');
    expect(schema({ matchingPrecedence: 1 })[0]).toContain("only the schema named 'exempt' may have");
    expect(schema({ priorityLevelConfiguration: undefined })).toEqual([
      'spec.priorityLevelConfiguration.name: Required value: must reference a priority level',
    ]);
    expect(schema({ distinguisherMethod: { type: 'ByName' } })).toEqual([
      'spec.distinguisherMethod.type: Unsupported value: {"type":"ByName"}: supported values: "ByNamespace", "ByUser"',
    ]);
    expect(schema({}, 'exempt')).toContainEqual(
      expect.stringContaining("spec of 'exempt' must equal the fixed value"),
    );
  });

  it('says whom and what its rules are about', () => {
    expect(rule({})).toEqual([
      'spec.rules[0].subjects: Required value: subjects must contain at least one value',
      'spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty',
    ]);
    const paths = [{ verbs: ['*'], nonResourceURLs: ['*'] }];
    const subject = (s: object) => rule({ subjects: [s], nonResourceRules: paths });
    const at = 'spec.rules[0].subjects[0]';
    expect(subject({ kind: 'Robot' })[0]).toContain(`${at}.kind: Unsupported value: "Robot"`);
    expect(subject({ kind: 'User', group: { name: 'g' } })).toEqual([
      `${at}.user: Required value: user is required when subject kind is 'User'`,
      `${at}.group: Forbidden: group is forbidden when subject kind is not 'Group'`,
    ]);
    expect(subject({ kind: 'ServiceAccount', serviceAccount: { name: '' } })).toEqual([
      `${at}.serviceAccount.name: Required value`,
      `${at}.serviceAccount.namespace: Required value: must specify namespace for service account`,
    ]);
  });

  it('names verbs, resources and paths that there can be', () => {
    const resources = (r: object) => rule({ subjects: [someone], resourceRules: [r] });
    expect(resources({ clusterScope: true })).toHaveLength(3);
    expect(
      resources({ verbs: ['eat', 'get'], apiGroups: [''], resources: ['*', 'pods'], namespaces: ['*', 'a'] }),
    ).toEqual([
      expect.stringContaining('verbs: Unsupported value: ["eat","get"]'),
      expect.stringContaining(
        'resources: Invalid value: ["*","pods"]: if \'*\' is present, must not specify other resources',
      ),
      expect.stringContaining("if '*' is present, must not specify other namespaces"),
    ]);
    const path = (p: string) =>
      rule({ subjects: [someone], nonResourceRules: [{ verbs: ['get'], nonResourceURLs: [p] }] });
    const why = ['x', '/a b', '/a//b', '/*/b', '/a*'].map((p) => path(p)[0]?.split(': ').at(-1));
    expect(why).toEqual([
      'must start with slash',
      'must not contain white-space',
      'must not contain double slash',
      'wildcard can only do suffix matching',
      'wildcard can only do suffix matching',
    ]);
    expect([path('/'), path('/a/*')]).toEqual([[], []]);
  });
});

describe('PriorityLevelConfiguration', () => {
  it('of every cluster is in order', () => {
    for (const o of [...mandatoryLevels, ...suggestedLevels])
      expect(errorsOf(priorityLevelConfigurations, structuredClone(o))).toEqual([]);
  });

  it('is limited, or is the exempt one', () => {
    expect(level({ type: 'Exempt' })).toEqual([
      "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
    ]);
    expect(level({ type: 'Limited' })).toEqual([
      'spec.limited: Required value: must not be empty when type is Limited',
    ]);
    expect(level({ type: '' })[0]).toContain('spec.type: Unsupported value: ""');
    expect(level({ type: 'Exempt', exempt: { nominalConcurrencyShares: 3 } }, 'exempt')).toEqual([]);
  });

  it('has shares, percents and queues within bounds', () => {
    expect(limited({})).toEqual([]);
    expect(
      limited({ nominalConcurrencyShares: -1, lendablePercent: 101, borrowingLimitPercent: -1 }),
    ).toEqual([
      expect.stringContaining('must be a non-negative integer'),
      expect.stringContaining('must be between 0 and 100, inclusive'),
      expect.stringContaining('if specified, must be a non-negative integer'),
    ]);
    const queue = (queuing?: object) => limited({}, { type: 'Queue', ...(queuing ? { queuing } : {}) });
    expect(queue()[0]).toContain('must not be empty if limited.limitResponse.type is Limited');
    expect(queue({})).toEqual([]);
    expect(queue({ queues: 4, handSize: 5 })[0]).toContain('should not be greater than queues (4)');
    expect(queue({ queues: 10_000, handSize: 8 })[0]).toContain(
      'required entropy bits of deckSize 10000 and handSize 8 should not be greater than 60',
    );
    expect(limited({}, { type: 'Reject', queuing: {} })[0]).toContain('must be nil if');
  });
});
