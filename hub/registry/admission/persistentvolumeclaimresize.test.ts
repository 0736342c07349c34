import { expect, it } from 'vitest';
import { persistentVolumeClaims, storageClasses } from '../../../api/kinds/index.js';
import { refusal, testRegistry } from '../../testing/registry.js';

it('PersistentVolumeClaimResize: a claim grows when it is bound and its class allows it', async () => {
  const r = await testRegistry();
  for (const [name, allowVolumeExpansion] of [
    ['grows', true],
    ['stays', false],
  ] as const) {
    await r.create(storageClasses, undefined, {
      metadata: { name },
      provisioner: 'a.b/c',
      allowVolumeExpansion,
    });
    await r.create(persistentVolumeClaims, 'default', {
      metadata: { name },
      spec: {
        accessModes: ['ReadWriteOnce'],
        storageClassName: name,
        resources: { requests: { storage: '1Gi' } },
      },
    });
  }
  const grow = (name: string) =>
    refusal(
      r.patch(persistentVolumeClaims, 'default', name, {
        spec: { resources: { requests: { storage: '2Gi' } } },
      }),
    );
  const why = (name: string, text: string) => `403 persistentvolumeclaims "${name}" is forbidden: ${text}`;
  // Before it is bound the kind's own rules say no first, or this one does.
  expect(await grow('grows')).not.toBe('accepted');
  for (const name of ['grows', 'stays'])
    await r.patch(persistentVolumeClaims, 'default', name, { status: { phase: 'Bound' } }, true);
  expect(await grow('stays')).toBe(
    why(
      'stays',
      'only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize',
    ),
  );
  expect(await grow('grows')).toBe('accepted');
});
