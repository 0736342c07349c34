#!/usr/bin/perl -w
# Supervises one Wasm container: puts the host program into its jail, waits for it and writes down how it ended, so that
# nothing is lost while the agent is away. Perl, because namespaces, mounts, capabilities and seccomp need system calls
# that Node does not have, perl-base is on every Debian machine (Essential: yes), and it starts in 2 ms.
#
# usage: jail.pl PLAN     (PLAN: lines of tab-separated, percent-encoded words; see plan.ts)
# stdout: one line, `started PID` or `failed WHY`.
# In the state directory: `pid` (boot id, own pid, its start time, the child's pid, its start time), `exit` (status, signal, oom kills).
use strict;    # `warnings` and `constant` would double what each supervisor weighs: -w and plain subs instead

my %one;     # single-valued words
my %many;    # lists of records
sub load_plan {
    my ($file) = @_;
    open(my $in, '<', $file) or die "plan $file: $!\n";
    while (my $line = <$in>) {
        chomp $line;
        my ($key, @words) = map { s/%([0-9A-Fa-f]{2})/chr hex $1/ger } split(/\t/, $line, -1);
        push @{ $many{$key} }, [@words];
        $one{$key} = $words[0];
    }
}

# System call numbers: (x86-64, arm64); from the kernel's own tables.
my %NR = (
    mount => [165, 40], umount2 => [166, 39], pivot_root => [155, 41], unshare => [272, 97],
    setgroups => [116, 159], setresuid => [117, 147], setresgid => [119, 149], prctl => [157, 167],
    capset => [126, 91], prlimit64 => [302, 261], sethostname => [170, 161], mknodat => [259, 33],
    open_tree => [428, 428], move_mount => [429, 429], mount_setattr => [442, 442], dup3 => [292, 24],
    exit_group => [231, 94], write => [1, 64],
);
# What no guest's host program ever needs, refused with EPERM: reaching out of the jail and old kernel bugs.
my %DENY = (
    ptrace => [101, 117], process_vm_readv => [310, 270], process_vm_writev => [311, 271], mount => [165, 40],
    umount2 => [166, 39], pivot_root => [155, 41], chroot => [161, 51], unshare => [272, 97], setns => [308, 268],
    open_tree => [428, 428], move_mount => [429, 429], fsopen => [430, 430], fsconfig => [431, 431],
    fsmount => [432, 432], fspick => [433, 433], mount_setattr => [442, 442], bpf => [321, 280],
    perf_event_open => [298, 241], keyctl => [250, 219], add_key => [248, 217], request_key => [249, 218],
    userfaultfd => [323, 282], io_uring_setup => [425, 425], io_uring_enter => [426, 426],
    io_uring_register => [427, 427], open_by_handle_at => [304, 265], name_to_handle_at => [303, 264],
    kexec_load => [246, 104], kexec_file_load => [320, 294], init_module => [175, 105],
    finit_module => [313, 273], delete_module => [176, 106], reboot => [169, 142], swapon => [167, 224],
    swapoff => [168, 225], settimeofday => [164, 170], clock_settime => [227, 112], clock_adjtime => [305, 266],
    adjtimex => [159, 171], sethostname => [170, 161], setdomainname => [171, 162], syslog => [103, 116],
    acct => [163, 89], quotactl => [179, 60], personality => [135, 92], kcmp => [312, 272],
    pidfd_getfd => [438, 438], mknodat => [259, 33], lookup_dcookie => [212, 18], vhangup => [153, 58],
);
my %DENY_X64 = (mknod => 133, ioperm => 173, iopl => 172, modify_ldt => 154, uselib => 134, _sysctl => 156);
my $arch;    # 0: x86-64, 1: arm64

sub sys {
    my ($name, @args) = @_;
    # Strings must be writable scalars for syscall().
    my $result = syscall($NR{$name}[$arch], @args);
    return $result;
}
sub must {
    my ($what, $result) = @_;
    die "$what: $!\n" if $result == -1;
    return $result;
}

