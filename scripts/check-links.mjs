// Exits 1 and names each relative link of a Markdown page, or heading that it names, which is not there.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

const pages = [];
const walk = (dir) => {
  for (const e of readdirSync(dir, { withFileTypes: true })) {
    if (e.name === 'node_modules' || e.name === 'dist' || e.name === '.git') continue;
    const path = join(dir, e.name);
    if (e.isDirectory()) walk(path);
    else if (e.name.endsWith('.md')) pages.push(path);
  }
};
walk('.');

const textOf = (page) => readFileSync(page, 'utf8').replace(/^(```+|~~~+)[\s\S]*?^\1/gm, '');

/** The anchors that a forge gives to a page's headings. */
const anchors = (page) => {
  const seen = new Map();
  return new Set(
    [...textOf(page).matchAll(/^#{1,6} +(.+?) *#*$/gm)].map(([, heading]) => {
      const name = heading
        .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .replace(/ /g, '-');
      const before = seen.get(name) ?? 0;
      seen.set(name, before + 1);
      return before ? `${name}-${before}` : name;
    }),
  );
};

const problems = [];
for (const page of pages) {
  for (const [, link] of textOf(page).matchAll(/\]\(<?([^()\s>]+)>?(?: "[^"]*")?\)/g)) {
    if (/^[a-z][a-z0-9+.-]*:/i.test(link)) continue;
    const [path, anchor] = link.split('#');
    const target = path ? normalize(join(dirname(page), decodeURI(path))) : page;
    if (!existsSync(target)) problems.push(`${page}: ${link} is not there`);
    else if (anchor && target.endsWith('.md') && !anchors(target).has(anchor))
      problems.push(`${page}: ${link} names a heading that is not there`);
  }
}
if (problems.length) {
  for (const problem of problems) console.error(problem);
  process.exit(1);
}
console.log(`links: ${pages.length} pages, every relative link leads somewhere`);
