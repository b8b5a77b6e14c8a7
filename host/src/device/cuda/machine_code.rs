//! Units' machine code, kept in signed files so that a restart does not compile it again; it never returns code that this node
//! did not compile.
//!
//! A GPU runs machine code with all rights of the process on it, so a file is loaded only with this node's signature for
//! exactly this unit, source, architecture and compiler. Anything else is compiled again and replaced.

use super::driver::Outcome;
use super::nvrtc::OPTIONS;
use super::units::Unit;
use crate::error::Result;
use crate::node_key::NodeKey;
use crate::signed_cache::{Kind, SignedCache, Signer};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// The signed files of one architecture and compiler.
pub(super) struct MachineCode {
    cache: SignedCache,
    architecture: u32,
    compiler: (i32, i32),
}

impl MachineCode {
    /// Opens the folder of kernels, which is created where it is missing. `architecture` is a compute capability as one number,
    /// `compiler` is NVRTC's version.
    ///
    /// Errors: those of the disk.
    pub(super) fn open(folder: PathBuf, key: &NodeKey, architecture: u32, compiler: (i32, i32)) -> Result<MachineCode> {
        let cache = SignedCache::open(folder, ".cubin", Signer::new(key, Kind::Kernel))?;
        Ok(MachineCode { cache, architecture, compiler })
    }

    /// A unit's machine code: the kept code, or the result of `compile`, which is then kept.
    ///
    /// Errors: those of `compile`.
    pub(super) fn of(&self, unit: Unit, compile: impl FnOnce() -> Outcome<Vec<u8>>) -> Outcome<Vec<u8>> {
        let name = self.name(unit);
        if let Some(kept) = self.cache.load(&name) {
            return Ok(kept.content().to_vec());
        }
        let code = compile()?;
        self.cache.keep(&name, &[&code]);
        Ok(code)
    }

    /// Everything that the code depends on.
    fn name(&self, unit: Unit) -> String {
        let (architecture, (major, minor)) = (self.architecture, self.compiler);
        let digest = Sha256::digest(format!("{architecture}\n{}\n{OPTIONS:?}\n", unit.source()));
        format!("{}-sm{architecture}-nvrtc{major}.{minor}-{}", unit.name(), hex::encode(digest))
    }
}
