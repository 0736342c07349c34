import type { Service, ServiceSpec } from 'kubernetes-types/core/v1.js';
import type { EndpointSlice } from 'kubernetes-types/discovery/v1.js';
import { describe, expect, it } from 'vitest';
import { endpointSlices, endpoints } from './endpoints.js';
import { services } from './service.js';

const port = { port: 80, protocol: 'TCP', targetPort: 80 };
const service = (spec: ServiceSpec, status?: Service['status']): Service => {
  const o: Service = { metadata: { name: 'web', namespace: 'default' }, spec, ...(status ? { status } : {}) };
  services.setDefaults!(o);
  return o;
};
const wrong = (spec: ServiceSpec, old?: ServiceSpec) => {
  const o = service(spec);
  const before = old && service(old);
  return [...services.validate!(o, before), ...(before ? services.validateUpdate!(o, before) : [])].map(
    (e) => `${e.field}: ${e.message}`,
  );
};
const cells = (o: Service) => services.columns.map((c) => c.value(o, 0));

describe('Service', () => {
  it('gets defaults', () => {
    expect(service({ ports: [{ port: 80 }] }).spec).toEqual({
      type: 'ClusterIP',
      sessionAffinity: 'None',
      internalTrafficPolicy: 'Cluster',
      ports: [port],
    });
    expect(service({ type: 'LoadBalancer', sessionAffinity: 'ClientIP', ports: [port] }).spec).toMatchObject({
      allocateLoadBalancerNodePorts: true,
      externalTrafficPolicy: 'Cluster',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 10800 } },
    });
    expect(
      service({ type: 'ExternalName', externalName: 'a.b', internalTrafficPolicy: 'Local' }).spec,
    ).toEqual({
      type: 'ExternalName',
      externalName: 'a.b',
      sessionAffinity: 'None',
    });
  });

  it.each<[string, ServiceSpec, string[]]>([
    ['right', { ports: [port] }, []],
    ['without ports', {}, ['spec.ports: Required value']],
    ['headless without ports', { clusterIP: 'None', clusterIPs: ['None'] }, []],
    [
      'two ports without names',
      { ports: [port, { ...port, port: 81 }] },
      ['spec.ports[0].name: Required value', 'spec.ports[1].name: Required value'],
    ],
    [
      'the same port twice',
      {
        ports: [
          { ...port, name: 'a' },
          { ...port, name: 'b' },
        ],
      },
      ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}'],
    ],
    [
      'a wrong port',
      { ports: [{ port: 0, targetPort: 'A' }] },
      [
        'spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive',
        'spec.ports[0].targetPort: Invalid value: "A": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)',
        'spec.ports[0].targetPort: Invalid value: "A": must contain at least one letter (a-z)',
      ],
    ],
    [
      'a wrong protocol',
      { ports: [{ ...port, protocol: 'ICMP' }] },
      ['spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'],
    ],
    [
      'a wrong type',
      { type: 'Mesh', ports: [port] },
      [
        'spec.type: Unsupported value: "Mesh": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
      ],
    ],
    [
      'a node port where there is none',
      { ports: [{ ...port, nodePort: 30000 }] },
      ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    ],
    [
      'a headless NodePort',
      { type: 'NodePort', clusterIP: 'None', clusterIPs: ['None'], ports: [port] },
      ['spec.clusterIPs[0]: Invalid value: "None": may not be set to \'None\' for NodePort services'],
    ],
    ['an ExternalName without a name', { type: 'ExternalName' }, ['spec.externalName: Required value']],
    [
      'what is no address',
      { clusterIP: 'x', clusterIPs: ['x'], ports: [port] },
      [
        'spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
      ],
    ],
    [
      'an address of the other family',
      { clusterIP: '10.0.0.1', clusterIPs: ['10.0.0.1'], ipFamilies: ['IPv6'], ports: [port] },
      [
        'spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`',
      ],
    ],
    [
      'an external policy without anything external',
      { externalTrafficPolicy: 'Local', ports: [port] },
      [
        'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services',
      ],
    ],
    [
      'an affinity that lasts too long',
      {
        sessionAffinity: 'ClientIP',
        sessionAffinityConfig: { clientIP: { timeoutSeconds: 90000 } },
        ports: [port],
      },
      [
        'spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400',
      ],
    ],
    [
      'source ranges without a load balancer',
      { loadBalancerSourceRanges: ['10.0.0.0/8'], ports: [port] },
      ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    ],
    [
      'a loopback external address',
      { externalIPs: ['127.0.0.1'], ports: [port] },
      [
        'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
      ],
    ],
  ])('%s', (_, spec, errors) => expect(wrong(spec)).toEqual(errors));

  it('keeps its address', () => {
    const old = { clusterIP: '10.0.0.1', clusterIPs: ['10.0.0.1'], ports: [port] };
    const now = { clusterIP: '10.0.0.2', clusterIPs: ['10.0.0.2'], ports: [port] };
    expect(wrong(now, old)).toEqual([
      'spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set',
    ]);
  });

  it('is updated by those who know nothing of what it was given', () => {
    const old = service({
      type: 'NodePort',
      clusterIP: '10.0.0.1',
      clusterIPs: ['10.0.0.1'],
      ipFamilies: ['IPv4'],
      ipFamilyPolicy: 'SingleStack',
      ports: [{ ...port, nodePort: 30001 }],
    });
    const update = (spec: ServiceSpec) => {
      const o: Service = { metadata: { name: 'web' }, spec };
      services.prepareForUpdate!(o, old);
      return o.spec;
    };
    expect(update({ type: 'NodePort', ports: [{ port: 81 }] })).toMatchObject({
      clusterIPs: ['10.0.0.1'],
      ports: [{ port: 81, nodePort: 30001 }],
    });
    const back = update({ ...structuredClone(old.spec), type: 'ClusterIP' });
    expect(back?.ports).toEqual([port]);
    expect(back).not.toHaveProperty('externalTrafficPolicy');
    const name = update({ ...structuredClone(old.spec), type: 'ExternalName', externalName: 'a.b' });
    expect(name).toEqual({
      type: 'ExternalName',
      externalName: 'a.b',
      sessionAffinity: 'None',
      ports: [port],
    });
  });

  it('shows the columns of kubectl', () => {
    expect(services.columns.map((c) => c.name)).toEqual([
      'Name',
      'Type',
      'Cluster-IP',
      'External-IP',
      'Port(s)',
      'Age',
      'Selector',
    ]);
    const o = service({
      clusterIPs: ['10.0.0.1'],
      clusterIP: '10.0.0.1',
      ports: [port],
      selector: { a: 'b' },
    });
    expect(cells(o)).toEqual(['web', 'ClusterIP', '10.0.0.1', '<none>', '80/TCP', '<unknown>', 'a=b']);
    const lb = service({ type: 'LoadBalancer', ports: [{ ...port, nodePort: 30001 }] });
    expect(cells(lb).slice(1, 5)).toEqual(['LoadBalancer', '<none>', '<pending>', '80:30001/TCP']);
    expect(cells(service({ type: 'ExternalName', externalName: 'a.b' })).slice(1, 5)).toEqual([
      'ExternalName',
      '<none>',
      'a.b',
      '<none>',
    ]);
  });

  it('judges what is said of its load balancer', () => {
    const lb = { loadBalancer: { ingress: [{ ip: '192.0.2.1' }] } };
    const of = (spec: ServiceSpec) => {
      const o = service(spec, structuredClone(lb));
      return services.validateStatus!(o, o, 'status').map((e) => `${e.field}: ${e.message}`);
    };
    expect(of({ type: 'LoadBalancer', ports: [port] })).toEqual([]);
    expect(of({ ports: [port] })).toEqual([
      "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
    ]);
  });
});

