//! What a child may not ask the kernel for, as seccomp filters: network, other processes, new programs, memory that no limit
//! counts, and any change of a file but writing to those that are open; it never allows what the system would not.
//!
//! Everything else is allowed, since compilers and engines ask for more than a list could keep up with. A refused call fails
//! with `EPERM`, so that a library that can do without goes on.

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are younger than the table of `libc`; these numbers are the same on every architecture.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;

/// Refused whatever its arguments are.
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // Network, and everything else that other processes may listen to.
    SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_sendto, SYS_sendmsg,
    SYS_sendmmsg, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_semctl, SYS_msgget,
    SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_mq_open, SYS_mq_unlink, SYS_mq_timedsend, SYS_mq_timedreceive, SYS_mq_notify,
    SYS_mq_getsetattr,
    // Other programs and processes.
    SYS_execve, SYS_execveat, SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_ptrace,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_process_madvise, SYS_process_mrelease, SYS_pidfd_open, SYS_pidfd_getfd,
    SYS_pidfd_send_signal, SYS_kcmp, SYS_setpriority, SYS_ioprio_set, SYS_sched_setscheduler, SYS_sched_setparam,
    SYS_sched_setattr, SYS_migrate_pages, SYS_move_pages,
    // Files, but for those that are open.
    SYS_renameat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_unlinkat, SYS_mkdirat, SYS_mknodat, SYS_fchmod,
    SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_truncate, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr,
    SYS_lremovexattr, SYS_fremovexattr, FCHMODAT2, SETXATTRAT, REMOVEXATTRAT, FILE_SETATTR, SYS_flock, SYS_utimensat, SYS_open_by_handle_at, SYS_name_to_handle_at,
    // The system.
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fsconfig,
    SYS_fsmount, SYS_fspick, SYS_mount_setattr, OPEN_TREE_ATTR, SYS_unshare, SYS_setns, SYS_keyctl, SYS_add_key, SYS_request_key,
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
    SYS_io_setup, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_reboot, SYS_swapon,
    SYS_swapoff, SYS_sethostname, SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime,
    SYS_adjtimex, SYS_acct, SYS_quotactl, SYS_quotactl_fd, SYS_personality, SYS_fanotify_init, SYS_vhangup, SYS_syslog,
    // Other users, and other limits.
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setgroups, SYS_setfsuid,
    SYS_setfsgid, SYS_capset, SYS_setrlimit,
];

/// The same where the architecture has older calls too.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const REFUSED_OLD: &[c_long] = &[
    SYS_fork, SYS_vfork, SYS_creat, SYS_rename, SYS_link, SYS_symlink, SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_mknod,
    SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_iopl, SYS_ioperm, SYS_modify_ldt,
    SYS_kexec_file_load, SYS_uselib, SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OLD: &[c_long] = &[];

/// Calls that libraries do without where the kernel says it has none. The arguments of the first two lie in memory, where no
/// filter looks; the others make memory that `RLIMIT_DATA` does not count.
const UNKNOWN: &[c_long] = &[SYS_clone3, SYS_openat2, SYS_memfd_create, SYS_memfd_secret];

/// What may be asked of a descriptor by `fcntl`: neither locks and leases, for which others would wait, nor signals.
const FCNTL: &[c_int] = &[F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETPIPE_SZ, F_GET_SEALS];
/// What may be asked of it by `ioctl`: whether it is a terminal, how much there is to read, not to block, to close it on
/// `execve`, and which pages of the own memory were written, as wasmtime asks. File systems take orders to change files so.
const IOCTL: &[u32] = &[0x5401, 0x802c_542a, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451, 0xc060_6610];

/// The bit of the calls of x86-64's other ABI, which some kernels have, and their own numbers.
#[cfg(target_arch = "x86_64")]
const OTHER_ABI: (i64, std::ops::RangeInclusive<i64>) = (0x4000_0000, 512..=547);

/// Refuses these calls to the calling thread, and to all that it starts, for good.
///
/// Errors: a kernel or an architecture without seccomp filters.
pub(super) fn apply() -> Result<(), String> {
    let (refused, unknown) = filters().map_err(|error| format!("making the seccomp filter: {error}"))?;
    for filter in [refused, unknown] {
        seccompiler::apply_filter(&filter).map_err(|error| format!("applying the seccomp filter: {error}"))?;
    }
    Ok(())
}

