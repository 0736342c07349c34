/**
 * The hub's own certificate authority and keys, under `DIR/pki` (mode 0700, files 0600):
 *
 *   ca.crt ca.key      ECDSA P-256; every node pins it, so it is made once and never replaced by itself
 *   client-ca.{crt,key} signs what CertificateSigningRequests ask for; the API trusts it, brokers do not
 *   signing.key        Ed25519; signs everything that goes down to nodes
 *   server.{crt,key}   for the API and the embedded broker; renewed by itself
 *   admin.{crt,key}    kubectl's (`system:masters`); renewed by itself
 *   sa.key             ECDSA P-256; signs tokens of ServiceAccounts (hub/auth/tokens.ts); made anew when it is gone
 *   front-proxy-ca.{crt,key} signs the certificate by which servers behind APIServices know the API
 *   front-proxy-client.{crt,key} that certificate
 *   broker.{crt,key}   the hub's own client certificate at an external broker; made when first asked for
 *   ca.crl             certificates that brokers of one's own are not to take (writeCrl)
 *   issued             which certificates nodes were given (issued.ts)
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { type Clock, systemClock } from '../../api/clock.js';
import { fsyncDir, writeFileAtomic } from '../../api/files.js';
import { type Log, silentLog } from '../../api/log.js';
import { spkiHash } from '../../api/wire/join.js';
import { IssuedCertificates } from './issued.js';
import { issueCertificate } from './issuer.js';

const DAY = 86_400_000;
const YEAR = 365 * DAY;
/** Fixed, so that a hub whose clock was wrong at its first start still has a valid CA once the clock is right. */
const CA_VALIDITY = { notBefore: Date.UTC(2020, 0, 1), notAfter: Date.UTC(2070, 0, 1) };
const LEAF_TTL = 5 * YEAR;
/** Kubernetes' longest life and default of what a CertificateSigningRequest asks for. */
const REQUEST_TTL = YEAR;
/** How far such a certificate is dated back; of one that is to live for less than `SHORT`, its end is not. */
const REQUEST_BACKDATE = 5 * 60_000;
const SHORT = 8 * 3_600_000;
/** A leaf with less than this left is made anew at start. */
const RENEW_BEFORE = YEAR;
/** Clocks in a fleet differ: a new certificate is valid from a day ago. */
const BACKDATE = DAY;

/** A PKI file that is missing or cannot be read; the message names file and remedy. */
export class PkiError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'PkiError';
  }
}

export interface KeyPair {
  /** PEM. */
  cert: string;
  /** PEM, PKCS #8. */
  key: string;
}

export interface ClientCertRequest {
  cn: string;
  /** Kubernetes groups. */
  o?: readonly string[];
  /** Milliseconds. */
  ttl?: number;
  /** SPKI, DER or a KeyObject, P-256. */
  publicKey: KeyObject | Buffer;
}

export interface PkiOptions {
  /** More names and addresses for the server certificate (`--host`). */
  hosts?: readonly string[];
  clock?: Clock;
  log?: Log;
  /** The machine's own names and addresses; tests replace it. */
  localHosts?: () => string[];
}

export interface Pki {
  /** `DIR/pki` */
  readonly dir: string;
  readonly caPem: string;
  /** `sha256:<hex>` of the CA's public key (SPKI, DER): what join tokens and kubeadm-like tools pin. */
  readonly caHash: string;
  readonly server: KeyPair;
  /** Makes `server` anew when it nears its end; whether it did. Whoever listens with it then takes it over. */
  renewServer(): Promise<boolean>;
  /**
   * The CA of certificates that CertificateSigningRequests ask for, PEM. Another than the nodes': who has one may be
   * anybody that its approver let them be, at the API, and nobody at a broker, where a name is all that counts.
   */
  readonly clientCaPem: string;
  /** The CA of {@link frontProxy}, PEM: of nobody else. */
  readonly frontProxyCaPem: string;
  /** What the API shows to servers that it passes requests on to (CN {@link FRONT_PROXY_CN}). */
  readonly frontProxy: KeyPair;
  /** The names and addresses in the server certificate. */
  readonly serverHosts: readonly string[];
  /** The Ed25519 key that downlink messages are signed with: raw public key, 32 bytes. */
  readonly signingPublicKey: Buffer;
  /** Certificates that nodes were given. Whoever issues one records it before it goes out. */
  readonly issued: IssuedCertificates;
  /** Ed25519 over `data`. */
  sign(data: Uint8Array): Buffer;
  /** A secret key of 32 bytes for one purpose, the same after every start. */
  deriveKey(purpose: string): Buffer;
  /** A client certificate, PEM. Rejects on a key that is not P-256. */
  issueClientCert(request: ClientCertRequest): Promise<string>;
  /**
   * Signs a PKCS #10 request (PEM) with the client CA. `usages` are those of certificates.k8s.io, `seconds` the life
   * that is asked for. Rejects when the request's own signature is wrong.
   */
  signRequest(request: string, usages: readonly string[], seconds?: number): Promise<string>;
  /** A server certificate with a new key, for a broker of one's own. */
  issueServerCert(cn: string, hosts: readonly string[]): Promise<KeyPair>;
  /** The hub's client certificate at an external broker (CN {@link HUB_CN}). */
  brokerClient(): Promise<KeyPair>;
  /**
   * Writes `DIR/pki/ca.crl`: certificates of those keys, and those whose name another device has now. For brokers that
   * cannot ask this hub.
   */
  writeCrl(keys: Iterable<string>): Promise<void>;
  /** Writes a kubeconfig (0600, atomic) for a member of `system:masters`. `server`: e.g. `https://127.0.0.1:6443`. */
  writeAdminKubeconfig(path: string, server: string): Promise<void>;
}

