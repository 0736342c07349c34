import type { TokenReview, UserInfo } from 'kubernetes-types/authentication/v1.js';
import type {
  LocalSubjectAccessReview,
  SelfSubjectAccessReview,
  SelfSubjectRulesReview,
  SubjectAccessReview,
} from 'kubernetes-types/authorization/v1.js';
import type { KubeObject } from '../meta/object.js';
import { ageColumn, nameColumn } from './columns.js';
import type { Kind } from './kind.js';

/** authentication.k8s.io/v1, which the package of types does not have. */
export interface SelfSubjectReview extends KubeObject {
  status?: { userInfo: UserInfo };
}

/** Questions that are answered and never stored: they can only be created. */
function question<T extends KubeObject>(schema: string, namespaced = false): Kind<T> {
  const [group, version, kind] = schema.split('.').slice(-3) as [string, string, string];
  return {
    group: `${group}.k8s.io`,
    version,
    kind,
    plural: `${kind.toLowerCase()}s`,
    singular: kind.toLowerCase(),
    shortNames: [],
    categories: [],
    namespaced,
    verbs: ['create'],
    schema,
    columns: [nameColumn, ageColumn],
    status: false,
    selectable: {},
  };
}

export const tokenReviews = question<TokenReview>('io.k8s.api.authentication.v1.TokenReview');
export const selfSubjectReviews = question<SelfSubjectReview>(
  'io.k8s.api.authentication.v1.SelfSubjectReview',
);
export const subjectAccessReviews = question<SubjectAccessReview>(
  'io.k8s.api.authorization.v1.SubjectAccessReview',
);
export const selfSubjectAccessReviews = question<SelfSubjectAccessReview>(
  'io.k8s.api.authorization.v1.SelfSubjectAccessReview',
);
export const localSubjectAccessReviews = question<LocalSubjectAccessReview>(
  'io.k8s.api.authorization.v1.LocalSubjectAccessReview',
  true,
);
export const selfSubjectRulesReviews = question<SelfSubjectRulesReview>(
  'io.k8s.api.authorization.v1.SelfSubjectRulesReview',
);
