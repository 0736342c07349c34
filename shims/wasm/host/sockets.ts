import { isIPv6 } from 'node:net';
import { InputStream, OutputStream, type Pollable, throws, when } from './io.js';
import type { Channel, Network } from './net.js';
import type { Address } from './net-worker.js';

/** wasi:sockets 0.2 on a {@link Network}; without one every way to a socket answers `access-denied`. */

type Family = 'ipv4' | 'ipv6';
type IpAddress = { tag: 'ipv4'; val: number[] } | { tag: 'ipv6'; val: number[] };
type SocketAddress =
  | { tag: 'ipv4'; val: { port: number; address: number[] } }
  | { tag: 'ipv6'; val: { port: number; flowInfo: number; address: number[]; scopeId: number } };

/** POSIX name → `error-code` of wasi:sockets. */
const ERROR_CODE: Record<string, string> = {
  EACCES: 'access-denied',
  EPERM: 'access-denied',
  ENOTSUP: 'not-supported',
  EOPNOTSUPP: 'not-supported',
  EAFNOSUPPORT: 'not-supported',
  EINVAL: 'invalid-argument',
  ENOMEM: 'out-of-memory',
  ENOBUFS: 'out-of-memory',
  ETIMEDOUT: 'timeout',
  EALREADY: 'concurrency-conflict',
  EMFILE: 'new-socket-limit',
  ENFILE: 'new-socket-limit',
  EADDRNOTAVAIL: 'address-not-bindable',
  EADDRINUSE: 'address-in-use',
  EHOSTUNREACH: 'remote-unreachable',
  EHOSTDOWN: 'remote-unreachable',
  ENETUNREACH: 'remote-unreachable',
  ENETDOWN: 'remote-unreachable',
  ECONNREFUSED: 'connection-refused',
  ECONNRESET: 'connection-reset',
  EPIPE: 'connection-reset',
  ECONNABORTED: 'connection-aborted',
  EMSGSIZE: 'datagram-too-large',
  ENOTFOUND: 'name-unresolvable',
  ENODATA: 'name-unresolvable',
  EAI_AGAIN: 'temporary-resolver-failure',
  EAI_FAIL: 'permanent-resolver-failure',
};
const errorOf = (channel: Channel): string => ERROR_CODE[channel.error!.code] ?? 'unknown';

const hostOf = (family: Family, address: number[]): string =>
  family === 'ipv4' ? address.join('.') : address.map((part) => part.toString(16)).join(':');
const addressOf = (a: SocketAddress): Address => ({
  host: hostOf(a.tag, a.val.address),
  port: a.val.port,
  v6: a.tag === 'ipv6',
});

/** Text as the kernel writes it → the parts of the WIT tuple. */
export function ipAddress(text: string): IpAddress {
  const host = text.replace(/%.*$/, '');
  if (!isIPv6(host)) return { tag: 'ipv4', val: host.split('.').map(Number) };
  // An IPv4 address at the end is the last two parts.
  const plain = host.replace(
    /(\d+)\.(\d+)\.(\d+)\.(\d+)$/,
    (_, a, b, c, d) => `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`,
  );
  const [head = '', tail] = plain.split('::');
  const parts = (s: string): number[] => (s === '' ? [] : s.split(':').map((x) => Number.parseInt(x, 16)));
  const [front, back] = [parts(head), parts(tail ?? '')];
  return { tag: 'ipv6', val: [...front, ...Array(8 - front.length - back.length).fill(0), ...back] };
}
function socketAddress({ host, port }: Address): SocketAddress {
  const ip = ipAddress(host);
  return ip.tag === 'ipv4'
    ? { tag: 'ipv4', val: { port, address: ip.val } }
    : { tag: 'ipv6', val: { port, flowInfo: 0, address: ip.val, scopeId: 0 } };
}

const isAny = (a: SocketAddress): boolean => a.val.address.every((part) => part === 0);
/** IPv4 written as IPv6: WASI's sockets are of one family only. */
const isMapped = (a: SocketAddress): boolean =>
  a.tag === 'ipv6' && a.val.address.slice(0, 5).every((x) => x === 0) && a.val.address[5] === 0xffff;
function checkFamily(family: Family, a: SocketAddress): void {
  if (a.tag !== family || isMapped(a)) throws('invalid-argument');
}
const anyAddress = (family: Family): Address => ({
  host: family === 'ipv4' ? '0.0.0.0' : '::',
  port: 0,
  v6: family === 'ipv6',
});

class NetworkResource {}