export const CRL_FILE = 'ca.crl';

/** CN of the CA that every node pins. */
export const CA_CN = 'coxswain-ca';

/** CN of the API at servers behind APIServices. */
export const FRONT_PROXY_CN = 'front-proxy-client';

/** CN of the hub itself at an external broker. */
export const HUB_CN = 'system:hub';

/** CN and O of a node's certificate, as Kubernetes' node authorizer has them. */
export const nodeSubject = (name: string) => ({ cn: `system:node:${name}`, o: ['system:nodes'] });

function machineHosts(): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((a) =>
    (a ?? []).map((i) => i.address.replace(/%.*$/, '')),
  );
  return [hostname(), ...addresses];
}

/** What Kubernetes clients expect in a server certificate, plus this machine's own. Sorted, without doubles. */
function serverHostsOf(o: PkiOptions): string[] {
  const all = ['localhost', '127.0.0.1', '::1', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc'];
  // Link-local addresses change with every boot and mean nothing without a zone.
  const own = (o.localHosts ?? machineHosts)().filter((h) => !/^fe80:/i.test(h));
  const usable = [...all, ...own, ...(o.hosts ?? [])].filter((h) => h && h !== '0.0.0.0' && h !== '::');
  return [...new Set(usable)].sort();
}

/**
 * Loads `DIR/pki`, or makes it at the very first start. The directory appears whole (built beside, then renamed), so
 * a cut of power leaves all of it or nothing. Rejects with PkiError when a file that cannot be made again is missing,
 * torn or does not fit the others: a new CA would lock every node out, and only its owner may decide that.
 */
export async function createPki(dataDir: string, options: PkiOptions = {}): Promise<Pki> {
  const clock = options.clock ?? systemClock;
  const log = options.log ?? silentLog;
  const dir = join(dataDir, 'pki');
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  if (!existsSync(dir) || readdirSync(dir).length === 0) await makeDir(dataDir, dir);

  const remedy =
    `Restore ${dir} from a backup. Without one, stop the hub, move ${dir} away and start again: ` +
    'that makes a new CA, and every node must join anew.';
  const read = <T>(file: string, parse: (pem: string) => T): T => {
    try {
      return parse(readFileSync(join(dir, file), 'utf8'));
    } catch (cause) {
      const gone = (cause as NodeJS.ErrnoException).code === 'ENOENT';
      const denied = (cause as NodeJS.ErrnoException).code === 'EACCES';
      const what = gone ? 'is missing' : denied ? 'may not be read by this user' : 'is torn or corrupt';
      throw new PkiError(`${join(dir, file)} ${what}. ${remedy}`, { cause });
    }
  };
  const caPem = read('ca.crt', (pem) => new X509Certificate(pem) && pem);
  const caKey = read('ca.key', createPrivateKey);
  const ca = new X509Certificate(caPem);
  if (!ca.checkPrivateKey(caKey))
    throw new PkiError(`${join(dir, 'ca.key')} does not belong to ${join(dir, 'ca.crt')}. ${remedy}`);
  const signingKey = read('signing.key', createPrivateKey);
  if (signingKey.asymmetricKeyType !== 'ed25519')
    throw new PkiError(`${join(dir, 'signing.key')} is not an Ed25519 key. ${remedy}`);
  chmodSync(dir, 0o700);

  const issuer = { cert: caPem, key: pemOf(caKey) };
  const validity = (ttl: number) => {
    const now = clock.now();
    return { notBefore: now - BACKDATE, notAfter: Math.min(now + ttl, CA_VALIDITY.notAfter) };
  };
  const issue = async (
    cn: string,
    o: readonly string[],
    hosts?: readonly string[],
    by: KeyPair = issuer,
  ): Promise<KeyPair> => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const cert = await issueCertificate({
      ca: by,
      subject: { cn, o },
      publicKey: pemOf(publicKey),
      validity: validity(LEAF_TTL),
      ...(hosts ? { hosts } : {}),
    });
    return { cert, key: pemOf(privateKey) };
  };

  /** Why the pair on disk will not do, or undefined when it will. These files can be made again at no loss. */
  const wrongWith = (
    pair: KeyPair,
    hosts: readonly string[] | undefined,
    by: X509Certificate,
  ): string | undefined => {
    const cert = new X509Certificate(pair.cert);
    if (!cert.checkPrivateKey(createPrivateKey(pair.key))) return 'key and certificate do not match';
    if (!cert.verify(by.publicKey)) return 'signed by another CA';
    if (Date.parse(cert.validTo) - clock.now() < RENEW_BEFORE) return 'expires soon';
    if (Date.parse(cert.validFrom) > clock.now()) return 'not valid yet by this clock';
    // More than wanted does no harm: bridges and leases come and go with every start.
    const named = new Set(sansOf(cert));
    const missing = (hosts ?? []).filter((h) => !named.has(canonicalHost(h)));
    if (missing.length) return `does not name ${missing.join(', ')}`;
    return undefined;
  };
  const ensure = async (
    name: string,
    cn: string,
    o: string[],
    hosts?: string[],
    by: KeyPair = issuer,
  ): Promise<KeyPair> => {
    const crt = join(dir, `${name}.crt`);
    const key = join(dir, `${name}.key`);
    if (existsSync(crt) && existsSync(key)) {
      let wrong: string | undefined;
      try {
        const pair = { cert: readFileSync(crt, 'utf8'), key: readFileSync(key, 'utf8') };
        wrong = wrongWith(pair, hosts, new X509Certificate(by.cert));
        if (!wrong) return pair;
      } catch (e) {
        wrong = `cannot be read: ${(e as Error).message}`;
      }
      log.info({ file: crt, reason: wrong }, 'certificate made anew');
    }
    const pair = await issue(cn, o, hosts, by);
    writeFileAtomic(key, pair.key, 0o600);
    writeFileAtomic(crt, pair.cert, 0o600);
    return pair;
  };

  const clientCa = await ensureCa(dir, 'client-ca', 'coxswain-client-ca', log);
  const frontProxyCa = await ensureCa(dir, 'front-proxy-ca', 'coxswain-front-proxy-ca', log);
  const frontProxy = await ensure('front-proxy-client', FRONT_PROXY_CN, [], undefined, frontProxyCa);
  const issued = new IssuedCertificates(join(dir, 'issued'));
  const serverHosts = serverHostsOf(options);
  const server = await ensure('server', 'coxswain-hub', [], serverHosts);
  const signingPublicKey = rawEd25519(createPublicKey(signingKey));

  return {
    dir,
    caPem,
    caHash: spkiHash(ca),
    server,
    clientCaPem: clientCa.cert,
    frontProxyCaPem: frontProxyCa.cert,
    frontProxy,
    serverHosts,
    signingPublicKey,
    issued,
    sign: (data) => sign(null, data, signingKey),
    deriveKey: (purpose) =>
      Buffer.from(
        hkdfSync(
          'sha256',
          signingKey.export({ type: 'pkcs8', format: 'der' }),
          '',
          `coxswain ${purpose}`,
          32,
        ),
      ),
    async issueClientCert({ cn, o = [], ttl = LEAF_TTL, publicKey }) {
      const key = Buffer.isBuffer(publicKey)
        ? createPublicKey({ key: publicKey, format: 'der', type: 'spki' })
        : publicKey;
      if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
        throw new PkiError('the public key must be an ECDSA key on P-256');
      return issueCertificate({
        ca: issuer,
        subject: { cn, o },
        publicKey: pemOf(key),
        validity: validity(ttl),
      });
    },
    signRequest(request, usages, seconds) {
      const now = clock.now();
      const ttl = seconds === undefined ? REQUEST_TTL : Math.min(seconds * 1000, REQUEST_TTL);
      const notBefore = now - REQUEST_BACKDATE;
      const notAfter = ttl < SHORT ? now + ttl : notBefore + ttl;
      return issueCertificate({ ca: clientCa, request, usages, validity: { notBefore, notAfter } });
    },
    issueServerCert: (cn, hosts) => issue(cn, [], [...new Set(hosts)].sort()),
    brokerClient: () => ensure('broker', HUB_CN, [HUB_CN]),
    async renewServer() {
      const next = await ensure('server', 'coxswain-hub', [], serverHosts);
      if (next.cert === server.cert) return false;
      Object.assign(server, next);
      return true;
    },
    async writeCrl(keys) {
      const serials = [...issued.withdrawn(), ...[...keys].flatMap((k) => issued.serials(k))];
      // As long as the CA: a broker that nobody brings a newer list must not turn everyone away.
      const times = { notBefore: clock.now() - BACKDATE, notAfter: CA_VALIDITY.notAfter };
      const crl = await issueCertificate({ serials: [...new Set(serials)], ca: issuer, validity: times });
      writeFileAtomic(join(dir, CRL_FILE), crl, 0o644);
    },
    async writeAdminKubeconfig(path, serverUrl) {
      const admin = await ensure('admin', 'admin', ['system:masters']);
      writeFileAtomic(path, kubeconfig(serverUrl, caPem, admin), 0o600);
    },
  };
}

