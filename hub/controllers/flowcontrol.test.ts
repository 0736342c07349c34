import type { PriorityLevelConfiguration } from 'kubernetes-types/flowcontrol/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import { AUTOUPDATE_SPEC } from '../../api/kinds/flowcontrol-defaults.js';
import { flowSchemas, priorityLevelConfigurations } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { Cluster } from '../testing/cluster.js';

let c: Cluster;
afterEach(() => c.stop());
const cluster = async () => {
  c = new Cluster({ nodes: 0, flowControl: true });
  return c.start();
};
const level = async (name: string) => c.client.get(priorityLevelConfigurations, { name });
const schema = async (name: string) => c.client.get(flowSchemas, { name });
const shares = async (name: string) => (await level(name)).spec!.limited!.nominalConcurrencyShares;
const take = (name: string, nominalConcurrencyShares: number, autoUpdate?: string) =>
  c.client.patch(
    priorityLevelConfigurations,
    { name },
    {
      ...(autoUpdate ? { metadata: { annotations: { [AUTOUPDATE_SPEC]: autoUpdate } } } : {}),
      spec: { limited: { nominalConcurrencyShares } },
    },
  );
const dangling = async (name: string) =>
  (await schema(name)).status?.conditions?.find((x) => x.type === 'Dangling');

describe('the objects of flow control', () => {
  it('are made, kept as they are unless an administrator takes one over, and made again', async () => {
    await cluster();
    expect((await c.list(flowSchemas)).map((s) => s.metadata!.name)).toHaveLength(11);
    expect((await c.list(priorityLevelConfigurations)).map((l) => l.metadata!.name)).toHaveLength(8);

    await take('system', 7);
    await c.settle();
    expect(await shares('system')).toBe(30);
    await take('system', 7, 'false');
    await c.settle();
    expect(await shares('system')).toBe(7);
    await take('system', 8);
    await c.settle();
    expect(await shares('system')).toBe(8);

    const { uid } = (await level('exempt')).metadata!;
    await c.client.delete(priorityLevelConfigurations, { name: 'exempt' });
    await c.client.delete(flowSchemas, { name: 'probes' });
    await c.settle();
    expect((await level('exempt')).metadata!.uid).not.toBe(uid);
    expect((await schema('probes')).spec!.matchingPrecedence).toBe(2);
  });

  it('may not differ from what is fixed, but for the seats of the exempt', async () => {
    await cluster();
    const refused = await take('catch-all', 50).catch((e: unknown) => e);
    expect(isApiError(refused, 'Invalid') && refused.message).toContain(
      "spec of 'catch-all' must equal the fixed value",
    );
    const key = { name: 'exempt' };
    await c.client.patch(priorityLevelConfigurations, key, { spec: { exempt: { lendablePercent: 50 } } });
    await c.settle();
    expect((await level('exempt')).spec!.exempt).toEqual({
      nominalConcurrencyShares: 0,
      lendablePercent: 50,
    });
  });

  it('go when they are of an earlier release', async () => {
    await cluster();
    const old: PriorityLevelConfiguration = {
      metadata: { name: 'old', annotations: { [AUTOUPDATE_SPEC]: 'true' } },
      spec: { type: 'Limited', limited: { limitResponse: { type: 'Reject' } } },
    };
    await c.client.create(priorityLevelConfigurations, old);
    await c.client.create(priorityLevelConfigurations, { ...old, metadata: { name: 'mine' } });
    await c.settle();
    await expect(level('old')).rejects.toThrow('not found');
    expect(await shares('mine')).toBe(30);
  });

  it('tell a schema whose level is not there, and keep the conditions of others', async () => {
    await cluster();
    await c.client.create(flowSchemas, {
      metadata: { name: 'lost' },
      spec: { priorityLevelConfiguration: { name: 'later' } },
    });
    await c.settle();
    expect(await dangling('lost')).toMatchObject({
      status: 'True',
      reason: 'NotFound',
      message:
        'This FlowSchema references the PriorityLevelConfiguration object named "later" but there is no such object',
    });
    const others = { conditions: [{ type: 'Other', status: 'True' }] };
    await c.client.patch(flowSchemas, { name: 'lost' }, { status: others }, 'status');
    await c.client.create(priorityLevelConfigurations, {
      metadata: { name: 'later' },
      spec: { type: 'Limited', limited: { limitResponse: { type: 'Reject' } } },
    });
    await c.settle();
    expect(await dangling('lost')).toMatchObject({ status: 'False', reason: 'Found' });
    expect((await schema('lost')).status!.conditions!.map((x) => x.type).sort()).toEqual([
      'Dangling',
      'Other',
    ]);
    await c.client.delete(priorityLevelConfigurations, { name: 'later' });
    await c.settle();
    expect(await dangling('lost')).toMatchObject({ status: 'True', reason: 'NotFound' });
  });
});
