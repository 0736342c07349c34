import { describe, expect, it } from 'vitest';
import type { AnyObject } from '../meta/object.js';
import {
  csiDrivers,
  csiNodes,
  ingressClasses,
  ingresses,
  networkPolicies,
  persistentVolumeClaims,
  persistentVolumes,
  storageClasses,
  volumeAttachments,
  volumeAttributesClasses,
} from './index.js';
import type { Kind } from './kind.js';

const K = (k: unknown) => k as Kind;
const made = (kind: unknown, o: object): AnyObject => {
  const object = { metadata: { name: 'x', namespace: 'default' }, ...structuredClone(o) } as AnyObject;
  K(kind).setDefaults?.(object);
  K(kind).prepareForCreate?.(object, { user: 'test', groups: [] } as never);
  return object;
};
const wrong = (kind: unknown, o: object) =>
  K(kind).validate!(made(kind, o)).map((e) => `${e.field}: ${e.message}`);
const wrongChange = (kind: unknown, now: object, old: object) =>
  K(kind).validateUpdate!(made(kind, now), made(kind, old)).map((e) => `${e.field}: ${e.message}`);
const cells = (kind: unknown, o: object) =>
  K(kind).columns.map((c) => c.value({ ...made(kind, o), ...o } as AnyObject, 0));

const pv = (over: object = {}) => ({
  spec: {
    capacity: { storage: '1Gi' },
    accessModes: ['ReadWriteOnce'],
    hostPath: { path: '/data' },
    ...over,
  },
});
const pvc = (over: object = {}) => ({
  spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } }, ...over },
});
const backend = { service: { name: 'web', port: { number: 80 } } };
const ingress = (path: object, over: object = {}) => ({
  spec: { rules: [{ host: 'a.example', http: { paths: [{ backend, ...path }] } }], ...over },
});

describe('validation', () => {
  it.each<[string, unknown, object, string[]]>([
    ['PV', persistentVolumes, pv(), []],
    [
      'PV that says nothing',
      persistentVolumes,
      {},
      [
        'spec.accessModes: Required value',
        'spec.capacity: Required value',
        'spec.capacity: Unsupported value: {}: supported values: "storage"',
        'spec: Required value: must specify a volume type',
      ],
    ],
    [
      'PV of two kinds',
      persistentVolumes,
      pv({ nfs: { server: 's', path: '/' } }),
      ['spec.nfs: Forbidden: may not specify more than 1 volume type'],
    ],
    [
      'local PV for no node',
      persistentVolumes,
      pv({ hostPath: undefined, local: { path: '/data' } }),
      ['spec.nodeAffinity: Required value: Local volume requires node affinity'],
    ],
    [
      'PV of nothing',
      persistentVolumes,
      pv({ capacity: { storage: '0' }, accessModes: ['Often'] }),
      [
        'spec.accessModes: Unsupported value: "Often": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"',
        'spec.capacity[storage]: Invalid value: "0": must be greater than zero',
      ],
    ],
    [
      'PV that climbs',
      persistentVolumes,
      pv({ hostPath: { path: '/a/../b' } }),
      ['spec.hostPath.path: Invalid value: "/a/../b": must not contain \'..\''],
    ],
    ['PVC', persistentVolumeClaims, pvc(), []],
    [
      'PVC that asks for nothing',
      persistentVolumeClaims,
      {},
      [
        'spec.accessModes: Required value: at least 1 access mode is required',
        'spec.resources[storage]: Required value',
      ],
    ],
    [
      'PVC with modes that exclude each other',
      persistentVolumeClaims,
      pvc({ accessModes: ['ReadWriteOncePod', 'ReadWriteOnce'] }),
      ['spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes'],
    ],
    ['StorageClass', storageClasses, { provisioner: 'kubernetes.io/no-provisioner' }, []],
    [
      'StorageClass without a provisioner',
      storageClasses,
      { volumeBindingMode: 'Never' },
      [
        'provisioner: Required value',
        'volumeBindingMode: Unsupported value: "Never": supported values: "Immediate", "WaitForFirstConsumer"',
      ],
    ],
    [
      'VolumeAttributesClass',
      volumeAttributesClasses,
      { driverName: 'a.b' },
      ['parameters: Required value: must contain at least one key/value pair'],
    ],
    [
      'VolumeAttachment',
      volumeAttachments,
      { spec: { attacher: 'a.b', nodeName: 'n', source: {} } },
      ['spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName'],
    ],
    ['CSIDriver', csiDrivers, {}, []],
    [
      'CSINode',
      csiNodes,
      { spec: { drivers: [{ name: 'a.b' }, { name: 'a.b', nodeID: 'n' }] } },
      ['spec.drivers[0].nodeID: Required value', 'spec.drivers[1].name: Duplicate value: "a.b"'],
    ],
    ['Ingress', ingresses, ingress({ path: '/', pathType: 'Prefix' }), []],
    [
      'Ingress without rules',
      ingresses,
      {},
      ['spec: Invalid value: null: either `defaultBackend` or `rules` must be specified'],
    ],
    [
      'Ingress with a wrong path',
      ingresses,
      ingress({ path: 'a//b/..', pathType: 'Exact' }),
      [
        'spec.rules[0].http.paths[0].path: Invalid value: "a//b/..": must be an absolute path',
        'spec.rules[0].http.paths[0].path: Invalid value: "a//b/..": must not contain \'//\'',
        'spec.rules[0].http.paths[0].path: Invalid value: "a//b/..": cannot end with \'/..\'',
      ],
    ],
    [
      'Ingress without a path type',
      ingresses,
      ingress({ path: '/' }),
      ['spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified'],
    ],
    [
      'Ingress without a port',
      ingresses,
      { spec: { defaultBackend: { service: { name: 'web', port: {} } } } },
      ['spec.defaultBackend: Required value: port name or number is required'],
    ],
    [
      'IngressClass',
      ingressClasses,
      { spec: { controller: 'nobody', parameters: { kind: 'A', name: 'b', scope: 'Namespace' } } },
      [
        'spec.controller: Invalid value: "nobody": must be a domain-prefixed path (such as "acme.io/foo")',
        "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
      ],
    ],
    ['NetworkPolicy', networkPolicies, { spec: { podSelector: {}, ingress: [{}] } }, []],
    [
      'NetworkPolicy with wrong peers',
      networkPolicies,
      {
        spec: {
          podSelector: {},
          ingress: [
            {
              from: [{}, { ipBlock: { cidr: '10.0.0.0/8', except: ['11.0.0.0/16'] }, podSelector: {} }],
              ports: [{ port: 5, endPort: 4 }, { endPort: 4 }],
            },
          ],
          policyTypes: ['Ingress', 'Both'],
        },
      },
      [
        'spec.ingress[0].ports[0].endPort: Invalid value: 5: must be greater than or equal to `port`',
        'spec.ingress[0].ports[1].endPort: Invalid value: 4: may not be specified when `port` is not specified',
        'spec.ingress[0].from[0]: Required value: must specify a peer',
        'spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`',
        'spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer',
        'spec.policyTypes[1]: Unsupported value: "Both": supported values: "Egress", "Ingress"',
      ],
    ],
  ])('%s', (_, kind, o, errors) => expect(wrong(kind, o)).toEqual(errors));

  it('of changes', () => {
    expect(wrongChange(persistentVolumes, pv({ hostPath: { path: '/b' } }), pv())).toEqual([
      'spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation',
    ]);
    expect(wrongChange(persistentVolumeClaims, pvc({ volumeName: 'v' }), pvc())).toEqual([]);
    expect(
      wrongChange(persistentVolumeClaims, pvc({ storageClassName: 'b' }), pvc({ storageClassName: 'a' }))[0],
    ).toContain(
      'spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims',
    );
    expect(wrongChange(storageClasses, { provisioner: 'a' }, { provisioner: 'b' })).toEqual([
      'provisioner: Invalid value: "a": field is immutable',
    ]);
  });
});

