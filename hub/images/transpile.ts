import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { type Log, silentLog } from '../../api/log.js';
import { isDigest } from '../../api/oci.js';
import { userOfConnection } from '../http/auth.js';

/** Where agents ask for the runnable form of a component: `${TRANSPILED_PATH}sha256:…` on the hub's HTTPS port. */
export const TRANSPILED_PATH = '/coxswain/v1/transpiled/';
/** Part of the cache's keys; changes with the form (shims/wasm/host/transpiled.ts) or the transpiler's options. */
const FORM = 'v1';

export interface TranspileLimits {
  /** Bytes of one component. */
  componentBytes: number;
  /** Bytes of one result. */
  resultBytes: number;
  /** Milliseconds that one may take. */
  timeMs: number;
  /** Bytes of all cached results; the least recently used go. */
  cacheBytes: number;
  /** How many may wait for their turn; one is worked on at a time. */
  queue: number;
}
export const TRANSPILE_LIMITS: TranspileLimits = {
  componentBytes: 64 << 20,
  resultBytes: 128 << 20,
  timeMs: 120_000,
  cacheBytes: 1 << 30,
  queue: 64,
};

export interface TranspilerOptions {
  log?: Log;
  limits?: Partial<TranspileLimits>;
  /** Who may hand in a component of another registry (PUT); by default nodes and administrators, by client certificate. */
  mayPut?: (req: IncomingMessage) => boolean;
}

const PUTTERS = ['system:nodes', 'system:masters'];
const mayPutByDefault = (req: IncomingMessage): boolean =>
  userOfConnection(req.socket as TLSSocket)?.groups.some((g) => PUTTERS.includes(g)) === true;

/** `status` is what HTTP answers; the message names the cause and the remedy. */
export class TranspileError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = 'TranspileError';
  }
}

const worker = fileURLToPath(new URL('./transpile-worker.mjs', import.meta.url));

/**
 * Turns WebAssembly components into their runnable form, once per digest and in a child process of bounded time and
 * size. Devices never carry the toolchain (jco and its dependencies are hundreds of megabytes).
 *
 * GET of a digest answers the form when it is cached, or when the component lies in the hub's own registry; 404 asks
 * for a PUT with the component as the body, which answers the form as well.
 */
export class Transpiler {
  readonly #dir: string;
  readonly #blobs: string;
  readonly #log: Log;
  readonly #limits: TranspileLimits;
  readonly #o: TranspilerOptions;
  readonly #running = new Map<string, Promise<string>>();
  #last: Promise<unknown> = Promise.resolve();

  /** `dataDir`: the hub's; results go below `dataDir/transpiled`, components are looked for in the registry's `dataDir/images`. */
  constructor(dataDir: string, options: TranspilerOptions = {}) {
    this.#dir = path.join(dataDir, 'transpiled');
    this.#blobs = path.join(dataDir, 'images', 'blobs', 'sha256');
    this.#log = options.log ?? silentLog;
    this.#limits = { ...TRANSPILE_LIMITS, ...options.limits };
    this.#o = options;
  }

