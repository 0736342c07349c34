/** NodeMetrics and PodMetrics, as metrics-server serves them, from what the nodes say. */
import type { Node, Pod } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339 } from '../../api/clock.js';
import { nodeMetrics, nodes, podMetrics, pods } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import type { NodeMetrics, PodMetrics, ResourceUsage } from '../../api/kinds/metrics.js';
import { formatGoDuration } from '../../api/meta/duration.js';
import { isApiError, notFound } from '../../api/meta/errors.js';
import { canonicalQuantity } from '../../api/meta/quantity.js';
import { STATS_UID, statsOrder, type Usage } from '../../api/wire/streams.js';
import type { Client, Frozen, ListOptions } from '../client.js';
import type { ListQuery, RequestContext, Source } from '../registry/api.js';
import type { Absence, NodeAnswer, NodeUsage } from './usage.js';

/** Nodes that a warning names. */
const MAX_NAMED = 4;

const quantities = ([cpu, memory]: Usage): ResourceUsage => ({
  cpu: canonicalQuantity(`${cpu}u`),
  memory: canonicalQuantity(`${memory}Ki`),
});

/** All of what is selected: as metrics-server, this knows no pages and no revisions. */
const selectors = ({ namespace, labelSelector, fieldSelector }: ListQuery): ListOptions => ({
  namespace,
  labelSelector,
  fieldSelector,
});

/** Tells who asks why something is missing: only then is it told from what does not run. */
function warn(ctx: RequestContext, absent: ReadonlyMap<string, Absence>): void {
  if (absent.size === 0) return;
  const named = [...absent].slice(0, MAX_NAMED).map(([node, why]) => `node ${node} ${why}`);
  const more = absent.size > MAX_NAMED ? `, and ${absent.size - MAX_NAMED} more` : '';
  ctx.warnings.push(`without metrics: ${named.join(', ')}${more}`);
}

/** What to tell the registry: where the kinds of metrics.k8s.io come from. */
export function metricsSources(client: Client, usage: NodeUsage, clock: Clock): [Kind, Source][] {
  const common = (kind: Kind<never>, a: NodeAnswer) => ({
    kind: kind.kind,
    apiVersion: apiVersionOf(kind),
    timestamp: rfc3339(a.at),
    window: formatGoDuration(a.w),
  });
  const metadata = (o: Frozen<Node> | Frozen<Pod>) => {
    const { name, namespace, labels } = o.metadata!;
    return {
      name: name!,
      ...(namespace ? { namespace } : {}),
      ...(labels ? { labels } : {}),
      creationTimestamp: rfc3339(clock.now()),
    };
  };

  const ofNodes = async (ctx: RequestContext, list: readonly Frozen<Node>[]): Promise<NodeMetrics[]> => {
    const answers = await usage.of(list, false);
    warn(ctx, answers.absent);
    return list.flatMap((node) => {
      const a = answers.usage.get(node.metadata!.name!);
      return a
        ? [{ ...common(nodeMetrics as Kind<never>, a), metadata: metadata(node), usage: quantities(a.n) }]
        : [];
    });
  };

  const ofPods = async (ctx: RequestContext, list: readonly Frozen<Pod>[]): Promise<PodMetrics[]> => {
    const running = list.filter((p) => p.status?.phase === 'Running' && p.spec?.nodeName);
    const names = new Set(running.map((p) => p.spec!.nodeName!));
    const there: Frozen<Node>[] = [];
    for (const name of names) {
      const node = await client.get<Node>(nodes, { name }).catch((e: unknown) => {
        if (!isApiError(e, 'NotFound')) throw e;
        return undefined;
      });
      if (node) there.push(node);
    }
    const answers = await usage.of(there, true);
    warn(ctx, answers.absent);
    const measured = new Map<string, Map<string, readonly (Usage | null)[]>>();
    for (const [node, { p = [] }] of answers.usage)
      measured.set(node, new Map(p.map(([uid, ...all]) => [uid, all])));
    return running.flatMap((pod) => {
      const node = pod.spec!.nodeName!;
      const all = measured.get(node)?.get(pod.metadata!.uid!.slice(0, STATS_UID));
      if (!all) return [];
      const containers = statsOrder(pod.spec).flatMap((name, i) => {
        const used = all[i];
        return used ? [{ name, usage: quantities(used) }] : [];
      });
      if (containers.length === 0) return [];
      const a = answers.usage.get(node)!;
      return [{ ...common(podMetrics as Kind<never>, a), metadata: metadata(pod), containers }];
    });
  };

  return [
    [
      nodeMetrics as unknown as Kind,
      {
        list: async (ctx, query) => ofNodes(ctx, (await client.list<Node>(nodes, selectors(query))).items),
        get: async (ctx, key) => {
          const [found] = await ofNodes(ctx, [await client.get<Node>(nodes, key)]);
          if (!found) throw notFound('nodemetrics', key.name, nodeMetrics.group);
          return found;
        },
      },
    ],
    [
      podMetrics as unknown as Kind,
      {
        list: async (ctx, query) => ofPods(ctx, (await client.list<Pod>(pods, selectors(query))).items),
        get: async (ctx, key) => {
          const [found] = await ofPods(ctx, [await client.get<Pod>(pods, key)]);
          // As metrics-server has it, with the namespace.
          if (!found) throw notFound('podmetrics', `${key.namespace}/${key.name}`, podMetrics.group);
          return found;
        },
      },
    ],
  ];
}
