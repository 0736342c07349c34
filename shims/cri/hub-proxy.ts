/**
 * How a container runtime pulls from the hub's own registry without a line in its configuration: during a pull the agent
 * listens on a loopback address of its own, adds TLS with the hub's CA and the agent's credentials, and lets only that
 * pull in, by a password made for it. Runtimes speak plain HTTP to loopback registries, containerd by default
 * (docs/decisions/0042-hub-images-through-loopback.md).
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { pipeline } from 'node:stream';
import { type Clock, systemClock } from '../../api/clock.js';
import { type HubAccess, HubAgent } from '../images/hub-agent.js';
import type { ImageAuth } from '../shim.js';

const PORT = 5443;
/** Of silence on a connection, either side. */
const IDLE_MS = 60_000;
const USERNAME = 'agent';
/** No way out of the registry: no empty or dotted path segment, nothing encoded. */
const PULLABLE = /^\/v2\/(?:[\w:@-][\w.:@-]*(?:\/[\w:@-][\w.:@-]*)*\/?)?(?:\?[\w=&.:/-]*)?$/;

export class HubProxy {
  /** `127.a.b.c:port`, the same in every life of the same agent, so that pulled images keep their names. */
  readonly address: string;
  readonly #ip: string;
  #server: Promise<Server> | undefined;
  readonly #passwords = new Set<string>();

  constructor(
    readonly hub: () => HubAccess | undefined,
    /** What tells this agent from others on the machine. */
    identity: string,
    readonly clock: Clock = systemClock,
  ) {
    const h = createHash('sha256').update(`coxswain-hub-proxy:${identity}`).digest();
    // 127.1.0.1 to 127.254.255.254: away from 127.0.x.y, which others use.
    this.#ip = `127.${(h[0]! % 254) + 1}.${h[1]!}.${(h[2]! % 254) + 1}`;
    this.address = `${this.#ip}:${PORT}`;
  }

  /** Opens the door for `use`, which gets credentials that work until it settles. */
  async during<T>(use: (auth: ImageAuth) => Promise<T>): Promise<T> {
    const password = randomBytes(24).toString('base64url');
    this.#passwords.add(password);
    try {
      this.#server ??= this.#listen();
      await this.#server;
      return await use({ username: USERNAME, password });
    } finally {
      this.#passwords.delete(password);
      if (this.#passwords.size === 0) await this.close();
    }
  }

  async close(): Promise<void> {
    const starting = this.#server;
    this.#server = undefined;
    const server = await starting?.catch(() => undefined);
    if (!server) return;
    const closed = new Promise<void>((done) => server.close(() => done()));
    server.closeAllConnections();
    await closed;
  }

  #listen(): Promise<Server> {
    const server = createServer((req, res) => {
      this.#serve(req, res).catch((e: unknown) => refuse(res, 502, (e as Error).message));
    });
    server.setTimeout(IDLE_MS);
    return new Promise((resolve, reject) => {
      server.once('error', (e) => {
        this.#server = undefined;
        reject(new Error(`cannot listen on ${this.address} to pull from the hub: ${e.message}`));
      });
      server.listen(PORT, this.#ip, () => {
        server.on('error', () => {});
        resolve(server);
      });
    });
  }

  #allowed(req: IncomingMessage): boolean {
    const given = Buffer.from((req.headers.authorization ?? '').replace(/^Basic /i, ''), 'base64');
    const digest = (b: Buffer | string) => createHash('sha256').update(b).digest();
    return [...this.#passwords].some((p) => timingSafeEqual(digest(given), digest(`${USERNAME}:${p}`)));
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    if (!this.#allowed(req)) {
      res.setHeader('www-authenticate', 'Basic realm="coxswain agent"');
      return refuse(res, 401, 'this door is for the agent only');
    }
    if ((req.method !== 'GET' && req.method !== 'HEAD') || !PULLABLE.test(req.url ?? ''))
      return refuse(res, 405, 'pulls only');
    const hub = this.hub();
    if (!hub) return refuse(res, 503, 'this node has not joined a hub');
    const { request } = await import('node:https');
    const { accept, range } = req.headers;
    const upstream = request(
      `https://${hub.host}${req.url}`,
      {
        method: req.method,
        agent: new HubAgent(hub, this.clock),
        headers: {
          ...(accept ? { accept } : {}),
          ...(range ? { range } : {}),
        },
        timeout: IDLE_MS,
      },
      (answer) => {
        // The runtime has no other credentials to try.
        const status = answer.statusCode === 401 ? 403 : answer.statusCode!;
        const { connection: _c, 'keep-alive': _k, 'www-authenticate': _w, ...headers } = answer.headers;
        res.writeHead(status, headers);
        pipeline(answer, res, () => {});
      },
    );
    upstream.on('timeout', () => upstream.destroy(new Error('the hub does not answer')));
    upstream.on('error', (e) => {
      if (res.headersSent) res.destroy(e);
      else refuse(res, 502, `the hub at ${hub.host} cannot be reached: ${e.message}`);
    });
    res.on('close', () => upstream.destroy());
    upstream.end();
  }
}

/** In the distribution spec's form. */
function refuse(res: ServerResponse, status: number, message: string): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  const code = status === 401 ? 'UNAUTHORIZED' : status === 405 ? 'UNSUPPORTED' : 'UNAVAILABLE';
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify({ errors: [{ code, message }] }));
}
