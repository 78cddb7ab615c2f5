use core::fmt;
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The 32-byte secret that gateway and sink share. Its memory is wiped on drop, `Debug` does not show it, and
/// comparing takes the same time whatever the bytes.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// A key from bytes of a good random source.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a key from text: 64 hexadecimal digits, or standard base64 (44 characters with the final `=`, or 43
    /// without it). Surrounding white space is ignored.
    ///
    /// # Errors
    /// [`KeyError`] says what was found and what is allowed, never what the text was. A key of equal bytes is refused.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        let mut key = Self([0; 32]);
        match text.len() {
            64 => hex(text.as_bytes(), &mut key.0)?,
            44 if text.ends_with('=') => base64(&text.as_bytes()[..43], &mut key.0)?,
            43 => base64(text.as_bytes(), &mut key.0)?,
            len => return Err(KeyError::Length { len }),
        }
        if key.0.iter().all(|b| *b == key.0[0]) {
            return Err(KeyError::Weak);
        }
        Ok(key)
    }

    /// HKDF-SHA256 without salt; `info` is the concatenation of the parts.
    pub(crate) fn derive(&self, info: &[&[u8]], out: &mut [u8; 32]) {
        Hkdf::<Sha256>::new(None, &self.0)
            .expand_multi_info(info, out)
            .expect("32 bytes are fewer than 255 hashes");
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither 64 hexadecimal digits nor 43 or 44 base64 characters.
    Length {
        /// Bytes there are, white space around them excluded.
        len: usize,
    },
    /// A character that the notation does not have.
    Character {
        /// Its position, from 0.
        at: usize,
    },
    /// The last base64 character has bits beyond the 32nd byte.
    TrailingBits,
    /// All 32 bytes are equal: a placeholder, not a secret.
    Weak,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len } => write!(f, "the key has {len} characters")?,
            Self::Character { at } => {
                write!(
                    f,
                    "the character at position {at} of the key is not allowed"
                )?;
            }
            Self::TrailingBits => {
                f.write_str("the key's last base64 character is not canonical")?
            }
            Self::Weak => f.write_str("all bytes of the key are equal, it is not a secret")?,
        }
        f.write_str("; a key is 32 random bytes as 64 hexadecimal digits or as base64 (44 characters, the last one '=')")
    }
}

impl core::error::Error for KeyError {}

fn hex(text: &[u8], out: &mut [u8; 32]) -> Result<(), KeyError> {
    for (i, c) in text.iter().enumerate() {
        let digit = (*c as char)
            .to_digit(16)
            .ok_or(KeyError::Character { at: i })?;
        let byte = &mut out[i / 2];
        *byte = (*byte << 4) | digit as u8;
    }
    Ok(())
}

/// 43 characters of six bits: 32 bytes and two bits that must be zero.
fn base64(text: &[u8], out: &mut [u8; 32]) -> Result<(), KeyError> {
    let (mut bits, mut have, mut next) = (0u32, 0u32, 0usize);
    for (at, c) in text.iter().enumerate() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(KeyError::Character { at }),
        };
        bits = (bits << 6) | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out[next] = (bits >> have) as u8;
            next += 1;
            bits &= (1 << have) - 1;
        }
    }
    if bits != 0 {
        return Err(KeyError::TrailingBits);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{format, string::ToString};

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHv8=";

    #[test]
    fn hex_and_base64_of_one_key_are_equal() {
        let key = Key::parse(HEX).expect("hex");
        assert_eq!(key, Key::parse(BASE64).expect("base64"));
        assert_eq!(
            key,
            Key::parse(&BASE64[..43]).expect("base64 without padding")
        );
        assert_eq!(
            key,
            Key::parse(&format!(" {HEX}\r\n")).expect("white space around")
        );
        assert_eq!(key, Key::parse(&HEX.to_uppercase()).expect("upper case"));
        assert_eq!((key.0[0], key.0[30], key.0[31]), (0, 0x1e, 0xff));
    }

    #[test]
    fn refuses_what_is_not_a_key_and_says_what_is() {
        let mut odd = HEX.to_string();
        odd.replace_range(5..6, "g");
        let cases = [
            ("", KeyError::Length { len: 0 }),
            ("secret", KeyError::Length { len: 6 }),
            (&HEX[1..], KeyError::Length { len: 63 }),
            (&odd, KeyError::Character { at: 5 }),
            (
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd-v8=",
                KeyError::Character { at: 40 },
            ),
            (
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHv9=",
                KeyError::TrailingBits,
            ),
            (
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                KeyError::Weak,
            ),
            // Two-byte characters: 44 bytes long, but no base64.
            ("ééééééééééééééééééééé1=", KeyError::Character { at: 0 }),
        ];
        for (text, want) in cases {
            let got = Key::parse(text).expect_err(text);
            assert_eq!(got, want, "{text}");
            assert!(got.to_string().contains("64 hexadecimal digits"));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Key::parse(HEX).expect("hex")), "Key(..)");
    }
}
