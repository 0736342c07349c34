/** Which log, and how much of it: the kubelet's PodLogOptions (core/v1 types.go) plus the pod's identity. */
export interface PodLogOptions extends PodTarget {
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

/** A container of a pod, or the pod. */
export interface PodTarget {
  namespace: string;
  pod: string;
  uid: string;
}

/** The kubelet's PodAttachOptions (core/v1 types.go): which of the process' streams are wanted. */
export interface AttachOptions extends PodTarget {
  container: string;
  stdin?: boolean;
  stdout?: boolean;
  stderr?: boolean;
  tty?: boolean;
}

export interface ExecOptions extends AttachOptions {
  command: string[];
}

/** One connection to a port of the pod. */
export interface ForwardOptions extends PodTarget {
  port: number;
}

/** What usage is asked for: the node's, and each pod's as well with `p`. */
export interface StatsOptions {
  p?: 1;
}

/** CPU in millionths of a core, on average over the window; working set in KiB. */
export type Usage = [cpu: number, memory: number];

/** Answer to `stats`. Bytes are paid for: pods are named by the beginning of their uid, containers by their place. */
export interface NodeStats {
  /** Milliseconds over which CPU was measured. */
  w: number;
  n: Usage;
  /** Pods with a running container; each of those of {@link statsOrder}, `null` for what does not run. */
  p?: [uid: string, ...(Usage | null)[]][];
}

/** Characters of a uid that tell the pods of one node apart. */
export const STATS_UID = 8;

/** Names of a pod's containers in the order in which `stats` lists them: those that may be added later come last. */
export const statsOrder = (
  spec:
    | {
        readonly containers?: readonly { readonly name: string }[];
        readonly initContainers?: readonly { readonly name: string }[];
        readonly ephemeralContainers?: readonly { readonly name: string }[];
      }
    | undefined,
): string[] =>
  [...(spec?.containers ?? []), ...(spec?.initContainers ?? []), ...(spec?.ephemeralContainers ?? [])].map(
    (c) => c.name,
  );
