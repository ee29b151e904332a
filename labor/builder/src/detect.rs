//! What to do with a repository that has no build file: pure, on what lies in its root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::build_file::{ArtifactPattern, BuildFile, JobSpec};

/// The files that give a repository its kind, as an error lists them.
pub const KNOWN: &str =
    "Cargo.toml, go.mod, mix.exs, CMakeLists.txt, pyproject.toml, setup.py, package.json, Makefile";
/// The files in the root whose contents [`detect`] reads.
pub const READ: [&str; 4] = ["package.json", "GNUmakefile", "makefile", "Makefile"];

/// The root of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names of the files.
    pub files: BTreeSet<String>,
    /// Names of the directories.
    pub directories: BTreeSet<String>,
    /// The contents of those files of [`READ`] that are there.
    pub contents: BTreeMap<String, Vec<u8>>,
}

/// What a repository is. The order is the rule: the first one that applies is built. A Makefile
/// comes last, as it is often a wrapper around one of the others, and npm near the end, as many
/// repositories use it only for tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `Cargo.toml`.
    Cargo,
    /// `go.mod`.
    Go,
    /// `mix.exs`.
    Mix,
    /// `CMakeLists.txt`.
    CMake,
    /// `pyproject.toml` or `setup.py`.
    Python,
    /// `package.json`.
    Npm,
    /// `GNUmakefile`, `makefile` or `Makefile`.
    Make,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Cargo, Self::Go, Self::Mix, Self::CMake, Self::Python, Self::Npm, Self::Make];

    /// The files whose presence says so, in the order of looking.
    fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Cargo => &["Cargo.toml"],
            Self::Go => &["go.mod"],
            Self::Mix => &["mix.exs"],
            Self::CMake => &["CMakeLists.txt"],
            Self::Python => &["pyproject.toml", "setup.py"],
            Self::Npm => &["package.json"],
            Self::Make => &["GNUmakefile", "makefile", "Makefile"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cargo => "Cargo",
            Self::Go => "Go",
            Self::Mix => "Mix",
            Self::CMake => "CMake",
            Self::Python => "Python",
            Self::Npm => "npm",
            Self::Make => "Make",
        })
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// What is built.
    pub kind: Kind,
    /// One job, `build`.
    pub file: BuildFile,
    /// What the repository is too, and is not built.
    pub also: Vec<Kind>,
}

/// Finds the first [`Kind`] that applies.
pub fn detect(listing: &Listing) -> Option<Detected> {
    let mut kinds =
        Kind::ALL.into_iter().filter(|kind| kind.marks().iter().any(|mark| listing.files.contains(*mark)));
    let kind = kinds.next()?;
    Some(Detected { kind, file: BuildFile { jobs: vec![job(kind, listing)] }, also: kinds.collect() })
}

fn job(kind: Kind, listing: &Listing) -> JobSpec {
    let mut job = JobSpec {
        name: "build".to_owned(),
        steps: vec![],
        artifacts: vec![],
        needs: vec![],
        env: vec![],
        matrix: vec![],
        timeout: None,
        cache: vec![],
    };
    match kind {
        Kind::Cargo => {
            // The tests are built in release too, or everything would be compiled twice.
            let locked = if listing.files.contains("Cargo.lock") { " --locked" } else { "" };
            job.steps =
                vec![format!("cargo build --release{locked}"), format!("cargo test --release{locked}")];
            job.artifacts = made_executables(&["target/release/*"]);
            job.cache = vec!["target".to_owned()];
        }
        Kind::Go => {
            let has_program = listing.files.contains("main.go") || listing.directories.contains("cmd");
            let build = if has_program { "mkdir -p bin && go build -o bin/ ./..." } else { "go build ./..." };
            job.steps = vec![build.to_owned(), "go test ./...".to_owned()];
            job.artifacts = made_executables(&["bin/*"]);
        }
        Kind::Mix => {
            job.steps = [
                "mix local.hex --force --if-missing && mix local.rebar --force --if-missing",
                "mix deps.get",
                "mix compile",
                "mix test",
            ]
            .map(str::to_owned)
            .to_vec();
            job.cache = vec!["_build".to_owned(), "deps".to_owned()];
        }
        Kind::CMake => {
            job.steps = [
                "cmake -S . -B build -DCMAKE_BUILD_TYPE=Release",
                "cmake --build build --parallel",
                "ctest --test-dir build --output-on-failure",
            ]
            .map(str::to_owned)
            .to_vec();
            job.artifacts = made_executables(&["build/*", "build/bin/*", "build/lib/*", "build/src/*"]);
        }
        Kind::Python => {
            job.steps = vec![
                "python3 -m venv .venv".to_owned(),
                ".venv/bin/python -m pip wheel --no-deps --wheel-dir dist .".to_owned(),
            ];
            if listing.directories.contains("tests") {
                job.steps.push(".venv/bin/python -m pip install . pytest".to_owned());
                job.steps.push(".venv/bin/python -m pytest".to_owned());
            }
            job.artifacts = optional(&["dist/*.whl"]);
        }
        Kind::Npm => {
            job.steps = npm_steps(listing);
            job.artifacts = optional(&["dist/**"]);
        }
        Kind::Make => {
            job.steps = vec!["make".to_owned()];
            job.steps.extend(make_test(listing));
            job.artifacts = made_executables(&["*", "bin/*", "build/*"]);
        }
    }
    job
}

