/**
 * CEL rules of custom kinds (x-kubernetes-validations). The language comes from a library, without Kubernetes' own
 * functions (quantity, url, ip, cidr, format, semver …): a rule that uses one is told of and not enforced. Regular
 * expressions run in linear time, and what a rule may cost is estimated before it runs.
 */
import type { Environment, ParseResult } from '@marcbachmann/cel-js';
import type { FieldError } from '../kinds/kind.js';
import { deepEqual, isPlainObject, setOwn } from '../meta/json.js';
import { type JsonSchema, listIdentity, member, pattern, spend, type Work } from './schema.js';

type Rule = NonNullable<JsonSchema['x-kubernetes-validations']>[number];

interface Compiled {
  run: ParseResult;
  /** Nodes of the expression, nesting of its loops, and additions in loops: what its cost depends on. */
  nodes: number;
  loops: number;
  growth: number;
  usesOld: boolean;
}

/** Longer expressions are not looked at. */
const MAX_RULE = 4096;
const MAX_COMPILED = 1000;
const LOOPS: ReadonlySet<unknown> = new Set([
  'all',
  'exists',
  'exists_one',
  'existsOne',
  'map',
  'filter',
  'bind',
]);

let environment: Environment | undefined;
let budget: Work | undefined;

/** Loads the language; before that no rule can be compiled. */
export async function loadCel(): Promise<void> {
  if (environment) return;
  const { Environment } = await import('@marcbachmann/cel-js');
  environment ??= new Environment({
    enableOptionalTypes: true,
    homogeneousAggregateLiterals: false,
    limits: {
      maxAstNodes: 1000,
      maxDepth: 50,
      maxListElements: 256,
      maxMapEntries: 256,
      maxCallArguments: 16,
    },
  })
    .registerVariable('self', 'dyn')
    .registerVariable('oldSelf', 'dyn')
    .registerFunction('string.re2matches(string): bool', (text: string, re: string) => matches(text, re))
    .registerFunction('re2matches(string, string): bool', (text: string, re: string) => matches(text, re));
}

function matches(text: string, re: string): boolean {
  if (re.length > MAX_RULE) throw new Error('the regular expression is too long');
  const compiled = pattern(re);
  spend(budget!, (compiled.programSize() + 1) * (text.length + 1));
  return compiled.matcher(text).find();
}

interface Node {
  op: string;
  args: unknown;
  start: number;
  end: number;
}
const isNode = (v: unknown): v is Node => typeof v === 'object' && v !== null && 'op' in v && 'args' in v;

/** Children of a node, in order; a call's name is no child. */
const below = (v: unknown): Node[] => (isNode(v) ? [v] : Array.isArray(v) ? v.flatMap(below) : []);

const cache = new Map<string, Compiled | { wrong: string; syntax: boolean }>();

/** A rule ready to run, or why it cannot: `syntax` when it is no CEL at all. */
export function compileRule(text: string): Compiled | { wrong: string; syntax: boolean } {
  let known = cache.get(text);
  if (!known) {
    known = compile(text);
    if (cache.size >= MAX_COMPILED) cache.clear();
    cache.set(text, known);
  }
  return known;
}

