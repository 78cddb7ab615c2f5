use crate::key::Key;
use crate::{Header, WireError};
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chaff_abi::{Dir, Nanos};
use zeroize::Zeroize;

/// Length of an epoch of Unix time; body and tag keys change with it.
pub const EPOCH: Nanos = Nanos::from_secs(600);

/// How long after a change the previous epoch is still accepted: delay on the network and clock skew.
pub const PREVIOUS_ACCEPTED: Nanos = Nanos::from_secs(120);

/// How long before a change the next epoch is already accepted: clock skew.
pub const NEXT_ACCEPTED: Nanos = Nanos::from_secs(30);

const LABEL: &[u8; 8] = b"chaff v1";

/// Number of the epoch of a Unix time. The wire carries its low 16 bits (they wrap after 455 days), keys use all of it.
pub(crate) const fn epoch_of(unix_now: Nanos) -> u64 {
    unix_now.0 / EPOCH.0
}

/// First counter of a sealer that starts at this time: the share of the epoch that has passed, of 2^32 counters.
///
/// That is 7.2 million counters a second, more than any sealer uses, so one that is restarted begins above everything
/// its predecessor sent: no nonce is used twice and nothing looks like a replay.
pub(crate) const fn first_counter(unix_now: Nanos) -> u32 {
    let elapsed = unix_now.0 % EPOCH.0;
    // elapsed < 6e11 < 2^40, so the product stays below 2^72 and the quotient below 2^32.
    (((elapsed as u128) << 32) / EPOCH.0 as u128) as u32
}

/// The full number of the accepted epoch with these low bits, or an error.
pub(crate) const fn accepted(unix_now: Nanos, low: u16) -> Result<u64, WireError> {
    let current = epoch_of(unix_now);
    let elapsed = unix_now.0 % EPOCH.0;
    if current as u16 == low {
        return Ok(current);
    }
    if let Some(previous) = current.checked_sub(1)
        && previous as u16 == low
        && elapsed < PREVIOUS_ACCEPTED.0
    {
        return Ok(previous);
    }
    if (current + 1) as u16 == low && EPOCH.0 - elapsed <= NEXT_ACCEPTED.0 {
        return Ok(current + 1);
    }
    Err(WireError::OldEpoch { epoch: low })
}

/// Hides the eight header bytes. One per key and direction, the same in every epoch.
pub(crate) struct Mask([u8; 32]);

impl Mask {
    pub(crate) fn new(key: &Key, dir: Dir) -> Self {
        let mut out = [0; 32];
        key.derive(&[LABEL, &[dir as u8], b"header"], &mut out);
        Self(out)
    }

    /// Masks or unmasks: the keystream block is chosen by the first twelve bytes of the tag, which no two datagrams
    /// share (QUIC does the same with a sample of the packet, RFC 9001 section 5.4).
    pub(crate) fn apply(&self, tag: &[u8; 16], header: &mut [u8; 8]) {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&tag[..12]);
        ChaCha20::new(&self.0.into(), &nonce.into()).apply_keystream(header);
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Keys of one epoch and direction.
pub(crate) struct EpochKeys {
    pub(crate) epoch: u64,
    dir: u8,
    body: [u8; 32],
    tag: [u8; 32],
}

impl EpochKeys {
    pub(crate) fn new(key: &Key, dir: Dir, epoch: u64) -> Self {
        let (mut body, mut tag) = ([0; 32], [0; 32]);
        let number = epoch.to_be_bytes();
        key.derive(&[LABEL, &[dir as u8], &number, b"body"], &mut body);
        key.derive(&[LABEL, &[dir as u8], &number, b"tag"], &mut tag);
        Self {
            epoch,
            dir: dir as u8,
            body,
            tag,
        }
    }

    /// Encrypts or decrypts a body. The nonce is direction, 0, low 32 bits of the epoch, stream, counter.
    pub(crate) fn apply(&self, header: Header, body: &mut [u8]) {
        let mut nonce = [0; 12];
        nonce[0] = self.dir;
        nonce[2..6].copy_from_slice(&(self.epoch as u32).to_be_bytes());
        nonce[6..8].copy_from_slice(&header.stream.to_be_bytes());
        nonce[8..].copy_from_slice(&header.counter.to_be_bytes());
        ChaCha20::new(&self.body.into(), &nonce.into()).apply_keystream(body);
    }

    /// The tag over the unmasked header and the encrypted body.
    pub(crate) fn tag(&self, header: &[u8; 8], body: &[u8]) -> [u8; 16] {
        let mut mac = <Blake2sMac<U16> as KeyInit>::new(&self.tag.into());
        mac.update(header);
        mac.update(body);
        mac.finalize_fixed().into()
    }
}

impl Drop for EpochKeys {
    fn drop(&mut self) {
        self.body.zeroize();
        self.tag.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_counter_grows_with_time_and_stays_in_range() {
        let e = Nanos::from_secs(1_800_000_000);
        assert_eq!(first_counter(e), 0);
        assert_eq!(first_counter(e + Nanos::from_secs(300)), 1 << 31);
        assert_eq!(first_counter(Nanos(e.0 + EPOCH.0 - 1)), u32::MAX);
        assert_eq!(first_counter(e + EPOCH), 0);
        let second = first_counter(e + Nanos::from_secs(1));
        assert_eq!(second, 7_158_278);
    }

    #[test]
    fn accepts_current_previous_for_a_while_and_next_shortly_before() {
        let start = Nanos::from_secs(1_800_000_000);
        let n = epoch_of(start);
        let low = n as u16;
        let ok = |at: Nanos, e: u16| accepted(at, e).ok();
        assert_eq!(ok(start, low), Some(n));
        assert_eq!(
            ok(start + Nanos(PREVIOUS_ACCEPTED.0 - 1), low.wrapping_sub(1)),
            Some(n - 1)
        );
        assert_eq!(ok(start + PREVIOUS_ACCEPTED, low.wrapping_sub(1)), None);
        assert_eq!(
            ok(start + EPOCH - NEXT_ACCEPTED, low.wrapping_add(1)),
            Some(n + 1)
        );
        assert_eq!(
            ok(
                start + EPOCH - NEXT_ACCEPTED - Nanos(1),
                low.wrapping_add(1)
            ),
            None
        );
        assert_eq!(ok(start, low.wrapping_sub(2)), None);
        assert_eq!(ok(Nanos::ZERO, u16::MAX), None);
    }

    #[test]
    fn the_low_bits_wrap_without_losing_the_epoch() {
        let wrap = Nanos(EPOCH.0 * 0x3_0000);
        assert_eq!(accepted(wrap, 0), Ok(0x3_0000));
        assert_eq!(accepted(wrap, 0xffff), Ok(0x2_ffff));
    }
}
