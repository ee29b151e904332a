//! Where mirrors of repositories and kept checkouts lie on a labor.
//!
//! `$OVERSEER_CACHE`, else `$XDG_CACHE_HOME/overseer`, else `$HOME/.cache/overseer`. It may be
//! removed at any time while no build runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The cache directory: what was asked for, else by the environment, else `fallback`. A
/// relative path in the environment is ignored, as the XDG rules want it.
pub(crate) fn choose(
    asked: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
    fallback: &Path,
) -> PathBuf {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    asked
        .map(Path::to_owned)
        .or_else(|| absolute("OVERSEER_CACHE"))
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("overseer")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/overseer")))
        .unwrap_or_else(|| fallback.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_choice_wins() {
        let choose = |asked: Option<&str>, variables: &[(&str, &str)]| {
            let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            choose(asked.map(Path::new), of, Path::new("/scratch"))
        };
        let all = [("OVERSEER_CACHE", "/o"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(choose(Some("/asked"), &all), Path::new("/asked"));
        assert_eq!(choose(None, &all), Path::new("/o"));
        assert_eq!(choose(None, &all[1..]), Path::new("/x/overseer"));
        assert_eq!(choose(None, &all[2..]), Path::new("/h/.cache/overseer"));
        assert_eq!(choose(None, &[("OVERSEER_CACHE", "relative")]), Path::new("/scratch"));
    }
}
