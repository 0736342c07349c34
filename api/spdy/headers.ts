/** Header blocks of SPDY/3.1 (draft-mbelshe-httpbis-spdy, 2.6.10): name and value pairs in one zlib stream a direction. */
import { constants, inflateRawSync } from 'node:zlib';

/** 2.6.10.1: names, each after its length, and what else is usual in headers. */
const WORDS =
  'options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status|200 OK|version|HTTP/1.1|url public set-cookie keep-alive origin';
const CODES = '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505';
const PHRASES =
  '203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.';

const sized = (text: string): Buffer => {
  const bytes = Buffer.from(text);
  const size = Buffer.alloc(4);
  size.writeUInt32BE(bytes.length);
  return Buffer.concat([size, bytes]);
};

const DICTIONARY = Buffer.concat([
  // `200 OK` is the one word with a space.
  ...WORDS.split('|')
    .flatMap((part) => (part === '200 OK' ? [part] : part.split(' ')))
    .map(sized),
  Buffer.from(CODES + PHRASES),
]);

/** How far back deflate refers. */
const HISTORY = 32 * 1024;
const MAX_BLOCK = 64 * 1024;
const MAX_HEADERS = 64;
/** zlib's head with a dictionary (RFC 1950): two bytes and the dictionary's checksum; without: two bytes. */
const PRESET_DICTIONARY = 0x20;
const PLAIN_HEAD = Buffer.from([0x78, 0x01]);
/** An empty stored block: to here a decoder gives out all that it has. */
const FLUSH = Buffer.from([0, 0, 0, 0xff, 0xff]);
const MAX_STORED = 0xffff;

export type Headers = Readonly<Record<string, string>>;

/** Names are lower case. */
export class HeaderReader {
  #history: Buffer | undefined;

  /**
   * The next block. Each one ends where its sender flushed, at a byte, so that it can be read by itself with what came
   * before as dictionary. Throws for what cannot be read.
   */
  read(block: Buffer): Headers {
    let deflated = block;
    if (!this.#history) {
      const preset = ((block[1] ?? 0) & PRESET_DICTIONARY) !== 0;
      deflated = block.subarray(preset ? 6 : 2);
      this.#history = preset ? DICTIONARY : Buffer.alloc(0);
    }
    const plain = inflateRawSync(deflated, {
      ...(this.#history.length > 0 ? { dictionary: this.#history } : {}),
      finishFlush: constants.Z_SYNC_FLUSH,
      maxOutputLength: MAX_BLOCK,
    });
    this.#history = Buffer.concat([this.#history, plain]).subarray(-HISTORY);
    let at = 0;
    const word = (): string => {
      const length = plain.readUInt32BE(at);
      at += 4 + length;
      if (at > plain.length) throw new RangeError('a header is longer than its block');
      return plain.toString('utf8', at - length, at);
    };
    const count = plain.readUInt32BE(at);
    at += 4;
    if (count > MAX_HEADERS) throw new RangeError(`${count} headers`);
    const headers: Record<string, string> = {};
    for (let i = 0; i < count; i++) {
      const name = word().toLowerCase();
      headers[name] = word();
    }
    return headers;
  }
}

/** Compresses nothing: the blocks are short and few, and stored blocks need no state but for the first one's head. */
export class HeaderWriter {
  #begun = false;

  write(headers: Headers): Buffer {
    const count = Buffer.alloc(4);
    const entries = Object.entries(headers);
    count.writeUInt32BE(entries.length);
    const plain = Buffer.concat([count, ...entries.flatMap(([k, v]) => [sized(k.toLowerCase()), sized(v)])]);
    if (plain.length > MAX_STORED) throw new RangeError('headers are too long');
    const head = Buffer.alloc(5);
    head.writeUInt16LE(plain.length, 1);
    head.writeUInt16LE(~plain.length & MAX_STORED, 3);
    const block = Buffer.concat([...(this.#begun ? [] : [PLAIN_HEAD]), head, plain, FLUSH]);
    this.#begun = true;
    return block;
  }
}
