//! The rules for single values. Each answers with what is wrong and what to do; they hold for
//! a build file and again, on the labor, for what a request brings.

use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// What is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

fn broken<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { message: message.into(), help: help.into() })
}

/// A job's name: a letter or digit, then letters, digits, `.`, `_`, `-`; 64 characters at most.
pub fn job_name(name: &str) -> Result<(), Broken> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good) {
        return Ok(());
    }
    broken(
        format!("{name:?} is no job name"),
        "begin with a letter or digit and use letters, digits, `.`, `_` and `-`, 64 at most",
    )
}

/// A command: not blank, without NUL.
pub fn step(command: &str) -> Result<(), Broken> {
    if command.trim().is_empty() {
        return broken("the step is empty", "write the shell command to run, such as \"make\"");
    }
    fits_exec(command)?;
    no_nul(command)
}

/// The name of an environment variable that a job may set.
pub fn env_name(name: &str) -> Result<(), Broken> {
    let good = name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        return broken(
            format!("{name:?} is no name of an environment variable"),
            "use letters, digits and `_`, and do not begin with a digit",
        );
    }
    if name.starts_with("OVERSEER_") || name.starts_with("MATRIX_") {
        return broken(
            format!("{name:?} is set by Overseer itself"),
            "choose a name that does not begin with OVERSEER_ or MATRIX_",
        );
    }
    Ok(())
}

/// The value of an environment variable.
pub fn env_value(value: &str) -> Result<(), Broken> {
    fits_exec(value)?;
    no_nul(value)
}

/// A key of a matrix.
pub fn matrix_key(key: &str) -> Result<(), Broken> {
    let good = key.len() <= 32
        && key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if good {
        return Ok(());
    }
    broken(
        format!("{key:?} is no matrix key"),
        "begin with a letter and use letters, digits, `_` and `-`, 32 at most",
    )
}

/// The variable that carries a matrix key: `cc` is `MATRIX_CC`, `c-lib` is `MATRIX_C_LIB`.
pub fn matrix_variable(key: &str) -> String {
    format!("MATRIX_{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// A value of a matrix. It becomes part of the job's name, and so of a directory's.
pub fn matrix_value(value: &str) -> Result<(), Broken> {
    let bad = |c: char| c.is_control() || matches!(c, '/' | ',' | '(' | ')' | '=');
    if !value.is_empty() && value.len() <= 64 && value.trim() == value && !value.contains(bad) {
        return Ok(());
    }
    broken(
        format!("{value:?} is no matrix value"),
        "use 1 to 64 characters without `/`, `,`, `=`, parentheses, line ends and outer spaces",
    )
}

/// A timeout such as `20m` or `1h 30m`.
pub fn timeout(text: &str) -> Result<Duration, Broken> {
    let help = "write a number and a unit, such as \"20m\", \"90s\" or \"1h 30m\"";
    let duration = match humantime::parse_duration(text) {
        Ok(duration) => duration,
        Err(e) => return broken(format!("{text:?} is no duration ({e})"), help),
    };
    if duration < Duration::from_millis(1) {
        return broken("a timeout of nothing ends every job at once", help);
    }
    if duration > super::MAX_TIMEOUT {
        return broken(format!("{text:?} is more than the 30 days allowed"), help);
    }
    Ok(duration)
}

/// A path below the checkout's root: relative, no `.` or `..`, not into `.git`.
pub fn relative_path(path: &str) -> Result<(), Broken> {
    let help = "give a path below the root of the checkout, such as \"target\"";
    no_nul(path)?;
    if path.is_empty() {
        return broken("the path is empty", help);
    }
    if path.len() > 1024 {
        return broken("the path is longer than 1024 bytes", help);
    }
    if path.starts_with('/') {
        return broken(format!("{path:?} is an absolute path"), help);
    }
    for part in path.strip_suffix('/').unwrap_or(path).split('/') {
        match part {
            ".." => return broken(format!("{path:?} leaves the checkout by `..`"), help),
            "" | "." => return broken(format!("{path:?} has an empty part or a `.`"), help),
            _ => {}
        }
    }
    if path.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(".git")) {
        return broken(format!("{path:?} is inside of .git"), help);
    }
    Ok(())
}

/// A cached directory: a plain path, not a pattern.
pub fn cache_path(path: &str) -> Result<(), Broken> {
    relative_path(path)?;
    let bad = |c: char| c.is_control() || matches!(c, '*' | '?' | '[' | ']' | '\\' | '!' | '#');
    if path.contains(bad) || path.ends_with(' ') {
        return broken(
            format!("{path:?} is not a plain directory name"),
            "name the directory itself; patterns are only for artifacts",
        );
    }
    if path.split('/').next() == Some("needs") {
        return broken(
            format!("{path:?} is where the artifacts of needed jobs lie"),
            "cache another directory",
        );
    }
    Ok(())
}

/// An artifact pattern; `*` stays within a directory, `**` goes through them.
pub fn artifact_pattern(pattern: &str) -> Result<GlobSet, Broken> {
    relative_path(pattern)?;
    if pattern.ends_with('/') {
        return broken(
            format!("{pattern:?} names a directory"),
            format!("write \"{pattern}**\" for all files in it"),
        );
    }
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
    // The set reports a pattern that is too deep or too large; a single matcher panics on it.
    match glob.and_then(|glob| GlobSetBuilder::new().add(glob).build()) {
        Ok(set) => Ok(set),
        Err(e) => broken(
            format!("{pattern:?} is no pattern ({})", e.kind()),
            "close every `[` and `{`, or put a backslash before it",
        ),
    }
}

/// The kernel takes 128 KiB for a single argument or variable.
fn fits_exec(text: &str) -> Result<(), Broken> {
    if text.len() > 100_000 {
        return broken(
            format!("the text has {} bytes, more than the 100000 allowed", text.len()),
            "put it into a file of the repository",
        );
    }
    Ok(())
}

fn no_nul(text: &str) -> Result<(), Broken> {
    if text.contains('\0') {
        return broken("the text has a NUL character", "remove it");
    }
    Ok(())
}