function compile(text: string): Compiled | { wrong: string; syntax: boolean } {
  if (!environment) throw new Error('CEL is not loaded');
  if (text.length > MAX_RULE) return { wrong: `is longer than ${MAX_RULE} characters`, syntax: false };
  const reason = (e: unknown) =>
    String((e as { summary?: string }).summary ?? (e as Error).message).split('\n')[0]!;
  let ast: Node;
  try {
    ast = environment.parse(text).ast as unknown as Node;
  } catch (e) {
    return { wrong: reason(e), syntax: true };
  }
  // The library's own `matches` can be trapped; ours takes its place.
  const edits: number[] = [];
  const measure = { nodes: 0, loops: 0, growth: 0, usesOld: false };
  const walk = (node: Node, loops: number): void => {
    measure.nodes++;
    measure.loops = Math.max(measure.loops, loops);
    const name = Array.isArray(node.args) ? (node.args[0] as unknown) : undefined;
    if (node.op === 'id' && node.args === 'oldSelf') measure.usesOld = true;
    if (node.op === '+' && loops > 0) measure.growth++;
    const call = node.op === 'rcall' || node.op === 'call';
    if (call && name === 'join') measure.growth++;
    if (call && name === 'matches') {
      const from = node.op === 'rcall' ? (node.args as [string, Node])[1].end : node.start;
      edits.push(text.indexOf('matches', from));
    }
    const inside = call && LOOPS.has(name) ? loops + 1 : loops;
    for (const child of below(node.args)) walk(child, inside);
  };
  walk(ast, 0);
  let safe = text;
  for (const at of edits.sort((a, b) => b - a)) safe = `${safe.slice(0, at)}re2${safe.slice(at)}`;
  try {
    const run = environment.parse(safe);
    if (measure.nodes !== count(run.ast as unknown as Node))
      return { wrong: 'cannot be made safe', syntax: false };
    const checked = run.check();
    if (!checked.valid) return { wrong: reason(checked.error), syntax: false };
    return { run, ...measure };
  } catch (e) {
    return { wrong: reason(e), syntax: false };
  }
}

const count = (node: Node): number => below(node.args).reduce((n, c) => n + count(c), 1);

/** Every rule of a schema with the place of its text. */
export function* rulesOf(s: JsonSchema, at = ''): Generator<[string, Rule]> {
  for (const [i, r] of (s['x-kubernetes-validations'] ?? []).entries())
    yield [`${at}.x-kubernetes-validations[${i}].rule`, r];
  for (const [k, p] of Object.entries(s.properties ?? {})) yield* rulesOf(p, `${at}.properties[${k}]`);
  if (isPlainObject(s.additionalProperties))
    yield* rulesOf(s.additionalProperties as JsonSchema, `${at}.additionalProperties`);
  if (s.items) yield* rulesOf(s.items, `${at}.items`);
}

const RESERVED: ReadonlySet<string> = new Set(
  'true false null in as break const continue else for function if import let loop package namespace return var void while'.split(
    ' ',
  ),
);
/** A field's name as CEL spells it. */
const celName = (name: string): string =>
  RESERVED.has(name)
    ? `__${name}__`
    : name
        .replaceAll('__', '__underscores__')
        .replaceAll('.', '__dot__')
        .replaceAll('-', '__dash__')
        .replaceAll('/', '__slash__');

/** A JSON value as CEL sees it: integers are int, times are timestamps. */
function toCel(v: unknown, s: JsonSchema | undefined, root: boolean): unknown {
  if (typeof v === 'number') return Number.isInteger(v) && s?.type !== 'number' ? BigInt(v) : v;
  if (typeof v === 'string') return s?.format === 'date-time' || s?.format === 'date' ? new Date(v) : v;
  if (Array.isArray(v)) return v.map((x) => toCel(x, s?.items, false));
  if (!isPlainObject(v)) return v;
  const out: Record<string, unknown> = {};
  for (const [key, x] of Object.entries(v)) {
    const m = s ? member(s, key) : undefined;
    if (root && key === 'metadata' && isPlainObject(x)) {
      const { name, generateName } = x;
      out[key] = { ...(name ? { name } : {}), ...(generateName ? { generateName } : {}) };
    } else setOwn(out, s?.properties ? celName(key) : key, toCel(x, m === true ? undefined : m, false));
  }
  return out;
}

/** About how much there is in a value. */
const weight = (v: unknown): number =>
  typeof v === 'string'
    ? 1 + v.length / 64
    : typeof v === 'object' && v !== null
      ? Object.values(v).reduce<number>((n, x) => n + weight(x), 1)
      : 1;

