/**
 * Literals that the package's grammar lacks: messages (`T{f: v}`) and optional entries (`[?x]`, `{?k: v}`, `T{?f: v}`).
 * Before parsing, a text's type names, field names and question marks are painted over, so that plain lists and maps are
 * left at the very same places; after it, their nodes get meanings of their own.
 */
import type { Optional } from '@marcbachmann/cel-js';
import type { Checker, Context, Evaluator, Node, Type } from './macros.js';

/** A value of a message type. */
export class CelMessage extends Map<string, unknown> {
  /** Name of its type. */
  get type(): string {
    return '';
  }
}

/** Fields of a message type by name, with the types they must be of; `undefined`: any field of any type. */
export type MessageFields = Readonly<Record<string, string>> | undefined;
/** What message types there are; undefined when there is none of this name. */
export type Messages = (name: string) => { fields: MessageFields } | undefined;

interface Literal {
  /** Of its last bracket, behind it. */
  end: number;
  /** A message's. */
  type?: string;
  /** A message's, in order. */
  fields: string[];
  /** Which entries stand behind a question mark. */
  optional: Set<number>;
}

export interface Painted {
  text: string;
  /** By the position of the opening bracket. */
  literals: ReadonlyMap<number, Literal>;
}

/** Behind the end of the string whose first quote is at `at`; -1 when it has none. Escapes as the package reads them. */
function endOfString(text: string, at: number): number {
  const quote = text[at]!;
  const triple = text.startsWith(quote.repeat(3), at);
  const close = triple ? quote.repeat(3) : quote;
  for (let i = at + close.length; i < text.length; i++) {
    if (text[i] === '\\') i++;
    else if (text.startsWith(close, i)) return i + close.length;
    else if (!triple && text[i] === '\n') return -1;
  }
  return -1;
}

const WORD = /[A-Za-z_]\w*/y;
const NUMBER = /\d[\w.]*/y;
const wordAt = (pattern: RegExp, text: string, at: number): string => {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? '';
};

const PAIRS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

interface Open {
  at: number;
  kind: 'list' | 'map' | 'message' | 'other';
  literal: Literal;
  entry: number;
  /** The next word names a field. */
  field: boolean;
}

/** A path of names that may be a type's: where it begins, and whether its last part is what was read last. */
interface Chain {
  start: number;
  name: string;
  dotted: boolean;
}

