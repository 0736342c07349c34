/** The doors inside the hub: the client of its own parts, and what a new cluster is given. */
import { namespaces, priorityClasses, runtimeClasses } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { SYSTEM_PRIORITIES } from '../../api/kinds/priorityclass.js';
import { deepCopy } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey, ObjectMeta } from '../../api/meta/object.js';
import type { Client, DeleteOptions } from '../client.js';
import {
  type ListQuery,
  PATCH_TYPES,
  type RegistryVerbs,
  type RequestContext,
  type Subresource,
  type WatchQuery,
} from './api.js';
import { settled } from './unconverted.js';

/** The narrow door for the hub's own parts, acting as `user` with every right. */
export function clientOf(registry: RegistryVerbs, user: string): Client {
  const ctx = (): RequestContext => ({
    user,
    groups: ['system:masters'],
    fieldValidation: 'Ignore',
    warnings: [],
  });
  const copy = (o: object) => deepCopy(o) as unknown;
  const keyOf = (o: { metadata?: ObjectMeta }): ObjectKey => ({
    namespace: o.metadata?.namespace,
    name: o.metadata?.name ?? '',
  });
  // The verbs are generic over kinds; the client narrows them to the kind's own type.
  const verbs = {
    get: async (kind: Kind, key: ObjectKey) =>
      kind.verbs ? registry.ask(ctx(), kind, key) : settled(() => registry.get(ctx(), kind, key)),
    list: async (kind: Kind, options: ListQuery = {}) =>
      kind.verbs ? registry.askAll(ctx(), kind, options) : settled(() => registry.list(ctx(), kind, options)),
    watch: (kind: Kind, options: WatchQuery = {}) => registry.watch(ctx(), kind, options),
    create: (kind: Kind, o: AnyObject) => registry.create(ctx(), kind, o.metadata?.namespace, copy(o)),
    update: (kind: Kind, o: AnyObject) => registry.update(ctx(), kind, keyOf(o), copy(o)),
    updateStatus: (kind: Kind, o: AnyObject) => registry.update(ctx(), kind, keyOf(o), copy(o), 'status'),
    patch: (kind: Kind, key: ObjectKey, patch: object, subresource?: Subresource) =>
      registry.patch(ctx(), kind, key, PATCH_TYPES.merge, patch, subresource),
    bind: ({ uid, ...key }: ObjectKey & { uid: string }, nodeName: string) =>
      registry.bind(ctx(), key, {
        metadata: { name: key.name, uid },
        target: { kind: 'Node', name: nodeName },
      }),
    delete: async (kind: Kind, key: ObjectKey, options: DeleteOptions = {}) => {
      await registry.delete(ctx(), kind, key, options);
    },
  };
  return verbs as unknown as Client;
}

/** Makes what every cluster has from the start, as far as `has` does not know it. */
export async function bootstrap(client: Client, has: (kind: Kind, key: ObjectKey) => boolean): Promise<void> {
  // Looked for first: a hub must be able to start while a webhook or a policy refuses everything.
  const ensure = async (kind: object, o: { metadata: { name: string } }) => {
    if (!has(kind as Kind, o.metadata)) await client.create(kind as Kind, o as AnyObject);
  };
  for (const name of ['default', 'kube-system', 'kube-public', 'kube-node-lease'])
    await ensure(namespaces, { metadata: { name } });
  for (const { name, ...rest } of SYSTEM_PRIORITIES)
    await ensure(priorityClasses, { metadata: { name }, ...rest });
  for (const name of ['oci', 'wasm', 'wasmtime'])
    await ensure(runtimeClasses, { metadata: { name }, handler: name } as never);
}
