import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Hub } from '../hub/main.js';
import { NODE_FLAGS } from './agent.js';
import { ApiClient, readAccess } from './client.js';
import { describeFlags, type Flag, parseFlags } from './flags.js';
import { HUB_FLAGS, hubOptions, rememberHub } from './hub.js';
import { UNTIL_STDIN_ENDS, untilStopped } from './signals.js';
import { createToken } from './token.js';

const UP_FLAGS: Record<string, Flag> = { ...HUB_FLAGS, ...NODE_FLAGS };

const exitOf = (child: ChildProcess): Promise<number | null> =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve(child.exitCode)
    : new Promise((done) => child.once('exit', (code) => done(code)));

/** `cox up`: a hub in this process and one agent as its child; the first to end, or Ctrl-C, ends both. */
export async function up(argv: string[]): Promise<number> {
  if (argv.includes('--help')) {
    process.stdout.write(`usage: cox up [flags]\n\n${describeFlags(UP_FLAGS)}\n`);
    return 0;
  }
  const flags = parseFlags(argv, UP_FLAGS);
  const options = hubOptions(flags);
  const stopped = untilStopped();
  const hub = new Hub(options);
  await hub.start();

  const agentDir = join(options.dataDir, 'agent');
  const args = ['agent', '--data-dir', agentDir];
  if (!existsSync(join(agentDir, 'identity.json'))) {
    const client = new ApiClient(readAccess(options.dataDir));
    args.push('--join', await createToken(client, { ttl: 600_000, uses: 1 }));
    client.close();
  }
  // The agent's own flags, as they were given; it remembers them itself.
  for (const [name, value] of Object.entries(flags.settings()))
    if (name in NODE_FLAGS)
      for (const v of [value].flat()) args.push(v === true ? `--${name}` : `--${name}=${v}`);
  // A process group of its own: Ctrl-C reaches this process alone, which then stops both in order. Its standard input
  // ends with this process, however that ends, and it with its standard input.
  const agent = spawn(process.execPath, [process.argv[1]!, ...args], {
    stdio: ['pipe', 'inherit', 'inherit'],
    env: { ...process.env, [UNTIL_STDIN_ENDS]: '1' },
    detached: true,
  });
  agent.stdin?.on('error', () => {});
  const agentEnded = exitOf(agent);
  rememberHub(flags, hub.addresses());
  options.log.info(hub.addresses(), 'ready');
  const first = await Promise.race([stopped, agentEnded.then((code) => ({ code }))]);
  if (agent.exitCode === null && agent.signalCode === null) {
    agent.kill('SIGTERM');
    await agentEnded;
  }
  await hub.stop();
  if (!first) return 0;
  throw new Error(`the agent ended by itself with ${first.code ?? 'a signal'}; its log says why`);
}
