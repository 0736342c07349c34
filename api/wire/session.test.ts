import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Hello } from './messages.js';
import {
  agentSecret,
  helloProof,
  hubSecret,
  isProven,
  newLinkKey,
  type Parties,
  sessionKey,
} from './session.js';

const node = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const hub = newLinkKey();
const agent = newLinkKey();
const parties = (more: Partial<Parties> = {}): Parties => ({
  node: 'pi1',
  publicKey: node.publicKey,
  nonce: 'nonce',
  hub: hub.point,
  agent: agent.point,
  ...more,
});

describe('sessions', () => {
  it('share a secret that depends on everything', () => {
    const secret = hubSecret(parties(), hub.privateKey);
    expect(agentSecret(parties(), node.privateKey, agent.privateKey)).toEqual(secret);
    const others: Partial<Parties>[] = [{ node: 'pi2' }, { nonce: 'other' }, { agent: newLinkKey().point }];
    for (const o of others)
      expect(hubSecret(parties(o), hub.privateKey), JSON.stringify(o)).not.toEqual(secret);
    // Neither who has the node's key alone nor who has only made a key of its own.
    expect(agentSecret(parties(), node.privateKey, newLinkKey().privateKey)).not.toEqual(secret);
    const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    expect(agentSecret(parties(), stranger, agent.privateKey)).not.toEqual(secret);
    expect(() => hubSecret(parties({ agent: 'x' }), hub.privateKey)).toThrow(/not a public key/);
  });

  it('give each channel, session and version a key of its own', () => {
    const secret = hubSecret(parties(), hub.privateKey);
    const keys = ['s1', 's2'].flatMap((s) =>
      (['u', 'd', 's/u', 's/d'] as const).flatMap((c) =>
        [2, 3].map((v) => sessionKey(secret, s, c, v).toString('hex')),
      ),
    );
    expect(new Set(keys).size).toBe(16);
  });

  it('prove a hello, as it came over the wire and not otherwise', () => {
    const secret = hubSecret(parties(), hub.privateKey);
    const h: Hello = { s: 's', w: 'w', g: 7, d: 'd', k: 'k', e: 'e', h: 'nonce', n: 3, x: agent.point };
    const told: Hello = JSON.parse(JSON.stringify({ ...h, p: helloProof(secret, 'pi1', h) }));
    expect(isProven(secret, 'pi1', told)).toBe(true);
    expect(isProven(secret, 'pi2', told)).toBe(false);
    expect(isProven(secret, 'pi1', { ...told, n: 4 })).toBe(false);
    expect(isProven(secret, 'pi1', h)).toBe(false);
    expect(isProven(Buffer.alloc(32), 'pi1', told)).toBe(false);
  });
});
