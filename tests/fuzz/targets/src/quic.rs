//! Initial packets of QUIC clients that open: with them a target reaches what stands behind the encryption.

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use hkdf::Hkdf;
use sha2::Sha256;

/// Salt of version 1 (RFC 9001, section 5.2).
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
/// Destination connection id of all packets.
const ID: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// A version 1 Initial packet with these frames; its tag is zeros, which nobody checks who only looks.
pub(crate) fn initial(frames: &[u8]) -> Vec<u8> {
    let mut secret = [0; 32];
    expand(&Hkdf::new(Some(&SALT), &ID), b"client in", &mut secret);
    let secret = Hkdf::from_prk(&secret).unwrap();
    let (mut key, mut nonce, mut header_key) = ([0; 16], [0; 12], [0; 16]);
    expand(&secret, b"quic key", &mut key);
    expand(&secret, b"quic iv", &mut nonce);
    expand(&secret, b"quic hp", &mut header_key);
    let block = |key: &[u8; 16], input: [u8; 16]| -> [u8; 16] {
        let mut block = GenericArray::from(input);
        Aes128::new(&GenericArray::from(*key)).encrypt_block(&mut block);
        block.into()
    };
    // Packet number 0 in four bytes; AES-GCM's counters begin at 2.
    let mut sealed = frames.to_vec();
    for (counter, part) in (2u32..).zip(sealed.chunks_mut(16)) {
        let mut input = [0; 16];
        input[..12].copy_from_slice(&nonce);
        input[12..].copy_from_slice(&counter.to_be_bytes());
        for (byte, mask) in part.iter_mut().zip(block(&key, input)) {
            *byte ^= mask;
        }
    }
    sealed.extend([0; 16]);
    let sample = sealed.first_chunk::<16>().unwrap();
    let mask = block(&header_key, *sample);
    let mut packet = vec![0xc3 ^ (mask[0] & 0x0f), 0, 0, 0, 1, ID.len() as u8];
    packet.extend(ID);
    packet.extend([0, 0]);
    let length = (sealed.len() + 4) as u32 | 0x8000_0000;
    packet.extend(length.to_be_bytes());
    packet.extend(&mask[1..5]);
    packet.extend(sealed);
    packet
}

/// A CRYPTO frame.
pub(crate) fn crypto(offset: u16, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![6];
    frame.extend((u32::from(offset) | 0x8000_0000).to_be_bytes());
    frame.extend((bytes.len() as u32 | 0x8000_0000).to_be_bytes());
    frame.extend(bytes);
    frame
}

/// HKDF-Expand-Label of TLS 1.3 without context (RFC 8446, section 7.1).
fn expand(secret: &Hkdf<Sha256>, label: &[u8], out: &mut [u8]) {
    let length = (out.len() as u16).to_be_bytes();
    let label_length = [6 + label.len() as u8];
    let info: [&[u8]; 5] = [&length, &label_length, b"tls13 ", label, &[0]];
    secret.expand_multi_info(&info, out).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_frames_open() {
        let mut crypto_stream = chaff_flow::app::quic::Crypto::default();
        let frames = [crypto(0, b"hello "), crypto(6, b"there"), vec![0; 40]].concat();
        assert!(crypto_stream.datagram(&initial(&frames)));
        assert_eq!(crypto_stream.bytes(), b"hello there");
    }
}
