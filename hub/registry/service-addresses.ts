/**
 * Cluster addresses and node ports of Services: what no two may have. The Services themselves are the record of who has
 * what; this class remembers it in memory, and what is on its way into the store besides (Kubernetes'
 * registry/core/service/storage/alloc.go).
 */
import type { Service, ServiceSpec } from 'kubernetes-types/core/v1.js';
import { services } from '../../api/kinds/index.js';
import type { FieldError } from '../../api/kinds/kind.js';
import { needsClusterIP, nodePortsOf, wantsNodePorts } from '../../api/kinds/service.js';
import { isHeadless, needsHealthCheck, validateClusterIPs } from '../../api/kinds/service-validation.js';
import { ApiError } from '../../api/meta/errors.js';
import { invalid, invalidObject } from '../../api/meta/field-errors.js';
import {
  contains,
  familyOf,
  formatIp,
  formatNetwork,
  type IpFamily,
  type Network,
  networkSize,
  parseIp,
  parseNetwork,
} from '../../api/meta/ip.js';
import { deepEqual } from '../../api/meta/json.js';
import type { Frozen } from '../client.js';
import type { Allocator, Claim } from './allocator.js';
import { Pool, reservedOf } from './pool.js';

/** More addresses than this are never needed, and they are kept in a set. */
const MAX_ADDRESSES = 2 ** 20;
const FIRST_PORT = 30_000;
const LAST_PORT = 32_767;

export interface ServiceAddressesOptions {
  /** e.g. `10.96.0.0/16` */
  network: string;
  /** All Services of the store; asked once, before the first one is written. */
  all(): Iterable<Frozen<Service>>;
  random(): number;
}

/** Throws when `text` is no network for Services, saying why. */
export function serviceNetwork(text: string): Network {
  const network = parseNetwork(text);
  if (!network) throw new Error(`"${text}" is no network: it looks like 10.96.0.0/16`);
  const size = networkSize(network);
  if (size < 8n || size > MAX_ADDRESSES)
    throw new Error(`"${text}" has ${size} addresses: it may have 8 to ${MAX_ADDRESSES}`);
  return network;
}

/** The address of the Service `kubernetes`. */
export const firstAddress = ({ family, first }: Network): string => formatIp({ family, value: first + 1n });

export class ServiceAddresses implements Allocator<Service> {
  readonly #network: Network;
  readonly #family: IpFamily;
  readonly #ips: Pool;
  readonly #ports: Pool;
  #loaded = false;

