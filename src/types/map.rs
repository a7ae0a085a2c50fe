//! Hash maps whose order depends on nothing but their contents and history.
//!
//! hashbrown's default hasher is seeded from addresses, std's from the system: both make one
//! seed play two histories. These aliases hash with a fixed function. Iterate them only where
//! the order cannot reach an effect; elsewhere sort, or use a `BTreeMap`.

use std::hash::{BuildHasherDefault, Hasher};

pub type FixedState = BuildHasherDefault<FixedHasher>;
pub type Map<K, V> = hashbrown::HashMap<K, V, FixedState>;
pub type Set<K> = hashbrown::HashSet<K, FixedState>;

/// A multiply-and-fold hash over 8-byte words. Fast and fixed; not meant to resist an attacker
/// who chooses keys, so maps keyed by client bytes use a `BTreeMap`.
#[derive(Clone, Copy, Default)]
pub struct FixedHasher(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl FixedHasher {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.0.rotate_left(5) ^ word) * u128::from(MULTIPLIER);
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        // The length keeps "a" and "a\0" apart.
        self.mix(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }
    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }
    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
}
