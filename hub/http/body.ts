import { badRequest } from '../../api/meta/errors.js';
import type { Duplicates } from '../registry/api.js';
import { contentType, unsupportedMediaType } from './negotiate.js';

/** Deeper than any Kubernetes object and shallow enough for every recursive walk after it. */
export const MAX_DEPTH = 128;

/**
 * Parses a request body as JSON, YAML or Kubernetes' protobuf by its Content-Type (none: JSON). Throws BadRequest for text that is neither,
 * too deep, or that would reach for a prototype, and UnsupportedMediaType for other types. `duplicates`, when given, gets a
 * text for every key that an object has more than once; the last one counts.
 */
export async function decodeBody(
  body: Buffer,
  type: string | undefined,
  duplicates?: Duplicates,
): Promise<unknown> {
  switch (contentType(type)) {
    case '':
    case 'application/json':
      return decodeJson(body, duplicates);
    case 'application/json-patch+json':
    case 'application/merge-patch+json':
    case 'application/strategic-merge-patch+json': {
      const patch = decodeJson(body, duplicates);
      // Places in a patch are not those in the object that it makes.
      duplicates?.order.clear();
      return patch;
    }
    case 'application/yaml':
      // JSON is YAML, most clients send it as such, and its parser is quicker by far.
      if (body[0] === 0x7b) {
        try {
          return decodeJson(body, duplicates);
        } catch {
          // YAML's own flow style, or wrong in both.
        }
      }
      return decodeYaml(body.toString('utf8'), duplicates);
    case 'application/vnd.kubernetes.protobuf':
      return (await import('./protobuf.js')).decodeProtobuf(body);
    default:
      throw unsupportedMediaType([
        'application/json',
        'application/yaml',
        'application/vnd.kubernetes.protobuf',
      ]);
  }
}

function decodeJson(body: Buffer, duplicates?: Duplicates): unknown {
  const { depth, members } = shapeOf(body);
  if (depth > MAX_DEPTH) throw tooDeep();
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch (e) {
    throw badRequest(syntaxError(e as Error, body));
  }
  // A key can be spelled with escapes, so both spellings get the closer look.
  if (body.includes('__proto__') || body.includes('\\u00')) checkTree(value, 0);
  // As many members in the text as in the value: none was there twice.
  if (duplicates && membersOf(value) !== members) findDuplicates(body, duplicates);
  return value;
}

/** Where a character was not expected, by what V8 says of it. */
const PLACES: readonly (readonly [RegExp, string])[] = [
  [/property name or/, 'looking for beginning of object key string'],
  [/double-quoted property name/, 'looking for beginning of object key string'],
  [/after property name/, 'after object key'],
  [/after property value/, 'after object key:value pair'],
  [/after array element/, 'after array element'],
  [/after JSON/, 'after top-level value'],
  [/control character/, 'in string literal'],
  [/escaped|escape/, 'in string escape code'],
];

/** What is wrong with a JSON text, in the words of Go's encoding/json, which Kubernetes' clients know. */
function syntaxError({ message }: Error, body: Buffer): string {
  if (/^Unexpected end|^Unterminated/.test(message)) return 'unexpected end of JSON input';
  const [, at] = /at position (\d+)/.exec(message) ?? [];
  const [, token] = /^Unexpected token '(.+?)',/su.exec(message) ?? [];
  const c = at === undefined ? token : body.toString('utf8')[Number(at)];
  const place = PLACES.find(([says]) => says.test(message))?.[1] ?? 'looking for beginning of value';
  return c === undefined ? message : `invalid character '${c}' ${place}`;
}

/** The beginning of a body that could not be read: as it is when it looks like JSON, else as hexadecimal digits. */
export function summaryOf(body: Buffer): string {
  if (body.length === 0) return '<empty>';
  const head = body.subarray(0, 30);
  return `${head.toString(body[0] === 0x7b ? 'utf8' : 'hex')}${body.length > 30 ? ' ...' : ''}`;
}

/** More are not told of. */
const MAX_DUPLICATES = 32;

/** Of an object its keys so far, of a list the index; and what leads to the value that comes next. */
interface Level {
  keys?: Set<string>;
  index: number;
  key: string;
}

/** Quoted, as messages have it. */
function pathOf(levels: readonly Level[]): string {
  const path = levels.map((l) => (l.keys ? `.${l.key}` : `[${l.index}]`)).join('');
  return JSON.stringify(path.replace(/^\./, '').slice(0, 512));
}

