/** Match conditions of webhooks and policies, and what CEL sees of a request. */
import { admissionProgram, plainToCel } from '../../../../api/cel/admission.js';
import { type AuthorizerQuestion, CelAuthorizer } from '../../../../api/cel/authorizer.js';
import { COST_BUDGET, reasonOf } from '../../../../api/cel/cel.js';
import { TooMuchWork, type Work } from '../../../../api/cel/work.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import type { Authorizer, User } from '../../../auth/attributes.js';
import type { Request } from '../plugin.js';
import { namespaceOf } from './match.js';
import { admissionRequest, objectsAs } from './request.js';

const _VERBS: Readonly<Record<string, string>> = {
  CREATE: 'create',
  UPDATE: 'update',
  DELETE: 'delete',
  CONNECT: 'connect',
};

const userOf = ({ ctx }: Request): User => ({
  name: ctx.user,
  groups: ctx.groups,
  ...(ctx.uid ? { uid: ctx.uid } : {}),
  ...(ctx.extra ? { extra: ctx.extra } : {}),
});

const serviceAccount = ([namespace, name]: readonly [string, string]): User => ({
  name: `system:serviceaccount:${namespace}:${name}`,
  groups: ['system:serviceaccounts', `system:serviceaccounts:${namespace}`, 'system:authenticated'],
});

function celAuthorizer(request: Request, authorizer: Authorizer | undefined): CelAuthorizer {
  const { kind, subresource, namespace, name } = request;
  return new CelAuthorizer(
    ({ verb, path, ...what }: AuthorizerQuestion, account) => {
      if (!authorizer) return { allowed: false, reason: '', error: 'there is no authorizer' };
      const user = account ? serviceAccount(account) : userOf(request);
      const { group = '', resource = '', ...rest } = what;
      return authorizer.authorize(
        user,
        path === undefined ? { ...rest, verb, group, resource } : { verb, path },
      );
    },
    {
      group: kind.group,
      resource: kind.plural,
      ...(subresource ? { subresource } : {}),
      ...(namespace ? { namespace } : {}),
      ...(name ? { name } : {}),
    },
  );
}

/** Variables of all expressions about one request, made when the first one asks. */
export class Facts {
  #values: Record<string, unknown> | undefined;

  constructor(
    private readonly request: Request,
    private readonly as: Kind,
    private readonly authorizer: Authorizer | undefined,
  ) {}

  get values(): Record<string, unknown> {
    if (this.#values) return this.#values;
    const { object, oldObject } = objectsAs(this.request, this.as);
    const ns = this.request.kind.namespaced ? namespaceOf(this.request) : undefined;
    const asked = admissionRequest(this.request, this.as);
    const user = asked['userInfo'] as object;
    this.#values = {
      object: plainToCel(object),
      oldObject: plainToCel(oldObject),
      // What is empty is there for CEL.
      request: plainToCel({
        subResource: '',
        requestSubResource: '',
        name: '',
        namespace: '',
        ...asked,
        userInfo: { uid: '', extra: {}, ...user },
      }),
      namespaceObject: plainToCel(ns ?? null),
      authorizer: celAuthorizer(this.request, this.authorizer),
      params: null,
    };
    return this.#values;
  }
}

/** Runs one expression (one that makes a patch: `patches`); the error says what Kubernetes says. */
export function evaluate(
  expression: string,
  values: Record<string, unknown>,
  work: Work,
  patches = false,
): unknown {
  const program = admissionProgram(expression, patches);
  if ('wrong' in program) throw new Error(`compilation error: compilation failed: ${program.wrong}`);
  try {
    return program.run(values, work);
  } catch (e) {
    if (e instanceof TooMuchWork && work.left <= 0)
      throw new Error(
        'validation failed due to running out of cost budget, no further validation rules will be run',
      );
    throw new Error(`expression '${expression}' resulted in error: ${reasonOf(e)}`);
  }
}

interface Condition {
  readonly name?: string;
  readonly expression?: string;
}

/** False when any condition says no; throws what could not be found out otherwise. */
export function conditionsHold(
  conditions: readonly Condition[] | undefined,
  values: () => Record<string, unknown>,
): boolean {
  if (!conditions?.length) return true;
  const work: Work = { left: COST_BUDGET };
  const errors: string[] = [];
  const seen = values();
  for (const { expression = '' } of conditions)
    try {
      if (evaluate(expression.trim(), seen, work) !== true) return false;
    } catch (e) {
      errors.push((e as Error).message);
    }
  if (errors.length) throw new Error(errors.length === 1 ? errors[0] : `[${errors.join(', ')}]`);
  return true;
}
