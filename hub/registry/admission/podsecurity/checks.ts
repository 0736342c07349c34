/**
 * Every check of the Pod Security Standards (kubernetes.io/docs/concepts/security/pod-security-standards), with the minor
 * versions that it applies from. Pure. Texts are those of Kubernetes' pod-security-admission.
 */
import type { Container, PodSpec, Probe, SecurityContext, Volume } from 'kubernetes-types/core/v1.js';
import type { ObjectMeta } from '../../../../api/meta/object.js';

export interface Violation {
  /** Short: what kind of thing is forbidden. */
  reason: string;
  /** Where and what. */
  detail: string;
}

type Rule = (spec: PodSpec, meta: Pick<ObjectMeta, 'annotations'>) => Violation | undefined;

export interface Check {
  readonly id: string;
  readonly level: 'baseline' | 'restricted';
  /** Rules by the minor version of Kubernetes 1 that each applies from, rising. */
  readonly since: readonly (readonly [minor: number, rule: Rule])[];
  /** A check of the baseline that this one takes the place of. */
  readonly instead?: string;
}

const quote = (items: Iterable<string>): string => [...items].map((i) => `"${i}"`).join(', ');
const sorted = (items: Iterable<string>): string[] => [...new Set(items)].sort();
const plural = (word: string, n: number, more = `${word}s`): string => (n === 1 ? word : more);
const containersText = (names: readonly string[]): string =>
  `${plural('container', names.length)} ${quote(names)}`;

/** All containers, in the order in which the messages name them. */
export const containersOf = (spec: PodSpec): Container[] => [
  ...(spec.initContainers ?? []),
  ...(spec.containers ?? []),
  ...((spec.ephemeralContainers ?? []) as unknown as Container[]),
];

const namesWhere = (spec: PodSpec, wrong: (c: Container) => boolean): string[] =>
  containersOf(spec)
    .filter(wrong)
    .map((c) => c.name);

/** Who sets something wrong: `pod`, `pod and container "a"`; '' when nobody does. */
const setters = (pod: boolean, containers: readonly string[]): string =>
  [...(pod ? ['pod'] : []), ...(containers.length ? [containersText(containers)] : [])].join(' and ');

/** Kubernetes' rules for what Linux alone has do not apply to Windows since 1.25. */
const notOnWindows =
  (rule: Rule): Rule =>
  (spec, meta) =>
    spec.os?.name === 'windows' ? undefined : rule(spec, meta);

/** Root inside of a user namespace is nobody outside: some rules do not apply since 1.35. */
const notInUserNamespace =
  (rule: Rule): Rule =>
  (spec, meta) =>
    spec.hostUsers === false ? undefined : rule(spec, meta);

const allowPrivilegeEscalation: Rule = (spec) => {
  const bad = namesWhere(spec, (c) => c.securityContext?.allowPrivilegeEscalation !== false);
  return bad.length
    ? {
        reason: 'allowPrivilegeEscalation != false',
        detail: `${containersText(bad)} must set securityContext.allowPrivilegeEscalation=false`,
      }
    : undefined;
};

const APPARMOR_ANNOTATION = 'container.apparmor.security.beta.kubernetes.io/';
/** `appArmorProfile` is younger than the package that has the types. */
type WithAppArmor = { appArmorProfile?: { type: string } };

