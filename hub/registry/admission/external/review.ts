/** AdmissionReview (admission.k8s.io v1 and v1beta1): what is asked of a webhook, and what its answer must look like. */
import type { Status } from 'kubernetes-types/meta/v1.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { ForeignStatus } from '../../../../api/meta/errors.js';
import { isPlainObject, tooDeep } from '../../../../api/meta/json.js';
import type { Request } from '../plugin.js';
import { admissionRequest, objectsAs } from './request.js';

/** No object nests deeper. */
const MAX_DEPTH = 128;
/** Of the annotations and warnings of one answer; others are dropped. */
const MAX_EXTRAS = 64;
const MAX_ANNOTATION = 10 * 1024;
const MAX_WARNING = 4096;

export interface Verdict {
  readonly allowed: boolean;
  readonly status: Partial<Status>;
  /** Operations of a JSON patch; absent: nothing is to be changed. */
  readonly patch?: readonly unknown[];
  readonly annotations: readonly [string, string][];
  readonly warnings: readonly string[];
}

/** The version that both sides know, ours first. */
export const reviewVersion = (versions: readonly string[] | undefined): 'v1' | 'v1beta1' | undefined =>
  versions?.find((v) => v === 'v1' || v === 'v1beta1') as 'v1' | 'v1beta1' | undefined;

export const reviewBody = (version: string, uid: string, request: Request, as: Kind): string =>
  JSON.stringify({
    kind: 'AdmissionReview',
    apiVersion: `admission.k8s.io/${version}`,
    request: { uid, ...admissionRequest(request, as), ...objectsAs(request, as) },
  });

const list = (v: unknown): unknown[] => (Array.isArray(v) ? v : []);

/** Reads an answer; throws what is wrong with it (apiserver webhook/request VerifyAdmissionResponse). */
export function readAnswer(text: string, version: string, uid: string, mutating: boolean): Verdict {
  const body = parse(text);
  const apiVersion = `admission.k8s.io/${version}`;
  if (version === 'v1' && (body['kind'] !== 'AdmissionReview' || body['apiVersion'] !== apiVersion))
    throw invalidAnswer(
      `expected webhook response of ${apiVersion}, Kind=AdmissionReview, got ${String(body['apiVersion'] ?? '').slice(0, 128) || '/'}, Kind=${String(body['kind'] ?? '').slice(0, 128)}`,
    );
  const r = body['response'];
  if (!isPlainObject(r)) throw invalidAnswer('webhook response was absent');
  if (version === 'v1' && r['uid'] !== uid)
    throw invalidAnswer(
      `expected response.uid=${JSON.stringify(uid)}, got ${JSON.stringify(String(r['uid'] ?? '').slice(0, 128))}`,
    );
  const annotations = isPlainObject(r['auditAnnotations']) ? Object.entries(r['auditAnnotations']) : [];
  return {
    allowed: r['allowed'] === true,
    status: isPlainObject(r['status']) ? r['status'] : {},
    ...patchOf(r, version, mutating),
    annotations: annotations.slice(0, MAX_EXTRAS).map(([k, v]) => [k, String(v).slice(0, MAX_ANNOTATION)]),
    warnings: list(r['warnings'])
      .filter((w) => typeof w === 'string')
      .slice(0, MAX_EXTRAS)
      .map((w) => w.slice(0, MAX_WARNING)),
  };
}

/** An answer that came and cannot be used; anything else that goes wrong with a call is that there was none. */
class InvalidAnswer extends Error {}
const invalidAnswer = (why: string): InvalidAnswer =>
  new InvalidAnswer(`received invalid webhook response: ${why}`);

/** What Kubernetes calls a failed call. */
export const callProblem = (e: unknown): string =>
  e instanceof InvalidAnswer ? e.message : `failed to call webhook: ${(e as Error).message}`;

function parse(text: string): Record<string, unknown> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (e) {
    throw new Error(`couldn't get version/kind; json parse error: ${(e as Error).message.slice(0, 256)}`);
  }
  if (!isPlainObject(body)) throw new Error("couldn't get version/kind; json parse error: no object");
  if (tooDeep(body, MAX_DEPTH)) throw new Error(`the answer is nested deeper than ${MAX_DEPTH} levels`);
  return body;
}

function patchOf(r: Record<string, unknown>, version: string, mutating: boolean): Pick<Verdict, 'patch'> {
  const { patch: encoded, patchType } = r;
  if (!mutating) {
    if (version === 'v1' && encoded) throw invalidAnswer('validating webhook may not return response.patch');
    if (version === 'v1' && patchType)
      throw invalidAnswer('validating webhook may not return response.patchType');
    return {};
  }
  if (version === 'v1') {
    if (encoded && !patchType)
      throw invalidAnswer('webhook returned response.patch but not response.patchType');
    if (!encoded && patchType)
      throw invalidAnswer('webhook returned response.patchType but not response.patch');
    if (patchType && patchType !== 'JSONPatch')
      throw invalidAnswer(
        `webhook returned invalid response.patchType of ${JSON.stringify(String(patchType).slice(0, 128))}`,
      );
  }
  if (!encoded) return {};
  let patch: unknown;
  try {
    patch = JSON.parse(Buffer.from(String(encoded), 'base64').toString('utf8'));
  } catch (e) {
    throw invalidPatch((e as Error).message);
  }
  if (!Array.isArray(patch)) throw invalidPatch('a JSON patch is a list of operations');
  if (tooDeep(patch, MAX_DEPTH)) throw invalidPatch(`nested deeper than ${MAX_DEPTH} levels`);
  return patch.length ? { patch } : {};
}

const invalidPatch = (why: string): InvalidAnswer =>
  new InvalidAnswer(`received undecodable patch in webhook response: ${why.slice(0, 256)}`);

/** What a client is told (apiserver webhook/errors ToStatusErr): the webhook's own code and words. */
export function denial(webhook: string, given: Partial<Status>): ForeignStatus {
  const denied = `admission webhook ${JSON.stringify(webhook)} denied the request`;
  const { code, message, reason, details } = given;
  return new ForeignStatus({
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message:
      typeof message === 'string' && message
        ? `${denied}: ${message}`
        : typeof reason === 'string' && reason
          ? `${denied}: ${reason}`
          : `${denied} without explanation`,
    ...(typeof reason === 'string' && reason ? { reason } : {}),
    ...(isPlainObject(details) ? { details } : {}),
    code: typeof code === 'number' && Number.isInteger(code) && code >= 400 && code <= 599 ? code : 400,
  });
}
