//! Creates the data folder and its subfolders, and locks it for one process; it never deletes durable data.

use crate::error::{Error, Kind, Result};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The data folder, locked as long as this lives. The lock ends with the process, however that ends.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates the folder if it is missing (mode 0700), locks it, makes its subfolders and empties `incoming/`.
    ///
    /// Errors: `permission-denied` where it cannot be made or written, `conflict` where another process holds it. Both name the
    /// folder and a remedy.
    pub(super) fn open(root: &Path) -> Result<Folder> {
        let refused = |error: io::Error| {
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                let message = format!("the disk of the data folder {} is full; free space there", root.display());
                return Error::new(Kind::StorageFull, message).with_source(error);
            }
            Error::permission_denied(format!(
                "the data folder {} cannot be written ({error}); make it writable for this user, or name another with \
                 --data",
                root.display()
            ))
        };
        private_folder(root).map_err(refused)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::conflict(format!(
                    "another hearth is using the data folder {}; stop it, or name another folder with --data",
                    root.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        let folder = Folder { root: root.to_owned(), _lock: lock };
        let incoming = folder.incoming();
        match std::fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
            _ => {}
        }
        for path in [incoming, folder.packages(), folder.blobs()] {
            private_folder(&path).map_err(refused)?;
        }
        for first in 0..=u8::MAX {
            private_folder(&folder.blobs().join(format!("{first:02x}"))).map_err(refused)?;
        }
        for path in [folder.blobs(), root.to_owned()] {
            sync_folder(&path).map_err(refused)?;
        }
        Ok(folder)
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The database's file.
    pub(super) fn database(&self) -> PathBuf {
        self.root.join("catalog.sqlite")
    }

    /// The folder for uploads until they are complete; on the same file system as their final place.
    pub(super) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// The folder for uploads that come in parts.
    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// The folder of all blobs, with one subfolder for each first byte.
    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The path of one blob, whether it exists or not.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.blobs().join(digest.get(..2).unwrap_or("00")).join(digest)
    }

    /// The folder of all unpacked packages.
    pub(super) fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    /// The folder of one package, whether it exists or not.
    pub(super) fn package(&self, digest: &str) -> PathBuf {
        self.packages().join(digest)
    }
}

/// Creates a folder that only this user can enter, and its parents. An existing one is not changed.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Syncs a folder, so that the names in it survive a loss of power.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
