import { describe, expect, it } from 'vitest';
import { pods } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import type { RequestContext } from '../api.js';
import { AdmissionChain } from './chain.js';
import { type Plugin, Request, type World } from './plugin.js';

const KIND = pods as unknown as Kind;
const world: World = { get: () => undefined, list: () => [], scan: () => [], kinds: () => [] };
const request = () => {
  const ctx: RequestContext = { user: 'u', groups: [], warnings: [] };
  return new Request({
    operation: 'CREATE',
    kind: KIND,
    namespace: 'default',
    name: 'web',
    object: { metadata: { name: 'web' } },
    oldObject: undefined,
    ctx,
    world,
    optionsKind: 'CreateOptions',
  });
};
const chain = (log: string[], ...more: (Partial<Plugin> & { name: string })[]) =>
  new AdmissionChain(
    more.map((p) => ({
      handles: () => true,
      mutate: () => void log.push(`${p.name} mutates`),
      validate: () => void log.push(`${p.name} validates`),
      ...p,
    })),
    world,
  );

describe('the admission chain', () => {
  it('asks in order, at once when nobody waits', () => {
    const log: string[] = [];
    const c = chain(log, { name: 'a' }, { name: 'b' }, { name: 'c', handles: () => false });
    const r = request();
    expect(c.mutate(r)).toBeUndefined();
    expect(c.validate(r)).toBeUndefined();
    expect(log).toEqual(['a mutates', 'b mutates', 'a validates', 'b validates']);
  });

  it('keeps the order behind one that waits', async () => {
    const log: string[] = [];
    const slow = { name: 'slow', mutate: async () => void log.push('slow mutates') };
    const c = chain(log, slow, { name: 'b' });
    await c.mutate(request());
    expect(log).toEqual(['slow mutates', 'b mutates']);
  });

  it('goes round a second time, and no third, when a plugin asks for it', async () => {
    const log: string[] = [];
    const c = chain(
      log,
      { name: 'a' },
      {
        name: 'hook',
        async mutate(r) {
          log.push(`hook ${r.round}`);
          r.again = true;
        },
      },
    );
    await c.mutate(request());
    expect(log).toEqual(['a mutates', 'hook 1', 'a mutates', 'hook 2']);
  });

  it('stops at the first that refuses', async () => {
    const log: string[] = [];
    const refuse = () => {
      throw new Error('no');
    };
    expect(() => chain(log, { name: 'a', mutate: refuse }, { name: 'b' }).mutate(request())).toThrow('no');
    const late = chain(
      log,
      { name: 'a', mutate: async () => {} },
      { name: 'b', mutate: refuse },
      { name: 'c' },
    );
    await expect(late.mutate(request())).rejects.toThrow('no');
    expect(log).toEqual([]);
  });

  it('takes back what was charged, the last first, once', () => {
    const r = request();
    const log: number[] = [];
    r.onFailure(() => log.push(1));
    r.onFailure(() => log.push(2));
    r.failed();
    r.failed();
    expect(log).toEqual([2, 1]);
  });

  it('waits only where a plugin says so now', () => {
    let configured = false;
    const c = chain([], { name: 'hook', waits: () => configured }, { name: 'a' });
    const target = { operation: 'CREATE', kind: KIND } as const;
    expect(c.waits(target)).toBe(false);
    configured = true;
    expect(c.waits(target)).toBe(true);
  });
});
