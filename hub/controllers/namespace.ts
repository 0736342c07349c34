import type { Namespace, NamespaceCondition } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { events, namespaces } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { isApiError, qualifiedResource } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import type { Frozen, KindTable } from '../client.js';
import { type Context, errorText, ifThere, type Keys, onePerResource, type Reconcile } from './loop.js';

/** In case the last object goes away unnoticed. */
const LOOK_AGAIN_MS = 5_000;

const isPods = (k: Kind): boolean => k.group === '' && k.plural === 'pods';

/** Empties namespaces that are being deleted, of every kind, and then lets them go. */
export function namespaceLoop(table: KindTable) {
  return (ctx: Context, keys: Keys): Reconcile => {
    const { client, informers, clock } = ctx;
    const all = informers.of(namespaces);
    all.onChange((key, now) => {
      if (now?.metadata?.deletionTimestamp) keys.add(key);
    });
    let inside: readonly Kind[] = [];
    const watched = new Set<Kind>();
    const watch = (kind: Kind) => {
      // Events come and go too often, and nobody waits for the last one.
      if (kind.plural === events.plural) return;
      informers.of(kind).onChange((_, now, before) => {
        const name = before?.metadata?.namespace;
        if (!now && name && all.get(name)?.metadata?.deletionTimestamp) keys.add(name);
      });
    };
    const look = () => {
      const kinds = onePerResource(table.kinds).filter((k) => k.namespaced);
      inside = [...kinds.filter(isPods), ...kinds.filter((k) => !isPods(k))];
      for (const kind of inside) if (!watched.has(kind)) watch(kind);
      watched.clear();
      for (const kind of inside) watched.add(kind);
    };
    look();
    table.onKinds(look);

    return async (name) => {
      const ns = all.get(name);
      if (!ns?.metadata?.deletionTimestamp) return undefined;
      const failures: string[] = [];
      const left: string[] = [];
      const finalizers = new Map<string, number>();
      for (const kind of inside) {
        const { items } = await client.list(kind, { namespace: name });
        const results = await Promise.allSettled(
          items
            .filter((o) => !o.metadata?.deletionTimestamp)
            .map((o) =>
              ifThere(
                client.delete(
                  kind,
                  { namespace: name, name: o.metadata!.name! },
                  { uid: o.metadata!.uid, propagationPolicy: 'Background' },
                ),
              ),
            ),
        );
        for (const r of results)
          if (r.status === 'rejected' && !isApiError(r.reason, 'Conflict'))
            failures.push(errorText(r.reason));
        const rest = (await client.list(kind, { namespace: name })).items;
        if (rest.length)
          left.push(`${qualifiedResource(kind.plural, kind.group)} has ${rest.length} resource instances`);
        for (const o of rest)
          for (const f of o.metadata?.finalizers ?? []) finalizers.set(f, (finalizers.get(f) ?? 0) + 1);
        // The rest when pods are gone: they may need it to end well, and what guards them guards them to the end.
        if (isPods(kind) && rest.length) break;
      }

      await note(ns, failures, left, finalizers);
      if (left.length) return LOOK_AGAIN_MS;
      await ifThere(
        client.patch(
          namespaces,
          { name },
          {
            metadata: { uid: ns.metadata.uid },
            spec: { finalizers: (ns.spec?.finalizers ?? []).filter((f) => f !== 'kubernetes') },
          },
          'finalize',
        ),
      );
      return undefined;
    };

    /** Kubernetes' conditions of a terminating namespace, so that `kubectl describe` says what it waits for. */
    async function note(
      ns: Frozen<Namespace>,
      failures: string[],
      left: string[],
      finalizers: Map<string, number>,
    ): Promise<void> {
      const at = rfc3339(clock.now());
      const of = (type: string, bad: boolean, reasons: [string, string], messages: [string, string]) => {
        const old = ns.status?.conditions?.find((c) => c.type === type);
        const status = bad ? 'True' : 'False';
        return {
          type,
          status,
          reason: reasons[bad ? 0 : 1],
          message: messages[bad ? 0 : 1],
          lastTransitionTime: old?.status === status ? old.lastTransitionTime : at,
        } as NamespaceCondition;
      };
      const waiting = [...finalizers].map(([f, n]) => `${f} in ${n} resource instances`).sort();
      const conditions = [
        of(
          'NamespaceDeletionDiscoveryFailure',
          false,
          ['', 'ResourcesDiscovered'],
          ['', 'All resources successfully discovered'],
        ),
        of(
          'NamespaceDeletionGroupVersionParsingFailure',
          false,
          ['', 'ParsedGroupVersions'],
          ['', 'All legacy kube types successfully parsed'],
        ),
        of(
          'NamespaceDeletionContentFailure',
          failures.length > 0,
          ['ContentDeletionFailed', 'ContentDeleted'],
          [
            `Failed to delete all resource types, ${failures.length} remaining: ${failures.slice(0, 10).join(', ')}`,
            'All content successfully deleted, may be waiting on finalization',
          ],
        ),
        of(
          'NamespaceContentRemaining',
          left.length > 0,
          ['SomeResourcesRemain', 'ContentRemoved'],
          [`Some resources are remaining: ${left.join(', ')}`, 'All content successfully removed'],
        ),
        of(
          'NamespaceFinalizersRemaining',
          waiting.length > 0,
          ['SomeFinalizersRemain', 'ContentHasNoFinalizers'],
          [
            `Some content in the namespace has finalizers remaining: ${waiting.join(', ')}`,
            'All content-preserving finalizers finished',
          ],
        ),
      ];
      // Nothing to explain when it all went at once.
      if (left.length === 0 && !ns.status?.conditions?.length) return;
      if (!deepEqual(conditions, ns.status?.conditions))
        await ifThere(
          client.patch(namespaces, { name: ns.metadata!.name! }, { status: { conditions } }, 'status'),
        );
    }
  };
}
