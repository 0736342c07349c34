import path from 'node:path';
import { Readable } from 'node:stream';
import { type Descriptor, isDigest, MEDIA } from '../../api/oci.js';
import { type FetchedManifest, pullError } from './client.js';

/** What a container image's config says about running it (image-spec config.md, `config`). */
export interface WasmConfig {
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  WorkingDir?: string;
  User?: string;
}

/** Layers that are a module or component as it is. */
const WASM_LAYERS: string[] = [
  MEDIA.wasmLayer,
  'application/vnd.wasm.content.layer.v1+wasm',
  'application/vnd.module.wasm.content.layer.v1+wasm',
];
const TAR_LAYERS =
  /^application\/vnd\.(oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?|docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?)$/;
/** Bytes of an unpacked layer: a bound for compressed bombs. */
const LAYER_BYTES = 1 << 30;
const LAYER_ENTRIES = 100_000;
const TAR_BLOCK = 512;

const ARCH: Record<string, string> = {
  x64: 'amd64',
  arm64: 'arm64',
  arm: 'arm',
  ia32: '386',
  riscv64: 'riscv64',
};

/**
 * The manifest of an index to run here: one for WebAssembly before one for this machine's Linux (whose layer may hold a
 * module just as well), before the only one.
 */
export function chooseManifest(image: string, manifests: Descriptor[]): Descriptor {
  const usable = manifests.filter((m) => isDigest(m?.digest) && m.platform?.os !== 'unknown');
  const isWasm = ({ platform, artifactType }: Descriptor) =>
    artifactType === MEDIA.wasmConfig ||
    /^wasm/.test(platform?.architecture ?? '') ||
    /^wasi/.test(platform?.os ?? '');
  const isHere = ({ platform }: Descriptor) =>
    platform?.os === 'linux' && platform.architecture === (ARCH[process.arch] ?? process.arch);
  const found = usable.find(isWasm) ?? usable.find(isHere) ?? (usable.length === 1 ? usable[0] : undefined);
  if (found) return found;
  const there = usable.map((m) => `${m.platform?.os}/${m.platform?.architecture}`).join(', ') || 'none';
  throw pullError(image, `no match for platform in manifest: wasi/wasm is wanted, there are: ${there}`);
}

/** What kind of Wasm image the manifest describes, and the layer that holds the module. Throws ErrImagePull. */
export function imageKind(
  image: string,
  m: FetchedManifest,
): { kind: 'artifact' | 'container'; config: Descriptor; layer: Descriptor } {
  const { config, layers } = m.doc;
  const isDescriptor = (d: unknown): d is Descriptor =>
    isDigest((d as Descriptor | undefined)?.digest ?? '') && Number.isSafeInteger((d as Descriptor).size);
  if (!isDescriptor(config) || !Array.isArray(layers) || !layers.every(isDescriptor)) {
    throw pullError(
      image,
      `its manifest (${m.mediaType || 'no media type'}) is not a valid OCI image manifest`,
    );
  }
  const wasm = layers.filter((l) => WASM_LAYERS.includes(l.mediaType));
  if (wasm.length === 1) return { kind: 'artifact', config, layer: wasm[0]! };
  if (wasm.length > 1) {
    throw pullError(image, `it has ${wasm.length} WebAssembly layers; an image with exactly one is needed`);
  }
  const [layer] = layers;
  if (!layer || !layers.every((l) => TAR_LAYERS.test(l.mediaType))) {
    const types = layers.map((l) => l.mediaType).join(', ') || 'none';
    throw pullError(image, `it is not a WebAssembly image: its layers are ${types}, not ${MEDIA.wasmLayer}`);
  }
  if (layers.length > 1) {
    throw pullError(
      image,
      `it is a container image of ${layers.length} layers; runtimeClassName wasm runs images with one layer that holds ` +
        'the module (FROM scratch, one COPY), or artifacts made with "cox push"',
    );
  }
  if (/zstd$/.test(layer.mediaType)) {
    throw pullError(
      image,
      'its layer is compressed with zstd, which is not supported here: build it with gzip',
    );
  }
  return { kind: 'container', config, layer };
}

/** The file in the image that its config starts, without the leading slash. */
function entryPath(image: string, c: WasmConfig): string {
  const [program] = c.Entrypoint?.length ? c.Entrypoint : (c.Cmd ?? []);
  if (typeof program !== 'string' || program === '') {
    throw pullError(image, 'its config names no entrypoint, so which file is the module cannot be told');
  }
  return path.posix.resolve('/', c.WorkingDir || '/', program).slice(1);
}

/**
 * Finds the entrypoint's file in an unpacked layer and hands its content to `save`, whose result it returns. Nothing else
 * of the archive reaches the disk, and no name in it is ever used as a path.
 */
export async function moduleOfLayer(
  image: string,
  tar: Readable,
  config: WasmConfig,
  moduleBytes: number,
  save: (content: AsyncIterable<Uint8Array>) => Promise<string>,
): Promise<string> {
  const wanted = entryPath(image, config);
  // Few nodes ever see a container image here.
  const { extract } = await import('tar-stream');
  const unpack = extract();
  const source = Readable.from(bounded(image, tar), { objectMode: false });
  source.on('error', (e) => unpack.destroy(e));
  source.pipe(unpack);
  let found: string | undefined;
  let entries = 0;
  try {
    for await (const entry of unpack) {
      const { name, type, size = 0 } = entry.header;
      if (++entries > LAYER_ENTRIES) throw pullError(image, `its layer has more than ${LAYER_ENTRIES} files`);
      const clean = name.replace(/^(\.?\/)+/, '').replace(/\/+$/, '');
      if (clean !== wanted) {
        entry.resume();
        continue;
      }
      if (type !== 'file' && type !== 'contiguous-file') {
        throw pullError(image, `/${wanted}, its entrypoint, is a ${type} and not a file`);
      }
      if (size > moduleBytes) {
        throw pullError(image, `/${wanted} has ${size} bytes, more than the ${moduleBytes} allowed here`);
      }
      // A later entry of the same name replaces an earlier one.
      found = await save(entry as AsyncIterable<Uint8Array>);
    }
  } catch (e) {
    source.destroy();
    if ((e as Error).name === 'ShimError') throw e;
    const { code } = e as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT') throw e;
    throw pullError(image, `its layer cannot be unpacked: ${(e as Error).message}`);
  }
  if (found === undefined)
    throw pullError(image, `its layer does not hold /${wanted}, which its config names as the entrypoint`);
  return found;
}

/** Counts what a layer unpacks to, and makes whole the last block, which some tools (umoci insert) leave short. */
async function* bounded(image: string, tar: Readable): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const chunk of tar as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > LAYER_BYTES) throw pullError(image, `its layer unpacks to more than ${LAYER_BYTES} bytes`);
    yield chunk;
  }
  yield Buffer.alloc((TAR_BLOCK - (bytes % TAR_BLOCK)) % TAR_BLOCK);
}
