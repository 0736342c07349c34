/** Writes what agents say of their pods. */
import type { Pod, PodCondition, PodStatus } from 'kubernetes-types/core/v1.js';
import { pods } from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import type { PodReport } from '../../api/wire/desired.js';
import { AGENT_CONDITIONS } from '../../api/wire/held-reports.js';
import { canonical } from '../../api/wire/set.js';
import type { Client, Frozen } from '../client.js';

const ended = (phase: string | undefined) => phase === 'Succeeded' || phase === 'Failed';

/** The status to store, or undefined when nothing changes or the report would bring a finished pod back to life. */
export function mergeStatus(old: Frozen<PodStatus> | undefined, told: PodStatus): PodStatus | undefined {
  if (ended(old?.phase) && old?.phase !== told.phase) return undefined;
  // The agent says once for all of them which generation of the spec it speaks of.
  const { observedGeneration } = told as { observedGeneration?: number };
  const conditions = (told.conditions ?? []).map((c) =>
    observedGeneration === undefined ? c : { ...c, observedGeneration },
  );
  for (const c of old?.conditions ?? [])
    if (!AGENT_CONDITIONS.has(c.type) && !conditions.some((n) => n.type === c.type))
      conditions.push(c as PodCondition);
  const merged: PodStatus = {
    ...(old?.qosClass ? { qosClass: old.qosClass } : {}),
    ...(old?.nominatedNodeName ? { nominatedNodeName: old.nominatedNodeName } : {}),
    ...told,
    ...(conditions.length ? { conditions } : {}),
  };
  return canonical(merged) === canonical(old ?? {}) ? undefined : merged;
}

const ATTEMPTS = 8;

/**
 * Brings one report into the store. Resolves when the store has it or when it means nothing any more, with the revision
 * that it wrote; rejects when it should be sent again later.
 */
export async function applyPodReport(
  client: Client,
  node: string,
  r: PodReport,
  log: Log,
): Promise<number | undefined> {
  const key = { namespace: r.namespace, name: r.name };
  const fields = { node, pod: `${r.namespace}/${r.name}`, uid: r.uid };
  for (let attempt = 1; ; attempt++) {
    try {
      const pod = await client.get<Pod>(pods, key);
      if (pod.metadata?.uid !== r.uid) return undefined;
      if (pod.spec?.nodeName !== node) {
        log.warn(fields, 'report of a pod that is not bound to this node; ignored');
        return undefined;
      }
      const status = mergeStatus(pod.status, r.status);
      // Who watches sees how a pod ended before it goes, as with a kubelet.
      const written = status && (await client.updateStatus<Pod>(pods, { ...(pod as Pod), status }));
      if (r.gone && pod.metadata?.deletionTimestamp) {
        await client.delete(pods, key, { gracePeriodSeconds: 0, uid: r.uid });
        return undefined;
      }
      return written && Number(written.metadata?.resourceVersion);
    } catch (e) {
      if (isApiError(e, 'NotFound')) return undefined;
      if (isApiError(e, 'Conflict') && attempt < ATTEMPTS) continue;
      if (isApiError(e, 'Invalid') || isApiError(e, 'BadRequest')) {
        log.error({ ...fields, err: e.message }, 'status of a pod refused');
        return undefined;
      }
      throw e;
    }
  }
}