const appArmorProfile: Rule = (spec, meta) => {
  const typeOf = (context: object | undefined) =>
    (context as WithAppArmor | undefined)?.appArmorProfile?.type;
  const wrong = (type: string | undefined): type is string =>
    type !== undefined && type !== 'RuntimeDefault' && type !== 'Localhost';
  const ofPod = typeOf(spec.securityContext);
  const bad = containersOf(spec).filter((c) => wrong(typeOf(c.securityContext)));
  const values = sorted([
    ...(wrong(ofPod) ? [ofPod] : []),
    ...bad.map((c) => typeOf(c.securityContext) as string),
  ]);
  const annotations = Object.entries(meta.annotations ?? {})
    .filter(
      ([k, v]) =>
        k.startsWith(APPARMOR_ANNOTATION) && v && v !== 'runtime/default' && !v.startsWith('localhost/'),
    )
    .map(([k, v]) => `${k}=${JSON.stringify(v)}`)
    .sort();
  const who = [
    setters(
      wrong(ofPod),
      bad.map((c) => c.name),
    ),
    annotations.length ? plural('annotation', annotations.length) : '',
  ].filter(Boolean);
  const all = [...values, ...annotations];
  return who.length
    ? {
        reason: plural('forbidden AppArmor profile', all.length),
        detail: `${who.join(' and ')} must not set AppArmor profile type to ${quote(all)}`,
      }
    : undefined;
};

const BASELINE_CAPABILITIES = new Set([
  'AUDIT_WRITE',
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'MKNOD',
  'NET_BIND_SERVICE',
  'SETFCAP',
  'SETGID',
  'SETPCAP',
  'SETUID',
  'SYS_CHROOT',
]);

/** Containers that add capabilities outside of `allowed`, and which. */
function addedBeyond(
  spec: PodSpec,
  allowed: ReadonlySet<string>,
): { names: string[]; text: string } | undefined {
  const extra = (c: Container) =>
    (c.securityContext?.capabilities?.add ?? []).filter((cap) => !allowed.has(cap));
  const bad = containersOf(spec).filter((c) => extra(c).length > 0);
  if (bad.length === 0) return undefined;
  const names = bad.map((c) => c.name);
  const text = `${containersText(names)} must not include ${quote(sorted(bad.flatMap(extra)))} in securityContext.capabilities.add`;
  return { names, text };
}

const capabilitiesBaseline: Rule = (spec) => {
  const added = addedBeyond(spec, BASELINE_CAPABILITIES);
  return added && { reason: 'non-default capabilities', detail: added.text };
};

const capabilitiesRestricted: Rule = (spec) => {
  const keeping = namesWhere(
    spec,
    (c) => !(c.securityContext?.capabilities?.drop ?? []).some((cap) => cap === 'ALL'),
  );
  const added = addedBeyond(spec, new Set(['NET_BIND_SERVICE']));
  const details = [
    ...(keeping.length
      ? [`${containersText(keeping)} must set securityContext.capabilities.drop=["ALL"]`]
      : []),
    ...(added ? [added.text] : []),
  ];
  return details.length ? { reason: 'unrestricted capabilities', detail: details.join('; ') } : undefined;
};

const hostNamespaces: Rule = (spec) => {
  const set = (['hostNetwork', 'hostPID', 'hostIPC'] as const).filter((f) => spec[f]);
  return set.length
    ? { reason: 'host namespaces', detail: set.map((f) => `${f}=true`).join(', ') }
    : undefined;
};

const hostPathVolumes: Rule = (spec) => {
  const bad = (spec.volumes ?? []).filter((v) => v.hostPath).map((v) => v.name);
  return bad.length
    ? { reason: 'hostPath volumes', detail: `${plural('volume', bad.length)} ${quote(bad)}` }
    : undefined;
};

const hostPorts: Rule = (spec) => {
  const portsOf = (c: Container) => (c.ports ?? []).filter((p) => p.hostPort).map((p) => String(p.hostPort));
  const bad = namesWhere(spec, (c) => portsOf(c).length > 0);
  const ports = sorted(containersOf(spec).flatMap(portsOf));
  return bad.length
    ? {
        reason: 'hostPort',
        detail: `${containersText(bad)} ${plural('uses', bad.length, 'use')} ${plural('hostPort', ports.length)} ${ports.join(', ')}`,
      }
    : undefined;
};

type Handler = Pick<Probe, 'httpGet' | 'tcpSocket'> | undefined;

