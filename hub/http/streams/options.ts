/** What exec, attach and port-forward are asked for with: PodExecOptions and its like, from the query (core/v1 types.go). */
import type { Pod } from 'kubernetes-types/core/v1.js';
import { badRequest } from '../../../api/meta/errors.js';
import type { AnyObject } from '../../../api/meta/object.js';
import type { AttachOptions, ExecOptions, PodTarget } from '../../../api/wire/streams.js';
import type { Frozen } from '../../client.js';
import { flag } from '../params.js';

export type Connectable = 'exec' | 'attach' | 'portforward';

const FLAGS = ['stdin', 'stdout', 'stderr', 'tty'] as const;

/** As admission sees them. Throws BadRequest for a port that is none. */
export function optionsObject(what: Connectable, query: URLSearchParams): AnyObject {
  if (what === 'portforward') {
    const ports = portsOf(query);
    return {
      apiVersion: 'v1',
      kind: 'PodPortForwardOptions',
      ...(ports.length > 0 ? { ports } : {}),
    } as AnyObject;
  }
  const container = query.get('container');
  return {
    apiVersion: 'v1',
    kind: what === 'exec' ? 'PodExecOptions' : 'PodAttachOptions',
    ...Object.fromEntries(FLAGS.filter((f) => flag(query, f)).map((f) => [f, true])),
    ...(container ? { container } : {}),
    ...(what === 'exec' ? { command: query.getAll('command') } : {}),
  } as AnyObject;
}

/** The `ports` of a query, each once or several with commas. */
export const portsOf = (query: URLSearchParams): number[] =>
  query.getAll('ports').flatMap((text) =>
    text.split(',').map((p) => {
      const port = Number(p);
      if (!/^\d+$/.test(p) || port > 65_535)
        throw badRequest(`unable to parse ${JSON.stringify(text)} as a port`);
      if (port < 1) throw badRequest(`port ${JSON.stringify(text)} must be > 0`);
      return port;
    }),
  );

export const targetOf = (pod: Frozen<Pod>): PodTarget => ({
  namespace: pod.metadata?.namespace ?? '',
  pod: pod.metadata?.name ?? '',
  uid: pod.metadata?.uid ?? '',
});

/** What the node is asked. Throws BadRequest when the container is not clear, or nothing would travel. */
export function processOptions(pod: Frozen<Pod>, query: URLSearchParams): AttachOptions {
  const tty = flag(query, 'tty');
  const stdin = flag(query, 'stdin');
  const stdout = flag(query, 'stdout');
  // What a terminal shows is one stream.
  const stderr = flag(query, 'stderr') && !tty;
  const options = { ...targetOf(pod), container: containerOf(pod, query.get('container') ?? '') };
  if (!stdin && !stdout && !stderr) throw badRequest('you must specify at least 1 of stdin, stdout, stderr');
  return {
    ...options,
    ...(stdin ? { stdin } : {}),
    ...(stdout ? { stdout } : {}),
    ...(stderr ? { stderr } : {}),
    ...(tty ? { tty } : {}),
  };
}

export function execOptions(pod: Frozen<Pod>, query: URLSearchParams): ExecOptions {
  const options = processOptions(pod, query);
  const command = query.getAll('command');
  if (command.length === 0) throw badRequest('you must specify a command to run');
  return { ...options, command };
}

/** The container asked for, or the only one (registry/core/pod/strategy.go, validateContainer). */
function containerOf(pod: Frozen<Pod>, asked: string): string {
  const { containers = [], initContainers = [], ephemeralContainers = [] } = pod.spec ?? {};
  const name = pod.metadata?.name;
  const all = [...initContainers, ...containers, ...ephemeralContainers].map((c) => c.name);
  if (asked !== '') {
    if (all.includes(asked)) return asked;
    throw badRequest(`container ${asked} is not valid for pod ${name}`);
  }
  if (containers.length === 1) return containers[0]!.name;
  const choice = containers.length > 0 ? `, choose one of: [${all.join(' ')}]` : '';
  throw badRequest(`a container name must be specified for pod ${name}${choice}`);
}
