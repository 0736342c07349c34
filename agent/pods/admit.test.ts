import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import { rejection } from './admit.js';
import { pod, TestNode } from './testing/node.js';

const ports = (name: string, hostIP: string | undefined, protocol = 'TCP'): Pod =>
  pod(name, [{ ports: [{ containerPort: 80, hostPort: 8080, protocol, ...(hostIP ? { hostIP } : {}) }] }]);
const cpu = (name: string, amount: string): Pod =>
  pod(name, [{ resources: { requests: { cpu: amount, 'example.com/foo': '9' } } }]);
const NODE = { cpu: '1', memory: '1Gi', pods: '2' };

describe('whether a node takes on a pod', () => {
  it('not when it asks for more than is left', () => {
    expect(rejection(cpu('b', '500m'), [cpu('a', '500m')], NODE)).toBeUndefined();
    expect(rejection(cpu('b', '501m'), [cpu('a', '500m')], NODE)).toEqual({
      reason: 'OutOfcpu',
      message: "Node didn't have enough resource: cpu, requested: 501, used: 500, capacity: 1000",
    });
    expect(rejection(pod('c', [{}]), [pod('a', [{}]), pod('b', [{}])], NODE)?.reason).toBe('OutOfpods');
  });

  it.each<[string, object, string]>([
    ['kernel.msgmax', {}, 'forbidden sysctl: "kernel.msgmax" not allowlisted'],
    [
      'net/ipv4/tcp_syncookies',
      { hostNetwork: true },
      'forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled',
    ],
    [
      'kernel.shm_rmid_forced',
      { hostIPC: true },
      'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled',
    ],
  ])('not when it sets %s', (name, spec, message) => {
    const sysctls = [{ name, value: '1' }];
    const asking = pod('s', [{}], { ...spec, securityContext: { sysctls } });
    expect(rejection(asking, [], NODE)).toEqual({ reason: 'SysctlForbidden', message });
    const safe = pod('s', [{}], {
      securityContext: { sysctls: [{ name: 'kernel.shm_rmid_forced', value: '1' }] },
    });
    expect(rejection(safe, [], NODE)).toBeUndefined();
  });

  it('not when another has its port', () => {
    expect(rejection(ports('b', undefined), [ports('a', '127.0.0.1')], NODE)).toEqual({
      reason: 'NodePorts',
      message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    });
    expect(rejection(ports('b', '127.0.0.1'), [ports('a', '127.0.0.2')], NODE)).toBeUndefined();
    expect(rejection(ports('b', undefined), [ports('a', undefined, 'UDP')], NODE)).toBeUndefined();
  });
});

describe('a pod that the node turns away', () => {
  let node: TestNode;
  afterEach(() => node.dispose());

  it('fails, is told of, and does so after a restart as well, though there were room by then', async () => {
    node = await new TestNode().start();
    const first = ports('a', undefined);
    node.apply(first);
    await node.until('Running', () => node.phase(first) === 'Running');
    const second = ports('b', undefined);
    node.apply(second);
    await node.until('Failed', () => node.phase(second) === 'Failed');
    expect(node.status(second)).toMatchObject({
      reason: 'NodePorts',
      message:
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    });
    expect(node.status(second)).not.toHaveProperty('containerStatuses');
    expect(node.events.at(-1)).toMatchObject({ type: 'Warning', reason: 'NodePorts' });
    node.remove(first, 0);
    await node.until('gone', () => node.reports.at(-1)?.gone === true);
    node.pods = [second];
    await node.restart();
    expect(node.phase(second)).toBe('Failed');
  });

  it('is never one that was here before, whichever the new agent sees first', async () => {
    node = await new TestNode().start();
    const first = ports('a', undefined);
    node.apply(first);
    await node.until('Running', () => node.phase(first) === 'Running');
    await node.stop();
    const second = ports('b', undefined);
    node.pods = [second, first];
    await node.start();
    await node.until('Failed', () => node.phase(second) === 'Failed');
    expect(node.phase(first)).toBe('Running');
  });
});
