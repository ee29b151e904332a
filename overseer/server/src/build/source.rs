//! What to build: a path or a URL.

use std::path::Path;

use overseer_builder::api::Source;

use crate::failure::Failure;

/// A path that exists is that repository, however it looks; else it must look like a URL.
///
/// # Errors
/// Neither of the two.
pub(super) fn parse(text: &str) -> Result<Source, Failure> {
    let path = Path::new(text);
    match path.metadata() {
        Ok(meta) if meta.is_dir() => match path.canonicalize() {
            Ok(path) => Ok(Source::Path(path)),
            Err(error) => Err(unreadable(text, &error)),
        },
        Ok(_) => Err(Failure::input("build.source", format!("{text:?} is a file"))
            .help("give the directory of a git repository, or a git URL")),
        Err(_) if is_url(text) => Ok(Source::Url(text.to_owned())),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unreadable(text, &error)),
        Err(_) => Err(Failure::input(
            "build.source",
            format!("there is nothing at {text:?}, and it is no git URL"),
        )
        .help("give the directory of a git repository, or a URL such as https://host/repo or git@host:repo")),
    }
}

fn unreadable(text: &str, error: &std::io::Error) -> Failure {
    Failure::input("build.source", format!("{text:?} cannot be opened: {error}"))
        .help("check its permissions, or give another directory")
}

/// `scheme://…` or `user@host:path`.
fn is_url(text: &str) -> bool {
    if let Some((scheme, rest)) = text.split_once("://") {
        let mut scheme = scheme.chars();
        return scheme.next().is_some_and(|c| c.is_ascii_alphabetic())
            && scheme.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty();
    }
    // What begins with a dash would be an option to git or ssh.
    match text.split_once(':') {
        Some((host, path)) if !path.is_empty() && !host.starts_with('-') && !host.contains('/') => host
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.starts_with('-')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn urls_of_all_kinds_are_known() {
        for url in [
            "https://host/repo",
            "ssh://git@host:22/repo",
            "file:///repo",
            "git@host:a/b.git",
            "git+ssh://h/r",
        ] {
            assert!(is_url(url), "{url}");
        }
        for no in [
            "",
            ".",
            "repo",
            "a/b@c:d",
            "-u@host:x",
            "://x",
            "https://",
            "git@host:",
            "@host:x",
            "host:path",
            "u@-oProxy:x",
        ] {
            assert!(!is_url(no), "{no}");
        }
    }

    #[test]
    fn a_path_is_made_absolute() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("a@b:c");
        std::fs::create_dir(&repo).unwrap();
        let text = format!("{}/../a@b:c/.", repo.display());
        assert_eq!(parse(&text).unwrap(), Source::Path(repo.canonicalize().unwrap()));
    }

    #[test]
    fn what_is_neither_is_refused_with_what_is_expected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for bad in ["", "/no/such/dir", "nothing", file.path().to_str().unwrap()] {
            let failure = parse(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::BadInput);
            assert!(failure.help.unwrap().contains("git"), "{bad}");
        }
    }
}
