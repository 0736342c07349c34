import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { buildModule, type ModuleName } from '../modules/build.js';

const names: ModuleName[] = ['box', 'hello', 'trap', 'missing-import', 'no-start', 'reactor'];
for (const name of names)
  it(`builds ${name} from source to a valid module`, async () => {
    expect(WebAssembly.validate(readFileSync(await buildModule(name)))).toBe(true);
  });
