/** Validation of the PodSpec, for pods and for templates (Kubernetes' core/v1 validation). */
import type { Container, PodSpec } from 'kubernetes-types/core/v1.js';
import { duplicate, invalid, notSupported, required } from '../meta/field-errors.js';
import { dns1123Label, dns1123Subdomain, qualifiedName } from '../meta/names.js';
import { validateLabels } from '../meta/object-meta.js';
import { validateSelector } from '../meta/selector.js';
import { validateEphemeralContainers } from './ephemeral.js';
import { hostPortConflicts, validateContainer } from './pod-containers.js';
import { atLeast, between, type Errors, each, MAX_INT32, named, oneOf, optional } from './pod-fields.js';
import { validateAffinity, validateTolerations } from './pod-placement.js';
import { validateVolumes } from './pod-volumes.js';

const DNS_POLICIES = ['ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None'];
const RESTART_POLICIES = ['Always', 'OnFailure', 'Never'];
const UNSATISFIABLE = ['DoNotSchedule', 'ScheduleAnyway'];

const SYSCTL_MAX = 253;
const SYSCTL = /^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$/;

/** Names only: which of them a pod may set is for its node to say. */
function validateSysctls(spec: PodSpec, at: string): Errors {
  const seen = new Set<string>();
  return each(spec.securityContext?.sysctls, at, ({ name }, f) => {
    if (!name) return [required(`${f}.name`)];
    if (name.length > SYSCTL_MAX || !SYSCTL.test(name))
      return [
        invalid(
          `${f}.name`,
          name,
          `must have at most ${SYSCTL_MAX} characters and match regex ${SYSCTL.source}`,
        ),
      ];
    if (seen.has(name)) return [duplicate(`${f}.name`, name)];
    seen.add(name);
    return [];
  });
}

/** `at` is the field path of the spec: `spec`, or `spec.template.spec`. */
export function validatePodSpec(spec: PodSpec | undefined, at: string): Errors {
  if (!spec) return [required(`${at}.containers`)];
  const errors = validateVolumes(spec.volumes, `${at}.volumes`);
  const volumes = new Set((spec.volumes ?? []).map((v) => v.name));
  const names = new Set<string>();
  const host = spec.hostNetwork === true;
  const restart = spec.restartPolicy ?? 'Always';
  const container = (init: boolean) => (c: Container, f: string) => {
    const found = validateContainer(c, f, volumes, host, init, restart);
    if (c.name && names.has(c.name)) found.push(duplicate(`${f}.name`, c.name));
    names.add(c.name);
    return found;
  };
  if (!spec.containers?.length) errors.push(required(`${at}.containers`));
  errors.push(...each(spec.containers, `${at}.containers`, container(false)));
  errors.push(...each(spec.initContainers, `${at}.initContainers`, container(true)));
  const ephemeral = (c: Container, f: string) => validateContainer(c, f, volumes, host, false, restart);
  errors.push(...validateEphemeralContainers(spec, `${at}.ephemeralContainers`, ephemeral));
  errors.push(...hostPortConflicts(spec.containers, `${at}.containers`));
  errors.push(...oneOf(spec.restartPolicy, `${at}.restartPolicy`, RESTART_POLICIES));
  errors.push(...oneOf(spec.dnsPolicy, `${at}.dnsPolicy`, DNS_POLICIES));
  if (spec.dnsPolicy === 'None' && !spec.dnsConfig?.nameservers?.length)
    errors.push(
      required(
        `${at}.dnsConfig.nameservers`,
        'must provide at least one DNS nameserver when `dnsPolicy` is None',
      ),
    );
  errors.push(...validateLabels(spec.nodeSelector, `${at}.nodeSelector`));
  errors.push(...optional(spec.serviceAccountName, `${at}.serviceAccountName`, dns1123Subdomain));
  errors.push(...optional(spec.nodeName, `${at}.nodeName`, dns1123Subdomain));
  errors.push(...optional(spec.runtimeClassName, `${at}.runtimeClassName`, dns1123Subdomain));
  errors.push(...optional(spec.priorityClassName, `${at}.priorityClassName`, dns1123Subdomain));
  errors.push(...optional(spec.hostname, `${at}.hostname`, dns1123Label));
  errors.push(...optional(spec.subdomain, `${at}.subdomain`, dns1123Label));
  errors.push(...between(spec.activeDeadlineSeconds, `${at}.activeDeadlineSeconds`, 1, MAX_INT32));
  errors.push(...atLeast(spec.terminationGracePeriodSeconds, `${at}.terminationGracePeriodSeconds`, 0));
  for (const k of ['runAsUser', 'runAsGroup', 'fsGroup'] as const)
    errors.push(...between(spec.securityContext?.[k], `${at}.securityContext.${k}`, 0, MAX_INT32));
  errors.push(...validateSysctls(spec, `${at}.securityContext.sysctls`));
  errors.push(...validateTolerations(spec.tolerations, `${at}.tolerations`));
  errors.push(...validateAffinity(spec.affinity, `${at}.affinity`));
  errors.push(
    ...each(spec.topologySpreadConstraints, `${at}.topologySpreadConstraints`, (c, f) => [
      ...(c.maxSkew > 0 ? [] : [invalid(`${f}.maxSkew`, c.maxSkew ?? 0, 'must be greater than zero')]),
      ...(c.topologyKey ? [] : [required(`${f}.topologyKey`, 'can not be empty')]),
      ...(UNSATISFIABLE.includes(c.whenUnsatisfiable)
        ? []
        : [notSupported(`${f}.whenUnsatisfiable`, c.whenUnsatisfiable ?? '', UNSATISFIABLE)]),
      ...validateSelector(c.labelSelector, `${f}.labelSelector`),
    ]),
  );
  errors.push(
    ...each(spec.schedulingGates, `${at}.schedulingGates`, (g, f) =>
      named(g.name, `${f}.name`, qualifiedName),
    ),
  );
  return errors;
}
