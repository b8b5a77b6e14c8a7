//! The key of a data folder; signatures and sealing keys are derived from it. It never leaves the process.

use crate::error::{Error, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const KEY_BYTES: usize = 32;

/// 32 random bytes in the file `node.key` (mode 0600) of a data folder.
#[derive(Clone)]
pub struct NodeKey([u8; KEY_BYTES]);

impl NodeKey {
    /// Reads the key of a data folder, which must be there, or makes it.
    ///
    /// Errors: `invalid-argument` where the file is damaged; those of the disk.
    pub fn open(data: &Path) -> Result<NodeKey> {
        let path = data.join("node.key");
        let failed = |error: std::io::Error| Error::storage("reading or making the node key", error);
        match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map(NodeKey).map_err(|_| {
                Error::invalid_argument(
                    "the file node.key in the data folder is damaged; restore it, or remove it: compiled code is then \
                     built again and the secrets of functions must be set again",
                )
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key: [u8; KEY_BYTES] = rand::random();
                let partial = path.with_extension("partial");
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&partial)
                    .map_err(failed)?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
                fs::rename(&partial, &path).map_err(failed)?;
                // Secrets sealed with the key are durable, so the key's file name must be durable too.
                fs::File::open(data).and_then(|folder| folder.sync_all()).map_err(failed)?;
                Ok(NodeKey(key))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// HMAC-SHA-256 with this key, before any input.
    pub(crate) fn hmac(&self) -> Hmac<Sha256> {
        // HMAC pads a key that is shorter than SHA-256's block with zeros (RFC 2104).
        let mut block = [0; 64];
        block[..KEY_BYTES].copy_from_slice(&self.0);
        Hmac::<Sha256>::new(&block.into())
    }

    /// A derived key for one purpose, so that no two uses share a key.
    pub fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let mut mac = self.hmac();
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_keeps_its_key_and_shows_it_to_nobody() {
        let data = tempfile::tempdir().unwrap();
        let key = NodeKey::open(data.path()).unwrap();
        let again = NodeKey::open(data.path()).unwrap();
        assert_eq!((key.0, key.derive("a")), (again.0, again.derive("a")));
        assert_ne!(key.derive("a"), key.derive("b"));
        assert_eq!(format!("{key:?}"), "NodeKey(…)");
        let file = data.path().join("node.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, b"short").unwrap();
        assert!(NodeKey::open(data.path()).unwrap_err().message().contains("damaged"));
    }
}
