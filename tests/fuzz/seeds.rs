//! The inputs that a target begins with.

/// Writes the seeds into the directory that `run` names in `FUZZ_SEEDS`, and ends the process;
/// without that variable it does nothing. Seeds come from the code under test, so they never
/// get stale.
pub fn write<'a>(seeds: impl IntoIterator<Item = (&'a str, Vec<u8>)>) {
    let Some(dir) = std::env::var_os("FUZZ_SEEDS") else { return };
    for (name, bytes) in seeds {
        let path = std::path::Path::new(&dir).join(name);
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    std::process::exit(0);
}
