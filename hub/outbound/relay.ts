/** One HTTP request passed on to another server, and its answer passed back (Go's httputil.ReverseProxy). */
import type { ClientRequest, IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { type Duplex, pipeline } from 'node:stream';
import type { Reply, Request } from '../http/message.js';

/** Headers that concern one connection, and those by which a client says who it is. */
const NOT_PASSED_ON =
  /^(:.*|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|http2-settings|host|authorization|impersonate-.*|x-remote-(user|uid|group|extra-.*))$/i;

/** Of a connection that is not ours. */
const NOT_PASSED_BACK = /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade)$/i;

/** The client's headers as another server is to see them: without who asks, and still asking for another protocol. */
export function headersOf({ headers, upgrade }: Pick<Request, 'headers' | 'upgrade'>): OutgoingHttpHeaders {
  const out: OutgoingHttpHeaders = Object.fromEntries(
    Object.entries(headers).filter(([name]) => !NOT_PASSED_ON.test(name)),
  );
  return upgrade ? { ...out, connection: 'Upgrade', upgrade } : out;
}

/** The answer as it came, in the encoding that it has. */
export function replyOf(res: IncomingMessage): Reply {
  const headers: Reply['headers'] = {};
  for (const [name, value] of Object.entries(res.headers))
    if (value !== undefined && !NOT_PASSED_BACK.test(name)) headers[name] = value;
  return { status: res.statusCode ?? 502, headers, body: res, longRunning: true };
}

export interface RelayOptions {
  /** Before there is an answer. */
  failed(e: Error): Reply | Promise<Reply>;
  answered(res: IncomingMessage): Reply;
}

/**
 * Sends the client's body on `out`, which is not ended yet, and gives its answer, streamed, or the connection that it has
 * become. Never rejects. Ends with the client's signal.
 */
export function relay(req: Request, out: ClientRequest, { failed, answered }: RelayOptions): Promise<Reply> {
  return new Promise((resolve) => {
    const signal = req.signal();
    const gone = () => out.destroy();
    signal.addEventListener('abort', gone, { once: true });
    out.once('close', () => signal.removeEventListener('abort', gone));
    out.on('error', (e: Error) => resolve(failed(e)));
    out.once('response', (res) => resolve(answered(res)));
    out.once('upgrade', (res, socket, head) =>
      resolve({
        status: 101,
        headers: {},
        longRunning: true,
        takeOver: (_, client, sent) => joined(client, sent, socket, head, res),
      }),
    );
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

/** Two connections that have left HTTP, until either ends. */
function joined(
  client: Duplex,
  sent: Buffer,
  server: Duplex,
  head: Buffer,
  res: IncomingMessage,
): Promise<void> {
  const lines = [`HTTP/1.1 101 ${res.statusMessage || 'Switching Protocols'}`];
  for (let i = 0; i < res.rawHeaders.length; i += 2)
    lines.push(`${res.rawHeaders[i]}: ${res.rawHeaders[i + 1]}`);
  client.write(`${lines.join('\r\n')}\r\n\r\n`);
  if (head.length > 0) client.write(head);
  if (sent.length > 0) server.write(sent);
  return new Promise((resolve) => {
    // What breaks one way ends both; a client that has said all may still listen.
    const over = () => {
      server.destroy();
      client.destroy();
      resolve();
    };
    pipeline(server, client, over);
    pipeline(client, server, (e) => e && over());
  });
}
