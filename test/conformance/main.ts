/** `npm run conformance -- --help`. What it is for and what it needs: docs/conformance.md. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir, networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Containerd, Registry } from '../e2e/support/containerd.js';
import { DEVICE_PARTS } from '../e2e/support/device.js';
import { kubectlPath, missing } from '../e2e/support/needs.js';
import { nodeReady, remove, TestAgent, TestHub } from '../e2e/support/system.js';
import { type Binaries, binaries } from './binaries.js';
import { pushImages } from './images.js';
import { KNOWN } from './known.js';

const USAGE = `usage: npm run conformance [-- flags]

Runs Kubernetes' own end-to-end tests against a hub and two agents with containers.

  --focus REGEX   run the tests whose name fits; may be repeated (default: \\[Conformance\\])
  --skip REGEX    leave these out; may be repeated. Tests that cannot pass yet are left out by name (known.ts) ...
  --all           ... unless this is given
  --flags "..."   further flags of the test program, e.g. "--ginkgo.v"
  --serve         start hub and agents, print how to use them, and wait for Ctrl-C
  --report DIR    where JUnit report and logs go (default: a new directory)
`;

const { values: flags } = parseArgs({
  options: {
    focus: { type: 'string', multiple: true, default: ['\\[Conformance\\]'] },
    skip: { type: 'string', multiple: true, default: [] },
    all: { type: 'boolean', default: false },
    flags: { type: 'string', default: '' },
    serve: { type: 'boolean', default: false },
    report: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

const say = (text: string) => console.log(`» ${text}`);

/** The machine's first IPv4 address that others may reach. */
function outwardAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((a) => a ?? []);
  return all.find((a) => a.family === 'IPv4' && !a.internal)?.address ?? '127.0.0.1';
}

/** A hub and two devices, each with a containerd of its own and a pod network that the hub can reach. */
class System {
  readonly #stops: (() => Promise<unknown>)[] = [];
  hub!: TestHub;
  repoList = '';

  async start(report: string, cache: string, built: Binaries): Promise<void> {
    const later = <T extends { stop(): Promise<unknown> }>(part: T): T => {
      this.#stops.unshift(() => part.stop());
      return part;
    };
    const registry = later(await Registry.start());
    await pushImages(registry, cache, built, say);
    // Where pods reach it: loopback is their own.
    this.hub = new TestHub(undefined, ['--host', outwardAddress()]);
    this.#stops.unshift(async () => remove(this.hub.dataDir));
    later(await this.hub.start());
    for (const name of ['pi1', 'pi2']) {
      const containerd = later(await Containerd.start());
      const agent = new TestAgent(name, ['--runtime-endpoint', containerd.endpoint]);
      this.#stops.unshift(async () => remove(agent.dataDir));
      later(await agent.start('--join', await this.hub.token()));
      this.#stops.unshift(async () => writeFileSync(join(report, `${name}.log`), agent.process.log));
      await nodeReady(this.hub.kubectl(), name, () => agent.process.tail());
    }
    this.#stops.unshift(async () => writeFileSync(join(report, 'hub.log'), this.hub.process.log));
    this.repoList = join(report, 'repos.yaml');
    const lists = ['promoterE2eRegistry', 'buildImageRegistry', 'gcEtcdRegistry', 'gcRegistry'];
    writeFileSync(
      this.repoList,
      [...lists, 'dockerLibraryRegistry'].map((l) => `${l}: ${registry.host}\n`).join(''),
    );
  }

  async stop(): Promise<void> {
    for (const stop of this.#stops.splice(0)) await stop().catch((e: unknown) => console.error(e));
  }
}

async function main(): Promise<number> {
  if (flags.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const lacking = missing(...DEVICE_PARTS, 'curl');
  if (lacking) throw new Error(`these are needed: ${lacking}`);
  const cache = join(process.env['COX_TEST_CACHE'] ?? join(homedir(), '.cache/coxswain'), 'conformance');
  const report = flags.report ?? mkdtempSync(join(tmpdir(), 'cox-conformance-'));
  mkdirSync(report, { recursive: true });
  const built = await binaries(cache, say);

  const system = new System();
  let tests: ChildProcess | undefined;
  let interrupted = false;
  const waiting = new Promise<void>((done) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
      process.once(signal, () => {
        interrupted = true;
        tests?.kill('SIGINT');
        done();
      });
  });
  try {
    await system.start(report, cache, built);
    const skip = [...flags.skip, ...(flags.all ? [] : KNOWN.map((k) => k.tests))];
    const args = [
      `--kubeconfig=${system.hub.kubeconfig}`,
      `--kubectl-path=${kubectlPath('1.36')}`,
      `--report-dir=${report}`,
      ...[
        '--provider=skeleton',
        '--disable-log-dump',
        '--dump-logs-on-failure=false',
        '--ginkgo.no-color',
        '--ginkgo.silence-skips',
      ],
      ...['--ginkgo.timeout=6h', '--node-os-distro=custom'],
      ...flags.flags.split(' ').filter(Boolean),
    ];
    if (flags.serve) {
      say('ready; run the tests yourself:');
      console.log(`export KUBECONFIG=${system.hub.kubeconfig} KUBE_TEST_REPO_LIST=${system.repoList}`);
      console.log(`${built.e2e} ${args.join(' ')} --ginkgo.focus=...`);
      await waiting;
      return 0;
    }
    if (interrupted) return 130;
    for (const f of flags.focus) args.push(`--ginkgo.focus=${f}`);
    for (const s of skip) args.push(`--ginkgo.skip=${s}`);
    tests = spawn(built.e2e, args, {
      stdio: 'inherit',
      cwd: report,
      env: { ...process.env, KUBE_TEST_REPO_LIST: system.repoList },
    });
    const status = await new Promise<number>((done) => tests?.on('close', (code) => done(code ?? 1)));
    summary(report);
    return status;
  } finally {
    say('stopping');
    await system.stop();
    say(`report: ${report}`);
  }
}

/** One line a test, from the JUnit report. */
function summary(report: string): void {
  const xml = readFileSync(join(report, 'junit_01.xml'), 'utf8');
  const counts = { passed: 0, failed: 0 };
  const failed: string[] = [];
  for (const [, attributes, body] of xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const of = (name: string) => new RegExp(`${name}="([^"]*)"`).exec(attributes!)?.[1] ?? '';
    if (body?.includes('<skipped') || !of('name').startsWith('[It]')) continue;
    if (body?.includes('<failure') || body?.includes('<error')) {
      counts.failed++;
      failed.push(of('name'));
    } else counts.passed++;
  }
  for (const f of failed) console.log(`failed: ${f}`);
  say(`${counts.passed} passed, ${counts.failed} failed`);
}

main().then(
  (status) => {
    process.exitCode = status;
  },
  (e: unknown) => {
    console.error(`conformance: ${(e as Error).message}`);
    process.exitCode = 1;
  },
);
