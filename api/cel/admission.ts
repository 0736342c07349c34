/** CEL for admission: policies and the match conditions of webhooks (apiserver pkg/admission/plugin/cel). */
import { AUTHORIZER, registerAuthorizer } from './authorizer.js';
import { type Compiled, Language, type ObjectTypes } from './cel.js';
import { goTypeName } from './literals.js';
import { patchMessages, registerPatches } from './patches.js';

const REQUEST = 'kubernetes.AdmissionRequest';
const VARIABLES = 'kubernetes.variables';
const REQUEST_TYPES: ObjectTypes = {
  [REQUEST]: {
    kind: 'kubernetes.GroupVersionKind',
    resource: 'kubernetes.GroupVersionResource',
    subResource: 'string',
    requestKind: 'kubernetes.GroupVersionKind',
    requestResource: 'kubernetes.GroupVersionResource',
    requestSubResource: 'string',
    name: 'string',
    namespace: 'string',
    operation: 'string',
    userInfo: 'kubernetes.UserInfo',
    dryRun: 'bool',
    options: 'dyn',
  },
  'kubernetes.GroupVersionKind': { group: 'string', version: 'string', kind: 'string' },
  'kubernetes.GroupVersionResource': { group: 'string', version: 'string', resource: 'string' },
  'kubernetes.UserInfo': {
    username: 'string',
    uid: 'string',
    groups: 'list<string>',
    extra: 'map<string, list<string>>',
  },
};

/** What an expression may name. */
export interface Names {
  params?: boolean;
  authorizer?: boolean;
  /** Types and functions for making patches. */
  patches?: boolean;
  /** Of a policy: name → type, as far as they are known. */
  variables?: Readonly<Record<string, string>>;
  /** The types of `object`, `oldObject` and `params` where they are known, and a language that has these types. */
  types?: Language;
  object?: string;
  paramsType?: string;
}

/** The language in which an expression is checked when it is written. */
export function checkingLanguage({
  params,
  authorizer,
  patches,
  variables,
  types,
  object = 'dyn',
  paramsType = 'dyn',
}: Names): Language {
  return new Language(
    {
      object,
      oldObject: object,
      request: REQUEST,
      namespaceObject: 'dyn',
      ...(params ? { params: paramsType } : {}),
      ...(authorizer ? { authorizer: AUTHORIZER } : {}),
      ...(variables ? { variables: VARIABLES } : {}),
    },
    { ...REQUEST_TYPES, ...(variables ? { [VARIABLES]: variables } : {}) },
    (environment, owned) => {
      if (authorizer) registerAuthorizer(environment, owned);
      if (patches) registerPatches(environment, owned);
    },
    types,
    patches ? patchMessages : undefined,
  );
}

const COMMON: readonly Language[] = [false, true].flatMap((params) =>
  [false, true].map((authorizer) => checkingLanguage({ params, authorizer })),
);

/** The language of conditions, which name no variables of a policy: the same one for everybody. */
export const conditionLanguage = (params: boolean, authorizer: boolean): Language =>
  COMMON[Number(params) * 2 + Number(authorizer)]!;

/** In which expressions run: values are what they are. */
const running = (patches: boolean): Language =>
  new Language(
    {
      object: 'dyn',
      oldObject: 'dyn',
      request: 'dyn',
      namespaceObject: 'dyn',
      params: 'dyn',
      variables: 'dyn',
      authorizer: AUTHORIZER,
    },
    {},
    (environment, owned) => {
      registerAuthorizer(environment, owned);
      if (patches) registerPatches(environment, owned);
    },
    undefined,
    patches ? patchMessages : undefined,
  );
const plainly = running(false);
const patching = running(true);

/** An expression ready to run; `patches`: it makes one. */
export const admissionProgram = (expression: string, patches = false): Compiled =>
  (patches ? patching : plainly).compile(expression);

/**
 * What is wrong with an expression that must be of one of `types`, of whichever when there are none; undefined when it is
 * right.
 */
export function expressionProblem(
  language: Language,
  expression: string,
  types: readonly string[],
  patches = false,
): string | undefined {
  const checked = language.compile(expression);
  if ('wrong' in checked) return `compilation failed: ${checked.wrong}`;
  if (types.length && !types.includes(checked.type) && !couldBe(checked.type, types)) {
    const wanted = types.map(goTypeName);
    const got = goTypeName(checked.type);
    return types.length === 1
      ? `must evaluate to ${wanted[0]} but got ${got}`
      : `must evaluate to one of [${wanted.join(' ')}] but got ${got}`;
  }
  const run = admissionProgram(expression, patches);
  return 'wrong' in run ? `compilation failed: ${run.wrong}` : undefined;
}

/** Whether only the value will tell. */
const couldBe = (type: string, types: readonly string[]): boolean =>
  type === 'dyn' || (type === 'list' && types.some((t) => t.startsWith('list<')));

/** A JSON value as CEL sees what it has no schema of: whole numbers are int. */
export function plainToCel(v: unknown): unknown {
  if (typeof v === 'number') return Number.isSafeInteger(v) ? BigInt(v) : v;
  if (typeof v !== 'object' || v === null) return v;
  if (Array.isArray(v)) return v.map(plainToCel);
  const out: Record<string, unknown> = {};
  for (const [key, x] of Object.entries(v))
    if (x !== undefined && key !== '__proto__') out[key] = plainToCel(x);
  return out;
}
