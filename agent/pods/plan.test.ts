import fc from 'fast-check';
import type { Container, Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import type { ContainerStatus, SandboxStatus } from '../../shims/shim.js';
import {
  type Action,
  ANNOTATIONS,
  goDuration,
  hashOf,
  isSidecar,
  keyOf,
  type Picture,
  plan,
} from './plan.js';

const TUNING = { backoffBaseMs: 10_000, backoffMaxMs: 300_000, backoffResetMs: 600_000 };

type World = {
  -readonly [K in keyof Picture]: Picture[K] extends ReadonlyMap<infer A, infer B>
    ? Map<A, B>
    : Picture[K] extends ReadonlySet<infer A>
      ? Set<A>
      : Picture[K];
};

const container = (name: string, more: object = {}): Container => ({ name, image: 'img:1', ...more });

function world(spec: Partial<NonNullable<Pod['spec']>> = {}, more: Partial<World> = {}): World {
  return {
    pod: {
      metadata: { name: 'p', namespace: 'ns', uid: 'u' },
      spec: { containers: [container('a')], restartPolicy: 'Always', ...spec },
    },
    goal: { kind: 'run' },
    now: 1_000_000,
    sandboxes: [],
    containers: [],
    seen: new Map(),
    volumes: 'down',
    images: new Map(),
    failures: new Map(),
    attempts: {},
    backoff: {},
    busy: new Set(),
    stopped: new Set(),
    settled: false,
    unhealthy: new Map(),
    actual: new Map(),
    notStarted: new Set(),
    tuning: TUNING,
    ...more,
  };
}

const sandbox = (attempt: number, state: SandboxStatus['state']): SandboxStatus => ({
  id: `s${attempt}`,
  namespace: 'ns',
  name: 'p',
  uid: 'u',
  attempt,
  state,
  createdAt: 0,
  ips: [],
  labels: {},
  annotations: {},
});

const made = (
  spec: Container,
  attempt: number,
  sandboxId: string,
  state: ContainerStatus['state'],
  exitCode = 0,
  hash = hashOf(spec),
): ContainerStatus => ({
  id: `${spec.name}-${attempt}`,
  sandboxId,
  name: spec.name,
  attempt,
  state,
  createdAt: 1,
  startedAt: state === 'created' ? 0 : 2,
  finishedAt: state === 'exited' ? 3 : 0,
  exitCode: state === 'exited' ? exitCode : 0,
  reason: '',
  message: '',
  image: spec.image!,
  imageRef: 'ref',
  labels: {},
  annotations: { [ANNOTATIONS.hash]: hash },
});

const isInit = (w: World, name: string) =>
  w.pod.spec!.initContainers?.some((c) => c.name === name && !isSidecar(c)) ?? false;

/** What the action does to a world in which all goes well and containers run until stopped (init containers: end with 0). */
function obey(w: World, a: Action): void {
  const spec = (name: string) =>
    [...(w.pod.spec!.initContainers ?? []), ...w.pod.spec!.containers].find((c) => c.name === name)!;
  const run = (c: ContainerStatus) => {
    c.state = isInit(w, c.name) ? 'exited' : 'running';
    c.exitCode = 0;
  };
  switch (a.do) {
    case 'setUpVolumes':
      w.volumes = 'up';
      break;
    case 'tearDownVolumes':
      w.volumes = 'down';
      break;
    case 'pullImage':
      w.images.set(a.container, { attempt: a.attempt, image: spec(a.container).image!, ref: 'ref' });
      break;
    case 'runSandbox':
      w.sandboxes.push(sandbox(a.attempt, 'ready'));
      break;
    case 'startContainer': {
      const c = made(spec(a.container), a.attempt, a.sandboxId, 'running');
      run(c);
      w.containers.push(c);
      if (a.backoff) w.backoff = { ...w.backoff, [a.container]: a.backoff };
      break;
    }
    case 'resumeContainer':
      run(w.containers.find((c) => c.id === a.id)!);
      break;
    case 'stopContainer':
      Object.assign(w.containers.find((c) => c.id === a.id)!, { state: 'exited', exitCode: 143 });
      break;
    case 'settle':
      w.settled = true;
      if (w.goal.kind === 'run') w.goal = { kind: 'rest' };
      break;
    case 'stopSandbox':
      w.stopped.add(a.id);
      for (const s of w.sandboxes) if (s.id === a.id) s.state = 'notReady';
      for (const c of w.containers) if (c.sandboxId === a.id && c.state === 'running') c.state = 'exited';
      break;
    case 'removeContainer':
      w.containers = w.containers.filter((c) => c.id !== a.id);
      break;
    case 'removeSandbox':
      w.sandboxes = w.sandboxes.filter((s) => s.id !== a.id);
      w.containers = w.containers.filter((c) => c.sandboxId !== a.id);
      break;
    case 'forget':
      break;
  }
}

/** Worlds as a crash, an older agent or a runtime of its own mind may leave them. */
const anyWorld: fc.Arbitrary<World> = fc
  .record({
    mains: fc.integer({ min: 1, max: 3 }),
    inits: fc.array(fc.boolean(), { maxLength: 3 }),
    policy: fc.constantFrom('Always', 'OnFailure', 'Never'),
    sandboxes: fc.array(fc.constantFrom('ready' as const, 'notReady' as const), { maxLength: 3 }),
    containers: fc.array(
      fc.record({
        which: fc.nat(9),
        in: fc.nat(2),
        state: fc.constantFrom('created' as const, 'running' as const, 'exited' as const, 'unknown' as const),
        exitCode: fc.constantFrom(0, 1, 137),
        changed: fc.boolean(),
      }),
      { maxLength: 8 },
    ),
    volumes: fc.constantFrom('up' as const, 'down' as const),
    busy: fc.subarray(['volumes', 'sandbox', 'start:m0', 'image:m0', 'stop:m0-0:30']),
    goal: fc.constantFrom(
      { kind: 'run' as const },
      { kind: 'remove' as const, graceSeconds: 30 },
      { kind: 'fail' as const, reason: 'Evicted', message: 'x', graceSeconds: 0 },
      { kind: 'rest' as const },
    ),
    now: fc.integer({ min: 0, max: 10_000_000 }),
  })
  .map((r) => {
    const mains = Array.from({ length: r.mains }, (_, i) => container(`m${i}`));
    const inits = r.inits.map((side, i) => container(`i${i}`, side ? { restartPolicy: 'Always' } : {}));
    const all = [...inits, ...mains];
    // Only the newest sandbox can be ready, as with every runtime that this agent drives.
    const sandboxes = r.sandboxes.map((s, i) => sandbox(i, i === r.sandboxes.length - 1 ? s : 'notReady'));
    const attempts = new Map<string, number>();
    const containers = r.containers.flatMap((c) => {
      const spec = all[c.which % all.length]!;
      const s = sandboxes[c.in % Math.max(1, sandboxes.length)];
      if (!s) return [];
      const attempt = attempts.get(spec.name) ?? 0;
      attempts.set(spec.name, attempt + 1);
      return [made(spec, attempt, s.id, c.state, c.exitCode, c.changed ? 'other' : undefined)];
    });
    return world(
      { containers: mains, initContainers: inits, restartPolicy: r.policy },
      {
        sandboxes,
        containers,
        volumes: r.volumes,
        busy: new Set(r.busy),
        goal: r.goal,
        now: r.now,
        settled: r.goal.kind === 'rest',
      },
    );
  });

describe('plan, in any world', () => {
  it('is the same twice, begins nothing twice, and changes nothing of the picture', () => {
    fc.assert(
      fc.property(anyWorld, (w) => {
        const before = JSON.stringify(w);
        const a = plan(w);
        expect(plan(w)).toEqual(a);
        expect(JSON.stringify(w)).toBe(before);
        const keys = a.actions.map(keyOf);
        expect(new Set(keys).size).toBe(keys.length);
        for (const k of keys) expect(w.busy.has(k)).toBe(false);
        if (a.wakeAt !== undefined) expect(a.wakeAt).toBeGreaterThan(w.now);
      }),
      { numRuns: 2000 },
    );
  });

  it('starts only what may start: sandbox ready, volumes up, nothing of that name running, init containers before, a new attempt', () => {
    fc.assert(
      fc.property(anyWorld, (w) => {
        // Images of every attempt are there, so that starts are not held up by them.
        for (const spec of [...w.pod.spec!.initContainers!, ...w.pod.spec!.containers])
          for (const n of [0, 1, 2, 3, 4, 5, 6, 7, 8])
            if (!w.containers.some((c) => c.name === spec.name && c.attempt >= n) && !w.images.has(spec.name))
              w.images.set(spec.name, { attempt: n, image: spec.image!, ref: 'ref' });
        for (const a of plan(w).actions) {
          if (a.do !== 'startContainer' && a.do !== 'resumeContainer') continue;
          expect(w.goal.kind).toBe('run');
          expect(w.volumes).toBe('up');
          expect(w.containers.some((c) => c.name === a.container && c.state === 'running')).toBe(false);
          if (a.do === 'startContainer') {
            expect(w.sandboxes.find((s) => s.id === a.sandboxId)!.state).toBe('ready');
            for (const c of w.containers)
              if (c.name === a.container) expect(a.attempt).toBeGreaterThan(c.attempt);
          }
          const main = w.pod.spec!.containers.some((c) => c.name === a.container);
          const here = w.sandboxes.at(-1)!.id;
          const begun = w.containers.some((c) => c.sandboxId === here && c.name.startsWith('m'));
          if (main && !begun)
            for (const init of w.pod.spec!.initContainers!)
              expect(
                w.containers.some(
                  (c) =>
                    c.name === init.name &&
                    c.sandboxId === here &&
                    (c.state === 'running' || c.exitCode === 0),
                ),
              ).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('leaves alone what runs as it should', () => {
    fc.assert(
      fc.property(anyWorld, (w) => {
        fc.pre(w.goal.kind === 'run');
        const { actions } = plan(w);
        const over = w.pod.spec!.containers.every((m) =>
          w.containers.some((c) => c.name === m.name && c.state === 'exited'),
        );
        for (const c of w.containers) {
          const newest = !w.containers.some((x) => x.name === c.name && x.attempt > c.attempt);
          const current = w.sandboxes.at(-1);
          const right =
            current?.state === 'ready' &&
            c.sandboxId === current.id &&
            c.annotations[ANNOTATIONS.hash] !== 'other';
          if (c.state !== 'running' || !newest || !right || over) continue;
          // A sidecar may end with a pod that has failed; main containers never end without a cause of their own.
          if (!c.name.startsWith('m') || w.pod.spec!.restartPolicy === 'Never') continue;
          for (const a of actions) if ('id' in a) expect([a.do, a.id]).not.toEqual(['stopContainer', c.id]);
          for (const a of actions) if ('id' in a) expect([a.do, a.id]).not.toEqual(['removeContainer', c.id]);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('converges: to what the goal says, in few steps, and then rests', () => {
    fc.assert(
      fc.property(anyWorld, (w) => {
        w.busy.clear();
        let forgotten = false;
        for (let i = 0; ; i++) {
          const p = plan(w);
          if (p.actions.some((a) => a.do === 'forget')) {
            forgotten = true;
            break;
          }
          const init = w.containers.find((c) => c.state === 'running' && isInit(w, c.name));
          if (p.actions.length === 0) {
            if (init) Object.assign(init, { state: 'exited', exitCode: 0 });
            else if (p.wakeAt === undefined) break;
            else w.now = p.wakeAt;
          }
          for (const a of p.actions) obey(w, a);
          if (i > 60) throw new Error(`no rest: ${JSON.stringify(p.actions)}`);
        }
        const running = w.containers.filter((c) => c.state === 'running');
        if (w.goal.kind === 'remove') {
          expect(forgotten).toBe(true);
          expect([...w.containers, ...w.sandboxes]).toEqual([]);
          expect(w.volumes).toBe('down');
        } else if (w.goal.kind === 'run') {
          expect(w.sandboxes.filter((s) => s.state === 'ready')).toHaveLength(1);
          for (const c of running) expect(c.sandboxId).toBe(w.sandboxes.at(-1)!.id);
          expect(new Set(running.map((c) => c.name)).size).toBe(running.length);
          if (w.pod.spec!.restartPolicy === 'Always')
            expect(running.map((c) => c.name).filter((n) => n.startsWith('m'))).toHaveLength(
              w.pod.spec!.containers.length,
            );
        } else {
          expect(running).toEqual([]);
          expect(w.sandboxes.filter((s) => s.state === 'ready')).toEqual([]);
          expect(w.settled).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('plan, case by case', () => {
  it('a new pod: volumes, then image and sandbox together, then the container', () => {
    const w = world();
    const story: string[][] = [];
    for (let i = 0; i < 10; i++) {
      const { actions } = plan(w);
      if (actions.length === 0) break;
      story.push(actions.map((a) => a.do));
      for (const a of actions) obey(w, a);
    }
    expect(story).toEqual([['setUpVolumes'], ['pullImage', 'runSandbox'], ['startContainer']]);
  });

  it('a failure is not tried again before its time', () => {
    const w = world();
    w.failures.set('volumes', {
      reason: 'FailedMount',
      message: 'm',
      count: 1,
      at: w.now,
      retryAt: w.now + 500,
    });
    expect(plan(w)).toMatchObject({ actions: [], wakeAt: w.now + 500 });
    w.now += 500;
    expect(plan(w).actions).toEqual([{ do: 'setUpVolumes' }]);
  });

  it('Never and a power cut: the pod has failed, no sandbox is made for it', () => {
    const w = world({ restartPolicy: 'Never' }, { sandboxes: [sandbox(0, 'notReady')] });
    w.containers.push(made(container('a'), 0, 's0', 'exited', 255));
    expect(plan(w).actions).toEqual([{ do: 'settle', phase: 'Failed' }]);
  });

  it('forgets the delay after ten minutes of running', () => {
    const w = world(
      {},
      { sandboxes: [sandbox(0, 'ready')], volumes: 'up', backoff: { a: { delayMs: 300_000 } } },
    );
    w.containers.push(made(container('a'), 3, 's0', 'exited', 1));
    w.images.set('a', { attempt: 4, image: 'img:1', ref: 'ref' });
    w.seen.set('a-3', { running: w.now - 700_000, ended: w.now - 1 });
    expect(plan(w).actions).toMatchObject([
      { do: 'startContainer', attempt: 4, backoff: { delayMs: 10_000 } },
    ]);
    w.seen.set('a-3', { running: w.now - 500_000, ended: w.now - 1 });
    expect(plan(w)).toMatchObject({ actions: [], waiting: { a: { reason: 'CrashLoopBackOff' } } });
  });
});

it('durations read as Go prints them', () => {
  expect([0, 250, 1000, 1200, 10_000, 80_000, 300_000, 3_661_500].map(goDuration)).toEqual([
    '0s',
    '250ms',
    '1s',
    '1.2s',
    '10s',
    '1m20s',
    '5m0s',
    '1h1m1.5s',
  ]);
});
