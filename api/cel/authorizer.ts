/** Kubernetes' authorizer library for CEL: `authorizer.group('').resource('pods').namespace('a').check('get').allowed()`. */
import type { Environment } from '@marcbachmann/cel-js';
import { register } from './functions.js';
import { charge } from './work.js';

/** Of one check, in steps: it looks through roles and bindings. */
const CHECK_COST = 5000;

export interface AuthorizerQuestion {
  verb: string;
  path?: string;
  group?: string;
  resource?: string;
  subresource?: string;
  namespace?: string;
  name?: string;
  fieldSelector?: string;
  labelSelector?: string;
}
export interface AuthorizerAnswer {
  allowed: boolean;
  reason: string;
  error?: string;
}
/** `account` is the ServiceAccount (`[namespace, name]`) that is asked about; absent: who makes the request. */
export type Ask = (question: AuthorizerQuestion, account?: readonly [string, string]) => AuthorizerAnswer;

type Account = readonly [string, string] | undefined;

export class Decision {
  constructor(readonly answer: AuthorizerAnswer) {}
}

export class PathCheck {
  constructor(
    readonly ask: Ask,
    readonly account: Account,
    readonly path: string,
  ) {}
}

export class GroupCheck {
  constructor(
    readonly ask: Ask,
    readonly account: Account,
    readonly group: string,
  ) {}
}

export class ResourceCheck {
  constructor(
    readonly ask: Ask,
    readonly account: Account,
    readonly what: Readonly<Omit<AuthorizerQuestion, 'verb'>>,
  ) {}

  with(more: Omit<AuthorizerQuestion, 'verb'>): ResourceCheck {
    return new ResourceCheck(this.ask, this.account, { ...this.what, ...more });
  }
}

/** The variable `authorizer`; `requestResource` is what the request is about. */
export class CelAuthorizer {
  readonly requestResource: ResourceCheck;

  constructor(
    readonly ask: Ask,
    request: Omit<AuthorizerQuestion, 'verb'>,
    readonly account?: Account,
  ) {
    this.requestResource = new ResourceCheck(ask, account, request);
  }
}

const decide = (ask: Ask, account: Account, question: AuthorizerQuestion): Decision => {
  charge(CHECK_COST);
  return new Decision(ask(question, account));
};

export const AUTHORIZER = 'kubernetes.authorization.Authorizer';
const GROUP = 'kubernetes.authorization.GroupCheck';
const PATH = 'kubernetes.authorization.PathCheck';
const RESOURCE = 'kubernetes.authorization.ResourceCheck';
const DECISION = 'kubernetes.authorization.Decision';

const TABLE = {
  [`${AUTHORIZER}.path(string): ${PATH}`]: (a: CelAuthorizer, path: string) => {
    if (path === '') throw new Error('path must not be empty');
    return new PathCheck(a.ask, a.account, path);
  },
  [`${AUTHORIZER}.group(string): ${GROUP}`]: (a: CelAuthorizer, group: string) =>
    new GroupCheck(a.ask, a.account, group),
  [`${AUTHORIZER}.serviceAccount(string, string): ${AUTHORIZER}`]: (
    a: CelAuthorizer,
    namespace: string,
    name: string,
  ) => new CelAuthorizer(a.ask, a.requestResource.what, [namespace, name]),
  [`${PATH}.check(string): ${DECISION}`]: (p: PathCheck, verb: string) =>
    decide(p.ask, p.account, { verb, path: p.path }),
  [`${GROUP}.resource(string): ${RESOURCE}`]: (g: GroupCheck, resource: string) =>
    new ResourceCheck(g.ask, g.account, { group: g.group, resource }),
  [`${RESOURCE}.subresource(string): ${RESOURCE}`]: (r: ResourceCheck, subresource: string) =>
    r.with({ subresource }),
  [`${RESOURCE}.namespace(string): ${RESOURCE}`]: (r: ResourceCheck, namespace: string) =>
    r.with({ namespace }),
  [`${RESOURCE}.name(string): ${RESOURCE}`]: (r: ResourceCheck, name: string) => r.with({ name }),
  [`${RESOURCE}.fieldSelector(string): ${RESOURCE}`]: (r: ResourceCheck, fieldSelector: string) =>
    r.with({ fieldSelector }),
  [`${RESOURCE}.labelSelector(string): ${RESOURCE}`]: (r: ResourceCheck, labelSelector: string) =>
    r.with({ labelSelector }),
  [`${RESOURCE}.check(string): ${DECISION}`]: (r: ResourceCheck, verb: string) =>
    decide(r.ask, r.account, { ...r.what, verb }),
  [`${DECISION}.allowed(): bool`]: (d: Decision) => d.answer.allowed,
  [`${DECISION}.reason(): string`]: (d: Decision) => d.answer.reason,
  [`${DECISION}.errored(): bool`]: (d: Decision) => d.answer.error !== undefined,
  [`${DECISION}.error(): string`]: (d: Decision) => d.answer.error ?? '',
};

export function registerAuthorizer(environment: Environment, owned: Set<string>): void {
  const type = (name: string, ctor: unknown, fields: Record<string, string> = {}) =>
    environment.registerType(name, { ctor, fields } as never);
  type(DECISION, Decision);
  type(RESOURCE, ResourceCheck);
  type(GROUP, GroupCheck);
  type(PATH, PathCheck);
  type(AUTHORIZER, CelAuthorizer, { requestResource: RESOURCE });
  register(environment, TABLE as never, owned);
}
