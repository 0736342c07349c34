import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NedbStore } from '../hub/store/nedb.js';
import { latencyRows, type Row } from './row.js';

/** A pod of usual size with its status, about 2.4 KB of JSON. */
const pod = (i: number, n: number) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: `web-${i}`,
    namespace: 'default',
    uid: `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`,
    generation: n,
    creationTimestamp: '2026-01-01T00:00:00Z',
    labels: { app: 'web', 'pod-template-hash': '5d8f7c9b6', 'app.kubernetes.io/name': 'web' },
    ownerReferences: [
      {
        apiVersion: 'apps/v1',
        kind: 'ReplicaSet',
        name: 'web-5d8f7c9b6',
        uid: `u${i % 50}`,
        controller: true,
      },
    ],
  },
  spec: {
    nodeName: `pi-${i % 100}`,
    containers: [
      {
        name: 'app',
        image: 'coxswain.internal/web:1',
        env: Array.from({ length: 8 }, (_, k) => ({ name: `VARIABLE_${k}`, value: `value of ${k} in ${i}` })),
        resources: { requests: { cpu: '10m', memory: '16Mi' }, limits: { memory: '32Mi' } },
        volumeMounts: [{ name: 'data', mountPath: '/data' }],
      },
    ],
    volumes: [{ name: 'data', emptyDir: {} }],
    tolerations: Array.from({ length: 3 }, (_, k) => ({
      key: `example.com/taint-${k}`,
      operator: 'Exists',
      effect: 'NoSchedule',
    })),
    restartPolicy: 'Always',
    terminationGracePeriodSeconds: 30,
  },
  status: {
    phase: 'Running',
    podIP: `10.1.${i >> 8}.${i & 255}`,
    conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({
      type,
      status: 'True',
      lastTransitionTime: '2026-01-01T00:00:00Z',
    })),
    containerStatuses: [
      {
        name: 'app',
        ready: true,
        restartCount: n,
        image: 'coxswain.internal/web:1',
        state: { running: { startedAt: '2026-01-01T00:00:00Z' } },
      },
    ],
  },
});

const heap = (): number => {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
};

async function fill(dir: string): Promise<void> {
  const store = new NedbStore(dir);
  await store.open();
  const keys = Array.from({ length: 10_000 }, (_, i) => `/core/pods/default/web-${i}`);
  await Promise.all(keys.map((key, i) => store.create(key, pod(i, 0))));
  await store.close();
}

/** The store by itself: durable writes per second at several degrees of concurrency, and 10,000 pods. */
export async function run(): Promise<Row[]> {
  const rows: Row[] = [];
  const dir = mkdtempSync(join(tmpdir(), 'cox-bench-store-'));
  try {
    const store = new NedbStore(dir);
    await store.open();
    for (const writers of [1, 16, 256]) {
      const samples: number[] = [];
      const end = performance.now() + 2000;
      const begun = performance.now();
      await Promise.all(
        Array.from({ length: writers }, async (_, w) => {
          const key = `/core/pods/default/bench-${w}`;
          for (let n = 0; performance.now() < end; n++) {
            const t = performance.now();
            const revision = store.get(key)?.revision;
            if (revision) await store.update(key, pod(w, n), revision);
            else await store.create(key, pod(w, n));
            samples.push(performance.now() - t);
          }
        }),
      );
      rows.push({
        name: `store: durable writes, ${writers} at a time`,
        value: samples.length / ((performance.now() - begun) / 1000),
        unit: '1/s',
        note: 'NeDB file, one fdatasync per batch, pods of 2.4 KB',
      });
      rows.push(...latencyRows(`store: durable write, ${writers} at a time`, samples));
    }
    await store.close();
    rmSync(dir, { recursive: true });

    await fill(dir);
    rows.push({
      name: 'store: file with 10,000 pods',
      value: statSync(join(dir, 'store.db')).size / 1e6,
      unit: 'MB',
    });
    const before = heap();
    const again = new NedbStore(dir);
    const t = performance.now();
    await again.open();
    rows.push({ name: 'store: opening 10,000 pods', value: performance.now() - t, unit: 'ms' });
    rows.push({
      name: 'store: heap for 10,000 pods',
      value: (heap() - before) / 1e6,
      unit: 'MB',
      ...(globalThis.gc ? {} : { note: 'without --expose-gc: garbage included' }),
    });
    const lists = performance.now();
    let listed = 0;
    while (performance.now() - lists < 500) {
      again.list('/core/pods/default/');
      listed++;
    }
    rows.push({ name: 'store: lists of 10,000 pods', value: listed / 0.5, unit: '1/s' });
    await again.close();
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  return rows;
}
