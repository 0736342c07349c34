/** Makes the packages that mqtt and aedes stand on as small as they can be. Call it before either is loaded. */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/**
 * `mqtt-packet` fills a table of 65,536 Buffers at the first packet (10 MB), to spare two bytes' allocation each time;
 * and `readable-stream` is Node's own streams a second time (2 MB) unless told so.
 */
export function leanPackets(): void {
  process.env['READABLE_STREAM'] ??= 'disable';
  const { writeToStream } = require('mqtt-packet') as { writeToStream: { cacheNumbers: boolean } };
  writeToStream.cacheNumbers = false;
}
