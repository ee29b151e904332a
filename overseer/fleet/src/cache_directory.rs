use std::ffi::OsString;
use std::path::PathBuf;

/// Where this user's programs keep what costs time to have again: `$OVERSEER_CACHE`, else
/// `$XDG_CACHE_HOME/overseer`, else `$HOME/.cache/overseer`. A relative path in the environment is
/// ignored, as the XDG rules want it; none where none of them says.
pub fn cache_directory() -> Option<PathBuf> {
    choose(|name| std::env::var_os(name))
}

/// Where labors of this machine keep what they have had of releases, for all labors of this user.
pub fn labor_cache() -> Option<PathBuf> {
    Some(cache_directory()?.join("labors"))
}

fn choose(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("OVERSEER_CACHE")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("overseer")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/overseer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_choice_wins() {
        let choose = |variables: &[(&str, &str)]| {
            let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            choose(of)
        };
        let all = [("OVERSEER_CACHE", "/o"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(choose(&all), Some("/o".into()));
        assert_eq!(choose(&all[1..]), Some("/x/overseer".into()));
        assert_eq!(choose(&all[2..]), Some("/h/.cache/overseer".into()));
        assert_eq!(choose(&[("OVERSEER_CACHE", "relative")]), None);
    }
}
