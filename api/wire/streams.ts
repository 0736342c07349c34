/** Which log, and how much of it: the kubelet's PodLogOptions (core/v1 types.go) plus the pod's identity. */
export interface PodLogOptions {
  namespace: string;
  pod: string;
  uid: string;
  container: string;
  follow?: boolean;
  previous?: boolean;
  timestamps?: boolean;
  tailLines?: number;
  sinceSeconds?: number;
  /** RFC 3339 */
  sinceTime?: string;
  limitBytes?: number;
}
