/**
 * Version 2 of the wire, written a second time from docs/wire.md and never changed: an agent and a hub as they were
 * when version 2 was released, for tests that today's code still understands them and answers. It imports nothing of
 * the project; the dictionary is handed in from the recorded frames (golden-wire.json). `Peculiar` makes them newer:
 * other versions, further fields, types and kinds of items, of which a peer of version 2 knows nothing.
 */
import {
  createCipheriv,
  createDecipheriv,
  createECDH,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  ECDH,
  hkdfSync,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';

type Json = Record<string, any>;

/** Deterministic test keys; worth nothing. */
export function p256(name: string): { privateKey: KeyObject; publicKey: KeyObject; point: string } {
  const ecdh = createECDH('prime256v1');
  ecdh.setPrivateKey(createHash('sha256').update(name).digest());
  const raw = ecdh.getPublicKey();
  const jwk = {
    kty: 'EC',
    crv: 'P-256',
    x: raw.subarray(1, 33).toString('base64url'),
    y: raw.subarray(33).toString('base64url'),
    d: ecdh.getPrivateKey().toString('base64url'),
  };
  const privateKey = createPrivateKey({ key: jwk, format: 'jwk' });
  const point = Buffer.from(ecdh.getPublicKey(null, 'compressed')).toString('base64url');
  return { privateKey, publicKey: createPublicKey(privateKey), point };
}

export function ed25519(name: string): KeyObject {
  const seed = createHash('sha256').update(name).digest();
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]);
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
}

const publicOf = (point: string): KeyObject => {
  const raw = ECDH.convertKey(
    Buffer.from(point, 'base64url'),
    'prime256v1',
    undefined,
    undefined,
    'uncompressed',
  ) as Buffer;
  const [x, y] = [raw.subarray(1, 33), raw.subarray(33)].map((b) => b.toString('base64url')) as [
    string,
    string,
  ];
  return createPublicKey({ key: { kty: 'EC', crv: 'P-256', x, y }, format: 'jwk' });
};

export const keyName = (key: KeyObject): string =>
  createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest()
    .subarray(0, 12)
    .toString('base64url');

export interface Agreed {
  node: string;
  key: KeyObject;
  nonce: string;
  hub: string;
  agent: string;
}

/** ECDH of the node's key and of the agent's ephemeral one with the hub's ephemeral one. */
export function linkSecret(pairs: [KeyObject, KeyObject][], a: Agreed): Buffer {
  const shared = pairs.map(([privateKey, publicKey]) => diffieHellman({ privateKey, publicKey }));
  const info = ['coxswain/2 link', a.node, keyName(a.key), a.hub, a.agent].join('\0');
  return Buffer.from(hkdfSync('sha256', Buffer.concat(shared), a.nonce, info, 32));
}

export const channelKey = (secret: Buffer, session: string, channel: string, version = 2): Buffer =>
  Buffer.from(hkdfSync('sha256', secret, session, `coxswain/${version} ${channel}`, 32));

export const proofOf = (secret: Buffer, node: string, hello: Json): string =>
  createHmac('sha256', secret)
    .update(`hello\0${node}\0${JSON.stringify(hello)}`)
    .digest()
    .subarray(0, 16)
    .toString('base64url');

export function setDigest(items: Iterable<[string, string]>): string {
  const h = createHash('sha256');
  for (const [key, hash] of [...items].sort((a, b) => (a[0] < b[0] ? -1 : 1))) h.update(`${key}\0${hash}\n`);
  return h.digest().subarray(0, 12).toString('base64url');
}

export type Protection =
  | { how: 'plain' }
  | { how: 'signed'; key: KeyObject; context: string; counter: number }
  | { how: 'sealed'; key: Buffer; counter: number };

export const contextOf = (node: string, session: string): string => `coxswain/2\0${node}\0d\0${session}\0`;

