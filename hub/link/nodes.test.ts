import type { Node } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import type { NodeReport } from '../../api/wire/desired.js';
import { extrasDiffer, planNode } from './nodes.js';

const FOO = 'example.com/foo';
const report = (extra: Record<string, string> = {}): NodeReport => ({
  labels: {},
  capacity: { cpu: '4', ...extra },
  allocatable: { cpu: '3900m', ...extra },
  addresses: [],
  nodeInfo: {} as NodeReport['nodeInfo'],
  conditions: [],
  runtimeHandlers: ['oci'],
});
const node = (capacity: Record<string, string>, allocatable = capacity): Node => ({
  metadata: { name: 'pi' },
  status: { capacity, allocatable },
});
const status = (old: Node, r: NodeReport) =>
  planNode(old, { name: 'pi', report: r, link: 'up' }, 0).status!.status!;

describe('resources of a node that its agent does not know of', () => {
  it('stay, whole, until somebody takes them away', () => {
    const now = status(node({ cpu: '4', [FOO]: '5' }, { cpu: '3900m' }), report());
    expect(now.capacity).toEqual({ cpu: '4', [FOO]: '5' });
    expect(now.allocatable).toEqual({ cpu: '3900m', [FOO]: '5' });
  });

  it('go with their capacity', () => {
    const now = status(node({ cpu: '4' }, { cpu: '3900m', [FOO]: '5' }), report());
    expect(now.allocatable).toEqual({ cpu: '3900m' });
  });

  it("are the agent's once it tells of them, and Kubernetes' own are its alone", () => {
    const now = status(node({ cpu: '4', [FOO]: '5', 'hugepages-2Mi': '1Gi' }), report({ [FOO]: '2' }));
    expect(now.capacity).toEqual({ cpu: '4', [FOO]: '2' });
  });

  it('are looked at again when both lists do not agree', () => {
    expect(extrasDiffer(node({ cpu: '4', [FOO]: '5' }, { cpu: '3900m', [FOO]: '5' }))).toBe(false);
    expect(extrasDiffer(node({ cpu: '4', [FOO]: '5' }, { cpu: '4' }))).toBe(true);
    expect(extrasDiffer(node({ cpu: '4' }, { cpu: '4', [FOO]: '5' }))).toBe(true);
  });
});