sub CLONE_NEWNS() { 0x20000 } sub CLONE_NEWCGROUP() { 0x2000000 } sub CLONE_NEWUTS() { 0x4000000 }
sub CLONE_NEWIPC() { 0x8000000 } sub CLONE_NEWUSER() { 0x10000000 } sub CLONE_NEWPID() { 0x20000000 }
sub CLONE_NEWNET() { 0x40000000 } sub MS_RDONLY() { 1 } sub MS_NOSUID() { 2 } sub MS_NODEV() { 4 }
sub MS_NOEXEC() { 8 } sub MS_REMOUNT() { 32 } sub MS_BIND() { 4096 } sub MS_REC() { 16384 }
sub MS_PRIVATE() { 1 << 18 } sub MNT_DETACH() { 2 } sub AT_FDCWD() { -100 } sub AT_EMPTY_PATH() { 0x1000 }
sub AT_RECURSIVE() { 0x8000 } sub OPEN_TREE_CLONE() { 1 } sub OPEN_TREE_CLOEXEC() { 02000000 }
sub MOVE_MOUNT_F_EMPTY_PATH() { 4 } sub MOUNT_ATTR_IDMAP() { 0x100000 } sub S_IFCHR() { 0020000 }
sub S_IFBLK() { 0060000 } sub S_IFMT() { 0170000 } sub PR_SET_PDEATHSIG() { 1 } sub PR_SET_SECCOMP() { 22 }
sub PR_CAPBSET_DROP() { 24 } sub PR_SET_SECUREBITS() { 28 } sub PR_SET_NO_NEW_PRIVS() { 38 }

sub start_time {
    my ($pid) = @_;
    open(my $in, '<', "/proc/$pid/stat") or return 0;
    my $stat = <$in> // return 0;
    $stat =~ s/.*\) //;    # the name may hold anything
    return (split ' ', $stat)[19];
}
sub write_file {
    my ($path, $text) = @_;
    open(my $out, '>', $path) or die "$path: $!\n";
    (print $out $text and close $out) or die "$path: $!\n";
}
sub state_file {
    my ($name, $text) = @_;
    my $path = "$one{state}/$name";
    write_file("$path.new", $text);
    rename("$path.new", $path) or die "$path: $!\n";
}

# A user namespace in which root and the pod's id trade places and all others stay: what an idmapped mount needs, so
# that the pod owns what root owns on the volume, as a container running as root would, without being root.
sub idmap_namespace {
    my ($id) = @_;
    pipe(my $ready_r, my $ready_w) or die "pipe: $!\n";
    pipe(my $done_r, my $done_w) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        close $done_w;
        my $ok = sys('unshare', CLONE_NEWUSER) == 0;
        syswrite($ready_w, $ok ? '+' : '-');
        sysread($done_r, my $byte, 1);
        kill 9, $$;
    }
    close $done_r;
    sysread($ready_r, my $ok, 1);
    my $fd;
    if ($ok eq '+') {
        my $rest = 4294967295 - $id - 1;
        my $map = sprintf("0 %d 1\n1 1 %d\n%d 0 1\n%d %d %d\n", $id, $id - 1, $id, $id + 1, $id + 1, $rest);
        eval {
            write_file("/proc/$pid/uid_map", $map);
            write_file("/proc/$pid/gid_map", $map);
            open($fd, '<', "/proc/$pid/ns/user") or die "$!\n";
        };
    }
    close $done_w;
    waitpid($pid, 0);
    return $fd;
}

my $userns;

