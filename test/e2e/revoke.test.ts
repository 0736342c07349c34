/** A lost device, with real processes: locked out at once at every door, after a restart of the hub as well. */
import { createPrivateKey, createPublicKey } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { keyId } from '../../api/wire/codec.js';
import { openMqtt } from '../../api/wire/mqtt.js';
import { nodeSubscriptions } from '../../api/wire/topics.js';
import { startMosquitto } from './support/mosquitto.js';
import { missing } from './support/needs.js';
import {
  CoxProcess,
  eventually,
  type Kubectl,
  nodeReady,
  remove,
  TestAgent,
  TestHub,
} from './support/system.js';

interface Door {
  ca: string;
  cert: string;
  key: string;
}

const credentials = (dataDir: string): Door => {
  const { ca, cert } = JSON.parse(readFileSync(join(dataDir, 'identity.json'), 'utf8'));
  return { ca, cert, key: readFileSync(join(dataDir, 'node.key'), 'utf8') };
};
const idOf = (dataDir: string): string =>
  keyId(createPublicKey(createPrivateKey(readFileSync(join(dataDir, 'node.key'), 'utf8'))));

/** HTTP status of a GET with the device's certificate. */
const status = (hub: TestHub, path: string, door: Door): Promise<number> =>
  new Promise((done, fail) => {
    const req = request({ host: '127.0.0.1', port: hub.apiPort, path, ...door, agent: false }, (res) => {
      res.resume();
      done(res.statusCode ?? 0);
    });
    req.on('error', fail);
    req.end();
  });

const entersMqtt = async (port: number, node: string, door: Door): Promise<boolean> => {
  const socket = tlsConnect({ host: '127.0.0.1', port, ...door });
  try {
    const mqtt = await openMqtt(socket, {
      clientId: 'x',
      keepalive: 60,
      subscribe: nodeSubscriptions(node),
      onMessage: () => {},
      onClose: () => {},
    });
    await mqtt.close();
    return true;
  } catch {
    return false;
  }
};

const wasmPod = (name: string, node: string) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name },
  spec: {
    nodeName: node,
    runtimeClassName: 'fake',
    tolerations: [{ operator: 'Exists' }],
    containers: [
      {
        name: 'app',
        image: 'fake',
        env: [{ name: 'T', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } }],
      },
    ],
  },
});

