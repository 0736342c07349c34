import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LINK_PREFIX, linkSettingErrors, linkSettings, withinWindow } from './link-settings.js';

const of = (o: Record<string, string>) =>
  Object.fromEntries(Object.entries(o).map(([k, v]) => [LINK_PREFIX + k, v]));

describe('link settings', () => {
  it('are read from annotations', () => {
    const annotations = of({
      keepalive: '300',
      'report-interval': '60',
      metered: 'true',
      'log-follow': 'allowed',
      'pull-window': '23:30-04:00',
      'daily-limit': '5Mi',
    });
    expect(linkSettingErrors(annotations)).toEqual([]);
    expect(linkSettings({ ...annotations, other: 'x' })).toEqual({
      keepalive: 300,
      reportInterval: 60,
      metered: true,
      logFollow: true,
      pullWindow: { from: 23 * 60 + 30, to: 4 * 60, text: '23:30-04:00' },
      dailyLimit: 5 << 20,
    });
    expect(linkSettings(undefined)).toEqual({});
  });

  it.each([
    ['keepalive', '9', 'between 10 and 1200'],
    ['keepalive', '1e2', 'between 10 and 1200'],
    ['report-interval', '-1', 'between 0 and 3600'],
    ['metered', 'yes', 'must be "true" or "false"'],
    ['log-follow', 'true', 'must be "allowed" or "denied"'],
    ['pull-window', '25:00-26:00', 'two different times of day'],
    ['pull-window', '01:00-01:00', 'two different times of day'],
    ['daily-limit', '10', 'at least 64Ki'],
    ['daily-limit', 'lots', 'at least 64Ki'],
    ['dayly-limit', '5Mi', '"link.coxswain.dev/daily-limit"'],
  ])('%s: %s is refused and has no effect', (key, value, why) => {
    const [error] = linkSettingErrors(of({ [key]: value }));
    expect(error!.message).toContain(why);
    expect(linkSettings(of({ [key]: value }))).toEqual({});
  });

  it('a window and the one from its end to its begin share the day', () => {
    const minute = fc.integer({ min: 0, max: 1439 });
    fc.assert(
      fc.property(minute, minute, fc.integer({ min: 0, max: 4e12 }), (from, to, at) => {
        fc.pre(from !== to);
        const a = withinWindow({ from, to, text: '' }, at);
        const b = withinWindow({ from: to, to: from, text: '' }, at);
        expect(a).not.toBe(b);
      }),
    );
  });
});
