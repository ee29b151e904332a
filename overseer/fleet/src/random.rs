//! Randomness of the operating system. Pure code gets it passed in.

/// Random bytes.
///
/// # Panics
/// When the system has no randomness: no token of ours may be guessed.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => bytes,
        Err(error) => panic!("the operating system gives no randomness: {error}"),
    }
}

/// 64 random bits.
pub(crate) fn u64() -> u64 {
    u64::from_le_bytes(bytes())
}

/// 128 random bits.
pub(crate) fn u128() -> u128 {
    u128::from_le_bytes(bytes())
}
