/**
 * Keys that are locked out, whatever certificates there are for them: ConfigMap `kube-system/coxswain-revoked`, one
 * entry for each, so that `kubectl` shows them and a restart or a backup keeps them. Level-triggered: an entry counts
 * from the moment on that it is there, however it came, and until it is taken away.
 */
import { createPublicKey, type KeyObject, type X509Certificate } from 'node:crypto';
import type { ConfigMap, Node } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339 } from '../../api/clock.js';
import { configMaps, nodes } from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import { keyId } from '../../api/wire/codec.js';
import { NODE_CN_PREFIX } from '../../api/wire/topics.js';
import type { Client, Frozen } from '../client.js';
import type { Informer, Informers } from '../informer.js';
import { commonName, type IssuedCertificates } from '../pki/issued.js';
import { CA_CN } from '../pki/pki.js';
import { WorkQueue } from '../queue.js';
import { KEY_ANNOTATION } from './nodes.js';
import { LINK_CONFIG } from './token.js';

export const REVOKED = { namespace: 'kube-system', name: 'coxswain-revoked' } as const;
/** On a Node, `lock` or `wipe`: its key is revoked at once. */
export const REVOKE_ANNOTATION = 'coxswain.dev/revoke';
/** In ConfigMap `kube-system/coxswain-link`: `revoke` makes `kubectl delete node` a revocation, too. */
export const DELETED_NODES = 'deletedNodes';
/** Keeps a deleted Node until its key is on the list, under that policy. */
export const REVOKE_FINALIZER = 'coxswain.dev/revoke';

export interface Revoked {
  /** For people. */
  node?: string;
  at?: string;
  /** The device is told to destroy what it has. */
  wipe?: boolean;
}

export interface RevocationsOptions {
  client: Client;
  informers: Informers;
  issued: IssuedCertificates;
  clock: Clock;
  log: Log;
}

const pathOf = (o: { namespace: string; name: string }) => `${o.namespace}/${o.name}`;

/** Reading a key costs as much as a signature: once for each version of a Node. */
const PINNED = new WeakMap<Frozen<Node>, KeyObject>();

/** The key that a Node pins; undefined when there is none that can be read. */
export function pinnedKey(node: Frozen<Node> | undefined): KeyObject | undefined {
  const spki = node?.metadata?.annotations?.[KEY_ANNOTATION];
  if (!node || !spki) return undefined;
  const known = PINNED.get(node);
  if (known) return known;
  try {
    const key = createPublicKey({ key: Buffer.from(spki, 'base64'), format: 'der', type: 'spki' });
    PINNED.set(node, key);
    return key;
  } catch {
    return undefined;
  }
}

export class Revocations {
  readonly #o: RevocationsOptions;
  readonly #configs: Informer<ConfigMap>;
  readonly #nodes: Informer<Node>;
  readonly #queue: WorkQueue;
  readonly #listeners: (() => void)[] = [];
  #list: ReadonlyMap<string, Revoked> = new Map();

  constructor(options: RevocationsOptions) {
    this.#o = options;
    const { informers, clock, log } = options;
    this.#queue = new WorkQueue('revocations', (name) => this.#reconcile(name), clock, log);
    this.#configs = informers.of<ConfigMap>(configMaps).onChange((key, now) => {
      if (key === pathOf(REVOKED)) this.#read(now);
      if (key === pathOf(LINK_CONFIG))
        for (const n of this.#nodes.values()) this.#queue.add(n.metadata!.name!);
    });
    this.#nodes = informers.of<Node>(nodes).onChange((name) => this.#queue.add(name));
  }

  /** Resolves when the list is known. */
  async start(): Promise<void> {
    await Promise.all([this.#configs.start(), this.#nodes.start()]);
    this.#queue.start();
  }

  async stop(): Promise<void> {
    await this.#queue.stop();
  }

  /** Called after every change of the list. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** `keyId` of every key on the list. */
  keys(): Iterable<string> {
    return this.#list.keys();
  }

  of(key: string): Revoked | undefined {
    return this.#list.get(key);
  }

  /** Whether the device of that node is: by the key that its Node names, or by the list when the Node is gone. */
  lockedOut(node: string): boolean {
    if (this.#list.size === 0) return false;
    const key = pinnedKey(this.#nodes.get(node));
    return key ? this.#list.has(keyId(key)) : [...this.#list.values()].some((r) => r.node === node);
  }

  /** Why nobody with that key and name gets in any more; undefined when they do. */
  refusal(cn: string, key: string): string | undefined {
    const r = this.#list.get(key);
    if (r)
      return `the key of this device was revoked${r.at ? ` on ${r.at}` : ''}; only its owner can let it in again`;
    if (!cn.startsWith(NODE_CN_PREFIX)) return undefined;
    const node = cn.slice(NODE_CN_PREFIX.length);
    const holder = this.#o.issued.holder(node);
    if (holder && holder !== key)
      return `another device has joined under the name "${node}" since; join again under another with --node-name`;
    return undefined;
  }

  /** The same for a certificate: one that was requested under certificates.k8s.io names no device that joined. */
  refusalOf(cert: X509Certificate): () => string | undefined {
    const cn = (cert.issuer === `CN=${CA_CN}` && commonName(cert)) || '';
    const key = keyId(cert.publicKey);
    return () => this.refusal(cn, key);
  }

  /** Puts a key on the list. Resolves when the store has it. */
  async revoke(key: string, what: Revoked): Promise<void> {
    const { client, clock, log } = this.#o;
    const known = this.#list.get(key);
    if (known && (known.wipe || !what.wipe)) return;
    const data = { [key]: JSON.stringify({ at: rfc3339(clock.now()), ...what }) };
    try {
      await client.patch<ConfigMap>(configMaps, REVOKED, { data });
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
      await client.create<ConfigMap>(configMaps, {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { ...REVOKED },
        data,
      });
    }
    log.warn({ node: what.node, key, wipe: what.wipe === true }, 'key revoked');
  }

  #read(now: Frozen<ConfigMap> | undefined): void {
    const list = new Map<string, Revoked>();
    for (const [key, text] of Object.entries(now?.data ?? {})) {
      try {
        list.set(key, (JSON.parse(text) as Revoked | null) ?? {});
      } catch {
        // Whatever it says, it is there.
        list.set(key, {});
      }
    }
    this.#list = list;
    for (const l of this.#listeners) l();
  }

  /** Revokes what a Node asks for, and holds the finalizer to the policy. */
  async #reconcile(name: string): Promise<void> {
    const { client } = this.#o;
    const node = this.#nodes.get(name);
    if (!node) return;
    const { annotations = {}, finalizers = [], deletionTimestamp } = node.metadata ?? {};
    const key = pinnedKey(node);
    const held = finalizers.includes(REVOKE_FINALIZER);
    const how = annotations[REVOKE_ANNOTATION];
    if (key && (how || (deletionTimestamp && held)))
      await this.revoke(keyId(key), { node: name, ...(how === 'wipe' ? { wipe: true } : {}) });
    const policy = this.#configs.get(pathOf(LINK_CONFIG))?.data?.[DELETED_NODES];
    const wanted = policy === 'revoke' && !deletionTimestamp;
    if (wanted === held) return;
    const others = finalizers.filter((f) => f !== REVOKE_FINALIZER);
    // With the version that was read: other finalizers may come and go.
    const { resourceVersion, uid } = node.metadata ?? {};
    try {
      await client.patch<Node>(
        nodes,
        { name },
        {
          metadata: {
            resourceVersion,
            uid,
            finalizers: wanted ? [...others, REVOKE_FINALIZER] : others,
          },
        },
      );
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
    }
  }
}
