// usage: node scripts/protobuf-fields.mjs DIR
// Makes hub/http/protobuf-fields.ts: under which number each field of the served kinds travels in Kubernetes' protobuf
// form. No npm package has these numbers; DIR is where Debian's golang-k8s-api-dev and golang-k8s-apimachinery-dev
// keep their sources (/usr/share/gocode/src). Run by hand, when a kind is added.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeDefinitions } from './schemas.mjs';

const source = process.argv[2];
if (!source || !existsSync(join(source, 'k8s.io/api'))) {
  console.error(
    'usage: node scripts/protobuf-fields.mjs /usr/share/gocode/src   (with k8s.io/api and k8s.io/apimachinery)',
  );
  process.exit(2);
}
const definitions = await makeDefinitions();

/** `io.k8s.api.core.v1` → its folder. */
const folderOf = (pkg) => join(source, 'k8s.io', pkg.replace(/^io\.k8s\./, '').replaceAll('.', '/'));

/** Fields whose name in the protobuf form is not the one in JSON. */
const JSON_NAMES = { uID: 'uid' };

const packages = new Map();
/** Messages of a package (name → fields) and the JSON names of pointer fields of its structs. */
function load(pkg) {
  let p = packages.get(pkg);
  if (p) return p;
  p = { messages: new Map(), pointers: new Map() };
  packages.set(pkg, p);
  const proto = readFileSync(join(folderOf(pkg), 'generated.proto'), 'utf8').replace(/\/\/.*$/gm, '');
  for (const [, name, body] of proto.matchAll(/^message (\w+) \{([\s\S]*?)^\}/gm)) {
    const fields = [
      ...body.matchAll(/^\s*(?:optional |repeated |required )?(map<[^>]+>|[\w.]+) (\w+) = (\d+);/gm),
    ].map(([, type, field, number]) => ({ type, field: JSON_NAMES[field] ?? field, number: Number(number) }));
    p.messages.set(name, fields);
  }
  for (const file of ['types.go', 'micro_time.go', 'time.go']) {
    const path = join(folderOf(pkg), file);
    if (!existsSync(path)) continue;
    for (const [, name, body] of readFileSync(path, 'utf8').matchAll(
      /^type (\w+) struct \{([\s\S]*?)^\}/gm,
    )) {
      const found = [...body.matchAll(/^\s+\w+\s+\*\S+\s+`[^`]*json:"(\w+)/gm)].map((m) => m[1]);
      p.pointers.set(name, new Set(found));
    }
  }
  return p;
}

const rows = new Map();
/** The envelope has these. */
const TYPE_META = new Set(['apiVersion', 'kind']);
/** Types with an encoding of their own. */
const SPECIAL = /\.(Quantity|IntOrString|Time|MicroTime|RawExtension|FieldsV1)$/;

/** Adds the row of a message; `properties` are those of the JSON object that it becomes (or becomes part of). Returns which of them it has. */
function add(pkg, name, properties) {
  const full = `${pkg}.${name}`;
  const { messages, pointers } = load(pkg);
  const fields = messages.get(name);
  if (!fields) throw new Error(`no message ${full}`);
  const cells = [];
  const covered = new Set();
  rows.set(full, cells);
  for (const { type, field, number } of fields) {
    if (Object.hasOwn(properties, field)) {
      covered.add(field);
      cells.push(`${field}${pointers.get(name)?.has(field) ? '?' : ''} ${number}`);
      continue;
    }
    // A struct embedded in Go is a message of its own here, and its fields are the outer object's in JSON.
    const inner = type.includes('.') ? type.replace(/^\.?k8s\.io\./, 'io.k8s.') : `${pkg}.${type}`;
    const innerPkg = inner.slice(0, inner.lastIndexOf('.'));
    const innerName = inner.slice(inner.lastIndexOf('.') + 1);
    const inlined = load(innerPkg).messages.get(innerName);
    if (!inlined?.some((f) => Object.hasOwn(properties, f.field))) {
      console.warn(`left out: ${full}.${field} (${type}) is no field of the JSON form`);
      continue;
    }
    cells.push(`+${inner} ${number}`);
    for (const f of add(innerPkg, innerName, properties)) covered.add(f);
  }
  return covered;
}

for (const [full, definition] of Object.entries(definitions)) {
  if (SPECIAL.test(full) || definition.type !== 'object' || !definition.properties) continue;
  const dot = full.lastIndexOf('.');
  const covered = add(full.slice(0, dot), full.slice(dot + 1), definition.properties);
  for (const p of Object.keys(definition.properties)) {
    if (!covered.has(p) && !TYPE_META.has(p)) throw new Error(`${full}: no number for ${p}`);
  }
}

const text = [...rows]
  .sort(([a], [b]) => (a < b ? -1 : 1))
  .map(([name, cells]) => `${name}: ${cells.join(', ')}`);
const wrapped = text.flatMap((line) => {
  const out = [];
  let rest = line;
  while (rest.length > 108) {
    const cut = rest.lastIndexOf(' ', 108);
    const at = /^\d/.test(rest.slice(cut + 1)) ? rest.lastIndexOf(',', cut) + 1 : cut;
    out.push(rest.slice(0, at).trimEnd());
    rest = `  ${rest.slice(at).trimStart()}`;
  }
  out.push(rest);
  return out;
});
writeFileSync(
  'hub/http/protobuf-fields.ts',
  `/**
 * Under which number each field travels in Kubernetes' protobuf form: one message a line (longer ones go on, indented),
 * \`?\` after a field that is a pointer in Go, so that its zero value means something; \`+\` before a message whose fields
 * belong to the outer object. Made by scripts/protobuf-fields.mjs.
 */
export const PROTOBUF_FIELDS = \`
${wrapped.join('\n')}
\`;
`,
);
console.log(`${rows.size} messages`);
