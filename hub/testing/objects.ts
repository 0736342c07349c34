import type { Node, Pod } from 'kubernetes-types/core/v1.js';

/** A ready node with room, for tests. */
export function aNode(
  name: string,
  change: (n: Node & { status: object; spec: object }) => void = () => {},
): Node {
  const node = {
    apiVersion: 'v1' as const,
    kind: 'Node' as const,
    metadata: {
      name,
      labels: { 'kubernetes.io/hostname': name, 'coxswain.dev/runtime.oci': 'true' } as Record<
        string,
        string
      >,
    },
    spec: {},
    status: {
      capacity: { cpu: '4', memory: '4Gi', pods: '110' },
      allocatable: { cpu: '4', memory: '4Gi', pods: '110' } as Record<string, string>,
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
  change(node);
  return node;
}

/** A pod with one container, for tests. */
export function aPod(
  name: string,
  spec: Partial<Pod['spec']> = {},
  requests: Record<string, string> = {},
): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'default', name },
    spec: { containers: [{ name: 'main', image: 'x', resources: { requests } }], ...spec },
  };
}
