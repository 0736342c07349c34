import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import type { FieldError } from '../kinds/kind.js';
import { badRequest } from './errors.js';
import { forbidden, invalid, required } from './field-errors.js';
import { qualifiedName, validLabelValue } from './names.js';

export type Labels = Readonly<Record<string, string>>;

/** One requirement of a label or node selector. `Gt` and `Lt` compare integers. */
export interface Requirement {
  readonly key: string;
  /** `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`. */
  readonly operator: string;
  readonly values?: readonly string[];
}

/** A selector that was parsed once and is asked often. Empty: matches everything. */
export type Selector = readonly Requirement[];

interface ReadonlySelector {
  readonly matchLabels?: Labels;
  readonly matchExpressions?: readonly Requirement[];
}

const isInteger = (text: string | undefined): text is string => text !== undefined && /^[+-]?\d+$/.test(text);

const TESTS: Readonly<Record<string, (value: string | undefined, values: readonly string[]) => boolean>> = {
  In: (v, values) => v !== undefined && values.includes(v),
  NotIn: (v, values) => v === undefined || !values.includes(v),
  Exists: (v) => v !== undefined,
  DoesNotExist: (v) => v === undefined,
  Gt: (v, [bound]) => isInteger(v) && isInteger(bound) && BigInt(v) > BigInt(bound),
  Lt: (v, [bound]) => isInteger(v) && isInteger(bound) && BigInt(v) < BigInt(bound),
};

/** False for an operator that does not exist. */
export function matchesRequirement(r: Requirement, labels: Labels | undefined): boolean {
  // Own members only: a label may be called `constructor`.
  const value = labels && Object.hasOwn(labels, r.key) ? labels[r.key] : undefined;
  return Object.hasOwn(TESTS, r.operator) && TESTS[r.operator]!(value, r.values ?? []);
}

export const matchesAll = (selector: Selector, labels: Labels | undefined): boolean =>
  selector.every((r) => matchesRequirement(r, labels));

/** Kubernetes' LabelSelector: absent matches nothing, empty matches everything. */
export const matchesSelector = (
  selector: LabelSelector | ReadonlySelector | undefined,
  labels: Labels | undefined,
): boolean => selector !== undefined && matchesAll(requirementsOf(selector), labels);

const TOKEN = /\s*(?:(==|!=|[=!<>(),])|([^\s=!<>(),]+))/y;

/**
 * Parses `app=web,tier in (a,b),!gone,x!=y,n>3`.
 * Throws BadRequest with the place where it went wrong.
 */
export function parseSelector(text: string): Selector {
  const fail = (what: string) => badRequest(`unable to parse requirement: ${what}`);
  const tokens: string[] = [];
  const rest = text.trimEnd();
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < rest.length) {
    const m = TOKEN.exec(rest);
    if (!m) throw fail(`found '${rest.slice(0, 64)}', expected: identifier`);
    tokens.push(m[1] ?? m[2] ?? '');
  }
  const isWord = (t: string | undefined): t is string => t !== undefined && !/^[=!<>(),]/.test(t);
  const requirements: Requirement[] = [];
  let i = 0;
  const show = (t: string | undefined) => t ?? '';
  const key = (): string => {
    const t = tokens[i++];
    if (!isWord(t)) throw fail(`found '${show(t)}', expected: !, identifier, or 'end of string'`);
    const wrong = qualifiedName(t);
    if (wrong.length) throw fail(`<nil>: Invalid value: ${JSON.stringify(t)}: ${wrong.join('; ')}`);
    return t;
  };
  const checkValue = (k: string, v: string): string => {
    const wrong = validLabelValue(v);
    if (wrong.length) throw fail(`values[0][${k}]: Invalid value: ${JSON.stringify(v)}: ${wrong.join('; ')}`);
    return v;
  };
  const list = (k: string): string[] => {
    if (tokens[i] !== '(') throw fail(`found '${show(tokens[i])}', expected: '('`);
    i++;
    const values: string[] = [];
    for (;;) {
      // An empty value stands between two commas.
      values.push(checkValue(k, isWord(tokens[i]) ? (tokens[i++] ?? '') : ''));
      const t = tokens[i++];
      if (t === ')') return [...new Set(values)];
      if (t !== ',') throw fail(`found '${show(t)}', expected: ',' or ')'`);
    }
  };
  while (i < tokens.length) {
    if (tokens[i] === '!') {
      i++;
      requirements.push({ key: key(), operator: 'DoesNotExist' });
    } else {
      const k = key();
      const op = tokens[i];
      if (op === undefined || op === ',') requirements.push({ key: k, operator: 'Exists' });
      else if (op === 'in' || op === 'notin') {
        i++;
        requirements.push({ key: k, operator: op === 'in' ? 'In' : 'NotIn', values: list(k) });
      } else if (op === '=' || op === '==' || op === '!=' || op === '<' || op === '>') {
        i++;
        const value = checkValue(k, isWord(tokens[i]) ? (tokens[i++] ?? '') : '');
        if (op === '<' || op === '>') {
          if (!/^[+-]?\d{1,19}$/.test(value))
            throw fail(
              `values[0]: Invalid value: ${JSON.stringify(value)}: for 'Gt', 'Lt' operators, the value must be an integer`,
            );
          requirements.push({ key: k, operator: op === '<' ? 'Lt' : 'Gt', values: [value] });
        } else requirements.push({ key: k, operator: op === '!=' ? 'NotIn' : 'In', values: [value] });
      } else throw fail(`found '${op}', expected: in, notin, =, ==, !=, gt, lt`);
    }
    if (i >= tokens.length) break;
    if (tokens[i] !== ',') throw fail(`found '${tokens[i]}', expected: ',' or 'end of string'`);
    i++;
    if (i >= tokens.length) throw fail("found '', expected: identifier after ','");
  }
  return requirements;
}

