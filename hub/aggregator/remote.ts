/** Servers of others behind Services, as the API knows them. */

import type { ClientRequest, IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import type { Clock } from '../../api/clock.js';
import type { User } from '../auth/attributes.js';
import { type Directory, resolveService } from '../outbound/service.js';
import { inGosWords } from '../outbound/transport.js';

/** A resource as `/apis/GROUP/VERSION` lists it (meta/v1 APIResource). */
export interface APIResource {
  name: string;
  singularName?: string;
  namespaced?: boolean;
  group?: string;
  version?: string;
  kind: string;
  verbs?: string[];
  shortNames?: string[];
  categories?: string[];
}

/** A group version that another server serves. */
export interface Remote {
  readonly group: string;
  readonly version: string;
  readonly service: { readonly namespace: string; readonly name: string; readonly port: number };
  /** PEM; absent: the machine's own roots. */
  readonly ca: string | undefined;
  readonly insecure: boolean;
  readonly groupPriority: number;
  readonly versionPriority: number;
  readonly available: boolean;
  /** As of the last look that succeeded. */
  readonly resources: readonly APIResource[];
  /** Where its OpenAPI v3 document is, with the hash of its content. */
  readonly openapi: string | undefined;
}

/** Which group versions are others' now. */
export interface RemoteTable {
  /** Another array after every change. */
  readonly remotes: readonly Remote[];
}

const MAX_PER_SERVER = 256;
const MAX_CONNECTIONS = 512;
const IDLE_MS = 60_000;

/** What a header name may not have in it, as the front proxy's protocol escapes it. */
const escapeKey = (key: string): string =>
  [...Buffer.from(key)]
    .map((b) => {
      const c = String.fromCharCode(b);
      return /[A-Za-z0-9!#$&'*+.^_`|~-]/.test(c) ? c : `%${b.toString(16).toUpperCase().padStart(2, '0')}`;
    })
    .join('');

/** The headers by which a server that trusts the front proxy learns who asks (client-go SetAuthProxyHeaders). */
export function identityHeaders({ name, uid, groups, extra = {} }: User): OutgoingHttpHeaders {
  const out: OutgoingHttpHeaders = { 'x-remote-user': name, 'x-remote-group': [...groups] };
  if (uid) out['x-remote-uid'] = uid;
  for (const [key, values] of Object.entries(extra))
    out[`x-remote-extra-${escapeKey(key).toLowerCase()}`] = [...values];
  return out;
}

export interface UpstreamOptions {
  readonly directory: Directory;
  /** What proves that it is this API who asks. */
  readonly client: () => { cert: string; key: string };
  readonly clock: Clock;
}

/** One request to a remote. */
export interface Call {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly headers: OutgoingHttpHeaders;
}

/** Opens requests to remotes. */
export class Upstream {
  // Free connections do not keep the process alive.
  readonly #agent = new Agent({
    keepAlive: true,
    maxSockets: MAX_PER_SERVER,
    maxTotalSockets: MAX_CONNECTIONS,
    maxFreeSockets: 4,
    timeout: IDLE_MS,
  });

  constructor(private readonly o: UpstreamOptions) {}

  stop(): void {
    this.#agent.destroy();
  }

  /** Where the remote is now. Throws when nothing is there. */
  address({ service }: Pick<Remote, 'service'>): { host: string; port: number } {
    const { world, kinds, random } = this.o.directory;
    return resolveService(world, kinds(), service, random());
  }

  /** The request, not yet ended; whoever opens it listens to its events. Throws when nothing is there. */
  open(remote: Pick<Remote, 'service' | 'ca' | 'insecure'>, call: Call): ClientRequest {
    const { host, port } = this.address(remote);
    const { namespace, name } = remote.service;
    return httpsRequest({
      agent: this.#agent,
      host,
      port,
      method: call.method,
      path: call.path,
      servername: `${name}.${namespace}.svc`,
      headers: { ...call.headers, host: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}` },
      rejectUnauthorized: !remote.insecure,
      ...(remote.ca ? { ca: remote.ca } : {}),
      ...this.o.client(),
    });
  }

  /** Why a request failed, in Go's words. */
  reason(e: Error, remote: Pick<Remote, 'service'>): string {
    const { namespace, name } = remote.service;
    const at = e as Error & { address?: string; port?: number };
    return inGosWords(at, {
      host: at.address ?? '',
      port: at.port ?? 0,
      serverName: `${name}.${namespace}.svc`,
    });
  }

  /** Gets a JSON document within `ms` and `limit` bytes; `what` is how its URL shows. Rejects with the reason. */
  get(
    remote: Pick<Remote, 'service' | 'ca' | 'insecure'>,
    path: string,
    ms: number,
    limit: number,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { host, port } = this.address(remote);
      const url = `https://${host}:${port}${path}`;
      const req = this.open(remote, {
        method: 'GET',
        path,
        headers: {
          accept: 'application/json',
          ...identityHeaders({ name: 'system:kube-aggregator', groups: ['system:masters'] }),
        },
      });
      const cancel = this.o.clock.after(ms, () => fail(`timed out waiting for ${url}`));
      const fail = (why: string) => {
        cancel();
        req.destroy();
        reject(new Error(why));
      };
      const broken = (e: Error) =>
        fail(
          `failing or missing response from ${url}: Get ${JSON.stringify(url)}: ${this.reason(e, remote)}`,
        );
      req.on('error', broken);
      req.on('response', (res: IncomingMessage) => {
        const { statusCode = 0 } = res;
        if (statusCode < 200 || statusCode >= 300) {
          res.resume();
          fail(`failing or missing response from ${url}: bad status from ${url}: ${statusCode}`);
          return;
        }
        const parts: Buffer[] = [];
        let size = 0;
        res.on('error', broken);
        res.on('data', (part: Buffer) => {
          size += part.length;
          if (size > limit) fail(`the answer of ${url} is larger than ${limit} bytes`);
          else parts.push(part);
        });
        res.on('end', () => {
          cancel();
          try {
            resolve(JSON.parse(Buffer.concat(parts).toString('utf8')));
          } catch (e) {
            fail(`the answer of ${url} is no JSON: ${(e as Error).message.slice(0, 128)}`);
          }
        });
      });
      req.end();
    });
  }
}
