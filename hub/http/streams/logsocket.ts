/** A log over a WebSocket, for clients that have no other way to read on (wsstream/stream.go). */
import { type Chunks, headerList, type Reply, type Request } from '../message.js';
import { acceptMessages } from './websocket.js';

/** Text frames in base64, for clients that cannot take bytes. */
const BASE64 = 'base64.binary.k8s.io';
const PROTOCOLS: readonly string[] = ['binary.k8s.io', BASE64];

/** The reply that sends these bytes as messages, after an empty one which tells that it has begun, and closes. */
export function logSocket({ headers }: Request, log: Chunks): Reply {
  const wanted = headerList(headers['sec-websocket-protocol']);
  const protocol = wanted.find((p) => PROTOCOLS.includes(p)) ?? '';
  if (wanted.length > 0 && protocol === '')
    return {
      status: 403,
      headers: { 'content-type': 'text/plain; charset=utf-8' },
      body: `requested protocol(s) are not supported: [${wanted.join(' ')}]; supports [${PROTOCOLS.join(' ')}]\n`,
    };
  return {
    status: 101,
    headers: {},
    longRunning: true,
    takeOver: async (req, socket, head) => {
      const ws = await acceptMessages(req, socket, head, protocol);
      const send = (chunk: string | Uint8Array) => {
        const bytes = Buffer.from(chunk as Uint8Array);
        // Resolves when it was handed to the network: whoever reads slowly is written to slowly.
        return new Promise<void>((sent, failed) =>
          ws.send(protocol === BASE64 ? bytes.toString('base64') : bytes, (e) => (e ? failed(e) : sent())),
        );
      };
      await send('');
      for await (const chunk of log) await send(chunk);
      ws.close(1000);
    },
  };
}
