import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isApiError } from '../../api/meta/errors.js';
import { negotiate } from './negotiate.js';

describe('negotiate', () => {
  const cases: [string, string | undefined, object][] = [
    ['nothing asked for', undefined, { format: 'json' }],
    ['anything', '*/*', { format: 'json' }],
    [
      'protobuf first, JSON allowed',
      'application/vnd.kubernetes.protobuf,application/json',
      { format: 'json' },
    ],
    ['YAML', 'application/yaml', { format: 'yaml' }],
    ['by quality', 'application/yaml;q=0.5, application/json;q=0.9', { format: 'json' }],
    [
      'what kubectl get asks for',
      'application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json',
      { format: 'json', as: 'Table', version: 'v1' },
    ],
    [
      'a table of a version that does not exist, then plain JSON',
      'application/json;as=Table;v=v9;g=meta.k8s.io,application/json',
      { format: 'json' },
    ],
    [
      'aggregated discovery',
      'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json',
      { format: 'json', discovery: 'v2' },
    ],
    ['a streaming watch', 'application/json;stream=watch', { format: 'json' }],
  ];
  for (const [what, header, wanted] of cases) it(what, () => expect(negotiate(header)).toEqual(wanted));

  it.each([
    'application/vnd.kubernetes.protobuf',
    'text/html',
    'application/json;q=0',
    'application/json;as=Chair',
  ])('refuses %s', (header) => {
    let error: unknown;
    try {
      negotiate(header);
    } catch (e) {
      error = e;
    }
    expect(isApiError(error, 'NotAcceptable')).toBe(true);
  });

  it('never throws anything but NotAcceptable', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 200 }), (header) => {
        try {
          expect(['json', 'yaml']).toContain(negotiate(header).format);
        } catch (e) {
          expect(isApiError(e, 'NotAcceptable')).toBe(true);
        }
      }),
    );
  });
});
