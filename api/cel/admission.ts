/** CEL for admission: policies and the match conditions of webhooks (apiserver pkg/admission/plugin/cel). */
import { AUTHORIZER, registerAuthorizer } from './authorizer.js';
import { type Compiled, Language, type ObjectTypes } from './cel.js';

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
    authorizer ? registerAuthorizer : undefined,
    types,
  );
}

const COMMON: readonly Language[] = [false, true].flatMap((params) =>
  [false, true].map((authorizer) => checkingLanguage({ params, authorizer })),
);

/** The language of conditions, which name no variables of a policy: the same one for everybody. */
export const conditionLanguage = (params: boolean, authorizer: boolean): Language =>
  COMMON[Number(params) * 2 + Number(authorizer)]!;

/** In which expressions run: values are what they are. */
const running = new Language(
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
  registerAuthorizer,
);

/** An expression ready to run. */
export const admissionProgram = (expression: string): Compiled => running.compile(expression);

/** What is wrong with an expression that must be of one of `types`; undefined when it is right. */
export function expressionProblem(
  language: Language,
  expression: string,
  types: readonly string[],
): string | undefined {
  const checked = language.compile(expression);
  if ('wrong' in checked) return `compilation failed: ${checked.wrong}`;
  if (checked.type !== 'dyn' && !types.includes(checked.type))
    return types.length === 1
      ? `must evaluate to ${types[0]}`
      : `must evaluate to one of [${types.map((t) => (t === 'null' ? 'null_type' : t)).join(' ')}]`;
  const run = running.compile(expression);
  return 'wrong' in run ? `compilation failed: ${run.wrong}` : undefined;
}

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