const hostProbes: Rule = (spec) => {
  const hostsOf = (c: Container): string[] => {
    const handlers: Handler[] = [
      c.livenessProbe,
      c.readinessProbe,
      c.startupProbe,
      c.lifecycle?.postStart,
      c.lifecycle?.preStop,
    ];
    return handlers.flatMap((h) => [h?.httpGet?.host, h?.tcpSocket?.host]).filter((h) => !!h) as string[];
  };
  const bad = sorted(namesWhere(spec, (c) => hostsOf(c).length > 0));
  const hosts = sorted(containersOf(spec).flatMap(hostsOf));
  return bad.length
    ? {
        reason: 'probe or lifecycle host',
        detail: `${containersText(bad)} ${plural('uses', bad.length, 'use')} ${plural('probe or lifecycle host', hosts.length)} ${quote(hosts)}`,
      }
    : undefined;
};

const privileged: Rule = (spec) => {
  const bad = namesWhere(spec, (c) => c.securityContext?.privileged === true);
  return bad.length
    ? {
        reason: 'privileged',
        detail: `${containersText(bad)} must not set securityContext.privileged=true`,
      }
    : undefined;
};

const procMount: Rule = (spec) => {
  const of = (c: Container) => c.securityContext?.procMount;
  const bad = containersOf(spec).filter((c) => of(c) !== undefined && of(c) !== 'Default');
  return bad.length
    ? {
        reason: 'procMount',
        detail: `${containersText(bad.map((c) => c.name))} must not set securityContext.procMount to ${quote(sorted(bad.map((c) => of(c)!)))}`,
      }
    : undefined;
};

const FREE_VOLUMES = [
  'configMap',
  'csi',
  'downwardAPI',
  'emptyDir',
  'ephemeral',
  'image',
  'persistentVolumeClaim',
  'projected',
  'secret',
];

const restrictedVolumes: Rule = (spec) => {
  const typeOf = (v: Volume) => Object.keys(v).find((k) => k !== 'name') ?? 'unknown';
  const bad = (spec.volumes ?? []).filter((v) => !FREE_VOLUMES.some((f) => Object.hasOwn(v, f)));
  const types = sorted(bad.map(typeOf));
  return bad.length
    ? {
        reason: 'restricted volume types',
        detail: `${plural('volume', bad.length)} ${quote(bad.map((v) => v.name))} ${plural('uses', bad.length, 'use')} ${plural('restricted volume type', types.length)} ${quote(types)}`,
      }
    : undefined;
};

const runAsNonRoot: Rule = (spec) => {
  const reason = 'runAsNonRoot != true';
  const ofPod = spec.securityContext?.runAsNonRoot;
  const of = (c: Container) => c.securityContext?.runAsNonRoot;
  const explicit = setters(
    ofPod === false,
    namesWhere(spec, (c) => of(c) === false),
  );
  if (explicit) return { reason, detail: `${explicit} must not set securityContext.runAsNonRoot=false` };
  const silent = ofPod ? [] : namesWhere(spec, (c) => of(c) === undefined);
  return silent.length
    ? { reason, detail: `pod or ${containersText(silent)} must set securityContext.runAsNonRoot=true` }
    : undefined;
};

const runAsUser: Rule = (spec) => {
  const root = setters(
    spec.securityContext?.runAsUser === 0,
    namesWhere(spec, (c) => c.securityContext?.runAsUser === 0),
  );
  return root ? { reason: 'runAsUser=0', detail: `${root} must not set runAsUser=0` } : undefined;
};