const pemOf = (k: KeyObject): string =>
  k.export({ type: k.type === 'public' ? 'spki' : 'pkcs8', format: 'pem' }) as string;

/** Loads a CA, or makes it, where what it signed can be asked for again: without it that is void. */
async function ensureCa(dir: string, name: string, cn: string, log: Log): Promise<KeyPair> {
  const crt = join(dir, `${name}.crt`);
  const keyFile = join(dir, `${name}.key`);
  if (existsSync(crt)) {
    try {
      const pair = { cert: readFileSync(crt, 'utf8'), key: readFileSync(keyFile, 'utf8') };
      if (new X509Certificate(pair.cert).checkPrivateKey(createPrivateKey(pair.key))) return pair;
      log.warn({ file: crt }, 'made anew: it does not belong to its key');
    } catch (err) {
      log.warn({ file: crt, err }, 'made anew: it cannot be read');
    }
  }
  const key = pemOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey);
  const subject = { cn };
  const cert = await issueCertificate({ subject, privateKey: key, validity: CA_VALIDITY });
  writeFileAtomic(keyFile, key, 0o600);
  writeFileAtomic(crt, cert, 0o600);
  return { cert, key };
}

async function makeDir(dataDir: string, dir: string): Promise<void> {
  const caKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  const signingKey = generateKeyPairSync('ed25519').privateKey;
  const ca = await issueCertificate({
    subject: { cn: CA_CN },
    privateKey: pemOf(caKey),
    validity: CA_VALIDITY,
  });
  const tmp = join(dataDir, `.pki-${randomBytes(6).toString('hex')}`);
  mkdirSync(tmp, { mode: 0o700 });
  try {
    writeFileAtomic(join(tmp, 'ca.key'), pemOf(caKey), 0o600);
    writeFileAtomic(join(tmp, 'ca.crt'), ca, 0o600);
    writeFileAtomic(join(tmp, 'signing.key'), pemOf(signingKey), 0o600);
    renameSync(tmp, dir);
    fsyncDir(dataDir);
  } catch (e) {
    rmSync(tmp, { recursive: true, force: true });
    throw e;
  }
}

