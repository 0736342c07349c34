import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../../api/clock.js';
import { silentLog } from '../../../api/log.js';
import { HttpServer, type HttpServerOptions } from '../../../hub/http/server.js';
import { createPki } from '../../../hub/pki/pki.js';
import { CustomDefinitions } from '../../../hub/registry/custom/definitions.js';
import type { NodeStreams } from '../../../hub/streams.js';
import { testApi } from '../../../hub/testing/api.js';

/** The API behind real sockets and certificates, over a store in memory: no nodes, no controllers. */
export async function startApiServer(options: { streams?: NodeStreams } & Partial<HttpServerOptions> = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'cox-api-'));
  const { registry, store, api, tokens } = await testApi({ streams: options.streams });
  const definitions = new CustomDefinitions({
    client: registry.client(),
    table: registry,
    clock: systemClock,
    log: silentLog,
  });
  await definitions.start();
  const pki = await createPki(dir, { localHosts: () => [] });
  const server = new HttpServer({
    api,
    clock: systemClock,
    log: silentLog,
    host: '127.0.0.1',
    port: 0,
    tls: { ...pki.server, ca: [pki.caPem, pki.clientCaPem] },
    authenticate: (token) => tokens.authenticate(token),
    ...options,
  });
  await server.start();
  const url = `https://127.0.0.1:${server.port}`;
  const kubeconfig = join(dir, 'admin.kubeconfig');
  await pki.writeAdminKubeconfig(kubeconfig, url);
  // What the hub's own start and its controllers would have made.
  for (const name of ['default', 'kube-system']) {
    await registry.client().create(registry.kindFor('', 'v1', 'namespaces')!, { metadata: { name } });
  }
  return {
    dir,
    registry,
    store,
    pki,
    server,
    url,
    kubeconfig,
    async stop() {
      await server.stop();
      await definitions.stop();
      await store.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

export type ApiServer = Awaited<ReturnType<typeof startApiServer>>;
