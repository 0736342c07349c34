/** CertificateSigningRequests: approving those of kubelets, signing what is approved, cleaning up. */
import { X509Certificate } from 'node:crypto';
import type { CertificateSigningRequest } from 'kubernetes-types/certificates/v1.js';
import { rfc3339 } from '../../api/clock.js';
import {
  CERTIFICATES_GROUP,
  certificateOf,
  hasCondition,
  requestOf,
  certificateSigningRequests as requests,
  SIGNER,
} from '../../api/kinds/csr.js';
import type { CertificateRequest } from '../../api/x509/pkcs10.js';
import type { Authorizer } from '../auth/attributes.js';
import type { Frozen } from '../client.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';

/** Who signs: hub/pki. `usages` are those of certificates.k8s.io. */
export type SignRequest = (pem: string, usages: readonly string[], seconds?: number) => Promise<string>;

type Request = Frozen<CertificateSigningRequest>;

const HOUR = 3_600_000;
/** Kubernetes' csrcleaner: after so long a request goes. */
const KEEP = { decided: HOUR, pending: 24 * HOUR };
const NODES = 'system:nodes';
const NODE_PREFIX = 'system:node:';

const sameSet = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((x) => b.includes(x));

/** The usages of a kubelet's certificate; RSA keys may have `key encipherment` besides. */
const kubeletUsages = (usages: readonly string[], auth: string): string | undefined => {
  const short = ['digital signature', auth];
  const long = ['digital signature', 'key encipherment', auth].sort();
  return sameSet(usages, short) || sameSet(usages, long)
    ? undefined
    : `usages did not match [${long.join(' ')}]`;
};

const kubeletSubject = (r: CertificateRequest): string | undefined =>
  sameSet(r.organizations, [NODES]) ? undefined : `subject organization is not ${NODES}`;
const nodeName = (r: CertificateRequest): string | undefined =>
  r.commonName.startsWith(NODE_PREFIX) ? undefined : `subject common name does not begin with ${NODE_PREFIX}`;
const none = (list: readonly string[], what: string): string | undefined =>
  list.length ? `${what} subjectAltNames are not allowed` : undefined;

function clientUsages(usages: readonly string[]): string | undefined {
  const extra = usages.find((u) => !['digital signature', 'key encipherment', 'client auth'].includes(u));
  if (extra) return `invalid usage for client certificate: ${extra}`;
  return usages.includes('client auth')
    ? undefined
    : 'missing required usage for client certificate: client auth';
}

/** Signer → what is wrong with a request to it, in Kubernetes' words; undefined: it is signed. */
const CHECKS: Readonly<
  Record<string, (r: CertificateRequest, usages: readonly string[]) => string | undefined>
> = {
  [SIGNER.client]: (_r, usages) => clientUsages(usages),
  [SIGNER.kubeletClient]: (r, usages) =>
    kubeletSubject(r) ??
    none(r.dnsNames, 'DNS') ??
    none(r.emailAddresses, 'Email') ??
    none(r.ipAddresses, 'IP') ??
    none(r.uris, 'URI') ??
    nodeName(r) ??
    kubeletUsages(usages, 'client auth'),
  [SIGNER.kubeletServing]: (r, usages) =>
    kubeletSubject(r) ??
    (r.dnsNames.length + r.ipAddresses.length ? undefined : 'DNS or IP subjectAltName is required') ??
    none(r.emailAddresses, 'Email') ??
    none(r.uris, 'URI') ??
    kubeletUsages(usages, 'server auth') ??
    nodeName(r),
};

/** What is wrong with a request, for its signer; undefined when nothing is. Pure. */
export function problemWith(o: Request): string | undefined {
  const request = requestOf(o);
  return (
    CHECKS[o.spec.signerName]!(request, o.spec.usages ?? []) ??
    (request.signatureValid ? undefined : 'unable to verify certificate request signature')
  );
}

/** Subresources whose `create` lets a user have a kubelet's client certificate without anybody's approval. */
const AUTO = [
  {
    subresource: 'selfnodeclient',
    self: true,
    message: 'Auto approving self kubelet client certificate after SubjectAccessReview.',
  },
  {
    subresource: 'nodeclient',
    self: false,
    message: 'Auto approving kubelet client certificate after SubjectAccessReview.',
  },
] as const;

