import { X509Certificate } from 'node:crypto';
import { Agent, type AgentOptions } from 'node:https';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions, connect } from 'node:tls';
import type { Clock } from '../../api/clock.js';
import { expiryProblem, serverProblem } from '../../api/wire/trust.js';

/** Where the hub's registry is, and by what it is known. */
export interface HubAccess {
  /** `host:port` of the hub's HTTPS door. */
  host: string;
  /** PEM of the hub's CA. */
  ca: string;
  /** Client certificate and key, PEM; pulling needs none. */
  cert?: string;
  key?: string;
  /** The hub's own time, once it has told it; this device's clock otherwise. Unix milliseconds. */
  now?: () => number | undefined;
}

const HANDSHAKE_MS = 20_000;

type Done = (e: Error | null, socket: Duplex) => void;

/**
 * HTTPS to the hub, trusted as the link trusts it: by the CA that was pinned at joining, not by the name it is reached
 * under, and not by this device's clock when that is known to be wrong.
 */
export class HubAgent extends Agent {
  readonly #access: HubAccess;
  readonly #clock: Clock;

  constructor(access: HubAccess, clock: Clock, options: AgentOptions = {}) {
    // A resumed session would come without a certificate to look at.
    super({ ...options, maxCachedSessions: 0 });
    this.#access = access;
    this.#clock = clock;
  }

  override createConnection(options: ConnectionOptions, done?: Done): undefined {
    const finish = done as Done;
    const { ca, cert, key } = this.#access;
    let pinned: X509Certificate;
    let knownPast: number;
    try {
      pinned = new X509Certificate(ca);
      knownPast = Date.parse((cert ? new X509Certificate(cert) : pinned).validFrom);
    } catch (cause) {
      queueMicrotask(() =>
        finish(new Error("the hub's CA or this node's certificate is not PEM", { cause }), undefined!),
      );
      return;
    }
    const socket = connect({ ...options, ca, cert, key, rejectUnauthorized: false, minVersion: 'TLSv1.2' });
    const fail = (e: Error) => {
      socket.destroy();
      finish(e, undefined!);
    };
    socket.once('error', fail);
    socket.setTimeout(HANDSHAKE_MS, () => fail(new Error(`no answer within ${HANDSHAKE_MS / 1000} s`)));
    socket.once('secureConnect', () => {
      const leaf = socket.getPeerX509Certificate();
      const problem = leaf
        ? (serverProblem(leaf, pinned) ??
          expiryProblem(leaf, pinned, this.#access.now?.() ?? this.#clock.now(), knownPast))
        : 'the server showed no certificate';
      socket.off('error', fail);
      socket.setTimeout(0);
      socket.removeAllListeners('timeout');
      if (problem) {
        socket.on('error', () => {});
        fail(new Error(problem));
      } else finish(null, socket);
    });
  }
}
