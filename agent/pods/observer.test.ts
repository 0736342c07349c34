import { describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import type { SandboxStatus, Shim, ShimEvent } from '../../shims/shim.js';
import { Observer } from './observer.js';

/** A runtime that lists when it is told to. */
class SlowShim {
  readonly answers: ((uids: string[]) => void)[] = [];
  emit: (e: ShimEvent) => void = () => {};
  onEvent(listener: (e: ShimEvent) => void) {
    this.emit = listener;
    return () => {};
  }
  list(): ReturnType<Shim['list']> {
    return new Promise((resolve) => {
      this.answers.push((uids) =>
        resolve({
          sandboxes: uids.map((uid) => ({ id: `s-${uid}`, uid }) as SandboxStatus),
          containers: [],
        }),
      );
    });
  }
}

function observed() {
  const shim = new SlowShim();
  const observer = new Observer(shim as unknown as Shim, systemClock, () => {});
  observer.start();
  const uids = async () => [...(await observer.pods()).keys()];
  return { shim, uids };
}
const soon = () => new Promise((r) => setImmediate(r));

describe('observer', () => {
  it('answers nobody before the first reading is complete, and reads once for all who ask', async () => {
    const { shim, uids } = observed();
    const both = Promise.all([uids(), uids()]);
    await soon();
    expect(shim.answers).toHaveLength(1);
    shim.answers[0]!(['a', 'b']);
    expect(await both).toEqual([
      ['a', 'b'],
      ['a', 'b'],
    ]);
    expect(await uids()).toEqual(['a', 'b']);
    expect(shim.answers).toHaveLength(1);
  });

  it('reads again when something happened during a reading', async () => {
    const { shim, uids } = observed();
    const first = uids();
    await soon();
    shim.emit({} as ShimEvent);
    shim.answers[0]!(['a']);
    await soon();
    shim.answers[1]!(['b']);
    expect(await first).toEqual(['b']);
  });
});
