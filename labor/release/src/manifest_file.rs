use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::manifest::{FieldError, Flat, Manifest};

/// Largest `release.toml`, in bytes.
pub const MAX_MANIFEST: usize = 64 * 1024;

/// What is wrong in a `release.toml`, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {}{message}", path.display(), key.as_ref().map(|key| format!("`{key}` ")).unwrap_or_default())]
pub struct ManifestError {
    /// The file.
    pub path: PathBuf,
    /// From 1; 1 too for what is not there.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, as in `environment.PATH`; none where the file is no TOML at all.
    pub key: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ManifestError {
    /// `release.manifest`, the stable code of this error.
    pub fn code(&self) -> &'static str {
        "release.manifest"
    }
}

impl Manifest {
    /// Reads a `release.toml` file.
    ///
    /// # Errors
    /// The file cannot be read (then line 1, column 1), or the first thing that is wrong in it.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let whole =
            |message: String| ManifestError { path: path.to_owned(), line: 1, column: 1, key: None, message };
        let bytes = std::fs::read(path)
            .map_err(|error| whole(format!("cannot be read: {error}; a release needs this file")))?;
        let text = String::from_utf8(bytes).map_err(|_| whole("is not UTF-8; save it as UTF-8".into()))?;
        Self::from_toml(path, &text)
    }

    /// Reads the text of a `release.toml`; `path` is only named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and key.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ManifestError> {
        let error = |at: Option<Range<usize>>, key: Option<String>, message: String| {
            let (line, column) = position(text, at.map_or(0, |at| at.start));
            ManifestError { path: path.to_owned(), line, column, key, message }
        };
        if text.len() > MAX_MANIFEST {
            return Err(error(None, None, format!("has more than {MAX_MANIFEST} bytes; shorten it")));
        }
        let table = DeTable::parse(text).map_err(|e| error(e.span(), None, e.message().to_owned()))?;
        let places = Places::of(table.get_ref());
        let flat: Flat = toml::from_str(text).map_err(|e| {
            let key = e.span().and_then(|span| places.key_at(&span));
            error(e.span(), key, format!("is not right: {}", e.message()))
        })?;
        Manifest::try_from(flat)
            .map_err(|FieldError { key, message }| error(places.of_key(&key), Some(key), message))
    }

    /// The text of a `release.toml` that says exactly this, every default spelled out.
    ///
    /// # Errors
    /// A value is not allowed.
    pub fn to_toml(&self) -> Result<String, FieldError> {
        self.check()?;
        toml::to_string(self)
            .map_err(|error| FieldError { key: "release.toml".into(), message: error.to_string() })
    }
}

/// Where each key and its value stand in the text.
struct Places(Vec<(String, Range<usize>, Range<usize>)>);