/** One frame, never a fragment. */
export function pack(dictionary: Buffer, type: number, body: unknown, p: Protection, version = 2): Buffer {
  const plain =
    body instanceof Uint8Array
      ? Buffer.from(body)
      : Buffer.from(body === undefined ? '' : JSON.stringify(body));
  const small = plain.length < 64 ? plain : deflateRawSync(plain, { dictionary });
  const deflated = small.length < plain.length;
  const flags = (deflated ? 1 : 0) | (p.how === 'sealed' ? 2 : 0) | (body instanceof Uint8Array ? 0x10 : 0);
  const head = Buffer.alloc(p.how === 'plain' ? 3 : 7);
  head.set([version, flags, type]);
  const content = deflated ? small : plain;
  if (p.how === 'plain') return Buffer.concat([head, content]);
  head.writeUInt32BE(p.counter, 3);
  if (p.how === 'signed') {
    const frame = Buffer.concat([head, content]);
    return Buffer.concat([frame, sign(null, Buffer.concat([Buffer.from(p.context), frame]), p.key)]);
  }
  const cipher = createCipheriv('chacha20-poly1305', p.key, nonce(p.counter), { authTagLength: 16 });
  cipher.setAAD(head, { plaintextLength: content.length });
  return Buffer.concat([head, cipher.update(content), cipher.final(), cipher.getAuthTag()]);
}

function nonce(counter: number): Buffer {
  const n = Buffer.alloc(12);
  n.writeUInt32BE(counter, 8);
  return n;
}

export function unpack(dictionary: Buffer, f: Buffer, p: Protection): { type: number; body: any } {
  const flags = f[1]!;
  let content = f.subarray(3);
  if (p.how === 'signed') {
    const signed = Buffer.concat([Buffer.from(p.context), f.subarray(0, -64)]);
    if (!verify(null, signed, p.key, f.subarray(-64))) throw new Error('bad signature');
    content = f.subarray(7, -64);
  } else if (p.how === 'sealed') {
    const d = createDecipheriv('chacha20-poly1305', p.key, nonce(f.readUInt32BE(3)), { authTagLength: 16 });
    d.setAAD(f.subarray(0, 7), { plaintextLength: f.length - 23 });
    d.setAuthTag(f.subarray(-16));
    content = Buffer.concat([d.update(f.subarray(7, -16)), d.final()]);
  }
  if (flags & 1) content = inflateRawSync(content, { dictionary });
  if (flags & 0x10) return { type: f[2]!, body: content };
  return { type: f[2]!, body: content.length ? JSON.parse(content.toString()) : undefined };
}

/** What a newer side says besides. */
export interface Peculiar {
  versions?: [number, number];
  /** Of the version that is agreed on, when it is not 2. */
  dictionaries?: Record<number, Buffer>;
  /** Further fields of every message. */
  fields?: Json;
  /** A message of a type that version 2 has not, before every other. */
  type?: number;
}

abstract class Side {
  protected session = '';
  protected secret: Buffer | undefined;
  protected version = 2;
  readonly #counters = new Map<string, number>();

  constructor(
    protected readonly dictionary: Buffer,
    protected readonly node: string,
    protected readonly peculiar: Peculiar,
    private readonly publish: (channel: string, payload: Buffer) => void,
  ) {}

  protected begin(session: string, secret: Buffer | undefined, version: number): void {
    this.#counters.clear();
    Object.assign(this, { session, secret, version });
  }

  protected with(body: Json): Json {
    return { ...body, ...this.peculiar.fields };
  }

  protected say(channel: string, type: number, body: unknown, p: Protection = { how: 'plain' }): void {
    this.publish(channel, pack(this.dictionary, type, body, p));
  }

