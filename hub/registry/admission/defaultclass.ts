import type { PersistentVolumeClaim } from 'kubernetes-types/core/v1.js';
import type { Ingress } from 'kubernetes-types/networking/v1.js';
import {
  ingressClasses,
  ingresses,
  persistentVolumeClaims,
  storageClasses,
} from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { DEFAULT_INGRESS_CLASS } from '../../../api/kinds/networking.js';
import { isDefaultStorageClass } from '../../../api/kinds/storage.js';
import { saysClass } from '../../../api/kinds/volumes.js';
import type { AnyObject } from '../../../api/meta/object.js';
import type { Frozen } from '../../client.js';
import { type Plugin, same, type World } from './plugin.js';

/** The default classes of a kind, the newest first; of those equally old the first by name. */
const defaults = (
  world: World,
  kind: object,
  isDefault: (o: Frozen<AnyObject>) => boolean,
): Frozen<AnyObject>[] => {
  const madeAt = (o: Frozen<AnyObject>) => String(o.metadata?.creationTimestamp ?? '');
  return world
    .list(kind as Kind)
    .filter(isDefault)
    .sort((a, b) =>
      madeAt(a) === madeAt(b)
        ? a.metadata!.name! < b.metadata!.name!
          ? -1
          : 1
        : madeAt(a) > madeAt(b)
          ? -1
          : 1,
    );
};

/** A claim that says nothing of its class gets the default one. */
export const defaultStorageClass: Plugin = {
  name: 'DefaultStorageClass',
  handles: ({ kind, operation, subresource }) =>
    !subresource && operation === 'CREATE' && same(kind, persistentVolumeClaims),
  mutate({ object, world }) {
    const claim = object as unknown as PersistentVolumeClaim;
    if (saysClass(claim)) return;
    const [first] = defaults(world, storageClasses, isDefaultStorageClass);
    if (first) claim.spec = { ...claim.spec, storageClassName: first.metadata!.name! };
  },
};

/** An Ingress that says nothing of its class gets the default one. */
export const defaultIngressClass: Plugin = {
  name: 'DefaultIngressClass',
  handles: ({ kind, operation, subresource }) =>
    !subresource && operation === 'CREATE' && same(kind, ingresses),
  mutate(request) {
    const ingress = request.object as unknown as Ingress;
    const { metadata, spec } = ingress;
    if (spec?.ingressClassName !== undefined || metadata?.annotations?.['kubernetes.io/ingress.class'])
      return;
    const marked = (o: Frozen<AnyObject>) => o.metadata?.annotations?.[DEFAULT_INGRESS_CLASS] === 'true';
    const [first] = defaults(request.world, ingressClasses, marked);
    if (first) ingress.spec = { ...spec, ingressClassName: first.metadata!.name! };
  },
};
