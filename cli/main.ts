import { UsageError } from './flags.js';

interface Command {
  usage: string;
  summary: string;
  load(): Promise<(argv: string[]) => Promise<number>>;
}

/** Each command is loaded only when it runs: an agent never pays for the hub's modules. */
const COMMANDS: Record<string, Command> = {};

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
