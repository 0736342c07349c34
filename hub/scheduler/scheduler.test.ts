import type { Node, Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { events, nodes, pods, priorityClasses, runtimeClasses } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import { turn, VirtualClock } from '../../api/testing/virtual-clock.js';
import { Informers } from '../informer.js';
import { Disturbed, memoryRegistry } from '../testing/disturbed.js';
import { aNode, aPod } from '../testing/objects.js';
import { Scheduler } from './scheduler.js';

async function world() {
  const clock = new VirtualClock();
  const disturbed = new Disturbed((await memoryRegistry(clock)).client());
  const { client } = disturbed;
  const addNode = async ({ status, ...node }: Node) => {
    await client.create(nodes, node);
    await client.updateStatus(nodes, { ...node, status });
  };
  const informers = new Informers(client, clock, silentLog);
  const scheduler = new Scheduler({ client, informers, clock, log: silentLog });
  const settle = async () => {
    do await turn();
    while (!scheduler.idle);
  };
  const pod = async (name: string) => (await client.get(pods, { namespace: 'default', name })) as Pod;
  const told = async () => (await client.list(events)).items.map((e) => `${e.reason}: ${e.message}`);
  return { clock, client, disturbed, addNode, informers, scheduler, settle, pod, told };
}

describe('Scheduler', () => {
  it('binds what is there at start and what comes, and tells so', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.client.create(pods, aPod('early'));
    await w.scheduler.start();
    await w.client.create(pods, aPod('late'));
    await w.client.create(pods, aPod('other', { schedulerName: 'mine' }));
    await w.settle();
    expect((await w.pod('early')).spec!.nodeName).toBe('pi1');
    expect((await w.pod('late')).spec!.nodeName).toBe('pi1');
    expect((await w.pod('other')).spec!.nodeName).toBeUndefined();
    expect(await w.told()).toEqual([
      'Scheduled: Successfully assigned default/early to pi1',
      'Scheduled: Successfully assigned default/late to pi1',
    ]);
    await w.scheduler.stop();
  });

  it('places the higher priority first', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.client.create(pods, aPod('low', {}, { memory: '3Gi' }));
    await w.client.create(
      pods,
      aPod('high', { priorityClassName: 'system-cluster-critical' }, { memory: '3Gi' }),
    );
    await w.scheduler.start();
    await w.settle();
    expect((await w.pod('high')).spec!.nodeName).toBe('pi1');
    expect((await w.pod('low')).spec!.nodeName).toBeUndefined();
    await w.scheduler.stop();
  });

  it('makes room for a higher priority, keeps it for that pod, and takes no more than needed', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.scheduler.start();
    const critical = { priorityClassName: 'system-cluster-critical' };
    await w.client.create(pods, aPod('small', {}, { memory: '500Mi' }));
    await w.client.create(pods, aPod('low', {}, { memory: '3Gi' }));
    await w.client.create(pods, aPod('important', critical, { memory: '250Mi' }));
    await w.settle();
    await w.client.create(pods, aPod('high', critical, { memory: '3Gi' }));
    await w.settle();
    expect((await w.pod('low')).metadata!.deletionTimestamp).toBeDefined();
    expect((await w.pod('low')).status!.conditions!.map((c) => c.reason)).toContain('PreemptionByScheduler');
    for (const name of ['small', 'important'])
      expect((await w.pod(name)).metadata!.deletionTimestamp).toBeUndefined();
    expect((await w.pod('high')).status!.nominatedNodeName).toBe('pi1');
    const { uid } = (await w.pod('high')).metadata!;
    expect(await w.told()).toContain(`Preempted: Preempted by pod ${uid} on node pi1`);
    await w.client.delete(pods, { namespace: 'default', name: 'low' }, { gracePeriodSeconds: 0 });
    await w.client.create(pods, aPod('thief', {}, { memory: '2Gi' }));
    await w.settle();
    expect((await w.pod('thief')).spec!.nodeName).toBeUndefined();
    await w.clock.advance(10_000);
    await w.settle();
    expect((await w.pod('high')).spec!.nodeName).toBe('pi1');
    expect((await w.pod('thief')).spec!.nodeName).toBeUndefined();
    await w.scheduler.stop();
  });

  it('pushes nobody aside for a pod that does not want it, or that would not fit all the same', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.scheduler.start();
    await w.client.create(pods, aPod('low', {}, { memory: '3Gi' }));
    await w.client.create(priorityClasses, {
      metadata: { name: 'polite' },
      value: 10,
      preemptionPolicy: 'Never',
    });
    await w.client.create(pods, aPod('waits', { priorityClassName: 'polite' }, { memory: '3Gi' }));
    await w.client.create(
      pods,
      aPod('huge', { priorityClassName: 'system-cluster-critical' }, { memory: '30Gi' }),
    );
    await w.client.create(pods, aPod('equal', {}, { memory: '3Gi' }));
    await w.settle();
    expect((await w.pod('low')).metadata!.deletionTimestamp).toBeUndefined();
    await w.scheduler.stop();
  });

  it('says why a pod waits, once, and binds it when the world has changed, without polling', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.scheduler.start();
    await w.client.create(pods, aPod('big', {}, { memory: '3Gi' }));
    await w.client.create(pods, aPod('also', {}, { memory: '3Gi' }));
    await w.settle();
    const waiting = await w.pod('also');
    expect(waiting.status!.conditions).toMatchObject([
      {
        type: 'PodScheduled',
        status: 'False',
        reason: 'Unschedulable',
        message: '0/1 nodes are available: 1 Insufficient memory.',
      },
    ]);
    let calls = 0;
    w.disturbed.fault = () => void calls++;
    await w.clock.advance(3_600_000, w.settle);
    expect([calls, w.clock.pending]).toEqual([0, 0]);
    w.disturbed.fault = () => {};
    await w.client.delete(pods, { namespace: 'default', name: 'big' }, { gracePeriodSeconds: 0 });
    await w.settle();
    expect((await w.pod('also')).spec!.nodeName).toBe('pi1');
    expect((await w.told()).filter((t) => t.startsWith('Failed'))).toEqual([
      'FailedScheduling: 0/1 nodes are available: 1 Insufficient memory.',
    ]);
    await w.scheduler.stop();
  });

  it('looks again when a node, its readiness or a RuntimeClass comes', async () => {
    const w = await world();
    await w.scheduler.start();
    await w.client.create(pods, aPod('a', { runtimeClassName: 'wasm' }));
    await w.settle();
    const why = async () => (await w.pod('a')).status!.conditions![0]!.message;
    expect(await why()).toBe('no nodes available to schedule pods');
    const unready = aNode('pi1', (n) => Object.assign(n.status, { conditions: [] }));
    await w.addNode(unready);
    await w.clock.advance(60_000, w.settle);
    expect(await why()).toContain('node.kubernetes.io/not-ready');
    await w.client.delete(runtimeClasses, { name: 'wasm' });
    await w.clock.advance(60_000, w.settle);
    expect(await why()).toBe('0/1 nodes are available: RuntimeClass.node.k8s.io "wasm" not found.');
    await w.client.create(runtimeClasses, { metadata: { name: 'wasm' }, handler: 'wasm' });
    await w.clock.advance(60_000, w.settle);
    expect(await why()).toContain('node.kubernetes.io/not-ready');
    await w.client.updateStatus(nodes, aNode('pi1'));
    await w.clock.advance(60_000, w.settle);
    expect(await why()).toBe('0/1 nodes are available: 1 node(s) didn\'t have runtime handler "wasm".');
    await w.client.patch(
      nodes,
      { name: 'pi1' },
      { metadata: { labels: { 'coxswain.dev/runtime.wasm': 'true' } } },
    );
    await w.clock.advance(60_000, w.settle);
    expect((await w.pod('a')).spec!.nodeName).toBe('pi1');
    await w.scheduler.stop();
  });

  it('a heartbeat of a node wakes nobody', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.scheduler.start();
    await w.client.create(pods, aPod('a', { nodeSelector: { no: 'where' } }));
    await w.settle();
    let calls = 0;
    w.disturbed.fault = () => void calls++;
    await w.client.patch(
      nodes,
      { name: 'pi1' },
      {
        status: {
          conditions: [{ type: 'Ready', status: 'True', lastHeartbeatTime: '2026-01-01T00:00:05Z' }],
        },
      },
      'status',
    );
    await w.clock.advance(60_000, w.settle);
    expect(calls).toBe(1);
    await w.scheduler.stop();
  });

  it('a burst does not overcommit, though the watch is slow and bindings fail now and then', async () => {
    const w = await world();
    for (let i = 0; i < 4; i++) await w.addNode(aNode(`pi${i}`));
    await w.scheduler.start();
    let binds = 0;
    w.disturbed.fault = (verb) => {
      if (verb === 'bind' && ++binds % 5 === 0) throw new ApiError('InternalError', 'disk is slow');
    };
    for (let i = 0; i < 60; i++) await w.client.create(pods, aPod(`p${i}`, {}, { cpu: '500m' }));
    await w.clock.advance(120_000, w.settle);
    const all = (await w.client.list(pods)).items;
    const per = new Map<string, number>();
    for (const p of all) per.set(p.spec!.nodeName ?? '', (per.get(p.spec!.nodeName ?? '') ?? 0) + 1);
    expect(Object.fromEntries(per)).toEqual({ pi0: 8, pi1: 8, pi2: 8, pi3: 8, '': 28 });
    await w.scheduler.stop();
  });

  it('lets go of a pod that somebody else bound, or that went away meanwhile', async () => {
    const w = await world();
    await w.client.create(
      nodes,
      aNode('pi1', (n) => Object.assign(n.status, { allocatable: { cpu: '1', pods: '2' } })),
    );
    await w.client.create(
      nodes,
      aNode('pi2', (n) => Object.assign(n.status, { allocatable: { cpu: '1', pods: '2' } })),
    );
    await w.scheduler.start();
    let raced = false;
    w.disturbed.fault = (verb) => {
      if (verb !== 'bind' || raced) return;
      raced = true;
      void w.client.delete(pods, { namespace: 'default', name: 'a' });
    };
    await w.client.create(pods, aPod('a', {}, { cpu: '1' }));
    await w.settle();
    await w.client.create(pods, aPod('b', { nodeName: 'pi2' }, { cpu: '1' }));
    await w.client.create(pods, aPod('c', {}, { cpu: '1' }));
    await w.settle();
    expect((await w.pod('c')).spec!.nodeName).toBe('pi1');
    await w.scheduler.stop();
  });

  it('leaves a gated pod alone until the gate is gone', async () => {
    const w = await world();
    await w.addNode(aNode('pi1'));
    await w.scheduler.start();
    await w.client.create(pods, aPod('a', { schedulingGates: [{ name: 'x' }] } as never));
    await w.settle();
    expect((await w.pod('a')).status!.conditions![0]!.reason).toBe('SchedulingGated');
    await w.client.patch(pods, { namespace: 'default', name: 'a' }, { spec: { schedulingGates: null } });
    await w.settle();
    expect((await w.pod('a')).spec!.nodeName).toBe('pi1');
    await w.scheduler.stop();
  });

  it('places a thousand pods on ten nodes', async () => {
    const w = await world();
    for (let i = 0; i < 10; i++) await w.addNode(aNode(`pi${i}`));
    for (let i = 0; i < 1000; i++)
      await w.client.create(pods, aPod(`p${i}`, {}, { cpu: '10m', memory: '1Mi' }));
    await w.scheduler.start();
    await w.settle();
    const per = new Map<string, number>();
    for (const p of (await w.client.list(pods)).items)
      per.set(p.spec!.nodeName!, (per.get(p.spec!.nodeName!) ?? 0) + 1);
    expect([...per.values()]).toEqual(Array(10).fill(100));
    await w.scheduler.stop();
  });
});
