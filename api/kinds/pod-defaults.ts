/** What a PodSpec says where it says nothing, for pods and for templates (Kubernetes' core/v1 defaults). */
import type {
  Container,
  EphemeralContainer,
  HTTPGetAction,
  PodSpec,
  Probe,
  Volume,
} from 'kubernetes-types/core/v1.js';

function defaultHttpGet(get: HTTPGetAction | undefined): void {
  if (!get) return;
  get.path ||= '/';
  get.scheme ||= 'HTTP';
}

function defaultProbe(p: Probe | undefined): void {
  if (!p) return;
  p.timeoutSeconds ||= 1;
  p.periodSeconds ||= 10;
  p.successThreshold ||= 1;
  p.failureThreshold ||= 3;
  defaultHttpGet(p.httpGet);
  if (p.grpc) p.grpc.service ??= '';
}

/** `latest` or no tag at all means: look for a newer one each time. */
function defaultPullPolicy(image: string): string {
  if (image.includes('@')) return 'IfNotPresent';
  const tag = /:([^:/]+)$/.exec(image)?.[1] ?? 'latest';
  return tag === 'latest' ? 'Always' : 'IfNotPresent';
}

function defaultContainer(c: Container | EphemeralContainer): void {
  c.imagePullPolicy ||= defaultPullPolicy(c.image ?? '');
  c.terminationMessagePath ||= '/dev/termination-log';
  c.terminationMessagePolicy ||= 'File';
  c.resources ??= {};
  for (const p of c.ports ?? []) p.protocol ||= 'TCP';
  for (const e of c.env ?? []) if (e.valueFrom?.fieldRef) e.valueFrom.fieldRef.apiVersion ||= 'v1';
  for (const p of [c.livenessProbe, c.readinessProbe, c.startupProbe]) defaultProbe(p);
  defaultHttpGet(c.lifecycle?.postStart?.httpGet);
  defaultHttpGet(c.lifecycle?.preStop?.httpGet);
}

const DEFAULT_MODE = 0o644;

function defaultVolume(v: Volume): void {
  if (!Object.keys(v).some((k) => k !== 'name')) v.emptyDir = {};
  if (v.hostPath) v.hostPath.type ??= '';
  for (const source of [v.secret, v.configMap, v.downwardAPI, v.projected])
    if (source) source.defaultMode ??= DEFAULT_MODE;
  const files = [v.downwardAPI, ...(v.projected?.sources ?? []).map((s) => s.downwardAPI)];
  for (const f of files)
    for (const item of f?.items ?? []) if (item.fieldRef) item.fieldRef.apiVersion ||= 'v1';
  for (const s of v.projected?.sources ?? [])
    if (s.serviceAccountToken) s.serviceAccountToken.expirationSeconds ??= 3600;
}

export const containersOf = (spec: PodSpec | undefined): (Container | EphemeralContainer)[] => [
  ...(spec?.initContainers ?? []),
  ...(spec?.containers ?? []),
  ...(spec?.ephemeralContainers ?? []),
];

/** In place. `spec` is mutable. */
export function defaultPodSpec(spec: PodSpec): void {
  spec.restartPolicy ||= 'Always';
  spec.dnsPolicy ||= 'ClusterFirst';
  spec.schedulerName ||= 'default-scheduler';
  spec.securityContext ??= {};
  spec.terminationGracePeriodSeconds ??= 30;
  spec.serviceAccountName ||= spec.serviceAccount;
  if (spec.serviceAccountName) spec.serviceAccount = spec.serviceAccountName;
  else delete spec.serviceAccountName;
  for (const c of containersOf(spec)) {
    defaultContainer(c);
    if (spec.hostNetwork) for (const p of c.ports ?? []) p.hostPort ||= p.containerPort;
  }
  for (const v of spec.volumes ?? []) defaultVolume(v);
}
