import type { ImageAuth } from '../shim.js';

/** A Wasm image whose module lies verified in the cache. */
export interface WasmImage {
  /** The reference in its full form, e.g. `coxswain.internal/hello:1`. */
  ref: string;
  /** `registry/repository@sha256:…` of the manifest (of the index, when the reference led to one). */
  repoDigests: string[];
  /** What the image takes on disk, in bytes. */
  sizeBytes: number;
  /** The module or component on disk; do not change it. Stays until the image is removed or evicted. */
  modulePath: string;
  /** `sha256:…` of the file at `modulePath`; the key for what is derived from it. */
  moduleDigest: string;
  /** From the image's config; absent for a Wasm OCI artifact. */
  entrypoint?: string[];
  cmd?: string[];
  /** `NAME=value` */
  env?: string[];
  workingDir?: string;
  /** The image's user as its config has it, e.g. `1000:1000` or `nobody`. */
  user?: string;
  /** The manifest's layers. */
  layers: { mediaType: string; digest: string; size: number; annotations?: Record<string, string> }[];
}

export interface PullOptions {
  auth?: ImageAuth;
  signal?: AbortSignal;
}

/** What the wasm shim needs of an image store; `ImageCache` is it. */
export interface WasmImages {
  /** Makes the directories and drops what a crash left. */
  start(): Promise<void>;
  /** The image as it was pulled last, from disk alone; undefined when it (or a part of it) is not there. */
  get(image: string): Promise<WasmImage | undefined>;
  /**
   * Asks the registry what the reference names now and fetches what is missing. Rejects with ShimError
   * InvalidImageName, ErrImagePull (not found, denied, not a Wasm image, digest mismatch) or RegistryUnavailable
   * (worth another try).
   */
  pull(image: string, options?: PullOptions): Promise<WasmImage>;
  list(): Promise<WasmImage[]>;
  /** By reference or repo digest. What nothing else names is deleted; absent images are no error. */
  remove(image: string): Promise<void>;
}
