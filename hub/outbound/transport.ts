/**
 * HTTPS to webhooks: pooled, bounded in size and time. Errors are worded as Go's and client-go's. The pool's agent is the
 * one place that opens connections, should a pod be reached over a node's link one day.
 */
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https';
import type { Clock } from '../../api/clock.js';

/** Of an answer, in bytes: what etcd could store, with room for a patch in base64. */
export const MAX_ANSWER = 3 * 1024 * 1024;
const MAX_PER_HOST = 32;
const MAX_CONNECTIONS = 256;
const IDLE_MS = 60_000;

export interface Endpoint {
  /** As the messages show it. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
  readonly path: string;
  /** Whom the certificate must be of. */
  readonly serverName: string;
  /** PEM; absent: the machine's own roots. */
  readonly ca: string | undefined;
}

let agent: Agent | undefined;
const pool = (): Agent => {
  // Free connections do not keep the process alive.
  agent ??= new Agent({
    keepAlive: true,
    maxSockets: MAX_PER_HOST,
    maxTotalSockets: MAX_CONNECTIONS,
    maxFreeSockets: 2,
    timeout: IDLE_MS,
  });
  return agent;
};

const UNKNOWN_AUTHORITY = 'tls: failed to verify certificate: x509: certificate signed by unknown authority';
const DIAL: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connect: connection refused',
  EHOSTUNREACH: 'connect: no route to host',
  ENETUNREACH: 'connect: network is unreachable',
  ETIMEDOUT: 'connect: connection timed out',
};
const TLS: Readonly<Record<string, string>> = {
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNKNOWN_AUTHORITY,
  SELF_SIGNED_CERT_IN_CHAIN: UNKNOWN_AUTHORITY,
  DEPTH_ZERO_SELF_SIGNED_CERT: UNKNOWN_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT: UNKNOWN_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNKNOWN_AUTHORITY,
  CERT_SIGNATURE_FAILURE: UNKNOWN_AUTHORITY,
  CERT_HAS_EXPIRED: 'tls: failed to verify certificate: x509: certificate has expired or is not yet valid',
  CERT_NOT_YET_VALID: 'tls: failed to verify certificate: x509: certificate has expired or is not yet valid',
  ECONNRESET: 'EOF',
  EPROTO: 'tls: first record does not look like a TLS handshake',
};

interface NodeError extends Error {
  code?: string;
  host?: string;
}

export function inGosWords(
  e: NodeError,
  { host, port, serverName }: Pick<Endpoint, 'host' | 'port' | 'serverName'>,
): string {
  const { code = '' } = e;
  if (Object.hasOwn(DIAL, code))
    return `dial tcp ${host.includes(':') ? `[${host}]` : host}:${port}: ${DIAL[code]}`;
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return `dial tcp: lookup ${host}: no such host`;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return `tls: failed to verify certificate: x509: certificate is not valid for ${serverName}`;
  if (Object.hasOwn(TLS, code)) return TLS[code]!;
  return e.message;
}

/**
 * Posts JSON and resolves with the answer's text. `timeoutMs` is for all of it, `limit` in bytes for the answer. Rejects
 * with the reason as an Error.
 */
export function post(
  at: Endpoint,
  body: string,
  timeoutMs: number,
  clock: Clock,
  limit = MAX_ANSWER,
): Promise<string> {
  const seconds = Math.max(1, Math.ceil(timeoutMs / 1000));
  const shown = `${at.url}?timeout=${seconds}s`;
  const options: RequestOptions = {
    agent: pool(),
    method: 'POST',
    host: at.host,
    port: at.port,
    path: `${at.path}?timeout=${seconds}s`,
    servername: /^[\d.]+$|:/.test(at.serverName) ? '' : at.serverName,
    headers: {
      host: new URL(at.url).host,
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      accept: 'application/json, */*',
      'user-agent': 'kube-apiserver-admission',
    },
    ...(at.ca ? { ca: at.ca } : {}),
  };
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let size = 0;
    let done = false;
    const finish = (settle: () => void): void => {
      if (done) return;
      done = true;
      cancel();
      settle();
    };
    const fail = (why: string): void => {
      finish(() => reject(new Error(why)));
      req.destroy();
    };
    const req = httpsRequest(options, (res) => {
      res.on('error', (e: NodeError) => fail(`Post ${JSON.stringify(shown)}: ${inGosWords(e, at)}`));
      res.on('aborted', () => fail('unexpected EOF'));
      res.on('data', (part: Buffer) => {
        size += part.length;
        if (size > limit) fail(`the answer is larger than ${limit} bytes`);
        else parts.push(part);
      });
      res.on('end', () => {
        const text = Buffer.concat(parts).toString('utf8');
        const { statusCode = 0 } = res;
        if (statusCode >= 200 && statusCode < 300) finish(() => resolve(text));
        else fail(refusal(statusCode, text));
      });
    });
    req.on('error', (e: NodeError) => fail(`Post ${JSON.stringify(shown)}: ${inGosWords(e, at)}`));
    const cancel = clock.after(timeoutMs, () =>
      fail(`Post ${JSON.stringify(shown)}: context deadline exceeded`),
    );
    req.end(body);
  });
}

/** What client-go makes of an answer that is an error (apimachinery api/errors NewGenericServerResponse). */
function refusal(code: number, text: string): string {
  const about = text.trim().slice(0, 2048);
  const words: Readonly<Record<number, string>> = {
    400: 'the server rejected our request for an unknown reason',
    401: 'the server has asked for the client to provide credentials',
    403: about || 'forbidden',
    404: 'the server could not find the requested resource',
    405: 'the server does not allow this method on the requested resource',
    413: 'Request entity too large',
    415: about || 'unsupported media type',
    429: 'the server has received too many requests and has asked us to try again later',
    503: 'the server is currently unable to handle the request',
    504: 'the server was unable to return a response in the time allotted, but may still be processing the request',
  };
  if (Object.hasOwn(words, code)) return words[code]!;
  return code >= 500
    ? `an error on the server (${JSON.stringify(about)}) has prevented the request from succeeding`
    : 'the server responded with the status code but did not return more information';
}
