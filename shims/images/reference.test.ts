import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HUB_REGISTRY } from '../../api/oci.js';
import { formatReference, parseReference, resolveHub } from './reference.js';

const D = `sha256:${'ab'.repeat(32)}`;

describe('image references', () => {
  it.each([
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['user/app', 'docker.io/user/app:latest'],
    ['hub/hello:1', 'docker.io/hub/hello:1'],
    ['index.docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app:v1', 'localhost:5000/app:v1'],
    ['127.0.0.1:5000/a/b/c', '127.0.0.1:5000/a/b/c:latest'],
    ['[::1]:5000/app', '[::1]:5000/app:latest'],
    ['Registry/app', 'Registry/app:latest'],
    ['registry.k8s.io/pause:3.9', 'registry.k8s.io/pause:3.9'],
    [`busybox@${D}`, `docker.io/library/busybox@${D}`],
    [`busybox:1@${D}`, `docker.io/library/busybox:1@${D}`],
    [`${HUB_REGISTRY}/hello:1`, `${HUB_REGISTRY}/hello:1`],
    ['a/b__c/d--e.f', 'docker.io/a/b__c/d--e.f:latest'],
  ])('%s is %s', (text, full) => {
    expect(formatReference(parseReference(text))).toBe(full);
    expect(formatReference(parseReference(full))).toBe(full);
  });

  it.each([
    ['', 'invalid reference format'],
    ['Busybox', 'must be lowercase'],
    ['busybox:', 'invalid reference format'],
    ['busybox:-x', 'invalid reference format'],
    ['a//b', 'invalid reference format'],
    ['a/../b', 'invalid reference format'],
    ['localhost:5000/', 'invalid reference format'],
    ['busybox@sha256:12', 'invalid reference format'],
    [`busybox@sha512:${'ab'.repeat(64)}`, 'only sha256'],
    ['ab'.repeat(32), '64-byte hexadecimal'],
    ['a b', 'invalid reference format'],
    ['localhost:x/app', 'invalid reference format'],
    [`x.io/${'a'.repeat(255)}`, '255'],
  ])('%s is refused', (text, why) => {
    expect(() => parseReference(text)).toThrow(why);
    try {
      parseReference(text);
    } catch (e) {
      expect(e).toMatchObject({ name: 'ShimError', reason: 'InvalidImageName' });
    }
  });

  it('never crashes otherwise, and its full form is stable', () => {
    const piece = fc.constantFrom('a', 'B', '.', ':', '/', '@', '-', '_', '5000', 'localhost', D, '\n', ' ');
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 9 }), (pieces) => {
        let full: string;
        try {
          full = formatReference(parseReference(pieces.join('')));
        } catch (e) {
          expect(e).toMatchObject({ name: 'ShimError' });
          return;
        }
        expect(formatReference(parseReference(full))).toBe(full);
      }),
      { numRuns: 2000 },
    );
  });

  it("puts the hub's address in place of the reserved name only", () => {
    expect(resolveHub(`${HUB_REGISTRY}/hello:1`, '10.0.0.1:6443')).toBe('10.0.0.1:6443/hello:1');
    expect(resolveHub('hello:1', '10.0.0.1:6443')).toBe('docker.io/library/hello:1');
    expect(resolveHub(`${HUB_REGISTRY}/a/b@${D}`, '[::1]:6443')).toBe(`[::1]:6443/a/b@${D}`);
  });
});
