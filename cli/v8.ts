import { setFlagsFromString } from 'node:v8';

/**
 * Flags of V8 for what runs for months on small machines; see docs/decisions/0002. They work only when set before the
 * heap has grown, so before a command's modules are loaded.
 */
export const V8_FLAGS = {
  /** The young generation stays at the 1 MB it starts with, instead of growing to 16. */
  small: ['--semi-space-growth-factor=1'],
  /** No optimizing compiler either: the interpreter and the baseline compiler do for what mostly waits. */
  smallest: ['--semi-space-growth-factor=1', '--no-opt'],
} as const;

export function setV8Flags(flags: readonly string[]): void {
  for (const flag of flags) setFlagsFromString(flag);
}
