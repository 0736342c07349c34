import { describe, expect, it } from 'vitest';
import {
  type DeviceClass,
  deviceClasses,
  type ResourceClaim,
  type ResourceSlice,
  resourceClaims,
  resourceSlices,
} from './dra.js';
import type { FieldError } from './kind.js';

const said = (errors: FieldError[] | undefined) => (errors ?? []).map((e) => `${e.field}: ${e.message}`);

describe('ResourceClaim', () => {
  const claim = (devices: object): ResourceClaim => {
    const o = { metadata: { name: 'c' }, spec: { devices } } as ResourceClaim;
    resourceClaims.setDefaults?.(o);
    return o;
  };
  const exactly = { deviceClassName: 'gpu.example.com' };

  it('asks for one device where it says nothing else', () => {
    const o = claim({ requests: [{ name: 'r', exactly }] });
    expect(o.spec?.devices?.requests?.[0]?.exactly).toEqual({
      ...exactly,
      allocationMode: 'ExactCount',
      count: 1,
    });
    expect(said(resourceClaims.validate?.(o))).toEqual([]);
  });

  it.each<[string, object, string]>([
    [
      'no request',
      { requests: [{ name: 'r' }] },
      'spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required',
    ],
    [
      'no class',
      { requests: [{ name: 'r', exactly: {} }] },
      'spec.devices.requests[0].exactly.deviceClassName: Required value',
    ],
    [
      'a count of all',
      { requests: [{ name: 'r', exactly: { ...exactly, allocationMode: 'All', count: 2 } }] },
      "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
    ],
    [
      'the same name twice',
      {
        requests: [
          { name: 'r', exactly },
          { name: 'r', exactly },
        ],
      },
      'spec.devices.requests[1]: Duplicate value: "r"',
    ],
    [
      'an unknown request',
      { requests: [{ name: 'r', exactly }], constraints: [{ requests: ['x'], matchAttribute: 'a.b/c' }] },
      'spec.devices.constraints[0].requests[0]: Invalid value: "x": must be the name of a request',
    ],
  ])('refuses %s', (_, devices, message) => {
    expect(said(resourceClaims.validate?.(claim(devices))).join()).toContain(message);
  });

  it('stays as it is, and may be reserved only when it has its devices', () => {
    const o = claim({ requests: [{ name: 'r', exactly }] });
    expect(said(resourceClaims.validateUpdate?.(claim({}), o))[0]).toContain('field is immutable');
    const reservedFor = [{ resource: 'pods', name: 'p', uid: 'u' }];
    const status = (s: object) => said(resourceClaims.validateStatus?.({ ...o, status: s }, o, 'status'));
    expect(status({ reservedFor })).toEqual([
      'status.reservedFor: Forbidden: may not be specified when `allocated` is not set',
    ]);
    expect(status({ reservedFor, allocation: { devices: {} } })).toEqual([]);
  });
});

it('a DeviceClass selects by expressions', () => {
  const of = (selectors: object[]) => said(deviceClasses.validate?.({ spec: { selectors } } as DeviceClass));
  expect(of([{ cel: { expression: 'false' } }])).toEqual([]);
  expect(of([{}])).toEqual(['spec.selectors[0].cel: Required value']);
  expect(of(Array.from({ length: 33 }, () => ({ cel: { expression: 'true' } })))).toEqual([
    'spec.selectors: Too many: 33: must have at most 32 items',
  ]);
});

it('a ResourceSlice says where its devices are', () => {
  const pool = { name: 'p', generation: 1, resourceSliceCount: 1 };
  const of = (spec: object) =>
    said(resourceSlices.validate?.({ spec: { driver: 'example.com', pool, ...spec } } as ResourceSlice));
  expect(of({ nodeName: 'n' })).toEqual([]);
  expect(of({})[0]).toContain('spec: Required value: exactly one of');
  expect(of({ nodeName: 'n', allNodes: true })[0]).toContain('spec: Invalid value');
});
