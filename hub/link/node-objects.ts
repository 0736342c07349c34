/** Makes Node and Lease objects say what is known of a node. */
import type { Lease } from 'kubernetes-types/coordination/v1.js';
import type { Node } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339Micro } from '../../api/clock.js';
import { leases, nodes } from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import { spkiOf } from '../../api/wire/codec.js';
import type { Client, Frozen } from '../client.js';
import { InOrder } from './in-order.js';
import type { NodeLink } from './node-link.js';
import { type NodeFacts, planNode } from './nodes.js';

const LEASE_EVERY_MS = 6 * 3_600_000;
const LEASE_MIN_MS = 600_000;
const ATTEMPTS = 8;

export class NodeObjects {
  readonly #inOrder = new InOrder();

  constructor(
    private readonly client: Client,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  /** Resolves with the ms after which to look again. */
  async reconcile(n: NodeLink): Promise<number | undefined> {
    let again: number | undefined;
    await this.#inOrder.run(n.name, async () => {
      for (let attempt = 1; ; attempt++) {
        try {
          await this.#writeNode(n);
          break;
        } catch (e) {
          if (!isApiError(e, 'Conflict') || attempt >= ATTEMPTS) throw e;
        }
      }
      if (n.link === 'up' && n.session) again = await this.#renewLease(n);
    });
    return again;
  }

  async #writeNode(n: NodeLink): Promise<void> {
    const { client } = this;
    let old: Frozen<Node> | undefined;
    try {
      old = await client.get<Node>(nodes, { name: n.name });
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
      if (!n.mayRegister || !n.report || n.link === 'down') return;
    }
    const facts: NodeFacts = {
      name: n.name,
      publicKey: n.publicKey && spkiOf(n.publicKey),
      report: n.report,
      link: n.link,
      incompatible: n.incompatible,
    };
    const plan = planNode(old, facts, this.clock.now());
    let { resourceVersion } = old?.metadata ?? {};
    if (plan.main) {
      const made = await (old ? client.update(nodes, plan.main) : client.create(nodes, plan.main));
      resourceVersion = made.metadata!.resourceVersion;
    }
    // Whole, and with its revision: somebody may just have told of resources that only the API knows of.
    if (plan.status)
      await client.updateStatus<Node>(nodes, {
        ...plan.status,
        metadata: { ...plan.status.metadata, resourceVersion },
      } as Node);
    if (!old) this.log.info({ node: n.name }, 'node registered');
    n.mayRegister = false;
  }

  async #renewLease(n: NodeLink): Promise<number> {
    const now = this.clock.monotonic();
    const age = n.leaseAt === undefined ? Number.POSITIVE_INFINITY : now - n.leaseAt;
    if (age < LEASE_MIN_MS) return LEASE_EVERY_MS;
    const key = { namespace: 'kube-node-lease', name: n.name };
    const renewTime = rfc3339Micro(this.clock.now());
    const spec = { holderIdentity: n.name, leaseDurationSeconds: LEASE_EVERY_MS / 1000, renewTime };
    try {
      await this.client.patch<Lease>(leases, key, { spec });
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
      await this.client.create<Lease>(leases, {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: key,
        spec,
      });
    }
    n.leaseAt = now;
    return LEASE_EVERY_MS;
  }
}