describe('what kubectl get shows', () => {
  it.each<[string, unknown, object, unknown[]]>([
    [
      'PV',
      persistentVolumes,
      {
        ...pv({ claimRef: { namespace: 'n', name: 'c' }, storageClassName: 's' }),
        status: { phase: 'Bound' },
      },
      ['x', '1Gi', 'RWO', undefined, 'Bound', 'n/c', 's', '<unset>', '', '<unknown>', undefined],
    ],
    [
      'PVC',
      persistentVolumeClaims,
      {
        ...pvc({ volumeName: 'v', volumeMode: 'Filesystem' }),
        status: {
          phase: 'Bound',
          capacity: { storage: '2Gi' },
          accessModes: ['ReadWriteMany', 'ReadWriteOnce'],
        },
      },
      ['x', 'Bound', 'v', '2Gi', 'RWO,RWX', '', '<unset>', '<unknown>', 'Filesystem'],
    ],
    [
      'StorageClass',
      storageClasses,
      {
        metadata: { name: 's', annotations: { 'storageclass.kubernetes.io/is-default-class': 'true' } },
        provisioner: 'p',
        allowVolumeExpansion: true,
      },
      ['s (default)', 'p', 'Delete', 'Immediate', true, '<unknown>'],
    ],
    [
      'Ingress',
      ingresses,
      ingress({ path: '/', pathType: 'Prefix' }, { tls: [{}], ingressClassName: 'c' }),
      ['x', 'c', 'a.example', '', '80, 443', '<unknown>'],
    ],
    ['NetworkPolicy', networkPolicies, { spec: { podSelector: {} } }, ['x', '<none>', '<unknown>']],
  ])('%s', (_, kind, o, expected) => {
    const row = cells(kind, o);
    expect(row.map((v, i) => (expected[i] === undefined ? undefined : v))).toEqual(expected);
  });
});