/** Options that are kept and answered; Node leaves what the kernel has for them. */
interface Options {
  keepAlive: boolean;
  idleTime: bigint;
  interval: bigint;
  count: number;
  hopLimit: number;
  receiveBuffer: bigint;
  sendBuffer: bigint;
  backlog: number;
}
const OPTIONS: Options = {
  keepAlive: false,
  idleTime: 7_200_000_000_000n,
  interval: 75_000_000_000n,
  count: 9,
  hopLimit: 64,
  receiveBuffer: 262_144n,
  sendBuffer: 262_144n,
  backlog: 128,
};
const positive = <T extends bigint | number>(value: T): T => (value > 0 ? value : throws('invalid-argument'));

type TcpState =
  | 'unbound'
  | 'binding'
  | 'bound'
  | 'connecting'
  | 'connected'
  | 'listen-started'
  | 'listening'
  | 'closed';

class TcpSocket {
  #state: TcpState = 'unbound';
  #options: Options = { ...OPTIONS };
  constructor(
    private readonly network: Network,
    private readonly family: Family,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
  }
  static accepted(network: Network, family: Family, channel: Channel, options: Options): TcpSocket {
    const socket = new TcpSocket(network, family, channel);
    socket.#state = 'connected';
    socket.#options = { ...options };
    return socket;
  }

