// The README's first command: a hub and an agent from embedded parts, an example built, pushed, applied and shown live.
// Runs until Ctrl-C, which removes what it started. `--exit` ends it after the show (for tests).
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseAllDocuments } from 'yaml';

const root = resolve(import.meta.dirname, '..');
process.chdir(root);
if (!existsSync('dist/cli/main.js')) spawnSync('npm', ['run', '-s', 'build'], { stdio: 'inherit' });
const { ApiClient, readAccess } = await import('../dist/cli/client.js');

const EXAMPLE = 'wasm-sensor';
const MODULES = { 'sensor.wasm': 'sensor:1', 'summary.wasm': 'summary:1' };
const dataDir = join(root, '.tmp', 'demo');
const tty = process.stdout.isTTY;
const bold = (s) => (tty ? `\x1b[1m${s}\x1b[0m` : s);
const dim = (s) => (tty ? `\x1b[2m${s}\x1b[0m` : s);
const step = (s) => console.log(`\n${bold(`» ${s}`)}`);
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

let up;
let client;
let ending = false;
const applied = [];

async function end(code) {
  if (ending) return;
  ending = true;
  if (client && applied.length) {
    step('Removing the example');
    for (const { path } of applied.reverse())
      await client.call('DELETE', `${path}?gracePeriodSeconds=1`).catch(() => {});
    for (let i = 0; i < 100; i++) {
      const pods = await client.call('GET', '/api/v1/namespaces/default/pods').catch(() => undefined);
      if (!pods || pods.items.length === 0) break;
      await sleep(100);
    }
  }
  client?.close();
  if (up && up.exitCode === null) {
    step('Stopping hub and agent');
    up.kill('SIGTERM');
    await new Promise((done) => up.on('exit', done));
  }
  rmSync(dataDir, { recursive: true, force: true });
  process.exit(code);
}
const fail = async (why) => {
  console.error(`\ndemo: ${why}`);
  await end(1);
};
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => void end(0));

// A demo that was cut short may have left its directory; nothing in it is worth keeping.
rmSync(dataDir, { recursive: true, force: true });
mkdirSync(dataDir, { recursive: true, mode: 0o700 });

step(`Building the modules of examples/${EXAMPLE}`);
if (spawnSync(process.execPath, ['scripts/examples.mjs', EXAMPLE], { stdio: 'inherit' }).status !== 0)
  await fail('the example did not build');

step('Starting a hub and an agent');
const args = [
  'cli/cox.js',
  'up',
  '--data-dir',
  dataDir,
  '--host',
  '127.0.0.1',
  '--api-port',
  '0',
  '--mqtt-port',
  '0',
];
// Without root there is no kernel jail; the example's own modules are trusted.
if (process.getuid?.() !== 0) {
  args.push('--wasm-allow-unjailed');
  console.log(dim('not root: the modules run without their kernel jail'));
}
// Its own process group: Ctrl-C reaches this script alone, which then stops things in order.
up = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'pipe'], detached: true });
let log = '';
up.stderr.on('data', (c) => {
  log = (log + c).slice(-20_000);
  if (process.env.COX_LOG) process.stderr.write(c);
});
up.on('exit', (code) => {
  if (!ending) {
    console.error(log);
    void fail(`cox up ended with ${code}`);
  }
});

const kubeconfig = join(dataDir, 'admin.kubeconfig');
const until = async (what, probe, seconds = 60) => {
  for (let i = 0; i < seconds * 20 && !ending; i++) {
    const value = await probe();
    if (value) return value;
    await sleep(50);
  }
  if (ending) return new Promise(() => {});
  console.error(log);
  await fail(`gave up waiting for ${what}`);
};
await until('the hub', () => existsSync(kubeconfig) && log.includes('"msg":"ready"'));
client = new ApiClient(readAccess(dataDir));
const ready = (node) => node.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True');
const node = await until('a node', async () => (await client.call('GET', '/api/v1/nodes')).items.find(ready));
console.log(
  `node ${bold(node.metadata.name)} is Ready: ${node.status.nodeInfo.architecture}, ${node.status.nodeInfo.osImage}, ${node.status.nodeInfo.containerRuntimeVersion}`,
);