/** Finds the literals. Texts that are wrong in other ways are painted as far as they are right: the parser judges them. */
export function paint(text: string): Painted {
  const literals = new Map<number, Literal>();
  if (!/[{?]/.test(text)) return { text, literals };
  const out = [...text.split('')];
  const hide = (from: number, to: number, by = ' '): void => {
    for (let i = from; i < to; i++) if (out[i] !== '\n' || by !== ' ') out[i] = by;
  };
  const stack: Open[] = [];
  /** Whether what was read last can be followed by an operator: then a bracket is an index. */
  let operand = false;
  let chain: Chain | undefined;
  /** Whether a question mark here would make the next entry optional. */
  let entryStarts = false;
  for (let at = 0; at < text.length; ) {
    const c = text[at]!;
    if (/\s/.test(c)) {
      at++;
      continue;
    }
    if (text.startsWith('//', at)) {
      const line = text.indexOf('\n', at);
      at = line < 0 ? text.length : line;
      continue;
    }
    const top = stack.at(-1);
    const starts = entryStarts;
    entryStarts = false;
    const quote = /["']/.test(c) ? at : /[rRbB]/.test(c) && /["']/.test(text[at + 1] ?? '') ? at + 1 : -1;
    if (quote >= 0) {
      const end = endOfString(text, quote);
      if (end < 0) break;
      at = end;
      operand = true;
      chain = undefined;
      continue;
    }
    const word = wordAt(WORD, text, at);
    if (word) {
      if (top?.field) {
        top.literal.fields.push(word);
        top.field = false;
        hide(at, at + word.length, '_');
      } else if (chain?.dotted) chain = { start: chain.start, name: `${chain.name}.${word}`, dotted: false };
      else chain = word === 'in' ? undefined : { start: at, name: word, dotted: false };
      operand = word !== 'in';
      at += word.length;
      continue;
    }
    const number = wordAt(NUMBER, text, at);
    if (number) {
      at += number.length;
      operand = true;
      chain = undefined;
      continue;
    }
    if (c === '.') {
      // A leading dot belongs to the name; one behind another operand makes it no name.
      if (chain) chain.dotted = true;
      else if (!operand) chain = { start: at, name: '', dotted: true };
      operand = false;
      at++;
      continue;
    }
    if (c === '[' || c === '(' || c === '{') {
      const message = c === '{' && chain && !chain.dotted;
      if (message) hide(chain!.start, at);
      const kind = message ? 'message' : c === '{' ? 'map' : c === '[' && !operand ? 'list' : 'other';
      const literal: Literal = { end: -1, fields: [], optional: new Set() };
      if (message) literal.type = chain!.name.replace(/^\./, '');
      stack.push({ at, kind, literal, entry: 0, field: kind === 'message' });
      entryStarts = kind !== 'other';
      operand = false;
    } else if (c === ']' || c === ')' || c === '}') {
      const open = stack.pop();
      if (!open || PAIRS[text[open.at]!] !== c) break;
      if (open.kind === 'message' || open.literal.optional.size > 0) {
        open.literal.end = at + 1;
        literals.set(open.at, open.literal);
      }
      operand = true;
    } else if (c === ',') {
      if (top) {
        top.entry++;
        top.field = top.kind === 'message';
        entryStarts = top.kind !== 'other';
      }
      operand = false;
    } else if (c === '?' && starts && top) {
      top.literal.optional.add(top.entry);
      hide(at, at + 1);
      operand = false;
    } else operand = false;
    chain = undefined;
    at++;
  }
  return { text: out.join(''), literals };
}

interface Entry {
  name?: string;
  key?: Node;
  value: Node;
  optional: boolean;
}

interface Meaning {
  entries: readonly Entry[];
  typeCheck(chk: Checker, m: Meaning, ctx: Context): Type;
  evaluate(ev: Evaluator, m: Meaning, ctx: Context): unknown;
}

/** Types of messages in one environment, made when they are first named. */
export interface MessageTypes {
  /** What makes values of a type; undefined when there is no such type. */
  of(name: string): { make: new () => CelMessage; fields: MessageFields } | undefined;
}

/** cel-go's words for a type that the package names. */
export const goTypeName = (name: string): string =>
  name
    .replace(/\bdyn<(.*)>/, '$1')
    .replace(/^list(<T>)?$/, 'list<dyn>')
    .replace(/^map(<K, V>)?$/, 'map<dyn, dyn>')
    .replace(/\bnull\b/g, 'null_type')
    .replaceAll('optional<', 'optional_type<')
    .replaceAll('<', '(')
    .replaceAll('>', ')');
const goName = (t: Type): string => goTypeName(t.name);

/** Gives meanings to the literals of a parsed text. Throws an error with a `range` for types that there are not. */
export function giveMeanings(
  nodes: readonly Node[],
  { literals }: Painted,
  types: MessageTypes | undefined,
  Opt: typeof Optional,
): void {
  for (const node of nodes) {
    const literal = literals.get(node.start);
    // Nodes that macros make may stand at the same place.
    if (!literal || literal.end !== node.end || (node.op !== 'map' && node.op !== 'list')) continue;
    const { type, fields, optional } = literal;
    const args = node.args as (Node | [Node, Node])[];
    const entries = args.map((a, i): Entry => {
      const [key, value] = Array.isArray(a) ? a : [undefined, a];
      return {
        value,
        optional: optional.has(i),
        ...(type !== undefined ? { name: fields[i]! } : key ? { key } : {}),
      };
    });
    // What is painted over is no part of the expression.
    if (type !== undefined) node.args = entries.map((e) => e.value);
    node.setMeta('async', false);
    if (type === undefined)
      node.setMeta('macro', node.op === 'list' ? listOf(entries, Opt) : mapOf(entries, Opt));
    else {
      const known = types?.of(type);
      if (!known)
        throw Object.assign(new Error(`undeclared reference to '${type}' (in container '')`), {
          range: { start: node.start },
        });
      node.setMeta('macro', messageOf(type, known, entries, Opt));
    }
  }
}

/** The type of an entry's value, out of its optional. */
function checkValue(chk: Checker, ctx: Context, { value, optional }: Entry): Type {
  const type = chk.check(value, ctx);
  if (!optional || type.kind === 'dyn') return type;
  if (type.kind !== 'optional')
    throw chk.createError(
      'optional_expected',
      `expected type 'optional_type(${goName(type)})' but found '${goName(type)}'`,
      value,
    );
  return type.valueType;
}

const NONE = Symbol('none');

/** An entry's value; {@link NONE} when it is optional and there is none. */
function entryValue(ev: Evaluator, ctx: Context, { value, optional }: Entry, Opt: typeof Optional): unknown {
  const v = ev.run(value, ctx);
  if (!optional) return v;
  if (!(v instanceof Opt)) throw new Error('cannot initialize optional entry from non-optional value');
  return v.hasValue() ? v.value() : NONE;
}

const joint = (chk: Checker, types: readonly Type[]): Type =>
  types.reduce((a, b) => a.unify(chk.registry, b) ?? chk.getType('dyn'));

const listOf = (entries: readonly Entry[], Opt: typeof Optional): Meaning => ({
  entries,
  typeCheck: (chk, _, ctx) =>
    chk.registry.getListType(
      joint(
        chk,
        entries.map((e) => checkValue(chk, ctx, e)),
      ),
    ),
  evaluate: (ev, _, ctx) => entries.map((e) => entryValue(ev, ctx, e, Opt)).filter((v) => v !== NONE),
});

const mapOf = (entries: readonly Entry[], Opt: typeof Optional): Meaning => ({
  entries,
  typeCheck(chk, _, ctx) {
    const keys = entries.map((e) => chk.check(e.key!, ctx));
    const values = entries.map((e) => checkValue(chk, ctx, e));
    return chk.registry.getMapType(joint(chk, keys), joint(chk, values));
  },
  evaluate(ev, _, ctx) {
    const out = new Map<unknown, unknown>();
    for (const e of entries) {
      const key = ev.run(e.key!, ctx);
      const v = entryValue(ev, ctx, e, Opt);
      if (v !== NONE) out.set(key, v);
    }
    return out;
  },
});

function messageOf(
  type: string,
  { make, fields }: { make: new () => CelMessage; fields: MessageFields },
  entries: readonly Entry[],
  Opt: typeof Optional,
): Meaning {
  return {
    entries,
    typeCheck(chk, _, ctx) {
      for (const e of entries) {
        const given = checkValue(chk, ctx, e);
        if (!fields) continue;
        const wanted = Object.hasOwn(fields, e.name!) ? chk.getType(fields[e.name!]!) : undefined;
        if (!wanted) throw chk.createError('no_such_key', `undefined field '${e.name}'`, e.value);
        if (!given.matches(wanted))
          throw chk.createError(
            'field_type_mismatch',
            `expected type of field '${e.name}' is '${goName(wanted)}' but provided type is '${goName(given)}'`,
            e.value,
          );
      }
      return chk.getType(type);
    },
    evaluate(ev, _, ctx) {
      const out = new make();
      for (const e of entries) {
        const v = entryValue(ev, ctx, e, Opt);
        if (v !== NONE) out.set(e.name!, v);
      }
      return out;
    },
  };
}