const seLinuxOptions =
  (allowed: readonly string[]): Rule =>
  (spec) => {
    const optionsOf = (context: Pick<SecurityContext, 'seLinuxOptions'> | undefined) =>
      context?.seLinuxOptions ?? {};
    const wrong = (o: ReturnType<typeof optionsOf>) =>
      !allowed.includes(o.type ?? '') || !!o.user || !!o.role;
    const ofPod = optionsOf(spec.securityContext);
    const bad = containersOf(spec).filter((c) => wrong(optionsOf(c.securityContext)));
    const who = setters(
      wrong(ofPod),
      bad.map((c) => c.name),
    );
    if (!who) return undefined;
    const all = [ofPod, ...bad.map((c) => optionsOf(c.securityContext))];
    const types = sorted(all.map((o) => o.type ?? '').filter((t) => !allowed.includes(t)));
    const data = [
      ...(types.length ? [`${plural('type', types.length)} ${quote(types)}`] : []),
      ...(all.some((o) => o.user) ? ['user may not be set'] : []),
      ...(all.some((o) => o.role) ? ['role may not be set'] : []),
    ];
    return {
      reason: 'seLinuxOptions',
      detail: `${who} set forbidden securityContext.seLinuxOptions: ${data.join('; ')}`,
    };
  };

const SECCOMP_POD = 'seccomp.security.alpha.kubernetes.io/pod';
const SECCOMP_CONTAINER = 'container.seccomp.security.alpha.kubernetes.io/';

const seccompAnnotations: Rule = (spec, meta) => {
  const wrong = (v: string) =>
    v !== 'runtime/default' && v !== 'docker/default' && !v.startsWith('localhost/');
  const keys = [SECCOMP_POD, ...containersOf(spec).map((c) => SECCOMP_CONTAINER + c.name)];
  const bad = sorted(
    keys.flatMap((k) => {
      const v = meta.annotations?.[k];
      return v !== undefined && wrong(v) ? [`${k}=${JSON.stringify(v)}`] : [];
    }),
  );
  return bad.length
    ? {
        reason: 'seccompProfile',
        detail: `forbidden ${plural('annotation', bad.length)} ${bad.join(', ')}`,
      }
    : undefined;
};

const seccompType = (context: Pick<SecurityContext, 'seccompProfile'> | undefined): string | undefined =>
  context?.seccompProfile?.type;

const seccompBaseline: Rule = (spec) => {
  const wrong = (type: string | undefined) =>
    type !== undefined && type !== 'Localhost' && type !== 'RuntimeDefault';
  const ofPod = seccompType(spec.securityContext);
  const bad = containersOf(spec).filter((c) => wrong(seccompType(c.securityContext)));
  const who = setters(
    wrong(ofPod),
    bad.map((c) => c.name),
  );
  const values = sorted([
    ...(wrong(ofPod) ? [ofPod!] : []),
    ...bad.map((c) => seccompType(c.securityContext)!),
  ]);
  return who
    ? {
        reason: 'seccompProfile',
        detail: `${who} must not set securityContext.seccompProfile.type to ${quote(values)}`,
      }
    : undefined;
};

const seccompRestricted: Rule = (spec, meta) => {
  const explicit = seccompBaseline(spec, meta);
  if (explicit) return explicit;
  if (seccompType(spec.securityContext)) return undefined;
  const silent = namesWhere(spec, (c) => seccompType(c.securityContext) === undefined);
  return silent.length
    ? {
        reason: 'seccompProfile',
        detail: `pod or ${containersText(silent)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"`,
      }
    : undefined;
};

const sysctls =
  (...allowed: string[]): Rule =>
  (spec) => {
    const bad = (spec.securityContext?.sysctls ?? []).map((s) => s.name).filter((n) => !allowed.includes(n));
    return bad.length ? { reason: 'forbidden sysctls', detail: bad.join(', ') } : undefined;
  };

const SYSCTLS_1_0 = [
  'kernel.shm_rmid_forced',
  'net.ipv4.ip_local_port_range',
  'net.ipv4.tcp_syncookies',
  'net.ipv4.ping_group_range',
  'net.ipv4.ip_unprivileged_port_start',
];
const SYSCTLS_1_27 = [...SYSCTLS_1_0, 'net.ipv4.ip_local_reserved_ports'];
const SYSCTLS_1_29 = [
  ...SYSCTLS_1_27,
  'net.ipv4.tcp_keepalive_time',
  'net.ipv4.tcp_fin_timeout',
  'net.ipv4.tcp_keepalive_intvl',
  'net.ipv4.tcp_keepalive_probes',
];
const SYSCTLS_1_32 = [...SYSCTLS_1_29, 'net.ipv4.tcp_rmem', 'net.ipv4.tcp_wmem'];