  #words(): Buffer {
    return this.peculiar.dictionaries?.[this.version] ?? this.dictionary;
  }

  protected seal(channel: string, type: number, body: unknown): void {
    const key = channelKey(this.secret!, this.session, channel, this.version);
    const send = (t: number, b: unknown) => {
      const counter = (this.#counters.get(channel) ?? 0) + 1;
      this.#counters.set(channel, counter);
      this.publish(channel, pack(this.#words(), t, b, { how: 'sealed', key, counter }, this.version));
    };
    if (this.peculiar.type) send(this.peculiar.type, { what: 'nobody knows' });
    send(type, body);
  }

  protected open(channel: string, f: Buffer): { type: number; body: any } {
    const key = channelKey(this.secret!, this.session, channel, this.version);
    return unpack(this.#words(), f, { how: 'sealed', key, counter: 0 });
  }
}

/** An agent: runs at once whatever it is told to. */
export class FrozenAgent extends Side {
  readonly heard: { type: number; body: any }[] = [];
  readonly items = new Map<string, { hash: string; object: any }>();
  readonly refused: string[] = [];
  #n = 0;
  #agreed: { nonce: string; secret: Buffer } | undefined;
  #seq = 0;

  constructor(
    o: {
      dictionary: Buffer;
      node: string;
      peculiar?: Peculiar;
      publish: (channel: string, payload: Buffer) => void;
    },
    private readonly keys: { node: KeyObject; nodePublic: KeyObject; cert?: string; hub: KeyObject },
    private readonly epoch: string,
    private readonly report: Json,
  ) {
    super(o.dictionary, o.node, o.peculiar ?? {}, o.publish);
  }

  /** Whatever a stolen device may say. */
  sendReport(body: object): void {
    this.seal('u', 5, body);
  }

  hello(): void {
    const s = `session-${this.epoch}-${++this.#n}`;
    this.begin(s, this.#agreed?.secret, 2);
    const { versions } = this.peculiar;
    const h: Json = this.with({
      s,
      w: 'connection',
      g: 0,
      d: setDigest([...this.items].map(([k, v]) => [k, v.hash])),
      k: keyName(this.keys.nodePublic),
      e: this.epoch,
      ...(versions ? { v: versions } : {}),
      ...(this.keys.cert ? { c: this.keys.cert } : {}),
    });
    const a = this.#agreed;
    if (a) {
      Object.assign(h, { h: a.nonce, n: this.#n, x: p256(this.epoch).point });
      h['p'] = proofOf(a.secret, this.node, h);
    }
    this.say('u', 1, h);
  }

  receive(channel: string, f: Buffer): void {
    const signed = [16, 17, 20, 22].includes(f[2]!);
    const session = f[2] === 16 ? '' : this.session;
    const m = signed
      ? unpack(this.dictionary, f, {
          how: 'signed',
          key: this.keys.hub,
          context: contextOf(this.node, session),
          counter: 0,
        })
      : this.open(channel, f);
    this.heard.push(m);
    const { body } = m;
    if (m.type === 16) this.hello();
    else if (m.type === 20) this.refused.push(body.m);
    else if (m.type === 22) {
      const own = p256(this.epoch);
      const hub = publicOf(body.k);
      const a = { node: this.node, key: this.keys.nodePublic, nonce: body.h, hub: body.k, agent: own.point };
      this.#agreed = {
        nonce: body.h,
        secret: linkSecret(
          [
            [this.keys.node, hub],
            [own.privateKey, hub],
          ],
          a,
        ),
      };
      this.hello();
    } else if (m.type === 17) {
      this.version = body.v ?? 2;
      if (body.i)
        this.seal(
          'u',
          3,
          this.with({ s: this.session, g: 0, i: [...this.items].map(([k, v]) => [k, v.hash]) }),
        );
      this.tell({ n: [++this.#seq, this.with(this.report)], ...(body.r ? { f: 1 } : {}) });
    } else if (m.type === 18) this.#delta(body);
    else if (m.type === 32) {
      const head = Buffer.alloc(9);
      head.writeUInt32BE(body.i, 0);
      head[8] = 1;
      this.seal('s/u', 33, this.with({ i: body.i }));
      this.seal('s/u', 34, Buffer.concat([head, Buffer.from(`log of ${body.r.options.pod}\n`)]));
      this.seal('s/u', 36, this.with({ i: body.i, n: 1 }));
    }
  }

  tell(report: Json): void {
    this.seal('u', 5, this.with({ e: this.epoch, q: ++this.#seq, ...report }));
  }

  #delta(d: Json): void {
    for (const [key, hash, object, patched] of d['u'] ?? []) {
      const before = this.items.get(key)?.object;
      this.items.set(key, { hash, object: patched ? merge(before, object) : object });
    }
    for (const key of d['x'] ?? []) this.items.delete(key);
    const digest = setDigest([...this.items].map(([k, v]) => [k, v.hash]));
    if (digest !== d['d']) throw new Error('the delta does not lead where it says');
    this.seal('u', 4, this.with({ s: this.session, g: d['g'], d: digest }));
    const told = [...this.items]
      .filter(([k]) => k.startsWith('p/'))
      .map(([, { object }]) => {
        const { namespace, name, uid, deletionTimestamp } = object.metadata;
        const status = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] };
        return [
          ++this.#seq,
          this.with({ namespace, name, uid, status, ...(deletionTimestamp ? { gone: true } : {}) }),
        ];
      });
    if (told.length) this.tell({ p: told });
  }
}

function merge(into: any, patch: any): any {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch;
  const out = { ...into };
  for (const [k, v] of Object.entries(patch)) {
    if (v === null) delete out[k];
    else out[k] = merge(out[k], v);
  }
  return out;
}

/** A hub that wants one set. */
export class FrozenHub extends Side {
  readonly heard: { type: number; body: any }[] = [];
  readonly acked: number[] = [];
  applied = '';
  /** Whether the last hello held what is wanted. */
  matched = false;
  generation = 1;
  #hello: Json = {};

  constructor(
    o: {
      dictionary: Buffer;
      node: string;
      peculiar?: Peculiar;
      publish: (channel: string, payload: Buffer) => void;
    },
    private readonly keys: { nodePublic: KeyObject; signing: KeyObject },
    private readonly name: string,
    private readonly time: number,
    public want: Map<string, { hash: string; object: any }>,
  ) {
    super(o.dictionary, o.node, o.peculiar ?? {}, o.publish);
  }

  #signed(type: number, body: unknown, session: string): void {
    const p: Protection = {
      how: 'signed',
      key: this.keys.signing,
      context: contextOf(this.node, session),
      counter: 1,
    };
    this.say('d', type, body, p);
  }

  query(): void {
    this.#signed(16, undefined, '');
  }

  receive(channel: string, f: Buffer): void {
    const m = f[2] === 1 || f[2] === 2 ? unpack(this.dictionary, f, { how: 'plain' }) : this.open(channel, f);
    this.heard.push(m);
    if (m.type === 1) this.#greet(m.body);
    else if (m.type === 4) this.applied = m.body.d;
    else if (m.type === 3) this.#delta(new Map(m.body.i));
    else if (m.type === 5) {
      this.acked.push(m.body.q);
      this.seal('d', 19, this.with({ q: m.body.q }));
    }
  }

  #greet(h: Json): void {
    const own = p256(this.name);
    const nonce = `nonce of ${this.name}`;
    if (h['h'] !== nonce) {
      this.#signed(22, this.with({ h: nonce, k: own.point }), h['s']);
      return;
    }
    const agent = publicOf(h['x'] ?? this.#hello['x']);
    const parties = {
      node: this.node,
      key: this.keys.nodePublic,
      nonce,
      hub: own.point,
      agent: h['x'] ?? this.#hello['x'],
    };
    const secret = linkSecret(
      [
        [own.privateKey, this.keys.nodePublic],
        [own.privateKey, agent],
      ],
      parties,
    );
    const { p, ...rest } = h;
    if (proofOf(secret, this.node, rest) !== p) throw new Error('wrong proof');
    this.#hello = { ...this.#hello, ...h };
    const theirs = h['v']?.[1] ?? 2;
    const version = Math.min(theirs, this.peculiar.versions?.[1] ?? 2);
    this.begin(h['s'], secret, version);
    const digest = setDigest([...this.want].map(([k, v]) => [k, v.hash]));
    this.matched = h['d'] === digest;
    const empty = h['d'] === setDigest([]);
    this.#signed(
      17,
      this.with({
        g: this.generation,
        t: this.time,
        r: 1,
        ...(version === 2 ? {} : { v: version }),
        ...(this.matched ? { m: 1 } : empty ? {} : { i: 1 }),
      }),
      h['s'],
    );
    if (!this.matched && empty) this.#delta(new Map());
  }

  #delta(held: Map<string, string>): void {
    const u = [...this.want]
      .filter(([k, v]) => held.get(k) !== v.hash)
      .map(([k, v]) => [k, v.hash, v.object]);
    const x = [...held.keys()].filter((k) => !this.want.has(k));
    const d = setDigest([...this.want].map(([k, v]) => [k, v.hash]));
    this.seal('d', 18, this.with({ g: this.generation, b: setDigest(held), d, u, x }));
  }
}

/** `desired.bin` as version 2's agent wrote it. */
export function desiredFile(
  key: KeyObject,
  dictionary: Buffer,
  generation: number,
  items: [string, string, object][],
): Buffer {
  const secret = key.export({ type: 'pkcs8', format: 'der' });
  const own = Buffer.from(hkdfSync('sha256', secret, '', 'coxswain desired set at rest', 32));
  const iv = createHash('sha256').update('desired').digest().subarray(0, 12);
  const cipher = createCipheriv('aes-256-gcm', own, iv);
  const plain = deflateRawSync(Buffer.from(JSON.stringify({ g: generation, i: items })), { dictionary });
  return Buffer.concat([Buffer.from('COXD1'), iv, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

/** Everything that is said in version 2, one of each: what golden-wire.json records. */
export function record(words: string): object {
  const dictionary = Buffer.from(words);
  const node = p256('golden node');
  const hub = p256('golden hub');
  const agent = p256('golden agent');
  const signing = ed25519('golden signing');
  const a: Agreed = {
    node: 'pi1',
    key: node.publicKey,
    nonce: 'golden-nonce',
    hub: hub.point,
    agent: agent.point,
  };
  const secret = linkSecret(
    [
      [node.privateKey, hub.publicKey],
      [agent.privateKey, hub.publicKey],
    ],
    a,
  );
  const session = 'golden-session';
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'default', name: 'web', uid: 'uid-web', labels: { app: 'web' } },
    spec: { nodeName: 'pi1', containers: [{ name: 'app', image: 'registry.example.org/web:1' }] },
  };
  const conf = {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { namespace: 'default', name: 'conf' },
    data: { a: '1' },
  };
  const items: [string, string, object][] = [
    ['c/default/conf', 'hash-c', conf],
    ['p/default/web', 'hash-p', pod],
  ];
  const digest = setDigest(items.map(([k, h]) => [k, h]));
  const empty = setDigest([]);
  const first = { s: session, w: 'connection', g: 7, d: empty, k: keyName(node.publicKey), e: 'epoch' };
  const proven = { ...first, h: a.nonce, n: 1, x: agent.point };
  const status = { phase: 'Running', podIP: '10.1.1.1', conditions: [{ type: 'Ready', status: 'True' }] };
  const event = {
    involved: { kind: 'Pod', namespace: 'default', name: 'web', uid: 'uid-web' },
    type: 'Normal',
    reason: 'Started',
    message: 'Started container app',
    at: 1800000000000,
    count: 1,
  };
  const header = Buffer.from([0, 0, 0, 5, 0, 0, 0, 0, 1]);
  const said: [name: string, channel: string, how: Protection['how'], type: number, body: unknown][] = [
    ['hello', 'u', 'plain', 1, first],
    ['hello with proof', 'u', 'plain', 1, { ...proven, p: proofOf(secret, 'pi1', proven) }],
    ['bye', 'u', 'plain', 2, { w: 'connection' }],
    ['query', 'd', 'signed', 16, undefined],
    ['challenge', 'd', 'signed', 22, { h: a.nonce, k: hub.point, c: 1 }],
    ['welcome', 'd', 'signed', 17, { g: 9, t: 1800000000000, r: 1, a: '192.168.1.2:6443' }],
    ['refused', 'd', 'signed', 20, { m: 'the name "pi1" belongs to a node with another key', r: 2 }],
    ['inventory', 'u', 'sealed', 3, { s: session, g: 7, i: items.map(([k, h]) => [k, h]) }],
    ['applied', 'u', 'sealed', 4, { s: session, g: 9, d: digest }],
    [
      'report',
      'u',
      'sealed',
      5,
      {
        e: 'epoch',
        q: 1,
        p: [[1, { namespace: 'default', name: 'web', uid: 'uid-web', status }]],
        v: [[2, event]],
        f: 1,
      },
    ],
    ['renew', 'u', 'sealed', 6, { s: session }],
    ['delta', 'd', 'sealed', 18, { g: 9, b: empty, d: digest, u: items.map(([k, h, o]) => [k, h, o]) }],
    [
      'delta with a patch and a removal',
      'd',
      'sealed',
      18,
      {
        g: 10,
        b: digest,
        d: setDigest([['c/default/conf', 'hash-d']]),
        u: [['c/default/conf', 'hash-d', { data: { a: '2' } }, 1]],
        x: ['p/default/web'],
      },
    ],
    ['ack', 'd', 'sealed', 19, { q: 1 }],
    ['certificate', 'd', 'sealed', 21, { c: '-----BEGIN CERTIFICATE-----\n' }],
    [
      'open',
      's/d',
      'sealed',
      32,
      {
        i: 5,
        w: 65536,
        r: { kind: 'logs', options: { namespace: 'default', pod: 'web', uid: 'uid-web', container: 'app' } },
      },
    ],
    ['opened', 's/u', 'sealed', 33, { i: 5 }],
    ['data', 's/u', 'sealed', 34, Buffer.concat([header, Buffer.from('a line\n')])],
    ['data, deflated', 's/u', 'sealed', 34, Buffer.concat([header, Buffer.from('a line\n'.repeat(40))])],
    ['credit', 's/d', 'sealed', 35, { i: 5, w: 8192 }],
    ['end', 's/u', 'sealed', 36, { i: 5, n: 2 }],
    ['error', 's/u', 'sealed', 37, { i: 5, r: 'NotFound', m: 'no such container' }],
    ['cancel', 's/d', 'sealed', 38, { i: 5 }],
    ['joinHello', 'join', 'plain', 48, { id: 'abcdef', name: 'pi1', key: 'SPKI', nonce: 'nonce' }],
    ['joinChallenge', 'join', 'plain', 49, { nonce: 'nonce' }],
    ['joinProof', 'join', 'plain', 50, { mac: 'mac', sig: 'sig' }],
    [
      'joinGrant',
      'join',
      'plain',
      51,
      {
        cert: 'PEM',
        ca: 'PEM',
        signingKey: 'key',
        addresses: ['h:1'],
        joinOnly: false,
        time: 1800000000000,
        mac: 'mac',
      },
    ],
    ['joinRefused', 'join', 'plain', 52, { reason: 'expired', message: 'the token has expired' }],
    ['renewHello', 'join', 'plain', 53, { c: 'DER', nonce: 'nonce' }],
    ['renewChallenge', 'join', 'signed', 54, { nonce: 'nonce' }],
    ['renewProof', 'join', 'plain', 55, { sig: 'sig' }],
  ];
  const frames = said.map(([name, channel, how, type, body]) => {
    const of = name === 'query' ? '' : session;
    const p: Protection =
      how === 'sealed'
        ? { how, key: channelKey(secret, session, channel), counter: 1 }
        : how === 'signed'
          ? { how, key: signing, context: contextOf('pi1', of), counter: 1 }
          : { how };
    const told = body instanceof Uint8Array ? { raw: Buffer.from(body).toString('base64') } : { body };
    return { name, channel, how, type, ...told, frame: pack(dictionary, type, body, p).toString('base64') };
  });
  return {
    dictionary: words,
    secret: secret.toString('base64'),
    keyName: keyName(node.publicKey),
    items,
    digest,
    empty,
    desiredFile: desiredFile(node.privateKey, dictionary, 9, items).toString('base64'),
    frames,
  };
}
