import { resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { clientPath, missing } from './support/needs.js';
import { startProgram } from './support/program.js';
import { remove, scratch, TestHub } from './support/system.js';

const PROGRAM = resolve(import.meta.dirname, '../clients/python/client.py');

describe.skipIf(missing("Python's client"))("Kubernetes' Python client", () => {
  const home = scratch('python');
  let hub: TestHub;

  beforeAll(async () => {
    hub = await new TestHub().start();
  });
  afterAll(async () => {
    await hub?.stop();
    remove(home, hub?.dataDir);
  });

  it('lists, watches, patches, applies, defines kinds and leads', async () => {
    const { code, stdout, stderr } = await startProgram(clientPath('python'), [PROGRAM], hub.kubeconfig, home)
      .ended;
    expect(code, stderr).toBe(0);
    const said = Object.fromEntries(
      stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as [string, unknown]),
    );
    expect(said).toEqual({
      version: expect.stringMatching(/^v1\.\d+\.\d+\+coxswain/),
      created: true,
      merged: { a: '1', b: '2' },
      patched: { b: '2' },
      conflict: [
        409,
        'Conflict',
        'Operation cannot be fulfilled on configmaps "one": the object has been modified; please apply your changes to the latest version and try again',
      ],
      twice: [409, 'AlreadyExists', 'configmaps "one" already exists'],
      absent: [404, 'NotFound', 'pods "nobody" not found'],
      watched: [
        ['ADDED', 'one'],
        ['MODIFIED', 'one'],
        ['MODIFIED', 'one'],
        ['DELETED', 'one'],
      ],
      pages: [2, 1],
      scaled: 1,
      port: 'http',
      allowed: true,
      applied: 1,
      dynamic: 2,
      wrong: [422, 'Invalid', expect.stringContaining('spec.size in body must be of type integer')],
      listed: ['t'],
      leads: true,
      done: true,
    });
  });
});
