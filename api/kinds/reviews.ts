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
const question = <T extends KubeObject>(
  group: 'authentication' | 'authorization',
  kind: string,
  namespaced = false,
): Kind<T> => ({
  group: `${group}.k8s.io`,
  version: 'v1',
  kind,
  plural: `${kind.toLowerCase()}s`,
  singular: kind.toLowerCase(),
  shortNames: [],
  categories: [],
  namespaced,
  verbs: ['create'],
  schema: `io.k8s.api.${group}.v1.${kind}`,
  columns: [nameColumn, ageColumn],
  status: false,
  selectable: {},
});

export const tokenReviews = question<TokenReview>('authentication', 'TokenReview');
export const selfSubjectReviews = question<SelfSubjectReview>('authentication', 'SelfSubjectReview');
export const subjectAccessReviews = question<SubjectAccessReview>('authorization', 'SubjectAccessReview');
export const selfSubjectAccessReviews = question<SelfSubjectAccessReview>(
  'authorization',
  'SelfSubjectAccessReview',
);
export const localSubjectAccessReviews = question<LocalSubjectAccessReview>(
  'authorization',
  'LocalSubjectAccessReview',
  true,
);
export const selfSubjectRulesReviews = question<SelfSubjectRulesReview>(
  'authorization',
  'SelfSubjectRulesReview',
);
