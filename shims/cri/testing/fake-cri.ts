/**
 * A CRI server for tests, spoken by grpc-js and proto-loader: what our own client says must be understood by an
 * implementation that is not ours. Handlers may be replaced at any time; a method without one is UNIMPLEMENTED.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type handleServerStreamingCall,
  loadPackageDefinition,
  Server,
  ServerCredentials,
  type ServiceClientConstructor,
  type ServiceDefinition,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

// biome-ignore lint/suspicious/noExplicitAny: a test's answers are as loose as the wire
type Any = any;

export class GrpcFailure extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

export const protoOptions = { longs: Number, enums: String, defaults: true, arrays: true, objects: true };
const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** The path that gRPC uses in place of the short service name in containerd.proto. */
const CONTAINERD_PACKAGES: Record<string, string> = {
  Events: 'containerd.services.events.v1.Events',
  Leases: 'containerd.services.leases.v1.Leases',
  Content: 'containerd.services.content.v1.Content',
  Images: 'containerd.services.images.v1.Images',
};

export class FakeCri {
  readonly dir = mkdtempSync(join(tmpdir(), 'fake-cri-'));
  readonly socket = join(this.dir, 's');
  readonly endpoint = `unix://${this.socket}`;
  /** Method name → answer, or a promise of it; a thrown GrpcFailure is sent as such. */
  readonly unary: Record<string, (request: Any) => Any> = {};
  /** Method name → what is written to the stream; ends it when the promise settles. */
  readonly streams: Record<string, (request: Any, write: (message: Any) => void) => Promise<void>> = {};
  readonly calls: { method: string; request: Any }[] = [];
  #server: Server | undefined;

  count = (method: string): number => this.calls.filter((c) => c.method === method).length;

  async start(): Promise<void> {
    const server = new Server({ 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 });
    const cri = loadPackageDefinition(loadSync(file('../cri.proto'), protoOptions)) as Any;
    for (const s of ['RuntimeService', 'ImageService'])
      this.#add(server, (cri.runtime.v1[s] as ServiceClientConstructor).service);
    const cd = loadPackageDefinition(loadSync(file('../containerd.proto'), protoOptions)) as Any;
    for (const [name, full] of Object.entries(CONTAINERD_PACKAGES)) {
      const { service } = cd.containerd.services[name] as ServiceClientConstructor;
      this.#add(
        server,
        Object.fromEntries(
          Object.entries(service).map(([m, d]) => [m, { ...d, path: `/${full}/${m}` }]),
        ) as ServiceDefinition,
      );
    }
    rmSync(this.socket, { force: true });
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`unix:${this.socket}`, ServerCredentials.createInsecure(), (e) =>
        e ? reject(e) : resolve(),
      ),
    );
    this.#server = server;
  }

  #add(server: Server, service: ServiceDefinition): void {
    const fail = (e: unknown) => ({
      code: e instanceof GrpcFailure ? e.code : 2,
      details: (e as Error).message,
    });
    const handlers = Object.fromEntries(
      Object.entries(service).map(([method, d]) => {
        if (!d.responseStream)
          return [
            method,
            (call: Any, done: (e: unknown, answer?: unknown) => void) => {
              this.calls.push({ method, request: call.request });
              const handler = this.unary[method];
              if (!handler) return done({ code: 12, details: `unknown method ${method}` });
              Promise.resolve()
                .then(() => handler(call.request))
                .then(
                  (answer) => done(null, answer),
                  (e) => done(fail(e)),
                );
            },
          ];
        const serve: handleServerStreamingCall<Any, Any> = (call) => {
          const respond = (request: Any) => {
            this.calls.push({ method, request });
            const handler = this.streams[method];
            if (!handler) return call.emit('error', { code: 12, details: `unknown method ${method}` });
            handler(request, (m) => call.write(m)).then(
              () => call.end(),
              (e) => call.emit('error', fail(e)),
            );
          };
          if (d.requestStream) call.on('data', respond);
          else respond(call.request);
        };
        return [method, serve];
      }),
    );
    server.addService(service, handlers as Any);
  }

  /** Cuts every connection, as a runtime that was killed. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = undefined;
  }

  dispose(): void {
    this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
