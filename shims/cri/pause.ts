/**
 * The sandbox image, made on the spot. A pod's sandbox needs one process that does nothing; runtimes fetch it from
 * registry.k8s.io, which a device in the field may never reach. Since that process is a dozen instructions, they are
 * assembled here, wrapped into an OCI image and imported under the name that containerd is configured to use.
 *
 * The program: ignore SIGCHLD with SA_NOCLDWAIT (so that the kernel reaps orphans in a shared PID namespace), then sleep
 * for good. System call numbers: Linux arch/{x86,arm64,arm} unistd tables.
 */
import { createHash } from 'node:crypto';
import { type Descriptor, MEDIA } from '../../api/oci.js';
import { GRPC, type GrpcClient, GrpcError } from './grpc.js';

const SIGCHLD = 17;
const SIG_IGN = 1;
const SA_NOCLDWAIT = 2;
/** Of the kernel's signal set. */
const SIGSET_BYTES = 8;

type Arch = 'x64' | 'arm64' | 'arm';
const OCI_ARCH: Record<Arch, { architecture: string; variant?: string }> = {
  x64: { architecture: 'amd64' },
  arm64: { architecture: 'arm64' },
  // ARMv6 instructions only: a Pi Zero runs it, and so does everything later.
  arm: { architecture: 'arm' },
};

const words = (...w: number[]): Buffer => {
  const b = Buffer.alloc(w.length * 4);
  w.forEach((x, i) => {
    b.writeUInt32LE(x >>> 0, i * 4);
  });
  return b;
};

/** Machine code that expects its `struct sigaction` at address `act`. */
const CODE: Record<Arch, (act: number) => Buffer> = {
  x64(act) {
    const a = words(act);
    return Buffer.from([
      ...[0xb8, 13, 0, 0, 0], //               mov  eax, rt_sigaction
      ...[0xbf, SIGCHLD, 0, 0, 0], //          mov  edi, SIGCHLD
      ...[0xbe, ...a], //                      mov  esi, act
      ...[0x31, 0xd2], //                      xor  edx, edx
      ...[0x41, 0xba, SIGSET_BYTES, 0, 0, 0], // mov r10d, 8
      ...[0x0f, 0x05], //                      syscall
      ...[0xb8, 34, 0, 0, 0], //         loop: mov  eax, pause
      ...[0x0f, 0x05], //                      syscall
      ...[0xeb, 0xf7], //                      jmp  loop
    ]);
  },
  arm64(act) {
    const movz = (reg: number, imm: number) => 0xd2800000 | (imm << 5) | reg;
    const movk16 = (reg: number, imm: number) => 0xf2a00000 | (imm << 5) | reg;
    const svc = 0xd4000001;
    return words(
      ...[movz(0, SIGCHLD), movz(1, act & 0xffff), movk16(1, act >>> 16), movz(2, 0), movz(3, SIGSET_BYTES)],
      ...[movz(8, 134), svc], //                                       rt_sigaction(SIGCHLD, act, NULL, 8)
      ...[movz(0, 0), movz(1, 0), movz(2, 0), movz(3, 0), movz(4, 0)], // loop:
      ...[movz(8, 73), svc], //                                        ppoll(NULL, 0, NULL, NULL, 0)
      0x14000000 | (-7 & 0x3ffffff), //                                b loop
    );
  },
  arm(act) {
    const mov = (reg: number, imm8: number) => 0xe3a00000 | (reg << 12) | imm8;
    const svc = 0xef000000;
    return words(
      mov(0, SIGCHLD),
      0xe59f101c, //                                ldr r1, [pc, #28]: the last word
      ...[mov(2, 0), mov(3, SIGSET_BYTES)],
      ...[mov(7, 174), svc], //                     rt_sigaction(SIGCHLD, act, NULL, 8)
      ...[mov(7, 29), svc], //                loop: pause()
      0xea000000 | (-4 & 0xffffff), //              b loop
      0, //                                         keeps the word's distance
      act,
    );
  },
};

/** A static ELF executable of the machine; nothing in it is writable. */
export function pauseProgram(arch: Arch): Buffer {
  const wide = arch !== 'arm';
  const headers = wide ? 64 + 56 : 52 + 32;
  // A multiple of every page size in use (4, 16 and 64 KiB).
  const base = 0x400000;
  const length = CODE[arch](0).length;
  const actAt = Math.ceil((headers + length) / 8) * 8;
  const code = CODE[arch](base + actAt);
  // struct sigaction as the kernel has it: handler, flags, restorer, mask.
  const act = wide ? words(SIG_IGN, 0, SA_NOCLDWAIT, 0, 0, 0, 0, 0) : words(SIG_IGN, SA_NOCLDWAIT, 0, 0, 0);
  const file = Buffer.alloc(actAt + act.length);
  const put = (at: number, ...parts: [bytes: 2 | 4 | 8, value: number][]) => {
    for (const [bytes, value] of parts) {
      file.writeUIntLE(value, at, Math.min(bytes, 4) as 2 | 4);
      at += bytes;
    }
  };
  const address = wide ? 8 : 4;
  file.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  put(
    16,
    [2, 2], // ET_EXEC
    [2, { x64: 62, arm64: 183, arm: 40 }[arch]],
    [4, 1],
    [address, base + headers], // entry
    [address, wide ? 64 : 52], // program headers
    [address, 0],
    [4, arch === 'arm' ? 0x05000000 : 0], // EABI version 5
    [2, wide ? 64 : 52],
    [2, wide ? 56 : 32],
    [2, 1],
  );
  const readAndRun: [4, number] = [4, 5];
  put(
    wide ? 64 : 52,
    [4, 1], // PT_LOAD
    ...(wide ? [readAndRun] : []),
    [address, 0],
    [address, base],
    [address, base],
    [address, file.length],
    [address, file.length],
    ...(wide ? [] : [readAndRun]),
    [address, 0x10000],
  );
  code.copy(file, headers);
  act.copy(file, actAt);
  return file;
}

