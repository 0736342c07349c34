import { UsageError } from './flags.js';
import { collectWhenQuiet, useLittleMemory, useModestMemory } from './v8.js';

interface Command {
  usage: string;
  summary: string;
  /** Runs on and on; `waits`: mostly waiting, on a device where memory counts more than speed. */
  daemon?: 'serves' | 'waits';
  load(): Promise<(argv: string[]) => Promise<number>>;
}

/** Each command is loaded only when it runs: an agent never pays for the hub's modules. */
const COMMANDS: Record<string, Command> = {
  up: {
    usage: 'up [--data-dir DIR] [--api-port P] [--mqtt-port P] [--node-name N]',
    summary: 'a hub and one agent on this machine; Ctrl-C stops both',
    daemon: 'serves',
    load: async () => (await import('./up.js')).up,
  },
  hub: {
    usage: 'hub --data-dir DIR [--host ADDR] [--api-port P] [--mqtt-port P] [--broker URL]',
    summary: 'the Kubernetes API, scheduler, controllers and broker',
    daemon: 'serves',
    load: async () => (await import('./hub.js')).hub,
  },
  token: {
    usage: 'token create --data-dir DIR [--ttl 24h] [--uses N] [--node-name N]',
    summary: 'prints a token with which a device may join',
    load: async () => (await import('./token.js')).token,
  },
  agent: {
    usage: 'agent --data-dir DIR [--join TOKEN] [--node-name N] [--label k=v]…',
    summary: 'runs pods on this device',
    daemon: 'waits',
    load: async () => (await import('./agent.js')).agent,
  },
  node: {
    usage: 'node revoke NAME [--wipe] [--data-dir DIR]',
    summary: 'locks a lost or stolen device out, at once and for good',
    load: async () => (await import('./node.js')).node,
  },
  push: {
    usage: 'push FILE.wasm NAME:TAG [--data-dir DIR]',
    summary: "puts a Wasm module into the hub's registry",
    load: async () => (await import('./push.js')).push,
  },
  broker: {
    usage: 'broker mosquitto --data-dir DIR --out DIR2',
    summary: 'writes the configuration of a broker of your own',
    load: async () => (await import('./broker.js')).broker,
  },
};

function help(): string {
  const lines = Object.values(COMMANDS).map((c) => `  cox ${c.usage}\n      ${c.summary}`);
  return `cox: the Kubernetes API for fleets of small ARM devices\n\n${lines.join('\n')}\n\n"cox COMMAND --help" lists a command's flags.\n`;
}

/** `cox`: dispatches to one command and turns its failure into one line and an exit code (2: usage, 1: anything else). */
export async function main(argv: string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    process.stdout.write(help());
    return name === undefined ? 2 : 0;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!command) {
    process.stderr.write(`cox: unknown command "${name}"; "cox help" lists them\n`);
    return 2;
  }
  try {
    if (command.daemon === 'waits') useLittleMemory();
    if (command.daemon === 'serves') useModestMemory();
    if (command.daemon) collectWhenQuiet();
    return await (await command.load())(rest);
  } catch (e) {
    if (e instanceof UsageError) {
      process.stderr.write(`cox ${name}: ${e.message}\nusage: cox ${command.usage}\n`);
      return 2;
    }
    const trace = process.env['COX_LOG'] === 'debug' && e instanceof Error ? `\n${e.stack}` : '';
    process.stderr.write(`cox ${name}: ${e instanceof Error ? e.message : String(e)}${trace}\n`);
    return 1;
  }
}
