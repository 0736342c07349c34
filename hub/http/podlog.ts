import type { Pod } from 'kubernetes-types/core/v1.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import type { PodLogOptions } from '../../api/wire/streams.js';
import type { Frozen } from '../client.js';
import type { NodeStreams } from '../streams.js';
import { type Reply, textReply } from './message.js';
import { flag, integer } from './params.js';

/** GET pods/NAME/log. A pod that is on no node yet has an empty log, as with Kubernetes. */
export async function podLog(
  pod: Frozen<Pod>,
  query: URLSearchParams,
  streams: NodeStreams | undefined,
  signal: () => AbortSignal,
): Promise<Reply> {
  const options = logOptions(pod, query);
  const node = pod.spec?.nodeName;
  if (!node) return textReply(200, '');
  if (!streams)
    throw new ApiError('ServiceUnavailable', 'this hub has no link to nodes, so it cannot read logs');
  const body = await streams.logs(node, options, signal());
  return { ...textReply(200, ''), body, longRunning: true };
}

/** Reads PodLogOptions from the query (core/v1 types.go), with the checks of the apiserver's ValidatePodLogOptions. */
export function logOptions(pod: Frozen<Pod>, query: URLSearchParams): PodLogOptions {
  const name = pod.metadata?.name ?? '';
  const container = containerOf(pod, query.get('container') ?? '');
  const tailLines = integer(query, 'tailLines');
  const sinceSeconds = integer(query, 'sinceSeconds');
  const limitBytes = integer(query, 'limitBytes');
  const sinceTime = query.get('sinceTime') || undefined;

  const problems: { field: string; reason: string; message: string }[] = [];
  const wrong = (field: string, value: unknown, must: string) =>
    problems.push({
      field,
      reason: 'FieldValueInvalid',
      message: `Invalid value: ${JSON.stringify(value)}: ${must}`,
    });
  if (tailLines !== undefined && tailLines < 0)
    wrong('tailLines', tailLines, 'must be greater than or equal to 0');
  if (limitBytes !== undefined && limitBytes < 1) wrong('limitBytes', limitBytes, 'must be greater than 0');
  if (sinceSeconds !== undefined && sinceTime !== undefined) {
    problems.push({
      field: '',
      reason: 'FieldValueForbidden',
      message: 'Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified',
    });
  } else if (sinceSeconds !== undefined && sinceSeconds < 1) {
    wrong('sinceSeconds', sinceSeconds, 'must be greater than 0');
  }
  if (sinceTime !== undefined && !isRfc3339(sinceTime))
    wrong('sinceTime', sinceTime, 'must be a time as RFC 3339 has it');
  if (problems.length > 0) {
    const texts = problems.map((p) => (p.field ? `${p.field}: ${p.message}` : p.message));
    throw new ApiError(
      'Invalid',
      `PodLogOptions "${name}" is invalid: ${texts.length === 1 ? texts[0] : `[${texts.join(', ')}]`}`,
      { name, kind: 'PodLogOptions', causes: problems },
    );
  }
  return {
    namespace: pod.metadata?.namespace ?? '',
    pod: name,
    uid: pod.metadata?.uid ?? '',
    container,
    follow: flag(query, 'follow'),
    previous: flag(query, 'previous'),
    timestamps: flag(query, 'timestamps'),
    tailLines,
    sinceSeconds,
    sinceTime,
    limitBytes,
  };
}

const isRfc3339 = (s: string): boolean =>
  /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i.test(s) && !Number.isNaN(Date.parse(s));

/** The container asked for, or the only one; in the apiserver's words when that is not clear (registry/core/pod/strategy.go). */
function containerOf(pod: Frozen<Pod>, asked: string): string {
  const name = pod.metadata?.name;
  const main = (pod.spec?.containers ?? []).map((c) => c.name);
  const init = (pod.spec?.initContainers ?? []).map((c) => c.name);
  const ephemeral = (pod.spec?.ephemeralContainers ?? []).map((c) => c.name);
  if (asked !== '') {
    if ([...main, ...init, ...ephemeral].includes(asked)) return asked;
    throw badRequest(`container ${asked} is not valid for pod ${name}`);
  }
  if (main.length === 1) return main[0]!;
  let text = `a container name must be specified for pod ${name}`;
  if (main.length > 0) text += `, choose one of: [${main.join(' ')}]`;
  if (init.length > 0) text += ` or one of the init containers: [${init.join(' ')}]`;
  if (ephemeral.length > 0) text += ` or one of the ephemeral containers: [${ephemeral.join(' ')}]`;
  throw badRequest(text);
}
