import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { busyboxImage, Containerd, exec } from '../test/e2e/support/containerd.js';
import type { Options } from './options.js';
import { latencyRows, type Row } from './row.js';
import { System, until } from './system.js';

interface PodEvent {
  type: string;
  object: { metadata: { name: string }; status?: { phase?: string } };
}

const pod = (name: string, runtime: string, container: object) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name },
  spec: {
    runtimeClassName: runtime,
    terminationGracePeriodSeconds: 0,
    containers: [{ name: 'main', ...container }],
  },
});

/** One pod after the other: from sending the manifest until a watch says Running. Milliseconds each. */
export async function measure(
  system: System,
  runtime: string,
  container: object,
  n: number,
): Promise<number[]> {
  const running = new Map<string, number>();
  const gone = new Set<string>();
  const close = await system.watch('/api/v1/namespaces/default/pods?watch=true', (e) => {
    const { type, object } = e as PodEvent;
    if (type === 'DELETED') gone.add(object.metadata.name);
    else if (object.status?.phase === 'Running' && !running.has(object.metadata.name))
      running.set(object.metadata.name, performance.now());
  });
  try {
    const samples: number[] = [];
    // The first one pulls the image and warms everything up; it does not count.
    for (let i = 0; i <= n; i++) {
      const name = `bench-${i}`;
      const begin = performance.now();
      await system.api.call('POST', '/api/v1/namespaces/default/pods', pod(name, runtime, container));
      const end = await until(`${name} to run`, () => running.get(name), 120, 1);
      if (i > 0) samples.push(end - begin);
      await system.api.call('DELETE', `/api/v1/namespaces/default/pods/${name}?gracePeriodSeconds=0`);
      await until(`${name} to go`, () => (gone.has(name) ? true : undefined), 60, 5);
    }
    return samples;
  } finally {
    close();
  }
}

/** API request → Running for WebAssembly, the module being on the node. */
export async function wasm(o: Options): Promise<Row[]> {
  const system = await new System().start();
  try {
    await system.push('examples/mixed-runtimes/build/greeter.wasm', 'greeter:1');
    await system.addAgent('pi1');
    const samples = await measure(system, 'wasm', { image: 'coxswain.internal/greeter:1' }, o.pods);
    return latencyRows('apply -> Running, Wasm, image present', samples, { p50: '<= 60, then <= 30' });
  } finally {
    await system.stop();
  }
}

/** The same for a container on a private containerd with a bridge network. Needs root and Debian's containerd. */
export async function containers(o: Options): Promise<Row[]> {
  const system = await new System().start();
  const containerd = await Containerd.start();
  try {
    const certs = join(system.dir, 'certs');
    mkdirSync(certs);
    copyFileSync(join(system.hubDir, 'pki', 'ca.crt'), join(certs, 'ca.crt'));
    const token = readFileSync(join(system.hubDir, 'push.token'), 'utf8').trim();
    await exec('skopeo', [
      ...['copy', '-q', '--dest-cert-dir', certs, '--dest-creds', `cox:${token}`],
      ...[`oci:${await busyboxImage(system.dir)}`, `docker://${system.api.access.server.host}/busybox:1`],
    ]);
    await system.addAgent('pi1', '--runtime-endpoint', containerd.endpoint);
    const container = { image: 'coxswain.internal/busybox:1', command: ['sleep', '1000000'] };
    const samples = await measure(system, 'oci', container, o.pods);
    return latencyRows('apply -> Running, container with network, image present', samples);
  } finally {
    await system.stop();
    await containerd.stop();
  }
}
