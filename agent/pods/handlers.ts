/** How probes and lifecycle hooks ask a container over the network: HTTP, TCP, gRPC. All resolve with what was wrong, or undefined. */
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect } from 'node:net';
import type { Container, HTTPGetAction } from 'kubernetes-types/core/v1.js';

const USER_AGENT = 'kube-probe/1.36';
const REDIRECTS_MAX = 10;

/** A port by number or by the name that the container gives it. */
export function portOf(c: Container, port: number | string | undefined): number {
  const n = Number(port);
  if (Number.isInteger(n) && n > 0 && n < 65536) return n;
  const named = c.ports?.find((x) => x.name === port)?.containerPort;
  if (named === undefined) throw new Error(`couldn't find port: ${port} in container ${c.name}`);
  return named;
}

/** `host:port`, with brackets around an IPv6 address. */
const joined = (host: string, port: number): string => `${host.includes(':') ? `[${host}]` : host}:${port}`;

export function tcp(host: string, port: number, timeoutMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: timeoutMs });
    const end = (failure?: string) => {
      socket.destroy();
      resolve(failure);
    };
    socket.on('connect', () => end());
    socket.on('timeout', () => end(`dial tcp ${joined(host, port)}: i/o timeout`));
    socket.on('error', (e) => end(`dial tcp ${joined(host, port)}: ${e.message}`));
  });
}

/** Where an httpGet handler leads, with `podIP` for a host that is not named. */
export function urlOf(get: HTTPGetAction, c: Container, podIP: string): URL {
  const { host, path = '/', port, scheme = 'HTTP' } = get;
  const to = joined(host || podIP, portOf(c, port));
  return new URL(`${scheme.toLowerCase()}://${to}${path.startsWith('/') ? path : `/${path}`}`);
}

interface Answer {
  status: number;
  location: string | undefined;
}

/** One GET; the body is thrown away, certificates are not checked. */
function getOnce(url: URL, headers: Record<string, string>, timeoutMs: number): Promise<Answer | string> {
  const secure = url.protocol === 'https:';
  return new Promise((resolve) => {
    const failed = (why: string) => done(`Get "${url.href}": ${why}`);
    const req = (secure ? httpsRequest : httpRequest)(
      url,
      {
        headers: { 'user-agent': USER_AGENT, accept: '*/*', ...headers },
        agent: false,
        ...(secure ? { rejectUnauthorized: false } : {}),
      },
      (res) => {
        const { statusCode = 0 } = res;
        res.destroy();
        done({ status: statusCode, location: res.headers.location });
      },
    );
    // The whole exchange, not only silence: a server that drips is not well either.
    const timer = setTimeout(() => {
      req.destroy();
      failed('context deadline exceeded (Client.Timeout exceeded while awaiting headers)');
    }, timeoutMs);
    const done = (answer: Answer | string) => {
      clearTimeout(timer);
      resolve(answer);
    };
    req.on('error', (e) => failed(e.message));
    req.end();
  });
}

const headersOf = (get: HTTPGetAction): Record<string, string> =>
  Object.fromEntries((get.httpHeaders ?? []).map((h) => [h.name, h.value]));

/** A probe: well is a status of 200 to 399. Redirects are followed as long as they stay with the host. */
export async function httpProbe(
  url: URL,
  get: HTTPGetAction,
  timeoutMs: number,
): Promise<string | undefined> {
  let at = url;
  for (let n = 0; n < REDIRECTS_MAX; n++) {
    const answer = await getOnce(at, headersOf(get), timeoutMs);
    if (typeof answer === 'string') return answer;
    const { status, location } = answer;
    if (status >= 300 && status < 400 && location && URL.canParse(location, at.href)) {
      const next = new URL(location, at);
      if (next.hostname === at.hostname && /^https?:$/.test(next.protocol)) {
        at = next;
        continue;
      }
    }
    return status >= 200 && status < 400 ? undefined : `HTTP probe failed with statuscode: ${status}`;
  }
  return `Get "${url.href}": stopped after ${REDIRECTS_MAX} redirects`;
}

/** A hook: any answer will do. */
export async function httpHook(url: URL, get: HTTPGetAction, timeoutMs: number): Promise<string | undefined> {
  const answer = await getOnce(url, headersOf(get), timeoutMs);
  return typeof answer === 'string' ? answer : undefined;
}

/** grpc.health.v1.HealthCheckResponse.ServingStatus */
const SERVING = ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'];
const UNIMPLEMENTED = '12';

/** The one field of a HealthCheckRequest, behind the head of a gRPC message. */
function healthRequest(service: string): Buffer {
  const name = Buffer.from(service);
  const length: number[] = [];
  for (let n = name.length; ; n >>>= 7) {
    length.push(n > 127 ? (n & 127) | 128 : n);
    if (n <= 127) break;
  }
  const body = name.length > 0 ? Buffer.concat([Buffer.from([0x0a, ...length]), name]) : name;
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  return Buffer.concat([head, body]);
}

/** `Check` of the gRPC health protocol, without TLS. https://github.com/grpc/grpc/blob/master/doc/health-checking.md */
export async function grpc(
  host: string,
  port: number,
  service: string,
  timeoutMs: number,
): Promise<string | undefined> {
  const at = joined(host, port);
  // Few pods have such probes.
  const { connect: openSession } = await import('node:http2');
  return new Promise((resolve) => {
    const session = openSession(`http://${at}`);
    let connected = false;
    const done = (failure?: string) => {
      clearTimeout(timer);
      session.destroy();
      resolve(failure);
    };
    const timer = setTimeout(
      () =>
        done(
          connected
            ? `timeout: health rpc did not complete within ${timeoutMs / 1000}s`
            : `timeout: failed to connect service "${at}" within ${timeoutMs / 1000}s: context deadline exceeded`,
        ),
      timeoutMs,
    );
    session.on('connect', () => {
      connected = true;
    });
    session.on('error', (e) => done(`error: failed to connect service at "${at}": ${e.message}`));
    const stream = session.request({
      ':method': 'POST',
      ':path': '/grpc.health.v1.Health/Check',
      'content-type': 'application/grpc',
      'user-agent': USER_AGENT,
      te: 'trailers',
    });
    let code: string | undefined;
    let message = '';
    const chunks: Buffer[] = [];
    const readStatus = (h: Record<string, unknown>) => {
      if (h['grpc-status'] === undefined) return;
      code = String(h['grpc-status']);
      message = String(h['grpc-message'] ?? '');
    };
    stream.on('response', readStatus);
    stream.on('trailers', readStatus);
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    // Without a connection the session says why.
    stream.on('error', (e) => {
      if (connected) done(`error: health rpc probe failed: ${e.message}`);
    });
    stream.on('close', () => {
      if (!connected) return;
      if (code === UNIMPLEMENTED)
        return done(
          `error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ${message}`,
        );
      if (code !== '0') return done(`error: health rpc probe failed: ${message || 'no answer'}`);
      // Field 1, an enum; what is absent is 0.
      const answer = Buffer.concat(chunks).subarray(5);
      const status = answer[0] === 0x08 ? (answer[1] ?? 0) : 0;
      done(status === 1 ? undefined : `service unhealthy (responded with "${SERVING[status] ?? status}")`);
    });
    stream.end(healthRequest(service));
  });
}
