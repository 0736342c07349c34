/** The agent dies at any step of a pod's life; the next one brings the pod to where it shall be, and loses nothing. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Shim } from '../../shims/shim.js';
import { pod, TestNode } from './testing/node.js';

const CHANGES = new Set([
  'pullImage',
  'runSandbox',
  'createContainer',
  'startContainer',
  'stopContainer',
  'removeContainer',
  'stopSandbox',
  'removeSandbox',
]);

/** Kills the agent at the nth change, before or after the shim made it. */
function dying(shim: Shim, nth: number, when: 'before' | 'after', die: () => void): Shim {
  let n = 0;
  return new Proxy(shim, {
    get(target, name: keyof Shim) {
      const f = target[name];
      if (typeof f !== 'function') return f;
      if (!CHANGES.has(name)) return (f as (...a: unknown[]) => unknown).bind(target);
      return async (...args: unknown[]) => {
        const last = n++ === nth;
        if (last && when === 'before') {
          die();
          return new Promise(() => {});
        }
        const result = await (f as (...a: unknown[]) => Promise<unknown>).apply(target, args);
        if (last) {
          die();
          return new Promise(() => {});
        }
        return result;
      };
    },
  });
}

const thePod = () =>
  pod('p', [{ volumeMounts: [{ name: 'v', mountPath: '/v' }] }, {}], {
    volumes: [{ name: 'v', emptyDir: {} }],
    init: [{ script: { exitCode: 0 } }],
  });

async function isGone(node: TestNode, uid: string) {
  const { sandboxes, containers } = await node.shim.list();
  expect([...sandboxes, ...containers]).toEqual([]);
  await node.until('nothing on disk', () => !existsSync(join(node.dir, 'data/pods', uid)), 10_000);
  expect(readdirSync(join(node.dir, 'data/logs'))).toEqual([]);
}

for (const when of ['before', 'after'] as const) {
  describe(`the agent dies just ${when}`, () => {
    // A pull (the image is shared), a sandbox, 3 creates, 3 starts: 8 changes; one more that never comes.
    for (let nth = 0; nth <= 8; nth++)
      it(`change ${nth} of the start`, async () => {
        const node = new TestNode();
        try {
          let dead = false;
          node.wrap = (s) =>
            dying(s, nth, when, () => {
              dead = true;
            });
          await node.start();
          const p = thePod();
          node.apply(p);
          await node.until('dead or running', () => dead || node.phase(p) === 'Running');
          expect(dead).toBe(nth < 8);
          node.wrap = (s) => s;
          await node.restart();
          await node.until('Running', () => node.phase(p) === 'Running');
          await node.advance(120_000);
          const { sandboxes, containers } = await node.shim.list();
          expect(sandboxes.filter((s) => s.state === 'ready')).toHaveLength(1);
          const running = containers.filter((c) => c.state === 'running').map((c) => c.name);
          expect(running.sort()).toEqual(['c0', 'c1']);
          for (const c of containers) expect(c.attempt).toBe(0);
          node.remove(p);
          await node.until('gone', () => node.gone(p));
          await isGone(node, p.metadata!.uid!);
        } finally {
          await node.dispose();
        }
      });

    // 2 stops, a sandbox stop, 3 removals, a stop and a removal of the sandbox.
    for (let nth = 0; nth <= 8; nth++)
      it(`change ${nth} of the end`, async () => {
        const node = new TestNode();
        try {
          let dead = false;
          await node.start();
          const p = thePod();
          node.apply(p);
          await node.until('Running', () => node.phase(p) === 'Running');
          node.wrap = (s) =>
            dying(s, nth, when, () => {
              dead = true;
            });
          await node.restart();
          node.remove(p);
          await node.until('dead or gone', () => dead || node.gone(p));
          node.wrap = (s) => s;
          await node.restart();
          await node.until('gone', () => node.gone(p));
          await isGone(node, p.metadata!.uid!);
        } finally {
          await node.dispose();
        }
      });
  });
}

it('a torn record is set aside and does not keep the pod from running', async () => {
  const { writeFileSync } = await import('node:fs');
  const node = await new TestNode().start();
  try {
    const p = thePod();
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const before = node.container(p);
    await node.stop();
    const record = join(node.dir, 'data/pods', p.metadata!.uid!, 'pod.json');
    writeFileSync(record, '{"startTime":17');
    await node.start();
    await node.until('Running', () => node.phase(p) === 'Running');
    expect(node.container(p)).toEqual(before);
    expect(existsSync(`${record}.corrupt`)).toBe(true);
  } finally {
    await node.dispose();
  }
});

it('nothing is started or stopped while the runtime cannot be asked', async () => {
  const node = new TestNode();
  try {
    let blind = false;
    const calls: string[] = [];
    node.wrap = (s) =>
      new Proxy(s, {
        get(target, name: keyof Shim) {
          const f = target[name];
          if (typeof f !== 'function') return f;
          return (...args: unknown[]) => {
            if (name === 'list' && blind) return Promise.reject(new Error('connection refused'));
            if (blind && CHANGES.has(name)) calls.push(name);
            return (f as (...a: unknown[]) => unknown).apply(target, args);
          };
        },
      });
    await node.start();
    const p = thePod();
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    blind = true;
    await node.restart();
    await node.advance(300_000);
    expect(calls).toEqual([]);
    blind = false;
    await node.advance(120_000);
    expect(node.phase(p)).toBe('Running');
    expect(node.container(p)!.restartCount).toBe(0);
  } finally {
    await node.dispose();
  }
});
