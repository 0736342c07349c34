import { readFileSync, statSync } from 'node:fs';
import { type Descriptor, HUB_REGISTRY, type ImageManifest, MEDIA } from '../api/oci.js';
import { RegistryClient, RegistryDown } from '../shims/images/client.js';
import type { HubAccess } from '../shims/images/hub-agent.js';
import { formatReference, parseReference, type Reference } from '../shims/images/reference.js';
import type { ImageAuth } from '../shims/shim.js';
import { readAccess } from './client.js';
import { defaultDataDir, describeFlags, type Flag, parseFlags, UsageError } from './flags.js';

const FLAGS: Record<string, Flag> = {
  'data-dir': {
    value: 'DIR',
    default: defaultDataDir(),
    help: "the hub's data directory, for its address and the administrator's certificate",
  },
  server: {
    value: 'URL',
    help: 'push to a hub elsewhere, e.g. https://pi1:6443; needs --ca and --token-file',
  },
  ca: { value: 'FILE', help: "that hub's CA (PEM): DIR/pki/ca.crt there" },
  'token-file': { value: 'FILE', help: "that hub's push token: DIR/push.token there" },
  help: { help: 'show this' },
};

/** Bytes; what agents accept by default. */
const MODULE_MAX = 256 << 20;

/**
 * `cox push FILE.wasm NAME:TAG`: puts a module or component into the hub's registry as a Wasm OCI artifact. Components go
 * as they are; the hub makes them ready to run (hub/images/transpile.ts).
 */
export async function push(argv: string[]): Promise<number> {
  const flags = parseFlags(argv, FLAGS, 2);
  if (flags.on('help')) {
    process.stdout.write(`usage: cox push FILE.wasm NAME:TAG [flags]\n\n${describeFlags(FLAGS)}\n`);
    return 0;
  }
  const [file, name] = flags.positionals;
  if (file === undefined || name === undefined) throw new UsageError('a file and a NAME:TAG are needed');
  const ref = hubReference(name);
  const content = readModule(file);
  const kind = wasmKind(content, file);

  const { hub, auth } = access(flags);
  const client = new RegistryClient({ hub: () => hub });
  try {
    const add = async (mediaType: string, bytes: Uint8Array): Promise<Descriptor> => {
      const digest = await client.pushBlob(ref, bytes, { auth });
      return { mediaType, digest, size: bytes.length };
    };
    const layers = [await add(MEDIA.wasmLayer, content)];
    // CNCF TAG Runtime's Wasm OCI artifact layout. No creation time: the same file gives the same digest.
    const config = {
      architecture: 'wasm',
      os: kind === 'component' ? 'wasip2' : 'wasip1',
      layerDigests: layers.map((l) => l.digest),
    };
    const manifest: ImageManifest = {
      schemaVersion: 2,
      mediaType: MEDIA.ociManifest,
      config: await add(MEDIA.wasmConfig, Buffer.from(JSON.stringify(config))),
      layers,
    };
    const digest = await client.pushManifest(ref, manifest, { auth });
    process.stdout.write(
      `pushed ${kind} ${file} (${content.length} bytes) as ${formatReference(ref)}\n` +
        `digest ${digest}\nuse it in a pod: image: ${formatReference(ref)}\n`,
    );
    return 0;
  } catch (e) {
    if (e instanceof RegistryDown) {
      throw new Error(`no hub answers at https://${hub.host}: is it running? (${e.message})`, { cause: e });
    }
    throw e;
  } finally {
    client.close();
  }
}

function hubReference(name: string): Reference {
  const full = name.startsWith(`${HUB_REGISTRY}/`) ? name : `${HUB_REGISTRY}/${name}`;
  let ref: Reference;
  try {
    ref = parseReference(full);
  } catch {
    throw new UsageError(
      `"${name}" is not a valid NAME:TAG: lower-case letters, digits and ._-/ in the name, e.g. apps/hello:1`,
    );
  }
  const [first = ''] = ref.repository.split('/');
  if (ref.repository.includes('/') && (/[.:]/.test(first) || first === 'localhost')) {
    throw new UsageError(
      `cox push pushes into the hub's own registry, not into ${first}: leave the host name out`,
    );
  }
  if (ref.digest) throw new UsageError('a tag is needed, not a digest: the digest follows from the content');
  return ref;
}

function readModule(file: string): Buffer {
  try {
    const { size } = statSync(file);
    if (size > MODULE_MAX)
      throw new Error(`it has ${size} bytes, more than the ${MODULE_MAX} that agents accept`);
    return readFileSync(file);
  } catch (e) {
    const missing = (e as NodeJS.ErrnoException).code === 'ENOENT';
    throw new Error(`cannot read ${file}: ${missing ? 'there is no such file' : (e as Error).message}`);
  }
}

/** Magic, then 16 bits of version and 16 bits of layer (component-model Binary.md): layer 0 is a core module, 1 a component. */
export function wasmKind(bytes: Uint8Array, file: string): 'module' | 'component' {
  const b = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (b.length < 8 || b.readUInt32LE(0) !== 0x6d736100) {
    const isText = /^\s*(;;|\(module|\(component)/.test(b.subarray(0, 4096).toString('latin1'));
    const remedy = isText ? ' but its text format: compile it first, e.g. with wat2wasm' : '';
    throw new Error(
      `${file} is not a WebAssembly binary${remedy}${remedy ? '' : ' (it does not begin with "\\0asm")'}`,
    );
  }
  const [version, layer] = [b.readUInt16LE(4), b.readUInt16LE(6)];
  if (layer === 0 && version === 1) return 'module';
  if (layer === 1 && version === 13) return 'component';
  throw new Error(
    layer === 1
      ? `${file} is a component of binary version ${version}; version 13 is supported: rebuild it with current tools`
      : `${file} has WebAssembly version ${version}, layer ${layer}; core modules of version 1 and components are supported`,
  );
}

function access(flags: ReturnType<typeof parseFlags>): { hub: HubAccess; auth?: ImageAuth } {
  const server = flags.text('server');
  if (server === undefined) {
    const { server: url, ca, cert, key } = readAccess(flags.required('data-dir'));
    return { hub: { host: url.host, ca: ca.toString(), cert: cert.toString(), key: key.toString() } };
  }
  let url: URL;
  try {
    url = new URL(server);
  } catch {
    throw new UsageError(`--server wants a URL such as https://pi1:6443, not "${server}"`);
  }
  if (url.protocol !== 'https:') throw new UsageError(`--server wants an https:// URL, not "${server}"`);
  const read = (flag: string): string => {
    const file = flags.required(flag);
    try {
      return readFileSync(file, 'utf8').trim();
    } catch (e) {
      throw new Error(`cannot read --${flag} ${file}: ${(e as Error).message}`);
    }
  };
  return {
    hub: { host: url.host, ca: read('ca') },
    auth: { username: 'push', password: read('token-file') },
  };
}
