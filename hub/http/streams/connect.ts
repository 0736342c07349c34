/**
 * GET and POST of pods/NAME/exec, attach and portforward: chooses the protocol, asks the node, and takes the connection
 * over. Loaded with the first of them, since WebSockets and SPDY are nothing that every hub needs.
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../../api/clock.js';
import { badRequest } from '../../../api/meta/errors.js';
import type { Frozen } from '../../client.js';
import { NodeRefusal, type PodConnections } from '../../streams.js';
import { headerList, type Reply, type Request, textReply } from '../message.js';
import { type Connectable, execOptions, portsOf, processOptions, targetOf } from './options.js';
import * as forwarding from './portforward.js';
import {
  refuseProcess,
  SPDY_PROTOCOLS,
  serveProcess,
  spdyDoor,
  WEBSOCKET_PROTOCOLS,
  webSocketDoor,
} from './remotecommand.js';
import { acceptTunnel } from './websocket.js';

type TakeOver = (req: IncomingMessage, socket: Duplex, head: Buffer) => Promise<void>;

/** What a client and this server agree on: over a WebSocket, or SPDY. */
interface Agreed {
  websocket: boolean;
  protocol: string;
}

const VERSION_HEADER = 'x-stream-protocol-version';

/** A Reply where there is nothing to agree on (httpstream.Handshake). */
function agree(
  req: Request,
  server: { websocket: readonly string[]; spdy: readonly string[] },
): Agreed | Reply {
  const websocket = req.upgrade === 'websocket';
  const accepts = server[websocket ? 'websocket' : 'spdy'];
  const header = websocket ? 'sec-websocket-protocol' : VERSION_HEADER;
  const offers = headerList(req.headers[header]);
  if (offers.length === 0) {
    if (websocket) return { websocket, protocol: '' };
    return textReply(
      400,
      `unable to upgrade: header X-Stream-Protocol-Version does not exist in request with ${Object.keys(req.headers).length} headers\n`,
    );
  }
  const protocol = offers.find((p) => accepts.includes(p));
  if (protocol !== undefined) return { websocket, protocol };
  const reply = textReply(
    403,
    `unable to upgrade: unable to negotiate protocol: client supports [${offers.join(' ')}], server accepts [${accepts.join(' ')}]\n`,
  );
  reply.headers['x-accepted-stream-protocol-versions'] = accepts.join(', ');
  return reply;
}

/** The answer of a server that goes on with SPDY. */
function switchToSpdy(socket: Duplex, head: Buffer, protocol: string): void {
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
  );
  if (head.length > 0) socket.unshift(head);
}

/** What the node says against it, as the kubelet would: a text with a status code. */
const refusal = (e: NodeRefusal): Reply => textReply(e.code, `${e.message}\n`);

/** Rejects with ApiError; otherwise the reply is the new protocol, or the node's refusal. */
export async function connectPod(
  what: Connectable,
  pod: Frozen<Pod>,
  query: URLSearchParams,
  req: Request,
  connections: PodConnections,
  clock: Clock,
): Promise<Reply> {
  const process =
    what === 'exec' ? execOptions(pod, query) : what === 'attach' ? processOptions(pod, query) : undefined;
  const node = pod.spec?.nodeName;
  if (!node) throw badRequest(`pod ${pod.metadata?.name} does not have a host assigned`);
  connections.mayConnect(node);
  if (!req.upgrade) throw badRequest('Upgrade request required');
  const takeOver = process
    ? await processDoor(what as 'exec' | 'attach', process, node, req, connections, clock)
    : forwardDoor(pod, query, node, req, connections, clock);
  return typeof takeOver === 'function'
    ? { status: 101, headers: {}, longRunning: true, takeOver }
    : takeOver;
}

async function processDoor(
  what: 'exec' | 'attach',
  options: ReturnType<typeof processOptions>,
  node: string,
  req: Request,
  connections: PodConnections,
  clock: Clock,
): Promise<TakeOver | Reply> {
  const agreed = agree(req, { websocket: WEBSOCKET_PROTOCOLS, spdy: SPDY_PROTOCOLS });
  if ('status' in agreed) return agreed;
  const { websocket, protocol } = agreed;
  const door = async (r: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (websocket) return webSocketDoor(r, socket, head, protocol, options);
    switchToSpdy(socket, head, protocol);
    return spdyDoor(socket, protocol, options, clock);
  };
  let stream: Awaited<ReturnType<PodConnections['connect']>>;
  try {
    stream = await connections.connect(node, what, options as never, req.signal());
  } catch (e) {
    if (!(e instanceof NodeRefusal)) throw e;
    // An apiserver lets such clients in before it asks the node.
    if (protocol !== 'v5.channel.k8s.io') return refusal(e);
    return async (...args) =>
      refuseProcess(await door(...args), `unable to upgrade connection: ${e.message}`);
  }
  return async (...args) => {
    try {
      await serveProcess(await door(...args), stream, clock);
    } finally {
      stream.cancel();
    }
  };
}

function forwardDoor(
  pod: Frozen<Pod>,
  query: URLSearchParams,
  node: string,
  req: Request,
  connections: PodConnections,
  clock: Clock,
): TakeOver | Reply {
  const agreed = agree(req, {
    websocket: [forwarding.TUNNEL, ...forwarding.WEBSOCKET_PROTOCOLS],
    spdy: [forwarding.PROTOCOL],
  });
  if ('status' in agreed) return agreed;
  const { websocket, protocol } = agreed;
  const target = targetOf(pod);
  const signal = req.signal();
  const connect = (port: number) => connections.connect(node, 'forward', { ...target, port }, signal);
  if (websocket && protocol !== forwarding.TUNNEL) {
    const ports = portsOf(query);
    if (ports.length === 0) throw badRequest('query parameter "ports" is required');
    return (r, socket, head) => forwarding.serveWebSocket(r, socket, head, protocol, ports, target, connect);
  }
  return async (r, socket, head) => {
    if (!websocket) switchToSpdy(socket, head, protocol);
    const transport = websocket ? await acceptTunnel(r, socket, head, protocol) : socket;
    await forwarding.serveSpdy(transport, target, connect, clock);
  };
}