fn made_executables(globs: &[&str]) -> Vec<ArtifactPattern> {
    let pattern =
        |glob: &&str| ArtifactPattern { glob: (*glob).to_owned(), made_executables: true, optional: true };
    globs.iter().map(pattern).collect()
}

fn optional(globs: &[&str]) -> Vec<ArtifactPattern> {
    let pattern =
        |glob: &&str| ArtifactPattern { glob: (*glob).to_owned(), made_executables: false, optional: true };
    globs.iter().map(pattern).collect()
}

/// Installs by the lock file that is there, then the scripts `build` and `test`, if they are.
fn npm_steps(listing: &Listing) -> Vec<String> {
    let (program, install) = if listing.files.contains("pnpm-lock.yaml") {
        ("pnpm", "pnpm install --frozen-lockfile")
    } else if listing.files.contains("yarn.lock") {
        ("yarn", "yarn install --frozen-lockfile")
    } else if listing.files.contains("package-lock.json") {
        ("npm", "npm ci")
    } else {
        ("npm", "npm install")
    };
    let package: serde_json::Value = listing
        .contents
        .get("package.json")
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    let mut steps = vec![install.to_owned()];
    for script in ["build", "test"] {
        let text = package.pointer(&format!("/scripts/{script}")).and_then(|text| text.as_str());
        // What `npm init` writes for a package without tests always fails.
        if text.is_some_and(|text| !text.contains("no test specified")) {
            steps.push(format!("{program} run {script}"));
        }
    }
    steps
}

