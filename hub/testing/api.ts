import { generateKeyPairSync } from 'node:crypto';
import { type Clock, systemClock } from '../../api/clock.js';
import { tokenReviews } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { type Log, silentLog } from '../../api/log.js';
import { RbacAuthorizer } from '../auth/authorizer.js';
import { bootstrapRbac } from '../auth/bootstrap.js';
import { accessGuard } from '../auth/guard.js';
import { paramsGuard } from '../auth/params-guard.js';
import { reviewAnswers } from '../auth/reviews.js';
import { Tokens } from '../auth/tokens.js';
import { Api, type ApiOptions } from '../http/api.js';
import type { User } from '../http/auth.js';
import type { Reply, Request } from '../http/message.js';
import { Informers } from '../informer.js';
import { Registry, stampResourceVersion } from '../registry/registry.js';
import { MemoryStore } from '../store/memory.js';

export const ADMIN: User = { name: 'admin', groups: ['system:masters', 'system:authenticated'] };

/** What a test says of one request; all but the URL has a default. */
export interface TestRequest {
  method?: string;
  user?: User;
  headers?: Request['headers'];
  /** An object is sent as JSON. */
  body?: unknown;
  signal?: AbortSignal;
}

/** A reply with its body read. */
export interface TestReply {
  status: number;
  headers: Reply['headers'];
  text: string;
  /** The body as JSON. Throws when it is not. */
  json<T = any>(): T;
}

/** The API over a registry over a store in memory, without sockets. */
export async function testApi(options: Partial<ApiOptions> & { clock?: Clock; log?: Log } = {}) {
  const { clock = systemClock, log = silentLog } = options;
  const store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  const registry = new Registry({ store, clock, log });
  const informers = new Informers(registry.client(), clock, log);
  const authorizer = new RbacAuthorizer(informers);
  registry.guards.push(accessGuard(authorizer), paramsGuard(authorizer, registry.directory));
  for (const [kind, answer] of reviewAnswers(authorizer, clock)) registry.answers.set(kind, answer);
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  const tokens = new Tokens({ key, registry, clock });
  registry.tokens = tokens;
  registry.answers.set(tokenReviews as unknown as Kind, tokens.review);
  await bootstrapRbac(registry.client());
  await authorizer.start();
  const api = new Api({
    registry,
    authorizer,
    documents: tokens.documents(),
    clock,
    log,
    version: 'v1.36.0+coxswain0.1.0',
    ...options,
  });

  const send = (url: string, r: TestRequest = {}): Promise<Reply> => {
    const signal = r.signal ?? new AbortController().signal;
    const body =
      r.body === undefined
        ? Buffer.alloc(0)
        : Buffer.isBuffer(r.body)
          ? r.body
          : Buffer.from(typeof r.body === 'string' ? r.body : JSON.stringify(r.body));
    return api.handle({
      method: r.method ?? 'GET',
      url,
      headers: r.headers ?? {},
      user: r.user ?? ADMIN,
      body: async () => body,
      signal: () => signal,
    });
  };
  return {
    store,
    registry,
    api,
    informers,
    authorizer,
    tokens,
    send,
    /** Sends and reads the whole body: not for watches that go on. */
    async call(url: string, r: TestRequest = {}): Promise<TestReply> {
      const { status, headers, body } = await send(url, r);
      const parts: Uint8Array[] = [];
      if (typeof body === 'string') parts.push(Buffer.from(body));
      else if (body instanceof Uint8Array) parts.push(body);
      else if (body !== undefined)
        for await (const c of body) parts.push(typeof c === 'string' ? Buffer.from(c) : c);
      const text = Buffer.concat(parts).toString('utf8');
      return { status, headers, text, json: () => JSON.parse(text) };
    },
  };
}

export type TestApi = Awaited<ReturnType<typeof testApi>>;
