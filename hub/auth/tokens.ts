import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  sign,
  timingSafeEqual,
  verify,
} from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import type { TokenRequestSpec, TokenReviewSpec } from 'kubernetes-types/authentication/v1.js';
import type { Node, Pod, Secret, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339 } from '../../api/clock.js';
import { writeFileAtomic } from '../../api/files.js';
import { nodes, pods, secrets, serviceAccounts } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { badRequest, conflict, isApiError, notFound } from '../../api/meta/errors.js';
import { invalid, invalidObject, required } from '../../api/meta/field-errors.js';
import type { AnyObject, KubeObject, ObjectKey } from '../../api/meta/object.js';
import { jwt, signedPart } from '../../api/wire/jwt.js';
import type { Frozen } from '../client.js';
import type { Answer, RegistryVerbs } from '../registry/api.js';
import type { User } from './attributes.js';
import { accountGroups } from './impersonate.js';

/** Who signs, and for whom where a request names nobody: Kubernetes' name for its own API. */
export const ISSUER = 'https://kubernetes.default.svc.cluster.local';
const HOUR = 3600;
/** Kubernetes' bounds of `expirationSeconds`. */
const MIN_SECONDS = 600;
const MAX_SECONDS = 2 ** 32;
/** What the automounted token asks for. At this API it is good for a year, as in Kubernetes: the client may be offline. */
const MOUNTED_SECONDS = 3607;
const YEAR_SECONDS = 365 * 24 * HOUR;
/** Clocks of signer and verifier are the same; this is for the second that times are rounded to. */
const LEEWAY = 1;
/** Longer than any token that is made here. */
const MAX_TOKEN = 8 << 10;
/** Signatures are looked at once; times and the objects that a token is bound to at each request. */
const MAX_VERIFIED = 256;

/** The key that tokens are signed with (ECDSA P-256); made when it is not there: tokens of before are void then. */
export function loadTokenKey(path: string): KeyObject {
  if (existsSync(path)) return createPrivateKey(readFileSync(path, 'utf8'));
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writeFileAtomic(path, privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 0o600);
  return privateKey;
}

interface Ref {
  name: string;
  uid: string;
}

/** What a token says (pkg/serviceaccount claims). */
interface Claims {
  aud: string[];
  exp: number;
  iat: number;
  iss: string;
  jti: string;
  nbf: number;
  sub: string;
  'kubernetes.io': {
    namespace: string;
    serviceaccount: Ref;
    pod?: Ref;
    secret?: Ref;
    node?: Ref;
    /** From then on the kubelet has a newer one; the API still takes this one. */
    warnafter?: number;
  };
}

/** Of a token in a Secret: it names no audience and never expires. */
interface LegacyClaims {
  iss: typeof LEGACY_ISSUER;
  sub: string;
  'kubernetes.io/serviceaccount/namespace': string;
  'kubernetes.io/serviceaccount/secret.name': string;
  'kubernetes.io/serviceaccount/service-account.name': string;
  'kubernetes.io/serviceaccount/service-account.uid': string;
}
const LEGACY_ISSUER = 'kubernetes/serviceaccount';

/** When and for how long a token of a pod is good, and for whom. */
export interface Grant {
  audiences: readonly string[];
  /** As asked for. */
  seconds: number;
  /** Unix seconds. */
  issuedAt: number;
  /** Names it. */
  id: string;
}

/** Seconds that a token of a pod is good for, which may be more than it says. */
export const lifeOf = ({ audiences, seconds }: Pick<Grant, 'audiences' | 'seconds'>): number =>
  seconds === MOUNTED_SECONDS && audiences.length === 1 && audiences[0] === ISSUER ? YEAR_SECONDS : seconds;

export interface TokensOptions {
  key: KeyObject;
  registry: RegistryVerbs;
  clock: Clock;
}

/** Makes and checks the tokens of ServiceAccounts, and checks bootstrap tokens. */
export class Tokens {
  /** Claims of tokens whose signature is good. */
  readonly #verified = new Map<string, { iss?: unknown }>();
  readonly #public: KeyObject;
  readonly #kid: string;

  /** Whether the key of a node was revoked; set by who knows. */
  lockedOut: (node: string) => boolean = () => false;

  constructor(private readonly o: TokensOptions) {
    this.#public = createPublicKey(o.key);
    const der = this.#public.export({ type: 'spki', format: 'der' });
    this.#kid = createHash('sha256').update(der).digest('base64url');
  }

