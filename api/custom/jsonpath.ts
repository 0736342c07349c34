/** Kubernetes' JSONPath as far as CustomResourceDefinitions use it (printer columns, selectable fields). */
import { isPlainObject } from '../meta/json.js';

type Step = (values: readonly unknown[]) => unknown[];

export class JsonPathError extends Error {}

/** One path makes no more values than this. */
const MAX_VALUES = 1000;
const MAX_LENGTH = 2048;
const FILTER = /^\?\(\s*@((?:\.[\w-]+|\[['"][^'"\]]*['"]\])*)\s*(?:(==|!=|<=|>=|<|>)\s*(.+?))?\s*\)$/;

const field =
  (name: string): Step =>
  (values) =>
    values.flatMap((v) => (isPlainObject(v) && Object.hasOwn(v, name) ? [v[name]] : []));

const children = (v: unknown): unknown[] => (Array.isArray(v) ? v : isPlainObject(v) ? Object.values(v) : []);

const descend =
  (name: string): Step =>
  (values) => {
    const out: unknown[] = [];
    const walk = (v: unknown): void => {
      if (out.length >= MAX_VALUES) return;
      if (isPlainObject(v) && Object.hasOwn(v, name)) out.push(v[name]);
      for (const c of children(v)) walk(c);
    };
    for (const v of values) walk(v);
    return out;
  };

const COMPARE: Readonly<Record<string, (a: unknown, b: unknown) => boolean>> = {
  '==': (a, b) => a === b,
  '!=': (a, b) => a !== b,
  '<': (a, b) => typeof a === typeof b && (a as number) < (b as number),
  '>': (a, b) => typeof a === typeof b && (a as number) > (b as number),
  '<=': (a, b) => typeof a === typeof b && (a as number) <= (b as number),
  '>=': (a, b) => typeof a === typeof b && (a as number) >= (b as number),
};

function literal(text: string): unknown {
  const quoted = /^(['"])(.*)\1$/s.exec(text);
  if (quoted) return quoted[2]!;
  if (text === 'true' || text === 'false') return text === 'true';
  const n = Number(text);
  if (text.trim() === '' || Number.isNaN(n))
    throw new JsonPathError(`unrecognized character in action: ${text}`);
  return n;
}

function filter(text: string): Step {
  const m = FILTER.exec(text);
  if (!m) throw new JsonPathError(`invalid filter [${text}]`);
  const [, path = '', operator, right] = m;
  const left = steps(path);
  const wanted = right === undefined ? undefined : literal(right);
  return (values) =>
    values.flatMap((v) =>
      children(v).filter((item) => {
        const found = run(left, item);
        if (!operator) return found.length > 0;
        return found.length > 0 && COMPARE[operator]!(found[0], wanted);
      }),
    );
}

function bracket(text: string): Step {
  const quoted = /^(['"])(.*)\1$/s.exec(text);
  if (quoted) return field(quoted[2]!.replace(/\\(.)/g, '$1'));
  if (text === '*') return (values) => values.flatMap(children);
  if (text.startsWith('?')) return filter(text);
  const m = /^(-?\d{1,9})?(?:(:)(-?\d{1,9})?)?$/.exec(text);
  if (!m || text === '') throw new JsonPathError(`invalid array index ${text}`);
  const [, from, slice, to] = m;
  const lists = (values: readonly unknown[]) => values.filter((v): v is unknown[] => Array.isArray(v));
  if (slice)
    return (values) =>
      lists(values).flatMap((v) => v.slice(from ? Number(from) : 0, to ? Number(to) : undefined));
  return (values) => lists(values).flatMap((v) => v.slice(Number(from)).slice(0, 1));
}

/** Where the bracket that opens at `start` closes; quotes are stepped over. */
function closing(text: string, start: number): number {
  let quote = '';
  for (let i = start + 1; i < text.length; i++) {
    const c = text[i]!;
    if (quote) {
      if (c === '\\') i++;
      else if (c === quote) quote = '';
    } else if (c === "'" || c === '"') quote = c;
    else if (c === ']') return i;
  }
  throw new JsonPathError('unterminated array');
}

function steps(text: string): Step[] {
  const out: Step[] = [];
  let i = 0;
  while (i < text.length) {
    if (text[i] === '[') {
      const end = closing(text, i);
      out.push(bracket(text.slice(i + 1, end).trim()));
      i = end + 1;
      continue;
    }
    if (text[i] !== '.')
      throw new JsonPathError(
        `unrecognized character in action: U+${text.charCodeAt(i).toString(16).toUpperCase().padStart(4, '0')} '${text[i]}'`,
      );
    const deep = text[i + 1] === '.';
    i += deep ? 2 : 1;
    if (text[i] === '[') continue;
    const m = /^(?:\\.|[^.[\]{}\\\s])+/.exec(text.slice(i));
    if (!m) {
      // A path of one dot is the whole object.
      if (i >= text.length && out.length === 0 && !deep) break;
      throw new JsonPathError('unexpected end of the path');
    }
    const name = m[0].replace(/\\(.)/g, '$1');
    out.push(deep ? descend(name) : name === '*' ? bracket('*') : field(name));
    i += m[0].length;
  }
  return out;
}

const run = (path: readonly Step[], root: unknown): unknown[] =>
  path.reduce<unknown[]>((values, step) => step(values).slice(0, MAX_VALUES), [root]);

/** Parses `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`. Throws JsonPathError. */
export function jsonPath(text: string): (root: unknown) => unknown[] {
  if (text.length > MAX_LENGTH) throw new JsonPathError(`is longer than ${MAX_LENGTH} characters`);
  const bare = /^\{(.*)\}$/s.exec(text)?.[1] ?? text;
  const path = steps(bare.replace(/^\$(?=\.|$)/, ''));
  return (root) => run(path, root);
}
