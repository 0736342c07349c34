/**
 * The tokens that a pod's serviceAccountToken volumes have at one time. Everything but the signature follows from the
 * pod, its account, its node and the time, so that a hub that starts anew finds nodes holding what they should, and
 * nothing is kept anywhere.
 */
import { createHash } from 'node:crypto';
import type { Pod, PodSpec } from 'kubernetes-types/core/v1.js';
import { type PodTokens, tokenName } from '../../api/wire/desired.js';
import type { Frozen } from '../client.js';
import { claimsOf, ISSUER, lifeOf, type Tokens } from './tokens.js';

/** The kubelet's rule: a token is renewed when 80 % of its life, or a day, is over. */
const RENEW_AFTER = 0.8;
const DAY = 24 * 3600;

/** What a projected volume asks for. */
interface Wanted {
  audience: string;
  seconds: number;
}

/** Every different token that a pod's volumes ask for. */
export function tokensWanted(spec: Frozen<PodSpec> | undefined): Map<string, Wanted> {
  const out = new Map<string, Wanted>();
  for (const v of spec?.volumes ?? [])
    for (const { serviceAccountToken: t } of v.projected?.sources ?? [])
      if (t) out.set(tokenName(t), { audience: t.audience ?? '', seconds: t.expirationSeconds ?? 3600 });
  return out;
}

/**
 * The span of time in which one token is the one to have, in Unix seconds. The first span of a pod is shorter by a
 * share that depends on its uid: pods that were made together do not renew together.
 */
export function spanOf(uid: string, name: string, created: number, life: number, now: number) {
  const length = Math.floor(Math.min(life * RENEW_AFTER, DAY));
  const share = createHash('sha256').update(`${uid} ${name}`).digest().readUInt16BE() / 65536;
  const first = created + Math.floor(length * (0.5 + share / 2));
  if (now < first) return { from: created, until: first };
  const from = first + Math.floor((now - first) / length) * length;
  return { from, until: from + length };
}

/** Whom a pod's tokens name besides it. Small, since there is one for each pod. */
export interface Holder {
  account: { namespace: string; name: string; uid: string };
  node?: { name: string; uid: string };
}

export class PodTokenSource {
  constructor(private readonly tokens: Pick<Tokens, 'kid' | 'signature'>) {}

  /**
   * What a pod's tokens say at a time (Unix ms), and until when that is so. Undefined when its volumes ask for none.
   */
  of(
    pod: Frozen<Pod>,
    holder: Holder,
    now: number,
  ): { claims: Record<string, object>; until: number } | undefined {
    const wanted = tokensWanted(pod.spec);
    if (wanted.size === 0) return undefined;
    const { name = '', uid = '', creationTimestamp } = pod.metadata ?? {};
    const bound = { pod: { name, uid }, ...(holder.node ? { node: holder.node } : {}) };
    const created = Math.floor(Date.parse(creationTimestamp ?? '') / 1000) || 0;
    const claims: Record<string, object> = {};
    let until = Number.POSITIVE_INFINITY;
    for (const [key, { audience, seconds }] of wanted) {
      const grant = { audiences: [audience || ISSUER], seconds };
      const span = spanOf(uid, key, created, lifeOf(grant), now / 1000);
      until = Math.min(until, span.until * 1000);
      const id = uuid(`${uid} ${key} ${span.from}`);
      claims[key] = claimsOf(holder.account, bound, { ...grant, issuedAt: span.from, id });
    }
    return { claims, until };
  }

  get kid(): string {
    return this.tokens.kid;
  }

  /** The same, signed. */
  sign(pod: Frozen<Pod>, holder: Holder, now: number): PodTokens {
    const { namespace = '', name = '', uid = '' } = pod.metadata ?? {};
    const { claims = {} } = this.of(pod, holder, now) ?? {};
    const signed = Object.entries(claims).map(([key, c]) => [key, { c, s: this.tokens.signature(c) }]);
    return {
      metadata: { namespace, name, uid },
      kid: this.kid,
      tokens: Object.fromEntries(signed) as PodTokens['tokens'],
    };
  }
}

/** A UUID made of a text (RFC 9562, version 8). */
function uuid(text: string): string {
  const b = createHash('sha256').update(text).digest().subarray(0, 16);
  b[6] = (b[6]! & 0x0f) | 0x80;
  b[8] = (b[8]! & 0x3f) | 0x80;
  return b.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
