import type { Pod } from 'kubernetes-types/core/v1.js';
import { expect, it } from 'vitest';
import { podStatus } from './status.js';

const pod: Pod = {
  metadata: { name: 'p', namespace: 'default', uid: 'u' },
  spec: { restartPolicy: 'Never', containers: [{ name: 'c', image: 'i' }] },
};
/** Killed by its node. */
const killed = { id: '1', name: 'c', attempt: 0, state: 'exited', exitCode: 137, annotations: {} } as never;

const of = (o: Partial<Parameters<typeof podStatus>[0]>) =>
  podStatus({
    pod,
    sandboxes: [],
    containers: [killed],
    plan: { waiting: {} },
    previous: undefined,
    hostIP: undefined,
    now: 0,
    startTime: 0,
    scheme: 'containerd',
    messages: new Map(),
    notReady: new Set(),
    notStarted: new Set(),
    actual: new Map(),
    refused: undefined,
    failures: new Map(),
    failing: false,
    end: undefined,
    ...o,
  } as Parameters<typeof podStatus>[0]);

it('a pod that its node ends has not failed before it can be told why', () => {
  expect(of({}).phase).toBe('Failed');
  expect(of({ failing: true }).phase).toBe('Running');
  const end = { phase: 'Failed', reason: 'Evicted', message: 'too much' } as const;
  expect(of({ failing: true, end: end as never })).toMatchObject(end);
});
