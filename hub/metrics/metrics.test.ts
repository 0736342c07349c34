import type { Node, Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { nodeMetrics, nodes, podMetrics, pods } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import type { NodeMetrics, PodMetrics } from '../../api/kinds/metrics.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { NodeStats, StatsOptions } from '../../api/wire/streams.js';
import { aNode } from '../testing/objects.js';
import { testRegistry } from '../testing/registry.js';
import { metricsSources } from './sources.js';
import { NodeUsage } from './usage.js';

const NODES = nodeMetrics as unknown as Kind;
const PODS = podMetrics as unknown as Kind;

/** A hub whose nodes answer what the test says, after `ms`. */
async function hub() {
  const clock = new VirtualClock();
  const t = await testRegistry(clock);
  const client = t.registry.client();
  const asked: [node: string, StatsOptions][] = [];
  const linked = new Set<string>();
  const state = { ms: 0, busy: 0, mostBusy: 0 };
  const says = new Map<string, NodeStats | Error | string>();
  const link = {
    isLinked: (node: string) => linked.has(node),
    async stats(node: string, options: StatsOptions, signal: AbortSignal) {
      asked.push([node, options]);
      state.mostBusy = Math.max(state.mostBusy, ++state.busy);
      await new Promise<void>((resolve) => {
        clock.after(state.ms, resolve);
        signal.addEventListener('abort', () => resolve());
      });
      state.busy--;
      signal.throwIfAborted();
      const said = says.get(node) ?? { w: 15_204, n: [1_500_000, 1024] };
      if (said instanceof Error) throw said;
      const text = typeof said === 'string' ? said : JSON.stringify(said);
      return (async function* () {
        yield Buffer.from(text.slice(0, 5));
        yield Buffer.from(text.slice(5));
      })();
    },
  };
  const usage = new NodeUsage({ link, clock, log: silentLog });
  for (const [kind, source] of metricsSources(client, usage, clock)) t.registry.sources.set(kind, source);
  const node = async (name: string, annotations: Record<string, string> = {}) => {
    const { status: _, ...o } = aNode(name);
    await client.create<Node>(nodes, { ...o, metadata: { ...o.metadata, labels: { name }, annotations } });
    linked.add(name);
  };
  const pod = async (name: string, nodeName: string, names = ['app'], phase = 'Running') => {
    const made = await client.create<Pod>(pods, {
      metadata: { namespace: 'default', name, labels: { app: name } },
      spec: { nodeName, containers: names.map((n) => ({ name: n, image: 'x' })) },
    } as Pod);
    await client.patch(pods, { namespace: 'default', name }, { status: { phase } }, 'status');
    return made.metadata!.uid!;
  };
  /** Lets time pass until the work is done. */
  const after = async <T>(work: Promise<T>): Promise<T> => {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    for (let i = 0; i < 1000 && !over; i++) await clock.advance(100);
    return work;
  };
  const listNodes = async (query = {}) => {
    const ctx = t.context();
    const { items } = await after(t.registry.askAll(ctx, NODES, query));
    return { items: items as unknown as NodeMetrics[], warnings: ctx.warnings };
  };
  const listPods = async (query = {}) => {
    const ctx = t.context();
    const { items } = await after(t.registry.askAll(ctx, PODS, query));
    return { items: items as unknown as PodMetrics[], warnings: ctx.warnings };
  };
  const names = (list: { items: readonly { metadata?: { name?: string } }[] }) =>
    list.items.map((o) => o.metadata!.name);
  return {
    ...t,
    clock,
    client,
    usage,
    asked,
    linked,
    state,
    says,
    node,
    pod,
    after,
    listNodes,
    listPods,
    names,
  };
}

describe('metrics.k8s.io', () => {
  it('tells what nodes use, in the form of metrics-server', async () => {
    const h = await hub();
    await h.node('pi1');
    const { items, warnings } = await h.listNodes();
    expect(items).toMatchObject([
      {
        kind: 'NodeMetrics',
        apiVersion: 'metrics.k8s.io/v1beta1',
        metadata: { name: 'pi1', labels: { name: 'pi1' } },
        window: '15.204s',
        usage: { cpu: '1500m', memory: '1Mi' },
      },
    ]);
    expect(warnings).toEqual([]);
    expect(h.asked).toEqual([['pi1', {}]]);
  });

  it('tells what the containers of pods use, by their place in the answer', async () => {
    const h = await hub();
    await h.node('pi1');
    const uid = await h.pod('web', 'pi1', ['app', 'stopped', 'side']);
    await h.pod('young', 'pi1');
    await h.pod('over', 'pi1', ['app'], 'Succeeded');
    h.says.set('pi1', {
      w: 1000,
      n: [1, 1],
      p: [
        [uid.slice(0, 8), [250_000, 2048], null, [1234, 3]],
        ['ffffffff', [1, 1]],
      ],
    });
    const { items } = await h.listPods({ namespace: 'default' });
    expect(items).toMatchObject([
      {
        kind: 'PodMetrics',
        metadata: { name: 'web', namespace: 'default', labels: { app: 'web' } },
        window: '1s',
        containers: [
          { name: 'app', usage: { cpu: '250m', memory: '2Mi' } },
          { name: 'side', usage: { cpu: '1234u', memory: '3Ki' } },
        ],
      },
    ]);
    expect(podMetrics.columns.map((c) => c.value(items[0]!, 0))).toEqual(['web', '251234u', '2051Ki', '1s']);
    expect(h.names(await h.listPods({ labelSelector: 'app!=web' }))).toEqual([]);
    expect(h.names(await h.listPods({ fieldSelector: 'metadata.name=web' }))).toEqual(['web']);
    await expect(h.listPods({ fieldSelector: 'spec.nodeName=pi1' })).rejects.toThrow(
      'field label not supported',
    );
    expect(h.asked).toEqual([['pi1', { p: 1 }]]);
  });

  it('asks only the nodes of the pods that are selected', async () => {
    const h = await hub();
    for (const n of ['pi1', 'pi2', 'pi3']) await h.node(n);
    await h.pod('a', 'pi1');
    await h.pod('b', 'pi2');
    await h.listPods({ labelSelector: 'app=b' });
    expect(h.asked).toEqual([['pi2', { p: 1 }]]);
  });

  it('keeps an answer for as long as the node says, and one question serves all who ask at once', async () => {
    const h = await hub();
    await h.node('pi1');
    await h.node('slow', { 'link.coxswain.dev/metrics-interval': '300' });
    await h.node('fresh', { 'link.coxswain.dev/metrics-interval': '0' });
    await Promise.all([h.listNodes(), h.listNodes(), h.listNodes()]);
    expect(h.asked.map(([n]) => n)).toEqual(['fresh', 'pi1', 'slow']);
    await h.listNodes();
    expect(h.asked.map(([n]) => n)).toEqual(['fresh', 'pi1', 'slow', 'fresh']);
    await h.clock.advance(16_000);
    h.asked.length = 0;
    await h.listNodes();
    expect(h.asked.map(([n]) => n)).toEqual(['fresh', 'pi1']);
    // An answer about pods is one about the node, but not the other way round.
    await h.pod('a', 'pi1');
    h.says.set('pi1', { w: 1000, n: [1, 1], p: [] });
    h.asked.length = 0;
    await h.listPods();
    await h.listNodes({ labelSelector: 'name=pi1' });
    expect(h.asked).toEqual([['pi1', { p: 1 }]]);
    await h.clock.advance(300_000);
    expect(h.usage.size).toBe(0);
  });

  it('never asks metered nodes nor those that are away, and says why they are missing', async () => {
    const h = await hub();
    await h.node('pi1');
    await h.node('pi2', { 'link.coxswain.dev/metered': 'true' });
    await h.node('pi3');
    h.linked.delete('pi3');
    const list = await h.listNodes();
    expect(h.names(list)).toEqual(['pi1']);
    expect(list.warnings).toEqual(['without metrics: node pi2 is metered, node pi3 has no link']);
    expect(h.asked.map(([n]) => n)).toEqual(['pi1']);
    await h.pod('a', 'pi2');
    const get = (kind: Kind, key: object) => h.after(h.registry.ask(h.context(), kind, key as never));
    await expect(get(NODES, { name: 'pi2' })).rejects.toMatchObject({
      code: 404,
      message: 'nodemetrics.metrics.k8s.io "pi2" not found',
    });
    await expect(get(PODS, { namespace: 'default', name: 'a' })).rejects.toThrow(
      'podmetrics.metrics.k8s.io "default/a" not found',
    );
    await expect(get(NODES, { name: 'pi9' })).rejects.toThrow('nodes "pi9" not found');
    await expect(get(PODS, { namespace: 'default', name: 'b' })).rejects.toThrow('pods "b" not found');
  });

  it('waits for slow nodes only so long; what comes later is there for the next who asks', async () => {
    const h = await hub();
    await h.node('pi1');
    h.state.ms = 12_000;
    const list = await h.listNodes();
    expect(h.names(list)).toEqual([]);
    expect(list.warnings).toEqual(['without metrics: node pi1 did not answer']);
    await h.clock.advance(3_000);
    expect(h.names(await h.listNodes())).toEqual(['pi1']);
    expect(h.asked).toHaveLength(1);
  });

  it('does not believe what makes no sense, nor asks again at once', async () => {
    const h = await hub();
    const lies = [
      new Error('this agent has no "stats" streams; upgrade it'),
      '{"w":1,"n":[',
      '{"w":1,"n":[-1,2]}',
      '{"w":0,"n":[1,2]}',
      '{"w":1,"n":[1,2],"p":[["",[1,2]]]}',
      '{"w":1,"n":[1,2],"p":[["u",[1]]]}',
      'null',
      JSON.stringify({ w: 1, n: [1, 2], p: [], x: 'x'.repeat(300_000) }),
    ];
    for (const [i, lie] of lies.entries()) {
      await h.node(`pi${i}`);
      h.says.set(`pi${i}`, lie);
    }
    expect((await h.listNodes()).items).toEqual([]);
    expect((await h.listNodes()).items).toEqual([]);
    expect(h.asked).toHaveLength(lies.length);
  });

  it('bounds how many nodes are asked at once', async () => {
    const h = await hub();
    for (let i = 0; i < 300; i++) await h.node(`n${i}`);
    h.state.ms = 200;
    expect((await h.listNodes()).items).toHaveLength(300);
    expect(h.state.mostBusy).toBe(256);
  });

  it('is not there while nobody gives it', async () => {
    const t = await testRegistry(new VirtualClock());
    await expect(t.registry.askAll(t.context(), NODES, {})).rejects.toMatchObject({ code: 503 });
  });
});
