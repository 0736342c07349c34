import type { FieldError } from '../../api/kinds/kind.js';
import { goDuration } from '../../api/meta/duration.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import { forbidden, invalidObject } from '../../api/meta/field-errors.js';
import type { ListQuery, RequestContext, WatchQuery } from '../registry/api.js';
import type { User } from './auth.js';

/** Kubernetes' bool parameters: present and not `false` or `0` is true (apimachinery conversion of url.Values). */
export function flag(query: URLSearchParams, name: string): boolean {
  const v = query.get(name);
  return v !== null && v !== 'false' && v !== '0';
}

/** An integer parameter, or undefined when it is not there. Throws BadRequest for anything else. */
export function integer(query: URLSearchParams, name: string): number | undefined {
  const v = query.get(name);
  if (v === null || v === '') return undefined;
  const n = Number(v);
  if (!/^[+-]?\d+$/.test(v) || !Number.isSafeInteger(n)) {
    throw badRequest(
      `invalid value "${v.slice(0, 64)}" of the query parameter ${name}: it must be an integer`,
    );
  }
  return n;
}

const text = (query: URLSearchParams, name: string): string | undefined => query.get(name) || undefined;

/** `ListOptions.meta.k8s.io "" is invalid: …`, as Kubernetes says it of options that do not fit together. */
const invalidOptions = (kind: string, problems: readonly string[]): ApiError =>
  new ApiError(
    'Invalid',
    `${kind}.meta.k8s.io "" is invalid: ${problems.length === 1 ? problems[0] : `[${problems.join(', ')}]`}`,
    { group: 'meta.k8s.io', kind },
  );

const FIELD_VALIDATION = ['Ignore', 'Strict', 'Warn'] as const;

