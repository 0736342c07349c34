/** Conversion of custom objects by a webhook (apiextensions.k8s.io ConversionReview; apiserver/conversion). */
import { randomUUID } from 'node:crypto';
import type { Clock } from '../../../api/clock.js';
import type { CustomResourceDefinition } from '../../../api/kinds/crd.js';
import { ForeignStatus } from '../../../api/meta/errors.js';
import { isPlainObject, tooDeep } from '../../../api/meta/json.js';
import type { AnyObject } from '../../../api/meta/object.js';
import { validateAnnotations, validateLabels } from '../../../api/meta/object-meta.js';
import type { Frozen } from '../../client.js';
import { type ClientConfig, type Directory, endpointOf } from '../../outbound/service.js';
import { post } from '../../outbound/transport.js';

/** For one call, as Kubernetes has it. */
const TIMEOUT_MS = 30_000;
/** What one call carries at most, so that neither side holds much more than that. */
const MAX_OBJECTS = 500;
const MAX_REQUEST = 3 << 20;
const MAX_ANSWER = 16 << 20;
const MAX_DEPTH = 128;

type Conversion = Frozen<NonNullable<CustomResourceDefinition['spec']['conversion']>>;

export interface ConversionParts {
  readonly directory: Directory;
  readonly clock: Clock;
}

/** A failed conversion: Kubernetes answers 500 and no reason. */
const failed = (message: string): ForeignStatus =>
  new ForeignStatus({
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message,
    code: 500,
  });

const gvk = ({ apiVersion, kind }: AnyObject): string => `${apiVersion}, Kind=${kind}`;

/** Asks the webhook of one definition. Its methods reject with ApiError. */
export class WebhookConverter {
  constructor(
    private readonly conversion: Conversion,
    private readonly parts: ConversionParts,
  ) {}

  /**
   * The same objects, in the same order, in the version `apiVersion`: new objects, which share what is theirs with the
   * answer and their metadata with the given ones. Those that are in that version already are given back.
   */
  async convert(objects: readonly AnyObject[], apiVersion: string): Promise<AnyObject[]> {
    const out = [...objects];
    let batch: number[] = [];
    let size = 0;
    const ask = async () => {
      const at = batch;
      batch = [];
      size = 0;
      if (at.length === 0) return;
      const converted = await this.#ask(
        at.map((i) => objects[i]!),
        apiVersion,
      );
      at.forEach((i, n) => {
        out[i] = converted[n]!;
      });
    };
    for (const [i, o] of objects.entries()) {
      if (o.apiVersion === apiVersion) continue;
      const bytes = JSON.stringify(o).length;
      if (batch.length >= MAX_OBJECTS || size + bytes > MAX_REQUEST) await ask();
      batch.push(i);
      size += bytes;
    }
    await ask();
    return out;
  }

  async #ask(objects: readonly AnyObject[], desiredAPIVersion: string): Promise<AnyObject[]> {
    const { webhook } = this.conversion;
    const versions = (webhook?.conversionReviewVersions ?? []) as readonly string[];
    const version = versions.find((v) => v === 'v1' || v === 'v1beta1');
    if (!version) throw failed('no supported conversion review versions');
    const about = `conversion webhook for ${gvk(objects[0]!)}`;
    const uid = randomUUID();
    const apiVersion = `apiextensions.k8s.io/${version}`;
    const review = JSON.stringify({
      kind: 'ConversionReview',
      apiVersion,
      request: { uid, desiredAPIVersion, objects },
    });
    let converted: unknown[];
    try {
      const config = (webhook?.clientConfig ?? {}) as ClientConfig;
      const at = endpointOf(config, this.parts.directory, TIMEOUT_MS / 1000);
      const text = await post(at, review, TIMEOUT_MS, this.parts.clock, MAX_ANSWER);
      converted = convertedObjects(text, version, uid);
    } catch (e) {
      throw failed(`${about} failed: ${(e as Error).message}`);
    }
    if (converted.length !== objects.length)
      throw failed(`${about} returned ${converted.length} objects, expected ${objects.length}`);
    return objects.map((o, i) => {
      const at = objects.length > 1 ? ` at index ${i}` : '';
      const wrong = (what: string, why: string) => failed(`${about} returned invalid ${what}${at}: ${why}`);
      const c = converted[i];
      const object = objects.length > 1 ? 'converted object' : 'object';
      if (!isPlainObject(c)) throw wrong(object, `invalid type, expected=Unstructured, got=${typeof c}`);
      const problem = mismatch(o, c, desiredAPIVersion);
      if (problem) throw wrong(object, problem);
      try {
        return { ...c, metadata: restored(o, c['metadata']) } as AnyObject;
      } catch (e) {
        throw wrong(objects.length > 1 ? 'metadata in object' : 'metadata', (e as Error).message);
      }
    });
  }
}

