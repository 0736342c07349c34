import { validatingAdmissionPolicies, validatingAdmissionPolicyBindings } from './admissionpolicies.js';
import { apiServices } from './apiservice.js';
import { configMaps, secrets, serviceAccounts } from './config.js';
import { customResourceDefinitions } from './crd.js';
import { cronJobs } from './cronjob.js';
import { certificateSigningRequests } from './csr.js';
import { controllerRevisions, daemonSets } from './daemonset.js';
import { deviceClasses, resourceClaims, resourceClaimTemplates, resourceSlices } from './dra.js';
import { endpointSlices, endpoints } from './endpoints.js';
import { events, newEvents } from './event.js';
import { flowSchemas, priorityLevelConfigurations } from './flowcontrol.js';
import { horizontalPodAutoscalers } from './hpa.js';
import { horizontalPodAutoscalersV1 } from './hpa-v1.js';
import { jobs } from './job.js';
import type { Kind } from './kind.js';
import { leases } from './lease.js';
import { limitRanges } from './limitrange.js';
import { nodeMetrics, podMetrics } from './metrics.js';
import { mutatingAdmissionPolicies, mutatingAdmissionPolicyBindings } from './mutatingpolicies.js';
import { namespaces } from './namespace.js';
import { ingressClasses, ingresses, networkPolicies } from './networking.js';
import { nodes } from './node.js';
import { podDisruptionBudgets } from './pdb.js';
import { pods } from './pod.js';
import { priorityClasses } from './priorityclass.js';
import { clusterRoleBindings, clusterRoles, roleBindings, roles } from './rbac.js';
import { podTemplates, replicationControllers } from './replicationcontroller.js';
import { resourceQuotas } from './resourcequota.js';
import {
  localSubjectAccessReviews,
  selfSubjectAccessReviews,
  selfSubjectReviews,
  selfSubjectRulesReviews,
  subjectAccessReviews,
  tokenReviews,
} from './reviews.js';
import { runtimeClasses } from './runtimeclass.js';
import { services } from './service.js';
import { statefulSets } from './statefulset.js';
import {
  csiDrivers,
  csiNodes,
  csiStorageCapacities,
  storageClasses,
  volumeAttachments,
  volumeAttributesClasses,
} from './storage.js';
import { persistentVolumeClaims, persistentVolumes } from './volumes.js';
import { mutatingWebhookConfigurations, validatingWebhookConfigurations } from './webhookconfigurations.js';
import { deployments, replicaSets } from './workloads.js';

export {
  apiServices,
  certificateSigningRequests,
  clusterRoleBindings,
  clusterRoles,
  configMaps,
  controllerRevisions,
  cronJobs,
  csiDrivers,
  csiNodes,
  csiStorageCapacities,
  customResourceDefinitions,
  daemonSets,
  deployments,
  deviceClasses,
  endpointSlices,
  endpoints,
  events,
  flowSchemas,
  horizontalPodAutoscalers,
  horizontalPodAutoscalersV1,
  ingressClasses,
  ingresses,
  jobs,
  leases,
  limitRanges,
  localSubjectAccessReviews,
  mutatingAdmissionPolicies,
  mutatingAdmissionPolicyBindings,
  mutatingWebhookConfigurations,
  namespaces,
  networkPolicies,
  newEvents,
  nodeMetrics,
  nodes,
  persistentVolumeClaims,
  persistentVolumes,
  podDisruptionBudgets,
  podMetrics,
  pods,
  podTemplates,
  priorityClasses,
  priorityLevelConfigurations,
  replicaSets,
  replicationControllers,
  resourceClaims,
  resourceClaimTemplates,
  resourceQuotas,
  resourceSlices,
  roleBindings,
  roles,
  runtimeClasses,
  secrets,
  selfSubjectAccessReviews,
  selfSubjectReviews,
  selfSubjectRulesReviews,
  serviceAccounts,
  services,
  statefulSets,
  storageClasses,
  subjectAccessReviews,
  tokenReviews,
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
  validatingWebhookConfigurations,
  volumeAttachments,
  volumeAttributesClasses,
};

/** Every kind that the API serves. A new kind is a declaration and a line here. */
export const allKinds: readonly Kind[] = [
  namespaces,
  nodes,
  pods,
  configMaps,
  secrets,
  serviceAccounts,
  services,
  endpoints,
  persistentVolumes,
  persistentVolumeClaims,
  events,
  leases,
  limitRanges,
  resourceQuotas,
  priorityClasses,
  runtimeClasses,
  apiServices,
  deployments,
  replicaSets,
  daemonSets,
  statefulSets,
  controllerRevisions,
  horizontalPodAutoscalers,
  horizontalPodAutoscalersV1,
  podDisruptionBudgets,
  replicationControllers,
  podTemplates,
  cronJobs,
  jobs,
  endpointSlices,
  newEvents,
  ingresses,
  ingressClasses,
  networkPolicies,
  storageClasses,
  volumeAttachments,
  volumeAttributesClasses,
  csiDrivers,
  csiNodes,
  csiStorageCapacities,
  deviceClasses,
  resourceClaims,
  resourceClaimTemplates,
  resourceSlices,
  roles,
  roleBindings,
  clusterRoles,
  clusterRoleBindings,
  customResourceDefinitions,
  certificateSigningRequests,
  mutatingWebhookConfigurations,
  validatingWebhookConfigurations,
  mutatingAdmissionPolicies,
  mutatingAdmissionPolicyBindings,
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
  flowSchemas,
  priorityLevelConfigurations,
  tokenReviews,
  selfSubjectReviews,
  subjectAccessReviews,
  selfSubjectAccessReviews,
  localSubjectAccessReviews,
  selfSubjectRulesReviews,
  nodeMetrics,
  podMetrics,
] as unknown as readonly Kind[];