/** Kubernetes' limit for the name of a field manager. */
const MAX_MANAGER = 128;
const UNPRINTABLE = /[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/u;

/** Who writes when the query does not say: what stands before the first slash of the User-Agent. */
function managerOfAgent(agent = ''): string {
  let name = '';
  for (const c of agent.split('/', 1)[0]!) {
    if (UNPRINTABLE.test(c)) continue;
    if (Buffer.byteLength(name + c) > MAX_MANAGER) break;
    name += c;
  }
  return name;
}

function managerProblems(manager: string): string[] {
  const problems: string[] = [];
  if (Buffer.byteLength(manager) > MAX_MANAGER)
    problems.push(`fieldManager: Too long: may not be more than ${MAX_MANAGER} bytes`);
  let at = 0;
  for (const c of manager) {
    if (UNPRINTABLE.test(c)) {
      const code = c.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
      problems.push(
        `fieldManager: Invalid value: ${JSON.stringify(manager)}: invalid character U+${code} (at position ${at})`,
      );
    }
    at += Buffer.byteLength(c);
  }
  return problems;
}

/**
 * `force` of a patch: only an apply has it, and an apply must say who applies. Throws Invalid otherwise.
 */
export function applyOptions(query: URLSearchParams, isApply: boolean): { force: boolean } {
  const problems: string[] = [];
  if (isApply && !text(query, 'fieldManager'))
    problems.push('fieldManager: Required value: is required for apply patch');
  if (!isApply && query.get('force'))
    problems.push('force: Forbidden: may not be specified for non-apply patch');
  if (problems.length > 0) throw invalidOptions('PatchOptions', problems);
  return { force: flag(query, 'force') };
}

/** What the query says about how to write; `options` names Kubernetes' type of options for messages. */
export function contextOf(
  user: User,
  query: URLSearchParams,
  options: string,
  userAgent?: string,
): RequestContext {
  const dryRun = query.getAll('dryRun').filter((v) => v !== '');
  const validation = text(query, 'fieldValidation');
  const manager = text(query, 'fieldManager');
  const problems = manager ? managerProblems(manager) : [];
  if (dryRun.some((v) => v !== 'All'))
    problems.push(`dryRun: Unsupported value: ${JSON.stringify(dryRun)}: supported values: "All"`);
  const fieldValidation = FIELD_VALIDATION.find((v) => v === validation);
  if (validation && !fieldValidation) {
    problems.push(
      `fieldValidation: Unsupported value: ${JSON.stringify(validation)}: supported values: "", "Ignore", "Strict", "Warn"`,
    );
  }
  if (problems.length > 0) throw invalidOptions(options, problems);
  return {
    user: user.name,
    groups: user.groups,
    ...(user.uid ? { uid: user.uid } : {}),
    ...(user.extra ? { extra: user.extra } : {}),
    dryRun: dryRun.length > 0,
    fieldManager: manager ?? managerOfAgent(userAgent),
    fieldValidation,
    warnings: [],
    duplicates: { texts: [], order: new Map() },
  };
}

const MATCHES = ['Exact', 'NotOlderThan', ''];

const checkOptions = (errors: readonly FieldError[]): void => {
  if (errors.length > 0) throw invalidObject({ kind: 'ListOptions', group: 'meta.k8s.io' }, '', errors);
};
/** In the order given, as Kubernetes lists them here. */
const unsupported = (field: string, value: string, supported: readonly string[]): FieldError => ({
  type: 'NotSupported',
  field,
  message: `Unsupported value: ${JSON.stringify(value)}: supported values: ${supported.map((v) => JSON.stringify(v)).join(', ')}`,
});

/** Throws Invalid for options that do not fit together (apimachinery meta/internalversion/validation ValidateListOptions). */
export function listQuery(query: URLSearchParams, namespace: string | undefined): ListQuery {
  const limit = integer(query, 'limit');
  integer(query, 'timeoutSeconds');
  const match = text(query, 'resourceVersionMatch');
  const rv = text(query, 'resourceVersion');
  const problems: FieldError[] = [];
  const refuse = (why: string) => problems.push(forbidden('resourceVersionMatch', why));
  if (match) {
    if (!rv) refuse('resourceVersionMatch is forbidden unless resourceVersion is provided');
    if (query.get('continue')) refuse('resourceVersionMatch is forbidden when continue is provided');
    if (!MATCHES.includes(match)) problems.push(unsupported('resourceVersionMatch', match, MATCHES));
    if (match === 'Exact' && rv === '0')
      refuse('resourceVersionMatch "exact" is forbidden for resourceVersion "0"');
  }
  if (query.has('sendInitialEvents'))
    problems.push(forbidden('sendInitialEvents', 'sendInitialEvents is forbidden for list'));
  checkOptions(problems);
  return {
    namespace,
    labelSelector: text(query, 'labelSelector'),
    fieldSelector: text(query, 'fieldSelector'),
    limit: limit !== undefined && limit > 0 ? limit : undefined,
    continue: text(query, 'continue'),
    resourceVersion: rv,
    resourceVersionMatch: match as ListQuery['resourceVersionMatch'],
  };
}

/**
 * `current` is the resourceVersion of now: where a watch starts that wants nothing of the past. Throws Invalid for options
 * that do not fit together (validateWatchOptions).
 */
export function watchQuery(
  query: URLSearchParams,
  namespace: string | undefined,
  current: string,
): WatchQuery {
  const match = text(query, 'resourceVersionMatch');
  const initial = query.get('sendInitialEvents');
  const problems: FieldError[] = [];
  const refuse = (why: string) => problems.push(forbidden('resourceVersionMatch', why));
  if (initial !== null && match !== 'NotOlderThan')
    refuse('sendInitialEvents requires setting resourceVersionMatch to NotOlderThan');
  if (match) {
    if (initial === null)
      refuse('resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided');
    if (match !== 'NotOlderThan') problems.push(unsupported('resourceVersionMatch', match, ['NotOlderThan']));
    if (query.get('continue')) refuse('resourceVersionMatch is forbidden when continue is provided');
  }
  checkOptions(problems);
  const sendInitialEvents = initial === null ? undefined : flag(query, 'sendInitialEvents');
  const asked = text(query, 'resourceVersion');
  const fromStart = asked === undefined || asked === '0';
  return {
    namespace,
    labelSelector: text(query, 'labelSelector'),
    fieldSelector: text(query, 'fieldSelector'),
    resourceVersion: fromStart ? (sendInitialEvents === false ? current : undefined) : asked,
    allowWatchBookmarks: flag(query, 'allowWatchBookmarks'),
    sendInitialEvents,
  };
}

/** Milliseconds that a request may take which does not last as long as its client likes (kube-apiserver's --request-timeout). */
const REQUEST_TIMEOUT = 60_000;

/** How long a request may take, in milliseconds: `timeout` of the query may make it shorter. Throws BadRequest. */
export function timeoutOf(query: URLSearchParams): number {
  const asked = query.get('timeout');
  if (!asked) return REQUEST_TIMEOUT;
  const ms = goDuration(asked);
  if (ms === undefined)
    throw badRequest(
      `invalid timeout specified in the request URL - time: invalid duration ${JSON.stringify(asked.slice(0, 64))}`,
    );
  return ms > 0 ? Math.min(ms, REQUEST_TIMEOUT) : REQUEST_TIMEOUT;
}

/** Narrows a selector text to one object, for reads and watches of a single name. */
export const withName = (selector: string | undefined, name: string): string =>
  selector ? `${selector},metadata.name=${name}` : `metadata.name=${name}`;

export const isWatch = (query: URLSearchParams): boolean => flag(query, 'watch');

/** Kubernetes' name for the options of each verb, as its messages have it. */
export const OPTIONS_KIND: Readonly<Record<string, string>> = {
  create: 'CreateOptions',
  update: 'UpdateOptions',
  patch: 'PatchOptions',
  delete: 'DeleteOptions',
  deletecollection: 'DeleteOptions',
};
