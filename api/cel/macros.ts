/**
 * Macros that the library does not have: comprehensions with two variables (cel-go ext.TwoVarComprehensions), `optMap`
 * and `optFlatMap`; and `has`, which the library allows for plain paths only.
 */
import type { Environment, Optional } from '@marcbachmann/cel-js';

/** The library's syntax tree, as far as it is used here. */
export interface Node {
  op: string;
  args: unknown;
  pos: number;
  start: number;
  end: number;
  meta: {
    alternate?: Node;
    macro?: { evaluate(ev: Evaluator, macro: unknown, ctx: Context): unknown };
    evaluate(ev: Evaluator, node: Node, ctx: Context): unknown;
  };
  evaluate(ev: Evaluator, node: Node, ctx: Context): unknown;
  /** Once it is checked. */
  checkedType?: Type;
  /** Of a checked operator. */
  handle?(left: unknown, right: unknown, node: Node, ev: Evaluator): unknown;
  setMeta(key: string, value: unknown): Node;
}
export interface Type {
  kind: string;
  name: string;
  keyType?: Type;
  valueType: Type;
  /** The type that both are of; null when there is none. */
  unify(registry: Checker['registry'], other: Type): Type | null;
  matches(other: Type): boolean;
}
export interface Context {
  forkWithVariable(name: string, type: Type): Context;
  reuse(parent: Context): Context;
  setIterValue(value: unknown, ev: Evaluator): Context;
}
export interface Evaluator {
  run(node: Node, ctx: Context): unknown;
  tryEval(node: Node, ctx: Context): unknown;
}
export interface Checker {
  check(node: Node, ctx: Context): Type;
  getType(name: string): Type;
  createError(code: string, message: string, node: Node): Error;
  registry: {
    getListType(t: Type): Type;
    getMapType(k: Type, v: Type): Type;
    getOptionalType(t: Type): Type;
  };
}
interface Call {
  ast: Node;
  args: Node[];
  receiver: Node;
}

const variable = (node: Node): string => {
  if (node.op !== 'id') throw new Error('argument must be a simple name');
  return node.args as string;
};

interface Loop {
  receiver: Node;
  parts: Node[];
  keyCtx?: Context;
  valueCtx?: Context;
}

/** `[index, item]` of a list, `[key, value]` of a map. */
function entriesOf(range: unknown): [unknown, unknown][] {
  if (Array.isArray(range)) return range.map((v, i) => [BigInt(i), v]);
  if (range instanceof Map) return [...range];
  if (typeof range === 'object' && range !== null) return Object.entries(range);
  throw new Error('a list or a map is needed as the range of a comprehension');
}

type Step = (
  entry: [unknown, unknown],
  run: (part: Node) => unknown,
  tryRun: (part: Node) => unknown,
) => void;

/** A comprehension over two variables (or the second alone). `make` returns what to do at each step and the answer. */
function comprehension(
  variables: 1 | 2,
  typeOf: (chk: Checker, parts: Type[], key: Type) => Type,
  make: (parts: Node[]) => { step: Step; done?: () => boolean; result: () => unknown },
) {
  return ({ args, receiver }: Call) => {
    const names = args.slice(0, variables).map(variable);
    return {
      receiver,
      parts: args.slice(variables),
      typeCheck(chk: Checker, loop: Loop, ctx: Context): Type {
        const range = chk.check(loop.receiver, ctx);
        const dyn = chk.getType('dyn');
        if (!['list', 'map', 'dyn'].includes(range.kind))
          throw chk.createError(
            'invalid_comprehension_range',
            `expression of type '${range.name}' cannot be range of a comprehension (must be list, map, or dynamic)`,
            loop.receiver,
          );
        const key = range.kind === 'list' ? chk.getType('int') : range.kind === 'map' ? range.keyType! : dyn;
        const value = range.kind === 'dyn' ? dyn : range.valueType;
        if (variables === 2) {
          loop.keyCtx = ctx.forkWithVariable(names[0]!, key);
          loop.valueCtx = loop.keyCtx.forkWithVariable(names[1]!, value);
        } else {
          loop.keyCtx = ctx;
          loop.valueCtx = ctx.forkWithVariable(names[0]!, range.kind === 'map' ? key : value);
        }
        const types = loop.parts.map((p) => chk.check(p, loop.valueCtx!));
        return typeOf(chk, types, key);
      },
      evaluate(ev: Evaluator, loop: Loop, ctx: Context): unknown {
        const range = ev.run(loop.receiver, ctx);
        const keyCtx = variables === 2 ? loop.keyCtx!.reuse(ctx) : ctx;
        const inner = loop.valueCtx!.reuse(keyCtx);
        const { step, done, result } = make(loop.parts);
        const run = (part: Node) => ev.run(part, inner);
        const tryRun = (part: Node) => ev.tryEval(part, inner);
        const isMap = !Array.isArray(range);
        for (const entry of entriesOf(range)) {
          if (done?.()) break;
          if (variables === 2) keyCtx.setIterValue(entry[0], ev);
          inner.setIterValue(variables === 1 && isMap ? entry[0] : entry[1], ev);
          step(entry, run, tryRun);
        }
        return result();
      },
    };
  };
}

const bool = (v: unknown): boolean => {
  if (typeof v !== 'boolean') throw new Error('no such overload: a predicate must be a bool');
  return v;
};
const isBool = (chk: Checker): Type => chk.getType('bool');

/** `all` (until is false) and `exists` (until is true): an error counts only when nothing decides. */
const quantifier = (until: boolean) =>
  comprehension(2, isBool, ([predicate]) => {
    let decided = false;
    let error: Error | undefined;
    return {
      step(_, __, tryRun) {
        const v = tryRun(predicate!);
        if (v instanceof Error) error ??= v;
        else if (bool(v) === until) decided = true;
      },
      done: () => decided,
      result() {
        if (!decided && error) throw error;
        return decided ? until : !until;
      },
    };
  });

