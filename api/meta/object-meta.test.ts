import { expect, it } from 'vitest';
import { finalizerWarnings, validateObjectMeta } from './object-meta.js';

const problems = (finalizers: string[], custom: boolean) =>
  validateObjectMeta({ name: 'a', finalizers }, false, undefined, custom).map((e) => e.message);

it('lets custom objects have finalizers of any qualified name, with a warning, and others only well-known or full ones', () => {
  expect(problems(['hold'], false)).toEqual([
    'Invalid value: "hold": name is neither a standard finalizer name nor is it fully qualified',
  ]);
  expect(problems(['hold', 'hold.example.com', 'example.com/hold', 'orphan'], true)).toEqual([]);
  expect(problems(['no spaces'], true)).toHaveLength(1);
  expect(problems(['orphan', 'foregroundDeletion'], true)).toHaveLength(1);
  expect(finalizerWarnings(['hold', 'hold.example.com', 'example.com/hold', 'orphan'])).toEqual([
    'metadata.finalizers: "hold": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers',
    'metadata.finalizers: "hold.example.com": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers',
  ]);
});
