import type { Pod, PodStatus } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { pods } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { testApi } from '../testing/api.js';
import { applyPodReport, mergeStatus } from './reports.js';

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

it('a pod is seen to have ended before it goes', async () => {
  const { registry } = await testApi({ clock: new VirtualClock({ seed: 1 }) });
  const client = registry.client();
  await registry.bootstrap();
  const key = { namespace: 'default', name: 'p' };
  const made = await client.create(pods, {
    metadata: key,
    spec: { nodeName: 'n', containers: [{ name: 'c', image: 'i' }] },
  } as Pod);
  const running: PodStatus = { phase: 'Running', startTime: '2026-01-01T00:00:00Z' };
  const uid = made.metadata!.uid!;
  await applyPodReport(client, 'n', { ...key, uid, status: running }, silentLog);
  await client.delete(pods, key, {});
  const { metadata } = await client.get<Pod>(pods, key);
  const watcher = client.watch(pods, { resourceVersion: metadata!.resourceVersion! });
  const ended: PodStatus = { ...running, phase: 'Failed' };
  await applyPodReport(client, 'n', { ...key, uid, status: ended, gone: true }, silentLog);
  const seen: string[] = [];
  for await (const e of watcher) {
    seen.push(`${e.type} ${(e.object as Pod).status?.phase}`);
    if (e.type === 'DELETED') break;
  }
  expect(seen).toEqual(['MODIFIED Failed', 'DELETED Failed']);
});
