/** Credentials for an image from a pod's imagePullSecrets (kubernetes.io/dockerconfigjson and the older dockercfg). Pure. */
import type { Secret } from 'kubernetes-types/core/v1.js';
import type { ImageAuth } from '../../shims/shim.js';

interface Entry {
  auth?: string;
  username?: string;
  password?: string;
}

/** The registry and path of an image, Docker Hub's short names completed: `docker.io/library/busybox`. */
export function imagePath(image: string): string {
  const name = image.replace(/@.*$/, '').replace(/:[^/:]*$/, '');
  const first = name.split('/')[0]!;
  if (!name.includes('/')) return `docker.io/library/${name}`;
  return /[.:]/.test(first) || first === 'localhost' ? name : `docker.io/${name}`;
}

/** `https://index.docker.io/v1/` and `docker.io` are the same place. */
function registryPath(key: string): string {
  const path = key
    .replace(/^https?:\/\//, '')
    .replace(/\/v[12]\/?$/, '')
    .replace(/\/$/, '');
  return path === 'index.docker.io' || path === 'registry-1.docker.io' ? 'docker.io' : path;
}

/** Candidates to try in turn, the most specific first; secrets that are malformed count as absent. */
export function credentialsFor(image: string, secrets: readonly Secret[]): ImageAuth[] {
  const path = imagePath(image);
  const found: { length: number; auth: ImageAuth }[] = [];
  for (const s of secrets)
    for (const [key, entry] of Object.entries(entriesOf(s))) {
      const registry = registryPath(key);
      if (path !== registry && !path.startsWith(`${registry}/`)) continue;
      const auth = authOf(entry);
      if (auth) found.push({ length: registry.length, auth });
    }
  return found.sort((a, b) => b.length - a.length).map((f) => f.auth);
}

function entriesOf(s: Secret): Record<string, Entry> {
  const text = s.data?.['.dockerconfigjson'] ?? s.data?.['.dockercfg'];
  if (!text) return {};
  try {
    const parsed = JSON.parse(Buffer.from(text, 'base64').toString('utf8')) as {
      auths?: Record<string, Entry>;
    };
    return s.data?.['.dockerconfigjson'] ? (parsed.auths ?? {}) : (parsed as Record<string, Entry>);
  } catch {
    return {};
  }
}

function authOf(e: Entry): ImageAuth | undefined {
  if (e.username && e.password !== undefined) return { username: e.username, password: e.password };
  const plain = Buffer.from(e.auth ?? '', 'base64').toString('utf8');
  const colon = plain.indexOf(':');
  return colon > 0 ? { username: plain.slice(0, colon), password: plain.slice(colon + 1) } : undefined;
}
