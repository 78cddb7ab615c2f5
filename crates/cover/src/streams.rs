use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2sMac, digest::consts::U32};
use chaff_abi::Dir;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Independent random streams of one device: one key per purpose, one ChaCha20 stream per slot or block.
pub(crate) struct Streams {
    start: [u8; 32],
    generate: [u8; 32],
    place: [[u8; 32]; 2],
    mask: [u8; 32],
}

impl Streams {
    pub(crate) fn new(seed: &[u8; 32], label: &str) -> Self {
        let purpose = |name: &str| derive(seed, label, name);
        Self {
            start: purpose("start"),
            generate: purpose("generate"),
            place: [purpose("place out"), purpose("place in")],
            mask: purpose("mask"),
        }
    }

    /// What is drawn once per run.
    pub(crate) fn start(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.start)
    }

    /// The demands of a block.
    pub(crate) fn generate(&self, block: u64) -> ChaCha20Rng {
        numbered(self.generate, block)
    }

    /// Sizes and times of one slot and direction.
    pub(crate) fn place(&self, dir: Dir, slot: u64) -> ChaCha20Rng {
        numbered(self.place[dir.index()], slot)
    }

    /// Whether a slot begins cover by itself, and how long it lasts.
    pub(crate) fn mask(&self, slot: u64) -> ChaCha20Rng {
        numbered(self.mask, slot)
    }
}

fn numbered(key: [u8; 32], number: u64) -> ChaCha20Rng {
    let mut rng = ChaCha20Rng::from_seed(key);
    rng.set_stream(number);
    rng
}

/// BLAKE2s-256 keyed by the seed over name, label and the label's length, so that no two of them run together.
fn derive(seed: &[u8; 32], label: &str, purpose: &str) -> [u8; 32] {
    let mut mac = <Blake2sMac<U32> as KeyInit>::new(seed.into());
    mac.update(b"chaff cover v1\0");
    mac.update(purpose.as_bytes());
    mac.update(&[0]);
    mac.update(label.as_bytes());
    mac.update(&(label.len() as u64).to_be_bytes());
    mac.finalize_fixed().into()
}
