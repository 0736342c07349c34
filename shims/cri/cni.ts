/** A pod network for a machine that has none: the reference CNI plugins' bridge, addresses from a subnet of the node. */
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface CniOptions {
  /** Name of the bridge interface, at most 15 characters. */
  bridge?: string;
  /** Name of the network; host-local keeps its leases below it. */
  network?: string;
  /** Where host-local keeps its leases; absent: /var/lib/cni/networks. */
  dataDir?: string;
}

/** Sorts behind what network add-ons write (`05-…`, `10-…`), so that theirs wins once there is one. */
const FILE = '87-coxswain.conflist';

/**
 * Writes a configuration for `subnet` (IPv4 CIDR, e.g. `10.88.0.0/16`) into `dir` unless any is there already. Returns
 * the path of what was written, or undefined when there was one. Rejects on a malformed subnet and on errors of the disk.
 */
export async function ensureCniConfig(
  dir: string,
  subnet: string,
  options: CniOptions = {},
): Promise<string | undefined> {
  checkSubnet(subnet);
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).some((f) => /\.(conf|conflist|json)$/.test(f))) return undefined;
  const path = join(dir, FILE);
  const temporary = `${path}.tmp`;
  try {
    await writeFile(temporary, `${JSON.stringify(cniConfig(subnet, options), null, 2)}\n`, { mode: 0o644 });
    await rename(temporary, path);
  } catch (e) {
    await rm(temporary, { force: true }).catch(() => {});
    throw e;
  }
  return path;
}

/** https://www.cni.dev/docs/spec/, plugins bridge, host-local, portmap and firewall. */
export function cniConfig(subnet: string, options: CniOptions = {}): object {
  return {
    cniVersion: '0.4.0',
    name: options.network ?? 'coxswain',
    plugins: [
      {
        type: 'bridge',
        bridge: options.bridge ?? 'cox0',
        isGateway: true,
        ipMasq: true,
        // A pod may reach itself through its own host port.
        hairpinMode: true,
        ipam: {
          type: 'host-local',
          ranges: [[{ subnet }]],
          routes: [{ dst: '0.0.0.0/0' }],
          ...(options.dataDir ? { dataDir: options.dataDir } : {}),
        },
      },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
      // Docker and firewalls drop what is forwarded unless told otherwise.
      { type: 'firewall' },
    ],
  };
}

function checkSubnet(subnet: string): void {
  const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(subnet);
  const [a, b, c, d, bits] = (m ?? []).slice(1).map(Number) as [number, number, number, number, number];
  const fits = m && [a, b, c, d].every((n) => n <= 255) && bits >= 8 && bits <= 29;
  const address = fits ? ((a << 24) | (b << 16) | (c << 8) | d) >>> 0 : 0;
  if (!fits || address % 2 ** (32 - bits) !== 0)
    throw new Error(
      `pod subnet ${JSON.stringify(subnet)}: expected an IPv4 network such as 10.88.0.0/16, /8 to /29`,
    );
}
