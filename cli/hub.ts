import { join } from 'node:path';
import { systemClock } from '../api/clock.js';
import { parseBrokerUrl } from '../hub/link/external.js';
import { Hub, type HubOptions } from '../hub/main.js';
import { serviceNetwork } from '../hub/registry/service-addresses.js';
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

export const HUB_FLAGS: Record<string, Flag> = {
  'data-dir': { value: 'DIR', help: 'where the cluster is kept', default: defaultDataDir() },
  host: {
    value: 'ADDR',
    help: 'address to listen on, and under which clients and devices reach the hub; absent: every interface',
  },
  'api-port': {
    value: 'P',
    default: '6443',
    help: 'HTTPS port of the Kubernetes API and the registry; 0 picks one',
  },
  'mqtt-port': { value: 'P', default: '8883', help: 'TLS port of the embedded broker; 0 picks one' },
  broker: { value: 'URL', help: 'use this broker, e.g. mqtts://broker:8883, and start none' },
  'disable-admission-plugins': {
    value: 'NAMES',
    help: 'admission plugins to leave out, separated by commas, e.g. ServiceAccount',
  },
  'service-cluster-ip-range': {
    value: 'CIDR',
    help: 'where Services get their addresses from (default 10.96.0.0/16)',
  },
  store: { value: 'KIND', default: 'nedb', help: 'nedb (on disk) or memory (lost at exit)' },
};

/** Reads the flags; those left out are as at the last start on this data directory, ports that were picked included. */
export function hubOptions(flags: Flags): HubOptions {
  const remembered = readSettings(settingsFile(flags));
  flags.remember(remembered);
  const store = flags.required('store');
  if (store !== 'nedb' && store !== 'memory')
    throw new UsageError(
      `--store ${store} is not available: this version has nedb (one machine) and memory (for trials)`,
    );
  const broker = flags.text('broker');
  const network = flags.text('service-cluster-ip-range');
  try {
    if (broker !== undefined) parseBrokerUrl(broker);
    if (network !== undefined) serviceNetwork(network);
  } catch (e) {
    throw new UsageError((e as Error).message);
  }
  return {
    dataDir: flags.required('data-dir'),
    host: flags.text('host'),
    apiPort: flags.number('api-port', 0, 65535),
    mqttPort: flags.number('mqtt-port', 0, 65535),
    lastPorts: { api: Number(remembered['api-port'] ?? 0), mqtt: Number(remembered['mqtt-port'] ?? 0) },
    broker,
    store,
    serviceNetwork: network,
    disabledAdmission: (flags.text('disable-admission-plugins') ?? '').split(',').filter(Boolean),
    clock: systemClock,
    log: createLogger({ name: 'hub' }),
  };
}

const settingsFile = (flags: Flags): string => join(flags.required('data-dir'), 'hub.json');

/** After the start: the next one needs no flag but `--data-dir`. */
export function rememberHub(flags: Flags, { apiPort, mqttPort }: ReturnType<Hub['addresses']>): void {
  const ports = {
    'api-port': `${apiPort}`,
    ...(mqttPort === undefined ? {} : { 'mqtt-port': `${mqttPort}` }),
  };
  const hubFlags = Object.entries(flags.settings()).filter(([name]) => name in HUB_FLAGS);
  saveSettings(settingsFile(flags), { ...Object.fromEntries(hubFlags), ...ports }, ['data-dir']);
}

/** `cox hub`: serves until SIGINT or SIGTERM. */
export async function hub(argv: string[]): Promise<number> {
  if (argv.includes('--help')) {
    process.stdout.write(`usage: cox hub [flags]\n\n${describeFlags(HUB_FLAGS)}\n`);
    return 0;
  }
  const flags = parseFlags(argv, HUB_FLAGS);
  const options = hubOptions(flags);
  const server = new Hub(options);
  // First of all: it also keeps the process alive while only unreferenced timers are waited for.
  const stopped = untilStopped();
  await server.start();
  rememberHub(flags, server.addresses());
  options.log.info(server.addresses(), 'ready');
  await stopped;
  await server.stop();
  return 0;
}