/** Of a LabelSelector object: matchLabels, then matchExpressions. */
export const requirementsOf = (s: LabelSelector | ReadonlySelector): Selector => [
  ...Object.entries(s.matchLabels ?? {}).map(([key, value]) => ({ key, operator: 'In', values: [value] })),
  ...(s.matchExpressions ?? []),
];

/** The text form, sorted by key as Kubernetes prints it (the `selector` of a Scale). */
export function formatSelector(selector: Selector): string {
  const one = ({ key, operator, values = [] }: Requirement): string => {
    if (operator === 'Exists') return key;
    if (operator === 'DoesNotExist') return `!${key}`;
    if (operator === 'Gt' || operator === 'Lt') return `${key}${operator === 'Gt' ? '>' : '<'}${values[0]}`;
    if (values.length === 1 && operator === 'In') return `${key}=${values[0]}`;
    return `${key} ${operator.toLowerCase()} (${[...values].sort().join(',')})`;
  };
  return [...selector]
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0))
    .map(one)
    .join(',');
}

/** What is wrong with a LabelSelector object. */
export function validateSelector(s: LabelSelector | undefined, field: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [k, v] of Object.entries(s?.matchLabels ?? {})) {
    for (const e of qualifiedName(k)) errors.push(invalid(`${field}.matchLabels`, k, e));
    for (const e of validLabelValue(v)) errors.push(invalid(`${field}.matchLabels`, v, e));
  }
  (s?.matchExpressions ?? []).forEach((e, i) => {
    const at = `${field}.matchExpressions[${i}]`;
    if (e.operator === 'In' || e.operator === 'NotIn') {
      if (!e.values?.length)
        errors.push(required(`${at}.values`, "must be specified when `operator` is 'In' or 'NotIn'"));
    } else if (e.operator === 'Exists' || e.operator === 'DoesNotExist') {
      if (e.values?.length)
        errors.push(
          forbidden(`${at}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        );
    } else errors.push(invalid(`${at}.operator`, e.operator ?? '', 'not a valid selector operator'));
    for (const w of qualifiedName(e.key ?? '')) errors.push(invalid(`${at}.key`, e.key, w));
    (e.values ?? []).forEach((v, j) => {
      for (const w of validLabelValue(v)) errors.push(invalid(`${at}.values[${j}]`, v, w));
    });
  });
  return errors;
}

/** One term of a field selector. */
export interface FieldTerm {
  field: string;
  value: string;
  equal: boolean;
}

/** Parses `spec.nodeName=pi1,status.phase!=Running`, with `\\`, `\,` and `\=` as escapes. Throws BadRequest. */
export function parseFieldSelector(text: string): FieldTerm[] {
  const terms: string[] = [];
  let term = '';
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '\\' && i + 1 < text.length) {
      term += c + text[i + 1];
      i++;
    } else if (c === ',') {
      terms.push(term);
      term = '';
    } else term += c;
  }
  terms.push(term);
  return terms
    .filter((t) => t !== '')
    .map((t) => {
      const m = /^((?:[^=!\\]|\\.)*?)(!=|==|=)((?:[^=\\]|\\.)*)$/s.exec(t);
      if (!m)
        throw badRequest(`invalid selector: '${t.slice(0, 128)}'; can't understand '${t.slice(0, 128)}'`);
      const bad = /\\[^\\,=]/.exec(m[3] ?? '');
      if (bad) throw badRequest(`invalid field selector: invalid escape sequence: ${bad[0]}`);
      return {
        field: m[1] ?? '',
        equal: m[2] !== '!=',
        value: (m[3] ?? '').replace(/\\(.)/gs, '$1'),
      };
    });
}
