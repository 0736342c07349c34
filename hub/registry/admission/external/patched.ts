import { apiVersionOf, type Kind } from '../../../../api/kinds/kind.js';
import { decode, type Schema, schemaNamed, schemaOf } from '../../../../api/kinds/schema.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Frozen } from '../../../client.js';
import type { Request } from '../plugin.js';
import { asVersion } from './match.js';

/** Definitions of what subresources carry. */
const BODIES: Readonly<Record<string, string>> = {
  'v1/Binding': 'io.k8s.api.core.v1.Binding',
  'policy/v1/Eviction': 'io.k8s.api.policy.v1.Eviction',
  'authentication.k8s.io/v1/TokenRequest': 'io.k8s.api.authentication.v1.TokenRequest',
  'autoscaling/v1/Scale': 'io.k8s.api.autoscaling.v1.Scale',
};
const bodyOf = (request: Request, { apiVersion, kind }: Frozen<AnyObject>): string | undefined =>
  request.subresource ? BODIES[`${apiVersion}/${kind}`] : undefined;

/** The schema of what a request carries, in the version in which it is shown. */
export function bodySchema(request: Request, as: Kind, shown: Frozen<AnyObject>): Schema {
  const body = bodyOf(request, shown);
  return body ? schemaNamed(body) : schemaOf(as);
}

/**
 * Makes what a patch left of `shown` (the request's object in the version `as`) an object of the request's kind again,
 * with its defaults, and says which unknown fields it lost. `next` is changed. Throws what it cannot be, and Unconverted.
 */
export function readPatched(
  request: Request,
  as: Kind,
  shown: Frozen<AnyObject>,
  next: AnyObject,
): { object: AnyObject; unknown: string[] } {
  const { kind } = request;
  if (next.kind !== shown.kind || next.apiVersion !== shown.apiVersion)
    throw new Error(`the patch makes it a ${String(next.apiVersion)} ${String(next.kind)}`.slice(0, 256));
  const body = bodyOf(request, next);
  const what = `${next.kind} in version ${JSON.stringify(as.version)} cannot be handled as a ${next.kind}`;
  const json = next as Record<string, unknown>;
  const read = (): string[] => {
    // Options of a connection have no definition of their own.
    if (request.operation === 'CONNECT') return [];
    if (body) return decode(json, body, what);
    return as.custom ? as.custom.decode(json, what) : decode(json, as.schema, what);
  };
  const unknown = read();
  let object = next;
  if (as.custom?.conversion) object = asVersion(request, next, as, kind);
  else if (as !== kind) next.apiVersion = apiVersionOf(kind);
  if (!request.subresource) kind.setDefaults?.(object);
  return { object, unknown };
}