  /** Documents of OpenID discovery by path, with which others verify tokens. */
  documents(): Record<string, string> {
    const algorithm = 'ES256';
    return {
      '/.well-known/openid-configuration': JSON.stringify({
        issuer: ISSUER,
        jwks_uri: `${ISSUER}/openid/v1/jwks`,
        response_types_supported: ['id_token'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: [algorithm],
      }),
      '/openid/v1/jwks': JSON.stringify({
        keys: [{ use: 'sig', ...this.#public.export({ format: 'jwk' }), kid: this.#kid, alg: algorithm }],
      }),
    };
  }

  /** Answers a TokenRequest for the ServiceAccount `name`. */
  async request(namespace: string, name: string, request: AnyObject): Promise<AnyObject> {
    const account = this.#find<ServiceAccount>(serviceAccounts, { namespace, name });
    if (!account) throw notFound('serviceaccounts', name);
    const spec = (request['spec'] ?? {}) as Partial<TokenRequestSpec>;
    const seconds = spec.expirationSeconds ?? HOUR;
    const wrong =
      seconds < MIN_SECONDS
        ? 'may not specify a duration less than 10 minutes'
        : seconds > MAX_SECONDS
          ? 'may not specify a duration larger than 2^32 seconds'
          : undefined;
    if (wrong)
      throw invalidObject({ kind: 'TokenRequest', group: 'authentication.k8s.io' }, name, [
        invalid('spec.expirationSeconds', seconds, wrong),
      ]);
    const audiences = spec.audiences?.length ? spec.audiences : [ISSUER];
    const now = Math.floor(this.o.clock.now() / 1000);
    const bound = this.#bound(namespace, name, spec.boundObjectRef);
    const of = { namespace, name, uid: account.metadata!.uid! };
    const claims = claimsOf(of, bound, { audiences, seconds, issuedAt: now, id: randomUUID() });
    return {
      ...request,
      metadata: { name, namespace, creationTimestamp: rfc3339(now * 1000) },
      spec: { ...spec, audiences, expirationSeconds: seconds },
      status: {
        token: jwt(this.#kid, claims, this.signature(claims)),
        expirationTimestamp: rfc3339((now + seconds) * 1000),
      },
    };
  }

  /** The key that `signature` is made with, by the name that it has in a token. */
  get kid(): string {
    return this.#kid;
  }

  /** What makes a token of claims: base64url. Each call gives another one, all of them good. */
  signature(claims: object): string {
    const head = Buffer.from(signedPart(this.#kid, claims));
    return sign('sha256', head, { key: this.o.key, dsaEncoding: 'ieee-p1363' }).toString('base64url');
  }

  /** The token for a Secret of type `kubernetes.io/service-account-token`, good until the Secret or the account goes. */
  forSecret(account: Frozen<ServiceAccount>, secret: string): string {
    const { namespace = '', name = '', uid = '' } = account.metadata ?? {};
    const claims: LegacyClaims = {
      iss: LEGACY_ISSUER,
      sub: `system:serviceaccount:${namespace}:${name}`,
      'kubernetes.io/serviceaccount/namespace': namespace,
      'kubernetes.io/serviceaccount/secret.name': secret,
      'kubernetes.io/serviceaccount/service-account.name': name,
      'kubernetes.io/serviceaccount/service-account.uid': uid,
    };
    return jwt(this.#kid, claims, this.signature(claims));
  }

  #bound(
    namespace: string,
    account: string,
    ref: TokenRequestSpec['boundObjectRef'],
  ): Partial<Claims['kubernetes.io']> {
    if (!ref) return {};
    const { kind = '', apiVersion = 'v1', name = '', uid } = ref;
    const of = apiVersion === 'v1' && Object.hasOwn(BOUND, kind) ? BOUND[kind] : undefined;
    if (!of) throw badRequest(`cannot bind token to object of type ${apiVersion}, Kind=${kind}`);
    const { claim, resource, namespaced } = of;
    const o = this.#find<KubeObject>(resource, { name, ...(namespaced ? { namespace } : {}) });
    if (!o) throw notFound(resource.plural, name);
    if (uid && uid !== o.metadata?.uid)
      throw conflict(
        resource.plural,
        name,
        `the UID in the bound object reference (${uid}) does not match the UID in record. The object might have been deleted and then recreated`,
      );
    const out = { [claim]: { name, uid: o.metadata!.uid! } };
    if (claim !== 'pod') return out;
    const { spec } = o as Pod;
    if ((spec?.serviceAccountName || 'default') !== account)
      throw badRequest(
        `cannot bind token for serviceaccount ${JSON.stringify(account)} to pod running with different serviceaccount name.`,
      );
    const node = spec?.nodeName ? this.#find<Node>(nodes, { name: spec.nodeName }) : undefined;
    return node ? { ...out, node: { name: node.metadata!.name!, uid: node.metadata!.uid! } } : out;
  }

  #find<T extends KubeObject>(kind: unknown, key: ObjectKey): T | undefined {
    const ctx = { user: 'system:coxswain', groups: ['system:masters'], warnings: [] };
    try {
      return this.o.registry.get(ctx, kind as Kind, key) as unknown as T;
    } catch (e) {
      if (isApiError(e, 'NotFound')) return undefined;
      throw e;
    }
  }

  /** The user that a bearer token stands for at this API; undefined when it is good for nobody. */
  authenticate(token: string): User | undefined {
    return this.#bootstrap(token) ?? this.#account(token, [ISSUER])?.user;
  }

  #account(token: string, audiences: readonly string[]): { user: User; audiences: string[] } | undefined {
    const signed = this.#verify(token);
    if (signed?.iss === LEGACY_ISSUER)
      return this.#legacy(signed as unknown as LegacyClaims, token, audiences);
    const claims = signed as unknown as Claims | undefined;
    const now = this.o.clock.now() / 1000;
    if (claims?.iss !== ISSUER || claims.exp <= now || claims.nbf > now + LEEWAY) return undefined;
    const own = claims['kubernetes.io'];
    if (!own) return undefined;
    const shared = claims.aud.filter((a) => audiences.includes(a));
    if (shared.length === 0) return undefined;
    const { namespace, serviceaccount, pod, secret, node } = own;
    const alive = (kind: unknown, ref: Ref | undefined, namespaced = true): boolean => {
      if (!ref) return true;
      const o = this.#find<KubeObject>(kind, { name: ref.name, ...(namespaced ? { namespace } : {}) });
      return o !== undefined && o.metadata?.uid === ref.uid;
    };
    // Whoever a token is bound to takes it along when it goes.
    if (!alive(serviceAccounts, serviceaccount) || !alive(pods, pod) || !alive(secrets, secret))
      return undefined;
    // A pod's token names its node for information only; one that is bound to a node alone goes with it.
    if (node && !pod && !alive(nodes, node, false)) return undefined;
    // A stolen device has the tokens of its pods, which stay bound to it until somebody deletes them.
    if (node && this.lockedOut(node.name)) return undefined;
    const key = 'authentication.kubernetes.io/';
    return {
      audiences: shared,
      user: {
        name: claims.sub,
        uid: serviceaccount.uid,
        groups: [...accountGroups(namespace), 'system:authenticated'],
        extra: {
          [`${key}credential-id`]: [`JTI=${claims.jti}`],
          ...(node ? { [`${key}node-name`]: [node.name], [`${key}node-uid`]: [node.uid] } : {}),
          ...(pod ? { [`${key}pod-name`]: [pod.name], [`${key}pod-uid`]: [pod.uid] } : {}),
        },
      },
    };
  }

  /** Tokens in Secrets are good at this API alone, for as long as the Secret has them. */
  #legacy(
    claims: LegacyClaims,
    token: string,
    audiences: readonly string[],
  ): { user: User; audiences: string[] } | undefined {
    const namespace = claims['kubernetes.io/serviceaccount/namespace'];
    const name = claims['kubernetes.io/serviceaccount/service-account.name'];
    const uid = claims['kubernetes.io/serviceaccount/service-account.uid'];
    const key = { namespace, name: claims['kubernetes.io/serviceaccount/secret.name'] };
    if (!audiences.includes(ISSUER)) return undefined;
    const secret = this.#find<Secret>(secrets, key);
    const held = Buffer.from(String(secret?.data?.['token'] ?? ''), 'base64');
    if (!secret || secret.metadata?.deletionTimestamp || !held.equals(Buffer.from(token))) return undefined;
    if (this.#find<ServiceAccount>(serviceAccounts, { namespace, name })?.metadata?.uid !== uid)
      return undefined;
    return {
      audiences: [ISSUER],
      user: { name: claims.sub, uid, groups: [...accountGroups(namespace), 'system:authenticated'] },
    };
  }

  /** Claims of a token that this hub signed; whether it is valid now is another question. */
  #verify(token: string): { iss?: unknown } | undefined {
    const known = this.#verified.get(token);
    if (known) return known;
    if (token.length > MAX_TOKEN) return undefined;
    const [head, body, signature, ...more] = token.split('.');
    if (!head || !body || !signature || more.length) return undefined;
    const good = verify(
      'sha256',
      Buffer.from(`${head}.${body}`),
      { key: this.#public, dsaEncoding: 'ieee-p1363' },
      Buffer.from(signature, 'base64url'),
    );
    // The algorithm is this hub's own, whatever a header says; so nothing unsigned is parsed.
    if (!good) return undefined;
    const claims = JSON.parse(Buffer.from(body, 'base64url').toString('utf8')) as { iss?: unknown };
    if (this.#verified.size >= MAX_VERIFIED) this.#verified.clear();
    this.#verified.set(token, claims);
    return claims;
  }

  /** Kubernetes' bootstrap tokens: `id.secret`, kept as Secrets in kube-system. */
  #bootstrap(token: string): User | undefined {
    const [, id, secret] = /^([a-z0-9]{6})\.([a-z0-9]{16})$/.exec(token) ?? [];
    if (!id || !secret) return undefined;
    const o = this.#find<Secret>(secrets, { namespace: 'kube-system', name: `bootstrap-token-${id}` });
    if (o?.type !== 'bootstrap.kubernetes.io/token' || o.metadata?.deletionTimestamp) return undefined;
    const text = (k: string) => Buffer.from(String(o.data?.[k] ?? ''), 'base64').toString('utf8');
    const kept = Buffer.from(text('token-secret'));
    if (kept.length !== secret.length || !timingSafeEqual(kept, Buffer.from(secret))) return undefined;
    if (text('token-id') !== id || text('usage-bootstrap-authentication') !== 'true') return undefined;
    const expires = text('expiration');
    // A time that nobody can read has passed, as in Kubernetes.
    if (expires && !(Date.parse(expires) > this.o.clock.now())) return undefined;
    const extra = text('auth-extra-groups').split(',').filter(Boolean);
    if (!extra.every((g) => /^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$/.test(g))) return undefined;
    return {
      name: `system:bootstrap:${id}`,
      groups: ['system:bootstrappers', ...extra, 'system:authenticated'],
    };
  }

  /** Answers TokenReviews. */
  readonly review: Answer = async (_ctx, o) => {
    const { token = '', audiences } = (o['spec'] ?? {}) as TokenReviewSpec;
    if (!token)
      throw invalidObject({ kind: 'TokenReview', group: 'authentication.k8s.io' }, '', [
        required('spec.token'),
      ]);
    const wanted = audiences?.length ? audiences : [ISSUER];
    const boot = this.#bootstrap(token);
    const found = boot ? { user: boot, audiences: wanted } : this.#account(token, wanted);
    if (!found) return { ...o, status: { user: {}, error: 'invalid bearer token' } };
    const { name, ...rest } = found.user;
    return {
      ...o,
      status: { authenticated: true, user: { username: name, ...rest }, audiences: found.audiences },
    };
  };
}

/** What a token says, of an account, what it is bound to, and the time. Pure. */
export function claimsOf(
  account: { namespace: string; name: string; uid: string },
  bound: Partial<Claims['kubernetes.io']>,
  grant: Grant,
): Claims {
  const { namespace, name, uid } = account;
  const { audiences, seconds, issuedAt, id } = grant;
  const life = bound.pod ? lifeOf(grant) : seconds;
  return {
    aud: [...audiences],
    exp: issuedAt + life,
    iat: issuedAt,
    iss: ISSUER,
    jti: id,
    nbf: issuedAt,
    sub: `system:serviceaccount:${namespace}:${name}`,
    'kubernetes.io': {
      namespace,
      serviceaccount: { name, uid },
      ...bound,
      ...(life === seconds ? {} : { warnafter: issuedAt + seconds }),
    },
  };
}

/** What a token may be bound to. */
const BOUND: Readonly<
  Record<string, { claim: 'pod' | 'secret' | 'node'; resource: { plural: string }; namespaced: boolean }>
> = {
  Pod: { claim: 'pod', resource: pods, namespaced: true },
  Secret: { claim: 'secret', resource: secrets, namespaced: true },
  Node: { claim: 'node', resource: nodes, namespaced: false },
};
