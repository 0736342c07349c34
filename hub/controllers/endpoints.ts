import type { Endpoints, Pod, Service } from 'kubernetes-types/core/v1.js';
import type { EndpointSlice } from 'kubernetes-types/discovery/v1.js';
import { endpointSlices, endpoints, nodes, pods, services } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import { parseKey } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import {
  ENDPOINTS_BY,
  ENDPOINTS_MANAGED_BY,
  endpointView,
  MANAGED_BY,
  MIRRORED_BY,
  mirrorSlices,
  planEndpoints,
  planSlices,
  SERVICE_NAME,
  SKIP_MIRROR,
  SLICES_BY,
  type SlicePlan,
  sliceLabels,
} from './endpoints-plan.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/** Pods of a Service that change together make one write. */
const BATCH_MS = 250;
const ZONE = 'topology.kubernetes.io/zone';

const selects = (s: Frozen<Service>, labels: Readonly<Record<string, string>> | undefined): boolean => {
  const wanted = Object.entries(s.spec?.selector ?? {});
  return wanted.length > 0 && wanted.every(([k, v]) => labels?.[k] === v);
};

/** Keeps Endpoints and EndpointSlices of Services in step with their pods, and mirrors Endpoints that others made. */
export function endpointsLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const inNamespace = (o: { readonly metadata?: { readonly namespace?: string } }) => [
    o.metadata?.namespace ?? '',
  ];
  const all = informers.of(services).index('namespace', inNamespace);
  const every = informers.of(pods);
  const made = informers.of(endpoints);
  const slices = informers.of(endpointSlices).index('service', (s) => {
    const { namespace, labels } = s.metadata!;
    return labels?.[SERVICE_NAME] ? [`${namespace}/${labels[SERVICE_NAME]}`] : [];
  });
  const lastAt = new Map<string, number>();
  /** Services that went while we looked: their Endpoints go with them, whoever made them. */
  const gone = new Set<string>();

  const touch = (key: string) =>
    keys.addAfter(key, (lastAt.get(key) ?? Number.NEGATIVE_INFINITY) + BATCH_MS - clock.monotonic());

  all.onChange((key, now) => {
    if (now) gone.delete(key);
    else gone.add(key);
    keys.add(key);
  });
  every.onChange((_, now, before) => {
    const { namespace = '' } = (now ?? before)!.metadata!;
    if (all.count('namespace', namespace) === 0) return;
    if (now && before && endpointView(now) === endpointView(before)) return;
    for (const s of all.by('namespace', namespace))
      if (selects(s, now?.metadata?.labels) || selects(s, before?.metadata?.labels))
        touch(`${namespace}/${s.metadata!.name}`);
  });
  made.onChange((key) => {
    if (all.get(key)) touch(key);
  });
  slices.onChange((_, now, before) => {
    const { namespace, labels } = (now ?? before)!.metadata!;
    const key = `${namespace}/${labels?.[SERVICE_NAME]}`;
    if (all.get(key)) touch(key);
  });

  const podsFor = (service: Frozen<Service>): Frozen<Pod>[] =>
    every
      // Made when the first Service needs it.
      .index('namespace', inNamespace)
      .by('namespace', service.metadata!.namespace!)
      .filter((p) => selects(service, p.metadata?.labels));

  async function writeEndpoints(service: Frozen<Service>, selected: readonly Frozen<Pod>[]): Promise<void> {
    const { namespace, name } = service.metadata!;
    const { labels, annotations, subsets } = planEndpoints(service, selected);
    const there = made.get(`${namespace}/${name}`);
    const wanted: Endpoints = {
      metadata: {
        namespace: namespace!,
        name: name!,
        labels,
        ...(Object.keys(annotations).length ? { annotations } : {}),
      },
      ...(subsets?.length ? { subsets } : {}),
    };
    if (!there) {
      await client.create(endpoints, wanted);
      return;
    }
    const same =
      deepEqual(there.subsets ?? [], subsets ?? []) &&
      deepEqual(there.metadata?.labels ?? {}, labels) &&
      deepEqual(there.metadata?.annotations ?? {}, annotations);
    if (same) return;
    const { uid, resourceVersion } = there.metadata!;
    await client.update(endpoints, {
      ...wanted,
      metadata: { ...wanted.metadata, uid, resourceVersion },
    } as Endpoints);
  }

  async function writeSlices(
    service: Frozen<Service>,
    plans: readonly SlicePlan[],
    by: string,
  ): Promise<void> {
    const { namespace, name, uid } = service.metadata!;
    const labels = sliceLabels(service, by);
    const mine = slices
      .by('service', `${namespace}/${name}`)
      .filter((s) => s.metadata?.labels?.[MANAGED_BY] === by)
      .sort((a, b) => (a.metadata!.name! < b.metadata!.name! ? -1 : 1));
    const free = [...mine];
    const todo: SlicePlan[] = [];
    // What is right already stays; the rest is put into what is left.
    for (const plan of plans) {
      const same = free.findIndex(
        (s) =>
          s.addressType === plan.addressType &&
          deepEqual(s.endpoints ?? [], plan.endpoints) &&
          deepEqual(s.ports ?? [], plan.ports ?? []) &&
          deepEqual(s.metadata?.labels ?? {}, labels),
      );
      if (same < 0) todo.push(plan);
      else free.splice(same, 1);
    }
    for (const plan of todo) {
      const at = free.findIndex((s) => s.addressType === plan.addressType);
      const [old] = at < 0 ? [] : free.splice(at, 1);
      const metadata = {
        namespace: namespace!,
        labels,
        ...(old
          ? {
              name: old.metadata!.name!,
              uid: old.metadata!.uid!,
              resourceVersion: old.metadata!.resourceVersion!,
            }
          : { generateName: `${name}-` }),
        ownerReferences: [
          {
            apiVersion: 'v1',
            kind: 'Service',
            name: name!,
            uid: uid!,
            controller: true,
            blockOwnerDeletion: true,
          },
        ],
      };
      const slice: EndpointSlice = { ...plan, metadata };
      if (old) await client.update(endpointSlices, slice);
      else await client.create(endpointSlices, slice);
    }
    for (const s of free)
      await ifThere(client.delete(endpointSlices, { namespace: namespace!, name: s.metadata!.name! }));
  }

  return async (key) => {
    const service = all.get(key);
    const { namespace, name } = parseKey(key);
    if (!service) {
      lastAt.delete(key);
      const ours = made.get(key)?.metadata?.labels?.[ENDPOINTS_MANAGED_BY] === ENDPOINTS_BY;
      if (gone.delete(key) || ours) await ifThere(client.delete(endpoints, { namespace: namespace!, name }));
      return;
    }
    if (service.metadata?.deletionTimestamp || service.spec?.type === 'ExternalName') return;
    lastAt.set(key, clock.monotonic());
    try {
      if (Object.keys(service.spec?.selector ?? {}).length > 0) {
        const selected = podsFor(service);
        const zoneOf = (node: string) => informers.of(nodes).get(node)?.metadata?.labels?.[ZONE];
        await writeEndpoints(service, selected);
        await writeSlices(service, planSlices(service, selected, zoneOf), SLICES_BY);
        return;
      }
      const others = made.get(key);
      const mirrors = others && others.metadata?.labels?.[SKIP_MIRROR] !== 'true';
      await writeSlices(service, mirrors ? mirrorSlices(others) : [], MIRRORED_BY);
    } catch (e) {
      // The namespace is going, and takes what is there with it.
      if (isApiError(e, 'Forbidden') || isApiError(e, 'NotFound')) return;
      throw e;
    }
  };
}