# One mount of the jail: a file or directory of the host at a place below the new root.
sub bind_mount {
    my ($source, $target, $attributes, $idmap) = @_;
    my @stat = stat($source) or die "$source: $!\n";
    my $place = "$one{root}$target";
    make_parents($target);
    my $type = $stat[2] & S_IFMT;
    if ($type == S_IFCHR || $type == S_IFBLK) {
        # The pod's own node for the same device, so that it needs neither the host's owner nor its group.
        my $mode = $attributes & MS_RDONLY ? 0400 : 0600;
        my $where = $place;
        must("device $source", sys('mknodat', AT_FDCWD, $where, $type | $mode, $stat[6]));
        chmod $mode, $place;
        chown $one{uid}, $one{gid}, $place or die "chown $target: $!\n";
        return;
    }
    if (-d _) { mkdir $place, 0755 }
    else      { open(my $touch, '>', $place) or die "$place: $!\n" }
    my $empty = '';
    my $tree = must("mount $source", sys('open_tree', AT_FDCWD, $source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
    my $done = 0;
    if ($idmap) {
        if ($userns) {
            my $attr = pack('Q4', $attributes | MOUNT_ATTR_IDMAP, 0, MS_PRIVATE, fileno $userns);
            $done = sys('mount_setattr', $tree, $empty, AT_EMPTY_PATH | AT_RECURSIVE, $attr, 32) == 0;
        }
    }
    if (!$done) {
        my $attr = pack('Q4', $attributes, 0, MS_PRIVATE, 0);
        must("mount attributes of $source", sys('mount_setattr', $tree, $empty, AT_EMPTY_PATH | AT_RECURSIVE, $attr, 32));
    }
    must("mount $source at $target", sys('move_mount', $tree, $empty, AT_FDCWD, $place, MOVE_MOUNT_F_EMPTY_PATH));
    close_fd($tree);
}
sub close_fd {
    my ($fd) = @_;
    open(my $handle, '<&=', $fd) or return;
    close $handle;
}
sub make_parents {
    my ($target) = @_;
    my @parts = split m{/}, $target;
    pop @parts;
    my $path = $one{root};
    for my $part (grep { $_ ne '' } @parts) {
        $path .= "/$part";
        mkdir $path, 0755;
    }
}

sub enter_jail {
    my $flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    $flags |= CLONE_NEWNET unless $one{network};
    must('namespaces', sys('unshare', $flags));
    my ($none, $slash, $tmpfs, $proc, $dot) = ('none', '/', 'tmpfs', 'proc', '.');
    must('private mounts', sys('mount', $none, $slash, 0, MS_REC | MS_PRIVATE, 0));
    my ($root, $options) = ($one{root}, 'mode=755,size=256k,nr_inodes=512');
    must('root', sys('mount', $tmpfs, $root, $tmpfs, MS_NOSUID, $options));
    bind_mount(@$_) for @{ $many{mount} // [] };
    mkdir "$root/proc", 0755;
    my ($at, $subset) = ("$root/proc", 'subset=pid');
    my $proc_flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    must('proc', sys('mount', $proc, $at, $proc, $proc_flags, $subset));
    chdir $root or die "$root: $!\n";
    my $dot2 = '.';
    must('pivot_root', sys('pivot_root', $dot, $dot2));
    must('old root', sys('umount2', $dot, MNT_DETACH));
    chdir '/' or die "/: $!\n";
    must('read-only root', sys('mount', $none, $slash, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, 0));
    my $hostname = $one{hostname};
    must('hostname', sys('sethostname', $hostname, length $hostname));
}

sub limits {
    for (@{ $many{rlimit} // [] }) {
        my ($resource, $value) = @$_;
        my $limit = pack('Q2', $value, $value);
        must("rlimit $resource", sys('prlimit64', 0, $resource + 0, $limit, 0));
    }
}

sub drop_privileges {
    # NOROOT and its lock, KEEP_CAPS' lock, no ambient capabilities: even uid 0 gains nothing by exec.
    must('securebits', sys('prctl', PR_SET_SECUREBITS, 0xe3, 0, 0, 0));
    for my $cap (0 .. 63) { last if sys('prctl', PR_CAPBSET_DROP, $cap, 0, 0, 0) == -1 }
    my @groups = map { $_->[0] } @{ $many{group} // [] };
    my $list = pack('L*', @groups, 0);
    must('setgroups', sys('setgroups', scalar @groups, $list));
    must('setresgid', sys('setresgid', ($one{gid} + 0) x 3));
    must('setresuid', sys('setresuid', ($one{uid} + 0) x 3));
    my ($header, $data) = (pack('Ll', 0x20080522, 0), pack('L6', (0) x 6));
    must('capset', sys('capset', $header, $data));
}

sub seccomp {
    my ($audit, $ldi, $jeq, $jge, $jset, $ret) = ($arch ? 0xC00000B7 : 0xC000003E, 0x20, 0x15, 0x35, 0x45, 0x06);
    my ($allow, $kill, $eperm, $enosys, $eacces) = (0x7fff0000, 0x80000000, 0x50001, 0x50026, 0x5000d);
    my @code = ([$ldi, 0, 0, 4], [$jeq, 1, 0, $audit], [$ret, 0, 0, $kill], [$ldi, 0, 0, 0]);
    push @code, [$jge, 0, 1, 0x40000000], [$ret, 0, 0, $enosys] unless $arch;    # x32
    my @deny = map { $_->[$arch] } values %DENY;
    push @deny, values %DENY_X64 unless $arch;
    push @code, [$jeq, 0, 1, $_], [$ret, 0, 0, $eperm] for sort { $a <=> $b } @deny;
    push @code, [$jeq, 0, 1, 435], [$ret, 0, 0, $enosys];                        # clone3: glibc then uses clone
    push @code, [$jeq, 0, 1, $arch ? 198 : 41], [$ret, 0, 0, $eacces] unless $one{network};    # socket
    # clone with any CLONE_NEW*
    push @code, [$jeq, 0, 3, $arch ? 220 : 56], [$ldi, 0, 0, 16], [$jset, 0, 1, 0x7e020000], [$ret, 0, 0, $eperm];
    push @code, [$ret, 0, 0, $allow];
    my $filter = join '', map { pack('SCCL', @$_) } @code;
    my $program = pack('S x6 P', scalar @code, $filter);
    must('seccomp', sys('prctl', PR_SET_SECCOMP, 2, $program, 0, 0));
}

# The host program's contract: its specification on 3, messages on 4, nothing else. `report` goes away with exec.
sub child {
    my ($report) = @_;
    my $why;
    eval {
        $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP);
        open(my $spec, '<', $one{spec}) or die "$one{spec}: $!\n";
        open(my $message, '>>', $one{message}) or die "$one{message}: $!\n";
        open(STDIN, '<', '/dev/null') or die "/dev/null: $!\n";
        open(STDOUT, '>&', $message) or die "stdout: $!\n";
        open(STDERR, '>&', $message) or die "stderr: $!\n";
        enter_jail() if $one{jail};
        limits();
        drop_privileges() if $one{jail};
        must('no_new_privs', sys('prctl', PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        must('death signal', sys('prctl', PR_SET_PDEATHSIG, 9, 0, 0, 0));
        seccomp() if $one{jail};
        my ($from, $to) = map { must('dup', high($_)) } $spec, $message;
        must('dup', sys('dup3', $from, 3, 0));
        must('dup', sys('dup3', $to, 4, 0));
        %ENV = (PATH => "/bin", MALLOC_ARENA_MAX => 1);
        my @command = map { $_->[0] } @{ $many{arg} };
        exec { $command[0] } @command or die "exec $command[0]: $!\n";
    };
    $why = $@ || "unknown\n";
    sys('write', $report, $why, length $why);
    sys('exit_group', 125);
}

# A close-on-exec copy of a handle's descriptor, above those with a meaning.
sub high {
    my ($handle) = @_;
    return fcntl($handle, 1030, 20) // -1;    # F_DUPFD_CLOEXEC
}

# Who else may have been killed for memory in the container's cgroup.
sub oom_kills {
    my $file = $one{oom} // return 0;
    open(my $in, '<', $file) or return 0;
    while (<$in>) { return $1 if /^oom_kill (\d+)/ }
    return 0;
}

sub supervise {
    load_plan($ARGV[0]);
    $arch = { x64 => 0, arm64 => 1 }->{ $one{arch} } // die "no system call numbers for $one{arch}\n";
    # The service manager's signals are for the agent; workloads outlive it.
    $SIG{$_} = 'IGNORE' for qw(TERM INT HUP PIPE);
    chdir '/';
    write_file($_->[0], $$) for @{ $many{cgroup} // [] };
    eval { write_file("/proc/$$/oom_score_adj", -998) } if $one{jail};
    if ($one{jail}) {
        $userns = idmap_namespace($one{uid}) if grep { $_->[3] } @{ $many{mount} // [] };
        must('pid namespace', sys('unshare', CLONE_NEWPID));
    }
    pipe(my $report_r, my $report_w) or die "pipe: $!\n";
    my $report = must('dup', high($report_w));
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        close $report_r;
        child($report);
    }
    close $report_w;
    close_fd($report);
    undef $userns;
    eval { write_file("/proc/$pid/oom_score_adj", $one{'oom-score'} // 0) } if $one{jail};
    state_file('pid', join(' ', $one{boot}, $$, start_time($$), $pid, start_time($pid)) . "\n");
    my $why = '';
    1 while sysread($report_r, $why, 4096, length $why);
    close $report_r;
    if ($why ne '') {
        waitpid($pid, 0);
        die $why;
    }
    syswrite(STDOUT, "started $pid\n");
    open(STDOUT, '>', '/dev/null');
    1 while waitpid($pid, 0) != $pid;
    my $status = $?;
    state_file('exit', join(' ', $status >> 8, $status & 127, oom_kills()) . "\n");
}

eval { supervise(); 1 } or do {
    my $why = $@;
    $why =~ s/\s+/ /g;
    syswrite(STDOUT, "failed $why\n");
    exit 1;
};
