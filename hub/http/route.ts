import type { Kind } from '../../api/kinds/kind.js';
import { badRequest } from '../../api/meta/errors.js';
import { noSuchResource } from './message.js';

/** One request's target among the resources: Kubernetes' RequestInfo. */
export interface Target {
  kind: Kind;
  /** Absent: cluster-scoped, or all namespaces. */
  namespace?: string;
  name?: string;
  subresource?: string;
}

/** Finds the kind that a path names. Built once from the kinds' declarations. */
export class Router {
  /** `v1` or `apps/v1` → plural → kind */
  readonly #versions = new Map<string, Map<string, Kind>>();

  constructor(kinds: readonly Kind[]) {
    for (const k of kinds) {
      const gv = k.group ? `${k.group}/${k.version}` : k.version;
      const resources = this.#versions.get(gv) ?? new Map<string, Kind>();
      this.#versions.set(gv, resources.set(k.plural, k));
    }
  }

  /**
   * Resolves the segments of a path below `/api/<version>/` or `/apis/<group>/<version>/`; `gv` is that version.
   * Throws NotFound for what is not served and BadRequest for a name that cannot be.
   */
  resolve(gv: string, segments: readonly string[]): Target {
    const resources = this.#versions.get(gv);
    if (!resources) throw noSuchResource();
    let rest = segments;
    let namespace: string | undefined;
    if (rest[0] === 'namespaces' && rest.length > 2 && !NAMESPACE_SUBRESOURCES.has(rest[2]!)) {
      namespace = rest[1]!;
      rest = rest.slice(2);
    }
    const kind = resources.get(rest[0]!);
    if (!kind || (rest.length > 3 && rest[2] !== 'proxy') || (namespace !== undefined && !kind.namespaced))
      throw noSuchResource();
    const [, name, subresource] = rest;
    if (name !== undefined && kind.namespaced && namespace === undefined) throw noSuchResource();
    for (const s of [namespace, name]) if (s !== undefined) checkSegment(s);
    return { kind, namespace, name, subresource };
  }
}

/** What may follow a namespace's own name; anything else there is a resource inside it. */
const NAMESPACE_SUBRESOURCES: ReadonlySet<string> = new Set(['status', 'finalize']);

/** apimachinery api/validation/path: what would be taken for another path. */
function checkSegment(s: string): void {
  if (s === '' || s === '.' || s === '..' || s.includes('/') || s.includes('%') || s.length > 253) {
    throw badRequest(
      `invalid resource name "${s.slice(0, 64)}": it may not be empty, ".", "..", longer than 253 characters, or contain "/" or "%"`,
    );
  }
}

/** The segments of a path, percent-decoded; empty ones (doubled or trailing slashes) are left out. */
export function segmentsOf(path: string): string[] {
  const out: string[] = [];
  for (const s of path.split('/')) {
    if (s === '') continue;
    if (!s.includes('%')) out.push(s);
    else {
      try {
        out.push(decodeURIComponent(s));
      } catch {
        throw badRequest(`the path has a malformed escape: "${s.slice(0, 64)}"`);
      }
    }
  }
  return out;
}
