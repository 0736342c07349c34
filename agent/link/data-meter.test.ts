import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { DataMeter } from './data-meter.js';
import { DeviceTime } from './device-time.js';

const DAY = 86_400_000;
const LIMIT = 100_000;
/** Noon of a day. */
const NOON = 20_000.5 * DAY;

describe('data meter', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'meter-'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const make = (now: number) => {
    const clock = new VirtualClock({ seed: 1, wall: now });
    const changes: boolean[] = [];
    const time = new DeviceTime(clock);
    const meter: DataMeter = new DataMeter(dir, clock, time, silentLog, () => changes.push(meter.exhausted));
    return { clock, changes, meter, time };
  };

  it('counts the bytes of a connection, TLS or not, while it is open and afterwards', async () => {
    const server = createServer((s) => s.on('data', (c) => s.write(Buffer.alloc(c.length * 2))));
    await new Promise<void>((r) => server.listen(0, '127.0.0.1', r));
    const meter = new DataMeter(dir, systemClock, new DeviceTime(systemClock), silentLog, () => {});
    const socket = connect((server.address() as { port: number }).port, '127.0.0.1');
    meter.track(socket);
    let got = 0;
    await new Promise<void>((r) => {
      socket.on('data', (c) => {
        got += c.length;
        if (got === 2000) r();
      });
      socket.write(Buffer.alloc(1000));
    });
    expect(meter.used).toBe(3000);
    await new Promise((r) => socket.once('close', r).destroy());
    expect(meter.used).toBe(3000);
    await new Promise((r) => server.close(r));
  });

  it('ends at the limit, says so, and begins again at midnight', async () => {
    const { clock, changes, meter } = make(NOON);
    expect(meter.condition()).toBeUndefined();
    meter.limit = LIMIT;
    expect(meter.condition()).toMatchObject({ status: 'False', reason: 'WithinDailyLimit' });
    meter.add(50_000);
    expect(meter.exhausted).toBe(false);
    meter.add(45_000);
    expect(meter.exhausted).toBe(true);
    expect(meter.condition()).toMatchObject({ type: 'DataLimitReached', status: 'True' });
    expect(meter.untilTomorrow()).toBe(DAY / 2);
    await clock.advance(DAY / 2 - 1000);
    expect(changes).toEqual([true]);
    await clock.advance(20_000);
    expect(changes).toEqual([true, false]);
    expect(meter.used).toBe(0);
    meter.stop();
  });

  it('survives a restart, a power cut with a clock of 1970, and a torn file', async () => {
    const first = make(NOON);
    first.meter.limit = LIMIT;
    first.meter.add(95_000);
    // No stop: the power is cut. What was noted when the limit was reached is there.
    const second = make(1000);
    second.meter.limit = LIMIT;
    expect(second.meter.exhausted).toBe(true);
    // Nobody tells it the time, and it must come back some day.
    await second.clock.advance(DAY - 60_000);
    expect(second.meter.exhausted).toBe(true);
    await second.clock.advance(120_000);
    expect(second.meter.exhausted).toBe(false);
    second.meter.add(95_000);
    expect(second.meter.exhausted).toBe(true);
    // Another whole day by its own clock, and not at once.
    await second.clock.advance(DAY / 2);
    expect(second.meter.exhausted).toBe(true);
    second.meter.stop();
    first.meter.stop();

    writeFileSync(join(dir, 'usage.json'), '{"day":2');
    const third = make(NOON);
    third.meter.limit = LIMIT;
    expect(third.meter.used).toBe(0);
    third.meter.stop();
  });

  it("goes by the hub's day", async () => {
    const { clock, meter, time } = make(1000);
    meter.limit = LIMIT;
    meter.add(50_000);
    time.told(NOON);
    meter.check();
    // A day of 1970 has ended.
    expect(meter.used).toBe(0);
    meter.add(95_000);
    expect(meter.exhausted).toBe(true);
    expect(meter.untilTomorrow()).toBe(DAY / 2);
    await clock.advance(DAY / 2 + 20_000);
    expect(meter.exhausted).toBe(false);
    meter.stop();
  });

  it('writes nothing without a limit, and seldom with one', () => {
    const { meter } = make(NOON);
    meter.add(1e9);
    meter.stop();
    expect(() => readFileSync(join(dir, 'usage.json'))).toThrow(/ENOENT/);
    meter.limit = 1e12;
    let writes = 0;
    let last = '';
    for (let i = 0; i < 1000; i++) {
      meter.add(1000);
      const text = readFileSync(join(dir, 'usage.json'), 'utf8');
      if (text !== last) writes++;
      last = text;
    }
    expect(writes).toBe(1);
    meter.limit = undefined;
    expect(meter.exhausted).toBe(false);
  });
});