const existsOne = (variables: 1 | 2) =>
  comprehension(variables, isBool, ([predicate]) => {
    let count = 0;
    return {
      step(_, run) {
        if (bool(run(predicate!))) count++;
      },
      result: () => count === 1,
    };
  });

const last = <T>(list: readonly T[]): T => list[list.length - 1]!;
/** With a filter before the transformation there are two parts. */
const wanted = (parts: readonly Node[], run: (part: Node) => unknown): boolean =>
  parts.length < 2 || bool(run(parts[0]!));

const transformList = comprehension(
  2,
  (chk, types) => chk.registry.getListType(last(types)),
  (parts) => {
    const out: unknown[] = [];
    return {
      step(_, run) {
        if (wanted(parts, run)) out.push(run(last(parts)));
      },
      result: () => out,
    };
  },
);

const insert = (out: Map<unknown, unknown>, key: unknown, value: unknown): void => {
  if (out.has(key)) throw new Error(`insert failed: key ${String(key)} already exists`);
  out.set(key, value);
};

const transformMap = comprehension(
  2,
  (chk, types, key) => chk.registry.getMapType(key, last(types)),
  (parts) => {
    const out = new Map<unknown, unknown>();
    return {
      step([key], run) {
        if (wanted(parts, run)) insert(out, key, run(last(parts)));
      },
      result: () => out,
    };
  },
);

const transformMapEntry = comprehension(
  2,
  (_, types) => last(types),
  (parts) => {
    const out = new Map<unknown, unknown>();
    return {
      step(_, run) {
        if (!wanted(parts, run)) return;
        for (const [k, v] of entriesOf(run(last(parts)))) insert(out, k, v);
      },
      result: () => out,
    };
  },
);

/** `optMap` and `optFlatMap`: the expression sees what the optional has. */
const optional = (Opt: typeof Optional, flat: boolean) => {
  return ({ args, receiver }: Call) => {
    const name = variable(args[0]!);
    return {
      receiver,
      parts: [args[1]!],
      typeCheck(chk: Checker, m: Loop, ctx: Context): Type {
        const given = chk.check(m.receiver, ctx);
        if (given.kind !== 'optional' && given.kind !== 'dyn')
          throw chk.createError('optional_expected', 'an optional value is needed', m.receiver);
        m.valueCtx = ctx.forkWithVariable(name, given.kind === 'dyn' ? chk.getType('dyn') : given.valueType);
        const type = chk.check(m.parts[0]!, m.valueCtx);
        return flat ? type : chk.registry.getOptionalType(type);
      },
      evaluate(ev: Evaluator, m: Loop, ctx: Context): unknown {
        const given = ev.run(m.receiver, ctx);
        if (!(given instanceof Opt)) throw new Error('an optional value is needed');
        if (!given.hasValue()) return Opt.none();
        const v = ev.run(m.parts[0]!, m.valueCtx!.reuse(ctx).setIterValue(given.value(), ev));
        return flat ? v : Opt.of(v);
      },
    };
  };
};

/** Puts the macros into `environment`. */
export function registerMacros(environment: Environment, Opt: typeof Optional): void {
  const macros: Record<string, (call: Call) => object> = {
    'list.all(ast, ast, ast): bool': quantifier(false),
    'list.exists(ast, ast, ast): bool': quantifier(true),
    'list.exists_one(ast, ast, ast): bool': existsOne(2),
    'list.existsOne(ast, ast, ast): bool': existsOne(2),
    'list.existsOne(ast, ast): bool': existsOne(1),
    'list.transformList(ast, ast, ast): list': transformList,
    'list.transformList(ast, ast, ast, ast): list': transformList,
    'map.transformMap(ast, ast, ast): map': transformMap,
    'map.transformMap(ast, ast, ast, ast): map': transformMap,
    'map.transformMapEntry(ast, ast, ast): map': transformMapEntry,
    'map.transformMapEntry(ast, ast, ast, ast): map': transformMapEntry,
    'optional.optMap(ast, ast): optional': optional(Opt, false),
    'optional.optFlatMap(ast, ast): optional': optional(Opt, true),
  };
  for (const [signature, macro] of Object.entries(macros))
    environment.registerFunction(signature, macro as unknown as () => unknown, { async: false });
}

/** `has(e.f)` for any `e`. Errors of `e` are errors, as in CEL. */
export function hasMacro(Opt: typeof Optional, call: Node): object | undefined {
  const [argument] = (call.args as [string, Node[]])[1];
  if (argument?.op !== '.' && argument?.op !== '.?') return undefined;
  const [target, name] = argument.args as [Node, string];
  return {
    target,
    argument,
    typeCheck(chk: Checker, _m: unknown, ctx: Context): Type {
      chk.check(argument, ctx);
      return chk.getType('bool');
    },
    evaluate(ev: Evaluator, _m: unknown, ctx: Context): boolean {
      let o = ev.run(target, ctx);
      if (o instanceof Opt) o = o.hasValue() ? o.value() : undefined;
      if (o instanceof Map) return o.get(name) !== undefined;
      if (typeof o !== 'object' || o === null) {
        if (o === undefined) return false;
        throw new Error(`no such overload: has(${name})`);
      }
      const plain = Object.getPrototypeOf(o) === Object.prototype || Object.getPrototypeOf(o) === null;
      return plain && Object.hasOwn(o, name) && (o as Record<string, unknown>)[name] !== undefined;
    },
  };
}