  #expect(...states: TcpState[]): void {
    if (!states.includes(this.#state))
      throws(
        this.#state.endsWith('ing') || this.#state === 'listen-started'
          ? 'concurrency-conflict'
          : 'invalid-state',
      );
  }
  /** Ends an operation that was begun in `state`: not yet, failed, or done. */
  #finish(state: TcpState, done: () => boolean): void {
    if (this.#state !== state) throws('not-in-progress');
    this.network.pump();
    if (this.channel.error) {
      this.#state = state === 'binding' ? 'unbound' : 'closed';
      const code = errorOf(this.channel);
      // Binding may be tried again, at another address.
      if (state === 'binding') this.channel.error = undefined;
      throws(code);
    }
    if (!done()) throws('would-block');
  }

  startBind(_network: NetworkResource, at: SocketAddress): void {
    if (this.#state !== 'unbound') throws('invalid-state');
    checkFamily(this.family, at);
    this.#state = 'binding';
    this.channel.send({ do: 'bind', at: addressOf(at) });
  }
  finishBind(): void {
    this.#finish('binding', () => this.channel.local !== undefined);
    this.#state = 'bound';
  }
  startConnect(_network: NetworkResource, to: SocketAddress): void {
    if (this.#state !== 'unbound' && this.#state !== 'bound') throws('invalid-state');
    checkFamily(this.family, to);
    if (isAny(to) || to.val.port === 0) throws('invalid-argument');
    const from = this.channel.local;
    this.#state = 'connecting';
    this.channel.send({ do: 'connect', to: addressOf(to), ...(from ? { from } : {}) });
  }
  finishConnect(): [InputStream, OutputStream] {
    this.#finish('connecting', () => this.channel.remote !== undefined);
    this.#state = 'connected';
    if (this.#options.keepAlive) this.#keepAlive();
    return streams(this.channel);
  }
  startListen(): void {
    this.#expect('bound');
    this.#state = 'listen-started';
    this.channel.send({ do: 'listen', backlog: this.#options.backlog });
  }
  finishListen(): void {
    this.#finish('listen-started', () => true);
    this.#state = 'listening';
  }
  accept(): [TcpSocket, InputStream, OutputStream] {
    if (this.#state !== 'listening') throws('invalid-state');
    this.network.pump();
    const child = this.channel.accepted.shift();
    if (!child) return throws(this.channel.error ? errorOf(this.channel) : 'would-block');
    this.channel.send({ do: 'accepted' });
    const socket = TcpSocket.accepted(this.network, this.family, child, this.#options);
    return [socket, ...streams(child)];
  }

  localAddress(): SocketAddress {
    const { local } = this.channel;
    return local && this.#state !== 'binding' ? socketAddress(local) : throws('invalid-state');
  }
  remoteAddress(): SocketAddress {
    const { remote } = this.channel;
    return remote && this.#state === 'connected' ? socketAddress(remote) : throws('invalid-state');
  }
  isListening(): boolean {
    return this.#state === 'listening';
  }
  addressFamily(): Family {
    return this.family;
  }
  setListenBacklogSize(value: bigint): void {
    positive(value);
    if (this.#state === 'connected' || this.#state === 'connecting') throws('invalid-state');
    this.#options.backlog = Number(value > 4096n ? 4096n : value);
    if (this.#state === 'listening') this.channel.send({ do: 'listen', backlog: this.#options.backlog });
  }
  #keepAlive(): void {
    const { keepAlive, idleTime } = this.#options;
    this.channel.send({ do: 'keepalive', on: keepAlive, idleMs: Math.ceil(Number(idleTime) / 1e6) });
  }
  keepAliveEnabled(): boolean {
    return this.#options.keepAlive;
  }
  setKeepAliveEnabled(value: boolean): void {
    this.#options.keepAlive = value;
    if (this.#state === 'connected') this.#keepAlive();
  }
  keepAliveIdleTime(): bigint {
    return this.#options.idleTime;
  }
  setKeepAliveIdleTime(value: bigint): void {
    this.#options.idleTime = positive(value);
    if (this.#state === 'connected' && this.#options.keepAlive) this.#keepAlive();
  }
  keepAliveInterval(): bigint {
    return this.#options.interval;
  }
  setKeepAliveInterval(value: bigint): void {
    this.#options.interval = positive(value);
  }
  keepAliveCount(): number {
    return this.#options.count;
  }
  setKeepAliveCount(value: number): void {
    this.#options.count = positive(value);
  }
  hopLimit(): number {
    return this.#options.hopLimit;
  }
  setHopLimit(value: number): void {
    this.#options.hopLimit = positive(value);
  }
  receiveBufferSize(): bigint {
    return this.#options.receiveBuffer;
  }
  setReceiveBufferSize(value: bigint): void {
    this.#options.receiveBuffer = positive(value);
  }
  sendBufferSize(): bigint {
    return this.#options.sendBuffer;
  }
  setSendBufferSize(value: bigint): void {
    this.#options.sendBuffer = positive(value);
  }
  subscribe(): Pollable {
    const { channel } = this;
    return when(() => {
      if (channel.error) return true;
      if (this.#state === 'binding') return channel.local !== undefined;
      if (this.#state === 'connecting') return channel.remote !== undefined;
      if (this.#state === 'listening') return channel.accepted.length > 0;
      return true;
    });
  }
  shutdown(how: 'receive' | 'send' | 'both'): void {
    if (this.#state !== 'connected') throws('invalid-state');
    if (how !== 'send') this.channel.shutReceive();
    if (how !== 'receive') this.channel.end();
  }
}

const streams = (channel: Channel): [InputStream, OutputStream] => [
  channel.keptBy(new InputStream(channel)),
  channel.keptBy(new OutputStream(channel)),
];

/** At most so many in one call. */
const MAX_DATAGRAMS = 64;
const MAX_DATAGRAM = 65_507;

class IncomingDatagramStream {
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
    private readonly from: Address | undefined,
  ) {}
  receive(max: bigint): { data: Uint8Array; remoteAddress: SocketAddress }[] {
    this.network.pump();
    const { channel, from } = this;
    const limit = Number(max > BigInt(MAX_DATAGRAMS) ? MAX_DATAGRAMS : max);
    const got: { data: Uint8Array; remoteAddress: SocketAddress }[] = [];
    while (got.length < limit && channel.datagrams.length > 0) {
      const { bytes, from: sender } = channel.datagrams.shift()!;
      channel.send({ do: 'credit', count: bytes.length + 1 });
      if (from && (sender.host !== from.host || sender.port !== from.port)) continue;
      got.push({ data: bytes, remoteAddress: socketAddress(sender) });
    }
    return got;
  }
  subscribe(): Pollable {
    return when(() => this.channel.datagrams.length > 0 || this.channel.error !== undefined);
  }
}

class OutgoingDatagramStream {
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
    private readonly family: Family,
    private readonly to: Address | undefined,
  ) {}
  checkSend(): bigint {
    this.network.pump();
    return BigInt(this.#room());
  }
  #room(): number {
    // An error is told once, by the send that follows it.
    if (this.channel.error) return MAX_DATAGRAMS;
    return Math.min(MAX_DATAGRAMS, Math.floor(this.channel.room() / (MAX_DATAGRAM + 1)));
  }
  send(datagrams: { data: Uint8Array; remoteAddress?: SocketAddress }[]): bigint {
    if (datagrams.length > this.#room())
      throw new WebAssembly.RuntimeError('send of more datagrams than check-send permitted');
    let sent = 0n;
    for (const { data, remoteAddress } of datagrams) {
      try {
        this.#send(data, remoteAddress);
      } catch (e) {
        if (sent > 0n) return sent;
        throw e;
      }
      sent++;
    }
    return sent;
  }
  #send(data: Uint8Array, remoteAddress: SocketAddress | undefined): void {
    const { channel } = this;
    if (channel.error) {
      const code = errorOf(channel);
      channel.error = undefined;
      throws(code);
    }
    if (remoteAddress) {
      checkFamily(this.family, remoteAddress);
      if (isAny(remoteAddress) || remoteAddress.val.port === 0) throws('invalid-argument');
    }
    const given = remoteAddress && addressOf(remoteAddress);
    if (given && this.to && (given.host !== this.to.host || given.port !== this.to.port))
      throws('invalid-argument');
    const to = given ?? this.to ?? throws('invalid-argument');
    if (data.length > MAX_DATAGRAM) throws('datagram-too-large');
    channel.datagram(data, to);
  }
  subscribe(): Pollable {
    return when(() => this.#room() > 0);
  }
}

class UdpSocket {
  #state: 'unbound' | 'binding' | 'bound' = 'unbound';
  #options: Options = { ...OPTIONS };
  #to: SocketAddress | undefined;
  constructor(
    private readonly network: Network,
    private readonly family: Family,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
  }
  startBind(_network: NetworkResource, at: SocketAddress): void {
    if (this.#state !== 'unbound') throws('invalid-state');
    checkFamily(this.family, at);
    this.#state = 'binding';
    this.channel.send({ do: 'udp', at: addressOf(at) });
  }
  finishBind(): void {
    if (this.#state !== 'binding') throws('not-in-progress');
    this.network.pump();
    if (this.channel.error) {
      const code = errorOf(this.channel);
      this.channel.error = undefined;
      this.#state = 'unbound';
      throws(code);
    }
    if (!this.channel.local) throws('would-block');
    this.#state = 'bound';
  }
  stream(to: SocketAddress | undefined): [IncomingDatagramStream, OutgoingDatagramStream] {
    if (this.#state === 'binding') throws('concurrency-conflict');
    if (to) {
      checkFamily(this.family, to);
      if (isAny(to) || to.val.port === 0) throws('invalid-argument');
    }
    if (this.#state === 'unbound') {
      this.channel.send({ do: 'udp', at: anyAddress(this.family) });
      this.#state = 'bound';
    }
    this.#to = to;
    const { network, channel, family } = this;
    const remote = to && addressOf(socketAddress(addressOf(to)));
    return [
      channel.keptBy(new IncomingDatagramStream(network, channel, remote)),
      channel.keptBy(new OutgoingDatagramStream(network, channel, family, remote)),
    ];
  }
  localAddress(): SocketAddress {
    this.network.pump();
    const { local } = this.channel;
    return local && this.#state === 'bound' ? socketAddress(local) : throws('invalid-state');
  }
  remoteAddress(): SocketAddress {
    return this.#to ?? throws('invalid-state');
  }
  addressFamily(): Family {
    return this.family;
  }
  unicastHopLimit(): number {
    return this.#options.hopLimit;
  }
  setUnicastHopLimit(value: number): void {
    this.#options.hopLimit = positive(value);
  }
  receiveBufferSize(): bigint {
    return this.#options.receiveBuffer;
  }
  setReceiveBufferSize(value: bigint): void {
    this.#options.receiveBuffer = positive(value);
  }
  sendBufferSize(): bigint {
    return this.#options.sendBuffer;
  }
  setSendBufferSize(value: bigint): void {
    this.#options.sendBuffer = positive(value);
  }
  subscribe(): Pollable {
    const { channel } = this;
    return when(
      () => channel.error !== undefined || this.#state !== 'binding' || channel.local !== undefined,
    );
  }
}

class ResolveAddressStream {
  #next = 0;
  constructor(
    private readonly network: Network,
    private readonly channel: Channel,
  ) {
    channel.keptBy(this);
  }
  resolveNextAddress(): IpAddress | undefined {
    this.network.pump();
    if (this.channel.error) throws(errorOf(this.channel));
    const { addresses } = this.channel;
    if (!addresses) return throws('would-block');
    const next = addresses[this.#next++];
    return next && ipAddress(next.host);
  }
  subscribe(): Pollable {
    return when(() => this.channel.error !== undefined || this.channel.addresses !== undefined);
  }
}

/** The imports of wasi:sockets. */
export function socketsImports(network: Network | undefined): Record<string, Record<string, unknown>> {
  const granted = (): Network => network ?? throws('access-denied');
  return {
    'wasi:sockets/network': { Network: NetworkResource, networkErrorCode: () => undefined },
    'wasi:sockets/instance-network': { instanceNetwork: () => new NetworkResource() },
    'wasi:sockets/tcp': { TcpSocket },
    'wasi:sockets/tcp-create-socket': {
      createTcpSocket: (family: Family) => new TcpSocket(granted(), family, granted().open()),
    },
    'wasi:sockets/udp': { UdpSocket, IncomingDatagramStream, OutgoingDatagramStream },
    'wasi:sockets/udp-create-socket': {
      createUdpSocket: (family: Family) => new UdpSocket(granted(), family, granted().open()),
    },
    'wasi:sockets/ip-name-lookup': {
      ResolveAddressStream,
      resolveAddresses: (_network: NetworkResource, name: string) => {
        const channel = granted().open();
        if (name === '' || name.length > 253) throws('invalid-argument');
        channel.send({ do: 'resolve', name });
        return new ResolveAddressStream(granted(), channel);
      },
    },
  };
}
