import { HUB_REGISTRY, isDigest, isRepository, isTag, REPOSITORY_NAME_MAX } from '../../api/oci.js';
import { ShimError } from '../shim.js';

/** An image reference in its full form. */
export interface Reference {
  /** Registry as the user named it, with port: `docker.io`, `localhost:5000`, `coxswain.internal`. */
  readonly registry: string;
  /** Repository in that registry, e.g. `library/busybox`. */
  readonly repository: string;
  /** `latest` when the text has neither tag nor digest. With a digest the tag is a remark only. */
  readonly tag?: string;
  /** `sha256:…` */
  readonly digest?: string;
}

const LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const REGISTRY = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const ANY_DIGEST = /^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$/;

function invalid(text: string, why: string): ShimError {
  return new ShimError(
    'InvalidImageName',
    `Failed to apply default image tag "${text}": couldn't parse image name "${text}": ${why}`,
  );
}

/**
 * Parses an image name as containerd and Docker do: no registry means `docker.io`, a single name there `library/…`,
 * neither tag nor digest `:latest`. Throws ShimError `InvalidImageName` in the kubelet's words.
 */
export function parseReference(text: string): Reference {
  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  let name = at < 0 ? text : text.slice(0, at);
  if (digest !== undefined) {
    if (!ANY_DIGEST.test(digest)) throw invalid(text, 'invalid reference format');
    if (!isDigest(digest))
      throw invalid(text, 'unsupported digest algorithm: only sha256 can be verified here');
  }
  let tag: string | undefined;
  const colon = name.lastIndexOf(':');
  if (colon > name.lastIndexOf('/')) {
    tag = name.slice(colon + 1);
    name = name.slice(0, colon);
    if (!isTag(tag)) throw invalid(text, 'invalid reference format');
  }
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  let registry = 'docker.io';
  let repository = name;
  if (/[.:A-Z]/.test(first) || first === 'localhost') {
    registry = first;
    repository = name.slice(slash + 1);
  }
  if (registry === 'index.docker.io') registry = 'docker.io';
  if (registry === 'docker.io' && repository && !repository.includes('/')) {
    // A bare 64-digit name would be taken for an image ID.
    if (/^[0-9a-f]{64}$/.test(repository)) {
      throw invalid(text, 'invalid repository name, cannot specify 64-byte hexadecimal strings');
    }
    repository = `library/${repository}`;
  }
  if (registry.length + 1 + repository.length > REPOSITORY_NAME_MAX) {
    throw invalid(text, `repository name must not be more than ${REPOSITORY_NAME_MAX} characters`);
  }
  if (!isRepository(repository)) {
    const lowercase = isRepository(repository.toLowerCase());
    throw invalid(text, `invalid reference format${lowercase ? ': repository name must be lowercase' : ''}`);
  }
  if (!REGISTRY.test(registry)) throw invalid(text, 'invalid reference format');
  return {
    registry,
    repository,
    ...(tag !== undefined ? { tag } : digest === undefined ? { tag: 'latest' } : {}),
    ...(digest !== undefined ? { digest } : {}),
  };
}

/** The full form, e.g. `docker.io/library/busybox:latest`. {@link parseReference} of it gives the same reference. */
export function formatReference(r: Reference): string {
  return `${r.registry}/${r.repository}${r.tag ? `:${r.tag}` : ''}${r.digest ? `@${r.digest}` : ''}`;
}

/** `registry/repository@digest`: a container's imageID. */
export const repoDigest = (r: Reference, digest: string): string => `${r.registry}/${r.repository}@${digest}`;

/**
 * The reference under which a client on this machine reaches the image: {@link HUB_REGISTRY} becomes `hubHostPort` (e.g.
 * `192.168.1.10:6443`, or a loopback proxy's address); any other image comes back in its full form.
 */
export function resolveHub(image: string, hubHostPort: string): string {
  const r = parseReference(image);
  return formatReference(r.registry === HUB_REGISTRY ? { ...r, registry: hubHostPort } : r);
}
