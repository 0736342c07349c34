import type { Container, Pod, PodSpec, ServiceAccount, Volume } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../../api/clock.js';
import { pods, serviceAccounts } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { deepCopy, deepFreeze } from '../../../api/meta/json.js';
import type { Frozen } from '../../client.js';
import { forbidden, type Plugin, type Request, same } from './plugin.js';

const MIRROR = 'kubernetes.io/config.mirror';
const ENFORCE = 'kubernetes.io/enforce-mountable-secrets';
const MOUNT_PATH = '/var/run/secrets/kubernetes.io/serviceaccount';
const PREFIX = 'kube-api-access-';
const SUFFIX = 'bcdfghjklmnpqrstvwxz2456789';

/** What is mounted: one object for all pods, since every pod of the cluster holds it in memory. */
const API_ACCESS: Frozen<NonNullable<Volume['projected']>> = deepFreeze({
  defaultMode: 420,
  sources: [
    { serviceAccountToken: { expirationSeconds: 3607, path: 'token' } },
    { configMap: { items: [{ key: 'ca.crt', path: 'ca.crt' }], name: 'kube-root-ca.crt' } },
    {
      downwardAPI: {
        items: [{ fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.namespace' }, path: 'namespace' }],
      },
    },
  ],
});

/** strconv.ParseBool. */
const TRUE = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);

/** A pod runs as a ServiceAccount that is there, and gets its token, the API's CA and its namespace as files. */
export const serviceAccount = (clock: Clock): Plugin => ({
  name: 'ServiceAccount',
  handles: ({ kind, operation, subresource }) => same(kind, pods) && operation === 'CREATE' && !subresource,
  mutate(request) {
    const pod = request.object as Pod;
    const { spec } = pod;
    if (!spec) return;
    if (pod.metadata?.annotations?.[MIRROR] !== undefined) {
      const why = wrongInMirror(spec);
      if (why) throw forbidden(request, why);
      return;
    }
    spec.serviceAccountName ||= 'default';
    spec.serviceAccount = spec.serviceAccountName;
    const account = accountOf(request, spec.serviceAccountName);
    if (account && TRUE.has(account.metadata?.annotations?.[ENFORCE] ?? '')) {
      const why = notMountable(spec, account);
      if (why) throw forbidden(request, why);
    }
    if (spec.automountServiceAccountToken ?? account?.automountServiceAccountToken ?? true)
      mount(spec, clock);
    if (!spec.imagePullSecrets?.length && account?.imagePullSecrets?.length)
      spec.imagePullSecrets = deepCopy(account.imagePullSecrets) as { name?: string }[];
  },
});

/** Throws Forbidden when there is none. */
function accountOf(request: Request, name: string): Frozen<ServiceAccount> | undefined {
  const { namespace = '' } = request;
  // No valid name: validation says so.
  if (name.includes('/')) return undefined;
  const found = request.world.get(serviceAccounts as unknown as Kind, { namespace, name });
  // The default account is made by a controller right after its namespace; a pod need not wait for it.
  if (!found && name !== 'default')
    throw forbidden(
      request,
      `error looking up service account ${namespace}/${name}: serviceaccount ${JSON.stringify(name)} not found`,
    );
  return found as Frozen<ServiceAccount> | undefined;
}

function wrongInMirror(spec: PodSpec): string | undefined {
  if (spec.serviceAccountName) return 'a mirror pod may not reference service accounts';
  const inContainers = [...(spec.initContainers ?? []), ...(spec.containers ?? [])].some(
    (c) => c.env?.some((e) => e.valueFrom?.secretKeyRef) || c.envFrom?.some((e) => e.secretRef),
  );
  const inVolumes = spec.volumes?.some((v) => v.secret || v.projected?.sources?.some((s) => s.secret));
  if (inContainers || inVolumes || spec.imagePullSecrets?.length)
    return 'a mirror pod may not reference secrets';
  if (spec.volumes?.some((v) => v.projected?.sources?.some((s) => s.serviceAccountToken)))
    return 'a mirror pod may not use ServiceAccountToken volume projections';
  return undefined;
}

/** Which secret a pod names that its account does not; in Kubernetes' words. */
function notMountable(spec: PodSpec, account: Frozen<ServiceAccount>): string | undefined {
  const allowed = new Set(account.secrets?.map((s) => s.name));
  const is = `is not allowed because service account ${account.metadata?.name} does not reference that`;
  for (const v of spec.volumes ?? []) {
    const name = v.secret?.secretName;
    if (v.secret && !allowed.has(name)) return `volume with secret.secretName="${name}" ${is} secret`;
  }
  const inContainer = (what: string, c: Container): string | undefined => {
    for (const e of c.env ?? []) {
      const ref = e.valueFrom?.secretKeyRef;
      if (ref && !allowed.has(ref.name))
        return `${what} ${c.name} with envVar ${e.name} referencing secret.secretName="${ref.name}" ${is} secret`;
    }
    for (const { secretRef } of c.envFrom ?? [])
      if (secretRef && !allowed.has(secretRef.name))
        return `${what} ${c.name} with envFrom referencing secret.secretName="${secretRef.name}" ${is} secret`;
    return undefined;
  };
  for (const [what, list] of [
    ['init container', spec.initContainers],
    ['container', spec.containers],
  ] as const)
    for (const c of list ?? []) {
      const why = inContainer(what, c);
      if (why) return why;
    }
  const pull = new Set(account.imagePullSecrets?.map((s) => s.name));
  for (const [i, { name }] of (spec.imagePullSecrets ?? []).entries())
    if (!pull.has(name)) return `imagePullSecrets[${i}].name="${name}" ${is} imagePullSecret`;
  return undefined;
}

/** Mounts the account's token, the CA and the namespace into every container that has nothing at their path. */
function mount(spec: PodSpec, clock: Clock): void {
  const lacking = [...(spec.initContainers ?? []), ...(spec.containers ?? [])].filter(
    (c) => !c.volumeMounts?.some((m) => m.mountPath === MOUNT_PATH),
  );
  if (lacking.length === 0) return;
  // A pod that was admitted once and is created again has the volume already.
  let name = spec.volumes?.find((v) => v.name?.startsWith(PREFIX))?.name;
  if (name === undefined) {
    name = PREFIX;
    for (let i = 0; i < 5; i++) name += SUFFIX[Math.floor(clock.random() * SUFFIX.length)];
    const volume: Volume = { name, projected: API_ACCESS as NonNullable<Volume['projected']> };
    spec.volumes = [...(spec.volumes ?? []), volume];
  }
  for (const c of lacking)
    c.volumeMounts = [...(c.volumeMounts ?? []), { name, readOnly: true, mountPath: MOUNT_PATH }];
}
