// usage: node scripts/kinds-table.mjs   (after npm run build)
// Writes docs/kinds.md: every kind that is served, from the declarations. A test fails when the page is stale.
import { writeFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ALL = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'];
const verbsText = (verbs) => (ALL.every((v) => verbs.includes(v)) ? 'all' : verbs.join(', '));

/** The page, from the declarations and what gives the subresources of one. */
export function kindsPage(kinds, subresourcesOf) {
  const rows = kinds
    .map((k) => ({
      group: k.group,
      cells: [
        k.kind,
        `\`${k.group ? `${k.group}/` : ''}${k.version}\``,
        `\`${k.plural}\``,
        k.shortNames.map((s) => `\`${s}\``).join(' '),
        k.namespaced ? 'namespace' : 'cluster',
        verbsText(k.verbs ?? ALL),
        subresourcesOf(k)
          .map((s) => (s.verbs.join() === 'get,patch,update' ? s.name : `${s.name} (${s.verbs.join(', ')})`))
          .join(', '),
        k.categories.join(', '),
      ],
    }))
    .sort(
      (a, b) =>
        compare(a.group, b.group) || compare(a.cells[0], b.cells[0]) || compare(a.cells[1], b.cells[1]),
    );
  const head = ['Kind', 'Version', 'Resource', 'Short', 'Scope', 'Verbs', 'Subresources', 'Categories'];
  const all = [head, ...rows.map((r) => r.cells)];
  const widths = head.map((_, i) => Math.max(...all.map((cells) => cells[i].length)));
  const line = (cells) => `| ${cells.map((c, i) => c.padEnd(widths[i])).join(' | ')} |`;
  const rule = `| ${widths.map((w) => '-'.repeat(w)).join(' | ')} |`;
  return `# Kinds

Every kind that the API serves besides those that CustomResourceDefinitions make. Made from the declarations in
[\`api/kinds\`](../api/kinds) by \`node scripts/kinds-table.mjs\`; [how to add one](adding-a-kind.md).

"All" verbs are ${ALL.join(', ')}; a subresource without verbs has
get, patch and update. Each kind is served as JSON and YAML, as \`Table\` and as \`PartialObjectMetadata\`, and understood in Kubernetes' protobuf form.

${[line(head), rule, ...rows.map((r) => line(r.cells))].join('\n')}
`;
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = (path) => import(pathToFileURL(fileURLToPath(new URL(`../dist/${path}`, import.meta.url))).href);
  const { allKinds } = await at('api/kinds/index.js');
  const { subresourcesOf } = await at('hub/http/discovery.js');
  writeFileSync(new URL('../docs/kinds.md', import.meta.url), kindsPage(allKinds, subresourcesOf));
}