step("Pushing the modules into the hub's registry");
for (const [file, name] of Object.entries(MODULES)) {
  const path = join('examples', EXAMPLE, 'build', file);
  const push = spawnSync(process.execPath, ['cli/cox.js', 'push', path, name, '--data-dir', dataDir], {
    stdio: 'inherit',
  });
  if (push.status !== 0) await fail(`${path} could not be pushed`);
}

step(`Applying examples/${EXAMPLE}`);
const resources = await client.call('GET', '/api/v1');
const appsResources = await client.call('GET', '/apis/apps/v1');
for (const file of readdirSync(join('examples', EXAMPLE))
  .filter((f) => /\.ya?ml$/.test(f))
  .sort()) {
  for (const document of parseAllDocuments(readFileSync(join('examples', EXAMPLE, file), 'utf8'))) {
    const object = document.toJS();
    if (!object?.kind) continue;
    const { plural, prefix } =
      [
        { list: resources.resources, prefix: '/api/v1' },
        { list: appsResources.resources, prefix: '/apis/apps/v1' },
      ]
        .map(({ list, prefix }) => ({
          plural: list.find((r) => r.kind === object.kind && !r.name.includes('/'))?.name,
          prefix,
        }))
        .find((r) => r.plural) ?? {};
    const path = `${prefix}/namespaces/default/${plural}`;
    await client.call('POST', path, object).catch((e) => fail(`${file}: ${e.message}`));
    applied.push({ path: `${path}/${object.metadata.name}` });
    console.log(`${object.kind.toLowerCase()}/${object.metadata.name} created`);
  }
}

step('Its pods come up');
let shown = '';
const pods = await until('the pods to run', async () => {
  const table = await client.call('GET', '/api/v1/namespaces/default/pods');
  const rows = table.items.map((p) => {
    const statuses = p.status?.containerStatuses ?? [];
    const waiting = statuses.map((s) => s.state?.waiting?.reason).find(Boolean);
    const readyCount = statuses.filter((s) => s.ready).length;
    return `${p.metadata.name.padEnd(40)} ${readyCount}/${p.spec.containers.length}  ${waiting ?? p.status?.phase ?? ''}`;
  });
  const text = rows.join('\n');
  if (text !== shown) console.log(text);
  shown = text;
  const up = table.items.filter(
    (p) =>
      p.status?.containerStatuses?.length &&
      p.status.containerStatuses.every((s) => s.ready || s.state?.terminated?.exitCode === 0),
  );
  return up.length > 0 && up.length === table.items.length && up;
});

step('What they log');
for (const pod of pods)
  for (const { name } of pod.spec.containers) {
    const path = `/api/v1/namespaces/default/pods/${pod.metadata.name}/log?container=${name}&tailLines=5`;
    const text = await until(`log lines of ${name}`, async () => {
      const lines = String(await client.call('GET', path)).trim();
      return lines.split('\n').length >= 3 && lines;
    });
    for (const line of text.split('\n')) console.log(`${dim(`${pod.metadata.name}/${name}`)}  ${line}`);
  }

step('Your turn, in another terminal');
console.log(`  export KUBECONFIG=${kubeconfig}

  1. kubectl get nodes,pods -o wide && kubectl describe deployment/sensor
  2. kubectl logs -f deployment/sensor -c summary
  3. kubectl scale deployment/sensor --replicas=3 && kubectl get pods -w

No kubectl yet? Debian 13: apt-get install kubectl; Debian 12: kubernetes-client. More: examples/README.md, npx cox help
${bold('Ctrl-C stops everything.')}`);

if (process.argv.includes('--exit')) await end(0);