/** An Ed25519 public key without its 12-byte SPKI header (RFC 8410). */
export const rawEd25519 = (key: KeyObject): Buffer =>
  key.export({ type: 'spki', format: 'der' }).subarray(-32);

/** The one spelling of an address that certificates print (IPv6 in full, upper case). */
function canonicalHost(host: string): string {
  if (!host.includes(':')) return host;
  const [head = '', tail = ''] = host.split('::');
  const left = head ? head.split(':') : [];
  const right = tail ? tail.split(':') : [];
  const zeros = host.includes('::') ? Array(8 - left.length - right.length).fill('0') : [];
  return [...left, ...zeros, ...right]
    .map((g) => Number.parseInt(g, 16).toString(16).toUpperCase())
    .join(':');
}

const sansOf = (cert: X509Certificate): string[] =>
  (cert.subjectAltName ?? '')
    .split(', ')
    .map((s) => s.replace(/^(DNS|IP Address):/, ''))
    .map(canonicalHost);

const kubeconfig = (server: string, caPem: string, { cert, key }: KeyPair): string => {
  const b64 = (s: string) => Buffer.from(s).toString('base64');
  return [
    'apiVersion: v1',
    'kind: Config',
    'current-context: coxswain',
    'clusters:',
    '- name: coxswain',
    '  cluster:',
    `    server: ${server}`,
    `    certificate-authority-data: ${b64(caPem)}`,
    'contexts:',
    '- name: coxswain',
    '  context:',
    '    cluster: coxswain',
    '    user: admin',
    'users:',
    '- name: admin',
    '  user:',
    `    client-certificate-data: ${b64(cert)}`,
    `    client-key-data: ${b64(key)}`,
    '',
  ].join('\n');
};
