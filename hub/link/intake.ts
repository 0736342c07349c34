/** Takes in what agents tell of nodes and pods: each report once, in order, acknowledged when the store has it. */
import type { Clock } from '../../api/clock.js';
import { isNodesOwnLabel } from '../../api/kinds/node-labels.js';
import type { Log } from '../../api/log.js';
import { WireError } from '../../api/wire/codec.js';
import type { AgentEvent, NodeReport, PodReport } from '../../api/wire/desired.js';
import { type HashText, sayHeld } from '../../api/wire/held-reports.js';
import { type Report, TYPE, type Welcome } from '../../api/wire/messages.js';
import type { Client } from '../client.js';
import type { HeldReports } from './held-reports.js';
import { InOrder } from './in-order.js';
import type { NodeLink } from './node-link.js';
import { applyPodReport } from './reports.js';
import type { Sender } from './sender.js';

/** Batches of one node being written at once; further ones are dropped and come again. */
const MAX_BATCHES = 16;
/** A device that was away tells what happened meanwhile. */
const MAX_EVENT_AGE_MS = 366 * 86_400_000;
/** Pods of one node whose report numbers are kept. */
const MAX_REMEMBERED = 2048;

export class Intake {
  readonly #inOrder = new InOrder();

  constructor(
    private readonly client: Client,
    private readonly sender: Sender,
    private readonly clock: Clock,
    private readonly log: Log,
    /** Resolves when the Node object says what `n.report` does. */
    private readonly nodeReported: (n: NodeLink) => Promise<void>,
    private readonly held: HeldReports,
  ) {}

  /** A session of that agent process begins: what the welcome says of reports. */
  welcome(n: NodeLink, epoch: string, hash: HashText): Pick<Welcome, 'r' | 'o'> {
    const { intake } = n;
    if (intake.epoch !== epoch) {
      intake.epoch = epoch;
      intake.stored = new Map();
      intake.latest = new Map();
      intake.asked = false;
    }
    if (intake.asked) return {};
    const hashes = this.held.of(n, hash);
    return { r: 1, ...(hashes ? { o: sayHeld(hashes) } : {}) };
  }

  async report(n: NodeLink, r: Report): Promise<void> {
    const { session, intake } = n;
    if (!session || r.e !== session.epoch) {
      this.sender.query(n.name);
      return;
    }
    if (intake.batches.has(r.q) || intake.batches.size >= MAX_BATCHES) return;
    intake.batches.add(r.q);
    if (r.f) intake.asked = true;
    try {
      const work: Promise<void>[] = [];
      for (const [seq, event] of r.v ?? []) {
        if (seq <= (intake.stored.get('events') ?? 0)) continue;
        intake.stored.set('events', seq);
        if (!n.telling.take()) continue;
        this.#event(n, event);
      }
      if (r.n) work.push(this.#once(n, '', r.n[0], () => this.#nodeReport(n, r.n![1])));
      for (const [seq, pod] of r.p ?? [])
        work.push(this.#once(n, pod.uid, seq, () => this.#podReport(n, pod)));
      await Promise.all(work);
      if (n.session === session) this.sender.sealed(n, 'd', TYPE.ack, { q: r.q });
    } catch (e) {
      this.log.warn(
        { node: n.name, err: (e as Error).message },
        'report not stored; the agent will send it again',
      );
    } finally {
      intake.batches.delete(r.q);
      this.#forgetOld(intake.latest);
      this.#forgetOld(intake.stored);
    }
  }

  #event(n: NodeLink, event: AgentEvent): void {
    const { involved } = event;
    n.events.record({
      involved: {
        ...involved,
        apiVersion: 'v1',
        // Kubernetes' kubelet names a Node by its name in place of a uid.
        ...(involved.kind === 'Node' ? { name: n.name, uid: n.name } : {}),
      },
      type: event.type,
      reason: event.reason,
      message: event.message,
      count: event.count,
      ...this.#eventTimes(event),
    });
  }

  /** The agent tells times by the hub's clock. What cannot be right is told by the hub's own time. */
  #eventTimes({ at, since }: AgentEvent): { at?: number; since?: number } {
    const now = this.clock.now();
    const fine = (t: unknown) => typeof t === 'number' && Math.abs(now - t) < MAX_EVENT_AGE_MS;
    if (!fine(at)) return {};
    return { at: Math.min(at, now), ...(fine(since) ? { since: Math.min(since!, at, now) } : {}) };
  }

  async #podReport(n: NodeLink, pod: PodReport): Promise<void> {
    const revision = await applyPodReport(this.client, n.name, pod, this.log);
    if (revision) n.intake.revision = Math.max(n.intake.revision, revision);
  }

  async #nodeReport(n: NodeLink, report: NodeReport): Promise<void> {
    if (!Array.isArray(report?.conditions) || typeof report.labels !== 'object' || !report.capacity)
      throw new WireError('malformed node report');
    const refused = Object.keys(report.labels).filter((k) => !isNodesOwnLabel(k));
    if (refused.length > 0)
      this.log.warn(
        { node: n.name, labels: refused.slice(0, 20) },
        'labels that a node may not give itself are left out',
      );
    n.report = report;
    await this.nodeReported(n);
  }

  /** Takes in number `seq` of a key, after what came before it; skips it when a newer one is known. */
  #once({ name, intake }: NodeLink, key: string, seq: number, work: () => Promise<void>): Promise<void> {
    const { epoch } = intake;
    intake.latest.set(key, Math.max(seq, intake.latest.get(key) ?? 0));
    return this.#inOrder.run(`${name}/${key}`, async () => {
      const { stored, latest } = intake;
      if (intake.epoch !== epoch || seq <= (stored.get(key) ?? 0) || seq < (latest.get(key) ?? 0)) return;
      await work();
      stored.set(key, seq);
    });
  }

  /** Pods come and go; what a replay of a forgotten one says, its uid makes void. */
  #forgetOld(numbers: Map<string, number>): void {
    for (const key of numbers.keys()) {
      if (numbers.size <= MAX_REMEMBERED) return;
      if (key !== '' && key !== 'events') numbers.delete(key);
    }
  }
}
