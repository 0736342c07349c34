/**
 * Validators of names, labels and keys. Each returns what is wrong, in Kubernetes' words
 * (apimachinery util/validation), or an empty list.
 */

/** An absent text is an empty one, as in Go: fields that are required can be missing in what clients send. */
export type Validator = (value: string) => string[];

const LABEL = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
const SUBDOMAIN = `${LABEL}(\\.${LABEL})*`;
const QUALIFIED = '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]';
const LABEL_VALUE = `(${QUALIFIED})?`;
const CONFIG_KEY = '[-._a-zA-Z0-9]+';

const whole = (pattern: string) => new RegExp(`^(?:${pattern})$`);
const label = whole(LABEL);
const subdomain = whole(SUBDOMAIN);
const qualified = whole(QUALIFIED);
const labelValue = whole(LABEL_VALUE);
const configKey = whole(CONFIG_KEY);

const explain = (text: string, pattern: string, ...examples: string[]): string =>
  `${text} (e.g. ${examples.map((e) => `'${e}'`).join(',  or ')}, regex used for validation is '${pattern}')`;

const maxBytes = (n: number): string => `must be no more than ${n} bytes`;

const LABEL_TEXT = explain(
  "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
  LABEL,
  'my-name',
  '123-abc',
);
const SUBDOMAIN_TEXT = explain(
  "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
  SUBDOMAIN,
  'example.com',
);
const QUALIFIED_TEXT = explain(
  "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
  QUALIFIED,
  'MyName',
  'my.name',
  '123-abc',
);
const LABEL_VALUE_TEXT = explain(
  "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
  LABEL_VALUE,
  'MyValue',
  'my_value',
  '12345',
);
const CONFIG_KEY_TEXT = explain(
  "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
  CONFIG_KEY,
  'key.name',
  'KEY_NAME',
  'key-name',
);

export const dns1123Label: Validator = (v = '') => [
  ...(v.length > 63 ? [maxBytes(63)] : []),
  ...(label.test(v) ? [] : [LABEL_TEXT]),
];

export const dns1123Subdomain: Validator = (v = '') => [
  ...(v.length > 253 ? [maxBytes(253)] : []),
  // Bounded first: the pattern is linear, but a megabyte of name is not worth matching.
  ...(v.length <= 4096 && subdomain.test(v) ? [] : [SUBDOMAIN_TEXT]),
];

const DNS1035 = '[a-z]([-a-z0-9]*[a-z0-9])?';
const dns1035 = whole(DNS1035);
const DNS1035_TEXT = explain(
  "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
  DNS1035,
  'my-name',
  'abc-123',
);

export const dns1035Label: Validator = (v = '') => [
  ...(v.length > 63 ? [maxBytes(63)] : []),
  ...(v.length <= 4096 && dns1035.test(v) ? [] : [DNS1035_TEXT]),
];

/** Label keys, annotation keys (lower-cased by the caller), resource names, taint keys. */
export const qualifiedName: Validator = (v = '') => {
  const parts = v.split('/');
  const errors: string[] = [];
  let name = v;
  if (parts.length === 2) {
    const [prefix = '', rest = ''] = parts;
    name = rest;
    if (prefix === '') errors.push('prefix part must be non-empty');
    else errors.push(...dns1123Subdomain(prefix).map((e) => `prefix part ${e}`));
  } else if (parts.length > 2)
    return [
      `a qualified name ${QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
    ];
  if (name === '') errors.push('name part must be non-empty');
  else if (name.length > 63) errors.push(`name part ${maxBytes(63)}`);
  if (!qualified.test(name)) errors.push(`name part ${QUALIFIED_TEXT}`);
  return errors;
};

export const validLabelValue: Validator = (v = '') => [
  ...(v.length > 63 ? [maxBytes(63)] : []),
  ...(labelValue.test(v) ? [] : [LABEL_VALUE_TEXT]),
];

/** Keys of ConfigMaps and Secrets. */
export const configMapKey: Validator = (v = '') => {
  const errors: string[] = [];
  if (v.length > 253) errors.push(maxBytes(253));
  if (!configKey.test(v)) errors.push(CONFIG_KEY_TEXT);
  if (v === '.' || v === '..') errors.push(`must not be '${v}'`);
  else if (v.startsWith('..')) errors.push("must not start with '..'");
  return errors;
};

/** Since Kubernetes 1.32 anything printable but `=`. */
export const envVarName: Validator = (v = '') => {
  if (v === '') return ['environment variable name must be non-empty'];
  return /^[ -<>-~]+$/.test(v)
    ? []
    : ["a valid environment variable name must consist only of printable ASCII characters other than '='"];
};

/** Names of ports (IANA_SVC_NAME). */
export const portName: Validator = (v = '') => {
  const errors: string[] = [];
  if (v.length > 15) errors.push('must be no more than 15 characters');
  if (!/^[a-z0-9-]+$/.test(v))
    errors.push('must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)');
  if (!/[a-z]/.test(v)) errors.push('must contain at least one letter (a-z)');
  if (v.includes('--')) errors.push('must not contain consecutive hyphens');
  if (v.startsWith('-') || v.endsWith('-')) errors.push('must not begin or end with a hyphen');
  return errors;
};

/** Names that end up as one path segment in a URL (Events, for instance). */
export const pathSegmentName: Validator = (v = '') => {
  if (v === '.' || v === '..') return [`may not be '${v}'`];
  return ['/', '%'].filter((c) => v.includes(c)).map((c) => `may not contain '${c}'`);
};

/** A DNS name of at least two labels. */
export const fullyQualifiedName: Validator = (v = '') => {
  const name = v.replace(/\.$/, '');
  const wrong = dns1123Subdomain(name);
  if (wrong.length) return [wrong.join(',')];
  const labels = name.split('.');
  if (labels.length < 2) return ['should be a domain with at least two segments separated by dots'];
  return labels.map((l) => dns1123Label(l).join(',')).filter((e) => e !== '');
};

const WILDCARD = `\\*\\.${SUBDOMAIN}`;
const wildcard = whole(WILDCARD);
const WILDCARD_TEXT = explain(
  "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
  WILDCARD,
  '*.example.com',
);

/** `*.example.com` */
export const wildcardSubdomain: Validator = (v = '') => [
  ...(v.length > 253 ? [maxBytes(253)] : []),
  ...(v.length <= 4096 && wildcard.test(v) ? [] : [WILDCARD_TEXT]),
];

const HTTP_PATH = `[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+`;
const httpPath = whole(HTTP_PATH);

/** `acme.io/foo` */
export const domainPrefixedPath: Validator = (v = '') => {
  const slash = v.indexOf('/');
  if (slash <= 0 || slash === v.length - 1) return ['must be a domain-prefixed path (such as "acme.io/foo")'];
  return [
    ...dns1123Subdomain(v.slice(0, slash)),
    ...(httpPath.test(v.slice(slash + 1))
      ? []
      : [`Invalid path (regex used for validation is '${HTTP_PATH}')`]),
  ];
};
