/** What the shim tells a host program, as JSON on descriptor {@link SPEC_FD}. Paths are those inside the jail. */
export interface HostSpec {
  /** How messages name the module: the image reference. */
  name: string;
  /** The core module (`p1`), or the transpiled component (`p2`). */
  module: string;
  args: string[];
  /** In order; later ones win. */
  env: [string, string][];
  preopens: Preopen[];
  log: { path: string; maxBytes: number };
  /** The pod was granted the network: components get sockets and outgoing HTTP. */
  network?: boolean;
  /** The guest's working directory, where the container has one. */
  cwd?: string;
}

/** A directory that the guest sees at `guest`. */
export interface Preopen {
  guest: string;
  /** Absent for a directory that only exists to hold `files`. */
  host?: string;
  /** A directory below `host`, found as the guest's paths are; made where it is missing and may be made. */
  below?: string;
  readOnly: boolean;
  /** Files mounted into it, by name; they hide what the directory itself has there. */
  files: { name: string; host: string; readOnly: boolean }[];
}

/** Read to its end, then closed. */
export const SPEC_FD = 3;
/** Why the guest did not end well, for the container's status; at most {@link MAX_MESSAGE} bytes of UTF-8. */
export const MESSAGE_FD = 4;
export const MAX_MESSAGE = 2048;

/** Exit codes of the host itself, beside the guest's own: as shells and runtimes use them. */
export const EXIT = {
  /** A trap: as if by SIGABRT. */
  trap: 134,
  /** The module cannot be run (broken, missing import, no `_start`). */
  cannotRun: 126,
  /** A failure of the host itself. */
  host: 125,
} as const;

/** The container cannot run; the message says why. */
export class CannotRun extends Error {}

/** The functions of wasi_snapshot_preview1: what a core module may import. */
export const P1_FUNCTIONS =
  `args_get args_sizes_get clock_res_get clock_time_get environ_get environ_sizes_get fd_advise fd_allocate fd_close
  fd_datasync fd_fdstat_get fd_fdstat_set_flags fd_fdstat_set_rights fd_filestat_get fd_filestat_set_size
  fd_filestat_set_times fd_pread fd_prestat_dir_name fd_prestat_get fd_pwrite fd_read fd_readdir fd_renumber fd_seek
  fd_sync fd_tell fd_write path_create_directory path_filestat_get path_filestat_set_times path_link path_open
  path_readlink path_remove_directory path_rename path_symlink path_unlink_file poll_oneoff proc_exit proc_raise
  random_get sched_yield sock_accept sock_recv sock_send sock_shutdown`.split(/\s+/);
