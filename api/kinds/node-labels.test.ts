import { expect, it } from 'vitest';
import { isNodesOwnLabel } from './node-labels.js';

it.each([
  ['team', true],
  ['example.org/room', true],
  ['coxswain.dev/runtime.wasm', true],
  ['kubernetes.io/arch', true],
  ['topology.kubernetes.io/zone', true],
  ['node.kubernetes.io/anything', true],
  ['x.kubelet.kubernetes.io/anything', true],
  ['node-role.kubernetes.io/control-plane', false],
  ['node-restriction.kubernetes.io/secure', false],
  ['x.node-restriction.kubernetes.io/secure', false],
  ['kubernetes.io/anything', false],
  ['x.k8s.io/anything', false],
])('%s: %s', (key, own) => expect(isNodesOwnLabel(key)).toBe(own));
