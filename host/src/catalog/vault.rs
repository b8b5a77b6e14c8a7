//! Seals the secrets of functions for the database and opens them again; it never stores one.
//!
//! XChaCha20-Poly1305 with a key derived from the node key and a random nonce for each seal. Tenant, function and name are
//! authenticated with the value, so that a value that was copied to another row does not open.

use crate::error::{Error, Kind, Result};
use crate::interface::Secret;
use crate::node_key::NodeKey;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use std::fmt;

const NONCE_BYTES: usize = 24;

/// Seals and opens secrets.
pub(super) struct Vault(XChaCha20Poly1305);

/// The tenant, function and name of a secret. None of them contains a `/`.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) tenant: &'a str,
    pub(super) function: &'a str,
    pub(super) secret: &'a str,
}

impl Place<'_> {
    fn bytes(&self) -> Vec<u8> {
        format!("{}/{}/{}", self.tenant, self.function, self.secret).into_bytes()
    }
}

impl Vault {
    /// The vault of a node.
    pub(super) fn new(key: &NodeKey) -> Vault {
        Vault(XChaCha20Poly1305::new(&key.derive("hearth secrets v1").into()))
    }

    /// The value as it is stored: the nonce, then the sealed value.
    pub(super) fn seal(&self, place: Place<'_>, value: &Secret) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload { msg: value.expose().as_bytes(), aad: &place.bytes() };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| Error::new(Kind::Internal, "the server failed to seal a secret"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// The value; `None` if it was sealed with another node key or for another place, or is damaged.
    pub(super) fn open(&self, place: Place<'_>, stored: &[u8]) -> Option<Secret> {
        let (nonce, sealed) = stored.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: sealed, aad: &place.bytes() };
        let value = self.0.decrypt(&XNonce::from(*nonce), payload).ok()?;
        Some(Secret::new(String::from_utf8(value).ok()?))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_place_and_node_alone() {
        let [here, there] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let vault = Vault::new(&NodeKey::open(here.path()).unwrap());
        let place = Place { tenant: "default", function: "f", secret: "KEY" };
        let value = Secret::new("hunter2");
        let sealed = vault.seal(place, &value).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_ne!(sealed, vault.seal(place, &value).unwrap(), "a nonce is used only once");
        assert_eq!(vault.open(place, &sealed), Some(value));
        for other in
            [Place { tenant: "other", ..place }, Place { function: "g", ..place }, Place { secret: "KEY2", ..place }]
        {
            assert_eq!(vault.open(other, &sealed), None);
        }
        let stranger = Vault::new(&NodeKey::open(there.path()).unwrap());
        assert_eq!(stranger.open(place, &sealed), None);
        for bit in [0, 24, sealed.len() - 1] {
            let mut damaged = sealed.clone();
            damaged[bit] ^= 1;
            assert_eq!(vault.open(place, &damaged), None);
        }
        assert_eq!(vault.open(place, &sealed[..20]), None);
    }
}
