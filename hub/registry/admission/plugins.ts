import { defaultIngressClass, defaultStorageClass } from './defaultclass.js';
import { defaultTolerationSeconds } from './defaulttolerationseconds.js';
import { mutatingPolicies } from './external/mutatingpolicies.js';
import { validatingPolicies } from './external/validatingpolicies.js';
import { type ExternalParts, mutatingWebhooks, validatingWebhooks } from './external/webhooks.js';
import { limitRanger } from './limitranger.js';
import { namespaceLifecycle } from './namespacelifecycle.js';
import { persistentVolumeClaimResize } from './persistentvolumeclaimresize.js';
import type { Plugin } from './plugin.js';
import { podSecurity } from './podsecurity/podsecurity.js';
import { priority } from './priority.js';
import type { ResourceQuotas } from './quota/resourcequota.js';
import { runtimeClass } from './runtimeclass.js';
import { serviceAccount } from './serviceaccount.js';

/** What plugins are made with. */
export interface AdmissionParts extends ExternalParts {
  quota: ResourceQuotas;
}

/**
 * The chain, in Kubernetes' recommended order (pkg/kubeapiserver/options/plugins.go): first every `mutate` from top to
 * bottom, then the object's own validation, then every `validate`. Webhooks and quota stay at the end.
 */
export const plugins = (parts: AdmissionParts): readonly Plugin[] => [
  namespaceLifecycle,
  limitRanger,
  serviceAccount(parts.clock),
  podSecurity(),
  priority,
  defaultTolerationSeconds,
  defaultStorageClass,
  persistentVolumeClaimResize,
  runtimeClass,
  defaultIngressClass,
  mutatingPolicies(parts),
  mutatingWebhooks(parts),
  validatingPolicies(parts),
  validatingWebhooks(parts),
  parts.quota,
];

/** The chain less those that the operator does not want. Throws for a name that none has. */
export function without(chain: readonly Plugin[], names: readonly string[]): readonly Plugin[] {
  const unknown = names.find((n) => !chain.some((p) => p.name === n));
  if (unknown !== undefined)
    throw new Error(
      `admission plugin ${JSON.stringify(unknown)} is unknown: there are ${chain.map((p) => p.name).join(', ')}`,
    );
  return chain.filter((p) => !names.includes(p.name));
}