impl Places {
    fn of(table: &DeTable<'_>) -> Self {
        let mut places = Vec::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            for (inner, inner_value) in value.get_ref().as_table().into_iter().flatten() {
                places.push((format!("{name}.{}", inner.get_ref()), inner.span(), inner_value.span()));
            }
            places.push((name, key.span(), value.span()));
        }
        Self(places)
    }

    fn of_key(&self, key: &str) -> Option<Range<usize>> {
        self.0.iter().find(|(name, ..)| name == key).map(|(_, _, value)| value.clone())
    }

    /// The innermost key whose name or value holds that place.
    fn key_at(&self, at: &Range<usize>) -> Option<String> {
        let within = |range: &Range<usize>| range.start <= at.start && at.end <= range.end;
        let found = self.0.iter().filter(|(_, key, value)| within(key) || within(value));
        found.min_by_key(|(_, _, value)| value.len()).map(|(name, ..)| name.clone())
    }
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::{HOST_TARGET, Kind, Mode, Restart};

    const PLUGIN: &str =
        "name = \"hello\"\nversion = \"1.2.3\"\nkind = \"plugin\"\nentry = \"libhello.so\"\n";
    const PROGRAM: &str =
        "name = \"hello\"\nversion = \"1.2.3\"\nkind = \"program\"\nentry = \"bin/hello\"\n";

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::from_toml(Path::new("dir/release.toml"), text)
    }

    #[test]
    fn a_short_manifest_gets_its_defaults() {
        let plugin = parse(PLUGIN).unwrap();
        assert_eq!(plugin.kind, Kind::Plugin { abi: 1 });
        assert_eq!((plugin.restart, plugin.target.as_str()), (Restart::Always, HOST_TARGET));
        assert_eq!(plugin.file_name(), "hello-1.2.3.release");
        let program = parse(PROGRAM).unwrap();
        assert_eq!(program.kind, Kind::Program { args: vec![], mode: Mode::Supervise });
        assert_eq!(program.restart, Restart::OnFailure);
    }

    #[test]
    fn every_key_is_read_and_written_again() {
        let text = format!(
            "{PROGRAM}target = \"aarch64-unknown-linux-gnu\"\nargs = [\"--a\", \"b\"]\nmode = \"serve\"\n\
             restart = \"never\"\n[environment]\nPORT = \"80\"\n"
        );
        let manifest = parse(&text).unwrap();
        assert_eq!(manifest.kind, Kind::Program { args: vec!["--a".into(), "b".into()], mode: Mode::Serve });
        assert_eq!(manifest.environment["PORT"], "80");
        assert_eq!(parse(&manifest.to_toml().unwrap()).unwrap(), manifest);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
    }

    #[test]
    fn a_program_that_is_run_for_each_call_says_how_often_at_once() {
        for (text, concurrency) in [("mode = \"run\"", 1), ("mode = \"run\"\nconcurrency = 8", 8)] {
            let manifest = parse(&format!("{PROGRAM}{text}\n")).unwrap();
            assert_eq!(manifest.kind, Kind::Program { args: vec![], mode: Mode::Run { concurrency } });
            assert_eq!(parse(&manifest.to_toml().unwrap()).unwrap(), manifest);
            let json = serde_json::to_string(&manifest).unwrap();
            assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
        }
        for concurrency in ["0", "1025"] {
            let error =
                parse(&format!("{PROGRAM}mode = \"run\"\nconcurrency = {concurrency}\n")).unwrap_err();
            assert_eq!((error.key.as_deref(), error.line), (Some("concurrency"), 6), "{error}");
            assert!(error.message.contains("1 to 1024"), "{error}");
        }
    }

    /// Each row: the manifest's kind, a line added to it (in place of the same key's), the key
    /// that the error must name, a word of its message.
    #[test]
    fn each_wrong_key_is_named_with_its_line() {
        let long = format!("name = \"{}\"", "a".repeat(64));
        let long_version = format!("version = \"1.0.0-{}\"", "a".repeat(64));
        let rows: &[(&str, &str, &str, &str)] = &[
            (PLUGIN, "name = \"Hello\"", "name", "a-z"),
            (PLUGIN, "name = \"\"", "name", "a-z"),
            (PLUGIN, "name = \"../x\"", "name", "a-z"),
            (PLUGIN, &long, "name", "63"),
            (PLUGIN, "name = 3", "name", "expected a string"),
            (PLUGIN, "version = \"1.2\"", "version", "semantic version"),
            (PLUGIN, "version = 1.2", "version", "expected a string"),
            (PLUGIN, &long_version, "version", "64"),
            (PLUGIN, "kind = \"daemon\"", "kind", "unknown variant"),
            (PLUGIN, "kind = true", "kind", "wanted string"),
            (PLUGIN, "target = \"linux\"", "target", HOST_TARGET),
            (PLUGIN, "target = \"a b-c\"", "target", "triple"),
            (PLUGIN, "target = []", "target", "expected"),
            (PLUGIN, "abi = 0", "abi", "first ABI"),
            (PLUGIN, "abi = -1", "abi", "expected u32"),
            (PLUGIN, "abi = \"1\"", "abi", "expected u32"),
            (PROGRAM, "abi = 1", "abi", "plugin"),
            (PLUGIN, "entry = \"/lib/x.so\"", "entry", "absolute"),
            (PLUGIN, "entry = \"../x.so\"", "entry", "`..`"),
            (PLUGIN, "entry = \"release.toml\"", "entry", "manifest"),
            (PLUGIN, "entry = 1979-05-27", "entry", "expected a string"),
            (PROGRAM, "args = [\"a\", 3]", "args", "expected a string"),
            (PROGRAM, "args = \"a b\"", "args", "expected a sequence"),
            (PROGRAM, "args = [\"a\\u0000\"]", "args", "NUL"),
            (PLUGIN, "args = []", "args", "program"),
            (PROGRAM, "mode = \"server\"", "mode", "unknown variant"),
            (PLUGIN, "mode = \"serve\"", "mode", "program"),
            (PROGRAM, "restart = \"sometimes\"", "restart", "unknown variant"),
            (PROGRAM, "restart = 1", "restart", "wanted string"),
            (PROGRAM, "environment = \"A=1\"", "environment", "expected a map"),
            (PROGRAM, "environment = { PORT = 80 }", "environment.PORT", "expected a string"),
            (PROGRAM, "environment = { \"A=B\" = \"x\" }", "environment.A=B", "variable's name"),
            (PROGRAM, "environment = { A = \"x\\u0000\" }", "environment.A", "NUL"),
            (PROGRAM, "concurrency = 3", "concurrency", "`mode = \"run\"` only"),
            (PROGRAM, "concurrency = -1", "concurrency", "expected u32"),
            (PLUGIN, "concurrency = 3", "concurrency", "program"),
            (PROGRAM, "nmae = \"x\"", "nmae", "unknown field"),
        ];
        for (base, line, key, word) in rows {
            let replaced = line.split(" = ").next().unwrap();
            let kept = base.lines().filter(|l| !l.starts_with(&format!("{replaced} =")));
            let text = kept.chain([*line]).collect::<Vec<_>>().join("\n");
            let error = parse(&text).unwrap_err();
            assert_eq!(error.key.as_deref(), Some(*key), "{line}: {error}");
            assert_eq!(error.line, text.lines().count(), "{line}: {error}");
            assert!(error.message.contains(word), "{line}: {error}");
            assert!(error.to_string().starts_with(&format!("dir/release.toml:{}:", error.line)), "{error}");
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        for key in ["name", "version", "kind", "entry"] {
            let kept: Vec<_> = PLUGIN.lines().filter(|l| !l.starts_with(key)).collect();
            let error = parse(&kept.join("\n")).unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key));
            assert!(error.message.contains("add `"), "{error}");
        }
    }

    #[test]
    fn text_that_is_no_toml_is_refused_at_its_place() {
        let error = parse("name = \"a\"\nversion = \n").unwrap_err();
        assert_eq!((error.line, error.key), (2, None));
        assert!(parse(&format!("#{}", "x".repeat(MAX_MANIFEST))).is_err());
        assert!(parse(&"[".repeat(10_000)).is_err());
        let twice = parse(&format!("{PLUGIN}name = \"b\"\n")).unwrap_err();
        assert_eq!(twice.line, 5, "{twice}");
        let absent = Manifest::read(Path::new("/nonexistent/release.toml")).unwrap_err();
        assert!(absent.to_string().contains("/nonexistent/release.toml"), "{absent}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_read_is_written_the_same(
            name in "[a-z][a-z0-9_.-]{0,20}",
            arg in ".*",
            value in "[^\0]*",
            mode in proptest::sample::select(vec![Mode::Supervise, Mode::Serve, Mode::Run { concurrency: 3 }]),
        ) {
            let mut manifest = Manifest::program(name, semver::Version::new(1, 0, 0), "bin/x");
            manifest.kind = Kind::Program { args: vec![arg.replace('\0', "")], mode };
            manifest.environment.insert("A".into(), value);
            prop_assert_eq!(parse(&manifest.to_toml().unwrap()).unwrap(), manifest);
        }
    }
}