/** The objects of an answer. Throws what is wrong with it. */
function convertedObjects(text: string, version: string, uid: string): unknown[] {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (e) {
    throw new Error(`couldn't get version/kind; json parse error: ${(e as Error).message.slice(0, 256)}`);
  }
  if (!isPlainObject(body) || tooDeep(body, MAX_DEPTH))
    throw new Error("couldn't get version/kind; json parse error: no object, or one that is nested too deep");
  const wanted = `apiextensions.k8s.io/${version}`;
  if (version === 'v1' && (body['apiVersion'] !== wanted || body['kind'] !== 'ConversionReview'))
    throw new Error(
      `expected webhook response of ${wanted}, Kind=ConversionReview, got ${String(body['apiVersion'] ?? '').slice(0, 128)}, Kind=${String(body['kind'] ?? '').slice(0, 128)}`,
    );
  const { response } = body;
  if (!isPlainObject(response)) throw new Error('no response provided');
  if (version === 'v1' && response['uid'] !== uid)
    throw new Error(
      `expected response.uid=${JSON.stringify(uid)}, got ${JSON.stringify(String(response['uid'] ?? '').slice(0, 128))}`,
    );
  const result = isPlainObject(response['result']) ? response['result'] : {};
  if (result['status'] !== 'Success') {
    const { message } = result;
    throw new Error(
      typeof message === 'string' && message
        ? message.slice(0, 4096)
        : `response.result.status was '${String(result['status'] ?? '').slice(0, 128)}', not 'Success'`,
    );
  }
  return Array.isArray(response['convertedObjects']) ? response['convertedObjects'] : [];
}

/** What of the answer does not belong to the object that was sent. */
function mismatch(o: AnyObject, c: Record<string, unknown>, apiVersion: string): string | undefined {
  if (c['apiVersion'] !== apiVersion)
    return `invalid groupVersion (expected ${apiVersion}, received ${String(c['apiVersion'] ?? '').slice(0, 128)})`;
  if (c['kind'] !== o.kind)
    return `invalid kind (expected ${o.kind}, received ${String(c['kind'] ?? '').slice(0, 128)})`;
  const meta = isPlainObject(c['metadata']) ? c['metadata'] : {};
  for (const [field, name] of [
    ['name', 'name'],
    ['namespace', 'namespace'],
    ['uid', 'UID'],
  ] as const) {
    const [sent, got] = [o.metadata?.[field] ?? '', meta[field] ?? ''];
    if (sent !== got) return `must have the same ${name}: ${sent} != ${String(got).slice(0, 253)}`;
  }
  return undefined;
}

/** The metadata of what was sent, with the labels and annotations of the answer: nothing else may change. */
function restored(o: AnyObject, answered: unknown): AnyObject['metadata'] {
  if (answered === undefined) throw new Error('missing metadata in converted object');
  if (!isPlainObject(answered))
    throw new Error(`invalid metadata of type ${typeof answered} in converted object`);
  const { labels: _l, annotations: _a, ...kept } = o.metadata ?? {};
  const metadata: Record<string, unknown> = kept;
  for (const [field, check] of [
    ['labels', validateLabels],
    ['annotations', validateAnnotations],
  ] as const) {
    const value = answered[field];
    if (value === undefined || value === null) continue;
    if (!isPlainObject(value))
      throw new Error(`invalid metadata.${field} of type ${typeof value} in converted object`);
    for (const [key, v] of Object.entries(value))
      if (typeof v !== 'string')
        throw new Error(`metadata.${field}[${key}] must be a string, but is ${typeof v} in converted object`);
    const [wrong] = check(value as Record<string, string>, `metadata.${field}`);
    if (wrong) throw new Error(`${wrong.field}: ${wrong.message}`);
    metadata[field] = value;
  }
  return metadata as AnyObject['metadata'];
}
