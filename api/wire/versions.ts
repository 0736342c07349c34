/**
 * Versions of the wire. Whatever two sides say before they have agreed on one (hello, challenge, refused, query, bye,
 * and all of joining) is said in the greeting format, which stays as it is for ever, as does what is on a device's
 * disk. docs/wire.md says what may be added without a new version.
 */
import { DICTIONARY } from './dictionary.js';

/** How the frames of a session are packed. */
export interface WireFormat {
  /** First byte of each frame. */
  readonly version: number;
  readonly dictionary: Uint8Array;
}

export const GREETING: WireFormat = { version: 2, dictionary: DICTIONARY };

/** What this build speaks, oldest first, without gaps. */
export const FORMATS: readonly WireFormat[] = [GREETING];

/** From the oldest to the newest version that a side speaks. */
export type Versions = readonly [oldest: number, newest: number];

export const versionsOf = (formats: readonly WireFormat[]): Versions => [
  formats[0]!.version,
  formats.at(-1)!.version,
];

/** As a message says them: not at all by who speaks the first one alone. */
export function sayVersions(formats: readonly WireFormat[]): { v?: Versions } {
  const [oldest, newest] = versionsOf(formats);
  return oldest === GREETING.version && newest === GREETING.version ? {} : { v: [oldest, newest] };
}

/** The inverse of {@link sayVersions}; undefined when it makes no sense. */
export function heardVersions(v: unknown): Versions | undefined {
  if (v === undefined) return [GREETING.version, GREETING.version];
  if (!Array.isArray(v) || v.length < 2) return undefined;
  const [oldest, newest] = v as unknown[];
  const fine = Number.isSafeInteger(oldest) && Number.isSafeInteger(newest);
  return fine && (oldest as number) <= (newest as number) ? [oldest as number, newest as number] : undefined;
}

/** The newest that both speak. */
export const commonFormat = (
  formats: readonly WireFormat[],
  [oldest, newest]: Versions,
): WireFormat | undefined => formats.findLast(({ version }) => version >= oldest && version <= newest);

const words = ([oldest, newest]: Versions): string =>
  oldest === newest ? `version ${oldest}` : `versions ${oldest} to ${newest}`;

/** Why two sides without a common version cannot talk, and who has to do what. */
export function mismatch(hub: Versions, agent: Versions): string {
  const remedy =
    agent[1] < hub[0]
      ? 'upgrade the agent on the device; until then its pods run on as they are'
      : 'upgrade the hub, or install the agent of its release on the device; its pods run on as they are';
  return `the agent speaks ${words(agent)} of the wire and this hub ${words(hub)}: ${remedy}`;
}
