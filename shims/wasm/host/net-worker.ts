import type * as dgram from 'node:dgram';
import type { Socket as DgramSocket, SocketType } from 'node:dgram';
import type * as dns from 'node:dns';
import { readFileSync } from 'node:fs';
import type * as http from 'node:http';
import type * as https from 'node:https';
import type * as net from 'node:net';
import type * as tls from 'node:tls';
import type { MessagePort } from 'node:worker_threads';

/**
 * The network of one guest: a thread that does what the guest's own thread cannot do without an event loop. Commands
 * come in, events go out, each with the number of the channel that it is about; the guest's side gives channels odd
 * numbers, this side even ones. Both directions have a window: no side is ever sent more than it can hold.
 */

/** Bytes on their way in one direction of one channel. */
export const WINDOW = 256 << 10;
/** Datagrams beyond this many bytes unread are dropped, as a kernel's receive buffer would. */
const DATAGRAM_WINDOW = 256 << 10;
/** Where Debian keeps the machine's certificate authorities. */
const CA_FILE = '/etc/ssl/certs/ca-certificates.crt';

export interface Address {
  host: string;
  port: number;
  v6: boolean;
}

export interface HttpRequest {
  method: string;
  scheme: string;
  host: string;
  port: number;
  path: string;
  headers: [string, string][];
  hasBody: boolean;
  /** Milliseconds. */
  connectTimeout?: number;
  firstByteTimeout?: number;
  betweenBytesTimeout?: number;
}

export type Command = { id: number } & (
  | { do: 'connect'; to: Address; from?: Address }
  | { do: 'bind'; at: Address }
  | { do: 'listen'; backlog: number }
  | { do: 'accepted' }
  | { do: 'keepalive'; on: boolean; idleMs: number }
  | { do: 'write'; bytes: Uint8Array }
  | { do: 'end'; trailers?: [string, string][] }
  | { do: 'credit'; count: number }
  | { do: 'close' }
  | { do: 'udp'; at: Address }
  | { do: 'send'; bytes: Uint8Array; to: Address }
  | { do: 'resolve'; name: string }
  | { do: 'request'; request: HttpRequest }
);

export type NetEvent = { id: number } & (
  | { is: 'bound'; local: Address }
  | { is: 'connected'; local: Address; remote: Address }
  | { is: 'accept'; child: number; local: Address; remote: Address }
  | { is: 'data'; bytes: Uint8Array }
  | { is: 'datagram'; bytes: Uint8Array; from: Address }
  | { is: 'end'; trailers?: [string, string][] }
  | { is: 'wrote'; count: number }
  | { is: 'resolved'; addresses: { host: string; v6: boolean }[] }
  | { is: 'response'; status: number; headers: [string, string][] }
  | { is: 'error'; code: string; message: string }
  /** Channel 0: the thread itself is broken. */
  | { is: 'broken'; message: string }
);

export interface WorkerData {
  port: MessagePort;
  /** Counts events, so that the guest's thread can wait for the next one. */
  signal: Int32Array;
}

/** Loaded by those guests that ask for it: OpenSSL alone takes megabytes. */
declare const require: {
  (name: 'node:net'): typeof net;
  (name: 'node:dgram'): typeof dgram;
  (name: 'node:dns'): typeof dns;
  (name: 'node:http'): typeof http;
  (name: 'node:https'): typeof https;
  (name: 'node:tls'): typeof tls;
};

/** What a channel is here. */
interface Channel {
  write?(bytes: Uint8Array): void;
  end?(trailers?: [string, string][]): void;
  credit?(count: number): void;
  listen?(backlog: number): void;
  accepted?(): void;
  keepalive?(on: boolean, idleMs: number): void;
  send?(bytes: Uint8Array, to: Address): void;
  close(): void;
}

const codeOf = (e: unknown): string => (e as { code?: string }).code ?? 'EIO';
const pairs = (raw: readonly string[]): [string, string][] =>
  Array.from({ length: raw.length >> 1 }, (_, i) => [raw[2 * i]!, raw[2 * i + 1]!]);

