import { ApiError } from '../../api/meta/errors.js';

export type Format = 'json' | 'yaml';

/** How a client wants its answer: the outcome of reading one `Accept` header. */
export interface Wanted {
  format: Format;
  /** The form asked for instead of the object itself (meta.k8s.io). */
  as?: 'Table' | 'PartialObjectMetadata' | 'PartialObjectMetadataList';
  /** `v1` or `v1beta1` of that form. */
  version?: string;
  /** `apidiscovery.k8s.io` version, for `/api` and `/apis` only. */
  discovery?: 'v2' | 'v2beta1';
}

const FORMS: readonly string[] = ['Table', 'PartialObjectMetadata', 'PartialObjectMetadataList'];
const FORMATS: Readonly<Record<string, Format>> = {
  'application/json': 'json',
  'application/yaml': 'yaml',
  'application/*': 'json',
  '*/*': 'json',
};

/** One media range of an Accept or Content-Type header with its parameters in lower-case names. */
function mediaType(text: string): { type: string; params: Record<string, string> } {
  const parts = text.split(';');
  const params: Record<string, string> = Object.create(null);
  for (const p of parts.slice(1)) {
    const eq = p.indexOf('=');
    if (eq > 0) params[p.slice(0, eq).trim().toLowerCase()] = p.slice(eq + 1).trim();
  }
  return { type: parts[0]!.trim().toLowerCase(), params };
}

/** What one media range asks for, or undefined when this server has no such form. */
function offer(type: string, params: Record<string, string>): Wanted | undefined {
  const format = Object.hasOwn(FORMATS, type) ? FORMATS[type] : undefined;
  if (!format) return undefined;
  const { as, g, v } = params;
  if (as === undefined) return { format };
  if (as === 'APIGroupDiscoveryList') {
    const known = g === 'apidiscovery.k8s.io' && (v === 'v2' || v === 'v2beta1');
    return known && format === 'json' ? { format, discovery: v } : undefined;
  }
  if (!FORMS.includes(as) || g !== 'meta.k8s.io' || (v !== 'v1' && v !== 'v1beta1')) return undefined;
  return { format, as: as as Exclude<Wanted['as'], undefined>, version: v };
}

/** Clients send one of a few headers all day long; the cache is bounded against those that do not. */
const seen = new Map<string, Wanted>();
const JSON_ONLY: Wanted = { format: 'json' };

/** Reads `Accept`. Throws NotAcceptable when it leaves nothing that this server can send. */
export function negotiate(accept: string | undefined): Wanted {
  if (!accept) return JSON_ONLY;
  const known = seen.get(accept);
  if (known) return known;
  const ranges = accept.split(',', 32).map((text, order) => {
    const { type, params } = mediaType(text);
    const q = params['q'] === undefined ? 1 : Number(params['q']);
    return { type, params, q: Number.isFinite(q) ? q : 1, order };
  });
  ranges.sort((a, b) => b.q - a.q || a.order - b.order);
  for (const r of ranges) {
    const wanted = r.q > 0 ? offer(r.type, r.params) : undefined;
    if (!wanted) continue;
    if (seen.size >= 64) seen.clear();
    seen.set(accept, wanted);
    return wanted;
  }
  throw new ApiError(
    'NotAcceptable',
    'only the following media types are accepted: application/json, application/yaml',
  );
}

/** The bare media type of a `Content-Type` header; '' when there is none. */
export const contentType = (header: string | undefined): string =>
  !header || header === 'application/json' ? (header ?? '') : mediaType(header).type;

export const unsupportedMediaType = (accepted: readonly string[]): ApiError =>
  new ApiError(
    'UnsupportedMediaType',
    `the body of the request was in an unknown format - accepted media types include: ${accepted.join(', ')}`,
  );
