import type { OwnerReference } from 'kubernetes-types/meta/v1.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { isApiError } from '../../api/meta/errors.js';
import type { KubeObject } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Client, Frozen } from '../client.js';
import { controllerOf } from './pods.js';

export const controllerRef = (kind: Kind<never> | Kind, o: Frozen<KubeObject>): OwnerReference => ({
  apiVersion: apiVersionOf(kind),
  kind: kind.kind,
  name: o.metadata!.name!,
  uid: o.metadata!.uid!,
  controller: true,
  blockOwnerDeletion: true,
});

type Selecting = KubeObject & { spec?: { selector?: unknown } };

/**
 * Which of the candidates are the owner's: it takes orphans that its selector matches and lets go of those that it no
 * longer matches (Kubernetes' ControllerRefManager). `owned`: those with a controller reference to it; `orphans`:
 * those without any, of its namespace. `member`: what else must hold of one that is its; `selector`: where that is not
 * `spec.selector`; `finalizer`: what those that it takes get besides.
 */
export async function claim<O extends Selecting, T extends KubeObject>(
  client: Client,
  ownerKind: Kind<O>,
  owner: Frozen<O>,
  kind: Kind<T>,
  owned: readonly Frozen<T>[],
  orphans: readonly Frozen<T>[],
  {
    member = () => true,
    finalizer,
    selector = (owner as { spec?: { selector?: object } }).spec?.selector,
  }: { member?: (o: Frozen<T>) => boolean; selector?: object; finalizer?: string } = {},
): Promise<Frozen<T>[]> {
  const me = (owner as Frozen<KubeObject>).metadata!;
  const meta = (o: Frozen<T>) => (o as Frozen<KubeObject>).metadata!;
  const fits = (o: Frozen<T>) =>
    matchesSelector(selector as never, meta(o).labels as Record<string, string>) && member(o);
  const mine: Frozen<T>[] = [];
  const change = async (
    o: Frozen<T>,
    ownerReferences: unknown[],
    finalizers?: readonly string[],
  ): Promise<Frozen<T> | undefined> => {
    try {
      return await client.patch(
        kind,
        { namespace: meta(o).namespace, name: meta(o).name! },
        {
          metadata: {
            uid: meta(o).uid,
            resourceVersion: meta(o).resourceVersion,
            ownerReferences,
            ...(finalizers ? { finalizers } : {}),
          },
        },
      );
    } catch (e) {
      // Gone, or no longer what we judged it to be: the next event brings us back.
      if (isApiError(e, 'NotFound') || isApiError(e, 'Invalid') || isApiError(e, 'Conflict'))
        return undefined;
      throw e;
    }
  };

  for (const o of owned) {
    if (fits(o)) mine.push(o);
    else if (!me.deletionTimestamp)
      await change(
        o,
        (meta(o).ownerReferences ?? []).filter((r) => r.uid !== me.uid),
      );
  }
  const takeable = me.deletionTimestamp
    ? []
    : orphans.filter((o) => fits(o) && !meta(o).deletionTimestamp && !controllerOf(o as Frozen<KubeObject>));
  if (takeable.length) {
    // Our view of the owner may be old: never adopt for one that is on its way out.
    const fresh = (await client.get(ownerKind, {
      namespace: me.namespace,
      name: me.name!,
    })) as Frozen<KubeObject>;
    if (fresh.metadata?.uid === me.uid && !fresh.metadata?.deletionTimestamp)
      for (const o of takeable) {
        const taken = await change(
          o,
          [
            ...(meta(o).ownerReferences ?? []),
            controllerRef(ownerKind as never, owner as Frozen<KubeObject>),
          ],
          finalizer ? [...new Set([...(meta(o).finalizers ?? []), finalizer])] : undefined,
        );
        if (taken) mine.push(taken);
      }
  }
  return mine;
}
