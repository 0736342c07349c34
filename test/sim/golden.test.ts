/** Frames of version 2 as they were recorded when it was released: understood for ever. */
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Decoder, keyId, signingContext } from '../../api/wire/codec.js';
import type { NodeReport } from '../../api/wire/desired.js';
import { DICTIONARY } from '../../api/wire/dictionary.js';
import { nodeReportText, podReportText, reportHash } from '../../api/wire/held-reports.js';
import type { Delta, Hello } from '../../api/wire/messages.js';
import { TYPE, unpackData } from '../../api/wire/messages.js';
import { agentSecret, hubSecret, isProven, sessionKey } from '../../api/wire/session.js';
import { applyDelta, digestOf, EMPTY_DIGEST, type Items } from '../../api/wire/set.js';
import type { Channel } from '../../api/wire/topics.js';
import { GREETING } from '../../api/wire/versions.js';
import { ed25519, p256 } from '../support/frozen-wire.js';

interface Recorded {
  name: string;
  channel: string;
  how: 'plain' | 'signed' | 'sealed';
  type: number;
  body?: unknown;
  raw?: string;
  frame: string;
}

const golden = JSON.parse(readFileSync(join(import.meta.dirname, '../support/golden-wire.json'), 'utf8')) as {
  dictionary: string;
  secret: string;
  keyName: string;
  items: [string, string, object][];
  digest: string;
  empty: string;
  frames: Recorded[];
};

const session = 'golden-session';
const [node, hub, agent] = ['node', 'hub', 'agent'].map((n) => p256(`golden ${n}`)) as [
  ReturnType<typeof p256>,
  ReturnType<typeof p256>,
  ReturnType<typeof p256>,
];
const secret = Buffer.from(golden.secret, 'base64');
const parties = {
  node: 'pi1',
  publicKey: node.publicKey,
  nonce: 'golden-nonce',
  hub: hub.point,
  agent: agent.point,
};

const decoderOf = (f: Recorded) =>
  new Decoder(
    f.how === 'sealed'
      ? { opener: { key: sessionKey(secret, session, f.channel as Channel, 2), counter: 0 } }
      : f.how === 'signed'
        ? {
            verifier: {
              context: signingContext('pi1', 'd', f.name === 'query' ? '' : session),
              counter: 0,
              key: createPublicKey(ed25519('golden signing')),
            },
          }
        : {},
  );

const bodyOf = (name: string) => {
  const f = golden.frames.find((g) => g.name === name)!;
  return decoderOf(f).push(Buffer.from(f.frame, 'base64'))!.body;
};

describe('version 2 of the wire', () => {
  it('is what every greeting is said in, with the dictionary of its first day', () => {
    expect(GREETING.version).toBe(2);
    expect(DICTIONARY.toString()).toBe(golden.dictionary);
  });

  it.each(golden.frames.map((f) => [f.name, f] as const))('has %s', (_name, f) => {
    const got = decoderOf(f).push(Buffer.from(f.frame, 'base64'))!;
    expect(got.type).toBe(f.type);
    expect(Object.values(TYPE)).toContain(f.type);
    if (f.raw) expect((got.body as Buffer).toString('base64')).toBe(f.raw);
    else expect(got.body).toEqual(f.body);
  });

  it('names keys, shares secrets and proves hellos as it did', () => {
    expect(keyId(node.publicKey)).toBe(golden.keyName);
    expect(agentSecret(parties, node.privateKey, agent.privateKey)).toEqual(secret);
    expect(hubSecret(parties, hub.privateKey)).toEqual(secret);
    expect(isProven(secret, 'pi1', bodyOf('hello with proof') as Hello)).toBe(true);
    expect(isProven(secret, 'pi1', bodyOf('hello') as Hello)).toBe(false);
  });

  it('hashes the reports that a hub holds as it did when it began to say so', () => {
    const hash = reportHash(secret, session);
    const status = {
      phase: 'Running',
      qosClass: 'BestEffort',
      startTime: '2026-01-01T00:00:00Z',
      conditions: [
        { type: 'Ready', status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z' },
        { type: 'PodScheduled', status: 'True' },
        { type: 'Initialized', status: 'True', reason: 'R', observedGeneration: 2 },
      ],
    };
    expect(hash(podReportText('uid-1', status))).toBe('N7PyaVWY');
    const report = {
      labels: { a: 'b' },
      capacity: {},
      allocatable: {},
      addresses: [],
      nodeInfo: {},
      conditions: [{ type: 'Ready', status: 'True', lastHeartbeatTime: '2026-01-01T00:00:00Z' }],
      runtimeHandlers: ['oci'],
    };
    expect(hash(nodeReportText(report as unknown as NodeReport))).toBe('3ekmj8_2');
  });

  it('digests sets and applies deltas as it did', () => {
    const items = new Map(golden.items.map(([k, hash, object]) => [k, { hash, object }])) as unknown as Items;
    expect(digestOf(items)).toBe(golden.digest);
    expect(EMPTY_DIGEST).toBe(golden.empty);
    const first = applyDelta(new Map(), bodyOf('delta') as Delta)!;
    expect(first).toEqual(items);
    const second = applyDelta(first, bodyOf('delta with a patch and a removal') as Delta)!;
    expect([...second.keys()]).toEqual(['c/default/conf']);
    expect(second.get('c/default/conf')!.object).toMatchObject({ data: { a: '2' } });
    const data = unpackData(bodyOf('data, deflated') as Buffer)!;
    expect(data).toMatchObject({ stream: 5, index: 0, sub: 1 });
    expect(data.bytes.toString()).toBe('a line\n'.repeat(40));
  });
});
