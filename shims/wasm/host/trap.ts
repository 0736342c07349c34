import { CannotRun, EXIT } from './spec.js';

/** Exit code and text for what ended a guest from within: a trap, a stack overflow, or a failure of the host. */
export function describeTrap(e: unknown): [number, string] {
  if (e instanceof CannotRun) return [EXIT.cannotRun, e.message];
  const error = e instanceof Error ? e : new Error(String(e));
  const frame = /at (?:(\S+) \()?wasm:\/\/wasm\/[^:]*:wasm-function\[(\d+)\]:(0x[0-9a-f]+)/.exec(
    error.stack ?? '',
  );
  const where = frame
    ? ` at func ${frame[1] ? `${shortName(frame[1])} ` : ''}[${frame[2]}] offset ${frame[3]}`
    : '';
  if (e instanceof WebAssembly.RuntimeError) return [EXIT.trap, `wasm trap: ${reasonOf(e.message)}${where}`];
  if (e instanceof RangeError && /call stack/i.test(e.message))
    return [EXIT.trap, `wasm trap: call stack exhausted${where}`];
  return [EXIT.host, `wasm host: ${error.stack ?? error.message}`];
}

/** V8 prints `module.function`; the module's own name says nothing more. */
const shortName = (name: string): string => name.replace(/^wasm-module-[0-9a-f]+\./, '');

/** V8's words → those of the specification's test suite, which other runtimes use too. */
const WORDS: Record<string, string> = {
  unreachable: 'unreachable executed',
  'memory access out of bounds': 'out of bounds memory access',
  'divide by zero': 'integer divide by zero',
  'divide result unrepresentable': 'integer overflow',
  'float unrepresentable in integer range': 'invalid conversion to integer',
  'table index is out of bounds': 'undefined element',
  'null function or function signature mismatch': 'indirect call type mismatch',
};
const reasonOf = (message: string): string => WORDS[message] ?? message;
