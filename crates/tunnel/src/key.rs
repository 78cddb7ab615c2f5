//! WireGuard keys in their usual base64 form.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gotatun::x25519;
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

/// A text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key: 44 characters of base64 (32 bytes) are needed")]
pub struct KeyError;

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| KeyError)?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(KeyError);
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

/// A private key. `Debug` does not show it.
#[derive(Clone)]
pub struct PrivateKey(x25519::StaticSecret);

impl PrivateKey {
    /// Makes a new key.
    pub fn generate<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        // The form that `wg genkey` prints: clamped (RFC 7748, section 5).
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(x25519::StaticSecret::from(*bytes))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&self.0).as_bytes())
    }

    /// Its base64 form, wiped when dropped.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_bytes()))
    }

    pub(crate) fn secret(&self) -> x25519::StaticSecret {
        self.0.clone()
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self(x25519::StaticSecret::from(*decode(text)?)))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self(*decode(text)?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A preshared key. `Debug` does not show it.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// Makes a new key.
    pub fn generate<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// Its base64 form, wiped when dropped.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        *self.0
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn agrees_with_the_wg_tool() {
        // Made by `wg genkey | tee /dev/stderr | wg pubkey`.
        let key: PrivateKey = "eC6lx91SxPj5TgBj7gGdMRlr9Lwie3VvH07fGIUa0EY="
            .parse()
            .expect("valid");
        let public = key.public().to_string();
        assert_eq!(public, "SjW7Kjvwda+RakrQe8hAqH65cl3mRxOW4fIhhfYWsD0=");
    }

    #[test]
    fn a_key_survives_its_text_form() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let key = PrivateKey::generate(&mut rng);
        let again: PrivateKey = key.reveal().parse().expect("valid");
        assert_eq!(again.public(), key.public());
        let public: PublicKey = key.public().to_string().parse().expect("valid");
        assert_eq!(public, key.public());
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
        for bad in ["", "AAAA", "!", &"A".repeat(44)] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
