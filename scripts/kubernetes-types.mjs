// usage: node scripts/kubernetes-types.mjs DIR
// Facts of Kubernetes' Go types that no npm package has, for every kind of its stable groups, served here or not:
// - scripts/kubernetes-types.json: merge keys, list types, quantities, what is embedded by value (for scripts/schemas.mjs);
// - hub/http/protobuf-fields.ts: under which number each field travels in Kubernetes' protobuf form.
// DIR has the Go modules k8s.io/api, apimachinery, apiextensions-apiserver and kube-aggregator, with or without `@version`
// in their folders' names (`$(go env GOMODCACHE)/k8s.io` after `go mod download`, or Debian's
// /usr/share/gocode/src/k8s.io). Run by hand, for a newer Kubernetes only: it covers kinds that are not served yet as well.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const dir = process.argv[2];
const wanted = process.argv[3] ?? '';
if (!dir || !existsSync(dir)) {
  console.error('usage: node scripts/kubernetes-types.mjs DIR [@VERSION]   (DIR has api, apimachinery …)');
  process.exit(2);
}

const moduleDir = (name) => {
  const found = readdirSync(dir).filter(
    (d) => d === name || d.startsWith(`${name}@${wanted.replace(/^@/, '')}`),
  );
  if (found.length !== 1) throw new Error(`${found.length} folders of ${name} in ${dir}: name the version`);
  return join(dir, found[0]);
};

const META = 'io.k8s.apimachinery.pkg.apis.meta.v1';
const QUANTITY = 'io.k8s.apimachinery.pkg.api.resource.Quantity';
/** Types with a JSON form of their own, so that their Go fields say nothing. */
const SPECIAL = new Set([
  QUANTITY,
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString',
  'io.k8s.apimachinery.pkg.runtime.RawExtension',
  ...['Time', 'MicroTime', 'FieldsV1'].map((n) => `${META}.${n}`),
]);

/** Package (`io.k8s.api.core.v1`) → its folder. Versions that are not stable are left out: nothing serves them. */
const folders = new Map();
const api = moduleDir('api');
for (const group of readdirSync(api, { withFileTypes: true })) {
  if (!group.isDirectory() || group.name.startsWith('.') || group.name === 'testdata') continue;
  for (const version of readdirSync(join(api, group.name)))
    if (/^v\d+$/.test(version))
      folders.set(`io.k8s.api.${group.name}.${version}`, join(api, group.name, version));
}
folders.set(META, join(moduleDir('apimachinery'), 'pkg/apis/meta/v1'));
for (const [module, path] of [
  ['apiextensions-apiserver', 'pkg/apis/apiextensions/v1'],
  ['kube-aggregator', 'pkg/apis/apiregistration/v1'],
])
  folders.set(`io.k8s.${module}.${path.replaceAll('/', '.')}`, join(moduleDir(module), path));

/** `k8s.io/api/core/v1` → `io.k8s.api.core.v1` */
const packageOf = (path) => path.replace(/^k8s\.io\//, 'io.k8s.').replaceAll('/', '.');

const groups = {};
/** Full name of a type → its struct's fields, or the type that it is another name of. */
const structs = new Map();
const aliases = new Map();
for (const [pkg, folder] of folders) {
  const register = readFileSync(join(folder, 'register.go'), 'utf8');
  groups[pkg] = /GroupName\s*=\s*"([^"]*)"/.exec(register)?.[1] ?? '';
  for (const file of readdirSync(folder)) {
    if (!/^types?(_.*)?\.go$|^(?:micro_)?time\.go$|^watch\.go$/.test(file) || /swagger_doc|_test/.test(file))
      continue;
    parse(readFileSync(join(folder, file), 'utf8'), pkg);
  }
}

/** Full name of a Go type as one file of a package names it; undefined for a built-in one. */
function named(type, pkg, imports) {
  const dot = type.indexOf('.');
  if (dot > 0) return `${imports.get(type.slice(0, dot)) ?? '?'}.${type.slice(dot + 1)}`;
  return /^[A-Z]/.test(type) ? `${pkg}.${type}` : undefined;
}

