/** What the store has of an agent's reports, so that an agent or a hub that was restarted need not hear all again. */
import type { Node, Pod } from 'kubernetes-types/core/v1.js';
import { nodes, pods } from '../../api/kinds/index.js';
import { type HashText, MAX_HELD, nodeReportText, podReportText } from '../../api/wire/held-reports.js';
import type { Informer, Informers } from '../informer.js';
import type { NodeLink } from './node-link.js';
import { reportOf } from './nodes.js';

export class HeldReports {
  readonly #pods: Informer<Pod>;
  readonly #nodes: Informer<Node>;

  constructor(informers: Informers) {
    this.#pods = informers.of(pods).index('node', (p) => (p.spec?.nodeName ? [p.spec.nodeName] : []));
    this.#nodes = informers.of(nodes);
  }

  /**
   * Hashes of the reports that need not be sent. Undefined while one of them is on its way into the store or into this
   * cache: what an earlier process told may be about to replace what is seen here.
   */
  of(n: NodeLink, hash: HashText): string[] | undefined {
    const { batches, revision } = n.intake;
    if (batches.size > 0 || (Number(this.#pods.revision) || 0) < revision) return undefined;
    const node = this.#nodes.get(n.name);
    // The agent does not tell it again when it is the right one, and without it the Node cannot be kept.
    n.report ??= node && reportOf(node);
    const held = node && n.report ? [hash(nodeReportText(n.report))] : [];
    for (const p of this.#pods.by('node', n.name).slice(0, MAX_HELD - 1))
      if (p.status?.phase)
        held.push(hash(podReportText(p.metadata?.uid ?? '', p.status as Pod['status'] & {})));
    return held;
  }
}
