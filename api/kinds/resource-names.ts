/** Which names of resources may stand where (Kubernetes' pkg/apis/core/helper). */
import { invalid } from '../meta/field-errors.js';
import { qualifiedName } from '../meta/names.js';
import { compareQuantity, parseQuantity } from '../meta/quantity.js';
import type { FieldError } from './kind.js';

const COMPUTE = ['cpu', 'memory', 'ephemeral-storage'];
const COUNTED = [
  'pods',
  'resourcequotas',
  'services',
  'replicationcontrollers',
  'secrets',
  'configmaps',
  'persistentvolumeclaims',
  'services.nodeports',
  'services.loadbalancers',
];
const QUOTA = new Set([
  ...COMPUTE,
  ...COMPUTE.flatMap((r) => [`requests.${r}`, `limits.${r}`]),
  ...COUNTED,
  'requests.storage',
]);

const isHugePages = (name: string): boolean => /^(requests\.)?hugepages-/.test(name);

/** Of Kubernetes itself: without a domain, or with one of its own. */
export const isNativeResource = (name: string): boolean =>
  !name.includes('/') || name.includes('kubernetes.io/');

export const isStandardQuotaResource = (name: string): boolean => QUOTA.has(name) || isHugePages(name);

/** Resources that are handed out whole, such as devices. */
export const isExtendedResource = (name: string): boolean =>
  !isNativeResource(name) && !name.startsWith('requests.');

/** More may be promised of these than is there. */
export const mayBeOvercommitted = (name: string): boolean =>
  isNativeResource(name) && !name.startsWith('hugepages-');

function validateName(
  name: string,
  field: string,
  standard: (name: string) => boolean,
  why: string,
): FieldError[] {
  const wrong = qualifiedName(name).map((e) => invalid(field, name, e));
  if (wrong.length || name.includes('/') || standard(name)) return wrong;
  return [invalid(field, name, why)];
}

/** A resource that a container may ask for. */
export const containerResourceName = (name: string, field: string): FieldError[] =>
  validateName(
    name,
    field,
    (n) => COMPUTE.includes(n) || n.startsWith('hugepages-'),
    'must be a standard resource for containers',
  );

/** Any resource that the system knows. */
export const anyResourceName = (name: string, field: string): FieldError[] =>
  validateName(
    name,
    field,
    (n) => n === 'storage' || isStandardQuotaResource(n),
    'must be a standard resource type or fully qualified',
  );

/** A resource that a quota may limit. */
export const quotaResourceName = (name: string, field: string): FieldError[] => [
  ...anyResourceName(name, field),
  ...(name.includes('/') || isStandardQuotaResource(name)
    ? []
    : [invalid(field, name, 'must be a standard resource for quota')]),
];

/** The amount of a resource: not negative, whole where the resource is counted. */
export function resourceAmount(name: string, amount: string, field: string): FieldError[] {
  const errors: FieldError[] = [];
  if (compareQuantity(amount, '0') < 0)
    errors.push(invalid(field, amount, 'must be greater than or equal to 0'));
  if (
    (COUNTED.includes(name) || isExtendedResource(name)) &&
    parseQuantity(amount).nanos % 1_000_000_000n !== 0n
  )
    errors.push(invalid(field, amount, 'must be an integer'));
  return errors;
}
