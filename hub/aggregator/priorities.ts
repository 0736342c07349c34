/** The order of groups and versions in discovery, by APIServices' own numbers (kube-apiserver app/aggregator.go). */

/** Of a group, and of its versions; higher comes first. */
export interface Priority {
  readonly group: number;
  readonly version: number;
}

/** What the groups of Kubernetes have. */
const GROUPS: Readonly<Record<string, number>> = {
  '': 18_000,
  apps: 17_800,
  'events.k8s.io': 17_750,
  'authentication.k8s.io': 17_700,
  'authorization.k8s.io': 17_600,
  autoscaling: 17_500,
  batch: 17_400,
  'certificates.k8s.io': 17_300,
  'networking.k8s.io': 17_200,
  policy: 17_100,
  'rbac.authorization.k8s.io': 17_000,
  'storage.k8s.io': 16_800,
  'apiextensions.k8s.io': 16_700,
  'admissionregistration.k8s.io': 16_700,
  'scheduling.k8s.io': 16_600,
  'coordination.k8s.io': 16_500,
  'node.k8s.io': 16_300,
  'discovery.k8s.io': 16_200,
  'resource.k8s.io': 16_200,
  'flowcontrol.apiserver.k8s.io': 16_100,
  'storagemigration.k8s.io': 15_800,
  // That of metrics-server, whose place this API takes.
  'metrics.k8s.io': 100,
};
const VERSIONS: Readonly<Record<string, number>> = {
  '/v1': 1,
  'autoscaling/v2': 30,
  'flowcontrol.apiserver.k8s.io/v1': 21,
  'resource.k8s.io/v1': 21,
  'metrics.k8s.io/v1beta1': 100,
};
const STABLE = 15;
const UNSTABLE = 9;
/** Of what CustomResourceDefinitions make. */
const CUSTOM: Priority = { group: 1000, version: 100 };

export const priorityOf = (group: string, version: string, custom: boolean): Priority =>
  custom
    ? CUSTOM
    : {
        group: GROUPS[group] ?? CUSTOM.group,
        version: VERSIONS[`${group}/${version}`] ?? (/^v\d+$/.test(version) ? STABLE : UNSTABLE),
      };
