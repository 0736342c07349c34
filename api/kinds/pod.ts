import type { Pod } from 'kubernetes-types/core/v1.js';
import type { Kind } from './kind.js';

export const pods: Kind<Pod> = {
  group: '',
  version: 'v1',
  kind: 'Pod',
  plural: 'pods',
  singular: 'pod',
  shortNames: ['po'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.Pod',
  columns: [],
  status: true,
  selectable: {
    'spec.nodeName': (o) => o.spec?.nodeName ?? '',
    'spec.restartPolicy': (o) => o.spec?.restartPolicy ?? '',
    'spec.schedulerName': (o) => o.spec?.schedulerName ?? '',
    'spec.serviceAccountName': (o) => o.spec?.serviceAccountName ?? '',
    'spec.hostNetwork': (o) => String(o.spec?.hostNetwork ?? false),
    'status.phase': (o) => o.status?.phase ?? '',
    'status.podIP': (o) => o.status?.podIP ?? '',
    'status.nominatedNodeName': (o) => o.status?.nominatedNodeName ?? '',
  },
  generation: true,
  // Nothing runs of a pod that is on no node or has ended: it goes at once.
  defaultGracePeriod: (o) =>
    !o.spec?.nodeName || o.status?.phase === 'Succeeded' || o.status?.phase === 'Failed'
      ? 0
      : (o.spec.terminationGracePeriodSeconds ?? 30),
};
