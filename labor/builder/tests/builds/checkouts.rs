use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::SystemTime;

use overseer_builder::api::*;
use walkdir::WalkDir;

use crate::harness::*;

const ALL: &str = "[jobs.a]\nsteps = [\"true\"]\nartifacts = [\"**\"]\n";

#[test]
fn the_checkout_is_exactly_the_commit() {
    let repo =
        Repo::with(ALL, &[("sp ace/new\nline", "x"), ("run", "y"), ("gone", "z"), ("crlf", "a\r\nb\n")]);
    repo.write(".gitattributes", "hidden export-ignore\n");
    repo.write("hidden", "still here");
    fs::set_permissions(repo.root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    repo.git(&["rm", "-q", "gone"]);
    repo.commit("second");
    repo.write("run", "changed, not committed");
    repo.write("untracked", "");
    let labor = Labor::new();
    let report = labor.build(&repo.source());
    passed(&report);
    let files = [".gitattributes", ".overseer.toml", "crlf", "hidden", "run", "sp ace/new\nline"];
    assert_eq!(paths(&report), files);
    assert_eq!(labor.blob(&report, "run"), b"y");
    assert_eq!(labor.blob(&report, "crlf"), b"a\r\nb\n");
    assert_eq!(report.artifacts.iter().map(|a| a.mode).filter(|m| *m == 0o755).count(), 1);
}

#[test]
fn a_repository_with_a_strange_name_is_built() {
    for name in ["a b", "line\nend", "-dash", "\"quote\"", "#hash", "ünï", "a\\b"] {
        let repo = Repo::named(name, &[]);
        repo.write(".overseer.toml", ALL);
        repo.commit("first");
        let report = Labor::new().build(&repo.source());
        passed(&report);
        assert_eq!(paths(&report), [".overseer.toml"], "{name:?}");
    }
}

#[test]
fn the_next_build_finds_nothing_of_the_one_before() {
    let repo = Repo::with(
        "[jobs.a]\nsteps = [\"test ! -e left\", \"echo spoiled > a; mkdir -p left d; touch left/x d/y; \
         git config x.y z; echo exit 1 > .git/hooks; git tag t; rm keep; chmod +x b\"]\nartifacts = [\"a\", \"keep\"]\n",
        &[("a", "good"), ("b", "b"), ("keep", "k"), (".gitignore", "left\n")],
    );
    let labor = Labor::new();
    let failed = labor.build(&repo.source());
    assert!(matches!(failed.outcome, RunOutcome::Failed(_)), "keep is gone");
    repo.write(".overseer.toml", "[jobs.a]\nsteps = [\"test ! -e left && test ! -e d\", \"git tag\", \
        \"git config x.y || true\", \"git status --porcelain\", \"test ! -x b\"]\nartifacts = [\"a\", \"keep\"]\n");
    repo.commit("second");
    let plan = labor.plan(repo.source(), None);
    let (report, log) = labor.run(&labor.request(&repo.source(), &plan, 0));
    passed(&report);
    assert_eq!(log, "", "no tag, no setting, no change");
    assert_eq!(labor.blob(&report, "a"), b"good");
}

#[test]
fn earlier_and_later_commits_are_built_in_turn() {
    let repo = Repo::with(ALL, &[("a", "1"), ("was/a", "file in a directory")]);
    repo.git(&["rm", "-qr", "was"]);
    repo.write("was", "a file now");
    repo.write("a", "2");
    repo.commit("second");
    let labor = Labor::new();
    for (rev, a, files) in [
        ("HEAD", "2", [".overseer.toml", "a", "was"]),
        ("HEAD~1", "1", [".overseer.toml", "a", "was/a"]),
        ("HEAD", "2", [".overseer.toml", "a", "was"]),
    ] {
        let report = labor.build_rev(&repo.source(), Some(rev));
        assert_eq!(paths(&report), files);
        assert_eq!(labor.blob(&report, "a"), a.as_bytes());
    }
}

#[test]
fn steps_find_a_repository_with_tags_and_branches() {
    let repo =
        Repo::with("[jobs.a]\nsteps = [\"git describe\", \"git branch -r\", \"git log --format=%s\"]\n", &[]);
    repo.git(&["tag", "-a", "v1", "-m", "x"]);
    repo.git(&["branch", "topic"]);
    repo.commit("second");
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let (report, log) = labor.run(&labor.request(&repo.source(), &plan, 0));
    passed(&report);
    assert!(log.starts_with("v1-1-g"), "{log}");
    assert!(log.ends_with("  origin/main\n  origin/topic\nsecond\nfirst\n"), "{log}");
}

#[test]
fn a_shallow_clone_is_built() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"git log --format=%s\"]\n", &[]);
    repo.commit("second");
    let url = format!("file://{}", repo.root.display());
    repo.git(&["clone", "-q", "--depth=1", &url, repo.beside("shallow").to_str().unwrap()]);
    let labor = Labor::new();
    let source = Source::Path(repo.beside("shallow"));
    let plan = labor.plan(source.clone(), None);
    let (report, log) = labor.run(&labor.request(&source, &plan, 0));
    passed(&report);
    assert_eq!(log, "second\n");
}

/// Every file with its time and contents.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<String, (SystemTime, Vec<u8>)> {
    let entries = WalkDir::new(root).into_iter().map(Result::unwrap);
    entries
        .map(|entry| {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let modified = entry.metadata().unwrap().modified().unwrap();
            (entry.path().display().to_string(), (modified, bytes))
        })
        .collect()
}

