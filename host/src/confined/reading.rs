//! Takes every file from a child but those that its job reads, by Landlock; it never fails where the kernel has none, and
//! allows nothing that the system would not.
//!
//! Landlock also takes the memory and the environment of processes outside, which `/proc` shows to processes of one user.

use super::PASSED_ON;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};
use std::path::{Path, PathBuf};

/// The newest rights that are taken; an older kernel takes those that it knows.
const NEWEST: ABI = ABI::V6;

/// What libraries read wherever they run: other libraries, what the machine can do, and what the process itself is.
const SYSTEM: [&str; 19] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/urandom",
];

/// Where a machine names folders of libraries of its own.
const LOADER_FOLDERS: &str = "/etc/ld.so.conf.d";

/// Whether this machine's kernel can take files from a process.
pub fn reading_is_confined() -> bool {
    let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    strict.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok()
}

/// Takes all files from the calling thread, and from all that it starts, but those below `reads` and the system's
/// libraries. Files that are open stay so. What is missing of `reads` is left out.
///
/// Gives whether the kernel does any of it. Errors: it can, and refuses.
pub(super) fn restrict(reads: &[PathBuf]) -> Result<bool, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(searched_folders(), read))?
        .add_rules(path_beneath_rules(reads, read))?
        .add_rules(own_program())?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => true,
        RulesetStatus::NotEnforced => false,
    })
}

/// The program's file, which names places in a panic's backtrace.
fn own_program() -> impl Iterator<Item = Result<PathBeneath<PathFd>, RulesetError>> {
    path_beneath_rules(["/proc/self/exe"], BitFlags::from(AccessFs::ReadFile))
}

/// Folders outside the system's that libraries and locales are looked for in.
fn searched_folders() -> Vec<PathBuf> {
    let named = PASSED_ON.iter().filter_map(std::env::var_os);
    let mut folders: Vec<PathBuf> = named.flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>()).collect();
    for file in std::fs::read_dir(LOADER_FOLDERS).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        folders.extend(text.lines().map(|line| PathBuf::from(line.trim())));
    }
    // A line that is no folder's name, and the folder of all folders.
    folders.retain(|folder| folder.is_absolute() && folder != Path::new("/"));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{read, read_dir, read_to_string, write};
    use std::io::{ErrorKind, Read};

    /// Landlock binds the thread that asks for it, and those that it starts.
    #[test]
    fn a_restricted_thread_reads_what_was_named_and_nothing_else() {
        if !reading_is_confined() {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for below in ["package/deep", "secret"] {
            std::fs::create_dir_all(place(below)).unwrap();
        }
        for file in ["blob", "node.key", "package/deep/weights", "secret/file"] {
            write(place(file), file).unwrap();
        }
        // Packages are made of links to blobs whose own folder no job may read.
        std::fs::hard_link(place("secret/file"), place("package/linked")).unwrap();
        std::os::unix::fs::symlink(place("node.key"), place("package/symlink")).unwrap();
        let mut open = std::fs::File::open(place("node.key")).unwrap();
        let server = std::process::id();
        let base = folder.path().to_owned();
        let work = move || {
            let place = |name: &str| base.join(name);
            assert!(restrict(&[place("blob"), place("package"), place("missing")]).unwrap());
            assert_eq!(read(place("blob")).unwrap(), b"blob");
            assert_eq!(read(place("package/deep/weights")).unwrap(), b"package/deep/weights");
            assert_eq!(read(place("package/linked")).unwrap(), b"secret/file");
            assert_eq!(read_dir(place("package")).unwrap().count(), 3);
            let mut text = String::new();
            open.read_to_string(&mut text).unwrap();
            assert_eq!(text, "node.key");
            let denied = |what: &str, outcome: std::io::Result<()>| {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied, "{what}");
            };
            for file in ["node.key", "secret/file", "package/symlink", "package/../node.key"] {
                denied(file, read(place(file)).map(drop));
            }
            denied("list", read_dir(&base).map(drop));
            denied("write", write(place("blob"), b"x"));
            denied("create", write(place("package/new"), b"x"));
            denied("remove", std::fs::remove_file(place("package/linked")));
            denied("users", read("/etc/passwd").map(drop));
            denied("processes", read_dir("/proc").map(drop));
            denied("the first process", read("/proc/1/environ").map(drop));
            denied("through the root", read(format!("/proc/self/root{}", place("node.key").display())).map(drop));
            denied(
                "later threads",
                std::thread::spawn({
                    let key = place("node.key");
                    move || read(key).map(drop)
                })
                .join()
                .unwrap(),
            );
            // What libraries ask for.
            read("/proc/self/status").unwrap();
            read_to_string("/proc/cpuinfo").unwrap();
            read("/proc/self/exe").unwrap();
            assert!(std::thread::available_parallelism().is_ok());
        };
        std::thread::spawn(work).join().unwrap();
        assert!(Path::new(&format!("/proc/{server}")).exists());
        read(place("node.key")).unwrap();
    }
}