const lacks = (external: boolean) => missing('kubectl-1.36', ...(external ? (['mosquitto'] as const) : []));
for (const external of [false, true])
  describe.skipIf(lacks(external))(external ? 'mosquitto' : 'embedded broker', () => {
    let hub: TestHub;
    let k: Kubectl;
    let broker: Awaited<ReturnType<typeof startMosquitto>> | undefined;
    const agents: TestAgent[] = [];
    const device = async (name: string): Promise<TestAgent> => {
      const a = new TestAgent(name, ['--fake']);
      agents.push(a);
      await a.start('--join', await hub.token());
      await nodeReady(k, name, () => a.process.tail() + hub.process.tail());
      return a;
    };
    const cox = async (...args: string[]) => {
      const p = new CoxProcess([...args, '--data-dir', hub.dataDir], { COX_LOG: 'error' });
      return { code: (await p.exited).code, text: p.log };
    };
    const restartHub = async () => {
      await hub.stop();
      await hub.start();
    };

    beforeAll(async () => {
      hub = new TestHub();
      if (external) {
        broker = await startMosquitto(hub.dataDir);
        hub = new TestHub(hub.dataDir, ['--broker', broker.url]);
      }
      await hub.start();
      k = hub.kubectl();
      await k('create', 'secret', 'generic', 's', '--from-literal=k=v');
      await k.apply({
        apiVersion: 'node.k8s.io/v1',
        kind: 'RuntimeClass',
        metadata: { name: 'fake' },
        handler: 'fake',
      });
    });
    afterAll(async () => {
      for (const a of agents) await a.stop();
      await hub?.stop();
      await broker?.stop();
      remove(hub.dataDir, ...agents.map((a) => a.dataDir));
    });

    // The broker makes no difference to this one, nor to the last.
    it.skipIf(external)(
      'a deleted Node comes back, as with a kubelet: that alone is no revocation',
      async () => {
        const a = await device('mistake');
        await k('delete', 'node', 'mistake');
        await a.stop();
        await a.start();
        await nodeReady(k, 'mistake', () => a.process.tail());
      },
    );

    it('cox node revoke locks a device out at every door, after a restart of the hub as well', async () => {
      const a = await device('stolen');
      const door = credentials(a.dataDir);
      expect(await status(hub, '/api/v1/nodes/stolen', door)).toBe(200);
      const { code, text } = await cox('node', 'revoke', 'stolen');
      expect(text).toContain('node "stolen" is revoked');
      expect(code).toBe(0);
      await eventually(
        'the device to be told',
        () => /refuses this node: the key of this device was revoked/.test(a.process.log),
        {
          context: () => a.process.tail(),
        },
      );
      const shut = async () => {
        expect(await status(hub, '/api/v1/nodes/stolen', door)).toBe(401);
        expect(await status(hub, '/v2/', door)).toBe(401);
        if (!external) expect(await entersMqtt(hub.mqttPort, 'stolen', door)).toBe(false);
        expect((await k.try('get', 'node', 'stolen')).stderr).toContain('not found');
      };
      await shut();
      const listed = await k.json('get', 'configmap', '-n', 'kube-system', 'coxswain-revoked');
      expect(JSON.parse(listed.data[idOf(a.dataDir)]!)).toMatchObject({ node: 'stolen' });
      await restartHub();
      await a.stop();
      await a.start();
      await eventually('another refusal', () => /refuses this node/.test(a.process.log), {
        context: () => a.process.tail(),
      });
      await shut();
      expect(existsSync(join(a.dataDir, 'node.key')), 'a lock can be undone').toBe(true);

      if (external) {
        // What mosquitto cannot be told while it runs, it reads from the list when it starts.
        const crl = await eventually('the list', () =>
          readFileSync(join(hub.dataDir, 'pki', 'ca.crl'), 'utf8'),
        );
        expect(crl).toContain('X509 CRL');
      }
      // Taken off the list, it is itself again.
      const patch = { data: { [idOf(a.dataDir)]: null } };
      await k(
        'patch',
        'configmap',
        '-n',
        'kube-system',
        'coxswain-revoked',
        '--type=merge',
        '-p',
        JSON.stringify(patch),
      );
      await a.stop();
      await a.start();
      await nodeReady(k, 'stolen', () => a.process.tail());
    });

    it('kubectl alone is enough: an annotation, with the order to erase everything', async () => {
      const a = await device('gone');
      await k.apply(wasmPod('on-gone', 'gone'));
      await eventually(
        'Running',
        async () => (await k.json('get', 'pod', 'on-gone')).status.phase === 'Running',
        {
          context: () => a.process.tail(),
        },
      );
      await eventually('the set on disk', () => existsSync(join(a.dataDir, 'desired.bin')));
      await k('annotate', 'node', 'gone', 'coxswain.dev/revoke=wipe');
      const erased = ['node.key', 'identity.json', 'desired.bin'];
      await eventually('erased', () => !readdirSync(a.dataDir).some((f) => erased.includes(f)), {
        context: () => a.process.tail(),
      });
      await a.stop();
      await a.start();
      expect((await a.process.exited).code).toBe(1);
      expect(a.process.log).toMatch(/has revoked this device.*cox token create/);
    });

    it.skipIf(external)('with the policy, kubectl delete node is a revocation', async () => {
      const a = await device('policy');
      const set = (v: string | null) =>
        k(
          'patch',
          'configmap',
          '-n',
          'kube-system',
          'coxswain-link',
          '--type=merge',
          '-p',
          JSON.stringify({ data: { deletedNodes: v } }),
        );
      await set('revoke');
      const finalizers = async () => (await k.json('get', 'node', 'policy')).metadata.finalizers ?? [];
      await eventually('the finalizer', async () => (await finalizers()).includes('coxswain.dev/revoke'));
      await k('delete', 'node', 'policy');
      await eventually('refused', () => /refuses this node/.test(a.process.log), {
        context: () => a.process.tail(),
      });
      expect(await status(hub, '/api/v1/nodes/policy', credentials(a.dataDir))).toBe(401);
      await set(null);
    });
  });
