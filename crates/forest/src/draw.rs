//! Seeded draws without a random number generator: every draw is a SHA-256 of the seed and a name, so that adding or
//! removing other names never changes it.

use sha2::{Digest as _, Sha256};

/// Places names in a random order that depends on the seed alone.
pub(crate) fn rank(seed: u64, purpose: &str, name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for part in [purpose, name] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// A number below `bound`, which is not zero. The bias of the modulus is below 2^-32 for every bound that occurs.
pub(crate) fn below(seed: u64, purpose: &str, name: &str, bound: u64) -> u64 {
    let bytes = rank(seed, purpose, name);
    let number = bytes.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    number % bound.max(1)
}