  constructor(private readonly o: ServiceAddressesOptions) {
    this.#network = serviceNetwork(o.network);
    this.#family = this.#network.family;
    // The first address is that of the network, and the last one of IPv4 is for broadcasts.
    const size = Number(networkSize(this.#network)) - (this.#family === 'IPv4' ? 2 : 1);
    this.#ips = new Pool(size, reservedOf(size, 16, 256), o.random);
    const ports = LAST_PORT - FIRST_PORT + 1;
    this.#ports = new Pool(ports, reservedOf(ports, 32, 128), o.random);
  }

  begin(o: Service, old: Frozen<Service> | undefined, dryRun: boolean): Claim {
    if (!this.#loaded) this.#load();
    const spec = o.spec!;
    const before = old?.spec as ServiceSpec | undefined;
    const taken: (() => void)[] = [];
    const released: (() => void)[] = [];
    const undo = () => {
      for (const free of taken.splice(0)) free();
    };
    try {
      this.#families(o, old as Service | undefined);
      this.#addresses(o, before, taken, released);
      if (wantsPorts(spec)) this.#nodePorts(o, before, taken);
      if (needsHealthCheck(spec) && !(before && needsHealthCheck(before)))
        spec.healthCheckNodePort = this.#healthPort(spec.healthCheckNodePort, taken);
    } catch (e) {
      undo();
      throw e;
    }
    if (before) {
      const now = new Set(portsOf(spec));
      for (const p of portsOf(before)) if (!now.has(p)) released.push(() => this.#ports.free(p - FIRST_PORT));
    }
    if (dryRun) undo();
    return {
      keep: () => {
        taken.length = 0;
        for (const free of dryRun ? [] : released.splice(0)) free();
      },
      drop: undo,
    };
  }

  released({ spec }: Frozen<Service>): void {
    if (!this.#loaded || !spec) return;
    for (const ip of addressesOf(spec as ServiceSpec)) {
      const n = this.#indexOf(ip);
      if (n !== undefined) this.#ips.free(n);
    }
    for (const p of portsOf(spec as ServiceSpec)) this.#ports.free(p - FIRST_PORT);
  }

  #load(): void {
    this.#loaded = true;
    for (const { spec } of this.o.all()) {
      if (!spec) continue;
      for (const ip of addressesOf(spec as ServiceSpec)) {
        const n = this.#indexOf(ip);
        if (n !== undefined) this.#ips.take(n);
      }
      for (const p of portsOf(spec as ServiceSpec)) this.#ports.take(p - FIRST_PORT);
    }
  }

  /** Undefined outside of the network. */
  #indexOf(text: string): number | undefined {
    const ip = parseIp(text);
    if (!ip || !contains(this.#network, ip)) return undefined;
    const n = Number(ip.value - this.#network.first) - 1;
    return n >= 0 && n < this.#ips.size ? n : undefined;
  }

  /** Works out ipFamilies and ipFamilyPolicy, for a cluster that has one family. */
  #families(o: Service, old: Service | undefined): void {
    const spec = o.spec!;
    if (!needsClusterIP(spec)) return;
    const before = old?.spec;
    const stays =
      before &&
      spec.ipFamilyPolicy === 'PreferDualStack' &&
      (before.ipFamilyPolicy ?? 'PreferDualStack') === 'PreferDualStack' &&
      before.type === spec.type &&
      deepEqual(before.clusterIPs ?? [], spec.clusterIPs ?? []) &&
      deepEqual(before.ipFamilies ?? [], spec.ipFamilies ?? []);
    if (stays) return;
    const free = spec.clusterIP === 'None' && Object.keys(spec.selector ?? {}).length === 0;
    spec.ipFamilyPolicy ??= before?.ipFamilyPolicy ?? (free ? 'RequireDualStack' : 'SingleStack');
    // An updater who says nothing of families keeps them; Kubernetes infers them anew, to the same end.
    if (before && !spec.ipFamilies?.length && before.ipFamilies?.length && needsClusterIP(before))
      spec.ipFamilies = [...before.ipFamilies];
    const errors = validateClusterIPs(o, old);
    const refuse = (list: FieldError[]) => {
      if (list.length) throw invalidObject(services, o.metadata?.name ?? '', list);
    };
    refuse(errors);
    const single = spec.ipFamilyPolicy === 'SingleStack';
    const policy = (why: string) => errors.push(invalid('spec.ipFamilyPolicy', spec.ipFamilyPolicy, why));
    if (before && single) {
      if (deepEqual(before.clusterIPs, spec.clusterIPs)) spec.clusterIPs = spec.clusterIPs?.slice(0, 1);
      if (deepEqual(before.ipFamilies, spec.ipFamilies)) spec.ipFamilies = spec.ipFamilies?.slice(0, 1);
    }
    if (single) {
      const why = (what: string) =>
        `must be 'RequireDualStack' or 'PreferDualStack' when multiple ${what} are specified`;
      if (spec.clusterIPs?.length === 2) policy(why('cluster IPs'));
      if (spec.ipFamilies?.length === 2) policy(why('IP families'));
    }
    (spec.clusterIPs ?? []).forEach((ip, i) => {
      if (ip === 'None' || i < (spec.ipFamilies?.length ?? 0)) return;
      const family = familyOf(ip);
      if (family !== this.#family)
        errors.push(
          invalid(`spec.clusterIPs[${i}]`, spec.clusterIPs, `${family} is not configured on this cluster`),
        );
      else spec.ipFamilies = [...(spec.ipFamilies ?? []), family];
    });
    refuse(errors);
    if (free) {
      const [first = this.#family] = spec.ipFamilies ?? [];
      if ((spec.ipFamilies?.length ?? 0) < 2)
        spec.ipFamilies = single ? [first] : [first, first === 'IPv4' ? 'IPv6' : 'IPv4'];
      return;
    }
    if (spec.ipFamilyPolicy === 'RequireDualStack')
      policy('this cluster is not configured for dual-stack services');
    (spec.ipFamilies ?? []).forEach((family, i) => {
      if (family !== this.#family)
        errors.push(invalid(`spec.ipFamilies[${i}]`, family, 'not configured on this cluster'));
    });
    refuse(errors);
    if (!spec.ipFamilies?.length) spec.ipFamilies = [this.#family];
  }

  #addresses(
    o: Service,
    before: ServiceSpec | undefined,
    taken: (() => void)[],
    released: (() => void)[],
  ): void {
    const spec = o.spec!;
    const had = before ? addressesOf(before) : [];
    if (before && needsClusterIP(before)) {
      if (!needsClusterIP(spec))
        for (const ip of had) {
          const n = this.#indexOf(ip);
          if (n !== undefined) released.push(() => this.#ips.free(n));
        }
      // What else changes is for validation to refuse.
      return;
    }
    if (!needsClusterIP(spec) || isHeadless(spec)) return;
    const take = (ip: string | undefined): string => {
      const refuse = (why: string) =>
        invalidObject(services, o.metadata?.name ?? '', [invalid('spec.clusterIPs', spec.clusterIPs, why)]);
      let n: number | undefined;
      if (ip) {
        n = this.#indexOf(ip);
        if (n === undefined)
          throw refuse(
            `failed to allocate IP ${ip}: the provided IP (${ip}) is not in the valid range. The range of valid IPs is ${formatNetwork(this.#network)}`,
          );
        if (!this.#ips.take(n)) throw refuse(`failed to allocate IP ${ip}: provided IP is already allocated`);
      } else {
        n = this.#ips.takeAny();
        if (n === undefined)
          throw internal(
            `failed to allocate a serviceIP for Service ${JSON.stringify(o.metadata?.name ?? '')}: range is full`,
          );
      }
      const index = n;
      taken.push(() => this.#ips.free(index));
      return ip ?? formatIp({ family: this.#family, value: this.#network.first + BigInt(index + 1) });
    };
    spec.clusterIPs = [take(spec.clusterIPs?.[0])];
    spec.clusterIP = spec.clusterIPs[0]!;
  }

  #nodePorts(o: Service, before: ServiceSpec | undefined, taken: (() => void)[]): void {
    const spec = o.spec!;
    const ports = spec.ports ?? [];
    const had = new Set(before ? nodePortsOf(before) : []);
    const mine = new Set<number>();
    /** Port → node port: the same port of two protocols shares one, when the Service is new. */
    const shared = new Map<number, number>();
    ports.forEach((p, i) => {
      if (!p.nodePort && !wantsNodePorts(spec)) return;
      const together = before
        ? undefined
        : (shared.get(p.port) ?? ports.find((q) => q.port === p.port && q.nodePort)?.nodePort);
      const wanted = p.nodePort ?? together;
      if (wanted) {
        // Twice in one Service is right for two protocols of one port, and on updates.
        const ours = had.has(wanted) || (mine.has(wanted) && (before || shared.get(p.port) === wanted));
        if (!ours) this.#takePort(o, wanted, i, taken);
        p.nodePort = wanted;
      } else {
        const n = this.#ports.takeAny();
        if (n === undefined) throw internal('failed to allocate a nodePort: range is full');
        taken.push(() => this.#ports.free(n));
        p.nodePort = FIRST_PORT + n;
      }
      mine.add(p.nodePort);
      if (!shared.has(p.port)) shared.set(p.port, p.nodePort);
    });
  }

  #takePort(o: Service, port: number, i: number, taken: (() => void)[]): void {
    const why = this.#tryPort(port, taken);
    if (why)
      throw invalidObject(services, o.metadata?.name ?? '', [
        invalid(`spec.ports[${i}].nodePort`, port, why),
      ]);
  }

  #tryPort(port: number, taken: (() => void)[]): string | undefined {
    if (port < FIRST_PORT || port > LAST_PORT)
      return `provided port is not in the valid range. The range of valid ports is ${FIRST_PORT}-${LAST_PORT}`;
    const n = port - FIRST_PORT;
    if (!this.#ports.take(n)) return 'provided port is already allocated';
    taken.push(() => this.#ports.free(n));
    return undefined;
  }

  #healthPort(wanted: number | undefined, taken: (() => void)[]): number {
    if (wanted) {
      const why = this.#tryPort(wanted, taken);
      if (why) throw internal(`failed to allocate requested HealthCheck NodePort ${wanted}: ${why}`);
      return wanted;
    }
    const n = this.#ports.takeAny();
    if (n === undefined) throw internal('failed to allocate a HealthCheck NodePort 0: range is full');
    taken.push(() => this.#ports.free(n));
    return FIRST_PORT + n;
  }
}

const wantsPorts = (s: ServiceSpec): boolean => s.type === 'NodePort' || s.type === 'LoadBalancer';

const addressesOf = (s: ServiceSpec): readonly string[] =>
  needsClusterIP(s) && !isHeadless(s) ? (s.clusterIPs ?? []) : [];

const portsOf = (s: ServiceSpec): number[] => [
  ...nodePortsOf(s),
  ...(s.healthCheckNodePort ? [s.healthCheckNodePort] : []),
];

const internal = (why: string): ApiError => new ApiError('InternalError', `Internal error occurred: ${why}`);
