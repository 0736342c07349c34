/** What a path asks for where no kind of ours stands behind it (apiserver endpoints/request RequestInfo). */
import type { ResourceAttributes } from '../auth/attributes.js';

const VERBS: Readonly<Record<string, string>> = {
  POST: 'create',
  PUT: 'update',
  PATCH: 'patch',
};
const NAMESPACE_PARTS: ReadonlySet<string> = new Set(['status', 'finalize']);

/** `path`: the segments below `/apis/<group>/<version>/`, of which there is at least one. */
export function attributesOf(
  method: string,
  group: string,
  path: readonly string[],
  query: URLSearchParams,
): ResourceAttributes {
  const watch = path[0] === 'watch' && path.length > 1;
  let rest = watch ? path.slice(1) : path;
  let namespace: string | undefined;
  if (rest[0] === 'namespaces' && rest.length > 1) {
    namespace = rest[1]!;
    if (rest.length > 2 && !NAMESPACE_PARTS.has(rest[2]!)) rest = rest.slice(2);
  }
  const [resource = '', name, subresource] = rest;
  const wants = query.get('watch');
  const watches = watch || (wants !== null && wants !== 'false' && wants !== '0');
  const reads = name !== undefined && !watches ? 'get' : watches ? 'watch' : 'list';
  const deletes = name === undefined ? 'deletecollection' : 'delete';
  const verb =
    VERBS[method] ??
    (method === 'DELETE' ? deletes : method === 'GET' || method === 'HEAD' ? reads : method.toLowerCase());
  return { verb, group, resource, namespace, name, subresource };
}
