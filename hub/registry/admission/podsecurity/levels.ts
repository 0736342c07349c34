import type { PodSpec } from 'kubernetes-types/core/v1.js';
import type { FieldError } from '../../../../api/kinds/kind.js';
import { invalid } from '../../../../api/meta/field-errors.js';
import type { ObjectMeta } from '../../../../api/meta/object.js';
import { checks, type Violation } from './checks.js';

const LEVELS = ['privileged', 'baseline', 'restricted'] as const;
export type Level = (typeof LEVELS)[number];

/** `baseline:v1.24`; a version is a minor of Kubernetes 1, or `latest`. */
export interface LevelVersion {
  readonly level: Level;
  readonly version: number | 'latest';
}

export const MODES = ['enforce', 'audit', 'warn'] as const;
export type Policy = Record<(typeof MODES)[number], LevelVersion>;

export const PREFIX = 'pod-security.kubernetes.io/';
const NOTHING: LevelVersion = { level: 'privileged', version: 'latest' };

/** How strict, for comparison. */
export const rank = (level: Level): number => LEVELS.indexOf(level);

export const textOf = ({ level, version }: LevelVersion): string =>
  `${level}:${version === 'latest' ? version : `v1.${version}`}`;

export const equal = (a: LevelVersion, b: LevelVersion): boolean =>
  a.level === b.level && a.version === b.version;

/** What a namespace's labels ask for, and what is wrong with them. Where enforcement is not understood it is strict. */
export function policyOf(labels: Readonly<Record<string, string>> = {}): {
  policy: Policy;
  errors: FieldError[];
} {
  const errors: FieldError[] = [];
  const wrong = (label: string, why: string) =>
    errors.push(invalid(`metadata.labels[${label}]`, labels[label], why));
  const policy: Policy = { enforce: NOTHING, audit: NOTHING, warn: NOTHING };
  let enforced = false;
  for (const mode of MODES) {
    let { level, version } = policy[mode];
    const levelLabel = PREFIX + mode;
    const versionLabel = `${levelLabel}-version`;
    if (Object.hasOwn(labels, levelLabel)) {
      const known = LEVELS.find((l) => l === labels[levelLabel]);
      if (known && mode === 'enforce') enforced = true;
      if (!known) wrong(levelLabel, `must be one of ${LEVELS.join(', ')}`);
      level = known ?? (mode === 'enforce' ? 'restricted' : 'privileged');
    }
    if (Object.hasOwn(labels, versionLabel)) {
      const m = /^v1\.(0|[1-9]\d{0,8})$/.exec(labels[versionLabel]!);
      if (!m && labels[versionLabel] !== 'latest') wrong(versionLabel, 'must be "latest" or "v1.x"');
      version = m ? Number(m[1]) : 'latest';
    }
    policy[mode] = { level, version };
  }
  // What is enforced is warned of as well: of workloads, whose pods alone are refused.
  if (enforced && !Object.hasOwn(labels, `${PREFIX}warn`) && policy.enforce.level !== 'privileged')
    policy.warn = {
      level: policy.enforce.level,
      version: Object.hasOwn(labels, `${PREFIX}warn-version`) ? policy.warn.version : policy.enforce.version,
    };
  return { policy, errors };
}

/** What of a pod a level does not allow, in the order of the table. */
export function violations(
  { level, version }: LevelVersion,
  spec: PodSpec,
  meta: Pick<ObjectMeta, 'annotations'>,
): Violation[] {
  if (level === 'privileged') return [];
  const minor = version === 'latest' ? Number.POSITIVE_INFINITY : version;
  const applying = checks.flatMap((check) => {
    if (check.level === 'restricted' && level !== 'restricted') return [];
    const rule = check.since.findLast(([since]) => since <= minor)?.[1];
    return rule ? [{ check, rule }] : [];
  });
  const replaced = new Set(applying.map(({ check }) => check.instead));
  return applying
    .filter(({ check }) => !replaced.has(check.id))
    .flatMap(({ rule }) => rule(spec, meta) ?? []);
}

export const reasonText = (found: readonly Violation[]): string => found.map((v) => v.reason).join(', ');

export const detailText = (found: readonly Violation[]): string =>
  found.map((v) => (v.detail ? `${v.reason} (${v.detail})` : v.reason)).join(', ');