const REASONS: Readonly<Record<string, FieldError['type']>> = {
  FieldValueForbidden: 'Forbidden',
  FieldValueRequired: 'Required',
  FieldValueDuplicate: 'Duplicate',
};

/** Runs all rules of a schema on a value that fits it otherwise. */
export function checkRules(
  v: unknown,
  s: JsonSchema,
  path: string,
  old: unknown,
  out: FieldError[],
  work: Work,
  root = true,
): void {
  spend(work);
  const rules = s['x-kubernetes-validations'];
  if (rules && v !== null) {
    const same = old !== undefined && deepEqual(v, old);
    let self: unknown;
    let oldSelf: unknown;
    for (const r of rules) {
      const c = compileRule(r.rule);
      if ('wrong' in c || (c.usesOld ? old === undefined : same)) continue;
      const size = weight(v) + weight(old);
      spend(work, c.nodes * size ** Math.max(c.loops, 1) * 2 ** c.growth);
      self ??= toCel(v, s, root);
      oldSelf ??= old === undefined ? undefined : toCel(old, s, root);
      const values = { self, ...(old === undefined ? {} : { oldSelf }) };
      const problem = run(c, values, r, work);
      if (problem !== undefined) out.push(failed(problem, r, s, path));
    }
  }
  if (Array.isArray(v) && s.items) {
    const idOf = listIdentity(s);
    const before = new Map<string, unknown>();
    if (s['x-kubernetes-list-type'] === 'map' && Array.isArray(old))
      for (const x of old) before.set(idOf(x) ?? '', x);
    v.forEach((x, i) => {
      const id = before.size ? idOf(x) : undefined;
      const was = id === undefined ? undefined : before.get(id);
      checkRules(x, s.items!, `${path}[${i}]`, was, out, work, s.items!['x-kubernetes-embedded-resource']);
    });
  } else if (isPlainObject(v)) {
    const before = isPlainObject(old) ? old : undefined;
    for (const [key, x] of Object.entries(v)) {
      const m = member(s, key);
      if (!m || m === true) continue;
      const was = before && Object.hasOwn(before, key) ? before[key] : undefined;
      const at = path ? `${path}.${key}` : key;
      checkRules(x, m, at, was, out, work, m['x-kubernetes-embedded-resource'] === true);
    }
  }
}

function run(c: Compiled, values: object, r: Rule, work: Work): string | undefined {
  budget = work;
  try {
    const answer = c.run(values as Record<string, unknown>) as unknown;
    if (answer === true) return undefined;
    if (r.messageExpression) {
      const m = compileRule(r.messageExpression);
      try {
        const text = 'wrong' in m ? undefined : (m.run(values as Record<string, unknown>) as unknown);
        if (typeof text === 'string' && text.trim() && text.length <= 5120) return text;
      } catch {
        // As in Kubernetes, a message that cannot be made is not told.
      }
    }
    return r.message ?? `failed rule: ${r.rule.trim()}`;
  } catch (e) {
    if ((e as Error).name === 'TooMuchWork') throw e;
    const summary = (e as { summary?: string }).summary ?? (e as Error).message;
    return `${summary.split('\n')[0]} evaluating rule: ${r.message ?? r.rule.trim()}`;
  } finally {
    budget = undefined;
  }
}

function failed(message: string, r: Rule, s: JsonSchema, path: string): FieldError {
  const field = `${path}${r.fieldPath ?? ''}`.replace(/^\./, '') || '<nil>';
  const type = REASONS[r.reason ?? ''] ?? 'Invalid';
  const texts: Record<string, string> = {
    Forbidden: `Forbidden: ${message}`,
    Required: `Required value: ${message}`,
    Duplicate: `Duplicate value: ${JSON.stringify(s.type ?? '')}`,
  };
  return {
    type,
    field,
    message: texts[type] ?? `Invalid value: ${JSON.stringify(s.type ?? '')}: ${message}`,
  };
}
