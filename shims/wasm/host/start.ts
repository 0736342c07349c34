import { closeSync, readFileSync, writeSync } from 'node:fs';
import { CriLog } from './log.js';
import { type HostSpec, MAX_MESSAGE, MESSAGE_FD, SPEC_FD } from './spec.js';
import { describeTrap } from './trap.js';

/** What the host programs have in common: the specification, the log, and how to end. */
export interface Host {
  spec: HostSpec;
  log: CriLog;
  /** The guest's own end. */
  exit: (code: number) => never;
  /** An end that the guest did not choose, with the reason for the container's status. */
  end: (code: number, message: string) => never;
}

/** Runs one guest to its end. */
export function runGuest(run: (host: Host) => void): never {
  const spec = JSON.parse(readFileSync(SPEC_FD, 'utf8')) as HostSpec;
  closeSync(SPEC_FD);
  const log = new CriLog(spec.log.path, spec.log.maxBytes);
  const exit = (code: number): never => {
    log.flush('F');
    // Statuses have eight bits: a code beyond them must not turn into success.
    process.exit(code > 255 ? code & 255 || 255 : code);
  };
  const end = (code: number, message: string): never => {
    writeSync(MESSAGE_FD, Buffer.from(message).subarray(0, MAX_MESSAGE));
    return exit(code);
  };
  try {
    run({ spec, log, exit, end });
  } catch (e) {
    end(...describeTrap(e));
  }
  return exit(0);
}
