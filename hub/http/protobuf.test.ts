import { describe, expect, it } from 'vitest';
import { fieldDefinitions } from '../../api/kinds/schema.js';
import { decodeProtobuf } from './protobuf.js';
import { PROTOBUF_FIELDS } from './protobuf-fields.js';

/** A tiny writer, by wire format alone, so that the reader is not tested against itself. */
const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(Math.floor(n / 128))]);
const bytes = (field: number, body: readonly number[] | string): number[] => {
  const b = typeof body === 'string' ? [...Buffer.from(body)] : body;
  return [...varint(field * 8 + 2), ...varint(b.length), ...b];
};
const num = (field: number, n: number): number[] => [...varint(field * 8), ...varint(n)];
const body = (apiVersion: string, kind: string, raw: readonly number[]): Buffer =>
  Buffer.from([
    ...Buffer.from('k8s\0'),
    ...bytes(1, [...bytes(1, apiVersion), ...bytes(2, kind)]),
    ...bytes(2, raw),
  ]);

describe('decodeProtobuf', () => {
  it('reads what kubectl create configmap sends', () => {
    // Captured from kubectl 1.36: `kubectl create configmap x --from-literal=a=b`
    const sent = Buffer.from(
      '6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a017812001a0022002a00320038004200' +
        '12060a01611201621a002200',
      'hex',
    );
    expect(decodeProtobuf(sent)).toEqual({
      kind: 'ConfigMap',
      apiVersion: 'v1',
      metadata: { name: 'x' },
      data: { a: 'b' },
    });
  });

  it('reads schemas, which hold schemas or something in their stead', () => {
    const string = bytes(5, 'string');
    const properties = (name: string, schema: readonly number[]) =>
      bytes(29, [...bytes(1, name), ...bytes(2, schema)]);
    const schema = [
      ...bytes(5, 'object'),
      ...properties('list', [...bytes(5, 'array'), ...bytes(24, bytes(1, string))]),
      ...properties('map', [...bytes(5, 'object'), ...bytes(30, [...num(1, 1), ...bytes(2, string)])]),
      ...properties('none', [...bytes(5, 'object'), ...bytes(30, num(1, 0))]),
      ...properties('set', [...bytes(8, bytes(1, '{"a":1}')), ...bytes(20, bytes(1, '"b"'))]),
    ];
    const version = [...bytes(1, 'v1'), ...num(2, 1), ...bytes(4, bytes(1, schema))];
    const sent = body('apiextensions.k8s.io/v1', 'CustomResourceDefinition', bytes(2, bytes(7, version)));
    expect(decodeProtobuf(sent)['spec']).toEqual({
      versions: [
        {
          name: 'v1',
          served: true,
          schema: {
            openAPIV3Schema: {
              type: 'object',
              properties: {
                list: { type: 'array', items: { type: 'string' } },
                map: { type: 'object', additionalProperties: { type: 'string' } },
                none: { type: 'object', additionalProperties: false },
                set: { default: { a: 1 }, enum: ['b'] },
              },
            },
          },
        },
      ],
    });
  });

  it('reads embedded structs, maps, quantities, times, and keeps zeros that were set', () => {
    const container = [
      ...bytes(1, 'main'),
      ...bytes(2, 'busybox'),
      ...bytes(3, 'sleep'),
      ...bytes(3, '1'),
      ...bytes(8, bytes(1, [...bytes(1, 'memory'), ...bytes(2, bytes(1, '64Mi'))])),
      // a probe: the handler's fields are the probe's own in JSON
      ...bytes(10, [
        ...bytes(1, bytes(2, [...bytes(1, '/ok'), ...bytes(2, [...num(1, 1), ...bytes(3, 'web')])])),
        ...num(3, 7),
      ]),
    ];
    const template = [
      ...bytes(1, bytes(11, [...bytes(1, 'app'), ...bytes(2, 'web')])),
      ...bytes(2, [
        ...bytes(1, [...bytes(1, 'tmp'), ...bytes(2, bytes(2, []))]),
        ...bytes(2, container),
        ...bytes(3, 'Always'),
        ...num(11, 0), // hostNetwork: false, no pointer
        ...num(21, 0), // automountServiceAccountToken: false, a pointer
      ]),
    ];
    const spec = [...num(1, 0), ...bytes(3, template), ...num(5, 0)];
    const metadata = [...bytes(1, 'web'), ...bytes(8, num(1, 1_700_000_000))];
    expect(
      decodeProtobuf(
        body('apps/v1', 'Deployment', [...bytes(1, metadata), ...bytes(2, spec), ...bytes(3, [])]),
      ),
    ).toEqual({
      kind: 'Deployment',
      apiVersion: 'apps/v1',
      metadata: { name: 'web', creationTimestamp: '2023-11-14T22:13:20Z' },
      spec: {
        replicas: 0,
        template: {
          metadata: { labels: { app: 'web' } },
          spec: {
            volumes: [{ name: 'tmp', emptyDir: {} }],
            containers: [
              {
                name: 'main',
                image: 'busybox',
                command: ['sleep', '1'],
                resources: { limits: { memory: '64Mi' } },
                livenessProbe: { httpGet: { path: '/ok', port: 'web' }, timeoutSeconds: 7 },
              },
            ],
            restartPolicy: 'Always',
            automountServiceAccountToken: false,
          },
        },
      },
    });
  });

  it('reads bytes as base64 and negative numbers', () => {
    const minusOne = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    const secret = [...bytes(2, [...bytes(1, 'k'), ...bytes(2, [0, 255])]), ...bytes(3, 'Opaque')];
    expect(decodeProtobuf(body('v1', 'Secret', secret))).toMatchObject({ data: { k: 'AP8=' } });
    const options = [8, ...minusOne];
    expect(decodeProtobuf(body('apps/v1', 'DeleteOptions', options))).toMatchObject({
      gracePeriodSeconds: -1,
    });
  });

  it.each([
    ['an unknown kind', body('v1', 'Cheese', []), /no kind "Cheese" is registered for version "v1"/],
    ['no magic', Buffer.from('{"kind":"Pod"}'), /does not begin/],
    ['no object', Buffer.from('k8s\0'), /holds no object/],
    ['a field longer than its message', body('v1', 'Pod', [10, 100]), /longer than what holds it/],
    ['a torn number', body('v1', 'Pod', [0x80]), /ends within a number/],
    [
      'a key that reaches for the prototype',
      body('v1', 'ConfigMap', bytes(2, [...bytes(1, '__proto__'), ...bytes(2, 'x')])),
      /__proto__/,
    ],
  ])('refuses %s', (_what, sent, message) => {
    expect(() => decodeProtobuf(sent)).toThrow(message);
    expect(() => decodeProtobuf(sent)).toThrow(expect.objectContaining({ reason: 'BadRequest' }));
  });

  it('has a number for every field of every definition', () => {
    const numbered = new Map(
      PROTOBUF_FIELDS.replace(/\n {2}/g, ' ')
        .trim()
        .split('\n')
        .map((line) => line.split(': ') as [string, string]),
    );
    const fieldsOf = (message: string): string[] =>
      (numbered.get(message) ?? '').split(', ').flatMap((cell) => {
        const name = cell.split(' ')[0]!;
        return name.startsWith('+') ? fieldsOf(name.slice(1)) : name.replace('?', '');
      });
    // What is never sent to the hub has no numbers.
    const sent = Object.entries(fieldDefinitions()).filter(([name]) => !name.startsWith('io.k8s.metrics.'));
    const missing = sent.flatMap(([name, { properties }]) => {
      const known = new Set([...fieldsOf(name), 'apiVersion', 'kind']);
      return Object.keys(properties ?? {})
        .filter((p) => !known.has(p))
        .map((p) => `${name}.${p}`);
    });
    expect(missing).toEqual([]);
  });
});