/** The keys that stand more than once in an object of a JSON text, which is valid and known to have some. */
function findDuplicates(body: Buffer, found: Duplicates): void {
  const levels: Level[] = [];
  let expectKey = false;
  for (let i = 0; i < body.length; i++) {
    const c = body[i];
    const top = levels[levels.length - 1];
    if (c === 0x22) {
      const start = i + 1;
      let escaped = false;
      for (i = start; body[i] !== 0x22; i++) {
        if (body[i] !== 0x5c) continue;
        escaped = true;
        i++;
      }
      if (!expectKey || !top?.keys) continue;
      const raw = body.toString('utf8', start, i);
      top.key = escaped ? (JSON.parse(`"${raw}"`) as string) : raw;
      expectKey = false;
      const path = pathOf(levels);
      found.order.set(path, i);
      if (!top.keys.has(top.key)) top.keys.add(top.key);
      else if (found.texts.length < MAX_DUPLICATES) found.texts.push(`duplicate field ${path}`);
    } else if (c === 0x7b || c === 0x5b) {
      levels.push({ ...(c === 0x7b ? { keys: new Set<string>() } : {}), index: 0, key: '' });
      expectKey = c === 0x7b;
    } else if (c === 0x7d || c === 0x5d) {
      levels.pop();
      expectKey = false;
    } else if (c === 0x2c && top) {
      if (top.keys) expectKey = true;
      else top.index++;
    }
  }
}

/** The key that begins at a place in YAML, quoted; what a quoted key stands for is not looked into. */
function keyAt(text: string, at: number): string {
  const rest = text.slice(at, at + 128);
  const [, plain, quoted] = /^(?:(["'])(.*?)\1|[^:\n,}]*)/.exec(rest) ?? [];
  return JSON.stringify(plain ? quoted : rest.replace(/\s*(:\s|:$|[\n,}])[\s\S]*$/, ''));
}

async function decodeYaml(text: string, duplicates?: Duplicates): Promise<unknown> {
  checkYamlDepth(text);
  const { parseDocument } = await import('yaml');
  let value: unknown;
  try {
    const doc = parseDocument(text, { uniqueKeys: true, version: '1.2', logLevel: 'silent' });
    const [wrong] = doc.errors.filter((e) => e.code !== 'DUPLICATE_KEY');
    if (wrong) throw wrong;
    for (const e of doc.errors.slice(0, MAX_DUPLICATES))
      duplicates?.texts.push(`line ${e.linePos?.[0].line}: key ${keyAt(text, e.pos[0])} already set in map`);
    value = doc.toJS({ maxAliasCount: 50, mapAsMap: false });
  } catch (e) {
    throw badRequest(
      `the body is not valid YAML: ${e instanceof RangeError ? 'nested too deep' : (e as Error).message}`,
    );
  }
  checkTree(value, 0);
  // Aliases share objects; what follows may change one place only.
  return value === undefined ? null : JSON.parse(JSON.stringify(value));
}

/**
 * The YAML parser takes time that explodes, and stack without end, for text that nests deeper than any manifest: so such
 * text does not reach it. Counts brackets, quoted or not, and what a line can nest before its first word.
 */
function checkYamlDepth(text: string): void {
  let depth = 0;
  let lead = 0;
  let leading = true;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x5b || c === 0x7b) depth++;
    else if (c === 0x5d || c === 0x7d) depth--;
    if (c === 0x0a || c === 0x0d) {
      leading = true;
      lead = 0;
    } else if (leading) {
      // space, tab, - ? :
      leading = c === 0x20 || c === 0x09 || c === 0x2d || c === 0x3f || c === 0x3a;
      lead++;
    }
    if (depth > MAX_DEPTH || lead > 2 * MAX_DEPTH) throw tooDeep();
  }
}

const tooDeep = () => badRequest(`the body is nested deeper than ${MAX_DEPTH} levels`);

/** How deep brackets nest in a JSON text and how many members its objects have together, without parsing it. */
function shapeOf(body: Buffer): { depth: number; members: number } {
  let at = 0;
  let depth = 0;
  let members = 0;
  let inString = false;
  for (let i = 0; i < body.length; i++) {
    const c = body[i];
    if (inString) {
      if (c === 0x5c) i++;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x3a) members++;
    else if (c === 0x7b || c === 0x5b) {
      if (++at > depth) depth = at;
    } else if (c === 0x7d || c === 0x5d) at--;
  }
  return { depth, members };
}

/** Members of all objects in a JSON value. */
function membersOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  let n = 0;
  if (Array.isArray(value)) for (const v of value) n += membersOf(v);
  else
    for (const key in value) {
      n++;
      const v = (value as Record<string, unknown>)[key];
      if (typeof v === 'object') n += membersOf(v);
    }
  return n;
}

function checkTree(value: unknown, depth: number): void {
  if (value === null || typeof value !== 'object') return;
  if (depth >= MAX_DEPTH) throw tooDeep();
  if (Object.hasOwn(value, '__proto__')) throw badRequest('the key "__proto__" is not allowed');
  for (const v of Object.values(value)) checkTree(v, depth + 1);
}
