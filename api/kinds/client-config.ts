/** Where a webhook is: what admission, conversion and aggregation have in common (apiserver pkg/util/webhook). */
import { invalid, required } from '../meta/field-errors.js';
import { dns1035Label, dns1123Subdomain } from '../meta/names.js';
import type { FieldError } from './kind.js';

/** Kubernetes' webhook.ValidateWebhookURL, with https alone. */
function validateUrl(text: string, field: string): FieldError[] {
  const form = '; desired format: https://host[/path]';
  if (!URL.canParse(text)) return [required(field, `url must be a valid URL: parse error${form}`)];
  const u = new URL(text);
  return [
    ...(u.protocol === 'https:'
      ? []
      : [invalid(field, u.protocol.slice(0, -1), `'https' is the only allowed URL scheme${form}`)]),
    ...(u.hostname ? [] : [invalid(field, u.hostname, `host must be specified${form}`)]),
    ...(u.username || u.password
      ? [invalid(field, u.username, 'user information is not permitted in the URL')]
      : []),
    ...(u.hash ? [invalid(field, u.hash.slice(1), 'fragments are not permitted in the URL')] : []),
    ...(u.search ? [invalid(field, u.search.slice(1), 'query parameters are not permitted in the URL')] : []),
  ];
}

function validateService(
  s: { name?: string; namespace?: string; path?: string; port?: number },
  field: string,
): FieldError[] {
  const errors: FieldError[] = [];
  if (!s.name) errors.push(required(`${field}.name`));
  if (!s.namespace) errors.push(required(`${field}.namespace`));
  if (s.port !== undefined && (s.port < 1 || s.port > 65535))
    errors.push(
      invalid(`${field}.port`, s.port, 'port is not valid: must be between 1 and 65535, inclusive'),
    );
  const { path } = s;
  if (path === undefined || path === '/' || path === '') return errors;
  const at = `${field}.path`;
  if (path === '//') return [...errors, invalid(at, path, 'segment[0] may not be empty')];
  if (!path.startsWith('/')) errors.push(invalid(at, path, "must start with a '/'"));
  const segments = path.slice(1).split('/');
  if (segments.at(-1) === '') segments.pop();
  segments.forEach((segment, i) => {
    if (segment === '') errors.push(invalid(at, path, `segment[${i}] may not be empty`));
    else errors.push(...dns1123Subdomain(segment).map((e) => invalid(at, path, `segment[${i}]: ${e}`)));
  });
  return errors;
}

/** Something that Kubernetes takes for a list of certificates: base64 of PEM. */
export function validateCaBundle(caBundle: unknown, field: string): FieldError[] {
  if (!caBundle) return [];
  const pem = Buffer.from(String(caBundle), 'base64').toString('utf8');
  // What is blank counts as absent.
  if (!pem.trim() || pem.includes('-----BEGIN CERTIFICATE-----')) return [];
  return [invalid(field, caBundle, 'unable to load root certificates: unable to parse bytes as PEM block')];
}

interface ClientConfig {
  readonly url?: string;
  readonly service?: Parameters<typeof validateService>[0];
  readonly caBundle?: unknown;
}

export function validateClientConfig(config: ClientConfig | undefined, field: string): FieldError[] {
  const { url, service, caBundle } = config ?? {};
  const errors: FieldError[] = [];
  if ((url === undefined) === (service === undefined))
    errors.push(required(field, 'exactly one of url or service is required'));
  else if (url !== undefined) errors.push(...validateUrl(url, `${field}.url`));
  else errors.push(...validateService(service!, `${field}.service`));
  return [...errors, ...validateCaBundle(caBundle, `${field}.caBundle`)];
}

/** Versions of a review that a webhook understands. */
export const validateReviewVersions = (versions: readonly string[], field: string): FieldError[] =>
  versions.flatMap((v, i) =>
    versions.indexOf(v) < i
      ? [invalid(`${field}[${i}]`, v, 'duplicate version')]
      : dns1035Label(v).map((e) => invalid(`${field}[${i}]`, v, e)),
  );