describe('Endpoints', () => {
  const text = (subsets: object[]) => endpoints.columns[1]!.value({ subsets } as never, 0);
  it('shows three and counts the rest', () => {
    const addresses = [1, 2, 3, 4].map((i) => ({ ip: `10.0.0.${i}` }));
    expect(text([])).toBe('<none>');
    expect(text([{ addresses: addresses.slice(0, 1), ports: [{ port: 80 }] }])).toBe('10.0.0.1:80');
    expect(text([{ addresses, ports: [{ port: 80 }] }])).toBe(
      '10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...',
    );
  });
  it('is validated', () => {
    const o = { metadata: {}, subsets: [{ addresses: [{ ip: '127.0.0.1' }], ports: [{ port: 0 }] }, {}] };
    endpoints.setDefaults!(o as never);
    expect(endpoints.validate!(o as never).map((e) => `${e.field}: ${e.message}`)).toEqual([
      'subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
      'subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive',
      'subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`',
    ]);
  });
});

describe('EndpointSlice', () => {
  const slice = (o: Partial<EndpointSlice>): EndpointSlice => {
    const s = { metadata: { name: 'a' }, addressType: 'IPv4', endpoints: [], ...o } as EndpointSlice;
    endpointSlices.setDefaults!(s);
    return s;
  };
  it.each<[Partial<EndpointSlice>, string[]]>([
    [{ endpoints: [{ addresses: ['10.0.0.1'] }], ports: [{ port: 80 }] }, []],
    [
      { addressType: 'MAC' },
      ['addressType: Unsupported value: "MAC": supported values: "FQDN", "IPv4", "IPv6"'],
    ],
    [
      { endpoints: [{ addresses: [] }] },
      ['endpoints[0].addresses: Required value: must contain at least 1 address'],
    ],
    [
      { endpoints: [{ addresses: ['fe00::1'] }] },
      ['endpoints[0].addresses: Invalid value: "fe00::1": must be an IPv4 address'],
    ],
    [
      { addressType: 'FQDN', endpoints: [{ addresses: ['host'] }] },
      [
        'endpoints[0].addresses[0]: Invalid value: "host": should be a domain with at least two segments separated by dots',
      ],
    ],
    [{ ports: [{ port: 1 }, { port: 2 }] }, ['ports[1].name: Duplicate value: ""']],
  ])('%j', (o, errors) =>
    expect(endpointSlices.validate!(slice(o)).map((e) => `${e.field}: ${e.message}`)).toEqual(errors),
  );
});
