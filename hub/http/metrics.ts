import type { Kind } from '../../api/kinds/kind.js';
import type { Level } from './level.js';
import type { Reply } from './message.js';
import { textReply } from './message.js';

const HELP = (name: string, type: 'counter' | 'gauge', text: string) =>
  `# HELP ${name} ${text}\n# TYPE ${name} ${type}\n`;

/** Counts requests for resources and shows them as Prometheus reads them, under kube-apiserver's names. */
export class Metrics {
  /** By kind; then by verb, subresource and status code. What a kind that is gone was asked for goes with it. */
  readonly #requests = new WeakMap<Kind, Map<string, number>>();

  count(kind: Kind, verb: string, subresource: string | undefined, code: number): void {
    let counts = this.#requests.get(kind);
    if (!counts) {
      counts = new Map();
      this.#requests.set(kind, counts);
    }
    const key = `${verb} ${subresource ?? ''} ${code}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }

  /** `GET /metrics` (text format 0.0.4). `now` is in milliseconds. */
  reply(kinds: readonly Kind[], gitVersion: string, now: number, levels: Iterable<Level>): Reply {
    const lines: string[] = [];
    for (const k of kinds)
      for (const [key, n] of this.#requests.get(k) ?? []) {
        const [verb, subresource, code] = key.split(' ');
        const labels = `code="${code}",group="${k.group}",resource="${k.plural}",subresource="${subresource}",verb="${verb!.toUpperCase()}",version="${k.version}"`;
        lines.push(`apiserver_request_total{${labels}} ${n}\n`);
      }
    const { user, system } = process.cpuUsage();
    const reply = textReply(
      200,
      [
        HELP('apiserver_request_total', 'counter', 'Requests for resources that were carried out.'),
        ...lines,
        ...flowControl([...levels]),
        HELP('kubernetes_build_info', 'gauge', 'What runs here; always 1.'),
        `kubernetes_build_info{git_version="${gitVersion}"} 1\n`,
        HELP('process_cpu_seconds_total', 'counter', 'CPU time, in seconds.'),
        `process_cpu_seconds_total ${(user + system) / 1e6}\n`,
        HELP('process_resident_memory_bytes', 'gauge', 'Resident memory, in bytes.'),
        `process_resident_memory_bytes ${process.memoryUsage.rss()}\n`,
        HELP('process_start_time_seconds', 'gauge', 'When it started, in seconds since 1970.'),
        `process_start_time_seconds ${(now / 1000 - process.uptime()).toFixed(2)}\n`,
      ].join(''),
    );
    reply.headers['content-type'] = 'text/plain; version=0.0.4; charset=utf-8';
    return reply;
  }
}

const FLOW_CONTROL: readonly [string, 'counter' | 'gauge', string, (l: Level) => number][] = [
  ['nominal_limit_seats', 'gauge', 'Seats that a priority level has a right to.', (l) => l.nominal],
  ['lower_limit_seats', 'gauge', 'Seats that it never lends.', (l) => l.lower],
  ['current_executing_seats', 'gauge', 'Requests that are being carried out.', (l) => l.seats],
  ['current_inqueue_requests', 'gauge', 'Requests that wait.', (l) => l.waiting],
  ['rejected_requests_total', 'counter', 'Requests that were turned away or gave up.', (l) => l.rejected],
];

const flowControl = (levels: readonly Level[]): string[] =>
  FLOW_CONTROL.flatMap(([name, type, text, value]) => [
    HELP(`apiserver_flowcontrol_${name}`, type, text),
    ...levels.map((l) => `apiserver_flowcontrol_${name}{priority_level="${l.name}"} ${value(l)}\n`),
  ]);
