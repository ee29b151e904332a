use std::fs;

use overseer_builder::api::*;

use crate::harness::*;

const ONE_JOB: &str = "[jobs.a]\nsteps = [\"true\"]\n";

#[test]
fn a_plan_names_the_commit_and_its_jobs() {
    let repo = Repo::with(ONE_JOB, &[]);
    repo.git(&["commit", "-q", "--amend", "-m", "  Üse \"this\"  \n\nmore"]);
    let plan = Labor::new().plan(repo.source(), None);
    assert_eq!(plan.commit, repo.git(&["rev-parse", "HEAD"]));
    assert_eq!(plan.tree, repo.git(&["rev-parse", "HEAD^{tree}"]));
    assert_eq!((plan.short.as_str(), plan.subject.as_str()), (&plan.commit[..10], "Üse \"this\""));
    assert_eq!((plan.dirty, plan.from), (false, PlanOrigin::File));
    assert_eq!(plan.plan.jobs[0].name, "a");
}

#[test]
fn revisions_of_every_kind_work() {
    let repo = Repo::with(ONE_JOB, &[]);
    let first = repo.git(&["rev-parse", "HEAD"]);
    repo.git(&["tag", "-a", "v1", "-m", "x"]);
    repo.git(&["branch", "old/one"]);
    repo.commit("second");
    repo.commit("third");
    let labor = Labor::new();
    for rev in ["v1", "old/one", "HEAD~2", &first, &first[..7], "main^^", "HEAD^{/first}", "HEAD@{2}"] {
        assert_eq!(labor.plan(repo.source(), Some(rev)).commit, first, "{rev}");
    }
}

#[test]
fn uncommitted_changes_are_seen_and_not_planned() {
    let repo = Repo::with(ONE_JOB, &[]);
    repo.write(".overseer.toml", "broken");
    let plan = Labor::new().plan(repo.source(), None);
    assert!(plan.dirty);
    repo.git(&["checkout", "-q", "."]);
    repo.write("new", "");
    assert!(Labor::new().plan(repo.source(), None).dirty);
}

#[test]
fn places_without_a_commit_say_what_to_do() {
    let labor = Labor::new();
    let repo = Repo::empty();
    let at = |path: &str| Source::Path(repo.beside(path));
    fs::create_dir(repo.beside("plain")).unwrap();
    fs::write(repo.beside("file"), "").unwrap();
    assert!(labor.plan_error(at("plain"), None).contains("git init"));
    assert!(labor.plan_error(at("file"), None).contains("is not a directory"));
    assert!(labor.plan_error(at("gone"), None).contains("there is nothing at"));
    assert!(labor.plan_error(Source::Path("repo".into()), None).contains("relative path"));
    assert!(labor.plan_error(repo.source(), None).contains("no commits yet; commit something"));
    assert!(labor.plan_error(repo.source(), Some("main")).contains("there is no revision \"main\""));
}

#[test]
fn a_revision_that_is_not_there_is_answered_with_those_that_are() {
    let repo = Repo::with(ONE_JOB, &[]);
    repo.git(&["tag", "v1"]);
    let labor = Labor::new();
    let error = labor.plan_error(repo.source(), Some("v2"));
    assert!(error.contains("\"v2\"") && error.contains("main, v1"), "{error}");
    for rev in ["HEAD~9", "main:.overseer.toml", "0000000000000000000000000000000000000000", "v1 v1"] {
        assert!(labor.plan_error(repo.source(), Some(rev)).contains("there is no revision"), "{rev}");
    }
    for rev in ["", "--all", "a\nb", "a\0b"] {
        assert!(labor.plan_error(repo.source(), Some(rev)).contains("is no revision"), "{rev:?}");
    }
    repo.git(&["checkout", "-q", "--orphan", "empty"]);
    assert!(labor.plan_error(repo.source(), None).contains("without commits; name one of: main, v1"));
}

#[test]
fn a_shortened_commit_that_several_begin_with_is_refused() {
    let repo = Repo::with(ONE_JOB, &[]);
    let mut seen = std::collections::BTreeMap::new();
    let tree = repo.git(&["rev-parse", "HEAD^{tree}"]);
    let short = (0..2000).find_map(|i| {
        let id = repo.git(&["commit-tree", &tree, "-m", &i.to_string()]);
        let short = id[..4].to_owned();
        seen.insert(short.clone(), id).map(|_| short)
    });
    let error = Labor::new().plan_error(repo.source(), Some(&short.unwrap()));
    assert!(error.contains("several commits; give more digits"), "{error}");
}

