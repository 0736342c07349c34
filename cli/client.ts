import { existsSync, readFileSync } from 'node:fs';
import { Agent, type RequestOptions, request } from 'node:https';
import { join } from 'node:path';
import { parse } from 'yaml';
import { ApiError, type StatusDetails, type StatusReason } from '../api/meta/errors.js';

/** How to reach a hub, as its `admin.kubeconfig` says: one cluster, one user with a client certificate. */
export interface Access {
  server: URL;
  ca: Buffer;
  cert: Buffer;
  key: Buffer;
}

/** Reads `DIR/admin.kubeconfig`; the error says what to start when it is not there. */
export function readAccess(dataDir: string): Access {
  const file = join(dataDir, 'admin.kubeconfig');
  if (!existsSync(file))
    throw new Error(`${file} is not there: start the hub first (cox hub --data-dir ${dataDir}, or cox up)`);
  const config = parse(readFileSync(file, 'utf8'));
  const cluster = config?.clusters?.[0]?.cluster;
  const user = config?.users?.[0]?.user;
  if (!cluster?.server || !user?.['client-certificate-data'])
    throw new Error(
      `${file} is not a kubeconfig with a client certificate; restart the hub to write it anew`,
    );
  const pem = (text: string) => Buffer.from(text, 'base64');
  return {
    server: new URL(cluster.server),
    ca: pem(cluster['certificate-authority-data']),
    cert: pem(user['client-certificate-data']),
    key: pem(user['client-key-data']),
  };
}

/** A small HTTPS client for the hub's API with the administrator's certificate; rejects with ApiError. */
export class ApiClient {
  readonly #agent: Agent;
  constructor(readonly access: Access) {
    const { ca, cert, key } = access;
    this.#agent = new Agent({ ca, cert, key, keepAlive: true, maxSockets: 8 });
  }

  close(): void {
    this.#agent.destroy();
  }

  /** One request; a JSON body in, the parsed JSON (or, for other types, the text) out. */
  async call<T = unknown>(
    method: string,
    path: string,
    body?: unknown,
    contentType = 'application/json',
  ): Promise<T> {
    const payload = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const options: RequestOptions = {
      method,
      agent: this.#agent,
      host: this.access.server.hostname.replace(/^\[|\]$/g, ''),
      port: this.access.server.port || 443,
      path,
      headers: {
        accept: 'application/json, */*',
        ...(payload ? { 'content-type': contentType, 'content-length': payload.length } : {}),
      },
      timeout: 30_000,
    };
    const { status, type, text } = await new Promise<{ status: number; type: string; text: string }>(
      (resolve, reject) => {
        const req = request(options, (res) => {
          const chunks: Buffer[] = [];
          res.on('data', (c: Buffer) => chunks.push(c));
          res.on('error', reject);
          res.on('end', () =>
            resolve({
              status: res.statusCode ?? 0,
              type: res.headers['content-type'] ?? '',
              text: Buffer.concat(chunks).toString('utf8'),
            }),
          );
        });
        req.on('timeout', () => req.destroy(new Error('no answer within 30 s')));
        req.on('error', (e: NodeJS.ErrnoException) =>
          reject(
            e.code === 'ECONNREFUSED'
              ? new Error(`no hub answers at ${this.access.server.origin}: is it running?`)
              : new Error(`${method} ${this.access.server.origin}${path}: ${e.message}`),
          ),
        );
        req.end(payload);
      },
    );
    const parsed: unknown = type.startsWith('application/json') ? JSON.parse(text) : text;
    if (status >= 400) {
      const s = parsed as { reason?: StatusReason; message?: string; details?: StatusDetails };
      throw new ApiError(
        s.reason ?? 'InternalError',
        s.message ?? `${method} ${path}: HTTP ${status}`,
        s.details,
      );
    }
    return parsed as T;
  }
}