  /** Makes the directory and drops what an earlier run left unfinished. */
  async start(): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#dir))
      if (!name.endsWith(`.${FORM}`)) await rm(path.join(this.#dir, name), { force: true });
  }

  /** Waits for what is under way. */
  async stop(): Promise<void> {
    await this.#last;
  }

  #file(digest: string): string {
    return path.join(this.#dir, `${digest.slice('sha256:'.length)}.${FORM}`);
  }

  /** Path of the runnable form of the component with this digest; `component` gives the bytes when they are needed. */
  async get(digest: string, component: () => Promise<Uint8Array>): Promise<string> {
    const file = this.#file(digest);
    if (await exists(file)) {
      const now = new Date();
      await utimes(file, now, now).catch(() => {});
      return file;
    }
    const running = this.#running.get(digest);
    if (running) return running;
    if (this.#running.size >= this.#limits.queue)
      throw new TranspileError(503, 'too many components wait to be prepared; try again later');
    const turn = this.#last.then(async () => {
      const bytes = await component();
      const actual = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
      if (actual !== digest)
        throw new TranspileError(400, `the component has digest ${actual}, not ${digest}`);
      const part = `${file}.${process.pid}.part`;
      await writeFile(part, await this.#transpile(bytes), { mode: 0o600 });
      await sync(part);
      await rename(part, file);
      this.#log.info({ digest }, 'component transpiled');
      await this.#evict();
      return file;
    });
    this.#last = turn.catch(() => {});
    this.#running.set(digest, turn);
    return turn.finally(() => this.#running.delete(digest));
  }

  #transpile(component: Uint8Array): Promise<Buffer> {
    const { componentBytes, resultBytes, timeMs } = this.#limits;
    if (component.length > componentBytes)
      throw new TranspileError(
        413,
        `the component has ${component.length} bytes; ${componentBytes} are allowed`,
      );
    return new Promise((resolve, reject) => {
      const child = spawn(process.execPath, ['--max-old-space-size=768', worker], {
        stdio: ['pipe', 'pipe', 'pipe'],
        env: { PATH: process.env['PATH'] ?? '' },
      });
      const out: Buffer[] = [];
      let size = 0;
      let said = '';
      const timer = setTimeout(() => give(504, `took longer than ${timeMs / 1000} s`), timeMs);
      const give = (status: number, why: string): void => {
        child.kill('SIGKILL');
        reject(new TranspileError(status, `the component cannot be prepared: ${why}`));
      };
      // The first to go when memory is short: it can always be done again.
      writeFile(`/proc/${child.pid}/oom_score_adj`, '800').catch(() => {});
      child.stdout.on('data', (d: Buffer) => {
        size += d.length;
        if (size > resultBytes) give(413, `its runnable form is larger than ${resultBytes} bytes`);
        else out.push(d);
      });
      child.stderr.setEncoding('utf8').on('data', (d: string) => {
        said = (said + d).slice(0, 4000);
      });
      child.on('error', (e) => give(500, e.message));
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        if (code === 0) return resolve(Buffer.concat(out));
        if (code === 2) return give(422, said);
        if (code === 3)
          return give(
            501,
            `this hub lacks the package @bytecodealliance/jco-transpile; install it beside coxswain (npm i @bytecodealliance/jco-transpile) (${said.split('\n')[0]})`,
          );
        give(500, `the transpiler ended with ${signal ?? `code ${code}`}: ${said.slice(-500)}`);
      });
      // A worker that ends early closes the pipe; `close` says why.
      child.stdin.on('error', () => {});
      child.stdin.end(component);
    });
  }

  async #evict(): Promise<void> {
    const all = await Promise.all(
      (await readdir(this.#dir)).map(async (name) => {
        const file = path.join(this.#dir, name);
        const { size, mtimeMs } = await stat(file);
        return { file, size, mtimeMs };
      }),
    );
    let total = all.reduce((n, f) => n + f.size, 0);
    for (const f of all.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
      if (total <= this.#limits.cacheBytes) return;
      await rm(f.file, { force: true });
      total -= f.size;
    }
  }

  /** Answers one request below {@link TRANSPILED_PATH}. Never rejects. */
  readonly handle = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    try {
      const digest = decodeURIComponent((req.url ?? '').split('?')[0]!.slice(TRANSPILED_PATH.length));
      if (!isDigest(digest)) throw new TranspileError(400, `"${digest}" is not a sha256 digest`);
      await this.#answer(req, res, digest);
    } catch (e) {
      const status = e instanceof TranspileError ? e.status : 500;
      if (status === 500) this.#log.error({ err: String(e) }, 'transpiling failed');
      if (res.headersSent) return void res.destroy();
      // The rest of a refused body is not read: the connection goes.
      if (!req.complete && req.httpVersionMajor < 2) res.setHeader('connection', 'close');
      res.writeHead(status, { 'content-type': 'application/json' });
      res.end(JSON.stringify({ message: e instanceof Error ? e.message : String(e) }));
    }
  };

  async #answer(req: IncomingMessage, res: ServerResponse, digest: string): Promise<void> {
    let component: () => Promise<Uint8Array>;
    if (req.method === 'PUT') {
      if (!(this.#o.mayPut ?? mayPutByDefault)(req))
        throw new TranspileError(403, 'only nodes and administrators may hand in components');
      const body = await readBody(req, this.#limits.componentBytes);
      component = async () => body;
    } else if (req.method === 'GET') {
      // Saves agents from sending what lies in the hub's own registry.
      const blob = path.join(this.#blobs, digest.slice('sha256:'.length));
      component = async () => {
        if (!(await exists(blob))) throw new TranspileError(404, `no component ${digest} here; PUT it`);
        return await readFile(blob);
      };
    } else {
      throw new TranspileError(405, 'GET or PUT');
    }
    const file = await this.get(digest, component);
    const { size } = await stat(file);
    res.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': size });
    await pipeline(createReadStream(file), res);
  }
}

async function exists(file: string): Promise<boolean> {
  return await stat(file).then(
    () => true,
    () => false,
  );
}

async function sync(file: string): Promise<void> {
  const handle = await open(file);
  try {
    await handle.datasync();
  } finally {
    await handle.close();
  }
}

async function readBody(req: IncomingMessage, max: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of req as AsyncIterable<Buffer>) {
    size += part.length;
    if (size > max) throw new TranspileError(413, `components may have ${max} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}