function parse(text, pkg) {
  const imports = new Map();
  for (const [, name, path] of text.matchAll(/^\s*(?:import )?(\w+)? ?"(k8s\.io\/[^"]+)"$/gm))
    imports.set(name ?? path.slice(path.lastIndexOf('/') + 1), packageOf(path));
  let comments = [];
  let fields;
  for (const raw of text.split('\n')) {
    const line = raw.trim();
    if (line.startsWith('//')) {
      comments.push(line.slice(2).trim());
      continue;
    }
    const marker = (name) =>
      comments.flatMap((c) => (c.startsWith(`+${name}=`) ? [c.slice(name.length + 2).trim()] : []));
    const start = /^type (\w+) struct \{$/.exec(line);
    const other = /^type (\w+) =?\s*([[\]*\w.]+)$/.exec(line);
    if (start) {
      fields = [];
      structs.set(`${pkg}.${start[1]}`, {
        fields,
        atomic: marker('structType').includes('atomic') || marker('mapType').includes('atomic'),
      });
    } else if (other) {
      aliases.set(`${pkg}.${other[1]}`, {
        type: other[2],
        pkg,
        imports,
        atomic: marker('mapType').includes('atomic'),
      });
    } else if (line === '}') fields = undefined;
    else if (fields) {
      const member = /^(?:(\w+)\s+)?([[\]*\w.]+)\s+`(.*)`/.exec(line);
      // A blank line parts a comment from what follows, but markers of a field stand above it without one.
      if (!member) {
        if (line === '') comments = [];
        continue;
      }
      const [, , type, tags] = member;
      const tag = (name) => new RegExp(`(?:^| )${name}:"([^"]*)"`).exec(tags)?.[1];
      const json = tag('json') ?? '';
      const number = /^\w+,(\d+),/.exec(tag('protobuf') ?? '')?.[1];
      const form = /^\*?(\[\]|map\[\w+\])?\*?([\w.]+)$/.exec(type) ?? [];
      fields.push({
        name: json.split(',')[0],
        inline: json.split(',')[0] === '' && json.includes('inline'),
        number: number && Number(number),
        pointer: type.startsWith('*'),
        collection: form[1],
        type: named(form[2] ?? type, pkg, imports),
        omitempty: json.includes('omitempty') || json.includes('omitzero'),
        listType: marker('listType')[0],
        listMapKeys: marker('listMapKey'),
        mapType: marker('mapType')[0],
        structType: marker('structType')[0],
        default: marker('default')[0],
        mergeKey: tag('patchMergeKey'),
        strategy: tag('patchStrategy'),
      });
    }
    comments = [];
  }
}

/** Follows type names that are maps or lists of something (`ResourceList`). */
function unalias(field) {
  let { type, collection } = field;
  let { mapType } = field;
  for (let alias = aliases.get(type); alias; alias = aliases.get(type)) {
    const form = /^(\[\]|map\[\w+\])?\*?([\w.]+)$/.exec(alias.type);
    if (!form) break;
    if (form[1]) collection = form[1];
    if (alias.atomic) mapType ??= 'atomic';
    const next = named(form[2], alias.pkg, alias.imports);
    if (next === type) break;
    type = next;
  }
  return { ...field, type, collection, mapType };
}

/** What there is to say about the JSON fields of a type, those of structs that it inlines included. */
function factsOf(full) {
  const facts = {};
  for (const original of structs.get(full)?.fields ?? []) {
    const f = unalias(original);
    if (f.inline) Object.assign(facts, factsOf(f.type));
    if (!f.name || f.name === '-') continue;
    const fact = {};
    if (f.collection === '[]' && (f.listType || f.mergeKey || f.strategy))
      fact.list = {
        ...(f.listType ? { type: f.listType } : {}),
        ...(f.listMapKeys.length ? { keys: f.listMapKeys } : {}),
      };
    if (f.mergeKey) fact.mergeKey = f.mergeKey;
    if (f.strategy) fact.strategy = f.strategy;
    if (f.mapType === 'atomic' || f.structType === 'atomic') fact.atomic = true;
    if (f.type === QUANTITY) fact.quantity = true;
    if (!f.pointer && !f.collection && structs.has(f.type) && !SPECIAL.has(f.type)) fact.embedded = true;
    // A default may name a constant; nothing needs those.
    if (f.default && !f.default.startsWith('ref(')) fact.default = JSON.parse(f.default);
    if (Object.keys(fact).length) facts[f.name] = fact;
  }
  return facts;
}

/** By full name; a type about which there is nothing to say is there as well, which tells its package. */
const types = {};
const rows = [];
for (const [full, { fields, atomic }] of [...structs].sort(([a], [b]) => (a < b ? -1 : 1))) {
  if (SPECIAL.has(full)) continue;
  const facts = factsOf(full);
  types[full] = { ...(atomic ? { atomic } : {}), ...(Object.keys(facts).length ? { fields: facts } : {}) };
  const cells = fields
    .filter((f) => f.number && (f.inline || (f.name && f.name !== '-')))
    .map((f) => (f.inline ? `+${f.type} ${f.number}` : `${f.name}${f.pointer ? '?' : ''} ${f.number}`));
  rows.push(`${full}: ${cells.join(', ')}`);
}

writeFileSync('scripts/kubernetes-types.json', `${JSON.stringify({ groups, types })}\n`);

const wrapped = rows.flatMap((line) => {
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
 * belong to the outer object. Made by scripts/kubernetes-types.mjs.
 */
export const PROTOBUF_FIELDS = \`
${wrapped.join('\n')}
\`;
`,
);
console.log(`${rows.length} types`);
