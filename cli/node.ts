/** `cox node revoke`: puts a node's key on the hub's list of revoked ones, and deletes its Node object. */
import type { ConfigMap, Node } from 'kubernetes-types/core/v1.js';
import { isApiError } from '../api/meta/errors.js';
import { REVOKE_ANNOTATION, REVOKED } from '../hub/link/revocation.js';
import { ApiClient, readAccess } from './client.js';
import { defaultDataDir, describeFlags, type Flag, parseFlags, UsageError } from './flags.js';

const FLAGS: Record<string, Flag> = {
  'data-dir': { value: 'DIR', help: "the hub's data directory", default: defaultDataDir() },
  wipe: { help: 'also order the device to erase its key, its secrets and its pods; it must join anew' },
};

const WAIT_MS = 15_000;
const POLL_MS = 100;

export async function node(argv: string[]): Promise<number> {
  if (argv.includes('--help')) {
    process.stdout.write(`usage: cox node revoke NAME [flags]\n\n${describeFlags(FLAGS)}\n`);
    return 0;
  }
  const flags = parseFlags(argv, FLAGS, 2);
  const [verb, name] = flags.positionals;
  if (verb !== 'revoke' || !name) throw new UsageError('say: cox node revoke NAME');
  const client = new ApiClient(readAccess(flags.required('data-dir')));
  const path = `/api/v1/nodes/${encodeURIComponent(name)}`;
  const list = `/api/v1/namespaces/${REVOKED.namespace}/configmaps/${REVOKED.name}`;
  const how = flags.on('wipe') ? 'wipe' : 'lock';
  try {
    await client.call<Node>(
      'PATCH',
      path,
      { metadata: { annotations: { [REVOKE_ANNOTATION]: how } } },
      'application/merge-patch+json',
    );
    const key = await listed(client, list, name, how === 'wipe');
    if (!key)
      throw new Error(`the hub did not put node "${name}" on the list of revoked keys; its log says why`);
    await client.call('DELETE', path);
    process.stdout.write(
      `node "${name}" is revoked (key ${key}) and deleted\n\n` +
        'What its pods could read is known to whoever has the device: replace those Secrets.\n' +
        `To let the same device in again: kubectl -n ${REVOKED.namespace} patch configmap ${REVOKED.name} ` +
        `--type=merge -p '{"data":{"${key}":null}}'\n`,
    );
    return 0;
  } finally {
    client.close();
  }
}

/** The entry's key once the hub has written it; undefined when it does not come. */
async function listed(
  client: ApiClient,
  path: string,
  name: string,
  wipe: boolean,
): Promise<string | undefined> {
  for (let waited = 0; waited < WAIT_MS; waited += POLL_MS) {
    const config = await client.call<ConfigMap>('GET', path).catch((e: unknown) => {
      if (!isApiError(e, 'NotFound')) throw e;
      return undefined;
    });
    for (const [key, text] of Object.entries(config?.data ?? {}))
      if (text.includes(`"node":"${name}"`) && (!wipe || text.includes('"wipe":true'))) return key;
    await new Promise((r) => setTimeout(r, POLL_MS));
  }
  return undefined;
}
