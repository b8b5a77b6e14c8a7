//! Files that this node made and trusts when it reads them again: compiled components, prepared forms of models and kernels.
//! Each file is signed with the node key, for its kind and its name. This module never gives the content of a file that does
//! not verify, and never knows what the content means.
//!
//! A file is its tag (32 bytes) and then its content. The tag is an HMAC-SHA-256 with the node key over kind, name and
//! content, so a file that was renamed, or moved to another kind or another node, does not verify. A file is written beside its
//! place and renamed, with mode 0600. Nothing is synced: what a loss of power leaves behind does not verify and is made anew.

#[cfg(test)]
pub(crate) mod tests;

use crate::bulk;
use crate::error::{Error, Result};
use crate::node_key::NodeKey;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const TAG_BYTES: usize = 32;

/// What a signed file holds. A file of one kind never verifies as one of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Machine code of a component, or of its snapshot. Its names are digests in hexadecimal, with hyphens.
    Component,
    /// The manifest of a model's prepared form.
    Prepared,
    /// Machine code for a GPU.
    Kernel,
}

impl Kind {
    /// What is signed before the name and after it. Data folders hold files that were signed so: a change would make all of
    /// them anew.
    ///
    /// Components have no word, as in the first version: the text that is signed for one begins with a hexadecimal digit or a
    /// hyphen, and no word does.
    fn frame(self) -> (&'static str, &'static str) {
        match self {
            Kind::Component => ("", ""),
            Kind::Prepared => ("prepared model ", "\0"),
            Kind::Kernel => ("kernel ", "\0"),
        }
    }

    fn takes(self, name: &str) -> bool {
        let fits = |byte: u8| match self {
            Kind::Component => matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'),
            Kind::Prepared | Kind::Kernel => byte.is_ascii_alphanumeric() || b"-_.".contains(&byte),
        };
        !name.is_empty() && name.bytes().all(fits)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Component => "compiled code",
            Kind::Prepared => "a prepared form",
            Kind::Kernel => "a compiled kernel",
        })
    }
}

/// Signs and verifies files of one kind with the key of one node.
pub(crate) struct Signer {
    key: NodeKey,
    kind: Kind,
}

/// A file that this node signed under the name that was asked for.
pub(crate) struct Verified(Vec<u8>);

impl Verified {
    /// What was written.
    pub(crate) fn content(&self) -> &[u8] {
        self.0.get(TAG_BYTES..).unwrap_or_default()
    }
}

impl Signer {
    /// For files of one kind.
    pub(crate) fn new(key: &NodeKey, kind: Kind) -> Signer {
        Signer { key: key.clone(), kind }
    }

    /// Writes a file whole or not at all, signed for `name`; one that is there is replaced. The content is `parts`, one after
    /// another.
    ///
    /// Errors: `InvalidInput` for a name that this kind does not take; those of the disk.
    pub(crate) fn write(&self, path: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
        let tag = self.mac(name, parts)?.finalize().into_bytes();
        // Its mode is 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&tag)?;
        parts.iter().try_for_each(|part| bulk::write(&mut file, part))?;
        file.persist(path)?;
        Ok(())
    }

    /// Reads a file that was signed for `name`.
    ///
    /// Errors: `InvalidData` where it does not verify; `InvalidInput` as for [`Signer::write`]; those of the disk.
    pub(crate) fn read(&self, path: &Path, name: &str) -> io::Result<Verified> {
        let bytes = bulk::read(path)?;
        let wrong = |what| io::Error::new(ErrorKind::InvalidData, what);
        let (tag, content) = bytes.split_at_checked(TAG_BYTES).ok_or_else(|| wrong("it is cut off"))?;
        // The comparison takes the same time wherever the first difference is.
        self.mac(name, &[content])?.verify_slice(tag).map_err(|_| wrong("it does not verify"))?;
        Ok(Verified(bytes))
    }

    fn mac(&self, name: &str, parts: &[&[u8]]) -> io::Result<Hmac<Sha256>> {
        if !self.kind.takes(name) {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("'{name}' is no name of {}", self.kind)));
        }
        let (before, after) = self.kind.frame();
        let mut mac = self.key.hmac();
        for part in [before, name, after].map(str::as_bytes).iter().chain(parts) {
            mac.update(part);
        }
        Ok(mac)
    }
}

/// A folder of signed files of one kind: each file is an entry, and is named by the entry's name and an ending.
pub(crate) struct SignedCache {
    signer: Signer,
    folder: PathBuf,
    ending: String,
}

impl SignedCache {
    /// Opens a folder, which is made where it is missing. Files with another ending are removed: what a process that was killed
    /// had not finished, and what another version made. Only one process uses a data folder.
    ///
    /// Errors: those of the disk.
    pub(crate) fn open(folder: PathBuf, ending: &str, signer: Signer) -> Result<SignedCache> {
        let failed = |error| Error::storage(&format!("opening the folder {}", folder.display()), error);
        private_folder(&folder).map_err(failed)?;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_string_lossy().ends_with(ending) {
                remove(&entry.path());
            }
        }
        Ok(SignedCache { signer, folder, ending: ending.to_owned() })
    }

    /// Where the files lie, unfinished ones too.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// An entry, where it is there and verifies. A file that does not is logged and stays until [`SignedCache::keep`] replaces
    /// it.
    pub(crate) fn load(&self, name: &str) -> Option<Verified> {
        let path = self.path(name);
        match self.signer.read(&path, name) {
            Ok(verified) => Some(verified),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), "{} is not used, and made anew: {error}", self.signer.kind);
                None
            }
        }
    }

    /// Keeps an entry. A failure costs only the time to make it again, so it is logged.
    pub(crate) fn keep(&self, name: &str, parts: &[&[u8]]) {
        let path = self.path(name);
        if let Err(error) = self.signer.write(&path, name, parts) {
            tracing::warn!(file = %path.display(), "{} is not kept: {error}", self.signer.kind);
        }
    }

    /// The names of all entries.
    ///
    /// Errors: those of the disk.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.filter_map(|name: io::Result<String>| match name {
            Ok(name) => name.strip_suffix(&self.ending).map(|name| Ok(name.to_owned())),
            Err(error) => Some(Err(error)),
        });
        names.collect()
    }

    /// Removes the entries whose names begin with `beginning`, except the `kept` newest.
    pub(crate) fn remove(&self, beginning: &str, kept: usize) {
        let names = self.names().unwrap_or_default();
        let ours = names.into_iter().filter(|name| name.starts_with(beginning)).map(|name| self.path(&name));
        let written = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
        let mut ours: Vec<_> = ours.map(|path| (written(&path), path)).collect();
        ours.sort();
        ours.iter().rev().skip(kept).for_each(|(_, path)| remove(path));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{}", self.ending))
    }
}

/// Makes a folder that only this user can enter, where it is missing. One that is there is closed to others.
///
/// Errors: those of the disk.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let is_open = fs::metadata(path)?.permissions().mode() & 0o077 != 0;
    // What lies in it is signed, so a file system without modes is no reason not to start.
    if is_open && let Err(error) = fs::set_permissions(path, Permissions::from_mode(0o700)) {
        tracing::warn!("others can read the folder {}: {error}", path.display());
    }
    Ok(())
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => tracing::warn!("{} stays: {error}", path.display()),
        _ => {}
    }
}
