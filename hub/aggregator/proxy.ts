/** Requests for what another server serves, passed on as they come (kube-aggregator handler_proxy.go). */
import type { IncomingMessage } from 'node:http';
import { type Duplex, pipeline } from 'node:stream';
import { type Reply, type Request, textReply } from '../http/message.js';
import { identityHeaders, passedOn, type Remote, type Upstream } from './remote.js';

/** Of a connection that is not ours. */
const NOT_PASSED_BACK = /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade)$/i;

const REDIRECTED = 'the backend attempted to redirect this request, which is not permitted';

const unavailable = (): Reply => textReply(503, 'service unavailable\n');

/**
 * The answer of the remote, streamed, to a request in the name of `req.user`. Never rejects: what goes wrong before there
 * is an answer is told as Kubernetes tells it. Ends with the client's signal.
 */
export function forward(upstream: Upstream, remote: Remote, req: Request): Promise<Reply> {
  if (!remote.available) return Promise.resolve(unavailable());
  return new Promise((resolve) => {
    const signal = req.signal();
    let out: ReturnType<Upstream['open']>;
    try {
      out = upstream.open(remote, {
        method: req.method,
        path: req.url,
        headers: {
          ...passedOn(req.headers),
          ...identityHeaders(req.user),
          ...(req.upgrade ? { connection: 'Upgrade', upgrade: req.upgrade } : {}),
        },
      });
    } catch {
      resolve(unavailable());
      return;
    }
    const gone = () => out.destroy();
    signal.addEventListener('abort', gone, { once: true });
    out.once('close', () => signal.removeEventListener('abort', gone));
    out.on('error', (e: Error) =>
      resolve(textReply(503, `error trying to reach service: ${upstream.reason(e, remote)}\n`)),
    );
    out.once('response', (res) => resolve(replyOf(res)));
    out.once('upgrade', (res, theirs, head) => {
      resolve({
        status: 101,
        headers: {},
        takeOver: (_req, ours, sent) => tunnel(res, theirs, head, ours, sent),
      });
    });
    if (signal.aborted) gone();
    else if (req.upgrade) out.end();
    else if (req.incoming)
      // What breaks on the way is told by the events of both ends.
      pipeline(req.incoming, out, () => {});
    else
      req.body().then(
        (body) => out.end(body),
        () => out.destroy(),
      );
  });
}

/** The answer that changes the protocol as it came, and then bytes both ways until either side ends. */
function tunnel(
  res: IncomingMessage,
  theirs: Duplex,
  head: Buffer,
  ours: Duplex,
  sent: Buffer,
): Promise<void> {
  const lines = [`HTTP/1.1 101 ${res.statusMessage || 'Switching Protocols'}`];
  for (let i = 0; i < res.rawHeaders.length; i += 2)
    lines.push(`${res.rawHeaders[i]}: ${res.rawHeaders[i + 1]}`);
  ours.write(`${lines.join('\r\n')}\r\n\r\n`);
  ours.write(head);
  theirs.write(sent);
  return new Promise((resolve) => {
    // What breaks one way ends both.
    const over = () => {
      theirs.destroy();
      ours.destroy();
      resolve();
    };
    pipeline(theirs, ours, over);
    pipeline(ours, theirs, (e) => e && over());
  });
}

function replyOf(res: IncomingMessage): Reply {
  const { statusCode: status = 502 } = res;
  if (status >= 300 && status < 400 && res.headers.location) {
    res.resume();
    return textReply(502, REDIRECTED);
  }
  const headers: Reply['headers'] = {};
  for (const [name, value] of Object.entries(res.headers))
    if (value !== undefined && !NOT_PASSED_BACK.test(name)) headers[name] = value;
  // As it comes, in the encoding that it has: nothing is compressed or waited for here.
  return { status, headers, body: res, longRunning: true };
}