/** A tar archive with the one file /pause. Layout: POSIX ustar. */
function tarOf(program: Buffer): Buffer {
  const head = Buffer.alloc(512);
  const field = (at: number, text: string) => head.write(text, at, 'latin1');
  field(0, 'pause');
  field(100, '0000755\0');
  field(108, '0000000\0');
  field(116, '0000000\0');
  field(124, `${program.length.toString(8).padStart(11, '0')}\0`);
  field(136, '00000000000\0');
  field(148, '        ');
  field(156, '0');
  field(257, 'ustar\x0000');
  field(
    148,
    `${[...head]
      .reduce((a, b) => a + b, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
  );
  const padding = Buffer.alloc((512 - (program.length % 512)) % 512);
  return Buffer.concat([head, program, padding, Buffer.alloc(1024)]);
}

export interface PauseImage {
  manifest: Descriptor;
  /** What the image consists of, leaves first. `refs`: digests that this one needs. */
  blobs: { digest: string; data: Buffer; refs: string[] }[];
}

/** Undefined on a machine it has no instructions for. */
export function pauseImage(arch: string): PauseImage | undefined {
  if (!(arch in OCI_ARCH)) return undefined;
  const blobs: PauseImage['blobs'] = [];
  const blob = (mediaType: string, data: Buffer, refs: string[]): Descriptor => {
    const digest = `sha256:${createHash('sha256').update(data).digest('hex')}`;
    blobs.push({ digest, data, refs });
    return { mediaType, digest, size: data.length };
  };
  const json = (value: object) => Buffer.from(JSON.stringify(value));
  const layer = blob('application/vnd.oci.image.layer.v1.tar', tarOf(pauseProgram(arch as Arch)), []);
  const config = blob(
    MEDIA.ociConfig,
    json({
      ...OCI_ARCH[arch as Arch],
      os: 'linux',
      config: { Entrypoint: ['/pause'], WorkingDir: '/', User: '65535:65535' },
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
    }),
    [],
  );
  const manifest = blob(
    MEDIA.ociManifest,
    json({ schemaVersion: 2, mediaType: MEDIA.ociManifest, config, layers: [layer] }),
    [config.digest, layer.digest],
  );
  return { manifest, blobs };
}

/**
 * Puts the image into containerd's store under `name`, in the CRI's namespace. Rejects with GrpcError (UNIMPLEMENTED on
 * a runtime that is not containerd).
 */
export async function importPauseImage(
  containerd: GrpcClient,
  name: string,
  image: PauseImage,
): Promise<void> {
  const lease = `coxswain-pause-${image.manifest.digest.slice(7, 19)}`;
  const metadata = { 'containerd-namespace': 'k8s.io' };
  const timeoutMs = 30_000;
  const unlessThere = (e: unknown) => {
    if (!(e instanceof GrpcError && e.code === GRPC.ALREADY_EXISTS)) throw e;
  };
  // Without a lease containerd's garbage collector may take the blobs before the image holds them.
  await containerd
    .unary('/containerd.services.leases.v1.Leases/Create', { id: lease }, { metadata, timeoutMs })
    .catch(unlessThere);
  try {
    const leased = { ...metadata, 'containerd-lease': lease };
    for (const { digest, data, refs } of image.blobs) {
      const labels = Object.fromEntries(refs.map((r, i) => [`containerd.io/gc.ref.content.${i}`, r]));
      await containerd
        .stream(
          '/containerd.services.content.v1.Content/Write',
          [
            {
              action: 'COMMIT',
              ref: `coxswain-${digest}`,
              total: data.length,
              expected: digest,
              data,
              labels,
            },
          ],
          () => {},
          { metadata: leased, timeoutMs },
        )
        .catch(unlessThere);
    }
    await containerd
      .unary(
        '/containerd.services.images.v1.Images/Create',
        { image: { name, labels: { 'io.cri-containerd.pinned': 'pinned' }, target: image.manifest } },
        { metadata: leased, timeoutMs },
      )
      .catch(unlessThere);
  } finally {
    await containerd
      .unary('/containerd.services.leases.v1.Leases/Delete', { id: lease }, { metadata, timeoutMs })
      .catch(() => {});
  }
}
