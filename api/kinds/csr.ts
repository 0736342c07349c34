import { X509Certificate } from 'node:crypto';
import type {
  CertificateSigningRequest,
  CertificateSigningRequestCondition as Condition,
} from 'kubernetes-types/certificates/v1.js';
import { humanDuration } from '../meta/duration.js';
import { duplicate, forbidden, invalid, notSupported, required, tooLong } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label, dns1123Subdomain } from '../meta/names.js';
import { type CertificateRequest, parseCertificateRequest } from '../x509/pkcs10.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

export const CERTIFICATES_GROUP = 'certificates.k8s.io';

/** The signers that every Kubernetes has. */
export const SIGNER = {
  client: 'kubernetes.io/kube-apiserver-client',
  kubeletClient: 'kubernetes.io/kube-apiserver-client-kubelet',
  kubeletServing: 'kubernetes.io/kubelet-serving',
  /** Of v1beta1 only. */
  legacyUnknown: 'kubernetes.io/legacy-unknown',
} as const;

const USAGES: readonly string[] = [
  'signing',
  'digital signature',
  'content commitment',
  'key encipherment',
  'key agreement',
  'data encipherment',
  'cert sign',
  'crl sign',
  'encipher only',
  'decipher only',
  'any',
  'server auth',
  'client auth',
  'code signing',
  'email protection',
  's/mime',
  'ipsec end system',
  'ipsec tunnel',
  'ipsec user',
  'timestamping',
  'ocsp signing',
  'microsoft sgc',
  'netscape sgc',
];
const MIN_SECONDS = 600;

/** The fields of type `byte`, which the package of types has as text of base64. */
const bytes = (base64: unknown): string => Buffer.from(String(base64 ?? ''), 'base64').toString('latin1');

/** What is asked for. Throws Pkcs10Error. */
export const requestOf = (o: { spec: { request?: unknown } }): CertificateRequest =>
  parseCertificateRequest(bytes(o.spec?.request));

/** The certificate that was issued, PEM; '' before that. */
export const certificateOf = (o: { status?: { certificate?: unknown } }): string =>
  bytes(o.status?.certificate);

export const hasCondition = (
  o: { status?: { conditions?: readonly { type: string }[] } },
  type: string,
): boolean => o.status?.conditions?.some((c) => c.type === type) ?? false;

/** pkg/apis/core/validation ValidateSignerName. */
function signerNameErrors(name: string): FieldError[] {
  const at = 'spec.signerName';
  if (!name) return [required(at)];
  const [domain = '', path, ...more] = name.split('/');
  if (path === undefined || more.length)
    return [
      invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
    ];
  const labels = (part: string, check: (label: string) => string[]): FieldError[] => {
    for (const label of part.split('.')) {
      const wrong = check(label);
      // One label is enough: what is wrong with the others would read the same.
      if (wrong.length)
        return wrong.map((e) => invalid(at, part, `validating label ${JSON.stringify(label)}: ${e}`));
    }
    return [];
  };
  return [
    ...(domain.length > 253 ? [tooLong(at, 253)] : []),
    ...labels(domain, dns1123Label),
    ...(domain.includes('.')
      ? []
      : [invalid(at, domain, 'should be a domain with at least two segments separated by dots')]),
    ...labels(path, dns1123Subdomain),
    ...(name.length > 571 ? [tooLong(at, 571)] : []),
  ];
}

/** Conditions that are never taken back. */
const FINAL = ['Approved', 'Denied', 'Failed'] as const;

/** pkg/apis/certificates/validation validateConditions. */
function conditionErrors(conditions: readonly Condition[]): FieldError[] {
  const errors: FieldError[] = [];
  const seen = new Set<string>();
  for (const [i, { type, status }] of conditions.entries()) {
    const at = `status.conditions[${i}]`;
    const allowed = (FINAL as readonly string[]).includes(type) ? ['True'] : ['True', 'False', 'Unknown'];
    if (!type) errors.push(required(`${at}.type`));
    if (!status) errors.push(required(`${at}.status`));
    else if (!allowed.includes(status)) errors.push(notSupported(`${at}.status`, status, allowed));
    const other = { Approved: 'Denied', Denied: 'Approved' }[type];
    if (other && seen.has(other))
      errors.push(invalid(`${at}.type`, type, 'Approved and Denied conditions are mutually exclusive'));
    if (seen.has(type)) errors.push(duplicate(`${at}.type`, type));
    seen.add(type);
  }
  return errors;
}

/** pkg/apis/certificates/validation validateCertificate: PEM blocks of certificates without headers, and nothing else. */
function certificateErrors(pem: string): FieldError[] {
  if (!pem) return [];
  const bad = (why: string) => [invalid('status.certificate', '<certificate data>', why)];
  const blocks = pem.match(/-----BEGIN [^-]*-----[^-]*-----END [^-]*-----/g);
  if (!blocks) return bad('must contain at least one CERTIFICATE PEM block');
  for (const block of blocks) {
    const type = /BEGIN ([^-]*)-/.exec(block)?.[1];
    if (type !== 'CERTIFICATE')
      return bad(`only CERTIFICATE PEM blocks are allowed, found ${JSON.stringify(type)}`);
    try {
      new X509Certificate(block);
    } catch {
      return bad('x509: malformed certificate');
    }
  }
  return [];
}

const ofType = (conditions: readonly Condition[] | undefined, type: string) =>
  (conditions ?? []).filter((c) => c.type === type);