const windowsHostProcess: Rule = (spec) => {
  const set = (context: Pick<SecurityContext, 'windowsOptions'> | undefined) =>
    context?.windowsOptions?.hostProcess === true;
  const who = setters(
    set(spec.securityContext),
    namesWhere(spec, (c) => set(c.securityContext)),
  );
  return who
    ? { reason: 'hostProcess', detail: `${who} must not set securityContext.windowsOptions.hostProcess=true` }
    : undefined;
};

const SELINUX_TYPES = ['', 'container_t', 'container_init_t', 'container_kvm_t'];

/** In the order in which messages name them: baseline first, each level by name. */
export const checks: readonly Check[] = [
  { id: 'appArmorProfile', level: 'baseline', since: [[0, appArmorProfile]] },
  { id: 'capabilities_baseline', level: 'baseline', since: [[0, capabilitiesBaseline]] },
  { id: 'hostNamespaces', level: 'baseline', since: [[0, hostNamespaces]] },
  { id: 'hostPathVolumes', level: 'baseline', since: [[0, hostPathVolumes]] },
  { id: 'hostPorts', level: 'baseline', since: [[0, hostPorts]] },
  { id: 'hostProbesAndHostLifecycle', level: 'baseline', since: [[34, hostProbes]] },
  { id: 'privileged', level: 'baseline', since: [[0, privileged]] },
  {
    id: 'procMount',
    level: 'baseline',
    since: [
      [0, procMount],
      [35, notInUserNamespace(procMount)],
    ],
  },
  {
    id: 'seLinuxOptions',
    level: 'baseline',
    since: [
      [0, seLinuxOptions(SELINUX_TYPES)],
      [31, seLinuxOptions([...SELINUX_TYPES, 'container_engine_t'])],
    ],
  },
  {
    id: 'seccompProfile_baseline',
    level: 'baseline',
    since: [
      [0, seccompAnnotations],
      [19, seccompBaseline],
    ],
  },
  {
    id: 'sysctls',
    level: 'baseline',
    since: [
      [0, sysctls(...SYSCTLS_1_0)],
      [27, sysctls(...SYSCTLS_1_27)],
      [29, sysctls(...SYSCTLS_1_29)],
      [32, sysctls(...SYSCTLS_1_32)],
    ],
  },
  { id: 'windowsHostProcess', level: 'baseline', since: [[0, windowsHostProcess]] },
  {
    id: 'allowPrivilegeEscalation',
    level: 'restricted',
    since: [
      [8, allowPrivilegeEscalation],
      [25, notOnWindows(allowPrivilegeEscalation)],
    ],
  },
  {
    id: 'capabilities_restricted',
    level: 'restricted',
    since: [
      [22, capabilitiesRestricted],
      [25, notOnWindows(capabilitiesRestricted)],
    ],
    instead: 'capabilities_baseline',
  },
  { id: 'procMount_restricted', level: 'restricted', since: [[35, procMount]], instead: 'procMount' },
  {
    id: 'restrictedVolumes',
    level: 'restricted',
    since: [[0, restrictedVolumes]],
    instead: 'hostPathVolumes',
  },
  {
    id: 'runAsNonRoot',
    level: 'restricted',
    since: [
      [0, runAsNonRoot],
      [35, notInUserNamespace(runAsNonRoot)],
    ],
  },
  {
    id: 'runAsUser',
    level: 'restricted',
    since: [
      [23, runAsUser],
      [35, notInUserNamespace(runAsUser)],
    ],
  },
  {
    id: 'seccompProfile_restricted',
    level: 'restricted',
    since: [
      [19, seccompRestricted],
      [25, notOnWindows(seccompRestricted)],
    ],
    instead: 'seccompProfile_baseline',
  },
];
