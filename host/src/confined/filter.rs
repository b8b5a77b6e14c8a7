//! What a child may not ask the kernel for, as seccomp filters: network, other processes, new programs, and any change of a
//! file but writing to those that are open; it never allows what the system would not.
//!
//! Everything else is allowed, since compilers and engines ask for more than a list could keep up with. A refused call fails
//! with `EPERM`, so that a library that can do without goes on.

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refused whatever its arguments are.
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // Network, and everything else that other processes may listen to.
    SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_sendto, SYS_sendmsg,
    SYS_sendmmsg, SYS_shmget, SYS_semget, SYS_msgget, SYS_mq_open,
    // Other programs and processes.
    SYS_execve, SYS_execveat, SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_ptrace,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_process_madvise, SYS_pidfd_open, SYS_pidfd_getfd,
    SYS_pidfd_send_signal, SYS_kcmp, SYS_setpriority, SYS_ioprio_set, SYS_sched_setscheduler, SYS_sched_setparam,
    SYS_sched_setattr, SYS_migrate_pages, SYS_move_pages,
    // Files, but for those that are open.
    SYS_renameat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_unlinkat, SYS_mkdirat, SYS_mknodat, SYS_fchmod,
    SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_truncate, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr,
    SYS_lremovexattr, SYS_fremovexattr, SYS_utimensat, SYS_open_by_handle_at, SYS_name_to_handle_at,
    // The system.
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fsconfig,
    SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_unshare, SYS_setns, SYS_keyctl, SYS_add_key, SYS_request_key,
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
    SYS_io_setup, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_reboot, SYS_swapon,
    SYS_swapoff, SYS_sethostname, SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime,
    SYS_adjtimex, SYS_acct, SYS_quotactl, SYS_personality, SYS_fanotify_init, SYS_vhangup, SYS_syslog,
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

/// Calls that libraries do without where the kernel says it has none: their arguments lie in memory, where no filter looks.
const UNKNOWN: &[c_long] = &[SYS_clone3, SYS_openat2];

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
    // Typing into the terminal.
    refused.insert(SYS_ioctl, vec![is(1, TIOCSTI)?, is(1, TIOCLINUX)?]);
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
    let has = |mask: c_int, bits: c_int| rule(argument, SeccompCmpOp::MaskedEq(mask as u64), bits as u64);
    Ok(vec![
        has(O_ACCMODE, O_WRONLY)?,
        has(O_ACCMODE, O_RDWR)?,
        has(O_ACCMODE, O_ACCMODE)?,
        has(O_CREAT, O_CREAT)?,
        has(O_TRUNC, O_TRUNC)?,
    ])
}

fn is(argument: u8, value: u64) -> Made<SeccompRule> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
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
