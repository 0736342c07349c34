import { join } from 'node:path';
import { Agent, type AgentOptions } from '../agent/main.js';
import { parseReserve } from '../agent/node/node.js';
import { DEFAULT_EVICTION_HARD, parseThresholds } from '../agent/node/pressure.js';
import { systemClock } from '../api/clock.js';
import { KEEPALIVE_SECONDS } from '../api/wire/topics.js';
import {
  defaultDataDir,
  describeFlags,
  type Flag,
  type Flags,
  parseFlags,
  readSettings,
  saveSettings,
  UsageError,
} from './flags.js';
import { createLogger } from './logger.js';
import { untilStopped } from './signals.js';

/** The agent's flags but `--data-dir` and `--join`, which `cox up` sees to itself. */
export const NODE_FLAGS: Record<string, Flag> = {
  'node-name': { value: 'NAME', help: "the node's name at its first join (default the host's name)" },
  label: { value: 'K=V', multiple: true, help: 'label for the node' },
  'runtime-endpoint': {
    value: 'URL',
    help: 'CRI socket, e.g. unix:///run/containerd/containerd.sock (default that one, where it is there)',
  },
  'pod-subnet': {
    value: 'CIDR',
    help: 'addresses for containers, where the machine has no CNI configuration',
    default: '10.85.0.0/16',
  },
  'wasm-allow-unjailed': {
    help: 'run Wasm pods even where they cannot be jailed (no root, no namespaces): trusted modules only',
  },
  'eviction-hard': {
    value: 'LIST',
    help: 'below (or above) these the node is under pressure',
    default: DEFAULT_EVICTION_HARD,
  },
  'pressure-transition-period': {
    value: 'SECONDS',
    help: 'a pressure is over when it was not seen for so long',
    default: '300',
  },
  'system-reserved': {
    value: 'LIST',
    help: 'kept from pods',
    default: 'cpu=50m,memory=128Mi,ephemeral-storage=512Mi',
  },
  'max-pods': { value: 'N', help: 'pods that this node takes', default: '110' },
  keepalive: {
    value: 'SECONDS',
    help: 'silence after which the link says that it is alive; the hub misses it after half as long again',
    default: String(KEEPALIVE_SECONDS),
  },
};

const AGENT_FLAGS: Record<string, Flag> = {
  'data-dir': {
    value: 'DIR',
    help: 'where the device keeps its identity and its pods',
    default: join(defaultDataDir(), 'agent'),
  },
  join: { value: 'TOKEN', help: 'from "cox token create" on the hub; needed once' },
  ...NODE_FLAGS,
  fake: { help: 'add the runtime "fake", which plays pods by the script in their annotations (simulations)' },
};

function labels(texts: string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const eq = text.indexOf('=');
      if (eq < 1) throw new UsageError(`--label must be KEY=VALUE, not "${text}"`);
      return [text.slice(0, eq), text.slice(eq + 1)];
    }),
  );
}

/** Wrong values are told before anything is begun. */
function checked(name: string, value: string, parse: (text: string) => unknown): string {
  try {
    parse(value);
  } catch (e) {
    throw new UsageError(`--${name}: ${(e as Error).message}`);
  }
  return value;
}

function socketUrl(text: string | undefined): string | undefined {
  if (text !== undefined && !text.startsWith('unix:///'))
    throw new UsageError(
      `--runtime-endpoint must be unix:///PATH/OF/SOCKET, not "${text}", e.g. unix:///run/containerd/containerd.sock`,
    );
  return text;
}

/** What the node flags say; the rest of the agent's options comes from the caller. */
export function nodeOptions(flags: Flags): Omit<AgentOptions, 'dataDir' | 'log' | 'clock'> {
  const keepalive = flags.number('keepalive', 10, 1200);
  return {
    nodeName: flags.text('node-name'),
    runtimeEndpoint: socketUrl(flags.text('runtime-endpoint')),
    podSubnet: flags.text('pod-subnet'),
    wasmAllowUnjailed: flags.on('wasm-allow-unjailed'),
    keepalive,
    node: {
      labels: labels(flags.list('label')),
      evictionHard: checked('eviction-hard', flags.required('eviction-hard'), parseThresholds),
      pressureTransitionSeconds: flags.number('pressure-transition-period', 0, 86_400),
      systemReserved: checked('system-reserved', flags.required('system-reserved'), parseReserve),
      maxPods: flags.number('max-pods', 1, 1000),
    },
  };
}

/** `cox agent`: joins once, then runs until SIGINT or SIGTERM. Workloads go on without it. */
export async function agent(argv: string[]): Promise<number> {
  if (argv.includes('--help')) {
    process.stdout.write(`usage: cox agent [--join TOKEN] [flags]\n\n${describeFlags(AGENT_FLAGS)}\n`);
    return 0;
  }
  const flags = parseFlags(argv, AGENT_FLAGS);
  const file = join(flags.required('data-dir'), 'agent.json');
  flags.remember(readSettings(file));
  const log = createLogger({ name: 'agent' });
  const running = new Agent({
    ...nodeOptions(flags),
    dataDir: flags.required('data-dir'),
    join: flags.text('join'),
    fake: flags.on('fake'),
    clock: systemClock,
    log,
  });
  // First of all: it also keeps the process alive while only unreferenced timers are waited for.
  const stopped = untilStopped();
  await running.start();
  saveSettings(file, flags.settings(), ['data-dir', 'join']);
  log.info({}, 'ready');
  await stopped;
  await running.stop();
  return 0;
}