/// `make test` or `make check`, if the makefile that make would take has such a rule.
fn make_test(listing: &Listing) -> Option<String> {
    let makefile = Kind::Make.marks().iter().find_map(|name| listing.contents.get(*name))?;
    let text = String::from_utf8_lossy(makefile);
    let has = |target: &str| {
        text.lines().any(|line| {
            let Some((targets, rest)) = line.split_once(':') else { return false };
            !rest.starts_with('=')
                && !targets.starts_with(['\t', '#', '.'])
                && targets.split_whitespace().any(|t| t == target)
        })
    };
    ["test", "check"].into_iter().find(|target| has(target)).map(|target| format!("make {target}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_file::rules;

    fn listing(files: &[(&str, &str)], directories: &[&str]) -> Listing {
        Listing {
            files: files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            directories: directories.iter().map(|name| (*name).to_owned()).collect(),
            contents: files
                .iter()
                .filter(|(name, _)| READ.contains(name))
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect(),
        }
    }

    fn steps(files: &[(&str, &str)], directories: &[&str]) -> Vec<String> {
        detect(&listing(files, directories)).unwrap().file.jobs.remove(0).steps
    }

    #[test]
    fn a_cargo_repository_is_built_and_tested() {
        let found = detect(&listing(&[("Cargo.toml", ""), ("Cargo.lock", "")], &["src"])).unwrap();
        assert_eq!(found.kind, Kind::Cargo);
        let job = &found.file.jobs[0];
        assert_eq!(job.steps, ["cargo build --release --locked", "cargo test --release --locked"]);
        assert_eq!(job.cache, ["target"]);
        assert!(job.artifacts[0].made_executables && job.artifacts[0].optional);
        assert_eq!(steps(&[("Cargo.toml", "")], &[])[0], "cargo build --release");
    }

    #[test]
    fn the_order_decides_and_says_what_else_there_is() {
        let names = KNOWN.split(", ").map(|name| (name, "")).collect::<Vec<_>>();
        let found = detect(&listing(&names, &[])).unwrap();
        assert_eq!(found.kind, Kind::Cargo);
        let also = [Kind::Go, Kind::Mix, Kind::CMake, Kind::Python, Kind::Npm, Kind::Make];
        assert_eq!(found.also, also);
        let found = detect(&listing(&[("Makefile", ""), ("mix.exs", "")], &[])).unwrap();
        assert_eq!((found.kind, found.also), (Kind::Mix, vec![Kind::Make]));
    }

    #[test]
    fn nothing_known_is_nothing() {
        assert_eq!(detect(&Listing::default()), None);
        assert_eq!(detect(&listing(&[("README.md", "")], &["Cargo.toml"])), None);
    }

    #[test]
    fn go_programs_are_artifacts_and_go_libraries_have_none() {
        assert!(steps(&[("go.mod", ""), ("main.go", "")], &[])[0].contains("-o bin/"));
        assert!(steps(&[("go.mod", "")], &["cmd"])[0].contains("-o bin/"));
        assert_eq!(steps(&[("go.mod", "")], &[]), ["go build ./...", "go test ./..."]);
    }

    #[test]
    fn npm_runs_the_scripts_that_there_are() {
        let package =
            r#"{"scripts": {"build": "tsc", "test": "echo \"Error: no test specified\" && exit 1"}}"#;
        let files = [("package.json", package), ("package-lock.json", "")];
        assert_eq!(steps(&files, &[]), ["npm ci", "npm run build"]);
        let tested = ("package.json", r#"{"scripts": {"test": "jest"}}"#);
        assert_eq!(steps(&[tested], &[]), ["npm install", "npm run test"]);
        assert_eq!(
            steps(&[tested, ("yarn.lock", "")], &[]),
            ["yarn install --frozen-lockfile", "yarn run test"]
        );
        assert_eq!(steps(&[tested, ("pnpm-lock.yaml", "")], &[])[1], "pnpm run test");
        assert_eq!(steps(&[("package.json", "not json")], &[]), ["npm install"]);
        assert_eq!(steps(&[("package.json", "{\"scripts\": [1]}")], &[]), ["npm install"]);
    }

    #[test]
    fn make_tests_when_there_is_such_a_rule() {
        assert_eq!(steps(&[("Makefile", "all:\n\tcc x.c")], &[]), ["make"]);
        assert_eq!(steps(&[("Makefile", "all: x\ncheck test: all\n")], &[]), ["make", "make test"]);
        assert_eq!(steps(&[("makefile", "check:\n")], &[]), ["make", "make check"]);
        assert_eq!(steps(&[("Makefile", "test := 1\n\ttest: no\n.PHONY: test\n# test:\n")], &[]), ["make"]);
        let both = [("GNUmakefile", "all:\n"), ("Makefile", "test:\n")];
        assert_eq!(steps(&both, &[]), ["make"], "make takes GNUmakefile first");
    }

    #[test]
    fn python_gives_a_wheel_and_runs_tests() {
        assert_eq!(steps(&[("pyproject.toml", "")], &[]).len(), 2);
        assert!(steps(&[("setup.py", "")], &["tests"]).iter().any(|s| s.contains("pytest")));
    }

    #[test]
    fn detected_jobs_keep_the_rules_of_build_files() {
        for name in KNOWN.split(", ") {
            let file = detect(&listing(&[(name, "")], &[])).unwrap().file;
            for job in &file.jobs {
                rules::job_name(&job.name).unwrap();
                job.steps.iter().for_each(|s| rules::step(s).unwrap());
                job.cache.iter().for_each(|c| rules::cache_path(c).unwrap());
                job.artifacts.iter().for_each(|a| drop(rules::artifact_pattern(&a.glob).unwrap()));
            }
        }
    }
}
