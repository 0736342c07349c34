import type { Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { hostnameOf, hostsFile } from './hosts.js';
import { restarts } from './restarts.js';

const pod = (spec: object, name = 'web-0'): Pod => ({
  metadata: { name, namespace: 'ns' },
  spec: { containers: [], ...spec },
});

describe('the name of a pod', () => {
  it.each<[object, string, string | undefined]>([
    [{}, 'web-0', undefined],
    [{ hostname: 'h' }, 'h', undefined],
    [{ subdomain: 's' }, 'web-0', 'web-0.s.ns.svc.cluster.local'],
    [
      { hostname: 'h', subdomain: 's', setHostnameAsFQDN: true },
      'h.s.ns.svc.cluster.local',
      'h.s.ns.svc.cluster.local',
    ],
    [{ setHostnameAsFQDN: true }, 'web-0', undefined],
    [
      { hostname: 'h', subdomain: 's', hostnameOverride: 'other.example.com' },
      'other.example.com',
      undefined,
    ],
  ])('%j', (spec, hostname, fqdn) => {
    expect(hostnameOf(pod(spec))).toEqual({ hostname, fqdn });
  });

  it('is cut where DNS has no room for it, unless it must be whole', () => {
    expect(hostnameOf(pod({}, `${'x'.repeat(62)}-y`)).hostname).toBe('x'.repeat(62));
    const long = { hostname: 'x'.repeat(60), subdomain: 's', setHostnameAsFQDN: true };
    expect(() => hostnameOf(pod(long))).toThrow(
      'is too long (64 characters is the max, 83 characters requested)',
    );
  });
});

it('/etc/hosts has the pod under all its names, then the aliases', () => {
  const hostAliases = [{ ip: '192.0.2.7', hostnames: ['a', 'b'] }];
  const lines = hostsFile(pod({ subdomain: 's', hostAliases }), ['10.0.0.5', 'fd00::5'], undefined).split(
    '\n',
  );
  expect(lines[0]).toBe('# Kubernetes-managed hosts file.');
  expect(lines.slice(7)).toEqual([
    '10.0.0.5\tweb-0.s.ns.svc.cluster.local\tweb-0',
    'fd00::5\tweb-0.s.ns.svc.cluster.local\tweb-0',
    '',
    '# Entries added by HostAliases.',
    '192.0.2.7\ta\tb',
    '',
  ]);
  expect(hostsFile(pod({}), [], '127.0.0.1 localhost\n')).toBe(
    '# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n',
  );
});

describe('restarts', () => {
  const c = (own: object) => ({ name: 'c', ...own });
  const rules = (operator: string, ...values: number[]) => ({
    restartPolicyRules: [{ action: 'Restart', exitCodes: { operator, values } }],
  });
  it.each<[object, 'Always' | 'OnFailure' | 'Never', number | undefined, boolean]>([
    [{}, 'Always', 0, true],
    [{}, 'OnFailure', 0, false],
    [{}, 'OnFailure', undefined, true],
    [{}, 'Never', 1, false],
    [{ restartPolicy: 'Never' }, 'Always', 1, false],
    [{ restartPolicy: 'OnFailure' }, 'Never', 1, true],
    [{ restartPolicy: 'Never', ...rules('In', 42) }, 'Never', 42, true],
    [{ restartPolicy: 'Never', ...rules('In', 42) }, 'Always', 41, false],
    [{ restartPolicy: 'Never', ...rules('NotIn', 0, 1) }, 'Never', 2, true],
    [{ restartPolicy: 'Never', ...rules('NotIn', 0, 1) }, 'Never', 1, false],
  ])('%j in a pod of %s, exit code %s: %s', (own, policy, code, expected) => {
    expect(restarts(c(own), policy, code)).toBe(expected);
  });
});