type Made<T> = Result<T, seccompiler::BackendError>;

fn filters() -> Made<(BpfProgram, BpfProgram)> {
    let mut refused: Rules = REFUSED.iter().chain(REFUSED_OLD).map(|&call| (call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    // Threads may be started, processes not.
    refused.insert(SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(CLONE_THREAD as u64), 0)?]);
    // `abort` signals its own process.
    refused.insert(SYS_tgkill, vec![rule(0, SeccompCmpOp::Ne, own)?]);
    // Limits may be read.
    let other_process = rule(0, SeccompCmpOp::Ne, 0)?;
    refused.insert(SYS_prlimit64, vec![other_process, rule(2, SeccompCmpOp::Ne, 0)?]);
    refused.insert(SYS_sched_setaffinity, vec![rule(0, SeccompCmpOp::Ne, 0)?]);
    let signals = vec![dword(1, SeccompCmpOp::Eq, F_SETFL as u32)?, has(2, O_ASYNC as u32, O_ASYNC as u32)?];
    refused
        .insert(SYS_fcntl, vec![none_of(1, FCNTL.iter().map(|&command| command as u32))?, SeccompRule::new(signals)?]);
    refused.insert(SYS_ioctl, vec![none_of(1, IOCTL.iter().copied())?]);
    // The child's end with its server, and who may look into it, stay as they are.
    let orders = [PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_PTRACER];
    refused.insert(SYS_prctl, orders.map(|order| is(0, order as u32)).into_iter().collect::<Made<_>>()?);
    // Memory that `RLIMIT_DATA` does not count: what is shared, and what grows as a stack does.
    let shared = (MAP_SHARED | MAP_ANONYMOUS) as u32;
    let grows = MAP_GROWSDOWN as u32;
    refused.insert(
        SYS_mmap,
        vec![SeccompRule::new(vec![has(3, shared, shared)?])?, SeccompRule::new(vec![has(3, grows, grows)?])?],
    );
    refused.insert(SYS_openat, writing(2)?);
    #[cfg(target_arch = "x86_64")]
    {
        refused.insert(SYS_open, writing(1)?);
        let (bit, own_numbers) = OTHER_ABI;
        let others: Rules = refused.iter().map(|(call, rules)| (call | bit, rules.clone())).collect();
        refused.extend(others);
        refused.extend(own_numbers.map(|call| (call | bit, Vec::new())));
        refused.extend(UNKNOWN.iter().map(|call| (call | bit, Vec::new())));
    }
    let unknown = UNKNOWN.iter().map(|&call| (call, Vec::new())).collect();
    Ok((program(refused, EPERM)?, program(unknown, ENOSYS)?))
}

fn program(rules: Rules, errno: c_int) -> Made<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let errno = SeccompAction::Errno(errno as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture)?.try_into()
}

/// Opening a file to change, make or empty it, whose flags are this argument.
fn writing(argument: u8) -> Made<Vec<SeccompRule>> {
    let flags = |mask: c_int, bits: c_int| SeccompRule::new(vec![has(argument, mask as u32, bits as u32)?]);
    Ok(vec![
        flags(O_ACCMODE, O_WRONLY)?,
        flags(O_ACCMODE, O_RDWR)?,
        flags(O_ACCMODE, O_ACCMODE)?,
        flags(O_CREAT, O_CREAT)?,
        flags(O_TRUNC, O_TRUNC)?,
    ])
}

/// The kernel looks at the lower half of these arguments, too.
fn dword(argument: u8, operator: SeccompCmpOp, value: u32) -> Made<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value))
}

fn has(argument: u8, mask: u32, bits: u32) -> Made<SeccompCondition> {
    dword(argument, SeccompCmpOp::MaskedEq(u64::from(mask)), bits)
}

fn is(argument: u8, value: u32) -> Made<SeccompRule> {
    SeccompRule::new(vec![dword(argument, SeccompCmpOp::Eq, value)?])
}

