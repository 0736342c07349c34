/** Claims and volumes: which volume a claim can have, and where it can be used. Pure, for scheduler, binder and link. */
import type { PersistentVolume, PersistentVolumeClaim, Pod, PodSpec } from 'kubernetes-types/core/v1.js';
import { volumeClass } from '../api/kinds/volumes.js';
import { compareQuantity } from '../api/meta/quantity.js';
import { type Labels, matchesSelector } from '../api/meta/selector.js';
import type { Frozen } from './client.js';
import { matchesTerm } from './scheduler/filters.js';

type Claim = Frozen<PersistentVolumeClaim>;
type Volume = Frozen<PersistentVolume>;

/** Where a claim of a class that waits for its first consumer is to be bound: the scheduler says it, the binder reads it. */
export const SELECTED_NODE = 'volume.kubernetes.io/selected-node';

/** Names of the claims of a pod; those of generic ephemeral volumes are made from its own. */
export const claimNames = (pod: Frozen<Pod>): string[] =>
  (pod.spec?.volumes ?? []).flatMap((v) =>
    v.persistentVolumeClaim
      ? [v.persistentVolumeClaim.claimName]
      : v.ephemeral
        ? [`${pod.metadata!.name}-${v.name}`]
        : [],
  );

const amount = (amounts: unknown): string =>
  (amounts as Record<string, string> | undefined)?.['storage'] ?? '0';

/** The volume is meant for this claim: it says so itself. */
export const isFor = (v: Volume, c: Claim): boolean => {
  const ref = v.spec?.claimRef;
  return (
    ref?.name === c.metadata?.name &&
    ref?.namespace === c.metadata?.namespace &&
    (!ref?.uid || ref.uid === c.metadata?.uid)
  );
};

/** The volume has what the claim asks for. */
export function satisfies(v: Volume, c: Claim): boolean {
  const { spec } = v;
  if (!spec || !c.spec || v.metadata?.deletionTimestamp) return false;
  if ((spec.volumeMode ?? 'Filesystem') !== (c.spec.volumeMode ?? 'Filesystem')) return false;
  if (volumeClass(v as PersistentVolume) !== volumeClass(c as PersistentVolumeClaim)) return false;
  if (compareQuantity(amount(spec.capacity), amount(c.spec.resources?.requests)) < 0) return false;
  if (!(c.spec.accessModes ?? []).every((m) => spec.accessModes?.includes(m))) return false;
  return !c.spec.selector || matchesSelector(c.spec.selector, v.metadata?.labels as Labels | undefined);
}

export const usableOn = (v: Volume, node: { readonly name: string; readonly labels: Labels }): boolean => {
  const terms = v.spec?.nodeAffinity?.required?.nodeSelectorTerms;
  return !terms || terms.some((t) => matchesTerm(t as never, node.labels, node.name));
};

/** The smallest volume that will do; one that is meant for the claim before any other. */
export function volumeFor(
  c: Claim,
  volumes: Iterable<Volume>,
  node?: { readonly name: string; readonly labels: Labels },
): Volume | undefined {
  let best: Volume | undefined;
  for (const v of volumes) {
    if (v.spec?.claimRef) {
      if (isFor(v, c) && !v.metadata?.deletionTimestamp) return v;
      continue;
    }
    if (!satisfies(v, c) || (node && !usableOn(v, node))) continue;
    const smaller = best && compareQuantity(amount(v.spec?.capacity), amount(best.spec?.capacity));
    if (!best || smaller! < 0 || (smaller === 0 && v.metadata!.name! < best.metadata!.name!)) best = v;
  }
  return best;
}

export const isBound = (c: Claim): boolean => c.status?.phase === 'Bound' && !!c.spec?.volumeName;

/** The pod's volumes as a device can mount them: claims become the paths of the volumes that they are bound to. */
export function resolveClaims(
  spec: Frozen<PodSpec>,
  podName: string,
  volumeOf: (claim: string) => Volume | undefined,
): Frozen<PodSpec> {
  const volumes = (spec.volumes ?? []).map((v) => {
    const claim = v.persistentVolumeClaim?.claimName ?? (v.ephemeral ? `${podName}-${v.name}` : undefined);
    const source = claim === undefined ? undefined : volumeOf(claim)?.spec;
    if (source?.hostPath) return { name: v.name, hostPath: { type: '', ...source.hostPath } };
    if (source?.local) return { name: v.name, hostPath: { path: source.local.path, type: 'Directory' } };
    return v;
  });
  const readOnly = new Set(
    (spec.volumes ?? []).filter((v) => v.persistentVolumeClaim?.readOnly).map((v) => v.name),
  );
  const containers = <C extends { readonly volumeMounts?: readonly { readonly name: string }[] }>(
    list: readonly C[],
  ) =>
    readOnly.size === 0
      ? list
      : list.map((c) => ({
          ...c,
          volumeMounts: c.volumeMounts?.map((m) => (readOnly.has(m.name) ? { ...m, readOnly: true } : m)),
        }));
  return {
    ...spec,
    volumes,
    containers: containers(spec.containers),
    ...(spec.initContainers ? { initContainers: containers(spec.initContainers) } : {}),
  } as Frozen<PodSpec>;
}
