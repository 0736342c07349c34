/** Whether a container that ended is started again: its own rules, then its own policy, then the pod's. Pure. */
import type { Container } from 'kubernetes-types/core/v1.js';

export type Policy = 'Always' | 'OnFailure' | 'Never';

interface Rule {
  action: string;
  exitCodes?: { operator: string; values?: number[] };
}

const matches = ({ exitCodes }: Rule, code: number): boolean =>
  exitCodes !== undefined && (exitCodes.operator === 'In') === (exitCodes.values ?? []).includes(code);

/** `code` is undefined of one that was lost. */
export function restarts(c: Container, podPolicy: Policy, code: number | undefined): boolean {
  const { restartPolicy, restartPolicyRules } = c as { restartPolicy?: Policy; restartPolicyRules?: Rule[] };
  const rule = code !== undefined && restartPolicy && restartPolicyRules?.find((r) => matches(r, code));
  if (rule && rule.action === 'Restart') return true;
  const policy = restartPolicy ?? podPolicy;
  return policy === 'Always' || (policy === 'OnFailure' && code !== 0);
}
