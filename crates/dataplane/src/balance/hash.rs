//! Hash functions that choose hosts; the same as Envoy's, so that both choose alike.

use xxhash_rust::xxh64::xxh64;

/// xxHash64.
pub fn xx_hash(bytes: &[u8], seed: u64) -> u64 {
    xxh64(bytes, seed)
}

/// MurmurHash2 for 64 bits (variant A), as the GNU C++ library has it for `std::hash`.
pub fn murmur_hash(bytes: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        hash ^= mix(word.wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
        hash ^= word;
        hash = hash.wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}

/// The seed of `std::hash`.
pub const MURMUR_SEED: u64 = 0xc70f_6907;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(xx_hash(b"", 0), 0xef46_db37_51d8_e999, "the algorithm's description says so");
        // What `std::hash<std::string>` of the GNU C++ library gives.
        for (text, expect) in [
            ("", 6_142_509_188_972_423_790),
            ("a", 4_993_892_634_952_068_459),
            ("hello", 2_762_169_579_135_187_400),
            ("Hello, world!", 12_518_601_801_603_912_089),
            ("127.0.0.1:8080_17", 3_591_327_324_750_848_891),
        ] {
            assert_eq!(murmur_hash(text.as_bytes(), MURMUR_SEED), expect, "{text}");
        }
    }
}
