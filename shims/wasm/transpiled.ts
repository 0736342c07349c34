import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import type { Clock } from '../../api/clock.js';
import { type HubAccess, HubAgent } from '../images/hub-agent.js';
import type { WasmImage } from '../images/image.js';
import { ShimError } from '../shim.js';
import { FORM } from './host/transpiled.js';

const IDLE_MS = 180_000;

/** {@link HubRequest} over the node's own HTTPS access. */
export const hubRequest =
  (hub: () => HubAccess | undefined, clock: Clock): HubRequest =>
  (method, path, body, maxBytes) =>
    new Promise((resolve, reject) => {
      const access = hub();
      if (!access) return reject(new Error('this node has not joined a hub yet'));
      const agent = new HubAgent(access, clock);
      const headers = body ? { 'content-length': body.length } : {};
      const req = request(`https://${access.host}${path}`, { method, agent, headers }, async (res) => {
        const parts: Buffer[] = [];
        let size = 0;
        try {
          for await (const part of res as AsyncIterable<Buffer>) {
            size += part.length;
            if (size > maxBytes) throw new Error(`the answer is larger than ${maxBytes} bytes`);
            parts.push(part);
          }
          resolve({ status: res.statusCode ?? 0, body: Buffer.concat(parts) });
        } catch (e) {
          reject(e);
        } finally {
          req.destroy();
          agent.destroy();
        }
      });
      // Preparing a large component takes the hub a while, with nothing on the wire.
      req.setTimeout(IDLE_MS, () => req.destroy(new Error(`no answer for ${IDLE_MS / 1000} s`)));
      req.on('error', (e) => {
        agent.destroy();
        reject(e);
      });
      req.end(body);
    });

/** One HTTPS exchange with the hub; the body of an answer is at most `maxBytes`. Rejects when the hub cannot be reached. */
export type HubRequest = (
  method: 'GET' | 'PUT',
  path: string,
  body: Uint8Array | undefined,
  maxBytes: number,
) => Promise<{ status: number; body: Uint8Array }>;

const PATH = '/coxswain/v1/transpiled/';
const MAX_BYTES = 128 << 20;
/** Forms kept on disk; the least recently used go. They can be fetched again. */
const MAX_CACHED = 64;

/**
 * The runnable forms of components, fetched from the hub by digest and kept on disk, so that a component that ran once
 * starts without the hub. A component that the hub does not know (it came from another registry) is handed to it.
 */
export class TranspiledCache {
  readonly #running = new Map<string, Promise<string>>();
  constructor(
    private readonly dir: string,
    private readonly request: HubRequest,
  ) {}

  /** Path of the runnable form. Rejects with ShimError. */
  async get(image: WasmImage): Promise<string> {
    const file = join(this.dir, `${image.moduleDigest.slice('sha256:'.length)}.${FORM}`);
    try {
      await stat(file);
      const now = new Date();
      await utimes(file, now, now).catch(() => {});
      return file;
    } catch {
      // Not here yet.
    }
    let running = this.#running.get(file);
    if (!running) {
      running = this.#fetch(image, file).finally(() => this.#running.delete(file));
      this.#running.set(file, running);
    }
    return running;
  }

  async #fetch(image: WasmImage, file: string): Promise<string> {
    const path = `${PATH}${image.moduleDigest}`;
    const ask = async (method: 'GET' | 'PUT', body?: Uint8Array) => {
      try {
        return await this.request(method, path, body, MAX_BYTES);
      } catch (e) {
        throw new ShimError(
          'CreateContainerError',
          `image "${image.ref}" is a component that this node has not run yet, and the hub that prepares it cannot be reached: ${(e as Error).message}`,
          { cause: e },
        );
      }
    };
    let answer = await ask('GET');
    if (answer.status === 404) answer = await ask('PUT', await readFile(image.modulePath));
    if (answer.status !== 200)
      throw new ShimError('CreateContainerError', `image "${image.ref}": ${messageOf(answer)}`);
    await mkdir(this.dir, { recursive: true, mode: 0o700 });
    const part = `${file}.part`;
    const handle = await open(part, 'w', 0o644);
    try {
      await handle.writeFile(answer.body);
      await handle.datasync();
    } finally {
      await handle.close();
    }
    await rename(part, file);
    await this.#evict();
    return file;
  }

  async #evict(): Promise<void> {
    const names = await readdir(this.dir);
    if (names.length <= MAX_CACHED) return;
    const all = await Promise.all(
      names.map(async (n) => ({ n, at: (await stat(join(this.dir, n))).mtimeMs })),
    );
    for (const { n } of all.sort((a, b) => a.at - b.at).slice(0, names.length - MAX_CACHED))
      await rm(join(this.dir, n), { force: true });
  }
}

function messageOf(answer: { status: number; body: Uint8Array }): string {
  const text = new TextDecoder().decode(answer.body.subarray(0, 4096));
  try {
    return (JSON.parse(text) as { message: string }).message;
  } catch {
    return `the hub answered ${answer.status} ${text}`;
  }
}
