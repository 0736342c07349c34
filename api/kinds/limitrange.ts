import type { LimitRange, LimitRangeItem } from 'kubernetes-types/core/v1.js';
import { duplicate, forbidden, invalid, required } from '../meta/field-errors.js';
import { own } from '../meta/json.js';
import { qualifiedName } from '../meta/names.js';
import { compareQuantity, parseQuantity } from '../meta/quantity.js';
import { column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { anyResourceName, containerResourceName, mayBeOvercommitted } from './resource-names.js';

const TYPES = ['Pod', 'Container', 'PersistentVolumeClaim'];

/** A container that says nothing gets the most it may have, and asks for its limit or for the least it may. */
function setDefaults(item: LimitRangeItem): void {
  if (item.type !== 'Container') return;
  const limits = { ...item.max, ...item.default };
  const requests = { ...item.min, ...limits, ...item.defaultRequest };
  if (Object.keys(limits).length) item.default = limits;
  if (Object.keys(requests).length) item.defaultRequest = requests;
}

function validateItem(item: LimitRangeItem, at: string): FieldError[] {
  const errors: FieldError[] = qualifiedName(item.type ?? '').map((e) => invalid(`${at}.type`, item.type, e));
  if (!errors.length && !item.type.includes('/') && !TYPES.includes(item.type))
    errors.push(invalid(`${at}.type`, item.type, 'must be a standard limit type or fully qualified'));
  const ofPod = item.type === 'Pod';
  const nameErrors = ofPod || item.type === 'Container' ? containerResourceName : anyResourceName;
  const names = new Set<string>();
  for (const list of ['max', 'min', 'default', 'defaultRequest', 'maxLimitRequestRatio'] as const) {
    if (ofPod && (list === 'default' || list === 'defaultRequest')) {
      if (Object.keys(item[list] ?? {}).length)
        errors.push(forbidden(`${at}.${list}`, "may not be specified when `type` is 'Pod'"));
      continue;
    }
    for (const name of Object.keys(item[list] ?? {})) {
      errors.push(...nameErrors(name, `${at}.${list}[${name}]`));
      names.add(name);
    }
  }
  if (item.type === 'PersistentVolumeClaim' && !item.min?.['storage'] && !item.max?.['storage'])
    errors.push(
      required(
        `${at}.limits`,
        'either minimum or maximum storage value is required, but neither was provided',
      ),
    );
  for (const name of names) errors.push(...validateAmounts(item, name, at));
  return errors;
}

/** How the amounts of one resource stand to each other. */
function validateAmounts(item: LimitRangeItem, name: string, at: string): FieldError[] {
  const errors: FieldError[] = [];
  const { min, max } = { min: own(item.min, name), max: own(item.max, name) };
  const [limit, request] =
    item.type === 'Pod' ? [undefined, undefined] : [own(item.default, name), own(item.defaultRequest, name)];
  const ratio = own(item.maxLimitRequestRatio, name);
  type Amount = string | undefined;
  const ordered = (
    list: string,
    shown: Amount,
    low: Amount,
    lowText: string,
    high: Amount,
    highText: string,
  ) => {
    if (low !== undefined && high !== undefined && compareQuantity(low, high) > 0)
      errors.push(
        invalid(
          `${at}.${list}[${name}]`,
          shown,
          `${lowText} value ${low} is greater than ${highText} value ${high}`,
        ),
      );
  };
  ordered('min', min, min, 'min', max, 'max');
  ordered('defaultRequest', request, min, 'min', request, 'default request');
  ordered('defaultRequest', request, request, 'default request', max, 'max');
  ordered('defaultRequest', request, request, 'default request', limit, 'default limit');
  ordered('default', min, min, 'min', limit, 'default');
  ordered('default', max, limit, 'default', max, 'max');
  const ratioField = `${at}.maxLimitRequestRatio[${name}]`;
  if (ratio !== undefined && compareQuantity(ratio, '1') < 0)
    errors.push(invalid(ratioField, ratio, `ratio ${ratio} is less than 1`));
  if (ratio !== undefined && min !== undefined && max !== undefined) {
    const most = Number(parseQuantity(max).nanos) / Number(parseQuantity(min).nanos);
    if (Number(parseQuantity(ratio).nanos) / 1e9 > most)
      errors.push(invalid(ratioField, ratio, `ratio ${ratio} is greater than max/min = ${most.toFixed(6)}`));
  }
  if (
    !mayBeOvercommitted(name) &&
    limit !== undefined &&
    request !== undefined &&
    compareQuantity(limit, request)
  )
    errors.push(
      invalid(
        `${at}.defaultRequest[${name}]`,
        request,
        `default value ${limit} must equal to defaultRequest value ${request} in ${name}`,
      ),
    );
  return errors;
}

export const limitRanges: Kind<LimitRange> = {
  group: '',
  version: 'v1',
  kind: 'LimitRange',
  plural: 'limitranges',
  singular: 'limitrange',
  shortNames: ['limits'],
  categories: [],
  namespaced: true,
  createOnUpdate: true,
  schema: 'io.k8s.api.core.v1.LimitRange',
  columns: [
    nameColumn,
    column('Created At', 'string', 'When it was made.', (o) => o.metadata?.creationTimestamp ?? ''),
  ],
  status: false,
  selectable: {},
  setDefaults(o) {
    for (const item of o.spec?.limits ?? []) setDefaults(item);
  },
  validate(o) {
    const seen = new Set<string>();
    return (o.spec?.limits ?? []).flatMap((item, i) => {
      const at = `spec.limits[${i}]`;
      const twice = seen.has(item.type);
      seen.add(item.type);
      return [...validateItem(item, at), ...(twice ? [duplicate(`${at}.type`, item.type)] : [])];
    });
  },
};
