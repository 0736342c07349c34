import type { PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { persistentVolumeClaims, persistentVolumes, storageClasses } from '../../api/kinds/index.js';
import { volumeClass } from '../../api/kinds/volumes.js';
import type { Client, Frozen } from '../client.js';
import type { Informers } from '../informer.js';
import { claimNames, isBound, SELECTED_NODE, usableOn, volumeFor } from '../volumes.js';
import type { NodeInfo } from './snapshot.js';

type Claim = Frozen<PersistentVolumeClaim>;

const CONFLICT = "node(s) didn't match PersistentVolume's node affinity";
const NONE_LEFT = "node(s) didn't find available persistent volumes to bind";

/** What the claims of a pod mean for where it can go. */
export type ClaimWishes =
  | { /** Why it can go nowhere yet. */ readonly refusal: string }
  | {
      readonly objection: (node: NodeInfo) => string | undefined;
      /** Claims that are bound only once the pod's node is known. */
      readonly delayed: readonly Claim[];
    };

/** The claims of pods. */
export class Claims {
  constructor(
    private readonly client: Client,
    private readonly informers: Informers,
    changed: () => void,
  ) {
    for (const kind of [persistentVolumeClaims, persistentVolumes, storageClasses])
      informers.of(kind as typeof persistentVolumes).onChange(changed);
  }

  /** Undefined for a pod without claims. */
  of(pod: Frozen<Pod>): ClaimWishes | undefined {
    const names = claimNames(pod);
    if (names.length === 0) return undefined;
    const volumes = this.informers.of(persistentVolumes);
    const claims: Claim[] = [];
    for (const name of names) {
      const c = this.informers.of(persistentVolumeClaims).get(`${pod.metadata!.namespace}/${name}`);
      if (!c) return { refusal: `persistentvolumeclaim ${JSON.stringify(name)} not found` };
      if (c.status?.phase === 'Lost')
        return {
          refusal: `persistentvolumeclaim ${JSON.stringify(name)} bound to non-existent persistentvolume ${JSON.stringify(c.spec?.volumeName)}`,
        };
      if (c.metadata?.deletionTimestamp)
        return { refusal: `persistentvolumeclaim ${JSON.stringify(name)} is being deleted` };
      claims.push(c);
    }
    const bound = claims.filter(isBound);
    const delayed = claims.filter((c) => !isBound(c));
    const waits = (c: Claim) =>
      this.informers.of(storageClasses).get(volumeClass(c as PersistentVolumeClaim))?.volumeBindingMode ===
      'WaitForFirstConsumer';
    if (!delayed.every((c) => waits(c) && !c.spec?.volumeName))
      return { refusal: 'pod has unbound immediate PersistentVolumeClaims' };
    return {
      delayed,
      objection: (node) => {
        for (const c of bound) {
          const v = volumes.get(c.spec!.volumeName!);
          if (v && !usableOn(v, node)) return CONFLICT;
        }
        return delayed.every((c) => volumeFor(c, volumes.values(), node)) ? undefined : NONE_LEFT;
      },
    };
  }

  /** Says on the claims where they are to be bound; the binder does it. */
  async select(claims: readonly Claim[], node: string): Promise<void> {
    for (const { metadata: m } of claims)
      if (m!.annotations?.[SELECTED_NODE] !== node)
        await this.client.patch(
          persistentVolumeClaims,
          { namespace: m!.namespace!, name: m!.name! },
          { metadata: { uid: m!.uid, annotations: { [SELECTED_NODE]: node } } },
        );
  }
}
