/** Asks at the joining door for another certificate for this device's key (api/wire/join.ts), with no valid one. */
import { randomBytes, sign, X509Certificate } from 'node:crypto';
import { Decoder, encode, signingContext } from '../../api/wire/codec.js';
import {
  type JoinChallenge,
  type RenewHello,
  type RenewProof,
  renewTranscript,
} from '../../api/wire/join.js';
import { type Certificate, type Refused, TYPE } from '../../api/wire/messages.js';
import { serverProblem } from '../../api/wire/trust.js';
import { dialFirst } from './dial.js';
import { openDoor } from './door.js';
import type { Identity } from './identity.js';

/** What the hub says, checked to be the hub's. Rejects when it cannot be reached or does not answer. */
export async function askForCertificate(identity: Identity): Promise<Certificate | Refused> {
  const ca = new X509Certificate(identity.ca);
  const { socket } = await dialFirst(identity.joinAddresses, {}, (s) => {
    const leaf = s.getPeerX509Certificate();
    return leaf ? serverProblem(leaf, ca) : 'the broker showed no certificate';
  });
  const hello: RenewHello = {
    c: new X509Certificate(identity.cert).raw.toString('base64'),
    nonce: randomBytes(16).toString('base64'),
  };
  const context = signingContext(identity.node, 'join', hello.nonce);
  const decoder = new Decoder({ verifier: { context, counter: 0, key: identity.signingKey } });
  const door = await openDoor(socket, (payload) => decoder.push(payload));
  try {
    const challenge = await door.ask(encode(TYPE.renewHello, hello), [TYPE.renewChallenge]);
    const said = renewTranscript(hello, challenge.body as JoinChallenge);
    const proof: RenewProof = { sig: sign('sha256', Buffer.from(said), identity.key).toString('base64') };
    const answer = await door.ask(encode(TYPE.renewProof, proof), [TYPE.certificate, TYPE.refused]);
    return answer.body as Certificate | Refused;
  } finally {
    await door.close();
  }
}