/** Conditions that are written through `approval` alone. */
const BY_APPROVAL: readonly string[] = ['Approved', 'Denied'];

const statusColumn = (o: CertificateSigningRequest): string => {
  const words = hasCondition(o, 'Denied') ? ['Denied'] : hasCondition(o, 'Approved') ? ['Approved'] : [];
  if (!words.length) words.push('Pending');
  if (hasCondition(o, 'Failed')) words.push('Failed');
  if (o.status?.certificate) words.push('Issued');
  return words.join(',');
};

export const certificateSigningRequests: Kind<CertificateSigningRequest> = {
  group: CERTIFICATES_GROUP,
  version: 'v1',
  kind: 'CertificateSigningRequest',
  plural: 'certificatesigningrequests',
  singular: 'certificatesigningrequest',
  shortNames: ['csr'],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.certificates.v1.CertificateSigningRequest',
  columns: [
    nameColumn,
    ageColumn,
    column('SignerName', 'string', 'Who is to sign it.', (o) => o.spec?.signerName || '<none>'),
    column('Requestor', 'string', 'Who asks for it.', (o) => o.spec?.username ?? ''),
    column('RequestedDuration', 'string', 'How long the certificate is to be valid.', (o) =>
      o.spec?.expirationSeconds === undefined ? '<none>' : humanDuration(o.spec.expirationSeconds * 1000),
    ),
    column('Condition', 'string', 'Whether it is approved and issued.', statusColumn),
  ],
  status: true,
  statusDoors: ['approval'],
  selectable: { 'spec.signerName': (o) => o.spec?.signerName ?? '' },
  // "We don't care what you call your certificate requests."
  validName: () => [],
  setDefaults(o) {
    o.spec ??= {} as CertificateSigningRequest['spec'];
  },
  prepareForCreate(o, by) {
    const { request, signerName, expirationSeconds, usages } = o.spec;
    o.spec = {
      ...(by.extra ? { extra: by.extra as Record<string, string[]> } : {}),
      groups: [...by.groups],
      request,
      signerName,
      ...(expirationSeconds === undefined ? {} : { expirationSeconds }),
      ...(by.uid ? { uid: by.uid } : {}),
      ...(usages ? { usages } : {}),
      username: by.user,
    };
    o.status = {};
  },
  prepareForUpdate(o, old) {
    o.spec = old.spec;
  },
  prepareForStatus(o, old, door, now) {
    const before = old.status?.conditions ?? [];
    const written = o.status?.conditions ?? [];
    const kept = (type: string) => ofType(written, type).length === ofType(before, type).length;
    // Through `approval` only conditions are written; through `status`, what approval wrote stays as it is. One that is
    // added or removed there is left for validation to refuse.
    const status = door === 'approval' ? { ...old.status } : { ...o.status };
    const conditions = written.map((c) =>
      door === 'status' && BY_APPROVAL.includes(c.type) && kept(c.type)
        ? before.find((b) => b.type === c.type)!
        : c,
    );
    if (conditions.length)
      status.conditions = conditions.map((c) => ({
        ...c,
        lastUpdateTime: c.lastUpdateTime ?? now,
        lastTransitionTime:
          c.lastTransitionTime ??
          before.find((b) => b.type === c.type && b.status === c.status)?.lastTransitionTime ??
          now,
      }));
    else delete status.conditions;
    o.status = status;
  },
  validate(o, old) {
    const { usages = [], signerName = '', expirationSeconds, request } = o.spec;
    const errors: FieldError[] = [];
    // What is stored stays as it is: only a new request can be wrong.
    if (!old) {
      let why: string | undefined;
      try {
        requestOf(o);
      } catch (e) {
        why = (e as Error).message;
      }
      if (why) errors.push(invalid('spec.request', request, why));
    }
    if (!usages.length) errors.push(required('spec.usages'));
    for (const [i, u] of usages.entries()) {
      const at = `spec.usages[${i}]`;
      if (!USAGES.includes(u)) errors.push(notSupported(at, u, USAGES));
      else if (usages.indexOf(u) < i) errors.push(duplicate(at, u));
    }
    if (signerName === SIGNER.legacyUnknown)
      errors.push(
        invalid('spec.signerName', signerName, 'the legacy signerName is not allowed via this API version'),
      );
    else errors.push(...signerNameErrors(signerName));
    if (expirationSeconds !== undefined && expirationSeconds < MIN_SECONDS)
      errors.push(
        invalid(
          'spec.expirationSeconds',
          expirationSeconds,
          'may not specify a duration less than 600 seconds (10 minutes)',
        ),
      );
    return errors;
  },
  validateStatus(o, old, door) {
    const errors = conditionErrors(o.status?.conditions ?? []);
    for (const type of FINAL) {
      const before = ofType(old.status?.conditions, type);
      const now = ofType(o.status?.conditions, type);
      const refuse = (what: string) =>
        errors.push(forbidden('status.conditions', `updates may not ${what} a condition of type "${type}"`));
      if (now.length < before.length) refuse('remove');
      else if (door !== 'approval' && BY_APPROVAL.includes(type)) {
        if (now.length > before.length) refuse('add');
        else if (!deepEqual(now, before)) refuse('modify');
      }
    }
    const [before, now] = [certificateOf(old), certificateOf(o)];
    if (before !== now) {
      if (before)
        errors.push(forbidden('status.certificate', 'updates may not modify an issued certificate'));
      else errors.push(...certificateErrors(now));
    }
    return errors;
  },
};
