//! Compiled code on disk, so that a restart does not compile again; it never takes code that this node did not write.
//!
//! wasmtime trusts compiled code blindly. Files are therefore local, in a folder of mode 0700, and each is preceded by an
//! HMAC-SHA-256 with a key that only this data folder has. A file that does not verify is ignored and compiled anew.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::node_key::NodeKey;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

const TAG_BYTES: usize = 32;

/// The folder of compiled code and the key that authenticates it.
pub(super) struct Artefacts {
    folder: PathBuf,
    key: NodeKey,
    fingerprint: String,
}

impl Artefacts {
    /// Opens the folder `compiled` and the node key below `data`, making both where they are not there yet.
    pub(super) fn open(data: &Path, engine: &Engine) -> Result<Artefacts> {
        let folder = data.join("compiled");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| Error::storage("making the folder for compiled code", error))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        let key = NodeKey::open(data)?;
        Ok(Artefacts { folder, key, fingerprint: format!("{:016x}", hasher.finish()) })
    }

    /// The compiled code of a component, if it is there, whole, and made by this version on this machine.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        let bytes = fs::read(&path).ok()?;
        let (tag, code) = bytes.split_at_checked(TAG_BYTES)?;
        if self.mac(digest, code).verify_slice(tag).is_err() {
            tracing::warn!(file = %path.display(), "compiled code does not verify; compiling anew");
            return None;
        }
        // SAFETY: the tag proves that this process, or an earlier one with the key of this data folder, wrote exactly
        // these bytes with `Component::serialize`; the fingerprint in the name ties them to this wasmtime and its settings.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(file = %path.display(), "compiled code does not load; compiling anew: {error}");
                None
            }
        }
    }

    /// Keeps the compiled code of a component. A failure costs only the next start's time, so it is logged.
    pub(super) fn store(&self, digest: &str, component: &Component) {
        let write = || -> Result<(), Box<dyn std::error::Error>> {
            let code = component.serialize()?;
            let tag = self.mac(digest, &code).finalize().into_bytes();
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&tag)?;
            file.write_all(&code)?;
            file.persist(self.path(digest))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!("compiled code was not kept: {error}");
        }
    }

    /// Removes the compiled code of a component.
    pub(super) fn remove(&self, digest: &str) {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != ErrorKind::NotFound => tracing::warn!("compiled code stays: {error}"),
            _ => {}
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}-{}.cwasm", self.fingerprint))
    }

    fn mac(&self, digest: &str, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.hmac();
        mac.update(digest.as_bytes());
        mac.update(code);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_this_folder_wrote_is_loaded() {
        let data = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let artefacts = Artefacts::open(data.path(), &engine).unwrap();
        let component = Component::from_binary(&engine, b"\0asm\x0d\0\x01\0").unwrap();
        assert!(artefacts.load(&engine, "aa").is_none());
        artefacts.store("aa", &component);
        assert!(artefacts.load(&engine, "aa").is_some());
        assert!(Artefacts::open(data.path(), &engine).unwrap().load(&engine, "aa").is_some());

        let file = artefacts.path("aa");
        fs::copy(&file, artefacts.path("bb")).unwrap();
        assert!(artefacts.load(&engine, "bb").is_none(), "code of another component");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(artefacts.load(&engine, "aa").is_none(), "a flipped bit");
        fs::write(&file, b"short").unwrap();
        assert!(artefacts.load(&engine, "aa").is_none(), "a truncated file");

        let other = tempfile::tempdir().unwrap();
        let stranger = Artefacts::open(other.path(), &engine).unwrap();
        stranger.store("aa", &component);
        fs::copy(stranger.path("aa"), &file).unwrap();
        assert!(artefacts.load(&engine, "aa").is_none(), "code of another node");
        artefacts.remove("aa");
        assert!(!file.exists());
    }
}
