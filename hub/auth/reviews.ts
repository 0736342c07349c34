import type {
  NonResourceAttributes,
  ResourceAttributes as ReviewedResource,
  SubjectAccessReviewSpec,
} from 'kubernetes-types/authorization/v1.js';
import type { Clock } from '../../api/clock.js';
import { rfc3339 } from '../../api/clock.js';
import {
  localSubjectAccessReviews,
  selfSubjectAccessReviews,
  selfSubjectReviews,
  selfSubjectRulesReviews,
  subjectAccessReviews,
} from '../../api/kinds/index.js';
import type { FieldError, Kind } from '../../api/kinds/kind.js';
import { badRequest } from '../../api/meta/errors.js';
import { invalid, invalidObject } from '../../api/meta/field-errors.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { Answer, RequestContext } from '../registry/api.js';
import type { Attributes, User } from './attributes.js';
import type { RbacAuthorizer } from './authorizer.js';
import { nodeOf } from './node.js';

export const userOf = (ctx: RequestContext): User => ({
  name: ctx.user,
  groups: ctx.groups,
  ...(ctx.uid ? { uid: ctx.uid } : {}),
  ...(ctx.extra ? { extra: ctx.extra } : {}),
});

/** Kubernetes 1.31 and later; the package of types does not have it. */
interface WithSelector {
  fieldSelector?: {
    rawSelector?: string;
    requirements?: { key: string; operator: string; values?: string[] }[];
  };
}

function attributesOf(spec: {
  resourceAttributes?: ReviewedResource & WithSelector;
  nonResourceAttributes?: NonResourceAttributes;
}): Attributes {
  const { resourceAttributes: r, nonResourceAttributes: n } = spec;
  if (!r) return { verb: n?.verb ?? '', path: n?.path ?? '' };
  const { rawSelector, requirements = [] } = r.fieldSelector ?? {};
  const equal = requirements.filter((q) => q.operator === 'In' && q.values?.length === 1);
  const fieldSelector = rawSelector ?? equal.map((q) => `${q.key}=${q.values![0]}`).join(',');
  return {
    verb: r.verb ?? '',
    group: r.group ?? '',
    resource: r.resource ?? '',
    subresource: r.subresource,
    namespace: r.namespace,
    name: r.name,
    ...(fieldSelector ? { fieldSelector } : {}),
  };
}

/** pkg/apis/authorization/validation. */
function problemsOf(
  o: AnyObject,
  spec: SubjectAccessReviewSpec,
  who: 'self' | 'other' | 'local',
): FieldError[] {
  const errors: FieldError[] = [];
  const { resourceAttributes: r, nonResourceAttributes: n } = spec;
  if (r && n)
    errors.push(
      invalid('spec.nonResourceAttributes', n, 'cannot be specified in combination with resourceAttributes'),
    );
  if (!r && !n)
    errors.push(
      invalid(
        'spec.resourceAttributes',
        null,
        'exactly one of nonResourceAttributes or resourceAttributes must be specified',
      ),
    );
  if (who !== 'self' && !spec.user && !spec.groups?.length)
    errors.push(invalid('spec.user', '', 'at least one of user or group must be specified'));
  const { namespace, managedFields: _m, ...rest } = o.metadata ?? {};
  if (Object.values(rest).some((v) => v !== null) || (namespace && who !== 'local'))
    errors.push(
      invalid(
        'metadata',
        o.metadata,
        who === 'local' ? 'must be empty except for namespace' : 'must be empty',
      ),
    );
  if (who === 'local') {
    if (r && r.namespace !== namespace)
      errors.push(
        invalid('spec.resourceAttributes.namespace', r.namespace ?? '', 'must match metadata.namespace'),
      );
    if (n) errors.push(invalid('spec.nonResourceAttributes', n, 'disallowed on this kind of request'));
  }
  return errors;
}

/** How the questions about users and their rights are answered. */
export function reviewAnswers(authorizer: RbacAuthorizer, clock: Clock): Map<Kind, Answer> {
  const access =
    (kind: unknown, who: 'self' | 'other' | 'local'): Answer =>
    async (ctx, o, namespace) => {
      const spec = (o['spec'] ?? {}) as SubjectAccessReviewSpec & { extra?: User['extra'] };
      if (who === 'local' && namespace) o.metadata = { ...o.metadata, namespace };
      const errors = problemsOf(o, spec, who);
      if (errors.length) throw invalidObject(kind as Kind, '', errors);
      const user = who === 'self' ? userOf(ctx) : { name: spec.user ?? '', groups: spec.groups ?? [] };
      const { allowed, reason } = authorizer.authorize(user, attributesOf(spec));
      return { ...o, status: { allowed, ...(reason ? { reason } : {}) } };
    };
  const whoami: Answer = async (ctx, o) => {
    const { name, uid, groups, extra } = userOf(ctx);
    return {
      ...o,
      metadata: { creationTimestamp: rfc3339(clock.now()) },
      status: {
        userInfo: {
          username: name,
          ...(uid ? { uid } : {}),
          groups: [...groups],
          ...(extra ? { extra } : {}),
        },
      },
    };
  };
  const rules: Answer = async (ctx, o) => {
    const { namespace } = (o['spec'] ?? {}) as { namespace?: string };
    if (!namespace) throw badRequest('no namespace on request');
    const user = userOf(ctx);
    const { rules: held, errors } = authorizer.held(user, namespace);
    const isNode = nodeOf(user) !== undefined;
    if (isNode) errors.push('node authorizer does not support user rule resolution');
    return {
      ...o,
      status: {
        resourceRules: held
          .filter((r) => r.resources?.length)
          .map(({ verbs, apiGroups, resources, resourceNames }) => ({
            verbs,
            apiGroups,
            resources,
            ...(resourceNames?.length ? { resourceNames } : {}),
          })),
        nonResourceRules: held
          .filter((r) => r.nonResourceURLs?.length)
          .map(({ verbs, nonResourceURLs }) => ({ verbs, nonResourceURLs })),
        incomplete: isNode || errors.length > 0,
        ...(errors.length ? { evaluationError: errors.join(', ') } : {}),
      },
    };
  };
  return new Map<unknown, Answer>([
    [selfSubjectReviews, whoami],
    [selfSubjectAccessReviews, access(selfSubjectAccessReviews, 'self')],
    [subjectAccessReviews, access(subjectAccessReviews, 'other')],
    [localSubjectAccessReviews, access(localSubjectAccessReviews, 'local')],
    [selfSubjectRulesReviews, rules],
  ]) as Map<Kind, Answer>;
}
