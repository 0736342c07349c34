import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { StorageClass } from 'kubernetes-types/storage/v1.js';
import { persistentVolumeClaims, storageClasses } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { compareQuantity } from '../../../api/meta/quantity.js';
import type { Frozen } from '../../client.js';
import { forbidden, type Plugin, same } from './plugin.js';

/** A claim grows only where its class says that its volumes can. */
export const persistentVolumeClaimResize: Plugin = {
  name: 'PersistentVolumeClaimResize',
  handles: ({ kind, operation, subresource }) =>
    same(kind, persistentVolumeClaims) && operation === 'UPDATE' && !subresource,
  validate(request) {
    const now = request.object as PersistentVolumeClaim;
    const before = request.oldObject as Frozen<PersistentVolumeClaim>;
    const size = (c: Frozen<PersistentVolumeClaim>) => c.spec?.resources?.requests?.['storage'] ?? '0';
    if (compareQuantity(size(now), size(before)) <= 0) return;
    if (before.status?.phase !== 'Bound')
      throw forbidden(request, 'Only bound persistent volume claims can be expanded');
    const name = before.spec?.storageClassName;
    const found =
      name && name === now.spec?.storageClassName && !name.includes('/')
        ? (request.world.get(storageClasses as unknown as Kind, { name }) as Frozen<StorageClass> | undefined)
        : undefined;
    if (!found?.allowVolumeExpansion)
      throw forbidden(
        request,
        'only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize',
      );
  },
};
