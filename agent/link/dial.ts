/**
 * TLS to the hub's broker, and whom to trust there. The CA that was pinned at joining decides, not the name that the
 * broker was reached under: addresses of a hub change, its CA does not, and only servers get `serverAuth` from it.
 */
import type { X509Certificate } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import { spkiHash } from '../../api/wire/join.js';

const CONNECT_MS = 20_000;
/** The next address is tried as well when the one before has not answered within so many ms. */
const STAGGER_MS = 400;

/** The CA at the end of the chain that the server sent, when it has the wanted hash. */
export function pinnedCa(leaf: X509Certificate | undefined, hash: string): X509Certificate | undefined {
  const seen = new Set<string>();
  for (let c = leaf; c && !seen.has(c.fingerprint256); c = c.issuerCertificate) {
    seen.add(c.fingerprint256);
    if (c.ca && spkiHash(c) === hash && c.verify(c.publicKey)) return c;
  }
  return undefined;
}

export const splitAddress = (address: string): { host: string; port: number } => {
  const colon = address.lastIndexOf(':');
  return { host: address.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(address.slice(colon + 1)) };
};

/**
 * All that a server of the hub's CA (ECDSA on P-256) can use; the default offers cost 200 bytes more. ChaCha20 first:
 * a Pi 4 has no AES instructions.
 */
const LEAN_HELLO = {
  ciphers: [
    'TLS_CHACHA20_POLY1305_SHA256',
    'TLS_AES_128_GCM_SHA256',
    'ECDHE-ECDSA-CHACHA20-POLY1305',
    'ECDHE-ECDSA-AES128-GCM-SHA256',
  ].join(':'),
  ecdhCurve: 'X25519:P-256',
  sigalgs: 'ecdsa_secp256r1_sha256',
};

interface TlsOptions {
  ca?: string;
  cert?: string;
  key?: string;
  session?: Buffer;
  /** Tickets for the next connection; they may come with the handshake, before anyone else can listen. */
  onSession?: (session: Buffer) => void;
  onSocket?: ((socket: Socket) => void) | undefined;
}

/** One TLS connection whose server `judge` finds nothing wrong with. Nothing has been sent but the handshake. */
function dialTls(
  address: string,
  options: TlsOptions,
  judge: (s: TLSSocket) => string | undefined,
  signal: AbortSignal,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    // rejectUnauthorized is off because OpenSSL judges by this device's clock; `judge` decides.
    const { onSession, onSocket, ...tls } = options;
    const { host, port } = splitAddress(address);
    const tcp = connect({ host, port });
    onSocket?.(tcp);
    const socket = tlsConnect({
      socket: tcp,
      ...tls,
      rejectUnauthorized: false,
      minVersion: 'TLSv1.2',
      ...LEAN_HELLO,
    });
    tcp.setNoDelay(true);
    if (onSession) socket.on('session', onSession);
    const timer = setTimeout(() => fail(new Error(`no answer in ${CONNECT_MS / 1000} s`)), CONNECT_MS);
    const fail = (e: Error) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new Error(`${address}: ${e.message}`));
    };
    signal.addEventListener('abort', () => fail(new Error('another address was faster')), { once: true });
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      const problem = judge(socket);
      if (problem) return fail(new Error(problem));
      clearTimeout(timer);
      socket.off('error', fail);
      socket.on('error', () => {});
      resolve(socket);
    });
  });
}

/** The first address that answers properly; rejects with what was wrong with each. */
export async function dialFirst(
  addresses: readonly string[],
  options: TlsOptions,
  judge: (s: TLSSocket) => string | undefined,
): Promise<{ socket: TLSSocket; address: string }> {
  const losers = addresses.map(() => new AbortController());
  const timers: NodeJS.Timeout[] = [];
  try {
    return await new Promise((resolve, reject) => {
      const problems: string[] = [];
      let next = 0;
      let done = false;
      const tryNext = () => {
        const i = next++;
        if (done || i >= addresses.length) return;
        const address = addresses[i]!;
        timers.push(setTimeout(tryNext, STAGGER_MS));
        dialTls(address, options, judge, losers[i]!.signal).then(
          (socket) => {
            if (done) return socket.destroy();
            done = true;
            losers.splice(i, 1, new AbortController());
            resolve({ socket, address });
          },
          (e: Error) => {
            problems.push(e.message);
            if (problems.length === addresses.length) reject(new Error(problems.join('; ')));
            else tryNext();
          },
        );
      };
      tryNext();
    });
  } finally {
    for (const t of timers) clearTimeout(t);
    for (const l of losers) l.abort();
  }
}
