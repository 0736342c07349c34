import type { PodStatus } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { mergeStatus } from './reports.js';

describe('mergeStatus', () => {
  const ready = { type: 'Ready', status: 'True' };
  it('gives each condition of the agent the generation that the report speaks of', () => {
    const old = { conditions: [{ type: 'DisruptionTarget', status: 'True' }] } as PodStatus;
    const told = { phase: 'Running', observedGeneration: 3, conditions: [ready] } as PodStatus;
    expect(mergeStatus(old, told)).toMatchObject({
      observedGeneration: 3,
      conditions: [{ ...ready, observedGeneration: 3 }, { type: 'DisruptionTarget' }],
    });
    expect(mergeStatus(mergeStatus(old, told), told)).toBeUndefined();
  });
  it('takes a report of an agent that tells none', () => {
    expect(mergeStatus(undefined, { phase: 'Running', conditions: [ready] } as PodStatus)).toEqual({
      phase: 'Running',
      conditions: [ready],
    });
  });
  it('leaves what has ended as it is', () => {
    expect(mergeStatus({ phase: 'Failed' }, { phase: 'Running' })).toBeUndefined();
  });
});
