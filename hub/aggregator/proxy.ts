/** Requests for what another server serves, passed on as they come (kube-aggregator handler_proxy.go). */
import type { IncomingMessage } from 'node:http';
import { type Reply, type Request, textReply } from '../http/message.js';
import { headersOf, relay, replyOf } from '../outbound/relay.js';
import { identityHeaders, type Remote, type Upstream } from './remote.js';

const REDIRECTED = 'the backend attempted to redirect this request, which is not permitted';

const unavailable = (): Reply => textReply(503, 'service unavailable\n');

/**
 * The answer of the remote, streamed, to a request in the name of `req.user`. Never rejects: what goes wrong before there
 * is an answer is told as Kubernetes tells it. Ends with the client's signal.
 */
export async function forward(upstream: Upstream, remote: Remote, req: Request): Promise<Reply> {
  if (!remote.available) return unavailable();
  let out: ReturnType<Upstream['open']>;
  try {
    out = upstream.open(remote, {
      method: req.method,
      path: req.url,
      headers: { ...headersOf(req), ...identityHeaders(req.user) },
    });
  } catch {
    return unavailable();
  }
  return relay(req, out, {
    failed: (e) => textReply(503, `error trying to reach service: ${upstream.reason(e, remote)}\n`),
    answered,
  });
}

function answered(res: IncomingMessage): Reply {
  const reply = replyOf(res);
  if (reply.status < 300 || reply.status > 399 || !res.headers.location) return reply;
  res.resume();
  return textReply(502, REDIRECTED);
}
