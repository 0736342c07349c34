import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { allKinds } from '../../api/kinds/index.js';
// @ts-expect-error a script without types
import { kindsPage } from '../../scripts/kinds-table.mjs';
import { subresourcesOf } from './discovery.js';

it('docs/kinds.md says what is served; after a change: npm run build && node scripts/kinds-table.mjs', () => {
  const page = readFileSync(new URL('../../docs/kinds.md', import.meta.url), 'utf8');
  expect(page).toBe(kindsPage(allKinds, subresourcesOf));
});
