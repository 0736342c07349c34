import { apiVersionOf, type Kind } from '../../../../api/kinds/kind.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Frozen } from '../../../client.js';
import { settled } from '../../unconverted.js';
import type { Request } from '../plugin.js';
import { asVersion, kindOfBody } from './match.js';

const resourceOf = ({ group, version, plural }: Kind) => ({ group, version, resource: plural });

/** admission.k8s.io AdmissionRequest in the version that is asked for, without uid and objects. */
export function admissionRequest(request: Request, as: Kind): Record<string, unknown> {
  const { kind, subresource, ctx, namespace, name } = request;
  const sub = subresource ?? '';
  return {
    kind: kindOfBody(request, as),
    resource: resourceOf(as),
    ...(sub ? { subResource: sub } : {}),
    requestKind: kindOfBody(request, kind),
    requestResource: resourceOf(kind),
    ...(sub ? { requestSubResource: sub } : {}),
    ...(name ? { name } : {}),
    ...(namespace ? { namespace } : {}),
    operation: request.operation,
    userInfo: {
      username: ctx.user,
      ...(ctx.uid ? { uid: ctx.uid } : {}),
      groups: ctx.groups,
      ...(ctx.extra ? { extra: ctx.extra } : {}),
    },
    dryRun: request.dryRun,
    // Who connects has no options of a write.
    options: request.operation === 'CONNECT' ? null : request.options,
  };
}

/** Objects of the request in all these versions are known; what a webhook has to be asked for first is asked for. */
export function inVersions(
  request: Request,
  versions: () => readonly (Kind | undefined)[],
): Promise<void> | void {
  if (!request.kind.custom?.conversion) return undefined;
  return settled(() => {
    for (const as of versions()) if (as) objectsAs(request, as);
  });
}

/** Both objects of a request in the version that is asked for. Throws Unconverted. */
export function objectsAs(
  request: Request,
  as: Kind,
): { object: AnyObject | null; oldObject: Frozen<AnyObject> | null } {
  const { kind } = request;
  const shown = <T extends Frozen<AnyObject>>(o: T | undefined): T | null => {
    if (!o) return null;
    const converted = asVersion(request, o, kind, as);
    // Objects say what they are, stored ones included.
    return converted.kind
      ? converted
      : ({ apiVersion: apiVersionOf(as), kind: as.kind, ...converted } as unknown as T);
  };
  return { object: shown(request.object), oldObject: shown(request.oldObject) };
}