/** Why a request is approved by itself (Kubernetes' csrapproving), or undefined. Pure but for what `authorizer` knows. */
export function autoApproval(o: Request, authorizer: Authorizer): string | undefined {
  const { signerName, username = '', groups = [], uid, extra } = o.spec;
  if (signerName !== SIGNER.kubeletClient || problemWith(o)) return undefined;
  const user = { name: username, groups, ...(uid ? { uid } : {}), ...(extra ? { extra } : {}) };
  const self = requestOf(o).commonName === username;
  return AUTO.find(
    (a) =>
      (self || !a.self) &&
      authorizer.authorize(user, {
        verb: 'create',
        group: CERTIFICATES_GROUP,
        resource: requests.plural,
        subresource: a.subresource,
      }).allowed,
  )?.message;
}

/** The time at which a request is to be removed, Unix ms; undefined while a decision on it is under way. Pure. */
export function removeAt(o: Request): number | undefined {
  const conditions = o.status?.conditions ?? [];
  const issued = certificateOf(o);
  const times: number[] = [];
  if (conditions.length === 0) times.push(Date.parse(o.metadata?.creationTimestamp ?? '') + KEEP.pending);
  for (const c of conditions) {
    const done = c.type === 'Denied' || c.type === 'Failed' || (c.type === 'Approved' && issued !== '');
    if (done && c.lastUpdateTime) times.push(Date.parse(c.lastUpdateTime) + KEEP.decided);
    if (c.type === 'Approved' && issued) times.push(Date.parse(new X509Certificate(issued).validTo));
  }
  const known = times.filter(Number.isFinite);
  return known.length ? Math.min(...known) : undefined;
}

/** Who asks usually approves at once: for so long after a request, in ms, signing is prepared for. */
const SOON_MS = 5_000;

export function certificatesLoop(authorizer: Authorizer, sign: SignRequest, prepare = () => {}) {
  return ({ client, informers, clock, log }: Context, keys: Keys): Reconcile => {
    const all = informers.of(requests).onChange((name, now) => {
      if (now) keys.add(name);
    });
    return async (name) => {
      const o = all.get(name);
      if (!o) return;
      const certain = { name, namespace: undefined };
      const end = removeAt(o);
      if (end !== undefined && end <= clock.now()) {
        await ifThere(client.delete(requests, certain, { uid: o.metadata!.uid! }));
        return;
      }
      const wait = end === undefined ? undefined : end - clock.now();
      const known = Object.hasOwn(CHECKS, o.spec.signerName);
      if (!known || hasCondition(o, 'Denied') || hasCondition(o, 'Failed') || certificateOf(o)) return wait;
      const condition = (type: string, reason: string, message: string) => ({
        metadata: { resourceVersion: o.metadata!.resourceVersion! },
        status: {
          conditions: [
            ...(o.status?.conditions ?? []),
            { type, status: 'True', reason, message, lastUpdateTime: rfc3339(clock.now()) },
          ],
        },
      });
      if (!hasCondition(o, 'Approved')) {
        const why = autoApproval(o, authorizer);
        if (why)
          await ifThere(
            client.patch(requests, certain, condition('Approved', 'AutoApproved', why), 'approval'),
          );
        else if (clock.now() - Date.parse(o.metadata?.creationTimestamp ?? '') < SOON_MS) prepare();
        return wait;
      }
      const problem = problemWith(o);
      if (problem) {
        log.info({ csr: name, problem }, 'certificate request cannot be signed');
        await ifThere(
          client.patch(requests, certain, condition('Failed', 'SignerValidationFailure', problem), 'status'),
        );
        return wait;
      }
      try {
        const { request, usages = [], expirationSeconds } = o.spec;
        const pem = await sign(Buffer.from(request, 'base64').toString('latin1'), usages, expirationSeconds);
        const certificate = Buffer.from(pem).toString('base64');
        await ifThere(client.patch(requests, certain, { status: { certificate } }, 'status'));
        log.info({ csr: name, signer: o.spec.signerName }, 'certificate issued');
      } catch (e) {
        throw new Error(`error auto signing csr: ${errorText(e)}`);
      }
      return wait;
    };
  };
}