fn none_of(argument: u8, allowed: impl Iterator<Item = u32>) -> Made<SeccompRule> {
    SeccompRule::new(allowed.map(|value| dword(argument, SeccompCmpOp::Ne, value)).collect::<Made<_>>()?)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Made<SeccompRule> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    /// What a filter answers to a call, as the kernel would find out.
    fn answer(program: &BpfProgram, call: i64, arguments: [u64; 6]) -> u32 {
        let audit = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = [call as u32, audit, 0, 0].to_vec();
        data.extend(arguments.iter().flat_map(|&argument| [argument as u32, (argument >> 32) as u32]));
        let (mut at, mut value) = (0, 0);
        loop {
            let step = &program[at];
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            at += 1;
            match u32::from(step.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => value = data[step.k as usize / 4],
                code if code == BPF_ALU | BPF_AND | BPF_K => value &= step.k,
                code if code == BPF_JMP | BPF_JA => at += step.k as usize,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(value == step.k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(value >= step.k),
                code if code == BPF_JMP | BPF_JGT | BPF_K => at += jump(value > step.k),
                code if code == BPF_RET | BPF_K => return step.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn calls_are_refused_by_their_arguments_and_libraries_keep_theirs() {
        const ALLOWED: u32 = SECCOMP_RET_ALLOW;
        const REFUSED: u32 = SECCOMP_RET_ERRNO | EPERM as u32;
        const UNKNOWN: u32 = SECCOMP_RET_ERRNO | ENOSYS as u32;
        let (refused, unknown) = filters().unwrap();
        let (own, async_io, garbage) = (u64::from(std::process::id()), O_ASYNC as u64, 1 << 40);
        let (shared, private) = (MAP_SHARED as u64, MAP_PRIVATE as u64);
        let (validated, anonymous) = (MAP_SHARED_VALIDATE as u64, MAP_ANONYMOUS as u64);
        let table: &[(i64, [u64; 4], u32)] = &[
            (SYS_read, [0; 4], ALLOWED),
            (FCHMODAT2, [0; 4], REFUSED),
            (SETXATTRAT, [0; 4], REFUSED),
            (464, [0; 4], ALLOWED),
            (REMOVEXATTRAT, [0; 4], REFUSED),
            (FILE_SETATTR, [0; 4], REFUSED),
            (SYS_shmat, [0; 4], REFUSED),
            (SYS_msgsnd, [0; 4], REFUSED),
            (SYS_semop, [0; 4], REFUSED),
            (SYS_mq_timedsend, [0; 4], REFUSED),
            (SYS_pidfd_getfd, [0; 4], REFUSED),
            (SYS_pidfd_send_signal, [0; 4], REFUSED),
            (SYS_flock, [0; 4], REFUSED),
            (SYS_setpriority, [0; 4], REFUSED),
            (SYS_ioprio_set, [0; 4], REFUSED),
            (SYS_sched_setscheduler, [0; 4], REFUSED),
            (SYS_sched_setaffinity, [0; 4], ALLOWED),
            (SYS_sched_setaffinity, [own, 0, 0, 0], REFUSED),
            (SYS_tgkill, [own, 1, 6, 0], ALLOWED),
            (SYS_tgkill, [own + 1, 1, 6, 0], REFUSED),
            (SYS_fcntl, [1, F_DUPFD_CLOEXEC as u64, 0, 0], ALLOWED),
            (SYS_fcntl, [1, F_GETFL as u64, 0, 0], ALLOWED),
            (SYS_fcntl, [1, F_SETFL as u64, O_NONBLOCK as u64, 0], ALLOWED),
            (SYS_fcntl, [1, F_SETFL as u64, async_io, 0], REFUSED),
            (SYS_fcntl, [1, F_SETFL as u64 | garbage, async_io | O_NONBLOCK as u64, 0], REFUSED),
            (SYS_fcntl, [1, F_SETOWN as u64, own, 0], REFUSED),
            // F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY, F_OFD_SETLKW.
            (SYS_fcntl, [1, 10, 9, 0], REFUSED),
            (SYS_fcntl, [1, 15, 0, 0], REFUSED),
            (SYS_fcntl, [1, 1024, 0, 0], REFUSED),
            (SYS_fcntl, [1, 1026, 0, 0], REFUSED),
            (SYS_fcntl, [1, 38, 0, 0], REFUSED),
            (SYS_ioctl, [1, TCGETS, 0, 0], ALLOWED),
            (SYS_ioctl, [1, FIONBIO, 0, 0], ALLOWED),
            (SYS_ioctl, [1, FIOASYNC, 0, 0], REFUSED),
            (SYS_ioctl, [1, FIOASYNC | garbage, 0, 0], REFUSED),
            // FIOSETOWN, and FS_IOC_SETFLAGS.
            (SYS_ioctl, [1, 0x8901, 0, 0], REFUSED),
            (SYS_ioctl, [1, 0x4008_6602, 0, 0], REFUSED),
            (SYS_ioctl, [1, TIOCSTI, 0, 0], REFUSED),
            (SYS_prctl, [PR_SET_NAME as u64, 0, 0, 0], ALLOWED),
            (SYS_prctl, [PR_SET_PDEATHSIG as u64, 0, 0, 0], REFUSED),
            (SYS_prctl, [PR_SET_DUMPABLE as u64, 1, 0, 0], REFUSED),
            (SYS_mmap, [0, 4096, 3, private | anonymous], ALLOWED),
            (SYS_mmap, [0, 4096, 1, shared], ALLOWED),
            (SYS_mmap, [0, 4096, 3, shared | anonymous], REFUSED),
            (SYS_mmap, [0, 4096, 3, validated | anonymous], REFUSED),
            (SYS_mmap, [0, 4096, 3, private | anonymous | MAP_GROWSDOWN as u64], REFUSED),
            (SYS_memfd_create, [0; 4], UNKNOWN),
            (SYS_memfd_secret, [0; 4], UNKNOWN),
            (SYS_clone3, [0; 4], UNKNOWN),
        ];
        for &(call, [a, b, c, d], expected) in table {
            // The kernel takes the strictest of all filters' answers, which is the smallest number.
            let answers = [&refused, &unknown].map(|program| answer(program, call, [a, b, c, d, 0, 0]));
            let strictest = answers.into_iter().min().unwrap();
            assert_eq!(strictest, expected, "call {call} with {a:#x}, {b:#x}, {c:#x}, {d:#x}");
        }
    }

    /// A filter binds the thread that applies it, and those that it starts.
    #[test]
    fn a_filtered_thread_has_no_network_no_programs_and_no_files_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"before").unwrap();
        let other = folder.path().join("other");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect(address).unwrap();
        let mut open = File::options().append(true).open(&path).unwrap();
        let file = path.clone();
        let work = move || {
            apply().unwrap();
            let refused: Vec<(&str, std::io::Result<()>)> = vec![
                ("connect", TcpStream::connect(address).map(drop)),
                ("listen", TcpListener::bind("127.0.0.1:0").map(drop)),
                ("udp", UdpSocket::bind("127.0.0.1:0").map(drop)),
                ("unix", UnixStream::pair().map(drop)),
                ("program", Command::new("/bin/true").spawn().map(drop)),
                ("write", std::fs::write(&file, b"x")),
                ("append", File::options().append(true).open(&file).map(drop)),
                ("read and write", File::options().read(true).write(true).open(&file).map(drop)),
                ("create", File::create_new(&other).map(drop)),
                ("rename", std::fs::rename(&file, &other)),
                ("link", std::fs::hard_link(&file, &other)),
                ("symlink", std::os::unix::fs::symlink(&file, &other)),
                ("remove", std::fs::remove_file(&file)),
                ("folder", std::fs::create_dir(&other)),
                ("mode", std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o777))),
            ];
            for (what, outcome) in refused {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied, "{what}");
            }
            let mut text = String::new();
            File::open(&file).unwrap().read_to_string(&mut text).unwrap();
            open.write_all(b" and after").unwrap();
            // A thread of it may do no more than it.
            let inherited = std::thread::spawn(move || TcpStream::connect(address).map(drop)).join().unwrap();
            assert_eq!(inherited.unwrap_err().kind(), ErrorKind::PermissionDenied);
            text
        };
        assert_eq!(std::thread::spawn(work).join().unwrap(), "before");
        assert_eq!(std::fs::read(&path).unwrap(), b"before and after");
        TcpStream::connect(address).unwrap();
        drop(listener);
    }
}