#[test]
fn the_users_repository_is_never_written() {
    let steps = "[jobs.a]\nsteps = [\"git tag t; git commit --allow-empty -qm x; git gc -q; touch .overseer.toml\"]\n\
        env = { GIT_AUTHOR_NAME = \"a\", GIT_AUTHOR_EMAIL = \"b\", GIT_COMMITTER_NAME = \"a\", GIT_COMMITTER_EMAIL = \"b\" }\n";
    let repo = Repo::with(steps, &[("a", "x")]);
    // A changed time would make a git that may write refresh its index.
    fs::File::open(repo.root.join("a")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let before = snapshot(&repo.root);
    let labor = Labor::new();
    passed(&labor.build(&repo.source()));
    passed(&labor.build_work_tree(&repo).0);
    assert_eq!(before, snapshot(&repo.root));
}

#[test]
fn hooks_of_the_repository_do_not_run() {
    let repo = Repo::with(ALL, &[]);
    for hook in ["post-checkout", "post-index-change", "reference-transaction"] {
        let path = repo.root.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\ntouch {}\n", repo.beside("ran").display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let labor = Labor::new();
    passed(&labor.build(&repo.source()));
    passed(&labor.build(&repo.url()));
    assert!(!repo.beside("ran").exists());
}

#[test]
fn a_repository_with_sha256_is_built() {
    let repo = Repo::named("repo", &["--object-format=sha256"]);
    repo.write(".overseer.toml", "[jobs.a]\nsteps = [\"git log --format=%H\"]\nartifacts = [\"**\"]\n");
    let commit = repo.commit("first");
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    assert_eq!((plan.commit.len(), &plan.commit), (64, &commit));
    let (report, log) = labor.run(&labor.request(&repo.source(), &plan, 0));
    passed(&report);
    assert_eq!(log.trim(), commit);
}

#[test]
fn submodules_are_checked_out() {
    let library = Repo::with("", &[("lib.h", "v1")]);
    let repo = Repo::with(
        "[jobs.a]\nsteps = [\"cat sub/lib.h; touch sub/left\"]\nartifacts = [\"sub/lib.h\"]\n",
        &[],
    );
    repo.git(&["submodule", "add", "-q", library.root.to_str().unwrap(), "sub"]);
    repo.commit("with a submodule");
    let labor = Labor::new();
    let report = labor.build(&repo.source());
    passed(&report);
    assert_eq!(labor.blob(&report, "sub/lib.h"), b"v1");
    library.write("lib.h", "v2");
    library.commit("second");
    repo.git(&["submodule", "update", "-q", "--remote"]);
    repo.write(".overseer.toml", "[jobs.a]\nsteps = [\"test ! -e sub/left\"]\nartifacts = [\"sub/lib.h\"]\n");
    repo.commit("newer");
    let report = labor.build(&repo.source());
    passed(&report);
    assert_eq!(labor.blob(&report, "sub/lib.h"), b"v2");
    // A repository from elsewhere may not name directories of this machine.
    let plan = labor.plan(repo.url(), None);
    let message = why(&labor.run(&labor.request(&repo.url(), &plan, 0)).0);
    assert!(message.contains(".gitmodules") && message.contains("not allowed"), "{message}");
}

#[test]
fn a_work_tree_is_built_as_it_lies_there() {
    let repo = Repo::with(
        "[jobs.a]\nsteps = [\"git status --porcelain\"]\nartifacts = [\"**\"]\n",
        &[("a", "old"), ("gone", "x"), (".gitignore", "ignored\n"), ("same", "s")],
    );
    repo.write("a", "new");
    repo.write("un tracked/x", "u");
    repo.write("ignored", "secret");
    fs::remove_file(repo.root.join("gone")).unwrap();
    symlink("a", repo.root.join("link")).unwrap();
    Repo::empty().git(&["init", "-q", repo.root.join("nested").to_str().unwrap()]);
    repo.write("nested/x", "");
    let labor = Labor::new();
    let (report, log) = labor.build_work_tree(&repo);
    passed(&report);
    assert_eq!(paths(&report), [".gitignore", ".overseer.toml", "a", "link", "same", "un tracked/x"]);
    assert_eq!(labor.blob(&report, "a"), b"new");
    assert!(report.warnings[0].contains("nested"), "{:?}", report.warnings);
    assert_eq!(log, " M a\n D gone\n?? link\n?? \"un tracked/\"\n");
    // The next one follows what was changed meanwhile.
    fs::remove_dir_all(repo.root.join("un tracked")).unwrap();
    fs::remove_dir_all(repo.root.join("nested")).unwrap();
    fs::remove_file(repo.root.join("a")).unwrap();
    repo.write("a/b", "a directory now");
    let (report, _) = labor.build_work_tree(&repo);
    passed(&report);
    assert_eq!(paths(&report), [".gitignore", ".overseer.toml", "a/b", "same"]);
}

#[test]
fn somebody_elses_repository_is_not_read() {
    let repo = Repo::with(ALL, &[]);
    let owned = std::process::Command::new("chown").args(["-R", "12345"]).arg(&repo.root).status().unwrap();
    if !owned.success() {
        assert!(std::env::var_os("REQUIRE_PARTS").is_none(), "root is missing, which REQUIRE_PARTS asks for");
        return eprintln!("ignored: only root can give a repository to another user");
    }
    let error = Labor::new().plan_error(repo.source(), None);
    assert!(error.contains("safe.directory"), "{error}");
}