#[test]
fn bare_repositories_subdirectories_and_linked_work_trees_are_found() {
    let repo = Repo::with(ONE_JOB, &[("sub/dir/x", "")]);
    let labor = Labor::new();
    let head = repo.git(&["rev-parse", "HEAD"]);
    let inside = labor.plan(Source::Path(repo.root.join("sub/dir")), None);
    assert_eq!(inside.commit, head);
    assert!(inside.warnings[0].contains("built as a whole"), "{:?}", inside.warnings);
    repo.git(&["clone", "-q", "--bare", ".", repo.beside("bare").to_str().unwrap()]);
    let bare = labor.plan(Source::Path(repo.beside("bare")), None);
    assert_eq!((bare.commit, bare.dirty), (head.clone(), false));
    repo.git(&["worktree", "add", "-q", "-b", "other", repo.beside("linked").to_str().unwrap()]);
    git(&repo.beside("linked"), &["commit", "-q", "--allow-empty", "-m", "on other"]);
    let linked = Source::Path(repo.beside("linked"));
    assert_eq!(labor.plan(linked.clone(), None).subject, "on other");
    passed(&labor.build(&linked));
    passed(&labor.build(&Source::Path(repo.beside("bare"))));
    assert_eq!(labor.plan(Source::Path(repo.root.join(".git")), None).commit, head);
}

#[test]
fn a_mistake_in_the_build_file_is_answered_with_its_place() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"x\"]\ntimeout = 5\n", &[]);
    let labor = Labor::new();
    let error = labor.bad_build_file(repo.source());
    assert_eq!(
        (&*error.file, error.line, error.key.as_deref()),
        (".overseer.toml", 3, Some("jobs.a.timeout"))
    );
    repo.write(".overseer.toml", &"#".repeat(1024 * 1024 + 1));
    repo.commit("large");
    assert!(labor.bad_build_file(repo.source()).message.contains("more than the 1048576"));
    fs::remove_file(repo.root.join(".overseer.toml")).unwrap();
    std::os::unix::fs::symlink("x", repo.root.join(".overseer.toml")).unwrap();
    repo.commit("link");
    assert!(labor.plan_error(repo.source(), None).contains("is a link; make it a regular file"));
    fs::remove_file(repo.root.join(".overseer.toml")).unwrap();
    repo.write(".overseer.toml/x", "");
    repo.commit("directory");
    assert!(labor.plan_error(repo.source(), None).contains("is a directory; make it a regular file"));
}

#[test]
fn a_build_file_of_a_work_tree_that_is_no_file_is_named() {
    let repo = Repo::with(ONE_JOB, &[("Makefile", "")]);
    let labor = Labor::new();
    let path = repo.root.join(".overseer.toml");
    let refused = |kind: &str| {
        let cache_dir = Some(labor.cache());
        let request = PlanRequest { source: repo.source(), rev: None, worktree: true, cache_dir };
        let error = overseer_builder::plan(&request, &labor.call().context).unwrap_err();
        assert!(!error.is_fault(), "{error}");
        let error = error.to_string();
        let wanted = format!("{} is {kind}; make it a regular file", path.display());
        assert_eq!(error, wanted);
    };
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    refused("a link");
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    refused("a named pipe");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("a directory");
}

#[test]
fn without_a_build_file_the_repository_says_what_it_is() {
    let repo = Repo::with("", &[("Cargo.toml", ""), ("Makefile", "")]);
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    assert_eq!(plan.from, PlanOrigin::Detected("Cargo".into()));
    assert!(plan.warnings[0].contains("for Make too"), "{:?}", plan.warnings);
    let nothing = Repo::with("", &[("README", "")]);
    let error = labor.plan_error(nothing.source(), None);
    assert!(error.contains("Cargo.toml, go.mod") && error.contains("[jobs.build]"), "{error}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let repo = Repo::with(ONE_JOB, &[]);
    let labor = Labor::new();
    let plan = |source: Source, rev: Option<&str>| {
        let rev = rev.map(str::to_owned);
        let request = PlanRequest { source, rev, worktree: true, cache_dir: Some(labor.cache()) };
        overseer_builder::plan(&request, &labor.call().context).unwrap_err().to_string()
    };
    assert!(plan(repo.url(), None).contains("a URL has no work tree"));
    assert!(plan(repo.source(), Some("main")).contains("either --rev or --worktree"));
    repo.git(&["clone", "-q", "--bare", ".", repo.beside("bare").to_str().unwrap()]);
    assert!(plan(Source::Path(repo.beside("bare")), None).contains("bare repository"));
    let request = labor.request(&repo.source(), &labor.plan(repo.source(), None), 0);
    let refused = |change: &dyn Fn(&mut RunRequest)| {
        let mut request = request.clone();
        change(&mut request);
        overseer_builder::run(&request, &labor.call().context).unwrap_err().to_string()
    };
    assert!(refused(&|r| r.commit = "main".into()).contains("not the whole id"));
    assert!(refused(&|r| r.commit = "0".repeat(40)).contains("git"));
    assert!(refused(&|r| r.job.cache = vec!["../x".into()]).contains("leaves the checkout"));
    assert!(refused(&|r| r.job.timeout_ms = 0).contains("no timeout"));
    assert!(refused(&|r| r.job.name = "a/b".into()).contains("take it from `plan`"));
    assert!(refused(&|r| r.source = Source::Url("ext::sh".into())).contains("remote helpers"));
}