/** Runs for as long as the process does. */
export function serveNetwork({ port, signal }: WorkerData): void {
  const channels = new Map<number, Channel>();
  let lastChild = 0;

  const tell = (e: NetEvent, transfer: ArrayBuffer[] = []): void => {
    port.postMessage(e, transfer);
    Atomics.add(signal, 0, 1);
    Atomics.notify(signal, 0);
  };
  const fail = (id: number, e: unknown): void =>
    tell({ id, is: 'error', code: codeOf(e), message: e instanceof Error ? e.message : String(e) });
  process.on('uncaughtException', (e) => tell({ id: 0, is: 'broken', message: e.stack ?? e.message }));

  /** Bytes of `from` as events, paused while the guest has not read a window's worth. */
  const flow = (id: number, from: net.Socket | http.IncomingMessage): ((count: number) => void) => {
    let unread = 0;
    from.on('data', (chunk: Buffer) => {
      const bytes = new Uint8Array(chunk);
      unread += bytes.length;
      if (unread >= WINDOW) from.pause();
      tell({ id, is: 'data', bytes }, [bytes.buffer as ArrayBuffer]);
    });
    return (count) => {
      unread -= count;
      if (unread < WINDOW && from.isPaused()) from.resume();
    };
  };
  const local = (s: net.Socket): Address => ({
    host: s.localAddress ?? '',
    port: s.localPort ?? 0,
    v6: s.localFamily === 'IPv6',
  });
  const remote = (s: net.Socket): Address => ({
    host: s.remoteAddress ?? '',
    port: s.remotePort ?? 0,
    v6: s.remoteFamily === 'IPv6',
  });

  const stream = (id: number, socket: net.Socket): Channel => {
    socket.setNoDelay(true);
    socket.on('error', (e) => fail(id, e));
    socket.on('end', () => tell({ id, is: 'end' }));
    return {
      credit: flow(id, socket),
      write: (bytes) => void socket.write(bytes, (e) => e || tell({ id, is: 'wrote', count: bytes.length })),
      end: () => void socket.end(),
      keepalive: (on, idleMs) => void socket.setKeepAlive(on, idleMs),
      // What was written still goes out.
      close: () => void socket.destroySoon(),
    };
  };

  const commands: { [K in Command['do']]: (c: Extract<Command, { do: K }>) => void } = {
    connect({ id, to, from }) {
      const open = (): void => {
        const { createConnection } = require('node:net');
        const socket = createConnection({
          ...{ host: to.host, port: to.port, family: to.v6 ? 6 : 4, allowHalfOpen: true },
          ...(from ? { localAddress: from.host, localPort: from.port } : {}),
        });
        channels.set(id, stream(id, socket));
        socket.once('connect', () =>
          tell({ id, is: 'connected', local: local(socket), remote: remote(socket) }),
        );
      };
      // A bound socket holds its address by listening: Node has no other way.
      const bound = channels.get(id) as (Channel & { release?(then: () => void): void }) | undefined;
      if (bound?.release) bound.release(open);
      else open();
    },
    bind({ id, at }) {
      const { createServer } = require('node:net');
      const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
      let waiting = 0;
      let backlog = 0;
      server.on('error', (e) => fail(id, e));
      server.on('connection', (socket) => {
        if (waiting >= backlog) return void socket.resetAndDestroy();
        waiting++;
        lastChild += 2;
        channels.set(lastChild, stream(lastChild, socket));
        socket.resume();
        tell({ id, is: 'accept', child: lastChild, local: local(socket), remote: remote(socket) });
      });
      server.listen({ host: at.host, port: at.port, ipv6Only: at.v6, exclusive: true }, () => {
        const { address, port: bound } = server.address() as net.AddressInfo;
        tell({ id, is: 'bound', local: { host: address, port: bound, v6: at.v6 } });
      });
      const channel: Channel & { release(then: () => void): void } = {
        listen: (n) => {
          backlog = n;
        },
        accepted: () => void waiting--,
        release: (then) => void server.close(then),
        close: () => void server.close(),
      };
      channels.set(id, channel);
    },
    udp({ id, at }) {
      const type: SocketType = at.v6 ? 'udp6' : 'udp4';
      const socket: DgramSocket = require('node:dgram').createSocket({ type, ipv6Only: at.v6 });
      let unread = 0;
      socket.on('error', (e) => fail(id, e));
      socket.on('message', (message, { address, port: from }) => {
        if (unread + message.length > DATAGRAM_WINDOW) return;
        unread += message.length + 1;
        const bytes = new Uint8Array(message);
        const sender = { host: address, port: from, v6: at.v6 };
        tell({ id, is: 'datagram', bytes, from: sender }, [bytes.buffer as ArrayBuffer]);
      });
      socket.bind({ address: at.host, port: at.port, exclusive: true }, () => {
        const { address, port: bound } = socket.address();
        tell({ id, is: 'bound', local: { host: address, port: bound, v6: at.v6 } });
      });
      channels.set(id, {
        credit: (count) => {
          unread -= count;
        },
        send: (bytes, to) =>
          socket.send(bytes, to.port, to.host, (e) => {
            if (e) fail(id, e);
            tell({ id, is: 'wrote', count: bytes.length + 1 });
          }),
        close: () => void socket.close(),
      });
    },
    resolve({ id, name }) {
      require('node:dns').lookup(name, { all: true, verbatim: true }, (e, list) => {
        if (e) return fail(id, e);
        const addresses = list.map((a) => ({ host: a.address, v6: a.family === 6 }));
        tell({ id, is: 'resolved', addresses });
      });
    },
    request({ id, request: r }) {
      const secure = r.scheme === 'https';
      const req = (secure ? require('node:https') : require('node:http')).request({
        ...{ method: r.method, host: r.host, port: r.port, path: r.path },
        ...(secure ? { ca: authorities() } : {}),
      });
      const timers = new Set<NodeJS.Timeout>();
      const within = (ms: number | undefined, what: string): (() => void) => {
        if (ms === undefined) return () => {};
        const timer = setTimeout(() => req.destroy(Object.assign(new Error(what), { code: what })), ms);
        timers.add(timer);
        return () => clearTimeout(timer);
      };
      const connected = within(r.connectTimeout, 'connection-timeout');
      const answered = within(r.firstByteTimeout, 'HTTP-response-timeout');
      const { betweenBytesTimeout } = r;
      for (const [name, value] of r.headers) req.appendHeader(name, value);
      req.on('socket', (s) => {
        if (s.connecting) s.once(secure ? 'secureConnect' : 'connect', connected);
        else connected();
      });
      req.on('error', (e) => fail(id, e));
      req.on('close', () => {
        for (const t of timers) clearTimeout(t);
      });
      const channel: Channel = {
        write: (bytes) => void req.write(bytes, (e) => e || tell({ id, is: 'wrote', count: bytes.length })),
        end: (trailers) => {
          if (trailers && trailers.length > 0) req.addTrailers(trailers);
          req.end();
        },
        close: () => void req.destroy(),
      };
      channels.set(id, channel);
      req.on('response', (res) => {
        answered();
        tell({ id, is: 'response', status: res.statusCode ?? 0, headers: pairs(res.rawHeaders) });
        channel.credit = flow(id, res);
        if (betweenBytesTimeout !== undefined)
          res.setTimeout(betweenBytesTimeout, () =>
            res.destroy(Object.assign(new Error(), { code: 'connection-read-timeout' })),
          );
        res.on('end', () => tell({ id, is: 'end', trailers: pairs(res.rawTrailers) }));
        res.on('error', (e) => fail(id, e));
      });
      if (!r.hasBody) req.end();
    },
    write: ({ id, bytes }) => channels.get(id)?.write?.(bytes),
    end: ({ id, trailers }) => channels.get(id)?.end?.(trailers),
    credit: ({ id, count }) => channels.get(id)?.credit?.(count),
    listen: ({ id, backlog }) => channels.get(id)?.listen?.(backlog),
    accepted: ({ id }) => channels.get(id)?.accepted?.(),
    keepalive: ({ id, on, idleMs }) => channels.get(id)?.keepalive?.(on, idleMs),
    send: ({ id, bytes, to }) => channels.get(id)?.send?.(bytes, to),
    close({ id }) {
      channels.get(id)?.close();
      channels.delete(id);
    },
  };
  port.on('message', (c: Command) => {
    try {
      (commands[c.do] as (c: Command) => void)(c);
    } catch (e) {
      fail(c.id, e);
    }
  });
}

let known: string[] | undefined;
/** Node's own certificate authorities and the machine's. */
function authorities(): string[] {
  if (known) return known;
  known = [...require('node:tls').rootCertificates];
  try {
    known.push(readFileSync(CA_FILE, 'utf8'));
  } catch {
    // None on this machine.
  }
  return known;
}
