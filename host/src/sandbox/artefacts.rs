//! Compiled code on disk, so that a restart does not compile again; it never takes code that this node did not write.
//!
//! wasmtime trusts compiled code blindly. Files are therefore local, in a folder of mode 0700, and each is preceded by an
//! HMAC-SHA-256 with a key that only this data folder has. A file that does not verify is ignored and compiled anew.
//!
//! What was read of a component when it was compiled lies in the same file, so that a restart does not read the component,
//! which is untrusted, either: tag (32 bytes), length of the manifest (4 bytes, little-endian), manifest, code.
#![allow(unsafe_code)]

use super::compile::Compiled;
use crate::bulk;
use crate::error::{Error, Result};
use crate::interface;
use crate::node_key::NodeKey;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

const TAG_BYTES: usize = 32;
/// Changes when the layout of the files does.
const LAYOUT: u32 = 2;
/// Files kept of one component: itself, and its snapshots under the settings that it had lately.
const KEPT: usize = 64;

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
        (env!("CARGO_PKG_VERSION"), LAYOUT).hash(&mut hasher);
        let artefacts =
            Artefacts { key: NodeKey::open(data)?, folder, fingerprint: format!("{:016x}", hasher.finish()) };
        artefacts.tidy().map_err(|error| Error::storage("tidying the folder for compiled code", error))?;
        Ok(artefacts)
    }

    /// Removes what a process that was killed had not finished, and what another version compiled. Only one process uses a
    /// data folder.
    fn tidy(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().ends_with(&self.suffix()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The digests of the components whose code is here.
    pub(super) fn digests(&self) -> std::io::Result<BTreeSet<String>> {
        let names = fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.map(|name: std::io::Result<String>| Ok(name?.split('-').next().unwrap_or_default().to_owned())).collect()
    }

    /// Where compiled code lies, on its way too.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A compiled component and its manifest, if they are there, whole, and made by this version on this machine.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<(Component, Value)> {
        let path = self.path(digest);
        let bytes = bulk::read(&path).ok()?;
        let (tag, kept) = bytes.split_at_checked(TAG_BYTES)?;
        if self.mac(digest, &[kept]).verify_slice(tag).is_err() {
            tracing::warn!(file = %path.display(), "compiled code does not verify; compiling anew");
            return None;
        }
        let (length, kept) = kept.split_first_chunk()?;
        let (manifest, code) = kept.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let manifest = serde_json::from_slice(manifest).ok()?;
        // SAFETY: the tag proves that this process, or an earlier one with the key of this data folder, wrote exactly
        // these bytes in `keep`; the fingerprint in the name ties them to this wasmtime and its settings.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => Some((component, manifest)),
            Err(error) => {
                tracing::warn!(file = %path.display(), "compiled code does not load; compiling anew: {error}");
                None
            }
        }
    }

    /// Loads what a child just compiled, and keeps it. A failure to keep it costs only the next start's time, so it is
    /// logged.
    ///
    /// Errors: `invalid-argument` where an instance of the component does not fit the server's pool.
    pub(super) fn keep(&self, engine: &Engine, digest: &str, compiled: &Compiled) -> Result<Component> {
        let Compiled { code, manifest } = compiled;
        // SAFETY: a child of this program wrote these bytes with `Engine::precompile_component` and reported success, into a
        // file of this folder that only this user can enter; the server trusts its compiler, wherever it runs.
        let component = unsafe { Component::deserialize(engine, code) }.map_err(|error| {
            let causes = interface::causes(&error);
            Error::invalid_argument(format!("no instance of the component can be made here: {causes}"))
        })?;
        let write = || -> Result<(), Box<dyn std::error::Error>> {
            let manifest = serde_json::to_vec(manifest)?;
            let length = u32::try_from(manifest.len())?.to_le_bytes();
            let parts: [&[u8]; 3] = [&length, &manifest, code];
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&self.mac(digest, &parts).finalize().into_bytes())?;
            for part in parts {
                bulk::write(&mut file, part)?;
            }
            file.persist(self.path(digest))?;
            if let Some((component, _)) = digest.split_once('-') {
                self.remove_all_but(KEPT, component);
            }
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!("compiled code was not kept: {error}");
        }
        Ok(component)
    }

    /// Removes the compiled code of a component, and of all its snapshots.
    pub(super) fn remove(&self, digest: &str) {
        self.remove_all_but(0, digest);
    }

    /// Removes those whose names begin with `digest`, but for the newest.
    fn remove_all_but(&self, kept: usize, digest: &str) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(digest));
        let written = |entry: &fs::DirEntry| entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let mut ours: Vec<_> = ours.map(|entry| (written(&entry), entry.path())).collect();
        ours.sort();
        for (_, path) in ours.iter().rev().skip(kept) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => tracing::warn!("compiled code stays: {error}"),
                _ => {}
            }
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}{}", self.suffix()))
    }

    fn suffix(&self) -> String {
        format!("-{}.cwasm", self.fingerprint)
    }

    fn mac(&self, digest: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.key.hmac();
        mac.update(digest.as_bytes());
        for part in parts {
            mac.update(part);
        }
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
        let code = engine.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
        let compiled = Compiled { code, manifest: serde_json::json!({"models": ["m"]}) };
        assert!(artefacts.load(&engine, "aa").is_none());
        artefacts.keep(&engine, "aa", &compiled).unwrap();
        assert_eq!(artefacts.load(&engine, "aa").unwrap().1, compiled.manifest);
        let left = [".tmpAbc", "aa-0123456789abcdef.cwasm"].map(|name| artefacts.folder().join(name));
        left.iter().for_each(|path| fs::write(path, b"half").unwrap());
        assert!(Artefacts::open(data.path(), &engine).unwrap().load(&engine, "aa").is_some());
        assert!(left.iter().all(|path| !path.exists()), "half a file, and one of another version");
        assert_eq!(artefacts.digests().unwrap(), BTreeSet::from(["aa".to_owned()]));

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
        stranger.keep(&engine, "aa", &compiled).unwrap();
        fs::copy(stranger.path("aa"), &file).unwrap();
        assert!(artefacts.load(&engine, "aa").is_none(), "code of another node");
        artefacts.remove("aa");
        assert!(!file.exists());
    }
}
