//! Compiled code on disk, so that a restart does not compile again; it never takes code that this node did not write.
//!
//! wasmtime trusts compiled code blindly, so each file is signed for the digest of its component ([`signed_cache`]). One that
//! does not verify is ignored and compiled anew.
//!
//! What was read of a component when it was compiled lies in the same file, so that a restart does not read the component,
//! which is untrusted, either. The content of a file: length of the manifest (4 bytes, little-endian), manifest, code.
//!
//! [`signed_cache`]: crate::signed_cache
#![allow(unsafe_code)]

use super::compile::Compiled;
use crate::error::{Error, Result};
use crate::interface;
use crate::node_key::NodeKey;
use crate::signed_cache::{Kind, SignedCache, Signer};
use serde_json::Value;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Changes when the layout of the files does.
const LAYOUT: u32 = 2;
/// Files kept of one component: itself, and its snapshots under the settings that it had lately.
const KEPT: usize = 64;

/// The signed files of compiled code.
pub(super) struct Artefacts(SignedCache);

impl Artefacts {
    /// Opens the folder `compiled` and the node key below `data`, making both where they are not there yet. What another
    /// version compiled is removed.
    pub(super) fn open(data: &Path, engine: &Engine) -> Result<Artefacts> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        (env!("CARGO_PKG_VERSION"), LAYOUT).hash(&mut hasher);
        let ending = format!("-{:016x}.cwasm", hasher.finish());
        let signer = Signer::new(&NodeKey::open(data)?, Kind::Component);
        SignedCache::open(data.join("compiled"), &ending, signer).map(Artefacts)
    }

    /// The digests of the components whose code is here.
    pub(super) fn digests(&self) -> std::io::Result<BTreeSet<String>> {
        let digest = |name: String| name.split('-').next().unwrap_or_default().to_owned();
        Ok(self.0.names()?.into_iter().map(digest).collect())
    }

    /// Where compiled code lies, on its way too.
    pub(super) fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// A compiled component and its manifest, if they are there, whole, and made by this version on this machine.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<(Component, Value)> {
        let verified = self.0.load(digest)?;
        let (length, kept) = verified.content().split_first_chunk()?;
        let (manifest, code) = kept.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let manifest = serde_json::from_slice(manifest).ok()?;
        // SAFETY: the signature proves that this process, or an earlier one with the key of this data folder, wrote exactly
        // these bytes in `keep`; the fingerprint in the name ties them to this wasmtime and its settings.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => Some((component, manifest)),
            Err(error) => {
                tracing::warn!(digest, "compiled code does not load; compiling anew: {error}");
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
        let manifest = manifest.to_string().into_bytes();
        match u32::try_from(manifest.len()) {
            Ok(length) => self.0.keep(digest, &[&length.to_le_bytes(), &manifest, code]),
            Err(_) => tracing::warn!(digest, "compiled code is not kept: its manifest has {} bytes", manifest.len()),
        }
        if let Some((component, _)) = digest.split_once('-') {
            self.0.remove(component, KEPT);
        }
        Ok(component)
    }

    /// Removes the compiled code of a component, and of all its snapshots.
    pub(super) fn remove(&self, digest: &str) {
        self.0.remove(digest, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed_cache::tests::damages;
    use std::fs;

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

        let others = tempfile::tempdir().unwrap();
        let stranger = Artefacts::open(others.path(), &engine).unwrap();
        stranger.keep(&engine, "aa", &compiled).unwrap();
        artefacts.keep(&engine, "bb", &compiled).unwrap();
        let file = |artefacts: &Artefacts, name: &str| {
            let beginning = format!("{name}-");
            let files = fs::read_dir(artefacts.folder()).unwrap().map(|entry| entry.unwrap().path());
            let mut files = files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(&beginning));
            files.next().unwrap()
        };
        let bytes = |artefacts: &Artefacts, name: &str| fs::read(file(artefacts, name)).unwrap();
        let (whole, own) = (bytes(&artefacts, "aa"), file(&artefacts, "aa"));
        for (what, damaged) in damages(&whole, &bytes(&artefacts, "bb"), &bytes(&stranger, "aa")) {
            fs::write(&own, damaged).unwrap();
            assert!(artefacts.load(&engine, "aa").is_none(), "{what}");
            artefacts.keep(&engine, "aa", &compiled).unwrap();
            assert!(artefacts.load(&engine, "aa").is_some(), "{what}: it was replaced");
        }
        assert!(artefacts.load(&engine, "bb").is_some());
        artefacts.remove("aa");
        assert!(!own.exists());
    }
}
