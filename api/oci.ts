/** What the hub's registry, the agents' image client and `cox push` agree on about OCI images. */

/**
 * The registry name that stands for the hub's own registry, wherever the hub is: `coxswain.internal/hello:1`. `.internal`
 * is reserved by ICANN for private use, so no public registry can ever have this name. Agents put the hub's address in
 * its place when they pull; what users see stays as they wrote it.
 */
export const HUB_REGISTRY = 'coxswain.internal';

// The grammar of github.com/distribution/reference, which containerd and Docker use, and of the distribution spec.
const COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*';
const REPOSITORY = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`);
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Longest name of a repository, its registry included. */
export const REPOSITORY_NAME_MAX = 255;

export const isRepository = (text: string): boolean =>
  text.length <= REPOSITORY_NAME_MAX && REPOSITORY.test(text);
export const isTag = (text: string): boolean => TAG.test(text);
/** A digest that this project verifies: SHA-256 only, which is what registries of the field serve. */
export const isDigest = (text: string): boolean => DIGEST.test(text);

export const MEDIA = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  /** CNCF TAG Runtime's Wasm OCI artifact layout. */
  wasmConfig: 'application/vnd.wasm.config.v0+json',
  wasmLayer: 'application/wasm',
} as const;

/** An OCI content descriptor (image-spec descriptor.md). `size` in bytes. */
export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  annotations?: Record<string, string>;
  platform?: { architecture: string; os: string; variant?: string };
  artifactType?: string;
}

/** An OCI image manifest (image-spec manifest.md). */
export interface ImageManifest {
  schemaVersion: 2;
  mediaType?: string;
  artifactType?: string;
  config: Descriptor;
  layers: Descriptor[];
  subject?: Descriptor;
  annotations?: Record<string, string>;
}

/** An OCI image index (image-spec image-index.md). */
export interface ImageIndex {
  schemaVersion: 2;
  mediaType?: string;
  manifests: Descriptor[];
  subject?: Descriptor;
  annotations?: Record<string, string>;
}

/** Largest manifest accepted or served, in bytes (the distribution spec's recommended limit). */
export const MANIFEST_MAX_BYTES = 4 << 20;
