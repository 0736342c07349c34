/**
 * Which of an agent's reports a hub holds already, though one of the two processes is new: the welcome says a short
 * hash of each, and the agent leaves out what has it. Both sides compute it from what the other one cannot change:
 * of a stored status the parts that the agent told, without the times of its conditions, which a new process of the
 * agent has forgotten.
 */
import { createHmac, hkdfSync } from 'node:crypto';
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { NodeReport } from './desired.js';
import { canonical } from './set.js';

/** Conditions that the agent tells; every other type on a pod belongs to the hub (PodScheduled, DisruptionTarget …). */
export const AGENT_CONDITIONS: ReadonlySet<string> = new Set([
  'PodReadyToStartContainers',
  'Initialized',
  'ContainersReady',
  'Ready',
  'PodResizePending',
  'PodResizeInProgress',
]);

/** Characters of one hash. */
const LENGTH = 8;
/** More hashes than this are not said: the rest of the reports travels. */
export const MAX_HELD = 1024;

interface Condition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
}

/** In the order of their types; an empty word is none. */
const bare = (conditions: readonly Condition[] | undefined) =>
  (conditions ?? [])
    .map(({ type, status, reason, message }) => [type, status, reason ?? '', message ?? ''])
    .sort((a, b) => (a[0]! < b[0]! ? -1 : 1));

/** What a pod's status, told or stored, says of the agent's part. */
export function podReportText(uid: string, status: NonNullable<Pod['status']>): string {
  const { qosClass: _q, nominatedNodeName: _n, conditions, ...told } = status;
  return canonical([uid, told, bare(conditions?.filter((c) => AGENT_CONDITIONS.has(c.type)))]);
}

export const nodeReportText = ({ conditions, ...told }: NodeReport): string =>
  canonical(['', told, bare(conditions)]);

/** Keyed by the session, since the welcome can be read by whoever runs the broker. */
export type HashText = (text: string) => string;

export function reportHash(secret: Buffer, session: string): HashText {
  const key = Buffer.from(hkdfSync('sha256', secret, session, 'coxswain reports', 32));
  return (text) => createHmac('sha256', key).update(text).digest('base64url').slice(0, LENGTH);
}

/** As the welcome says them. */
export const sayHeld = (hashes: readonly string[]): string => hashes.slice(0, MAX_HELD).join('');

/** The inverse of {@link sayHeld}; what makes no sense holds nothing. */
export function heardHeld(said: unknown): ReadonlySet<string> {
  if (typeof said !== 'string' || said.length > LENGTH * MAX_HELD) return new Set();
  return new Set(said.match(new RegExp(`.{${LENGTH}}`, 'g')));
}
