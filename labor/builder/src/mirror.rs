//! A bare repository in the cache for each URL, which fetches only what is asked for.

use std::path::Path;

use crate::BuildError;
use crate::cancel::Cancel;
use crate::git::{Found, Git, Objects, redact};
use crate::locks::Lock;
use crate::place::{no_link, only_directory};
use crate::repository::{Repository, is_commit_id};

/// The ref that keeps what was fetched last for a revision.
const WANTED: &str = "refs/overseer/wanted";

/// The file that says that the mirror has the whole history.
const COMPLETE: &str = "overseer-complete";

/// Refuses what is no address of a remote repository.
pub(crate) fn check_url(url: &str) -> Result<(), BuildError> {
    let refuse = |why: &str| {
        let url = redact(url);
        Err(BuildError::BadRequest(format!(
            "{url:?} is no git URL: {why}; use https://, ssh:// or host:path"
        )))
    };
    if url.is_empty() || url.len() > 4096 {
        return refuse("its length is wrong");
    }
    if url.starts_with('-') {
        return refuse("it begins with a dash");
    }
    if url.contains(|c: char| c.is_control()) {
        return refuse("it has control characters");
    }
    // `ext::` runs commands, `fd::` reads descriptors; other helpers are as foreign.
    if url
        .split_once("::")
        .is_some_and(|(helper, _)| helper.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    {
        return refuse("remote helpers are not allowed");
    }
    Ok(())
}

/// A name for files of this source: readable, and unique by its digest.
pub(crate) fn file_name(readable: &str, parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let last = readable.trim_end_matches('/').trim_end_matches(".git");
    let last = last.rsplit(['/', ':']).next().unwrap_or_default();
    let plain: String =
        last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(24).collect();
    format!("{plain}-{}", &hasher.finalize().to_hex()[..16])
}

/// A mirror that has the wanted commit, and the expression that finds it there.
pub(crate) struct Mirrored {
    pub(crate) repository: Repository,
    pub(crate) expression: String,
}

/// Gets a revision of a URL. A commit that is here already is not asked for again; a branch or
/// a tag always is, for it may have moved.
///
/// The mirror first fetches the one commit without its history. A revision that a server cannot
/// find alone (`HEAD~2`, a shortened id) takes the whole history.
pub(crate) fn fetch(url: &str, rev: &str, cache_dir: &Path, cancel: &Cancel) -> Result<Mirrored, BuildError> {
    check_url(url)?;
    let name = redact(url);
    let directory = cache_dir.join("mirrors").join(format!("{}.git", file_name(&name, &[&name])));
    let repository = Repository {
        git_dir: directory.clone(),
        common_dir: directory.clone(),
        work_tree: None,
        name: name.clone(),
    };
    no_link(&cache_dir.join("mirrors"))?;
    // While one fetches, others wait: most often they want the same.
    let _lock = Lock::take(&directory.with_extension("lock"), cancel)?;
    if !only_directory(&directory)? || !directory.join("HEAD").is_file() {
        create(&directory, cancel)?;
    }
    let has = |expression: &str| -> Result<bool, BuildError> {
        let mut objects = Objects::open(&directory)?;
        Ok(matches!(objects.get(&format!("{expression}^{{tree}}"), usize::MAX)?, Found::Object(..)))
    };
    let found = |expression: String| Mirrored { repository: repository.clone(), expression };
    if is_commit_id(rev) && has(rev)? {
        return Ok(found(rev.to_owned()));
    }
    let run = |args: &[&str]| {
        let quiet = ["--quiet", "--no-auto-gc", "--no-write-fetch-head", "--force"];
        let args = quiet.iter().chain(args).copied();
        Git::new("fetch", &directory).git_dir(&directory).args(args).run(cancel)
    };
    // Once the history is whole, a fetch with a depth would cut it off again.
    let complete = directory.join(COMPLETE);
    let is_complete = complete.exists();
    if is_plain(rev) {
        let wanted = format!("{WANTED}/{}", blake3::hash(rev.as_bytes()).to_hex());
        let refspec = format!("{rev}:{wanted}");
        let depth: &[&str] = if is_complete { &[] } else { &["--depth=1"] };
        let ended = run(&[depth, &["--no-tags", "--", url, &refspec]].concat())?;
        if ended.success() {
            return Ok(found(wanted));
        }
        if is_unreachable(&ended.said) {
            return Err(failed(name, &ended.said));
        }
    }
    let head = format!("+HEAD:{WANTED}/HEAD");
    let whole = ["--prune", "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", &head];
    let shallow = directory.join("shallow").exists();
    let depth: &[&str] = if shallow { &["--unshallow"] } else { &[] };
    let mut ended = run(&[depth, &whole].concat())?;
    if ended.said.contains("couldn't find remote ref HEAD") {
        // The server's HEAD points to a branch without commits; the others may be meant.
        ended = run(&[depth, &whole[..whole.len() - 1]].concat())?;
    }
    if !ended.success() {
        return Err(failed(name, &ended.said));
    }
    std::fs::write(&complete, "").map_err(BuildError::io("cannot write", &complete))?;
    // The server's HEAD, not that of the mirror, which nothing sets.
    let expression = match rev.strip_prefix("HEAD") {
        Some(rest) if !rest.starts_with(|c: char| c.is_alphanumeric()) => format!("{WANTED}/HEAD{rest}"),
        _ => rev.to_owned(),
    };
    Ok(found(expression))
}

fn create(directory: &Path, cancel: &Cancel) -> Result<(), BuildError> {
    std::fs::create_dir_all(directory).map_err(BuildError::io("cannot make", directory))?;
    Git::new("init", directory).args(["--quiet", "--bare", "--template="]).check(cancel)?;
    Ok(())
}

/// Whether a fetch may ask for it by name: no operators of refspecs or revisions.
fn is_plain(rev: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-' | '+' | '#');
    rev.chars().all(good) && !rev.contains("..") && !rev.starts_with(['-', '+'])
}

/// A fetch failed: the server refused, or there was none.
fn failed(url: String, said: &str) -> BuildError {
    let said = redact(said);
    if is_refused(&said) || !is_silent(&said) {
        BuildError::Fetch { url, said }
    } else {
        BuildError::Unreachable { url, said }
    }
}

/// Somebody answered, and said no.
fn is_refused(said: &str) -> bool {
    let words = [
        "not found",
        "does not appear to be a git repository",
        "could not read Username",
        "Authentication failed",
        "Permission denied",
        "access denied",
        "returned error: 4",
    ];
    words.iter().any(|words| said.contains(words))
}

/// Nobody answered, or not to the end: the words of git, curl and ssh.
fn is_silent(said: &str) -> bool {
    let said = said.to_lowercase();
    let words = [
        "could not connect",
        "couldn't connect",
        "failed to connect",
        "unable to connect",
        "connection refused",
        "connection reset",
        "connection closed",
        "connection timed out",
        "operation timed out",
        "operation too slow",
        "timeout was reached",
        "could not resolve",
        "couldn't resolve",
        "unable to look up",
        "name resolution",
        "no route to host",
        "network is unreachable",
        "empty reply from server",
        "hung up unexpectedly",
        "early eof",
        "recv failure",
        "returned error: 5",
    ];
    words.iter().any(|words| said.contains(words))
}

/// The server itself cannot be read; asking for more would fail the same way.
fn is_unreachable(said: &str) -> bool {
    [
        "Could not read from remote",
        "unable to access",
        "does not appear to be a git repository",
        "unable to connect",
    ]
    .iter()
    .any(|words| said.contains(words))
        || said.contains("Authentication failed")
        || said.contains("could not read Username")
        || said.contains("Repository not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_run_commands_are_refused() {
        for url in ["", "-uhttps://x", "--upload-pack=x", "ext::sh -c x", "fd::7", "a\nb", "x::y"] {
            assert!(check_url(url).is_err(), "{url}");
        }
        for url in
            ["https://host/x.git", "git@host:x", "ssh://h:22/x", "file:///x", "http://[::1]:80/x", "/x"]
        {
            assert!(check_url(url).is_ok(), "{url}");
        }
        let refused = check_url("ext::https://u:secret@h").unwrap_err().to_string();
        assert!(!refused.contains("secret"), "{refused}");
    }

    #[test]
    fn a_server_that_refuses_is_not_one_that_is_gone() {
        let is_gone = |said: &str| matches!(failed("u".into(), said), BuildError::Unreachable { .. });
        for said in [
            "fatal: unable to access 'http://h:1/x/': Failed to connect to h port 1 after 0 ms: Could not connect to server",
            "fatal: unable to access 'https://h/x/': Could not resolve host: h",
            "fatal: unable to access 'https://h/x/': The requested URL returned error: 503",
            "ssh: connect to host h port 22: Connection refused; fatal: Could not read from remote repository.",
            "ssh: Could not resolve hostname h: Name or service not known; fatal: Could not read from remote repository.",
            "fatal: unable to connect to h:; h[0: 127.0.0.1]: errno=Connection refused",
            "error: RPC failed; curl 28 Operation too slow; fatal: early EOF",
        ] {
            assert!(is_gone(said), "{said}");
        }
        for said in [
            "fatal: repository 'http://h/x.git/' not found",
            "remote: Repository not found.; fatal: Could not read from remote repository.",
            "fatal: unable to access 'https://h/x/': The requested URL returned error: 403",
            "fatal: could not read Username for 'https://h': terminal prompts disabled",
            "fatal: Authentication failed for 'https://h/x/'",
            "u@h: Permission denied (publickey).; fatal: Could not read from remote repository.",
            "fatal: '/no/such' does not appear to be a git repository; fatal: Could not read from remote repository.",
            "fatal: remote error: access denied or repository not exported: /x",
        ] {
            assert!(!is_gone(said), "{said}");
        }
    }

    #[test]
    fn file_names_are_readable_and_unique() {
        let name = file_name("https://host/some/repo.git", &["a", "b"]);
        assert!(name.starts_with("repo-"), "{name}");
        assert_ne!(name, file_name("https://host/some/repo.git", &["ab", ""]));
        assert!(file_name("git@host:ö\n/", &[]).bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    }
}
