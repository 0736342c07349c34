import type { Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { namespaces, pods } from '../../../api/kinds/index.js';
import { testRegistry } from '../../testing/registry.js';
import { TOLERATION_SECONDS } from './defaulttolerationseconds.js';

describe('DefaultTolerationSeconds', () => {
  const tolerations = async (seconds: string | undefined, own?: object[]) => {
    const r = await testRegistry();
    const annotations = seconds === undefined ? {} : { [TOLERATION_SECONDS]: seconds };
    await r.create(namespaces, undefined, { metadata: { name: 'x', annotations } });
    const spec = { containers: [{ name: 'a', image: 'i' }], ...(own ? { tolerations: own } : {}) };
    return (await r.create<Pod>(pods, 'x', { metadata: { name: 'p' }, spec })).spec?.tolerations;
  };
  const byDefault = (key: string, tolerationSeconds: number) => ({
    key: `node.kubernetes.io/${key}`,
    operator: 'Exists',
    effect: 'NoExecute',
    tolerationSeconds,
  });
  it('adds nothing unless the namespace asks for it, in a number', async () => {
    expect(await tolerations(undefined)).toBeUndefined();
    expect(await tolerations('5m')).toBeUndefined();
  });
  it('adds what a pod does not say itself', async () => {
    expect(await tolerations('300')).toEqual([byDefault('not-ready', 300), byDefault('unreachable', 300)]);
    const own = byDefault('unreachable', 7);
    expect(await tolerations('300', [own])).toEqual([own, byDefault('not-ready', 300)]);
    expect(await tolerations('300', [{ operator: 'Exists' }])).toEqual([{ operator: 'Exists' }]);
  });
});
