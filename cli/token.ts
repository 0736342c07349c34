/** `cox token create`: a join token for new devices, kept by the hub as a Kubernetes bootstrap token. */
import { randomInt } from 'node:crypto';
import type { ConfigMap, Secret } from 'kubernetes-types/core/v1.js';
import { rfc3339, systemClock } from '../api/clock.js';
import { formatToken, NODE_NAME } from '../api/wire/join.js';
import { bootstrapTokenSecret, LINK_CONFIG } from '../hub/link/token.js';
import { ApiClient, readAccess } from './client.js';
import { defaultDataDir, describeFlags, type Flag, parseFlags, UsageError } from './flags.js';

const FLAGS: Record<string, Flag> = {
  'data-dir': { value: 'DIR', help: "the hub's data directory", default: defaultDataDir() },
  ttl: { value: 'TIME', help: 'how long it is valid, e.g. 30m, 24h, 7d', default: '24h' },
  'node-name': {
    value: 'NAME',
    help: 'only for a node of this name, which it may replace when that is not connected',
  },
  uses: { value: 'N', help: 'how many devices may join with it', default: '1' },
};

const UNITS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds of `90s`, `24h`, `1h30m`; throws UsageError. */
export function parseDuration(flag: string, text: string): number {
  const parts = [...text.matchAll(/(\d+)([smhd])/g)];
  const ms = parts.reduce((sum, [, n, unit]) => sum + Number(n) * UNITS[unit!]!, 0);
  if (parts.map((p) => p[0]).join('') !== text || ms <= 0 || ms > 10 * 365 * UNITS['d']!)
    throw new UsageError(`--${flag} must be a time such as 30m, 24h or 7d, not "${text}"`);
  return ms;
}

const random = (length: number): string =>
  Array.from({ length }, () => '0123456789abcdefghijklmnopqrstuvwxyz'[randomInt(36)]).join('');

/** Makes a join token at a running hub; `ttl` in milliseconds, `uses` is how many devices may join with it. */
export async function createToken(
  client: ApiClient,
  { ttl, uses, nodeName }: { ttl: number; uses: number; nodeName?: string | undefined },
): Promise<string> {
  const { namespace, name } = LINK_CONFIG;
  const config = await client.call<ConfigMap>('GET', `/api/v1/namespaces/${namespace}/configmaps/${name}`);
  const addresses = (config.data?.['join'] ?? '').split(',').filter(Boolean);
  const caHash = config.data?.['caHash'] ?? '';
  if (!addresses.length || !caHash)
    throw new Error(
      `ConfigMap ${namespace}/${name} does not say where the hub is; restart the hub to write it anew`,
    );
  const id = random(6);
  const secret = random(16);
  const expiration = rfc3339(systemClock.now() + ttl);
  await client.call<Secret>(
    'POST',
    `/api/v1/namespaces/${namespace}/secrets`,
    bootstrapTokenSecret({ id, secret, expiration, uses, ...(nodeName ? { nodeName } : {}) }),
  );
  return formatToken({ addresses, caHash, id, secret });
}

export async function token(argv: string[]): Promise<number> {
  if (argv.includes('--help')) {
    process.stdout.write(`usage: cox token create [flags]\n\n${describeFlags(FLAGS)}\n`);
    return 0;
  }
  const flags = parseFlags(argv, FLAGS, 1);
  if (flags.positionals[0] !== 'create') throw new UsageError('say: cox token create');
  const ttl = parseDuration('ttl', flags.required('ttl'));
  const uses = flags.number('uses', 1, 100_000);
  const nodeName = flags.text('node-name');
  if (nodeName !== undefined && !NODE_NAME.test(nodeName))
    throw new UsageError(
      `--node-name: "${nodeName}" cannot name a node: lower case letters, digits, "-" and "." only`,
    );
  const client = new ApiClient(readAccess(flags.required('data-dir')));
  try {
    process.stdout.write(`${await createToken(client, { ttl, uses, nodeName })}\n`);
    return 0;
  } finally {
    client.close();
  }
}
