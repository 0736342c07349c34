import { generateKeyPairSync } from 'node:crypto';
import { expect, it } from 'vitest';
import { WireError } from '../../api/wire/codec.js';
import type { Challenge, Hello } from '../../api/wire/messages.js';
import { agentSecret, helloProof, newLinkKey } from '../../api/wire/session.js';
import { Greeter } from './greeter.js';

const key = generateKeyPairSync('ec', { namedCurve: 'P-256' });

/** One process of the agent: it answers a challenge, any number of times. */
function agent(node = 'pi1') {
  const own = newLinkKey();
  let n = 0;
  return ({ h, k }: Challenge): Hello => {
    const parties = { node, publicKey: key.publicKey, nonce: h, hub: k, agent: own.point };
    const secret = agentSecret(parties, key.privateKey, own.privateKey);
    const hello = { h, n: ++n, x: own.point } as Hello;
    return { ...hello, p: helloProof(secret, node, hello) };
  };
}

it('believes who answers its challenge, and from then on each higher number once', () => {
  const hub = new Greeter();
  const pi = agent();
  expect(hub.check('pi1', {} as Hello, key.publicKey)).toBeUndefined();
  const challenge = hub.challenge('pi1');
  const first = pi(challenge);
  const secret = hub.check('pi1', first, key.publicKey);
  expect(secret).toHaveLength(32);
  expect(() => hub.check('pi1', first, key.publicKey)).toThrow('replayed or late hello');
  expect(hub.check('pi1', pi(challenge), key.publicKey)).toEqual(secret);
});

it('challenges another process of the agent anew, even when that was told of an answered challenge', () => {
  const hub = new Greeter();
  const old = hub.challenge('pi1');
  const [before, after] = [agent(), agent()];
  const secret = hub.check('pi1', before(old), key.publicKey);
  expect(hub.check('pi1', after(old), key.publicKey)).toBeUndefined();
  // Who is linked stays so.
  expect(hub.check('pi1', before(old), key.publicKey)).toEqual(secret);
  const next = hub.challenge('pi1');
  expect(next.h).not.toBe(old.h);
  expect(hub.check('pi1', after(next), key.publicKey)).toHaveLength(32);
  expect(hub.check('pi1', before(old), key.publicKey)).toBeUndefined();
});

it('refuses a wrong answer', () => {
  const hub = new Greeter();
  const challenge = hub.challenge('pi1');
  const hello = agent('pi2')(challenge);
  expect(() => hub.check('pi1', hello, key.publicKey)).toThrow(WireError);
});
