/** exec, attach, cp and port-forward as users do them: both kubectls, client-node, on containers and on Wasm. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { Attach, Exec, KubeConfig, PortForward, type V1Status } from 'kubernetes-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DEVICE_PARTS, Device } from './support/device.js';
import { kubectlPath, missing } from './support/needs.js';
import { eventually } from './support/system.js';

const skip = missing(...DEVICE_PARTS, 'kubectl-1.32');
const MINORS = ['1.32', '1.36'] as const;

const sha = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

class Sink extends Writable {
  readonly #chunks: Buffer[] = [];
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#chunks.push(chunk);
    done();
  }
  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
  get text(): string {
    return this.bytes.toString();
  }
}

describe('streams to pods', () => {
  if (skip) return void it.skip('parts are missing', () => {});
  let d: Device;
  const running: ChildProcess[] = [];

  /** Runs a program to its end. */
  const run = (program: string, args: string[], input: Buffer | string = '', keepsTyping = false) =>
    new Promise<{ code: number | null; out: Buffer; err: string }>((done) => {
      const env = { ...process.env, KUBECONFIG: d.hub.kubeconfig, HOME: d.dir };
      const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
      running.push(child);
      const out = new Sink();
      const err = new Sink();
      child.stdout.pipe(out);
      child.stderr.pipe(err);
      child.stdin.on('error', () => {});
      child.stdin.write(input);
      if (!keepsTyping) child.stdin.end();
      child.once('close', (code) => done({ code, out: out.bytes, err: err.text }));
    });
  const kubectl = (minor: (typeof MINORS)[number], args: string[], input?: Buffer | string) =>
    run(kubectlPath(minor), args, input);
  /** With a terminal of 33 rows and 101 columns. */
  const inTerminal = (command: string, input = '') =>
    run(
      'script',
      ['-qec', `stty rows 33 cols 101; ${kubectlPath('1.36')} ${command}`, '/dev/null'],
      input,
      true,
    );

  const pod = (name: string, script: string, container: object = {}, more: object[] = []) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      terminationGracePeriodSeconds: 0,
      containers: [{ name: 'main', image: d.busybox, command: ['sh', '-c', script], ...container }, ...more],
    },
  });

  beforeAll(async () => {
    d = await Device.start('embedded');
    const serve =
      'mkdir -p /tmp /www; for x in tar tee stty sha256sum; do ln -sf /bin/busybox /bin/$x; done; head -c 200000 /dev/zero | tr "\\0" x >/www/big; echo hello >/www/index.html';
    await d.k.apply({
      apiVersion: 'v1',
      kind: 'List',
      items: [
        pod('web', `${serve}; exec busybox httpd -f -p 8080 -h /www`),
        pod('reader', 'while read -r line; do echo "read $line"; done; echo over', {
          stdin: true,
          stdinOnce: true,
        }),
        pod('two', 'sleep 1000', {}, [{ name: 'side', image: d.busybox, command: ['sleep', '1000'] }]),
      ],
    });
    for (const name of ['web', 'reader', 'two']) await d.phase(name, 'Running');
  });
  afterAll(async () => {
    for (const child of running) child.kill();
    await d?.stop();
  });

  it.each(MINORS)('kubectl %s exec: outputs, exit codes, and some MB both ways', async (minor) => {
    const said = await kubectl(minor, ['exec', 'web', '--', 'sh', '-c', 'echo out; echo err >&2; exit 3']);
    expect(said).toMatchObject({ code: 3, err: 'err\ncommand terminated with exit code 3\n' });
    expect(String(said.out)).toBe('out\n');
    const bytes = randomBytes(3_000_000);
    const there = await kubectl(minor, ['exec', '-i', 'web', '--', 'tee', '/tmp/copy'], bytes);
    expect([there.code, sha(there.out)]).toEqual([0, sha(bytes)]);
    const hash = await kubectl(minor, ['exec', 'web', '--', 'sha256sum', '/tmp/copy']);
    expect(String(hash.out)).toContain(sha(bytes));
  });

  it('kubectl exec says what is wrong in Kubernetes’ words', async () => {
    const fails = async (...args: string[]) => {
      const { code, err } = await kubectl('1.36', args);
      expect(code).not.toBe(0);
      return err;
    };
    expect(await fails('exec', 'nowhere', '--', 'true')).toBe(
      'Error from server (NotFound): pods "nowhere" not found\n',
    );
    expect(await fails('exec', 'web', '--', 'no-such-program')).toContain('executable file not found');
    const direct = async (query: string) =>
      (await d.k.try('get', '--raw', `/api/v1/namespaces/default/pods/${query}`)).stderr;
    expect(await direct('two/exec?command=true&stdout=true')).toContain(
      'a container name must be specified for pod two, choose one of: [main side]',
    );
    expect(await direct('two/exec?command=true&stdout=true&container=none')).toContain(
      'container none is not valid for pod two',
    );
    expect(await direct('web/exec?command=true&stdout=true')).toContain('Upgrade request required');
    await d.k.apply({
      ...pod('brief', 'exit 0'),
      spec: { ...pod('brief', 'exit 0').spec, restartPolicy: 'Never' },
    });
    await d.phase('brief', 'Succeeded');
    expect(await fails('exec', 'brief', '--', 'true')).toMatch(
      /cannot exec into a container in a completed pod|container not found/,
    );
  });

  it('kubectl exec -t has a terminal of the right size; run -it and --rm work', async () => {
    // A command may be there before the size is, as with Kubernetes.
    const size = await inTerminal(
      `exec -it web -- sh -c 'until [ -n "$s" ]; do s=$(stty size 2>/dev/null); done; echo $s'`,
    );
    expect(String(size.out)).toContain('33 101');
    const shell = await inTerminal(
      `run once --rm -it --restart=Never --image=${d.busybox} --command -- sh -c 'read line; echo "got $line"'`,
      'ahoy\n',
    );
    expect(String(shell.out)).toMatch(/got ahoy.*pod "once" deleted/s);
  });

  it('kubectl attach reaches the input of a container, and shows its output', async () => {
    const child = spawn(kubectlPath('1.36'), ['attach', '-i', 'reader'], {
      env: { ...process.env, KUBECONFIG: d.hub.kubeconfig, HOME: d.dir },
    });
    running.push(child);
    const out = new Sink();
    child.stdout.pipe(out);
    await eventually('the echo', () => {
      if (!out.text) child.stdin.write('ahoy\n');
      return out.text.includes('read ahoy');
    });
    child.stdin.end();
    await d.until('the end of input ends the container', async () =>
      (await d.k('logs', 'reader', '--tail=100')).includes('over'),
    );
  });

  it('kubectl cp copies both ways', async () => {
    const bytes = randomBytes(1_000_000);
    const [from, back] = [join(d.dir, 'from'), join(d.dir, 'back')];
    writeFileSync(from, bytes);
    expect(await kubectl('1.36', ['cp', from, 'web:/tmp/file'])).toMatchObject({ code: 0 });
    expect(await kubectl('1.32', ['cp', 'web:/tmp/file', back])).toMatchObject({ code: 0 });
    expect(sha(readFileSync(back))).toBe(sha(bytes));
  });

  it.each(MINORS)(
    'kubectl %s port-forward: many connections at once, and ports where nobody listens',
    async (minor) => {
      const child = spawn(kubectlPath(minor), ['port-forward', 'web', ':8080', ':9'], {
        env: { ...process.env, KUBECONFIG: d.hub.kubeconfig, HOME: d.dir },
      });
      running.push(child);
      const out = new Sink();
      const err = new Sink();
      child.stdout.pipe(out);
      child.stderr.pipe(err);
      const port = (to: number) => Number(new RegExp(`127.0.0.1:(\\d+) -> ${to}`).exec(out.text)?.[1]);
      await eventually('two ports', () => port(8080) && port(9));
      const answers = await Promise.all(
        Array.from({ length: 12 }, async () => (await fetch(`http://127.0.0.1:${port(8080)}/big`)).text()),
      );
      for (const a of answers) expect(a).toBe('x'.repeat(200_000));
      await new Promise((resolve) =>
        connect(port(9), '127.0.0.1')
          .once('close', resolve)
          .on('error', () => {})
          .resume(),
      );
      await eventually('the refusal', () => /error forwarding port 9 to pod web.*refused/s.test(err.text));
      child.kill();
    },
  );

  it('client-node: Exec, Attach and PortForward', async () => {
    const kc = new KubeConfig();
    kc.loadFromFile(d.hub.kubeconfig);
    const out = new Sink();
    const stdin = new PassThrough();
    const ended = new Promise<V1Status>((resolve) => {
      void new Exec(kc).exec(
        'default',
        'web',
        'main',
        ['sh', '-c', 'read x; echo "$x"; exit 5'],
        out,
        new Sink(),
        stdin,
        false,
        resolve,
      );
    });
    stdin.write('by WebSocket\n');
    const status = await ended;
    expect(status.details?.causes?.[0]).toMatchObject({ reason: 'ExitCode', message: '5' });
    await eventually('the output', () => out.text === 'by WebSocket\n');
    await d.k.apply(pod('talker', 'while :; do echo tick; sleep 0.2; done'));
    await d.phase('talker', 'Running');
    const heard = new Sink();
    const attached = await new Attach(kc).attach('default', 'talker', 'main', heard, new Sink(), null, false);
    await eventually('what it says', () => heard.text.includes('tick'));
    attached.close();
    const answer = new Sink();
    const request = new PassThrough();
    await new PortForward(kc).portForward('default', 'web', [8080], answer, null, request);
    request.write('GET / HTTP/1.0\r\n\r\n');
    await eventually('the answer', () => answer.text.includes('hello'));
  });

  it('is refused to whoever may not create, by policies, and on metered nodes', async () => {
    await d.k('create', 'role', 'looker', '--verb=get', '--resource=pods,pods/exec');
    await d.k('create', 'rolebinding', 'looker', '--role=looker', '--user=jane');
    const jane = await kubectl('1.36', ['exec', 'web', '--as=jane', '--', 'true']);
    expect(jane.err).toContain('cannot create resource "pods/exec"');
    await d.k.apply({
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingAdmissionPolicy',
      metadata: { name: 'no-rm' },
      spec: {
        matchConstraints: {
          resourceRules: [
            { apiGroups: [''], apiVersions: ['v1'], operations: ['CONNECT'], resources: ['pods/exec'] },
          ],
        },
        validations: [{ expression: "object.command[0] != 'rm'", message: 'nothing is removed here' }],
      },
    });
    await d.k.apply({
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingAdmissionPolicyBinding',
      metadata: { name: 'no-rm' },
      spec: { policyName: 'no-rm', validationActions: ['Deny'] },
    });
    await d.until('the policy holds', async () =>
      (await kubectl('1.36', ['exec', 'web', '--', 'rm', '/none'])).err.includes('nothing is removed here'),
    );
    expect((await kubectl('1.36', ['exec', 'web', '--', 'true'])).code).toBe(0);
    await d.k('annotate', 'node', 'pi1', 'link.coxswain.dev/metered=true');
    await d.until('the hub has heard of it', async () =>
      (await kubectl('1.36', ['exec', 'web', '--', 'true'])).err.includes(
        'link.coxswain.dev/connect=allowed',
      ),
    );
    await d.k('annotate', 'node', 'pi1', 'link.coxswain.dev/connect=allowed');
    await d.until(
      'it is allowed',
      async () => (await kubectl('1.36', ['exec', 'web', '--', 'true'])).code === 0,
    );
  });

  it('tells whoever is connected that the link was lost', async () => {
    const held = kubectl('1.36', ['exec', 'web', '--', 'sh', '-c', 'echo begun; sleep 1000']);
    const followed = d.k.follow('exec', 'web', '--', 'sh', '-c', 'echo begun; sleep 1000');
    await eventually('it runs', () => followed.stdout().includes('begun'));
    await d.agent.stop('SIGKILL');
    expect((await held).err).toContain('the link to node pi1 was lost');
    expect(await followed.done).not.toBe(0);
  });
});
