import type { PersistentVolume, PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import {
  nodes,
  persistentVolumeClaims,
  persistentVolumes,
  pods,
  storageClasses,
} from '../../api/kinds/index.js';
import { PV_PROTECTION, PVC_PROTECTION, volumeClass } from '../../api/kinds/volumes.js';
import { deepEqual } from '../../api/meta/json.js';
import type { Labels } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { claimNames, isFor, SELECTED_NODE, volumeFor } from '../volumes.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';
import { hasEnded } from './pods.js';

type Claim = Frozen<PersistentVolumeClaim>;
type Volume = Frozen<PersistentVolume>;

const BY_US = 'pv.kubernetes.io/bound-by-controller';
const DONE = 'pv.kubernetes.io/bind-completed';
const NO_DELETER = 'no deletable volume plugin matched';

/**
 * Binds claims to volumes that are there, says how both fare, and lets go of what nobody uses any more (Kubernetes'
 * persistent volume and protection controllers; it makes no volumes). Keys: `c/<namespace>/<name>` and `v/<name>`.
 */
export function volumesLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers } = ctx;
  const recorder = ctx.recorder('persistentvolume-controller');
  const claims = informers.of(persistentVolumeClaims);
  const volumes = informers.of(persistentVolumes);
  const classes = informers.of(storageClasses);
  const users = informers
    .of(pods)
    .index('claim', (p) => claimNames(p).map((name) => `${p.metadata!.namespace}/${name}`));

  const waiting = () => {
    for (const [key, c] of claimEntries()) if (!c.spec?.volumeName) keys.add(`c/${key}`);
  };
  function* claimEntries(): Generator<[string, Claim]> {
    for (const c of claims.values()) yield [`${c.metadata!.namespace}/${c.metadata!.name}`, c];
  }
  claims.onChange((key, now, before) => {
    keys.add(`c/${key}`);
    const volume = (now ?? before)!.spec?.volumeName;
    if (volume) keys.add(`v/${volume}`);
    if (!now) for (const v of volumes.values()) if (isFor(v, before!)) keys.add(`v/${v.metadata!.name}`);
  });
  volumes.onChange((key, now) => {
    keys.add(`v/${key}`);
    const ref = now?.spec?.claimRef;
    if (ref) keys.add(`c/${ref.namespace}/${ref.name}`);
    else if (now) waiting();
  });
  classes.onChange(waiting);
  informers.of(pods).onChange((_, now, before) => {
    const pod = (now ?? before)!;
    if (!now || hasEnded(now))
      for (const name of claimNames(pod)) {
        const key = `${pod.metadata!.namespace}/${name}`;
        if (claims.get(key)?.metadata?.deletionTimestamp) keys.add(`c/${key}`);
      }
  });

  const keyOf = (c: Claim) => ({ namespace: c.metadata!.namespace!, name: c.metadata!.name! });

  const release = (o: Claim | Volume, finalizer: string) => ({
    metadata: {
      uid: o.metadata!.uid,
      resourceVersion: o.metadata!.resourceVersion,
      finalizers: (o.metadata!.finalizers ?? []).filter((f) => f !== finalizer),
    },
  });

  async function claimStatus(c: Claim, status: object): Promise<void> {
    const same = Object.entries(status).every(([k, v]) =>
      deepEqual((c.status as Record<string, unknown>)?.[k], v),
    );
    if (!same) await ifThere(client.patch(persistentVolumeClaims, keyOf(c), { status }, 'status'));
  }

  async function volumePhase(v: Volume, phase: string, message?: string): Promise<void> {
    const status = { phase, message: message ?? null, reason: null };
    if (v.status?.phase === phase && (v.status?.message ?? null) === status.message) return;
    await ifThere(client.patch(persistentVolumes, { name: v.metadata!.name! }, { status }, 'status'));
  }

  /** The volume says whose it is first: whoever wins there has it. */
  async function bind(c: Claim, v: Volume): Promise<void> {
    const { namespace, name, uid, resourceVersion } = c.metadata!;
    const ref = v.spec?.claimRef;
    const claimRef = {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      namespace,
      name,
      uid,
      resourceVersion,
    };
    if (ref?.uid !== uid)
      await client.patch(
        persistentVolumes,
        { name: v.metadata!.name! },
        {
          metadata: {
            resourceVersion: v.metadata!.resourceVersion,
            ...(ref ? {} : { annotations: { [BY_US]: 'yes' } }),
          },
          spec: { claimRef },
        },
      );
    const byUs = c.spec?.volumeName ? {} : { [BY_US]: 'yes' };
    if (c.spec?.volumeName !== v.metadata!.name || c.metadata?.annotations?.[DONE] !== 'yes')
      await client.patch(persistentVolumeClaims, keyOf(c), {
        metadata: { uid, annotations: { [DONE]: 'yes', ...byUs } },
        spec: { volumeName: v.metadata!.name },
      });
    await claimStatus(c, {
      phase: 'Bound',
      accessModes: v.spec?.accessModes ?? [],
      capacity: v.spec?.capacity ?? {},
    });
  }

  async function find(c: Claim): Promise<void> {
    const className = volumeClass(c as PersistentVolumeClaim);
    const storageClass = className ? classes.get(className) : undefined;
    const selected = c.metadata?.annotations?.[SELECTED_NODE];
    const node = selected ? informers.of(nodes).get(selected) : undefined;
    const waits = storageClass?.volumeBindingMode === 'WaitForFirstConsumer' && !selected;
    const candidates = waits ? [...volumes.values()].filter((v) => v.spec?.claimRef) : volumes.values();
    const on = node && { name: selected!, labels: (node.metadata?.labels ?? {}) as Labels };
    const v = volumeFor(c, candidates, on);
    if (v) return bind(c, v);
    await claimStatus(c, { phase: 'Pending' });
    const tell = (type: 'Normal' | 'Warning', reason: string, message: string) =>
      recorder.tell(persistentVolumeClaims, c as PersistentVolumeClaim, type, reason, message);
    if (waits)
      tell('Normal', 'WaitForFirstConsumer', 'waiting for first consumer to be created before binding');
    else if (!className)
      tell(
        'Normal',
        'FailedBinding',
        'no persistent volumes available for this claim and no storage class is set',
      );
    else if (!storageClass)
      tell(
        'Warning',
        'ProvisioningFailed',
        `storageclass.storage.k8s.io ${JSON.stringify(className)} not found`,
      );
    else if (storageClass.provisioner === 'kubernetes.io/no-provisioner')
      tell(
        'Normal',
        'FailedBinding',
        'no persistent volumes available for this claim: its class has no provisioner',
      );
    else
      tell(
        'Normal',
        'ExternalProvisioning',
        `Waiting for a volume to be created either by the external provisioner '${storageClass.provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.`,
      );
  }

  async function claim(key: string): Promise<void> {
    const c = claims.get(key);
    if (!c) return;
    if (c.metadata?.deletionTimestamp) {
      const used = users.by('claim', key).some((p) => !hasEnded(p));
      if (c.metadata.finalizers?.includes(PVC_PROTECTION) && !used)
        await ifThere(client.patch(persistentVolumeClaims, keyOf(c), release(c, PVC_PROTECTION)));
      return;
    }
    const name = c.spec?.volumeName;
    if (!name) return find(c);
    const v = volumes.get(name);
    if (!v) {
      const lost = c.metadata?.annotations?.[DONE] === 'yes';
      if (lost && c.status?.phase !== 'Lost')
        recorder.tell(
          persistentVolumeClaims,
          c as PersistentVolumeClaim,
          'Warning',
          'ClaimLost',
          'Bound claim has lost its PersistentVolume. Data on the volume is lost!',
        );
      return claimStatus(c, { phase: lost ? 'Lost' : 'Pending' });
    }
    if (!v.spec?.claimRef || isFor(v, c)) return bind(c, v);
    await claimStatus(c, { phase: 'Pending' });
    recorder.tell(
      persistentVolumeClaims,
      c as PersistentVolumeClaim,
      'Warning',
      'FailedBinding',
      `volume ${JSON.stringify(name)} already bound to a different claim.`,
    );
  }

  async function volume(name: string): Promise<void> {
    const v = volumes.get(name);
    if (!v) return;
    const ref = v.spec?.claimRef;
    const c = ref && claims.get(`${ref.namespace}/${ref.name}`);
    const owned = c !== undefined && (!ref?.uid || ref.uid === c.metadata?.uid);
    if (v.metadata?.deletionTimestamp) {
      if (v.metadata.finalizers?.includes(PV_PROTECTION) && !(owned && ref?.uid))
        await ifThere(client.patch(persistentVolumes, { name }, release(v, PV_PROTECTION)));
      return;
    }
    if (!ref?.uid) return volumePhase(v, 'Available');
    if (owned) return c.spec?.volumeName === name ? volumePhase(v, 'Bound') : undefined;
    if (v.spec?.persistentVolumeReclaimPolicy !== 'Delete') return volumePhase(v, 'Released');
    // The hub cannot reach into a device's disk, and says so as Kubernetes does without a plugin for it.
    if (v.spec.csi || v.metadata?.annotations?.['pv.kubernetes.io/provisioned-by'])
      return volumePhase(v, 'Released');
    await volumePhase(
      v,
      'Failed',
      `error getting deleter volume plugin for volume ${JSON.stringify(name)}: ${NO_DELETER}`,
    );
  }

  return async (key) => (key.startsWith('c/') ? claim(key.slice(2)) : volume(key.slice(2)));
}
