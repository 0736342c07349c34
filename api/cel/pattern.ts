import { createRequire } from 'node:module';
import type { RE2JS } from 're2js';

let engine: typeof RE2JS | undefined;
const compiled = new Map<string, RE2JS>();
const MAX_COMPILED = 1000;

/** A pattern in Go's syntax, run in linear time. Throws with the reason when it is none. */
export function pattern(text: string): RE2JS {
  const known = compiled.get(text);
  if (known) return known;
  // Loaded when the first pattern comes: most hubs never need it.
  engine ??= (createRequire(import.meta.url)('re2js') as { RE2JS: typeof RE2JS }).RE2JS;
  const made = engine.compile(text);
  if (compiled.size >= MAX_COMPILED) compiled.clear();
  compiled.set(text, made);
  return made;
}
